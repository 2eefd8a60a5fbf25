"""Datasets that `xmbench data import` wrote: a folder under the data root with a card and arrays, one row per item.

    card.toml                 what a card says, sizes and sha256 of all files, and how it was imported
    <modality>.vectors.npy    (n, d) float16 or float32; memory-mapped
    <modality>.sequences.npy  (n, L, d) float16 or float32; memory-mapped
    <modality>.tokens.npy     (n, L) word ids, with <modality>.lengths.npy (n,) and the words in <modality>.words.json
    <modality>.labels.npy     (n,) class numbers, -1 where unlabelled; or (n, c) bool
    <modality>.ids.npy        (n,) names
    <modality>.files.csv      images: path, bytes, sha256, width and height, in the order of the rows
    <modality>.captions.json  a list of the captions
    pairs.npy                 (N, m) rows that belong together, a column per modality
    split.npy                 (N,) the split of a pair, by its place among the sizes of the card

An item belongs to the split of its pairs, and keeps its order there; one without a pair belongs to none.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import MissingDataError, cache_root, check_npy, data_root, file_sha256, readable
from xmbench.types import FEATURES, Array, DataError, Dataset, Modality, PairedSet, Rows, one_hot

CARD_FILE = "card.toml"
LAYOUT = 1
_ARRAYS = (*sorted(FEATURES), "lengths", "labels", "ids")
EXTRACT = "next: xmbench features extract {0}"


@dataclass(frozen=True)
class Imported:
    """An imported dataset where a dataset's module is expected.

    Attributes:
        folder: where its files lie.
        content: its card.toml.
    """

    folder: Path
    content: Mapping[str, Any]

    @cached_property
    def CARD(self) -> Card:  # noqa: N802 what a dataset's module calls it
        known = {key: value for key, value in self.content.items() if key in Card.__dataclass_fields__}
        for key in {"regions", "word_vectors"} & set(known):
            known[key] = tuple(known[key])
        parameters = {"version": "of the imported files; another one than theirs is refused"}
        sha256 = {name: str(facts["sha256"]) for name, facts in self.content["files"].items()}
        parcels = [Parcel(files=sha256, note=f"imported; import {self.folder.name} again")]
        if wanted := self.content.get("wanted"):
            parcels.append(Parcel(files=dict.fromkeys(wanted, ""), note=EXTRACT.format(self.folder.name)))
        return Card(**{**known, "parameters": parameters, "parcels": tuple(parcels), "checks": "the size of every file"})

    @cached_property
    def Parameters(self) -> type:  # noqa: N802
        """One parameter, the version, so that runs on other files under the same name are other runs."""
        version = ("version", str, field(default=str(self.content["version"])))
        return make_dataclass("Parameters", [version], frozen=True, kw_only=True)

    def load(self, parameters: Any) -> Dataset:
        """The splits, their features memory-mapped.

        Raises:
            ValueError: another version is asked for.
            MissingDataError: a modality has no features yet.
            DataError: a file is not of its size.
        """
        name = self.CARD.name
        if parameters.version != self.content["version"]:
            got = f"{parameters.version!r} where {self.content['version']!r} lies in {self.folder}"
            raise ValueError(f"{name}.version must be that of the files, got {got}; import the other files again")
        if wanted := self.content.get("wanted"):
            raise MissingDataError(f"{name}: features of its images are missing ({', '.join(wanted)}); {EXTRACT.format(name)}")
        with readable(self.folder, "an imported dataset whose files fit together", f"import {name} again"):
            pairs, split = self._array("pairs.npy"), self._array("split.npy")
            splits = {part: self._part(pairs[split == i]) for i, part in enumerate(self.content["sizes"])}
        train, valid = splits.pop("train"), splits.pop("valid")
        classes = tuple(map(str, self.content.get("class_names", ())))
        return Dataset(
            name=name, family=name, parameters=vars(parameters), train=train, valid=valid, tests=splits, card=self.CARD,
            class_names=classes,
        )  # fmt: skip

    def _part(self, pairs: Array) -> PairedSet:
        """The items that are in pairs (k, m), by their rows in the files, and the pairs by the rows of these items."""
        modalities, columns = [], []
        for name, column in zip(self.content["modalities"], pairs.T, strict=True):
            items = np.flatnonzero(np.bincount(column))
            row_of = np.zeros(column.max(initial=0) + 1, dtype=np.int64)
            row_of[items] = np.arange(len(items))
            modalities.append(self._modality(name, items))
            columns.append(row_of[column])
        return PairedSet(modalities=tuple(modalities), pairs=np.stack(columns, axis=1))

    def _modality(self, name: str, items: Array) -> Modality:
        """The rows `items` of a modality."""
        found = {kind: self._array(f"{name}.{kind}.npy") for kind in _ARRAYS if f"{name}.{kind}.npy" in self.content["files"]}
        if any(len(values) <= items.max(initial=-1) for values in found.values()):
            raise ValueError(f"pairs of {name} are rows up to {items.max()}")
        parts: dict[str, Any] = {
            kind: Rows(values, items) if kind in ("vectors", "sequences") else values[items] for kind, values in found.items()
        }
        if "tokens" in parts:
            parts["tokens"] = parts["tokens"].astype(np.int64)
            parts["vocabulary"] = tuple(json.loads(self._file(f"{name}.words.json").read_bytes()))
        if "labels" in parts and parts["labels"].ndim == 1:
            parts["labels"] = one_hot(parts["labels"], int(self.content["classes"]))
        parts["item_ids"] = parts.pop("ids", None)
        return Modality(name=name, **parts)

    def _file(self, name: str) -> Path:
        """A file, whose size is checked."""
        path, wanted = self.folder / name, self.content["files"][name]["bytes"]
        got = path.stat().st_size if path.exists() else 0
        if got != wanted:
            raise DataError(f"{path}: must have {wanted:,} bytes, got {got:,}; import {self.CARD.name} again")
        return path

    def _array(self, name: str) -> Array:
        path = self._file(name)
        with readable(path, "a whole .npy file of numbers", "import it again"):
            with path.open("rb") as file:
                check_npy(file, path.stat().st_size)
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # still the map, without the cost of its class

    def damaged(self) -> dict[str, str]:
        """File -> what is wrong with it; every file is read."""
        wrong = {}
        for name, facts in self.content["files"].items():
            path = self.folder / name
            if not path.is_file():
                wrong[name] = "missing"
            elif path.stat().st_size != facts["bytes"]:
                wrong[name] = f"{path.stat().st_size:,} bytes, must be {facts['bytes']:,}"
            elif file_sha256(path) != facts["sha256"]:
                wrong[name] = "another content than was imported"
        return wrong


def roots() -> list[Path]:
    """Where imported datasets lie; new ones are written into the first."""
    return [root for root in (data_root(), cache_root()) if root is not None]


def folders() -> dict[str, Path]:
    """Name -> folder of every imported dataset, whether it can be read or not."""
    found: dict[str, Path] = {}
    for root in roots():
        for path in sorted(root.glob(f"[!.]*/{CARD_FILE}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def imported_names() -> list[str]:
    """Names of the imported datasets whose cards can be read."""
    names = []
    for name, folder in folders().items():
        try:
            open_imported(folder)
        except DataError:
            continue
        names.append(name)
    return names


def open_imported(folder: Path) -> Imported:
    """The dataset in a folder; its arrays are not read.

    Raises:
        DataError: its card is damaged, or of another version of the layout.
    """
    path = folder / CARD_FILE
    with readable(path, "the card of an imported dataset", "remove the dataset, `xmbench data remove`, and import it again"):
        return _opened(folder, path.stat().st_mtime_ns)


@lru_cache
def _opened(folder: Path, _changed: int) -> Imported:
    content = tomllib.loads((folder / CARD_FILE).read_text("utf-8"))
    if content.get("layout") != LAYOUT:
        raise ValueError(f"its layout must be {LAYOUT}, got {content.get('layout')}")
    if content["name"] != folder.name:
        raise ValueError(f"its name must be that of the folder, got {content['name']}")
    if bad := [name for name in content["files"] if Path(name).name != name]:
        raise ValueError(f"its files must lie in its folder, got {bad[0]}")
    imported = Imported(folder, content)
    _ = imported.CARD, imported.Parameters, content["modalities"]
    return imported
