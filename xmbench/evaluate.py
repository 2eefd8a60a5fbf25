"""Measuring a fitted method on a split: embeddings, similarities, metrics per query and per direction."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, permutations

import numpy as np

from xmbench.method import Method
from xmbench.metrics import (
    METRICS,
    PlausibleGallery,
    chance_ap,
    chance_ap_at_r,
    chance_recall,
    evaluate_relevant,
    evaluate_tiles,
    micro_f1,
    n_shared_labels,
    relevant_by_class,
    shared_label,
)
from xmbench.progress import LongWork
from xmbench.scores import Scores, network_scores, room, slices
from xmbench.spec import Protocol
from xmbench.subsets import folds_of
from xmbench.ties import Relevant, as_similarity, leading, relevant_from_mask
from xmbench.types import FEATURES, Array, Embedding, Modality, PairedSet, class_numbers, stream

ITEMS_PER_BLOCK = 4096
ITEMS_CLASSIFIED = 1 << 14  # at a time
RANKING_DEPTH = 50
KEPT_ITEMS = 30_000  # of more no rankings, embeddings, inputs, labels and names are kept: values per query are
COLLAPSED_BELOW = 1e-4  # standard deviation of scores
_OF_MATCHES = ("r@1", "r@5", "r@10", "medr", "meanr")  # what `evaluate_matches` measures
_RECALL_LEVELS = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Measure:
    """One number of one run: network and direction, metric, value, the chance level, and how many queries it is over.

    `fold` is None for the whole split, and for the average over its folds.
    """

    network: str
    direction: str
    metric: str
    value: float
    chance: float
    n_queries: int
    fold: str | None = None


@dataclass
class Measured:
    """All numbers of a split, and arrays by name: values per query, precision-recall curves.

    `score_std` is the standard deviation of the similarities of items that are not paired, the least one over the networks;
    NaN where pairs are not what a choice is made by.
    """

    measures: list[Measure] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    score_std: float = math.nan

    def value(self, metric: str, *, network: str = "mean", direction: str = "mean") -> float:
        """One of the numbers."""
        wanted = (network, direction, metric, None)
        return next(m.value for m in self.measures if (m.network, m.direction, m.metric, m.fold) == wanted)

    @property
    def collapsed(self) -> bool | None:
        """Whether the scores are all but constant; None where that is not asked."""
        return None if math.isnan(self.score_std) else self.score_std < COLLAPSED_BELOW


@dataclass(frozen=True)
class _Asked:
    """What is to be measured: the protocol's metrics, for every network or their mean alone, curves, rankings."""

    protocol: Protocol
    curves: bool = False
    rankings: bool = False
    only_mean: bool = False


def embed_split(method: Method, split: PairedSet, dtype: str, seed: int) -> dict[str, list[Embedding]]:
    """Embeddings of every modality, one per network; the method sees each one's features in an order of its own.

    Raises:
        ValueError: an embedding with the wrong number of rows or shape, or not finite.
    """
    return {modality.name: _embed(method, modality, dtype, seed) for modality in split.modalities}


def _embed(method: Method, modality: Modality, dtype: str, seed: int) -> list[Embedding]:
    order = stream("embed", seed, modality.name).permutation(len(modality))
    shown = modality.only(frozenset({"items"}) if "items" in method.needs() else FEATURES).take(order)
    work = LongWork(f"{type(method).__name__}: embeddings of {len(order)} items of {modality.name}", len(order))
    whole: list[Embedding] = []
    for part in slices(len(order), ITEMS_PER_BLOCK):
        rows = np.arange(part.start, part.stop)
        made = method.embed(shown.take(rows).materialised())
        networks = [made] if isinstance(made, Embedding) else list(made)
        for embedding in networks:
            _check_embedding(method, modality.name, embedding, len(rows))
        whole = whole or [_empty_like(embedding, len(order), k, dtype) for k, embedding in enumerate(networks)]
        for target, embedding in zip(whole, networks, strict=True):
            target.values[order[rows]] = embedding.values
            if target.lengths is not None:
                target.lengths[order[rows]] = embedding.lengths
        work.done(part.stop)
    return whole


