"""What a method is shown of a split: rows in an order that says nothing, and no more than it declared. NumPy only."""

import numpy as np
from numpy.typing import NDArray

from xmbench.types import PairedSet, stream


def shuffle(train: PairedSet, *, seed: int, keep_pairs: bool) -> PairedSet:
    """The same items in an order that says nothing: every modality has its own permutation, and so has the pair list.

    Released data keep partners in the same row, and pairs sorted by image: a method could read the truth off the order.
    Features, labels, lengths and clean masks follow their items; the permutations know seed and modality only, neither
    noise nor rate.

    Args:
        train: any split.
        seed: of the permutations.
        keep_pairs: False drops the pairs (and a clean mask per pair with them): nothing then tells who belongs to whom.
    """
    orders = {m.name: stream("shuffle", seed, "rows", m.name).permutation(len(m)) for m in train.modalities}
    modalities = tuple(modality.take(orders[modality.name]) for modality in train.modalities)
    clean = None if train.clean is None else {k: mask[orders[k]] for k, mask in train.clean.items()}
    if not keep_pairs or train.pairs is None:
        return PairedSet(modalities=modalities, clean=clean)
    order = pair_order(len(train.pairs), seed)
    new_row = [np.argsort(orders[modality.name]) for modality in train.modalities]
    pairs = np.stack([rows[column] for rows, column in zip(new_row, train.pairs[order].T, strict=True)], axis=1)
    clean_pairs = None if train.clean_pairs is None else train.clean_pairs[order]
    return PairedSet(modalities=modalities, pairs=pairs, clean=clean, clean_pairs=clean_pairs)


def pair_order(n_pairs: int, seed: int) -> NDArray[np.int64]:
    """(n_pairs,) numbers of a split's pairs in the order in which `shuffle` shows them."""
    return stream("shuffle", seed, "pairs").permutation(n_pairs)


def strip(train: PairedSet, needs: frozenset[str]) -> PairedSet:
    """The split with nothing but what `needs` names: features, "labels", "pairs", "clean". Item ids never survive."""
    return PairedSet(
        modalities=tuple(modality.only(needs) for modality in train.modalities),
        pairs=train.pairs if "pairs" in needs else None,
        clean=train.clean if "clean" in needs else None,
        clean_pairs=train.clean_pairs if needs >= {"clean", "pairs"} else None,
    )
