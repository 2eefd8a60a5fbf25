"""Label noise on class numbers: what a hit label is replaced by, and the released MRL draw. Pure functions, NumPy only.

Symbols: n items, c (or K) classes, r noise rate.

symmetric: Hu et al., CVPR 2021, section 4.2 says "symmetric" and no more; for c = 10 this is their first release.
    Wrong labels: r (c - 1) / c. Their code of September 2021 draws 0..K inclusive (`mrl_kplus1`), an off-by-one made
    after publication that adds a class no split has, so the default does not follow it.
asymmetric: the `asym` branch of the released loader, which its command line cannot reach. The second half of the
    classes stays: r / 2 wrong labels for balanced classes.
pair_flip: Han et al., Co-teaching, NeurIPS 2018, section 4.
symmetric_multilabel: ours. Every class keeps its number of labels, so that only who carries it is wrong. An item may lose all
    its labels and is then unlabelled for methods; on average an item keeps as many as it had. Wrong labels: r (floored per
    class), but for a class that so many items carry that there are not as many others to give it to. It is a swap and no
    redraw: with f the share of items that have a class, P(given | true) = 1 - r and P(given | not true) = r f / (1 - f), so
    that above r = 1 - f the label speaks against the class, and at r = 1 it is not independent of the truth.
"""

import random

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array


def any_class(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    """Each of the c classes as likely as any other, the true one included."""
    return rng.integers(0, c, size=len(true))


def another_class(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    """One of the c - 1 other classes."""
    return (true + rng.integers(1, c, size=len(true))) % c


def next_class(true: Array, c: int, _: np.random.Generator, __: np.random.Generator) -> Array:
    """The next class, c - 1 to 0."""
    return (true + 1) % c


def mapped_class(true: Array, c: int, _: np.random.Generator, map_rng: np.random.Generator) -> Array:
    """The class that a random map of half of the classes to the other half sends it to."""
    return half_map(map_rng.permutation(c))[true]


def half_map(permuted: Array) -> NDArray[np.int64]:
    """(c,) class map: the i-th permuted class goes to the (h + i)-th for i < h = floor(c / 2); the others stay."""
    classes, half = np.arange(len(permuted)), len(permuted) // 2
    classes[permuted[:half]] = permuted[half : 2 * half]
    return classes


def first_ten(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    """0..9 whatever c: the released MRL loader of April 2021."""
    return rng.integers(0, 10, size=len(true))


def class_or_k(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    """0..K inclusive: the released MRL loader of September 2021."""
    return rng.integers(0, c + 1, size=len(true))


def at_least_ten(c: int) -> int:
    """Classes after `first_ten`."""
    return max(c, 10)


def one_more(c: int) -> int:
    """Classes after `class_or_k`."""
    return c + 1


def swapped(labels: NDArray[np.bool_], rows: Array, rate: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Multi-hot labels (n, c): class k taken from floor(r n_k) of its items and given to as many without it.

    Both are first in one permutation per class, hence nestedness. No more items can lose it than could get it.

    Args:
        rows: the items that take part, in the order of the draws; a negative number holds the place of one that does not.
    """
    given = labels.copy()
    for k in range(labels.shape[1]):
        order = rows[rng.permutation(len(rows))]
        order = order[order >= 0]
        losing, getting = order[labels[order, k]], order[~labels[order, k]]
        n_swaps = min(floor(rate * len(losing)), len(getting))
        given[losing[:n_swaps], k] = False
        given[getting[:n_swaps], k] = True
    return given


def floor(count: float) -> int:
    """`count` rounded down, where rounding errors have not made it less than a whole number."""
    return int(count + 1e-9)  # 0.29 * 100 is 28.999999999999996


def mrl_numbers(true: list[Array], c: int, rate: float, *, seed: int, mode: str, highest: int) -> list[Array]:
    """The released loader's draw, number by number: Python's generator for items and labels, NumPy's for the class map.

    Per modality in turn: shuffle 0..n-1, the first int(r n) are hit; then walk through the items in order and draw an
    inclusive 0..highest for each hit one (mode "sym"), or apply the one class map ("asym"). Checked against
    penghu-cs/MRL, src/noisydataset.py.
    """
    rng = random.Random(seed)
    class_map = half_map(np.random.RandomState(seed).permutation(c)).tolist()
    given = [y.copy() for y in true]
    for labels in given:
        order = list(range(len(labels)))
        rng.shuffle(order)
        for row in sorted(order[: int(rate * len(order))]):
            label = rng.randint(0, highest) if mode == "sym" else class_map[labels[row]]
            labels[row] = label if labels[row] >= 0 else -1
    return given
