"""Feature files of any kind as streams of blocks of rows: .npy, .npz, .mat, .h5, .csv and parquet. None is read whole.

A file with several arrays is named with the one that is meant, FILE:KEY.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets._files import check_archive, check_npy, readable
from xmbench.datasets._mat import mat_names, mat_variable
from xmbench.importing.text import delimiter, encoding
from xmbench.types import Array, DataError

_BLOCK = 1 << 20  # numbers read at a time
_LINES = 1 << 12  # and lines of a table
_FREE, _PER_BYTE = 1 << 26, 200  # what a compressed file may unfold to, in bytes and for each of its own
KINDS = ".npy, .npz, .mat, .h5, .hdf5, .csv, .tsv, .parquet"
NO_FEATURES = {"", "id", "index", "unnamed: 0"}  # columns that number the rows


@dataclass(frozen=True)
class Source:
    """An array in a file.

    Attributes:
        where: the file, and the array in it where it has several.
        shape: (n, ...); n is -1 where it is not known before the file is read.
        dtype: as it is stored.
        blocks: reads it, some rows at a time.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Array]]


def located(text: str) -> tuple[Path, str]:
    """Path and key of FILE or FILE:KEY.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if Path(text).exists():
        return Path(text), ""
    path, _, key = text.rpartition(":")
    if path and Path(path).exists():
        return Path(path), key
    raise FileNotFoundError(f"there is no file {text}; give FILE, or FILE:KEY where it holds several arrays")


def open_source(text: str) -> Source:
    """The array that FILE or FILE:KEY names.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file of another kind, a damaged one, one with objects, or without such an array.
    """
    path, key = located(text)
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise DataError(f"{path}: a pickle is not opened, it could run any code; first: xmbench data convert {path} NEW.npz")
    if suffix not in _OPENERS:
        raise DataError(f"{path}: must be one of {KINDS}, got {suffix or 'no ending'!r}")
    if not path.stat().st_size:
        raise DataError(f"{path}: must hold numbers, got an empty file")
    with readable(path, f"a whole {suffix} file of numbers"):
        return _OPENERS[suffix](path, key)


def _step(shape: tuple[int, ...]) -> int:
    return max(1, _BLOCK // max(int(np.prod(shape[1:], dtype=np.int64)), 1))


def _chosen(path: Path, key: str, names: list[str]) -> str:
    """The key, or the only name that there is."""
    if key:
        if key not in names:
            raise DataError(f"{path}: must hold {key!r}, got {', '.join(names) or 'no arrays of numbers'}")
        return key
    if len(names) != 1:
        wanted = f"name the array that is meant, such as {path}:{names[0]}" if names else "it has none that could be features"
        raise DataError(f"{path}: must hold one array of numbers, got {', '.join(names) or 'none'}; {wanted}")
    return names[0]


def _sliced(values: Array) -> Iterator[Array]:
    step = _step(values.shape)
    for start in range(0, len(values), step):
        yield np.asarray(values[start : start + step])


def _npy(path: Path, key: str) -> Source:
    with path.open("rb") as file:
        shape, _, dtype = _checked(path, lambda: check_npy(file, path.stat().st_size))
    return Source(str(path), shape, dtype, lambda: _sliced(np.load(path, mmap_mode="r", allow_pickle=False)))


def _checked(path: Path, check: Callable[[], Any]) -> Any:
    """What the check returns; objects get the advice how to do without."""
    try:
        return check()
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        advice = "where you trust it: np.save(NEW, np.stack(list(np.load(OLD, allow_pickle=True))).astype(np.float32))"
        raise DataError(
            f"{path}: must be an array of numbers, got objects, which are a pickle and not opened; {advice}"
        ) from None


def _npz(path: Path, key: str) -> Source:
    def check() -> None:
        with path.open("rb") as file:
            check_archive(file)

    _checked(path, check)
    members = npz_members(path)
    name = _chosen(
        path, key, [name for name, (shape, dtype) in members.items() if key or (dtype.kind in "fiub" and len(shape) > 1)]
    )
    shape, dtype = members[name]
    return Source(f"{path}:{name}", shape, dtype, lambda: _npz_blocks(path, name))


def npz_members(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name -> shape and type of the arrays of an .npz file."""
    members = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                shape, _, dtype = check_npy(content, member.file_size)
            members[member.filename.removesuffix(".npy")] = shape, dtype
    return members