def _empty_like(embedding: Embedding, n_items: int, network: int, dtype: str) -> Embedding:
    """Room for the embedding of all items by one network."""
    values = room((n_items, *np.shape(embedding.values)[1:]), np.dtype(dtype))
    lengths = None if embedding.lengths is None else np.empty(n_items, np.asarray(embedding.lengths).dtype)
    return Embedding(embedding.modality, values, lengths, network)


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

    With `curves`, precision-recall curves too; with `rankings`, the first 50 gallery items of every query, where there are no
    more than KEPT_ITEMS.
    """
    return _measured(method, split, embeddings, _Asked(protocol, curves, rankings))


def _measured(method: Method, split: PairedSet, embeddings: dict[str, list[Embedding]], asked: _Asked) -> Measured:
    measured = Measured()
    names = [modality.name for modality in split.modalities]
    by_network: dict[str, Measured] = {"mean": Measured()}
    for pair in combinations(range(len(names)), 2) if method.retrieves() else ():
        first, second = (embeddings[names[i]] for i in pair)
        watched = split.pairs is not None and not _by_labels(split, asked.protocol)
        for network, scores in network_scores(method, first, second, watched=watched):
            if network == "mean" or not asked.only_mean:
                part = by_network.setdefault(network, Measured())
                _measure_pair(part, split, pair, network, scores, asked)
            if watched and split.pairs is not None and (network != "mean" or len(first) == 1):
                measured.score_std = float(np.fmin(measured.score_std, scores.spread(split.pairs[:, list(pair)])))
    order = {f"{names[i]}2{names[j]}": k for k, (i, j) in enumerate(permutations(range(len(names)), 2))}
    for network, part in by_network.items():
        measured.measures += sorted(part.measures, key=lambda m: order[m.direction])
        measured.arrays |= part.arrays
        _average_directions(measured, network)
    if "micro_f1" in asked.protocol.metrics:
        _measure_classes(measured, method, split)
    return measured


def measure_folds(
    method: Method,
    split: PairedSet,
    embeddings: dict[str, list[Embedding]],
    protocol: Protocol,
    n_folds: int,
    *,
    curves: bool = False,
) -> Measured:
    """`measure` of each of the split's folds and the average over them; values per query one fold after the other.

    Raises:
        ValueError: the items of the first modality do not divide into as many folds.
    """
    parts = []
    for fold, rows in folds_of(split, n_folds):
        places = [slice(r[0], r[-1] + 1) if r[-1] - r[0] + 1 == len(r) else r for r in rows]  # a slice is not copied
        items = {m.name: [e.take(p) for e in embeddings[m.name]] for m, p in zip(split.modalities, places, strict=True)}
        parts.append(measure(method, fold, items, protocol, curves=curves))
    whole = Measured(score_std=float(np.fmin.reduce([part.score_std for part in parts])))
    for of_folds in zip(*(part.measures for part in parts), strict=True):
        value, chance = (float(np.mean([getattr(m, key) for m in of_folds])) for key in ("value", "chance"))
        n_queries = sum(m.n_queries for m in of_folds)
        whole.measures.append(replace(of_folds[0], value=value, chance=chance, n_queries=n_queries))
    for k, part in enumerate(parts):
        whole.measures += [replace(m, fold=str(k)) for m in part.measures]
    for name in parts[0].arrays:
        arrays = [part.arrays[name] for part in parts]
        whole.arrays[name] = np.mean(arrays, axis=0) if name.startswith("pr/") else np.concatenate(arrays)
    return whole


def few_items(split: PairedSet) -> bool:
    """Whether what is kept of every item of a split is not too much for a run's file."""
    return max(len(m) for m in split.modalities) <= KEPT_ITEMS


def _measure_pair(
    measured: Measured, split: PairedSet, pair: tuple[int, int], network: str, scores: Scores, asked: _Asked
) -> None:
    """Both directions between two modalities; what the best match tells is found for both at once, where that saves a pass."""
    matches: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    wanted = [name for name in asked.protocol.metrics if name in _OF_MATCHES]
    others = [m for name, m in METRICS.items() if name in asked.protocol.metrics and name not in wanted and m.function]
    at_once = scores.held or not (asked.rankings or any(_has(split, m.relevance) for m in others))
    if wanted and split.pairs is not None and at_once:
        matches = evaluate_tiles(wanted, scores.tiles(), scores.shape, split.pairs[:, list(pair)], scores.paired) or matches
    for direction, of_direction in zip((pair, pair[::-1]), matches, strict=True):
        _measure_direction(measured, split, direction, network, scores, of_direction, asked)


