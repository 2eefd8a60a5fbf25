"""The thin process around fits: it feeds one long-lived child, watches its time and memory, and outlives its end.

Neither torch nor data are loaded here. Whatever a run does to its process (a crash of the interpreter, an endless loop, all
of the memory) ends the child alone; the next run gets a new one.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from xmbench.live import Claimed, claim, heard, write_state
from xmbench.store import Store

_POLL_SECONDS = 0.5
_STATE_SECONDS = 1.0
_STARTING_SECONDS = 300.0
_LINES_OF_LOG = 20
_THREAD_VARIABLES = "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS NUMBA_NUM_THREADS".split()


@dataclass(frozen=True)
class Job:
    """One fit and the runs that share it, as a supervisor is given it.

    Attributes:
        fit_key: by which it is claimed.
        run_ids: of its runs.
        request: what the child is to be sent, see `xmbench.worker`; its device is the supervisor's to choose.
        state: what `status` shows of it.
        store: path or URL.
        sweep: id of the sweep, whose word is obeyed.
        devices: one per job at a time; each supervisor takes one of them.
        threads: of every library in the child.
        timeout: seconds that the fit and its evaluation may take, or None.
        max_rss: bytes of memory that the child and its own children may take, mapped files aside, or None.
        main: process id of the sweep, where supervisors are to end with it.
    """

    fit_key: str
    run_ids: tuple[str, ...]
    request: dict[str, Any]
    state: dict[str, Any]
    store: str
    sweep: str
    devices: tuple[str, ...]
    threads: int
    timeout: float | None = None
    max_rss: float | None = None
    main: int = 0


@dataclass
class Report:
    """How a job ended.

    Attributes:
        stored: run id -> status of what is in the store now.
        status: of the other runs: timeout, oom, crashed or failed; "stopped" (by the sweep's word) and "busy" (another sweep
            does it) are no results; "" where there are no others.
        error: why; or, where `store_error`, why the store cannot be written.
        seconds: from the child's first word to the end.
    """

    fit_key: str
    stored: dict[str, str] = field(default_factory=dict)
    status: str = ""
    error: str = ""
    store_error: bool = False
    seconds: float = 0.0


class _Child:
    """The child process of this thread, with what it says as a queue."""

    def __init__(self, kind: tuple[str, int], log: Path) -> None:
        self.kind = kind  # sweep, whose code it has loaded, and threads
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
        environment = {**os.environ, "PYTHONPATH": path, **dict.fromkeys(_THREAD_VARIABLES, str(kind[1]))}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "xmbench.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.news: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # else it was killed as it wrote
                self.news.put(line)
        with suppress(OSError):
            self.process.stdout.close()
        self.news.put(None)

    def ask(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # a child that has ended is found out by its silence
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def memory(self) -> float:
        """Bytes of memory of the child and all that it has started."""
        try:
            child = psutil.Process(self.process.pid)
            return float(sum(_memory_of(process) for process in (child, *child.children(recursive=True))))
        except psutil.Error:
            return 0.0

    def kill(self) -> int:
        """End the child and what it started; its return code."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(OSError):
            self.process.kill()
        code = self.process.wait()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()  # the other pipe is the listener's, who may wait for what the child has started
        return code


def _memory_of(process: psutil.Process) -> int:
    """Bytes that a process holds in memory; pages of mapped files, which the system takes back when it needs them, aside."""
    try:
        with suppress(OSError, ValueError):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if held := [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]:
                return 1024 * sum(held)
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class _Stopped(Exception):
    """The sweep has ended before the job began."""


class _Own(threading.local):
    """What a thread of this process keeps from job to job."""

    child: _Child | None = None
    device: str = ""


_own = _Own()


def supervise(job: Job) -> Report:
    """Have a child do the job, within its limits.

    Returns:
        What came of it; never an exception for anything that the child does.
    """
    store, report = Store(job.store), Report(job.fit_key)
    if os.getpid() != job.main and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    if job.main not in (0, os.getpid()):
        end_with(job.main)
    try:
        sweeps = store.folder("sweeps")
        if heard(sweeps, job.sweep) != "go":
            raise _Stopped
        with _device(job, sweeps) as device, claim(store.folder("running"), job.fit_key):
            _have_done(job, store, report, device)
    except Claimed:
        report.status = "busy"
    except _Stopped:
        report.status = "stopped"
    except OSError as error:
        report.status, report.error, report.store_error = "stopped", f"{error} (store {job.store})", True
    return report


def end_child() -> None:
    """End this thread's child, if it has one."""
    if _own.child is not None:
        _own.child.kill()
    _own.child = None


