"""Intervals, paired tests and effect sizes of metrics whose values are known by training and query: pure functions.

The values of a method are those of its trainings (seeds) on the same queries, a crossed layout:
Y[s, i] = mu + a[s] + b[i] + e[s, i]. With few seeds nothing can be said of a[s], and all figures are over queries, the
trainings taken as they are. From MIN_SEEDS on they are over both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xmbench.types import stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_SEEDS = 5
N_FLIPS = 19_999  # random sign flips of a test
MORE_FLIPS = 199_999  # of one that at most FEW of those flips reach, where N_FLIPS is too few for the strictest level
FEW = 10
EXACT_ITEMS = 14  # up to so many items all 2 ** n sign flips are made
FLIPS_AT_ONCE = 1000
QUERIES, BOTH = "queries", "queries and seeds"
BY_QUERY, BY_BOTH, BY_T = "sign flips over queries", "sign flips over queries and seeds", "t test over queries and seeds"
_ROUNDING = 1e-9  # relative difference below which two flips count as equal
_SINGLE = 1e-6  # of values, which are stored in single precision


@dataclass(frozen=True)
class ItemValues:
    """A metric, or the difference of two methods in it, by training and item.

    An item is what is drawn at once: a query with those that belong to it, such as an image with its captions. The mean over
    all of `values` is the metric, exactly, and so is that of `shares`.

    Attributes:
        values: (n_seeds, n_items) of each item as if all were like it: the metric plus the item's influence on it.
        shares: (n_seeds, n_items) of each item its part of the metric's sum, times n_items: to be swapped between methods.
        n_queries: how many queries the items have, of all directions.
    """

    values: Floats
    shares: Floats
    n_queries: int

    @property
    def n_seeds(self) -> int:
        return len(self.values)

    def minus(self, other: "ItemValues") -> "ItemValues":
        """The difference to another method on the same queries, training by training."""
        return replace(self, values=self.values - other.values, shares=self.shares - other.shares)

    def take(self, rows: Sequence[int]) -> "ItemValues":
        """Some of the trainings."""
        return replace(self, values=self.values[list(rows)], shares=self.shares[list(rows)])


def item_numbers(sizes: Sequence[int]) -> list[Ints]:
    """The item of each query, of all directions of a data set with so many queries.

    Where the smallest size divides the others, query i of it belongs with the i-th equal share of the others, as data sets
    list them: image i, and captions 5i to 5i + 4. Otherwise queries belong together where directions are of equal size.
    """
    fewest = min(sizes)
    if fewest and all(size % fewest == 0 for size in sizes):
        return [np.arange(size) // (size // fewest) for size in sizes]
    starts = {size: sum(sorted(set(sizes))[: sorted(set(sizes)).index(size)]) for size in sizes}
    return [starts[size] + np.arange(size) for size in sizes]


def linked_items(sizes: Sequence[int], pairs: NDArray[np.integer]) -> list[Ints]:
    """The item of each of so many queries per modality: those that pairs join, directly or by others, are of one item.

    Args:
        sizes: (m,) of each modality.
        pairs: (n_pairs, m) rows of what belongs together.
    """
    nodes = pairs + np.cumsum([0, *sizes[:-1]])
    first, others = np.repeat(nodes[:, 0], len(sizes) - 1), nodes[:, 1:].ravel()
    links = coo_array((np.ones(len(first)), (first, others)), shape=(sum(sizes), sum(sizes)))
    _, items = connected_components(links, directed=False)
    return list(np.split(items.astype(np.int64), np.cumsum(sizes)[:-1]))


def item_values(parts: Sequence[Floats], weights: Sequence[float], numbers: Sequence[Ints]) -> ItemValues:
    """The weighted sum over directions of the mean over queries, by training and item.

    Args:
        parts: of each direction (n_seeds, n_queries) values; a query with NaN in any row is left out.
        weights: of each direction.
        numbers: of each direction (n_queries,) the items of its queries, see `linked_items` and `item_numbers`.

    Raises:
        ValueError: a direction has no query with a value.
    """
    known = [np.isfinite(part.sum(axis=0)) for part in parts]
    if not all(mask.any() for mask in known):
        raise ValueError("every direction must have a query with a value, one of them has none")
    numbers = [number[mask] for number, mask in zip(numbers, known, strict=True)]
    items = np.unique(np.concatenate(numbers))
    values, shares = np.zeros((2, len(parts[0]), len(items)))
    for part, mask, number, weight in zip(parts, known, numbers, weights, strict=True):
        place = np.searchsorted(items, number)
        kept = part[:, mask].astype(np.float64)
        sums = np.stack([np.bincount(place, row, len(items)) for row in kept])
        mean, scale = kept.mean(axis=1, keepdims=True), len(items) / kept.shape[1]
        shares += weight * scale * sums
        values += weight * (mean + scale * (sums - mean * np.bincount(place, minlength=len(items))))
    return ItemValues(values, shares, sum(map(len, numbers)))


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean, low, high: the interval is NaN where there is one item.
        standard_error, degrees: of the t distribution that it comes from.
        over: QUERIES, the trainings taken as they are, or BOTH.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees: float
    over: str


def mean_interval(values: Floats, level: float = 0.95) -> Interval:
    """The confidence interval of the mean of (n_seeds, n_items) values.

    Below MIN_SEEDS, that of the items' means over the seeds. From there on, with the mean squares of the two-way layout,
    Var(mean) = (MS_seeds + MS_items - MS_rest) / (n_seeds n_items), each of the first two at least MS_rest, and t quantiles
    with the degrees of freedom of Satterthwaite, "An Approximate Distribution of Estimates of Variance Components",
    Biometrics Bulletin 2 (1946).
    """
    mean = float(values.mean())
    n_seeds, n_items = values.shape
    if n_items < 2:
        return Interval(mean, np.nan, np.nan, np.nan, 0.0, QUERIES if n_seeds < MIN_SEEDS else BOTH)
    if n_seeds < MIN_SEEDS:
        variance, degrees, over = float(values.mean(axis=0).var(ddof=1)) / n_items, n_items - 1.0, QUERIES
    else:
        variance, degrees, over = *_variance_of_mean(values), BOTH
    error = float(np.sqrt(variance))
    half = error * float(stats.t.isf((1 - level) / 2, degrees))
    return Interval(mean, mean - half, mean + half, error, degrees, over)


def mean_squares(values: Floats) -> tuple[float, float, float]:
    """Mean squares of seeds, of items and of the rest, of (n_seeds, n_items) values, two at least of each."""
    n_seeds, n_items = values.shape
    of_seeds, of_items = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_items + values.mean()
    mean_square = float((rest**2).sum()) / ((n_seeds - 1) * (n_items - 1))
    return n_items * float(of_seeds.var(ddof=1)), n_seeds * float(of_items.var(ddof=1)), mean_square


def _variance_of_mean(values: Floats) -> tuple[float, float]:
    """Variance of the mean over items and seeds, and its degrees of freedom."""
    n_seeds, n_items = values.shape
    of_seeds, of_items, rest = mean_squares(values)
    of_seeds, of_items = max(of_seeds, rest), max(of_items, rest)
    total = of_seeds + of_items - rest
    if total == 0:
        return 0.0, n_seeds - 1.0
    parts = ((of_seeds, n_seeds - 1), (of_items, n_items - 1), (rest, (n_seeds - 1) * (n_items - 1)))
    return total / (n_seeds * n_items), total**2 / sum(square**2 / degrees for square, degrees in parts)


@dataclass(frozen=True)
class PairedTest:
    """The two-sided p-value of "no difference", and the test that it comes from."""

    p: float
    by: str


def paired_tests(differences: Iterable[ItemValues], n_differences: int, level: float = 0.05) -> list[PairedTest]:
    """The p-value of each difference of two methods, before a correction for there being several.

    Below MIN_SEEDS the signs of the items' differences, averaged over the seeds, are flipped, see `sign_flip_p`. From there on
    the signs of seeds and of items are, where so few seeds can tell anything: 2 ** (1 - n_seeds), the smallest p-value of
    flipped seeds, must be as small as the strictest level of Holm's correction, level / n_differences. Otherwise the t test is
    taken whose interval is `mean_interval`.
    """
    strictest = level / max(n_differences, 1)
    by: list[str] = []
    p: list[float] = []
    flipped: dict[int, dict[int, tuple[Floats, float]]] = {}
    for k, difference in enumerate(differences):
        by.append(_test_of(difference, strictest))
        p.append(_t_test(difference.values) if by[-1] == BY_T else np.nan)
        if np.isnan(p[-1]):
            parts = _flipped(difference)
            flipped.setdefault(len(parts), {})[k] = parts, abs(float(difference.shares.mean()))
    for found in flipped.values():  # of one length at once
        stacked, observed = (np.array(column) for column in zip(*found.values(), strict=True))
        for k, value in zip(found, sign_flip_p(stacked, observed, strictest), strict=True):
            p[k] = float(value)
    return [PairedTest(value, name) for value, name in zip(p, by, strict=True)]


def _test_of(difference: ItemValues, strictest: float) -> str:
    n_seeds, n_items = difference.values.shape
    if n_seeds < MIN_SEEDS:
        return BY_QUERY
    return BY_BOTH if n_items > 1 and 2.0 ** (1 - n_seeds) <= strictest else BY_T


def _flipped(difference: ItemValues) -> Floats:
    """What the signs are flipped of: the items' parts of the mean, and from MIN_SEEDS on those of the seeds before them.

    Means of seeds differ by the rest e[s, i] too, which is in the means of items already: they are shrunk to the share of
    a[s] in their variance.
    """
    of_items: Floats = difference.shares.mean(axis=0) / difference.shares.shape[1]
    if difference.n_seeds < MIN_SEEDS:
        return of_items
    of_seeds, _, rest = mean_squares(difference.values)
    kept = np.sqrt(max(1 - rest / of_seeds, 0.0)) if of_seeds > 0 else 0.0
    return np.concatenate([kept * difference.shares.mean(axis=1) / difference.n_seeds, of_items])


def sign_flip_p(parts: Floats, observed: Floats, finest: float = 1.0) -> Floats:
    """Share of sign flips that bring the sum of parts (n_tests, n) to the observed (n_tests,) or above, in absolute value.

    All 2 ** n up to EXACT_ITEMS parts. Else b of N_FLIPS random ones, p = (b + 1) / (N_FLIPS + 1); where p-values must be told
    from ones as small as `finest`, MORE_FLIPS of those tests that at most FEW flips reached. The share is never above
    2 exp(-observed^2 / (2 sum parts^2)), Hoeffding, JASA 58 (1963): where that is below any p-value of N_FLIPS it is taken.
    """
    n = parts.shape[1]
    least = observed - _ROUNDING * np.abs(parts).sum(axis=1)
    if n <= EXACT_ITEMS:
        exact: Floats = _n_reached(parts, least, 2**n) / 2**n
        return exact
    squares = 2 * (parts**2).sum(axis=1)
    p: Floats = 2 * np.exp(-np.divide(least**2, squares, out=np.zeros_like(squares), where=squares > 0))
    unclear = np.flatnonzero(p > min(finest, 1 / (N_FLIPS + 1)))
    counts = _n_reached(parts[unclear], least[unclear], N_FLIPS)
    p[unclear] = (counts + 1) / (N_FLIPS + 1)
    few = unclear[counts <= FEW]
    if finest < 1 / (N_FLIPS + 1) and len(few):
        p[few] = (_n_reached(parts[few], least[few], MORE_FLIPS) + 1) / (MORE_FLIPS + 1)
    return p


def _n_reached(parts: Floats, least: Floats, n_flips: int) -> Floats:
    """How many flips of the signs of parts (n_tests, n) reach `least` (n_tests,): all, or so many random ones of many parts."""
    n = parts.shape[1]
    generator = stream("sign flips", n)
    count = np.zeros(len(parts))
    for start in range(0, n_flips if len(parts) else 0, FLIPS_AT_ONCE):
        size = min(FLIPS_AT_ONCE, n_flips - start)
        bits: NDArray[np.integer]
        if n <= EXACT_ITEMS:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(n)) & 1
        else:
            bits = np.unpackbits(generator.integers(0, 256, (size, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        count += (np.abs((2.0 * bits - 1.0) @ parts.T) >= least).sum(axis=0)
    return count


def _t_test(values: Floats) -> float:
    interval = mean_interval(values)
    if np.isnan(interval.standard_error):
        return 1.0
    if interval.standard_error == 0:
        return 1.0 if interval.mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(interval.mean) / interval.standard_error, interval.degrees))


def holm(p: Sequence[float] | Floats) -> Floats:
    """The p-values adjusted for all being looked at: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted


