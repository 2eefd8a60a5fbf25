"""Plain data out of pickles and torch files, of which nothing is executed.

A pickle is a program. This reader knows plain data alone: dicts, lists, tuples, text, bytes, numbers, NumPy arrays of numbers
or text, tensors, and objects called Vocabulary, which become the dict of their attributes. Whatever else a file names is
refused before anything of it is called. Arrays and tensors are put together here, out of their bytes, shapes and types:
neither NumPy's own reconstruction nor torch's sees anything that a file says.

A pickle can name a list twice in two bytes, and a tensor can show one number a billion times. Written out, a small file would
fill every disk; so what a file unfolds to is counted, and held to a multiple of its size.

Layouts were checked against Python's pickle and torch's serialization, both its formats.
"""

import io
import math
import os
import pickle
import re
import resource
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xmbench.datasets._files import check_text
from xmbench.types import Array, DataError

_TYPES = re.compile(r"[<>=|]?([biufc]\d+|\?|[SU]\d+)")  # of arrays whose bytes are plain values
_OBJECTS = re.compile(r"[|]?O\d*")
_STORAGES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first in torch's old format
_FREE, _PER_BYTE = 10_000_000, 30  # values and characters that any file may unfold to, and more of them per byte of it
_FREE_MEMORY, _MEMORY_PER_BYTE = 1 << 29, 200  # bytes that reading any file may take, and more of them per byte of it
_DEEPEST = 64  # axes of a tensor


class ForbiddenError(DataError):
    """A pickle names what no plain data needs."""


