"""Robustness in one number: the area under metric against noise, and what else says how a method bears noise.

All figures are of the mean over directions, computed per seed over the noise rates that every method has, then averaged:

- area: the area under metric against noise rate by the trapezoidal rule, over the range of the rates, which makes it a mean;
- slope: of the least-squares line, for 10 points of noise;
- breakdown: the lowest noise rate at which the method falls below the baseline, linearly interpolated between rates. The
  baseline is the method with the largest area of those that read nothing of what the noise corrupts, random scores aside;
- gap: metric at the epoch of the best validation less metric at the last epoch, on average over the rates and at the highest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import KEY, Group, decoded
from xmbench.report.marked import marked
from xmbench.report.rendering import render_table
from xmbench.report.tables import Cell, Head, Row, Table
from xmbench.report.words import METRIC_WORDS, dataset_words, scheme_words, setting_words, source_words

Floats = NDArray[np.float64]

FIGURES = {
    "area": "Area",
    "slope": "Slope",
    "breakdown": "Breakdown",
    "gap": "Best less last",
    "gap_at_highest": "at the highest rate",
}
DIGITS = {"map": 3, "rsum": 1}
RATE_DIGITS = 2
NO_BASELINES = ("random",)  # implementations that every method is above


def robustness(group: Group, context: Context) -> list[File]:
    """Write the figures of a group's methods as LaTeX, Markdown, HTML and CSV; nothing where they share less than two rates."""
    figures = robustness_figures(group)
    if figures["area"].isna().all():
        return []
    table = _table(group, figures)
    texts = {suffix: render_table(table, suffix) for suffix in ("tex", "md", "html")}
    what = {name: getattr(group, name) for name in [*KEY, "split"]}
    texts["csv"] = figures.assign(**what).to_csv(index=False, float_format="%.10g", lineterminator="\n")
    files = []
    for suffix, text in texts.items():
        path = context.out / f"{table.stem}.{suffix}"
        write_text(path, text)
        files.append(File(path, table.title, group, group.runs))
    return files


def robustness_figures(group: Group) -> pd.DataFrame:
    """One row per method: each of FIGURES as mean and `_std` over seeds, and what they are over.

    Returns:
        method, area, slope, breakdown, gap, gap_at_highest and their deviations; n, the seeds with a result at all of
        `rates`; `breakdown_of`, how many of those fall below the baseline: where not all do, `breakdown` counts the others
        with the highest rate and is a lower bound, and NaN where none does; `baseline`, the name of the baseline, "" where
        there is none; `reads_noise`, False for methods that read nothing of what is corrupted; oracle; rank by area, NaN for
        oracles and for methods with collapsed runs.
    """
    best, last = (_curves(group, selection) for selection in ("best_valid", "last"))
    rates = common_rates(best)
    best = best.reindex(columns=rates).dropna()
    last = last.reindex(index=best.index, columns=rates)
    blind = blind_methods(group)
    means = {str(label): curves.mean().to_numpy() for label, curves in best.groupby("label")}
    random = set(group.runs.loc[group.runs["implementation"].isin(NO_BASELINES), "label"])
    candidates = sorted(means.keys() & (blind - group.oracles - random)) if len(rates) > 1 else []
    baseline = max(candidates, key=lambda label: area(rates, means[label]), default="")
    rows = []
    for label in group.labels:
        mine = best.index.get_level_values("label") == label
        row = _figures(rates, best[mine].to_numpy(), last[mine].to_numpy(), None if label in blind else means.get(baseline))
        rows.append({"method": label, **row})
    what = {"baseline": baseline, "rates": " ".join(f"{rate:g}" for rate in rates), "metric": group.metric}
    table = pd.DataFrame(rows).assign(**what)
    table["reads_noise"], table["oracle"] = ~table["method"].isin(blind), table["method"].isin(group.oracles)
    collapsed = {label for label, _ in group.collapsed("best_valid")}
    shown = table["area"].where(~table["oracle"] & ~table["method"].isin(collapsed)).round(DIGITS[group.metric])
    return table.assign(rank=shown.rank(method="dense", ascending=False))


def _curves(group: Group, selection: str) -> pd.DataFrame:
    """(label, seed) x noise rate: the metric's mean over directions, NaN where no run has it."""
    scores = group.scores(selection)
    scores = scores[scores["direction"] == "mean"]
    return scores.pivot_table("value", ["label", "seed"], "noise_rate", "mean")


