"""Noise as an artefact: named schemes that corrupt a split, alone or joined. NumPy only.

What is drawn is in label_noise and pair_noise, noise files are in noise_files; shown has what follows, shuffle and strip.

Symbols: n items of a modality, n_l labelled ones, c (or K) classes, N pairs, r noise rate, m modalities. All draws come from
named streams that know neither method nor rate nor features: every method meets the same corruption, nested over rates.
"""

import difflib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench import label_noise as label
from xmbench.noise_files import export_labels, import_index, import_labels, is_index, split_class_numbers, split_labels
from xmbench.pair_noise import Count, Draws, shuffle_captions, shuffle_images, with_images
from xmbench.shown import shuffle, strip
from xmbench.types import Array, PairedSet, fingerprint, one_hot, split_sha, stream, stream_seed

__all__ = ["SCHEMES", "Corruption", "Noise", "Scheme", "corrupt", "export_labels", "import_labels", "shuffle", "strip"]

Draw = Callable[[PairedSet, "Noise", str, str], PairedSet]
Replacement = Callable[[Array, int, np.random.Generator, np.random.Generator], Array]
Shuffled = Callable[[PairedSet, float, Draws, Count], PairedSet]
Kind = Literal["label", "correspondence", "label or correspondence"]


@dataclass(frozen=True)
class Noise:
    """What corrupts a split: a scheme, its nominal rate, the seed of its draws and the scheme's options.

    Attributes:
        scheme: a name in `SCHEMES`; or one of labels and one of pairs joined by "+", the second with a rate of its own, such
            as "symmetric+caption_shuffle@0.2".
        rate: nominal noise rate of the first scheme; what it counts is the scheme's to say.
        seed: of the draws, independent of the method's seed.
        options: the schemes' options by name; stored complete (defaults filled in) as sorted (name, value) pairs, so
            that equal noise is equal, hashable and has one JSON form. `dict(noise.options)` is the mapping.

    Raises:
        LookupError: no such scheme.
        ValueError: rate outside the scheme's range, unknown, missing or wrongly typed option, seed not an integer, or schemes
            that cannot be joined.

    >>> print(Noise("symmetric", 0.4, seed=0), Noise("symmetric+caption_shuffle@0.2", 0.4, seed=0))
    symmetric@0.4 symmetric@0.4+caption_shuffle@0.2
    """

    scheme: str
    rate: float
    seed: int
    options: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        (first, _), *joined = _joined(self.scheme)
        object.__setattr__(self, "scheme", "+".join([first.name, *(f"{other.name}@{rate:.12g}" for other, rate in joined)]))
        object.__setattr__(self, "rate", _checked_rate(first, self.rate))
        object.__setattr__(self, "seed", _checked_seed(self.seed))
        object.__setattr__(self, "options", _checked_options(self.scheme, dict(self.options)))

    def __str__(self) -> str:
        return "+".join(f"{part.scheme}@{part.rate:.12g}" for part in self.parts)

    @property
    def parts(self) -> tuple["Noise", ...]:
        """The noise of every scheme that is joined, with its own rate and options; of one scheme, the noise itself."""
        (first, _), *others = _joined(self.scheme)
        if not others:
            return (self,)
        rates = [(first, self.rate), *others]
        return tuple(Noise(s.name, rate, self.seed, {name: self.option(name) for name in s.options}) for s, rate in rates)

    def option(self, name: str) -> Any:
        """The value of one option, the default where it was not given."""
        return dict(self.options)[name]


