"""The table engine: a layout and groups of runs become rows and columns of text, which `rendering` writes in four formats.

A cell is one method at one noise rate in one direction by one metric. The best of the methods that share a column is bold, the
second underlined, by the digits shown, so that equal numbers look equal. Oracles stand below a rule and are not ranked, nor
are collapsed runs, whose numbers are chance, nor the single networks of a method that averages several, nor numbers of papers.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from xmbench.report.aggregate import digits_of, factor, in_percent
from xmbench.report.captions import caption_of, differing, place, source_of, title_of
from xmbench.report.cells import MEAN, NETWORKS, NO_RUN, cells_of, mark, notes_of, number, ranks
from xmbench.report.groups import Group, Reader
from xmbench.report.layouts import MEAN_CI95, OF_GROUPS, Layout
from xmbench.report.printed import COORDINATES, printed_cells, printed_notes
from xmbench.report.significance import MAX_LETTERED, Place, intervals, over_words, table_letters
from xmbench.report.words import METRIC_WORDS, direction_words
from xmbench.statistics import Interval

TITLES = {
    "dataset": "Dataset", "noise_scheme": "Noise scheme", "protocol": "Protocol", "tuned": "Hyper-parameters",
    "noise_rate": "Noise", "method": "Method", "direction": "Direction", "metric": "Metric",
}  # fmt: skip
MEANINGS = {
    "one network": "what the networks of a method reach on their own, on average",
    "intersection": "where all networks agree",
}
CHANCE = "chance"

Record = dict[Hashable, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Head:
    """The head of a row or a column at one level: text, whether it is a name in code, what follows it, and a footnote."""

    text: str
    code: bool = False
    after: str = ""
    letter: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows: a number or the mark of none, letters of significance, spread, rank, `n/N` and marks; whose it is."""

    text: str
    letters: str = ""
    spread: str = ""
    rank: int = 0
    count: str = ""
    marks: str = ""
    published: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its heads from outside to inside, its cells, and the level of heads from which a rule above it starts, or None."""

    heads: tuple[Head, ...]
    cells: tuple[Cell, ...]
    rule: int | None = None
    oracle: bool = False


@dataclass(frozen=True)
class Table:
    """A table in words and texts.

    Attributes:
        stem: name of its files without suffix.
        title: what it shows, in a few words.
        caption, source: the same at length, and which runs it shows.
        titles: of the levels of row heads.
        cols: heads of each column, from outside to inside.
        rows: with their cells.
        notes: sentences below.
        groups: whose runs it shows.
        cells: as numbers, of `cells_of`, with the index of their group.
    """

    stem: str
    title: str
    caption: str
    source: str
    titles: tuple[str, ...]
    cols: tuple[tuple[Head, ...], ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    groups: tuple[Group, ...]
    cells: pd.DataFrame


def make_table(
    groups: Sequence[Group],
    layout: Layout,
    *,
    stem: str,
    cells: Sequence[pd.DataFrame] | None = None,
    published: pd.DataFrame | None = None,
    reader: Reader | None = None,
    lettered: bool = False,
    notes: Iterable[str] = (),
) -> Table:
    """The table of a layout.

    Args:
        groups: whose runs it may show.
        layout: what it shows; with at least one metric.
        stem: name of its files without suffix.
        cells: of `cells_of`, by group, where they are known; they may be of more metrics.
        published: numbers of papers to stand beside, of `published_cells`.
        reader: arrays, for what needs values per query: letters, and intervals over queries.
        lettered: whether letters say which methods of a column are separable, in place of bold and underlined.
        notes: sentences to stand below, after those on marks and methods.
    """
    layout = layout.with_metrics(layout.metrics)
    settings = differing(groups, layout)
    parts = cells or [cells_of(group, layout) for group in groups]
    parts = [_placed(part, i, groups[i], settings.letters[i]) for i, part in enumerate(parts)]
    every = pd.concat(parts, ignore_index=True)
    every = _with_intervals(every, groups, layout, reader)
    seen = _chosen(every, layout)
    seen = seen.assign(rank=ranks(seen, layout, ["group"]))
    seen = _with_letters(seen, groups, layout, reader) if lettered and reader else seen.assign(letters="")
    records: list[Record] = seen.to_dict("records")
    printed = [] if published is None else _printed(published, seen, layout)
    carrier = next((name for name in (*layout.cols[::-1], *layout.rows[::-1]) if name in OF_GROUPS), "")
    row_names, col_names = (_expanded(names, carrier) for names in (layout.rows, layout.cols))
    row_keys = _row_keys(records + printed, layout, row_names)
    col_keys = _col_keys(records + printed, layout, col_names)
    at = {(_key(r, row_names), _key(r, col_names)): r for r in printed + records}
    if len(at) < len(printed) + len(records):
        raise ValueError(f"table {layout.name}: {len(printed) + len(records)} numbers fall on {len(at)} cells; tell them apart")
    rows = _rows(row_keys, col_keys, at, layout, row_names)
    shown_notes = _joined_notes(groups, seen, layout)
    return Table(
        stem=stem,
        title=title_of(layout),
        caption=caption_of(groups, layout, ranked=not lettered),
        source=source_of(groups),
        titles=tuple(TITLES[name] for name in layout.rows),
        cols=tuple(_heads(key, col_names, layout) for key in col_keys),
        rows=(*rows, *_chance_row(seen, col_keys, col_names, layout)),
        notes=(
            *settings.notes,
            *shown_notes,
            *_network_notes(records),
            *_interval_notes(seen, layout),
            *(_letter_notes(seen) if lettered else ()),
            *printed_notes(printed),
            *notes,
        ),
        groups=tuple(groups),
        cells=every,
    )


def _placed(cells: pd.DataFrame, number: int, group: Group, letter: str) -> pd.DataFrame:
    """Cells with what they have of their group."""
    what: dict[str, Any] = {"group": number, "dataset": place(group), "letter": letter, "printed": ""}
    return cells.assign(**what, **{name: getattr(group, name) for name in OF_GROUPS[1:]})


def _chosen(cells: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The cells that the layout shows, `method` as the layout calls it."""
    stands_for = {here: method for method, others in layout.same.items() for here in others}
    cells = cells.assign(method=cells["method"].map(lambda method: stands_for.get(method, method)))
    keep = cells["metric"].isin(layout.metrics) & cells["network"].isin(layout.networks)
    if "direction" in layout.dimensions:
        average = layout.metrics if layout.average is None else layout.average
        keep &= (cells["direction"] != MEAN) | cells["metric"].isin(average)
    else:
        keep &= cells["direction"] == layout.where.get("direction", MEAN)
    for name in {*layout.dimensions, *layout.where} - {"direction", "split"}:
        if wanted := layout.values(name) or ((layout.where[name],) if name in layout.where else ()):
            keep &= cells[name].isin(wanted)
    return cells[keep]


