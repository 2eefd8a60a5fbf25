"""Noise files of other projects, in and out: the labels of a split as penghu-cs/MRL keeps them. NumPy only."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array, PairedSet, class_numbers


def export_labels(split: PairedSet, path: str | Path) -> None:
    """Write the labels as penghu-cs/MRL does: a JSON list of m lists of n class numbers from 0 (-1: unlabelled).

    Raises:
        ValueError: a modality without labels, or with several classes per item.
    """
    Path(path).write_text(json.dumps([labels.tolist() for labels in split_class_numbers(split)]) + "\n", encoding="utf-8")


def import_labels(path: str | Path, split: PairedSet) -> tuple[NDArray[np.int64], ...]:
    """The labels of an MRL noise file, one (n,) array of class numbers per modality.

    Args:
        path: JSON list of m lists of integers, in the modality and row order of `split`, classes counted from 0.
        split: the clean split that the file belongs to.

    Raises:
        ValueError: not such a list, wrong number of lists or labels, a class outside 0..c-1 (-1 is read where `split`
            is unlabelled too, and nowhere else). The released loader (src/noisydataset.py) counts the classes of the
            file instead, and so trains with class K where its own draw produced it; we refuse: no split has that class.
    """
    try:
        lists = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: a noise file must be JSON, a list of lists of class numbers: {error}") from error
    true, n_classes = split_class_numbers(split), split.n_classes
    if not isinstance(lists, list) or not all(isinstance(labels, list) for labels in lists):
        raise ValueError(f"{path}: a noise file must be a list with one list of class numbers per modality")
    if len(lists) != len(true):
        names = [modality.name for modality in split.modalities]
        raise ValueError(f"{path}: must hold one list of labels per modality {names}, got {len(lists)} lists")
    checked = zip(split.modalities, lists, true, strict=True)
    return tuple(_checked_labels(f"{path}: {m.name}", labels, known, n_classes) for m, labels, known in checked)


def _checked_labels(where: str, labels: list[Any], true: Array, n_classes: int) -> NDArray[np.int64]:
    if len(labels) != len(true):
        raise ValueError(f"{where}: must hold one label per item, {len(true)} of them, got {len(labels)}")
    for row, (label, known) in enumerate(zip(labels, true.tolist(), strict=True)):
        if type(label) is not int:
            raise ValueError(f"{where}: labels must be integers, got {label!r} for item {row}")
        if (label == -1) != (known == -1):
            raise ValueError(f"{where}: item {row} is {'un' * (known == -1)}labelled in the split, got label {label}")
        if label != -1 and not 0 <= label < n_classes:
            hint = "; the released MRL loader of September 2021 draws this class, which no data have" * (label == n_classes)
            raise ValueError(f"{where}: labels must lie in 0..{n_classes - 1}, got {label} for item {row}{hint}")
    return np.array(labels, dtype=np.int64)


def split_class_numbers(split: PairedSet, scheme: str = "a noise file") -> list[NDArray[np.int64]]:
    """Class numbers (n,) of every modality, -1 where unlabelled; a ValueError says what `scheme` needs."""
    labels = split_labels(split, scheme)
    for modality, hot in zip(split.modalities, labels, strict=True):
        if (hot.sum(axis=1) > 1).any():
            raise ValueError(
                f"{scheme} needs one class per item, {modality.name!r} has items with several; "
                "multi-label data are for the scheme symmetric_multilabel"
            )
    return [class_numbers(hot) for hot in labels]


def split_labels(split: PairedSet, scheme: str) -> list[NDArray[np.bool_]]:
    """Labels (n, c) of every modality; a ValueError where one has none."""
    labels = []
    for modality in split.modalities:
        if modality.labels is None:
            raise ValueError(f"{scheme} needs labels in every modality, {modality.name!r} has none")
        labels.append(modality.labels)
    return labels
