"""Similarities of two modalities: each network's matrix is computed once, in blocks, in memory or in a temporary file."""

import math
import os
from collections.abc import Iterator
from tempfile import TemporaryFile

import numpy as np

from xmbench.method import Method
from xmbench.progress import LongWork
from xmbench.types import Array, Embedding, stream

MATRIX_BYTES = 1 << 29  # a larger matrix lies in a temporary file; two are held at most
BLOCK_BYTES = 1 << 28
SEQUENCES_PER_BLOCK = 64


def network_matrices(method: Method, first: list[Embedding], second: list[Embedding]) -> Iterator[tuple[str, Array]]:
    """(network, (n_first, n_second) similarities) of every network and last of their "mean", which is all there is for one.

    A matrix may change once the next one is asked for.
    """
    total: Array | None = None
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        matrix = similarities(method, a, b)
        if len(first) == 1:
            yield "mean", matrix
            return
        yield str(number), matrix
        total = matrix if total is None else np.add(total, matrix, out=total)
    if total is not None:
        yield "mean", np.divide(total, len(first), out=total)


def similarities(method: Method, first: Embedding, second: Embedding) -> Array:
    """`Method.similarity` of all items, (n_first, n_second) float, in blocks of the first ones; says how far it is.

    A method with a similarity of its own meets the first items in a random order.

    Raises:
        ValueError: a block of another shape than asked for.
    """
    n_first, n_second = len(first.values), len(second.values)
    size = SEQUENCES_PER_BLOCK if np.ndim(first.values) == 3 else max(1, BLOCK_BYTES // (4 * n_second))
    order = _order(method, n_first)
    work = LongWork(f"{type(method).__name__}: similarities of {n_first} x {n_second} items", n_first)
    matrix: Array | None = None
    for start in range(0, n_first, size):
        rows = slice(start, min(start + size, n_first))
        got = np.asarray(method.similarity(first.take(rows if order is None else order[rows]), second))
        wanted = (rows.stop - rows.start, n_second)
        if got.shape != wanted:
            raise ValueError(f"{method.info.name}.similarity must return {wanted} values, got {got.shape}")
        if matrix is None:
            matrix = _empty((n_first, n_second), np.dtype(np.float32 if got.dtype in (np.float16, np.float32) else np.float64))
        matrix[rows if order is None else order[rows]] = got
        work.done(rows.stop)
    return np.empty((n_first, n_second), np.float32) if matrix is None else matrix


def _order(method: Method, n_items: int) -> Array | None:
    """A random order of the first items for a similarity of the method's own, which could else tell partners by their place."""
    if type(method).similarity is Method.similarity:
        return None
    return stream("similarity", n_items).permutation(n_items)


def _empty(shape: tuple[int, int], dtype: np.dtype[np.floating]) -> Array:
    """An array in memory, or above MATRIX_BYTES one in a file that is gone when the array is."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes <= MATRIX_BYTES:
        return np.empty(shape, dtype)
    with TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and the end of the process once it is mapped
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))


def spread(matrix: Array, pairs: Array) -> float:
    """Standard deviation of the similarities (n, m) of items that are not paired, (p, 2) rows and columns; NaN for none.

    Near zero the scores have collapsed: they tell nothing, however well their order may do by chance.
    """
    paired = np.unique(pairs, axis=0)
    if matrix.size <= len(paired):
        return math.nan
    centre = float(matrix.flat[0])
    known = matrix[paired[:, 0], paired[:, 1]].astype(np.float64) - centre
    total, squares = -known.sum(), -(known @ known)
    step = max(1, (1 << 22) // matrix.shape[1])
    for start in range(0, len(matrix), step):
        block = np.subtract(matrix[start : start + step], centre, dtype=np.float64).ravel()
        total += block.sum()
        squares += block @ block
    count = matrix.size - len(paired)
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
