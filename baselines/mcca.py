"""MCCA: one linear map per modality that maximises the sum of all pairwise correlations, for any number of modalities.

Rupnik and Shawe-Taylor, "Multi-view canonical correlation analysis", SiKDD 2010 (SUMCOR, ridge form). Over the training
pairs, each modality centred and reduced to its leading principal components, S_ij = E[x_i x_j'], s_i the mean variance of x_i:

    A = (S_ij for i != j, 0 on the diagonal),   B = blockdiag((1 - c) S_ii + c s_i I),   A w = lambda B w
    embed(x_i) = x_i W_i,  with W_i scaled so that every component has unit variance

For two modalities this is ridge CCA with ridge c / (1 - c), up to scale. The MRL paper names neither ridge nor reduction; the
ones here are ours. The ridge is relative to the variance, so that one value fits all features.

Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


@register_method(
    "mcca",
    needs={"vectors", "pairs"},
    search={"dim": [8, 32, 128], "ridge": [0.0, 0.1, 0.5, 0.9]},
    smoke={"dim": 8},
)
@dataclass(kw_only=True)
class MCCA(Method):
    """Ridge MCCA by one generalised eigenproblem, in float64; see the module's docstring."""

    dim: int = 32  # eigenvectors kept
    ridge: float = 0.1  # c
    energy: float = 0.99  # share of each modality's variance that the principal components keep
    max_components: int = 512  # and their largest number

    def __post_init__(self) -> None:
        check_positive(self, "dim", "energy", "max_components")
        if self.energy > 1:
            raise ValueError(f"mcca.energy must lie in (0, 1], got {self.energy}")
        if not 0 <= self.ridge <= 1:
            raise ValueError(f"ridge must lie in [0, 1], got {self.ridge}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        xs = [np.asarray(m.vectors, dtype=np.float64)[rows] for m, rows in zip(train.modalities, train.pairs.T, strict=True)]
        names = [m.name for m in train.modalities]
        self.means_ = {name: x.mean(0) for name, x in zip(names, xs, strict=True)}
        bases = [self._components(x - x.mean(0)) for x in xs]
        reduced = [(x - x.mean(0)) @ basis for x, basis in zip(xs, bases, strict=True)]
        stacked = np.concatenate(reduced, axis=1)
        a = stacked.T @ stacked / len(stacked)
        b = np.zeros_like(a)
        ends = np.cumsum([z.shape[1] for z in reduced])
        blocks = [slice(end - z.shape[1], end) for end, z in zip(ends, reduced, strict=True)]
        for block in blocks:
            size = block.stop - block.start
            variance = np.trace(a[block, block]) / size or 1.0  # 1 for features that are all constant
            b[block, block] = (1 - self.ridge) * a[block, block] + max(self.ridge, 1e-9) * variance * np.eye(size)
            a[block, block] = 0.0
        dim = clipped(self, "dim", min(z.shape[1] for z in reduced), "the smallest modality after its reduction")
        _, w = eigh(a, b, subset_by_index=(len(a) - dim, len(a) - 1))
        self.weights_ = {}
        for name, basis, z, block in zip(names, bases, reduced, blocks, strict=True):
            weights = w[block, ::-1]
            self.weights_[name] = basis @ weights / np.maximum((z @ weights).std(0), 1e-12)

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])

    def _components(self, x: np.ndarray) -> np.ndarray:
        """Leading principal directions (d, k) of centred rows (n, d)."""
        _, s, vt = np.linalg.svd(x, full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s**2) / max((s**2).sum(), 1e-300), self.energy)) + 1
        return vt[: min(kept, self.max_components, len(s))].T
