"""Per-query retrieval metrics: pure functions of a similarity block and a relevance block.

Every metric is the exact expectation over all orders of tied items, so that its value does not depend on the order of
the gallery and a constant similarity scores chance (McSherry and Najork, "Computing Information Retrieval Performance
Measures Efficiently in the Presence of Tied Scores", ECIR 2008). +0 and -0 are equal.

A metric needs little of the ranking: the tie groups of `xmbench.ties`, over which each one is a short sum.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmbench.ties import (
    BestGroups,
    Bools,
    Floats,
    Ints,
    Relevant,
    TieGroups,
    Tile,
    as_similarity,
    best_groups,
    checked_block,
    checked_groups,
    r_precisions,
    relevant_from_mask,
    require_depth,
    require_finite,
    tie_groups,
)

Seen = TypeVar("Seen")
Said = TypeVar("Said")

# ---- average precision -----------------------------------------------------------------------------------


def _precision_sums(groups: TieGroups, depth: NDArray[Any]) -> Floats:
    """Expected sum of precision at the relevant items among the first `depth` items of each group.

    With n = size, r = hits, t = above, b = before, and the items of the group in random order,
    sum_{i=1..depth} r/n (b + 1 + (i - 1)(r - 1)/(n - 1)) / (t + i).
    """
    sums = np.where(depth > 0, (groups.before + 1.0) / (groups.above + 1.0), 0.0)
    tied = np.flatnonzero(groups.size > 1)
    if len(tied):
        columns = (groups.size, groups.hits, groups.above, groups.before, depth)
        n, r, t, b, m = (x[tied].astype(np.int64) for x in columns)
        # Differences of harmonic numbers cancel, so they are taken in extended precision.
        harmonic = np.cumsum(np.append([0], 1 / np.arange(1, groups.n_gallery + 1, dtype=np.longdouble)))
        plain = harmonic[t + m] - harmonic[t]  # sum of 1 / (t + i)
        rising = m - (t + 1) * plain  # sum of (i - 1) / (t + i)
        sums[tied] = r / n * ((b + 1) * plain + (r - 1) / (n - 1) * rising)
    return sums


def _average_precision(groups: TieGroups) -> Floats:
    total = groups.sum_per_query(_precision_sums(groups, groups.size))
    return groups.nan_without_relevant(total / np.maximum(groups.n_relevant, 1))


def _average_precision_at_r(groups: TieGroups) -> Floats:
    depth = groups.depth(np.repeat(groups.n_relevant, groups.groups_per_query))
    total = groups.sum_per_query(_precision_sums(groups, depth))
    return groups.nan_without_relevant(total / np.maximum(groups.n_relevant, 1))


def _average_precision_at(groups: TieGroups, k: int, denominator: str) -> Floats:
    depth = groups.depth(k)
    sums = _precision_sums(groups, depth)
    total = groups.sum_per_query(sums)
    if denominator == "min":
        return groups.nan_without_relevant(total / np.maximum(np.minimum(groups.n_relevant, k), 1))
    found = groups.sum_per_query(np.where(depth == groups.size, groups.hits, 0))
    values = total / np.maximum(found, 1)
    # Where k cuts a group of mixed relevance, the denominator is random too: at most one group per query.
    for group in np.flatnonzero((depth > 0) & (depth < groups.size)):
        q = np.searchsorted(groups.row_start, group, "right") - 1
        whole = float(sums[groups.row_start[q] : group].sum())
        n, r, t, b = (int(x[group]) for x in (groups.size, groups.hits, groups.above, groups.before))
        values[q] = _mean_precision_of_cut_group(n, r, t, b, k - t, whole)
    return groups.nan_without_relevant(values)


def _mean_precision_of_cut_group(n: int, r: int, t: int, b: int, m: int, whole: float) -> float:
    """E[(whole + sum of precision at the j hits among m retrieved of n tied items) / (b + j)]; 0 where b + j = 0."""
    j, probability = _hypergeometric(n, r, m)
    i = np.arange(1, m + 1)
    plain, rising = (1 / (t + i)).sum(), ((i - 1) / (t + i)).sum()
    cut = j / m * ((b + 1) * plain + (j - 1) / max(m - 1, 1) * rising)
    return float(probability @ np.where(b + j > 0, (whole + cut) / np.maximum(b + j, 1), 0.0))


def _hypergeometric(n: int, r: int, m: int) -> tuple[Ints, Floats]:
    """Values and probabilities of the number of relevant items among m drawn of n, r of which are relevant."""
    j = np.arange(max(0, m - (n - r)), min(m, r) + 1)
    i = j[:-1]
    ratio = (r - i) * (m - i) / ((i + 1) * (n - r - m + i + 1))
    log_weight = np.append(0.0, np.cumsum(np.log(ratio)))
    weight = np.exp(log_weight - log_weight.max())
    return j, weight / weight.sum()


def average_precision(similarity: ArrayLike, relevance: ArrayLike) -> Floats:
    """Average precision of each query over the whole gallery: MAP@all before the mean.

    AP = 1/R sum_{j=1..R} j / rank(j-th relevant item), R relevant items; the expectation of it over the orders of ties.

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a relevant item.

    >>> average_precision([[3.0, 2.0, 1.0]], [[True, False, True]]).round(4)  # (1 + 2/3) / 2
    array([0.8333])
    >>> average_precision([[1.0, 1.0]], [[True, False]])  # ranks 1 and 2 are equally likely
    array([0.75])
    """
    return _average_precision(checked_groups(similarity, relevance))


def average_precision_at(
    similarity: ArrayLike, relevance: ArrayLike, k: int, denominator: Literal["hits", "min"] = "hits"
) -> Floats:
    """Average precision of each query within the top k.

    AP@k = 1/D sum of j / rank over the relevant items j among the top k. D is the number of relevant items *in the top
    k* for "hits" (released code of MRL, SDML and DSCMR; optimistic, 0 where there are none), min(k, R) for "min".

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.
        k: depth, at least 1.
        denominator: "hits" or "min".

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a relevant item.

    >>> average_precision_at([[5, 4, 3, 2, 1]], [[True, False, True, True, False]], 3).round(4)
    array([0.8333])
    >>> average_precision_at([[5, 4, 3, 2, 1]], [[True, False, True, True, False]], 3, "min").round(4)
    array([0.5556])
    """
    require_depth(k)
    if denominator not in ("hits", "min"):
        raise ValueError(f'denominator must be "hits" or "min", got {denominator!r}')
    return _average_precision_at(checked_groups(similarity, relevance), k, denominator)


def average_precision_at_r(similarity: ArrayLike, relevance: ArrayLike) -> Floats:
    """Average precision of each query within the top R, R being the number of its relevant items: mAP@R before the mean.

    AP@R = 1/R sum of j / rank over the relevant items j among the top R (Musgrave et al., "A Metric Learning Reality Check",
    ECCV 2020; for captions Chun et al., "ECCV Caption", ECCV 2022).

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a relevant item.

    >>> average_precision_at_r([[4.0, 3.0, 2.0, 1.0]], [[False, True, True, False]])  # 1/2 of (1/2)
    array([0.25])
    """
    return _average_precision_at_r(checked_groups(similarity, relevance))


# ---- ranks -----------------------------------------------------------------------------------------------


def _miss_probability(n: NDArray[Any], r: NDArray[Any], m: NDArray[Any]) -> Floats:
    """C(n - r, m) / C(n, m): that m items drawn of n miss all r relevant ones; arrays of one shape."""
    fewer, more = np.minimum(r, m), np.maximum(r, m)
    miss = np.ones(n.shape)
    for i in range(int(fewer.max(initial=0))):
        miss *= np.where(i < fewer, np.maximum(n - more - i, 0) / np.maximum(n - i, 1), 1.0)
    return miss


def _recall_at(groups: BestGroups, k: int) -> Floats:
    above, size, hits = groups.above, groups.size, groups.hits
    recall = (above + size <= k).astype(np.float64)
    cut = (above < k) & (k < above + size)
    recall[cut] = 1 - _miss_probability(size[cut], hits[cut], k - above[cut])
    return groups.nan_without_relevant(recall)


def recall_at(similarity: ArrayLike, relevance: ArrayLike, k: int) -> Floats:
    """R@K of each query: the probability that at least one relevant item is among the top k (a hit rate).

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.
        k: depth, at least 1.

    Returns:
        (n_q,) float in [0, 1], 0 or 1 without ties; NaN for a query without a relevant item.

    >>> recall_at([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]], [[False, True, False]] * 2, 2).round(4)
    array([1.    , 0.6667])
    """
    require_depth(k)
    return _recall_at(checked_groups(similarity, relevance).best(), k)


def _first_rank(groups: BestGroups) -> Floats:
    above, size, hits = (x.astype(np.float64) for x in (groups.above, groups.size, groups.hits))
    return groups.nan_without_relevant(above + (size + 1) / (hits + 1))


def first_rank(similarity: ArrayLike, relevance: ArrayLike) -> Floats:
    """Expected rank, from 1, of each query's best relevant item.

    t + (n + 1)/(r + 1), where that item is tied in a group of n items, r of them relevant, below t better items.

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    Returns:
        (n_q,) float in [1, n_g]; NaN for a query without a relevant item.

    >>> first_rank([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]], [[False, True, True], [False, False, True]])
    array([2., 2.])
    """
    return _first_rank(checked_groups(similarity, relevance).best())


def _r_precision(similarity: NDArray[Any], relevance: Bools) -> Floats:
    rows, columns = (np.arange(n) for n in relevance.shape)
    return np.asarray(r_precisions(similarity, (~relevance).view(np.uint8), rows, columns, 1)[0])


def r_precision(similarity: ArrayLike, relevance: ArrayLike) -> Floats:
    """R-precision of each query: the share of relevant items among the top R, R being the number of relevant items.

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a relevant item.

    >>> r_precision([[4.0, 3.0, 2.0, 1.0]], [[True, False, True, False]])
    array([0.5])
    """
    return _r_precision(*checked_block(similarity, relevance))


def _class_distance(query_classes: ArrayLike, gallery_classes: ArrayLike) -> NDArray[np.float32]:
    """L1 distance (n_q, n_g) of 0/1 class vectors."""
    query, gallery = np.asarray(query_classes, np.float32), np.asarray(gallery_classes, np.float32)
    # |a - b| = |a| + |b| - 2ab for 0/1 vectors, written as one product of longer vectors.
    left = np.column_stack([query, query.sum(1), np.ones(len(query), np.float32)])
    right = np.column_stack([-2 * gallery, np.ones(len(gallery), np.float32), gallery.sum(1)])
    return np.asarray(left @ right.T)


def plausible_relevance(query_classes: ArrayLike, gallery_classes: ArrayLike, zeta: int) -> Bools:
    """Plausible matches: pairs of items whose class vectors differ in at most zeta places (L1 distance).

    Args:
        query_classes: (n_q, c) bool or 0/1, a caption has the classes of its image.
        gallery_classes: (n_g, c) bool or 0/1.
        zeta: largest distance.

    Returns:
        (n_q, n_g) bool.

    >>> plausible_relevance([[1, 1, 0]], [[1, 1, 0], [1, 0, 0], [0, 0, 1]], 1)
    array([[ True,  True, False]])
    """
    return np.asarray(_class_distance(query_classes, gallery_classes) <= zeta)


def pmrp(similarity: ArrayLike, *relevances: ArrayLike) -> Floats:
    """Plausible-match R-precision of each query: the mean of R-precision over several relevances.

    PMRP is 100 times the mean over queries, with relevances `plausible_relevance(..., zeta)`, zeta = 0, 1, 2 (Chun et
    al., "Probabilistic Embeddings for Cross-Modal Retrieval", CVPR 2021). Images without classes are to be left out,
    with their captions, as queries and in the gallery; `pmrp_of_classes` does.

    Args:
        similarity: (n_q, n_g) float, finite.
        *relevances: (n_q, n_g) bool each.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query that has no relevant item in one of them.

    >>> pmrp([[3.0, 2.0, 1.0]], [[True, False, False]], [[True, False, True]])
    array([0.75])
    """
    if not relevances:
        raise ValueError("pmrp needs relevances, got none; pass plausible_relevance(...) for zeta 0, 1 and 2")
    return np.asarray(np.mean([r_precision(similarity, relevance) for relevance in relevances], axis=0))


def pmrp_of_classes(similarity: ArrayLike, query_classes: ArrayLike, gallery_classes: ArrayLike) -> Floats:
    """`pmrp` by class vectors, zeta = 0, 1, 2; items without a class are left out, as queries and in the gallery.

    Args:
        similarity: (n_q, n_g) float, finite.
        query_classes: (n_q, c) bool or 0/1, a caption has the classes of its image.
        gallery_classes: (n_g, c) bool or 0/1.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a class, or without a plausible match.

    >>> pmrp_of_classes([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], [[1, 1], [0, 0]], [[1, 0], [1, 1], [0, 0]])
    array([0.66666667,        nan])
    """
    return PlausibleGallery(gallery_classes).pmrp(similarity, query_classes)


class PlausibleGallery:
    """The gallery's side of `pmrp_of_classes`, prepared once for many blocks of queries: class vectors (n_g, c)."""

    def __init__(self, gallery_classes: ArrayLike) -> None:
        gallery = np.asarray(gallery_classes)
        self._shown = gallery.any(axis=1)
        self._classes, self._kind = _kinds(gallery[self._shown])

    def pmrp(self, similarity: ArrayLike, query_classes: ArrayLike) -> Floats:
        """`pmrp_of_classes` of a block (n_q, n_g) of queries with class vectors (n_q, c)."""
        query, scores = np.asarray(query_classes), as_similarity(similarity)
        asked = query.any(axis=1)
        if not (asked.all() and self._shown.all()):
            scores = np.ascontiguousarray(scores[asked][:, self._shown])
        classes, kind = _kinds(query[asked])
        level = np.minimum(_class_distance(classes, self._classes), 3).astype(np.uint8)
        values = np.full(len(query), np.nan)
        values[asked] = r_precisions(scores, level, kind, self._kind, 3).mean(axis=0)
        return values


