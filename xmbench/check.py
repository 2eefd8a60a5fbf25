"""Regression: the runs of a reference file again, and every number that moved further than it may."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from xmbench.noise import Noise
from xmbench.plan import Cell, Run, make_cell
from xmbench.registry import build_method
from xmbench.run import Settings
from xmbench.spec import load_protocol
from xmbench.store import Store
from xmbench.sweep import sweep, todo

SMALLEST_TOLERANCE = 0.01
KEY = ["run_id", "split", "selection", "network", "direction", "metric"]
_SAME = ["dataset", "method", "params", "noise_scheme", "noise_rate", "split", "selection", "network", "direction", "metric"]
_SHOWN = [
    "dataset",
    "noise_rate",
    "method",
    "seed",
    "split",
    "selection",
    "direction",
    "reference",
    "value",
    "tolerance",
    "problem",
]


def check(reference: pd.DataFrame, *, jobs: int = 1) -> pd.DataFrame:
    """Run everything that the reference holds again and compare MAP row by row, and the noise exactly.

    A row may move by the larger of .01 and three times the deviation over the reference's seeds.

    Args:
        reference: rows of a store.
        jobs: runs at a time.

    Returns:
        One row per number compared, with its reference, value, tolerance and `problem` ("" where there is none).
    """
    wanted = reference[(reference["status"] == "ok") & (reference["metric"] == "map")]
    if wanted.empty:
        return pd.DataFrame(columns=_SHOWN)
    cells = [_cell(row) for row in wanted.drop_duplicates("run_id").to_dict("records")]
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        sweep(todo(cells, store), store, Settings(), jobs=jobs)
        return _compared(wanted, store.rows())


def _cell(row: Mapping[Any, Any]) -> Cell:
    """The cell behind a stored row."""
    parameters = json.loads(row["params"])
    run = Run(
        dataset=row["dataset"],
        dataset_parameters=json.loads(row["dataset_params"]),
        noise=Noise(row["noise_scheme"], row["noise_rate"], row["noise_seed"], json.loads(row["noise_options"])),
        method=row["method"],
        implementation=row["implementation"],
        parameters=parameters,
        seed=row["seed"],
        protocol=load_protocol(row["protocol"]),
    )
    return make_cell(run, build_method(run.implementation, **parameters))


def _compared(reference: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    got = rows[[*KEY, "value", "noise_sha", "realised_rate"]].rename(
        columns={"noise_sha": "sha_now", "realised_rate": "rate_now"}
    )
    deviation = reference.groupby(_SAME)["value"].transform("std").fillna(0.0)
    table = reference.assign(tolerance=(3 * deviation).clip(lower=SMALLEST_TOLERANCE)).rename(columns={"value": "reference"})
    table = table.merge(got, on=KEY, how="left")
    moved = (table["value"] - table["reference"]).abs() > table["tolerance"]
    table["problem"] = ""
    table.loc[moved, "problem"] = "moved"
    table.loc[table["sha_now"] != table["noise_sha"], "problem"] = "other noise"
    table.loc[table["value"].isna(), "problem"] = "not measured"
    return table[_SHOWN]
