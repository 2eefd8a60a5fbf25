"""Released pickles, torch and word2vec files, read once and written as .npz or JSON. Nothing in them is executed.

A pickle is a program. This reader knows plain data alone: dicts, lists, tuples, text, bytes, numbers, NumPy arrays of numbers
or text, tensors, and objects called Vocabulary, which become the dict of their attributes. Whatever else a file names is
refused before anything of it is called. Arrays and tensors are put together here, out of their bytes, shapes and types:
neither NumPy's own reconstruction nor torch's sees anything that a file says.

What becomes of the content in an .npz file (in JSON, it is kept as it is, arrays as lists):

    {name: vector, ...}             `ids` (n,) and `values` (n, d)
    {key: {name: vector, ...}}      `<key>.ids` (n,) and `<key>` (n, d), for every key
    [{key: value, ...}, ...]        `<key>` (n,) or (n, d), for every key
    word2vec                        `words` (V,) and `vectors` (V, d)

Layouts were checked against Python's pickle, torch's serialization (both its formats) and gensim's load_word2vec_format.
"""

import io
import itertools
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._video import words_of
from xmbench.types import Array, DataError

_TYPES = re.compile(r"[<>=|]?([biufc]\d+|\?|[SU]\d+)")  # of arrays whose bytes are plain values
_OBJECTS = re.compile(r"[|]?O\d*")
_STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first in torch's old format
_WORD2VEC = re.compile(rb"(\d+) (\d+)\r?\n")
_LONGEST_WORD = 1 << 16  # bytes


class ForbiddenError(DataError):
    """A pickle names what no plain data needs."""


@dataclass
class _Type:
    """A NumPy type in the making."""

    name: str
    order: str = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype[Any]:
        if not _TYPES.fullmatch(self.name) or self.order not in "<>=|":
            raise ForbiddenError(f"arrays must be of numbers or text, got type {self.name!r}")
        return np.dtype(self.name).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


@dataclass
class _Made:
    """An array or number in the making: `value` is there when all of the file is read."""

    value: Any = NotImplemented

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, columns_first, content = state[-5:]
        if _OBJECTS.fullmatch(kind.name):
            if len(shape) != 1 or not isinstance(content, list):
                raise ForbiddenError(f"arrays of objects must have one axis, got shape {shape}")
            self.value = content
        else:
            self.value = _values(content, kind).reshape(shape, order="F" if columns_first else "C")


@dataclass
class _Storage:
    """The numbers that tensors are views of."""

    dtype: np.dtype[Any]
    numbers: Array | None = None


@dataclass
class _Tensor:
    """A view of a storage, which may be read later."""

    storage: _Storage
    offset: int
    shape: Sequence[int]
    strides: Sequence[int]

    def array(self) -> Array:
        numbers = self.storage.numbers
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if (
            numbers is None
            or min(self.offset, *self.shape, *self.strides, 0) < 0
            or (0 not in self.shape and last >= len(numbers))
        ):
            raise DataError(f"a tensor of shape {tuple(self.shape)} must lie inside its storage, got one that does not")
        if 0 in self.shape:
            return np.empty(tuple(self.shape), self.storage.dtype)
        steps = [step * numbers.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], tuple(self.shape), steps).copy()


class _State:
    """An object's attributes."""


@dataclass
class _Call:
    """A function that a pickle may call."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _values(content: Any, kind: Any) -> Array:
    """Bytes (of Python 2: text) as the values of a type."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(raw, kind.dtype()).copy()


def _bytes(text: Any = b"", encoding: str = "latin1") -> bytes:
    """What `codecs.encode` and `bytes` make of text and bytes."""
    return text.encode("latin1") if isinstance(text, str) else bytes(memoryview(text))


def _tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), [int(n) for n in shape], [int(step) for step in strides])


def _functions(state: type[_State]) -> dict[str, Any]:
    """What a file may name, made anew for every file: a pickle can set attributes of what it is given."""
    return {
        "numpy.core.multiarray._reconstruct": _Call(lambda *_: _Made()),
        "numpy.core.multiarray.scalar": _Call(lambda kind, content: _values(content, kind)[0].item()),
        "numpy.core.numeric._frombuffer": _Call(
            lambda content, kind, shape, order: _Made(_values(content, kind).reshape(shape, order=order))
        ),
        "numpy.ndarray": "ndarray",
        "numpy.dtype": _Call(lambda name, *_: _Type(str(name))),
        "_codecs.encode": _Call(_bytes),
        "builtins.bytes": _Call(_bytes),
        "builtins.bytearray": _Call(_bytes),
        "builtins.object": "object",
        "copyreg._reconstructor": _Call(lambda cls, *_: state() if cls is state else NotImplemented),
        "collections.OrderedDict": _Call(lambda pairs=(): dict(pairs)),
        "torch._utils._rebuild_tensor": _Call(_tensor),
        "torch._utils._rebuild_tensor_v2": _Call(_tensor),
        "torch._utils._rebuild_parameter": _Call(lambda tensor, *_: tensor),
        **{f"torch.{name}": name for name in _STORAGES},
    }


