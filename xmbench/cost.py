"""What runs will cost: seconds, memory and disk, learned from the earlier runs of a store.

A run costs what equal runs did, those of the same method, dataset and parameters on the same kind of device with as many
threads: their median seconds and bytes on the disk, their largest memory. Where there is none, all others predict it:

    log cost = log(epochs * items) + a_method + a_dataset + a_(method, dataset) + sum_p b_p x_p + sum_p b_(method, p) x_p

The first term is of fits; of an evaluation and of files it is log(test items), of memory there is none. Parameters that are
integers are sizes, and x_p their logarithms; x_p of others that are text or yes/no says which they are; real numbers are
rates and weights, and cost nothing. All coefficients are shrunk towards zero, as strongly as the data say (MacKay, Bayesian
Interpolation, Neural Computation 1992): what was never seen adds to the spread, not to the mean. Memory errs on the high side.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from xmbench.plan import Cell, cached_dataset
from xmbench.progress import duration, makespan
from xmbench.spec import canonical
from xmbench.store import Finished

STORING_SECONDS = 0.05  # a run: two files brought to the disk
MEASURING_SECONDS = 30.0  # for all methods together of which nothing is known
_LIMIT = 1.645  # standard deviations: nine of ten normal values lie so near
_SHORTEST = 0.1  # seconds: differences below are no matter of what is run
_SPREAD = 0.3  # of log seconds between equal runs, where there are no two to tell
_LEAST = 1e-3  # seconds, so that logarithms are finite
_LEAST_SPREAD = {"similar": 0.2, "others": 1.0}
_OF_SIZES = 0.6  # how large exponents of sizes are beforehand, beside the logarithms of factors of methods and datasets
_OF_EPOCHS = 0.3  # and of epochs, beyond the 1 that is known, and of threads
_KINDS = ("plain", "kept", "trial")  # of runs, by the arrays that they leave on the disk
_SETTING = ["implementation", "dataset", "dataset_params", "params", "device", "threads"]
_SOURCES = {
    "equal": "equal runs",
    "similar": "the method's other settings there",
    "others": "other methods or datasets",
    "measured": "three batches",
}

Sizes = tuple[int, int]
"""Numbers of training pairs (or items) and of test items."""
_LOG = "log "  # begins, or stands in, the name of a feature that is a logarithm
_Key = tuple[Any, ...]  # the values of _SETTING, with the kind of a run where files are meant


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run, or a group of runs that share a fit, is expected to cost.

    Attributes:
        seconds: fit, evaluation and storing.
        low: about nine of ten take between this
        high: and this.
        peak_rss: bytes of memory at most; NaN where nothing is known, or nothing is fitted.
        bytes: on the disk; NaN where nothing is known.
        source: what predicts it: "equal" runs, "similar" ones of the same method and dataset, "others", or "measured" batches.
    """

    seconds: float
    low: float
    high: float
    peak_rss: float
    bytes: float
    source: str


@cache
def sizes_of(dataset: str, parameters: str) -> Sizes | None:
    """The sizes of a dataset, its parameters as JSON; None if it is not there."""
    try:
        loaded = cached_dataset(dataset, parameters)
    except (OSError, LookupError, ValueError, TypeError):
        return None
    n_train = max(map(len, loaded.train.modalities)) if loaded.train.pairs is None else len(loaded.train.pairs)
    return n_train, max(len(modality) for split in loaded.tests.values() for modality in split.modalities)


