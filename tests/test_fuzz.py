"""Every reader of what comes from outside, on damaged and hostile input: a result or an error for people, nothing else.

XMBENCH_FUZZ is the number of inputs for all readers together, and prints what became of them; without it a few are tried.
"""

import contextlib
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from fuzz_readers import READERS
from hypothesis import HealthCheck, Phase, given, settings

from xmbench.datasets import dataset_card

INPUTS = int(os.environ.get("XMBENCH_FUZZ", "0"))
SHARES = 17  # of all readers together, about
SECONDS, MEMORY = 20, 1 << 30  # of CPU time that one input may take; bytes by which all inputs of a reader may raise the peak
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"}
RUNS = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess.", "pty.", "ctypes.", "socket.")
CODE = tuple(str(Path(path).resolve()) for path in {sys.prefix, sys.base_prefix, ROOT, Path(os.__file__).parent})
MAKERS = ("dataclasses.py", "collections/__init__.py")  # of classes, when modules are first imported


class TooLongError(BaseException):
    """An input took more than `SECONDS`."""


class Watch:
    """Notes what happens beside reading: code from elsewhere, other programs, and files changed outside a folder."""

    def __init__(self) -> None:
        self.folder, self.seen, self._on = Path("/"), [], False
        sys.addaudithook(self._hook)  # for good: it is the switch that goes off

    def __call__(self, folder: Path) -> "Watch":
        self.folder = folder
        return self

    def __enter__(self) -> None:
        self.seen, self._on = [], True

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "exec":
            made = sys._getframe(1).f_code.co_filename.endswith(MAKERS)
            hostile = not made and not arguments[0].co_filename.startswith((*CODE, "<frozen", "<__array_function__"))
        elif event == "open":
            mode, flags = arguments[1:]
            writes = bool(set("wax+") & set(mode)) if isinstance(mode, str) else bool(flags & WRITING)
            hostile = writes and self._outside(arguments[0])
        else:
            changed = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
            hostile = event in CHANGES and any(map(self._outside, changed))
            hostile |= event.startswith(RUNS) or event == "pickle.find_class"
        if hostile:
            self.seen.append(f"{event} {arguments!r:.200}")

    def _outside(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and not os.path.realpath(os.fsdecode(path)).startswith(
            str(self.folder)
        )


WATCH = Watch()


def is_clean(error):
    """Whether the command line shows an error as the user's, and it says something."""
    named = isinstance(error, ValueError | LookupError | OSError) and not isinstance(
        error, KeyError | IndexError | UnicodeError
    )
    return named and " " in str(error)


@contextlib.contextmanager
def limited():
    """Warnings and logs aside, a few GB of memory at most, and an alarm for what hangs."""

    def stop(*_):
        raise TooLongError

    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * MEMORY, limits[1]))
    before = signal.signal(signal.SIGPROF, stop)
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_watch_notices_what_it_is_for(tmp_path):
    (tmp_path / "in").mkdir()
    for act, event in (
        (lambda: eval("1 + 1"), "exec"),
        (lambda: pickle.loads(pickle.dumps(os.mkdir)), "pickle.find_class"),
        (lambda: (tmp_path / "new").write_text("x"), "open"),
        (lambda: (tmp_path / "new").replace(tmp_path / "in" / "new"), "os.rename"),
        (lambda: os.system("true"), "os.system"),
        (lambda: subprocess.run(["true"], check=True), "subprocess.Popen"),
    ):
        with WATCH(tmp_path / "in"):
            act()
        assert any(seen.startswith(event) for seen in WATCH.seen), event
    with WATCH(tmp_path / "in"):
        (tmp_path / "in" / "new").read_text()
        (tmp_path / "in" / "new").unlink()
    assert WATCH.seen == []
    assert not is_clean(KeyError("a b"))
    assert not is_clean(ValueError())
    assert is_clean(ValueError("must be x, got y"))


def tried(reader, watch, n, tally):
    """Read n inputs; raise at the first that gives anything but a result or a clean error, the smallest there is."""

    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        derandomize=not INPUTS,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.inputs)
    def read(given_input):
        tally["inputs"] += 1
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            with watch:
                reader.read(given_input)
            tally["valid"] += 1
        except Exception as error:
            if not is_clean(error):
                tally["defects"] += 1
                raise
            tally["refused"] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        assert not watch.seen, watch.seen

    read()


@pytest.mark.parametrize("name", READERS)
def test_hostile_input_gives_a_result_or_a_clean_error(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for dataset in ("mirflickr25k", "nus_wide", "inria_websearch"):  # put back at the end
        monkeypatch.setattr(f"xmbench.datasets.{dataset}.CARD", dataset_card(dataset))
    reader = READERS[name](tmp_path)
    n = max(int(INPUTS * reader.share / SHARES), 30) if INPUTS else max(int(40 * reader.share), 2)
    tally, before, began = Counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with limited():
        tried(reader, WATCH(tmp_path), n, tally)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if INPUTS:
        with capsys.disabled():
            took = time.perf_counter() - began
            print(f"\n{name:22} {tally['inputs']:7,} inputs {tally['valid']:7,} valid {tally['refused']:7,} refused "
                  f"{tally['defects']:3} defects {grown >> 20:5} MB {took:6.0f} s", end="")  # fmt: skip
    assert grown < MEMORY
