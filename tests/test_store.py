"""The store: whole files or none, what is damaged set aside and done again, one table for all, and a safe filter."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import xmbench as xb
from xmbench import store as store_module
from xmbench.plan import plan
from xmbench.registry import module_sha
from xmbench.run import Settings
from xmbench.spec import Spec
from xmbench.store import COLUMNS, SCHEMA_VERSION, Store, StoreError, mark_stale, save_rows, where_rows
from xmbench.sweep import sweep, todo

ARCHITECTURE = (
    "run_id fit_key status error dataset dataset_params features noise_scheme noise_rate realised_rate noise_sha noise_options "
    "method method_version source_sha params seed protocol valid_labels tuning trial split fold network selection epoch "
    "direction metric value n_queries n_networks oracle fit_seconds eval_seconds cpu_seconds peak_rss device threads "
    "git_commit versions started schema_version"
).split()
ARRAYS = {"per_query/test": np.linspace(0, 1, 2000), "class_names": np.array(["a", "bc"])}


def row(run_id="a" * 16, **changes):
    return {
        "run_id": run_id, "status": "ok", "score_key": "s", "source_sha": "x", "fit_seconds": 1.5, "method": "cca",
        "implementation": "cca", "dataset": "toy", "params": "{}", "dataset_params": "{}", "noise_rate": 0.4, "seed": 0,
        "split": "test", "metric": "map", "value": 0.5, "oracle": False, **changes,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """A store with two runs, `aaaa...` with arrays and `bbbb...` without."""
    filled = Store(tmp_path / "store")
    filled.write([row(), row(metric="r@1", value=None)], ARRAYS)
    filled.write([row("b" * 16, status="failed", error="Traceback\nValueError: no", value=None)], {})
    return filled


def names(store):
    return sorted(path.name for path in store.path.iterdir())


def refill(path, change):
    """Replace a file's bytes by `change` of them."""
    path.write_bytes(change(path.read_bytes()))


# rows


def test_the_columns_are_those_of_the_architecture_in_its_order():
    assert [name for name in COLUMNS if name in ARCHITECTURE] == ARCHITECTURE
    further = set("from_description score_key noise_seed implementation protocol_sha spec profile chance collapsed".split())
    assert set(COLUMNS) - set(ARCHITECTURE) == further


