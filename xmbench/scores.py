"""Similarities of two modalities, each network's and their mean: a matrix where it is small, else computed as they are read.

Products of vectors are as cheap as fresh memory: above HELD_BYTES of them each direction computes its own blocks of whole
rows. What a network makes of sequences is dear: it is computed once, and above MATRIX_BYTES it lies in a temporary file.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from tempfile import TemporaryFile

import numpy as np

from xmbench.method import Method, unit_rows
from xmbench.progress import LongWork
from xmbench.ties import Tile, as_similarity
from xmbench.types import Array, Embedding, stream

MATRIX_BYTES = 1 << 29  # a larger array lies in a temporary file
HELD_BYTES = 1 << 27  # similarities of vectors beyond are computed as they are read
BLOCK_BYTES = 1 << 28
SEQUENCES_PER_BLOCK = 64
PAIRS_PER_BLOCK = 1 << 24  # similarities that are evaluated at a time
ROWS_PER_BLOCK = 128  # of long rows, computed at a time: the product of fewer is slow
ROWS_PER_TILE, COLUMNS_PER_TILE = 1 << 11, 1 << 14
PAIRS_PER_TILE = 64
PAIRS_WATCHED = 1 << 17  # at a time, which stay in the cache in double precision


class Stored:
    """A matrix of similarities that is held, (n_first, n_second) float."""

    held = True

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix
        self.shape: tuple[int, ...] = matrix.shape

    def blocks(self, transposed: bool) -> Iterator[tuple[slice, Array]]:
        """Pairs of (slice of the queries, (block, n_gallery) similarities); queries are the second items if `transposed`."""
        matrix = self._matrix.T if transposed else self._matrix
        for rows in slices(len(matrix), PAIRS_PER_BLOCK // matrix.shape[1]):
            yield rows, matrix[rows]

    def tiles(self) -> Iterator[Tile]:
        """Checked parts of the matrix, each similarity in one of them."""
        yield slice(0, self.shape[0]), slice(0, self.shape[1]), as_similarity(self._matrix)

    def paired(self, rows: Array, columns: Array) -> Array:
        """Similarities (p,) of the first items `rows` with the second items in the same places of `columns`."""
        return np.asarray(self._matrix[rows, columns])

    def spread(self, pairs: Array) -> float:
        """Standard deviation of the similarities of items that are not paired, see `Moments`."""
        moments = Moments()
        for rows in slices(len(self._matrix), (1 << 22) // self.shape[1]):
            moments.add(self._matrix[rows])
        return moments.spread(self, pairs)


class Streamed:
    """Similarities of vectors, (n_first, n_second) float, the mean over networks, computed whenever they are read.

    A method with a similarity of its own meets the first items of every block in a random order.

    Args:
        method: whose similarity it is.
        networks: both embeddings of each network; rows of length one where the similarity is the cosine.
        watched: whether `spread` will be asked: the first pass over all pairs then counts for it.
    """

    held = False

    def __init__(self, method: Method, networks: Sequence[tuple[Embedding, Embedding]], *, watched: bool) -> None:
        self._method, self._networks, self._watched = method, networks, watched
        self.shape: tuple[int, ...] = tuple(len(e.values) for e in networks[0])
        self._itemsize = max(e.values.dtype.itemsize for e in networks[0])
        self._moments: Moments | None = None

    def blocks(self, transposed: bool) -> Iterator[tuple[slice, Array]]:
        """As `Stored.blocks`; a block may change once the next one is asked for."""
        n_queries, n_gallery = self.shape[::-1] if transposed else self.shape
        size = max(min(ROWS_PER_BLOCK, MATRIX_BYTES // (self._itemsize * n_gallery)), PAIRS_PER_BLOCK // n_gallery, 1)
        work, moments, buffer = self._work(n_queries, n_gallery), Moments(), None
        for rows in slices(n_queries, size):
            for columns in slices(n_gallery, COLUMNS_PER_TILE):
                tile = self._tile(rows, columns, transposed)
                buffer = np.empty((len(tile), n_gallery), tile.dtype) if buffer is None else buffer
                buffer[: len(tile), columns] = tile
                self._watch(moments, tile)
            assert buffer is not None
            for part in slices(rows.stop - rows.start, PAIRS_PER_BLOCK // n_gallery):
                yield slice(rows.start + part.start, rows.start + part.stop), buffer[part]
            work.done(rows.stop)
        self._moments = self._moments or moments

    def tiles(self) -> Iterator[Tile]:
        """As `Stored.tiles`."""
        work, moments = self._work(*self.shape), Moments()
        for rows in slices(self.shape[0], ROWS_PER_TILE):
            for columns in slices(self.shape[1], COLUMNS_PER_TILE):
                tile = as_similarity(self._tile(rows, columns))
                self._watch(moments, tile)
                yield rows, columns, tile
            work.done(rows.stop)
        self._moments = self._moments or moments

    def paired(self, rows: Array, columns: Array) -> Array:
        """As `Stored.paired`; another block may round a similarity otherwise."""
        values = []
        for start in range(0, len(rows), PAIRS_PER_TILE):
            places = np.arange(start, start + PAIRS_PER_TILE) % len(rows)  # never a single pair, which is rounded otherwise
            values.append(self._tile(rows[places], columns[places]).diagonal())
        return np.concatenate(values)[: len(rows)] if values else np.empty(0, np.float32)

    def spread(self, pairs: Array) -> float:
        """As `Stored.spread`; what a pass over all pairs has counted is not computed again."""
        if self._moments is None:
            for _ in self.tiles():
                pass
        assert self._moments is not None
        return self._moments.spread(self, pairs)

    def _watch(self, moments: "Moments", tile: Array) -> None:
        if self._watched and self._moments is None:
            for rows in slices(len(tile), PAIRS_WATCHED // tile.shape[1]):
                moments.add(tile[rows])

    def _work(self, n_queries: int, n_gallery: int) -> LongWork:
        return LongWork(f"{type(self._method).__name__}: similarities of {n_queries} x {n_gallery} items", n_queries)

    def _tile(self, rows: slice | Array, columns: slice | Array, transposed: bool = False) -> Array:
        """Similarities (rows, columns) of the items at these places; rows are of the second modality if `transposed`."""
        total: Array | None = None
        of_first, of_second = (columns, rows) if transposed else (rows, columns)
        for first, second in self._networks:
            a, b = first.take(of_first), second.take(of_second)
            if has_cosine(self._method):
                part = _product(b.values, a.values) if transposed else _product(a.values, b.values)
            else:
                part = _shuffled_similarity(self._method, a, b)
                part = part.T if transposed else part
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total if len(self._networks) == 1 else np.divide(total, len(self._networks), out=total)


class Moments:
    """Sum and sum of squares of similarities, from which their spread without those of pairs follows.

    Near zero the scores have collapsed: they tell nothing, however well their order may do by chance.
    """

    def __init__(self) -> None:
        self._centre: float | None = None
        self._sum, self._squares = 0.0, 0.0

    def add(self, block: Array) -> None:
        """Count the similarities (n, m)."""
        if self._centre is None:
            self._centre = float(block.flat[0])
        values = np.subtract(block, self._centre, dtype=np.float64).ravel()
        self._sum += float(values.sum())
        self._squares += float(values @ values)

    def spread(self, scores: "Scores", pairs: Array) -> float:
        """Standard deviation of what was counted, all `scores`, without `pairs` (p, 2); NaN where nothing is left."""
        paired = np.unique(pairs, axis=0)
        count = math.prod(scores.shape) - len(paired)
        if count <= 0 or self._centre is None:
            return math.nan
        known = scores.paired(paired[:, 0], paired[:, 1]).astype(np.float64) - self._centre
        total, squares = self._sum - known.sum(), self._squares - known @ known
        return math.sqrt(max(squares / count - (total / count) ** 2, 0.0))


Scores = Stored | Streamed


def network_scores(
    method: Method, first: list[Embedding], second: list[Embedding], *, watched: bool
) -> Iterator[tuple[str, Scores]]:
    """(network, similarities) of every network and last of their "mean", which is all there is for one.

    Those of one network may change once the next ones are asked for. `watched`: whether their spread will be asked.
    """
    n_bytes = first[0].values.dtype.itemsize * len(first[0].values) * len(second[0].values)
    if first[0].values.ndim == 2 and n_bytes > HELD_BYTES:
        pairs = list(zip(first, second, strict=True))
        if has_cosine(method):
            pairs = [(_unit(a), _unit(b)) for a, b in pairs]
        if len(pairs) > 1:
            yield from ((str(number), Streamed(method, [pair], watched=watched)) for number, pair in enumerate(pairs))
        yield "mean", Streamed(method, pairs, watched=watched)
        return
    total: Array | None = None
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        matrix = similarities(method, a, b)
        if len(first) == 1:
            yield "mean", Stored(matrix)
            return
        yield str(number), Stored(matrix)
        total = matrix if total is None else np.add(total, matrix, out=total)
    if total is not None:
        yield "mean", Stored(np.divide(total, len(first), out=total))


def similarities(method: Method, first: Embedding, second: Embedding) -> Array:
    """`Method.similarity` of all items, (n_first, n_second) float, in blocks of the first ones; says how far it is.

    A method with a similarity of its own meets the first items in a random order.

    Raises:
        ValueError: a block of another shape than asked for.
    """
    n_first, n_second = len(first.values), len(second.values)
    if has_cosine(method) and n_second > COLUMNS_PER_TILE:
        return _cosines(method, first, second)
    size = SEQUENCES_PER_BLOCK if np.ndim(first.values) == 3 else BLOCK_BYTES // (4 * n_second)
    order = None if has_cosine(method) else stream("similarity", n_first).permutation(n_first)
    work = LongWork(f"{type(method).__name__}: similarities of {n_first} x {n_second} items", n_first)
    matrix: Array | None = None
    for rows in slices(n_first, size):
        got = _checked_similarity(method, first.take(rows if order is None else order[rows]), second)
        matrix = room((n_first, n_second), _float_type(got)) if matrix is None else matrix
        matrix[rows if order is None else order[rows]] = got
        work.done(rows.stop)
    return np.empty((n_first, n_second), np.float32) if matrix is None else matrix


def _cosines(method: Method, first: Embedding, second: Embedding) -> Array:
    """Cosines (n_first, n_second) of many second items, whose transposed copy would be larger than the blocks."""
    matrix = room((len(first.values), len(second.values)), _float_type(first.values))
    for rows, columns, tile in Streamed(method, [(_unit(first), _unit(second))], watched=False).tiles():
        matrix[rows, columns] = tile
    return matrix


def has_cosine(method: Method) -> bool:
    """Whether the method has no similarity of its own, which could tell partners by their place in both modalities."""
    return type(method).similarity is Method.similarity


def slices(n_items: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` items, at least one."""
    for start in range(0, n_items, max(size, 1)):
        yield slice(start, min(start + max(size, 1), n_items))


