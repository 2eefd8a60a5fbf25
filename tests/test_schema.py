"""Results of other versions: a store that the first writer of the schema made is read, reported, compacted and merged.

`fixtures/first_schema` was made at commit f09b399, the last one before a column was added, by

    xmbench run --methods cca --dataset synthetic --rates 0.4 --seeds 1 --keep none \\
      --set synthetic.train=60 --set synthetic.valid=10 --set synthetic.test=10
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from xmbench.compact import compact
from xmbench.store import COLUMNS, Store
from xmbench.store_care import merge, verify

RUN = "24c0824726bfaa43"
ADDED = ["from_description", "collapsed"]


@pytest.fixture
def store(tmp_path):
    return Store(shutil.copytree(ROOT / "tests" / "fixtures" / "first_schema", tmp_path / "first"))


@pytest.fixture
def written():
    """The rows as any reader of parquet has them."""
    return pd.read_parquet(ROOT / "tests" / "fixtures" / "first_schema" / f"{RUN}.parquet")


def same(rows, written):
    """Whether rows in today's columns have all values of the first ones, and nothing in those that were added."""
    pd.testing.assert_frame_equal(rows[list(written.columns)], written, check_dtype=False)
    assert rows[ADDED].isna().all(axis=None)
    return list(rows.columns) == list(COLUMNS)


def test_the_store_lacks_the_columns_that_were_added_since(written):
    assert sorted(set(COLUMNS) - set(written.columns)) == sorted(ADDED)
    assert set(written["schema_version"]) == {1}


def test_it_is_read_with_these_empty_and_is_whole(store, written):
    assert same(store.rows(), written)
    assert same(store.run(RUN), written)
    assert list(store.finished()) == [RUN]
    assert verify(store) == []
    best = 'split == "test" and metric == "map" and selection == "best_valid" and direction == "image2text"'
    (value,) = store.rows(["value"], best)["value"]
    per_query = store.arrays(RUN)["per_query/test/best_valid/mean/image2text/map"]
    assert value == pytest.approx(per_query.mean()) == pytest.approx(0.69833, abs=1e-5)
    assert sorted(path.name for path in store.path.iterdir()) == [f"{RUN}.npz", f"{RUN}.parquet"]


def test_it_is_compacted_and_read_as_before(store, written):
    assert compact(store).runs == 1
    assert same(store.rows(), written)
    assert same(store.run(RUN), written)
    assert verify(store) == []


def test_compacted_files_may_be_older_too(store, written):
    compact(store)
    for path in store.path.glob("compact/*.parquet"):
        table = pq.read_table(path)
        lacking = table.drop_columns([name for name in ADDED if name in table.column_names])
        assert lacking.num_columns == table.num_columns - 1
        pq.write_table(lacking, path)
    assert same(store.rows(), written)
    assert store.rows(["value"], "collapsed == True").empty
    assert verify(store) == []
    store.write([{**row, "started": "now"} for row in store.run(RUN).replace({np.nan: None}).to_dict("records")], {})
    assert compact(store).runs == 1
    assert set(store.rows()["started"]) == {"now"}


def test_it_is_merged_with_runs_of_today(store, tmp_path, written):
    today = Store(tmp_path / "today")
    today.write([{"run_id": "f" * 16, "status": "ok", "collapsed": True}], {})
    assert merge([store], today).taken == 1
    rows = today.rows()
    assert same(rows[rows["run_id"] == RUN].reset_index(drop=True), written)
    assert list(rows[rows["run_id"] == "f" * 16]["collapsed"]) == [True]
    assert sorted(today.arrays(RUN)) == sorted(store.arrays(RUN))


def test_it_is_reported_beside_a_run_of_today(xmbench, store):
    grid = ["--dataset", "synthetic", "--rates", "0.4", "--seeds", "1", "--keep", "none", "--store", store.path]
    sizes = [f"--set=synthetic.{part}" for part in ("train=60", "valid=10", "test=10")]
    assert xmbench("run", "--methods", "pls", *grid, *sizes).code == 0
    done = xmbench("report", "--store", store.path, "--out", "out", "--only", "map")
    assert done.code == 0, done.err
    tables = "".join(Path(line).read_text("utf-8") for line in done.out.splitlines() if line.endswith(".md"))
    assert "`cca`" in tables
    assert "0.709" in tables
    assert "`pls`" in tables
