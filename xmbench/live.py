"""What a sweep does right now, for itself and for others to see: claims on fits, their state, and the word to stop.

Files beside the results, in folders of the store: `running/<fit key>.lock` and `.json` of a fit that runs, `sweeps/<id>.json`
of a sweep, with `sweeps/<id>.lock` held while it lives and `sweeps/<id>.drain` or `.stop` once it is to end. A lock dies
with its holder, so what a killed process leaves behind is known for what it is, whatever the clock says.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

Word = Literal["go", "drain", "stop"]


class Claimed(Exception):
    """Another process works on it."""


@contextmanager
def claim(folder: Path, name: str) -> Iterator[None]:
    """Hold `name` as this process's own; its lock, its state, and what a dead holder had begun to write go at the end.

    Raises:
        Claimed: another process holds it.
    """
    lock = FileLock(folder / f"{name}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Claimed(name) from None
    try:
        yield
    finally:
        with suppress(OSError):
            for path in (folder / f"{name}.json", *folder.glob(f".{escape(name)}.*"), Path(lock.lock_file)):
                path.unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path, name: str) -> bool:
    """Whether a living process holds `name`; to look needs no right to write, and is not seen by others who look."""
    path = folder / f"{name}.lock"
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # a system or a disk with other locks
        pass
    try:
        with FileLock(path, thread_local=False).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to: nobody can hold anything there
        return False


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> None:
    """Say what is being done; a disk that does not take it stops nothing."""
    temporary = folder / f".{name}.{socket.gethostname()}-{os.getpid()}"
    try:
        temporary.write_text(json.dumps(state), "utf-8")
        temporary.replace(folder / f"{name}.json")
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_states(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> what was last said of it, a number that is not finite as None; a file that is damaged is left out."""
    states = {}
    for path in sorted(folder.glob("[!.]*.json")):
        with suppress(OSError, ValueError):
            state = json.loads(path.read_text("utf-8"), parse_constant=lambda name: None)
            if isinstance(state, dict):
                states[path.stem] = state
    return states


def are_left(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of `names`, whose states were read, that killed processes have left: still there, and held by nobody."""
    return [name for name in names if not is_held(folder, name) and (folder / f"{name}.json").exists()]


def remove_dead(folder: Path) -> None:
    """Remove what killed processes have left: their locks and states, and the words to them."""
    for name in {path.stem for path in folder.glob("[!.]*")}:
        with suppress(Claimed, OSError), claim(folder, name):
            forget(folder, name)


def say(folder: Path, sweep: str, word: Literal["drain", "stop"]) -> None:
    """Tell all processes of a sweep to end what runs and begin nothing (drain), or to stop at once."""
    with suppress(OSError):
        (folder / f"{sweep}.{word}").touch()


def heard(folder: Path, sweep: str) -> Word:
    """The last word to the processes of a sweep."""
    if (folder / f"{sweep}.stop").exists():
        return "stop"
    return "drain" if (folder / f"{sweep}.drain").exists() else "go"


def forget(folder: Path, sweep: str) -> None:
    """Remove the words to a sweep that has ended; what it did stays to be read."""
    for word in ("drain", "stop"):
        with suppress(OSError):
            (folder / f"{sweep}.{word}").unlink(missing_ok=True)


def say_whose_log(log: Path, run_id: str) -> None:
    """Write into the log of a run that another one, of the same fit, tells of it."""
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"one fit with run {run_id}, whose log tells of it\n")


def whose_log(log: Path) -> str | None:
    """The run whose log tells of this log's run, if that is another one, by the last line."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200))
        match = re.search(rb"^one fit with run (\w+), whose log tells of it\n\Z", file.read(), re.MULTILINE)
        return match[1].decode() if match else None
    return None
