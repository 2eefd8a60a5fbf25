"""What sweeps survive: every kind of fault a few times, and the single steps that a fault once broke."""

import io
import os
import queue
import random
import subprocess
import sys

import psutil
import pytest
import torch
from conftest import ROOT
from fault_bench import Bench
from faults import FAULTS

from xmbench.live import claim, remove_dead, write_state
from xmbench.method import _dump, _load
from xmbench.plan import plan
from xmbench.registry import _METHODS, load_plugin
from xmbench.run import Settings
from xmbench.spec import Spec
from xmbench.store import Store
from xmbench.supervisor import Report, _Child
from xmbench.sweep import Engine, _results, sweep, todo

DATA = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))
FEW = {"kills": 3, "interrupts": 3, "concurrent": 2, "full_disk": 2, "lost_renames": 4, "corruption": 4, "compaction": 8}


def grid(*methods, **changes):
    return plan(Spec(methods=methods, datasets=("synthetic",), settings=DATA, **{"rates": (0.0,), "seeds": (0,), **changes}))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("faults"))
    yield bench.measure()
    bench.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_changed_or_done_twice(name, bench):
    for kind, figures in FAULTS[name](bench, random.Random(name), FEW.get(name, 1)).items():
        assert figures.problems == [], kind
        assert figures.survived == figures.injected


def test_a_checkpoint_with_a_flipped_bit_is_not_gone_on_from(tmp_path):
    path, weights = tmp_path / "fit.pt", torch.linspace(-1, 1, 500)
    _dump(path, {"state": {"w": weights}})
    assert torch.equal(_load(path)["state"]["w"], weights)
    content = bytearray(path.read_bytes())
    content[content.find(weights.numpy().tobytes()) + 1001] ^= 4
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["state"]["w"], weights)  # which torch does not tell
    assert _load(path) is None
    assert not path.exists()


def test_a_run_whose_arrays_are_gone_is_done_again(tmp_path):
    store, cells = Store(tmp_path), grid("cca")
    sweep(todo(cells, store), store, Settings())
    run_id = cells[0].run.run_id
    before = store.arrays(run_id)
    (tmp_path / f"{run_id}.npz").unlink()
    assert store.finished() == {}
    assert not store.holds(run_id, cells[0].score_key, cells[0].source_sha)
    assert sweep(todo(cells, store), store, Settings()).counts == {"ok": 1}
    again = store.arrays(run_id)
    assert {name: array.tobytes() for name, array in again.items()} == {name: a.tobytes() for name, a in before.items()}


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_run_is_not_copied_from_one_that_was_damaged_meanwhile(tmp_path, suffix):
    store = Store(tmp_path)
    first, both = grid("cca"), grid("cca", rates=(0.0, 0.4))
    sweep(todo(first, store), store, Settings())
    work = todo(both, store)
    assert len(work.known) == 1  # the noise means nothing to a method without labels
    (tmp_path / f"{first[0].run.run_id}.{suffix}").write_bytes(b"")
    assert sweep(work, store, Settings()).counts == {"ok": 1}
    assert store.arrays(both[1].run.run_id)
    assert sweep(todo(both, store), store, Settings()).counts == {"ok": 1}
    values = (
        store.rows().query("metric == 'map' and direction == 'mean' and split == 'test'").groupby("run_id")["value"].first()
    )
    assert values.nunique() == 1
    assert len(values) == 2


def test_a_failure_does_not_replace_what_another_sweep_has_finished(tmp_path):
    store, cells = Store(tmp_path), grid("cca")
    work, [cell] = todo(cells, store), cells
    by_id, late = {cell.run.run_id: cell}, Report(cell.fit_key, status="crashed", error="killed")
    with claim(store.folder("running"), cell.fit_key):  # it is being done again
        assert list(_results(late, work, store, by_id)) == []
    sweep(work, store, Settings())
    assert list(_results(late, work, store, by_id)) == [(cell.run.run_id, "ok")]
    assert set(store.rows()["status"]) == {"ok"}


def test_half_a_line_of_a_child_that_was_killed_is_no_news():
    child = _Child.__new__(_Child)
    child.news, child.process = queue.Queue(), type("Process", (), {"stdout": io.StringIO('{"epoch": 1}\n{"stored": "0')})
    child._listen()
    assert [child.news.get_nowait(), child.news.get_nowait()] == ['{"epoch": 1}\n', None]


def test_what_the_killed_leave_is_removed_and_nothing_of_the_living(tmp_path):
    for name in ("dead.lock", "dead.json", ".dead.host-1", "late.lock", "late.drain", "late.stop"):
        (tmp_path / name).write_text("{}")
    with claim(tmp_path, "living"):
        write_state(tmp_path, "living", {})
        remove_dead(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["living.json", "living.lock"]
    assert not list(tmp_path.iterdir())


IDLE = """
import os, sys, time
from xmbench.supervisor import end_with
end_with(os.getppid())
print(os.getpid(), flush=True)
time.sleep(1000)
"""
MAIN = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_supervisor_that_waits_ends_with_its_sweep(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", MAIN, IDLE], env=environment, stdout=subprocess.PIPE, text=True) as main:
        supervisor = psutil.Process(int(main.stdout.readline()))
        main.kill()
        gone, _ = psutil.wait_procs([supervisor], timeout=20)
        assert gone == [supervisor]


DEAF = """
import signal
from joblib.externals.loky.backend import resource_tracker as of_loky
from multiprocessing import resource_tracker
from xmbench.engine import _deaf_children
with _deaf_children():
    resource_tracker.ensure_running(), of_loky.ensure_running()
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_what_starts_with_a_sweep_does_not_hear_its_ctrl_c():
    done = subprocess.run(
        [sys.executable, "-c", DEAF], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


FORKING = '''
import os, signal, time
from dataclasses import dataclass

from xmbench import Method, register_method


@register_method("forking", needs={"vectors"})
@dataclass(kw_only=True)
class Forking(Method):
    """Ends while a process that it has started lives on."""

    def fit(self, train, context):
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)

    def embed(self, modality):
        raise AssertionError("its fit does not come to an end")
'''


def test_the_end_of_a_child_is_seen_where_what_it_started_lives_on(tmp_path):
    file = tmp_path / "forking.py"
    file.write_text(FORKING)
    load_plugin(file)
    store, cells = Store(tmp_path / "store"), grid("forking")
    try:
        outcome = sweep(todo(cells, store), store, Settings(plugins=(str(file),)), engine=Engine())
    finally:
        del _METHODS["forking"]
    assert outcome.counts == {"crashed": 1}
