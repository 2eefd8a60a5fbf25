"""MAP tables in the layout of Table 1 of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021.

Rows are methods, column groups retrieval directions, columns noise rates. A cell is the mean over seeds with the
standard deviation (n - 1 in its denominator); the best of a column is bold, the second underlined, by the digits shown,
so that equal numbers look equal. Oracles stand below a rule and are not ranked.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.labels import setting_notes
from xmbench.report.markup import template
from xmbench.report.words import (
    SELECTION_WORDS,
    dataset_words,
    direction_words,
    noise_words,
    protocol_words,
    run_words,
    scheme_words,
)

COLUMNS_PER_BLOCK = 24  # column groups stand side by side up to so many columns, as many as three; more continue below
FAILED, NO_RUN, STALE = "×", "–", "†"
FORMATS = ("tex", "md")


def map_tables(group: Group, context: Context) -> list[File]:
    """Write the MAP table of each selection as LaTeX, Markdown and tidy CSV."""
    files: list[File] = []
    for selection in SELECTIONS:
        cells = map_cells(group, selection)
        if not cells["n"].any():
            continue
        stem = f"{group.slug}_map" if selection == "best_valid" else f"{group.slug}_map_{selection}"
        texts = {name: render_table(group, cells, selection, name) for name in FORMATS}
        texts["csv"] = tidy(group, cells, selection).to_csv(index=False, float_format="%.10g", lineterminator="\n")
        for suffix, text in texts.items():
            path = context.out / f"{stem}.{suffix}"
            write_text(path, text)
            files.append(File(path, f"MAP by direction and noise rate, {SELECTION_WORDS[selection]}", group, group.runs))
    return files


def map_cells(group: Group, selection: str) -> pd.DataFrame:
    """One row per cell of the table: label, direction, noise_rate, mean, std, n, rank, status, stale and more.

    `rank` is 1 for the best and 2 for the second of a column; `status` counts the runs that did not finish.
    """
    scores = group.scores(selection)
    grid = pd.MultiIndex.from_product([group.labels, group.directions, group.rates], names=["label", "direction", "noise_rate"])
    stats = scores.groupby(grid.names)["value"].agg(mean="mean", std="std", n="count").reindex(grid).reset_index()
    runs = group.runs.groupby(["label", "noise_rate"]).agg(
        realised_rate=("realised_rate", "mean"),
        noise_sha=("noise_sha", lambda shas: " ".join(sorted(set(shas) - {""}))),
        params=("params", "first"),
        stale=("stale", "any"),
        status=("status", lambda status: _counted(status[status != "ok"])),
        run_ids=("run_id", lambda ids: " ".join(sorted(ids))),
    )
    cells = stats.join(runs, on=["label", "noise_rate"])
    cells = cells.assign(
        n=cells["n"].fillna(0).astype(int),
        stale=cells["stale"].eq(True),
        status=cells["status"].fillna("no run"),
        oracle=cells["label"].isin(group.oracles),
        from_description=cells["label"].isin(group.described),
        chance=cells["direction"].map(group.chance),
    )
    return cells.assign(rank=_ranks(cells))


def _counted(statuses: pd.Series) -> str:
    """`failed 1, timeout 2`."""
    return ", ".join(f"{status} {count}" for status, count in sorted(Counter(statuses).items()))


def _ranks(cells: pd.DataFrame) -> pd.Series:
    """Dense rank of each cell in its column by the three digits shown; NaN for oracles and empty cells."""
    shown = cells["mean"].where(~cells["oracle"]).map(lambda mean: float(f"{mean:.3f}"))
    return shown.groupby([cells["direction"], cells["noise_rate"]]).rank(method="dense", ascending=False)


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
        "metric": "map",
        "n_expected": group.n_planned,
    }
    columns = [
        "dataset", "dataset_params", "split", "protocol", "protocol_sha", "tuned", "selection", "metric", "noise_scheme",
        "noise_options", "noise_rate", "realised_rate", "label", "params", "direction", "mean", "std", "n",
        "n_expected", "chance", "rank", "oracle", "from_description", "stale", "status", "noise_sha", "run_ids",
    ]  # fmt: skip
    return cells.assign(**what)[columns].rename(columns={"label": "method"})


def render_table(group: Group, cells: pd.DataFrame, selection: str, suffix: str) -> str:
    """The table as text.

    Args:
        group: the runs.
        cells: of `map_cells`.
        selection: best_valid or last.
        suffix: tex or md.
    """
    return template(f"map.{suffix}.j2").render(
        caption=_caption(group, selection),
        source=_source(group),
        blocks=list(_blocks(group, cells)),
        rates=[f"{rate:g}" for rate in group.rates],
        notes=_notes(group, cells),
    )


def _caption(group: Group, selection: str) -> str:
    valid = " or ".join(sorted(set(group.runs["valid_labels"].dropna())))
    profiles = sorted(set(group.runs["profile"].dropna()) - {"", "none", "default"})
    profile = f", profile {' and '.join(profiles)}" if profiles else ""
    tuned = f", hyper-parameters {group.tuned}" if group.tuned else ""
    rule = SELECTION_WORDS[selection] + (f" ({valid} labels)" if selection == "best_valid" else "")
    return (
        f"MAP on {dataset_words(group)} by nominal rate of {scheme_words(group)}, {rule}{profile}{tuned}. "
        "Mean ± standard deviation over seeds; the best of a column is bold, the second underlined; "
        "chance is the expected MAP of a random ranking."
    )


def _source(group: Group) -> str:
    words = [noise_words(group.runs), protocol_words(group), run_words(group.runs)]
    return f"Shown: {'; '.join(words)}; listed in provenance.csv."


def _blocks(group: Group, cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Column groups that stand side by side, with the lines of the table below them."""
    at = {(c["label"], c["direction"], c["noise_rate"]): c for c in cells.to_dict("records")}
    per_block = min(max(COLUMNS_PER_BLOCK // (len(group.rates) + 1), 1), 3)
    for start in range(0, len(group.directions), per_block):
        directions = group.directions[start : start + per_block]
        yield {
            "heads": [direction_words(direction) for direction in directions],
            "chance": [_number(group.chance.get(direction, np.nan)) for direction in directions],
            "lines": [
                {
                    "label": label,
                    "oracle": label in group.oracles,
                    "groups": [[_shown(at[label, d, r], group.n_planned) for r in group.rates] for d in directions],
                }
                for label in group.labels
            ],
        }


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _shown(cell: dict[Hashable, Any], n_planned: int) -> dict[str, Any]:
    """What a cell shows: mean, std, rank and count, or the mark of a cell without a finished run."""
    return {
        "mean": _number(cell["mean"]) if cell["n"] else _mark(cell["status"]),
        "std": _number(cell["std"]),
        "rank": 0 if np.isnan(cell["rank"]) else int(cell["rank"]),
        "count": f"{cell['n']}/{n_planned}" if 0 < cell["n"] < n_planned else "",
        "stale": cell["stale"] and cell["n"] > 0,
    }


def _mark(status: str) -> str:
    if status.startswith("not_applicable") and "," not in status:
        return "n/a"
    return NO_RUN if status in ("", "no run") else FAILED


def _notes(group: Group, cells: pd.DataFrame) -> list[str]:
    """Sentences that explain the marks that occur in the table, and no others."""
    empty = cells[cells["n"] == 0].assign(mark=lambda c: [_mark(status) for status in c["status"]])
    notes = setting_notes(group.rows)
    if cells["n"].between(1, group.n_planned - 1).any():
        notes.append(f"n/{group.n_planned}: only n of {group.n_planned} seeds have a result; the mean is over those.")
    for mark, meaning in {FAILED: "no run finished", "n/a": "not applicable", NO_RUN: "no result"}.items():
        marked = empty[empty["mark"] == mark]
        listed = [_where(part, mark) for _, part in marked.groupby(["label", "status"])]
        notes += [f"{mark}: {meaning}: {'; '.join(listed)}."] if listed else []
    stale = sorted(set(cells.loc[cells["stale"] & (cells["n"] > 0), "label"]))
    notes += [f"{STALE}: stale, the source of the method changed after these runs: {', '.join(stale)}."] if stale else []
    notes += _profile_notes(group)
    notes += _tuning_notes(group)
    several = group.runs[group.runs["n_networks"] > 1].groupby("n_networks")["label"].unique()
    notes += [f"The similarities of {n:.0f} networks are averaged: {', '.join(sorted(names))}." for n, names in several.items()]
    if group.described:
        names = ", ".join(sorted(group.described))
        notes.append(f"Re-implementation from a description, neither code nor the paper's text could be had: {names}.")
    if group.oracles:
        notes.append(f"Oracles, not ranked, read what a method cannot know: {', '.join(sorted(group.oracles))}.")
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
    rules = group.runs.groupby(group.runs["tuning"].str.partition(" over ")[0])["label"].unique()
    listed = "; ".join(f"{rule}: {', '.join(sorted(labels))}" for rule, labels in rules.items())
    return [f"Hyper-parameters chosen on the validation split, see {group.slug}_trials. {listed}."] if group.tuned else []


def _where(cells: pd.DataFrame, mark: str) -> str:
    """Method, rates and reason of the empty cells of one method and status."""
    at = ", ".join(f"{rate:g}" for rate in sorted(cells["noise_rate"].unique()))
    reason = f" ({cells['status'].iloc[0]})" if mark == FAILED else ""
    return f"{cells['label'].iloc[0]} at {at}{reason}"
