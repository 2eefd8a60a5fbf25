"""Two methods side by side, cell by cell: a cell is a dataset, a noise scheme, a protocol and a noise rate."""

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from xmbench.report.groups import KEY, Group, Reader
from xmbench.report.significance import BY_PLACE, WITHOUT_TRAINING, Column, Pair, compare_pairs, pair_facts, read_column
from xmbench.statistics import QUERIES

SELECTION = "best_valid"


class NothingInCommon(LookupError):
    """No cell has finished runs of both methods with a seed in common."""


def compare(
    reader: Reader,
    groups: Sequence[Group],
    first: str,
    second: str,
    *,
    metric: str | None = None,
    direction: str = "mean",
    rates: Collection[float] = (),
) -> pd.DataFrame:
    """One row per cell: both means, difference with interval, p-value after Holm over these rows, effect sizes and notes.

    Args:
        reader: arrays of the runs.
        groups: of the rows to compare.
        first: a method as shown, or its registered name where it has one setting only.
        second: another one.
        metric: MAP or rSum where None, whichever the group has.
        direction: a retrieval direction or `mean`.
        rates: noise rates; all where empty.

    Raises:
        NothingInCommon: there is no such cell.
        ValueError: a metric that is no mean over queries, an unknown direction, a name that stands for several settings, the
            same method twice, or methods with different protocols only.
    """
    _check_direction(groups, direction)
    cells: list[tuple[Group, float]] = []
    pairs: list[tuple[Column, str, str]] = []
    for group in groups:
        a, b = find_label(group, first), find_label(group, second)
        if a is None or b is None:
            continue
        if a == b:
            raise ValueError(f"two different methods must be given, {first!r} and {second!r} are both {a}")
        for rate in [rate for rate in group.rates if not rates or rate in rates]:
            column = read_column(reader, group, [a, b], SELECTION, direction, metric or group.metric, rate)
            if column.rows.get(a, {}).keys() & column.rows.get(b, {}).keys():
                cells.append((group, rate))
                pairs.append((column, a, b))
    if not pairs:
        _refuse(groups, first, second)
    compared = zip(cells, pairs, compare_pairs(pairs), strict=True)
    return pd.DataFrame([_row(group, rate, direction, column, pair) for (group, rate), (column, *_), pair in compared])


def find_label(group: Group, name: str) -> str | None:
    """The label of a method in a group, by itself or by the registered name; None where it has no run.

    Raises:
        ValueError: the name stands for several settings.
    """
    if name in group.labels:
        return name
    labels = sorted(group.runs.loc[group.runs["method"] == name, "label"].unique())
    if len(labels) > 1:
        listed = ", ".join(repr(label) for label in labels)
        raise ValueError(
            f"{name} occurs with several settings on {group.dataset}: name one of {listed}, or choose with --where"
        )
    return labels[0] if labels else None


def _check_direction(groups: Sequence[Group], direction: str) -> None:
    known = sorted({name for group in groups for name in group.rows["direction"].unique() if "2" in str(name)})
    if direction not in ["mean", *known]:
        raise ValueError(f"direction must be mean or one of {', '.join(known)}, got {direction!r}")


def _refuse(groups: Sequence[Group], first: str, second: str) -> None:
    """Say why there is nothing to compare."""
    protocols = [sorted({g.protocol for g in groups if find_label(g, name) is not None}) for name in (first, second)]
    if all(protocols) and not set(protocols[0]) & set(protocols[1]):
        raise ValueError(
            f"methods must be measured by the same protocol to be compared: {first} has {', '.join(protocols[0])}, "
            f"{second} has {', '.join(protocols[1])}; run one of them with the other's --protocol"
        )
    raise NothingInCommon(
        f"{first} and {second} have no finished runs in common: of the same dataset, noise, rate, protocol and seed, and with "
        "values per query of this metric and direction, which a store of rows alone does not keep"
    )


def _row(group: Group, rate: float, direction: str, column: Column, pair: Pair) -> dict[str, Any]:
    what = {name: getattr(group, name) for name in [*KEY, "split"]}
    what |= {"noise_rate": rate, "selection": SELECTION, "direction": direction, "metric": column.metric}
    return what | pair_facts(pair) | {"note": "; ".join(_notes(group, rate, column, pair))}


def _notes(group: Group, rate: float, column: Column, pair: Pair) -> list[str]:
    """What to know about a cell's numbers."""
    labels = (pair.first, pair.second)
    notes = [WITHOUT_TRAINING] if pair.interval.over == QUERIES else []
    notes += [BY_PLACE] if column.by_place else []
    finished = {label: sum(run["label"] == label and run["noise_rate"] == rate for run in group.finished) for label in labels}
    if max(finished.values()) > pair.n_seeds:
        listed = ", ".join(f"{n} of {label}" for label, n in finished.items())
        notes.append(f"seeds that both have, with values per query, out of {listed}")
    collapsed = group.collapsed(SELECTION)
    marks = {
        "stale": [label for label in labels if bool(group.by_cell.loc[(label, rate), "stale"])],
        "collapsed": [label for label in labels if (label, rate) in collapsed],
        "oracle": [label for label in labels if label in group.oracles],
    }
    return notes + [f"{mark}: {', '.join(marked)}" for mark, marked in marks.items() if marked]
