"""KCCA: ridge CCA between the feature spaces of two kernels.

Shotaro Akaho, "A kernel method for canonical correlation analysis", IMPS 2001; ridge form of David Hardoon, Sandor Szedmak,
John Shawe-Taylor, "Canonical correlation analysis: an overview with application to learning methods", Neural Computation 2004.
Over the n training pairs, with K_v the centred kernel matrix of modality v,

    max_{a, b} a' K_1 K_2 b   s.t.  a' (K_1^2 + kappa_1 K_1) a = b' (K_2^2 + kappa_2 K_2) b = n,   kappa_v = kappa tr(K_v)
    kernel "rbf": k(x, y) = exp(-|x - y|^2 / (2 s^2)), s = width times the median distance;   "linear": k(x, y) = x' y

Without the ridge every correlation is 1. Written with a factor K_v = F_v F_v' this is CCA of the columns of F_v with the ridge
kappa_v / n, and so it is solved. F_v comes from a pivoted Cholesky factor on the landmarks P (Fine and Scheinberg, "Efficient
SVM training using low-rank kernel representations", JMLR 2001):

    K_PP = L L',   F = K_nP L'^-1 - mean,   embed(x) = (k(x, P) L'^-1 - mean) W

Up to `landmarks` pairs all of them are landmarks, and the form is exact; above, as many are drawn at random (Nystrom).

No paper of the benchmark ran KCCA: kernel, width and kappa, relative to the data so that one value fits all features, are ours.

Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.linalg.lapack import dpstrf
from sklearn.metrics.pairwise import euclidean_distances

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


def pivoted_cholesky(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pivots (r,) and L (r, r) with K[pivots][:, pivots] = L L', of a kernel matrix K (l, l) of numerical rank r."""
    factor, pivots, rank, _ = dpstrf(matrix, tol=1e-10 * matrix.diagonal().max(), lower=1)
    rank = max(1, rank)
    lower = np.tril(factor[:rank, :rank])
    lower[0, 0] = lower[0, 0] or 1.0  # of a kernel that is zero everywhere
    return pivots[:rank] - 1, lower


def leading_svd(t: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `dim` largest singular values of T with their vectors: U (r_1, dim), s (dim,), V (r_2, dim)."""
    if len(t) <= 4 * dim:
        u, s, vt = np.linalg.svd(t, full_matrices=False)
        return u[:, :dim], s[:dim], vt[:dim].T
    _, basis = eigh(t @ t.T, subset_by_index=(len(t) - dim, len(t) - 1))
    u, s, vt = np.linalg.svd(basis.T @ t, full_matrices=False)
    return basis @ u, s, vt.T


class KernelFeatures:
    """Features whose inner products are the kernel: exactly among the landmarks, projected onto their span elsewhere.

    Args:
        x: (n, d) training rows.
        rows: landmarks, row numbers of x.
        width: of the rbf kernel, as a share of the median distance between landmarks; None for the linear kernel.
    """

    def __init__(self, x: np.ndarray, rows: np.ndarray, width: float | None) -> None:
        self.mean = x.mean(0)
        self.scale: float | None = None
        self.landmarks = (x[rows] - self.mean) * (np.ptp(x, axis=0) > 0)
        if width is not None:
            distances = euclidean_distances(self.landmarks)[np.triu_indices(len(rows), 1)]
            self.scale = width * float(np.median(distances[distances > 0])) if distances.any() else 1.0
        pivots, self.root = pivoted_cholesky(self._kernel(self.landmarks))
        self.landmarks = self.landmarks[pivots]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features (n, r) of rows (n, d), not centred."""
        return solve_triangular(self.root, self._kernel(x - self.mean).T, lower=True).T

    def _kernel(self, x: np.ndarray) -> np.ndarray:
        """(n, r) kernel of centred rows with the landmarks."""
        if self.scale is None:
            return x @ self.landmarks.T
        return np.exp(euclidean_distances(x, self.landmarks, squared=True) / (-2 * self.scale**2))


@register_method(
    "kcca",
    needs={"vectors", "pairs"},
    max_modalities=2,
    search={"kappa": [0.001, 0.01, 0.1], "width": [0.5, 1.0], "dim": [8, 32]},
    smoke={"dim": 8},
)
@dataclass(kw_only=True)
class KCCA(Method):
    """Kernel CCA by a Cholesky factor of each kernel, in float64; see the module's docstring."""

    dim: int = 32  # columns of W
    kernel: Literal["rbf", "linear"] = "rbf"
    width: float = 1.0  # s of the rbf kernel, as a share of the median distance
    kappa: float = 0.01  # kappa, as a share of the kernel's trace
    landmarks: int = 2500  # most landmarks

    def __post_init__(self) -> None:
        check_positive(self, "dim", "width", "kappa", "landmarks")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        together = train.rows_together()
        n = len(together)
        rows = np.arange(n)
        if n > self.landmarks:
            rows = np.sort(context.generator("landmarks").choice(n, self.landmarks, replace=False))
        self.features_, means, features, roots = {}, [], [], []
        for m, column in zip(train.modalities, together.T, strict=True):
            x = np.asarray(m.vectors, dtype=np.float64)[column]
            self.features_[m.name] = KernelFeatures(x, rows, self.width if self.kernel == "rbf" else None)
            f = self.features_[m.name](x)
            means.append(f.mean(0))
            f -= means[-1]
            cov = f.T @ f / n
            roots.append(cholesky(cov + self.kappa * (np.trace(cov) or 1.0) * np.eye(len(cov)), lower=True))
            features.append(f)
        half = solve_triangular(roots[0], features[0].T @ features[1] / n, lower=True)
        whitened = solve_triangular(roots[1], half.T, lower=True).T
        dim = clipped(self, "dim", min(whitened.shape), "the kernel of lower rank")
        u, self.correlations_, v = leading_svd(whitened, dim)
        names = list(self.features_)
        self.weights_ = {
            name: solve_triangular(root, side, lower=True, trans="T")
            for name, root, side in zip(names, roots, (u, v), strict=True)
        }
        self.offsets_ = {name: mean @ self.weights_[name] for name, mean in zip(names, means, strict=True)}

    def embed(self, modality: Modality) -> Embedding:
        features = self.features_[modality.name](np.asarray(modality.vectors, dtype=np.float64))
        return Embedding(modality.name, features @ self.weights_[modality.name] - self.offsets_[modality.name])
