"""`xmbench repro`: which numbers of the papers were reproduced."""

import click

from xmbench.completion import one
from xmbench.grid_cli import NOTHING, REPORT_HINT, STORE, Stop
from xmbench.printing import print_frame


@click.command()
@click.argument("papers", nargs=-1, metavar="[PAPER]...", shell_complete=one("papers"))
@STORE
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "json", "csv"]), default="table", show_default=True,
    help="json and csv have a line per number; the others sum up what was not attempted.",
)  # fmt: skip
def repro(papers: tuple[str, ...], store: str, where: str | None, form: str) -> None:
    """The scorecard: every number that the papers print beside ours, and whether it was reproduced.

    A paper is mrl2021, ncr2021, labelwise2021 or lnc2024.  [default: all of them]
    """
    from xmbench.repro import NEEDED, READ, in_short, markdown, scorecard, summary
    from xmbench.store import Store, mark_stale

    rows = Store(store).rows(READ, where, NEEDED)
    if rows.empty:
        raise Stop(f"no rows in {store}{' match' if where else ''}; fill it: {REPORT_HINT}", NOTHING)
    card = scorecard(mark_stale(rows), papers)
    if form in ("json", "csv"):
        print_frame(card, form)
    for title, table in in_short(card) if form in ("table", "markdown") else []:
        click.echo(f"**{title}**\n\n{markdown(table)}\n" if form == "markdown" else title)
        if form == "table":
            print_frame(table, form)
    counts = summary(card).iloc[-1].drop("paper")
    click.echo(", ".join(f"{name} {count}" for name, count in counts.items()), err=True)