class CostModel:
    """What the runs of a store tell about the cost of others.

    Args:
        finished: the runs of a store; those that are ok count, and a fit that several share counts once.
        device: where the runs to predict will be.
        threads: of each; None takes the protocol's.
        sizes: (dataset, parameters as JSON) -> its sizes; asked only where there is no equal run.
    """

    def __init__(
        self,
        finished: Iterable[Finished],
        *,
        device: str = "cpu",
        threads: int | None = None,
        sizes: Callable[[str, str], Sizes | None] = sizes_of,
    ) -> None:
        self._device, self._threads, self._sizes = _kind_of_device(device), threads, sizes
        runs = _table(finished)
        fits = _fits(runs)
        equal = fits.groupby(_SETTING, sort=False)
        self._spread = {name: _spread_of_equals(fits[name], equal[name]) for name in ("fit", "eval")}
        files = runs[runs["bytes"] > 0].groupby([*_SETTING, "kind"], sort=False)
        self._known = {
            "fit": _by_setting(equal["fit"].median()),
            "eval": _by_setting(equal["eval"].median()),
            "peak_rss": _by_setting(equal["peak_rss"].max()),
            "bytes": _by_setting(files["bytes"].median()),
        }
        self._lines: dict[str, _Line] = {}
        self._pairs = {key[:2] for key in self._known["fit"]}

    def predict(self, cell: Cell) -> Cost | None:
        """The cost of one run by itself; None where nothing is known."""
        return self.predict_group([cell], {})

    def predict_group(self, cells: Sequence[Cell], known: Mapping[str, str], measured: float | None = None) -> Cost | None:
        """The cost of runs that share a fit: the fit, an evaluation per score key, and storing each; None if nothing is known.

        Args:
            cells: with one fit key.
            known: score key -> a stored run that has these results already, and is copied.
            measured: seconds of the fit, where they are known better.
        """
        kept = {cell.score_key for cell in cells if cell.keep}
        disk = math.fsum(self._bytes(cell, cell.score_key in kept) for cell in cells)
        storing = STORING_SECONDS * len(cells)
        n_new = len({cell.score_key for cell in cells} - set(known))
        if not n_new:
            return Cost(seconds=storing, low=storing, high=storing, peak_rss=math.nan, bytes=disk, source="equal")
        setting = self._setting(cells[0])
        source = "equal" if setting in self._known["fit"] else "similar" if setting[:2] in self._pairs else "others"
        fit, fit_spread = self._seconds("fit", setting, source)
        if measured is not None:
            fit, fit_spread, source = measured, _SPREAD, "measured"
        if math.isnan(fit):
            return None
        evaluation, eval_spread = self._seconds("eval", setting, source)
        spent = np.array([fit, n_new * (_SHORTEST if math.isnan(evaluation) else evaluation)])
        widths = np.exp(_LIMIT * np.array([fit_spread, eval_spread]))
        return Cost(
            seconds=float(spent.sum()) + storing,
            low=float((spent / widths).sum()) + storing,
            high=float((spent * widths).sum()) + storing,
            peak_rss=self._peak_rss(setting),
            bytes=disk,
            source=source,
        )

    def _setting(self, cell: Cell) -> _Key:
        run = cell.run
        data, parameters = canonical(dict(run.dataset_parameters)), canonical(dict(run.parameters))
        threads = self._threads or run.protocol.threads
        return run.implementation, run.dataset, data, parameters, self._device, threads

    def _seconds(self, name: str, setting: _Key, source: str) -> tuple[float, float]:
        """Seconds of a fit or an evaluation, and the spread of their logarithm."""
        if setting in self._known[name]:
            return self._known[name][setting], self._spread[name]
        seconds, spread = self._line(name).at(setting)
        return seconds, max(spread, _LEAST_SPREAD.get(source, _SPREAD))

    def _peak_rss(self, setting: _Key) -> float:
        """The largest of equal runs; else what the others predict and one standard deviation more, which few exceed."""
        if setting in self._known["peak_rss"]:
            return self._known["peak_rss"][setting]
        value, spread = self._line("peak_rss").at(setting)
        return value * math.exp(spread)

    def _bytes(self, cell: Cell, keep: bool) -> float:
        """The median of equal runs of the same kind, else of the kind that takes most, else what the others predict."""
        setting, files = self._setting(cell), self._known["bytes"]
        key = *setting, "trial" if cell.run.trial else "kept" if keep else "plain"
        equal = [files[other] for other in (key, *((*setting, kind) for kind in _KINDS)) if other in files]
        return (equal[0] if key in files else max(equal)) if equal else self._line("bytes").at(key)[0]

    def _line(self, name: str) -> "_Line":
        """What predicts a cost where there is no equal run."""
        if name not in self._lines:
            offsets = {"fit": self._log_work, "peak_rss": lambda key: 0.0}
            self._lines[name] = _Line(self._known[name], offsets.get(name, self._log_tests))
        return self._lines[name]

    def _log_work(self, key: _Key) -> float:
        return math.log(epochs(json.loads(key[3]))) + self._log_sizes(key)[0]

    def _log_tests(self, key: _Key) -> float:
        return self._log_sizes(key)[1]

    def _log_sizes(self, key: _Key) -> tuple[float, float]:
        sizes = self._sizes(*key[1:3])
        return self._usual_log_sizes if sizes is None else (math.log(sizes[0]), math.log(sizes[1]))

    @cached_property
    def _usual_log_sizes(self) -> tuple[float, float]:
        """The means over the datasets of the store, for those of which nothing is known."""
        found = [sizes for data in {key[1:3] for key in self._known["fit"]} if (sizes := self._sizes(*data)) is not None]
        n_train, n_test = np.log(found).mean(axis=0) if found else (0.0, 0.0)
        return float(n_train), float(n_test)


