"""GMA: generalised multiview analysis, per-modality discriminant analyses coupled by the covariance between modalities.

Abhishek Sharma, Abhishek Kumar, Hal Daume III, David W. Jacobs, "Generalized Multiview Analysis: A Discriminative Latent
Space", CVPR 2012. With mu_v = 1,

    max_w sum_v w_v' A_v w_v + 2 alpha sum_{v < u} w_v' Z_v' Z_u w_u   s.t.  sum_v w_v' (gamma_v B_v + r I) w_v = 1

    criterion "lda" (GMLDA): A_v between-class, B_v within-class scatter of modality v
    criterion "mfa" (GMMFA; Yan et al., "Graph embedding and extensions", TPAMI 2007): A_v = X_v' L_p X_v, B_v = X_v' L_c X_v;
        L_c is the Laplacian of the graph that joins an item to its k_1 nearest of its class, L_p of the one that holds,
        for every class, the k_2 shortest pairs of an item inside and an item outside of it
    align "pairs": the rows of Z_v are the items, paired;  align "means": row c is the mean of class c times sqrt(n_vc)

Noise: labels may be wrong, independently per modality, and pairs are right ("pairs"); or no pairs are read ("means").

Where this differs, and which side we take (checked against the released MATLAB code, Newgma.m and its callers):
- Alignment: the package aligns class means, its function defaults to pairs. The MRL paper speaks of an unsupervised component
  of GMA: we take pairs.
- Class means are weighted by the root of their class' size, so that alpha = 1 weighs the alignment like A_v in both forms and
  a class that one modality lacks takes no part. The code's are not.
- Penalty graph: k_2 pairs per class, as in the MFA paper; the code takes the k_2 shortest of all classes together.
- The code's callers pass the row numbers as labels to GMMFA, and some of its paths add the ridge twice; ours reads the labels
  and adds it once.
- alpha = 10 is the package's default, there for class means; k_1 = 5 and k_2 = 20 are its function's, k_2 there in total.
- gamma_v balances the traces of B_v as in the code. Each modality is centred, reduced to the components that hold `energy` of
  its variance (the code: 0.95), and scaled to the same mean variance, without which A_v would weigh by the units of measure.
- The ridge is relative to the mean of B's diagonal (the code: 1e-6, absolute).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import block_diag
from scipy.sparse import csr_array
from scipy.sparse.csgraph import laplacian
from sklearn.neighbors import NearestNeighbors

from baselines._scatter import Reduced, class_sums, leading_eigenvectors, reduced, ridged, scatter
from xmbench import (
    Embedding,
    FitContext,
    Method,
    Modality,
    PairedSet,
    check_positive,
    class_numbers,
    clipped,
    register_method,
)


def class_neighbours(x: np.ndarray, numbers: np.ndarray, k: int) -> csr_array:
    """MFA's intrinsic graph (n, n): i and j of one class are joined where one is among the other's k nearest of the class."""
    edges = [np.empty((2, 0), dtype=np.int64)]
    for c in np.unique(numbers):
        members = np.flatnonzero(numbers == c)
        if (nearest := min(k, len(members) - 1)) > 0:
            found = NearestNeighbors(n_neighbors=nearest).fit(x[members]).kneighbors(return_distance=False)
            edges.append(np.stack([np.repeat(members, nearest), members[found.ravel()]]))
    return joined(np.concatenate(edges, axis=1), len(x))


def marginal_pairs(x: np.ndarray, numbers: np.ndarray, k: int) -> csr_array:
    """MFA's penalty graph (n, n): for every class the k shortest pairs of an item inside and an item outside of it."""
    edges = [np.empty((2, 0), dtype=np.int64)]
    for c in np.unique(numbers):
        inside, outside = np.flatnonzero(numbers == c), np.flatnonzero(numbers != c)
        if (nearest := min(k, len(outside))) > 0:
            distances, found = NearestNeighbors(n_neighbors=nearest).fit(x[outside]).kneighbors(x[inside])
            shortest = np.argsort(distances, axis=None, kind="stable")[:k]
            edges.append(np.stack([inside[shortest // nearest], outside[found.ravel()[shortest]]]))
    return joined(np.concatenate(edges, axis=1), len(x))


def joined(edges: np.ndarray, n: int) -> csr_array:
    """The symmetric 0/1 matrix (n, n) of the edges (2, e)."""
    both = np.concatenate([edges, edges[::-1]], axis=1)
    graph = csr_array((np.ones(both.shape[1]), tuple(both)), shape=(n, n))
    graph.sum_duplicates()
    graph.data[:] = 1.0
    return graph


def marginal_fisher(x: np.ndarray, labels: np.ndarray, k_within: int, k_between: int) -> tuple[np.ndarray, np.ndarray]:
    """X' L_c X and X' L_p X (k, k) of one modality's rows (n, k); labels (n, K) bool, unlabelled rows are left out."""
    numbers = class_numbers(labels)
    x, numbers = x[numbers >= 0], numbers[numbers >= 0]
    graphs = class_neighbours(x, numbers, k_within), marginal_pairs(x, numbers, k_between)
    within, between = (x.T @ (laplacian(graph) @ x) for graph in graphs)
    return within, between


@register_method(
    "gma",
    needs=lambda p: {"vectors", "labels"} | ({"pairs"} if p.align == "pairs" else set()),
    search={"alpha": [1.0, 10.0], "dim": [5, None, 20], "ridge": [0.01, 0.1]},
)
@dataclass(kw_only=True)
class GMA(Method):
    """One generalised eigenproblem, in float64; see the module's docstring."""

    criterion: Literal["lda", "mfa"] = "lda"
    align: Literal["pairs", "means"] = "pairs"  # rows of Z
    dim: int | None = None  # eigenvectors kept; None: K - 1
    alpha: float = 10.0  # alpha
    ridge: float = 0.01  # r, as a share of the mean of B's diagonal
    energy: float = 0.95  # share of each modality's variance that the principal components keep
    k_within: int = 5  # k_1
    k_between: int = 20  # k_2

    def __post_init__(self) -> None:
        check_positive(self, "ridge", "energy", "k_within", "k_between", *(["dim"] if self.dim is not None else []))
        if self.energy > 1:
            raise ValueError(f"gma.energy must lie in (0, 1], got {self.energy}")
        if not self.alpha >= 0:
            raise ValueError(f"gma.alpha must be 0 or more, got {self.alpha}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = reduced(train, self.energy)
        graphs = [self._graphs(x, y) for x, y in zip(data.vectors, data.labels, strict=True)]
        traces = [np.trace(within) for within, _ in graphs]
        gammas = [traces[0] / trace if traces[0] > 0 and trace > 0 else 1.0 for trace in traces]
        exemplars = self._exemplars(data, train)
        stacked = np.concatenate(exemplars, axis=1)
        coupling = stacked.T @ stacked - block_diag(*[z.T @ z for z in exemplars])
        a = block_diag(*[between for _, between in graphs]) + self.alpha * coupling
        b = block_diag(*[gamma * within for gamma, (within, _) in zip(gammas, graphs, strict=True)])
        w = leading_eigenvectors(a, ridged(b, a, self.ridge), self.dim or max(1, train.n_classes - 1))
        if self.dim is not None:
            clipped(self, "dim", w.shape[1], "the objective's positive part")
        self.means_, self.weights_ = data.means, data.weights(w)

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])

    def _graphs(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """B_v and A_v of one modality."""
        if self.criterion == "lda":
            return scatter([x], [labels])
        return marginal_fisher(x, labels, self.k_within, self.k_between)

    def _exemplars(self, data: Reduced, train: PairedSet) -> list[np.ndarray]:
        """Z_v of every modality: rows that belong together."""
        if self.align == "pairs":
            return [x[rows] for x, rows in zip(data.vectors, train.rows_together().T, strict=True)]
        sums = [class_sums(x, y) for x, y in zip(data.vectors, data.labels, strict=True)]
        return [total / np.sqrt(np.maximum(count, 1))[:, None] for total, count in sums]