def _measure_direction(
    measured: Measured,
    split: PairedSet,
    direction: tuple[int, int],
    network: str,
    scores: Scores,
    matches: dict[str, Array],
    asked: _Asked,
) -> None:
    wanted = {
        kind: [m for m in asked.protocol.metrics if METRICS[m].relevance == kind and METRICS[m].function]
        for kind in ("labels", "pairs")
    }
    relevance = {kind: Relevance(split, direction, kind) for kind, metrics in wanted.items() if metrics and _has(split, kind)}
    names = {kind: [name for name in wanted[kind] if name not in matches] for kind in relevance}
    if asked.curves and "labels" in names:
        names["labels"].append("pr_points")
    parts: dict[str, list[Array]] = {name: [] for kind in relevance for name in wanted[kind]}
    parts |= {name: [values] for name, values in matches.items()} | {"pr_points": [], "ranking": []}
    ranked = asked.rankings and len(split.modalities[direction[0]]) <= KEPT_ITEMS
    for rows, block in scores.blocks(direction[0] > direction[1]) if ranked or any(names.values()) else ():
        checked = as_similarity(block)
        for kind, relevant in relevance.items():
            for name, per_query in relevant.evaluate(names[kind], rows, checked).items():
                parts[name].append(per_query)
        if ranked:
            parts["ranking"].append(leading(checked, RANKING_DEPTH))
    values = {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}
    _keep_direction(measured, network, "2".join(split.modalities[i].name for i in direction), values, relevance, asked.protocol)


def _keep_direction(
    measured: Measured,
    network: str,
    direction: str,
    values: dict[str, Array],
    relevance: "dict[str, Relevance]",
    protocol: Protocol,
) -> None:
    if "ranking" in values:
        measured.arrays[f"ranking/{network}/{direction}"] = values.pop("ranking")
    if "pr_points" in values:
        measured.arrays[f"pr/{network}/{direction}"] = _curve(values.pop("pr_points"))
    for name, per_query in values.items():
        of_kind = relevance[METRICS[name].relevance]
        chance = _chance(name, of_kind.counts(), of_kind.n_gallery)
        _add(measured, network, direction, name, per_query, chance, protocol)


def _has(split: PairedSet, kind: str) -> bool:
    return split.pairs is not None if kind == "pairs" else all(m.labels is not None for m in split.modalities)


class Relevance:
    """Which gallery items are relevant to a query: those that share a label, or those that are paired with it.

    They are listed: by query where they are paired, by class where no item has several; else block by block.
    """

    def __init__(self, split: PairedSet, direction: tuple[int, int], kind: str) -> None:
        query, gallery = (split.modalities[i] for i in direction)
        self.n_gallery = len(gallery)
        self._listed: Relevant | None = None
        self._labels: tuple[Array, Array] | None = None
        self._counts: list[Array] = []
        if kind == "pairs" and split.pairs is not None:
            self._listed = _by_query(split.pairs[:, list(direction)], len(query), len(gallery))
        elif query.labels is not None and gallery.labels is not None:
            self._labels = query.labels, gallery.labels
            if not self._several_labels:
                self._listed = _by_class(query.labels, gallery.labels)

    @cached_property
    def _several_labels(self) -> bool:
        return self._labels is not None and any(len(y) and y.sum(axis=1).max() > 1 for y in self._labels)

    @cached_property
    def _plausible(self) -> PlausibleGallery:
        assert self._labels is not None
        return PlausibleGallery(self._labels[1])

    def evaluate(self, names: list[str], rows: slice, block: Array) -> dict[str, Array]:
        """Values per query (len(rows),) of metrics by name; `block` holds the checked similarities of the queries `rows`."""
        values = {}
        if ranking := [name for name in names if name != "pmrp"]:
            gains = self._gains(rows) if {"ndcg", "ndcg@100"} & set(ranking) else None
            values = evaluate_relevant(ranking, block, self._relevant(rows), gains=gains)
        if "pmrp" in names and self._labels is not None:
            values["pmrp"] = self._plausible.pmrp(block, self._labels[0][rows])
        return values

    def counts(self) -> Array:
        """Number of relevant items of every query, of those evaluated where they are not listed."""
        if self._listed is not None:
            return self._listed.last - self._listed.first
        return np.concatenate([np.empty(0, int), *self._counts])

    def _relevant(self, rows: slice) -> Relevant:
        if self._listed is not None:
            return self._listed.rows(rows.start, rows.stop)
        assert self._labels is not None
        relevant = relevant_from_mask(shared_label(self._labels[0][rows], self._labels[1]))
        self._counts.append(relevant.last - relevant.first)
        return relevant

    def _gains(self, rows: slice) -> Array | None:
        """(len(rows), n_gallery) numbers of shared labels; None where no item has several, so that relevance says it all."""
        if self._labels is None or not self._several_labels:
            return None
        return n_shared_labels(self._labels[0][rows], self._labels[1])


