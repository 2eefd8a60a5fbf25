"""Which runs a figure shows that cannot show all: one noise rate, and of each method the first seed that kept what it needs."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from xmbench.report.groups import Arrays, Group, Reader
from xmbench.report.words import METRIC_WORDS

HIGHEST_RATE = 0.6  # of those in the store, the rate shown is the highest up to this one


@dataclass(frozen=True)
class Kept:
    """A run that kept what a figure needs.

    Attributes:
        label: its method as shown.
        run_id: which it is.
        arrays: all that it kept.
    """

    label: str
    run_id: str
    arrays: Arrays


def shown_rate(rates: list[float]) -> float:
    """The highest rate up to HIGHEST_RATE, or the lowest where all are above it."""
    return max((rate for rate in rates if rate <= HIGHEST_RATE + 1e-9), default=min(rates))


def kept_runs(group: Group, reader: Reader, has: Callable[[frozenset[str]], bool]) -> tuple[float, list[Kept]]:
    """The rate shown, of those at which a run kept enough, and of each method the first seed there that did.

    Args:
        group: the runs.
        reader: their arrays; only those of the runs returned are read whole.
        has: whether the names of a run's arrays are enough.
    """
    runs = [run for run in group.finished if has(reader.names(run["run_id"]))]
    if not runs:
        return min(group.rates), []
    rate = shown_rate([run["noise_rate"] for run in runs])
    first = {run["label"]: run["run_id"] for run in reversed(runs) if run["noise_rate"] == rate}
    return rate, [Kept(label, first[label], reader.all(first[label])) for label in group.labels if label in first]


def ranked_labels(group: Group) -> list[str]:
    """The methods of a group, those best on average over the noise rates first."""
    scores = group.scores("best_valid")
    mean = scores[scores["direction"] == "mean"].groupby(["noise_rate", "label"])["value"].mean()
    places = mean.groupby(level="noise_rate").rank(ascending=False, pct=True).groupby(level="label").mean().to_dict()
    return sorted(group.labels, key=lambda label: (places.get(label, 2.0), label))


def best_words(group: Group, shown: Collection[str], known: Collection[str]) -> str:
    """That a figure shows the best methods only; "" where it shows all that it could."""
    return f"the {len(shown)} best of {len(known)} methods by {METRIC_WORDS[group.metric]}" if len(shown) < len(known) else ""


def best_of(group: Group, rate: float, kept: list[Kept]) -> Kept:
    """Of these runs that of the method with the best mean score at `rate`, oracles aside where there are others."""
    scores = group.scores("best_valid")
    means = scores[(scores["noise_rate"] == rate) & (scores["direction"] == "mean")].groupby("label")["value"].mean()
    return max(kept, key=lambda run: (run.label not in group.oracles, means.get(run.label, -1.0)))
