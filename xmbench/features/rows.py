"""Rows that were computed, kept by the sha256 of what they were computed from: an extraction goes on where it was interrupted.

    <data root>/.features/<hash of the recipe>/<kind>-<shape>.rows     the rows, one after the other
    <data root>/.features/<hash of the recipe>/<kind>-<shape>.index    for each its sha256 and a check sum

Both are only ever appended to, the index last, so that what an interrupt leaves behind is whole rows and less than one batch.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array

FOLDER = ".features"
DTYPES: dict[str, np.dtype[Any]] = {
    "vectors": np.dtype(np.float32),
    "regions": np.dtype(np.float16),
    "tokens": np.dtype(np.float16),
}
_ENTRY = np.dtype([("sha256", "V32"), ("check", "<u4")])


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that tell recipes apart."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


class KeptRows:
    """The rows of one kind and shape by one recipe.

    Args:
        folder: of the recipe.
        kind: of the features.
        shape: of a row.
    """

    def __init__(self, folder: Path, kind: str, shape: tuple[int, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.shape, self.dtype = shape, DTYPES[kind]
        stem = f"{kind}-{'x'.join(map(str, shape))}"
        self._rows, self._index = folder / f"{stem}.rows", folder / f"{stem}.index"
        self._bytes = self.dtype.itemsize * int(np.prod(shape))
        for path in (self._rows, self._index):
            path.touch()
        n = min(self._rows.stat().st_size // self._bytes, self._index.stat().st_size // _ENTRY.itemsize)
        for path, size in ((self._rows, n * self._bytes), (self._index, n * _ENTRY.itemsize)):
            with path.open("r+b") as file:
                file.truncate(size)
        entries = np.fromfile(self._index, dtype=_ENTRY)
        self._checks = entries["check"].tolist()
        self._place = {sha256.tobytes(): i for i, sha256 in enumerate(entries["sha256"])}

    def places(self, sha256s: Sequence[bytes]) -> NDArray[np.int64]:
        """(n,) places of rows, by what they were computed from; -1 of those that are not there, or are damaged."""
        places = np.array([self._place.get(one, -1) for one in sha256s], dtype=np.int64)
        rows = self._mapped()
        for i in np.unique(places[places >= 0]).tolist():
            if zlib.crc32(rows[i].data) != self._checks[i]:
                places[places == i] = -1
        return places

    def append(self, sha256s: Sequence[bytes], values: Array) -> None:
        """Keep rows (k, ...).

        Raises:
            ValueError: a number that is not finite in the type that is kept.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(values, dtype=self.dtype)
        if rows.shape[1:] != self.shape or not np.isfinite(rows).all():
            raise ValueError(f"features must be finite {self.dtype} {self.shape}, got {rows.shape[1:]} or NaN or infinity")
        entries = np.empty(len(rows), dtype=_ENTRY)
        entries["sha256"] = [np.void(one) for one in sha256s]
        entries["check"] = [zlib.crc32(row.data) for row in rows]
        for path, content in ((self._rows, rows), (self._index, entries)):
            with path.open("ab") as file:
                file.write(content.data if content is rows else content.tobytes())
        self._place.update({one: i for i, one in enumerate(sha256s, len(self._checks))})
        self._checks += entries["check"].tolist()

    def read(self, places: NDArray[np.int64]) -> Array:
        """The rows (k, ...) at places."""
        return np.asarray(self._mapped()[places])

    def _mapped(self) -> Array:
        if not self._checks:
            return np.empty((0, *self.shape), dtype=self.dtype)
        return np.asarray(np.memmap(self._rows, dtype=self.dtype, mode="r", shape=(len(self._checks), *self.shape)))