def test_rows_come_back_as_one_table_with_exactly_the_columns(store):
    rows = xb.load_results(store.path)
    assert list(rows.columns) == list(COLUMNS)
    assert rows["run_id"].str[0].tolist() == ["a", "a", "b"]
    assert rows["value"].tolist()[0] == 0.5
    assert rows["value"].isna().tolist() == [False, True, True]
    assert rows["error"].tolist()[2] == "Traceback\nValueError: no"
    assert rows["error"].isna().tolist() == [True, True, False]
    assert set(rows["schema_version"]) == {SCHEMA_VERSION}
    assert pq.ParquetFile(store.path / f"{'a' * 16}.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_numbers_survive_bit_for_bit_and_what_is_missing_stays_missing(store):
    values = [0.1 + 0.2, float("nan"), float("inf"), 5e-324]
    store.write([row("c" * 16, value=value, epoch=None, realised_rate=1 / 3) for value in values], {})
    got = store.run("c" * 16)
    assert got["value"].tolist()[:1] == values[:1]
    assert got["value"].tolist()[2:] == values[2:]
    assert np.isnan(got["value"][1])
    assert got["realised_rate"][0] == 1 / 3
    assert got["epoch"].isna().all()
    assert got["fold"].isna().all()
    assert len(store.run("d" * 16)) == 0


def test_a_file_from_before_a_column_was_added_reads_as_if_it_were_empty(store):
    path = store.path / f"{'a' * 16}.parquet"
    before = store.run("a" * 16)
    pq.write_table(pq.read_table(path).drop_columns("collapsed"), path)
    pd.testing.assert_frame_equal(store.run("a" * 16), before)
    assert store.rows()["collapsed"].isna().all()
    pq.write_table(pq.read_table(path).drop_columns("value"), path)
    assert len(store.run("a" * 16)) == 0, "what has no values is damaged"


def test_a_store_that_is_not_there_has_no_rows_and_is_not_made_by_reading(tmp_path):
    store = Store(tmp_path / "none")
    assert list(store.rows().columns) == list(COLUMNS)
    assert (len(store.rows()), store.finished(), store.arrays("x")) == (0, {}, {})
    assert not store.path.exists()


def test_one_parquet_file_reads_like_the_folder_it_was_made_from(store, tmp_path):
    save_rows(store.rows(), tmp_path / "deep" / "all.parquet")
    pd.testing.assert_frame_equal(xb.load_results(tmp_path / "deep" / "all.parquet"), store.rows())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["all.parquet"]


def test_arrays_come_back_as_they_were(store):
    got = store.arrays("a" * 16)
    assert got.keys() == ARRAYS.keys()
    assert all(np.array_equal(got[name], ARRAYS[name]) and got[name].dtype == ARRAYS[name].dtype for name in got)
    assert store.arrays("b" * 16) == {}


# whole or not at all


class Disk:
    """A disk that is full after so many bytes."""

    def __init__(self, monkeypatch, room):
        self.room, self.open = room, Path.open
        monkeypatch.setattr(Path, "open", lambda path, mode="r", *args, **kwargs: self._opened(path, mode, *args, **kwargs))

    def _opened(self, path, mode, *args, **kwargs):
        file = self.open(path, mode, *args, **kwargs)
        if mode == "wb":
            write = file.write

            def limited(data):
                self.room -= memoryview(data).nbytes
                if self.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

            file = Limited(file, limited)
        return file


class Limited:
    """A file with another `write`."""

    def __init__(self, file, write):
        self._file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@pytest.mark.parametrize("room", [0, 1000, 8000])
def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch, room):
    before = names(store)
    disk = Disk(monkeypatch, room)
    arrays = {"noise": np.random.default_rng(0).random(2000)}
    with pytest.raises(StoreError, match=r"run c+ could not be written to .*store \(No space left on device\)"):
        store.write([row("c" * 16)], arrays)
    assert names(store) == before
    disk.room = 1 << 30
    store.write([row("c" * 16)], arrays)
    assert names(store) == [*before, f"{'c' * 16}.npz", f"{'c' * 16}.parquet"]


