"""Synthetic data with a planted signal at instance and class level, for any number of modalities: for tests and examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.types import Array, Card, Dataset, Modality, PairedSet, Rows, one_hot, stream

_NAMES = ("image", "text", "audio", "video", "model")
_WIDTHS = {name: 64 - 8 * v for v, name in enumerate(_NAMES)}
_LATENT = 16
_BLOCK = 8192  # rows rendered at a time

CARD = Card(
    name="synthetic",
    title="Gaussian classes seen through random networks",
    source="drawn from a seed by xmbench/datasets/synthetic.py",
    licence="none needed",
    citation="specified by this project",
    sizes={"train": 400, "valid": 100, "test": 200},
    widths={name: _WIDTHS[name] for name in _NAMES[:2]},
    classes=10,
    parameters={
        "classes": "number of classes",
        "labels_per_item": "average number of classes of an item, which has one at least; above 1 the data are multi-label",
        "modalities": "number of modalities, 2 to 5",
        "train": "items of the train split (likewise valid, test)",
        "class_signal": "length of the class means in the latent space",
        "instance_signal": "deviation of what an instance shares over its modalities",
        "noise": "deviation of what it does not share",
        "seed": "of all draws",
    },
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    classes: int = 10
    labels_per_item: float = 1.0
    modalities: int = 2
    train: int = 400
    valid: int = 100
    test: int = 200
    class_signal: float = 2.0
    instance_signal: float = 1.0
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.modalities <= len(_NAMES):
            raise ValueError(f"synthetic.modalities must lie in 2..{len(_NAMES)}, got {self.modalities}")
        for name in ("train", "valid", "test"):
            if getattr(self, name) < 2:
                raise ValueError(f"synthetic.{name} must be 2 or more, got {getattr(self, name)}")
        if self.classes < 2:
            raise ValueError(f"synthetic.classes must be 2 or more, got {self.classes}")
        if not 1 <= self.labels_per_item <= self.classes:
            raise ValueError(f"synthetic.labels_per_item must lie in [1, {self.classes}], got {self.labels_per_item}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is drawn: the shape of the data, and how strong a signal is planted in them.

    Attributes:
        name: of the dataset; part of the seed of every draw.
        sizes: split -> number of items.
        widths: modality -> number of features.
        classes, labels_per_item, class_signal, instance_signal, noise, seed: as in `CARD.parameters`.
    """

    name: str
    sizes: Mapping[str, int]
    widths: Mapping[str, int]
    classes: int
    labels_per_item: float
    class_signal: float
    instance_signal: float
    noise: float
    seed: int


def load(parameters: Parameters) -> Dataset:
    """A latent vector per instance, class mean plus instance part, rendered into each modality by a random tanh layer."""
    recipe = Recipe(
        name="synthetic",
        sizes={part: getattr(parameters, part) for part in ("train", "valid", "test")},
        widths={name: _WIDTHS[name] for name in _NAMES[: parameters.modalities]},
        classes=parameters.classes,
        labels_per_item=parameters.labels_per_item,
        class_signal=parameters.class_signal,
        instance_signal=parameters.instance_signal,
        noise=parameters.noise,
        seed=parameters.seed,
    )
    return drawn(recipe, CARD, vars(parameters))


def drawn(recipe: Recipe, card: Card, parameters: Mapping[str, Any]) -> Dataset:
    """The dataset of a recipe, in float32 and in blocks: little more memory is needed than the data take."""
    means = stream(recipe.name, recipe.seed, "means").standard_normal((recipe.classes, _LATENT))
    means *= recipe.class_signal / np.linalg.norm(means, axis=1, keepdims=True)
    parts = {part: _split(recipe, part, means) for part in recipe.sizes}
    return Dataset(
        name=recipe.name,
        family=recipe.name,
        parameters=parameters,
        train=parts.pop("train"),
        valid=parts.pop("valid"),
        tests=parts,
        card=card,
        class_names=tuple(f"class {k}" for k in range(recipe.classes)),
    )


def _split(recipe: Recipe, part: str, means: Array) -> PairedSet:
    n = recipe.sizes[part]
    rng = stream(recipe.name, recipe.seed, part)
    labels = one_hot(rng.permutation(np.arange(n) % recipe.classes), recipe.classes)
    if recipe.labels_per_item > 1:
        labels |= _more_labels(recipe, part, n)
    centres = labels.astype(np.float64) @ means / np.sqrt(labels.sum(axis=1, keepdims=True))
    latent = centres + recipe.instance_signal * rng.standard_normal(centres.shape)
    ids = np.array([f"{part}-{i}" for i in range(n)])
    modalities = tuple(
        Modality(name=name, vectors=Rows(_rendered(latent, recipe, name, rng)), labels=labels, item_ids=ids)
        for name in recipe.widths
    )
    return PairedSet(modalities=modalities, pairs=np.stack([np.arange(n)] * len(modalities), axis=1))


def _more_labels(recipe: Recipe, part: str, n: int) -> NDArray[np.bool_]:
    """(n, c) labels beside an item's first, each other class with one probability, so that the average is as asked for."""
    probability = (recipe.labels_per_item - 1) / (recipe.classes - 1)
    draws = stream(recipe.name, recipe.seed, part, "more labels").random((n, recipe.classes), dtype=np.float32)
    return np.asarray(draws < probability)


def _rendered(latent: Array, recipe: Recipe, name: str, rng: np.random.Generator) -> Array:
    """Features (n, d) of one modality: noise is added to the latent vector, then a layer of its own is applied."""
    n, k = latent.shape
    width = recipe.widths[name]
    layer = stream(recipe.name, recipe.seed, "layer", name)
    first, second = layer.standard_normal((k, 64)) / np.sqrt(k), layer.standard_normal((64, width)) / 8
    seen = latent + recipe.noise * rng.standard_normal((n, k))
    rendered = np.empty((n, width), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        rendered[block] = np.tanh(seen[block] @ first) @ second
    return rendered
