"""Reading multi-label data in a format of this project: one .npz file per dataset.

    train/image   (n, d) floating point, float32 best     train/text   (n, d'), row i belongs to image i
    train/labels  (n, c) bool, or integers 0 and 1: the classes of pair i; a row without any is unlabelled
    valid/..., test/...  the same
    class_names   (c,) text, optional

Written by `numpy.savez(path, **{"train/image": ..., ...})`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card
from xmbench.datasets._files import find_file, open_npz
from xmbench.datasets._released import dataset_of, found, matrix
from xmbench.types import Array, DataError, Dataset

FORMAT = (
    "one npz file with {train,valid,test}/image and .../text (n, d) float32 and .../labels (n, c) bool, row i of the three one "
    "pair, and optionally class_names (c,)"
)
UNVERIFIED = ("sizes", "image", "text")
CHECKS = "the number of classes, that labels are True or False, and that features and labels have as many rows"


def load_npz(card: Card, file: str, parameters: Mapping[str, Any]) -> Dataset:
    """A multi-label dataset; its classes must be as many as the card says, sizes and widths are the file's own.

    Raises:
        MissingDataError: the file is not there.
        DataError: an array is missing, or shapes and values are not those of the format.
    """
    path = find_file(card, file)
    with open_npz(path, "write it again") as content:
        arrays = dict(content.items())
    return _read(card, path, arrays, parameters)


def _read(card: Card, path: Path, content: Mapping[str, Array], parameters: Mapping[str, Any]) -> Dataset:
    c, labels, vectors = card.classes or 0, {}, {}
    for split in card.sizes:
        labels[split] = _labels(f"{path}: {split}/labels", found(path, content, f"{split}/labels"), c)
        vectors[split] = {
            name: matrix(f"{path}: {split}/{name}", found(path, content, f"{split}/{name}"), len(labels[split]), None)
            for name in card.widths
        }
    names = found(path, content, "class_names") if "class_names" in content else np.array([], dtype=str)
    if len(names) not in (0, c):
        raise DataError(f"{path}: class_names must be {c} names, got {len(names)}")
    return dataset_of(card, path, vectors, labels, parameters, tuple(map(str, names)))


def _labels(where: str, labels: Array, classes: int) -> NDArray[np.bool_]:
    if labels.ndim != 2 or labels.shape[1] != classes:
        raise DataError(f"{where} must be (n, {classes}), one column per class, got {labels.dtype} {labels.shape}")
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise DataError(f"{where} must be True or False, got {labels[~np.isin(labels, (0, 1))][0]}")
    return labels.astype(np.bool_)