@cache
def end_with(main: int) -> None:
    """End this process and all that it has started as soon as the main one is gone, whether it has a job then or waits."""

    def watch() -> None:
        while os.getppid() == main:
            time.sleep(_POLL_SECONDS)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _have_done(job: Job, store: Store, report: Report, device: str) -> None:
    """Send the job to the child and listen until its end, one way or another."""
    log, kind = store.log(job.run_ids[0]), (job.sweep, job.threads)
    if _own.child is None or _own.child.process.poll() is not None or _own.child.kind != kind:
        end_child()
        _own.child = _Child(kind, log)
    child, killed_before = _own.child, _kills_for_want_of_memory()
    child.ask({**job.request, "settings": {**job.request["settings"], "device": device}})
    state = {
        **job.state, "host": socket.gethostname(), "pid": child.process.pid, "device": device, "runs": list(job.run_ids),
        "started": datetime.now(UTC).isoformat(timespec="seconds"), "phase": "starting",
    }  # fmt: skip
    begun = started = checked = spoke = time.monotonic()
    end, gone = None, False
    while end is None:
        try:
            line = child.news.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            line = None if gone else ""
            gone = child.process.poll() is not None  # what it has started may hold its pipe open
        if line is None:
            end = _death(child, log, killed_before)
            break
        end = _take(json.loads(line), state, report) if line else None
        now = time.monotonic()
        spoke = now if line else spoke
        if state["phase"] == "starting" and now - begun < _STARTING_SECONDS:
            started = now  # libraries that load are no part of the run's time
        if end is None and (not line or now - checked > _STATE_SECONDS or checked == started):
            checked, state["silent"] = now, round(now - spoke, 1)
            end = _overstepped(job, store, child, state, now - started, log)
    report.status, report.error = end
    report.seconds = time.monotonic() - started
    if len(report.stored) == len(job.run_ids):
        report.status = ""
    elif not report.status:
        report.status, report.error = "crashed", "the run ended without a result: this is a defect of xmbench, please report it"
    _end_log(log, report)
    with suppress(OSError):
        for run_id in job.run_ids:
            store.put_log(run_id)


def _take(news: dict[str, Any], state: dict[str, Any], report: Report) -> tuple[str, str] | None:
    """Take notice of a child's news; (status, error) once it has ended the job."""
    if "end" in news:
        report.store_error = bool(news.get("store"))
        return ("stopped" if report.store_error else "failed" if news["end"] else "", news["end"])
    if "stored" in news:
        report.stored[news["stored"]] = news["status"]
    elif "warning" in news:
        print(news["warning"], file=sys.stderr, flush=True)
    else:
        state.update(news)
    return None


def _overstepped(
    job: Job, store: Store, child: _Child, state: dict[str, Any], elapsed: float, log: Path
) -> tuple[str, str] | None:
    """(status, error) where the job must end now, its child killed; else None, and its state is written."""
    rss, end = child.memory(), None
    if job.timeout is not None and elapsed > job.timeout:
        end = "timeout", f"ran longer than --timeout allows ({job.timeout:g} s)"
    elif job.max_rss is not None and rss > job.max_rss:
        end = "oom", f"took {rss / 1e9:.3g} GB of memory, --max-rss allows {job.max_rss / 1e9:.3g} GB"
    elif heard(store.folder("sweeps"), job.sweep) == "stop":
        end = "stopped", ""
    if end is not None:
        end_child()
        return end if end[0] == "stopped" else (end[0], f"{_last_lines(log)}{end[1]}")
    write_state(store.folder("running"), job.fit_key, {**state, "elapsed": round(elapsed, 1), "rss": rss})
    return None


def _death(child: _Child, log: Path, killed_before: int) -> tuple[str, str]:
    """Status and error of a job whose child has ended by itself or from outside."""
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(timeout=10)
    code = child.kill()
    _own.child = None
    if code == -signal.SIGKILL and _kills_for_want_of_memory() > killed_before:
        return "oom", f"{_last_lines(log)}the system ended the process for want of memory; fewer --jobs leave more for each"
    try:
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    except ValueError:
        how = f"by signal {-code}"
    return "crashed", f"{_last_lines(log)}the process of the run ended {how}; its log: {log}"


def _end_log(log: Path, report: Report) -> None:
    """Write into the log how the job ended, where the child could not."""
    if report.status:
        why = report.error if report.status == "failed" else report.error.rpartition("\n")[2]
        with suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%F %T')} {report.status} after {report.seconds:.1f} s{why and ': '}{why}\n")


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"{line}\n" for line in lines[-_LINES_OF_LOG:])


def _kills_for_want_of_memory() -> int:
    """How many processes the kernel has killed so far because memory ran out: here or in this control group."""
    count = 0
    for path, name in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        with suppress(OSError, ValueError):
            count += sum(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.split()[0] == name)
    return count


@contextmanager
def _device(job: Job, sweeps: Path) -> Iterator[str]:
    """One of the job's devices, which no other supervisor of the sweep on this machine has meanwhile; rather the one it had.

    Raises:
        _Stopped: the sweep has ended before one was free.
    """
    if len(set(job.devices)) == 1:
        yield job.devices[0]
        return
    places = sorted(enumerate(job.devices), key=lambda place: place[1] != _own.device)
    while heard(sweeps, job.sweep) == "go":
        for number, device in places:
            lock = FileLock(Path(tempfile.gettempdir()) / f"xmbench-{job.sweep}-{number}.lock", thread_local=False)
            with suppress(Timeout), lock.acquire(timeout=0):
                _own.device = device
                yield device
                return
        time.sleep(_POLL_SECONDS)
    raise _Stopped
