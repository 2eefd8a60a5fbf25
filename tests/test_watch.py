"""Watching: what another process is shown of a sweep that runs, of one that was killed, and of single runs and their logs."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from xmbench import watching
from xmbench.compact import compact
from xmbench.live import claim, is_held, say, write_state
from xmbench.plan import plan
from xmbench.run import Settings, execute, failure_row
from xmbench.spec import Spec
from xmbench.store import Store

PATIENT = '''
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmbench import Embedding, Method, register_method


@register_method("patient", needs={"vectors"})
@dataclass(kw_only=True)
class Patient(Method):
    """Waits after its first epoch until a file is there."""

    until: str = ""

    def fit(self, train, context):
        for epoch in context.epochs(2, state={"nothing": np.zeros(1)}):
            context.end_epoch(loss=1.5 - epoch)
            while not Path(f"{self.until}{context.seed}").exists():
                time.sleep(0.02)

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, :4])
'''
DATA = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))
SETTINGS = [f"--set={owner}.{part}={n}" for owner, part, n in DATA]
A, B, C = "a" * 16, "a" * 8 + "b" * 8, "c" * 16


def until(true, seconds=120):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def cells(*methods, **changes):
    return plan(Spec(methods=methods, datasets=("synthetic",), **{"rates": (0.0,), "seeds": (0,), "settings": DATA, **changes}))


@pytest.fixture
def ended():
    """A store with runs that have no result: id -> (method, status, error)."""

    def fill(folder, runs):
        store, cell = Store(folder), cells("cca")[0]
        for number, (run_id, (method, status, error)) in enumerate(runs.items()):
            started = f"2026-01-01T00:00:{number:02}+00:00"
            store.write([{**failure_row(cell, status, error), "run_id": run_id, "method": method, "started": started}], {})
        return store

    return fill


def test_a_sweep_is_watched_while_it_runs_and_after_it_was_killed(tmp_path, xmbench, monkeypatch):
    """Two fits, each of two runs; the first is let go while its log is followed, and the sweep is killed in the second."""
    (tmp_path / "patient.py").write_text(PATIENT)
    arguments = ["run", "--plugin", "patient.py", "--methods", "patient", "--dataset", "synthetic", *SETTINGS, "--jobs", "1",
                 "--rates", "0,0.4", "--seeds", "2", f"--set=patient.until={tmp_path}/go", "--store", "s"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XMBENCH_ISOLATION": "1"}
    code = "import sys; sys.argv[0] = 'xmbench'; from xmbench.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    store = Store(tmp_path / "s")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as main:
        try:
            fit = until(lambda: next((fit for fit in watching.Watch(store).look().running if fit["epoch"]), None))
            found = xmbench("status", "--store", "s", "--format", "json").json
            sweep, first, shared = found["sweeps"][0], *fit["runs"]
            assert (found["counts"], found["ended"], len(found["running"])) == ({}, [], 1)
            assert sweep["command"] == "xmbench " + " ".join(arguments)
            assert (sweep["pid"], sweep["done"], sweep["planned"], sweep["running"]) == (main.pid, 0, 4, 1)
            assert (sweep["word"], sweep["failures"]) == ("go", {})
            assert (fit["method"], fit["noise"], fit["seed"], fit["epoch"], fit["epochs"], fit["loss"]) == (
                "patient", "symmetric@0", 0, 1, 2, 1.5,
            )  # fmt: skip
            assert 0 < fit["valid"] < 1 and fit["rss"] > 1e7 and fit["unheard"] < 60
            text = xmbench("status", "--store", "s").out
            assert f"loky x 1 on {sweep['host']}, process {main.pid}, since " in text
            assert ": 0 of 4 runs done, 1 fits running; " in text
            assert f"{first} and 1 more  patient on synthetic, symmetric@0, seed 0  epoch 1/2, loss 1.5, valid 0." in text
            assert xmbench("show", first[:6], "--store", "s", "--format", "json").json["running"]["epoch"] == 1

            for run_id in (first, shared):  # the log of the fit is that of both of its runs
                lines = xmbench("logs", run_id, "--store", "s").out.splitlines()
                assert lines[0].endswith(" patient on synthetic, symmetric@0, seed 0")
                assert [line.partition(":")[0].strip() for line in lines[1:3]] == [f"run {first}", f"run {shared}"]
                assert lines[-1].partition(" epoch")[2].startswith(" 1 of 2, loss 1.5, validation 0.")
            (tmp_path / "go0").touch()
            followed = xmbench("logs", shared, "-f", "--store", "s")
            assert followed.err == f"run {shared} has ended: ok\n"
            assert f"run {first}: ok\n" in followed.out
            assert f"run {shared}: ok\n" in followed.out

            second = until(lambda: next((f for f in watching.Watch(store).look().running if f["seed"] == 1), None))
            sweep = until(lambda: next((s for s in watching.Watch(store).look().sweeps if s["done"] == 2), None))
            assert 0 <= sweep["seconds_left"] < 600  # one fit has shown how long the other one takes
            say(store.folder("sweeps"), sweep["sweep"], "drain")
            assert xmbench("status", "--store", "s").out.count("2 of 4 runs done, 1 fits running; drains: what has begun") == 1
            threading.Timer(0.5, os.kill, (main.pid, signal.SIGKILL)).start()
            monkeypatch.setattr("xmbench.watch_cli._SECONDS_ELSEWHERE", 0.2)
            assert xmbench("status", "--watch", "--store", "s").code == 0  # until the sweep is dead
            until(lambda: watching.running_fit(store, second["runs"][0]) is None)
        finally:
            main.kill()
    text = xmbench("status", "--store", "s").out
    assert "no sweep lives" in text
    assert f", 2 of 4 runs done; to go on:\n  {sweep['command']}\n" in text
    assert text.endswith("in the store: 2 ok\n")
    again = xmbench("logs", second["runs"][0], "-f", "--store", "s")
    assert again.err == f"run {second['runs'][0]} has ended: without a result\n"
    gone = xmbench("show", second["runs"][1], "--store", "s")
    assert (gone.code, gone.err) == (
        2, f"Error: run {second['runs'][1]} has not ended, and nobody is at it now; see `xmbench logs {second['runs'][1]}`\n",
    )  # fmt: skip


def test_show_has_everything_of_a_run(tmp_path, xmbench):
    store, mrl = Store(tmp_path / "s"), (("mrl", "hidden", 16), ("mrl", "dim", 16), ("mrl", "epochs", 2))
    cell = cells("mrl", rates=(0.4,), settings=(*DATA, *mrl))[0]
    execute([cell], store, Settings(threads=1), {})
    rows, run_id = store.rows(), cell.run.run_id
    facts = xmbench("show", run_id[:5], "--store", "s", "--format", "json").json
    first = rows.iloc[0]
    for name in "run_id status method noise_sha realised_rate fit_seconds peak_rss git_commit device seed".split():
        assert facts[name] == first[name]
    assert facts["params"]["hidden"] == 16
    assert json.loads(first["versions"]) == facts["versions"]
    assert (facts["stale"], "error" in facts, facts["last_epoch"]) == (False, False, 1)
    assert facts["files"] == {name: (tmp_path / "s" / name).stat().st_size for name in (f"{run_id}.parquet", f"{run_id}.npz")}
    for record in facts["metrics"]:
        alike = rows.query("split == @record['split'] and selection == @record['selection']")
        alike = alike.query("direction == @record['direction'] and network == 'mean' and metric == 'map'")
        assert record["map"] == alike["value"].item()
    assert len(facts["metrics"]) == 2 * 2 * 3  # splits, selections, directions
    text, table = (xmbench("show", "mrl", "--store", "s", "--format", form).out for form in ("table", "csv"))
    assert f"\n  {run_id}.npz: " in text
    assert "\nparams.hidden,16" in table
    assert "\nvalid best_valid mean map,0." in table


def test_runs_without_a_result_are_counted_by_reason(tmp_path, xmbench, ended):
    log = "the process of the run ended by SIGABRT; its log: s/logs/"
    runs = {f"{k:016x}": ("cca", "failed", f"Traceback\nValueError: {k} items are too few") for k in range(30)}
    runs |= {f"{k:016x}": (f"m{k % 2}", "crashed", f"{log}{k}.log") for k in range(30, 32)}
    runs |= {f"{k:016x}": ("cca", "skipped", f"no data of kind {chr(k)}") for k in range(64, 80)}
    ended(tmp_path / "s", runs)
    found = xmbench("status", "--store", "s", "--format", "json").json
    assert found["counts"] == {"failed": 30, "crashed": 2, "skipped": 16}
    assert [reason["runs"] for reason in found["without_result"]] == [30, 2, *[1] * 8]
    lines = xmbench("status", "--store", "s").out.splitlines()
    assert lines[-10] == f"  failed, 30 of cca, such as {0:016x}: ValueError: 0 items are too few"
    assert lines[-9] == f"  crashed, 2 of m0, m1, such as {30:016x}: {log}30.log"
    table = xmbench("status", "--store", "s", "--format", "csv").out.splitlines()
    assert table[0].startswith("kind,status,runs,methods,reason,example")
    assert sum(line.startswith("runs,") for line in table) == 3


def test_a_run_is_named_by_the_beginning_of_its_id_or_its_method(tmp_path, xmbench, ended):
    ended(tmp_path / "s", {A: ("cca", "failed", "x"), B: ("cca", "failed", "y"), C: ("pls", "timeout", "z")})
    for text, run_id in ((A, A), ("a" * 8 + "b", B), ("c", C), ("pls", C)):
        assert xmbench("show", text, "--store", "s", "--format", "json").json["run_id"] == run_id
    several = xmbench("show", "a", "--store", "s")
    assert (several.code, several.out) == (2, "")
    assert several.err.splitlines() == [
        "Error: 'a' may be any of 2 runs; give more of an id:",
        f"  {B}  cca on synthetic, symmetric@0, seed 0: failed",  # the newest first
        f"  {A}  cca on synthetic, symmetric@0, seed 0: failed",
    ]
    assert xmbench("logs", "d" * 16, "--store", "s").err.splitlines()[0] == f"Error: no run '{'d' * 16}' in s; there are:"
    assert xmbench("logs", C, "--store", "s").code == 6
    assert xmbench("status", "--store", "nowhere").code == 6
    assert not (tmp_path / "nowhere").exists()


def test_a_log_is_followed_through_whatever_becomes_of_its_file(tmp_path, xmbench, ended, monkeypatch):
    """Each wait of the follower is a step: the run begins, its log grows, is cut, is replaced, and the run ends."""
    store = ended(tmp_path / "s", {})
    sweeps, log = store.folder("sweeps"), store.log(A)
    steps = iter([
        lambda: None,
        lambda: log.write_text("one\n"),
        lambda: log.write_text("one\ntwo\n"),
        lambda: log.write_text("cut\n"),
        lambda: (log.with_name("new").write_text("another file\n"), log.with_name("new").replace(log)),
        lambda: ended(tmp_path / "s", {A: ("cca", "failed", "x")}),
    ])  # fmt: skip
    monkeypatch.setattr(watching, "time", type("time", (), {"sleep": lambda seconds: next(steps)()}))
    with claim(sweeps, "id"):
        write_state(sweeps, "id", {})
        done = xmbench("logs", A, "-f", "--store", "s")
    assert done.out == "one\ntwo\ncut\nanother file\n"
    assert done.err == f"run {A} has not begun yet\nrun {A} has ended: failed\n"
    assert next(steps, None) is None


def test_a_clock_that_is_off_is_no_reason_to_worry(tmp_path, monkeypatch):
    store = Store(tmp_path)
    folder, waits = store.folder("running"), []
    hour_ago = time.time() - 3600

    def write(loss):
        write_state(folder, "fit", {"runs": [A], "loss": loss})
        os.utime(folder / "fit.json", (hour_ago + loss, hour_ago + loss))

    with claim(folder, "fit"):
        write(1)
        monkeypatch.setattr(watching.time, "sleep", lambda seconds: waits.append(seconds) or write(2))
        assert watching.Watch(store).look().running[0]["unheard"] < 60  # it changed between two looks
        monkeypatch.setattr(watching.time, "sleep", waits.append)
        assert 3500 < watching.Watch(store).look().running[0]["unheard"] < 3700
        write_state(folder, "fit", {"runs": [A], "loss": float("nan")})
        assert watching.Watch(store).look().running[0]["loss"] is None
    assert len(waits) == 2
    assert watching.Watch(store).look().running == []


def test_those_who_look_at_a_lock_do_not_see_each_other(tmp_path):
    with claim(tmp_path, "fit"):
        assert is_held(tmp_path, "fit")
    assert not (tmp_path / "fit.lock").exists()
    (tmp_path / "fit.lock").touch(mode=0o444)
    with (tmp_path / "fit.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not is_held(tmp_path, "fit")
    assert not is_held(tmp_path, "none")
    assert not (tmp_path / "none.lock").exists()


def test_the_runs_of_a_store_are_its_rows_by_run(tmp_path):
    store = Store(tmp_path)
    for cell in cells("cca", "pls", seeds=(0, 1)):
        execute([cell], store, Settings(threads=1), {})
    expected = store.rows(["run_id", "method", "seed"]).drop_duplicates("run_id").set_index("run_id").sort_index()
    compact(store)
    assert not list(tmp_path.glob("*.parquet"))
    store.write([failure_row(cell, "failed", "x")], {})  # one has a file of its own again, which holds
    found = store.runs(["method", "seed", "status"]).set_index("run_id").sort_index()
    assert found[["method", "seed"]].equals(expected)
    assert found["status"].to_dict() == {run_id: "failed" if run_id == cell.run.run_id else "ok" for run_id in expected.index}


def test_status_needs_no_torch(python, tmp_path, ended):
    ended(tmp_path / "s", {A: ("cca", "failed", "x")})
    call = "from xmbench.cli import cli; cli(['status', '--store', 's'], standalone_mode=False)"
    done = python("-c", f"import sys; {call}; assert 'torch' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")
    assert "in the store: 1 failed" in done.stdout
