"""Many runs: compaction loses and doubles nothing whenever it stops, reads what is asked for, and stores are cared for."""

import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from filelock import FileLock

from xmbench import compact as compact_module
from xmbench.compact import auto_compact, compact
from xmbench.store import COLUMNS, Finished, Store, StoreError, where_rows
from xmbench.store_care import export, merge, verify
from xmbench.store_cli import store as commands

IDS = [f"{number:016x}" for number in (7, 3, 11, 5)]


def rows_of(run_id, value=0.5, **changes):
    """Four rows, in an order of their own."""
    common = {
        "run_id": run_id, "status": "ok", "score_key": f"s{run_id}", "source_sha": "x", "fit_seconds": 1.5, "method": "cca",
        "implementation": "cca", "dataset": "toy", "params": "{}", "dataset_params": "{}", "noise_rate": 0.4, "seed": 2,
        "oracle": False, "network": "mean", "threads": 1, "started": "2026-01-02", **changes,
    }  # fmt: skip
    cells = [("valid", "map", value), ("test", "r@1", None), ("test", "map", value / 3), ("test", "map@50", float("nan"))]
    return [{**common, "split": split, "metric": metric, "value": number} for split, metric, number in cells]


def fill(folder, ids=IDS):
    store = Store(folder)
    for i, run_id in enumerate(ids):
        store.write(rows_of(run_id, value=i / 7, method=["cca", "mrl"][i % 2]), {"a": np.arange(i + 1)} if i else {})
    failed = {"split": None, "metric": None, "value": None, "status": "failed", "error": "Traceback\nValueError: no\n"}
    store.write([{**rows_of("f" * 16)[0], **failed}], {})
    return store


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path / "store")


def own_files(store):
    return sorted(path.stem for path in store.path.glob("*.parquet"))


def generations(store):
    return sorted(path.name[:6] for path in store.path.glob("compact/*.runs.parquet"))


def test_compaction_changes_nothing_that_is_read(store):
    rows, finished, one, arrays = store.rows(), store.finished(), store.run(IDS[0]), store.arrays(IDS[2])
    assert compact(store).runs == 5
    assert own_files(store) == []
    pd.testing.assert_frame_equal(store.rows(), rows)
    pd.testing.assert_frame_equal(store.run(IDS[0]), one)
    assert store.finished() == finished
    assert list(store.arrays(IDS[2])) == list(arrays) == ["a"]
    assert compact(store).runs == 0
    assert generations(store) == ["000001"]


def test_what_is_finished_tells_cost_and_failure(store):
    size = (store.path / f"{IDS[1]}.npz").stat().st_size + (store.path / f"{IDS[1]}.parquet").stat().st_size
    for _ in ("loose", "compacted"):
        run = store.finished()[IDS[1]]
        assert run == Finished(
            IDS[1], "ok", f"s{IDS[1]}", "x", 1.5, "mrl", "toy", "{}", "{}", implementation="cca", noise_rate=0.4, seed=2,
            threads=1, started="2026-01-02", bytes=size,
        )  # fmt: skip
        assert store.finished()["f" * 16].error == "ValueError: no"
        compact(store)


