"""Folders of imported datasets: written under a hidden name and renamed whole; checked names; removal."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from xmbench.datasets import dataset_names
from xmbench.datasets._files import file_sha256
from xmbench.datasets._imported import CARD_FILE, folders, roots
from xmbench.datasets._twins import PREFIX
from xmbench.files import sync_folder
from xmbench.registry import method_names
from xmbench.types import Array

HIDDEN = ".importing"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_name(name: str) -> None:
    """Raise where a dataset cannot be called so.

    Raises:
        ValueError: no name of small letters, digits and underscores, or one that is taken.
    """
    if not _NAME.fullmatch(name) or name.startswith(PREFIX):
        wanted = f"small letters, digits and underscores, a letter first, and not begin with {PREFIX}"
        raise ValueError(f"a dataset's name must be {wanted}, got {name!r:.80}")
    if name in folders():
        raise ValueError(
            f"{name!r} is imported already, in {folders()[name]}; give another name, or first: xmbench data remove {name}"
        )
    if name in dataset_names() or name in method_names() or name == "noise":
        kind = "dataset" if name in dataset_names() else "method" if name in method_names() else "part of a run"
        raise ValueError(f"{name!r} is the name of a {kind} already; give the dataset another one")
    if (roots()[0] / name).exists():
        raise ValueError(f"{roots()[0] / name} exists and is no imported dataset; give the dataset another name")


@contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """A hidden folder that becomes the dataset's when the block ends well, and is removed when it does not.

    What interrupted imports have left is removed first.

    Raises:
        ValueError: the name cannot be had, or another import of it is under way.
        OSError: the data root cannot be written to, or is full.
    """
    root = roots()[0]
    hidden = root / HIDDEN
    with _told(root):
        hidden.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(hidden)
        try:
            lock = FileLock(hidden / f"{name}.lock").acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another import of {name!r} is under way; wait for it, or give another name") from None
        with lock:
            check_name(name)
            folder = hidden / name
            folder.mkdir()
            try:
                yield folder
                for path in folder.iterdir():
                    sync(path)
                sync_folder(folder)
                folder.rename(root / name)
                sync_folder(root)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise


@contextmanager
def _told(root: Path) -> Iterator[None]:
    """What a full or read-only data root is called in an error."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(root).free
            raise OSError(
                f"no space left for the import in {root} ({free / 1e9:.1f} GB free); nothing of it was kept"
            ) from None
        if error.errno in _CLOSED and (str(error.filename).startswith(str(root)) or Path(str(error.filename)) in root.parents):
            raise OSError(f"{root} cannot be written to ({error.strerror}); set XMBENCH_DATA to a folder that can") from None
        raise


def _remove_leftovers(hidden: Path) -> None:
    """Remove the folders of imports that are not under way any more."""
    for folder in hidden.iterdir():
        if folder.is_dir():
            try:
                with FileLock(hidden / f"{folder.name}.lock").acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            except Timeout:
                continue


def sync(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_array(path: Path, blocks: Iterable[Array], dtype: Any, row: tuple[int, ...]) -> int:
    """Write blocks of rows one after the other into a .npy file, none of them kept; returns the number of rows.

    The head of such a file has room for any number of rows, so that it is written last.
    """
    n = 0
    with path.open("wb") as file:
        _write_head(file, dtype, (0, *row))
        for block in blocks:
            values = np.ascontiguousarray(block, dtype=dtype)
            file.write(values.data)
            n += len(values)
        file.seek(0)
        _write_head(file, dtype, (n, *row))
    return n


def _write_head(file: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def save(path: Path, values: Array) -> None:
    """Write an array that is in memory."""
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> bytes and sha256 of the files in a folder."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != CARD_FILE
    }


def toml(content: Mapping[str, Any], prefix: str = "") -> str:
    """Plain data as TOML: values first, then tables."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in content.items() if not isinstance(value, Mapping)]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in content.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{_key(key)}"
            text += f"\n[{name}]\n{toml(value, f'{name}.')}"
    return text


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value).replace("\x7f", "\\u007f")


def remove(name: str) -> Path:
    """Remove an imported dataset; what it was imported from stays. Returns the folder that was removed.

    Raises:
        LookupError: no dataset of that name was imported.
    """
    found = folders()
    if name not in found:
        raise LookupError(f"no imported dataset named {name!r}; imported: {', '.join(found) or 'none'}")
    gone = found[name].parent / HIDDEN / f"{name}.removed.{os.getpid()}"
    gone.parent.mkdir(exist_ok=True)
    found[name].rename(gone)  # at once, so that no half of it is ever seen; the next import removes what is left
    shutil.rmtree(gone)
    return found[name]
