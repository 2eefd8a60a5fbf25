"""Tie groups: all that a retrieval metric needs to know of a ranking, found without ranking the gallery.

For each query these are the sets of equally similar gallery items that hold relevant ones. A group has `above` items
strictly more similar, `size` items, `hits` relevant ones and `before` relevant ones above it. A query without ties has one
group of size 1 per relevant item, and `above + 1` is that item's rank. +0 and -0 are equal.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Tile = tuple[slice, slice, NDArray[np.floating[Any]]]  # rows, columns, and the similarities (rows, columns)

COUNT_UP_TO = 96  # relevant items per query up to which counting is faster than sorting
_SORT_BLOCK = 1 << 16  # keys sorted at a time: 0.5 MB, which stays in the cache


@dataclass(frozen=True)
class Relevant:
    """Relevant gallery items of each query: those of query q are `column[first[q]:last[q]]`."""

    first: Ints
    last: Ints
    column: Ints

    def rows(self, start: int, stop: int) -> "Relevant":
        return Relevant(self.first[start:stop], self.last[start:stop], self.column)


@dataclass(frozen=True)
class BestGroups:
    """The tie group of each query's best relevant item: `above`, `size` and `hits` of it; any where there is none."""

    above: NDArray[Any]
    size: NDArray[Any]
    hits: NDArray[Any]
    n_relevant: Ints

    def nan_without_relevant(self, values: Floats) -> Floats:
        return np.where(self.n_relevant > 0, values, np.nan)


@dataclass(frozen=True)
class TieGroups:
    """Tie groups with relevant items, best first; those of query q are `row_start[q]:row_start[q + 1]`."""

    row_start: Ints
    above: NDArray[np.int32]
    size: NDArray[np.int32]
    hits: NDArray[np.int32]
    before: NDArray[np.int32]
    n_relevant: Ints
    n_gallery: int

    @property
    def groups_per_query(self) -> Ints:
        return np.diff(self.row_start)

    def depth(self, k: int | Ints) -> Ints:
        """Items of each group that are among the top k; k is a number or one per group."""
        return np.asarray(np.clip(np.asarray(k, np.int64) - self.above, 0, self.size), np.int64)

    def sum_per_query(self, values: NDArray[Any]) -> Floats:
        total = np.zeros(len(self.n_relevant))
        filled = self.groups_per_query > 0
        if filled.any():
            total[filled] = np.add.reduceat(values, self.row_start[:-1][filled])
        return total

    def nan_without_relevant(self, values: Floats) -> Floats:
        return np.where(self.n_relevant > 0, values, np.nan)

    def best(self) -> BestGroups:
        filled = self.groups_per_query > 0
        columns = np.ones((3, len(self.n_relevant)), np.int32)
        columns[:, filled] = [x[self.row_start[:-1][filled]] for x in (self.above, self.size, self.hits)]
        return BestGroups(columns[0], columns[1], columns[2], self.n_relevant)


# ---- finding the tie groups ------------------------------------------------------------------------------


def _count_kernel(similarity, first, last, column, row_start, groups):  # type: ignore[no-untyped-def]
    """Counts, for each distinct relevant score, the more similar and the equally similar items."""
    written = 0
    for q in range(similarity.shape[0]):
        row = similarity[q]
        scores = np.sort(row[column[first[q] : last[q]]])
        i = len(scores)
        while i > 0:
            score = scores[i - 1]
            lower = i - 1
            while lower > 0 and scores[lower - 1] == score:
                lower -= 1
            more = np.int32(0)
            equal = np.int32(0)
            for g in range(row.shape[0]):
                more = np.int32(more + (row[g] > score))
                equal = np.int32(equal + (row[g] == score))
            groups[0, written] = more
            groups[1, written] = equal
            groups[2, written] = i - lower
            groups[3, written] = len(scores) - i
            written += 1
            i = lower
        row_start[q + 1] = written


