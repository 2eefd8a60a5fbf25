"""Synthetic data with a planted signal at instance and class level, for any number of modalities: for tests and examples."""

from dataclasses import dataclass

import numpy as np

from xmbench.types import Array, Card, Dataset, Modality, PairedSet, Rows, one_hot, stream

_NAMES = ("image", "text", "audio", "video", "model")

CARD = Card(
    name="synthetic",
    title="Gaussian classes seen through random networks",
    source="drawn from a seed by xmbench/datasets/synthetic.py",
    licence="none needed",
    citation="specified by this project",
    sizes={"train": 400, "valid": 100, "test": 200},
    parameters={
        "classes": "number of classes",
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


def load(parameters: Parameters) -> Dataset:
    """A latent vector per instance, class mean plus instance part, rendered into each modality by a random tanh layer."""
    means = stream("synthetic", parameters.seed, "means").standard_normal((parameters.classes, 16))
    means *= parameters.class_signal / np.linalg.norm(means, axis=1, keepdims=True)
    parts = {part: _split(parameters, part, means) for part in ("train", "valid", "test")}
    return Dataset(
        name="synthetic",
        family="synthetic",
        parameters=vars(parameters),
        train=parts["train"],
        valid=parts["valid"],
        tests={"test": parts["test"]},
        card=CARD,
        class_names=tuple(f"class {k}" for k in range(parameters.classes)),
    )


def _split(parameters: Parameters, part: str, means: Array) -> PairedSet:
    n = getattr(parameters, part)
    rng = stream("synthetic", parameters.seed, part)
    labels = rng.permutation(np.arange(n) % parameters.classes)
    latent = means[labels] + parameters.instance_signal * rng.standard_normal((n, means.shape[1]))
    modalities = tuple(
        Modality(
            name=name,
            vectors=Rows(_rendered(latent, parameters, name, rng)),
            labels=one_hot(labels, parameters.classes),
            item_ids=np.array([f"{part}-{i}" for i in range(n)]),
        )
        for name in _NAMES[: parameters.modalities]
    )
    return PairedSet(modalities=modalities, pairs=np.stack([np.arange(n)] * parameters.modalities, axis=1))


def _rendered(latent: Array, parameters: Parameters, name: str, rng: np.random.Generator) -> Array:
    """Features (n, d) of one modality: noise is added to the latent vector, then a layer of its own is applied."""
    n, k = latent.shape
    width = 64 - 16 * _NAMES.index(name) // 2
    layer = stream("synthetic", parameters.seed, "layer", name)
    first, second = layer.standard_normal((k, 64)) / np.sqrt(k), layer.standard_normal((64, width)) / 8
    rendered: Array = np.tanh((latent + parameters.noise * rng.standard_normal((n, k))) @ first) @ second
    return rendered.astype(np.float32)
