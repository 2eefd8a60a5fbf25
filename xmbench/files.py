"""Files of a store, each written whole or not at all: in a folder of this machine, or under a URL that fsspec knows."""

import errno
import os
import platform
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

Write = Callable[[IO[bytes]], object]

_DAY = 86400.0
_NOT_FOR_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR}  # where they cannot be fsynced


class StoreError(OSError):
    """A store that cannot be used: full, gone, damaged as a whole, or written by a newer xmbench."""


class Files(Protocol):
    """The files of one folder."""

    def names(self) -> set[str]:
        """Names of all files and folders; empty where there is no such folder."""

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file; empty where there is no folder."""

    def open(self, name: str) -> IO[bytes]:
        """A file to read from, at any position.

        Raises:
            FileNotFoundError: there is none.
        """

    def put(self, name: str, write: Write) -> None:
        """Let `write` fill a file, which appears whole under its name, in place of an older one, or not at all."""

    def move(self, name: str, to: str) -> None:
        """Rename a file."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""


def inside(name: str) -> str:
    """The name of a file, which must not lead out of its folder: run ids may come out of files that others have written."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ValueError(f"a file of a store must lie in its folder, got {name!r:.100}")
    return name


class LocalFiles:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> set[str]:
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def sizes(self) -> dict[str, int]:
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name: size for entry in entries if (size := _size(entry)) is not None}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def open(self, name: str) -> IO[bytes]:
        return (self.folder / inside(name)).open("rb")

    def put(self, name: str, write: Write) -> None:
        atomic(self.folder / inside(name), write)

    def move(self, name: str, to: str) -> None:
        (self.folder / inside(name)).replace(self.folder / to)

    def remove(self, name: str) -> None:
        (self.folder / inside(name)).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        return (self.folder / inside(name)).exists()


class RemoteFiles:
    """A place under a URL, such as s3://bucket/sweep or memory://sweep; each file is put there in one piece."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"store {url} must be a folder or a URL that fsspec can open ({error})") from None
        self._url = url
        self._fs: Any = fs
        self._root: str = root

    def __str__(self) -> str:
        return self._url

    def names(self) -> set[str]:
        return set(self.sizes())

    def sizes(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in found if entry["type"] == "file"}

    def open(self, name: str) -> IO[bytes]:
        return BytesIO(self._fs.cat_file(f"{self._root}/{inside(name)}"))

    def put(self, name: str, write: Write) -> None:
        content = BytesIO()
        write(content)
        try:
            self._fs.makedirs(f"{self._root}/{inside(name)}".rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{inside(name)}", content.getvalue())
        except Exception as error:  # what a service's library may raise is its own
            raise OSError(f"{type(error).__name__}: {error}") from error

    def move(self, name: str, to: str) -> None:
        self._fs.mv(f"{self._root}/{inside(name)}", f"{self._root}/{to}")

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{inside(name)}")

    def has(self, name: str) -> bool:
        return bool(self._fs.exists(f"{self._root}/{inside(name)}"))


def is_url(path: str | Path) -> bool:
    """Whether a store's name is a URL and no path."""
    return "://" in str(path)


def cache_folder(url: str) -> Path:
    """The folder of this machine for checkpoints, logs and locks of a store under a URL."""
    from platformdirs import user_cache_path

    return user_cache_path("xmbench") / "stores" / sha256(url.rstrip("/").encode()).hexdigest()[:16]


def atomic(path: Path, write: Write) -> None:
    """Write a file under a temporary name, to the disk, rename it, and bring the name to the disk too."""
    temporary = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, where the file system can."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NOT_FOR_FOLDERS:
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of `atomic` whose process is gone; of another machine, those older than a day."""
    from psutil import pid_exists

    for path in folder.glob(".*.*.*.*"):
        _, machine, pid, _ = path.name.rsplit(".", 3)
        if not pid.isdecimal() or (machine == _machine() and pid_exists(int(pid))):
            continue
        with suppress(FileNotFoundError):
            if machine == _machine() or time.time() - path.stat().st_mtime > _DAY:
                path.unlink()


def _machine() -> str:
    """This machine and its space of process numbers, which containers on one machine do not share."""
    space = 0
    with suppress(OSError):
        space = Path("/proc/self/ns/pid").stat().st_ino
    return f"{platform.node().replace('.', '-')}-{space}"


def _size(entry: "os.DirEntry[str]") -> int | None:
    """Bytes of a file; None of a folder, or of what is gone by now."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except FileNotFoundError:
        return None
