"""Cells of tables: their numbers, ranks and marks, and the notes below that explain these."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.aggregate import CENTRE, SPREAD, aggregated, digits_of, factor, higher_is_better
from xmbench.report.groups import Group, decoded, measured
from xmbench.report.labels import setting_notes
from xmbench.report.layouts import Layout
from xmbench.report.words import METRIC_WORDS

FAILED, NO_RUN, STALE, COLLAPSED, UNDEFINED, OTHER_NOISE = "×", "–", "†", "‡", "∅", "§"
COLLAPSED_BELOW = 1e-4  # standard deviation of a network's scores
MEAN, SINGLE, INTERSECTION = "mean", "one network", "intersection"
NETWORKS = (MEAN, SINGLE, INTERSECTION)
UNDEFINED_WHERE = {"noise_precision": "nothing was taken for noisy", "noise_auroc": "no pair is clean"}
CELL = ["label", "network", "noise_rate", "direction", "metric"]


def cells_of(group: Group, layout: Layout) -> pd.DataFrame:
    """One row per cell: label, network, noise_rate, direction, metric; its numbers, rank, marks and runs.

    `network` is "mean" for what a method is compared by, the mean of its networks' similarities; "one network" for the
    mean of what its networks reach one by one; "intersection" for where all of them agree. `shown` and `spread` are the
    numbers that the table shows, as stored; `status` counts the runs that did not finish and those without this measure.

    Args:
        group: the runs.
        layout: of the table; with no metrics, cells of all metrics that the runs have.
    """
    values = _values(group, layout)
    stats = aggregated(values, CELL)
    pairs = set(zip(values["direction"], values["metric"], strict=True))
    if layout.where.get("split") == "train":
        pairs |= {(direction, metric) for direction, _ in pairs for metric in layout.metrics}
    elif group.metric in (layout.metrics or [group.metric]):
        pairs |= {(direction, group.metric) for direction in group.directions}
    lines = sorted(
        {(label, MEAN) for label in _labels(group, layout, values)} | set(zip(values["label"], values["network"], strict=True))
    )
    rates = sorted(values["noise_rate"].unique()) if layout.where.get("split") == "train" else group.rates
    keys = [(*line, rate, *pair) for line in lines for rate in rates for pair in sorted(pairs)]
    grid = pd.MultiIndex.from_frame(pd.DataFrame(keys, columns=CELL))
    cells = stats.reindex(grid).reset_index()
    cells = _with_runs(group, cells)
    cells = _with_undefined(cells) if layout.where.get("split") == "train" else cells
    spread = cells[SPREAD[layout.agg]] if layout.agg in SPREAD else np.nan
    cells = cells.assign(shown=cells[CENTRE[layout.agg]], spread=spread)
    for name, hit in {"collapsed": group.collapsed(layout.selection), "other_noise": _other_noise(group)}.items():
        marked = [pair in hit for pair in zip(cells["label"], cells["noise_rate"], strict=True)]
        cells[name] = np.array(marked, dtype=bool) & (cells["n"] > 0)
    return cells.assign(rank=ranks(cells, layout))


def _values(group: Group, layout: Layout) -> pd.DataFrame:
    """Values by cell and run: network, direction, metric, value and chance."""
    rows = group.train if layout.where.get("split") == "train" else group.rows
    rows = rows[rows["metric"].isin(layout.metrics)] if layout.metrics else rows
    rows = rows[rows["network"] == MEAN] if layout.networks == (MEAN,) else rows
    values = measured(rows, layout.selection, ["network", "direction", "metric"])
    if "direction" in layout.where:
        values = values[values["direction"] == layout.where["direction"]]
    if layout.where.get("split") == "train":
        values = values[values["noise_rate"].isin(values.loc[values["metric"] == "noise_recall", "noise_rate"])]
    network = values["network"].where(values["network"].isin([MEAN, INTERSECTION]), SINGLE)
    values = values.assign(network=network)
    values = values[values["network"].isin(layout.networks)]
    return values.groupby([*CELL, "run_id"], as_index=False)[["value", "chance"]].mean()


def _labels(group: Group, layout: Layout, values: pd.DataFrame) -> list[str]:
    """The methods that have rows: of the training split those that say how clean a pair is."""
    return sorted(values["label"].unique()) if layout.where.get("split") == "train" else group.labels


def _with_runs(group: Group, cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with what is known of their runs: realised_rate, noise_sha, params, stale, status, run_ids and more."""
    cells = cells.join(group.by_cell, on=["label", "noise_rate"])
    methods = decoded(group.rows[["label", "method"]].drop_duplicates("label")).set_index("label")["method"]
    return cells.assign(
        method=cells["label"].map(methods),
        n=cells["n"].fillna(0).astype(int),
        n_planned=group.n_planned,
        stale=cells["stale"].eq(True),
        status=cells["status"].fillna("no run"),
        oracle=cells["label"].isin(group.oracles),
        from_description=cells["label"].isin(group.described),
    )


