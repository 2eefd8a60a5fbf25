"""Where and when fits run: joblib's back ends, processes of this machine or a Dask cluster, with limits and a word to stop."""

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Literal

from xmbench.live import Word, forget, say
from xmbench.supervisor import Job, Report, end_child, end_with, supervise

_MOST_BREAKS = 20  # of the pool of processes, one after the other, with no job done between them
_BUSY_SECONDS = 2.0
_HEARD_SECONDS = 2.0
_AHEAD = 4  # jobs per worker that a cluster knows of: workers that join it find some


class EngineError(RuntimeError):
    """Fits cannot be executed: the processes around them are killed again and again, or the cluster is gone."""


@dataclass(frozen=True)
class Engine:
    """Where runs are executed.

    Attributes:
        jobs: fits at a time; with a running cluster, its workers decide.
        backend: "loky", processes of this machine, or "dask".
        scheduler: address of a running Dask cluster; "" starts a local one.
        devices: torch devices that the jobs are spread over, at least as many as jobs; or a single one for all.
        timeout: seconds that a fit with its evaluation may take.
        max_rss: bytes of memory that it may take.
        max_seconds: after which all fits are stopped, to be continued by the next sweep.
    """

    jobs: int = 1
    backend: Literal["loky", "dask"] = "loky"
    scheduler: str = ""
    devices: tuple[str, ...] = ("cpu",)
    timeout: float | None = None
    max_rss: float | None = None
    max_seconds: float | None = None


@dataclass
class Control:
    """The word to all processes of a sweep: go, drain or stop.

    Attributes:
        folder: where the word is written for them.
        sweep: the sweep's id.
        word: what was said last.
        reason: interrupted or time_up, once it is not to go on.
    """

    folder: Path
    sweep: str = field(default_factory=lambda: f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}")
    word: Word = "go"
    reason: Literal["", "interrupted", "time_up"] = ""

    def end(self, word: Literal["drain", "stop"], reason: Literal["interrupted", "time_up"]) -> None:
        """Say it."""
        self.word, self.reason = word, reason
        say(self.folder, self.sweep, word)


def run_jobs(keys: list[str], make: Callable[[str], Job], engine: Engine, control: Control) -> Iterator[Report]:
    """Have all jobs done and report each; those that another sweep has begun are asked for again until it is done with them.

    Args:
        keys: fit keys, in order.
        make: the job of a fit key.
        engine: where.
        control: ends it; Ctrl-C, SIGTERM and the engine's time are heard here.

    Raises:
        KeyboardInterrupt: the second Ctrl-C, or SIGTERM; fits are stopped and can be continued.
        EngineError: see there.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool

    waiting, breaks = dict.fromkeys(keys), 0
    with _heard_signals(control), _time(engine, control), _dispatcher(engine, control) as dispatch:
        while waiting and control.word == "go":
            try:
                for report in dispatch(list(waiting), make):
                    if report.status == "busy" or (report.status == "stopped" and not report.store_error):
                        continue
                    breaks = 0
                    del waiting[report.fit_key]
                    yield report
            except (BrokenProcessPool, _cluster_error(engine)) as error:
                breaks += 1
                if breaks > _MOST_BREAKS:
                    raise EngineError(
                        f"processes that hold the sweep together ended {breaks} times in a row: {error}"
                    ) from None
                continue  # with what is not finished, in new processes
            except CancelledError as error:
                where = f"at {engine.scheduler}" if engine.scheduler else "of this machine"
                raise EngineError(
                    f"the Dask cluster {where} is gone ({str(error).partition(chr(10))[0] or 'cancelled'})"
                ) from None
            if waiting and control.word == "go":
                time.sleep(_BUSY_SECONDS)


@contextmanager
def _dispatcher(engine: Engine, control: Control) -> Iterator[Callable[[list[str], Callable[[str], Job]], Iterator[Report]]]:
    """What has jobs done: a function from keys to reports in the order of their ends."""
    with ExitStack() as stack:
        if engine.backend == "dask":
            yield partial(_by_joblib, engine=engine, control=control, ahead=_cluster(engine, control, stack))
        elif engine.jobs == 1:
            stack.callback(end_child)
            yield partial(_one_by_one, control=control)
        else:
            stack.push(_stop_workers)
            yield partial(_by_joblib, engine=engine, control=control, ahead=lambda: engine.jobs)


def _one_by_one(keys: list[str], make: Callable[[str], Job], control: Control) -> Iterator[Report]:
    for key in keys:
        if control.word != "go":
            return
        yield supervise(make(key))


def _by_joblib(
    keys: list[str], make: Callable[[str], Job], engine: Engine, control: Control, ahead: Callable[[], int]
) -> Iterator[Report]:
    from joblib import Parallel, delayed, parallel_config

    n_ahead = ahead()
    # from their first moment on, not from their first job: one that waits for a dead one's lock would wait for minutes
    begun = {"initializer": end_with, "initargs": (os.getpid(),)} if engine.backend == "loky" else {}
    with parallel_config(backend="loky" if engine.backend == "loky" else _dask_backend()):
        parallel: Any = Parallel(n_jobs=n_ahead, return_as="generator_unordered", batch_size=1, pre_dispatch=n_ahead, **begun)
    with _deaf_children():
        reports = parallel(delayed(supervise)(make(key)) for key in keys if control.word == "go")
    # of a sweep that ends early; its fits are to be continued
    warnings.filterwarnings(
        "ignore", message=r"\d+ tasks (have been successfully executed|which were still being processed)", category=UserWarning
    )
    yield from reports


def _dask_backend() -> Any:
    """joblib's, which also gives the jobs of a cluster with a single worker to that worker, and not to this process."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, int(super().effective_n_jobs(n_jobs)))

    return Backend()


