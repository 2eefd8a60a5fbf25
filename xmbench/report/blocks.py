"""Tables of one block of rows per noise rate, in the layout of Table 1 of the LNC paper (IJCV 2024).

Rows are methods, columns measures in column groups; the best of each column of a block is bold, the second underlined, by
the digits shown. Oracles stand below a rule and are not ranked, nor are collapsed runs, whose numbers are chance, nor the
single networks of a method that averages several: they are shown because an ensemble against single networks is no fair
comparison.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from xmbench.metrics import METRICS
from xmbench.report.cells import notes_below, shown, with_runs
from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import Group
from xmbench.report.markup import template
from xmbench.report.words import source_words

DIGITS = 1
NOT_IN_PERCENT = ("rsum", "medr", "meanr")  # rSum is a sum of percentages as it is stored
MEAN, SINGLE, INTERSECTION = "mean", "one network", "intersection"
CELL = ["label", "network", "noise_rate", "direction", "metric"]
RANKED = "the best of each column and rate is bold, the second underlined"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        direction, metric: what it shows.
        group: title above the neighbouring columns that have the same one, or "".
        head: title.
        spread: whether its cells show the standard deviation, and the marks of the row.
    """

    direction: str
    metric: str
    group: str
    head: str
    spread: bool = True


@dataclass(frozen=True)
class BlockTable:
    """A table without its numbers.

    Attributes:
        stem: name of its files without suffix.
        title: what it shows, in a few words.
        caption: the same at length.
        columns: from left to right.
        notes: sentences below it, after those on marks and methods.
        averaged: what is averaged over the networks of a method.
    """

    stem: str
    title: str
    caption: str
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    averaged: str = "similarities"


def block_cells(
    group: Group,
    measures: pd.DataFrame,
    required: Collection[tuple[str, str]],
    collapsed: Collection[tuple[str, float]] = (),
) -> pd.DataFrame:
    """One row per cell: label, network, noise_rate, direction, metric, mean, std, n, rank, status, collapsed and more.

    `network` is "mean" for what a method is compared by, the mean of its networks' similarities; "one network" for the
    mean of what its networks reach one by one; "intersection" for where all of them agree.

    Args:
        group: the runs.
        measures: label, noise_rate, run_id, network, direction, metric, value and chance.
        required: (direction, metric) that have cells even where no run has a value.
        collapsed: (label, noise rate) of the runs whose scores have collapsed.
    """
    network = measures["network"].where(measures["network"].isin([MEAN, INTERSECTION]), SINGLE)
    by_run = measures.assign(network=network).groupby([*CELL, "run_id"], as_index=False)[["value", "chance"]].mean()
    stats = by_run.groupby(CELL).agg(
        mean=("value", "mean"), std=("value", "std"), n=("value", "count"), chance=("chance", "mean")
    )
    lines = sorted({(label, MEAN) for label in group.labels} | set(zip(by_run["label"], by_run["network"], strict=True)))
    columns = sorted({*required, *zip(by_run["direction"], by_run["metric"], strict=True)})
    keys = [(*line, rate, *column) for line in lines for rate in group.rates for column in columns]
    grid = pd.MultiIndex.from_tuples(keys, names=CELL)
    cells = with_runs(group, stats.reindex(grid).reset_index())
    hit = [pair in collapsed for pair in zip(cells["label"], cells["noise_rate"], strict=True)]
    cells = cells.assign(collapsed=np.array(hit, dtype=bool))
    return cells.assign(rank=_ranks(cells))


def _ranks(cells: pd.DataFrame) -> pd.Series:
    """Dense rank in each column of each block by the digits shown.

    NaN for oracles, single networks, cells with a collapsed run and empty ones.
    """
    sign = cells["metric"].map(lambda metric: 1 if metric not in METRICS or METRICS[metric].higher_is_better else -1)
    ranked = cells["mean"].where(~cells["oracle"] & ~cells["collapsed"] & (cells["network"] == MEAN))
    digits = (ranked * cells["metric"].map(factor)).map(lambda mean: float(f"{mean:.{DIGITS}f}")) * sign
    return digits.groupby([cells[name] for name in ("noise_rate", "direction", "metric")]).rank(method="dense", ascending=False)


def factor(metric: str) -> float:
    """By what a stored value is multiplied to be shown: fractions are shown in percent."""
    return 1.0 if metric in NOT_IN_PERCENT else 100.0


def write_blocks(group: Group, context: Context, table: BlockTable, cells: pd.DataFrame) -> list[File]:
    """Write a table as LaTeX and Markdown; `cells` are those of `block_cells`."""
    files = []
    for suffix in ("tex", "md"):
        path = context.out / f"{table.stem}.{suffix}"
        write_text(path, render_blocks(group, table, cells, suffix))
        files.append(File(path, table.title, group, group.runs))
    return files


def render_blocks(group: Group, table: BlockTable, cells: pd.DataFrame, suffix: str) -> str:
    """The table as text, `suffix` tex or md."""
    wanted = {(column.direction, column.metric) for column in table.columns}
    seen = cells[[pair in wanted for pair in zip(cells["direction"], cells["metric"], strict=True)]]
    parts = groupby(table.columns, key=lambda column: column.group)
    return template(f"blocks.{suffix}.j2").render(
        caption=table.caption,
        source=source_words(group),
        groups=[{"title": title, "heads": [column.head for column in part]} for title, part in parts],
        blocks=list(_blocks(group, seen, table.columns)),
        notes=[*notes_below(group, seen[seen["network"] == MEAN], table.averaged), *_network_notes(seen), *table.notes],
    )


def _blocks(group: Group, cells: pd.DataFrame, columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    """Noise rate and lines of methods; what the networks of a method reach on their own follows it."""
    at = {tuple(cell[name] for name in CELL): cell for cell in cells.to_dict("records")}
    present = set(zip(cells["label"], cells["network"], strict=True))
    networks = (MEAN, SINGLE, INTERSECTION)
    lines = [(label, network) for label in group.labels for network in networks if (label, network) in present]
    for rate in sorted(cells["noise_rate"].unique()):
        yield {
            "rate": f"{100 * rate:g} %",
            "lines": [
                {
                    "label": label,
                    "network": "" if network == MEAN else network,
                    "oracle": label in group.oracles,
                    "cells": [_cell(at[label, network, rate, c.direction, c.metric], c, group.n_planned) for c in columns],
                }
                for label, network in lines
            ],
        }


def _cell(cell: dict[Any, Any], column: Column, n_planned: int) -> dict[str, Any]:
    """What a cell shows; without deviation and marks where its column does without them."""
    seen = shown(cell, n_planned, DIGITS, factor(column.metric))
    return seen if column.spread else seen | {"std": "", "count": "", "stale": False, "collapsed": False}


def _network_notes(cells: pd.DataFrame) -> list[str]:
    """What the additional lines of methods with several networks mean."""
    meanings = {
        SINGLE: "what the networks of a method reach on their own, on average",
        INTERSECTION: "where all networks agree",
    }
    present = set(cells["network"])
    return [f"({network}): {meaning}; not ranked." for network, meaning in meanings.items() if network in present]
