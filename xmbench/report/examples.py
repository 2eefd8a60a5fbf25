"""Lists of examples as a picture of text, as Markdown and as CSV: what was found for a query, which pairs were found out."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure, write_text
from xmbench.report.groups import Arrays, Group
from xmbench.report.markup import markdown
from xmbench.report.style import FOOTER_CHARACTERS_PER_INCH, FOOTER_SIZE, Style, drawable, hues

RIGHT, WRONG = "✓", "✗"
CHARACTERS = 70  # of a line in a figure; longer ones end in an ellipsis
LINE = 0.17  # inches
FOOT_LINE = 0.1  # inches
COLUMN = 4.4  # inches


@dataclass(frozen=True)
class Line:
    """A line of a figure: text, and whether it is right; None for a head."""

    text: str
    right: bool | None = None


def item_names(arrays: Arrays, split: str, modality: str, n_items: int) -> NDArray[np.str_]:
    """(n_items,) what a reader sees of each item: its words, else its name, else its number."""
    for name in (f"items/{split}/{modality}/words", f"items/{split}/{modality}"):
        if name in arrays:
            return np.asarray(arrays[name]).astype(str)
    return np.arange(n_items).astype(str)


def write_examples(
    group: Group,
    context: Context,
    kind: str,
    table: pd.DataFrame,
    columns: Sequence[Sequence[Line]],
    title: str,
    runs: pd.DataFrame,
    footer: str,
) -> list[File]:
    """Write `table` as CSV and Markdown, and `columns` as a figure.

    Args:
        group: the runs.
        context: where to.
        kind: what the names of the files end in.
        table: a row per example, with a column `label`.
        columns: of the figure, lines of one method.
        title: what is listed.
        runs: the runs that are listed, rows of `group.runs`.
        footer: what the files show.
    """  # fmt: skip
    stem = context.out / f"{group.slug}_{kind}"
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("csv", "md")]
    write_text(paths[0], table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(paths[1], _markdown(table, title, footer))
    figures = write_figure(stem, draw_lines(columns, title, footer), footer)
    return [File(path, title, group, runs) for path in [*paths, *figures]]


def _markdown(table: pd.DataFrame, title: str, footer: str) -> str:
    """A table per method."""
    parts = [markdown(title)]
    for label, part in table.groupby("label", sort=False):
        shown = part.drop(columns=["label", "run_id"])
        marked = {True: RIGHT, False: WRONG}
        cells = [
            [marked[bool(value)] if isinstance(value, bool | np.bool_) else _cell(value) for value in row]
            for row in shown.to_numpy(object)
        ]
        lines = [
            "| " + " | ".join(row) + " |" for row in [list(map(markdown, shown.columns)), ["---"] * shown.shape[1], *cells]
        ]
        parts.append(f"**{markdown(str(label))}**\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, markdown(footer)]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return markdown(" ".join(str(value).split()))


def draw_lines(columns: Sequence[Sequence[Line]], title: str, footer: str) -> Figure:
    """Columns of text side by side; right ones have a tick, wrong ones a cross, in two colours.

    Args:
        columns: lines from top to bottom.
        title: above them.
        footer: what the figure shows.
    """
    width = COLUMN * len(columns)
    foot = fill(drawable(footer), int(FOOTER_CHARACTERS_PER_INCH * width))
    height = LINE * (max(map(len, columns)) + 3) + FOOT_LINE * (foot.count("\n") + 1)
    figure = Figure(figsize=(width, height))
    colours = {True: hues()[2], False: hues()[3]}
    look: Style = {"fontsize": 7, "va": "top"}
    for i, lines in enumerate(columns):
        for k, line in enumerate(lines):
            at = ((0.1 + i * COLUMN) / width, 1 - LINE * (k + 2.2) / height)
            if line.right is None:
                figure.text(*at, drawable(shortened(line.text)), weight="bold", **look)
                continue
            figure.text(*at, RIGHT if line.right else WRONG, color=colours[line.right], weight="bold", **look)
            figure.text(at[0] + 0.18 / width, at[1], drawable(shortened(line.text)), **look)
    figure.text(0.1 / width, 1 - 0.1 / height, drawable(title), fontsize="large", va="top")
    look = {"fontsize": FOOTER_SIZE, "color": "0.35", "linespacing": 1.3}
    figure.text(0.1 / width, 0.05 / height, foot, va="bottom", **look)
    return figure


def shortened(text: str, limit: int = CHARACTERS) -> str:
    """The text on one line, its end an ellipsis where it is longer than `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
