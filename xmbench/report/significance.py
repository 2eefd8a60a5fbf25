"""Which methods of a table differ by more than chance: pairwise tests, letters, intervals and effect sizes.

All pairs of methods of a column, one direction at one noise rate, are tested, paired over queries, and from five seeds on over
seeds too; Holm's correction is over the pairs of all columns of a table. Of more methods than letters can tell apart each is
compared with the best one only. Oracles are left out: they are not ranked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from xmbench.metrics import METRICS
from xmbench.report.groups import Arrays, Group, Reader
from xmbench.statistics import (
    QUERIES,
    Effect,
    Interval,
    ItemValues,
    PairedTest,
    compact_letters,
    effect,
    holm,
    item_numbers,
    item_values,
    linked_items,
    mean_interval,
    paired_tests,
)
from xmbench.types import Array

LEVEL = 0.05
MAX_LETTERED = 40  # methods of a column up to which all pairs are tested; of more, each with the best one
WITHOUT_TRAINING = "training variance not included"
_OF_RSUM = ("r@1", "r@5", "r@10")
BY_PLACE = "what belongs to one item is told by the place of queries, since no run kept the pairs"
Seed = tuple[int, int]  # of the method and of the noise
Place = tuple[Group, str, str, float]  # of a column: group, direction, metric and noise rate


def table_letters(reader: Reader, columns: Sequence[Place], selection: str) -> list[dict[str, str]]:
    """Label -> letters of each column of a table: methods that share a letter are not separable; the best one has an `a`.

    Args:
        reader: arrays of the runs.
        columns: of the table; a direction may be `mean`.
        selection: best_valid or last.

    Returns:
        Of each column only those methods that have values per query, share a seed with the others and are no oracles; none
        where the metric is no mean over queries, nor of more than MAX_LETTERED methods.
    """
    found = {}
    for i, (group, direction, metric, rate) in enumerate(columns):
        shown = [label for label in group.labels if label not in group.oracles]
        if metric in metrics_with_tests():
            found[i] = read_column(reader, group, shown, selection, direction, metric, rate)
    pairs = {i: column_pairs(column) for i, column in found.items() if len(column.rows) <= MAX_LETTERED}
    adjusted = iter(_tested([pair for part in pairs.values() for pair in part]))
    p = {i: {frozenset(pair[1:]): next(adjusted)[1] for pair in part} for i, part in pairs.items()}
    return [column_letters(found[i], p[i]) if i in p else {} for i in range(len(columns))]


def intervals(reader: Reader, column: Place, selection: str) -> dict[str, Interval]:
    """Label -> confidence interval of a column of a table: over queries, and from five seeds on over seeds too.

    Args: as of `table_letters`.

    Returns:
        Only those methods that have values per query; none where the metric is no mean over queries.
    """
    group, direction, metric, rate = column
    if metric not in metrics_with_tests():
        return {}
    found = read_column(reader, group, group.labels, selection, direction, metric, rate)
    return {label: mean_interval(found.of(label).values) for label in found.rows}


@dataclass(frozen=True)
class Column:
    """The values of a column's methods.

    Attributes:
        metric: what is compared.
        values: of all runs, one row each.
        rows: label -> seed -> row of `values`.
        by_place: whether items are told by the place of their queries, for want of the pairs.
    """

    metric: str
    values: ItemValues
    rows: dict[str, dict[Seed, int]]
    by_place: bool = False

    @cached_property
    def higher_is_better(self) -> bool:
        return METRICS[self.metric].higher_is_better

    @cached_property
    def means(self) -> dict[str, float]:
        """Label -> metric, the best first."""
        means = {label: float(self.values.values[list(rows.values())].mean()) for label, rows in self.rows.items()}
        return dict(sorted(means.items(), key=lambda item: item[1], reverse=self.higher_is_better))

    def of(self, label: str) -> ItemValues:
        """The values of a method, by seed."""
        return self.values.take([*self.rows[label].values()])

    def shared(self, first: str, second: str) -> tuple[ItemValues, ItemValues]:
        """The values of two methods in the seeds that both have."""
        seeds = [seed for seed in self.rows[first] if seed in self.rows[second]]
        a, b = (self.values.take([self.rows[label][seed] for seed in seeds]) for label in (first, second))
        return a, b


@dataclass(frozen=True)
class Pair:
    """Two methods of a column, in the seeds that both have; `p_holm` is corrected for all pairs that were looked at."""

    first: str
    second: str
    means: tuple[float, float]
    n_seeds: int
    n_queries: int
    interval: Interval
    tested: PairedTest
    effect: Effect
    p_holm: float


def read_column(
    reader: Reader, group: Group, labels: Sequence[str], selection: str, direction: str, metric: str, rate: float
) -> Column:
    """The values of these methods at a noise rate, of the finished runs that have any.

    Raises:
        ValueError: the metric is no mean over queries, or runs have different queries.
    """
    if metric not in metrics_with_tests():
        raise ValueError(
            f"{metric} is no mean over queries, so that there are no intervals or tests of it; choose one of "
            f"{', '.join(metrics_with_tests())}"
        )
    runs = group.runs[(group.runs["status"] == "ok") & (group.runs["noise_rate"] == rate) & group.runs["label"].isin(labels)]
    found: list[dict[str, Array]] = []
    rows: dict[str, dict[Seed, int]] = {}
    for run in runs[["label", "seed", "noise_seed", "run_id"]].to_dict("records"):
        parts = _directions(reader, group, run["run_id"], selection, metric)
        if not parts or direction not in ("mean", *parts):
            continue
        if found and {name: len(part) for name, part in parts.items()} != {name: len(part) for name, part in found[0].items()}:
            raise ValueError(f"runs that are compared must have the same test queries, run {run['run_id']} has others")
        rows.setdefault(run["label"], {})[int(run["seed"]), int(run["noise_seed"])] = len(found)
        found.append(parts)
    if not found:
        return Column(metric, ItemValues(np.empty((0, 0)), np.empty((0, 0)), 0), {})
    shown = list(found[0]) if direction == "mean" else [direction]
    sizes = {name: len(part) for name, part in found[0].items()}
    linked = _by_pairs(reader.pairs(group), sizes)
    numbers = linked or dict(zip(sizes, item_numbers([*sizes.values()]), strict=True))
    weights = [1.0 if metric == "rsum" else 1 / len(shown)] * len(shown)
    stacked = [np.stack([parts[name] for parts in found]) for name in shown]
    return Column(metric, item_values(stacked, weights, [numbers[name] for name in shown]), rows, by_place=not linked)


def _by_pairs(pairs: Arrays, sizes: dict[str, int]) -> dict[str, Array]:
    """Direction -> item of each query (n,) by the test pairs; empty where these are not known or of other queries.

    Args:
        pairs: modality -> item of every pair.
        sizes: direction -> number of its queries, which are the items of its first modality.
    """
    queries = {name: name.partition("2")[0] for name in sizes}
    items = {name: int(rows.max()) + 1 for name, rows in pairs.items() if len(rows)}
    asked = {modality: sizes[name] for name, modality in queries.items()}
    if any(items.get(modality, n + 1) > n for modality, n in asked.items()):
        return {}
    linked = linked_items([*(items | asked).values()], np.stack([pairs[name] for name in items], axis=1))
    found = dict(zip(items, linked, strict=True))
    return {name: found[modality] for name, modality in queries.items()}


def metrics_with_tests() -> list[str]:
    """Metrics that are means over queries, and the sum of such."""
    mean = METRICS["map"].aggregate
    return [name for name, m in METRICS.items() if m.function and m.aggregate is mean and m.relevance != "scores"] + ["rsum"]


def _directions(reader: Reader, group: Group, run_id: str, selection: str, metric: str) -> dict[str, Array]:
    """Direction -> values per query (n,); of rSum, of what it is the sum."""
    arrays = reader.per_query(run_id)
    prefix = f"per_query/{group.split}/{selection}/mean/"
    asked = _OF_RSUM if metric == "rsum" else (metric,)
    names = [name.removeprefix(prefix).rpartition("/") for name in arrays if name.startswith(prefix)]
    values = {}
    for name in sorted({name for name, _, of in names if of == asked[0]}):
        parts = [arrays[f"{prefix}{name}/{of}"].astype(np.float64) for of in asked]
        if np.isnan(parts[0]).any() and _counts_all(group, run_id, name, asked[0], len(parts[0])):
            parts = [np.nan_to_num(part) for part in parts]
        values[name] = 100 * np.sum(parts, axis=0) if metric == "rsum" else parts[0]
    return values


def _counts_all(group: Group, run_id: str, direction: str, metric: str, n: int) -> bool:
    """Whether queries without a relevant item counted as zero, so that the metric is over all of them."""
    rows = group.rows[(group.rows["run_id"] == run_id) & (group.rows["network"] == "mean")]
    return bool(((rows["direction"] == direction) & (rows["metric"] == metric) & (rows["n_queries"] == n)).any())


def column_pairs(column: Column) -> list[tuple[Column, str, str]]:
    """The pairs of the column's methods that are tested, the better one first: those that have a seed in common.

    Of more than MAX_LETTERED methods the pairs of the best with each other one.
    """
    best, *others = column.means or [""]
    pairs = combinations(column.means, 2) if len(others) < MAX_LETTERED else ((best, other) for other in others)
    return [(column, a, b) for a, b in pairs if column.rows[a].keys() & column.rows[b].keys()]


def _tested(pairs: Sequence[tuple[Column, str, str]]) -> list[tuple[PairedTest, float]]:
    """The test of each pair, and its p-value after Holm's correction for all of them."""
    differences = (a.minus(b) for a, b in (column.shared(first, second) for column, first, second in pairs))
    tests = paired_tests(differences, len(pairs), LEVEL)
    return list(zip(tests, map(float, holm([tested.p for tested in tests])), strict=True))