def _pack_kernel(bits, first, last, column, keys):  # type: ignore[no-untyped-def]
    """Keys whose ascending order is the descending order of float32 scores; the lowest bit marks a relevant item."""
    sign = np.uint32(0x80000000)
    for q in range(bits.shape[0]):
        for g in range(bits.shape[1]):
            b = bits[q, g]
            b = np.uint32(0) if b == sign else b  # -0 becomes +0
            b = b if b & sign else b ^ np.uint32(0x7FFFFFFF)
            keys[q, g] = np.uint64(b) << np.uint64(1)
        for i in range(first[q], last[q]):
            keys[q, column[i]] |= np.uint64(1)


def _sort_kernel(keys, ordered):  # type: ignore[no-untyped-def]
    """Radix sort of each row of keys by its 32 score bits, 11 at a time, into `ordered`; overwrites keys.

    np.sort took three times as long on an AMD EPYC with AVX-512.
    """
    mask = np.uint64(2047)
    for q in range(keys.shape[0]):
        ends = np.zeros((3, 2048), np.int64)
        for key in keys[q]:
            for digit in range(3):
                ends[digit, (key >> np.uint64(11 * digit + 1)) & mask] += 1
        source = keys[q]
        target = ordered[q]
        for digit in range(3):
            end = ends[digit]
            end[:] = np.cumsum(end) - end
            shift = np.uint64(11 * digit + 1)
            for key in source:
                bin_ = (key >> shift) & mask
                target[end[bin_]] = key
                end[bin_] += 1
            source, target = target, source


def _scan_kernel(keys, row_start, written, groups):  # type: ignore[no-untyped-def]
    """Reads tie groups off sorted keys, without branches: writes at every item, advances after a group with hits."""
    for q in range(keys.shape[0]):
        previous = ~np.uint64(0)
        start = 0
        hits = np.int64(0)
        before = np.int64(0)
        for g in range(keys.shape[1]):
            score = keys[q, g] >> np.uint64(1)
            new = score != previous
            written += new and hits > 0
            start = g if new else start
            before = before + hits if new else before
            hits = np.int64(0) if new else hits
            hits += np.int64(keys[q, g] & np.uint64(1))
            previous = score
            groups[0, written] = start
            groups[1, written] = g + 1 - start
            groups[2, written] = hits
            groups[3, written] = before
        written += hits > 0
        row_start[q + 1] = written
    return written


def _both_ways_kernel(similarity, row_best, column_best, row_counts, column_counts):  # type: ignore[no-untyped-def]
    """Counts, for each row's and each column's best score, the items above it and those no lower; 1,024 columns at a time."""
    n_columns = similarity.shape[1]
    for start in range(0, n_columns, 1024):
        stop = min(start + 1024, n_columns)
        best = column_best[start:stop]
        above = column_counts[0, start:stop]
        at_least = column_counts[1, start:stop]
        for i in range(similarity.shape[0]):
            row = similarity[i, start:stop]
            score = row_best[i]
            more = np.int32(0)
            no_less = np.int32(0)
            for j in range(stop - start):
                s = row[j]
                more = np.int32(more + (s > score))
                no_less = np.int32(no_less + (s >= score))
                above[j] = np.int32(above[j] + (s > best[j]))
                at_least[j] = np.int32(at_least[j] + (s >= best[j]))
            row_counts[0, i] += more
            row_counts[1, i] += no_less


def _leading_kernel(similarity, scores, leading):  # type: ignore[no-untyped-def]
    """Places of the highest scores of each row, of equal ones the first: inserted into a list of the best so far."""
    depth = leading.shape[1]
    for q in range(similarity.shape[0]):
        row = similarity[q]
        best, place = scores[q], leading[q]
        n = 0
        for g in range(row.shape[0]):
            s = row[g]
            if n < depth or s > best[n - 1]:
                i = min(n, depth - 1)
                while i > 0 and s > best[i - 1]:
                    best[i], place[i] = best[i - 1], place[i - 1]
                    i -= 1
                best[i], place[i] = s, g
                n = min(n + 1, depth)


