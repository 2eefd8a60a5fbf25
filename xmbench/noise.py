"""Noise as an artefact: named schemes that corrupt a split, shuffling, stripping; noise files are in noise_files. NumPy only.

Symbols: n items of a modality, n_l labelled ones, c (or K) classes, r noise rate, m modalities. All draws come from
named streams that know neither method nor rate nor features: every method meets the same corruption, nested over rates.
"""

import difflib
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.noise_files import export_labels, import_labels, split_class_numbers, split_labels
from xmbench.types import Array, PairedSet, fingerprint, one_hot, split_sha, stream, stream_seed

__all__ = ["SCHEMES", "Corruption", "Noise", "Scheme", "corrupt", "export_labels", "import_labels", "shuffle", "strip"]

Draw = Callable[[PairedSet, "Noise", str, str], PairedSet]
Replacement = Callable[[Array, int, np.random.Generator, np.random.Generator], Array]


@dataclass(frozen=True)
class Noise:
    """What corrupts a split: a scheme, its nominal rate, the seed of its draws and the scheme's options.

    Attributes:
        scheme: a name in `SCHEMES`.
        rate: nominal noise rate; what it counts is the scheme's to say.
        seed: of the draws, independent of the method's seed.
        options: the scheme's options by name; stored complete (defaults filled in) as sorted (name, value) pairs, so
            that equal noise is equal, hashable and has one JSON form. `dict(noise.options)` is the mapping.

    Raises:
        LookupError: no such scheme.
        ValueError: rate outside the scheme's range, unknown, missing or wrongly typed option, seed not an integer.

    >>> print(Noise("symmetric", 0.4, seed=0))
    symmetric@0.4
    """

    scheme: str
    rate: float
    seed: int
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        scheme = _scheme(self.scheme)
        object.__setattr__(self, "rate", _checked_rate(scheme, self.rate))
        object.__setattr__(self, "seed", _checked_seed(self.seed))
        object.__setattr__(self, "options", _checked_options(scheme, dict(self.options)))

    def __str__(self) -> str:
        return f"{self.scheme}@{self.rate:.12g}"

    def option(self, name: str) -> Any:
        """The value of one option, the default where it was not given."""
        return dict(self.options)[name]


