"""What the harness looks at when an epoch ends, beside the selection score: noise detection, validation loss, classifiers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmbench.detection import noise_detection
from xmbench.evaluate import accuracy, class_scores
from xmbench.method import Method
from xmbench.metrics import micro_f1
from xmbench.shown import strip
from xmbench.types import Array, Modality, PairedSet, stream

OBSERVED_ITEMS = 500  # of each modality and split, or pairs, at most: an epoch must not wait for them


@dataclass(frozen=True)
class _Sample:
    """Items whose classes are predicted, and the labels (n, c) they are compared with, by name in the history."""

    items: Modality
    labels: dict[str, Array]


def truth(weights: Any, train: PairedSet) -> Array | dict[str, Array] | None:
    """What clean weights are to be compared with: the truth about labels, or about pairs where some are wrong."""
    if isinstance(weights[0] if isinstance(weights, list) else weights, dict):
        return train.clean
    return None if train.clean_pairs is None or train.clean_pairs.all() else train.clean_pairs


def detection_observer(method: Method, shown: PairedSet) -> Callable[[], dict[str, float]]:
    """Noise detection, for methods that say how clean they believe each item of the training set to be."""

    def observe() -> dict[str, float]:
        weights = method.clean_weights()
        expected = truth(weights, shown)
        return {} if weights is None or expected is None else noise_detection(weights, expected)

    return observe


def loss_observer(method: Method, valid: Mapping[str, PairedSet]) -> Callable[[], dict[str, float]]:
    """The training loss on validation pairs, "valid/KEY/loss", for methods that tell it.

    Args:
        method: what is observed.
        valid: score key -> validation split; at most `OBSERVED_ITEMS` pairs of it are read, none with an unlabelled item
            where the method reads labels.
    """
    if type(method).validation_loss is Method.validation_loss:
        return dict
    samples = {}
    for key, split in valid.items():
        rows = np.arange(len(split.rows_together()))
        if "labels" in method.needs():
            columns = zip(split.modalities, split.rows_together().T, strict=True)
            rows = rows[np.all([m.labels[column].any(axis=1) for m, column in columns if m.labels is not None], axis=0)]
        if len(rows):
            samples[key] = strip(_side_by_side(split, rows[:: -(-len(rows) // OBSERVED_ITEMS)]), method.needs())

    def observe() -> dict[str, float]:
        losses = {key: method.validation_loss(sample) for key, sample in samples.items()}
        return {f"valid/{key}/loss": loss for key, loss in losses.items() if loss is not None}

    return observe


def _side_by_side(split: PairedSet, rows: Array) -> PairedSet:
    """The pairs `rows`, with a copy of every item for each of its pairs."""
    together = split.rows_together()[rows]
    modalities = tuple(m.take(column).materialised() for m, column in zip(split.modalities, together.T, strict=True))
    return PairedSet(modalities=modalities, pairs=np.arange(len(rows))[:, None].repeat(len(modalities), axis=1))


def class_observer(
    method: Method, given: PairedSet, true: PairedSet, valid: Mapping[str, PairedSet], seed: int
) -> Callable[[], dict[str, float]]:
    """Accuracy per modality, for methods with class scores; micro F1 where items have several classes.

    It is "accuracy/given/image" and "accuracy/true/image" on training items, by the labels learnt from and by the true ones,
    and "valid/KEY/accuracy/image" on validation items.

    Args:
        method: what is observed.
        given: the training set with its noise.
        true: the same items with their true labels.
        valid: score key -> validation split.
        seed: draws at most `OBSERVED_ITEMS` items of each modality and split.
    """
    if type(method).class_scores is Method.class_scores:
        return dict
    several = any(m.labels is not None and bool((m.labels.sum(axis=1) > 1).any()) for m in true.modalities)
    name = "micro_f1" if several else "accuracy"
    samples = []
    for noisy, clean in zip(given.modalities, true.modalities, strict=True):
        samples.append(_sample(noisy, {f"{name}/given": noisy.labels, f"{name}/true": clean.labels}, seed))
    for key, split in valid.items():
        samples += [_sample(m, {f"valid/{key}/{name}": m.labels}, seed) for m in split.modalities]

    def observe() -> dict[str, float]:
        return {name: value for sample in samples for name, value in _compared(method, sample, several).items()}

    return observe


def _sample(modality: Modality, labels: Mapping[str, Array | None], seed: int) -> _Sample:
    rows = np.sort(stream("observe", seed, modality.name).permutation(len(modality))[:OBSERVED_ITEMS])
    known = {f"{name}/{modality.name}": values[rows] for name, values in labels.items() if values is not None}
    return _Sample(modality.take(rows), known)


def _compared(method: Method, sample: _Sample, several: bool) -> dict[str, float]:
    """The figure of a sample by name; none where there are no labels or no scores, or where scores are not finite."""
    scores = class_scores(method, sample.items) if sample.labels else None
    if scores is None or not np.isfinite(scores).all():
        return {}
    return {name: (micro_f1 if several else accuracy)(scores, labels) for name, labels in sample.labels.items()}
