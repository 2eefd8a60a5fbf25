"""A sweep under supervision: what becomes of runs that crash, hang, or take the memory, and of those beside them."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT

from xmbench import device
from xmbench.cost import Cost
from xmbench.engine import Control, Engine, run_jobs
from xmbench.live import Claimed, claim, heard, is_held, read_states, remove_dead, write_state
from xmbench.plan import from_json, plan, to_json
from xmbench.registry import _METHODS, load_plugin
from xmbench.run import Settings
from xmbench.spec import Spec, load_spec
from xmbench.store import Store
from xmbench.supervisor import Job, Report, end_child, supervise
from xmbench.sweep import RETRIED, ordered, sweep, todo

UNRULY = '''
import os
import time
from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, Method, register_method


@register_method("unruly", needs={"vectors"})
@dataclass(kw_only=True)
class Unruly(Method):
    """Does a deed in its fit; says something first."""

    deed: str = "none"

    def fit(self, train, context):
        print("the deed:", self.deed)
        if self.deed == "crash":
            os.abort()
        if self.deed == "exit":
            os._exit(3)
        if self.deed == "hang":
            time.sleep(1000)
        if self.deed == "hog":
            held = [np.ones(2**22) for _ in range(40)]  # 1.3 GB
            time.sleep(1000)
        if self.deed == "memory":
            raise MemoryError("no more")
        if self.deed == "raise":
            raise ValueError("a deed")

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, :4])
'''
DATA = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))


@pytest.fixture
def unruly(tmp_path):
    """The plug-in's file, known to this process too; forgotten after the test."""
    file = tmp_path / "unruly.py"
    file.write_text(UNRULY)
    load_plugin(file)
    yield str(file)
    del _METHODS["unruly"]


def grid(*methods, deeds=(), **changes):
    variants = {deed: {"method": "unruly", "deed": deed} for deed in deeds}
    fields = {"rates": (0.0,), "seeds": (0,), "settings": DATA, "variants": variants, **changes}
    return plan(Spec(methods=(*deeds, *methods), datasets=("synthetic",), **fields))


DEVICES = ("cpu:0", "cpu:1")


def request(group, store, plugin):
    settings = {"device": "cpu", "threads": 1, "checkpoint_seconds": 60.0, "plugins": (plugin,)}
    return {"cells": [to_json(cell) for cell in group], "store": str(store), "settings": settings, "known": {}}


def values(store):
    rows = store.rows().query("status == 'ok'")
    return rows.set_index(["run_id", "split", "selection", "direction", "metric"])["value"].sort_index()


def test_a_run_takes_its_process_with_it_and_nothing_else(tmp_path, unruly):
    cells = grid("cca", deeds=("crash", "none", "exit", "hog", "memory", "raise"))
    store, settings = Store(tmp_path / "store"), Settings("cpu", plugins=(unruly,))
    outcome = sweep(todo(cells, store), store, settings, engine=Engine(max_rss=1.2e9))
    assert outcome.counts == {"ok": 2, "crashed": 2, "oom": 2, "failed": 1}
    ended = store.rows().drop_duplicates("run_id").set_index("method")
    last = {name: str(error).splitlines()[-1] for name, error in ended["error"].dropna().items()}
    assert last["crash"].startswith("the process of the run ended by SIGABRT; its log: ")
    assert last["exit"].startswith("the process of the run ended with exit code 3; its log: ")
    assert re.fullmatch(r"took 1\.\d+ GB of memory, --max-rss allows 1.2 GB", last["hog"])
    assert (ended.loc["memory", "status"], last["memory"]) == ("oom", "MemoryError: no more")
    assert "the deed: crash\n" in ended.loc["crash", "error"]  # the last lines of the log
    assert "ValueError: a deed" in store.log(ended.loc["raise", "run_id"]).read_text()
    alone = Store(tmp_path / "alone")
    sweep(todo(grid("cca", deeds=("none",)), alone), alone, settings)
    assert values(alone).equals(values(store))
    assert not list((tmp_path / "store" / "running").iterdir())


def test_a_run_that_hangs_ends_by_its_timeout(tmp_path, unruly):
    store = Store(tmp_path / "store")
    work = todo(grid(deeds=("hang",)), store)
    assert sweep(work, store, Settings(plugins=(unruly,)), engine=Engine(timeout=2.0)).counts == {"timeout": 1}
    row = store.rows().iloc[0]
    assert row["error"].splitlines()[-2:] == ["the deed: hang", "ran longer than --timeout allows (2 s)"]
    assert 2.0 <= row["fit_seconds"] < 60.0


