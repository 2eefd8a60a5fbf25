"""Reading numbers and cells out of .mat files of MATLAB 5 to 7.2.

SciPy's reader is compiled, and a damaged file can make it crash the process: a plan, not a run. This one knows what data sets
are made of, real numbers and cells of them, and checks every length. The layout was checked against SciPy's `_mio5.py`, and
the results are compared with its own in the tests.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xmbench.datasets._files import check_unfolded, readable
from xmbench.types import Array, DataError

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by element type
_MATRIX, _COMPRESSED = 14, 15  # element types
_CELL, _NUMERIC, _COMPLEX = 1, range(6, 16), 0x800  # classes of matrices, and a flag
_HEAD = 4096  # bytes of a compressed variable that are enough to know its name


def mat_variable(path: Path, key: str) -> Array:
    """One variable of a .mat file: numbers of the type they are stored in, or cells, an array of objects.

    Raises:
        DataError: there is no such variable, it is something else, or the file is damaged or of another version.
    """
    names: list[str] = []
    with readable(path, "a whole .mat file"):
        for name, compressed, element, order, n_bytes in _variables(path):
            names.append(name)
            if name == key:
                return _values(_unfolded(element, order, n_bytes) if compressed else element, order)
    raise DataError(f"{path}: must hold {key!r}, got the keys {', '.join(sorted(filter(None, names))) or 'none'}")


def mat_names(path: Path) -> list[str]:
    """Names of the variables of a .mat file, in its order."""
    with readable(path, "a whole .mat file"):
        return [name for name, *_ in _variables(path) if name]


def _variables(path: Path) -> Iterator[tuple[str, bool, memoryview, str, int]]:
    """Name, whether it is compressed, and content of every variable; byte order and size of the file."""
    content = np.memmap(path, np.uint8, mode="r").data
    if bytes(content[126:128]) not in (b"IM", b"MI") or len(content) < 128:
        raise ValueError("its head is no MATLAB 5 head")
    order = "<" if bytes(content[126:128]) == b"IM" else ">"
    if struct.unpack_from(f"{order}H", content, 124)[0] == 0x200:
        raise DataError(f"{path}: must be a .mat file of MATLAB 5 to 7.2, got 7.3; save it again with -v7")
    for kind, element in _elements(content[128:], order):
        if kind in (_MATRIX, _COMPRESSED):
            head = _unfolded(element, order, len(content), _HEAD) if kind == _COMPRESSED else element
            yield _name(head, order), kind == _COMPRESSED, element, order, len(content)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that stand one after the other."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        begin, small = at + 8, kind >> 16
        if small:  # type, size and content in eight bytes
            kind, size, begin = kind & 0xFFFF, small, at + 4
        if begin + size > len(content) or (small and size > 4):
            raise ValueError(f"an element of {size} bytes is not all there")
        yield kind, content[begin : begin + size]
        at = at + 8 if small else begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _unfolded(element: memoryview, order: str, n_bytes: int, most: int | None = None) -> memoryview:
    """A compressed matrix of a file of `n_bytes`, without its tag; the first `most` bytes of it."""
    kind, size = struct.unpack_from(f"{order}II", zlib.decompressobj().decompress(element, 8))
    if kind != _MATRIX:
        raise ValueError(f"a compressed element must be a matrix, got type {kind}")
    check_unfolded(n_bytes, size)
    whole = memoryview(zlib.decompressobj().decompress(element, 8 + min(size, most or size)))
    if most is None and len(whole) < 8 + size:
        raise ValueError("a compressed matrix is not all there")
    return whole[8:]


def _name(matrix: memoryview, order: str) -> str:
    parts = _elements(matrix, order)
    _, _, (_, name) = next(parts), next(parts), next(parts)
    return bytes(name).decode("latin1")


def _values(matrix: memoryview, order: str, depth: int = 1) -> Array:
    """The content of a matrix: numbers, or the cells' contents."""
    if not len(matrix):
        return np.empty((0, 0))
    parts = _elements(matrix, order)
    (_, flags), (_, sizes), _ = next(parts), next(parts), next(parts)
    flag = struct.unpack_from(f"{order}I", flags)[0]
    shape = [int(n) for n in np.frombuffer(sizes, f"{order}i4")]
    if min(shape, default=-1) < 0 or len(shape) > 32:
        raise ValueError(f"a matrix must have a shape, got {shape}")
    if flag & 0xFF == _CELL and depth == 1:
        cells = list(itertools.islice(parts, math.prod(shape)))
        values = np.empty(len(cells), dtype=object)
        for i, (kind, cell) in enumerate(cells):
            if kind != _MATRIX:
                raise ValueError(f"a cell must hold a matrix, got type {kind}")
            values[i] = _values(cell, order, depth + 1)
        return values.reshape(shape, order="F")
    if flag & 0xFF not in _NUMERIC or flag & _COMPLEX:
        raise ValueError(f"a variable must be real numbers or cells of them, got class {flag & 0xFF}")
    kind, numbers = next(parts)
    if kind not in _NUMBERS:
        raise ValueError(f"numbers must be of a type that MATLAB has, got {kind}")
    return np.frombuffer(numbers, f"{order}{_NUMBERS[kind]}").reshape(shape, order="F")
