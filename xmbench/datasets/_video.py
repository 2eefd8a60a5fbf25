"""Reading video clips and their captions: two vectors per clip, words by their vectors.

    <features>.npz      `2d` (n, d) and `3d` (n, d'), with `2d.ids` and `3d.ids` (n,): what `xmbench data convert` makes of the
                        torch files of the release
    word_vectors.npz    `words` (V,) text and `vectors` (V, d): what it makes of a word2vec file

A clip is its 2D and its 3D vector, each of unit length, side by side. The words of a caption are its runs of letters, digits,
underscores and apostrophes, upper and lower case kept apart; those without a vector are dropped, the first 20 of the others
kept. A caption of none is a single vector of zeros. A warning counts those, and tells which words are dropped most often where
more than a tenth of all are: the vectors of Google News have none of "a", "and", "of" and "to".

Miech et al., HowTo100M, ICCV 2019; checked against antoine77340/howto100m, msrvtt_dataloader.py and its siblings
(`_tokenize_text`, `_words_to_we`, `__getitem__`). There what a file lacks is a KeyError during training.
"""

import csv
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets._files import find_file, open_npz
from xmbench.types import Array, DataError, Dataset, Modality, PairedSet, Rows, stream

WORD_VECTORS = "word_vectors.npz"
GOOGLE_NEWS = "GoogleNews-vectors-negative300.bin"
KINDS = ("2d", "3d")  # of features, in the order in which they stand side by side
MAX_WORDS = 20  # of a caption
NUMBERS = "fiu"  # NumPy's letters
MANY_UNKNOWN, SHOWN_UNKNOWN = 0.1, 5  # share of words without a vector that is worth a warning, and how many it names
CHECKS = (
    "every clip is named once, in one split, and has a caption and both kinds of features, which have one width; word "
    "vectors are as many as words"
)
EVALUATION = "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/metadata_eval.zip"  # of HowTo100M's release
HOW_TO_CONVERT = "files of the release become these by `xmbench data convert`"

_WORD = re.compile(r"[\w']+")


def word_vectors(dataset: str, *captions: str) -> Parcel:
    """The vectors of the words in these caption files, by their paths from the data root."""
    words = " ".join(f"--words {path}" for path in captions)
    return Parcel(
        files={WORD_VECTORS: ""},
        urls=(EVALUATION,),
        members={GOOGLE_NEWS: ""},
        then=(f"xmbench data convert {DOWNLOADS}/{GOOGLE_NEWS} {dataset}/{WORD_VECTORS} {words}",),
        note="the vectors of Google News are also at https://code.google.com/archive/p/word2vec",
    )


class WordRows:
    """Word vectors (n, L, d) of captions, looked up when they are asked for: an array as far as `Rows` goes.

    Args:
        table: (V, d) vectors of words.
        numbers: (n, L) rows of the table.
    """

    ndim = 3

    def __init__(self, table: Array, numbers: Array) -> None:
        self._table, self._numbers = table, numbers
        self.shape, self.dtype = (*numbers.shape, table.shape[1]), table.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: Any) -> Array:
        return np.asarray(self._table[self._numbers[rows]])

    def rows(self) -> Rows:
        """The same as rows of a modality."""
        return Rows(cast(Array, self))


@dataclass(frozen=True)
class Part:
    """One split: clips, and captions each of which belongs to one of them.

    Attributes:
        where: what an error names.
        ids: n names of the clips.
        vectors: (n, d), an array or what `Rows` takes for one.
        captions: texts.
        clip_of: number of the clip of every caption.
    """

    where: str
    ids: Sequence[str]
    vectors: Array
    captions: Sequence[str]
    clip_of: NDArray[np.int64]

    def take(self, clips: NDArray[np.int64]) -> "Part":
        """The clips with these numbers, with all their captions."""
        new = np.full(len(self.ids), -1)
        new[clips] = np.arange(len(clips))
        kept = np.flatnonzero(new[self.clip_of] >= 0)
        vectors = self.vectors[clips]
        captions = [self.captions[i] for i in kept.tolist()]
        return Part(self.where, [self.ids[i] for i in clips.tolist()], vectors, captions, new[self.clip_of[kept]])