def _by_column(
    cells: pd.DataFrame, groups: Sequence[Group], read: Callable[[list[Place]], Sequence[dict[str, T]]]
) -> list[T | None]:
    """What `read` finds of each cell's method in its column; None where it finds nothing."""
    columns = [*cells[["group", "direction", "metric", "noise_rate"]].drop_duplicates().itertuples(index=False, name=None)]
    of_columns = read([(groups[group], *rest) for group, *rest in columns])
    found = {
        (*column, label, MEAN): what
        for column, of_methods in zip(columns, of_columns, strict=True)
        for label, what in of_methods.items()
    }
    names = ("group", "direction", "metric", "noise_rate", "label", "network")
    return [found.get(key) for key in zip(*(cells[name] for name in names), strict=True)]


def _with_intervals(cells: pd.DataFrame, groups: Sequence[Group], layout: Layout, reader: Reader | None) -> pd.DataFrame:
    """Cells with half of the intervals that need values per query as ci95 and spread, where there are any, and `interval_over`.

    Without such values an interval is over seeds alone, from five on.
    """
    if layout.agg != MEAN_CI95:
        return cells
    found: list[Interval | None] = [None] * len(cells)
    if reader is not None:
        found = _by_column(cells, groups, lambda places: [intervals(reader, place, layout.selection) for place in places])
    half = [np.nan if i is None else i.high - i.mean for i in found]
    over = ["" if i is None else over_words(i.over) for i in found]
    seeds = cells["ci95"].notna().map({True: "seeds alone", False: "nothing, for want of seeds or of values per query"})
    ci95 = pd.Series(half, cells.index, dtype=float).fillna(cells["ci95"])
    return cells.assign(ci95=ci95, spread=ci95, interval_over=pd.Series(over, cells.index).where(np.array(over) != "", seeds))