def _kinds(classes: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """The different ones (k, c) among 0/1 class vectors (n, c), and which of them each is (n,)."""
    packed = np.packbits(classes.astype(bool), axis=1)
    rows = np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").ravel()
    _, first, kind = np.unique(rows, return_index=True, return_inverse=True)
    return classes[first], kind


# ---- nDCG ------------------------------------------------------------------------------------------------


def _cumulative_discount(n_gallery: int, k: int | None) -> Floats:
    """Sum of 1 / log2(rank + 1) over the first 0, 1, ..., n_gallery ranks; ranks beyond k add nothing."""
    discount = 1 / np.log2(np.arange(2, n_gallery + 2))
    if k is not None:
        discount[k:] = 0
    return np.append(0.0, np.cumsum(discount))


def _binary_ndcg(groups: TieGroups, k: int | None = None) -> Floats:
    discount = _cumulative_discount(groups.n_gallery, k)
    gained = groups.hits / groups.size * (discount[groups.above + groups.size] - discount[groups.above])
    return groups.nan_without_relevant(groups.sum_per_query(gained) / np.maximum(discount[groups.n_relevant], 1.0))


def ndcg(similarity: ArrayLike, gains: ArrayLike, k: int | None = None) -> Floats:
    """Normalised discounted cumulative gain of each query, in the top k or the whole gallery.

    DCG = sum over ranks p of gain / log2(p + 1), divided by that of the best order; gains enter as they are, not as
    2^gain - 1 (Jarvelin and Kekalainen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 2002).

    Args:
        similarity: (n_q, n_g) float, finite.
        gains: (n_q, n_g) bool, or numbers >= 0 such as the number of shared labels.
        k: depth, at least 1, or None.

    Returns:
        (n_q,) float in [0, 1]; NaN for a query without a positive gain.

    >>> ndcg([[3.0, 2.0, 1.0]], [[False, True, False]]).round(4)  # 1 / log2(3)
    array([0.6309])
    """
    if k is not None:
        require_depth(k)
    if np.asarray(gains).dtype == np.bool_:
        return _binary_ndcg(checked_groups(similarity, gains), k)
    scores, gain = as_similarity(similarity), np.asarray(gains, np.float64)
    if gain.shape != scores.shape or not (gain >= 0).all():
        raise ValueError(f"gains must be >= 0 and of the shape of similarity {scores.shape}, got shape {gain.shape}")
    discount = np.diff(_cumulative_discount(scores.shape[1], k))
    values = np.array([_expected_gain(row, of_row, discount) for row, of_row in zip(scores, gain, strict=True)])
    ideal = -np.sort(-gain, axis=1) @ discount
    return np.where(ideal > 0, values / np.where(ideal > 0, ideal, 1.0), np.nan)


def _expected_gain(row: NDArray[Any], gain: Floats, discount: Floats) -> float:
    """DCG of one query; each item of a tie group gains the mean of the group."""
    order = np.argsort(-row)
    start = np.flatnonzero(np.append(True, np.diff(row[order]) != 0))
    size = np.diff(np.append(start, len(row)))
    return float(np.add.reduceat(gain[order], start) / size @ np.add.reduceat(discount, start))


# ---- precision-recall curve ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PRCurve:
    """Precision at the recall levels 0, 0.1, ..., 1, the mean over the queries that have a relevant item.

    recall, precision_interpolated, precision_raw: (11,) float.
    """

    recall: Floats
    precision_interpolated: Floats
    precision_raw: Floats

    @classmethod
    def from_points(cls, points: Floats) -> "PRCurve":
        """The curve of the stacked `pr_points` of all queries (n_q, 2, 11); NaN points without any relevant item."""
        known = points[~np.isnan(points[:, 0, 0])]
        interpolated, raw = known.mean(axis=0) if len(known) else np.full((2, 11), np.nan)
        return cls(np.arange(11) / 10, interpolated, raw)


def _pr_points(groups: TieGroups) -> Floats:
    points = np.full((len(groups.n_relevant), 2, 11), np.nan)
    known = np.flatnonzero(groups.n_relevant)
    if not len(known):
        return points
    wanted = np.maximum(1, -(-np.arange(11) * groups.n_relevant[known, None] // 10))  # the ceil(tR)-th relevant item
    so_far = np.append(0, np.cumsum(groups.hits, dtype=np.int64))
    group = np.searchsorted(so_far, so_far[groups.row_start[known], None] + wanted) - 1
    columns = (groups.above, groups.size, groups.hits, groups.before)
    above, size, hits, before = (x[group].astype(np.int64) for x in columns)
    inside = -(-(wanted - before) * size // hits)  # items of the group down to the depth sought
    raw = (before + inside * hits / size) / (above + inside)
    at_end = (groups.before + groups.hits) / (groups.above + groups.size)
    best = np.maximum(raw, np.maximum.reduceat(at_end, group.ravel()).reshape(group.shape))
    points[known, 0] = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
    points[known, 1] = raw
    return points


def pr_points(similarity: ArrayLike, relevance: ArrayLike) -> Floats:
    """Precision of each query at the recall levels t = 0, 0.1, ..., 1: interpolated and raw.

    raw(t) is the precision at the first depth where ceil(tR) relevant items (at least one) are retrieved;
    interpolated(t) is the largest precision at that depth or a greater one. With ties, "retrieved" is the *expected*
    number of relevant items at each depth over all orders of ties: the curve of the expected counts, not the expected
    curve. It does not depend on the order of the gallery, and a constant similarity gives the flat line R/n_g.

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    Returns:
        (n_q, 2, 11) float: [:, 0] interpolated, [:, 1] raw; NaN for a query without a relevant item.

    >>> pr_points([[3.0, 2.0, 1.0]], [[False, True, True]])[0, :, [0, 5, 6, 10]].round(3).T
    array([[0.667, 0.667, 0.667, 0.667],
           [0.5  , 0.5  , 0.667, 0.667]])
    """
    return _pr_points(checked_groups(similarity, relevance))


def pr_curve(similarity: ArrayLike, relevance: ArrayLike) -> PRCurve:
    """The 11-point precision-recall curve, macro mean over queries; for more than one block see `PRCurve.from_points`.

    Args:
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.

    >>> pr_curve([[3.0, 2.0], [3.0, 2.0]], [[True, False], [False, True]]).precision_raw[[0, 10]]
    array([0.75, 0.75])
    """
    return PRCurve.from_points(pr_points(similarity, relevance))


# ---- classification and chance ---------------------------------------------------------------------------


def micro_f1(scores: ArrayLike, labels: ArrayLike) -> float:
    """Micro-averaged F1 of one modality: 2 TP / (2 TP + FP + FN), counted over all items and classes.

    A class is predicted where its score is greater than 0.5: scores are probabilities. For one label per item and
    scores that sum to 1, an item without a score above 0.5 has no prediction and counts as a miss.

    Args:
        scores: (n, c) float, finite.
        labels: (n, c) bool.

    Returns:
        F1 in [0, 1]; NaN where nothing is labelled and nothing predicted.

    >>> round(micro_f1([[0.9, 0.6], [0.2, 0.4]], [[True, False], [False, True]]), 4)  # TP 1, FP 1, FN 1
    0.5
    """
    predicted, truth = as_similarity(scores) > 0.5, np.asarray(labels)
    if truth.dtype != np.bool_ or truth.shape != predicted.shape:
        raise ValueError(f"labels must be boolean of shape {predicted.shape}, got {truth.dtype} {truth.shape}")
    marked = int(predicted.sum() + truth.sum())
    return 2 * int((predicted & truth).sum()) / marked if marked else float("nan")


def eme(image_elements: Sequence[Seen], text_elements: Sequence[Said], match: Callable[[Seen, Said], bool]) -> float:
    """Exactly matched elements of an image and a text, in [0, 1]: 1 where each element of either side is in the other.

    1/2 mean over e in I of [e is described in T] + 1/2 mean over e in T of [e is depicted in I]; a side without elements
    counts as 0, which the paper leaves open. An element is described where `match` holds for it and any of the other side.
    Huang et al., Learning with Noisy Correspondence, IJCV 2024, Appendix A, (A1).

    Args:
        image_elements: what is seen, by people or a detector.
        text_elements: what is said, such as noun phrases.
        match: (image element, text element) -> whether both are the same.

    >>> eme(["dog", "ball"], ["dog"], lambda seen, said: seen == said)
    0.75
    """
    described = [any(match(seen, said) for said in text_elements) for seen in image_elements]
    depicted = [any(match(seen, said) for seen in image_elements) for said in text_elements]
    return sum(sum(found) / len(found) for found in (described, depicted) if found) / 2


def chance_ap(n_relevant: ArrayLike, n_gallery: ArrayLike) -> Floats:
    """Expected average precision of a uniformly random ranking.

    E[AP] = (R - 1)/(n - 1) + H_n/n (1 - (R - 1)/(n - 1)) with H_n = 1 + 1/2 + ... + 1/n (Bestgen, "Exact Expected
    Average Precision of the Random Baseline for System Evaluation", PBML 2015).

    Args:
        n_relevant: R, an integer or an array of them.
        n_gallery: n, an integer or an array of them, at least 1.

    Returns:
        Array of the common shape; NaN where R = 0.

    >>> chance_ap([46, 462], 462).round(4)
    array([0.1107, 1.    ])
    """
    relevant, gallery = np.broadcast_arrays(np.asarray(n_relevant, np.int64), np.asarray(n_gallery, np.int64))
    harmonic = np.cumsum(1 / np.arange(1, gallery.max(initial=1) + 1))
    others = np.where(gallery > 1, (relevant - 1) / np.maximum(gallery - 1, 1), 0.0)
    value = others + harmonic[gallery - 1] / gallery * (1 - others)
    return np.where(relevant > 0, value, np.nan)


def chance_recall(n_relevant: ArrayLike, n_gallery: ArrayLike, k: int) -> Floats:
    """Expected R@K of a uniformly random ranking: 1 - C(n - R, k) / C(n, k).

    Args:
        n_relevant: R, an integer or an array of them.
        n_gallery: n, an integer or an array of them.
        k: depth, at least 1.

    Returns:
        Array of the common shape; NaN where R = 0.

    >>> chance_recall([1, 5], 100, 10).round(4)
    array([0.1   , 0.4162])
    """
    require_depth(k)
    relevant, gallery = np.broadcast_arrays(np.asarray(n_relevant, np.int64), np.asarray(n_gallery, np.int64))
    hit = 1 - _miss_probability(gallery, relevant, np.minimum(k, gallery))
    return np.where(relevant > 0, hit, np.nan)


def chance_ap_at_r(n_relevant: ArrayLike, n_gallery: ArrayLike) -> Floats:
    """Expected AP@R of a uniformly random ranking: (H_R (1 - c) + R c) / n with c = (R - 1)/(n - 1), H_R = 1 + ... + 1/R.

    Args:
        n_relevant: R, an integer or an array of them.
        n_gallery: n, an integer or an array of them, at least 1.

    Returns:
        Array of the common shape; NaN where R = 0.

    >>> chance_ap_at_r([1, 5, 100], 100).round(4)
    array([0.01  , 0.0239, 1.    ])
    """
    relevant, gallery = np.broadcast_arrays(np.asarray(n_relevant, np.int64), np.asarray(n_gallery, np.int64))
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, relevant.max(initial=1) + 1)))
    others = np.where(gallery > 1, (relevant - 1) / np.maximum(gallery - 1, 1), 0.0)
    value = (harmonic[relevant] * (1 - others) + relevant * others) / gallery
    return np.where(relevant > 0, value, np.nan)


# ---- the table -------------------------------------------------------------------------------------------


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else float("nan")


def _whole_median(values: ArrayLike) -> float:
    """The median rank, rounded down for an even number of queries, as released code reports it."""
    array = np.asarray(values, np.float64)
    return float(np.floor(np.median(array))) if array.size else float("nan")


def _sum_in_percent(values: ArrayLike) -> float:
    return float(100 * np.sum(values))


@dataclass(frozen=True)
class Metric:
    """One metric by name.

    function(similarity, relevance) gives per-query values; of micro_f1, function(scores, labels) is one number. What is
    relevant comes from "labels" (items share at least one), from "pairs" (annotated pairs), or is not asked: "scores" of
    classes; "noise" found among the training data, for every method that says which items it believes. aggregate maps
    per-query values, NaN dropped or zeroed, to the reported number.
    """

    name: str
    function: Callable[..., Floats | float] | None
    relevance: Literal["labels", "pairs", "scores", "noise"]
    higher_is_better: bool
    description: str
    aggregate: Callable[[ArrayLike], float] = _mean


# The ranking metrics, and the curve, as functions of tie groups, which `evaluate_block` finds once for all of them; those of
# the best match need one group per query.
_OF_BEST: dict[str, Callable[[BestGroups], Floats]] = {
    "r@1": partial(_recall_at, k=1),
    "r@5": partial(_recall_at, k=5),
    "r@10": partial(_recall_at, k=10),
    "medr": _first_rank,
    "meanr": _first_rank,
}
_OF_GROUPS: dict[str, Callable[[TieGroups], Floats]] = {
    "map": _average_precision,
    "map@50": partial(_average_precision_at, k=50, denominator="hits"),
    "map@50_min": partial(_average_precision_at, k=50, denominator="min"),
    "map@r": _average_precision_at_r,
    "ndcg": _binary_ndcg,
    "ndcg@100": partial(_binary_ndcg, k=100),
    "pr_points": _pr_points,
}

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("map", average_precision, "labels", True, "mean average precision over the whole gallery"),
        Metric(
            "map@50",
            partial(average_precision_at, k=50, denominator="hits"),
            "labels",
            True,
            "MAP of the top 50, divided by the relevant items among them (released MRL, SDML, DSCMR code)",
        ),
        Metric(
            "map@50_min",
            partial(average_precision_at, k=50, denominator="min"),
            "labels",
            True,
            "MAP of the top 50, divided by min(50, number of relevant items)",
        ),
        Metric("r@1", partial(recall_at, k=1), "pairs", True, "share of queries with a hit at rank 1"),
        Metric("r@5", partial(recall_at, k=5), "pairs", True, "share of queries with a hit in the top 5"),
        Metric("r@10", partial(recall_at, k=10), "pairs", True, "share of queries with a hit in the top 10"),
        Metric("medr", first_rank, "pairs", False, "median rank of the best match, rounded down", _whole_median),
        Metric("meanr", first_rank, "pairs", False, "mean rank of the best match"),
        Metric(
            "rsum",
            None,
            "pairs",
            True,
            "sum of r@1, r@5, r@10 of all directions, in percent; derived from them: aggregate takes their fractions",
            _sum_in_percent,
        ),
        Metric("map@r", average_precision_at_r, "pairs", True, "MAP within the top R, divided by R, the number of matches"),
        Metric("pmrp", pmrp, "labels", True, "plausible-match R-precision, mean over the relevances of zeta 0, 1, 2"),
        Metric("ndcg", ndcg, "labels", True, "normalised discounted cumulative gain (shared labels) over the whole gallery"),
        Metric("ndcg@100", partial(ndcg, k=100), "labels", True, "the same in the top 100"),
        Metric("micro_f1", micro_f1, "scores", True, "micro F1 of class scores above 0.5, one number per modality"),
        Metric("noise_precision", None, "noise", True, "share of noisy ones among the training items believed to be noisy"),
        Metric("noise_recall", None, "noise", True, "share of the noisy training items that are believed to be noisy"),
        Metric("noise_f1", None, "noise", True, "harmonic mean of noise_precision and noise_recall"),
        Metric("noise_auroc", None, "noise", True, "area under the ROC curve of the belief that a training item is noisy"),
    )
}


