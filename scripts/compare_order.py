"""Rank correlation between a store's MAP and numbers printed in the MRL paper's Table 1 (Wikipedia), rate by rate.

    python scripts/compare_order.py results/reference/reduced/label_noise.parquet PUBLISHED.csv

PUBLISHED.csv has the columns paper, table, dataset, noise_rate, method, value. The paper's deep-SM is our `ce`: its Table 3
repeats the row as "CE".
"""

from pathlib import Path

import click
import pandas as pd
from scipy.stats import spearmanr

from xmbench import load_results


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.argument("published", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dataset", default="wikipedia", show_default=True, help="Of the store's rows.")
def main(store: Path, published: Path, dataset: str) -> None:
    """Print Spearman's correlation over the methods that both have, of the mean of both directions at the best epoch."""
    table = pd.read_csv(published, dtype={"table": str})
    table = table[(table["paper"] == "mrl2021") & (table["table"] == "1") & (table["dataset"] == "wikipedia")]
    theirs = table.pivot_table(index="method", columns="noise_rate", values="value")
    theirs.index = theirs.index.str.replace("-", "_").str.replace("deep_sm", "ce")
    chosen = {
        "dataset": dataset,
        "split": "test",
        "selection": "best_valid",
        "network": "mean",
        "direction": "mean",
        "metric": "map",
    }
    rows = load_results(store)
    rows = rows[rows["trial"].isna() & (rows[list(chosen)] == pd.Series(chosen)).all(axis=1)]
    ours = rows.pivot_table(index="method", columns="noise_rate", values="value")
    common = theirs.index.intersection(ours.index)
    for rate in theirs.columns:
        correlation = spearmanr(theirs.loc[common, rate], ours.loc[common, rate]).statistic
        click.echo(f"rate {rate:g}: {correlation:.2f} over {len(common)} methods")


if __name__ == "__main__":
    main()
