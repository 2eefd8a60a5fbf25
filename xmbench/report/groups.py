"""Groups of runs that may share a table or a figure.

A group is one dataset with its parameters, one noise scheme with its options, one protocol, one way to hyper-parameters
(tuned or not) and one test split. Rows of different groups never meet in a file; trials are in none.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xmbench.report.labels import IDENTITY, with_labels

Arrays = dict[str, NDArray[Any]]

KEY = ["dataset", "dataset_params", "noise_scheme", "noise_options", "protocol", "protocol_sha", "tuned"]
SELECTIONS = ("best_valid", "last")
READ = (
    "run_id fit_key status error dataset dataset_params features noise_scheme noise_rate noise_seed realised_rate noise_sha "
    "noise_options method implementation method_version source_sha params seed protocol protocol_sha valid_labels tuning "
    "trial profile split fold network selection direction metric value chance n_queries n_networks collapsed oracle "
    "from_description"
).split()
"""The columns that a report reads, and that tell whether a run is stale."""
NEEDED = "split != 'valid' or tuning != 'none'"  # the rows that it reads: validation is shown of trials only
KEPT_RUNS = 128  # whose values per query, a megabyte or two each, are held at a time
MAX_STEM = 100  # characters that the name of a file begins with at most


class Results(Protocol):
    """What a report reads of a store."""

    def rows(self) -> pd.DataFrame:
        """Tidy rows of all runs."""

    def arrays(self, run_id: str) -> Arrays:
        """The arrays kept of one run."""


@dataclass(frozen=True)
class Reader:
    """Arrays of runs; the small ones are read once, although several figures need them."""

    results: Results
    _small: dict[str, Arrays] = field(default_factory=dict)
    _names: dict[str, frozenset[str]] = field(default_factory=dict)
    _per_query: dict[str, Arrays] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], Arrays] = field(default_factory=dict)

    def small(self, run_id: str) -> Arrays:
        """PR curves and training history of a run."""
        if run_id not in self._small:
            arrays = self.results.arrays(run_id)
            self._small[run_id] = {k: v for k, v in arrays.items() if k.startswith(("pr/", "history/"))}
            self._names[run_id] = frozenset(arrays)
        return self._small[run_id]

    def names(self, run_id: str) -> frozenset[str]:
        """The names of all arrays kept of a run."""
        self.small(run_id)
        return self._names[run_id]

    def per_query(self, run_id: str) -> Arrays:
        """Values per query of a run; those of the runs asked for last are kept."""
        if run_id not in self._per_query:
            if len(self._per_query) >= KEPT_RUNS:
                del self._per_query[next(iter(self._per_query))]
            arrays = self.results.arrays(run_id)
            self._per_query[run_id] = {k: v for k, v in arrays.items() if k.startswith("per_query/") and "/mean/" in k}
        return self._per_query[run_id]

    def pairs(self, group: "Group") -> Arrays:
        """Modality -> item of every test pair, of the first run of a method that kept them; empty where none did."""
        key = (group.slug, group.split)
        if key not in self._pairs:
            self._pairs[key] = {}
            for run_id in {str(run["label"]): str(run["run_id"]) for run in reversed(group.finished)}.values():
                items = strip_prefix(self.results.arrays(run_id), f"items/{group.split}/")
                if found := {name.removesuffix("/pairs"): part for name, part in items.items() if name.endswith("/pairs")}:
                    self._pairs[key] = found
                    break
        return self._pairs[key]

    def all(self, run_id: str) -> Arrays:
        """Everything kept of a run, embeddings included."""
        return self.results.arrays(run_id)


def strip_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose name starts with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Group:
    """Runs that may share a table.

    Attributes:
        dataset, dataset_params, noise_scheme, noise_options, protocol, protocol_sha: what the runs have in common.
        tuned: "" for hyper-parameters as set, "tuned", or "tuned per rate".
        split: the test split, `test` or `test:NAME`.
        slug: how the names of the group's files begin.
        rows: rows of `split`, and the rows of runs that did not finish; with a column `label`, the method as shown.
        train: rows of the training split, such as how well the noise in it was found, of the same runs.
        trials: rows of the trials that chose hyper-parameters, which no table of results shows.
    """

    dataset: str
    dataset_params: str
    noise_scheme: str
    noise_options: str
    protocol: str
    protocol_sha: str
    tuned: str
    split: str
    slug: str
    rows: pd.DataFrame
    train: pd.DataFrame
    trials: pd.DataFrame

    @cached_property
    def metric(self) -> str:
        """What the runs are compared by: `map` where the split has labels and a MAP, else `rsum`, of its pairs."""
        return "map" if _has(self.rows, "map") else "rsum"

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run, sorted by label, rate and seed."""
        runs = decoded(self.rows.drop_duplicates("run_id"))
        return runs.sort_values(["label", "noise_rate", "seed", "run_id"], ignore_index=True)

    @cached_property
    def finished(self) -> list[dict[Hashable, Any]]:
        """Label, noise_rate and run_id of each finished run, sorted by label, rate and seed."""
        return self.runs.loc[self.runs["status"] == "ok", ["label", "noise_rate", "run_id"]].to_dict("records")

    @cached_property
    def labels(self) -> list[str]:
        """Methods as shown, oracles last."""
        return sorted(self.runs["label"].unique(), key=lambda label: (label in self.oracles, label))

    @cached_property
    def oracles(self) -> set[str]:
        """Labels of methods that read what a method cannot know."""
        return set(self.runs.loc[self.runs["oracle"], "label"])

    @cached_property
    def described(self) -> set[str]:
        """Labels of methods that are re-implementations from a description."""
        return set(self.runs.loc[self.runs["from_description"], "label"])

    @cached_property
    def rates(self) -> list[float]:
        return sorted(self.runs["noise_rate"].unique().tolist())

    @cached_property
    def directions(self) -> list[str]:
        """Retrieval directions that have the group's metric, their mean last."""
        shown = self.scores("best_valid")["direction"].unique()
        return sorted(shown, key=lambda direction: (direction == "mean", direction))

    @cached_property
    def n_networks(self) -> pd.Series:
        """How many networks each of `runs` has: those that have rows of their own where several do, else as stored."""
        single = self.rows.loc[self.rows["network"].str.isdigit().eq(True), ["run_id", "network"]].drop_duplicates()
        counts = self.runs["run_id"].map(single["run_id"].astype(object).value_counts())
        return counts.where(counts > 1, self.runs["n_networks"]).rename("n_networks")

    @cached_property
    def by_cell(self) -> pd.DataFrame:
        """What is known of the runs of each label and noise rate: realised_rate, noise_sha, params, stale, status, run_ids."""
        return self.runs.groupby(["label", "noise_rate"]).agg(
            realised_rate=("realised_rate", "mean"),
            noise_sha=("noise_sha", lambda shas: " ".join(sorted(set(shas) - {""}))),
            params=("params", "first"),
            stale=("stale", "any"),
            status=("status", lambda status: _counted(status[status != "ok"])),
            run_ids=("run_id", lambda ids: " ".join(sorted(ids))),
        )

    @cached_property
    def n_planned(self) -> int:
        """Seeds planned per cell: all that occur in the group, finished or not."""
        return len(self.runs[["seed", "noise_seed"]].drop_duplicates())

    @cached_property
    def chance(self) -> dict[str, float]:
        """The metric's closed-form chance level in each direction; NaN where unknown."""
        means = self.scores("best_valid").groupby("direction")["chance"].mean()
        chance = {str(direction): float(value) for direction, value in means.items()}
        single = [value for direction, value in chance.items() if direction != "mean"]
        if single and np.isnan(chance.get("mean", 0.0)):
            chance["mean"] = float(np.mean(single))
        return chance

    def only(self, methods: Collection[str], rates: Collection[float]) -> "Group":
        """The group without the runs of other methods and noise rates; empty collections leave all."""

        def chosen(rows: pd.DataFrame) -> pd.DataFrame:
            kept = rows["method"].isin(methods) if methods else pd.Series(True, rows.index)
            return rows[kept & rows["noise_rate"].isin(rates)] if rates else rows[kept]

        return replace(self, rows=chosen(self.rows), train=chosen(self.train))

    def scores(self, selection: str) -> pd.DataFrame:
        """The group's metric, one row per run and direction: label, noise_rate, seed, run_id, direction, value, chance.

        Networks are averaged by the harness (network `mean`); so are the folds of one run, or else here.
        """
        return self._scores[selection]

    @cached_property
    def _scores(self) -> dict[str, pd.DataFrame]:
        rows = self.rows[(self.rows["metric"] == self.metric) & (self.rows["network"] == "mean")]
        return {selection: _retrieval(measured(rows, selection, ["direction"])) for selection in SELECTIONS}

    def measures(self, selection: str) -> pd.DataFrame:
        """All metrics of the split, one row per run, network, direction and metric, with `value` and `chance`."""
        return _retrieval(measured(self.rows, selection, ["network", "direction", "metric"]))

    def collapsed(self, selection: str) -> set[tuple[str, float]]:
        """(label, noise rate) of runs whose scores have collapsed."""
        rows = self.rows[self.rows["collapsed"] & (self.rows["selection"] == selection)]
        return set(zip(rows["label"], rows["noise_rate"], strict=True))


