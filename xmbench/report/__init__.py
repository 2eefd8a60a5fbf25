"""Tables and figures from a store: `render` writes them all; one file per kind, one function `group -> files` each."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xmbench.report.captions import place
from xmbench.report.figures import FIGURES, lacking
from xmbench.report.files import Context, File
from xmbench.report.groups import NEEDED, READ, Group, Reader, Results, decoded, group_rows
from xmbench.report.index import write_index, write_provenance
from xmbench.report.layouts import Layout
from xmbench.report.robustness import robustness
from xmbench.report.significance_table import significance_tables
from xmbench.report.style import Palette
from xmbench.report.table_files import layout_tables, map_tables, rsum_tables
from xmbench.report.trials import trial_table

__all__ = ["FIGURES", "NEEDED", "READ", "REPORTS", "NothingToReport", "metrics_of", "render"]

REPORTS: dict[str, Callable[[Group, Context], list[File]]] = {
    "map": map_tables,
    "rsum": rsum_tables,
    "trials": trial_table,
    "significance": significance_tables,
    "robustness": robustness,
    **{name: kind.draw for name, kind in FIGURES.items()},
}
ONLY = {"map": "map", "rsum": "rsum"}  # kind -> metric of the groups it is for
ONLY |= {name: kind.metric for name, kind in FIGURES.items() if kind.metric}


class NothingToReport(LookupError):
    """The store holds no finished run that a report could show."""


def metrics_of(kinds: Collection[str]) -> list[str | None] | None:
    """The metrics that these kinds of files show, and None for runs without any; None for all metrics."""
    return ["map", None] if set(kinds) == {"map"} else None


def render(
    store: Results,
    out: Path,
    *,
    where: pd.DataFrame | None = None,
    kinds: Collection[str] = tuple(REPORTS),
    layouts: Sequence[Layout] = (),
    tell: Callable[[str], object] = lambda line: None,
    **options: Any,
) -> list[Path]:
    """Write tables and figures of a store into a folder, and return their paths.

    Args:
        store: the results; only `rows` and `arrays` are called.
        out: folder, made where missing; files of the same names are replaced one by one.
        where: the rows to show, where not all of the store's.
        kinds: which of `REPORTS` to write.
        layouts: which tables to write that may span groups.
        tell: called with a line for each kind of figure that could not be drawn, which says what it needs.
        options: of `Context`, such as `agg`.

    Raises:
        NothingToReport: no run of these rows has a MAP or an rSum on a test split, or a place in a layout.
    """
    rows = store.rows() if where is None else where
    groups = group_rows(rows)
    if not groups:
        raise NothingToReport(_nothing(rows))
    out.mkdir(parents=True, exist_ok=True)
    labels = sorted({label for group in groups for label in group.labels})
    context = Context(Reader(store), Palette(labels), out, groups, **options)
    spanning = {layout.name: layout_tables(groups, layout, context) for layout in layouts}
    if empty := [name for name, files in spanning.items() if not files]:
        raise NothingToReport(_no_place(empty, layouts, groups))
    made = [(group, _made(group, context, kinds) | _of_group(group, spanning)) for group in groups]
    files = [file for _, kinds in made for part in kinds.values() for file in part]
    paths = dict.fromkeys(file.path for file in files)
    for line in lacking(made, kinds):
        tell(line)
    return [*paths, write_provenance(out, files), write_index(out, made, rows)]


def _of_group(group: Group, spanning: dict[str, list[File]]) -> dict[str, list[File]]:
    """Of the tables that span groups those that show this one."""
    own = {name: [file for file in files if file.group.slug == group.slug] for name, files in spanning.items()}
    return {name: files for name, files in own.items() if files}


def _no_place(names: list[str], layouts: Sequence[Layout], groups: Sequence[Group]) -> str:
    """Why a layout is empty, and what would fill it."""
    there = "; ".join(dict.fromkeys(f"{place(group)} under {group.noise_scheme}" for group in groups))
    reasons = [f"{layout.name} ({_wanted(layout)})" for layout in layouts if layout.name in names]
    return f"no run of these has a number for {', '.join(reasons)}; there are runs on {there}"


def _wanted(layout: Layout) -> str:
    if not layout.spec:
        return f"{', '.join(layout.metrics) or 'MAP or rSum'} in the directions and networks asked for"
    datasets = layout.values("dataset") or (layout.where.get("dataset", "any dataset"),)
    return f"on {', '.join(datasets)} under {layout.where['noise_scheme']}: `xmbench run --spec {layout.spec}`"


def _made(group: Group, context: Context, kinds: Collection[str]) -> dict[str, list[File]]:
    """The files of a group by kind; only tuned runs have trials, and only data with labels a MAP, PR curves and classes."""
    shown = [kind for kind in REPORTS if ONLY.get(kind, group.metric) == group.metric and (group.tuned or kind != "trials")]
    return {kind: REPORTS[kind](group, context) for kind in shown if kind in kinds}


def _nothing(rows: pd.DataFrame) -> str:
    """Why there is nothing to show, and what to run."""
    counts = decoded(rows.drop_duplicates("run_id"))["status"].value_counts().sort_index()
    found = ", ".join(f"{status} {count}" for status, count in counts.items()) or "no run at all"
    run = "xmbench run --methods mrl,ce,mcca --dataset wikipedia"
    return f"nothing to report: no finished run with a test MAP or rSum ({found}); run for example `{run}`"
