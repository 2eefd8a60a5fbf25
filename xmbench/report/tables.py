"""MAP tables in the layout of Table 1 of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021.

Rows are methods, column groups retrieval directions, columns noise rates. A cell is the mean over seeds with the
standard deviation (n - 1 in its denominator); the best of a column is bold, the second underlined, by the digits shown,
so that equal numbers look equal. Oracles stand below a rule and are not ranked.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.cells import notes_below, number, shown, tidy, with_runs
from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.markup import template
from xmbench.report.words import dataset_words, direction_words, scheme_words, selection_words, setting_words, source_words

COLUMNS_PER_BLOCK = 24  # column groups stand side by side up to so many columns, as many as three; more continue below
DIGITS = 3
FORMATS = ("tex", "md")


def map_tables(group: Group, context: Context) -> list[File]:
    """Write the MAP table of each selection as LaTeX, Markdown and tidy CSV."""
    files: list[File] = []
    for selection in SELECTIONS:
        cells = map_cells(group, selection)
        if not cells["n"].any():
            continue
        stem = f"{group.slug}_map" if selection == "best_valid" else f"{group.slug}_map_{selection}"
        content = table_content(group, cells, selection)
        texts = {name: template(f"map.{name}.j2").render(content) for name in FORMATS}
        texts["csv"] = tidy(group, cells, selection).to_csv(index=False, float_format="%.10g", lineterminator="\n")
        for suffix, text in texts.items():
            path = context.out / f"{stem}.{suffix}"
            write_text(path, text)
            files.append(File(path, f"MAP by direction and noise rate, {selection_words(group, selection)}", group, group.runs))
    return files


def map_cells(group: Group, selection: str) -> pd.DataFrame:
    """One row per cell of the table: label, direction, noise_rate, mean, std, n, rank, status, stale and more.

    `rank` is 1 for the best and 2 for the second of a column; `status` counts the runs that did not finish.
    """
    scores = group.scores(selection)
    grid = pd.MultiIndex.from_product([group.labels, group.directions, group.rates], names=["label", "direction", "noise_rate"])
    stats = scores.groupby(grid.names)["value"].agg(mean="mean", std="std", n="count").reindex(grid).reset_index()
    cells = with_runs(group, stats.assign(metric=group.metric, chance=stats["direction"].map(group.chance)))
    return cells.assign(rank=_ranks(cells))


def _ranks(cells: pd.DataFrame) -> pd.Series:
    """Dense rank of each cell in its column by the digits shown; NaN for oracles and empty cells."""
    digits = cells["mean"].where(~cells["oracle"]).map(lambda mean: float(f"{mean:.{DIGITS}f}"))
    return digits.groupby([cells["direction"], cells["noise_rate"]]).rank(method="dense", ascending=False)


def table_content(group: Group, cells: pd.DataFrame, selection: str) -> dict[str, Any]:
    """What the templates of the table show."""
    return {
        "caption": _caption(group, selection),
        "source": source_words(group),
        "blocks": list(_blocks(group, cells)),
        "rates": [f"{rate:g}" for rate in group.rates],
        "notes": notes_below(group, cells),
    }


def _caption(group: Group, selection: str) -> str:
    return (
        f"MAP on {dataset_words(group)} by nominal rate of {scheme_words(group)}, {setting_words(group, selection)}. "
        "Mean ± standard deviation over seeds; the best of a column is bold, the second underlined; "
        "chance is the expected MAP of a random ranking."
    )


def _blocks(group: Group, cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Column groups that stand side by side, with the lines of the table below them."""
    at = {(c["label"], c["direction"], c["noise_rate"]): c for c in cells.to_dict("records")}
    per_block = min(max(COLUMNS_PER_BLOCK // (len(group.rates) + 1), 1), 3)
    for start in range(0, len(group.directions), per_block):
        directions = group.directions[start : start + per_block]
        yield {
            "heads": [direction_words(direction) for direction in directions],
            "chance": [number(group.chance.get(direction, np.nan), DIGITS) for direction in directions],
            "lines": [
                {
                    "label": label,
                    "oracle": label in group.oracles,
                    "groups": [[shown(at[label, d, r], group.n_planned, DIGITS) for r in group.rates] for d in directions],
                }
                for label in group.labels
            ],
        }
