"""Ridge CCA: the linear, label-free reference that every deep method has to beat.

Hotelling, "Relations between two sets of variates", Biometrika 1936; ridge form of Vinod, "Canonical ridge and econometrics
of joint production", J. Econometrics 1976. Over the training pairs (x, y), centred, r = ridge times the mean variance,

    C_xx = E[x x'] + r I,   C_xy = E[x y'],   U S V' = svd(W_x' C_xy W_y)  with  W' C W = I
    embed(x) = x W_x U S^p,   embed(y) = y W_y V S^p

Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.
"""

from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


@register_method(
    "cca",
    needs={"vectors", "pairs"},
    max_modalities=2,
    search={"dim": [8, 32, 128], "ridge": [0.001, 0.01, 0.1, 1.0]},
    smoke={"dim": 8},
)
@dataclass(kw_only=True)
class CCA(Method):
    """Ridge CCA in closed form, in float64; see the module's docstring."""

    dim: int = 32  # columns of U and V kept
    ridge: float = 0.01  # r, as a share of the mean feature variance
    power: float = 0.0  # p: 0 is the textbook form, 1 weights directions by their correlation

    def __post_init__(self) -> None:
        check_positive(self, "dim", "ridge")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        x, y = (np.asarray(m.vectors, dtype=np.float64)[rows] for m, rows in zip(train.modalities, train.pairs.T, strict=True))
        self.means_ = {m.name: z.mean(0) for m, z in zip(train.modalities, (x, y), strict=True)}
        x, y = x - x.mean(0), y - y.mean(0)
        w_x, w_y = self._whitener(x), self._whitener(y)
        u, s, vt = np.linalg.svd(w_x.T @ (x.T @ y / len(x)) @ w_y, full_matrices=False)
        dim = clipped(self, "dim", len(s), "the smaller modality")
        scale = s[:dim] ** self.power
        first, second = train.modalities
        self.correlations_ = s[:dim]
        self.weights_ = {first.name: w_x @ u[:, :dim] * scale, second.name: w_y @ vt.T[:, :dim] * scale}

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])

    def _whitener(self, x: np.ndarray) -> np.ndarray:
        """W, (d, d), with W' (cov(x) + r I) W = I."""
        cov = x.T @ x / len(x)
        variance = np.trace(cov) / len(cov) or 1.0  # of features that are all constant: any ridge will do
        cov += self.ridge * variance * np.eye(len(cov))
        return np.linalg.inv(np.linalg.cholesky(cov)).T
