"""Measuring a fitted method on a split: embeddings, similarities in blocks, metrics per query and per direction."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np

from xmbench.method import Method
from xmbench.metrics import METRICS, chance_ap, chance_recall, evaluate_block, micro_f1, plausible_relevance, shared_label
from xmbench.spec import Protocol
from xmbench.types import FEATURES, Array, Embedding, Modality, PairedSet, stream

ITEMS_PER_BLOCK = 4096
SIMILARITY_BYTES = 1 << 28
RANKING_DEPTH = 50
_RECALL_LEVELS = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Measure:
    """One number of one run: network and direction, metric, value, the chance level, and how many queries it is over."""

    network: str
    direction: str
    metric: str
    value: float
    chance: float
    n_queries: int


@dataclass
class Measured:
    """All numbers of a split, and arrays by name: values per query, precision-recall curves."""

    measures: list[Measure] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)

    def value(self, metric: str, *, network: str = "mean", direction: str = "mean") -> float:
        """One of the numbers."""
        wanted = (network, direction, metric)
        return next(m.value for m in self.measures if (m.network, m.direction, m.metric) == wanted)


def embed_split(method: Method, split: PairedSet, dtype: str, seed: int) -> dict[str, list[Embedding]]:
    """Embeddings of every modality, one per network; the method sees each one's features in an order of its own.

    Raises:
        ValueError: an embedding with the wrong number of rows or shape, or not finite.
    """
    return {modality.name: _embed(method, modality, dtype, seed) for modality in split.modalities}


def _embed(method: Method, modality: Modality, dtype: str, seed: int) -> list[Embedding]:
    order = stream("embed", seed, modality.name).permutation(len(modality))
    shown = modality.only(FEATURES).take(order)
    blocks = []
    for start in range(0, len(order), ITEMS_PER_BLOCK):
        rows = np.arange(start, min(start + ITEMS_PER_BLOCK, len(order)))
        made = method.embed(shown.take(rows).materialised())
        networks = [made] if isinstance(made, Embedding) else list(made)
        for embedding in networks:
            _check_embedding(method, modality.name, embedding, len(rows))
        blocks.append(networks)
    back = np.argsort(order)
    return [_joined(list(parts), dtype).take(back) for parts in zip(*blocks, strict=True)]


def _joined(parts: list[Embedding], dtype: str) -> Embedding:
    values = np.concatenate([part.values for part in parts]).astype(dtype)
    lengths = [part.lengths for part in parts if part.lengths is not None]
    return Embedding(parts[0].modality, values, np.concatenate(lengths) if lengths else None)


def _check_embedding(method: Method, name: str, embedding: Embedding, n_items: int) -> None:
    shape = np.shape(embedding.values)
    if len(shape) not in (2, 3) or shape[0] != n_items:
        raise ValueError(
            f"{method.info.name}.embed must return ({n_items}, d) values for {n_items} items of {name}, got {shape}"
        )
    if not np.isfinite(embedding.values).all():
        bad = int((~np.isfinite(embedding.values)).reshape(n_items, -1).any(axis=1).sum())
        raise ValueError(
            f"{method.info.name}.embed must return finite values, got NaN or infinity for {bad} of {n_items} items of {name}"
        )


def measure(
    method: Method,
    split: PairedSet,
    embeddings: dict[str, list[Embedding]],
    protocol: Protocol,
    *,
    curves: bool = False,
    rankings: bool = False,
) -> Measured:
    """Every metric of the protocol that the split has the labels or pairs for, per network and for their mean.

    With `curves`, precision-recall curves too; with `rankings`, the first 50 gallery items of every query.
    """
    measured = Measured()
    names = [modality.name for modality in split.modalities]
    n_networks = len(embeddings[names[0]])
    networks = ["mean"] if n_networks == 1 else ["mean", *map(str, range(n_networks))]
    for network in networks:
        chosen = range(n_networks) if network == "mean" else [int(network)]
        if method.retrieves():
            for first, second in permutations(range(len(names)), 2):
                similarity = Similarity(method, embeddings, (first, second), names, list(chosen))
                _measure_direction(measured, split, (first, second), network, similarity, protocol, curves, rankings)
            _average_directions(measured, network)
    if "micro_f1" in protocol.metrics:
        _measure_classes(measured, method, split)
    return measured


class Similarity:
    """Similarities of all queries of one modality with a gallery of another, in blocks of queries, mean over networks.

    `Method.similarity` is always called with the modalities in the dataset's order.
    """

    def __init__(
        self,
        method: Method,
        embeddings: dict[str, list[Embedding]],
        direction: tuple[int, int],
        names: list[str],
        networks: list[int],
    ) -> None:
        self._method, self._networks, self._swapped = method, networks, direction[0] > direction[1]
        self._query, self._gallery = embeddings[names[direction[0]]], embeddings[names[direction[1]]]
        self.name = f"{names[direction[0]]}2{names[direction[1]]}"

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Pairs of (slice of the queries, (block, n_gallery) similarities)."""
        n_queries, n_gallery = len(self._query[0].values), len(self._gallery[0].values)
        size = max(1, SIMILARITY_BYTES // (4 * n_gallery))
        for start in range(0, n_queries, size):
            rows = slice(start, min(start + size, n_queries))
            parts = [self._one(self._query[k].take(rows), self._gallery[k]) for k in self._networks]
            yield rows, parts[0] if len(parts) == 1 else np.mean(parts, axis=0)

    def _one(self, query: Embedding, gallery: Embedding) -> Array:
        first, second = (gallery, query) if self._swapped else (query, gallery)
        got = np.asarray(self._method.similarity(first, second))
        wanted = (len(first.values), len(second.values))
        if got.shape != wanted:
            raise ValueError(f"{self._method.info.name}.similarity must return {wanted} values, got {got.shape}")
        return got.T if self._swapped else got


def _measure_direction(
    measured: Measured,
    split: PairedSet,
    direction: tuple[int, int],
    network: str,
    similarity: Similarity,
    protocol: Protocol,
    curves: bool,
    rankings: bool,
) -> None:
    wanted = {
        kind: [m for m in protocol.metrics if METRICS[m].relevance == kind and METRICS[m].function]
        for kind in ("labels", "pairs")
    }
    relevance = {kind: Relevance(split, direction, kind) for kind, metrics in wanted.items() if metrics and _has(split, kind)}
    values: dict[str, list[Array]] = {name: [] for kind in relevance for name in wanted[kind]}
    counts: dict[str, list[Array]] = {kind: [] for kind in relevance}
    points: list[Array] = []
    tops: list[Array] = []
    for rows, block in similarity.blocks():
        for kind, relevant in relevance.items():
            mask = relevant.block(rows)
            counts[kind].append(mask.sum(axis=1))
            names = [*wanted[kind], "pr_points"] if kind == "labels" and curves else wanted[kind]
            plausible = relevant.plausible(rows) if "pmrp" in names else ()
            gains = relevant.gains(rows) if "ndcg" in names or "ndcg@100" in names else None
            for name, per_query in evaluate_block(names, block, mask, plausible=plausible, gains=gains).items():
                (points if name == "pr_points" else values[name]).append(per_query)
        if rankings:
            tops.append(np.argsort(-block, axis=1, kind="stable")[:, :RANKING_DEPTH].astype(np.int32))
    if tops:
        measured.arrays[f"ranking/{network}/{similarity.name}"] = np.concatenate(tops)
    for name, parts in values.items():
        kind = METRICS[name].relevance
        chance = _chance(name, np.concatenate(counts[kind]), relevance[kind].n_gallery)
        _add(measured, network, similarity.name, name, np.concatenate(parts), chance, protocol)
    if points:
        measured.arrays[f"pr/{network}/{similarity.name}"] = _curve(np.concatenate(points))


def _has(split: PairedSet, kind: str) -> bool:
    return split.pairs is not None if kind == "pairs" else all(m.labels is not None for m in split.modalities)


class Relevance:
    """Which gallery items are relevant to a query: those that share a label, or those that are paired with it."""

    def __init__(self, split: PairedSet, direction: tuple[int, int], kind: str) -> None:
        query, gallery = (split.modalities[i] for i in direction)
        self.n_gallery = len(gallery)
        self._labels = (query.labels, gallery.labels) if kind == "labels" else None
        self._pairs: Array = np.empty((0, 2), dtype=int)
        if kind == "pairs" and split.pairs is not None:
            self._pairs = split.pairs[:, list(direction)]

    def block(self, rows: slice) -> Array:
        """(len(rows), n_gallery) bool."""
        if self._labels is not None and self._labels[0] is not None and self._labels[1] is not None:
            return shared_label(self._labels[0][rows], self._labels[1])
        inside = self._pairs[(self._pairs[:, 0] >= rows.start) & (self._pairs[:, 0] < rows.stop)]
        mask = np.zeros((rows.stop - rows.start, self.n_gallery), dtype=bool)
        mask[inside[:, 0] - rows.start, inside[:, 1]] = True
        return mask

    def gains(self, rows: slice) -> Array | None:
        """(len(rows), n_gallery) numbers of shared labels; None where no item has several, so that relevance says it all."""
        query, gallery = self._labels or (None, None)
        if query is None or gallery is None or max(query.sum(axis=1).max(), gallery.sum(axis=1).max()) < 2:
            return None
        shared: Array = query[rows].astype(np.float32) @ gallery.astype(np.float32).T
        return shared

    def plausible(self, rows: slice) -> list[Array]:
        """For PMRP: (len(rows), n_gallery) bool, whose class vectors differ in at most zeta = 0, 1, 2 classes."""
        if self._labels is None or self._labels[0] is None or self._labels[1] is None:
            return []
        return [plausible_relevance(self._labels[0][rows], self._labels[1], zeta) for zeta in (0, 1, 2)]


def _chance(metric: str, n_relevant: Array, n_gallery: int) -> float:
    """The metric's expectation for a random ranking, averaged over the queries with a relevant item; NaN where unknown."""
    counted = n_relevant[n_relevant > 0]
    if not len(counted) or not (metric == "map" or metric.startswith("r@")):
        return math.nan
    expected = chance_ap(counted, n_gallery) if metric == "map" else chance_recall(counted, n_gallery, int(metric[2:]))
    return float(expected.mean())


def _curve(points: Array) -> Array:
    """(3, 11) recall levels, interpolated and raw precision, averaged over the queries (n_q, 2, 11) with a relevant item."""
    counted = points[~np.isnan(points[:, 0, 0])]
    return np.stack([_RECALL_LEVELS, *(counted.mean(axis=0) if len(counted) else np.full((2, 11), np.nan))])


def _add(measured: Measured, network: str, direction: str, name: str, values: Array, chance: float, protocol: Protocol) -> None:
    """Average the values per query (n_q,), NaN where no item is relevant, and keep them."""
    measured.arrays[f"per_query/{network}/{direction}/{name}"] = values.astype(np.float32)
    counted = values[~np.isnan(values)]
    if protocol.no_relevant == "zero" and METRICS[name].higher_is_better:
        counted = np.nan_to_num(values)
    value = float(METRICS[name].aggregate(counted)) if len(counted) else math.nan
    measured.measures.append(Measure(network, direction, name, value, chance, len(counted)))


def _average_directions(measured: Measured, network: str) -> None:
    """Direction "mean" of every metric, and rSum: the sum of R@1, R@5, R@10 of all directions in percent."""
    of_network = [m for m in measured.measures if m.network == network and m.direction != "mean"]
    for name in dict.fromkeys(m.metric for m in of_network):
        same = [m for m in of_network if m.metric == name]
        value, chance = (float(np.mean([getattr(m, key) for m in same])) for key in ("value", "chance"))
        measured.measures.append(Measure(network, "mean", name, value, chance, sum(m.n_queries for m in same)))
    recalls = [m for m in of_network if m.metric in ("r@1", "r@5", "r@10")]
    if recalls:
        value, chance = (100.0 * float(np.sum([getattr(m, key) for m in recalls])) for key in ("value", "chance"))
        measured.measures.append(Measure(network, "mean", "rsum", value, chance, sum(m.n_queries for m in recalls) // 3))


def _measure_classes(measured: Measured, method: Method, split: PairedSet) -> None:
    for modality in split.modalities:
        scores = method.class_scores(modality.only(FEATURES).materialised())
        if scores is not None and modality.labels is not None:
            value = micro_f1(scores, modality.labels)
            measured.measures.append(Measure("mean", modality.name, "micro_f1", value, math.nan, len(modality)))


def selection_score(method: Method, split: PairedSet, embeddings: dict[str, list[Embedding]], protocol: Protocol) -> float:
    """What chooses an epoch: the mean MAP of all directions where there are labels, else rSum; a classifier's micro F1."""
    if not method.retrieves():
        classified = measure(method, split, embeddings, replace(protocol, metrics=("micro_f1",))).measures
        return float(np.mean([m.value for m in classified])) if classified else math.nan
    by_labels = _has(split, "labels") if protocol.selection == "auto" else protocol.selection == "map"
    metrics = ("map",) if by_labels else ("r@1", "r@5", "r@10")
    measured = measure(method, split, embeddings, replace(protocol, metrics=metrics))
    return measured.value("map" if by_labels else "rsum")


def noise_detection(weights: Any, clean: Array | dict[str, Array]) -> dict[str, float]:
    """How well weights in [0, 1] find what is noisy (weight below one half): precision, recall, F1 and AUROC.

    Args:
        weights: in the form of `clean`, or a list of such, one per network: then each, their mean, and the intersection
            (noisy where every network says so) are measured.
        clean: (n_pairs,) bool, or {modality: (n,) bool}.

    Returns:
        {"noise_f1/mean": ..., "noise_recall/0": ...}
    """
    truth = ~_flat(clean).astype(bool)
    networks = [_flat(w) for w in weights] if isinstance(weights, list) else [_flat(weights)]
    shown = {"mean": np.mean(networks, axis=0)}
    if len(networks) > 1:
        shown |= {str(k): w for k, w in enumerate(networks)} | {"intersection": np.max(networks, axis=0)}
    return {f"{name}/{network}": v for network, w in shown.items() for name, v in _detection(w, truth).items()}


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
