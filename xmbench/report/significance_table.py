"""Tables of what differs by more than chance: by method its interval, letters, and how far it is from the best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.markup import template
from xmbench.report.significance import (
    LEVEL,
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
from xmbench.report.words import METRIC_WORDS, dataset_words, direction_words, scheme_words, setting_words, source_words
from xmbench.statistics import BOTH, QUERIES, mean_interval

DIGITS = {"map": 3, "rsum": 1}


def significance_tables(group: Group, context: Context) -> list[File]:
    """Write, by selection, all pairs of each column as CSV, and the methods with their letters as LaTeX and Markdown."""
    files: list[File] = []
    labels = [label for label in group.labels if label not in group.oracles]
    for selection in SELECTIONS:
        columns = [
            (direction, rate, read_column(context.reader, group, labels, selection, direction, group.metric, rate))
            for rate in group.rates  # directions of a rate after each other: they are read from the same runs
            for direction in group.directions
        ]
        compared = [(*part, compare_pairs(column_pairs(part[-1]))) for part in columns]
        rows = [
            {"direction": direction, "metric": group.metric, "noise_rate": rate, **pair_facts(pair)}
            for direction, rate, _, pairs in compared
            for pair in pairs
        ]
        if not rows:
            continue
        stem = f"{group.slug}_significance" + ("" if selection == "best_valid" else f"_{selection}")
        content = _content(group, selection, [part for part in compared if part[0] == "mean" and part[2].rows])
        texts = {suffix: template(f"significance.{suffix}.j2").render(content) for suffix in ("tex", "md")}
        table = pd.DataFrame(rows)
        texts["csv"] = table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
        for suffix, text in texts.items():
            path = context.out / f"{stem}.{suffix}"
            write_text(path, text)
            files.append(File(path, "differences between methods, with tests and effect sizes", group, group.runs))
    return files


def _content(group: Group, selection: str, compared: Sequence[tuple[str, float, Column, Sequence[Pair]]]) -> dict[str, Any]:
    """What the templates show."""
    name = METRIC_WORDS[group.metric]
    over = {pair.interval.over for *_, pairs in compared for pair in pairs}
    tests = sorted({pair.tested.by for *_, pairs in compared for pair in pairs})
    return {
        "caption": (
            f"{name} ({direction_words('mean').lower()} of the directions) on {dataset_words(group)} by nominal rate of "
            f"{scheme_words(group)}, {setting_words(group, selection)}. Mean with its 95 % confidence interval over "
            f"{_joined(over)}; methods of a rate that share a letter are not separable at {LEVEL:g}: paired tests over the "
            f"same queries ({'; '.join(tests)}), Holm over all pairs of a rate. Beside them the difference to the best, its "
            "p-value after Holm, d_z (the mean difference by its standard deviation over items) and the share of items on "
            "which the method is better than the best, ties by half."
        ),
        "source": source_words(group),
        "metric": name,
        "blocks": [_block(group, rate, column, pairs) for _, rate, column, pairs in compared],
        "notes": ["A difference is over the seeds that both methods have."] if _seeds_differ(compared) else [],
    }


def _seeds_differ(compared: Sequence[tuple[str, float, Column, Sequence[Pair]]]) -> bool:
    return any(len({frozenset(seeds) for seeds in column.rows.values()}) > 1 for _, _, column, _ in compared)


def _joined(over: set[str]) -> str:
    """What the intervals are over, and what some of them leave out."""
    return " or, from five seeds on, ".join(over_words(name) for name in (QUERIES, BOTH) if name in over)


def _block(group: Group, rate: float, column: Column, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The lines of one noise rate, best first."""
    letters, digits = column_letters(column, pairs), DIGITS[group.metric]
    best = next(iter(column.means))
    to_best = {pair.second: pair for pair in pairs if pair.first == best}
    lines = []
    for label, mean in column.means.items():
        interval = mean_interval(column.of(label).values)
        line = {"label": label, "letters": letters[label], "mean": f"{mean:.{digits}f}"}
        line["interval"] = _range(interval.low, interval.high, digits)
        pair = to_best.get(label)
        line |= {"difference": "", "p": "", "dz": "", "superiority": "", "n": str(len(column.rows[label]))}
        if pair is not None:
            line["difference"] = f"{-pair.interval.mean:.{digits}f} {_range(-pair.interval.high, -pair.interval.low, digits)}"
            line["p"] = p_words(pair.p_holm)
            line["dz"], line["superiority"] = f"{-pair.effect.standardised:.2f}", f"{1 - pair.effect.superiority:.2f}"
        lines.append(line)
    return {"rate": f"{rate:g}", "n_queries": column.values.n_queries, "lines": lines}


def _range(low: float, high: float, digits: int) -> str:
    return "" if np.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
