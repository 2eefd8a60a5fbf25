"""OpenMoji: 1,914 emoji, their drawings and their names, embedded in the package: a real dataset without a download."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np

from xmbench.cards import Card
from xmbench.types import Array, Dataset, Modality, PairedSet, Rows, one_hot

_SMALLEST_SUBGROUP = 15

CARD = Card(
    name="openmoji",
    title="OpenMoji drawings and Unicode names",
    source="openmoji.org, npm package openmoji 17.0.0; features by scripts/build_openmoji.py",
    licence="CC BY-SA 4.0 (see xmbench/datasets/openmoji_data/LICENSE.md)",
    citation="OpenMoji, the open-source emoji and icon project, HfG Schwaebisch Gmuend, openmoji.org",
    sizes={"train": 1254, "valid": 256, "test": 404},
    widths={"image": 1280, "text": 384},
    classes=9,
    parameters={"classes": "group: 9 groups; subgroup: the subgroups with 15 items or more; both: multi-hot over the two"},
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    classes: Literal["group", "subgroup", "both"] = "group"


def load(parameters: Parameters) -> Dataset:
    """Image (1280-d EfficientNet-Lite0) and text (384-d MiniLM) vectors, 16 x 64 regions and word ids; split by emoji.

    Items of smaller subgroups are left out with `classes=subgroup`, and carry their group alone with `classes=both`.
    """
    vectors, sequences = _arrays("openmoji.npz"), _arrays("openmoji_sequences.npz")
    names, labels = _labels(vectors, parameters.classes)
    kept = labels.any(axis=1)
    parts = {}
    for part in ("train", "valid", "test"):
        rows = np.flatnonzero(kept & (vectors["split"] == part))
        image = Modality(
            name="image",
            vectors=Rows(vectors["image"], rows),
            sequences=Rows(sequences["regions"], rows),
            lengths=np.full(len(rows), sequences["regions"].shape[1]),
            labels=labels[rows],
            item_ids=vectors["id"][rows],
        )
        text = Modality(
            name="text",
            vectors=Rows(vectors["text"], rows),
            tokens=sequences["tokens"][rows].astype(np.int64),
            lengths=sequences["lengths"][rows].astype(np.int64),
            vocabulary=tuple(map(str, sequences["vocabulary"])),
            labels=labels[rows],
            item_ids=vectors["id"][rows],
        )
        parts[part] = PairedSet(modalities=(image, text), pairs=np.stack([np.arange(len(rows))] * 2, axis=1))
    return Dataset(
        name="openmoji",
        family="openmoji",
        parameters=vars(parameters),
        train=parts["train"],
        valid=parts["valid"],
        tests={"test": parts["test"]},
        card=CARD,
        class_names=names,
    )


@cache
def _arrays(name: str) -> dict[str, Array]:
    with (files("xmbench.datasets") / "openmoji_data" / name).open("rb") as file, np.load(file, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def _labels(data: dict[str, Array], classes: str) -> tuple[tuple[str, ...], Array]:
    """Class names (c,) and multi-hot labels (n, c)."""
    groups, group = np.unique(data["group"], return_inverse=True)
    subgroups, subgroup, counts = np.unique(data["subgroup"], return_inverse=True, return_counts=True)
    large = counts >= _SMALLEST_SUBGROUP
    by_group, by_subgroup = one_hot(group, len(groups)), one_hot(subgroup, len(subgroups))[:, large]
    if classes == "group":
        return tuple(map(str, groups)), by_group
    if classes == "subgroup":
        return tuple(map(str, subgroups[large])), by_subgroup
    return tuple(map(str, (*groups, *subgroups[large]))), np.concatenate([by_group, by_subgroup], axis=1)
