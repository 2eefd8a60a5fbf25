"""Coverage of the confidence intervals of xmbench.statistics, and false alarms of its tests, by simulation.

    python scripts/bench_coverage.py --replications 2000

A value is a function of a normal score made of a seed's, an item's and a query's part, and the rest: the quantile function of a
beta distribution for an average precision, a threshold for a hit in R@1. The shares of their variance, the agreement of
directions, of captions of one image and of two methods, and the distributions are rounded from what was measured on
Wikipedia (462 pairs, CE and MRL, two to three seeds) and Flickr8k (1,000 images and 5,000 captions, InfoNCE and CCA, three
seeds); "seeds differ much" is the largest share of the seed that was seen.

1 and 3 seeds: how often the interval has the mean over all queries of those very trainings. "all trainings": how often the same
interval has the mean over all trainings, too, which it does not claim. 5, 10 and 20 seeds: the mean over all queries and
trainings. "unclustered": the same as if the queries of one item were independent. Each figure has a standard error of
sqrt(.95 x .05 / replications), .5 points for 2,000.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from xmbench.statistics import MIN_SEEDS, ItemValues, item_values, mean_interval, paired_tests

Floats = NDArray[np.float64]
SEEDS = (1, 3, 5, 10, 20)
_SCORES = stats.norm.ppf((np.arange(2001) + 0.5) / 2001)  # equally likely normal scores


@dataclass(frozen=True)
class Direction:
    """Queries of one direction: how many belong to an item, and the value (n,) of normal scores (n,)."""

    per_item: int
    value: Callable[[Floats], Floats]


def beta(a: float, b: float) -> Callable[[Floats], Floats]:
    """Values of a beta distribution."""
    grid = np.linspace(-6, 6, 2001)
    table = stats.beta.ppf(stats.norm.cdf(grid), a, b)
    return lambda scores: np.interp(scores, grid, table)


def hit(rate: float) -> Callable[[Floats], Floats]:
    """1 for so many of the scores, else 0."""
    least = float(stats.norm.isf(rate))
    return lambda scores: (scores > least).astype(np.float64)


@dataclass(frozen=True)
class Scenario:
    """Where values come from.

    Attributes:
        name: what is measured.
        directions: of retrieval; the metric is their mean.
        n_items: pairs, or images with their captions.
        seed, item: shares of a seed and of an item's queries in the variance of a score; the rest is of both together.
        within: correlation of the queries of one item in their share.
        between: correlation of two methods in the share of the items; None for the metric of one method.
        shift: by which the scores of the second method are lower.
    """

    name: str
    directions: tuple[Direction, ...]
    n_items: int
    seed: float
    item: float
    within: float = 0.5
    between: float | None = None
    shift: float = 0.1


IMAGE, TEXT = Direction(1, beta(0.5, 1.2)), Direction(1, beta(3.6, 12.2))
CAPTIONS = Direction(5, hit(0.12))
AP = Scenario("AP, one direction", (IMAGE,), 462, 0.005, 0.85)
BOTH = replace(AP, name="AP, mean of both directions", directions=(IMAGE, TEXT))
R1 = Scenario("R@1, five captions an image", (CAPTIONS,), 1000, 0.001, 0.3, within=0.9)
SCENARIOS = (
    AP,
    replace(AP, name="AP, 100 queries", n_items=100),
    replace(AP, name="AP, seeds differ much", seed=0.02),
    BOTH,
    replace(BOTH, name="AP of both, two methods", between=0.87),
    R1,
    replace(R1, name="R@1, two methods", between=0.87),
)


def simulated(scenario: Scenario, n_seeds: int, generator: np.random.Generator) -> tuple[list[Floats], float, float]:
    """Values of the directions (n_seeds, n_queries); the true mean of these trainings, if they are few, and of all."""
    n_methods = 1 if scenario.between is None else 2
    trained = generator.normal(0, np.sqrt(scenario.seed), (n_methods, n_seeds))
    shared, own = (np.sqrt(x) for x in (scenario.between or 0.0, 1 - (scenario.between or 0.0)))
    of_items = _effects(generator, n_methods, scenario.n_items, shared, own)
    parts, given, overall = [], 0.0, 0.0
    for direction in scenario.directions:
        n = scenario.n_items * direction.per_item
        of_queries = _effects(generator, n_methods, n, shared, own)
        difference = np.zeros((n_seeds, n))
        for k in range(n_methods):
            common = np.sqrt(scenario.within) * np.repeat(of_items[k], direction.per_item)
            common = np.sqrt(scenario.item) * (common + np.sqrt(1 - scenario.within) * of_queries[k])
            rest = generator.standard_normal((n_seeds, n), dtype=np.float32)
            scores = trained[k][:, None] + common + np.sqrt(1 - scenario.seed - scenario.item) * rest
            sign, shift = (1, 0.0) if k == 0 else (-1, scenario.shift)
            difference += sign * direction.value(scores - shift)
            if n_seeds < MIN_SEEDS:
                of_trained = direction.value(trained[k][:, None] - shift + np.sqrt(1 - scenario.seed) * _SCORES)
                given += sign * float(of_trained.mean()) / len(scenario.directions)
            overall += sign * _mean(direction, shift) / len(scenario.directions)
        parts.append(difference)
    return parts, given, overall


def _effects(generator: np.random.Generator, n_methods: int, n: int, shared: float, own: float) -> Floats:
    """(n_methods, n) normal scores, of variance 1 and correlated between the methods."""
    common, single = generator.normal(size=n), generator.normal(size=(n_methods, n))
    return single if n_methods == 1 else shared * common + own * single


@cache
def _mean(direction: Direction, shift: float) -> float:
    return float(direction.value(_SCORES - shift).mean())


def values_of(scenario: Scenario, parts: list[Floats]) -> ItemValues:
    """The metric by training and item; queries of one item lie together."""
    return item_values(
        parts, [1 / len(parts)] * len(parts), [np.arange(p.shape[1]) * scenario.n_items // p.shape[1] for p in parts]
    )


def coverage(scenario: Scenario, n_seeds: int, replications: int) -> tuple[float, float, float]:
    """Share of 95 % intervals that have what they claim, the mean over all trainings, and that of unclustered ones.

    The last are over queries as if those of one item were independent, and what they claim.
    """
    generator = np.random.default_rng([n_seeds, *scenario.name.encode()])
    hits = np.zeros(3)
    for _ in range(replications):
        parts, given, overall = simulated(scenario, n_seeds, generator)
        claimed = given if n_seeds < MIN_SEEDS else overall
        interval = mean_interval(values_of(scenario, parts).values)
        hits[:2] += interval.low <= claimed <= interval.high, interval.low <= overall <= interval.high
        apart = [mean_interval(part) for part in parts]
        error = np.sqrt(sum(i.standard_error**2 for i in apart)) / len(parts)
        hits[2] += abs(float(np.mean([i.mean for i in apart])) - claimed) <= float(stats.t.isf(0.025, apart[0].degrees)) * error
    of_all, of_given, unclustered = hits[1], hits[0], hits[2]
    return of_given / replications, of_all / replications, unclustered / replications


def false_alarms(scenario: Scenario, n_seeds: int, replications: int) -> tuple[str, float]:
    """The test that is taken, and how often its p-value is at most .05 for two methods that are alike."""
    alike = replace(scenario, shift=0.0, seed=0.0 if n_seeds < MIN_SEEDS else scenario.seed)  # given trainings: no seed's part
    generator = np.random.default_rng([n_seeds, *scenario.name.encode()])
    tests = paired_tests((values_of(alike, simulated(alike, n_seeds, generator)[0]) for _ in range(replications)), 1)
    return tests[0].by, float(np.mean([tested.p <= 0.05 for tested in tests]))


@click.command()
@click.option("--replications", default=2000, show_default=True, type=click.IntRange(min=10))
def main(replications: int) -> None:
    """Print coverage in percent by number of seeds, and false alarms of the tests."""
    print(f"coverage of 95 % intervals in percent, {replications} replications each")
    print(
        f"{'':32}"
        + "".join(f"{f'{n} seeds':>10}" for n in SEEDS)
        + f"{'3 seeds, all trainings':>26}{'5 seeds, unclustered':>24}"
    )
    for scenario in SCENARIOS:
        found = {n: coverage(scenario, n, replications) for n in SEEDS}
        line = "".join(f"{100 * found[n][0]:10.1f}" for n in SEEDS)
        print(f"{scenario.name:32}{line}{100 * found[3][1]:26.1f}{100 * found[5][2]:24.1f}", flush=True)
    print("\nfalse alarms at .05 in percent, two methods that are alike")
    for scenario in (s for s in SCENARIOS if s.between is not None):
        for n_seeds in (3, 5, 6, 10, 20):
            by, share = false_alarms(scenario, n_seeds, replications)
            print(f"{scenario.name:32}{n_seeds:3} seeds, {by:36}{100 * share:6.1f}", flush=True)


if __name__ == "__main__":
    main()
