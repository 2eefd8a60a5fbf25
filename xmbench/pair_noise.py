"""Correspondence noise: which image a caption is paired with. Pure functions, NumPy only.

Symbols: N pairs (captions), n images, r noise rate. "Image" is the item of the first modality in a pair; the others, "the
caption", stay together and keep their place in the list, so that with three modalities and more the first moves against all
others. Captions per image are read from the pairs.

caption_shuffle: Huang et al., Learning with Noisy Correspondence for Cross-modal Matching, NeurIPS 2021, as in the released
    loader (XLearning-SCU/2021-NeurIPS-NCR, data.py): captions lose their image one by one, and every image keeps as many
    captions as it had. A caption may get its own image back, in its own place or in that of a sibling, and is then clean: of
    rN captions about 1 + (k - 1) r are, with k captions per image.
image_shuffle: Qin et al., Deep Evidential Learning with Noisy Correspondence, ACM MM 2022 (QinYang79/DECL, data.py); RCL and
    L2RM use it too. All captions of an image move together, and still agree with each other: much harder at the same rate,
    and never to be mixed with the former in one table. Where images differ in their number of captions, the number of pairs
    of an image changes with them.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array, PairedSet

Draws = np.random.Generator | np.random.RandomState
Count = Callable[[float], int]


def shuffle_captions(split: PairedSet, rate: float, rng: Draws, count: Count) -> PairedSet:
    """The split with the images of count(r N) pairs shuffled among those pairs."""
    images = pair_images(split, "caption_shuffle")
    return with_images(split, _some_shuffled(images, count(rate * len(images)), rng))


def shuffle_images(split: PairedSet, rate: float, rng: Draws, count: Count) -> PairedSet:
    """The split with count(r n) images shuffled among themselves, each with all its captions."""
    n_images = len(split.modalities[0])
    image_of_image = _some_shuffled(np.arange(n_images), count(rate * n_images), rng)
    return with_images(split, image_of_image[pair_images(split, "image_shuffle")])


def _some_shuffled(values: Array, n_hit: int, rng: Draws) -> Array:
    """`values` with those in the first `n_hit` places of one permutation shuffled among these places; others stay.

    Both draws are permutations, in this order, as in the released loaders: NumPy's legacy generator gives their numbers.
    """
    hit = rng.permutation(len(values))[:n_hit]
    given = values.copy()
    given[hit] = rng.permutation(values[hit])
    return given


def pair_images(split: PairedSet, what: str) -> Array:
    """(N,) image row of every pair; a ValueError says that `what` needs pairs where there are none."""
    if split.pairs is None:
        raise ValueError(f"{what} needs pairs, the split has none")
    return split.pairs[:, 0]


def with_images(split: PairedSet, images: NDArray[np.integer]) -> PairedSet:
    """The split whose pairs have the images (N,), in the same order."""
    pairs = pair_images(split, "noise of pairs")
    return replace(split, pairs=np.column_stack([images.astype(pairs.dtype), np.asarray(split.pairs)[:, 1:]]))
