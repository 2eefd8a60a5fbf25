"""The command `xmbench compare`: two methods cell by cell. Thin, no logic."""

from typing import TYPE_CHECKING

import click

from xmbench.completion import one
from xmbench.grid_cli import NOTHING, STORE, Stop
from xmbench.printing import FORMAT, print_frame

if TYPE_CHECKING:
    import pandas as pd

_TOLD = "dataset dataset_params noise_scheme noise_options protocol protocol_sha tuned split selection direction metric".split()


@click.command()
@click.argument("first", metavar="A", shell_complete=one("methods"))
@click.argument("second", metavar="B", shell_complete=one("methods"))
@STORE
@click.option("--where", help="Which rows: pandas query syntax over columns, no function calls.")
@click.option(
    "--metric",
    shell_complete=one("metrics"),
    help="A metric that is a mean over queries, or rsum.  [default: map, or rsum of pairs]",
)
@click.option("--direction", default="mean", show_default=True, help="A retrieval direction such as image2text, or their mean.")
@click.option("--rate", "rates", type=float, multiple=True, help="A noise rate; may be given again.  [default: all]")
@FORMAT
def compare(
    first: str,
    second: str,
    store: str,
    where: str | None,
    metric: str | None,
    direction: str,
    rates: tuple[float, ...],
    form: str,
) -> None:
    """Compare two methods, A less B, on every dataset, noise and rate that both have.

    Differences are paired over the same test queries, with a 95 % interval, a test corrected for all cells shown (Holm), and
    effect sizes; see docs/statistics.md.
    """
    from xmbench.registry import closest
    from xmbench.report.comparison import NothingInCommon
    from xmbench.report.comparison import compare as compare_methods
    from xmbench.report.groups import NEEDED, READ, Reader, group_rows
    from xmbench.store import Store, mark_stale

    source = Store(store)
    rows = source.rows(READ, where, NEEDED, coded=True)
    groups = group_rows(mark_stale(rows)) if len(rows) else []
    if not groups:
        raise Stop(f"no finished run in {store}{' matches' if where else ''}", NOTHING)
    known = {name for group in groups for name in [*group.labels, *group.runs["method"]]}
    for name in (first, second):
        if name not in known:
            raise closest("method in these results", name, known)
    try:
        table = compare_methods(Reader(source), groups, first, second, metric=metric, direction=direction, rates=rates)
    except NothingInCommon as error:
        raise Stop(str(error), NOTHING) from None
    if form != "table":
        print_frame(table, form)
        return
    same = {name: table[name].iloc[0] for name in _TOLD if table[name].nunique() == 1}
    click.echo(", ".join(f"{name} {value}" for name, value in same.items() if value not in ("", "{}")), err=True)
    print_frame(_for_people(table.drop(columns=list(same))), form, below="note")


def _for_people(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with fewer columns: the interval in one, and means under the names of the methods."""
    from xmbench.report.significance import p_words

    names = [" / ".join(dict.fromkeys(table[column])) for column in ("method_a", "method_b")]
    interval = [f"[{low:.3g}, {high:.3g}]" for low, high in zip(table["low"], table["high"], strict=True)]
    shown = table.assign(interval=interval, p=table["p"].map(p_words), p_holm=table["p_holm"].map(p_words))
    titles = {"mean_a": names[0], "mean_b": names[1], "interval": "95 %", "p_holm": "p (Holm)", "effect_dz": "d_z"}
    titles |= {"superiority": f"{names[0]} better", "n_seeds": "seeds", "n_queries": "queries"}
    columns = "mean_a mean_b difference interval p p_holm effect_dz superiority n_seeds n_queries test note".split()
    own = [column for column in [*_TOLD, "noise_rate"] if column in shown]
    return shown[[*own, *columns]].rename(columns=titles)