def room(shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
    """An array in memory, or above MATRIX_BYTES one in a file that is gone when the array is."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes <= MATRIX_BYTES:
        return np.empty(shape, dtype)
    with TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and the end of the process once it is mapped
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))


def _checked_similarity(method: Method, first: Embedding, second: Embedding) -> Array:
    got, wanted = np.asarray(method.similarity(first, second)), (len(first.values), len(second.values))
    if got.shape != wanted:
        raise ValueError(f"{method.info.name}.similarity must return {wanted} values, got {got.shape}")
    return got


def _shuffled_similarity(method: Method, first: Embedding, second: Embedding) -> Array:
    """The method's own similarity, which is shown the first items in a random order."""
    order = stream("similarity", len(first.values)).permutation(len(first.values))
    got = _checked_similarity(method, first.take(order), second)
    values = np.empty(got.shape, _float_type(got))
    values[order] = got
    return values


def _float_type(values: Array) -> np.dtype[np.floating]:
    return np.dtype(np.float32 if values.dtype in (np.float16, np.float32) else np.float64)


def _unit(embedding: Embedding) -> Embedding:
    """The embedding scaled to rows of length one, block by block."""
    values = room(embedding.values.shape, embedding.values.dtype)
    for rows in slices(len(values), COLUMNS_PER_TILE):
        values[rows] = unit_rows(embedding.values[rows])
    return replace(embedding, values=values)


def _product(a: Array, b: Array) -> Array:
    """a @ b.T of vectors (n, d) and (m, d), which `xmbench.device.matmul` would copy the transposed one for."""
    import torch

    from xmbench.device import fast_matmul

    fast_matmul()
    with torch.inference_mode():
        return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b)).T).numpy()