def captioned(where: str, clips: Iterable[str], captions: Mapping[str, Sequence[str]], features: Path) -> Part:
    """The part of distinct clips with their captions and the features of a file.

    Raises:
        DataError: a clip twice, without a caption, or without one of its feature kinds.
    """
    ids = list(clips)
    if len(set(ids)) < len(ids):
        raise DataError(f"{where}: every clip must be named once, got {len(ids)} names of {len(set(ids))} clips")
    if without := [name for name in ids if not captions.get(name)]:
        raise DataError(f"{where}: every clip must have a caption, got none of {without[0]!r} and {len(without)} clips in all")
    if not ids:
        raise DataError(f"{where}: must name at least one clip, got none")
    clip_of = np.repeat(np.arange(len(ids)), [len(captions[name]) for name in ids])
    return Part(where, ids, read_features(features, ids), [text for name in ids for text in captions[name]], clip_of)


def read_features(path: Path, ids: Sequence[str]) -> NDArray[np.float32]:
    """(n, d) vectors of the clips: unit 2D and 3D vectors side by side."""
    parts = []
    for kind in KINDS:
        names, values = npz_arrays(path, f"{kind}.ids", kind)
        if values.ndim != 2 or names.shape != values.shape[:1] or values.dtype.kind not in NUMBERS:
            got = f"{values.dtype} {values.shape}"
            raise DataError(f"{path}: {kind} must be one vector of numbers for each of {names.size} ids, got {got}")
        row_of = {name: i for i, name in enumerate(names.tolist())}
        if len(row_of) < len(names):
            raise DataError(f"{path}: {kind}.ids must name every clip once, got {len(names)} names of {len(row_of)} clips")
        if missing := [name for name in ids if name not in row_of]:
            got = f"no {kind} features of {missing[0]!r} and {len(missing)} of {len(ids)} clips in all"
            raise DataError(f"{path}: every clip must have features of both kinds, {' and '.join(KINDS)}, got {got}")
        parts.append(unit(values[[row_of[name] for name in ids]]))
    return np.concatenate(parts, axis=1)


def unit(values: Array) -> NDArray[np.float32]:
    """Vectors (n, d) scaled to unit length; zeros stay."""
    values = np.asarray(values, dtype=np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.float32(1e-12)))


def npz_arrays(path: Path, *names: str) -> list[Array]:
    """Arrays of a file by their names.

    Raises:
        DataError: no such array, or no .npz file.
    """
    with open_npz(path, HOW_TO_CONVERT) as content:
        if any(name not in content for name in names):
            raise DataError(f"{path}: must hold {', '.join(names)}, got {', '.join(content)}; {HOW_TO_CONVERT}")
        return [content[name] for name in names]


def words_of(caption: str) -> list[str]:
    """The words of a caption.

    >>> words_of("A man's dog -- it runs!")
    ['A', "man's", 'dog', 'it', 'runs']
    """
    return _WORD.findall(caption)


def assembled(card: Card, parts: Mapping[str, Part], parameters: Mapping[str, Any]) -> Dataset:
    """The dataset of the parts "train", "valid" and "test", its words looked up in the vectors of the dataset's folder.

    Raises:
        DataError: a clip twice or in two splits, vectors of different widths, or no whole file of word vectors.
    """
    _check_names(card, parts)
    widths = {split: part.vectors.shape[1] for split, part in parts.items()}
    if len(set(widths.values())) > 1:
        raise DataError(f"{card.name}: the clips of every split must have vectors of one width, got {widths}")
    numbers, table = _word_table(find_file(card, WORD_VECTORS), [text for part in parts.values() for text in part.captions])
    splits = {split: _paired(part, numbers, table) for split, part in parts.items()}
    train, valid = splits.pop("train"), splits.pop("valid")
    return Dataset(
        name=card.name, family=card.name, parameters=parameters, train=train, valid=valid, tests=splits, card=card
    )  # fmt: skip


def _check_names(card: Card, parts: Mapping[str, Part]) -> None:
    """No clip may stand in a split twice, nor in two splits."""
    named = {split: set(part.ids) for split, part in parts.items()}
    for split, part in parts.items():
        if len(named[split]) < len(part.ids):
            twice = Counter(part.ids).most_common(1)[0][0]
            raise DataError(f"{part.where}: every clip must be named once, got {twice!r} more often in {split}")
    for split, other in itertools.combinations(parts, 2):
        if both := sorted(named[split] & named[other]):
            got = f"{both[0]!r} and {len(both)} clips in all in {split} and {other}"
            raise DataError(f"{card.name}: no clip may be in two splits, got {got}; take them out of one of the files")


