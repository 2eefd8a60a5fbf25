"""Tables of what differs by more than chance: by method its interval, letters, and how far it is from the best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.marked import marked
from xmbench.report.rendering import render_table
from xmbench.report.significance import (
    BY_PLACE,
    LEVEL,
    MAX_LETTERED,
    Column,
    Pair,
    column_letters,
    column_pairs,
    compare_pairs,
    over_words,
    p_words,
    pair_facts,
    read_column,
)
from xmbench.report.tables import Cell, Head, Row, Table
from xmbench.report.words import (
    METRIC_WORDS,
    counted,
    dataset_words,
    direction_words,
    scheme_words,
    setting_words,
    source_words,
)
from xmbench.statistics import BOTH, QUERIES, mean_interval

DIGITS = {"map": 3, "rsum": 1}
TITLES = ("95 %", "groups", "to the best", "its 95 %", "p", "d_z", "better", "seeds")


@dataclass(frozen=True)
class Compared:
    """A column of methods at a noise rate in a direction, and the pairs of them that were tested."""

    direction: str
    rate: float
    column: Column
    pairs: list[Pair]


def significance_tables(group: Group, context: Context) -> list[File]:
    """Write, by selection, all pairs of each column as CSV, and the methods with their letters as LaTeX, Markdown and HTML."""
    files: list[File] = []
    for selection in SELECTIONS:
        compared = _compared(group, context, selection)
        rows = [
            {"direction": part.direction, "metric": group.metric, "noise_rate": part.rate, **pair_facts(pair)}
            for part in compared
            for pair in part.pairs
        ]
        if not rows:
            continue
        table = significance_table(group, selection, compared)
        texts = {suffix: render_table(table, suffix) for suffix in ("tex", "md", "html")}
        texts["csv"] = pd.DataFrame(rows).to_csv(index=False, float_format="%.10g", lineterminator="\n")
        for suffix, text in texts.items():
            path = context.out / f"{table.stem}.{suffix}"
            write_text(path, text)
            files.append(File(path, table.title, group, group.runs))
    return files


def _compared(group: Group, context: Context, selection: str) -> list[Compared]:
    """Every direction at every rate; Holm's correction is over the pairs of all of them."""
    labels = [label for label in group.labels if label not in group.oracles]
    columns = [
        (direction, rate, read_column(context.reader, group, labels, selection, direction, group.metric, rate))
        for rate in group.rates  # directions of a rate after each other: they are read from the same runs
        for direction in group.directions
    ]
    pairs = [column_pairs(column) for *_, column in columns]
    made = iter(compare_pairs([pair for part in pairs for pair in part]))
    return [Compared(*what, [next(made) for _ in part]) for what, part in zip(columns, pairs, strict=True)]


def significance_table(group: Group, selection: str, compared: Sequence[Compared]) -> Table:
    """The methods at each noise rate by the mean of the directions, best first."""
    shown = [part for part in compared if part.direction == "mean" and part.column.rows]
    marks, notes = marked(group, {label for part in shown for label in part.column.rows}, selection)
    rows = [row for part in shown for row in _rows(group, part, marks, first=part is shown[0])]
    heads = ((Head(METRIC_WORDS[group.metric]),), *((Head(title),) for title in TITLES))
    return Table(
        stem=f"{group.slug}_significance" + ("" if selection == "best_valid" else f"_{selection}"),
        title="differences between methods, with tests and effect sizes",
        caption=_caption(group, selection, compared, shown),
        source=source_words(group),
        titles=("Noise", "Method"),
        cols=heads,
        rows=tuple(rows),
        notes=(*_notes(compared, shown), *notes),
        groups=(group,),
        cells=pd.DataFrame(),
    )


