"""How well costs are predicted: error on runs of stores that are held out, beside the median of all other runs.

    python scripts/bench_cost.py results/reference/reduced results/reference/flickr8k

Fits are held out together with all runs that share them. The error of one is the factor max(predicted / actual,
actual / predicted); printed are the median and the 90th percentile over all that were held out. Seconds are those of a fit and
its evaluation; below a tenth of a second they count as that. Memory is meant to be too high rather than too low: beside its
error stands the share of fits that took more than predicted.
"""

import json
from collections.abc import Iterator

import click
import numpy as np
import pandas as pd

from xmbench.cost import STORING_SECONDS, CostModel
from xmbench.noise import Noise
from xmbench.plan import Cell, Run
from xmbench.spec import load_protocol
from xmbench.store import Finished, Store

PARTS = 5  # of the fits, each held out once
MOST = 50  # held out one after the other of a kind
LEAST = {"seconds": 0.1, "peak_rss": 1.0, "bytes": 1.0}


def cell_of(run: Finished, lowest_seed: int) -> Cell:
    """What was planned for a stored run, as far as its cost depends on it."""
    planned = Run(
        dataset=run.dataset,
        dataset_parameters=json.loads(run.dataset_params),
        noise=Noise(run.noise_scheme, run.noise_rate, run.seed, {}),
        method=run.method,
        implementation=run.implementation,
        parameters=json.loads(run.params),
        seed=run.seed,
        protocol=load_protocol("default"),
        trial=run.trial,
    )
    keep = run.seed == lowest_seed
    sha, key = run.source_sha, run.score_key
    return Cell(run=planned, needs=frozenset(), fit_key=key, score_key=key, source_sha=sha, spec="", profile="", keep=keep)


def fits_of(runs: list[Finished]) -> list[list[Finished]]:
    """Runs that share their results together; all cost one fit and one evaluation."""
    fits: dict[str, list[Finished]] = {}
    for run in runs:
        fits.setdefault(run.score_key, []).append(run)
    return list(fits.values())


def splits(fits: list[list[Finished]]) -> Iterator[tuple[str, list[int]]]:
    """What is held out, and numbers of the fits."""
    order = np.random.default_rng(0).permutation(len(fits))
    for part in np.array_split(order, PARTS):
        yield "random fits", list(part)
    for kind, names in {
        "a setting of a method": "implementation dataset dataset_params params",
        "a method on a dataset": "implementation dataset",
        "a method": "implementation",
        "a dataset": "dataset dataset_params",
    }.items():
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, (run, *_) in enumerate(fits):
            groups.setdefault(tuple(getattr(run, name) for name in names.split()), []).append(number)
        found = list(groups.values())
        for chosen in np.random.default_rng(0).permutation(len(found))[:MOST]:
            yield kind, found[chosen]


def actual(run: Finished) -> dict[str, float]:
    seconds = run.fit_seconds + (run.eval_seconds or 0.0) + STORING_SECONDS
    return {"seconds": seconds, "peak_rss": run.peak_rss or np.nan, "bytes": run.bytes or np.nan}


def errors(fits: list[list[Finished]], kind: str, held_out: list[int]) -> list[dict[str, object]]:
    """Predicted, actual and naively predicted costs of the fits that were held out."""
    out = set(held_out)
    rest = [run for number, fit in enumerate(fits) if number not in out for run in fit]
    model = CostModel(rest)
    naive = pd.DataFrame([actual(fit[0]) for number, fit in enumerate(fits) if number not in out], columns=list(LEAST)).median()
    lowest: dict[tuple[str, str], int] = {}
    for run, *_ in fits:
        place = run.implementation, run.dataset
        lowest[place] = min(run.seed, lowest.get(place, run.seed))
    rows = []
    for number in held_out:
        run = fits[number][0]
        cost = model.predict(cell_of(run, lowest[run.implementation, run.dataset]))
        for name, value in actual(run).items():
            predicted = np.nan if cost is None else getattr(cost, name)
            within = cost is not None and cost.low <= value <= cost.high
            rows.append(
                {"kind": kind, "what": name, "actual": value, "ours": predicted, "naive": naive[name], "within": within}
            )
    return rows


def factor(predicted: "pd.Series[float]", table: pd.DataFrame) -> "pd.Series[float]":
    least = table["what"].map(LEAST)
    ratio = predicted.clip(lower=least) / table["actual"].clip(lower=least)
    return pd.Series(np.maximum(ratio, 1 / ratio), index=table.index)


def report(table: pd.DataFrame) -> None:
    table = table.dropna(subset=["actual"])
    table = table.assign(ours_factor=factor(table["ours"], table), naive_factor=factor(table["naive"], table))
    print(
        f"  {'held out':24}{'cost':10}{'fits':>6}{'unknown':>9}{'ours: median':>14}{'90 %':>7}{'naive: median':>15}{'90 %':>8}"
    )
    for (kind, what), part in table.groupby(["kind", "what"], sort=False):
        figures = [part[name].quantile(q) for name in ("ours_factor", "naive_factor") for q in (0.5, 0.9)]
        known = part[part["ours"].notna()]
        above = (known["actual"] > known["ours"]).mean()
        more = {"seconds": f"{known['within'].mean():5.0%} within the limits", "peak_rss": f"{above:5.0%} took more"}
        counts = f"{len(part):6}{len(part) - len(known):9}"
        print(f"  {kind:24}{what:10}{counts}{'{:14.2f}{:7.2f}{:15.2f}{:8.2f}'.format(*figures)}  {more.get(str(what), '')}")


@click.command(help=__doc__)
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True))
def main(stores: tuple[str, ...]) -> None:
    for path in stores:
        runs = [run for run in Store(path).finished().values() if run.status == "ok"]
        fits = fits_of(runs)
        print(f"\n{path}: {len(runs)} runs, {len(fits)} fits")
        report(pd.DataFrame([row for kind, held_out in splits(fits) for row in errors(fits, kind, held_out)]))


if __name__ == "__main__":
    main()