def _precision_kernel(bits, lowest, level, row_kind, column_kind, precision):  # type: ignore[no-untyped-def]
    """R-precision where items of level <= 0, 1, ... are relevant: bisects the scores' integer order for the R-th highest.

    It stops as soon as R items are above the bound; where the R-th is tied with the next, the tied ones count in proportion.
    """
    n = bits.shape[1]
    keys = np.empty(n, bits.dtype)
    row = np.empty(n, np.uint8)
    bound = np.empty(1, bits.dtype)
    for q in range(bits.shape[0]):
        of_kind = level[row_kind[q]]
        for g in range(n):
            keys[g] = bits[q, g] if bits[q, g] >= 0 else lowest - bits[q, g]  # -0 becomes +0
            row[g] = of_kind[column_kind[g]]
        bottom = np.int64(keys.min()) - 1
        highest = np.int64(keys.max())
        high = highest
        above = np.int32(0)  # items above `high`
        for z in range(precision.shape[0]):
            relevant = np.int32(0)
            for g in range(n):
                relevant = np.int32(relevant + (row[g] <= z))
            if relevant == 0:
                continue
            if above > relevant:
                high = highest
                above = np.int32(0)
            low = bottom
            while high - low > 1 and above != relevant:
                middle = (low >> 1) + (high >> 1) + (low & high & 1)
                bound[0] = middle
                cut = bound[0]
                count = np.int32(0)
                for g in range(n):
                    count = np.int32(count + (keys[g] > cut))
                if count > relevant:
                    low = middle
                else:
                    high = middle
                    above = count
            bound[0] = high
            cut = bound[0]
            hits = np.int32(0)
            for g in range(n):
                hits = np.int32(hits + ((row[g] <= z) & (keys[g] > cut)))
            found = np.float64(hits)
            if above < relevant:
                tied = np.int32(0)
                hits = np.int32(0)
                for g in range(n):
                    tied = np.int32(tied + (keys[g] == cut))
                    hits = np.int32(hits + ((row[g] <= z) & (keys[g] == cut)))
                found += hits * ((relevant - above) / tied)
            precision[z, q] = found / relevant


@dataclass(frozen=True)
class _Kernels:
    count: Callable[..., None]
    pack: Callable[..., None]
    sort: Callable[..., None]
    scan: Callable[..., int]
    both_ways: Callable[..., None]
    leading: Callable[..., None]
    precision: Callable[..., None]


@cache
def compiled() -> _Kernels | None:
    """The kernels compiled by numba, on disk after the first time; None where numba cannot be imported."""
    try:
        import numba
    except ImportError:
        return None
    compile_ = numba.njit(cache=True)
    kernels = _count_kernel, _pack_kernel, _sort_kernel, _scan_kernel, _both_ways_kernel, _leading_kernel, _precision_kernel
    return _Kernels(*(compile_(kernel) for kernel in kernels))


def tie_groups(similarity: NDArray[np.floating[Any]], relevant: Relevant) -> TieGroups:
    """Tie groups of a checked similarity block, by the cheapest of three ways that give equal results."""
    n_queries, n_gallery = similarity.shape
    n_relevant = relevant.last - relevant.first
    n_hits = int(n_relevant.sum())
    kernels = compiled()
    few = n_hits <= COUNT_UP_TO * n_queries
    if kernels is None or not (few or similarity.dtype == np.float32):
        row_start, groups = _groups_by_search(similarity, relevant)
    else:
        row_start = np.zeros(n_queries + 1, np.int64)
        groups = np.empty((4, n_hits + 1), np.int32)  # one spare column: the scan writes before it knows that it must
        if few:
            kernels.count(similarity, relevant.first, relevant.last, relevant.column, row_start, groups)
        else:
            _groups_by_sort(kernels, similarity, relevant, row_start, groups)
        groups = groups[:, : row_start[-1]]
    return TieGroups(row_start, groups[0], groups[1], groups[2], groups[3], n_relevant, n_gallery)