def test_what_is_retried(tmp_path, unruly):
    cells = grid(deeds=("raise", "memory"))
    store = Store(tmp_path / "store")
    sweep(todo(cells, store), store, Settings())
    by_default, all_of_them = todo(cells, store), todo(cells, store, retry=RETRIED | {"oom"})
    assert [[c.run.method for c in group] for group in by_default.groups] == [["raise"]]
    assert [cell.run.method for cell in by_default.given_up] == ["memory"]
    assert len(all_of_them.groups) == 2
    assert not todo(cells, store, retry=frozenset()).groups
    changed = [replace(cell, source_sha="another") for cell in cells]  # a mended method is tried again
    assert len(todo(changed, store, retry=frozenset()).groups) == 2


def test_a_method_that_changed_after_the_plan_is_no_result(tmp_path, unruly):
    """The row would name the planned source, the child has loaded another one."""
    store = Store(tmp_path / "store")
    cells = [replace(cell, source_sha="0" * 16) for cell in grid(deeds=("none",))]
    outcome = sweep(todo(cells, store), store, Settings(plugins=(unruly,)), engine=Engine())
    assert outcome.counts == {"failed": 1}
    assert "the file of unruly was changed since the sweep began: start it again" in store.rows()["error"].iloc[0]


def test_cells_survive_json():
    noises = ("symmetric+caption_shuffle@0.2", "symmetric_exclusive")
    tuned = load_spec("mrl_table1").narrowed(datasets=("synthetic",), methods=("mrl", "ce"), schemes=noises, rates=(0.4,))
    for cell in plan(replace(tuned, seeds=(0,), dataset_settings={}, tune={"all": "random:2"})):
        if cell.fit_key:
            again = from_json(json.loads(json.dumps(to_json(cell))))
            assert again == cell
            assert again.run.run_id == cell.run.run_id


def test_devices_are_shared_out(monkeypatch):
    monkeypatch.setattr(device, "found_devices", lambda: ("cuda:0", "cuda:1"))
    assert device.choose_devices(None, 2, None, 8) == ("cuda:0", "cuda:1") * 2
    assert device.choose_devices(None, 2, 3, 8) == ("cuda:0", "cuda:1", "cuda:0")
    with pytest.raises(ValueError, match="--jobs must be at most 2, 1 on each of cuda:0, cuda:1, got 3; raise --per-device"):
        device.choose_devices(None, 1, 3, 8)
    monkeypatch.setattr(device, "found_devices", lambda: ("cpu",))
    assert device.choose_devices(None, 1, None, 3) == ("cpu",) * 3
    assert device.choose_devices(["cpu"], 1, 5, 3) == ("cpu",) * 5


def test_every_supervisor_has_a_device_of_its_own(tmp_path):
    store = Store(tmp_path)
    cells = grid("cca", "pls", seeds=tuple(range(4)))
    outcome = sweep(todo(cells, store), store, Settings(), engine=Engine(jobs=2, devices=("cpu:0", "cpu:1")))
    assert outcome.counts == {"ok": 8}
    assert set(store.rows()["device"]) == {"cpu:0", "cpu:1"}
    assert set(store.rows()["threads"]) == {1}


def test_more_supervisors_than_devices_take_turns(tmp_path, unruly):
    """As on a node of a cluster with more workers than GPUs: two threads here, one place for both."""
    store = Store(tmp_path / "store")
    work = todo(grid("cca", deeds=("none",)), store)
    jobs = [
        Job(
            group[0].fit_key,
            (group[0].run.run_id,),
            request(group, store, unruly),
            {},
            str(store),
            f"s{os.getpid()}",
            DEVICES,
            1,
        )
        for group in work.groups
    ]
    with ThreadPoolExecutor(2) as pool, patch("xmbench.supervisor.enumerate", lambda devices: [(0, devices[0])], create=True):
        reports = list(pool.map(supervise, jobs))
        list(pool.map(lambda _: end_child(), range(2)))
    assert [list(report.stored.values()) for report in reports] == [["ok"], ["ok"]]
    assert set(store.rows()["device"]) == {"cpu:0"}


