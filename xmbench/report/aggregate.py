"""How the values of several seeds become the one number that a cell shows."""

from functools import cache

import numpy as np
import pandas as pd

from xmbench.metrics import METRICS
from xmbench.report.layouts import MEAN_CI95, MEAN_STD
from xmbench.statistics import MIN_SEEDS

CENTRE = {MEAN_STD: "mean", MEAN_CI95: "mean", "median": "median", "best": "best"}
SPREAD = {MEAN_STD: "std", MEAN_CI95: "ci95"}
WORDS = {
    MEAN_STD: ("Mean", " ± standard deviation over seeds"),
    MEAN_CI95: ("Mean", " ± half the 95 % confidence interval"),
    "median": ("Median", " over seeds"),
    "best": ("Best seed", " of each cell, chosen by the number shown, which flatters"),
}  # fmt: skip
PERCENT = ("r@", "map@r", "pmrp", "noise_")  # how the names of metrics begin that are shown in percent
FRACTIONS = ("map", "ndcg", "micro_f1")  # likewise, that are shown as they are stored, with more digits


def aggregated(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, std (n - 1 in its denominator), ci95 (half of it), median, best, n and chance of each cell.

    ci95 is by Student's t over seeds, from MIN_SEEDS on: fewer tell too little of the variance of training.

    Args:
        values: one row per run and cell: `by`, value and chance; `metric` is among `by`.
        by: what a cell is.
    """
    stats = values.groupby(by, observed=True).agg(
        mean=("value", "mean"), std=("value", "std"), median=("value", "median"), n=("value", "count"),
        highest=("value", "max"), lowest=("value", "min"), chance=("chance", "mean"),
    )  # fmt: skip
    higher = np.array([higher_is_better(metric) for metric in stats.index.get_level_values("metric")], dtype=bool)
    half = np.array([_t975(n - 1) / np.sqrt(n) if n >= MIN_SEEDS else np.nan for n in stats["n"]])
    stats = stats.assign(ci95=half * stats["std"], best=stats["highest"].where(higher, stats["lowest"]))
    return stats.drop(columns=["highest", "lowest"])


@cache
def _t975(freedom: int) -> float:
    """The 0.975 quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def higher_is_better(metric: str) -> bool:
    """Whether more is better; of metrics of a plug-in too, it is taken to be."""
    return metric not in METRICS or METRICS[metric].higher_is_better


def in_percent(metric: str) -> bool:
    """Whether the metric, stored as a fraction, is shown in percent; rSum is stored as a sum of percentages."""
    return metric.startswith(PERCENT)


def factor(metric: str) -> float:
    """By what a stored value is multiplied to be shown."""
    return 100.0 if in_percent(metric) else 1.0


def digits_of(metric: str, digits: int | None) -> int:
    """Digits after the decimal point: as given, else 1, and 3 of fractions."""
    return digits if digits is not None else 3 if metric.startswith(FRACTIONS) and not in_percent(metric) else 1
