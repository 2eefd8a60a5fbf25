"""MvDA-VC: multi-view discriminant analysis with view consistency, MvDA whose maps agree on the instances.

Meina Kan, Shiguang Shan, Haihong Zhang, Shihong Lao, Xilin Chen, "Multi-view Discriminant Analysis", TPAMI 2016. A map is a
combination of the training items, W_v = X_v' B_v. Where the rows of all modalities are aligned, the coefficients B_v should
agree:

    S w = eta (D + lambda M + r I) w,   w' M w = sum_{v < u} |P_v w_v - P_u w_u|^2
    P_v = (X_v X_v' + rho I)^-1 X_v = X_v (X_v' X_v + rho I)^-1,   b_v = P_v w_v

with the scatters S and D of MvDA. The second form of P_v solves in the number of features, not of items.

Noise: labels may be wrong, independently per modality; pairs are right: the penalty holds on to what the instances say.
lambda = 0 is MvDA, and reads no pairs.

Where this differs, and which side we take (checked against the released MATLAB code):
- M is scaled to the trace of D before lambda weighs it, and rho is 1e-4 of the trace of X_v' X_v, both as in the code; the
  paper penalises the plain sum.
- Class counts per modality, centring, reduction, scale and ridge are those of this project's MvDA. The scale matters here:
  coefficients can only agree between modalities of the same variance.
- lambda = 1 and the share of variance kept, .99, are ours.
- The scatters are taken over all items, the penalty over the pairs: with several captions an image counts once per caption.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag, cho_factor, cho_solve

from baselines._scatter import leading_eigenvectors, reduced, ridged, scatter
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method

RHO = 1e-4


def dual_map(x: np.ndarray) -> np.ndarray:
    """P (n, k), which takes a map's weights w (k,) to its coefficients on the items x (n, k): x' P w = w up to rho."""
    gram = x.T @ x
    rho = RHO * np.trace(gram) or 1.0
    return np.asarray(cho_solve(cho_factor(gram + rho * np.eye(len(gram))), x.T).T)


def consistency(maps: Sequence[np.ndarray]) -> np.ndarray:
    """M (k, k) out of the P_v (n, k_v): M_vv = (m - 1) P_v' P_v, M_vu = -P_v' P_u."""
    stacked = np.concatenate(maps, axis=1)
    return len(maps) * block_diag(*[p.T @ p for p in maps]) - stacked.T @ stacked


@register_method(
    "mvda_vc",
    needs=lambda p: {"vectors", "labels"} | ({"pairs"} if p.weight > 0 else set()),
    search={"weight": [0.1, 1.0, 10.0], "dim": [5, None], "ridge": [0.01, 0.1]},
)
@dataclass(kw_only=True)
class MvDAVC(Method):
    """One generalised eigenproblem, in float64; see the module's docstring."""

    dim: int | None = None  # eigenvectors kept; None: as many as S has rank, K - 1
    weight: float = 1.0  # lambda
    ridge: float = 0.01  # r, as a share of the mean of D's diagonal
    energy: float = 0.99  # share of each modality's variance that the principal components keep

    def __post_init__(self) -> None:
        check_positive(self, "ridge", "energy", *(["dim"] if self.dim is not None else []))
        if self.energy > 1:
            raise ValueError(f"mvda_vc.energy must lie in (0, 1], got {self.energy}")
        if not self.weight >= 0:
            raise ValueError(f"mvda_vc.weight must be 0 or more, got {self.weight}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = reduced(train, self.energy)
        within, between = scatter(data.vectors, data.labels)
        constraint = ridged(within, between, self.ridge)
        if self.weight > 0:
            penalty = consistency([dual_map(x[rows]) for x, rows in zip(data.vectors, train.rows_together().T, strict=True)])
            constraint += self.weight * np.trace(within) / (np.trace(penalty) or 1.0) * penalty
        w = leading_eigenvectors(between, constraint, self.dim or max(1, train.n_classes - 1))
        if self.dim is not None:
            clipped(self, "dim", w.shape[1], "the between-class scatter's rank")
        self.means_, self.weights_ = data.means, data.weights(w)

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])