@dataclass(frozen=True)
class Scheme:
    """A way to corrupt a split.

    Attributes:
        name: as in `symmetric@0.4`.
        description: one line for listings.
        draw: (split, noise, family, part) -> the split with noisy labels (or pairs); rate > 0 is given.
        kind: what is corrupted, "label" or "correspondence".
        version: raised whenever the draws change; part of the stream.
        max_rate, inclusive: rates lie in [0, max_rate], or [0, max_rate) where not inclusive.
        options: name -> (type, default, description); a default of None means that it must be given.
        choices: name of a string option -> the values it may have.
    """

    name: str
    description: str
    draw: Draw
    kind: Literal["label", "correspondence"] = "label"
    version: int = 1
    max_rate: float = 1.0
    inclusive: bool = True
    options: Mapping[str, tuple[type, Any, str]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Corruption:
    """A corrupted split and what is known of its corruption.

    Attributes:
        train: the split with noisy labels; `train.clean` is `clean` (`strip` takes it away from all but oracles).
        clean: {modality: (n,) bool}, True where the given labels equal the true ones, all classes of the item: a redraw that
            hits the true class is clean, and so is an item that had no label.
        realised_rate: true labels that are not among the given ones / true labels, over all modalities together. With one
            class per item these are the items with a wrong label; with several, an item may have lost some of its labels.
        realised_by_modality: the same per modality.
        noise_sha: hash of the given labels of all modalities: equal labels, equal sha, whatever scheme and rate.
    """

    train: PairedSet
    clean: Mapping[str, NDArray[np.bool_]]
    realised_rate: float
    realised_by_modality: Mapping[str, float]
    noise_sha: str


def corrupt(split: PairedSet, noise: Noise, *, family: str, part: str = "train") -> Corruption:
    """The split under `noise`; rate 0 is the identity.

    The draws depend on family, split sha (items, labels, partners; not features), scheme, its version, seed, part and
    modality alone. Items hit at a rate are a prefix of those hit at a higher one, and the wrong label of an item is the
    same at every rate (`mrl_legacy` and `file` are exempt). Unlabelled items stay unlabelled and count nowhere.

    Args:
        split: clean; above rate 0 every modality has labels (n, c): one class per item or none, several for
            `symmetric_multilabel`.
        noise: what to do.
        family: of the dataset; all its feature variants share the draws.
        part: "train", or "valid" for an independent draw of noisy validation labels.

    Raises:
        ValueError: no labels, several classes per item (one, for `symmetric_multilabel`), `shared` without one-to-one
            pairs, or a noise file that does not fit.

    Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021: each modality on its own (section 3.1), as
    in the released loader (penghu-cs/MRL, src/noisydataset.py), which corrupts train only: noisy validation is ours.
    """
    if part not in ("train", "valid"):
        raise ValueError(f"part must be 'train' or 'valid', got {part!r}")
    given = split if noise.rate == 0 else _scheme(noise.scheme).draw(split, noise, family, part)
    clean: dict[str, Array] = {}
    wrong, labels = {}, {}
    for before, after in zip(split.modalities, given.modalities, strict=True):
        if before.labels is not None and after.labels is not None:
            same_classes = after.labels[:, : before.n_classes] == before.labels  # a scheme may add columns
            clean[before.name] = same_classes.all(axis=1)
            wrong[before.name] = int((before.labels & ~same_classes).sum())
            labels[before.name] = int(before.labels.sum())
    return Corruption(
        train=replace(given, clean=clean or split.clean),
        clean=clean,
        realised_rate=sum(wrong.values()) / max(sum(labels.values()), 1),
        realised_by_modality={name: wrong[name] / max(labels[name], 1) for name in clean},
        noise_sha=fingerprint([value for m in given.modalities for value in (m.name, m.labels)]),
    )


def shuffle(train: PairedSet, *, seed: int, keep_pairs: bool) -> PairedSet:
    """The same items in an order that says nothing: every modality has its own permutation, and so has the pair list.

    Released data keep partners in the same row, and pairs sorted by image: a method could read the truth off the order.
    Features, labels, lengths and clean masks follow their items; the permutations know seed and modality only, neither
    noise nor rate.

    Args:
        train: any split.
        seed: of the permutations.
        keep_pairs: False drops the pairs (and a clean mask per pair with them): nothing then tells who belongs to whom.
    """
    orders = {m.name: stream("shuffle", seed, "rows", m.name).permutation(len(m)) for m in train.modalities}
    modalities = tuple(modality.take(orders[modality.name]) for modality in train.modalities)
    clean = {k: mask[orders[k]] for k, mask in train.clean.items()} if isinstance(train.clean, dict) else None
    if not keep_pairs or train.pairs is None:
        return PairedSet(modalities=modalities, clean=clean)
    order = stream("shuffle", seed, "pairs").permutation(len(train.pairs))
    new_row = [np.argsort(orders[modality.name]) for modality in train.modalities]
    pairs = np.stack([rows[column] for rows, column in zip(new_row, train.pairs[order].T, strict=True)], axis=1)
    if isinstance(train.clean, np.ndarray):
        return PairedSet(modalities=modalities, pairs=pairs, clean=train.clean[order])
    return PairedSet(modalities=modalities, pairs=pairs, clean=clean)


def strip(train: PairedSet, needs: frozenset[str]) -> PairedSet:
    """The split with nothing but what `needs` names: features, "labels", "pairs", "clean". Item ids never survive."""
    return PairedSet(
        modalities=tuple(modality.only(needs) for modality in train.modalities),
        pairs=train.pairs if "pairs" in needs else None,
        clean=train.clean if "clean" in needs else None,
    )


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        close = difflib.get_close_matches(str(name), SCHEMES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(SCHEMES)}"
        raise LookupError(f"no noise scheme named {name!r}; {hint}")
    return SCHEMES[name]


def _checked_rate(scheme: Scheme, rate: float) -> float:
    inside = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    inside = inside and (0 <= rate < scheme.max_rate or (scheme.inclusive and rate == scheme.max_rate))
    if not inside:
        allowed = f"[0, {scheme.max_rate:g}{']' if scheme.inclusive else ')'}"
        raise ValueError(f"the rate of {scheme.name!r} must lie in {allowed}, got {rate!r}")
    return abs(float(rate))


def _checked_seed(seed: int) -> int:
    try:
        return int(operator.index(seed))
    except TypeError:
        raise ValueError(f"the noise seed must be an integer, got {seed!r}") from None


def _checked_options(scheme: Scheme, given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    for name in given:
        if name not in scheme.options:
            known = ", ".join(scheme.options) or "none"
            raise ValueError(f"noise scheme {scheme.name!r} has no option {name!r}; its options: {known}")
    options = {name: given.get(name, default) for name, (_, default, _) in scheme.options.items()}
    for name, value in options.items():
        kind, _, description = scheme.options[name]
        if type(value) is not kind:
            raise ValueError(f"option {name!r} of {scheme.name!r} must be {kind.__name__} ({description}), got {value!r}")
        if name in scheme.choices and value not in scheme.choices[name]:
            raise ValueError(f"option {name!r} of {scheme.name!r} must be one of {scheme.choices[name]}, got {value!r}")
    return tuple(sorted(options.items()))


def _with_labels(split: PairedSet, numbers: list[Array], n_classes: int) -> PairedSet:
    relabelled = zip(split.modalities, numbers, strict=True)
    return replace(split, modalities=tuple(replace(m, labels=one_hot(y, n_classes)) for m, y in relabelled))


def _redraw(
    split: PairedSet,
    noise: Noise,
    family: str,
    part: str,
    *,
    replacement: Replacement,
    widen: Callable[[int], int] = int,
) -> PairedSet:
    """Replace the labels of the first floor(r n_l) items of one permutation per modality.

    All n replacements are drawn whatever the rate, after the permutation: hence nestedness.
    """
    true, c = split_class_numbers(split, noise.scheme), split.n_classes
    given = [y.copy() for y in true]
    for y, wrong, (rows, labelled, rng) in zip(true, given, _draws(split, noise, family, part), strict=True):
        order = rng.permutation(len(rows))
        order = order[labelled[order]]
        hit = order[: _floor(noise.rate * len(order))]
        drawn = replacement(y[rows], c, rng, stream(*_key(noise, family), "class map"))
        wrong[rows[hit]] = drawn[hit]
    return _with_labels(split, given, widen(c))


def _swap(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    """Take class k from the first floor(r n_k) of its n_k items, in one permutation per modality and class, and give it to as
    many items without it, first in the same permutation: hence nestedness. No more items can lose it than could get it.
    """
    true = split_labels(split, noise.scheme)
    if all((labels.sum(axis=1) <= 1).all() for labels in true):
        raise ValueError(f"{noise.scheme} needs items with several classes, got one per item at most; use the scheme symmetric")
    given = [labels.copy() for labels in true]
    for labels, wrong, (rows, labelled, rng) in zip(true, given, _draws(split, noise, family, part), strict=True):
        for k in range(labels.shape[1]):
            order = rng.permutation(len(rows))
            order = rows[order[labelled[order]]]
            losing, getting = order[labels[order, k]], order[~labels[order, k]]
            n_swaps = min(_floor(noise.rate * len(losing)), len(getting))
            wrong[losing[:n_swaps], k] = False
            wrong[getting[:n_swaps], k] = True
    relabelled = zip(split.modalities, given, strict=True)
    return replace(split, modalities=tuple(replace(m, labels=labels) for m, labels in relabelled))


def _floor(count: float) -> int:
    return int(count + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _key(noise: Noise, family: str) -> tuple[object, ...]:
    return ("noise", family, noise.scheme, SCHEMES[noise.scheme].version, noise.seed)


def _draws(split: PairedSet, noise: Noise, family: str, part: str) -> Iterator[tuple[Array, Array, np.random.Generator]]:
    """Per modality: its rows in the order of the draws, which of them are labelled (n,), and the generator of its draws."""
    shared = noise.option("shared")
    rows = _rows_to_draw(split, shared=shared)
    labelled = [np.any(labels[r], axis=1) for labels, r in zip(split_labels(split, noise.scheme), rows, strict=True)]
    if shared:
        labelled = [np.stack(labelled).all(axis=0)] * len(rows)
    sha = split_sha(split)
    for modality, r, known in zip(split.modalities, rows, labelled, strict=True):
        yield r, known, stream(*_key(noise, family), sha, part, None if shared else modality.name)


def _rows_to_draw(split: PairedSet, *, shared: bool) -> list[Array]:
    """Rows per modality in the order of the draws: their own order, or that of the pairs where noise is shared."""
    sizes = [len(modality) for modality in split.modalities]
    if not shared:
        return [np.arange(n) for n in sizes]
    pairs = split.pairs
    if pairs is None or any(not np.array_equal(np.sort(r), np.arange(n)) for r, n in zip(pairs.T, sizes, strict=True)):
        got = "no pairs" if pairs is None else f"{len(pairs)} pairs over {sizes} items"
        raise ValueError(f"shared noise needs one-to-one pairs, every item in exactly one, got {got}; set shared=false")
    return list(pairs.T)


def _any_class(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    return rng.integers(0, c, size=len(true))


def _another_class(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    return (true + rng.integers(1, c, size=len(true))) % c


def _next_class(true: Array, c: int, _: np.random.Generator, __: np.random.Generator) -> Array:
    return (true + 1) % c


def _mapped_class(true: Array, c: int, _: np.random.Generator, map_rng: np.random.Generator) -> Array:
    return _half_map(map_rng.permutation(c))[true]


def _half_map(permuted: Array) -> NDArray[np.int64]:
    """(c,) class map: the i-th permuted class goes to the (h + i)-th for i < h = floor(c / 2); the others stay."""
    classes, half = np.arange(len(permuted)), len(permuted) // 2
    classes[permuted[:half]] = permuted[half : 2 * half]
    return classes


def _first_ten(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    return rng.integers(0, 10, size=len(true))


def _class_or_k(true: Array, c: int, rng: np.random.Generator, _: np.random.Generator) -> Array:
    return rng.integers(0, c + 1, size=len(true))


def _at_least_ten(c: int) -> int:
    return max(c, 10)


def _one_more(c: int) -> int:
    return c + 1


def _mrl_legacy(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    """The released loader's draw, number by number: Python's generator for items and labels, NumPy's for the class map.

    Per modality in turn: shuffle 0..n-1, the first int(r n) are hit; then walk through the items in order and draw an
    inclusive 0..9 (release "first") or 0..K ("head") for each hit one, or apply the one class map (mode "asym").
    """
    true, c = split_class_numbers(split, noise.scheme), split.n_classes
    seed = noise.option("legacy_seed")
    if part != "train":  # the released code leaves validation labels clean: any independent draw will do
        seed = stream_seed("noise", noise.scheme, part, seed) % 2**32
    rng, highest = random.Random(seed), 9 if noise.option("release") == "first" else c
    class_map = _half_map(np.random.RandomState(seed).permutation(c)).tolist()
    symmetric, given = noise.option("mode") == "sym", [y.copy() for y in true]
    for labels in given:
        order = list(range(len(labels)))
        rng.shuffle(order)
        for row in sorted(order[: int(noise.rate * len(order))]):
            label = rng.randint(0, highest) if symmetric else class_map[labels[row]]
            labels[row] = label if labels[row] >= 0 else -1
    return _with_labels(split, given, max(c, highest + 1) if symmetric else c)


def _from_file(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    if part != "train":
        raise ValueError(f"a noise file holds labels of the train split, none for {part!r}; use clean {part} labels")
    return _with_labels(split, list(import_labels(noise.option("path"), split)), split.n_classes)


_SHARED = {"shared": (bool, False, "the same pairs hit, and the same draw, in all modalities; needs one-to-one pairs")}


def _nested(name: str, description: str, replacement: Replacement, widen: Callable[[int], int] = int) -> Scheme:
    draw = partial(_redraw, replacement=replacement, widen=widen)
    return Scheme(name, f"floor(r n) labels per modality {description}", draw, options=_SHARED)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        _nested("symmetric", "redrawn uniformly over all c classes, true class included (the default)", _any_class),
        _nested("symmetric_exclusive", "redrawn uniformly over the other c - 1 classes", _another_class),
        _nested("asymmetric", "sent through a random class map, half of the classes to the other half", _mapped_class),
        _nested("pair_flip", "moved to the next class, c - 1 to 0", _next_class),
        _nested("mrl_kplus1", "redrawn over 0..K inclusive (released MRL, September 2021)", _class_or_k, _one_more),
        _nested("mrl_0_9", "redrawn over 0..9 whatever K (released MRL, April 2021)", _first_ten, _at_least_ten),
        Scheme(
            "symmetric_multilabel",
            "for several classes per item: per class and modality floor(r n_k) labels moved to items without the class",
            _swap,
            options=_SHARED,
        ),
        Scheme(
            "mrl_legacy",
            "the released MRL loader's own draw, bit for bit; not nested over rates",
            _mrl_legacy,
            options={
                "legacy_seed": (int, 123, "seed of both legacy generators; the noise seed is not used"),
                "mode": (str, "sym", "sym or asym"),
                "release": (str, "first", "first draws 0..9 (April 2021), head draws 0..K (September 2021)"),
            },
            choices={"mode": ("sym", "asym"), "release": ("first", "head")},
        ),
        Scheme(
            "file",
            "labels from an MRL noise file; the rate is nominal, and at rate 0 the file is not read",
            _from_file,
            options={"path": (str, None, "noise file, an MRL .json")},
        ),
    )
}
"""The noise schemes by name.

symmetric: Hu et al., CVPR 2021, section 4.2 says "symmetric" and no more; for c = 10 this is their first release.
    Wrong labels: r (c - 1) / c. Their code of September 2021 draws 0..K inclusive (`mrl_kplus1`), an off-by-one made
    after publication that adds a class no split has, so the default does not follow it.
asymmetric: the `asym` branch of the released loader, which its command line cannot reach. The second half of the
    classes stays: r / 2 wrong labels for balanced classes.
pair_flip: Han et al., Co-teaching, NeurIPS 2018, section 4.
symmetric_multilabel: ours. Every class keeps its number of labels, so that only who carries it is wrong. An item may lose all
    its labels and is then unlabelled for methods; on average an item keeps as many as it had. Wrong labels: r (floored per
    class), but for a class that so many items carry that there are not as many others to give it to. It is a swap and no
    redraw: with f the share of items that have a class, P(given | true) = 1 - r and P(given | not true) = r f / (1 - f), so
    that above r = 1 - f the label speaks against the class, and at r = 1 it is not independent of the truth.
"""
