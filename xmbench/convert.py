"""Released pickles, torch and word2vec files, read once and written as .npz or JSON. Nothing in them is executed.

Pickles and torch files are read by `unpickling`.

What becomes of the content in an .npz file (in JSON, it is kept as it is, arrays as lists):

    {name: vector, ...}             `ids` (n,) and `values` (n, d)
    {key: {name: vector, ...}}      `<key>.ids` (n,) and `<key>` (n, d), for every key
    [{key: value, ...}, ...]        `<key>` (n,) or (n, d), for every key
    word2vec                        `words` (V,) and `vectors` (V, d)

The layout of word2vec was checked against gensim's load_word2vec_format.
"""

import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._files import check_archive, readable
from xmbench.datasets._video import words_of
from xmbench.types import Array, DataError
from xmbench.unpickling import read_plain

_WORD2VEC = re.compile(rb"(\d+) (\d+)\r?\n")
_LONGEST_WORD = 1 << 16  # bytes
_KINDS = {"b": "flags", "i": "numbers", "u": "numbers", "f": "numbers", "U": "text"}  # NumPy's letters -> what they are


def read_word2vec(path: Path, words: Collection[str] | None = None) -> dict[str, Array]:
    """`words` (V,) and `vectors` (V, d) of a binary word2vec file; given words, of those alone.

    Raises:
        DataError: the file ends early, or has none of the words.
    """
    wanted = None if words is None else {word.encode() for word in words}
    found: dict[bytes, NDArray[np.float32]] = {}
    with path.open("rb") as file:
        header = _WORD2VEC.fullmatch(file.readline(64))
        if header is None:
            raise DataError(f"{path}: must begin with the number of words and of features, got something else")
        n_words, width = int(header[1]), int(header[2])
        least, n_bytes = n_words * (4 * width + 1), os.fstat(file.fileno()).st_size - len(header[0])
        if not n_words or not width or least > n_bytes:
            got = f"{n_words} words of {width} features, which are {least} bytes or more, and {n_bytes} bytes after that"
            raise DataError(
                f"{path}: must begin with the number of words and of features that it holds, got {got}; get it again"
            )
        for number in range(n_words):
            word = b"".join(itertools.takewhile(lambda byte: byte not in (b" ", b""), iter(lambda: file.read(1), None)))
            content = file.read(4 * width)
            if len(content) < 4 * width or len(word) > _LONGEST_WORD:
                raise DataError(f"{path}: must hold {n_words} words of {width} features, got {number} whole ones; get it again")
            word = word.lstrip(b"\n")
            if wanted is None or word in wanted:
                found.setdefault(word, np.frombuffer(content, "<f4").astype(np.float32))
    if not found:
        raise DataError(f"{path}: must hold a word that is asked for, got none of {len(wanted or ())}")
    return {"words": np.array([word.decode("utf-8", "replace") for word in found]), "vectors": np.stack(list(found.values()))}


def convert(source: Path, target: Path, words_of_files: Sequence[Path] = ()) -> dict[str, Any]:
    """Write what `source` holds to a new file, .npz or .json, whole or not at all; returns what was written.

    Args:
        source: a pickle, a torch file, or a word2vec file in its binary form.
        target: a new file.
        words_of_files: of word2vec, keep the words of these captions alone: text, CSV, JSON or converted .npz files.

    Raises:
        ForbiddenError: the file names what no plain data needs.
        DataError: it is damaged, or what it holds has no place in a file of that kind.
        ValueError: a target of another kind, or words for what is no word2vec file.
        FileExistsError: the target exists.
    """
    if target.suffix not in (".npz", ".json"):
        raise ValueError(f"{target}: must end in .npz (arrays) or .json (everything else), got {target.suffix or 'neither'!r}")
    if target.exists():
        raise FileExistsError(f"{target} exists; give the new file another name")
    if not source.is_file() or not target.parent.is_dir():
        missing = f"file {source}" if not source.is_file() else f"folder {target.parent}"
        raise FileNotFoundError(f"there is no {missing}; name one that is there")
    with source.open("rb") as file:
        is_word2vec = _WORD2VEC.fullmatch(file.readline(64)) is not None
    if words_of_files and not is_word2vec:
        raise ValueError(f"words choose among those of a binary word2vec file, got {source}, which is none")
    content: Any
    if is_word2vec:
        content = read_word2vec(source, words_in(words_of_files) if words_of_files else None)
        arrays = content
    else:
        content = read_plain(source)
        arrays = tables(str(source), content) if target.suffix == ".npz" else {}
    if target.suffix == ".npz":
        _write(target, lambda file: _save_arrays(file, arrays))
        return {name: f"{values.dtype} {values.shape}" for name, values in arrays.items()}
    text = _json(source, content)
    _write(target, lambda file: file.write(text))
    return {"content": f"{type(content).__name__} of {len(content)}" if isinstance(content, dict | list) else str(content)}