class _Line:
    """A linear model of the logarithm of one cost, by the features of settings.

    Args:
        known: setting -> cost.
        offset: of a setting: what is known of the logarithm beforehand.
    """

    def __init__(self, known: Mapping[_Key, float], offset: Callable[[_Key], float]) -> None:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import BayesianRidge

        self._offset, self._ridge, self._told = offset, None, dict[_Key, tuple[float, float]]()
        if not known:
            return
        features = [dict(_features(key)) for key in known]
        means = pd.DataFrame(features).filter(like=_LOG).mean()
        self._centre = {str(name): float(mean) for name, mean in means.items()}
        self._vectors = DictVectorizer(sparse=False)
        matrix = self._vectors.fit_transform([self._centred(row) for row in features])
        logs = np.log(np.maximum(list(known.values()), _LEAST)) - np.array([offset(key) for key in known])
        # From the noise between equal runs; from the default, few settings settle on noise alone.
        self._ridge = BayesianRidge(alpha_init=_SPREAD**-2, lambda_init=1.0).fit(matrix, logs)

    def at(self, setting: _Key) -> tuple[float, float]:
        """The cost, and the spread of its logarithm; NaN and 0 where nothing is known."""
        if self._ridge is None:
            return math.nan, 0.0
        if setting not in self._told:
            row = self._centred(dict(_features(setting)))
            (mean,), (spread,) = self._ridge.predict(self._vectors.transform([row]), return_std=True)
            unseen = sum(x**2 for name, x in row.items() if name not in self._vectors.vocabulary_)
            spread = math.sqrt(spread**2 + unseen / self._ridge.lambda_)
            self._told[setting] = math.exp(mean + self._offset(setting)), spread
        return self._told[setting]

    def _centred(self, features: Mapping[str, float]) -> dict[str, float]:
        """The features, logarithms less their mean: a method's own, or where it has none all methods'."""
        pooled = {name: self._centre.get(name.partition(": ")[2], 0.0) for name in features if _LOG in name}
        return {name: x - self._centre.get(name, pooled[name]) if _LOG in name else x for name, x in features.items()}


def _features(key: _Key) -> Iterator[tuple[str, float]]:
    """Name and value of each feature of a setting; those of its method alone begin with its name."""
    method, dataset, dataset_params, params, device, threads, *kind = key
    data = f"on {dataset} {dataset_params}"
    yield from ((name, 1.0) for name in (method, data, f"{method} {data}", f"{device} device"))
    yield f"{_LOG}threads", _OF_EPOCHS * math.log(threads)
    for name, value in json.loads(params).items():
        if isinstance(value, int) and not isinstance(value, bool):
            weight = _OF_EPOCHS if _counts_epochs(name) else _OF_SIZES
            feature, x = f"{_LOG}{name}", weight * math.log(max(value, 1))
        elif isinstance(value, float):
            continue
        else:
            feature, x = f"{name}={value}", 1.0
        yield feature, x
        yield f"{method}: {feature}", x
    for name in kind:
        yield f"{name} run", 1.0
        yield f"{method}: {name} run", 1.0