def _with_letters(cells: pd.DataFrame, groups: Sequence[Group], layout: Layout, reader: Reader) -> pd.DataFrame:
    """Cells without ranks, with the letters that separable methods do not share."""
    found = _by_column(cells, groups, lambda places: table_letters(reader, places, layout.selection))
    return cells.assign(letters=[text or "" for text in found], rank=np.nan)


def _expanded(names: Sequence[str], carrier: str) -> tuple[str, ...]:
    """Dimensions with what tells apart cells that have the same: label and networks of a method, the footnote of a group."""
    more = {"method": ("method", "label", "network"), carrier: (carrier, "letter")}
    return tuple(part for name in names for part in more.get(name, (name,)))


def _key(record: Record, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record[name] for name in names)


def _row_keys(records: list[Record], layout: Layout, names: tuple[str, ...]) -> list[tuple[int, bool, tuple[Any, ...]]]:
    """Block, whether it is an oracle's, and key of each row."""
    oracles = {record["label"] for record in records if record["oracle"]}
    found = {_key(record, names) for record in records}
    if not layout.of_a_paper:
        ordered = sorted(found, key=lambda key: _order(key, names, layout, oracles))
        outer = list(dict.fromkeys(key[: _outer(names, layout)] for key in ordered))
        return [
            (outer.index(key[: _outer(names, layout)]), "label" in names and key[names.index("label")] in oracles, key)
            for key in ordered
        ]
    fixed = list(layout.fixed_rows())
    own = layout.rows
    return [(block, False, key) for block, values in fixed for key in _matching(values, own, found, names, layout)]


def _outer(names: tuple[str, ...], layout: Layout) -> int:
    """How many parts of a key belong to the levels above the innermost."""
    return len(names) - len(_expanded(layout.rows[-1:], "")) if len(layout.rows) > 1 else 0


