"""PLS-SVD: directions of largest covariance between two modalities.

Partial least squares for cross-modal retrieval: Sharma and Jacobs, "Bypassing synthesis: PLS for face recognition with pose,
low-resolution and sketch", CVPR 2011. Of the two algorithms that go by this name this is the closed form (Wegelin, "A survey
of partial least squares (PLS) methods", 2000), over the training pairs (x, y), centred:

    U S V' = svd(E[x y']),   embed(x) = x U_d,   embed(y) = y V_d

The released code of Sharma and Jacobs deflates instead, and its centring flag is inverted; the MRL paper does not say which
form it ran. Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.
"""

from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


@register_method("pls", needs={"vectors", "pairs"}, max_modalities=2, search={"dim": [4, 8, 16, 32, 64, 128]}, smoke={"dim": 8})
@dataclass(kw_only=True)
class PLS(Method):
    """PLS-SVD in closed form, in float64; see the module's docstring."""

    dim: int = 32  # d, columns of U and V kept

    def __post_init__(self) -> None:
        check_positive(self, "dim")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        x, y = (np.asarray(m.vectors, dtype=np.float64)[rows] for m, rows in zip(train.modalities, train.pairs.T, strict=True))
        first, second = train.modalities
        self.means_ = {first.name: x.mean(0), second.name: y.mean(0)}
        u, s, vt = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)) / len(x), full_matrices=False)
        dim = clipped(self, "dim", len(s), "the smaller modality")
        self.weights_ = {first.name: u[:, :dim], second.name: vt.T[:, :dim]}

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])