def _npz_blocks(path: Path, name: str) -> Iterator[Array]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as content:
        shape, by_column, dtype = check_npy(content, archive.getinfo(f"{name}.npy").file_size)
        if by_column:
            yield from _sliced(np.frombuffer(content.read(), dtype).reshape(shape, order="F"))
            return
        step = _step(shape)
        for start in range(0, shape[0], step):
            rows = min(step, shape[0] - start)
            n_bytes = int(np.prod(shape[1:], dtype=np.int64)) * rows * dtype.itemsize
            yield np.frombuffer(content.read(n_bytes), dtype).reshape(rows, *shape[1:])


def _mat(path: Path, key: str) -> Source:
    import h5py

    if h5py.is_hdf5(path):  # MATLAB 7.3; its columns come first
        return _h5(path, key, turned=True)
    names = mat_names(path)
    name = _chosen(path, key, names)
    values = mat_variable(path, name)
    if values.dtype == object:
        raise DataError(f"{path}:{name} must be a matrix of numbers, got cells; save each of them on its own")
    return Source(f"{path}:{name}" if len(names) > 1 else str(path), values.shape, values.dtype, lambda: _sliced(values))


def _h5(path: Path, key: str, *, turned: bool = False) -> Source:
    import h5py

    with h5py.File(path, "r") as file:
        arrays = h5_arrays(file)
        name = _chosen(
            path, key, [name for name, values in arrays.items() if key or (values.ndim > 1 and values.dtype.kind in "fiub")]
        )
        values = arrays[name]
        if values.nbytes > _FREE + _PER_BYTE * path.stat().st_size:
            raise ValueError(f"{name} unfolds to {values.nbytes:,} bytes out of a file of {path.stat().st_size:,}")
        shape = values.shape[::-1] if turned else values.shape
        return Source(
            f"{path}:{name}" if len(arrays) > 1 else str(path), shape, values.dtype, lambda: _h5_blocks(path, name, turned)
        )


def h5_arrays(file: Any) -> dict[str, Any]:
    """Name -> array of an HDF5 file. HDF5 can name other files in its links and arrays: those are left out."""
    import h5py

    found = {}
    todo = [("", file)]
    while todo:
        prefix, group = todo.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            item = group[name]
            if isinstance(item, h5py.Group) and not name.startswith("#") and prefix.count("/") < 8:
                todo.append((f"{prefix}{name}/", item))
            elif isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
                found[prefix + name] = item
    return dict(sorted(found.items()))


def _h5_blocks(path: Path, name: str, turned: bool) -> Iterator[Array]:
    import h5py

    with h5py.File(path, "r") as file:
        values = file[name]
        if not turned:
            yield from _sliced(values)
            return
        n, step = values.shape[-1], _step(values.shape[::-1])
        for start in range(0, n, step):
            yield np.asarray(values[..., start : start + step]).T


def _csv(path: Path, key: str) -> Source:
    with path.open(encoding=encoding(path)[0], newline="") as file:
        first = file.readline().rstrip("\r\n")
    sign = delimiter(first)
    names = [cell.strip().strip('"') for cell in first.split(sign)]
    header = 0 if _is_header(names) else None
    dropped = [i for i, name in enumerate(names) if header == 0 and name.lower() in NO_FEATURES]
    width = len(names) - len(dropped)
    return Source(str(path), (-1, width), np.dtype(np.float64), lambda: _csv_blocks(path, sign, header, dropped))


