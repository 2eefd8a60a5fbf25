"""Faults: each a function of a bench, a generator and a number of times, which gives figures by kind of fault.

The tests do each a few times, `scripts/soak.py` many times.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
from fault_bench import EPOCHS, FITS_AT_A_TIME, Bench, Case, Figures, fingerprints

from xmbench.compact import compact
from xmbench.files import _machine
from xmbench.store import Store


def kills(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """SIGKILL of child, supervisor and main process at random moments: several in each sweep, until it is through."""
    figures = {f"SIGKILL of a {what}": Figures() for what in ("child", "supervisor", "main process")}
    targets = [("child", "supervisor", "main")[n % 3] for n in range(times)]
    draw.shuffle(targets)
    while targets:
        case, done = bench.case("kills"), list[str]()
        case.start()
        while targets and (case.started[-1].poll() != 0):
            if case.started[-1].poll() is not None:
                case.start()
            if draw.random() < 0.7:
                case.wait_for_work()
                time.sleep(draw.uniform(0.0, 0.6))
            else:
                time.sleep(draw.uniform(0.0, 6.0))
            if (process := case.find(targets[-1])) is not None:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    case.kills += 1
                    done.append(targets.pop())
            if done and done[-1] == "main":
                case.wait()
        _ended(case)
        for what, name in zip(("child", "supervisor", "main"), figures, strict=True):
            figures[name].count(done.count(what), case)
    return figures


def hangs(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """A child that stands still is ended by --timeout; what it did is tried again where that is asked for."""
    figures = Figures()
    for _ in range(times):
        case = bench.case("hang")
        case.start("--timeout", "15s")
        case.wait_for_work(draw.randrange(1, 4))
        injected = 0
        if (process := case.find("child")) is not None:
            process.send_signal(signal.SIGSTOP)
            case.kills += 1
            injected = 1
        case.wait()
        case.go_on("--timeout", "60s", "--retry", "failed,crashed,timeout")
        figures.count(injected, case)
    return {"child that stands still": figures}


def memory(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """Runs that take more than --max-rss end as such, and are done with more."""
    figures = Figures()
    for _ in range(times):
        case = bench.case("memory")
        case.start("--max-rss", "30MB")
        case.wait()
        rows = Store(case.store).rows(["run_id", "status"]).drop_duplicates()
        if set(rows["status"]) != {"oom"}:
            case.problems.append(f"statuses under --max-rss 30MB: {sorted(set(rows['status']))}")
        case.go_on("--retry", "oom")
        figures.count(len(rows), case)
    return {"run that takes too much memory": figures}


def interrupts(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """Ctrl-C once and twice, as a terminal sends it, and SIGTERM, at random moments."""
    figures = {name: Figures() for name in ("Ctrl-C once", "Ctrl-C twice", "SIGTERM")}
    for number in range(times):
        name = list(figures)[number % 3]
        case = bench.case("interrupt")
        process, injected = case.start(), 0
        if draw.random() < 0.8:
            case.wait_for_work(draw.randrange(1, 12))
        time.sleep(draw.uniform(0.0, 3.0))
        for _ in range(2 if name == "Ctrl-C twice" else 1):
            if process.poll() is None:
                if name == "SIGTERM":
                    process.terminate()
                else:
                    os.killpg(process.pid, signal.SIGINT)
                injected = 1
                time.sleep(draw.uniform(0.0, 1.0))
        code = case.wait()
        if code not in ((130, 0) if name != "SIGTERM" else (130, 0, -signal.SIGTERM)):
            case.problems.append(f"{name} ended the command with exit code {code}: {case.said()[-1500:]}")
        case.kills += injected * FITS_AT_A_TIME
        figures[name].count(injected, _ended(case))
    return figures


def concurrent(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """Two or three sweeps of one grid into one store at a time, one of them killed on the way every other time."""
    figures = {"two or three sweeps into one store": Figures(), "one of two or three sweeps killed": Figures()}
    for number in range(times):
        case = bench.case("concurrent")
        sweeps = []
        for _ in range(2 + number // 2 % 2):
            sweeps.append(case.start())
            time.sleep(draw.uniform(0.0, 2.0))
        if number % 2:
            case.wait_for_work(draw.randrange(1, 8))
            sweeps[0].kill()
            case.kills += 1
        codes = [sweep.wait(400) for sweep in sweeps]
        if any(codes[number % 2 :]):
            case.problems.append(f"exit codes {codes}: {case.said()[-1500:]}")
        figures[list(figures)[number % 2]].count(1, _ended(case))
    return figures


def full_disk(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """A disk that is full from some moment on: a real one where it may be mounted, else each fsync fails; then space again."""
    figures = {"full disk (tmpfs)": Figures(), "full disk, or another error, at each fsync": Figures()}
    for number in range(times):
        case = bench.case("full")
        flag, name = case.folder / "full", ("ENOSPC", "EIO", "EROFS", "EDQUOT")[number // 2 % 4]
        case.store.mkdir()
        real = number % 2 == 0 and _mounted(case.store, "-t", "tmpfs", "-o", "size=8m", "none")
        case.start(XMBENCH_FAULT=f"errno:{name}:{flag}")
        case.wait_for_work(draw.randrange(1, 20))
        time.sleep(draw.uniform(0.0, 1.0))
        _fill(case.store / "logs" / "filled") if real else flag.touch()
        code = case.wait()
        if code not in (2, 3, 5) or not re.search("Error|could not be|cannot be", case.said()):
            case.problems.append(f"exit code {code} on a full disk: {case.said()[-1500:]}")
        (case.store / "logs" / "filled").unlink(missing_ok=True)
        flag.unlink(missing_ok=True)
        case.kills += 2 * FITS_AT_A_TIME  # those at work, and those that begin before the sweep hears of it
        figures[list(figures)[not real]].count(1, case.go_on())
        if real:
            subprocess.run(["umount", "--lazy", str(case.store)], check=True)
    return figures


def read_only(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """A store half done that can only be read: one clear line, nothing lost, and the sweep goes on once it can be written."""
    figures = Figures()
    for _ in range(times):
        case = bench.case("read_only")
        _begun(case, draw)
        mounted = _mounted(case.store, "--bind", str(case.store)) and _mounted(case.store, "-o", "remount,ro,bind")
        if not mounted:
            case.store.chmod(0o555)
        case.start()
        code = case.wait()
        if code != 2 or "must be a writable folder" not in case.said():
            case.problems.append(f"exit code {code} on a read-only store: {case.said()[-1500:]}")
        _ = subprocess.run(["umount", str(case.store)], check=True) if mounted else case.store.chmod(0o755)
        figures.count(1, case.go_on())
    return {"read-only store": figures}


def clock(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """A clock that shows another day at each look, in all processes, and files from the future and the past."""
    figures = Figures()
    for _ in range(times):
        case = bench.case("clock")
        case.start(**bench.jumping_clock(draw.randrange(10**6)))
        case.wait_for_work(draw.randrange(4, 20))
        case.kill_all()
        for path in case.store.rglob("*"):
            os.utime(path, (time.time() + draw.uniform(-9e6, 9e6),) * 2)
        figures.count(1, case.go_on(**bench.jumping_clock(draw.randrange(10**6))))
    return {"clock that jumps": figures}


def lost_renames(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """After a loss of power: the latest files of a run under their temporary names, away, or of zeros."""
    kinds = ("npz", "parquet", "both", "checkpoint")
    figures = {f"lost rename of {'rows and arrays' if kind == 'both' else kind}": Figures() for kind in kinds}
    for number in range(times):
        kind, way = kinds[number % 4], ("away", "temporary", "zeros")[number // 4 % 3]
        case = bench.case(f"rename-{kind}-{way}")
        _begun(case, draw)
        if kind == "checkpoint":
            paths = _latest((case.store / "checkpoints").glob("*.pt"))[:1]
            temporary = [path.with_suffix(".1.tmp") for path in paths]
            case.kills += EPOCHS
        else:
            newest = max(case.finished, key=lambda run_id: (case.store / f"{run_id}.parquet").stat().st_mtime_ns)
            case.damaged.add(newest)
            paths = [case.store / f"{newest}.{suffix}" for suffix in (("npz", "parquet") if kind == "both" else (kind,))]
            gone = case.started[-1].pid
            temporary = [path.with_name(f".{path.name}.{_machine()}.{gone}.0a1b2c3d") for path in paths]
        for path, other in zip(paths, temporary, strict=True):
            if way == "zeros":
                path.write_bytes(bytes(path.stat().st_size))
            else:
                path.rename(other)
                if way == "away":
                    other.unlink()
        figures[list(figures)[number % 4]].count(len(paths) > 0, case.go_on())
    return figures


def corruption(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """Files cut, with a flipped bit or overwritten by zeros while nobody runs: rows, arrays, checkpoints, and the rest."""
    patterns = {"rows": "*.parquet", "arrays": "*.npz", "checkpoint": "checkpoints/*", "state, lock or log": "[rsl]*/*"}
    figures = {f"corrupt file: {name}": Figures() for name in patterns}
    for number in range(0, times, 2):
        case, names = bench.case("corrupt"), [list(patterns)[(number + k) % 4] for k in range(min(2, times - number))]
        _begun(case, draw)
        for name in names:
            _damage(case, draw.choice(sorted(path for path in case.store.glob(patterns[name]) if path.stat().st_size)), draw)
        case.go_on()
        for name in names:
            figures[f"corrupt file: {name}"].count(1, case)
    return figures


def _damage(case: Case, path: Path, draw: Random) -> None:
    way, content = draw.choice(("cut", "flip", "zeros")), bytearray(path.read_bytes())
    if way == "cut":
        del content[draw.randrange(len(content)) :]
    elif way == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        content = bytearray(len(content))
    path.write_bytes(content)
    case.damaged.add(path.stem)
    case.kills += EPOCHS
    with (case.folder / "damaged").open("a") as file:
        file.write(f"{way} {path}\n")


def compaction(bench: Bench, draw: Random, times: int) -> dict[str, Figures]:
    """A compaction that dies in each of its steps in turn, beside a store that is read."""
    figures = Figures()
    case = bench.case("compaction").go_on()
    program = "import sys; from xmbench.compact import compact; from xmbench.store import Store; compact(Store(sys.argv[1]))"
    for number in range(times):
        environment = {**case.environment, "XMBENCH_FAULT": f"die:{number + 1}"}
        ended = subprocess.run([sys.executable, "-c", program, str(case.store)], env=environment, check=False)
        figures.injected += ended.returncode == -signal.SIGKILL
        now = fingerprints(Store(case.store))
        figures.lost += len(set(bench.reference) - set(Store(case.store).finished()))
        changed = [run_id for run_id in bench.reference if now.get(run_id) != bench.reference[run_id]]
        figures.changed += len(changed)
        figures.survived += ended.returncode == -signal.SIGKILL and not changed
    compact(Store(case.store))
    case.go_on()
    figures.count(0, case)
    return {"SIGKILL of a compaction": figures}


FAULTS: dict[str, Callable[[Bench, Random, int], dict[str, Figures]]] = {
    fault.__name__: fault
    for fault in (
        kills, hangs, memory, interrupts, concurrent, full_disk, read_only, clock, lost_renames, corruption, compaction,
    )
}  # fmt: skip


def _ended(case: Case) -> Case:
    """The case, its sweep brought to its end."""
    return case if case.wait() == 0 else case.go_on()


def _begun(case: Case, draw: Random) -> None:
    """Have some runs finished and others in the middle, then all processes killed at once."""
    for _ in range(9):
        case.start()
        case.wait_for_work(draw.randrange(2, 10))
        case.kill_all()
        if case.finished and any((case.store / "checkpoints").iterdir()):
            return
    case.problems.append("nothing was finished after nine beginnings")


def _latest(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _fill(path: Path) -> None:
    """Write until there is no more space."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _mounted(path: Path, *arguments: str) -> bool:
    """Whether something could be mounted there."""
    try:
        return subprocess.run(["mount", *arguments, str(path)], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
