"""The command line: thin, no logic. Results go to stdout, everything else to stderr."""

import sys

import click

from xmbench.compare_cli import compare
from xmbench.completion import one
from xmbench.data_cli import data
from xmbench.doctor_cli import doctor
from xmbench.features_cli import features
from xmbench.grid_cli import (
    DONE,
    INTERNAL,
    INTERRUPTED,
    NO_DATA,
    NOTHING,
    PLUGIN,
    REGRESSION,
    REPORT_HINT,
    STORE,
    USAGE,
    Stop,
)  # fmt: skip
from xmbench.new_cli import new, validate
from xmbench.noise_cli import noise
from xmbench.printing import FORMAT, print_facts, print_frame
from xmbench.report_cli import report
from xmbench.repro_cli import repro
from xmbench.run_cli import how_to_go_on, plan, run
from xmbench.store_cli import store
from xmbench.watch_cli import logs, show, status

SHOWN_ROWS = 1000  # of `xmbench results` as a table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="xmbench")
def cli() -> None:
    """Benchmark for cross-modal retrieval under noisy supervision.

    \b
    Exit codes: 0 done, 1 internal error, 2 usage, 3 some runs failed, 4 regression, 5 data missing or damaged,
    6 nothing matched or measured, 7 time budget reached, 130 interrupted.
    """


cli.add_command(new)
cli.add_command(validate)
cli.add_command(run)
cli.add_command(plan)
cli.add_command(status)
cli.add_command(logs)
cli.add_command(show)
cli.add_command(noise)
cli.add_command(data)
cli.add_command(features)
cli.add_command(store)
cli.add_command(report)
cli.add_command(compare)
cli.add_command(repro)
cli.add_command(doctor)


@cli.command("list")
@click.argument("kind", type=click.Choice("methods datasets noise metrics specs protocols published layouts".split()))
@PLUGIN
@FORMAT
def list_(kind: str, plugins: tuple[str, ...], form: str) -> None:
    """List what there is."""
    import pandas as pd

    from xmbench.catalogue import catalogue

    print_frame(pd.DataFrame(catalogue(kind)), form)


@cli.command()
@click.argument("name", shell_complete=one("methods", "datasets", "noise", "metrics", "specs", "protocols", "papers"))
@PLUGIN
@FORMAT
def info(name: str, plugins: tuple[str, ...], form: str) -> None:
    """Everything about one method, dataset, noise scheme, metric, spec, protocol, paper or published method."""
    from xmbench.catalogue import describe

    print_facts(describe(name), form)


@cli.command()
@click.argument("names", nargs=-1, required=True, shell_complete=one("cited"))
def cite(names: tuple[str, ...]) -> None:
    """Print the BibTeX of what methods, datasets and the papers of `xmbench repro` rest on, each reference once."""
    from xmbench.published.citations import bibtex, cited
    from xmbench.registry import closest

    if unknown := next((name for name in names if name not in cited()), None):
        raise closest("method, dataset or paper with a reference", unknown, cited())
    click.echo(bibtex(names))


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
@click.option(
    "--against", required=True, type=click.Path(exists=True, dir_okay=True), help="Reference: a parquet file or a store."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@FORMAT
def check(against: str, jobs: int, form: str) -> None:
    """Run a reference's runs again and compare: exit 0 same, 4 regression, 6 nothing measured."""
    from xmbench.check import check as run_again
    from xmbench.store import Store

    table = run_again(Store(against).rows(), jobs=jobs)
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
