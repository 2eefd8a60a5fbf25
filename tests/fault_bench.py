"""What faults are done to: sweeps by the command `xmbench run`, in processes of its own, over a small grid that takes its time.

`Bench` is the grid and what an undisturbed sweep gives; `Case` is one store under faults, watched from beginning to end: no
run may be lost, none done twice, every value is the same bit for bit, and no file or process is left. `Figures` count that.
"""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from xmbench.store import Store

ROOT = Path(__file__).resolve().parents[1]
MARK = "XMBENCH_FAULTS"  # in the environment of every process of a case: its folder
Verdict = tuple[set[str], set[str], list[str], list[str]]
VOLATILE = "fit_seconds eval_seconds cpu_seconds peak_rss started git_commit".split()
FITS_AT_A_TIME = 2
EPOCHS, STEADY_FITS = 8, 8
GRID = (
    "--methods steady,ce,cca --dataset synthetic --rates 0,0.4 --seeds 4 --keep all --set synthetic.train=60 "
    f"--set synthetic.valid=30 --set synthetic.test=30 --set ce.hidden=16 --set ce.dim=16 --set ce.epochs=4 "
    f"--set steady.epochs={EPOCHS}"
).split()

PLUGIN = '''
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmbench import Embedding, Method, register_method
from xmbench.plan import cached_dataset


@register_method("steady", needs={"vectors", "labels"})
@dataclass(kw_only=True)
class Steady(Method):
    """Projections that take a noisy step in each batch; every epoch takes its time and is noted down."""

    epochs: int = 8
    seconds: float = 0.1

    def fit(self, train, context):
        labels = [np.asarray(m.labels, dtype=np.float64) for m in train.modalities]
        vectors = [np.asarray(m.vectors, dtype=np.float64) for m in train.modalities]
        w = [np.zeros((x.shape[1], y.shape[1])) for x, y in zip(vectors, labels)]
        self.projections_ = {m.name: array for m, array in zip(train.modalities, w)}
        for epoch in context.epochs(self.epochs, state={"first": w[0], "second": w[1]}):
            for number, batch in enumerate(context.batches(len(vectors[0]), 16)):
                draw = context.generator("steady", number)
                for x, y, array in zip(vectors, labels, w):
                    error = y[batch] - x[batch] @ array + 0.1 * draw.standard_normal(y[batch].shape)
                    array += 0.01 * x[batch].T @ error
            time.sleep(self.seconds)
            context.end_epoch(loss=float(np.abs(error).mean()))
            line = f"{os.getpid()} {context.seed} {epoch} {cached_dataset.cache_info().misses}\\n"
            with open(os.environ["XMBENCH_FAULTS"] + "/epochs", "a") as file:
                file.write(line)

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors) @ self.projections_[modality.name])
'''

# The command as it is, but for a checkpoint at the end of every epoch.
COMMAND = """
from dataclasses import replace
from xmbench import run_cli
from xmbench.cli import main

as_given = run_cli._execution
def execution(*given):
    settings, engine = as_given(*given)
    return replace(settings, checkpoint_seconds=0.0), engine
run_cli._execution = execution
if __name__ == "__main__":
    main()
"""

# Loaded by every Python process at its start.
SITECUSTOMIZE = """
import errno, os, signal
kind, _, what = os.environ.get("XMBENCH_FAULT", "").partition(":")
if kind == "errno":  # while a file is there, nothing is brought to the disk
    name, _, flag = what.partition(":")
    sync = os.fsync
    def fsync(number):
        if os.path.exists(flag):
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        sync(number)
    os.fsync = fsync
elif kind == "die":  # in the n-th step that changes a file system, before or after it
    steps = 0
    def dying(step):
        def do(*args, **more):
            global steps
            steps += 1
            if steps == int(what):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **more)
        return do
    for name in ("fsync", "replace", "rename", "unlink", "link"):
        setattr(os, name, dying(getattr(os, name)))
"""

