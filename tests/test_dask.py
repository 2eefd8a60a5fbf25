"""Sweeps over a running Dask cluster, its scheduler and workers being processes of their own: one is killed, one is added."""

import json
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from fault_bench import Bench, Case
from faults import interrupts, kills

from xmbench.engine import Control, Engine
from xmbench.plan import cached_dataset, plan
from xmbench.run import Settings
from xmbench.spec import Spec, canonical
from xmbench.store import Store
from xmbench.sweep import _job, todo

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow


class Cluster:
    """A scheduler, and workers of one thread each, which belong to a case."""

    def __init__(self, case: Case) -> None:
        self.case, self.file = case, case.folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.file.unlink(missing_ok=True)
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        while not self.file.exists() or not self.file.read_text().endswith("}"):
            assert self.processes[0].poll() is None, self.said(0)
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def add_worker(self) -> "subprocess.Popen[bytes]":
        """One more; it is there within seconds."""
        local = str(self.case.folder / "tmp")
        return self._start(
            "worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--local-directory", local
        )

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(self.file)]
        with (self.case.folder / f"cluster-{len(self.processes)}").open("wb") as out:
            process = subprocess.Popen(command, env=self.case.environment, stdout=out, stderr=out, start_new_session=True)
        self.processes.append(process)
        return process

    def said(self, number: int) -> str:
        return (self.case.folder / f"cluster-{number}").read_text()

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("dask"), "dask")
    yield bench.measure()
    bench.close()


@contextmanager
def cluster(bench, name, n_workers):
    case = bench.case(name)
    running = Cluster(case)
    try:
        for _ in range(n_workers):
            running.add_worker()
        yield case, running
    finally:
        running.close()


def epochs(case):
    """Process -> (seed, epoch, loads of a dataset) of each epoch of the steady method."""
    found = defaultdict(list)
    for line in (case.folder / "epochs").read_text().splitlines():
        process, *rest = map(int, line.split())
        found[process].append(rest)
    return found


def epochs_of_worker(case, worker):
    """How many epochs the children of a worker have gone through."""
    children = {process.pid for process in psutil.Process(worker.pid).children()}
    return sum(len(lines) for process, lines in epochs(case).items() if process in children)


def holds(case):
    lost, changed, redone, problems = case.verdict()
    assert (lost, changed, redone, problems) == (set(), set(), [], [])


def test_values_are_those_of_one_process_and_data_are_loaded_once_per_worker(bench):
    with cluster(bench, "plain", 2) as (case, running):
        case.start("--scheduler", running.address)
        assert case.wait() == 0, case.said()
        found = epochs(case)
        assert len(found) == 2  # one child per worker
        assert {loads for lines in found.values() for _, _, loads in lines} == {1}
    holds(case)


def test_a_single_worker_has_the_jobs_and_not_the_command(bench):
    """joblib executes in its own process what has but one place to go to."""
    with cluster(bench, "single", 1) as (case, running):
        case.start("--scheduler", running.address)
        case.wait_for_work(4)
        assert epochs_of_worker(case, running.processes[1]) >= 4
        assert case.wait() == 0, case.said()
    holds(case)


def test_jobs_hold_no_data(tmp_path):
    cells, store = plan(Spec(methods=("ce",), datasets=("synthetic",), rates=(0.4,), seeds=(0,))), Store(tmp_path)
    work = todo(cells, store)
    job = _job(work.groups[0], work, store, Settings(), Engine(backend="dask"), Control(tmp_path))
    train = cached_dataset("synthetic", canonical(dict(cells[0].run.dataset_parameters))).train
    assert len(pickle.dumps(job)) < 10_000 < sum(np.asarray(m.vectors).nbytes for m in train.modalities)


def test_a_worker_is_killed_and_one_is_added_on_the_way(bench):
    with cluster(bench, "workers", 2) as (case, running):
        case.start("--scheduler", running.address)
        case.wait_for_work(4)
        _, killed, halted = running.processes
        killed.kill()
        case.kills += 1
        halted.send_signal(signal.SIGSTOP)  # so that there is work left, however long the new one takes to start
        added, until = running.add_worker(), time.monotonic() + 120
        while (taken := epochs_of_worker(case, added)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        halted.send_signal(signal.SIGCONT)
        assert taken >= 2
        assert case.wait() == 0, case.said()
        found = epochs(case)
        assert Counter(loads for lines in found.values() for _, _, loads in lines).keys() == {1}
    holds(case)


def test_all_workers_are_killed_and_others_come(bench):
    with cluster(bench, "all", 2) as (case, running):
        case.start("--scheduler", running.address)
        case.wait_for_work(4)
        for worker in running.processes[1:]:
            worker.kill()
            case.kills += 1
        time.sleep(1)
        running.add_worker()
        assert case.wait() == 0, case.said()
    holds(case)


def test_a_scheduler_that_is_killed_ends_the_sweep_and_another_one_goes_on(bench):
    with cluster(bench, "scheduler", 2) as (case, running):
        case.start("--scheduler", running.address)
        case.wait_for_work(4)
        running.processes[0].kill()
        assert case.wait() == 3, case.said()
        assert f"the Dask cluster at {running.address} is gone" in case.said()
    case.kills += 2
    running = Cluster(case)
    try:
        running.add_worker()
        case.start("--scheduler", running.address)
        assert case.wait() == 0, case.said()
    finally:
        running.close()
    holds(case)


def test_the_main_process_is_killed(bench):
    with cluster(bench, "main", 2) as (case, running):
        for epochs_before in (0, 6):
            main = case.start("--scheduler", running.address)
            case.wait_for_work(epochs_before)
            main.kill()
            main.wait()
        case.kills += 1
        case.start("--scheduler", running.address)
        assert case.wait() == 0, case.said()
    holds(case)


@pytest.mark.parametrize(("fault", "times"), [(kills, 3), (interrupts, 2)])
def test_a_cluster_of_the_command_survives_faults(fault, times, bench):
    for kind, figures in fault(bench, random.Random(fault.__name__), times).items():
        assert figures.problems == [], kind
        assert figures.survived == figures.injected
