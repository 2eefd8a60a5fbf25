"""Regression: the runs of a reference file again, and every number that moved further than it may."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from xmbench.engine import Engine
from xmbench.noise import Noise
from xmbench.plan import Cell, Run, make_cell, plan
from xmbench.registry import build_method
from xmbench.run import Settings
from xmbench.spec import load_protocol, load_spec
from xmbench.store import Store, StoreError, save_rows
from xmbench.sweep import sweep, todo

SMALLEST_TOLERANCE = 0.01
KEY = ["run_id", "split", "selection", "network", "direction", "metric"]
_SAME = (
    "dataset dataset_params method params noise_scheme noise_options noise_rate protocol "
    "split selection network direction metric"
).split()
_EXACT = {"n_queries": "other number of queries", "protocol_sha": "other protocol", "noise_sha": "other noise"}
_SHOWN = "dataset noise_rate method seed split selection direction reference value tolerance problem".split()


def check(reference: pd.DataFrame, *, jobs: int = 1) -> pd.DataFrame:
    """Run everything that the reference holds again and compare: MAP row by row; noise, protocol and sizes exactly.

    A row may move by the larger of .01 and three times the deviation over the reference's seeds.

    Args:
        reference: rows of a store.
        jobs: runs at a time.

    Returns:
        One row per number compared, with its reference, value, tolerance and `problem` ("" where there is none).

    Raises:
        FileNotFoundError: data are missing.
        StoreError: no room for the results.
        KeyboardInterrupt: interrupted.
    """
    wanted = _compared_rows(reference)
    if wanted.empty:
        return pd.DataFrame(columns=_SHOWN)
    cells = {row["run_id"]: _cell(row) for row in wanted.drop_duplicates("run_id").to_dict("records")}
    rows = _measured(list(cells.values()), jobs)
    names = {cell.run.run_id: run_id for run_id, cell in cells.items()}  # another protocol makes another id
    return compare(wanted, rows.assign(run_id=rows["run_id"].map(names)))


def make_reference(path: Path) -> pd.DataFrame:
    """Run the spec `ci` and write what `check` compares into one parquet file; returns these rows."""
    rows = _measured(plan(load_spec("ci"), keep="none"), jobs=1)
    if errors := rows["error"].dropna().tolist():
        raise RuntimeError(f"every run of a reference must succeed, {len(errors)} did not: {errors[0]}")
    rows = _compared_rows(rows)
    save_rows(rows, path)
    return rows


def _compared_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Finished MAP of whole splits: single folds stand in their average, and share its `KEY`."""
    whole = rows["trial"].isna() & rows["fold"].isna()
    return rows[(rows["status"] == "ok") & whole & (rows["metric"] == "map") & rows["value"].notna()]


def _measured(cells: list[Cell], jobs: int) -> pd.DataFrame:
    """The rows of these cells, run in a store of their own."""
    if missing := next((cell.reason for cell in cells if cell.status == "skipped"), None):
        raise FileNotFoundError(missing)
    with TemporaryDirectory() as folder:
        store = Store(folder)
        outcome = sweep(todo(cells, store), store, Settings(), engine=None if jobs == 1 else Engine(jobs))
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.error:
            raise StoreError(outcome.error)
        return store.rows()


def _cell(row: Mapping[Any, Any]) -> Cell:
    """The cell behind a stored row."""
    parameters = _object(row, "params")
    for column in ("dataset", "noise_scheme", "method", "implementation", "protocol", "tuning"):
        if not isinstance(row[column], str):
            raise ValueError(f"{column} of run {row['run_id']!r:.40} must be text, got {row[column]!r:.200}")
    run = Run(
        dataset=row["dataset"],
        dataset_parameters=_object(row, "dataset_params"),
        noise=Noise(row["noise_scheme"], row["noise_rate"], row["noise_seed"], _object(row, "noise_options")),
        method=row["method"],
        implementation=row["implementation"],
        parameters=parameters,
        seed=row["seed"],
        protocol=load_protocol(Path(row["protocol"]).stem),  # never a file that a row names
        tuning=row["tuning"],
    )
    return make_cell(run, build_method(run.implementation, **parameters))


def _object(row: Mapping[Any, Any], column: str) -> dict[str, Any]:
    """The JSON object in a column of a row."""
    try:
        value = json.loads(row[column])
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{column} of run {row['run_id']!r:.40} must be a JSON object, got {row[column]!r:.200}")
    return value


def compare(reference: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a reference beside the same rows measured now; see `check`."""
    now = rows[rows["fold"].isna()]
    deviation = reference.groupby(_SAME)["value"].transform("std").fillna(0.0)
    table = reference.assign(reference=reference["value"], tolerance=(3 * deviation).clip(lower=SMALLEST_TOLERANCE))
    table = table.drop(columns="value").merge(now[[*KEY, "value", *_EXACT]], on=KEY, how="left", suffixes=("", "_now"))
    table["problem"] = ""
    table.loc[(table["value"] - table["reference"]).abs() > table["tolerance"], "problem"] = "moved"
    for column, problem in _EXACT.items():
        table.loc[table[column] != table[f"{column}_now"], "problem"] = problem
    failed = rows[rows["error"].notna()]
    reasons = {run_id: error.strip().splitlines()[-1] for run_id, error in zip(failed["run_id"], failed["error"], strict=True)}
    lost = table["value"].isna()
    table.loc[lost, "problem"] = [
        f"not measured: {reasons.get(run_id, 'no such number now')}" for run_id in table.loc[lost, "run_id"]
    ]
    return table[_SHOWN]