@dataclass(frozen=True)
class Scheme:
    """A way to corrupt a split.

    Attributes:
        name: as in `symmetric@0.4`.
        description: one line for listings.
        draw: (split, noise, family, part) -> the split with noisy labels or pairs; rate > 0 is given.
        kind: what is corrupted, "label" or "correspondence" (which items belong together); the file says it for `file`.
        version: raised whenever the draws change; part of the stream.
        max_rate, inclusive: rates lie in [0, max_rate], or [0, max_rate) where not inclusive.
        options: name -> (type, default, description); a default of None means that it must be given. An option has the same
            default in all schemes that have it.
        choices: name of a string option -> the values it may have.
    """

    name: str
    description: str
    draw: Draw
    kind: Kind = "label"
    version: int = 1
    max_rate: float = 1.0
    inclusive: bool = True
    options: Mapping[str, tuple[type, Any, str]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Corruption:
    """A corrupted split and what is known of its corruption.

    Attributes:
        train: the split with noisy labels or pairs; its `clean` and `clean_pairs` say which of them are right (`strip` takes
            them away from all but oracles). A pair is right where its image is the true one, also where a shuffle gave it back.
        clean: {modality: (n,) bool}, True where the given labels equal the true ones, all classes of the item: a redraw that
            hits the true class is clean, and so is an item that had no label.
        realised_rate: of the first scheme: of labels, true labels that are not among the given ones / true labels, over all
            modalities together; of pairs, wrong pairs / pairs. With one class per item the former are the items with a wrong
            label; with several, an item may have lost some of its labels.
        realised_by_modality: the same per modality, for labels.
        wrong_pairs: pairs whose image is not the true one / pairs; 0 where there are no pairs.
        label_sha: hash of the given labels of all modalities: equal labels, equal sha, whatever scheme and rate.
        pair_sha: hash of the given pairs, "" where they are the true ones.
    """

    train: PairedSet
    clean: Mapping[str, NDArray[np.bool_]]
    realised_rate: float
    realised_by_modality: Mapping[str, float]
    wrong_pairs: float
    label_sha: str
    pair_sha: str

    @property
    def noise_sha(self) -> str:
        """Hash of given labels and pairs; that of the labels where the pairs are the true ones."""
        return fingerprint([self.label_sha, self.pair_sha]) if self.pair_sha else self.label_sha


def corrupt(split: PairedSet, noise: Noise, *, family: str, part: str = "train") -> Corruption:
    """The split under `noise`; rate 0 is the identity.

    The draws depend on family, split sha (items, labels, partners; not features), scheme, its version, seed, part and
    modality alone: schemes that are joined draw what each draws alone. Items (of shuffles: pairs or images) hit at a rate are
    a prefix of those hit at a higher one, and the wrong label of an item is the same at every rate, where a wrong partner
    may change (the released draws and `file` are exempt). Unlabelled items stay unlabelled and count nowhere.

    Args:
        split: clean. Above rate 0, label noise needs labels (n, c) in every modality, one class per item or none (several
            for `symmetric_multilabel`), and correspondence noise needs pairs.
        noise: what to do.
        family: of the dataset; all its feature variants share the draws.
        part: "train", or "valid" for an independent draw of noisy validation labels or pairs.

    Raises:
        ValueError: no labels or no pairs, several classes per item (one, for `symmetric_multilabel`), `shared` without
            one-to-one pairs, or a noise file that does not fit.

    Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021: each modality on its own (section 3.1), as
    in the released loader (penghu-cs/MRL, src/noisydataset.py). It corrupts train only, and so do those of correspondence
    noise: noisy validation is ours.
    """
    if part not in ("train", "valid"):
        raise ValueError(f"part must be 'train' or 'valid', got {part!r}")
    drawn = [split if p.rate == 0 else _scheme(p.scheme).draw(split, p, family, part) for p in noise.parts]
    given = drawn[0]
    for other in drawn[1:]:
        given = _both(split, given, other)
    clean: dict[str, Array] = {}
    wrong, labels = {}, {}
    for before, after in zip(split.modalities, given.modalities, strict=True):
        if before.labels is not None and after.labels is not None:
            same_classes = after.labels[:, : before.n_classes] == before.labels  # a scheme may add columns
            clean[before.name] = same_classes.all(axis=1)
            wrong[before.name] = int((before.labels & ~same_classes).sum())
            labels[before.name] = int(before.labels.sum())
    right = None if split.pairs is None or given.pairs is None else np.asarray(given.pairs[:, 0] == split.pairs[:, 0])
    wrong_pairs = 0.0 if right is None else float((~right).mean())
    known = right if split.clean_pairs is None or right is None else right & split.clean_pairs
    of_labels = sum(wrong.values()) / max(sum(labels.values()), 1)
    return Corruption(
        train=replace(given, clean=clean or split.clean, clean_pairs=known),
        clean=clean,
        realised_rate=0.0 if noise.rate == 0 else wrong_pairs if drawn[0].pairs is not split.pairs else of_labels,
        realised_by_modality={name: wrong[name] / max(labels[name], 1) for name in clean},
        wrong_pairs=wrong_pairs,
        label_sha=fingerprint([value for m in given.modalities for value in (m.name, m.labels)]),
        pair_sha=fingerprint([given.pairs]) if wrong_pairs else "",
    )


def _both(split: PairedSet, first: PairedSet, second: PairedSet) -> PairedSet:
    """The labels of the one corrupted split and the pairs of the other."""
    if second is split or first is split:
        return first if second is split else second
    paired, labelled = (first, second) if first.pairs is not split.pairs else (second, first)
    if paired.pairs is split.pairs or labelled.pairs is not split.pairs:
        kind = "labels" if paired.pairs is split.pairs else "pairs"
        raise ValueError(f"one scheme may corrupt labels and one pairs, got two that corrupt {kind}: the noise file holds them")
    return replace(labelled, pairs=paired.pairs)


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        plain, at, _ = name.partition("@")
        if at and plain in SCHEMES:
            raise ValueError(f"the rate of a noise scheme is given by --rates, or rates; write {plain!r}, got {name!r}")
        close = difflib.get_close_matches(str(name), SCHEMES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(SCHEMES)}"
        raise LookupError(f"no noise scheme named {name!r}; {hint}")
    return SCHEMES[name]


def _joined(text: str) -> tuple[tuple[Scheme, float], ...]:
    """The schemes that `text` joins by "+", each with the rate behind its "@" (0 for the first, which has the noise's)."""
    first, *others = str(text).split("+")
    schemes = [(_scheme(first), 0.0)]
    for other in others:
        name, _, rate = other.partition("@")
        try:
            number = float(rate)
        except ValueError:
            message = "must have a rate of its own, as in symmetric+caption_shuffle@0.2"
            raise ValueError(f"a noise scheme that is joined to another {message}, got {other!r}") from None
        schemes.append((_scheme(name), _checked_rate(_scheme(name), number)))
    kinds = [scheme.kind for scheme, _ in schemes]
    if len(kinds) > 2 or len(set(kinds)) < len(kinds):
        message = "one scheme that corrupts labels and one that corrupts pairs can be joined"
        raise ValueError(f"{message}, got {', '.join(f'{scheme.name} ({scheme.kind})' for scheme, _ in schemes)}")
    return tuple(schemes)


def scheme_options(scheme: str) -> dict[str, tuple[type, Any, str]]:
    """The options of a scheme, or of all that are joined: name -> (type, default, description)."""
    return {name: option for part, _ in _joined(scheme) for name, option in part.options.items()}


def corrupted_by(scheme: str) -> set[Kind]:
    """What a scheme, or those that are joined, corrupts."""
    return {part.kind for part, _ in _joined(scheme)}


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


def _checked_options(scheme: str, given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    declared = scheme_options(scheme)
    choices = {name: values for part, _ in _joined(scheme) for name, values in part.choices.items()}
    for name in given:
        if name not in declared:
            raise ValueError(f"noise scheme {scheme!r} has no option {name!r}; its options: {', '.join(declared) or 'none'}")
    options = {name: given.get(name, default) for name, (_, default, _) in declared.items()}
    for name, value in options.items():
        kind, _, description = declared[name]
        if value is None:
            message = f"must be {kind.__name__} ({description}), got none"
            raise ValueError(f"option {name!r} of {scheme!r} {message}; give --set noise.{name}=FILE")
        if type(value) is not kind:
            raise ValueError(f"option {name!r} of {scheme!r} must be {kind.__name__} ({description}), got {value!r}")
        if name in choices and value not in choices[name]:
            raise ValueError(f"option {name!r} of {scheme!r} must be one of {choices[name]}, got {value!r}")
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
        hit = order[: label.floor(noise.rate * len(order))]
        drawn = replacement(y[rows], c, rng, stream(*_key(noise, family), "class map"))
        wrong[rows[hit]] = drawn[hit]
    return _with_labels(split, given, widen(c))


def _swap(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    """Move labels of each class from items that have it to items that have not, see `label_noise.swapped`."""
    true = split_labels(split, noise.scheme)
    if all((labels.sum(axis=1) <= 1).all() for labels in true):
        raise ValueError(f"{noise.scheme} needs items with several classes, got one per item at most; use the scheme symmetric")
    draws = zip(split.modalities, true, _draws(split, noise, family, part), strict=True)
    given = [
        replace(m, labels=label.swapped(labels, np.where(labelled, rows, -1), noise.rate, rng))
        for m, labels, (rows, labelled, rng) in draws
    ]
    return replace(split, modalities=tuple(given))


def _move(split: PairedSet, noise: Noise, family: str, part: str, *, shuffled: Shuffled, legacy: bool) -> PairedSet:
    """Give pairs other images, by a draw of our own or as the released loaders do, which round by int()."""
    if legacy:
        return shuffled(split, noise.rate, np.random.RandomState(_legacy_seed(noise, part)), int)
    return shuffled(split, noise.rate, stream(*_key(noise, family), split_sha(split), part), label.floor)


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


def _legacy_seed(noise: Noise, part: str) -> int:
    seed: int = noise.option("legacy_seed")
    if part != "train":  # the released code leaves validation data clean: any independent draw will do
        return stream_seed("noise", noise.scheme, part, seed) % 2**32
    return seed


def _mrl_legacy(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    true, c = split_class_numbers(split, noise.scheme), split.n_classes
    mode, highest = noise.option("mode"), 9 if noise.option("release") == "first" else c
    given = label.mrl_numbers(true, c, noise.rate, seed=_legacy_seed(noise, part), mode=mode, highest=highest)
    return _with_labels(split, given, max(c, highest + 1) if mode == "sym" else c)


def _from_file(split: PairedSet, noise: Noise, family: str, part: str) -> PairedSet:
    if part != "train":
        raise ValueError(f"a noise file is of the train split, none for {part!r}; use clean {part} data")
    path = noise.option("path")
    if is_index(path):
        return with_images(split, import_index(path, split).images)
    return _with_labels(split, list(import_labels(path, split)), split.n_classes)


_SHARED = {"shared": (bool, False, "the same pairs hit, and the same draw, in all modalities; needs one-to-one pairs")}
_LEGACY_SEED = {"legacy_seed": (int, 123, "seed of the legacy generators; the noise seed is not used")}


def _nested(name: str, description: str, replacement: Replacement, widen: Callable[[int], int] = int) -> Scheme:
    draw = partial(_redraw, replacement=replacement, widen=widen)
    return Scheme(name, f"floor(r n) labels per modality {description}", draw, options=_SHARED)


def _of_pairs(name: str, description: str, shuffled: Shuffled, *, legacy: bool = False) -> Scheme:
    draw = partial(_move, shuffled=shuffled, legacy=legacy)
    return Scheme(name, description, draw, "correspondence", inclusive=False, options=_LEGACY_SEED if legacy else {})


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        _nested("symmetric", "redrawn uniformly over all c classes, true class included (the default)", label.any_class),
        _nested("symmetric_exclusive", "redrawn uniformly over the other c - 1 classes", label.another_class),
        _nested("asymmetric", "sent through a random class map, half of the classes to the other half", label.mapped_class),
        _nested("pair_flip", "moved to the next class, c - 1 to 0", label.next_class),
        _nested("mrl_kplus1", "redrawn over 0..K inclusive (released MRL, September 2021)", label.class_or_k, label.one_more),
        _nested("mrl_0_9", "redrawn over 0..9 whatever K (released MRL, April 2021)", label.first_ten, label.at_least_ten),
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
                **_LEGACY_SEED,
                "mode": (str, "sym", "sym or asym"),
                "release": (str, "first", "first draws 0..9 (April 2021), head draws 0..K (September 2021)"),
            },
            choices={"mode": ("sym", "asym"), "release": ("first", "head")},
        ),
        _of_pairs("caption_shuffle", "floor(r N) captions shuffled one by one among their images (NCR)", shuffle_captions),
        _of_pairs("image_shuffle", "floor(r n) images shuffled, with all their captions (DECL, RCL, L2RM)", shuffle_images),
        _of_pairs("ncr_legacy", "the released NCR loader's draw, bit for bit; not nested", shuffle_captions, legacy=True),
        _of_pairs("decl_legacy", "the released DECL loader's draw, bit for bit; not nested", shuffle_images, legacy=True),
        Scheme(
            "file",
            "labels or pairs from a noise file of another project; the rate is nominal, and at rate 0 the file is not read",
            _from_file,
            "label or correspondence",
            options={"path": (str, None, "noise file, an MRL .json, or a .npy index of NCR, DECL, RCL or L2RM")},
        ),
    )
}
"""The noise schemes by name; label_noise and pair_noise say where they are from and what they leave wrong."""