def _with_undefined(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with `undefined`, the finished runs that have other measures of the table but not this one; in `status` too."""
    same = cells.groupby(["label", "network", "noise_rate", "direction"])
    undefined = same["n"].transform("max") - cells["n"]
    named = [
        ", ".join(filter(None, [f"undefined {count}" if count else "", status]))
        for count, status in zip(undefined, cells["status"], strict=True)
    ]
    return cells.assign(undefined=undefined, status=named)


def _other_noise(group: Group) -> set[tuple[str, float]]:
    """(label, noise rate) whose runs have other noise draws than most methods at that rate; more or fewer are no others."""
    shas = group.by_cell["noise_sha"].reset_index()
    found: set[tuple[str, float]] = set()
    for _, part in shas.groupby("noise_rate"):
        usual = max((set(text.split()) for text in part["noise_sha"].mode()), key=len)
        for label, rate, text in part.itertuples(index=False):
            draws = set(text.split())
            if not (draws <= usual or usual <= draws):
                found.add((label, rate))
    return found


def ranks(cells: pd.DataFrame, layout: Layout, of: Sequence[str] = ()) -> pd.Series:
    """Dense rank among the methods at one rate, direction and metric, and one of each `of`, by the digits shown.

    NaN for oracles, single networks, cells with a collapsed run and empty ones.
    """
    ranked = cells["shown"].where(~cells["oracle"] & ~cells["collapsed"] & (cells["network"] == MEAN))
    digits = [
        float(f"{factor(metric) * value:.{digits_of(metric, layout.digits)}f}") * (1 if higher_is_better(metric) else -1)
        for metric, value in zip(cells["metric"], ranked, strict=True)
    ]
    keys = [cells[name] for name in (*of, "noise_rate", "direction", "metric")]
    return pd.Series(digits, cells.index, dtype=float).groupby(keys).rank(method="dense", ascending=False)


def tidy(group: Group, cells: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The cells as numbers, one row each, with all that says which runs they come from."""
    what: dict[str, Any] = {
        "dataset": group.dataset,
        "dataset_params": group.dataset_params,
        "noise_scheme": group.noise_scheme,
        "noise_options": group.noise_options,
        "protocol": group.protocol,
        "protocol_sha": group.protocol_sha,
        "tuned": group.tuned,
        "split": layout.where.get("split", group.split),
        "selection": layout.selection,
        "n_expected": group.n_planned,
    }
    columns = [
        "dataset", "dataset_params", "split", "protocol", "protocol_sha", "tuned", "selection", "metric", "noise_scheme",
        "noise_options", "noise_rate", "realised_rate", "method", "params", "network", "direction", "mean", "std", "ci95",
        "median", "best", "n", "n_expected", "chance", "rank", "oracle", "from_description", "stale", "collapsed",
        "other_noise", "status", "noise_sha", "run_ids",
    ]  # fmt: skip
    return cells.assign(**what, method=cells["label"])[columns]


def number(value: float, digits: int) -> str:
    """The value with so many digits; empty where there is none."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def mark(status: str) -> str:
    """The mark of a cell without a number."""
    if status.startswith("not_applicable") and "," not in status:
        return "n/a"
    if status.startswith("undefined"):
        return UNDEFINED
    return NO_RUN if not status or (status.startswith("no run") and "," not in status) else FAILED


def notes_of(group: Group, cells: pd.DataFrame, layout: Layout) -> list[str]:
    """Sentences that explain the marks and methods that occur in the cells of a group, and no others."""
    cells = cells[cells["network"] == MEAN]
    runs = group.runs[group.runs["label"].isin(cells["label"])]
    notes = setting_notes(runs)
    if cells["n"].between(1, group.n_planned - 1).any():
        what = {"median": "median", "best": "best"}.get(layout.agg, "mean")
        notes.append(f"n/{group.n_planned}: only n of {group.n_planned} seeds have a result; the {what} is over those.")
    notes += _empty_notes(cells, layout)
    stale = sorted(set(cells.loc[cells["stale"] & (cells["n"] > 0), "label"]))
    notes += [f"{STALE}: stale, the source of the method changed after these runs: {', '.join(stale)}."] if stale else []
    notes += _listed(
        cells[cells["collapsed"]],
        f"{COLLAPSED}: collapsed and not ranked, the scores of a network have a standard deviation below {COLLAPSED_BELOW:g}, "
        "so that what is left of a ranking is hardly more than rounding",
    )
    notes += _listed(cells[cells["other_noise"]], f"{OTHER_NOISE}: under other draws of the noise than most methods")
    return [*notes, *_undefined_notes(cells), *_method_notes(group, runs, layout)]


def _empty_notes(cells: pd.DataFrame, layout: Layout) -> list[str]:
    """What the marks of empty cells mean and where they are; the gaps of a paper's table are plain to see."""
    notes = []
    empty = cells[cells["n"] == 0].assign(mark=lambda c: [mark(status) for status in c["status"]])
    for sign, meaning in {FAILED: "no run finished", "n/a": "not applicable", NO_RUN: "no result"}.items():
        marked = empty[empty["mark"] == sign]
        listed = [_where(part, sign) for _, part in marked.groupby(["label", "status"])]
        notes += [f"{sign}: {meaning}: {'; '.join(listed)}."] if listed and (sign != NO_RUN or not layout.of_a_paper) else []
    return notes


def _undefined_notes(cells: pd.DataFrame) -> list[str]:
    """Which measures are undefined although runs finished, why, and of how many runs where not of all."""
    notes = []
    for metric, where in UNDEFINED_WHERE.items() if "undefined" in cells else ():
        seen = cells[(cells["metric"] == metric) & (cells["undefined"] > 0)]
        listed = [
            f"{label} at {rate:g}" + (f" ({undefined} of {undefined + n} runs)" if n else "")
            for label, rate, undefined, n in seen[["label", "noise_rate", "undefined", "n"]].itertuples(index=False)
        ]
        notes += [f"{UNDEFINED}: {METRIC_WORDS[metric]} is undefined where {where}: {'; '.join(listed)}."] if listed else []
    return notes


def _method_notes(group: Group, runs: pd.DataFrame, layout: Layout) -> list[str]:
    """What is to be known of methods: profile, tuning, ensembles, origin, oracles."""
    labels = set(runs["label"])
    networks = group.n_networks[runs.index]
    averaged = "weights" if layout.where.get("split") == "train" else "similarities"
    several = runs[networks > 1].groupby(networks)["label"].unique()
    notes = [*_profile_notes(group), *_tuning_notes(group)]
    notes += [f"The {averaged} of {n:.0f} networks are averaged: {', '.join(sorted(names))}." for n, names in several.items()]
    if described := group.described & labels:
        names = ", ".join(sorted(described))
        notes.append(f"Re-implementation from a description, neither code nor the paper's text could be had: {names}.")
    if oracles := group.oracles & labels:
        notes.append(f"Oracles, not ranked, read what a method cannot know: {', '.join(sorted(oracles))}.")
    return notes


def _profile_notes(group: Group) -> list[str]:
    """How large the networks of a profile are, and how long they are trained, at most."""
    settings = [json.loads(params) for params in group.runs.loc[group.runs["profile"].fillna("") != "", "params"].unique()]
    sizes = {name: max((s[name] for s in settings if name in s), default=0) for name in ("hidden", "epochs")}
    if not all(sizes.values()):
        return []
    return [f"Profile: networks at most {sizes['hidden']} wide, trained for at most {sizes['epochs']} epochs."]


def _tuning_notes(group: Group) -> list[str]:
    """By which rule the hyper-parameters of which methods were chosen."""
    if not group.tuned:
        return []
    rules = group.runs.groupby(group.runs["tuning"].str.partition(" over ")[0])["label"].unique()
    listed = "; ".join(f"{rule}: {', '.join(sorted(labels))}" for rule, labels in rules.items())
    return [f"Hyper-parameters chosen on the validation split, see {group.slug}_trials. {listed}."]


def _listed(cells: pd.DataFrame, meaning: str) -> list[str]:
    """The meaning of a sign with the methods and rates that have it; nothing where none has."""
    listed = "; ".join(_where(part, "") for _, part in cells.groupby("label"))
    return [f"{meaning}: {listed}."] if listed else []


def _where(cells: pd.DataFrame, sign: str) -> str:
    """Method, rates and reason of the marked cells of one method and status."""
    at = ", ".join(f"{rate:g}" for rate in sorted(cells["noise_rate"].unique()))
    reason = f" ({cells['status'].iloc[0]})" if sign == FAILED else ""
    return f"{cells['label'].iloc[0]} at {at}{reason}"
