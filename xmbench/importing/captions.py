"""Captions in the layouts that people have: one per line, CSV, JSON lines, COCO, Karpathy's JSON, Flickr's tokens."""

import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._files import readable
from xmbench.importing.tables import IDS, SPLITS, Codes, coded, joined
from xmbench.importing.text import delimiter, encoding, plain, read_rows
from xmbench.types import DataError

TEXTS = ("caption", "captions", "text", "sentence", "sentences", "comment", "raw", "title", "description")
_FLICKR = re.compile(r"^(\S.*)#\d+\t(.*)$")


@dataclass(frozen=True)
class Captioned:
    """Captions, and the images that they belong to.

    Attributes:
        where: the files.
        layout: what they were read as.
        texts: N of them.
        images: names of their images, or None where only the order tells.
        splits: of the captions, where the files tell.
    """

    where: str
    layout: str
    texts: list[str]
    images: list[str] | None = None
    splits: Codes | None = None


_Row = tuple[str, str, str]  # image, caption, split; "" where it is not told


def read_captions(files: Sequence[str]) -> Captioned:
    """The captions in files, one below the other.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file of no known layout, or of another one than the first.
    """
    parts = [_read(Path(name)) for name in files]
    if len({part.images is None for part in parts}) > 1:
        raise DataError(
            f"{parts[0].where}: caption files must be of one layout, got {', '.join(part.layout for part in parts)}"
        )
    known = [part.splits for part in parts if part.splits is not None]
    return Captioned(
        ", ".join(part.where for part in parts),
        ", ".join(dict.fromkeys(part.layout for part in parts)),
        [text for part in parts for text in part.texts],
        None if parts[0].images is None else [name for part in parts for name in part.images or ()],
        joined(known) if len(known) == len(parts) else None,
    )


def _read(path: Path) -> Captioned:
    if not path.is_file():
        raise FileNotFoundError(f"there is no caption file {path}")
    layout = layout_of(path)
    rows = list(_READERS[layout](path))
    if not rows:
        raise DataError(f"{path}: must hold captions, got none")
    for i, (_, text, _) in enumerate(rows):
        if not text.strip():
            raise DataError(f"{path}: a caption must have a word, got an empty one, number {i + 1} of {len(rows)}; drop it")
    named, split = any(row[0] for row in rows), any(row[2] for row in rows)
    return Captioned(
        str(path), layout, [text for _, text, _ in rows], [name for name, *_ in rows] if named else None,
        coded((row[2] for row in rows), str(path)) if split else None,
    )  # fmt: skip


def layout_of(path: Path) -> str:
    """The name of a caption file's layout."""
    if path.suffix.lower() == ".json":
        content = _json(path)
        if isinstance(content, dict) and "annotations" in content:
            return "COCO captions"
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            return "Karpathy's JSON"
        return "JSON"
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return "JSON lines"
    with path.open(encoding=encoding(path)[0]) as file:
        first = file.readline()
    if _FLICKR.match(first.rstrip("\n")):
        return "Flickr tokens"
    columns = {plain(name) for name in re.split(r"[\t;|,]", first)}
    if columns & {*TEXTS} and (columns & {*IDS} or len(columns) == 1):
        return "CSV"
    if first.lstrip().startswith("{"):
        return "JSON lines"
    if path.suffix.lower() in (".csv", ".tsv") and len(cells := next(read_rows(path), [])) > 1:
        got = ", ".join(cells)
        advice = "name them so, or end a file of plain lines in .txt"
        raise DataError(f"{path}: must have the columns image and caption, got {got:.80}; {advice}")
    return "one per line"


def _json(path: Path) -> Any:
    with readable(path, "captions in JSON"):
        return json.loads(path.read_text(encoding(path)[0]))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding=encoding(path)[0], newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")


def _of_lines(path: Path) -> Iterator[_Row]:
    return (("", line, "") for line in _lines(path))


