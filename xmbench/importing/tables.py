"""Tables that go with features: labels and splits of items, and pairs of rows."""

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmbench.importing.sources import located, open_source
from xmbench.importing.text import plain, read_rows
from xmbench.types import Array, DataError

IDS = ("image", "id", "image_id", "image_name", "file", "filename", "file_name", "name", "item", "path", "filepath")
LABELS = ("label", "labels", "class", "classes", "category", "categories", "target")
SPLITS = ("split", "subset", "partition", "set")
SEPARATORS = str.maketrans("|", ";")
_ARRAYS = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".h5py", ".parquet")
_WHOLE = re.compile(r"^(-?\d+)\.0+$")  # a class number that was written as a float
_CODES = {
    "train": ("train", "training", "tr", "trn", "restval"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "te", "tst", "testall"),
}
_CANONICAL = {name: split for split, names in _CODES.items() for name in names}


@dataclass(frozen=True)
class Codes:
    """Values out of few, such as splits: a number per row, and what the numbers stand for."""

    numbers: NDArray[np.int32]
    names: tuple[str, ...]

    def of(self, rows: Array) -> "Codes":
        """Those of some rows, given by number or as (n,) bool."""
        return Codes(self.numbers[rows], self.names)


@dataclass(frozen=True)
class Labels:
    """Labels of items.

    Attributes:
        where: the files.
        values: (n,) class numbers, -1 where unlabelled; or (n, c) bool.
        names: of the c classes.
        splits: of the items, where the files tell.
        ids: of the items, where the files tell.
    """

    where: str
    values: Array
    names: tuple[str, ...]
    splits: Codes | None = None
    ids: tuple[str, ...] | None = None


def split_name(text: str, where: str) -> str:
    """The split that a name stands for.

    >>> split_name("Val", "labels.csv"), split_name("test:twemoji", "labels.csv")
    ('valid', 'test:twemoji')
    """
    name = text.strip().lower()
    if name in _CANONICAL:
        return _CANONICAL[name]
    if name.startswith("test:") and plain(name[5:]):
        return f"test:{plain(name[5:])}"
    raise DataError(
        f"{where}: a split must be train, valid (val, dev) or test, or test:NAME for a further one, got {text!r:.40}"
    )


def split_in(name: str) -> str | None:
    """The split that the name of a file or an array tells, or None.

    >>> split_in("train_ims"), split_in("I_te"), split_in("trees")
    ('train', 'test', None)
    """
    found = {_CANONICAL[part] for part in plain(name).split("_") if part in _CANONICAL}
    return found.pop() if len(found) == 1 else None


def read_labels(files: Sequence[str]) -> Labels:
    """The labels in files, one below the other.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file without a column of labels, a split of no known name, or files of different kinds.
    """
    parts = [_labels_of(text) for text in files]
    where = ", ".join(part.where for part in parts)
    if len({part.values.ndim for part in parts if part.names}) > 1:
        several = [
            replace(part, values=np.asarray(part.values[:, None] == np.arange(len(part.names))))
            if part.values.ndim == 1
            else part
            for part in parts
        ]
        parts = several
    names = _ordered({name for part in parts for name in part.names})
    place = {name: i for i, name in enumerate(names)}
    values = np.concatenate([_renumbered(part, place) for part in parts])
    known = [part.splits for part in parts if part.splits is not None]
    ids = [part.ids for part in parts if part.ids is not None]
    return Labels(
        where,
        values,
        names,
        joined(known) if len(known) == len(parts) else None,
        tuple(name for part in ids for name in part) if len(ids) == len(parts) else None,
    )


def joined(parts: Sequence[Codes]) -> Codes:
    """Codes one below the other."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    place = {name: i for i, name in enumerate(names)}
    numbers = [np.array([place[name] for name in part.names], dtype=np.int32)[part.numbers] for part in parts]
    return Codes(np.concatenate(numbers), names)


def coded(values: Iterable[str], where: str) -> Codes:
    """Codes of splits that are told by name."""
    known: dict[str, int] = {}
    numbers = array("i", (known.setdefault(value, len(known)) for value in values))
    names = [split_name(value, where) for value in known]
    distinct = tuple(dict.fromkeys(names))
    return Codes(np.array([distinct.index(name) for name in names], dtype=np.int32)[np.frombuffer(numbers, np.int32)], distinct)


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers where all are numbers, else of the alphabet."""
    numbers = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int if numbers else None))


def _renumbered(part: Labels, place: Mapping[str, int]) -> Array:
    new = np.array([place[name] for name in part.names], dtype=np.int64)
    if part.values.ndim == 1:
        return np.append(new, -1)[part.values].astype(np.int32)
    hot = np.zeros((len(part.values), len(place)), dtype=bool)
    hot[:, new] = part.values
    return hot