@pytest.mark.parametrize(
    "where",
    [
        None,
        "split == 'test' and metric in ['map', 'r@1']",
        "method == 'mrl' and metric == 'map' and value > 0.1",
        "method == 'mrl' or split == 'valid'",
        "method == 'cca' | metric == 'map' and split == 'test'",  # | and & bind as `or` and `and` in pandas
        "status == 'failed'",
        "value == value and not metric == 'map'",
        "run_id == 'none'",
    ],
)
def test_what_is_pushed_down_chooses_the_same_rows(store, where, monkeypatch):
    monkeypatch.setattr("xmbench.generations.ROWS_PER_GROUP", 2)
    wanted = where_rows(store.rows(), where).reset_index(drop=True)
    compact(store)
    store.write(rows_of("e" * 16, value=0.9), {})
    late = pd.DataFrame(rows_of("e" * 16, value=0.9)).reindex(columns=list(COLUMNS))
    got = store.rows(["run_id", "metric", "value"], where)
    late = where_rows(late, where)[["run_id", "metric", "value"]]
    both = pd.concat([wanted[["run_id", "metric", "value"]], late]).sort_values("run_id", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(got, both, check_dtype=False)
    coded = store.rows(["run_id", "metric", "value"], where, coded=True)
    pd.testing.assert_frame_equal(coded.astype(got.dtypes), got)


def test_rows_of_some_metrics_and_of_runs_without_any(store):
    for _ in ("loose", "compacted"):
        rows = store.rows(["run_id", "metric"], "split != 'valid'", metrics=["map", None])
        assert rows["metric"].fillna("none").tolist() == ["map"] * 4 + ["none"]
        compact(store)


@pytest.mark.parametrize("where", [None, "split == 'test'"])
def test_the_first_rows_are_those_of_all_rows(store, monkeypatch, where):
    monkeypatch.setattr(compact_module, "RUNS_PER_GENERATION", 2)
    wanted = store.rows(["run_id", "value"], where)
    compact(store)
    store.write(rows_of("e" * 16), {})
    first, n_rows = store.first_rows(["run_id", "value"], where, 7)
    pd.testing.assert_frame_equal(first, wanted[:7])
    assert n_rows == len(wanted) + (4 if where is None else 3)


def test_most_of_a_file_is_not_read(store, monkeypatch):
    monkeypatch.setattr("xmbench.generations.ROWS_PER_GROUP", 4)
    compact(store)
    read, asked = pq.ParquetFile.read_row_groups, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_groups", lambda f, groups, **kw: asked.append(groups) or read(f, groups, **kw)
    )
    assert len(store.rows(["value"], "metric == 'r@1'")) == 4
    assert [len(groups) for groups in asked] == [1], "of five: the rows are sorted by split and metric"


def test_a_run_that_is_run_again_holds_before_its_compacted_rows(store):
    compact(store)
    again = store.run(IDS[1]).assign(value=9.0)
    store.write(rows_of(IDS[1], value=9.0), {"a": np.zeros(100)})
    for _ in ("loose", "compacted again"):
        assert store.run(IDS[1])["value"].tolist()[0] == 9.0
        rows = store.rows()
        assert rows["run_id"].value_counts().to_dict() == {**dict.fromkeys(IDS, 4), "f" * 16: 1}
        assert rows.loc[rows["run_id"] == IDS[1], "value"].tolist()[0] == again["value"][0]
        assert IDS[1] in store.finished()
        compact(store)
    assert own_files(store) == []
    assert len(generations(store)) == 1, "small generations are merged"


def test_full_generations_stay_and_small_ones_are_merged(store, monkeypatch):
    monkeypatch.setattr(compact_module, "RUNS_PER_GENERATION", 4)
    rows = store.rows()
    compact(store)
    assert generations(store) == ["000001", "000002"]  # of 4 and 1
    new = [f"{number:016x}" for number in range(20, 23)]
    for run_id in new:
        store.write(rows_of(run_id), {})
    compact(store)
    assert generations(store) == ["000001", "000003"]
    assert len(store.rows()) == len(rows) + 12


def test_files_that_are_no_single_run_stay(store):
    store.rows().to_parquet(store.path / "reference.parquet")
    (store.path / f"{IDS[0]}.parquet").rename(store.path / f"{'d' * 16}.parquet")
    done = compact(store)
    assert (done.runs, done.left) == (4, 1)
    assert own_files(store) == ["d" * 16, "reference"]


def test_a_file_written_while_it_is_compacted_stays_and_holds(store, monkeypatch):
    write = compact_module.write_generation

    def meanwhile(*arguments):
        made = write(*arguments)
        store.write(rows_of(IDS[1], value=9.0), {})
        return made

    monkeypatch.setattr(compact_module, "write_generation", meanwhile)
    compact(store)
    assert own_files(store) == [IDS[1]]
    assert store.run(IDS[1])["value"][0] == 9.0
    assert len(store.rows()) == 17


def test_a_second_compaction_waits_for_no_one(store):
    with FileLock(store.folder("compact") / ".lock"), pytest.raises(StoreError, match="compacted by another process"):
        compact(store)
    assert len(own_files(store)) == 5


