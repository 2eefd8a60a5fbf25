"""`xmbench report`: tables, figures and the page from a store."""

from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from xmbench.completion import one, several
from xmbench.grid_cli import NOTHING, STORE, Stop, grid_options, spec_of

if TYPE_CHECKING:
    import pandas as pd

    from xmbench.report.layouts import Layout
    from xmbench.spec import Spec


@click.command()
@STORE
@click.option("--out", default="reports", show_default=True, help="Folder to write to.")
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@click.option("--only", metavar="KIND,KIND", help="Which kinds of files, such as map for the MAP tables.  [default: all]")
@click.option("--figures", metavar="all | KIND,KIND", help="Which figures, and no tables; what cannot be drawn is told.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME",
    shell_complete=one("layouts"),
    help="A table as a paper prints it: `xmbench list layouts`.",
)
@click.option("--rows", metavar="DIM,DIM", help="A table of your own: what its rows are, such as method.")
@click.option("--cols", metavar="DIM,DIM", help="What its columns are, such as dataset,noise_rate.")
@click.option(
    "--metric",
    "metrics",
    metavar="NAME,NAME",
    shell_complete=several("metrics"),
    help="What it shows.  [default: MAP, or rSum of pairs]",
)
@click.option(
    "--agg",
    metavar="mean±std | mean±ci95 | median | best",
    default="mean±std",
    show_default=True,
    help="How tables make one number of several seeds; +- is ± too.",
)
@click.option(
    "--mark",
    type=click.Choice(["best", "significance"]),
    default="best",
    show_default=True,
    help="Bold and underlined, or letters: methods that share one are not separable.",
)
@click.option(
    "--published",
    "papers",
    multiple=True,
    metavar="PAPER",
    shell_complete=one("papers"),
    help="Show what a paper prints beside ours: mrl2021.",
)
@click.option(
    "--html", "page", type=click.Path(dir_okay=False), metavar="FILE", help="One page of all results, and no other files."
)
@grid_options
def report(
    store: str, out: str, where: str | None, only: str | None, figures: str | None, page: str | None, **asked: Any
) -> None:
    """Render tables and figures from a store.

    With a grid, given by --spec or as for `run`, what of it has no run is shown as such. Dimensions of rows and columns are
    dataset, noise_scheme, protocol, tuned, noise_rate, method, direction and metric.
    """
    from pathlib import Path

    from xmbench.report import NothingToReport, render
    from xmbench.store import Store, mark_stale

    source, agg = Store(store), asked["agg"].replace("+-", "±")
    _check_grid(asked)
    layouts = _layouts(**asked)
    kinds = _kinds(only, figures, needed=not (layouts or page))
    try:
        if page:
            from xmbench.report.groups import decoded
            from xmbench.report.page import COLUMNS, write_page
            from xmbench.repro import scorecard

            rows = mark_stale(_rows(source, where, COLUMNS, None, asked))
            write_page(source, rows, Path(page), scorecard(decoded(rows)))
            click.echo(page)
        if not (kinds or layouts):
            return
        rows = mark_stale(_rows(source, where, None, kinds if not layouts else None, asked))
        options = {"agg": agg, "papers": asked["papers"], "mark": asked["mark"]}
        tell = partial(click.echo, err=True) if figures else lambda _: None
        files = render(source, Path(out), where=rows, kinds=kinds, layouts=layouts, tell=tell, **options)
    except NothingToReport as error:
        raise Stop(str(error), NOTHING) from None
    for file in files:
        click.echo(file)