class _Unpickler(pickle.Unpickler):
    """Plain data out of a pickle of any protocol, of Python 2 too."""

    def __init__(self, file: BinaryIO, storages: "dict[str, _Storage] | None" = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storages = storages
        self._state = type("State", (_State,), {})
        self._functions = _functions(self._state)

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if name == "Vocabulary":
            return self._state
        if full not in self._functions:
            raise ForbiddenError(
                f"only plain data is read, got a pickle that names {module}.{name}; nothing of it was executed"
            )
        return self._functions[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor is a view of: ("storage", type, key, place, size, and in the old format a view)."""
        if self._storages is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ForbiddenError(f"only plain data is read, got a reference to {pid!r}")
        if len(pid) > 5 and pid[5] is not None:
            raise DataError("storages that are views of others are not read; save the file again with torch.save")
        if pid[1] not in _STORAGES:
            raise ForbiddenError(f"tensors must be of plain numbers, got a storage of {pid[1]!r}")
        return self._storages.setdefault(str(pid[2]), _Storage(np.dtype(_STORAGES[pid[1]]).newbyteorder("<")))


def read_plain(path: Path) -> Any:
    """What a pickle or torch file holds: dicts, lists, text, numbers and arrays.

    Raises:
        ForbiddenError: the file names anything else. Nothing of it was executed.
        DataError: the file is damaged, or neither.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return plain(_torch_zip(file) if zipped else _pickled(file))
    except DataError as error:
        raise type(error)(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: must be nested less deeply than it is") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ArithmeticError, AttributeError, ImportError, LookupError,
            MemoryError, TypeError, ValueError) as error:  # fmt: skip
        raise DataError(f"{path}: must be a whole pickle, torch or word2vec file ({error!r}); get it again") from None


def _pickled(file: BinaryIO) -> Any:
    """The content of a pickle, or of a torch file in the old format: a magic number, two headers, the content, storages."""
    content = _Unpickler(file).load()
    if not isinstance(content, int) or content != _LEGACY_MAGIC:
        return content
    for _ in range(2):  # protocol, and what the machine was like
        _Unpickler(file).load()
    storages: dict[str, _Storage] = {}
    content = _Unpickler(file, storages).load()
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), "little")
        storage = storages[str(key)]
        storage.numbers = np.frombuffer(file.read(size * storage.dtype.itemsize), storage.dtype, size)
    return content


def _torch_zip(file: BinaryIO) -> Any:
    """The content of a torch file: a zip archive of `data.pkl` and one file per storage."""
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if name is None:
            raise DataError("a torch file must hold data.pkl, got another zip archive")
        folder = name.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
        storages: dict[str, _Storage] = {}
        content = _Unpickler(io.BytesIO(archive.read(name)), storages).load()
        for key, storage in storages.items():
            dtype = storage.dtype.newbyteorder("<" if order == b"little" else ">")
            storage.numbers = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
        return content


def plain(content: Any) -> Any:
    """The content of a file with finished arrays, and attributes as dicts.

    Raises:
        ForbiddenError: there is something else in it.
    """
    if content is None or isinstance(content, bool | int | float | str | bytes):
        return content
    if isinstance(content, bytearray):
        return bytes(content)
    if isinstance(content, dict):
        return {plain(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, np.ndarray):
        return content
    if isinstance(content, _Made):
        return plain(content.value)
    if isinstance(content, _Tensor):
        return content.array()
    if isinstance(content, _State):
        return plain(vars(content))
    raise ForbiddenError(f"only plain data is read, got {type(content).__name__}")


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
        _write(target, lambda file: np.savez(file, **arrays))
        return {name: f"{values.dtype} {values.shape}" for name, values in arrays.items()}
    text = _json(source, content)
    _write(target, lambda file: file.write(text))
    return {"content": f"{type(content).__name__} of {len(content)}" if isinstance(content, dict | list) else str(content)}


def words_in(files: Sequence[Path]) -> set[str]:
    """The words of the captions in text, CSV, JSON or .npz files."""
    return {word for file in files for text in _texts(file) for word in words_of(text)}


def _texts(file: Path) -> Iterator[str]:
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            yield from (str(text) for name in arrays if arrays[name].dtype.kind == "U" for text in arrays[name].ravel())
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
        return {str(key): _stacked(where, str(key), [row[key] for row in content]) for key in keys}
    if isinstance(content, dict) and content:
        if not all(isinstance(value, dict) for value in content.values()):
            return _table(where, "", content)
        return {name: values for key, table in content.items() for name, values in _table(where, str(key), table).items()}
    wanted = "a dict of vectors, a dict of such dicts, or a list of dicts with the same keys"
    raise DataError(
        f"{where}: must be {wanted} to become arrays, got {type(content).__name__}; name a target that ends in .json"
    )


def _table(where: str, key: str, rows: Mapping[Any, Any]) -> dict[str, Array]:
    names = ("ids", "values") if not key else (f"{key}.ids", key)
    return {
        names[0]: np.array(list(map(str, rows)), dtype=np.str_),
        names[1]: _stacked(where, key or "values", list(rows.values())),
    }


def _stacked(where: str, name: str, values: Sequence[Any]) -> Array:
    """(n,) or (n, d) out of n values of one shape, numbers or text."""
    shapes = {np.shape(value) for value in values if not isinstance(value, dict)}
    if len(shapes) > 1:
        raise DataError(
            f"{where}: {name} must have one shape in every row, got {', '.join(map(str, sorted(shapes, key=str)[:3]))}"
        )
    array = np.array(values) if values else np.empty((0, 0), dtype=np.float32)
    if array.dtype.kind not in "biufU":
        raise DataError(f"{where}: {name} must be numbers or text to become an array; name a target that ends in .json")
    return array


def _json(source: Path, content: Any) -> bytes:
    def listed(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
            return value.tolist()
        if isinstance(value, bytes):
            return value.decode()
        raise TypeError(f"no place for {type(value).__name__}")

    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, default=listed).encode()
    except (TypeError, ValueError) as error:
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