@dataclass(frozen=True)
class Effect:
    """How large a difference is, whatever the number of queries.

    Attributes:
        standardised: Cohen's d_z, the mean over items of the difference by its standard deviation; seeds are averaged first.
        superiority: the share of items and seeds on which the first method is better, ties by half.
    """

    standardised: float
    superiority: float


def effect(difference: ItemValues, *, higher_is_better: bool = True) -> Effect:
    """The effect sizes of a difference; d_z is 0 where there is none, and infinite where it is the same for all items."""
    of_items = difference.values.mean(axis=0)
    mean, spread = float(of_items.mean()), float(of_items.std(ddof=1)) if len(of_items) > 1 else np.nan
    constant = spread <= _SINGLE * abs(mean)
    standardised = (0.0 if mean == 0 else float(np.copysign(np.inf, mean))) if constant else mean / spread
    signs = np.sign(difference.shares) * (1 if higher_is_better else -1)
    return Effect(standardised, float((signs.mean() + 1) / 2))


def compact_letters(separable: NDArray[np.bool_]) -> list[str]:
    """Letters for methods in the order given, best first: two methods share one exactly where they are not separable.

    Insert and absorb, after Piepho, "An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons", Journal of
    Computational and Graphical Statistics 13 (2004).

    Args:
        separable: (n, n) symmetric.
    """
    n = len(separable)
    columns = {frozenset(range(n))}
    for i, j in combinations(range(n), 2):
        if separable[i, j]:
            parts = {column - {k} for column in columns for k in (i, j) if {i, j} <= column}
            columns = {column for column in columns if not {i, j} <= column} | parts
            columns = {column for column in columns if not any(column < other for other in columns)}
    ordered = sorted(columns, key=sorted)
    return ["".join(_letter(k) for k, column in enumerate(ordered) if i in column) for i in range(n)]