def test_orders(tmp_path):
    cells = grid("cca", "pls", "random", seeds=(0, 1))
    work = todo(cells, Store(tmp_path))
    seconds = {"cca": 3.0, "pls": 1.0}  # of random nothing is known
    costs = {
        cell.fit_key: Cost(seconds=seconds[cell.run.method], low=0.0, high=9.0, peak_rss=0.0, bytes=0.0, source="equal")
        for cell in cells
        if cell.run.method in seconds
    }

    def names(order):
        return [(group[0].run.method, group[0].run.seed) for group in ordered(work, order, costs).groups]

    first = ["cca", "pls", "random"]
    assert names("seeds") == [(name, seed) for seed in (0, 1) for name in first]
    assert names("method") == [(name, seed) for name in first for seed in (0, 1)]
    assert names("cheap") == [(name, seed) for name in ("pls", "cca", "random") for seed in (0, 1)]


def test_a_sweep_stops_when_its_time_is_up_and_goes_on_later(tmp_path, unruly):
    store, settings = Store(tmp_path / "store"), Settings(plugins=(unruly,))
    cells = grid("cca", deeds=("hang",))
    outcome = sweep(todo(cells, store), store, settings, engine=Engine(max_seconds=3.0))
    assert (outcome.time_up, outcome.counts.get("timeout")) == (True, None)
    left = {group[0].run.method for group in todo(cells, store).groups}
    assert left == {"hang", "cca"}  # what was stopped has no row: it is to do
    assert not list((tmp_path / "store" / "sweeps").iterdir())


def test_what_another_sweep_does_is_waited_for_and_not_done_twice(tmp_path):
    store, cells = Store(tmp_path), grid("cca", "pls")
    work = todo(cells, store)
    sweep(todo(cells[:1], store), store, Settings())  # the other sweep comes first with one of them
    before = (tmp_path / f"{cells[0].run.run_id}.parquet").stat().st_mtime_ns
    assert sweep(work, store, Settings(), engine=Engine()).counts == {"ok": 2}
    assert (tmp_path / f"{cells[0].run.run_id}.parquet").stat().st_mtime_ns == before


def test_busy_jobs_are_asked_for_again(tmp_path, monkeypatch):
    asked = []

    def supervised(job):
        asked.append(job.fit_key)
        return (
            Report(job.fit_key, {}, "busy") if asked.count("a") < 2 and job.fit_key == "a" else Report(job.fit_key, {"r": "ok"})
        )

    monkeypatch.setattr("xmbench.engine.supervise", supervised)
    monkeypatch.setattr("xmbench.engine._BUSY_SECONDS", 0.0)

    def job(key):
        return Job(key, (), {}, {}, str(tmp_path), "s", ("cpu",), 1)

    assert [report.fit_key for report in run_jobs(["a", "b"], job, Engine(), Control(tmp_path))] == ["b", "a"]
    assert asked == ["a", "b", "a"]


HOLDER = """
import sys, time
from pathlib import Path
from xmbench.live import claim, write_state
with claim(Path(sys.argv[1]), "fit"):
    write_state(Path(sys.argv[1]), "fit", {"epoch": 3})
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_claim_ends_with_its_holder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(tmp_path, "fit")
        with pytest.raises(Claimed), claim(tmp_path, "fit"):
            pass
        remove_dead(tmp_path)
        assert read_states(tmp_path) == {"fit": {"epoch": 3}}
        holder.kill()
    assert not is_held(tmp_path, "fit")
    remove_dead(tmp_path)
    assert read_states(tmp_path) == {}
    with claim(tmp_path, "fit"):
        assert is_held(tmp_path, "fit")


def test_states_of_others_are_read_whatever_they_hold(tmp_path):
    write_state(tmp_path, "good", {"epoch": np.int64(3).item()})
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    assert read_states(tmp_path) == {"good": {"epoch": 3}}
    write_state(tmp_path / "nowhere", "x", {})  # a disk that takes nothing stops nothing
    assert heard(tmp_path / "nowhere", "s") == "go"


def test_a_child_that_cannot_start_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(Path(sys.executable)))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # no xmbench there
    store, cells = Store(tmp_path / "store"), grid("cca")
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    environment = tmp_path / "xmbench"
    environment.mkdir()
    (environment / "__init__.py").write_text("raise ImportError('half installed')")
    assert sweep(todo(cells, store), store, Settings(), engine=Engine()).counts == {"crashed": 1}
    assert "ImportError: half installed" in store.rows()["error"].iloc[0]
