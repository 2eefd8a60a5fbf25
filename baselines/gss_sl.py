"""GSS-SL: generalized semi-supervised structured subspace learning, a re-implementation from a description.

Liang Zhang, Bingpeng Ma, Guorong Li, Qingming Huang, Qi Tian, "Generalized Semi-supervised and Structured Subspace Learning for
Cross-Modal Retrieval", TMM 2018. Every modality is mapped into the space of labels; a graph carries labels to unlabelled
items; a structured norm selects features. Neither code nor the paper's text could be had. The form of the objective is ours,
from that description, for each modality of n items, x centred and scaled to a mean variance of one:

    min_{U, b, F}  |X U + 1 b' - F|_F^2 + lambda_1 n |U|_{2,1} + lambda_2 tr(F' L F)   s.t. labelled rows of F are the labels
    |U|_{2,1} = sum_i |u_i|,  u_i the row of feature i;   L = D - S of the symmetric k nearest neighbours;   embed(x) = x U

by turns, each of which lowers the objective:

    R = diag(1 / (2 max(|u_i|, 1e-5))),   U = (X' X + lambda_1 n R)^-1 X' F,   b = mean of F
    F_u = ((I + lambda_2 L)_uu)^-1 ((X U + 1 b')_u - lambda_2 L_ul F_l)                     (u: unlabelled, l: labelled rows)

Noise: labels may be wrong, independently per modality, and are fitted as they are; only the norm holds against them.

What we chose:
- Where every item has a label, as in the MRL paper, the graph term is a constant and is left out: regression to the labels.
- F is each modality's own. With shared labels it could be one matrix, which ties the items of a pair; labels with independent
  noise cannot. No pairs are read.
- The intercept b is not part of the embedding: the mean response would dominate the cosine.
- lambda_1 is relative to n and the scale of the features, so that one value fits all. Several labels per item are allowed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import splu
from sklearn.neighbors import kneighbors_graph

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method

SMALLEST = 1e-5  # row norm below which the norm is taken as quadratic


def reweighted(gram: np.ndarray, cross: np.ndarray, norms: np.ndarray, penalty: float) -> np.ndarray:
    """U (d, K) = (X' X + penalty R)^-1 X' F out of X' X, X' F and the row norms (d,) of the last U.

    Solved for R^(1/2) U, whose matrix is never worse conditioned than |X' X| / penalty.
    """
    root = np.sqrt(2 * np.maximum(norms, SMALLEST))  # R^(-1/2)
    scaled = gram * root * root[:, None]
    scaled.flat[:: len(scaled) + 1] += penalty
    return root[:, None] * cho_solve(cho_factor(scaled, overwrite_a=True), root[:, None] * cross)


def neighbour_laplacian(x: np.ndarray, k: int) -> csr_array:
    """L (n, n) of the graph that joins i and j where one is among the other's k nearest rows of x."""
    graph = kneighbors_graph(x, min(k, len(x) - 1))
    return csr_array(laplacian(graph.maximum(graph.T)))


def propagated(responses: np.ndarray, labels: np.ndarray, graph: csr_array, smoothness: float) -> np.ndarray:
    """F (n, K): the labels where there are any, elsewhere what lies near the responses and is smooth over the graph.

    Args:
        responses: (n, K) X U + 1 b'.
        labels: (n, K), all zero where unlabelled.
        graph: L, (n, n).
        smoothness: lambda_2.
    """
    unknown = ~labels.any(axis=1)
    f = labels.astype(np.float64)
    if unknown.any():
        system = (eye_array(len(f)) + smoothness * graph).tocsr()[unknown]
        right = responses[unknown] - system[:, ~unknown] @ f[~unknown]
        f[unknown] = splu(system[:, unknown].tocsc()).solve(right)
    return f


def objective(
    x: np.ndarray, u: np.ndarray, f: np.ndarray, penalty: float, graph: csr_array | None = None, smoothness: float = 0.0
) -> float:
    """What is minimised, for the best intercept; below SMALLEST a row norm t counts as (t^2 / SMALLEST + SMALLEST) / 2."""
    norms = np.linalg.norm(u, axis=1)
    soft = np.where(norms > SMALLEST, norms, (norms**2 / SMALLEST + SMALLEST) / 2)
    smooth = 0.0 if graph is None else smoothness * np.sum(f * (graph @ f))
    return float(np.sum((x @ u + f.mean(0) - f) ** 2) + penalty * soft.sum() + smooth)


@register_method(
    "gss_sl",
    needs={"vectors", "labels"},
    multi_label=True,
    from_description=True,
    search={"sparsity": [1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1]},
)
@dataclass(kw_only=True)
class GSSSL(Method):
    """Reweighted least squares and label propagation, in float64; see the module's docstring."""

    sparsity: float = 0.01  # lambda_1
    smoothness: float = 0.1  # lambda_2
    neighbours: int = 10  # k of the graph
    iterations: int = 20  # turns

    def __post_init__(self) -> None:
        check_positive(self, "sparsity", "neighbours", "iterations")
        if not self.smoothness >= 0:
            raise ValueError(f"gss_sl.smoothness must be 0 or more, got {self.smoothness}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.means_, self.weights_ = {}, {}
        objectives = np.zeros(self.iterations)
        for m in train.modalities:
            x = np.asarray(m.vectors, dtype=np.float64)
            self.means_[m.name] = x.mean(0)
            x = (x - self.means_[m.name]) * (np.ptp(x, axis=0) > 0)  # rounding of a constant feature is no signal
            scale = x.std() or 1.0
            u, values = self._regress(x / scale, np.asarray(m.labels))
            self.weights_[m.name] = u / scale
            objectives += values
        context.record("objective", objectives)

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])

    def _regress(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """U (d, K) for centred rows (n, d) and their labels (n, K), and the objective after every turn."""
        known = labels.any(axis=1)
        graph = None if known.all() else neighbour_laplacian(x, self.neighbours)
        f = labels.astype(np.float64)
        f[~known] = f[known].mean(0) if known.any() else 0.0
        gram, penalty = x.T @ x, self.sparsity * len(x)
        u = reweighted(gram, x.T @ f, np.ones(len(gram)), penalty)
        values = []
        for _ in range(self.iterations):
            u = reweighted(gram, x.T @ f, np.linalg.norm(u, axis=1), penalty)
            if graph is not None:
                f = propagated(x @ u + f.mean(0), labels, graph, self.smoothness)
            values.append(objective(x, u, f, penalty, graph, self.smoothness))
        return u, values
