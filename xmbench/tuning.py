"""Hyper-parameters chosen by validation: which points of a method's search space are tried, and which of them is taken.

One rule for all methods: the same number of points at most, tried at one noise rate and one seed, chosen by the mean validation
MAP of all directions. Trials are measured like any run, but their test rows play no part in the choice and enter no table.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from xmbench.method import Method
from xmbench.registry import build_method
from xmbench.schema import WITHOUT_RESULT
from xmbench.types import stream

RATE, SEED = 0.4, 0  # where the one choice per dataset and noise scheme is made
UNTUNED = "none"
Scope = Literal["dataset", "rate"]


@dataclass(frozen=True)
class Rule:
    """How a method is tuned: the whole grid, or so many of its points drawn at random.

    Attributes:
        n_points: None for all.
        scope: one choice per dataset and noise scheme, or one for each noise rate too.

    >>> str(Rule.parse("random:4", "rate"))
    'random:4 per rate'
    """

    n_points: int | None
    scope: Scope = "dataset"

    @staticmethod
    def parse(text: str, scope: Scope = "dataset") -> "Rule":
        """The rule that "grid" or "random:N" stands for."""
        found = re.fullmatch(r"grid|random:([1-9]\d*)", text)
        if found is None:
            raise ValueError(f"tuning must be grid, or random:N with N of 1 or more, got {text!r}")
        return Rule(int(found[1]) if found[1] else None, scope)

    def __str__(self) -> str:
        name = "grid" if self.n_points is None else f"random:{self.n_points}"
        return name if self.scope == "dataset" else f"{name} per rate"


@dataclass(frozen=True)
class Candidate:
    """A point of a search space: its number in the whole grid, "" where there is nothing to choose, and the method there."""

    number: str
    method: Method


def candidates(registered: str, rule: Rule | None, fixed: Mapping[str, Any]) -> list[Candidate]:
    """The points that a rule tries; one where the method is not tuned or declares no space.

    Args:
        registered: name of the method.
        rule: None for the method as it is.
        fixed: parameters that were set: they are not searched.
    """
    space = searched(registered, fixed) if rule is not None else {}
    if rule is None or not space:
        return [Candidate("", build_method(registered, **fixed))]
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    chosen = range(len(grid)) if rule.n_points is None else _spread(grid, rule.n_points, registered)
    return [Candidate(str(number), build_method(registered, **fixed, **grid[number])) for number in chosen]


def searched(registered: str, fixed: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The search space of a method without the parameters that are set."""
    space = build_method(registered, **fixed).info.search
    return {name: values for name, values in space.items() if name not in fixed}


def _spread(grid: list[dict[str, Any]], n_points: int, registered: str) -> list[int]:
    """Numbers of random points without replacement, every value of every parameter about as often as any other.

    Each next point is the one, first in a random order drawn by the method's name, whose values were taken least often so
    far: fewer points are a subset of more.
    """
    left = [int(number) for number in stream("tuning", registered).permutation(len(grid))]
    taken: Counter[tuple[str, Any]] = Counter()
    chosen: list[int] = []
    while left and len(chosen) < n_points:
        number = min(left, key=lambda number: sum(taken[item] for item in grid[number].items()))  # the first of equal ones
        left.remove(number)
        taken.update(grid[number].items())
        chosen.append(number)
    return sorted(chosen)


CHOOSING = {"map", "r@1", "micro_f1"}  # a protocol without any of these measures nothing to choose by


def validation_scores(rows: pd.DataFrame, selection: str = "auto") -> dict[str, float]:
    """Run id -> the score that a choice is made by; NaN for a run that brought no result.

    The mean validation MAP of all directions; rSum where there is none or `selection` is "rsum"; a classifier's micro F1.
    """
    scores = dict.fromkeys(rows.loc[rows["status"].isin(WITHOUT_RESULT), "run_id"], math.nan)
    seen = rows[(rows["split"] == "valid") & (rows["selection"] == "best_valid") & (rows["network"] == "mean")]
    last = [("map", "mean"), ("rsum", "mean")] if selection == "rsum" else [("rsum", "mean"), ("map", "mean")]
    for metric, direction in (("micro_f1", None), *last):  # a later one counts
        part = seen[(seen["metric"] == metric) & ((seen["direction"] == direction) | (direction is None))]
        scores |= {str(run_id): float(value) for run_id, value in part.groupby("run_id")["value"].mean().items()}
    return scores


def best(scores: Sequence[float]) -> int | None:
    """Position of the highest score, the first of equal ones; None where none is a number."""
    numbers = [-math.inf if math.isnan(score) else score for score in scores]
    return numbers.index(max(numbers)) if max(numbers) > -math.inf else None