def epochs(parameters: Mapping[str, Any]) -> int:
    """Epochs of all stages of a fit by its hyper-parameters; 1 where they name none, so for a closed form.

    >>> epochs({"epochs": 4, "warm_up": 2, "filter_epochs": 1, "dim": 128}), epochs({"dim": 128})
    (7, 1)
    """
    return max(1, sum(value for name, value in parameters.items() if _counts_epochs(name) and isinstance(value, int)))


def _counts_epochs(name: str) -> bool:
    return name == "warm_up" or name.endswith("epochs")


def _table(finished: Iterable[Finished]) -> pd.DataFrame:
    """The runs that are ok, one row each."""
    names = [*_SETTING, "fit_seconds", "started", "score_key", "eval_seconds", "peak_rss", "bytes", "seed", "trial", "protocol"]
    records = map(attrgetter(*names), (run for run in finished if run.status == "ok"))
    runs = pd.DataFrame(list(records), columns=names).rename(columns={"fit_seconds": "fit", "eval_seconds": "eval"})
    costs = ["fit", "eval", "peak_rss", "bytes"]
    runs[costs] = runs[costs].astype(float)
    runs["device"] = runs["device"].map(_kind_of_device)
    runs["threads"] = runs["threads"].astype(float).fillna(1.0).astype(int)
    # Arrays are kept of a sweep's first seed unless --keep says otherwise; in nearly every sweep that is the lowest.
    first = runs["seed"] == runs.groupby(["dataset", "implementation", "protocol"])["seed"].transform("min")
    runs["kind"] = np.where(runs["trial"].astype(bool), "trial", np.where(first, "kept", "plain"))
    return runs


def _fits(runs: pd.DataFrame) -> pd.DataFrame:
    """The fits that the runs come from, one row each; an evaluation costs an equal part for each that was done with it."""
    same = runs.groupby([*_SETTING, "fit", "started"], sort=False, dropna=False)
    fits = same.agg(eval=("eval", "first"), peak_rss=("peak_rss", "max"), keys=("score_key", "nunique")).reset_index()
    return fits.assign(eval=fits["eval"] / fits["keys"])


def _by_setting(costs: "pd.Series[float]") -> dict[_Key, float]:
    """Setting -> cost, where it is known."""
    return {key: cost for key, cost in costs.items() if isinstance(key, tuple) and not math.isnan(cost)}


def _kind_of_device(device: str) -> str:
    return device.partition(":")[0]


def _spread_of_equals(values: "pd.Series[float]", equal: Any) -> float:
    """Standard deviation of log seconds between equal fits, by the 90th percentile of their distances from the median."""
    n = equal.transform("size")
    distances = np.log((values + _SHORTEST) / (equal.transform("median") + _SHORTEST)).abs() * np.sqrt(
        n / (n - 1).clip(lower=1)
    )
    distances = distances[n > 1].dropna()
    return float(distances.quantile(0.9)) / _LIMIT if len(distances) else _SPREAD


def group_costs(
    groups: Iterable[Sequence[Cell]],
    known: Mapping[str, str],
    model: CostModel,
    measure: Callable[[Cell], float] | None = None,
) -> dict[str, Cost]:
    """Fit key -> cost of each group of cells that share a fit; without those of which nothing is known.

    Args:
        groups: of a sweep.
        known: score key -> a stored run that has these results already.
        model: of the store.
        measure: gives the seconds of a fit by a few of its batches. It is called once for each method and dataset without
            earlier runs, if the method counts epochs (a closed form would be fitted), for `MEASURING_SECONDS` in all.
    """
    costs, per_epoch, left = dict[str, Cost](), dict[tuple[str, ...], float](), MEASURING_SECONDS
    for group in groups:
        run = group[0].run
        cost = model.predict_group(group, known)
        place = run.implementation, run.dataset, canonical(dict(run.dataset_parameters))
        if measure is not None and (cost is None or cost.source == "others") and "epochs" in run.parameters:
            if place not in per_epoch and left > 0:
                started = time.monotonic()
                per_epoch[place] = measure(group[0]) / epochs(run.parameters)
                left -= time.monotonic() - started
            if per_epoch.get(place):
                cost = model.predict_group(group, known, per_epoch[place] * epochs(run.parameters))
        if cost is not None:
            costs[group[0].fit_key] = cost
    return costs