def test_rows_are_written_last_so_that_their_file_means_done(store, monkeypatch):
    disk = Disk(monkeypatch, 1 << 30)
    monkeypatch.setattr(store_module, "write_rows", lambda table, file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write([row("c" * 16)], ARRAYS)
    assert f"{'c' * 16}.npz" in names(store)
    assert not [name for name in names(store) if name.startswith(".") or name == f"{'c' * 16}.parquet"]
    assert "c" * 16 not in store.finished()
    assert disk.room < 1 << 30


def test_content_is_on_the_disk_before_the_name_is(store, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("fsync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (events.append(target.suffix), replace(path, target)))
    store.write([row("c" * 16)], ARRAYS)
    assert events == ["fsync", ".npz", "fsync", "fsync", ".parquet", "fsync"], "the file, its name, the folder"


def test_only_what_a_process_that_is_gone_had_begun_is_removed(store, monkeypatch):
    begun = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: begun.append(path.name) or replace(path, target))
    store.write([row("c" * 16)], {})
    (name,) = begun
    machine, own = name.split(".")[-3:-1]
    assert own == str(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    of = {who: name.replace(f".{machine}.{own}.", f".{who}.") for who in (f"{machine}.{own}", f"{machine}.{gone.pid}")}
    of |= {who: name.replace(f".{machine}.{own}.", f".{who}.") for who in ("else-1.1", "else-2.1")}
    for other in of.values():
        (store.path / other).touch()
    os.utime(store.path / of["else-2.1"], (0, 0))
    before = names(store)
    store.remove_unfinished()
    assert set(before) - set(names(store)) == {of[f"{machine}.{gone.pid}"], of["else-2.1"]}


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_is_refused_and_left_alone(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"must be a writable folder .*; choose another with --store"):
        Store(tmp_path / place).check_writable()
    assert (tmp_path / "file").read_text() == "mine"


def test_the_probe_for_writing_leaves_nothing(tmp_path):
    Store(tmp_path / "new").check_writable()
    assert names(Store(tmp_path / "new")) == []


# damage


def flipped(content):
    place = len(content) // 4  # among the values: of the parquet footer, not every byte is read
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "another kind of file": lambda content: b"no such format" * 20,
    "a flipped byte": flipped,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_damaged_file_is_named_set_aside_and_its_run_not_done(store, caplog, kind, damage):
    path = store.path / f"{'a' * 16}.{kind}"
    whole = path.read_bytes()
    refill(path, DAMAGE[damage])
    assert "a" * 16 not in store.finished()
    aside = path.with_name(path.name + ".damaged")
    assert aside.exists() and not path.exists()
    assert len(caplog.records) == 1
    assert f"{path} is damaged" in caplog.text
    assert f"set aside as {aside.name}, its run counts as not done" in caplog.text
    assert "a" * 16 not in store.finished(), "nor the next time"
    assert "b" * 16 in store.finished()
    store.write([row()], ARRAYS)
    assert "a" * 16 in store.finished()
    assert path.exists()
    assert aside.read_bytes() == DAMAGE[damage](whole)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_arrays_that_a_report_meets_first_are_not_forgotten(store, caplog, damage):
    refill(store.path / f"{'a' * 16}.npz", DAMAGE[damage])
    assert store.arrays("a" * 16) == {}
    assert "is damaged" in caplog.text
    assert "a" * 16 not in store.finished()


def test_no_pickle_is_read_from_arrays(store, caplog):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was loaded')",))

    trapped = np.empty(1, dtype=object)
    trapped[0] = Trap()
    np.savez(store.path / f"{'a' * 16}.npz", trapped=trapped)
    assert store.arrays("a" * 16) == {}
    assert "without a pickle" in caplog.text


def test_nothing_is_written_as_a_pickle(store):
    with pytest.raises(ValueError, match="arrays must hold numbers or text, got objects, which need a pickle, in objects"):
        store.write([row("c" * 16)], {"objects": np.array([{}], dtype=object)})
    assert not [name for name in names(store) if "c" * 16 in name]


@pytest.mark.parametrize("change", ["column", "type"])
def test_a_table_of_another_form_is_damaged(store, caplog, change):
    path = store.path / f"{'a' * 16}.parquet"
    frame = pq.read_table(path).to_pandas()
    frame = frame.drop(columns="metric") if change == "column" else frame.assign(value="high")
    frame.to_parquet(path)
    assert "a" * 16 not in store.finished()
    assert "is damaged" in caplog.text


def test_a_file_that_cannot_be_opened_now_is_not_called_damaged(store, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    before = names(store)
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(PermissionError):
        store.rows()
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(PermissionError):
        store.arrays("a" * 16)
    assert names(store) == before


def test_a_single_file_of_another_kind_is_refused_and_left_alone(tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    with pytest.raises(StoreError, match="must be a folder, or a parquet file of results"):
        Store(notes).rows()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


@pytest.mark.parametrize("single", [False, True])
def test_a_newer_schema_is_an_error_that_says_so(store, single):
    path = store.path / f"{'a' * 16}.parquet"
    frame = pq.read_table(path).to_pandas().assign(schema_version=SCHEMA_VERSION + 1, new_column=1)
    frame.drop(columns="metric").to_parquet(path)
    with pytest.raises(StoreError, match=r"was written by a newer xmbench \(schema 2, this one reads 1\); update xmbench"):
        Store(path if single else store.path).rows()
    assert path.exists()


# the sweep on a store in trouble


def small_grid():
    settings = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))
    grid = Spec(methods=("cca", "pls"), datasets=("synthetic",), rates=(0.0,), seeds=(0,), settings=settings)
    return plan(grid)


def test_damaged_runs_are_run_again_with_the_same_numbers(tmp_path):
    store = Store(tmp_path)
    sweep(todo(small_grid(), store), store, Settings())
    before = store.rows().set_index(["run_id", "split", "selection", "direction", "metric"])["value"]
    first, second = sorted(tmp_path.glob("*.npz"))
    refill(first, DAMAGE["truncated"])
    refill(second.with_suffix(".parquet"), DAMAGE["truncated"])
    work = todo(small_grid(), store)
    assert (len(work.done), len(work.groups)) == (0, 2)
    assert sweep(work, store, Settings()).counts == {"ok": 2}
    pd.testing.assert_series_equal(
        store.rows().set_index(["run_id", "split", "selection", "direction", "metric"])["value"], before
    )
    assert len(todo(small_grid(), store).done) == 2


def test_a_full_disk_stops_the_sweep_and_keeps_what_is_finished(tmp_path, monkeypatch):
    store = Store(tmp_path)
    disk = Disk(monkeypatch, 1 << 30)

    def fill(run_id, status, cell):
        disk.room = 100

    outcome = sweep(todo(small_grid(), store), store, Settings(), progress=fill)
    assert outcome.counts == {"ok": 1}
    assert "No space left on device" in outcome.error
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".npz", ".parquet"]
    assert len(todo(small_grid(), store).done) == 1


def test_rows_of_what_cannot_run_are_written_once(tmp_path):
    store = Store(tmp_path)
    grid = Spec(methods=("pls",), datasets=("synthetic",), rates=(0.0,), seeds=(0,), settings=(("synthetic", "modalities", 3),))
    contents = []
    for _ in range(2):
        assert sweep(todo(plan(grid), store), store, Settings()).counts == {"not_applicable": 1}
        (path,) = tmp_path.glob("*.parquet")
        contents.append((path.stat().st_mtime_ns, path.read_bytes()))
    assert contents[0] == contents[1]


# stale rows and the filter


def test_rows_are_stale_where_the_methods_source_is_another_one():
    frame = pd.DataFrame(
        {"implementation": ["cca", "cca", "gone", None], "source_sha": [module_sha("cca"), "0" * 16, "0" * 16, None]}
    )
    assert mark_stale(frame)["stale"].tolist() == [False, True, False, False]


FRAME = pd.DataFrame(
    {"method": ["mrl", "ce", "ce"], "noise_rate": [0.0, 0.4, 0.8], "value": [0.5, np.nan, 0.3], "oracle": [True, False, False]}
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (None, [0, 1, 2]),
        ("method == 'ce'", [1, 2]),
        ("method == 'ce' and noise_rate > 0.5", [2]),
        ("(method == 'mrl') | (noise_rate >= 0.8)", [0, 2]),
        ("not method == 'ce'", [0]),
        ("~oracle", [1, 2]),
        ("oracle", [0]),
        ("method in ['mrl', 'x']", [0]),
        ("method not in ('mrl', 'x')", [1, 2]),
        ("0.2 < noise_rate < 0.5", [1]),
        ("value == value", [0, 2]),
        ("noise_rate > -1", [0, 1, 2]),
        ("noise_rate > value", [2]),
        ("method == 'none'", []),
    ],
)
def test_rows_are_chosen_by_comparing_columns(where, kept):
    assert where_rows(FRAME, where).index.tolist() == kept


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "method.str.startswith('m')",
        "value.max() > 0",
        "abs(value) > 0",
        "[x for x in method]",
        "(lambda: 1)()",
        "method[0] == 'm'",
        "f'{method}' == 'x'",
        "value if oracle else method",
        "value ** 99 > 1",
        "value * 2 > 1",
        "(y := 1) > 0",
        "@x == 1",
        "`method` == 'mrl'",
        "method ==",
        "method = 'mrl'",
        "",
        "import os",
    ],
)
def test_everything_else_is_refused(where):
    with pytest.raises(ValueError, match=r"^--where m"):
        where_rows(FRAME, where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("methd == 'mrl'", "no column named 'methd'; did you mean 'method'"),
        ("index == 0", "no column named 'index'"),
        ("method", "--where must be true or false for every row"),
        ("noise_rate", "--where must be true or false for every row"),
        ("1", "--where must be true or false for every row"),
        ("True", "--where must be true or false for every row"),
        ("[1, 2]", "--where"),
        ("method > 1", "--where"),
        ("not method", "--where"),
        ("-method == 1", "--where"),
    ],
)
def test_what_is_no_condition_is_refused(where, message):
    with pytest.raises((ValueError, LookupError), match=message):
        where_rows(FRAME, where)
