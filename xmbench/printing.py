"""How commands print: a frame or facts as a table, JSON or CSV, to stdout."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

FORMAT = click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How to print.")


def print_frame(table: "pd.DataFrame", form: str, *, below: str = "") -> None:
    """Print a frame to stdout; of a table, the texts in the column `below` stand under it, each once, by number."""
    if form == "csv":
        click.echo(table.to_csv(index=False), nl=False)
    elif form == "json":
        click.echo(table.to_json(orient="records", indent=2))
    else:
        texts = dict.fromkeys(text for text in table[below] if text) if below else {}
        numbers = {text: f"({i})" for i, text in enumerate(texts, 1)}
        if below:
            table = table.assign(**{below: [numbers.get(text, "") for text in table[below]]})
        _print_table(list(map(str, table.columns)), table.astype(object).where(table.notna(), "").itertuples(index=False))
        for text, number in numbers.items():
            click.echo(f"{number} {text}")


def print_facts(facts: Mapping[str, Any], form: str) -> None:
    """Print names and values to stdout; a value may be a mapping."""
    if form == "json":
        click.echo(json.dumps(facts, indent=2, default=str))
    elif form == "csv":
        import pandas as pd

        print_frame(pd.DataFrame(sorted(facts.items()), columns=["fact", "value"]), form)
    else:
        for key, value in facts.items():
            if isinstance(value, dict):
                click.echo(f"{key}:")
                for inner, text in value.items():
                    click.echo(f"  {inner}: {text}")
            else:
                click.echo(f"{key}: {value}" if "\n" not in str(value) else f"{key}:\n{value}")


def _print_table(columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}  # brackets and colons stand for themselves
    console = Console(**plain)
    if not console.is_terminal:
        console = Console(width=200, **plain)
    console.print(table)