def _caption(group: Group, selection: str, compared: Sequence[Compared], shown: Sequence[Compared]) -> str:
    over = {pair.interval.over for part in shown for pair in part.pairs}
    tests = sorted({pair.tested.by for part in shown for pair in part.pairs})
    n_pairs = sum(len(part.pairs) for part in compared)
    return (
        f"{METRIC_WORDS[group.metric]} ({direction_words('mean').lower()} of the directions) on {dataset_words(group)} by "
        f"nominal rate of {scheme_words(group)}, {setting_words(group, selection)}. Mean with its 95 % confidence interval "
        f"over {_joined(over)}; methods of a rate that share a letter are not separable at {LEVEL:g}: paired tests over the "
        f"same queries ({'; '.join(tests)}), with Holm's correction over the {counted(n_pairs, 'pair')} of all rates and "
        "directions. Beside them the difference to the best with its interval, its p-value after Holm, d_z (the mean "
        "difference by its standard deviation over items) and the share of items on which the method is better than the best, "
        "ties by half."
    )


def _joined(over: set[str]) -> str:
    """What the intervals are over, and what some of them leave out."""
    return " or, from five seeds on, ".join(over_words(name) for name in (QUERIES, BOTH) if name in over)


def _notes(compared: Sequence[Compared], shown: Sequence[Compared]) -> list[str]:
    """Where the numbers are of fewer seeds, pairs or queries than one would think."""
    notes = []
    if any(len({frozenset(seeds) for seeds in part.column.rows.values()}) > 1 for part in shown):
        notes.append("A difference is over the seeds that both methods have.")
    alone = [f"{label} at {part.rate:g}" for part in shown for label in part.column.rows if label not in _letters(part)]
    if any(len(part.column.rows) > MAX_LETTERED for part in compared):
        notes.append(f"More than {MAX_LETTERED} methods: each is compared with the best one only, and none has a letter.")
    elif alone:
        notes.append(f"No letter, for want of a seed in common with each of the others: {', '.join(alone)}.")
    if any(np.isinf(pair.effect.standardised) for part in shown for pair in part.pairs):
        notes.append("∞: the difference is the same for all items.")
    return [*notes, *([f"{BY_PLACE.capitalize()}."] if any(part.column.by_place for part in shown) else [])]


def _letters(part: Compared) -> dict[str, str]:
    if len(part.column.rows) > MAX_LETTERED:
        return {}
    return column_letters(part.column, {frozenset((pair.first, pair.second)): pair.p_holm for pair in part.pairs})


def _rows(group: Group, part: Compared, marks: dict[tuple[str, float], str], *, first: bool) -> list[Row]:
    """The methods of one noise rate, best first; a rule above them but for the first rate."""
    letters, digits = _letters(part), DIGITS[group.metric]
    best = next(iter(part.column.means))
    to_best = {pair.second: pair for pair in part.pairs if pair.first == best}
    rows: list[Row] = []
    for label, mean in part.column.means.items():
        interval = mean_interval(part.column.of(label).values)
        pair = to_best.get(label)
        texts = [_range(interval.low, interval.high, digits), letters.get(label, ""), *_differences(pair, digits)]
        cells = [Cell(_fixed(mean, digits), marks=marks.get((label, part.rate), "")), *map(Cell, texts)]
        cells.append(Cell(str(len(part.column.rows[label]))))
        rows.append(Row((Head(f"{part.rate:g}"), Head(label, code=True)), tuple(cells), None if rows or first else 0))
    return rows


def _differences(pair: Pair | None, digits: int) -> list[str]:
    """A method less the best: difference, interval, p, d_z and the share of items; blank for the best itself."""
    if pair is None:
        return [""] * 5
    interval, sizes = pair.interval, pair.effect
    bounds = _range(-interval.high, -interval.low, digits)
    return [
        _fixed(-interval.mean, digits),
        bounds,
        p_words(pair.p_holm),
        _fixed(-sizes.standardised, 2),
        _fixed(1 - sizes.superiority, 2),
    ]


def _range(low: float, high: float, digits: int) -> str:
    return f"[{_fixed(low, digits)}, {_fixed(high, digits)}]" if np.isfinite([low, high]).all() else ""


def _fixed(value: float, digits: int) -> str:
    """The value with so many digits, never -0; blank where there is none.

    >>> _fixed(-0.0001, 2), _fixed(float("-inf"), 2), _fixed(float("nan"), 2)
    ('0.00', '-∞', '')
    """
    if np.isnan(value):
        return ""
    return f"{'-' * (value < 0)}∞" if np.isinf(value) else f"{round(value, digits) + 0.0:.{digits}f}"