def _labels_of(text: str) -> Labels:
    path, key = located(text)
    if path.suffix.lower() in _ARRAYS:
        return _labels_of_array(text)
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: must hold labels, got an empty file")
    columns = [plain(name) for name in first]
    headed = bool({*columns} & {*LABELS, *SPLITS, *IDS}) or plain(key) in columns
    if not headed and (key or len(first) == 1):
        return _labels_of_cells(path, _column(path, key, len(first)), None, None, [first, *rows], 1)
    if not headed:
        advice = f"say which one it is, such as {path}:{len(first)}, counted from 1"
        raise DataError(f"{path}: must have a column label, got {', '.join(first)[:80]}; {advice}")
    label = columns.index(plain(key)) if plain(key) in columns else _first(columns, LABELS)
    split, name = _first(columns, SPLITS), _first(columns, IDS)
    if label is None:
        others = [i for i in range(len(columns)) if i not in (split, name)]
        return _labels_of_flags(path, others, split, name, first, rows)
    return _labels_of_cells(path, label, split, name, rows, 2)


def _first(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _column(path: Path, key: str, width: int) -> int:
    """Place of a column that is given by its number, from 1."""
    if not key and width == 1:
        return 0
    if not key.isdecimal() or not 1 <= int(key) <= width:
        raise DataError(f"{path}: must hold the column {key!r}, got {width} columns without names; count them from 1")
    return int(key) - 1


def _cell(path: Path, row: Sequence[str], column: int, line: int) -> str:
    if column >= len(row):
        raise DataError(f"{path}, line {line}: must have {column + 1} cells or more, got {len(row)}")
    return row[column]


def _labels_of_cells(
    path: Path, label: int, split: int | None, name: int | None, rows: Iterable[Sequence[str]], line: int
) -> Labels:
    """Labels out of cells with class names, several of them separated by ";" or "|"; an empty cell is unlabelled."""
    known: dict[str, int] = {}
    numbers, counts, splits, ids = array("i"), array("i"), list[str](), list[str]()
    for at, row in enumerate(rows, line):
        cell = _cell(path, row, label, at)
        found = (_WHOLE.sub(r"\1", one.strip()) for one in cell.translate(SEPARATORS).split(";"))
        classes = [one for one in found if one not in ("", "-1")]
        numbers.extend(known.setdefault(one, len(known)) for one in dict.fromkeys(classes))
        counts.append(len(dict.fromkeys(classes)))
        if split is not None:
            splits.append(_cell(path, row, split, at))
        if name is not None:
            ids.append(_cell(path, row, name, at))
    if not known:
        raise DataError(f"{path}: must hold labels, got none in {len(counts)} lines")
    return Labels(
        str(path), _packed(np.frombuffer(numbers, np.int32), np.frombuffer(counts, np.int32), len(known)), tuple(known),
        coded(splits, str(path)) if split is not None else None, tuple(ids) if name is not None else None,
    )  # fmt: skip


def _packed(numbers: Array, counts: Array, n_classes: int) -> Array:
    """(n,) class numbers where no item has several, else (n, c) bool."""
    if counts.max(initial=0) <= 1:
        values = np.full(len(counts), -1, dtype=np.int32)
        values[counts == 1] = numbers
        return values
    hot = np.zeros((len(counts), n_classes), dtype=bool)
    hot[np.repeat(np.arange(len(counts)), counts), numbers] = True
    return hot


def _labels_of_flags(
    path: Path, columns: list[int], split: int | None, name: int | None, first: Sequence[str], rows: Iterable[Sequence[str]]
) -> Labels:
    """Labels out of columns of 0 and 1, one per class."""
    if len(columns) < 2:
        raise DataError(f"{path}: must have a column label, or columns of 0 and 1 per class, got {', '.join(first)[:80]}")
    flags, splits, ids = array("b"), list[str](), list[str]()
    for at, row in enumerate(rows, 2):
        for column in columns:
            if (cell := _cell(path, row, column, at)) not in ("0", "1"):
                got = f"{cell!r:.40} in column {first[column]!r}, line {at}"
                raise DataError(f"{path}: must have a column label, or columns of 0 and 1 per class, got {got}")
            flags.append(cell == "1")
        if split is not None:
            splits.append(_cell(path, row, split, at))
        if name is not None:
            ids.append(_cell(path, row, name, at))
    return Labels(
        str(path), np.frombuffer(flags, bool).reshape(-1, len(columns)), tuple(first[i] for i in columns),
        coded(splits, str(path)) if split is not None else None, tuple(ids) if name is not None else None,
    )  # fmt: skip


def _labels_of_array(text: str) -> Labels:
    """Labels out of an array of class numbers (n,), (n, 1) or (1, n), or of 0 and 1 (n, c)."""
    source = open_source(text)
    values = np.concatenate(list(source.blocks()))
    if values.dtype.kind == "U" and values.ndim == 1:
        names, numbers = np.unique(values, return_inverse=True)
        return Labels(source.where, numbers.astype(np.int32), tuple(map(str, names)))
    if values.dtype.kind not in "fiub" or not np.array_equal(values, np.rint(values)):
        raise DataError(f"{source.where}: labels must be whole numbers, got {values.dtype} {values.shape}")
    if values.ndim == 2 and 1 not in values.shape:
        if not np.isin(values, (0, 1)).all():
            got = f"{values[~np.isin(values, (0, 1))][0]}"
            raise DataError(
                f"{source.where}: labels must be (n,) class numbers, or (n, c) of 0 and 1, got {got} in {values.shape}"
            )
        return Labels(source.where, values.astype(bool), tuple(map(str, range(values.shape[1]))))
    if values.ndim > 2:
        raise DataError(f"{source.where}: labels must be (n,) class numbers, or (n, c) of 0 and 1, got {values.shape}")
    flat = values.reshape(-1).astype(np.int64)
    classes = np.unique(flat[flat != -1])
    numbers = np.where(flat == -1, -1, np.searchsorted(classes, flat)).astype(np.int32)
    return Labels(source.where, numbers, tuple(map(str, classes)))


def read_pairs(
    text: str, names: Sequence[str], sizes: Sequence[int], ids: Mapping[str, Sequence[str]]
) -> tuple[Array, Codes | None]:
    """Rows (N, m) that belong together, and the splits of the pairs, where the file tells.

    Args:
        text: FILE or FILE:KEY; an array (N, m), or a table with a column per modality and optionally "split".
        names: of the m modalities, in their order.
        sizes: their numbers of items.
        ids: modality -> names of its items, where they are known: a column may hold these in place of rows.

    Raises:
        DataError: another number of columns, rows out of range, or a pair twice.
    """
    path, _ = located(text)
    splits = None
    if path.suffix.lower() in _ARRAYS:
        source = open_source(text)
        pairs = np.concatenate(list(source.blocks()))
        if pairs.ndim != 2 or pairs.shape[1] != len(names) or pairs.dtype.kind not in "iu":
            raise DataError(f"{source.where}: pairs must be (N, {len(names)}) whole numbers, got {pairs.dtype} {pairs.shape}")
        line = 0
    else:
        pairs, splits, line = _pairs_of_table(path, names, ids)
    _check_pairs(path, pairs, names, sizes, line)
    return pairs.astype(np.int64), splits


def _pairs_of_table(path: Path, names: Sequence[str], ids: Mapping[str, Sequence[str]]) -> tuple[Array, Codes | None, int]:
    rows = read_rows(path)
    first = next(rows, [])
    columns = [plain(name) for name in first]
    headed = {plain(name) for name in names} <= {*columns}
    if not headed and (len(first) != len(names) or not all(cell.isdecimal() for cell in first)):
        raise DataError(
            f"{path}: must have the columns {', '.join(names)}, and optionally split, got {', '.join(first)[:80] or 'none'}"
        )
    places = [columns.index(plain(name)) for name in names] if headed else list(range(len(names)))
    split = _first(columns, SPLITS) if headed else None
    row_of = {name: {one: i for i, one in enumerate(ids[name])} for name in names if name in ids}
    numbers, splits, line = array("q"), list[str](), 2 if headed else 1
    for at, row in enumerate(rows if headed else [first, *rows], line):
        for name, place in zip(names, places, strict=True):
            cell = _cell(path, row, place, at)
            number = row_of.get(name, {}).get(cell, -1)
            if number < 0 and not cell.isdecimal():
                raise DataError(f"{path}, line {at}: {name} must be a row, counted from 0, got {cell!r:.40}")
            numbers.append(int(cell) if number < 0 else number)
        if split is not None:
            splits.append(_cell(path, row, split, at))
    pairs = np.frombuffer(numbers, np.int64).reshape(-1, len(names))
    return pairs, coded(splits, str(path)) if split is not None else None, line


def _check_pairs(path: Path, pairs: Array, names: Sequence[str], sizes: Sequence[int], line: int) -> None:
    """Raise where rows are out of range or a pair is there twice; `line` is that of the first pair, 0 in an array."""

    def place(i: int) -> str:
        return f"line {line + i}" if line else f"row {i}"

    if not len(pairs):
        raise DataError(f"{path}: must hold pairs, got none")
    outside = (pairs < 0) | (pairs >= np.asarray(sizes))
    if outside.any():
        i, j = np.argwhere(outside)[0].tolist()
        raise DataError(
            f"{path}, {place(i)}: a row of {names[j]} must lie in 0..{sizes[j] - 1}, got {pairs[i, j]}; "
            f"{int(outside.any(axis=1).sum())} pairs are out of range, rows count from 0"
        )
    order = np.lexsort(pairs.T[::-1])
    twice = np.flatnonzero((pairs[order[1:]] == pairs[order[:-1]]).all(axis=1))
    if twice.size:
        first, second = sorted(order[twice[0] : twice[0] + 2].tolist())
        got = f"{pairs[first].tolist()} in {place(first)} and {place(second)}, {len(twice)} such"
        raise DataError(f"{path}: pairs must differ, got {got}; drop them")


def first_lines(path: Path, n: int) -> list[list[str]]:
    """The first rows of a table."""
    return list(islice(read_rows(path), n))