class Budget:
    """Counts what a file unfolds to.

    Args:
        n_bytes: size of the file.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes, self.spent = n_bytes, 0

    def spend(self, n: int) -> None:
        """Count n values or characters more.

        Raises:
            DataError: more than a file of this size may have.
        """
        self.spent += n
        if self.spent > _FREE + _PER_BYTE * self._n_bytes:
            most = f"{_FREE + _PER_BYTE * self._n_bytes:,} values and characters"
            raise DataError(
                f"{self._n_bytes:,} bytes must hold at most {most}, got more: parts of the file stand for others time and again"
            )


@dataclass
class _Type:
    """A NumPy type in the making."""

    name: str
    order: str = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not isinstance(self.name, str) or not _TYPES.fullmatch(self.name) or self.order not in ("<", ">", "=", "|"):
            got = repr(self.name) if isinstance(self.name, str) else type(self.name).__name__
            raise ForbiddenError(f"arrays must be of numbers or text, got type {got}")
        return np.dtype(self.name).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


@dataclass
class _Made:
    """An array in the making: `value` is there when all of the file is read."""

    budget: Budget
    value: Any = NotImplemented

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, columns_first, content = state[-5:]
        if _OBJECTS.fullmatch(kind.name):
            if len(shape) != 1 or not isinstance(content, list):
                raise ForbiddenError(f"arrays of objects must have one axis, got {len(shape)}")
            self.value = content
        else:
            self.value = _values(content, kind, self.budget).reshape(shape, order="F" if columns_first else "C")


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

    def array(self, budget: Budget) -> Array:
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
        budget.spend(math.prod(self.shape))
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


def _encoded(text: Any, budget: Budget) -> bytes:
    budget.spend(len(text))
    return text.encode("latin1") if isinstance(text, str) else bytes(memoryview(text))


def _values(content: Any, kind: Any, budget: Budget) -> Array:
    """Bytes (of Python 2: text) as the values of a type; a view of bytes."""
    values = np.frombuffer(_encoded(content, budget) if isinstance(content, str) else content, kind.dtype())
    if values.dtype.kind == "U":
        check_text(values.view("u4"), values.dtype.byteorder)
    return values


def _tensor(storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> _Tensor:
    if len(shape) > _DEEPEST:
        raise DataError(f"tensors must have at most {_DEEPEST} axes, got {len(shape)}")
    return _Tensor(storage, int(offset), [int(n) for n in shape], [int(step) for step in strides])


def _functions(state: type[_State], budget: Budget) -> dict[str, Any]:
    """What a file may name, made anew for every file: a pickle can set attributes of what it is given."""

    def encoded(text: Any = b"", encoding: str = "latin1") -> bytes:
        """What `codecs.encode` and `bytes` make of text and bytes."""
        return _encoded(text, budget)

    def dictionary(pairs: Any = ()) -> dict[Any, Any]:
        budget.spend(len(pairs))
        return dict(pairs)

    return {
        "numpy.core.multiarray._reconstruct": _Call(lambda *_: _Made(budget)),
        "numpy.core.multiarray.scalar": _Call(lambda kind, content: _values(content, kind, budget)[0].item()),
        "numpy.core.numeric._frombuffer": _Call(
            lambda content, kind, shape, order: _Made(budget, _values(content, kind, budget).reshape(shape, order=order))
        ),
        "numpy.ndarray": "ndarray",
        "numpy.dtype": _Call(lambda name, *_: _Type(name)),
        "_codecs.encode": _Call(encoded),
        "builtins.bytes": _Call(encoded),
        "builtins.bytearray": _Call(encoded),
        "builtins.object": "object",
        "copyreg._reconstructor": _Call(lambda cls, *_: state() if cls is state else NotImplemented),
        "collections.OrderedDict": _Call(dictionary),
        "torch._utils._rebuild_tensor": _Call(_tensor),
        "torch._utils._rebuild_tensor_v2": _Call(_tensor),
        "torch._utils._rebuild_parameter": _Call(lambda tensor, *_: tensor),
        **{f"torch.{name}": name for name in _STORAGES},
    }


class _Unpickler(pickle.Unpickler):
    """Plain data out of a pickle of any protocol, of Python 2 too."""

    def __init__(self, file: BinaryIO, budget: Budget, storages: "dict[str, _Storage] | None" = None) -> None:
        super().__init__(file, encoding="latin1")
        self._storages = storages
        self._state = type("State", (_State,), {})
        self._functions = _functions(self._state, budget)

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
        known = isinstance(pid, tuple) and len(pid) >= 5 and all(isinstance(part, str) for part in pid[:3])
        if self._storages is None or not known or pid[0] != "storage":
            got = repr(pid) if isinstance(pid, str) else type(pid).__name__
            raise ForbiddenError(f"only plain data is read, got a reference to {got}")
        if len(pid) > 5 and pid[5] is not None:
            raise DataError("storages that are views of others are not read; save the file again with torch.save")
        if pid[1] not in _STORAGES:
            raise ForbiddenError(f"tensors must be of plain numbers, got a storage of {pid[1]!r}")
        return self._storages.setdefault(pid[2], _Storage(np.dtype(_STORAGES[pid[1]]).newbyteorder("<")))


@contextmanager
def _limited_memory(n_bytes: int) -> Iterator[None]:
    """At most so much memory more, for a file of so many bytes: a pickle can ask for a table of any length in five of them."""
    import psutil

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + _FREE_MEMORY + _MEMORY_PER_BYTE * n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def read_plain(path: Path) -> Any:
    """What a pickle or torch file holds: dicts, lists, text, numbers and arrays; a part that stands there twice is one object.

    Raises:
        ForbiddenError: the file names anything else. Nothing of it was executed.
        DataError: the file is damaged, or neither, or unfolds to far more than its size.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            budget = Budget(size)
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            with _limited_memory(size):
                return Plain(budget)(_torch_zip(file, budget) if zipped else _pickled(file, budget))
    except DataError as error:
        raise type(error)(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: must be nested less deeply than it is") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ArithmeticError, AttributeError, ImportError,
            LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        raise DataError(f"{path}: must be a whole pickle, torch or word2vec file ({error!r:.200}); get it again") from None


def _pickled(file: BinaryIO, budget: Budget) -> Any:
    """The content of a pickle, or of a torch file in the old format: a magic number, two headers, the content, storages."""
    content = _Unpickler(file, budget).load()
    if not isinstance(content, int) or content != _LEGACY_MAGIC:
        return content
    for _ in range(2):  # protocol, and what the machine was like
        _Unpickler(file, budget).load()
    storages: dict[str, _Storage] = {}
    content = _Unpickler(file, budget, storages).load()
    for key in _Unpickler(file, budget).load():
        storage, size = storages[key], int.from_bytes(file.read(8), "little")
        n_bytes = size * storage.dtype.itemsize
        if n_bytes > os.fstat(file.fileno()).st_size - file.tell():
            raise EOFError(f"a storage of {size} numbers is not all there")
        storage.numbers = np.frombuffer(file.read(n_bytes), storage.dtype, size)
    return content


def _torch_zip(file: BinaryIO, budget: Budget) -> Any:
    """The content of a torch file: a zip archive of `data.pkl` and one file per storage, none of them compressed."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise DataError(
                    f"a torch file must be stored as torch.save does it, got {info.filename!r:.200} compressed or encrypted"
                )
        name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if name is None:
            raise DataError("a torch file must hold data.pkl, got another zip archive")
        folder = name.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
        storages: dict[str, _Storage] = {}
        content = _Unpickler(io.BytesIO(archive.read(name)), budget, storages).load()
        for key, storage in storages.items():
            dtype = storage.dtype.newbyteorder("<" if order == b"little" else ">")
            budget.spend(archive.getinfo(f"{folder}data/{key}").file_size // dtype.itemsize)
            storage.numbers = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
        return content


class Plain:
    """Makes the content of a file plain: arrays finished, attributes as dicts, what stands there twice the same object twice.

    Args:
        budget: what the content may count when it is written out, with every part as often as it is named.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._made: dict[int, tuple[Any, int] | None] = {}  # id -> value and its count, None while it is made

    def __call__(self, content: Any) -> Any:
        """The plain content.

        Raises:
            ForbiddenError: there is something else in it.
            DataError: it holds itself, or is too much.
        """
        if content is None or isinstance(content, bool | int | float | str | bytes):
            self._budget.spend(1 + len(content) if isinstance(content, str | bytes) else 1)
            return content
        key = id(content)  # all of the content is alive until the end
        if key in self._made:
            known = self._made[key]
            if known is None:
                raise DataError("what is nested must end somewhere, got a part that holds itself")
            self._budget.spend(known[1])
            return known[0]
        self._made[key], before = None, self._budget.spent
        value = self._finished(content)
        self._made[key] = value, self._budget.spent - before
        return value

    def _finished(self, content: Any) -> Any:
        self._budget.spend(1)
        if isinstance(content, bytearray):
            return self(bytes(content))
        if isinstance(content, dict):
            return self._dictionary(content)
        if isinstance(content, list | tuple):
            return [self(value) for value in content]
        if isinstance(content, np.ndarray):
            self._budget.spend(math.prod(max(n, 1) for n in content.shape))
            return content
        if isinstance(content, _Made):
            return self(content.value)
        if isinstance(content, _Tensor):
            return self._finished(content.array(self._budget))
        if isinstance(content, _State):
            return self._dictionary(vars(content))
        raise ForbiddenError(f"only plain data is read, got {type(content).__name__}")

    def _dictionary(self, content: Mapping[Any, Any]) -> dict[Any, Any]:
        for key in content:
            if not isinstance(key, str | int | float):
                raise DataError(f"keys of dicts must be text or numbers, got one of type {type(key).__name__}")
            self._budget.spend(len(key) if isinstance(key, str) else 1)
        return {key: self(value) for key, value in content.items()}