def _word_table(path: Path, captions: Sequence[str]) -> tuple[dict[str, int], NDArray[np.float32]]:
    """Word -> its row in a table (V + 1, d) of vectors, for the words of the captions alone; row 0 is zeros."""
    words, vectors = npz_arrays(path, "words", "vectors")
    if vectors.ndim != 2 or words.shape != vectors.shape[:1] or vectors.dtype.kind != "f":
        raise DataError(f"{path}: vectors must be one for each of {words.size} words, got {vectors.dtype} {vectors.shape}")
    used = {word for caption in captions for word in words_of(caption)}
    rows = [i for i, word in enumerate(words.tolist()) if word in used]
    table = np.zeros((len(rows) + 1, vectors.shape[1]), dtype=np.float32)
    table[1:] = vectors[rows]
    return {word: i for i, word in enumerate(words[rows].tolist(), 1)}, table


def _paired(part: Part, numbers: Mapping[str, int], table: Array) -> PairedSet:
    ids = np.zeros((len(part.captions), MAX_WORDS), dtype=np.int32)
    lengths = np.ones(len(part.captions), dtype=np.int64)
    n_words, unknown = 0, Counter[str]()
    for i, caption in enumerate(part.captions):
        words = words_of(caption)
        known = [numbers[word] for word in words if word in numbers][:MAX_WORDS]
        ids[i, : len(known)] = known
        lengths[i] = max(len(known), 1)
        n_words += len(words)
        unknown.update(word for word in words if word not in numbers)
    if empty := int((ids[:, 0] == 0).sum()):
        warnings.warn(f"{part.where}: {empty} of the captions have no word with a vector, and are zeros", stacklevel=2)
    if unknown.total() > MANY_UNKNOWN * n_words:
        often = ", ".join(word for word, _ in unknown.most_common(SHOWN_UNKNOWN))
        share = f"{unknown.total() / n_words:.0%} of the words of captions have no vector and are dropped, most often {often}"
        warnings.warn(
            f"{part.where}: {share}; if these are not what your vectors lack, convert those of all words", stacklevel=2
        )
    place = np.arange(len(part.clip_of)) - np.searchsorted(part.clip_of, part.clip_of)
    video = Modality(name="video", vectors=Rows(part.vectors), item_ids=np.array(part.ids, dtype=np.str_))
    names = [f"{part.ids[clip]}#{j}" for clip, j in zip(part.clip_of.tolist(), place.tolist(), strict=True)]
    text = Modality(name="text", sequences=WordRows(table, ids).rows(), lengths=lengths, item_ids=np.array(names))
    return PairedSet(modalities=(video, text), pairs=np.stack([part.clip_of, np.arange(len(ids))], axis=1))


def held_out(card: Card, n: int, n_valid: int, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers, out of n, that are kept for training, and `n_valid` for validation; the same ones in every run."""
    if n - n_valid < 2:
        raise DataError(f"{card.name}: train must keep two {what} or more beside {n_valid} for validation, got {n} in all")
    order = stream(card.name, "valid").permutation(n)
    return np.sort(order[n_valid:]), np.sort(order[:n_valid])


def read_table(path: Path, *columns: str) -> list[list[str]]:
    """Rows of a CSV file with a header, reduced to the columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [[row[column] for column in columns] for row in reader]
        except (KeyError, UnicodeDecodeError, csv.Error) as error:
            wanted = f"a CSV file in UTF-8 with the columns {', '.join(columns)}"
            raise DataError(f"{path}: must be {wanted} ({error!r}); get it again") from None
    if any(value is None for row in rows for value in row):
        raise DataError(f"{path}: every line must have a value in the columns {', '.join(columns)}, got a shorter one")
    return rows


def grouped(rows: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Clip -> its captions, both in the order of their first appearance, out of rows (clip, caption)."""
    captions: dict[str, list[str]] = {}
    for name, caption in rows:
        captions.setdefault(name, []).append(caption)
    return captions