def common_rates(curves: pd.DataFrame) -> list[float]:
    """The rates at which every method has a result; methods with less than two rates are not asked."""
    known = curves.notna().groupby("label").any()
    known = known[known.sum(axis=1) > 1]
    return [float(str(rate)) for rate in known.columns[known.all()]] if len(known) else []


def blind_methods(group: Group) -> set[str]:
    """Labels of methods whose fit is the same at all noise rates: they read nothing of what is corrupted.

    The key of a fit is a hash of all that it reads; where it is not known, none are named.
    """
    rows = group.rows
    if "fit_key" not in rows:
        return set()
    runs = decoded(rows.loc[rows["status"] == "ok", ["label", "seed", "noise_rate", "fit_key"]].drop_duplicates())
    keys = runs.groupby(["label", "seed"]).agg(rates=("noise_rate", "nunique"), fits=("fit_key", "nunique"))
    keys = keys[keys["rates"] > 1]
    return {str(label) for label, same in (keys["fits"] == 1).groupby("label").all().items() if same}


def _figures(rates: Sequence[float], best: Floats, last: Floats, baseline: Floats | None) -> dict[str, Any]:
    """The figures of one method.

    Args:
        rates: (n_rates,) ascending.
        best, last: (n_seeds, n_rates) metric at the epoch of the best validation, and at the last one.
        baseline: (n_rates,) metric of the baseline, or None where there is none to fall below.
    """
    if len(rates) < 2 or not len(best):
        return {name: np.nan for figure in FIGURES for name in (figure, f"{figure}_std")} | {"n": 0, "breakdown_of": 0}
    gaps = best - last
    by_seed = {
        "area": [area(rates, curve) for curve in best],
        "slope": [slope(rates, curve) for curve in best],
        "gap": gaps.mean(axis=1),
        "gap_at_highest": gaps[:, -1],
    }
    broken = np.array([np.nan if baseline is None else breakdown_rate(rates, curve, baseline) for curve in best])
    n_broken = int(np.isfinite(broken).sum())
    by_seed["breakdown"] = np.where(np.isnan(broken), rates[-1], broken) if n_broken else broken
    means = {name: float(np.mean(values)) for name, values in by_seed.items()}
    stds = {f"{name}_std": _std(values) for name, values in by_seed.items()}
    if n_broken < len(best):
        stds["breakdown_std"] = np.nan
    return means | stds | {"n": len(best), "breakdown_of": n_broken}


def _std(values: Sequence[float] | Floats) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def area(rates: Sequence[float], values: Floats) -> float:
    """Area under values against rates by the trapezoidal rule, over the range of the rates: their mean along it.

    >>> round(area([0.0, 0.2, 0.8], np.array([0.5, 0.3, 0.1])), 3)
    0.25
    """
    return float(np.trapezoid(values, rates) / (rates[-1] - rates[0]))


def slope(rates: Sequence[float], values: Floats) -> float:
    """Slope of the least-squares line, for a step of 0.1 in the rate.

    >>> round(slope([0.0, 0.4, 0.8], np.array([0.5, 0.4, 0.3])), 3)
    -0.025
    """
    return float(np.polyfit(rates, values, 1)[0]) / 10


def breakdown_rate(rates: Sequence[float], values: Floats, baseline: Floats) -> float:
    """The lowest rate at which values are below the baseline, linearly interpolated; NaN where they never are.

    >>> round(breakdown_rate([0.0, 0.2, 0.4], np.array([0.5, 0.4, 0.2]), np.array([0.3, 0.3, 0.3])), 3)
    0.3
    """
    ahead = values - baseline
    below = np.flatnonzero(ahead < 0)
    if not len(below):
        return np.nan
    i = int(below[0])
    if i == 0:
        return float(rates[0])
    return float(rates[i - 1] + (rates[i] - rates[i - 1]) * ahead[i - 1] / (ahead[i - 1] - ahead[i]))