def words_in(files: Sequence[Path]) -> set[str]:
    """The words of the captions in text, CSV, JSON or .npz files."""
    return {word for file in files for text in _texts(file) for word in words_of(text)}


def _texts(file: Path) -> Iterator[str]:
    with readable(file, "captions as text, CSV, JSON or .npz"):
        yield from _texts_in(file)


def _texts_in(file: Path) -> Iterator[str]:
    if file.suffix == ".npz":
        with file.open("rb") as opened:
            check_archive(opened)
        with np.load(file, allow_pickle=False) as arrays:
            for values in (arrays[name] for name in arrays):
                yield from map(str, values.ravel() if values.dtype.kind == "U" else ())
    elif file.suffix == ".json":
        todo = [json.loads(file.read_bytes())]
        while todo:
            value = todo.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict | list):
                todo += value.values() if isinstance(value, dict) else value
    else:
        yield file.read_text("utf-8-sig")


def tables(where: str, content: Any) -> dict[str, Array]:
    """Arrays of plain data, as the module's docstring says.

    Raises:
        DataError: data of another form, or with gaps.
    """
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        keys = list(content[0])
        for i, row in enumerate(content):
            if set(row) != set(keys):
                raise DataError(
                    f"{where}: every row must hold {', '.join(map(str, keys))}, got {', '.join(map(str, row))} in row {i}"
                )
        return _distinct(where, ((str(key), _stacked(where, str(key), [row[key] for row in content])) for key in keys))
    if isinstance(content, dict) and content:
        if not all(isinstance(value, dict) for value in content.values()):
            return _distinct(where, _table(where, "", content))
        return _distinct(where, (named for key, table in content.items() for named in _table(where, str(key), table)))
    wanted = "a dict of vectors, a dict of such dicts, or a list of dicts with the same keys"
    raise DataError(
        f"{where}: must be {wanted} to become arrays, got {type(content).__name__}; name a target that ends in .json"
    )


def _distinct(where: str, named: Iterable[tuple[str, Array]]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, values in named:
        if name in arrays or not name.isprintable():
            got = "two of" if name in arrays else "one of unprintable characters:"
            raise DataError(
                f"{where}: arrays must have names of their own, got {got} {name!r}; name a target that ends in .json"
            )
        arrays[name] = values
    return arrays


def _table(where: str, key: str, rows: Mapping[Any, Any]) -> Iterator[tuple[str, Array]]:
    ids = np.array(list(map(str, rows)), dtype=np.str_)
    if len(set(ids.tolist())) < len(rows):
        what = f"of {key} " if key else ""
        raise DataError(f"{where}: ids {what}must differ as text, got {len(rows)} of which {len(set(ids.tolist()))} do")
    yield ("ids" if not key else f"{key}.ids"), ids
    yield key or "values", _stacked(where, key or "values", list(rows.values()))


def _stacked(where: str, name: str, values: Sequence[Any]) -> Array:
    """(n,) or (n, d) out of n values of one shape and one kind, numbers, flags or text."""
    kinds = {kind for value in values for kind in _kinds(value)}
    if len(kinds) > 1 and kinds <= set(_KINDS.values()):
        raise DataError(f"{where}: {name} must be of one kind, got {' and '.join(sorted(kinds))}; make them alike first")
    try:
        shapes = {np.shape(value) for value in values} if kinds <= set(_KINDS.values()) else set()
    except ValueError:
        raise DataError(f"{where}: {name} must have one shape in every row, got lists in one row that are not alike") from None
    if len(shapes) > 1:
        raise DataError(
            f"{where}: {name} must have one shape in every row, got {', '.join(map(str, sorted(shapes, key=str)[:3]))}"
        )
    array = np.array(values) if values and shapes else np.empty((0, 0), dtype=np.float32)
    if not kinds <= set(_KINDS.values()) or array.dtype.kind not in _KINDS:
        raise DataError(f"{where}: {name} must be numbers or text to become an array; name a target that ends in .json")
    return array


def _kinds(value: Any) -> set[str]:
    """What a value is made of."""
    if isinstance(value, list):
        return {kind for part in value for kind in _kinds(part)}
    return {_KINDS.get(np.asarray(value).dtype.kind, "other")}


def _save_arrays(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """What NumPy's savez does, whatever the arrays are called."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def _json(source: Path, content: Any) -> bytes:
    def listed(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
            return value.tolist()
        if isinstance(value, bytes):
            return value.decode()
        raise TypeError(f"no place for {type(value).__name__}")

    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, default=listed).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{source}: must be text, numbers, lists and dicts by name to become JSON ({error})") from None


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
