"""The tables of a report as files: those of each group, and those that span groups, such as the tables of the papers."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from xmbench.published.terms import published_cells
from xmbench.report.captions import place
from xmbench.report.cells import cells_of, tidy
from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.layouts import OF_GROUPS, Layout, load_layout
from xmbench.report.rendering import render_table
from xmbench.report.tables import Table, make_table
from xmbench.report.words import selection_words

SIZES = ("hidden", "steps", "batch_size", "lr", "warm_up")  # and all whose name ends in dim or epochs


def map_tables(group: Group, context: Context) -> list[File]:
    """Write the MAP table of each selection."""
    return [file for selection in SELECTIONS for file in _of_group(group, _selected("map", selection, context), context)]


def rsum_tables(group: Group, context: Context) -> list[File]:
    """Write the tables of each selection, all metrics of it as the tidy CSV of the first, and mAP@R and PMRP in a second."""
    files: list[File] = []
    for selection in SELECTIONS:
        layouts = [_selected(name, selection, context) for name in ("rsum", "matches")]
        cells = cells_of(group, replace(layouts[0], metrics=()))
        measured = set(cells.loc[cells["n"] > 0, "metric"])
        notes = size_notes(group)
        files += _of_group(group, layouts[0], context, cells, notes)
        found = tuple(metric for metric in layouts[1].metrics if metric in measured)
        if found:
            matches = replace(layouts[1], metrics=found, cols=("direction", "metric"))
            files += [file for file in _of_group(group, matches, context, cells, notes) if file.path.suffix != ".csv"]
    return files


def detection_tables(group: Group, context: Context) -> list[File]:
    """Write the table of each selection of how well methods find the noise in the training pairs."""
    return [file for selection in SELECTIONS for file in _of_group(group, _selected("detection", selection, context), context)]


def layout_tables(groups: Sequence[Group], layout: Layout, context: Context) -> list[File]:
    """Write the tables of a layout over several groups: one for each value of what is neither in its rows nor its columns.

    Groups that differ in their protocol, noise options or parameters stand side by side with a footnote where rows or columns
    are of groups, and else in tables of their own.
    """
    layout = replace(layout, agg=context.agg)
    narrowed = [_shown(group, layout) for group in groups if _belongs(group, layout)]
    belonging = [group for group in narrowed if len(group.runs)]
    apart: dict[tuple[str, ...], list[Group]] = {}
    spanning = any(name in OF_GROUPS for name in layout.dimensions)
    for group in belonging:
        key = _apart(group, layout) if spanning else (group.slug,)
        apart.setdefault(key, []).append(group)
    files: list[File] = []
    known = layout.values("dataset")
    for key, part in apart.items():
        shown = layout.with_metrics(layout.metrics or (part[0].metric,))
        filled = [(group, cells) for group in part if (cells := cells_of(group, shown))["n"].any()]
        filled.sort(key=lambda pair: known.index(place(pair[0])) if known else 0)
        own = "" if len(apart) == 1 and layout.of_a_paper else "_".join(filter(None, key)) + "_"
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{own}{layout.name}")
        if filled:
            known_cells = [cells for _, cells in filled]
            table = make_table(
                [group for group, _ in filled],
                shown,
                stem=stem,
                cells=known_cells,
                published=_papers(context),
                reader=context.reader,
                lettered=context.mark == "significance",
            )
            files += _written(table, shown, context)
    return files


def _belongs(group: Group, layout: Layout) -> bool:
    """Whether a group may have cells in the layout."""
    wanted = {name: layout.values(name) for name in OF_GROUPS} | {
        name: (value,) for name, value in layout.where.items() if name in OF_GROUPS
    }
    own = {"dataset": place(group)} | {name: getattr(group, name) for name in OF_GROUPS[1:]}
    return all(not values or own[name] in values for name, values in wanted.items())


def _shown(group: Group, layout: Layout) -> Group:
    """The part of a group that the layout has a place for: only that is ranked, counted and named as what the table shows."""
    known = {name: (layout.where[name],) if name in layout.where else layout.values(name) for name in ("method", "noise_rate")}
    methods = {here for name in known["method"] for here in (name, *layout.same.get(name, ()))}
    return group.only(methods, known["noise_rate"])


def _apart(group: Group, layout: Layout) -> tuple[str, ...]:
    """What keeps a group out of the table of another."""
    parts = {"dataset": place(group), "noise_scheme": group.noise_scheme, "metric": "" if layout.metrics else group.metric}
    return tuple(value for name, value in parts.items() if name not in layout.dimensions and name not in layout.where)


def _selected(name: str, selection: str, context: Context) -> Layout:
    return replace(load_layout(name), selection=selection, agg=context.agg)


def _papers(context: Context) -> pd.DataFrame | None:
    return published_cells(*context.papers) if context.papers else None


def _of_group(
    group: Group, layout: Layout, context: Context, cells: pd.DataFrame | None = None, notes: Iterable[str] = ()
) -> list[File]:
    """Write the table of one group; nothing where no run has a number for it."""
    cells = cells_of(group, layout) if cells is None else cells
    if not cells["n"].any():
        return []
    stem = f"{group.slug}_{layout.name}" + ("" if layout.selection == "best_valid" else f"_{layout.selection}")
    table = make_table(
        [group],
        layout,
        stem=stem,
        cells=[cells],
        published=_papers(context),
        reader=context.reader,
        lettered=context.mark == "significance",
        notes=notes,
    )
    return _written(table, layout, context)


def _written(table: Table, layout: Layout, context: Context) -> list[File]:
    """Write a table as LaTeX, Markdown and HTML, and its cells as a tidy CSV."""
    texts = {suffix: render_table(table, suffix) for suffix in ("tex", "md", "html")}
    cells = [tidy(group, table.cells[table.cells["group"] == i], layout) for i, group in enumerate(table.groups)]
    told = pd.concat(cells, ignore_index=True)
    told = told[(told["n"] > 0) | told["metric"].isin(layout.metrics)]
    texts["csv"] = told.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    files = []
    for suffix, text in texts.items():
        path = context.out / f"{table.stem}.{suffix}"
        write_text(path, text)
        title = f"{table.title} by method, {selection_words(table.groups[0], layout.selection)}"
        files += [File(path, title, group, group.runs) for group in table.groups]
    return files


def size_notes(group: Group) -> list[str]:
    """How large the methods' networks are and how they are trained: what the numbers of two papers often differ in."""
    labels: dict[str, set[str]] = {}
    for label, params in group.runs[["label", "params"]].drop_duplicates().itertuples(index=False, name=None):
        sizes = {name: value for name, value in json.loads(params).items() if _is_size(name) and isinstance(value, int | float)}
        labels.setdefault(", ".join(f"{name}={value:g}" for name, value in sizes.items()), set()).add(label)
    listed = "; ".join(f"{sizes}: {', '.join(sorted(names))}" for sizes, names in sorted(labels.items()) if sizes)
    return [f"Sizes and training. {listed}."] if listed else []


def _is_size(name: str) -> bool:
    return name in SIZES or name.endswith(("dim", "epochs"))