# Loaded into a process before libc: each look at the clock may find another day. What only tells durations goes on as it is.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t jump(void) {
    static _Thread_local unsigned seed;
    if (!seed) seed = atoi(getenv("XMBENCH_CLOCK")) + getpid();
    return (rand_r(&seed) % 3 - 1) * (time_t)(rand_r(&seed) % (30 * 86400));
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed) now->tv_sec += jump();
    return failed;
}
time_t time(time_t *now) {
    struct timeval found;
    gettimeofday(&found, NULL);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""


@dataclass
class Figures:
    """What came of a kind of fault.

    Attributes:
        injected: how often.
        survived: of these, after how many all held that must hold.
        lost: runs that were finished, or planned, and are not in the store in the end.
        changed: runs with another value in their rows or arrays than without the fault.
        redone: finished runs that were done again, though nothing was wrong with their files.
        problems: what did not hold, in words.
    """

    injected: int = 0
    survived: int = 0
    lost: int = 0
    changed: int = 0
    redone: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, injected: int, case: "Case") -> None:
        """Count what was injected into a case that has come to its end; what was lost in it counts once."""
        lost, changed, redone, problems = case.verdict()
        self.injected += injected
        self.survived += injected if not (lost or changed or redone or problems) else 0
        if not case.is_counted:
            case.is_counted = True
            self.lost, self.changed, self.redone = self.lost + len(lost), self.changed + len(changed), self.redone + len(redone)
            named = {"lost": sorted(lost), "changed": sorted(changed), "redone": redone}
            problems = [*problems, *(f"run {run_id} {what}" for what, runs in named.items() for run_id in runs)]
            self.problems += [f"{case.folder.name}: {problem}" for problem in problems]


class Bench:
    """The grid, the command, and what an undisturbed sweep gives.

    Args:
        folder: for all cases.
        backend: loky or dask.
        scheduler: address of a running Dask cluster.
    """

    def __init__(self, folder: Path, backend: str = "loky", scheduler: str = "") -> None:
        self.folder, self.backend = folder, backend
        self._cases: list[Case] = []
        for name, text in {"plugin": PLUGIN, "command": COMMAND, "sitecustomize": SITECUSTOMIZE}.items():
            (folder / f"{name}.py").write_text(text)
        self.command = [sys.executable, str(folder / "command.py"), "run", *GRID, "--plugin", str(folder / "plugin.py")]
        self.command += ["--backend", backend, *(["--scheduler", scheduler] if scheduler else [])]
        self.reference: dict[str, str] = {}

    def measure(self) -> "Bench":
        """Run the undisturbed sweep, in a single process of this machine."""
        case = Case(self, "reference")
        where = self.command.index("--backend")
        run = subprocess.run(
            [*self.command[:where], "--store", str(case.store), "--no-isolation"],
            env=case.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            raise RuntimeError(f"the undisturbed sweep ended with exit code {run.returncode}: {run.stderr}")
        self.reference = fingerprints(Store(case.store))
        case.close()
        return self

    def case(self, name: str) -> "Case":
        """A new store."""
        self._cases.append(Case(self, f"{len(self._cases) + 1:03d}-{name}"))
        return self._cases[-1]

    def jumping_clock(self, seed: int) -> dict[str, str]:
        """The environment of processes whose clock jumps; it takes a C compiler."""
        library = self.folder / "clock.so"
        if not library.exists():
            (self.folder / "clock.c").write_text(CLOCK)
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, self.folder / "clock.c", "-ldl"], check=True)
        return {"LD_PRELOAD": str(library), "XMBENCH_CLOCK": str(seed)}

    def close(self) -> None:
        """End what is left of all cases."""
        for process in itertools.chain.from_iterable(case.processes() for case in self._cases):
            with suppress(psutil.Error):
                process.kill()