def _of_flickr(path: Path) -> Iterator[_Row]:
    for i, line in enumerate(_lines(path), 1):
        found = _FLICKR.match(line)
        if found is None:
            raise DataError(f"{path}, line {i}: must be IMAGE#NUMBER, a tab and a caption, got {line!r:.60}")
        yield found[1], found[2], ""


def _of_csv(path: Path) -> Iterator[_Row]:
    sign, rows = delimiter(next(_lines(path))), read_rows(path)
    columns = [plain(name) for name in next(rows)]
    text = next(columns.index(name) for name in TEXTS if name in columns)
    image = next((columns.index(name) for name in IDS if name in columns), None)
    split = next((columns.index(name) for name in SPLITS if name in columns), None)
    for i, row in enumerate(rows, 2):
        if len(row) != len(columns):
            advice = "; quote captions that hold commas" if sign == "," and len(row) > len(columns) else ""
            raise DataError(f"{path}, line {i}: must have {len(columns)} cells, got {len(row)}{advice}")
        yield "" if image is None else row[image], row[text], "" if split is None else row[split]


def _of_json_lines(path: Path) -> Iterator[_Row]:
    for i, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {i}: must be an object in JSON ({error})") from None
            yield from _of_record(f"{path}, line {i}", record)


def _of_list(path: Path) -> Iterator[_Row]:
    content = _json(path)
    if isinstance(content, dict):
        content = [
            {"image": name, "captions": texts if isinstance(texts, list) else [texts]} for name, texts in content.items()
        ]
    if not isinstance(content, list):
        raise DataError(f"{path}: must be a list of objects with image and caption, got {type(content).__name__}")
    for i, record in enumerate(content):
        yield from _of_record(f"{path}, entry {i}", record)


def _of_record(where: str, record: Any) -> Iterator[_Row]:
    """The captions of one object, under any of the names in `TEXTS`."""
    found = {plain(key): value for key, value in record.items()} if isinstance(record, dict) else {}
    texts = next((found[name] for name in TEXTS if name in found), None)
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, list):
        texts = [one.get("raw") if isinstance(one, dict) else one for one in texts]
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        got = ", ".join(found) or type(record).__name__
        raise DataError(f"{where}: must be an object with image and caption, or captions, a list, got {got}")
    image = next((str(found[name]) for name in IDS if name in found), "")
    split = next((str(found[name]) for name in SPLITS if name in found), "")
    return ((image, text, split) for text in texts)


def _of_coco(path: Path) -> Iterator[_Row]:
    with readable(path, "COCO captions in JSON, images with id and file_name, and annotations with image_id and caption"):
        content = _json(path)
        names = {image["id"]: str(image["file_name"]) for image in content.get("images", ())}
        annotations = (
            sorted(content["annotations"], key=lambda one: str(one["image_id"])) if not names else content["annotations"]
        )
        place = {number: i for i, number in enumerate(names)}
        for one in sorted(annotations, key=lambda one: place.get(one["image_id"], -1)):
            yield names.get(one["image_id"], str(one["image_id"])), str(one["caption"]), ""


def _of_karpathy(path: Path) -> Iterator[_Row]:
    with readable(path, "an object with images, a list of objects with filename, split and sentences"):
        for image in _json(path)["images"]:
            for sentence in image["sentences"]:
                yield str(image["filename"]), str(sentence["raw"]), str(image.get("split", ""))


_READERS = {
    "one per line": _of_lines,
    "Flickr tokens": _of_flickr,
    "CSV": _of_csv,
    "JSON lines": _of_json_lines,
    "JSON": _of_list,
    "COCO captions": _of_coco,
    "Karpathy's JSON": _of_karpathy,
}