def _groups_by_sort(
    kernels: _Kernels, similarity: NDArray[Any], relevant: Relevant, row_start: Ints, groups: NDArray[np.int32]
) -> None:
    """Fills row_start and groups by sorting packed 64-bit keys, a few rows at a time; float32 only."""
    n_queries, n_gallery = similarity.shape
    rows = min(n_queries, max(1, _SORT_BLOCK // n_gallery))
    keys, ordered = np.empty((2, rows, n_gallery), np.uint64)
    written = 0
    for start in range(0, n_queries, rows):
        stop = min(start + rows, n_queries)
        part, n_rows = relevant.rows(start, stop), stop - start
        kernels.pack(similarity[start:stop].view(np.uint32), part.first, part.last, part.column, keys[:n_rows])
        kernels.sort(keys[:n_rows], ordered[:n_rows])
        written = kernels.scan(ordered[:n_rows], row_start[start : stop + 1], written, groups)


def _groups_by_search(similarity: NDArray[Any], relevant: Relevant) -> tuple[Ints, NDArray[np.int32]]:
    """NumPy alone, any precision: sort the row, look the distinct relevant scores up in it."""
    n_queries, n_gallery = similarity.shape
    row_start = np.zeros(n_queries + 1, np.int64)
    parts = [np.empty((4, 0), np.int32)]
    for q in range(n_queries):
        columns = relevant.column[relevant.first[q] : relevant.last[q]]
        scores, hits = np.unique(similarity[q, columns], return_counts=True)
        ordered = np.sort(similarity[q])
        last = np.searchsorted(ordered, scores, "right")
        size = last - np.searchsorted(ordered, scores, "left")
        before = hits.sum() - np.cumsum(hits)
        parts.append(np.stack([n_gallery - last, size, hits, before])[:, ::-1].astype(np.int32))
        row_start[q + 1] = row_start[q] + len(scores)
    return row_start, np.concatenate(parts, axis=1)


def best_groups(
    tiles: Iterable[Tile], shape: tuple[int, ...], places: tuple[Ints, Ints], scores: NDArray[np.floating[Any]]
) -> tuple[BestGroups, BestGroups] | None:
    """The best group of every row and of every column of a matrix, which is read once.

    Args:
        tiles: checked parts of the matrix, each entry in one of them.
        shape: of the matrix.
        places: rows and columns (p,) of the relevant entries, in order and without repetition.
        scores: (p,) the entries at these places.

    Returns:
        The groups of rows and of columns; None where a tile has another entry at one of the places.
    """
    best, hits, n_relevant = [], [], []
    for place, n_items in zip(places, shape, strict=True):
        highest = np.full(n_items, -np.inf, scores.dtype)
        np.fmax.at(highest, place, scores)  # what is not finite is refused in its tile
        best.append(highest)
        hits.append(np.bincount(place[scores == highest[place]], minlength=n_items))
        n_relevant.append(np.bincount(place, minlength=n_items))
    counts = [np.zeros((2, n_items), np.int32) for n_items in shape]
    kernels = compiled()
    count = _count_both_ways if kernels is None else kernels.both_ways
    for rows, columns, tile in tiles:
        inside = slice(*np.searchsorted(places[0], (rows.start, rows.stop)))
        row, column, known = (x[inside] for x in (*places, scores))
        within = (column >= columns.start) & (column < columns.stop)
        if (tile[row[within] - rows.start, column[within] - columns.start] != known[within]).any():
            return None
        of_tile = np.zeros((2, tile.shape[0]), np.int32), np.zeros((2, tile.shape[1]), np.int32)
        count(tile, best[0][rows], best[1][columns], *of_tile)
        counts[0][:, rows] += of_tile[0]
        counts[1][:, columns] += of_tile[1]
    by_row, by_column = (BestGroups(c[0], c[1] - c[0], h, n) for c, h, n in zip(counts, hits, n_relevant, strict=True))
    return by_row, by_column


def _count_both_ways(similarity, row_best, column_best, row_counts, column_counts):  # type: ignore[no-untyped-def]
    """NumPy alone: what `_both_ways_kernel` counts, 64 rows at a time."""
    for start in range(0, len(similarity), 64):
        block, of_rows = similarity[start : start + 64], row_best[start : start + 64, None]
        for k, compare in enumerate((np.greater, np.greater_equal)):
            row_counts[k, start : start + 64] = compare(block, of_rows).sum(axis=1)
            column_counts[k] += compare(block, column_best).sum(axis=0, dtype=np.int32)


def leading(similarity: NDArray[np.floating[Any]], depth: int) -> NDArray[np.int32]:
    """Columns (n_q, <= depth) of the highest scores of each row of a checked block, best first; of equal ones the first."""
    kernels = compiled()
    if kernels is None:
        return np.argsort(-similarity, axis=1, kind="stable")[:, :depth].astype(np.int32)
    columns = np.empty((len(similarity), min(depth, similarity.shape[1])), np.int32)
    kernels.leading(similarity, np.empty(columns.shape, similarity.dtype), columns)
    return columns


def r_precisions(
    similarity: NDArray[np.floating[Any]], level: NDArray[np.uint8], row_kind: Ints, column_kind: Ints, n_levels: int
) -> Floats:
    """R-precision (n_levels, n_q) of a checked block, for each of the levels 0, 1, ... up to which an item is relevant.

    level (kinds of rows, kinds of columns) is that of an item of the kind `column_kind` (n_g,) to a query of the kind
    `row_kind` (n_q,). NaN where nothing is relevant.
    """
    precision = np.full((n_levels, len(similarity)), np.nan)
    kernels = compiled()
    if kernels is not None:
        integer = np.int32 if similarity.dtype == np.float32 else np.int64
        lowest = integer(np.iinfo(integer).min)
        kernels.precision(similarity.view(integer), lowest, np.ascontiguousarray(level), row_kind, column_kind, precision)
        return precision
    for q, row in enumerate(similarity):
        of_row = level[row_kind[q]][column_kind]
        for z in range(n_levels):
            relevant = of_row <= z
            if n := int(relevant.sum()):
                bound = np.partition(row, len(row) - n)[len(row) - n]
                above, tied = row > bound, row == bound
                share = (n - above.sum()) / tied.sum()
                precision[z, q] = (relevant[above].sum() + share * relevant[tied].sum()) / n
    return precision


# ---- checks at the border --------------------------------------------------------------------------------


def require_finite(similarity: NDArray[np.floating[Any]]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(similarity.sum()):  # a sum with a NaN or an infinity in it is never finite
            return
    bad = ~np.isfinite(similarity)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"similarity must be finite, got {int(bad.sum())} non-finite of {bad.size} values "
            f"({int(np.isnan(similarity).sum())} NaN), the first at row {row}, column {column}; "
            "look for a diverged loss or a zero norm in the embeddings"
        )


def as_similarity(similarity: ArrayLike) -> NDArray[np.floating[Any]]:
    array = np.asarray(similarity)
    if array.ndim != 2:
        raise ValueError(f"similarity must be (n_queries, n_gallery), got shape {array.shape}; pass one block of rows")
    array = by_row(array, np.float32 if array.dtype in (np.float16, np.float32) else np.float64)
    require_finite(array)
    return array


def by_row(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array in row order; a transposed one is copied in tiles, four times as fast as at once."""
    if array.flags.c_contiguous:
        return array.astype(dtype, copy=False)
    copy = np.empty(array.shape, dtype)
    for start in range(0, array.shape[1], 256):
        copy[:, start : start + 256] = array[:, start : start + 256]
    return copy


def relevant_from_mask(relevance: Bools) -> Relevant:
    n_queries, n_gallery = relevance.shape
    position = np.flatnonzero(by_row(relevance, np.bool_))
    start = np.searchsorted(position, np.arange(n_queries + 1) * n_gallery)
    column = position - np.repeat(np.arange(n_queries) * n_gallery, np.diff(start))
    return Relevant(start[:-1], start[1:], column)


def checked_block(similarity: ArrayLike, relevance: ArrayLike) -> tuple[NDArray[np.floating[Any]], Bools]:
    """Checks a similarity block and its relevance and returns them as arrays."""
    scores, mask = as_similarity(similarity), np.asarray(relevance)
    if mask.dtype != np.bool_ or mask.shape != scores.shape:
        raise ValueError(
            f"relevance must be boolean and of the shape of similarity {scores.shape}, got {mask.dtype} {mask.shape}; "
            "compare the labels or pairs of the same queries and gallery items"
        )
    return scores, mask


def checked_groups(similarity: ArrayLike, relevance: ArrayLike) -> TieGroups:
    """Checks both blocks and returns the tie groups."""
    scores, mask = checked_block(similarity, relevance)
    return tie_groups(scores, relevant_from_mask(mask))


def require_depth(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}; it is the number of items retrieved")
