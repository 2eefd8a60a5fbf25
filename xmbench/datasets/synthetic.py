"""Synthetic data with a planted signal at instance and class level, for any number of modalities: for tests and examples.

With regions or word vectors, an item also has concepts, which its latent vector chooses: every region of the image shows one of
them, and every caption names some of them among words without meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card
from xmbench.datasets._video import WordRows
from xmbench.datasets._vocabulary import END, SPECIAL_WORDS, START
from xmbench.types import Array, Dataset, Modality, PairedSet, Rows, one_hot, stream

_NAMES = ("image", "text", "audio", "video", "model")
_WIDTHS = {name: 64 - 8 * v for v, name in enumerate(_NAMES)}
_LATENT = 16
_BLOCK = 8192  # rows rendered at a time
_REGION_WIDTH = 32
_CONCEPTS = 40  # there are; an item has _SHOWN of them, or as many as it has regions
_SHOWN = 4
_MOST_FILLERS = 4  # words without meaning in a caption, one at least
_WORDS = 64  # of the vocabulary

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
        "modalities": "number of modalities, 2 to 5; 2 with regions or several captions",
        "regions": "regions per image; with them the images have `sequences` and the texts `tokens`; 0: neither",
        "captions": "texts per image",
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
    regions: int = 0
    captions: int = 1
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
        if self.regions < 0 or self.captions < 1:
            got = f"{self.regions} and {self.captions}"
            raise ValueError(f"synthetic.regions must be 0 or more and synthetic.captions 1 or more, got {got}")
        if self.modalities > 2 and (self.regions or self.captions > 1):
            raise ValueError(f"synthetic.regions and synthetic.captions need modalities=2, got {self.modalities}")
        if self.classes < 2:
            raise ValueError(f"synthetic.classes must be 2 or more, got {self.classes}")
        if not 1 <= self.labels_per_item <= self.classes:
            raise ValueError(f"synthetic.labels_per_item must lie in [1, {self.classes}], got {self.labels_per_item}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is drawn: the shape of the data, and how strong a signal is planted in them.

    Attributes:
        name: of the dataset; part of the seed of every draw.
        sizes: split -> number of items of the first modality.
        widths: modality -> number of features of its vectors; None: no vectors.
        classes: 0: no labels.
        labels_per_item, class_signal, instance_signal, noise, seed: as in `CARD.parameters`.
        regions: regions per image and features of a region; None: no regions, and no word numbers.
        word_vectors: words per caption and features of a word, where captions are sequences of word vectors.
        captions: items of the other modalities per item of the first.
        words: size of the vocabulary.
    """

    name: str
    sizes: Mapping[str, int]
    widths: Mapping[str, int | None]
    classes: int
    labels_per_item: float
    class_signal: float
    instance_signal: float
    noise: float
    seed: int
    regions: tuple[int, int] | None = None
    word_vectors: tuple[int, int] | None = None
    captions: int = 1
    words: int = _WORDS


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
        regions=(parameters.regions, _REGION_WIDTH) if parameters.regions else None,
        captions=parameters.captions,
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
    n, k = recipe.sizes[part], recipe.captions
    rng = stream(recipe.name, recipe.seed, part)
    labels, latent = None, np.zeros((n, _LATENT))
    if recipe.classes:
        labels = one_hot(rng.permutation(np.arange(n) % recipe.classes), recipe.classes)
        if recipe.labels_per_item > 1:
            labels |= _more_labels(recipe, part, n)
        latent = labels.astype(np.float64) @ means / np.sqrt(labels.sum(axis=1, keepdims=True))
    latent = latent + recipe.instance_signal * rng.standard_normal(latent.shape)
    modalities = []
    for v, (name, width) in enumerate(recipe.widths.items()):
        items = np.repeat(np.arange(n), k if v else 1)
        ids = [f"{part}-{i}" if k == 1 or not v else f"{part}-{i}.{row % k}" for row, i in enumerate(items)]
        modalities.append(
            Modality(
                name=name,
                vectors=None if width is None else Rows(_rendered(latent[items], recipe, name, rng)),
                labels=None if labels is None else labels if k == 1 else labels[items],
                item_ids=np.array(ids),
                **_regions_or_words(recipe, part, latent, of_images=not v),
            )
        )
    together = np.arange(n * k)
    return PairedSet(modalities=tuple(modalities), pairs=np.stack([together // k, *[together] * (len(modalities) - 1)], axis=1))


def _regions_or_words(recipe: Recipe, part: str, latent: Array, *, of_images: bool) -> dict[str, Any]:
    """What a modality has beside its vectors: regions of n images, or the words of their captions."""
    if recipe.regions is None and (recipe.word_vectors is None or of_images):
        return {}
    directions = stream(recipe.name, recipe.seed, "concepts").standard_normal((_LATENT, _CONCEPTS))
    n_shown = _SHOWN if recipe.regions is None else min(_SHOWN, recipe.regions[0])
    concepts = np.argsort(-latent @ directions, axis=1)[:, :n_shown]
    if of_images:
        return {"sequences": Rows(_regions(recipe, part, concepts))}
    words = _words(recipe, part, np.repeat(concepts, recipe.captions, axis=0))
    return words if recipe.word_vectors is None else _looked_up(recipe, words)


def _regions(recipe: Recipe, part: str, concepts: Array) -> NDArray[np.float32]:
    """(n, R, d) regions: the prototypes of an item's concepts (n, k), each of them shown, in any order, and noise."""
    n_regions, width = recipe.regions or (0, 0)
    rng = stream(recipe.name, recipe.seed, part, "regions")
    prototypes = stream(recipe.name, recipe.seed, "prototypes").standard_normal((_CONCEPTS, width), dtype=np.float32)
    shown = rng.permuted(np.resize(np.arange(concepts.shape[1]), (len(concepts), n_regions)), axis=1)
    regions = np.empty((len(concepts), n_regions, width), dtype=np.float32)
    for i, order in enumerate(shown):
        regions[i] = prototypes[concepts[i, order]]
        regions[i] += np.float32(recipe.noise) * rng.standard_normal((n_regions, width), dtype=np.float32)
    return regions


def _words(recipe: Recipe, part: str, concepts: Array) -> dict[str, Any]:
    """Tokens, lengths and vocabulary of captions that name at least half of the concepts (n, k) of their images."""
    rng = stream(recipe.name, recipe.seed, part, "words")
    n, k = concepts.shape
    words = SPECIAL_WORDS + tuple(f"thing{j}" for j in range(_CONCEPTS))
    words += tuple(f"word{j}" for j in range(max(recipe.words - len(words), 1)))
    first_filler = len(SPECIAL_WORDS) + _CONCEPTS
    tokens, lengths = np.zeros((n, k + _MOST_FILLERS + 2), dtype=np.int64), np.empty(n, dtype=np.int64)
    for i in range(n):
        named = rng.permutation(concepts[i])[: rng.integers((k + 1) // 2, k + 1)] + len(SPECIAL_WORDS)
        fillers = rng.integers(first_filler, len(words), rng.integers(1, _MOST_FILLERS + 1))
        content = rng.permutation(np.concatenate([named, fillers]))
        lengths[i] = len(content) + 2
        tokens[i, : lengths[i]] = START, *content, END
    return {"tokens": tokens, "lengths": lengths, "vocabulary": words}


def _looked_up(recipe: Recipe, words: dict[str, Any]) -> dict[str, Any]:
    """Vectors of the words instead of their numbers, without start and end."""
    n_slots, width = recipe.word_vectors or (0, 0)
    table = stream(recipe.name, recipe.seed, "word vectors").standard_normal(
        (len(words["vocabulary"]), width), dtype=np.float32
    )
    table[: len(SPECIAL_WORDS)] = 0.0
    numbers, lengths = words["tokens"][:, 1 : n_slots + 1], np.minimum(words["lengths"] - 2, n_slots)
    numbers = np.pad(numbers, ((0, 0), (0, n_slots - numbers.shape[1])))
    return {"sequences": WordRows(table, numbers.astype(np.int32)).rows(), "lengths": lengths}


def _more_labels(recipe: Recipe, part: str, n: int) -> NDArray[np.bool_]:
    """(n, c) labels beside an item's first, each other class with one probability, so that the average is as asked for."""
    probability = (recipe.labels_per_item - 1) / (recipe.classes - 1)
    draws = stream(recipe.name, recipe.seed, part, "more labels").random((n, recipe.classes), dtype=np.float32)
    return np.asarray(draws < probability)


def _rendered(latent: Array, recipe: Recipe, name: str, rng: np.random.Generator) -> Array:
    """Features (n, d) of one modality: noise is added to the latent vector, then a layer of its own is applied."""
    n, k = latent.shape
    width = recipe.widths[name] or 0
    layer = stream(recipe.name, recipe.seed, "layer", name)
    first, second = layer.standard_normal((k, 64)) / np.sqrt(k), layer.standard_normal((64, width)) / 8
    seen = latent + recipe.noise * rng.standard_normal((n, k))
    rendered = np.empty((n, width), dtype=np.float32)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        rendered[block] = np.tanh(seen[block] @ first) @ second
    return rendered