def _by_query(pairs: Array, n_queries: int, n_gallery: int) -> Relevant:
    """Relevance by pairs (p, 2) of query and gallery item; a pair that is listed twice counts once."""
    query, column = np.divmod(np.unique(pairs[:, 0].astype(np.int64) * n_gallery + pairs[:, 1]), n_gallery)
    start = np.searchsorted(query, np.arange(n_queries + 1))
    return Relevant(start[:-1], start[1:], column)


def _by_class(query_labels: Array, gallery_labels: Array) -> Relevant:
    """Relevance by labels (n, c) of one class at most; an item without a class is relevant to nothing."""
    query = class_numbers(query_labels)
    listed = relevant_by_class(query, class_numbers(gallery_labels))
    return replace(listed, last=np.where(query < 0, listed.first, listed.last))


def _chance(metric: str, n_relevant: Array, n_gallery: int) -> float:
    """The metric's expectation for a random ranking, averaged over the queries with a relevant item; NaN where unknown."""
    counted = n_relevant[n_relevant > 0]
    if not len(counted) or not (metric == "map" or metric == "map@r" or metric.startswith("r@")):
        return math.nan
    if metric == "map@r":
        return float(chance_ap_at_r(counted, n_gallery).mean())
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
    if protocol.no_relevant == "zero" and METRICS[name].higher_is_better and name != "pmrp":  # whose NaN are no queries
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


def class_scores(method: Method, modality: Modality) -> Array | None:
    """Scores (n, c) of the classes of every item, of which the method sees the features; None without a classifier."""
    shown = modality.only(FEATURES)
    parts = [
        method.class_scores(shown.take(np.arange(rows.start, rows.stop)).materialised())
        for rows in slices(len(shown), ITEMS_CLASSIFIED)
    ]
    scores = [part for part in parts if part is not None]
    return np.concatenate(scores) if scores else None


def accuracy(scores: Array, labels: Array) -> float:
    """Share of the labelled items whose highest class score (n, c) is that of one of their classes (n, c); NaN without any."""
    labelled = labels.any(axis=1)
    hits = labels[np.arange(len(labels)), scores.argmax(axis=1)]
    return float(hits[labelled].mean()) if labelled.any() else math.nan


def _measure_classes(measured: Measured, method: Method, split: PairedSet) -> None:
    for modality in split.modalities:
        scores = class_scores(method, modality)
        if scores is not None and modality.labels is not None:
            value = micro_f1(scores, modality.labels)
            measured.measures.append(Measure("mean", modality.name, "micro_f1", value, math.nan, len(modality)))


def selection_score(method: Method, split: PairedSet, embeddings: dict[str, list[Embedding]], protocol: Protocol) -> float:
    """What chooses an epoch: the mean MAP of all directions where there are labels, else rSum; a classifier's micro F1."""
    return score_and_spread(method, split, embeddings, protocol)[0]


def score_and_spread(
    method: Method, split: PairedSet, embeddings: dict[str, list[Embedding]], protocol: Protocol
) -> tuple[float, float, dict[str, float]]:
    """`selection_score`, the standard deviation of the scores it is made of, see `Measured`, and the MAP of each direction."""
    if not method.retrieves():
        classified = measure(method, split, embeddings, replace(protocol, metrics=("micro_f1",))).measures
        return float(np.mean([m.value for m in classified])) if classified else math.nan, math.nan, {}
    by_labels = _by_labels(split, protocol)
    metrics = ("map",) if by_labels else ("r@1", "r@5", "r@10")
    measured = _measured(method, split, embeddings, _Asked(replace(protocol, metrics=metrics), only_mean=True))
    by_direction = {m.direction: m.value for m in measured.measures if (m.network, m.metric) == ("mean", "map")}
    return measured.value("map" if by_labels else "rsum"), measured.score_std, by_direction


def _by_labels(split: PairedSet, protocol: Protocol) -> bool:
    """Whether MAP chooses, not rSum."""
    return _has(split, "labels") if protocol.selection == "auto" else protocol.selection == "map"
