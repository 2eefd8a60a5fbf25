"""The command line: thin, no logic. Results go to stdout, everything else to stderr."""

import sys
from typing import TYPE_CHECKING, Any

import click

from xmbench.data_cli import data
from xmbench.grid_cli import (
    DONE,
    INTERNAL,
    INTERRUPTED,
    NO_DATA,
    NOTHING,
    REGRESSION,
    REPORT_HINT,
    STORE,
    USAGE,
    Stop,
    grid_options,
    spec_of,
)  # fmt: skip
from xmbench.noise_cli import noise
from xmbench.printing import FORMAT, print_facts, print_frame
from xmbench.run_cli import how_to_go_on, plan, run
from xmbench.store_cli import store
from xmbench.watch_cli import logs, show, status

if TYPE_CHECKING:
    import pandas as pd

    from xmbench.spec import Spec

SHOWN_ROWS = 1000  # of `xmbench results` as a table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xmbench")
def cli() -> None:
    """Benchmark for cross-modal retrieval under noisy supervision.

    \b
    Exit codes: 0 done, 1 internal error, 2 usage, 3 some runs failed, 4 regression, 5 data missing or damaged,
    6 nothing matched or measured, 7 time budget reached, 130 interrupted.
    """


cli.add_command(run)
cli.add_command(plan)
cli.add_command(status)
cli.add_command(logs)
cli.add_command(show)
cli.add_command(noise)
cli.add_command(data)
cli.add_command(store)


@cli.command("list")
@click.argument("kind", type=click.Choice(["methods", "datasets", "noise", "metrics", "specs", "protocols", "published"]))
@FORMAT
def list_(kind: str, form: str) -> None:
    """List what there is."""
    import pandas as pd

    from xmbench.catalogue import catalogue

    print_frame(pd.DataFrame(catalogue(kind)), form)


@cli.command()
@click.argument("name")
@FORMAT
def info(name: str, form: str) -> None:
    """Everything about one method, dataset, noise scheme, metric, spec, protocol or published method."""
    from xmbench.catalogue import describe

    print_facts(describe(name), form)


@cli.command()
@STORE
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@FORMAT
def results(store: str, where: str | None, form: str) -> None:
    """Print the rows of a store; as a table, the first of them and their main columns."""
    from xmbench.store import COLUMNS, Store

    main = "dataset noise_scheme noise_rate method seed status split selection network direction metric value".split()
    if form == "table":
        rows, n_rows = Store(store).first_rows(main, where, SHOWN_ROWS)
    else:
        rows = Store(store).rows(None, where)
        n_rows = len(rows)
    if not n_rows:
        raise Stop(f"no rows in {store}{' match' if where else ''}; fill it: {REPORT_HINT}", NOTHING)
    if form == "table":
        first = f"; the first {SHOWN_ROWS} are shown, choose others with --where" if n_rows > SHOWN_ROWS else ""
        click.echo(f"{n_rows} rows; {len(COLUMNS) - len(main)} more columns with --format csv or json{first}", err=True)
    print_frame(rows, form)


@cli.command()
@STORE
@click.option("--out", default="reports", show_default=True, help="Folder to write to.")
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@click.option("--only", metavar="KIND,KIND", help="Which kinds of files, such as map for the MAP tables.  [default: all]")
@grid_options
def report(store: str, out: str, where: str | None, only: str | None, **grid: Any) -> None:
    """Render tables and figures from a store.

    With a grid, given by --spec or as for `run`, what of it has no run is shown as such.
    """
    from pathlib import Path

    from xmbench.report import NEEDED, READ, REPORTS, NothingToReport, metrics_of, render
    from xmbench.store import Store, mark_stale, where_rows

    source, kinds = Store(store), only.split(",") if only else list(REPORTS)
    if unknown := set(kinds) - set(REPORTS):
        raise click.BadParameter(f"must be of {', '.join(REPORTS)}, got {', '.join(sorted(unknown))}", param_hint="--only")
    if grid["spec_name"] or grid["methods"]:
        rows = where_rows(_with_planned(source.rows(), spec_of(**grid)), where)
    else:
        rows = source.rows(READ, where, NEEDED, metrics=metrics_of(kinds), coded=True)
    try:
        files = render(source, Path(out), where=mark_stale(rows), kinds=kinds)
    except NothingToReport as error:
        raise Stop(str(error), NOTHING) from None
    for file in files:
        click.echo(file)


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


@cli.command()
@click.option(
    "--against", required=True, type=click.Path(exists=True, dir_okay=True), help="Reference: a parquet file or a store."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@FORMAT
def check(against: str, jobs: int, form: str) -> None:
    """Run a reference's runs again and compare: exit 0 same, 4 regression, 6 nothing measured."""
    from xmbench.check import check as compare
    from xmbench.store import Store

    table = compare(Store(against).rows(), jobs=jobs)
    bad = table[table["problem"] != ""]
    if bool(table["value"].isna().all()):
        raise Stop(f"nothing in {against} could be measured: it must hold finished runs with MAP", NOTHING)
    click.echo(f"{len(table)} numbers of {against} compared, {len(bad)} of them differ", err=True)
    if len(bad):
        print_frame(bad, form)
    raise click.exceptions.Exit(REGRESSION if len(bad) else DONE)


def main() -> None:
    """The entry point: every error becomes one line and its exit code."""
    try:
        sys.exit(cli.main(standalone_mode=False) or DONE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo(how_to_go_on("interrupted"), err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.code if isinstance(error, Stop) else error.exit_code)
    except Exception as error:
        sys.exit(_report_error(error))


def _report_error(error: Exception) -> int:
    """Print what went wrong; return the exit code."""
    from xmbench.datasets import MissingDataError
    from xmbench.store import StoreError
    from xmbench.types import DataError

    message = "".join(c if c.isprintable() or c == "\n" else "?" for c in str(error)[:2000])  # it may quote a hostile file
    if isinstance(error, MissingDataError | DataError | StoreError | FileNotFoundError):
        click.echo(f"Error: {message}", err=True)
        return NO_DATA
    if isinstance(error, ValueError | LookupError | OSError) and not isinstance(error, KeyError | IndexError):
        click.echo(f"Error: {message}", err=True)
        return USAGE
    import traceback

    traceback.print_exception(error)
    click.echo("Error: this is a defect of xmbench; please report it with the lines above", err=True)
    return INTERNAL