def _cluster(engine: Engine, control: Control, stack: ExitStack) -> Callable[[], int]:
    """Connect to a Dask cluster, or start one of as many processes as jobs; how many jobs it is to know of at a time."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("--backend dask needs the package distributed: pip install 'xmbench[dask]'") from None
    for name in ("distributed", "distributed.client", "distributed.utils"):  # what they log in full, errors here say in a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # a task whose worker was killed is given to another one, as often as workers are killed
    stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": _MOST_BREAKS}))
    with _deaf_children():
        if engine.scheduler:
            address: Any = engine.scheduler
        else:
            start = partial(LocalCluster, threads_per_worker=1, dashboard_address=None, silence_logs=50)
            try:
                address = stack.enter_context(start(n_workers=engine.jobs))
            except RuntimeError as error:
                raise EngineError(f"a local Dask cluster could not be started ({error})") from None
        try:
            client = stack.enter_context(Client(address, timeout=30, set_as_default=True))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ValueError(
                f"--scheduler must be the address of a running Dask scheduler, got {address!r} ({error})"
            ) from None
    if engine.scheduler:  # supervisors hear the word when they look next; then it is withdrawn
        stack.callback(lambda: time.sleep(_HEARD_SECONDS if control.word == "stop" else 0.0))
    return lambda: _AHEAD * max(1, engine.jobs, sum(client.nthreads().values()))


def _cluster_error(engine: Engine) -> type[Exception]:
    """What Dask raises for a task that lost its worker too often."""
    if engine.backend != "dask":
        return EngineError
    from distributed import KilledWorker

    return KilledWorker


@contextmanager
def _heard_signals(control: Control) -> Iterator[None]:
    """Ctrl-C once drains the sweep, twice stops it; SIGTERM stops it. Where signals cannot be heard, they are left alone."""

    def interrupt(number: int, _: object) -> None:
        if number == signal.SIGINT and control.word == "go":
            control.end("drain", "interrupted")
            print("what has begun comes to its end; Ctrl-C again stops it", file=sys.stderr, flush=True)
            return
        control.end("stop", "interrupted")
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if here else ()
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        forget(control.folder, control.sweep)


@contextmanager
def _time(engine: Engine, control: Control) -> Iterator[None]:
    """Stop the sweep once its time is up."""
    timer = threading.Timer(engine.max_seconds or 0.0, control.end, ("stop", "time_up"))
    timer.daemon = True
    if engine.max_seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes and threads started inside never hear Ctrl-C, which is the main one's to handle; it waits until the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from joblib.externals.loky.backend import resource_tracker as of_loky

    for tracker in (resource_tracker, of_loky):
        tracker.ensure_running()  # which unblocks Ctrl-C where it has to start one
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop_workers(*_: object) -> None:
    """End the supervisors, and with them their children."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
