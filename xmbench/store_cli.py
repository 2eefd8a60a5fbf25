"""The commands of `xmbench store`: compaction and care of stores. Thin, no logic."""

from typing import Any

import click

from xmbench.completion import one
from xmbench.grid_cli import DONE, REGRESSION, STORE
from xmbench.printing import FORMAT, print_facts, print_frame


@click.group()
def store() -> None:
    """Stores of many runs: compact, verify, merge, export."""


@store.command()
@STORE
@FORMAT
def compact(store: str, form: str) -> None:
    """Move the rows of finished runs into few larger files; a sweep may go on meanwhile."""
    from xmbench.compact import compact as move
    from xmbench.store import Store

    done = move(Store(store))
    print_facts({"runs moved": done.runs, "files left as they are": done.left}, form)


@store.command()
@STORE
@click.option("--repair", is_flag=True, help="Set what is damaged aside: the same `xmbench run` does it again.")
@FORMAT
def verify(store: str, repair: bool, form: str) -> None:
    """Read everything and print what is damaged; exit 4 where something is, and is left."""
    import pandas as pd

    from xmbench.store import Store
    from xmbench.store_care import verify as check

    problems = check(Store(store), repair=repair)
    if problems or form != "table":
        print_frame(pd.DataFrame([vars(problem) for problem in problems], columns=["file", "what", "runs"]), form)
    click.echo(f"{len(problems)} files damaged{' and set aside' if repair and problems else ''}", err=True)
    raise click.exceptions.Exit(REGRESSION if problems and not repair else DONE)


@store.command()
@click.argument("sources", nargs=-1, required=True, shell_complete=one(files=True))
@click.option("--into", required=True, shell_complete=one(files=True), help="Store to write to; what it holds comes first.")
@click.option("--prefer", type=click.Choice(["first", "newest"]), help="Which result of a run that has two different ones.")
@FORMAT
def merge(sources: tuple[str, ...], into: str, prefer: Any, form: str) -> None:
    """Write the runs of stores into one; exit 4 where a run has different results and no --prefer."""
    from xmbench.compact import auto_compact
    from xmbench.store import Store
    from xmbench.store_care import merge as join

    target = Store(into)
    target.check_writable()
    done = join([Store(source) for source in sources], target, prefer)
    auto_compact(target)
    print_facts({"runs taken": done.taken, "the same in both": done.same, "refused": len(done.refused)}, form)
    for run_id in done.refused:
        click.echo(f"refused: {run_id} has other values in {into}; say which with --prefer", err=True)
    raise click.exceptions.Exit(REGRESSION if done.refused else DONE)


@store.command()
@click.argument("file", shell_complete=one(files=True))
@STORE
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
def export(file: str, store: str, where: str | None) -> None:
    """Write rows to a new FILE, .parquet or .csv; a parquet file can be read as a store."""
    from pathlib import Path

    from xmbench.store import Store
    from xmbench.store_care import export as write

    click.echo(f"{write(Store(store), Path(file), where)} rows written to {file}", err=True)
