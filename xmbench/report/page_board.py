"""The leaderboard of the page: one row per method at a noise rate, and what is to be remarked about it; and all runs."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.cells import MEAN, cells_of
from xmbench.report.groups import SELECTIONS, Group, decoded
from xmbench.report.labels import setting_notes
from xmbench.report.layouts import Layout
from xmbench.report.page_text import rounded
from xmbench.report.words import (
    METRIC_WORDS,
    dataset_words,
    direction_words,
    provenance_words,
    scheme_words,
    setting_words,
)

PROVENANCE = ("spec fit_seconds eval_seconds cpu_seconds peak_rss device threads git_commit versions started").split()
"""What the page reads of a run beyond what all reports read."""
RUN_COLUMNS = (
    "run_id status method score dataset noise_scheme noise_rate seed protocol fit_seconds device git_commit stale params "
    "implementation method_version source_sha dataset_params features noise_options realised_rate noise_seed noise_sha "
    "protocol_sha valid_labels tuning profile spec oracle from_description n_networks eval_seconds cpu_seconds peak_rss "
    "threads versions started error"
).split()
NUMBERS = (
    "score noise_rate seed fit_seconds realised_rate noise_seed n_networks eval_seconds cpu_seconds peak_rss threads".split()
)
SCORE_COLUMNS = (
    "paper table dataset label direction metric noise_rate published ours n_seeds difference low high verdict reason"
).split()
SCORE_NUMBERS = "noise_rate published ours n_seeds difference low high".split()
FLAGS = ("stale", "oracle", "from_description")
MAX_ERROR = 600  # characters of a traceback's end
MORE_DIGITS = 6  # significant ones of what is rounded again when shown


@dataclass(frozen=True)
class Column:
    """A measure of the leaderboard: its title, the factor by which a stored value is multiplied, and digits shown."""

    direction: str
    metric: str
    head: str
    factor: float
    digits: int


def columns_of(group: Group) -> list[Column]:
    """The measures shown: MAP by direction and their average; of pairs, recalls by direction and rSum."""
    if group.metric == "map":
        return [Column(d, "map", direction_words(d), 1.0, 3) for d in group.directions or ["mean"]]
    measured = group.measures("best_valid")
    found = set(zip(measured["direction"], measured["metric"], strict=True))
    recalls = [
        Column(direction, metric, f"{direction_words(direction)} {metric.upper()}", 100.0, 1)
        for direction in sorted({direction for direction, _ in found} - {"mean"})
        for metric in ("r@1", "r@5", "r@10")
        if (direction, metric) in found
    ]
    return [*recalls, Column("mean", "rsum", "rSum", 1.0, 1)]


def board(group: Group, labels: Sequence[str]) -> dict[str, Any]:
    """The leaderboard of a group, as the page's script reads it.

    Args:
        group: the runs.
        labels: all methods of the page; a row has the place of its method among them.
    """
    columns = columns_of(group)
    return {
        "title": f"{dataset_words(group)} · {scheme_words(group)}" + (f" · {group.tuned}" if group.tuned else ""),
        "caption": provenance_words(group, group.runs, setting_words(group, "best_valid")),
        "notes": setting_notes(group.runs),
        "metric": METRIC_WORDS[group.metric],
        "rates": group.rates,
        "columns": [{"head": column.head, "digits": column.digits} for column in columns],
        "main": len(columns) - 1,
        "rows": {selection: _rows(group, columns, labels, selection) for selection in SELECTIONS},
    }


def _rows(group: Group, columns: Sequence[Column], labels: Sequence[str], selection: str) -> list[list[Any]]:
    """By rate, rows of [method, cells of (mean, std, rank), loss by noise, last minus best, seeds, seconds, remarks]."""
    main = columns[-1]
    cells = _cells(group, columns, selection)
    by_column = {key: part.droplevel([2, 3]).to_dict("index") for key, part in cells.groupby(level=["direction", "metric"])}
    means = {
        name: group.scores(name).query("direction == 'mean'").groupby(["label", "noise_rate"])["value"].mean()
        for name in SELECTIONS
    }
    gaps = ((means["last"] - means["best_valid"]) * main.factor).to_dict()
    seconds = group.runs.groupby(["label", "noise_rate"])["fit_seconds"].mean().to_dict()
    known = by_column.get((main.direction, main.metric), {})
    remarks = _remarks(group, selection, {at for at, cell in known.items() if cell["other_noise"]})
    nothing = {"mean": np.nan, "n": 0}
    found: list[list[Any]] = []
    for rate in group.rates:
        found.append([])
        for label in group.labels:
            at = (label, rate)
            n, first = known.get(at, nothing)["n"], known.get((label, group.rates[0]), nothing)["mean"]
            numbers = [rounded(value, MORE_DIGITS) for value in (known.get(at, nothing)["mean"] - first, gaps.get(at, np.nan))]
            seeds = [f"{n} of {group.n_planned} seeds"] if 0 < n < group.n_planned else []
            shown = [_shown_cell(by_column.get((column.direction, column.metric), {}).get(at)) for column in columns]
            time = rounded(seconds.get(at, np.nan), 3)
            found[-1].append([labels.index(label), shown, *numbers, n, time, [*seeds, *remarks.get(at, ["no run"])]])
    return found


def _cells(group: Group, columns: Sequence[Column], selection: str) -> pd.DataFrame:
    """Mean, std, n, rank and marks by label, noise_rate, direction and metric, in the units shown."""
    metrics = tuple(dict.fromkeys(column.metric for column in columns))
    cells = cells_of(group, Layout(name="board", metrics=metrics, selection=selection))
    cells = cells[(cells["network"] == MEAN) & (cells["n"] > 0)]
    factors = cells["metric"].map({column.metric: column.factor for column in columns})
    cells = cells.assign(mean=cells["mean"] * factors, std=cells["std"] * factors)
    names = ["mean", "std", "n", "rank", "other_noise"]
    return cells.set_index(["label", "noise_rate", "direction", "metric"])[names].sort_index()


def _shown_cell(cell: dict[Hashable, Any] | None) -> list[Any] | None:
    """[mean, std, rank] as the page reads it; None where no run has a value."""
    if cell is None:
        return None
    rank = 0 if np.isnan(cell["rank"]) else int(cell["rank"])
    return [rounded(cell["mean"], MORE_DIGITS), rounded(cell["std"], MORE_DIGITS), rank]


def _remarks(group: Group, selection: str, other_noise: Collection[Hashable]) -> dict[tuple[str, float], list[str]]:
    """By label and rate, what a reader must know of the runs, in a few words each."""
    networks = group.n_networks.groupby([group.runs["label"], group.runs["noise_rate"]]).max()
    collapsed = group.collapsed(selection)
    found = {}
    for cell in group.by_cell.assign(networks=networks).reset_index().to_dict("records"):
        at = (cell["label"], cell["noise_rate"])
        remarks = {
            "oracle": at[0] in group.oracles,
            "from a description": at[0] in group.described,
            f"mean of {cell['networks']:.0f} networks": cell["networks"] > 1,
            "stale": cell["stale"],
            "collapsed": at in collapsed,
            "other noise draws": at in other_noise,
            cell["status"]: cell["status"] != "",
        }
        found[at] = [remark for remark, holds in remarks.items() if holds]
    return found


def run_table(rows: pd.DataFrame, groups: Sequence[Group]) -> dict[str, Any]:
    """All runs but trials: names of columns, and by column either numbers, or texts and each run's place among them.

    Args:
        rows: all rows of the report.
        groups: theirs, for the score of each run: mean over directions, best epoch, first test split.
    """
    runs = decoded(rows.drop_duplicates("run_id"))
    runs = runs[runs["trial"].fillna("") == ""].sort_values("run_id", ignore_index=True)
    scores = [group.scores("best_valid") for group in groups]
    means = pd.concat([part[part["direction"] == "mean"] for part in scores]).drop_duplicates("run_id")
    runs = runs.assign(score=runs["run_id"].map(means.set_index("run_id")["value"]))
    return {"columns": RUN_COLUMNS, "values": [_coded(runs, name, NUMBERS) for name in RUN_COLUMNS]}


def score_table(card: pd.DataFrame) -> dict[str, Any]:
    """The numbers of the scorecard that have one of ours beside them, as the page's script reads it."""
    names = [name for name in SCORE_COLUMNS if name in card]
    card = card[card["ours"].notna()].sort_values("difference", na_position="last", kind="stable", key=lambda d: d.isna())
    return {"columns": names, "values": [_coded(card, name, SCORE_NUMBERS) for name in names]}


def verdict_words(card: pd.DataFrame) -> str:
    """How many published numbers have which verdict."""
    counts = card["verdict"].value_counts(sort=False)
    if not card["ours"].notna().any():
        return "None of these runs is the counterpart of a published number."
    listed = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    return f"Of {len(card)} published numbers: {listed}. Listed are those that have one of ours beside them, in fractions."


def _coded(runs: pd.DataFrame, name: str, numbers: Collection[str]) -> dict[str, Any]:
    """A column: {numbers} or {texts, codes}."""
    if name not in runs:
        return {"texts": [""], "codes": [0] * len(runs)}
    if name in numbers:
        return {"numbers": [rounded(value, MORE_DIGITS) for value in runs[name].astype(float)]}
    texts = runs[name].fillna(False).map({True: "yes", False: ""}) if name in FLAGS else runs[name].fillna("").astype(str)
    if name == "error":
        texts = texts.str.strip().str[-MAX_ERROR:]
    codes, found = pd.factorize(texts)
    return {"texts": list(found), "codes": codes.tolist()}
