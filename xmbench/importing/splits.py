"""The split of every pair: as files tell it, or drawn from a seed so that no item is in two."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xmbench.importing.tables import Codes
from xmbench.types import Array, DataError, stream

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
HELD_OUT = {"train": 0.9, "valid": 0.1}  # of a train split, where no validation set is told


def of_pairs(items: Mapping[str, Codes], pairs: Array, names: Sequence[str]) -> Codes:
    """The splits of pairs out of those of items.

    Args:
        items: modality -> splits of its items, for one modality or more.
        pairs: (N, m) rows.
        names: of the m modalities.

    Raises:
        DataError: the items of a pair are in different splits.
    """
    found: Codes | None = None
    of = ""
    for name, codes in items.items():
        known = tuple(dict.fromkeys((*(found.names if found else ()), *codes.names)))
        numbers = np.array([known.index(split) for split in codes.names])[codes.numbers][pairs[:, list(names).index(name)]]
        if found is not None and (wrong := np.flatnonzero(numbers != found.numbers)).size:
            i = int(wrong[0])
            got = f"{of} in {known[found.numbers[i]]} and {name} in {known[numbers[i]]} in pair {i}, {len(wrong)} such"
            raise DataError(f"the items of a pair must be in one split, got {got}; check the order of the files")
        found, of = Codes(numbers.astype(np.int32), known), name
    if found is None:
        raise ValueError("splits of one modality or more are needed, got none")
    return found


def complete(told: Codes | None, groups: NDArray[np.int64] | None, classes: Array | None) -> tuple[Codes, str]:
    """Train, valid and test, then further tests; what is not told is drawn. Returns them and what was drawn, in words.

    Args:
        told: of the N pairs, or None.
        groups: (N,) number of the group that must stay together; None: every pair is one.
        classes: (N,) class numbers, to draw every class alike; None: no labels, or several per item.

    Raises:
        DataError: there is no train or no test split.
    """
    alike = ", every class alike" if classes is not None else ""
    if told is None:
        n = len(groups if groups is not None else classes if classes is not None else ())
        drawn = _drawn(np.arange(n), SHARES, groups, classes)
        return Codes(drawn, tuple(SHARES)), f"drawn 80 / 10 / 10 from seed 0{alike}"
    for needed in ("train", "test"):
        if needed not in told.names:
            raise DataError(
                f"a dataset needs a train and a test split, got {', '.join(told.names)}; name both, or none to draw them"
            )
    names = ("train", "valid", "test", *sorted(name for name in told.names if ":" in name))
    numbers = np.array([names.index(name) for name in told.names], dtype=np.int32)[told.numbers]
    if "valid" in told.names:
        return Codes(numbers, names), ""
    rows = np.flatnonzero(numbers == 0)
    numbers[rows] = _drawn(rows, HELD_OUT, groups, classes)
    return Codes(numbers, names), f"valid drawn from train, 10 % of it, from seed 0{alike}"


def _drawn(rows: Array, shares: Mapping[str, float], groups: Array | None, classes: Array | None) -> NDArray[np.int32]:
    """(k,) numbers of the splits of the pairs `rows`; within a class, or in all, groups are permuted and cut by the shares."""
    together = rows if groups is None else groups[rows]
    units, first, unit_of = np.unique(together, return_index=True, return_inverse=True)
    kind = np.zeros(len(units), dtype=np.int64) if classes is None else classes[rows][first]
    rng = stream("import", "split", 0)
    drawn = np.zeros(len(units), dtype=np.int32)
    for one in np.unique(kind):
        members = rng.permutation(np.flatnonzero(kind == one))
        sizes = [round(share * len(members)) for share in shares.values()][1:]
        for number, size in reversed(list(enumerate(sizes, 1))):  # a class of two has one to learn from and one to test on
            taken = members[: min(max(size, 1), max(len(members) - 1, 0))]
            drawn[taken] = number
            members = members[len(taken) :]
    return drawn[unit_of]


def groups_of(pairs: Array, sizes: Sequence[int]) -> NDArray[np.int64]:
    """(N,) number of the group of each pair: pairs that share an item, of whichever modality, are in one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    offsets = np.concatenate([[0], np.cumsum(sizes)])
    nodes = pairs + offsets[:-1]
    first = np.repeat(nodes[:, 0], nodes.shape[1] - 1)
    total = int(offsets[-1])
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, nodes[:, 1:].reshape(-1))), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[nodes[:, 0]], dtype=np.int64)


def check_whole(codes: Codes, pairs: Array, names: Sequence[str]) -> None:
    """Raise where an item is in two splits."""
    for name, column in zip(names, pairs.T, strict=True):
        order = np.argsort(column, kind="stable")
        items, splits = column[order], codes.numbers[order]
        wrong = np.flatnonzero((items[1:] == items[:-1]) & (splits[1:] != splits[:-1]))
        if wrong.size:
            i = int(wrong[0])
            got = f"row {items[i]} of {name} in {codes.names[splits[i]]} and {codes.names[splits[i + 1]]}"
            raise DataError(
                f"every item must be in one split, got {got}, {len(np.unique(items[wrong]))} such; drop their pairs"
            )