def _table(group: Group, figures: pd.DataFrame) -> Table:
    """The figures in words; oracles below a rule, as in the other tables."""
    lines: list[dict[Any, Any]] = figures.to_dict("records")
    by_cell, of_methods = marked(group, set(figures["method"]), "best_valid")
    signs: dict[str, str] = {}
    for (label, _), found in by_cell.items():
        signs[label] = "".join(dict.fromkeys(signs.get(label, "") + found))
    rows: list[Row] = []
    for line in lines:
        first_oracle = line["oracle"] and not any(row.oracle for row in rows)
        cells = tuple(_cell(group, line, figure, signs.get(line["method"], "")) for figure in FIGURES)
        rows.append(Row((Head(line["method"], code=True),), cells, 0 if first_oracle and rows else None, bool(line["oracle"])))
    name, rates = METRIC_WORDS[group.metric], lines[0]["rates"].split()
    return Table(
        stem=f"{group.slug}_robustness",
        title=f"robustness: {name} over all noise rates in one number",
        caption=_caption(group, name),
        source=source_words(group),
        titles=("Method",),
        cols=tuple((Head(title),) for title in FIGURES.values()),
        rows=tuple(rows),
        notes=(*_notes(group, figures, rates), *of_methods),
        groups=(group,),
        cells=figures,
    )


def _caption(group: Group, name: str) -> str:
    return (
        f"How {name} (mean of the directions) bears {scheme_words(group)} on {dataset_words(group)}, "
        f"{setting_words(group, 'best_valid')}. Mean ± standard deviation over seeds of: the area under {name} against "
        f"noise rate, over the range of the rates; the slope for 10 points of noise; the noise rate at which a method "
        f"falls below the baseline; {name} of the best epoch by validation less that of the last, on average and at the "
        "highest rate. The best area is bold, the second underlined."
    )


def _cell(group: Group, line: dict[Any, Any], figure: str, signs: str) -> Cell:
    digits = RATE_DIGITS if figure == "breakdown" else DIGITS[group.metric]
    mean, std = line[figure], line[f"{figure}_std"]
    if figure == "breakdown" and line["n"] and line["reads_noise"] and line["baseline"]:
        lowest, *_, highest = map(float, line["rates"].split())
        if not line["breakdown_of"]:
            return Cell(f"> {highest:g}")
        if line["breakdown_of"] < line["n"]:
            return Cell(f"≥ {mean:.{digits}f}", count=f"{line['breakdown_of']}/{line['n']}")
        if mean == lowest > 0:
            return Cell(f"≤ {lowest:g}")
    if np.isnan(mean):
        return Cell("–")
    rank = 0 if figure != "area" or np.isnan(line["rank"]) else int(line["rank"])
    count = f"{line['n']}/{group.n_planned}" if figure == "area" and line["n"] < group.n_planned else ""
    text = f"{round(mean, digits) + 0.0:.{digits}f}"  # no -0.000
    spread = "" if np.isnan(std) else f"{std:.{digits}f}"
    return Cell(text, spread=spread, rank=rank, count=count, marks=signs if figure == "area" else "")


def _notes(group: Group, figures: pd.DataFrame, rates: Sequence[str]) -> list[str]:
    """What the figures are over, and what their marks mean."""
    notes = [f"Over the rates {', '.join(rates)}."]
    left_out = [f"{rate:g}" for rate in group.rates if f"{rate:g}" not in rates]
    if left_out:
        notes.append(f"Left out, since not every method has a result there: {', '.join(left_out)}.")
    blind = ", ".join(figures.loc[~figures["reads_noise"], "method"])
    if baseline := figures["baseline"].iloc[0]:
        notes.append(
            f"The baseline is {baseline}, the best by area of those that read nothing of what is corrupted ({blind}), which "
            "have no breakdown rate."
        )
    elif blind:
        notes.append(f"No breakdown rates: of the methods that read nothing of what is corrupted ({blind}) none is a baseline.")
    else:
        notes.append("No breakdown rates: every method reads what is corrupted, so that there is no baseline.")
    if some := sorted(figures.loc[figures["n"] == 0, "method"]):
        notes.append(f"–: no seed has a result at all these rates: {', '.join(some)}.")
    if figures["breakdown_of"].between(1, figures["n"] - 1).any():
        notes.append("≥: only n of N seeds fall below the baseline; the others count with the highest rate.")
    if figures["n"].between(1, group.n_planned - 1).any():
        notes.append(f"n/{group.n_planned}: only n of {group.n_planned} seeds have a result at all these rates.")
    return notes
