"""What supervision costs per run, and whether one run with two threads or two runs with one thread get more done.

    python scripts/bench_sweep.py [--runs 200] [--job overhead|placement]

Overhead: trivial runs, one after the other, in a process of their own (as `xmbench run` does it) and in this process,
alternated. What is printed per run is the time between two results less what the method's fit and its evaluation took: data,
noise, rows, two files brought to the disk, and the messages between processes. Goal: a median below 50 ms.

Placement: the same runs by 2 jobs x 1 thread and by 1 job x 2 threads, alternated; runs per minute. It says how many cores
were to be had, and gives no verdict below 1.8.
"""

import argparse
import tempfile
import time

import numpy as np
import psutil

from xmbench.engine import Engine
from xmbench.plan import plan
from xmbench.run import Settings
from xmbench.spec import Spec
from xmbench.store import Store
from xmbench.sweep import sweep, todo

TINY = {"ce": {"epochs": 1, "hidden": 8, "dim": 16}, "synthetic": {"train": 120, "valid": 60, "test": 80}}
REAL = {"mrl": {"epochs": 2}, "synthetic": {"train": 1000, "valid": 200, "test": 500}}


def grid(settings, seeds, rates):
    methods = tuple(name for name in settings if name != "synthetic")
    flat = tuple((owner, name, value) for owner, values in settings.items() for name, value in values.items())
    return plan(
        Spec(methods=methods, datasets=("synthetic",), rates=rates, seeds=tuple(range(seeds)), settings=flat), keep="none"
    )


def seconds_per_run(cells, engine, threads=1):
    """Seconds between results, and of fit and evaluation, run by run."""
    with tempfile.TemporaryDirectory() as folder:
        store, ends = Store(folder), []
        sweep(
            todo(cells, store),
            store,
            Settings(threads=threads),
            engine=engine,
            progress=lambda *_: ends.append(time.perf_counter()),
        )
        runs = store.rows().drop_duplicates("run_id")
    assert (runs["status"] == "ok").all()
    own = runs.sort_values("started")["fit_seconds"] + runs.sort_values("started")["eval_seconds"]
    return np.diff(ends), float(own.median())


def overhead(n_runs):
    cells = grid(TINY, n_runs // 20, tuple(rate / 20 for rate in range(20)))
    print(f"{len(cells)} trivial runs; ms per run, median [10 %, 90 %]; of them fit and evaluation; the rest")
    for _ in range(3):
        for name, engine in (("supervised", Engine()), ("in this process", None)):
            between, own = seconds_per_run(cells, engine)
            low, middle, high = np.quantile(between, (0.1, 0.5, 0.9)) * 1000
            print(f"{name:16s} {middle:7.1f} [{low:.1f}, {high:.1f}] {own * 1000:7.1f} {middle - own * 1000:7.1f}", flush=True)


def cores_to_be_had():
    """Cores that were idle over two seconds."""
    return psutil.cpu_count() * (1 - psutil.cpu_percent(2.0) / 100)


def placement():
    print("runs per minute by jobs x threads; cores to be had before it")
    found = {}
    for _ in range(3):
        for jobs, threads in ((2, 1), (1, 2)):
            cores = cores_to_be_had()
            between, _ = seconds_per_run(grid(REAL, 4, (0.0, 0.4)), Engine(jobs), threads)
            rate = 60 * len(between[jobs - 1 :]) / between[jobs - 1 :].sum()
            found.setdefault((jobs, threads), []).append((rate, cores))
            print(f"{jobs} x {threads}: {rate:6.1f} runs per minute, {cores:.2f} cores to be had", flush=True)
    if min(cores for rates in found.values() for _, cores in rates) < 1.8:
        print("no verdict: fewer than 1.8 cores were to be had")
    else:
        ratio = np.median([rate for rate, _ in found[2, 1]]) / np.median([rate for rate, _ in found[1, 2]])
        print(f"2 x 1 against 1 x 2: {ratio:.2f} times as many runs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--job", choices=["overhead", "placement", "both"], default="both")
    arguments = parser.parse_args()
    if arguments.job != "placement":
        overhead(arguments.runs)
    if arguments.job != "overhead":
        placement()
