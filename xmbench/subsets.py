"""Parts of a split: whole items of the first modality with all their partners."""

from collections.abc import Iterator

import numpy as np

from xmbench.types import Array, PairedSet, stream


def chosen_pairs(split: PairedSet, n: int) -> Array | None:
    """Pairs by number, at most `n`, the same for every run; None where all are used.

    An item of the first modality is chosen with all its pairs, an image with all its captions, so that its ranks mean what
    they mean on the whole split. One item is chosen even where it has more than `n` pairs.
    """
    if split.pairs is None or len(split.pairs) <= n:
        return None
    _, first, inverse = np.unique(split.pairs[:, 0], return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[inverse]  # items in the order of their first pairs
    order = stream("validate").permutation(len(first))
    n_kept = max(1, int((np.cumsum(np.bincount(number)[order]) <= n).sum()))
    return np.flatnonzero(np.isin(number, order[:n_kept]))


def with_items(split: PairedSet, pairs: Array | None) -> tuple[PairedSet, list[Array] | None]:
    """The split with the pairs by number and the items in them, and each modality's rows; all of it for None."""
    if pairs is None or split.pairs is None:
        return split, None
    items = [np.unique(column, return_inverse=True) for column in split.pairs[pairs].T]
    modalities = tuple(m.take(rows) for m, (rows, _) in zip(split.modalities, items, strict=True))
    part = PairedSet(modalities=modalities, pairs=np.stack([inverse for _, inverse in items], axis=1))
    return part, [rows for rows, _ in items]


def folds_of(split: PairedSet, n_folds: int) -> Iterator[tuple[PairedSet, list[Array]]]:
    """Equal consecutive folds of the first modality's items with their partners, and each modality's rows.

    COCO's five folds of 1,000 images and 5,000 captions are such.

    Raises:
        ValueError: a split without pairs, or whose items do not divide.
    """
    first = split.modalities[0]
    if split.pairs is None or n_folds < 1 or len(first) % n_folds:
        has = "no pairs" if split.pairs is None else f"{len(first)} of {first.name!r}"
        raise ValueError(f"a split measured in {n_folds} folds must have pairs and items that divide by it, it has {has}")
    fold = split.pairs[:, 0] // (len(first) // n_folds)
    for k in range(n_folds):
        part, rows = with_items(split, np.flatnonzero(fold == k))
        assert rows is not None
        yield part, rows