def cost_table(groups: Sequence[Sequence[Cell]], known: Mapping[str, str], costs: Mapping[str, Cost]) -> pd.DataFrame:
    """Method x dataset: runs, fits, the sum of their seconds, the largest memory, bytes on the disk, and what predicts them.

    Args:
        groups: of a sweep.
        known: score key -> a stored run that has these results already.
        costs: from `group_costs`.
    """
    rows = []
    for (method, dataset), here in _places(groups).items():
        found = [costs[group[0].fit_key] for group in here if group[0].fit_key in costs]
        row = {
            "runs": sum(map(len, here)),
            "fits": sum(any(cell.score_key not in known for cell in group) for group in here),
            "seconds": sum(cost.seconds for cost in found) if found else math.nan,
            "peak_rss": max((cost.peak_rss for cost in found if cost.peak_rss > 0), default=math.nan),
            "bytes": math.fsum(cost.bytes for cost in found if cost.bytes > 0) or math.nan,
        }
        rows.append({"method": method, "dataset": dataset, **row, "predicted from": _sources(found, len(here))})
    columns = ["method", "dataset", "runs", "fits", "seconds", "peak_rss", "bytes", "predicted from"]
    return pd.DataFrame(rows, columns=columns)


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A table of costs as people read it."""
    words: dict[str, Callable[[float], str]] = {"seconds": duration, "peak_rss": size, "bytes": size}
    said = {name: table[name].map(say, na_action="ignore") for name, say in words.items()}
    return table.assign(**said).rename(columns={"seconds": "time", "peak_rss": "peak memory", "bytes": "disk"})


def total_cost(groups: Sequence[Sequence[Cell]], costs: Mapping[str, Cost], jobs: int) -> str:
    """What a sweep takes with `jobs` groups at a time, in one line: from start to end, memory, disk, and what predicts it.

    The errors of a method on a dataset are taken to be the same in all its runs, those of different ones to be independent.
    """
    found = [costs[group[0].fit_key] for group in groups if group[0].fit_key in costs]
    seconds = math.fsum(cost.seconds for cost in found)
    if not seconds:
        return "nothing is known of the cost" if groups else "nothing to do"
    errors = np.zeros(2)
    for here in _places(groups).values():
        of_place = [costs[group[0].fit_key] for group in here if group[0].fit_key in costs]
        errors += np.square([sum(c.seconds - c.low for c in of_place), sum(c.high - c.seconds for c in of_place)])
    wall = makespan((cost.seconds for cost in found), jobs)
    low, high = wall * (1 + np.array([-1, 1]) * np.sqrt(errors) / seconds)
    memory = sorted((cost.peak_rss for cost in found if cost.peak_rss > 0), reverse=True)[:jobs]
    return (
        f"about {duration(wall)} with {jobs} at a time ({duration(max(low, 0.0))} to {duration(high)}); "
        f"memory at most {size(sum(memory))}, disk {size(math.fsum(c.bytes for c in found if c.bytes > 0))}; "
        f"predicted from {_sources(found, len(groups))}"
    )


def size(n_bytes: float) -> str:
    """An amount of memory in words.

    >>> size(12_345_678), size(3.14e9)
    ('12 MB', '3.1 GB')
    """
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


def _places(groups: Iterable[Sequence[Cell]]) -> dict[tuple[str, str], list[Sequence[Cell]]]:
    """(method, dataset) -> its groups."""
    places: dict[tuple[str, str], list[Sequence[Cell]]] = {}
    for group in groups:
        places.setdefault((group[0].run.method, group[0].run.dataset), []).append(group)
    return places


def _sources(costs: Sequence[Cost], n_groups: int) -> str:
    """What predicts costs, with numbers where there are several; the rest is unknown."""
    counts = Counter(_SOURCES[cost.source] for cost in costs) + Counter(unknown=n_groups - len(costs))
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{source} ({n})" for source, n in counts.most_common())
