"""Words and their numbers: tokenising captions, building a vocabulary, and reading a released one.

Captions are lower-cased and split by NLTK's word tokeniser, wrapped by a start and an end. Words that occur less often than
four times in the captions of train and dev together are unknown; the others are numbered in the order of their appearance.
Special words, least count and the layout of the JSON file were checked against kuanghuei/SCAN, vocab.py, and the loop over
captions against its data.py. The released code lets NLTK split a caption into sentences by a trained model, which would have
to be downloaded; here a sentence ends at ".", "!" or "?" before a space, which differs at abbreviations ("mr. potato head").
"""

import json
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._files import MissingDataError, is_pickle
from xmbench.types import DataError

SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIAL_WORDS))
MIN_COUNT = 4
LONGEST = 64  # tokens of a caption that are kept, start and end among them

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PLAIN = re.compile(r"[a-z ,-]*\.?")  # nothing that the tokeniser treats specially, but for what follows
_NOT_PLAIN = re.compile(r"--|,,|\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")


@dataclass(frozen=True)
class Captions:
    """Tokenised captions of one file.

    Attributes:
        where: the file.
        words: the distinct words, in the order of their appearance.
        numbers: (total,) position in `words` of every word, caption after caption.
        ends: (n,) where each caption ends in `numbers`.
    """

    where: str
    words: tuple[str, ...]
    numbers: NDArray[np.int32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, a byte order mark aside; only a line feed ends one, so that counts are the released code's."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text ({error}); convert it") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def read_columns(path: Path) -> list[tuple[str, str]]:
    """Id and caption of every line of a tab-separated file, in which a quotation mark is a character like any other."""
    rows = []
    for i, line in enumerate(read_lines(path)):
        name, tab, caption = line.partition("\t")
        if not tab or "\t" in caption:
            got = f"{line.count(chr(9))} tabs"
            raise DataError(f"{path}, line {i + 1}: must be an id, a tab and a caption, got {got}; remove tabs from captions")
        rows.append((name, caption))
    return rows


def read_captions(path: Path) -> Captions:
    """The captions of a file, one per line; of a .tsv file, the second column. Kept for the process.

    Raises:
        DataError: a caption is empty; file and line are named.
    """
    return _captions(path, path.stat().st_mtime_ns)


@cache
def _captions(path: Path, _changed: int) -> Captions:
    captions = [caption for _, caption in read_columns(path)] if path.suffix == ".tsv" else read_lines(path)
    return tokenised(str(path), captions)


def tokenised(where: str, captions: Sequence[str]) -> Captions:
    """Captions as numbers of their words.

    Raises:
        DataError: a caption is empty; it is named by `where` and its line.
    """
    known: dict[str, int] = {}
    numbers: list[int] = []
    ends: list[int] = []
    for i, caption in enumerate(captions):
        words = words_of(caption)
        if not words:
            raise DataError(f"{where}, line {i + 1}: a caption must have a word, got an empty one; drop it with its pair")
        numbers += [known.setdefault(word, len(known)) for word in words]
        ends.append(len(numbers))
    return Captions(where, tuple(known), np.array(numbers, dtype=np.int32), np.array(ends, dtype=np.int64))


def words_of(caption: str) -> list[str]:
    """The words of a caption, lower-cased.

    >>> words_of("Two dogs play, and can't stop.")
    ['two', 'dogs', 'play', ',', 'and', 'ca', "n't", 'stop', '.']
    """
    caption = caption.lower().strip()
    if _PLAIN.fullmatch(caption) and not _NOT_PLAIN.search(caption):
        return caption.replace(",", " , ").replace(".", " . ").split()  # the same words, twenty times as fast
    tokenise = _tokeniser().tokenize
    return [word for sentence in _SENTENCE_END.split(caption) for word in tokenise(sentence)]


@cache
def _tokeniser() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def build_vocabulary(parts: Sequence[Captions]) -> tuple[str, ...]:
    """The special words and every word that occurs `MIN_COUNT` times or more in all parts together."""
    counts: dict[str, int] = {}
    for part in parts:
        occurrences = np.bincount(part.numbers, minlength=len(part.words))
        for word, n in zip(part.words, occurrences.tolist(), strict=True):
            counts[word] = counts.get(word, 0) + n
    return SPECIAL_WORDS + tuple(word for word, n in counts.items() if n >= MIN_COUNT and word not in SPECIAL_WORDS)


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The words of a released vocabulary: JSON with `word2idx`, `idx2word` (its keys are text) and `idx`, the size.

    Raises:
        MissingDataError: no such file.
        DataError: a folder, not such a vocabulary, or a pickle, which is never opened: it could run any code.
    """
    if not path.exists():
        raise MissingDataError(f"vocabulary {path} is missing; name an existing JSON file, or none to build it")
    if path.is_dir():
        raise DataError(f"{path}: must be a vocabulary in JSON, got a folder; name the file in it, or none to build it")
    content = path.read_bytes()
    if is_pickle(content) or path.suffix in (".pkl", ".pickle"):
        raise DataError(f"{path}: must be JSON, got a pickle, which could run any code; {_convert(path)}")
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: must be a JSON vocabulary ({error}); convert a released one by `xmbench data convert`"
        ) from None
    return _checked_vocabulary(path, stored)


def _convert(path: Path) -> str:
    new = path.with_suffix(".json")
    return f"its plain data become JSON by: {shlex.join(['xmbench', 'data', 'convert', str(path), str(new)])}"


def _checked_vocabulary(path: Path, stored: Any) -> tuple[str, ...]:
    keys = {"word2idx": dict, "idx2word": dict, "idx": int}
    if not isinstance(stored, dict) or any(not isinstance(stored.get(key), kind) for key, kind in keys.items()):
        got = ", ".join(map(str, stored)) if isinstance(stored, dict) else type(stored).__name__
        raise DataError(f"{path}: must hold the objects word2idx and idx2word and the number idx, got {got or 'nothing'}")
    numbers, words, size = stored["word2idx"], stored["idx2word"], stored["idx"]
    if len(words) != size or len(numbers) != size:
        raise DataError(f"{path}: idx, idx2word and word2idx must be of one size, got {size}, {len(words)} and {len(numbers)}")
    for i in range(size):
        word = words.get(str(i))
        if not isinstance(word, str) or numbers.get(word) != i:
            raise DataError(f"{path}: idx2word and word2idx must be inverse and without a gap; at {i} the word is {word!r}")
    ordered = tuple(words[str(i)] for i in range(size))
    if ordered[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        raise DataError(f"{path}: the first words must be {', '.join(SPECIAL_WORDS)}, got {', '.join(ordered[:4])}")
    return ordered


def numbered(captions: Captions, vocabulary: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Word ids (n, L) of captions, start and end among them and `PAD` behind the end, and their lengths (n,).

    Longer captions than `LONGEST` are cut, and captions of unknown words alone are kept, both with a warning.
    """
    number_of = {word: i for i, word in enumerate(vocabulary)}
    ids = np.array([number_of.get(word, UNKNOWN) for word in captions.words], dtype=np.int64)[captions.numbers]
    starts = np.concatenate([[0], captions.ends[:-1]])
    counts = captions.ends - starts
    kept = np.minimum(counts, LONGEST - 2)
    columns = np.arange(kept.max())
    inside = columns < kept[:, None]
    tokens = np.full((len(captions), len(columns) + 2), PAD, dtype=np.int64)
    tokens[:, 0] = START
    tokens[:, 1:-1][inside] = ids[(starts[:, None] + columns)[inside]]
    tokens[np.arange(len(captions)), kept + 1] = END
    _warn(captions.where, int((counts > kept).sum()), f"longer than {LONGEST} with start and end, and cut")
    unknown = np.logical_and.reduceat(ids == UNKNOWN, starts)
    _warn(captions.where, int(unknown.sum()), "made of unknown words alone, and kept")
    return tokens, kept + 2


def _warn(where: str, n: int, what: str) -> None:
    if n:
        warnings.warn(f"{where}: {n} of the captions are {what}", stacklevel=2)
