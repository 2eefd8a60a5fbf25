"""The nouns of the benchmark: rows, modalities, paired sets, datasets, embeddings. NumPy only.

Symbols: n items, d features, c classes, L padded length, m modalities.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card

Array = NDArray[Any]

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # modality -> kind of features -> shape

FEATURES = frozenset({"vectors", "sequences", "tokens"})
NEEDS = FEATURES | {"features", "labels", "pairs", "clean"}  # "features": whatever of them a dataset has

_BLOCK = 1 << 24  # numbers read at a time when data are checked
_CHECKED = 1 << 28  # and in all: one GB in float32


class DataError(ValueError):
    """Data that cannot be used: what must hold, and what was found."""


class Rows:
    """Rows of an array or memory map, picked by an index: shuffling and subsetting compose indices and copy nothing.

    Args:
        data: (n, d) or (n, L, d) array or memory map, or an object that is indexed as one and has its shape and ndim.
        index: (k,) integers into the rows of `data`; all rows in order when None.

    >>> rows = Rows(np.arange(6.0).reshape(3, 2)).take(np.array([2, 0]))
    >>> rows[np.array([0])]
    array([[4., 5.]], dtype=float32)
    """

    def __init__(self, data: Array, index: Array | None = None) -> None:
        if data.ndim not in (2, 3):
            raise ValueError(f"rows must be (n, d) or (n, L, d), got shape {data.shape}")
        self._data = data
        self._index: Array = np.arange(len(data)) if index is None else np.asarray(index, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *self._data.shape[1:])

    @property
    def stored(self) -> bool:
        """Whether the rows lie in an array; False where an object computes them as they are read."""
        return isinstance(self._data, np.ndarray)

    def __getitem__(self, rows: Array | slice) -> NDArray[np.float32]:
        """A float32 copy of the rows asked for, (len(rows), d) or (len(rows), L, d)."""
        return np.asarray(self._data[self._index[rows]], dtype=np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if dtype is None or np.dtype(dtype) == np.float32:
            return self[slice(None)]
        values = np.empty(self.shape, dtype)
        for block in _blocks(np.arange(len(self)), self.shape):  # no float32 copy of all rows lies beside it
            values[block] = self[block]
        return values

    def take(self, rows: Array) -> "Rows":
        """The rows `rows` of these rows."""
        return Rows(self._data, self._index[rows])


@dataclass(frozen=True)
class Items:
    """Which items of a dataset the rows of a modality are.

    Attributes:
        split: the name of theirs, such as "test".
        n_items: of this modality in the whole split.
        rows: (n,) place of each in the split, in the dataset's order.
        ids: (n,) their names, where the dataset has some.
    """

    split: str
    n_items: int
    rows: Array
    ids: Array | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Array) -> "Items":
        return Items(self.split, self.n_items, self.rows[rows], None if self.ids is None else self.ids[rows])


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One modality of a split.

    Attributes:
        name: such as "image" or "text".
        vectors: (n, d) features, or None.
        sequences: (n, L, d) features, padded to L, or None.
        tokens: (n, L) word ids, padded to L, or None.
        lengths: (n,) true lengths of sequences or tokens, or None.
        vocabulary: the words behind `tokens`, fitted on train, with an id for unknown words, or None.
        labels: (n, c) bool, multi-hot always; an all-zero row is unlabelled. None where not declared.
        item_ids: (n,) names for reports; never given to methods.
        items: which items these are; given to `precomputed` alone, whose embeddings were made elsewhere.
    """

    name: str
    vectors: Rows | None = None
    sequences: Rows | None = None
    tokens: Array | None = None
    lengths: Array | None = None
    vocabulary: tuple[str, ...] | None = None
    labels: Array | None = None
    item_ids: Array | None = None
    items: Items | None = None

    def __post_init__(self) -> None:
        sizes = {key: len(value) for key, value in self._per_item().items()}
        if not sizes:
            raise ValueError(f"modality {self.name!r} must hold vectors, sequences, tokens or labels, got none of them")
        if len(set(sizes.values())) > 1:
            raise ValueError(f"modality {self.name!r}: all parts must have one row per item, got {sizes}")
        if self.labels is not None and (self.labels.ndim != 2 or self.labels.dtype != np.bool_):
            raise ValueError(
                f"labels of {self.name!r} must be (n, c) bool, got {self.labels.dtype} {self.labels.shape}; "
                "class numbers become so by xmbench.one_hot(labels, n_classes)"
            )

    def _per_item(self) -> dict[str, Any]:
        names = ("vectors", "sequences", "tokens", "lengths", "labels", "item_ids", "items")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __len__(self) -> int:
        return len(next(iter(self._per_item().values())))

    @property
    def n_classes(self) -> int:
        """Number of classes c; an error where labels are not declared."""
        if self.labels is None:
            raise ValueError(f"modality {self.name!r} has no labels: declare needs={{'labels'}} to be given them")
        return int(self.labels.shape[1])

    def take(self, rows: Array) -> "Modality":
        """The items `rows` of this modality."""
        parts: dict[str, Any] = {k: v.take(rows) if isinstance(v, Rows) else v[rows] for k, v in self._per_item().items()}
        return replace(self, **parts)

    def materialised(self) -> "Modality":
        """This modality with features of its own, which no longer know where their rows came from."""
        parts: dict[str, Any] = {k: Rows(np.asarray(v)) for k, v in self._per_item().items() if isinstance(v, Rows)}
        return replace(self, **parts)

    def only(self, needs: frozenset[str]) -> "Modality":
        """This modality with nothing but what `needs` names (lengths and vocabulary go with their sequences)."""
        if "features" in needs:
            needs |= FEATURES
        ordered = needs & {"sequences", "tokens"}
        return Modality(
            name=self.name,
            vectors=self.vectors if "vectors" in needs else None,
            sequences=self.sequences if "sequences" in needs else None,
            tokens=self.tokens if "tokens" in needs else None,
            lengths=self.lengths if ordered else None,
            vocabulary=self.vocabulary if "tokens" in needs else None,
            labels=self.labels if "labels" in needs else None,
            items=self.items if "items" in needs else None,
        )