def _is_header(names: list[str]) -> bool:
    """Whether a first line names columns: most are no numbers, or pandas counted them, or the first of them numbers rows."""
    counted = names if _is_number(names[0]) else names[1:]
    if len(counted) > 1 and counted == [str(i) for i in range(len(counted))]:
        return True
    if names[0].lower() in NO_FEATURES and (names[0] or all(name.isdecimal() for name in names[1:])):
        return True
    filled = [name for name in names if name]
    return 2 * sum(not _is_number(name) for name in filled) > len(filled)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _csv_blocks(path: Path, sign: str, header: int | None, dropped: list[int]) -> Iterator[Array]:
    import pandas as pd

    options: dict[str, Any] = {"sep": sign, "header": header, "encoding": encoding(path)[0], "low_memory": False}
    with readable(path, "a whole .csv file of numbers"), pd.read_csv(path, chunksize=_LINES, **options) as chunks:
        for number, chunk in enumerate(chunks):
            table = chunk.drop(columns=chunk.columns[dropped])
            for column in table.columns:
                if table[column].dtype.kind not in "fiub":
                    name = column if header == 0 else int(column) + 1
                    _refuse_text(path, name, table[column], number * _LINES + (2 if header == 0 else 1))
            yield table.to_numpy(dtype=np.float64)


def _refuse_text(path: Path, name: str | int, column: Any, first_line: int) -> None:
    """Raise for the first cell of a column that is no number."""
    import pandas as pd

    wrong = (pd.to_numeric(column, errors="coerce").isna() & column.notna()).to_numpy()
    i = int(wrong.argmax())
    got = f"{str(column.iloc[i])!r:.40} in line {first_line + i}"
    raise DataError(f"{path}: column {name!r} must be numbers, got {got}; remove the column, or repair it")


def _parquet(path: Path, key: str) -> Source:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    columns = [key] if key else [name for name in file.schema_arrow.names if name.lower() not in NO_FEATURES]
    if key and key not in file.schema_arrow.names:
        raise DataError(f"{path}: must hold the column {key!r}, got {', '.join(file.schema_arrow.names)}")
    first = next(_parquet_blocks(path, columns, 1), np.empty((0, len(columns))))
    return Source(
        str(path), (file.metadata.num_rows, *first.shape[1:]), first.dtype, lambda: _parquet_blocks(path, columns, None)
    )


def _parquet_blocks(path: Path, columns: list[str], rows: int | None) -> Iterator[Array]:
    """Blocks of rows: numbers, a column per feature, or one column of lists that are all of one length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetFile(path) as file:
        types = {name: file.schema_arrow.field(name).type for name in columns}
        lists = [
            name
            for name, kind in types.items()
            if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
        ]
        if len(lists) > 1 or (lists and len(columns) > 1):
            got = f"{', '.join(columns)}; name one as {path}:{lists[0]}"
            raise DataError(f"{path}: must hold one column of lists or columns of numbers, got {got}")
        for name, kind in types.items():
            if not lists and not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
                raise DataError(
                    f"{path}: column {name!r} must be numbers, got {kind}; remove the column, or name one as {path}:NAME"
                )
        for batch in file.iter_batches(batch_size=rows or _LINES, columns=columns):
            values = (
                _listed(path, batch.column(0), done)
                if lists
                else np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)
            )
            done += len(values)
            yield values
            if rows is not None:
                return


def _listed(path: Path, column: Any, done: int) -> Array:
    """(n, d) out of n lists of d numbers."""
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != lengths[0])
    if wrong.size:
        raise DataError(
            f"{path}: lists must be of one length, got {lengths[0]} and {lengths[wrong[0]]} in row {done + wrong[0]}"
        )
    values: Array = column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), -1)
    return values


_OPENERS: dict[str, Callable[[Path, str], Source]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".mat": _mat,
    ".h5": _h5,
    ".hdf5": _h5,
    ".h5py": _h5,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