def _letter(number: int) -> str:
    """a to z, A to Z, then (53) and so on."""
    return chr(ord("a") + number) if number < 26 else chr(ord("A") + number - 26) if number < 52 else f"({number + 1})"


@dataclass(frozen=True)
class Ranked:
    """Methods ranked over blocks.

    Attributes:
        ranks: (n_methods,) mean rank of each, 1 the best.
        statistic, p: of Friedman's test that all are alike.
        critical_difference: of two mean ranks, by Nemenyi's test.
    """

    ranks: Floats
    statistic: float
    p: float
    critical_difference: float


def friedman(scores: Floats, level: float = 0.05) -> Ranked:
    """Friedman's test over (n_blocks, n_methods) scores, higher is better, and Nemenyi's critical difference of mean ranks.

    The critical difference is q sqrt(k (k + 1) / (6 N)) for k methods and N blocks, q the studentised range over sqrt(2):
    Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006).

    Raises:
        ValueError: fewer than two blocks or three methods, or a block without a score of every method.
    """
    n_blocks, n_methods = scores.shape
    if n_blocks < 2 or n_methods < 3:
        raise ValueError(f"Friedman's test needs 2 blocks and 3 methods at least, got {n_blocks} and {n_methods}")
    if np.isnan(scores).any():
        raise ValueError(f"every block must have a score of every method, {int(np.isnan(scores).sum())} are missing")
    ranks = stats.rankdata(-scores, axis=1)
    statistic, p = 0.0, 1.0
    if (ranks != ranks[:, :1]).any():
        statistic, p = map(float, stats.friedmanchisquare(*scores.T))
    quantile = float(stats.studentized_range.isf(level, n_methods, np.inf)) / np.sqrt(2)
    return Ranked(ranks.mean(axis=0), statistic, p, quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))
