"""The child process that executes runs for a supervisor: requests are lines of JSON on stdin, news lines of JSON on stdout.

A request is {"cells", "store", "settings", "known"}; news are what `run.execute` tells, {"warning": text}, and at the end of
a request {"end": ""}, or {"end": what was wrong, "store": whether it was the store}. Everything that is printed goes to the
log of the request's first run. The process ends with its stdin, that is with its supervisor.
"""

import ctypes
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmbench.plan import Cell
    from xmbench.run import Settings

News = Callable[[dict[str, Any]], None]
_LOG = logging.getLogger("xmbench")


def main() -> None:
    """Execute requests until there are no more."""
    news = os.fdopen(os.dup(1), "w", encoding="utf-8")  # before anything is printed
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    with suppress(OSError, AttributeError):  # on Linux the kernel ends this process with its supervisor, even one that hangs
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with suppress(OSError):  # where memory runs out, the kernel ends this process rather than one that holds the sweep together
        Path("/proc/self/oom_score_adj").write_text("500")

    def tell(what: dict[str, Any]) -> None:
        try:
            news.write(json.dumps(what) + "\n")
            news.flush()
        except OSError:  # the supervisor is gone: that must not become a failed run
            os._exit(0)

    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    _log_warnings(tell)
    while True:
        tell(_answer(json.loads(requests.get()), tell))


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the supervisor is gone: so is this process, whatever it is at


def _answer(request: dict[str, Any], tell: News) -> dict[str, Any]:
    """Execute one request; what its end is to tell."""
    import torch  # noqa: F401 - what every run loads is no part of its time

    from xmbench.device import return_freed_memory
    from xmbench.live import say_whose_log
    from xmbench.plan import from_json
    from xmbench.registry import load_plugin
    from xmbench.run import Settings, execute
    from xmbench.store import Store

    tell({"phase": "loading"})
    store = Store(request["store"])
    try:
        settings = Settings(**{**request["settings"], "plugins": tuple(request["settings"]["plugins"])})
        for file in settings.plugins:
            load_plugin(file)
        cells = [from_json(cell) for cell in request["cells"]]
        _check_source(cells[0])
        _log_to(store.log(cells[0].run.run_id))
        missing = []
        for cell in cells:
            if store.holds(cell.run.run_id, cell.score_key, cell.source_sha):  # another sweep has come first
                tell({"stored": cell.run.run_id, "status": "ok"})
            else:
                missing.append(cell)
        if missing:
            _begin_log(missing, settings)
            for cell in cells[1:]:
                say_whose_log(store.log(cell.run.run_id), cells[0].run.run_id)
            started = time.perf_counter()
            execute(missing, store, settings, request["known"], lambda what: _log_and(tell, what))
            print(f"{time.strftime('%F %T')} ended after {time.perf_counter() - started:.1f} s", flush=True)
    except OSError as error:  # of the store or its logs: what a method raises has become a row
        return {"end": str(error), "store": True}
    except Exception as error:
        return {"end": "".join(traceback.format_exception(error)), "store": False}
    finally:
        return_freed_memory()
    return {"end": ""}


@cache
def _loaded_source(method: str) -> str:
    """Hash of a method's file as this process has loaded it."""
    from xmbench.registry import find_method, source_sha

    return source_sha(find_method(method))


def _check_source(cell: "Cell") -> None:
    """Raise ValueError where another source of the method is loaded than the one that the run's row would name."""
    if _loaded_source(cell.run.implementation) != cell.source_sha:
        raise ValueError(f"the file of {cell.run.implementation} was changed since the sweep began: start it again")


def _begin_log(cells: "list[Cell]", settings: "Settings") -> None:
    """Write what is to be run, and where."""
    from xmbench.run import git_commit, versions
    from xmbench.spec import canonical

    run = cells[0].run
    found = ", ".join(f"{name} {number}" for name, number in json.loads(versions()).items())
    n_threads = settings.threads or run.protocol.threads
    lines = [
        f"{run.method} on {run.dataset}, {run.noise}, seed {run.seed}",
        *(f"run {cell.run.run_id}: {cell.run.noise}, protocol {cell.run.protocol.name}" for cell in cells),
        f"parameters {canonical(dict(run.parameters))}",
        f"{socket.gethostname()}, process {os.getpid()}, device {settings.device}, threads {n_threads}",
        f"{found}, commit {git_commit() or 'unknown'}",
    ]
    print(time.strftime("%F %T"), "\n    ".join(lines), flush=True)


def _log_to(path: Path) -> None:
    """Send everything printed from now on, by libraries in C too, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _log_and(tell: News, what: dict[str, Any]) -> None:
    """Tell, and write it for people."""
    if "epoch" in what:
        score = f", validation {what['valid']:.4f}" if "valid" in what else ""
        line = f"epoch {what['epoch']} of {what['epochs']}, loss {what['loss']:.5g}{score}"
    else:
        line = what.get("phase") or f"run {what['stored']}: {what['status']}\n{what.get('error', '')}".rstrip()
    with suppress(OSError):
        print(time.strftime("%F %T"), line, flush=True)
    tell(what)


class _Warnings(logging.Handler):
    """Warnings go to the terminal of the sweep, beside the log."""

    def __init__(self, tell: News) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell({"warning": record.getMessage()})


def _log_warnings(tell: News) -> None:
    stderr = logging.StreamHandler()
    stderr.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%F %T"))
    _LOG.addHandler(stderr)
    _LOG.addHandler(_Warnings(tell))


if __name__ == "__main__":
    main()
