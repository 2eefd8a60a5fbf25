"""How well a method's belief in its training data finds what is noisy in them."""

import math
from typing import Any

import numpy as np

from xmbench.evaluate import Measure
from xmbench.types import Array, Modality, PairedSet

LISTED = 50  # pairs of each kind


def noise_detection(weights: Any, clean: Array | dict[str, Array]) -> dict[str, float]:
    """How well weights in [0, 1] find what is noisy (weight below one half): precision, recall, F1 and AUROC.

    Args:
        weights: in the form of `clean`, or a list of such, one per network: then each, their mean, and the intersection
            (noisy where every network says so) are measured.
        clean: (n_pairs,) bool, or {modality: (n,) bool}.

    Returns:
        {"noise_f1/mean": ..., "noise_recall/0": ...}; of labels, over all modalities, and "noise_f1/mean/image" of each.
    """
    networks = weights if isinstance(weights, list) else [weights]
    found = _detected([_flat(w) for w in networks], _flat(clean))
    for name in clean if isinstance(clean, dict) else ():
        of_modality = _detected([np.asarray(w[name]) for w in networks], clean[name])
        found |= {f"{figure}/{name}": value for figure, value in of_modality.items()}
    return found


def _detected(networks: list[Array], clean: Array) -> dict[str, float]:
    shown = {"mean": np.mean(networks, axis=0)}
    if len(networks) > 1:
        shown |= {str(k): w for k, w in enumerate(networks)} | {"intersection": np.max(networks, axis=0)}
    noisy = ~np.asarray(clean).astype(bool)
    return {f"{name}/{network}": v for network, w in shown.items() for name, v in _detection(w, noisy).items()}


def detection_measures(figures: dict[str, float], clean: Array | dict[str, Array]) -> list[Measure]:
    """What `noise_detection` found, as numbers of the run: direction "pairs", or of labels each modality's name.

    Where nothing is noisy there is nothing to find, and no number.
    """
    measures = []
    for name, value in figures.items():
        metric, network, *modality = name.split("/")
        if isinstance(clean, dict) == bool(modality):
            direction = modality[0] if modality else "pairs"
            truth = clean[direction] if isinstance(clean, dict) else clean
            if not truth.all():
                measures.append(Measure(network, direction, metric, value, math.nan, len(truth)))
    return measures


def pair_lists(train: PairedSet, weights: Array, labels: Array | None = None) -> dict[str, Array]:
    """The pairs that a method is surest about, for reports to show: at most `LISTED` of each kind, the surest first.

    "detected": those believed to be noisy (weight below one half), lowest weight first. "recalled": those of them whose label
    was rectified to one half or more, highest label first.

    Args:
        train: the training set as it was corrupted, its pairs (n, 2) in the order of the weights.
        weights: (n,) how clean each pair is believed to be, the mean over networks.
        labels: (n,) its rectified label; NaN where it has none.

    Returns:
        "KIND/weight" and "KIND/clean" (the truth) of each listed pair, "KIND/MODALITY" the id of its item, and
        "KIND/MODALITY/words" its words where it has any.
    """
    assert train.pairs is not None
    suspects = np.flatnonzero(weights < 0.5)
    listed = {"detected": suspects[np.argsort(weights[suspects], kind="stable")]}
    if labels is not None:
        again = suspects[labels[suspects] >= 0.5]
        listed["recalled"] = again[np.argsort(-labels[again], kind="stable")]
    arrays: dict[str, Array] = {}
    for kind, numbers in listed.items():
        rows = numbers[:LISTED]
        arrays[f"{kind}/weight"] = weights[rows]
        arrays[f"{kind}/clean"] = np.ones(len(rows), bool) if train.clean_pairs is None else train.clean_pairs[rows]
        if kind == "recalled" and labels is not None:
            arrays["recalled/label"] = labels[rows]
        for modality, items in zip(train.modalities, train.pairs[rows].T, strict=True):
            if modality.item_ids is not None:
                arrays[f"{kind}/{modality.name}"] = modality.item_ids[items]
            if modality.tokens is not None and modality.vocabulary is not None:
                arrays[f"{kind}/{modality.name}/words"] = sentences(modality.take(items))
    return arrays


def sentences(modality: Modality) -> Array:
    """The words of each item (n,), without those in angle brackets that stand for its ends and padding."""
    assert modality.tokens is not None and modality.vocabulary is not None
    words = np.array(modality.vocabulary)
    texts = [" ".join(w for w in words[row] if w not in ("<pad>", "<start>", "<end>")) for row in modality.tokens]
    return np.array(texts, dtype=np.str_)


def _flat(values: Array | dict[str, Array]) -> Array:
    return np.concatenate([values[k] for k in sorted(values)]) if isinstance(values, dict) else np.asarray(values)


def _detection(weights: Array, noisy: Array) -> dict[str, float]:
    from scipy.stats import rankdata

    found = weights < 0.5
    hits, n_noisy = float((found & noisy).sum()), int(noisy.sum())
    precision = hits / found.sum() if found.any() else math.nan
    recall = hits / n_noisy if n_noisy else math.nan
    n_clean = len(noisy) - n_noisy
    auroc = math.nan
    if n_noisy and n_clean:
        auroc = float((rankdata(-weights)[noisy].sum() - n_noisy * (n_noisy + 1) / 2) / (n_noisy * n_clean))
    total = found.sum() + n_noisy
    f1 = 2 * hits / total if total else math.nan
    return {"noise_precision": float(precision), "noise_recall": recall, "noise_f1": float(f1), "noise_auroc": auroc}