def evaluate_block(
    names: Iterable[str], similarity: ArrayLike, relevance: ArrayLike, *, gains: ArrayLike | None = None
) -> dict[str, Floats]:
    """Per-query values of several ranking metrics, which share one pass over the similarity.

    Args:
        names: keys of METRICS that rank by similarity and relevance alone; "pr_points" adds the curve.
        similarity: (n_q, n_g) float, finite.
        relevance: (n_q, n_g) bool.
        gains: for ndcg and ndcg@100, (n_q, n_g) numbers; the relevance where there are none.

    Returns:
        {name: (n_q,) float}, of "pr_points" (n_q, 2, 11); NaN for a query without a relevant item.

    >>> {name: float(v[0]) for name, v in evaluate_block(["map", "r@1"], [[2.0, 1.0]], [[False, True]]).items()}
    {'map': 0.5, 'r@1': 0.0}
    """
    scores, mask = checked_block(similarity, relevance)
    return evaluate_relevant(names, scores, relevant_from_mask(mask), gains=gains)


def evaluate_relevant(
    names: Iterable[str], similarity: NDArray[np.floating[Any]], relevant: Relevant, *, gains: ArrayLike | None = None
) -> dict[str, Floats]:
    """`evaluate_block` of a checked block, the relevant items listed."""
    names = list(names)
    known = [*_OF_BEST, *_OF_GROUPS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"names must be among {', '.join(known)}, got {unknown}")
    groups = tie_groups(similarity, relevant)
    others: dict[str, Callable[[], Any]] = {}
    if gains is not None:
        others = {name: partial(ndcg, similarity, gains, k) for name, k in (("ndcg", None), ("ndcg@100", 100))}
    best = groups.best()
    return {
        name: others[name]() if name in others else _OF_BEST[name](best) if name in _OF_BEST else _OF_GROUPS[name](groups)
        for name in names
    }


