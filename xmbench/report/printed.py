"""Numbers that papers print, as cells that stand in rows of their own below those of a method; never ranked among ours."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from xmbench.report.layouts import Layout

COORDINATES = ["dataset", "noise_scheme", "noise_rate", "method", "direction", "metric"]
DETAILS = ["table", "printed_dataset", "label", "setting"]  # what tells apart two numbers for one cell


def printed_cells(published: pd.DataFrame, seen: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The printed numbers for the cells of a table, in its terms: `network` is the paper, `printed` the number.

    Args:
        published: of `published_cells`.
        seen: the table's own cells.
        layout: of the table; of its own paper only its own table is read.
    """
    schemes = [*seen["noise_scheme"].unique()]
    without = published[published["noise_scheme"] == ""]  # of no noise: they stand beside every scheme
    rows = pd.concat([published[published["noise_scheme"].isin(schemes)], *(without.assign(noise_scheme=s) for s in schemes)])
    if layout.table:
        rows = rows[(rows["paper"] != layout.paper) | (rows["table"] == layout.table)]
    rows = rows.assign(dataset=_places(rows)).reset_index(drop=True)
    rows = rows.drop_duplicates([*COORDINATES, "paper", "printed"])
    cells = rows.assign(network=rows["paper"].map(short_name) + _details(rows))
    labels = seen.groupby("method")["label"].unique()
    single = [labels[name][0] if name in labels and len(labels[name]) == 1 else name for name in cells["method"]]
    letters = seen.groupby("dataset")["letter"].min()
    return cells.assign(label=single, letter=cells["dataset"].map(letters).fillna(""), protocol="", tuned="", oracle=False, n=0)


def short_name(paper: str) -> str:
    """`mrl2021` as `MRL, 2021`."""
    name = paper[:-4]
    return f"{name.upper() if len(name) < 5 else name}, {paper[-4:]}"


def _places(rows: pd.DataFrame) -> pd.Series:
    """Datasets with the name of the test split, as tables call them; training splits have none."""
    splits = rows["split"].str.partition(":")[2]
    return rows["dataset"] + (":" + splits).where(splits != "", "")


def _details(rows: pd.DataFrame) -> pd.Series:
    """What tells a number apart from others of the same paper for the same cell; "" where it is the only one."""
    keys = [rows[name] for name in [*COORDINATES, "paper"]]
    told = pd.Series("", rows.index)
    for name in DETAILS:
        words = ("table " if name == "table" else "") + rows[name]
        told = told + (", " + words).where(rows[name].groupby(keys).transform("nunique") > 1, "")
    return told


def printed_notes(printed: list[dict[Hashable, Any]]) -> list[str]:
    """That numbers are a paper's, and which of them are in doubt."""
    if not printed:
        return []
    doubts: dict[str, dict[str, None]] = {}
    for cell in printed:
        if cell["suspect"]:
            doubts.setdefault(cell["note"], {})[f"{cell['network']}, {cell['method']} at {cell['noise_rate']:g}"] = None
    listed = "; ".join(f"{', '.join(which)}: {note}" for note, which in doubts.items())
    meaning = "In italics: numbers that papers print, in rows of their own; not ranked, and no results of runs."
    return [meaning, *([f"Printed numbers in doubt. {listed}."] if listed else [])]