@dataclass(frozen=True, kw_only=True)
class PairedSet:
    """A split: its modalities, and which items of them belong together.

    Attributes:
        modalities: m >= 2 of them, in the dataset's order.
        pairs: (n_pairs, m) row numbers, one item of every modality per pair; None where not declared.
        clean: {modality: (n,) bool}: whose label is not corrupted. Only oracles are given it.
        clean_pairs: (n_pairs,) bool: which pairs belong together in truth. Only oracles are given it.
    """

    modalities: tuple[Modality, ...]
    pairs: Array | None = None
    clean: dict[str, Array] | None = None
    clean_pairs: Array | None = None

    def __post_init__(self) -> None:
        names = [modality.name for modality in self.modalities]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a paired set needs two or more modalities with names of their own, got {names}")
        if self.pairs is not None and (self.pairs.ndim != 2 or self.pairs.shape[1] != len(names)):
            raise ValueError(f"pairs must be (n_pairs, {len(names)}), got {self.pairs.shape}")
        if self.clean_pairs is not None and (self.pairs is None or len(self.clean_pairs) != len(self.pairs)):
            wanted = "no pairs" if self.pairs is None else f"{len(self.pairs)} pairs"
            raise ValueError(f"clean_pairs must hold one entry per pair, got {len(self.clean_pairs)} for {wanted}")

    @property
    def n_classes(self) -> int:
        """Number of classes c, the same in every modality."""
        return self.modalities[0].n_classes

    def shapes(self) -> Shapes:
        """Modality -> "vectors", "sequences" or "tokens", as far as it has them -> shape."""
        return {
            m.name: {kind: getattr(m, kind).shape for kind in sorted(FEATURES) if getattr(m, kind) is not None}
            for m in self.modalities
        }

    def rows_together(self) -> Array:
        """(n, m) rows to read side by side: the pairs; where none were declared, row i with row i, shorter ones repeated.

        Without pairs the harness has permuted every modality on its own, so that rows side by side mean nothing.
        """
        if self.pairs is not None:
            return self.pairs
        longest = max(len(modality) for modality in self.modalities)
        return np.stack([np.resize(np.arange(len(modality)), longest) for modality in self.modalities], axis=1)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset with its splits. `family` names what shares its noise draws (all feature variants do).

    Attributes:
        parameters: every parameter of the loader with its value.
        tests: name -> split; "test" first, others such as "test:twemoji".
        class_names: (c,) names for reports.
        folds: test name -> number of consecutive folds, equal in items of the first modality, that the test is measured in,
            each with a gallery of its own; a test that is not named is measured whole.
    """

    name: str
    family: str
    parameters: Mapping[str, Any]
    train: PairedSet
    valid: PairedSet
    tests: Mapping[str, PairedSet]
    card: Card
    class_names: tuple[str, ...] = ()
    folds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for test, n_folds in self.folds.items():
            if test not in self.tests:
                raise ValueError(f"{self.name}: folds must be of tests, got {test!r}; there are {', '.join(self.tests)}")
            n = len(self.tests[test].modalities[0])
            if n_folds < 1 or n % n_folds:
                raise DataError(f"{self.name}/{test}: its items must divide into {n_folds} equal folds, got {n}")

    def splits(self) -> dict[str, PairedSet]:
        """Every split by name."""
        return {"train": self.train, "valid": self.valid, **self.tests}


@dataclass(frozen=True)
class Embedding:
    """What a method makes of a modality's items.

    Attributes:
        modality: its name.
        values: (n, d) vectors or (n, L, d) sequences, float.
        lengths: (n,) true lengths of sequences, or None.
        network: number of the network that made it, for methods whose `similarity` has parameters of each.
    """

    modality: str
    values: Array
    lengths: Array | None = None
    network: int = 0

    def take(self, rows: Array | slice) -> "Embedding":
        """The items `rows` of this embedding."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return Embedding(self.modality, self.values[rows], lengths, self.network)


