"""What is inside a file: its arrays by name, with shapes, and class numbers where they can be labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets._files import check_npy, readable
from xmbench.datasets._mat import mat_names, mat_variable
from xmbench.importing.sources import h5_arrays, npz_members
from xmbench.types import Array

_LABELS = ("label", "lab", "labels", "category", "split")


@dataclass(frozen=True)
class Inside:
    """An array in a file; `values` are read where they can be labels or a list of rows."""

    shape: tuple[int, ...]
    dtype: str
    values: Array | None = None

    def __str__(self) -> str:
        return f"{self.dtype} {' x '.join(map(str, self.shape))}"


def arrays_in(path: Path) -> dict[str, Inside]:
    """Name -> array of a .npy (whose name is ""), .npz, .mat or HDF5 file.

    Raises:
        DataError: the file is damaged, or holds objects.
    """
    suffix = path.suffix.lower()
    with readable(path, f"a whole {suffix} file of numbers or text"):
        if suffix == ".npy":
            with path.open("rb") as file:
                shape, _, dtype = check_npy(file, path.stat().st_size)
            few = len(shape) == 1 and dtype.kind in "iu"
            return {"": Inside(shape, str(dtype), np.load(path, allow_pickle=False) if few else None)}
        if suffix == ".npz":
            members = npz_members(path)
            with np.load(path, allow_pickle=False) as content:
                return {
                    name: Inside(shape, str(dtype), content[name] if _may_be_labels(name, shape, dtype) else None)
                    for name, (shape, dtype) in members.items()
                }
        if suffix == ".mat" and path.read_bytes()[:19] != b"MATLAB 7.3 MAT-file":
            return {name: _of_mat(path, name) for name in mat_names(path)}
        return _of_h5(path)


def _of_mat(path: Path, name: str) -> Inside:
    values = mat_variable(path, name)
    return Inside(values.shape, "cells" if values.dtype == object else str(values.dtype), _flat(name, values))


def _of_h5(path: Path) -> dict[str, Inside]:
    import h5py

    with h5py.File(path, "r") as file:
        return {
            name: Inside(
                values.shape,
                str(values.dtype),
                _flat(name, values[()]) if _may_be_labels(name, values.shape, values.dtype) else None,
            )
            for name, values in h5_arrays(file).items()
        }


def _may_be_labels(name: str, shape: tuple[int, ...], dtype: Any) -> bool:
    vector = len(shape) == 1 or (len(shape) == 2 and 1 in shape)
    return vector and dtype.kind in "iuf" and any(word in name.lower() for word in _LABELS)


def _flat(name: str, values: Array) -> Array | None:
    return values.reshape(-1) if _may_be_labels(name, values.shape, values.dtype) else None


def histogram(values: Array) -> tuple[int, ...]:
    """Items per class, by class number; empty where they are no class numbers."""
    whole = np.asarray(values, dtype=np.float64)
    if not np.array_equal(whole, np.rint(whole)):
        return ()
    return tuple(np.unique(whole, return_counts=True)[1].tolist())