def _kinds(only: str | None, figures: str | None, *, needed: bool) -> tuple[str, ...]:
    """The kinds of files asked for; all where nothing is asked for and some are `needed`."""
    from xmbench.report import FIGURES, REPORTS

    asked = [*_listed(only), *(FIGURES if figures == "all" else _listed(figures))]
    if unknown := {*_listed(only)} - set(REPORTS):
        raise click.BadParameter(f"must be of {', '.join(REPORTS)}, got {', '.join(sorted(unknown))}", param_hint="--only")
    if unknown := {*_listed(figures)} - {*FIGURES, "all"}:
        raise click.BadParameter(
            f"must be all or of {', '.join(FIGURES)}, got {', '.join(sorted(unknown))}", param_hint="--figures"
        )
    return tuple(dict.fromkeys(asked)) if asked else tuple(REPORTS) if needed else ()


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _layouts(
    tables: tuple[str, ...],
    rows: str | None,
    cols: str | None,
    metrics: str | None,
    agg: str,
    papers: tuple[str, ...],
    **_: Any,
) -> "list[Layout]":
    """The tables asked for by name, and the one of --rows and --cols."""
    from xmbench.metrics import METRICS
    from xmbench.published import PAPERS
    from xmbench.registry import closest
    from xmbench.report.layouts import AGGREGATES, DIMENSIONS, Layout, layout_names, load_layout

    known: dict[str, tuple[Iterable[str], Collection[str]]] = {
        "table": (tables, layout_names()),
        "paper of --published": (papers, PAPERS),
    }
    known |= {"dimension": (_listed(rows) + _listed(cols), DIMENSIONS), "metric": (_listed(metrics), METRICS)}
    known |= {"--agg": ((agg.replace("+-", "±"),), AGGREGATES)}
    for kind, (names, there) in known.items():
        for name in names:
            if name not in there:
                raise closest(kind, name, there)
    layouts = [load_layout(name) for name in tables]
    if rows or cols or metrics:
        across = tuple(_listed(rows)) or tuple(name for name in ("method",) if name not in _listed(cols))
        default = tuple(name for name in ("direction", "noise_rate") if name not in across)
        layouts.append(Layout(name="table", rows=across, cols=tuple(_listed(cols)) or default, metrics=tuple(_listed(metrics))))
    return layouts


def _rows(source: Any, where: str | None, columns: list[str] | None, kinds: Any, grid: dict[str, Any]) -> "pd.DataFrame":
    """The rows to show, and those of a grid's runs that are missing."""
    from xmbench.report import NEEDED, READ, metrics_of
    from xmbench.store import where_rows

    if grid["spec_name"] or grid["methods"]:
        return where_rows(_with_planned(source.rows(), spec_of(**grid)), where)
    rows: pd.DataFrame = source.rows(columns or READ, where, NEEDED, metrics=metrics_of(kinds) if kinds else None, coded=True)
    return rows


def _check_grid(grid: dict[str, Any]) -> None:
    """Raise UsageError where options of a grid are given and no grid: they do not choose among the runs of the store."""
    if grid["spec_name"] or grid["methods"]:
        return
    names = {option.name: option.opts[0] for option in click.get_current_context().command.params}
    grid_only = "datasets schemes rates seeds noise_seed settings profile twins tune tune_per protocol".split()
    if given := [names[name] for name in grid_only if grid[name] not in (None, ())]:
        raise click.UsageError(
            f"{', '.join(given)}: of a grid, which begins with --methods or --spec; to choose among the runs of the store: "
            "--where \"dataset == 'wikipedia' and noise_rate == 0.4\""
        )


def _with_planned(rows: "pd.DataFrame", spec: "Spec") -> "pd.DataFrame":
    """The rows, and one of status "no run", or with its reason, for each run of the spec that is not among them."""
    import pandas as pd

    from xmbench.plan import plan as make_plan
    from xmbench.run import failure_row

    known = set(rows["run_id"])
    missing = [cell for cell in make_plan(spec, rows=rows) if cell.run.run_id not in known and not cell.run.trial]
    statuses = ["no run" if cell.status in ("ready", "waiting") else cell.status for cell in missing]
    planned = [failure_row(cell, status, cell.reason) for cell, status in zip(missing, statuses, strict=True)]
    return pd.concat([rows, pd.DataFrame(planned, columns=rows.columns)], ignore_index=True) if planned else rows