def _col_keys(records: list[Record], layout: Layout, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    found = {_key(record, names) for record in records}
    if not (layout.of_a_paper and all(layout.values(name) for name in layout.cols)):
        return sorted(found, key=lambda key: _order(key, names, layout, set()))
    return [key for values in layout.fixed_cols() for key in _matching(values, layout.cols, found, names, layout)]


def _matching(
    values: tuple[Any, ...], own: Sequence[str], found: Iterable[tuple[Any, ...]], names: tuple[str, ...], layout: Layout
) -> list[tuple[Any, ...]]:
    """The keys that have these values of the dimensions `own`, or the one of a row or column that no run fills."""
    wanted = dict(zip(own, values, strict=True))
    keys = [key for key in found if all(part == wanted.get(name, part) for name, part in zip(names, key, strict=True))]
    default = {"label": wanted.get("method"), "network": MEAN, "letter": ""} | wanted
    if not any(part == MEAN for key in keys for name, part in zip(names, key, strict=True) if name == "network"):
        keys += [tuple(default[name] for name in names)] if "network" in names or not keys else []
    return sorted(keys, key=lambda key: _order(key, names, layout, set()))


def _order(key: tuple[Any, ...], names: tuple[str, ...], layout: Layout, oracles: set[str]) -> tuple[Any, ...]:
    """By what rows and columns are sorted: the layout's order, else alphabetical or by number; means and oracles last."""
    order: list[Any] = []
    for name, part in zip(names, key, strict=True):
        known = layout.values(name) if name not in ("label", "network", "letter") else ()
        if name == "method":
            label, network = key[names.index("label")], key[names.index("network")]
            order += [known.index(part) if part in known else len(known), label in oracles, part, network not in NETWORKS]
        elif name == "network":
            order += [NETWORKS.index(part) if part in NETWORKS else len(NETWORKS), part]
        else:
            order += [known.index(part) if part in known else len(known), part == MEAN, part]
    return tuple(order)


def _rows(
    keys: list[tuple[int, bool, tuple[Any, ...]]],
    col_keys: list[tuple[Any, ...]],
    at: dict[tuple[Any, ...], Record],
    layout: Layout,
    names: tuple[str, ...],
) -> list[Row]:
    rows: list[Row] = []
    before: tuple[int, bool] | None = None
    for block, oracle, key in keys:
        rule = (
            None if before is None else 0 if block != before[0] else len(layout.rows) - 1 if oracle and not before[1] else None
        )
        cells = tuple(_cell(at.get((key, col)), layout, gap="" if _is_printed(key, col) else NO_RUN) for col in col_keys)
        rows.append(Row(_heads(key, names, layout), cells, rule, oracle))
        before = block, oracle
    return rows


def _is_printed(*keys: tuple[Any, ...]) -> bool:
    """Whether a row or column is of a paper's numbers: the key ends in the paper where it ends in a network."""
    return any(isinstance(key[-1], str) and ", " in key[-1] and key[-1] not in NETWORKS for key in keys)


def _cell(record: Record | None, layout: Layout, gap: str) -> Cell:
    """The texts of a cell, or of one that is not there; bare ones have no marks and no spread."""
    if record is None:
        return Cell(gap)
    if record["printed"]:
        return Cell(record["printed"], published=True)
    metric, n = record["metric"], record["n"]
    digits = digits_of(metric, layout.digits)
    text = number(factor(metric) * record["shown"], digits) if n else mark(record["status"])
    rank = 0 if np.isnan(record["rank"]) else int(record["rank"])
    if metric in layout.bare:
        return Cell(text, record["letters"], rank=rank)
    marks = "".join(sign for sign, name in (("†", "stale"), ("‡", "collapsed"), ("§", "other_noise")) if n and record[name])
    count = f"{n}/{record['n_planned']}" if 0 < n < record["n_planned"] else ""
    return Cell(text, record["letters"], number(factor(metric) * record["spread"], digits), rank, count, marks)


def _heads(key: tuple[Any, ...], names: tuple[str, ...], layout: Layout) -> tuple[Head, ...]:
    """The heads of a row or column, one per dimension."""
    parts = dict(zip(names, key, strict=True))
    heads = []
    for name in (name for name in names if name not in ("label", "network", "letter")):
        letter = parts.get("letter", "") if names[names.index(name) + 1 : names.index(name) + 2] == ("letter",) else ""
        if name == "method":
            heads.append(_method_head(parts, layout))
        else:
            heads.append(Head(_words(name, parts[name], layout), letter=letter))
    return tuple(heads)


def _method_head(parts: dict[str, Any], layout: Layout) -> Head:
    method, label, network = parts["method"], parts["label"], parts["network"]
    after = "" if network == MEAN else f" ({network})"
    if method not in layout.heads.get("method", {}):
        return Head(label, code=True, after=after)
    detail = label.removeprefix(method).strip() if label.startswith(f"{method} (") else f"({label})" if label != method else ""
    return Head(f"{layout.heads['method'][method]} {detail}".strip(), after=after)


def _words(name: str, value: Any, layout: Layout) -> str:
    """A value as a head."""
    heads = {str(key): head for key, head in layout.heads.get(name, {}).items()}
    if name == "noise_rate":
        percent = all(in_percent(metric) or metric in ("rsum", "medr", "meanr") for metric in layout.metrics)
        return heads.get(f"{value:g}", f"{100 * value:g} %" if percent else f"{value:g}")
    if name == "direction":  # that of rSum, which is over all directions, needs no name
        return "" if value == MEAN and layout.average is not None else heads.get(value, direction_words(value))
    return heads.get(value, METRIC_WORDS.get(value, value) if name == "metric" else value or "none")


def _chance_row(seen: pd.DataFrame, col_keys: list[tuple[Any, ...]], names: tuple[str, ...], layout: Layout) -> list[Row]:
    """What a random ranking would reach in each column, where known; papers print none."""
    if layout.of_a_paper or seen["chance"].isna().all() or "method" in layout.cols:
        return []
    means = seen.groupby(list(names), dropna=False, observed=True)["chance"].mean()
    values = {key if isinstance(key, tuple) else (key,): value for key, value in means.items()}
    metrics = [key[names.index("metric")] if "metric" in names else layout.metrics[0] for key in col_keys]
    texts = [
        number(factor(metric) * values[key], digits_of(metric, layout.digits))
        for key, metric in zip(col_keys, metrics, strict=True)
    ]
    heads = (*[Head("")] * (len(layout.rows) - 1), Head(CHANCE))
    return [Row(heads, tuple(map(Cell, texts)), rule=0)]


def _printed(published: pd.DataFrame, seen: pd.DataFrame, layout: Layout) -> list[Record]:
    """Records of the printed numbers that have a place in the table: of a paper's, or beside one of ours."""
    cells = printed_cells(published, seen, layout)
    cells = _chosen(cells, replace(layout, networks=tuple(cells["network"].unique())))
    if not layout.of_a_paper:
        cells = cells.merge(seen[COORDINATES].drop_duplicates(), on=COORDINATES)
    records: list[Record] = cells.to_dict("records")
    return records


def _network_notes(records: list[Record]) -> list[str]:
    """What the additional rows of methods with several networks mean."""
    present = {record["network"] for record in records}
    return [f"({network}): {meaning}; not ranked." for network, meaning in MEANINGS.items() if network in present]


def _letter_notes(seen: pd.DataFrame) -> list[str]:
    """Which methods have no letters although these are shown."""
    without = seen[(seen["letters"] == "") & (seen["n"] > 0) & (seen["network"] == MEAN) & ~seen["oracle"]]["label"].unique()
    if seen.groupby(["group", "direction", "metric", "noise_rate"])["label"].nunique().gt(MAX_LETTERED).any():
        return [f"More than {MAX_LETTERED} methods: no letters."]
    listed = ", ".join(sorted(without))
    return (
        [f"No letter, for want of values per query or of a seed in common with each of the others: {listed}."] if listed else []
    )


def _interval_notes(seen: pd.DataFrame, layout: Layout) -> list[str]:
    """What the intervals are over, with the methods where not all are alike."""
    shown = seen[(seen["n"] > 0) & (seen["network"] == MEAN) & ~seen["metric"].isin(layout.bare)]
    if layout.agg != MEAN_CI95 or shown.empty:
        return []
    names = {over: sorted(set(part["label"])) for over, part in shown.groupby("interval_over")}
    listed = "; ".join(str(over) + (f": {', '.join(labels)}" if len(names) > 1 else "") for over, labels in names.items())
    return [f"Confidence intervals are over {listed}."]


def _joined_notes(groups: Sequence[Group], seen: pd.DataFrame, layout: Layout) -> list[str]:
    """The notes of all groups, each once; with the dataset where it is not true of all."""
    notes = [notes_of(group, seen[seen["group"] == i], layout) for i, group in enumerate(groups)]
    counts: dict[str, list[int]] = {}
    for i, of_group in enumerate(notes):
        for note in of_group:
            counts.setdefault(note, []).append(i)
    return [
        note if len(where) == len(groups) else f"{', '.join(dict.fromkeys(place(groups[i]) for i in where))}: {note}"
        for note, where in counts.items()
    ]
