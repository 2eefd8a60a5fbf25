"""Scatter by class over several modalities and the eigenproblem on top of it: what the shallow supervised methods share.

Symbols: n_v items of modality v, k_v principal components of it, K classes, k the sum of all k_v.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag, eigh

from xmbench import PairedSet, class_numbers

MOST_COMPONENTS = 512


@dataclass(frozen=True)
class Reduced:
    """The modalities of a split, each centred, on its leading principal components, scaled to a mean variance of one.

    Attributes:
        means: name -> (d_v,) mean.
        bases: name -> (d_v, k_v) components over the scale: vectors are (x - mean) @ basis.
        vectors: (n_v, k_v) of every modality, in the split's order.
        labels: (n_v, K) bool of every modality.
    """

    means: dict[str, np.ndarray]
    bases: dict[str, np.ndarray]
    vectors: list[np.ndarray]
    labels: list[np.ndarray]

    def weights(self, w: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> (d_v, L) maps of centred features, out of stacked maps (k, L) of the components."""
        ends = np.cumsum([basis.shape[1] for basis in self.bases.values()])
        return {name: self.bases[name] @ part for name, part in zip(self.bases, np.split(w, ends[:-1]), strict=True)}


def reduced(train: PairedSet, energy: float) -> Reduced:
    """Every modality on the components that hold the share `energy` of its variance, at most `MOST_COMPONENTS`."""
    means, bases, vectors = {}, {}, []
    for m in train.modalities:
        x = np.asarray(m.vectors, dtype=np.float64)
        means[m.name] = x.mean(0)
        x = (x - means[m.name]) * (np.ptp(x, axis=0) > 0)  # rounding of a constant feature is no signal
        bases[m.name] = principal_components(x, energy)
        vectors.append(x @ bases[m.name])
    return Reduced(means, bases, vectors, [np.asarray(m.labels) for m in train.modalities])


def principal_components(x: np.ndarray, energy: float) -> np.ndarray:
    """Leading principal directions (d, k) of centred rows (n, d), over the root of their mean variance."""
    tall = len(x) >= x.shape[1]
    gram = x.T @ x if tall else x @ x.T
    most = min(MOST_COMPONENTS, len(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - most, len(gram) - 1))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values), energy * np.trace(gram))) + 1
    kept = max(1, min(enough, int((values > 1e-10 * values[0]).sum())))
    values, vectors = values[:kept], vectors[:, :kept]
    directions = vectors if tall else x.T @ vectors / np.sqrt(np.maximum(values, 1e-300))
    return directions / (np.sqrt(values.mean() / len(x)) or 1.0)


def class_sums(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (K, k_v) of the rows (n_v, k_v) of every class, and their number (K,); labels (n_v, K) bool."""
    return labels.T.astype(np.float64) @ x, labels.sum(axis=0)


def scatter(xs: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Within-class and between-class scatter (k, k) of all modalities together: D and S of Kan et al., ECCV 2012.

    With C_v the class sums of modality v, n_c the number of items of class c in all of them, s the sum of all rows,

        G_vw = C_v' diag(1 / n_c) C_w,   D = blockdiag(X_v' X_v) - G,   S = G - s s' / n

    so that W' D W and W' S W are the pooled scatters of the stacked projections X_v W_v. Unlabelled rows are left out.

    Args:
        xs: (n_v, k_v) rows of every modality.
        labels: (n_v, K) bool of every modality, which need not agree.
    """
    known = [x[class_numbers(y) >= 0] for x, y in zip(xs, labels, strict=True)]
    parts = [class_sums(x, y) for x, y in zip(xs, labels, strict=True)]
    sums, counts = np.concatenate([s for s, _ in parts], axis=1), sum(n for _, n in parts)
    g = (sums / np.maximum(counts, 1)[:, None]).T @ sums
    s = sums.sum(axis=0)
    return block_diag(*[x.T @ x for x in known]) - g, g - np.outer(s, s) / max(np.sum(counts), 1)


def ridged(within: np.ndarray, between: np.ndarray, ridge: float) -> np.ndarray:
    """B + r I, r being `ridge` times the mean of B's diagonal, or of A's / 1000 where B vanishes, as with one item per class.

    Args:
        within: B, (k, k).
        between: A, (k, k).
        ridge: share of the mean.
    """
    scale = max(np.trace(within), 1e-3 * np.trace(between)) / len(within) or 1.0
    return within + ridge * scale * np.eye(len(within))


def leading_eigenvectors(a: np.ndarray, b: np.ndarray, dim: int) -> np.ndarray:
    """The eigenvectors (k, <= dim) of A w = lambda B w with the largest lambda > 0, at least one; B positive definite."""
    values, w = eigh((a + a.T) / 2, (b + b.T) / 2, subset_by_index=(max(0, len(a) - dim), len(a) - 1))
    rank = max(1, int((values > 1e-10 * max(1.0, values[-1])).sum()))
    return w[:, ::-1][:, :rank]