def test_a_sweep_compacts_only_where_there_are_many(store, monkeypatch):
    assert auto_compact(store) is None
    monkeypatch.setattr(compact_module, "MANY", 5)
    assert auto_compact(store).runs == 5


KILLED = """
    import os, sys
    from pathlib import Path
    import pandas as pd
    sys.path.insert(0, TESTS)
    from test_store_size import IDS, fill, rows_of
    from xmbench.compact import compact
    from xmbench.store import Store

    def killed_after(store, n_steps):
        '''A compaction whose process dies just before step number n_steps of those that change the folder.'''
        if (child := os.fork()) == 0:
            left = [n_steps]
            def counted(change):
                def step(*arguments, **options):
                    left[0] -= 1
                    if left[0] < 0:
                        os._exit(9)
                    return change(*arguments, **options)
                return step
            for name in ("replace", "rename", "unlink"):
                setattr(Path, name, counted(getattr(Path, name)))
            os.link = counted(os.link)
            compact(store)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    n_steps, code = 0, 9
    while code == 9:
        store = fill(Path(f"store{n_steps}"))
        compact(store)
        store.write(rows_of(IDS[1], value=9.0), {})
        store.write(rows_of("e" * 16), {})
        rows, finished = store.rows(), store.finished()
        code = killed_after(store, n_steps)
        for _ in ("as it was left", "gone on"):
            pd.testing.assert_frame_equal(store.rows(), rows)
            assert store.finished() == finished, n_steps
            compact(store)
        assert [p.name for p in store.path.glob("*.parquet")] == []
        assert len([p for p in store.path.glob("compact/*") if p.name != ".lock"]) == 2
        n_steps += 1
    print(n_steps, code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_kill_between_any_two_steps_loses_no_run_and_doubles_none(python, request):
    done = python("-c", f"TESTS = {str(request.path.parent)!r}\n{textwrap.dedent(KILLED)}")
    assert done.returncode == 0, done.stderr
    n_steps, code = map(int, done.stdout.split())
    assert code == 0
    assert n_steps > 8, "two files renamed, two removed, two runs' own files taken away and removed"


@pytest.mark.parametrize("kind", ["runs", "rows"])
def test_a_damaged_generation_is_named_and_set_aside_on_request(store, kind):
    compact(store)
    (path,) = store.path.glob(f"compact/*.{kind}.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 255]) + content[41:])
    with pytest.raises(StoreError, match=r"is damaged .* `xmbench store verify --repair`"):
        store.rows()
    assert {problem.file for problem in verify(store)} == {f"compact/{p.name}" for p in store.path.glob("compact/*.parquet")}
    verify(store, repair=True)
    assert len(store.rows()) == 0
    assert verify(store) == []


def test_compacted_runs_whose_arrays_are_gone_are_done_again(store):
    compact(store)
    (store.path / f"{IDS[1]}.npz").unlink()
    assert IDS[1] not in store.finished()
    assert [problem.file for problem in verify(store)] == [f"{IDS[1]}.npz"]
    store.drop_arrays(IDS[2], ("a",))
    assert IDS[2] in store.finished(), "smaller on purpose, and whole"
    (store.path / f"{IDS[3]}.npz").write_bytes(b"cut")
    assert IDS[3] not in store.finished()


def test_verify_finds_what_is_damaged_and_leaves_with_4(store):
    assert verify(store) == []
    (store.path / f"{IDS[1]}.npz").write_bytes(b"no archive")
    (store.path / f"{IDS[0]}.parquet").rename(store.path / f"{'c' * 16}.parquet")
    run = CliRunner().invoke
    done = run(commands, ["verify", "--store", str(store.path), "--format", "csv"])
    assert done.exit_code == 4
    assert f"{IDS[1]}.npz,damaged" in done.output
    assert f'{"c" * 16}.parquet,"holds {IDS[0]}, not the run of its name' in done.output.replace(
        "parquet,holds", 'parquet,"holds'
    )
    assert run(commands, ["verify", "--store", str(store.path), "--repair"]).exit_code == 0
    assert run(commands, ["verify", "--store", str(store.path)]).exit_code == 0
    assert (store.path / f"{IDS[1]}.npz.damaged").exists()


@pytest.mark.parametrize(("prefer", "value"), [(None, 0.5), ("first", 0.5), ("newest", 0.7)])
def test_a_merge_takes_what_is_new_and_refuses_what_differs(tmp_path, prefer, value):
    first, second, into = (Store(tmp_path / name) for name in ("first", "second", "into"))
    for run_id in IDS[:2]:
        first.write(rows_of(run_id), {"a": np.arange(3)})
    first.write([{**rows_of(IDS[3])[0], "status": "failed"}], {})
    compact(first)
    second.write(rows_of(IDS[0], fit_seconds=9.0), {})
    second.write(rows_of(IDS[1], value=0.7, started="2026-02-01"), {})
    second.write(rows_of(IDS[2]), {})
    second.write(rows_of(IDS[3]), {})
    done = merge([first, second], into, prefer)
    assert done.refused == ([IDS[1]] if prefer is None else [])
    assert done.same == 1
    assert set(into.finished()) == set(IDS)
    assert into.run(IDS[1])["value"][0] == value
    assert into.finished()[IDS[3]].status == "ok"
    assert into.arrays(IDS[0])["a"].tolist() == [0, 1, 2]


def test_exported_rows_read_as_a_store_and_as_csv(store, tmp_path):
    wanted = store.rows(None, "split == 'test'")
    compact(store)
    assert export(store, tmp_path / "rows.parquet", "split == 'test'") == len(wanted) == 12
    got = Store(tmp_path / "rows.parquet").rows()
    order = ["run_id", "metric"]
    pd.testing.assert_frame_equal(*(part.sort_values(order, ignore_index=True) for part in (got, wanted)))
    export(store, tmp_path / "rows.csv")
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 17
    with pytest.raises(ValueError, match="must be a new file"):
        export(store, tmp_path / "rows.csv")


# elsewhere than in a folder that can be written to


@pytest.fixture
def remote(monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    import fsspec

    yield Store("memory://sweep/results")
    fsspec.filesystem("memory").store.clear()


def test_a_store_under_a_url_holds_what_a_folder_does(remote, tmp_path):
    local = fill(tmp_path / "store")
    assert remote.finished() == {}
    remote.check_writable()
    for run_id in own_files(local):
        remote.write_table(
            local.table(run_id), (lambda content: content and (lambda f: f.write(content)))(local.array_file(run_id))
        )
    other = Store("memory://sweep/results")
    pd.testing.assert_frame_equal(other.rows(), local.rows())
    assert other.finished() == local.finished()
    assert other.arrays(IDS[3])["a"].tolist() == [0, 1, 2, 3]
    assert remote.checkpoint("x").is_relative_to(tmp_path / "cache")
    remote.log(IDS[0]).write_text("done\n")
    remote.put_log(IDS[0])
    import fsspec

    assert fsspec.filesystem("memory").cat(f"/sweep/results/logs/{IDS[0]}.log") == b"done\n"
    with pytest.raises(ValueError, match=r"must be a folder to be compacted.*store merge"):
        compact(remote)


def test_a_store_that_vanishes_is_not_begun_anew(store):
    reader = Store(store.path)
    assert len(reader.rows()) == 17
    store.path.rename(store.path.with_name("elsewhere"))
    with pytest.raises(StoreError, match=r"store .*store has vanished"):
        reader.rows()
    with pytest.raises(StoreError, match="vanished"):
        reader.write(rows_of(IDS[0]), {})
    assert not store.path.exists()


def test_a_failing_disk_is_found_out_before_anything_is_removed(store, monkeypatch):
    monkeypatch.setattr("xmbench.generations.same_bits", lambda first, second: False)
    with pytest.raises(StoreError, match="could not be read back"):
        compact(store)
    assert len(own_files(store)) == 5
    assert generations(store) == []


def test_bits_are_compared_and_not_numbers():
    from xmbench.schema import same_bits

    table = pa.table({"value": [0.0, float("nan"), None]})
    assert same_bits(table, pa.table({"value": [0.0, float("nan"), None]}))
    assert not same_bits(table, pa.table({"value": [-0.0, float("nan"), None]}))
    assert not same_bits(table, pa.table({"value": [0.0, None, None]}))
