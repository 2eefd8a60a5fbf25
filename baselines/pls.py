"""PLS-SVD: directions of largest covariance between two modalities.

Partial least squares for cross-modal retrieval: Sharma and Jacobs, "Bypassing synthesis: PLS for face recognition with pose,
low-resolution and sketch", CVPR 2011. Of the two algorithms that go by this name this is the closed form (Wegelin, "A survey
of partial least squares (PLS) methods", 2000), over the training pairs (x, y), centred:

    U S V' = svd(E[x y']),   embed(x) = x U_d,   embed(y) = y V_d

The released code of Sharma and Jacobs deflates instead, and its centring flag is inverted; the MRL paper does not say which
form it ran. Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.

The cosine of a training pair's own embeddings says how clean the pair is: a detector of noisy pairs without labels, losses or
epochs, which is ours and the one that a robust method has to beat. Its weights put 1/2 where 2-means splits the cosines.
"""

from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method, unit_rows


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
        projected = [
            (values - self.means_[m.name]) @ self.weights_[m.name] for m, values in zip(train.modalities, (x, y), strict=True)
        ]
        self.clean_weights_ = weights_of_cosines(np.einsum("ij,ij->i", *map(unit_rows, projected)))

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])

    def clean_weights(self) -> np.ndarray:
        return self.clean_weights_


def weights_of_cosines(cosines: np.ndarray) -> np.ndarray:
    """Weights (n,) in [0, 1] in the order of the cosines (n,): 0 the least, 1 the greatest, 1/2 on the border of two clusters.

    The border is halfway between the means of the exact 2-means split of the sorted cosines, between which the weights are
    linear. Equal cosines tell nothing against any pair: all weights are 1.
    """
    ordered = np.sort(cosines)
    if ordered[0] == ordered[-1]:
        return np.ones(len(cosines))
    n = np.arange(1, len(ordered))
    low = np.cumsum(ordered)[:-1] / n
    high = np.cumsum(ordered[::-1])[:-1][::-1] / n[::-1]
    split = np.argmax(n * n[::-1] * (high - low) ** 2)  # the most variance between the two clusters
    return np.interp(cosines, [ordered[0], (low[split] + high[split]) / 2, ordered[-1]], [0.0, 0.5, 1.0])
