"""Reading feature files as they were released: features and class numbers per split and modality, checked to the row.

Key names, the choice of validation rows and the label bases were checked against penghu-cs/MRL, src/noisydataset.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card
from xmbench.datasets._files import check_unfolded, find_file, readable
from xmbench.types import Array, DataError, Dataset, Modality, PairedSet, Rows, one_hot

LABEL_BASE = (
    "joint: 0 is the smallest label of a modality over all splits; per_split: the smallest of each split, and the image labels "
    "of valid_* stay as stored, as in the released loader"
)
CHECKS = (
    "keys, and sizes, widths and classes of the card where it does not call them unverified; features and labels are "
    "numbers, and the labels of a pair agree"
)


@dataclass(frozen=True)
class Part:
    """What a file holds of one modality of one split: features (n, d), class numbers, and where both were found."""

    values: Array
    labels: Array
    where: str
    labels_where: str


Parts = dict[str, dict[str, Part]]


def load_h5(card: Card, file: str, *, label_base: str) -> Dataset:
    """A dataset of two views out of an HDF5 file of Hu et al., CVPR 2021.

    Keys: `train_imgs_deep` (n, d) and `train_imgs_labels` (n,), `train_text` or `train_texts` (n, d) and
    `train_texts_labels` (n,), the same with `test_`, and optionally with `valid_`. Without `valid_text(s)` the first
    rows of the test arrays are the validation set, as many as the card says, and the rest is the test set.

    Args:
        card: its sizes, widths and classes must be met.
        file: its name in the dataset's folder.
        label_base: "joint" or "per_split", see `LABEL_BASE`.

    Raises:
        MissingDataError: the file is not there.
        DataError: a key is missing, or sizes, labels or classes are not what the card says.
    """
    import h5py

    path = find_file(card, file)
    with readable(path, "a whole HDF5 file"), h5py.File(path, "r") as content:
        parts = _h5_parts(path, content)
    n = card.sizes["valid"]
    sizes = {**card.sizes, "test": card.sizes["test"] + (0 if "valid" in parts else n)}
    parts = _rebased(checked(card, parts, sizes), label_base)
    if "valid" not in parts:
        test = parts["test"]
        parts |= {"valid": _rows(test, slice(n)), "test": _rows(test, slice(n, None))}
    return assembled(card, path, parts, {"label_base": label_base})


def _h5_parts(path: Path, content: Mapping[str, Any]) -> Parts:
    """The modalities of "train", "test" and, where the file has it, "valid"."""
    parts: Parts = {"train": {}, "test": {}}
    if "valid_text" in content or "valid_texts" in content:
        parts["valid"] = {}
    for part, modalities in parts.items():
        text = f"{part}_text" if f"{part}_text" in content else f"{part}_texts"
        for name, key, labels in (("image", f"{part}_imgs_deep", "imgs"), ("text", text, "texts")):
            values, numbers = _h5_array(path, content, key), _h5_array(path, content, f"{part}_{labels}_labels")
            where = (f"{path}: {key}", f"{path}: {part}_{labels}_labels")
            modalities[name] = Part(_h5_matrix(path, values), numbers[()], *where)
    return parts


def _h5_array(path: Path, content: Any, key: str) -> Any:
    """An array of the file, not read yet. HDF5 can name other files in its links and arrays: those are refused."""
    import h5py

    values = found(path, content, key) if isinstance(content.get(key, getlink=True), h5py.HardLink | None) else None
    if not isinstance(values, h5py.Dataset) or values.is_virtual or values.external:
        raise DataError(f"{path}: {key} must be an array in the file itself, got a group, or a link to somewhere else")
    check_unfolded(path.stat().st_size, values.nbytes)
    return values


def _h5_matrix(path: Path, values: Any) -> Array:
    """A float32 memory map where the file holds the values in one piece, else an array that they are read into once."""
    if values.dtype.kind not in "fiu":
        return np.asarray(values[()])
    offset = values.id.get_offset()
    if offset is not None and values.size and values.dtype == np.float32:
        return np.memmap(path, dtype=np.float32, mode="r", offset=offset, shape=values.shape)
    array = np.empty(values.shape, dtype=np.float32)
    values.read_direct(array)
    return array


def found(path: Path, content: Mapping[str, Any], key: str) -> Any:
    """`content[key]`, or a DataError that names the keys that there are."""
    if key not in content:
        raise DataError(f"{path}: must hold {key!r}, got the keys {', '.join(sorted(content)) or 'none'}")
    return content[key]


def checked(card: Card, parts: Parts, sizes: Mapping[str, int]) -> Parts:
    """Parts with features as float32 and labels as (n,) integers, after a look at their shapes.

    Args:
        card: says the widths, and which facts are unverified: any size will do, as long as all modalities have it.
        parts: as read.
        sizes: split -> number of rows.
    """
    done: Parts = {}
    for split, modalities in parts.items():
        n, done[split] = None if "sizes" in card.unverified else sizes[split], {}
        for name, part in modalities.items():
            values = matrix(part.where, part.values, n, None if name in card.unverified else card.widths[name])
            n = len(values)
            done[split][name] = replace(part, values=values, labels=_class_numbers(part, len(values)))
    return done


def matrix(where: str, values: Array, n: int | None, d: int | None) -> NDArray[np.float32]:
    """Features (n, d) as float32; None accepts any number of rows, or of columns."""
    fits = values.ndim == 2 and n in (None, values.shape[0]) and d in (None, values.shape[1])
    if not fits or values.dtype.kind not in "fiu":
        wanted = f"({'n' if n is None else n}, {'d' if d is None else d})"
        raise DataError(f"{where} must be {wanted} numbers, got {values.dtype} {values.shape}")
    return np.ascontiguousarray(values, dtype=np.float32)


def _class_numbers(part: Part, n: int) -> NDArray[np.int64]:
    """Labels (n,), (n, 1) or (1, n) as integers (n,)."""
    labels = part.labels
    if labels.size != n or max(labels.shape, default=0) != n or labels.dtype.kind not in "fiu":
        got = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{part.labels_where} must be one class number for each of {n} items, got {got}")
    flat = labels.reshape(-1)
    if not np.array_equal(flat, np.rint(flat)):
        raise DataError(f"{part.labels_where} must be whole numbers, got {flat[flat != np.rint(flat)][0]}")
    return flat.astype(np.int64)


def _rebased(parts: Parts, label_base: str) -> Parts:
    if label_base == "joint":
        return joint_base(parts)
    shift = {(split, name): int(part.labels.min()) for split, views in parts.items() for name, part in views.items()}
    shift["valid", "image"] = 0  # of valid_* the released loader re-bases the text labels alone
    return {
        split: {name: replace(part, labels=part.labels - shift[split, name]) for name, part in views.items()}
        for split, views in parts.items()
    }


def joint_base(parts: Parts) -> Parts:
    """Parts whose labels count from 0: the smallest label of a modality over all splits is subtracted everywhere."""
    base = {name: min(views[name].labels.min() for views in parts.values()) for name in parts["train"]}
    return {
        split: {name: replace(part, labels=part.labels - base[name]) for name, part in views.items()}
        for split, views in parts.items()
    }


def _rows(modalities: Mapping[str, Part], rows: slice) -> dict[str, Part]:
    return {name: replace(part, values=part.values[rows], labels=part.labels[rows]) for name, part in modalities.items()}


def assembled(card: Card, path: Path, parts: Parts, parameters: Mapping[str, Any]) -> Dataset:
    """The dataset of checked parts, row i of every modality one pair with one clean label.

    Raises:
        DataError: widths that differ between splits, labels of a pair that differ, or other classes than the card says.
    """
    c = card.classes or 0
    numbers = {split: _agreed(path, split, views) for split, views in parts.items()}
    classes = np.unique(np.concatenate(list(numbers.values())))
    if not np.array_equal(classes, np.arange(c)):
        got = f"{len(classes)} of them, numbered {classes[0]} to {classes[-1]}"
        raise DataError(f"{path}: labels must be of {c} classes, numbered without a gap, got {got}")
    vectors = {split: {name: part.values for name, part in views.items()} for split, views in parts.items()}
    return dataset_of(card, path, vectors, {split: one_hot(y, c) for split, y in numbers.items()}, parameters)


def dataset_of(
    card: Card,
    path: Path,
    vectors: Mapping[str, Mapping[str, Array]],
    labels: Mapping[str, NDArray[np.bool_]],
    parameters: Mapping[str, Any],
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """The dataset of vectors (split -> modality -> (n, d)) and labels (split -> (n, c)) that pairs share, row by row."""
    splits = {}
    for split in card.sizes:
        widths = {name: values.shape[1] for name, values in vectors[split].items()}
        expected = {name: values.shape[1] for name, values in vectors["train"].items()}
        if widths != expected:
            raise DataError(f"{path}: {split} must have the widths of train, {expected}, got {widths}")
        modalities = (Modality(name=m, vectors=Rows(x), labels=labels[split]) for m, x in vectors[split].items())
        pairs = np.stack([np.arange(len(labels[split]))] * len(widths), axis=1)
        splits[split] = PairedSet(modalities=tuple(modalities), pairs=pairs)
    return Dataset(
        name=card.name,
        family=card.name,
        parameters=parameters,
        train=splits.pop("train"),
        valid=splits.pop("valid"),
        tests=splits,
        card=card,
        class_names=class_names,
    )


def _agreed(path: Path, split: str, modalities: Mapping[str, Part]) -> NDArray[np.int64]:
    """The labels that all modalities of a split have in common."""
    (first, reference), *others = modalities.items()
    for name, part in others:
        differ = np.flatnonzero(part.labels != reference.labels)
        if differ.size:
            row = int(differ[0])
            raise DataError(
                f"{path}: the labels of a pair must agree, got {first} {reference.labels[row]} and {name} {part.labels[row]} "
                f"(counted from 0) in row {row} of {split}, and {differ.size} of {len(part.labels)} pairs like it"
            )
    return reference.labels
