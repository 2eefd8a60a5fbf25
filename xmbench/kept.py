"""What is kept of a run beside its numbers, for reports: its history, diagnostics, labels, items and input features."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmbench.detection import pair_lists, sentences
from xmbench.evaluate import few_items
from xmbench.shown import pair_order
from xmbench.types import Array, Dataset, Modality, PairedSet

_INPUT_COMPONENTS = 50


def history_arrays(history: Sequence[dict[str, float]], key: str) -> dict[str, Array]:
    """The history of a fit by name, an entry per epoch.

    "history/valid" is the selection score `key`, and "history/valid/..." what else was measured on its validation split.
    """
    names = dict.fromkeys(name for row in history for name in row if not name.startswith("valid/"))
    arrays = {f"history/{name}": np.array([row.get(name, np.nan) for row in history]) for name in names}
    own = dict.fromkeys(name for row in history for name in row if name.startswith(f"valid/{key}/"))
    for name in [f"valid/{key}", *own] if history else ():
        shown = name.replace(f"valid/{key}", "valid", 1)
        arrays[f"history/{shown}"] = np.array([row.get(name, np.nan) for row in history])
    return arrays


def kept_arrays(dataset: Dataset, train: PairedSet, records: dict[str, Array], weights: Any, seed: int) -> dict[str, Array]:
    """Diagnostics, labels, items and input features.

    Args:
        dataset: whose test splits are kept, where they are small.
        train: the training set as it was corrupted.
        records: what the method recorded.
        weights: what it believes of its training data as the fit ends.
        seed: of the order in which it saw the pairs, which is that of all it recorded about them.
    """
    arrays = {f"record/{name}": array for name, array in records.items()}
    if records and train.pairs is not None:
        order = pair_order(len(train.pairs), seed)
        arrays["record/pair_order"] = order
        if train.clean_pairs is not None:
            arrays["record/pair_clean"] = train.clean_pairs[order]
    arrays |= _pair_lists(train, records, weights, seed)
    arrays["class_names"] = np.array(dataset.class_names)
    for split, content in dataset.tests.items():
        if few_items(content):
            for i, m in enumerate(content.modalities):
                if content.pairs is not None:
                    arrays[f"items/{split}/{m.name}/pairs"] = content.pairs[:, i].astype(np.int32)  # the item of every pair
                arrays |= {f"{kind}/{split}/{m.name}{part}": array for (kind, part), array in _of_modality(m).items()}
    return arrays


def _of_modality(m: Modality) -> dict[tuple[str, str], Array]:
    """What is kept of a modality's items, by kind and the rest of the name."""
    arrays: dict[tuple[str, str], Array] = {}
    if m.labels is not None:
        arrays["labels", ""] = m.labels
    if m.item_ids is not None:
        arrays["items", ""] = m.item_ids
    if m.tokens is not None and m.vocabulary is not None:
        arrays["items", "/words"] = sentences(m)
    if m.vectors is not None:
        arrays["input", ""] = _leading_components(np.asarray(m.vectors)).astype(np.float16)
    return arrays


def _pair_lists(train: PairedSet, records: dict[str, Array], weights: Any, seed: int) -> dict[str, Array]:
    """The pairs that the method is surest about at the end of the fit; none where it has no belief about pairs."""
    if weights is None or isinstance(weights, dict) or train.pairs is None:
        return {}
    of_networks = weights if isinstance(weights, list) else [weights]
    if isinstance(of_networks[0], dict):
        return {}
    back = np.argsort(pair_order(len(train.pairs), seed))  # methods see the pairs in an order of their own
    labels = records.get("rectified_labels")
    if labels is not None:
        labels = np.ma.masked_invalid(labels).mean(axis=0).filled(np.nan)[back]
    return pair_lists(train, np.mean(of_networks, axis=0)[back], labels)


def _leading_components(values: Array) -> Array:
    """Scores (n, <= 50) of the leading principal components of vectors (n, d)."""
    centred = values.astype(np.float64) - values.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray((u * s)[:, :_INPUT_COMPONENTS])