def evaluate_matches(
    names: Iterable[str], similarity: ArrayLike, pairs: ArrayLike
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Per-query values of R@K and rank metrics in both directions of a whole matrix, which is read once.

    Args:
        names: among r@1, r@5, r@10, medr and meanr.
        similarity: (n, m) float, finite.
        pairs: (p, 2) rows and columns that belong together.

    Returns:
        {name: (n,) float} with the rows as queries, and {name: (m,) float} with the columns; NaN where nothing is paired.

    >>> first, second = evaluate_matches(["meanr"], [[3.0, 2.0, 1.0], [0.0, 2.0, 4.0]], [[0, 0], [0, 1], [1, 2]])
    >>> first["meanr"], second["meanr"]
    (array([1., 1.]), array([1. , 1.5, 1. ]))
    """
    scores, places = as_similarity(similarity), np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(places) and ((places < 0).any() or (places >= scores.shape).any()):
        raise ValueError(f"pairs must lie in a matrix of shape {scores.shape}, got up to {places.max(axis=0).tolist()}")
    whole = slice(0, scores.shape[0]), slice(0, scores.shape[1]), scores
    found = evaluate_tiles(names, [whole], scores.shape, places, lambda rows, columns: scores[rows, columns])
    assert found is not None
    return found


def evaluate_tiles(
    names: Iterable[str],
    tiles: Iterable[Tile],
    shape: tuple[int, ...],
    pairs: Ints,
    paired: Callable[[Ints, Ints], NDArray[np.floating[Any]]],
) -> tuple[dict[str, Floats], dict[str, Floats]] | None:
    """`evaluate_matches` of a matrix of which no more than a tile is held.

    Args:
        names: among r@1, r@5, r@10, medr and meanr.
        tiles: checked parts of the matrix, each entry in one of them.
        shape: (n, m) of the matrix.
        pairs: (p, 2) rows and columns that belong together.
        paired: (rows, columns) -> the entries there, before the tiles are read.

    Returns:
        As `evaluate_matches`; None where `paired` and a tile differ, so that ranks cannot be counted in one pass.
    """
    names = list(names)
    if unknown := [name for name in names if name not in _OF_BEST]:
        raise ValueError(f"names must be among {', '.join(_OF_BEST)}, got {unknown}")
    rows, columns = np.divmod(np.unique(pairs[:, 0].astype(np.int64) * shape[1] + pairs[:, 1]), shape[1])
    groups = best_groups(tiles, shape, (rows, columns), paired(rows, columns))
    if groups is None:
        return None
    by_row, by_column = ({name: _OF_BEST[name](of_items) for name in names} for of_items in groups)
    return by_row, by_column


# ---- MAP from embeddings ---------------------------------------------------------------------------------


def shared_label(query_labels: ArrayLike, gallery_labels: ArrayLike) -> Bools:
    """Relevance by labels: pairs of items that share at least one label.

    Args:
        query_labels: (n_q, c) bool, or (n_q,) integers.
        gallery_labels: (n_g, c) bool, or (n_g,) integers.

    Returns:
        (n_q, n_g) bool.

    >>> shared_label([[True, True], [False, False]], [[False, True], [True, False]])
    array([[ True,  True],
           [False, False]])
    """
    query, gallery = np.asarray(query_labels), np.asarray(gallery_labels)
    if query.ndim == 1:
        return np.asarray(query[:, None] == gallery)
    return n_shared_labels(query, gallery, np.bool_)


def n_shared_labels(query_labels: NDArray[Any], gallery_labels: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
    """Numbers (n_q, n_g) of labels that items (n_q, c) and (n_g, c) bool have in common; as bool, whether there are any."""
    shared = np.empty((len(query_labels), len(gallery_labels)), dtype)
    query = query_labels.astype(np.float32)
    for start in range(0, len(gallery_labels), 1 << 16):
        part = slice(start, start + (1 << 16))
        shared[:, part] = query @ gallery_labels[part].astype(np.float32).T
    return shared


def relevant_by_class(query_labels: NDArray[Any], gallery_labels: NDArray[Any]) -> Relevant:
    """One label (n,) per item: the relevant items of a query are a slice of the gallery in the order of its labels."""
    column = np.argsort(gallery_labels, kind="stable")
    ordered = gallery_labels[column]
    first, last = (np.searchsorted(ordered, query_labels, side) for side in ("left", "right"))
    return Relevant(first, last, column)


def _single_labels(labels: ArrayLike) -> NDArray[Any] | None:
    """(n,) labels of multi-hot rows with exactly one each, or None."""
    array = np.asarray(labels)
    if array.ndim == 1:
        return array
    return array.argmax(axis=1) if (array.sum(axis=1) == 1).all() else None


def _unit_rows(values: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    norm = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.maximum(norm, 1e-12), np.float32)


def _product_with(gallery: NDArray[np.float32], block: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function rows -> rows @ gallery.T in float32, by torch where it is installed; results share one buffer."""
    buffer = np.empty((block, len(gallery)), np.float32)
    try:
        import torch
    except ImportError:
        return lambda rows: np.matmul(rows, gallery.T, out=buffer[: len(rows)])
    from xmbench.device import fast_matmul

    fast_matmul()
    right = torch.from_numpy(gallery).T

    def product(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        torch.mm(torch.from_numpy(rows), right, out=torch.from_numpy(buffer[: len(rows)]))
        return buffer[: len(rows)]

    return product


def mean_average_precision(
    query: ArrayLike, gallery: ArrayLike, query_labels: ArrayLike, gallery_labels: ArrayLike, *, block: int = 1024
) -> float:
    """MAP@all of embeddings by cosine similarity, in float32; queries without a relevant item are skipped.

    Memory beyond the inputs: their normalised float32 copies and a few blocks of (block, n_g).

    Args:
        query: (n_q, d) float.
        gallery: (n_g, d) float.
        query_labels: (n_q,) integers or (n_q, c) bool; relevant is what shares at least one label.
        gallery_labels: (n_g,) integers or (n_g, c) bool.
        block: queries at a time.

    >>> mean_average_precision([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [7], [3, 7])
    0.5
    """
    rows, columns = _unit_rows(query), _unit_rows(gallery)
    single = _single_labels(query_labels), _single_labels(gallery_labels)
    by_class = relevant_by_class(single[0], single[1]) if single[0] is not None and single[1] is not None else None
    multi_hot = np.asarray(query_labels)
    product = _product_with(columns, min(block, max(len(rows), 1)))
    values = []
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        similarity = product(rows[start:stop])
        require_finite(similarity)
        if by_class is not None:
            relevant = by_class.rows(start, stop)
        else:
            relevant = relevant_from_mask(shared_label(multi_hot[start:stop], gallery_labels))
        values.append(_average_precision(tie_groups(similarity, relevant)))
    known = np.concatenate(values) if values else np.empty(0)
    return _mean(known[~np.isnan(known)])