def fingerprints(store: Store) -> dict[str, str]:
    """Run id -> hash of all values in the rows and arrays of each finished run."""
    rows, found = store.rows(), {}
    for run_id, part in rows[rows["status"] == "ok"].drop(columns=VOLATILE).groupby("run_id"):
        digest = sha256(part.to_csv(index=False).encode())
        for name, array in sorted(store.arrays(run_id).items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        found[run_id] = digest.hexdigest()
    return found


class Case:
    """A store under faults; from its beginning to its end, a thread looks which runs are finished, and which again."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.folder = bench, bench.folder / name
        self.store = self.folder / "store"
        self.folder.mkdir()
        (self.folder / "tmp").mkdir()
        paths = os.pathsep.join([str(bench.folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {**os.environ, "PYTHONPATH": paths, MARK: str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        self.environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.environment.pop("XMBENCH_ISOLATION", None)
        self.finished: dict[str, tuple[int, ...]] = {}
        self.damaged: set[str] = set()
        self.redone: list[str] = []
        self.problems: list[str] = []
        self.kills, self.is_counted = 0, False
        self.started: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_on, daemon=True)
        self._watch.start()

    def _look_on(self) -> None:
        while not self._ended.wait(0.05):
            self._look()

    def _look(self) -> None:
        for path in self.store.glob("[!.]*.parquet"):
            with suppress(FileNotFoundError), path.open("rb") as file:  # its state and its status are of one file, not of two
                stat = os.fstat(file.fileno())
                state, run_id = (stat.st_ino, stat.st_size), path.stem
                if self.finished.get(run_id) != state and status_in(file) == "ok":
                    if run_id in self.finished and run_id not in self.damaged:
                        self.redone.append(run_id)
                    self.finished[run_id] = state
                    self.damaged.discard(run_id)

    def start(self, *more: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Begin, or go on with, the sweep, in a process group of its own, as a terminal does."""
        options = ["--store", str(self.store), "--jobs", str(FITS_AT_A_TIME), *more]
        with (self.folder / f"err-{len(self.started)}").open("wb") as stderr:
            process = subprocess.Popen(
                [*self.bench.command, *options], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                env={**self.environment, **environment}, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def said(self) -> str:
        """What the latest command wrote."""
        return (self.folder / f"err-{len(self.started) - 1}").read_text(errors="replace")

    def wait(self, seconds: float = 240.0) -> int:
        """The exit code of the latest command."""
        try:
            return self.started[-1].wait(seconds)
        except subprocess.TimeoutExpired:
            self.problems.append(f"the command had not ended after {seconds:g} s: {self.said()[-2000:]}")
            self.kill_all()
            return -1

    def go_on(self, *more: str, **environment: str) -> "Case":
        """Give the same command until all runs are there."""
        for _ in range(5):
            self.start(*more, **environment)
            if (code := self.wait()) == 0:
                return self
            if code not in (3, 130):
                break
        self.problems.append(f"the same command ended with exit code {code}: {self.said()[-2000:]}")
        return self

    def processes(self) -> list[psutil.Process]:
        """All processes of this case."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def find(self, what: str, seconds: float = 20.0) -> psutil.Process | None:
        """A process that is a child, a supervisor, or the latest main one; None where there is none within the time."""
        words = {"child": "xmbench.worker", "supervisor": "popen_loky_posix" if self.bench.backend == "loky" else "spawn_main"}
        main, until = self.started[-1], time.monotonic() + seconds
        while main.poll() is None and time.monotonic() < until:
            if what == "main":
                return psutil.Process(main.pid)
            with suppress(psutil.Error):
                for process in psutil.Process(main.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        if words[what] in " ".join(process.cmdline()):
                            return process
            time.sleep(0.05)
        return None

    def kill_all(self) -> None:
        """As a loss of power does."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
                self.kills += 1
        self.started[-1].wait()
        until = time.monotonic() + 10
        while self.processes() and time.monotonic() < until:
            time.sleep(0.05)
        self._look()

    def epochs(self) -> int:
        """How many epochs of the steady method have been gone through."""
        with suppress(FileNotFoundError):
            return len((self.folder / "epochs").read_bytes().splitlines())
        return 0

    def wait_for_work(self, n: int = 1, seconds: float = 60.0) -> None:
        """Until that many more epochs have passed, or the command has ended."""
        before, until = self.epochs(), time.monotonic() + seconds
        while self.epochs() < before + n and self.started[-1].poll() is None and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """End the watch."""
        self._ended.set()
        self._watch.join()
        self._look()

    @cached_property
    def _verdict(self) -> Verdict:
        until = time.monotonic() + 10
        while self.processes() and time.monotonic() < until:
            time.sleep(0.1)
        self.close()
        if left := self.processes():
            self.problems.append(f"processes are left: {[' '.join(process.cmdline())[:160] for process in left]}")
            self.kill_all()
        self.problems += [f"left: {path.relative_to(self.store)}" for path in leftovers(self.store)]
        for number in range(len(self.started)):
            said = (self.folder / f"err-{number}").read_text(errors="replace")
            if "Traceback" in said:
                self.problems.append(f"a traceback: {said[said.index('Traceback') :][-1500:]}")
        most = STEADY_FITS * EPOCHS + FITS_AT_A_TIME * self.kills
        if self.epochs() > most:
            self.problems.append(f"{self.epochs()} epochs gone through where {most} would do")
        now = fingerprints(Store(self.store))
        whole = {run.run_id for run in Store(self.store).finished().values() if run.status == "ok"}
        lost = (set(self.bench.reference) | set(self.finished)) - (whole & set(now))
        changed = {run_id for run_id, value in now.items() if self.bench.reference.get(run_id) != value}
        return lost, changed, self.redone, self.problems

    def verdict(self) -> Verdict:
        """Runs lost, runs changed, runs done twice, and what else does not hold, once all has ended."""
        return self._verdict


def leftovers(store: Path) -> Iterator[Path]:
    """What should not be in a store with which nobody works."""
    for path in sorted(store.rglob("*")):
        folder = path.relative_to(store).parts[0]
        temporary = path.name.startswith(".") and path.name != ".lock"
        if path.is_file() and (temporary or folder in ("running", "sweeps", "checkpoints") or path.suffix == ".tmp"):
            yield path


def status_in(path: Path | IO[bytes]) -> str:
    try:
        return str(pq.read_table(path, columns=["status"])["status"][0].as_py())
    except (OSError, pa.ArrowException, IndexError):
        return ""
