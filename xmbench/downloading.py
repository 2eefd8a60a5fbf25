"""Downloading a file from the first of its addresses that gives it: resumed, compared with its sha256, never seen half.

What arrives lies in <name>.part, with its address and version in <name>.part.from, until it is whole and has the sha256 that is
known; then it gets its name. The next download goes on there by a Range request: where the sha256 is known, or the server says
that it still has the same version. pooch compares and renames; it cannot go on, hence `_Resuming`.

The sha256 of a file of which none is known is kept in the SHA256SUMS of its folder when it is first downloaded.
"""

import errno
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from xmbench.datasets._files import MissingDataError, file_sha256

if TYPE_CHECKING:
    import requests

SUMS = "SHA256SUMS"
TIMEOUT = (10.0, 30.0)  # seconds until there is a connection, and between two parts of the answer
TRIES, PAUSE = 4, 1.0  # of one address, and seconds before the second one, doubled from one to the next

_BLOCK = 1 << 14  # bytes; of a connection that breaks, less than this is lost
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_PAGE = (b"<!doctype html", b"<html")

Shown = Callable[[str, int, int | None], None]  # is told a file's name, the bytes that are there, and how many there will be


class NoSpaceError(MissingDataError):
    """A disk without room for what is to be downloaded or unpacked."""


class _NotTheFileError(OSError):
    """An answer that is not what was asked for."""


def fetch(urls: Sequence[str], path: Path, sha256: str = "", shown: Shown | None = None) -> Path:
    """`path`, downloaded from the first of `urls` that gives it where it is not there; by one process alone.

    Raises:
        NoSpaceError: the disk is full, or has no room for it.
        MissingDataError: no address gives it, or none with the sha256 that is known; or the folder cannot be written to.
    """
    shown = shown or (lambda *_: None)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(lock, lambda: shown(f"{path.name}, which another process downloads", 0, None)):
            if not path.exists():
                _fetch(urls, path, sha256 or recorded(path), shown)
                if not (sha256 or recorded(path)):
                    with (path.parent / SUMS).open("a", encoding="utf-8") as sums:
                        sums.write(f"{file_sha256(path)}  {path.name}\n")
            lock.unlink(missing_ok=True)  # who waits for it finds the file
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        advice = "set XMBENCH_DATA to a folder that can be written to"
        raise MissingDataError(f"{path.parent} cannot be written to ({error.strerror}); {advice}") from None
    return path


def recorded(path: Path) -> str:
    """The sha256 that the file had when it was first downloaded; "" where none was kept."""
    with suppress(FileNotFoundError):
        for line in (path.parent / SUMS).read_text("utf-8").splitlines():
            sha256, _, name = line.partition("  ")
            if name == path.name:
                return sha256
    return ""


def check_space(folder: Path, wanted: int, what: str) -> None:
    """Raise NoSpaceError where a folder has no room for so many bytes."""
    if wanted > (free := shutil.disk_usage(folder).free):
        got = f"{wanted / 1e9:.2f} GB are needed for {what} and {free / 1e9:.2f} GB are free"
        raise NoSpaceError(f"no space left in {folder}: {got}; make room, or set XMBENCH_DATA to another disk")


def full(error: OSError, folder: Path, what: str) -> NoSpaceError | None:
    """What an error of a full disk is called; None where it is another error."""
    return NoSpaceError(f"no space left in {folder} ({error.strerror}): {what}") if error.errno in _FULL else None


def _held(lock: Path, waiting: Callable[[], None]) -> AbstractContextManager[Any]:
    """The lock, once no other process holds it."""
    try:
        return FileLock(lock).acquire(timeout=0)
    except Timeout:
        waiting()
        return FileLock(lock).acquire()


def _fetch(urls: Sequence[str], path: Path, sha256: str, shown: Shown) -> None:
    reasons = []
    for url in urls:
        try:
            return _retrieve(url, path, sha256, shown)
        except NoSpaceError:
            raise
        except OSError as error:  # those of requests are
            if no_space := full(error, path.parent, f"what came of {path.name} is kept, make room and download it again"):
                raise no_space from None
            reasons.append(f"{url} ({_why(error)})")
        except ValueError:
            first = f" as in the first download; to take another, remove its line in {SUMS}" if sha256 == recorded(path) else ""
            reasons.append(f"{url} (its sha256 is not {sha256[:12]}...{first}; what came was removed)")
    advice = f"get it by hand and put it at {path}, or set XMBENCH_DATA to a folder that holds {path.parent.name}/{path.name}"
    where = ", nor from ".join(reasons)
    raise MissingDataError(f"{path.parent.name}: {path.name} cannot be downloaded from {where}; try again later, or {advice}")