def image_rows(
    captions: Captioned, known: Sequence[str] | None, n_images: int | None
) -> tuple[NDArray[np.int64], list[str] | None, str]:
    """The image of every caption.

    Args:
        captions: as read.
        known: names of the images, in the order of their rows; None where they are not known.
        n_images: how many there are; None where the captions alone tell.

    Returns:
        Rows (N,), names of the images where the captions tell them, and how the two were joined, in words.

    Raises:
        DataError: an image of no row, or counts that do not fit.
    """
    n = len(captions.texts)
    if captions.images is None:
        if not n_images or n % n_images:
            raise DataError(
                f"{captions.where}: captions must be a whole number of times the images, got {n} for {n_images or 'no'} images"
            )
        return np.repeat(np.arange(n_images), n // n_images), None, "by their order"
    if known is not None:
        return _by_name(captions, known), None, "by the names of the images"
    if n_images and {*captions.images} <= {str(i) for i in range(n_images)}:
        return np.array(list(map(int, captions.images))), None, "by the rows that they name"
    first = list(dict.fromkeys(captions.images))
    if n_images not in (None, len(first)):
        raise DataError(
            f"{captions.where}: captions must name {n_images} images, as many as there are rows of features, got {len(first)}"
        )
    place = {name: i for i, name in enumerate(first)}
    return np.array([place[name] for name in captions.images]), first, "images in the order in which captions name them"


def of_whole_images(captions: Captioned, paths: Sequence[str], broken: Container[str]) -> tuple[Captioned, list[str]]:
    """The captions of images that can be decoded, and notes of those that are left out.

    Args:
        captions: as read.
        paths: of all images in order, the broken ones too.
        broken: paths of those that are left out.

    Raises:
        DataError: no caption is left, or counts that do not fit.
    """
    n = len(captions.texts)
    if captions.images is not None:
        rows = _places(captions.images, paths)
    elif n % len(paths):
        raise DataError(
            f"{captions.where}: captions by their order must be a whole number of times all images, broken ones too, "
            f"got {n} for {len(paths)}; name the images"
        )
    else:
        rows = np.repeat(np.arange(len(paths)), n // len(paths))
    lost = np.array([path in broken for path in paths])
    absent, kept = rows < 0, (rows >= 0) & ~lost[rows]
    if absent.all():
        _refuse_unknown(captions, captions.images or [])
    if not kept.any():
        raise DataError(f"{captions.where}: captions must be of images that can be decoded, got {n} of none")
    notes = [f"left out: {m:,} captions of broken images"] if (m := int((~kept & ~absent).sum())) else []
    if absent.any():
        unknown = dict.fromkeys(name for name, gone in zip(captions.images or (), absent, strict=True) if gone)
        such = f"{len(unknown):,} images that are not there, such as {next(iter(unknown))!r:.80}"
        notes.append(f"left out: {int(absent.sum()):,} captions of {such}")
    left = replace(
        captions,
        texts=[text for text, keep in zip(captions.texts, kept, strict=True) if keep],
        images=captions.images and [name for name, keep in zip(captions.images, kept, strict=True) if keep],
        splits=captions.splits and captions.splits.of(kept),
    )
    return left, notes


def _by_name(captions: Captioned, known: Sequence[str]) -> NDArray[np.int64]:
    """Rows of the images that captions name, all of which are to be there."""
    asked = captions.images or []
    rows = _places(asked, known)
    missing = [name for name, row in zip(asked, rows, strict=True) if row < 0]
    if missing:
        advice = "" if len(missing) == len(asked) else "; drop them, or leave them out by --skip-broken"
        _refuse_unknown(captions, missing, advice)
    return rows


def _refuse_unknown(captions: Captioned, missing: Sequence[str], advice: str = "") -> NoReturn:
    got = f"{missing[0]!r:.80}, {len({*missing})} unknown ones{advice}"
    raise DataError(f"{captions.where}: captions must name images that there are, got {got}")


def _places(asked: Sequence[str], known: Sequence[str]) -> NDArray[np.int64]:
    """Rows by the whole path of an image, else by its name alone, with or without its ending; -1 where there is none."""
    best = np.full(len(asked), -1)
    for key in (str, lambda name: Path(name).name, lambda name: Path(name).stem):
        place = {key(name): i for i, name in enumerate(known)}
        if len(place) == len(known):
            rows = np.array([place.get(key(name), -1) for name in asked])
            best = rows if (rows >= 0).sum() > (best >= 0).sum() else best
    return best
