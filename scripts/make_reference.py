"""Condense a store into what is committed under results/reference/.

    xmbench run --spec reference --store results/full
    python scripts/make_reference.py results/full results/reference
    xmbench report --store results/reference/label_noise.parquet --out reports/reference

    xmbench run --spec label_noise --store results/reduced
    python scripts/make_reference.py results/reduced results/reference/reduced --embeddings ce,mrl,mrl_mc,pls
    xmbench report --store results/reference/reduced/label_noise.parquet --out reports/reference/reduced

    xmbench run --spec lnc_table1_flickr8k --store results/flickr8k
    python scripts/make_reference.py results/flickr8k results/reference/flickr8k --name noisy_correspondence --embeddings none
    xmbench report --store results/reference/flickr8k/noisy_correspondence.parquet --out reports/reference/flickr8k \
        --spec lnc_table1_flickr8k

    xmbench run --spec lnc_table8_flickr8k --store results/table8
    python scripts/make_reference.py results/table8 results/reference/flickr8k_table8 --name ablation --embeddings none
    xmbench report --store results/reference/flickr8k_table8/ablation.parquet --out reports/reference/flickr8k_table8 \
        --spec lnc_table8_flickr8k

To go on with a reference that lacks runs, copy its parquet and npz files into the store first: `run` then does only
what is missing.

All rows go into one parquet file, of trials the validation rows. Of the arrays every run keeps its precision-recall curves, its
history and its lists of pairs, and where all runs of the store have it, what MAP and rSum are the means of at the selected
epoch, per query, for intervals and tests; embeddings and input features stay at one noise rate, for the t-SNE figure. Rankings
and other values per query are left out: they are large.
"""

from pathlib import Path

import click
import numpy as np

from xmbench.store import Store, save_rows

TSNE_RATE = 0.6
SMALL = ("pr/", "history/", "detected/", "recalled/")
PER_QUERY, METRICS = "per_query/test/best_valid/mean/", ("/map", "/r@1", "/r@5", "/r@10")
SHOWN = ("embedding/test/best_valid/", "input/", "labels/", "class_names")


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--embeddings", help="Methods whose embeddings are kept, separated by commas, or none.  [default: all]")
@click.option("--name", default="label_noise", show_default=True, help="Of the parquet file.")
def main(source: Path, target: Path, embeddings: str | None, name: str) -> None:
    """Write the rows of SOURCE to TARGET/NAME.parquet and its small arrays beside it."""
    store = Store(source)
    rows = store.rows()
    rows = rows[rows["trial"].isna() | (rows["split"] == "valid") | (rows["status"] != "ok")]
    kept = set(rows["method"]) if embeddings is None else set(embeddings.split(","))
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.npz"):
        old.unlink()
    runs = rows[rows["trial"].isna() & (rows["status"] == "ok")].drop_duplicates("run_id")
    tested = all(any(name.startswith(PER_QUERY) for name in store.arrays(run_id)) for run_id in runs["run_id"])
    for run in runs.itertuples():
        wanted = SMALL + (SHOWN if run.noise_rate == TSNE_RATE and run.method in kept else ())
        arrays = {
            name: array
            for name, array in store.arrays(run.run_id).items()
            if name.startswith(wanted) or (tested and name.startswith(PER_QUERY) and name.endswith(METRICS))
        }
        if arrays:
            np.savez_compressed(target / f"{run.run_id}.npz", **arrays)
    save_rows(rows, target / f"{name}.parquet")
    size = sum(file.stat().st_size for file in target.iterdir() if file.is_file())
    click.echo(f"{rows['run_id'].nunique()} runs, {len(rows)} rows, {size / 1e6:.1f} MB in {target}")


if __name__ == "__main__":
    main()