def _retrieve(url: str, path: Path, sha256: str, shown: Shown) -> None:
    """Raise ValueError where the content has another sha256."""
    import pooch

    pooch.get_logger().setLevel("ERROR")
    get = _Resuming(path, trusted=bool(sha256), shown=shown)
    arguments: dict[str, Any] = {"fname": path.name, "path": path.parent, "known_hash": sha256 or None, "downloader": get}
    try:
        pooch.retrieve(url, **arguments)
    except ValueError:
        if not get.resumed:  # else parts of two versions may have been joined
            raise
        pooch.retrieve(url, **arguments)


class _Resuming:
    """A downloader for pooch that keeps what has arrived.

    Args:
        path: the file that is wanted.
        trusted: whether its sha256 will be compared, so that parts of any address and version may be joined.
        shown: is told how far it is.
    """

    def __init__(self, path: Path, *, trusted: bool, shown: Shown) -> None:
        self._part, self._from = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.from")
        self._name, self._trusted, self._shown = path.name, trusted, shown
        self.resumed = False

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool | None = False) -> None:
        """Download `url`, whole, to `output_file`; again where the server was busy, or the connection broke on the way."""
        import requests

        self.resumed = False
        for attempt in range(1, TRIES + 1):
            before = self._size()
            try:
                self._receive(url)
                break
            except requests.RequestException as error:
                busy = error.response is not None and error.response.status_code in _BUSY
                if attempt == TRIES or not (busy or self._size() > before):
                    raise
                time.sleep(PAUSE * 2 ** (attempt - 1))
        self._part.replace(output_file)
        self._from.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive(self, url: str) -> None:
        """Add to the part what it lacks, or write it anew where the server does not go on."""
        import requests

        version = self._version(url)
        done = self._size() if self._trusted or version else 0
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers |= {"Range": f"bytes={done}-"} | ({"If-Range": version} if version else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416 and done:  # there is nothing behind the part: it is whole, or of another file
                self.resumed = True
                if not self._trusted and response.headers.get("Content-Range") != f"bytes */{done}":
                    self._part.unlink()
                    raise _NotTheFileError("the file on the server has changed")
                return
            response.raise_for_status()
            begin = done if response.status_code == 206 else 0
            if begin and not response.headers.get("Content-Range", f"bytes {begin}-").startswith(f"bytes {begin}-"):
                raise _NotTheFileError(f"it gave {response.headers['Content-Range']} where bytes {begin}- were asked for")
            self.resumed |= begin > 0
            self._write(response, begin, url)

    def _write(self, response: "requests.Response", done: int, url: str) -> None:
        """Append the content to the first `done` bytes of the part."""
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        check_space(self._part.parent, (total or done) - done, self._name)
        blocks = response.iter_content(_BLOCK)
        first = next(blocks, b"")
        page = response.headers.get("Content-Type", "").startswith("text/html") or first.lstrip()[:14].lower().startswith(_PAGE)
        if page and not self._name.endswith("html"):
            reason = "a login, a licence to be accepted, or an address that is dead"
            raise _NotTheFileError(f"a web page came instead of the file: {reason}")
        if not done:
            self._from.write_text(f"{url}\n{_version_of(response)}\n", "utf-8")
        with self._part.open("ab" if done else "wb") as file:
            for block in itertools.chain([first], blocks):
                file.write(block)
                done += len(block)
                self._shown(self._name, done, total)

    def _version(self, url: str) -> str:
        """What the server called the version that the part is of; "" where it is of another address, or has no name."""
        with suppress(OSError, ValueError):
            of, version = self._from.read_text("utf-8").splitlines()
            return version if of == url else ""
        return ""


def _version_of(response: "requests.Response") -> str:
    """A name of the version of a file that If-Range takes, or ""."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _why(error: OSError) -> str:
    """Why there was no file, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer in {TIMEOUT[1]:g} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)