def compare_pairs(pairs: Sequence[tuple[Column, str, str]]) -> list[Pair]:
    """Tests, intervals and effect sizes of the first method of each pair less the second; Holm's correction is over all."""
    made = []
    for (column, first, second), (tested, p_holm) in zip(pairs, _tested(pairs), strict=True):
        a, b = column.shared(first, second)
        difference, means = a.minus(b), (float(a.values.mean()), float(b.values.mean()))
        sizes = effect(difference, higher_is_better=column.higher_is_better)
        made.append(Pair(first, second, means, a.n_seeds, a.n_queries, mean_interval(difference.values), tested, sizes, p_holm))
    return made


def pair_facts(pair: Pair) -> dict[str, Any]:
    """A pair as columns of a table."""
    return {
        "method_a": pair.first,
        "method_b": pair.second,
        "mean_a": pair.means[0],
        "mean_b": pair.means[1],
        "difference": pair.interval.mean,
        "low": pair.interval.low,
        "high": pair.interval.high,
        "p": pair.tested.p,
        "p_holm": pair.p_holm,
        "effect_dz": pair.effect.standardised,
        "superiority": pair.effect.superiority,
        "n_seeds": pair.n_seeds,
        "n_queries": pair.n_queries,
        "test": pair.tested.by,
        "interval_over": over_words(pair.interval.over),
    }


def over_words(over: str) -> str:
    """What an interval is over, and what it leaves out."""
    return f"{over} ({WITHOUT_TRAINING})" if over == QUERIES else over


def column_letters(column: Column, p_holm: Mapping[frozenset[str], float]) -> dict[str, str]:
    """Letters of the column's methods, best first, without those that make pairs which could not be tested.

    Args:
        column: at most MAX_LETTERED methods.
        p_holm: of each tested pair.
    """
    labels = list(column.means)
    while labels:
        partners = [sum(frozenset((a, b)) in p_holm for b in labels) for a in labels]
        if min(partners) == len(labels) - 1:
            break
        labels.remove(min(reversed(labels), key=dict(zip(labels, partners, strict=True)).__getitem__))
    separable = np.array([[a != b and p_holm[frozenset((a, b))] <= LEVEL for b in labels] for a in labels], dtype=bool)
    return dict(zip(labels, compact_letters(separable), strict=True)) if labels else {}


def p_words(p: float) -> str:
    """A p-value for people.

    >>> p_words(0.00004), p_words(0.0312)
    ('< .001', '.031')
    """
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
