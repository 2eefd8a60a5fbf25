"""What all tables share: the cells as numbers, their ranks, marks of cells without a result, and the notes below."""

import json
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.groups import Group
from xmbench.report.labels import setting_notes

FAILED, NO_RUN, STALE, COLLAPSED, UNDEFINED = "×", "–", "†", "‡", "∅"
COLLAPSED_BELOW = 1e-4  # standard deviation of a network's scores


def with_runs(group: Group, cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with what is known of their runs: realised_rate, noise_sha, params, stale, status, run_ids and more.

    Args:
        group: the runs.
        cells: one row per cell: label, noise_rate, n and what is shown.
    """
    cells = cells.join(group.by_cell, on=["label", "noise_rate"])
    return cells.assign(
        n=cells["n"].fillna(0).astype(int),
        stale=cells["stale"].eq(True),
        status=cells["status"].fillna("no run"),
        oracle=cells["label"].isin(group.oracles),
        from_description=cells["label"].isin(group.described),
    )


def tidy(group: Group, cells: pd.DataFrame, selection: str) -> pd.DataFrame:
    """The cells as numbers, one row each, with all that says which runs they come from."""
    what: dict[str, Any] = {
        "dataset": group.dataset,
        "dataset_params": group.dataset_params,
        "noise_scheme": group.noise_scheme,
        "noise_options": group.noise_options,
        "protocol": group.protocol,
        "protocol_sha": group.protocol_sha,
        "tuned": group.tuned,
        "split": group.split,
        "selection": selection,
        "n_expected": group.n_planned,
    }
    columns = [
        "dataset", "dataset_params", "split", "protocol", "protocol_sha", "tuned", "selection", "metric", "noise_scheme",
        "noise_options", "noise_rate", "realised_rate", "label", "params", "network", "direction", "mean", "std", "n",
        "n_expected", "chance", "rank", "oracle", "from_description", "stale", "collapsed", "status", "noise_sha", "run_ids",
    ]  # fmt: skip
    table = cells.assign(**what)
    return table[[column for column in columns if column in table]].rename(columns={"label": "method"})


def number(value: float, digits: int) -> str:
    """The value with so many digits; empty where there is none."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def shown(cell: dict[Hashable, Any], n_planned: int, digits: int, factor: float = 1.0) -> dict[str, Any]:
    """What a cell shows: mean, std, rank, count and marks, or the mark of a cell without a finished run."""
    return {
        "mean": number(factor * cell["mean"], digits) if cell["n"] else mark(cell["status"]),
        "std": number(factor * cell["std"], digits),
        "rank": 0 if np.isnan(cell["rank"]) else int(cell["rank"]),
        "count": f"{cell['n']}/{n_planned}" if 0 < cell["n"] < n_planned else "",
        "stale": cell["stale"] and cell["n"] > 0,
        "collapsed": bool(cell.get("collapsed")) and cell["n"] > 0,
    }


def mark(status: str) -> str:
    """The mark of a cell without a number."""
    if status.startswith("not_applicable") and "," not in status:
        return "n/a"
    if status.startswith("undefined"):
        return UNDEFINED
    return NO_RUN if not status or (status.startswith("no run") and "," not in status) else FAILED


def notes_below(group: Group, cells: pd.DataFrame, averaged: str = "similarities") -> list[str]:
    """Sentences that explain the marks and methods that occur in the table, and no others.

    Args:
        group: the runs.
        cells: of the table.
        averaged: what is averaged over the networks of a method.
    """
    labels = set(cells["label"])
    runs = group.runs[group.runs["label"].isin(labels)]
    networks = group.n_networks[runs.index]
    empty = cells[cells["n"] == 0].assign(mark=lambda c: [mark(status) for status in c["status"]])
    notes = setting_notes(runs)
    if cells["n"].between(1, group.n_planned - 1).any():
        notes.append(f"n/{group.n_planned}: only n of {group.n_planned} seeds have a result; the mean is over those.")
    for sign, meaning in {FAILED: "no run finished", "n/a": "not applicable", NO_RUN: "no result"}.items():
        marked = empty[empty["mark"] == sign]
        listed = [_where(part, sign) for _, part in marked.groupby(["label", "status"])]
        notes += [f"{sign}: {meaning}: {'; '.join(listed)}."] if listed else []
    stale = sorted(set(cells.loc[cells["stale"] & (cells["n"] > 0), "label"]))
    notes += [f"{STALE}: stale, the source of the method changed after these runs: {', '.join(stale)}."] if stale else []
    notes += _collapse_notes(cells)
    notes += _profile_notes(group)
    notes += _tuning_notes(group)
    several = runs[networks > 1].groupby(networks)["label"].unique()
    notes += [f"The {averaged} of {n:.0f} networks are averaged: {', '.join(sorted(names))}." for n, names in several.items()]
    if described := group.described & labels:
        names = ", ".join(sorted(described))
        notes.append(f"Re-implementation from a description, neither code nor the paper's text could be had: {names}.")
    if oracles := group.oracles & labels:
        notes.append(f"Oracles, not ranked, read what a method cannot know: {', '.join(sorted(oracles))}.")
    return notes


def _collapse_notes(cells: pd.DataFrame) -> list[str]:
    """Which methods gave nearly the same score to all pairs, and at which rates."""
    if "collapsed" not in cells:
        return []
    collapsed = cells[cells["collapsed"] & (cells["n"] > 0)]
    listed = "; ".join(_where(part, COLLAPSED) for _, part in collapsed.groupby("label"))
    meaning = (
        f"{COLLAPSED}: collapsed and not ranked, the scores of a network have a standard deviation below {COLLAPSED_BELOW:g}, "
        "so that what is left of a ranking is hardly more than rounding"
    )
    return [f"{meaning}: {listed}."] if listed else []


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


def _where(cells: pd.DataFrame, sign: str) -> str:
    """Method, rates and reason of the marked cells of one method and status."""
    at = ", ".join(f"{rate:g}" for rate in sorted(cells["noise_rate"].unique()))
    reason = f" ({cells['status'].iloc[0]})" if sign == FAILED else ""
    return f"{cells['label'].iloc[0]} at {at}{reason}"
