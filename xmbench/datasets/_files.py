"""Finding and checking the files of datasets, and opening archives of arrays that may be hostile."""

import hashlib
import math
import os
import pickletools
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from xmbench.cards import Card
from xmbench.types import Array, DataError

_FREE, _PER_BYTE = 1 << 26, 200  # bytes that any file may unfold to, and more of them per byte of it
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class MissingDataError(FileNotFoundError):
    """A dataset's file is not there, or is not the file that it should be. One line: what, and how to get it."""


def data_root() -> Path | None:
    """The folder that XMBENCH_DATA names, or None."""
    value = os.environ.get("XMBENCH_DATA")
    return Path(value).expanduser() if value else None


def cache_root() -> Path:
    """The user's cache folder for downloaded data."""
    from platformdirs import user_cache_path

    return user_cache_path("xmbench")


def find_file(card: Card, name: str) -> Path:
    """Path of the file `name` of a dataset: from XMBENCH_DATA, the cache, or downloaded into the cache.

    Where the card knows its sha256, it is checked once per process.

    Raises:
        MissingDataError: not found and not downloadable, or with another content than the card says.
    """
    path = on_disk(card, name) or _downloaded(card, name)
    return _verified(path, card.sha256.get(name))


def _downloaded(card: Card, name: str) -> Path:
    """A file that has an address of its own; archives are left to `xmbench data download`."""
    from xmbench.downloading import fetch

    parcel = card.parcel_of(name)
    place = f"{card.place}/{name}"
    if parcel is None or not parcel.urls:
        wanted = f"set XMBENCH_DATA to a folder that holds {place}; how to get it: {parcel.note if parcel else card.source}"
        raise MissingDataError(f"{card.name}: file {name} is missing and has no public download; {wanted}")
    if parcel.members:
        how = f"`xmbench data download {card.name}` gets it, or set XMBENCH_DATA to a folder that holds {place}"
        source = "; then ".join((" or ".join(parcel.urls), *parcel.then))
        raise MissingDataError(f"{card.name}: file {name} is missing and {how}; where it is from: {source}")
    return fetch(parcel.urls, cache_root() / place, parcel.files[name])


def find_optional(card: Card, name: str) -> Path | None:
    """Path of a file that a dataset can do without, or None where it is not on disk."""
    path = on_disk(card, name)
    return None if path is None else _verified(path, card.sha256.get(name))


def is_ready(card: Card) -> bool:
    """Whether the files of a dataset that are needed by default lie on disk."""
    return all(on_disk(card, name) is not None for name in card.files)


def on_disk(card: Card, name: str) -> Path | None:
    """Where the file lies: under XMBENCH_DATA, else in the cache; None where it does not."""
    paths = [root / card.place / name for root in (data_root(), cache_root()) if root is not None]
    return next((path for path in paths if path.exists()), None)


_VERIFIED: set[tuple[str, str, int]] = set()


def _verified(path: Path, sha256: str | None) -> Path:
    if sha256 is None:
        return path
    key = (str(path), sha256, path.stat().st_mtime_ns)
    if key not in _VERIFIED:
        got = file_sha256(path)
        if got != sha256:
            raise MissingDataError(
                f"{path} is damaged or of another version: sha256 must be {sha256[:12]}..., got {got[:12]}...; replace it"
            )
        _VERIFIED.add(key)
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_pickle(content: bytes) -> bool:
    """Whether `content` is a pickle, of any protocol; it is not opened."""
    if content[:1] == b"\x80":
        return True
    try:
        return any(code.name == "STOP" for code, *_ in pickletools.genops(content))
    except ValueError:
        return False


@contextmanager
def readable(path: Path, wanted: str, advice: str = "get it again") -> Iterator[None]:
    """A DataError out of whatever a library raises inside: for damaged files these are of many kinds, with one remedy."""
    try:
        yield
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:
        reason = str(error) if " " in str(error) else repr(error)
        raise DataError(f"{path}: must be {wanted} ({reason:.300}); {advice}") from None


def unfolded_limit(size: int) -> int:
    """How many bytes a file of `size` bytes may say that it unfolds to."""
    return _FREE + _PER_BYTE * size


def check_unfolded(size: int, n_bytes: int) -> None:
    """Raise ValueError where a file of `size` bytes says that it unfolds to far more, or to more than memory holds."""
    import psutil

    most = min(unfolded_limit(size), max(size, psutil.virtual_memory().available))
    if n_bytes > most:
        raise ValueError(f"{size:,} bytes must unfold to at most {most:,} here, got {n_bytes:,}")


def check_npy(file: IO[bytes], n_bytes: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read a .npy file of `n_bytes` as far as needed; raise an error where it promises more than there is, or no plain values.

    Returns:
        Shape, whether columns stand one after the other, and type; of numbers, `file` then stands at the first of them.

    Raises:
        ValueError: it holds objects, or more than its bytes, or text that is none; NumPy raises other kinds for headers.
    """
    if (version := np.lib.format.read_magic(file)) not in _HEADERS:
        raise ValueError(f"its version must be 1.0 or 2.0, got {version}")
    shape, by_column, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be read without a pickle")
    if dtype.kind not in "?biufcSU":
        raise ValueError(f"arrays must be of numbers or text, got {dtype}")
    promised, there = math.prod(shape) * dtype.itemsize, n_bytes - file.tell()
    if any(type(n) is not int or n < 0 for n in shape) or promised > there:
        raise ValueError(f"{dtype} {shape} takes {promised:,} bytes, of which {there:,} are there")
    if dtype.kind == "U":
        check_text(np.frombuffer(file.read(promised), "u4"), dtype.byteorder)
    return shape, by_column, dtype


def check_text(codes: Array, order: str) -> None:
    """Raise ValueError where the numbers (n,) behind a text array are no characters: Python fails on them much later."""
    if codes.view(codes.dtype.newbyteorder(order)).max(initial=0) > sys.maxunicode:  # type: ignore[arg-type]
        raise ValueError("its text has characters that Unicode has not")


def check_archive(file: IO[bytes]) -> None:
    """Raise an error, of any kind, where an .npz file is damaged, holds anything but arrays, or unfolds to far too much."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_unfolded(size, sum(member.file_size for member in members))
        for member in members:
            try:
                with archive.open(member) as content:
                    check_npy(content, member.file_size)
            except Exception as error:
                raise ValueError(f"{member.filename}: {error}") from None
    file.seek(0)


@contextmanager
def open_npz(path: Path, advice: str = "get it again") -> Iterator[Mapping[str, Array]]:
    """The arrays of an .npz file by name, read when they are asked for.

    Raises:
        DataError: the file is damaged, holds anything but plain arrays, or unfolds to far more than its size.
    """
    with readable(path, "a whole .npz file of arrays", advice), path.open("rb") as file:
        check_archive(file)
        with np.load(file, allow_pickle=False) as content:
            yield content
