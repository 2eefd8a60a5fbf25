"""What the page shows of the arrays of a group's runs: precision-recall curves, histories, values by class, embeddings.

The arrays of a run are read once and reduced at once, since a store may hold thousands of runs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.report.groups import SELECTIONS, Arrays, Group, Reader, strip_prefix
from xmbench.report.tsne import embeddings


@dataclass
class RunArrays:
    """What is kept of the arrays of one run.

    Attributes:
        label, noise_rate, run_id: the run.
        curves: by (selection, direction), (2, levels) recall and precision.
        history: by name, (epochs,); empty for fits of fewer than two epochs.
        per_query: by (selection, direction), (n_queries,) average precision.
        has_embeddings: whether it kept vectors that a plane can show.
    """

    label: str
    noise_rate: float
    run_id: str
    curves: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    history: Arrays = field(default_factory=dict)
    per_query: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    has_embeddings: bool = False


@dataclass(frozen=True)
class GroupArrays:
    """What is kept of the arrays of all finished runs of a group.

    Attributes:
        runs: sorted by label, rate and seed.
        labels: by modality, (n, c) bool classes of the items of the split; empty where no run kept them.
        class_names: (c,).
    """

    runs: list[RunArrays]
    labels: Arrays
    class_names: list[str]


def read_arrays(group: Group, reader: Reader) -> GroupArrays:
    """Read the arrays of the group's finished runs."""
    runs: list[RunArrays] = []
    labels: Arrays = {}
    class_names: list[str] = []
    for run in group.finished:
        arrays = reader.all(run["run_id"])
        runs.append(_kept(RunArrays(run["label"], run["noise_rate"], run["run_id"]), arrays, group.split))
        if not labels:
            labels = strip_prefix(arrays, f"labels/{group.split}/")
            class_names = [str(name) for name in arrays.get("class_names", [])]
    return GroupArrays(runs, labels, class_names)


def _kept(run: RunArrays, arrays: Arrays, split: str) -> RunArrays:
    """The run with what is shown of its arrays."""
    for selection in SELECTIONS:
        for direction, curve in strip_prefix(arrays, f"pr/{split}/{selection}/mean/").items():
            if np.isfinite(curve[:2]).all() and curve.shape[1]:
                run.curves[selection, direction] = curve[:2]
        for name, values in strip_prefix(arrays, f"per_query/{split}/{selection}/mean/").items():
            direction, _, metric = name.partition("/")
            if metric == "map":
                run.per_query[selection, direction] = values
    history = strip_prefix(arrays, "history/")
    run.history = history if len(history.get("epoch", [])) > 1 else {}
    run.has_embeddings = bool(embeddings(arrays, split))
    return run


def first_histories(arrays: GroupArrays) -> list[RunArrays]:
    """Of each label and noise rate the first run, in seed's order, that has a history."""
    found: dict[tuple[str, float], RunArrays] = {}
    for run in arrays.runs:
        if run.history:
            found.setdefault((run.label, run.noise_rate), run)
    return list(found.values())


def mean_curves(arrays: GroupArrays) -> dict[tuple[str, float, str, str], NDArray[Any]]:
    """(2, levels) recall and precision by label, rate, selection and direction, the mean over the seeds."""
    found: dict[tuple[str, float, str, str], list[NDArray[Any]]] = {}
    for run in arrays.runs:
        for (selection, direction), curve in run.curves.items():
            found.setdefault((run.label, run.noise_rate, selection, direction), []).append(curve)
    return {key: np.mean(curves, axis=0) for key, curves in found.items()}


def class_means(arrays: GroupArrays) -> dict[tuple[str, float, str, str], NDArray[Any]]:
    """(c,) mean average precision over the queries of each class, by label, rate, selection and direction.

    The mean over the seeds; a query of several classes counts in each; NaN where a class has no query with a value.
    """
    found: dict[tuple[str, float, str, str], list[NDArray[Any]]] = {}
    for run in arrays.runs:
        for (selection, direction), values in run.per_query.items():
            of_queries = arrays.labels.get(direction.partition("2")[0])
            if of_queries is not None and len(of_queries) == len(values):
                key = (run.label, run.noise_rate, selection, direction)
                found.setdefault(key, []).append(_by_class(values, of_queries))
    return {key: _mean(np.stack(rows)) for key, rows in found.items()}


def _by_class(values: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """(n,) values and (n, c) bool -> (c,) means of the values of each class; NaN values are no values."""
    known = np.isfinite(values)
    counts = labels[known].sum(axis=0)
    sums = values[known].astype(np.float64) @ labels[known]
    return _ratio(sums, counts)


def _mean(rows: NDArray[Any]) -> NDArray[Any]:
    """(seeds, c) -> (c,) means over what is not NaN."""
    known = np.isfinite(rows)
    counts = known.sum(axis=0)
    sums = np.where(known, rows, 0.0).sum(axis=0)
    return _ratio(sums, counts)


def _ratio(sums: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Sums by counts; NaN where there is nothing to count."""
    means: NDArray[Any] = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means