def one_hot(labels: Array, n_classes: int) -> NDArray[np.bool_]:
    """Multi-hot form (n, n_classes) of class numbers (n,); -1 is unlabelled.

    >>> one_hot(np.array([1, -1]), 2)
    array([[False,  True],
           [False, False]])
    """
    labels = np.asarray(labels)
    if labels.size and (labels.min() < -1 or labels.max() >= n_classes):
        raise ValueError(f"labels must lie in 0..{n_classes - 1} (-1: unlabelled), got {labels.min()}..{labels.max()}")
    return np.asarray(labels[:, None] == np.arange(n_classes))


def class_numbers(labels: Array) -> NDArray[np.int64]:
    """Class number (n,) of multi-hot labels (n, c) with at most one class per item; -1 where there is none."""
    counts = labels.sum(axis=1)
    if (counts > 1).any():
        raise ValueError(f"single-label data needed, got {int((counts > 1).sum())} items with several classes")
    return np.where(counts == 1, labels.argmax(axis=1), -1).astype(np.int64)


def stream(*parts: object) -> np.random.Generator:
    """A generator made from named parts, such as `stream("noise", "wikipedia", "image", 0)`: equal parts, equal draws."""
    return np.random.default_rng(stream_seed(*parts))


def stream_seed(*parts: object) -> int:
    """The 63-bit seed behind `stream(*parts)`, for generators of other libraries."""
    parts = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)  # np.int64(0) is 0
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def fingerprint(parts: Sequence[Array | Rows | str | None]) -> str:
    """The first 16 hex digits of the sha256 over arrays (type, shape and bytes), rows as float32 arrays, and strings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Rows):
            digest.update(f"<f4{part.shape}".encode())
            for block in _blocks(np.arange(len(part)), part.shape):
                digest.update(part[block].astype("<f4", copy=False).data)
            continue
        if isinstance(part, np.ndarray):
            if part.dtype.hasobject:
                raise ValueError(
                    f"arrays of objects have no stable hash, got one of shape {part.shape}; use numbers or 'U' text"
                )
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


def split_sha(split: PairedSet) -> str:
    """Hash of who is in a split, with which labels and partners; features are left out: all variants share it."""
    parts: list[Array | str | None] = [split.pairs]
    for modality in split.modalities:
        parts += [modality.name, modality.item_ids, modality.labels]
    return fingerprint(parts)


def check_split(name: str, split: PairedSet) -> None:
    """Raise DataError where a split cannot be used: empty, not finite, one class, words, labels or pairs out of range."""
    classes = {m.name: m.labels.shape[1] for m in split.modalities if m.labels is not None}
    if len(set(classes.values())) > 1:
        raise DataError(f"{name}: every modality must have the same classes, got {classes}")
    for modality in split.modalities:
        _check_modality(f"{name}/{modality.name}", modality)
    if split.pairs is not None:
        sizes = np.array([len(m) for m in split.modalities])
        if not len(split.pairs):
            raise DataError(f"{name}: a split must hold at least one pair, got none")
        if split.pairs.min() < 0 or (split.pairs >= sizes).any():
            raise DataError(
                f"{name}: pairs must be row numbers below {sizes.tolist()}, got up to {split.pairs.max(0).tolist()}"
            )


def _check_modality(where: str, modality: Modality) -> None:
    if not len(modality):
        raise DataError(f"{where}: a split must hold at least one item, got none")
    for kind, rows, rank in (("vectors", modality.vectors, 2), ("sequences", modality.sequences, 3)):
        if rows is not None:
            if len(rows.shape) != rank:
                wanted = "(n, d)" if rank == 2 else "(n, L, d)"
                raise DataError(f"{where}: {kind} must be {wanted}, got {rows.shape}")
            _check_finite(f"{where}: {kind}", rows)
    if modality.tokens is not None:
        _check_tokens(where, modality.tokens, modality.vocabulary)
    padded = {"tokens": modality.tokens, "sequences": modality.sequences}
    for kind, values in padded.items():
        if values is not None and modality.lengths is not None:
            _check_lengths(f"{where}: lengths of {kind}", modality.lengths, values.shape[1])
    if modality.labels is not None and len(modality) > 1 and modality.labels.any(axis=0).sum() < 2:
        raise DataError(f"{where}: retrieval by class needs two classes or more, got {int(modality.labels.any(axis=0).sum())}")


def _blocks(rows: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Row numbers (k,) in parts that hold at most `_BLOCK` numbers; of rows of an array of this shape."""
    step = max(1, _BLOCK // max(math.prod(shape[1:]), 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _check_finite(where: str, rows: Rows) -> None:
    """Every row is looked at; of data beyond `_CHECKED` numbers, evenly spaced rows that hold as many."""
    size = max(math.prod(rows.shape[1:]), 1)
    looked_at = np.arange(0, len(rows), max(1, len(rows) * size // _CHECKED))
    for block in _blocks(looked_at, rows.shape):
        finite = np.isfinite(rows[block]).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            bad = block[int((~finite).argmax())]
            raise DataError(f"{where} must be finite, got NaN or infinity in row {bad}; drop or repair it")


def _check_tokens(where: str, tokens: Array, vocabulary: tuple[str, ...] | None) -> None:
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.shape[1]:
        raise DataError(f"{where}: tokens must be (n, L) integers, got {tokens.dtype} {tokens.shape}")
    top = np.iinfo(np.int64).max if vocabulary is None else len(vocabulary) - 1
    if tokens.min() < 0 or tokens.max() > top:
        raise DataError(f"{where}: tokens must be word ids in 0..{top}, got {tokens.min()}..{tokens.max()}")


def _check_lengths(where: str, lengths: Array, longest: int) -> None:
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise DataError(f"{where} must be (n,) integers, got {lengths.dtype} {lengths.shape}")
    if lengths.min() < 1 or lengths.max() > longest:
        raise DataError(f"{where} must lie in 1..{longest}, got {lengths.min()}..{lengths.max()}")