def measured(rows: pd.DataFrame, selection: str, by: list[str]) -> pd.DataFrame:
    """Values of finished runs, one row per run and what is `by`; folds are averaged where no average is stored."""
    keys = ["label", "noise_rate", "seed", "run_id", *by]
    shown = (rows["status"] == "ok") & (rows["selection"] == selection) & rows["value"].notna()
    rows = rows.loc[shown, list(dict.fromkeys([*keys, "direction", "fold", "value", "chance"]))]
    whole = rows["fold"] == ""
    rows = rows[whole | ~whole.groupby(rows["run_id"], observed=True).transform("any")]
    return decoded(rows.groupby(keys, as_index=False, observed=True)[["value", "chance"]].mean())


def _retrieval(values: pd.DataFrame) -> pd.DataFrame:
    """Values in the retrieval directions and their mean."""
    return values[(values["direction"] == "mean") | values["direction"].str.contains("2", regex=False)]


def _counted(statuses: pd.Series) -> str:
    """`failed 1, timeout 2`."""
    return ", ".join(f"{status} {count}" for status, count in sorted(Counter(statuses).items()))


def _has(rows: pd.DataFrame, metric: str) -> bool:
    return bool(((rows["status"] == "ok") & (rows["metric"] == metric)).any())


def group_rows(rows: pd.DataFrame) -> list[Group]:
    """The groups of a store's rows, trials aside; one without a MAP or an rSum on a test split is left out."""
    found: list[tuple[dict[str, str], pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
    for key, whole in _normalised(rows).groupby(KEY, observed=True):
        whole = whole.assign(**{name: whole[name].cat.remove_unused_categories() for name in _coded_columns(whole)})
        trials, part = decoded(whole[whole["trial"] != ""]), whole[whole["trial"] == ""]
        done = part["status"] == "ok"
        splits = part.loc[done & part["metric"].isin(["map", "rsum"]), "split"].unique()
        for split in sorted(split for split in splits if split.partition(":")[0] == "test"):
            what = dict(zip(KEY, map(str, key), strict=True)) | {"split": split}
            rows = with_labels(part[(part["split"] == split) | ~done])
            labels = decoded(rows[["run_id", "label"]].drop_duplicates("run_id")).set_index("run_id")["label"]
            train = decoded(part[part["split"] == "train"])
            train = train.assign(label=train["run_id"].map(labels)).dropna(subset="label")
            found.append((what, rows, train, trials))
    count = Counter(_stem(what) for what, *_ in found)
    return [
        Group(
            **what,
            slug=_stem(what) + (f"_{short_hash(what.values())}" if count[_stem(what)] > 1 else ""),
            rows=rows,
            train=train,
            trials=trials,
        )
        for what, rows, train, trials in found
    ]


def _normalised(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose keys are text, JSON columns JSON, numbers floats and flags booleans.

    Keys, and what text is coded already, are categoricals in alphabetical order, for a store may have millions of rows.
    """
    known = {name: rows[name].eq(True) if name in rows else False for name in ("stale", "collapsed")}
    flags = {name: rows[name].eq(True) for name in ("oracle", "from_description")}
    tuned = rows["tuning"].astype(object).map({tuning: _tuned(tuning) for tuning in rows["tuning"].unique()})
    rows = rows.assign(**known, **flags, fold=rows.get("fold"), tuned=tuned)
    numbers = ["value", "chance", "noise_rate", "realised_rate"]
    rows[numbers] = rows[numbers].astype(float)
    texts = dict.fromkeys([*KEY, "method", *IDENTITY, "trial", "split", "fold", "direction", "noise_sha"], "")
    texts |= dict.fromkeys(["dataset_params", "noise_options", "params"], "{}")
    ordered = {name: rows[name].cat.reorder_categories(sorted(rows[name].cat.categories)) for name in _coded_columns(rows)}
    return rows.assign(**ordered).assign(**{name: _coded(rows[name], empty) for name, empty in texts.items()})


def _check_objects(column: str, texts: Iterable[str]) -> None:
    """Raise ValueError where a text in a column of JSON is no object: stores may come from elsewhere."""
    for text in texts:
        try:
            whole = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise ValueError(f"{column} of every run must be a JSON object, got {text!r:.200}")


def _coded(values: pd.Series, empty: str) -> pd.Series:
    """Text as a categorical in alphabetical order, with `empty` where there is none."""
    numbers, found = pd.factorize(values)
    names = np.array([*(str(text) or empty for text in found), empty], dtype=object)
    if empty == "{}":
        _check_objects(str(values.name), names)
    categories, position = np.unique(names, return_inverse=True)
    return pd.Series(pd.Categorical.from_codes(position[numbers], pd.Index(categories).astype(str)), index=values.index)


def decoded(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with categoricals written out as text."""
    return rows.assign(**{name: rows[name].astype(object) for name in _coded_columns(rows)})


def _coded_columns(rows: pd.DataFrame) -> list[str]:
    return [str(name) for name, kind in rows.dtypes.items() if isinstance(kind, pd.CategoricalDtype)]


def _tuned(tuning: str | None) -> str:
    if tuning in (None, "", "none"):
        return ""
    return "tuned per rate" if " per rate over " in str(tuning) else "tuned"


def _stem(what: dict[str, str]) -> str:
    parts = [what["dataset"], what["noise_scheme"], what["split"].partition(":")[2], what["tuned"]]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "_".join(filter(None, parts)))[:MAX_STEM]


def short_hash(values: Iterable[str]) -> str:
    """The first 8 hex digits of the sha256 of the sorted distinct values, joined by line ends."""
    return hashlib.sha256("\n".join(sorted(set(values))).encode()).hexdigest()[:8]
