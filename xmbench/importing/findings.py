"""What is to be said of data that were imported: balance of classes, captions per image, copies in two splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array, stream

SHOWN_COPIES = 3
SHOWN_CLASSES = 12


def row_hashes(block: Array) -> NDArray[np.uint64]:
    """(k,) 64-bit hashes of the rows of a block (k, ...): equal rows, equal hashes."""
    content = np.ascontiguousarray(block).reshape(len(block), -1).view(np.uint8)
    if content.shape[1] % 4:
        content = np.pad(content, ((0, 0), (0, -content.shape[1] % 4)))
    words = content.view(np.uint32).astype(np.uint64)
    weights = stream("row hashes").integers(1, 2**64, (2, words.shape[1]), dtype=np.uint64, endpoint=False) | np.uint64(1)
    first, second = words @ weights[0], words @ weights[1]
    high = np.uint64(32)
    return np.asarray((first >> high) << high | (second >> high))  # the high halves of multilinear hashes are universal


def copies(hashes: NDArray[np.uint64], split_of: NDArray[np.int32], splits: Sequence[str]) -> tuple[int, int, list[str]]:
    """Rows whose copy is in another split, rows whose copy is in their own, and the first of the former in words.

    Args:
        hashes: (n,) of the rows.
        split_of: (n,) number of the split of a row; -1: in none.
        splits: their names.
    """
    used = np.flatnonzero(split_of >= 0)
    order = used[np.argsort(hashes[used], kind="stable")]
    same = hashes[order[1:]] == hashes[order[:-1]]
    group = np.concatenate([[0], np.cumsum(~same)]) if len(order) else np.empty(0, dtype=np.int64)
    n_groups = int(group[-1]) + 1 if len(order) else 0
    lowest, highest = np.full(n_groups, len(splits)), np.full(n_groups, -1)
    np.minimum.at(lowest, group, split_of[order])
    np.maximum.at(highest, group, split_of[order])
    size = np.bincount(group, minlength=n_groups)
    across = np.flatnonzero(lowest != highest)
    shown = []
    for one in across[:SHOWN_COPIES].tolist():
        row, *rest = np.sort(order[group == one]).tolist()
        other = next(copy for copy in rest if split_of[copy] != split_of[row])
        shown.append(f"row {row} in {splits[int(split_of[row])]} = row {other} in {splits[int(split_of[other])]}")
    shown += ["..."] if len(across) > SHOWN_COPIES else []
    return int(size[across].sum()), int((size - 1)[lowest == highest].sum()), shown


def copy_facts(
    hashes: Mapping[str, NDArray[np.uint64]], split_of: Mapping[str, NDArray[np.int32]], splits: Sequence[str]
) -> dict[str, str]:
    """Modality -> what of it is there twice."""
    facts = {}
    for name, values in hashes.items():
        n, within, shown = copies(values, split_of[name], splits)
        across = f"{n:,} rows have a copy in another split ({'; '.join(shown)})" if n else "none across splits"
        facts[name] = f"{across}; {within:,} further copies within a split" if within else across
    return facts


def balance(
    labels: Array, names: Sequence[str], split: NDArray[np.int32], splits: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Items of each class by split, and what is wrong with classes.

    Args:
        labels: (N,) class numbers, -1 where unlabelled, or (N, c) bool.
        names: of the c classes.
        split: (N,) number of the split.
        splits: their names.
    """
    counts = np.stack([_counts(labels[split == i], len(names)) for i in range(len(splits))], axis=1)
    total = counts.sum(axis=1)
    order = np.argsort(-total, kind="stable")
    if len(names) > SHOWN_CLASSES:
        order = np.concatenate([order[: SHOWN_CLASSES // 2], order[-SHOWN_CLASSES // 2 :]])
    facts = {names[i]: f"{total[i]:,} ({' / '.join(f'{n:,}' for n in counts[i])})" for i in order.tolist()}
    if len(names) > SHOWN_CLASSES:
        facts["..."] = f"{len(names) - SHOWN_CLASSES} classes between these"
    notes = []
    if single := [names[i] for i in np.flatnonzero(total == 1).tolist()]:
        notes.append(f"{len(single)} classes have one item only, such as {single[0]!r}: nothing of their class can be found")
    if unseen := [names[i] for i in np.flatnonzero((counts[:, 0] == 0) & (total > 0)).tolist()]:
        notes.append(f"{len(unseen)} classes have no item in train, such as {unseen[0]!r}")
    unlabelled = int((labels == -1).sum() if labels.ndim == 1 else (~labels.any(axis=1)).sum())
    if unlabelled:
        notes.append(f"{unlabelled:,} of {len(labels):,} items are unlabelled")
    return facts, notes


def _counts(labels: Array, n_classes: int) -> NDArray[np.int64]:
    if labels.ndim == 2:
        return np.asarray(labels.sum(axis=0), dtype=np.int64)
    return np.bincount(labels[labels >= 0], minlength=n_classes).astype(np.int64)


def per_item(rows: Array) -> dict[str, Any]:
    """Least, most and mean number of pairs of the items that have any."""
    counts = np.bincount(rows)
    counts = counts[counts > 0]
    return {"least": int(counts.min()), "most": int(counts.max()), "mean": round(float(counts.mean()), 2)}
