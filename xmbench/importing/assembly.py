"""From the files of a request to a dataset's folder: modalities, pairs, labels, splits, words, card."""

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._imported import CARD_FILE, LAYOUT
from xmbench.datasets._vocabulary import Captions, build_vocabulary, numbered, tokenised
from xmbench.importing import captions as caption_files
from xmbench.importing import findings, splits
from xmbench.importing.captions import Captioned, image_rows
from xmbench.importing.cards import next_command, version_of
from xmbench.importing.folders import check_name, files_of, new_folder, save, toml
from xmbench.importing.images import Images, beside, read_images
from xmbench.importing.items import Items, features, of_images, text_hashes
from xmbench.importing.sources import located
from xmbench.importing.tables import Codes, Labels, read_labels, read_pairs
from xmbench.importing.text import fallback_note, plain
from xmbench.types import Array, DataError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is imported.

    Attributes:
        name: of the dataset.
        features: modality -> files, FILE or FILE:KEY.
        labels: files, FILE or FILE:COLUMN or FILE:KEY.
        pairs: a file, or "".
        captions: files of the modality "text".
        images: folder of the modality "image", or "".
        skip_broken: whether images that cannot be decoded are left out.
        about: "title", "source", "licence" and "citation" of the card, as far as they are given.
    """

    name: str
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Sequence[str] = ()
    pairs: str = ""
    captions: Sequence[str] = ()
    images: str = ""
    skip_broken: bool = False
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Draft:
    """A dataset on its way: what is known of it so far.

    Attributes:
        items: the modalities, in the order of the dataset.
        pairs: (N, m) rows.
        pairing: how the pairs were found, in words.
        split: of the pairs.
        splitting: how it was found, in words.
        labels: modality -> (n,) class numbers or (n, c) bool.
    """

    folder: Path
    items: dict[str, Items] = field(default_factory=dict)
    images: Images | None = None
    captions: Captioned | None = None
    pairs: Array = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    pairing: str = ""
    split: Codes = field(default_factory=lambda: Codes(np.empty(0, dtype=np.int32), ()))
    splitting: str = ""
    labels: dict[str, Array] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    words: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        return [items.n for items in self.items.values()]

    def split_of(self, name: str) -> NDArray[np.int32]:
        """(n,) number of the split of the items of a modality, -1 of those in no pair."""
        found = np.full(self.items[name].n, -1, dtype=np.int32)
        found[self.pairs[:, list(self.items).index(name)]] = self.split.numbers
        return found


def import_data(request: Request) -> dict[str, Any]:
    """Write a dataset's folder, whole or not at all, and return what was found.

    Raises:
        ValueError: a name that cannot be had, or fewer than two modalities.
        FileNotFoundError: a file that is not there.
        DataError: files that cannot be used, or do not belong together.
        OSError: the data root is full or cannot be written to.
    """
    check_name(request.name)
    for name in request.features:
        if plain(name) != name:
            raise ValueError(f"a modality's name must be small letters, digits and underscores, got {name!r:.60}")
    with new_folder(request.name) as folder:
        draft = _Draft(folder)
        _modalities(draft, request)
        told = _pairs(draft, request)
        labels = read_labels(request.labels) if request.labels else _folder_labels(draft)
        of = ""
        if labels is not None:
            labels, of = _ordered(draft, labels)
            _labelled(draft, labels, of)
        _splits(draft, told, labels, of)
        _write_words(draft)
        _write_arrays(draft)
        _note_encodings(draft, request)
        facts = _facts(draft, request)
        card = _card(draft, request, facts)
        (folder / CARD_FILE).write_text(toml(card), "utf-8")
    return facts


def _modalities(draft: _Draft, request: Request) -> None:
    for name, files in request.features.items():
        draft.items[name] = features(draft.folder, name, files)
    if request.images:
        draft.images = read_images(request.images, skip_broken=request.skip_broken)
        image = of_images(draft.folder, draft.images, draft.items.get("image"))
        draft.items = {"image": image, **draft.items}
        draft.notes += [f"left out: {path}: {reason}" for path, reason in draft.images.broken.items()]
        draft.captions = beside(draft.images)
    if request.captions:
        draft.captions = caption_files.read_captions(request.captions)
        if request.skip_broken and draft.images is not None and not request.pairs:  # pairs count the captions of the files
            draft.captions, notes = caption_files.of_whole_images(draft.captions, draft.images.paths, draft.images.broken)
            draft.notes += notes
    if draft.captions is not None:
        text = draft.items.setdefault("text", Items("text", len(draft.captions.texts)))
        if text.n != len(draft.captions.texts):
            raise DataError(
                f"text: features must be of the captions, got {text.n} rows and {len(draft.captions.texts)} captions"
            )
        text.hashes = text_hashes(draft.captions.texts)
    if len(draft.items) < 2:
        got = f"{', '.join(draft.items) or 'none'}"
        advice = "give --features of another, --captions, or a text file beside each image"
        raise ValueError(f"a dataset needs two modalities or more, got {got}; {advice}")


def _pairs(draft: _Draft, request: Request) -> Codes | None:
    """Find the pairs; the splits of pairs are returned where the file of pairs tells them."""
    ids = {name: items.ids for name, items in draft.items.items() if items.ids is not None}
    if request.pairs:
        draft.pairs, told = read_pairs(request.pairs, list(draft.items), draft.sizes, ids)
        draft.pairing = f"from {request.pairs}"
        return told
    if draft.captions is not None:
        _captions_to_pairs(draft, draft.captions)
        return None
    _check_order(draft)
    longest = max(draft.sizes)
    if any(longest % n for n in draft.sizes):
        got = ", ".join(f"{n:,} of {name}" for name, n in zip(draft.items, draft.sizes, strict=True))
        raise DataError(f"without --pairs row i belongs to row i, or k rows to one where the counts divide, got {got}")
    draft.pairs = np.stack([np.arange(longest) // (longest // n) for n in draft.sizes], axis=1)
    several = [
        f"{longest // n} rows for each of {name}" for name, n in zip(draft.items, draft.sizes, strict=True) if n < longest
    ]
    draft.pairing = ", ".join(several) + ", in order" if several else "row i with row i"
    return None


def _check_order(draft: _Draft) -> None:
    """Raise where rows may be counted with the images that were left out."""
    n = len(draft.images.paths) if draft.images is not None and draft.images.broken else 0
    if wrong := next((items for items in draft.items.values() if n and items.n % n == 0), None):
        raise DataError(
            f"{wrong.name}: rows must be of the images that are whole, {draft.sizes[0]:,}, got {wrong.n:,} as of all {n:,}, "
            "broken ones too; leave out their rows, or give --pairs"
        )


def _captions_to_pairs(draft: _Draft, captions: Captioned) -> None:
    anchor = next(items for name, items in draft.items.items() if name != "text")
    rows, names, how = image_rows(captions, anchor.ids, anchor.n)
    anchor.ids = anchor.ids or names
    n = len(rows)
    columns = []
    for name, items in draft.items.items():
        if items.n not in (anchor.n, n):
            raise DataError(
                f"{name}: must have a row per caption ({n}) or per {anchor.name} ({anchor.n}), got {items.n}; or give --pairs"
            )
        columns.append(np.arange(n) if name == "text" or items.n != anchor.n else rows)
    draft.pairs, draft.pairing = np.stack(columns, axis=1), f"captions to {anchor.name}: {how}"
    if without := int((np.bincount(rows, minlength=anchor.n) == 0).sum()):
        draft.notes.append(f"{without:,} of {anchor.name} have no caption, and are in no split")


def _folder_labels(draft: _Draft) -> Labels | None:
    """The classes of images that lie in a folder per class."""
    if draft.images is None or draft.images.classes is None:
        return None
    names, numbers = np.unique(draft.images.classes, return_inverse=True)
    return Labels(str(draft.images.folder), numbers.astype(np.int32), tuple(map(str, names)))


def _labelled(draft: _Draft, labels: Labels, of: str) -> None:
    """Give every modality the labels, which are in the order of the rows of `of`.

    Raises:
        DataError: one class, or labels of the items of a pair that differ.
    """
    if len(labels.names) < 2:
        raise DataError(f"{labels.where}: labels must be of two classes or more, got {', '.join(labels.names)}")
    values = labels.values
    wanted = values[draft.pairs[:, list(draft.items).index(of)]]
    for name, place in zip(draft.items, draft.pairs.T, strict=True):
        shape = (draft.items[name].n, *values.shape[1:])
        given = values if name == of else np.full(shape, -1 if values.ndim == 1 else False, dtype=values.dtype)
        if name != of:
            given[place] = wanted
        differ = given[place] != wanted
        if (wrong := np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))).size:
            got = f"row {int(place[wrong[0]])} of {name} with several, {len(wrong)} such pairs"
            raise DataError(f"{labels.where}: items of a pair must share their labels, got {got}")
        draft.labels[name] = given
    draft.class_names = labels.names


def _ordered(draft: _Draft, labels: Labels) -> tuple[Labels, str]:
    """The labels in the order of a modality's rows, by their names where both have some, and its name."""
    n = len(labels.values)
    for name, items in draft.items.items():
        place = {one: i for i, one in enumerate(labels.ids or ())}
        if items.ids is None or not set(items.ids) & set(place):
            continue
        missing = [one for one in items.ids if one not in place]
        if missing or len(place) < n:
            twice = f"{n - len(place)} names twice" if len(place) < n else ""
            lacking = f"no label of {len(missing)} items, such as {missing[0]}" if missing else ""
            got = ", and ".join(filter(None, (twice, lacking)))
            raise DataError(f"{labels.where}: must name every item of {name} once, got {got}")
        rows = np.array([place[one] for one in items.ids])
        return replace(labels, values=labels.values[rows], splits=labels.splits and labels.splits.of(rows)), name
    if draft.images is not None and n == len(draft.images.paths):
        whole = np.array([path not in draft.images.broken for path in draft.images.paths])
        return replace(labels, values=labels.values[whole], splits=labels.splits and labels.splits.of(whole)), "image"
    of = next((name for name, items in draft.items.items() if items.n == n), None)
    if of is None:
        wanted = " or ".join(f"{items.n:,} ({name})" for name, items in draft.items.items())
        raise DataError(f"{labels.where}: must hold a label for each item, {wanted}, got {n:,}")
    return labels, of


def _splits(draft: _Draft, told: Codes | None, labels: Labels | None, of: str) -> None:
    """The splits of pairs, from the first that tells them: pairs, labels, captions, names of files or folders; else drawn."""
    names = list(draft.items)
    where = "the file of pairs"
    if told is None and labels is not None and labels.splits is not None:
        told, where = splits.of_pairs({of: labels.splits}, draft.pairs, names), f"the column split of {labels.where}"
    if told is None and draft.captions is not None and draft.captions.splits is not None:
        told, where = splits.of_pairs({"text": draft.captions.splits}, draft.pairs, names), draft.captions.where
    if told is None and (known := {name: items.splits for name, items in draft.items.items() if items.splits is not None}):
        told, where = splits.of_pairs(known, draft.pairs, names), f"the names of the files or folders of {', '.join(known)}"
    alone = all(np.bincount(column).max() == 1 for column in draft.pairs.T)
    groups = np.arange(len(draft.pairs)) if alone else splits.groups_of(draft.pairs, draft.sizes)
    first = draft.labels.get(names[0])
    classes = first[draft.pairs[:, 0]] if first is not None and first.ndim == 1 else None
    draft.split, drawn = splits.complete(told, groups, classes)
    draft.splitting = "; ".join(filter(None, (f"from {where}" if told is not None else "", drawn)))
    splits.check_whole(draft.split, draft.pairs, names)
    for i, split in enumerate(draft.split.names):
        if not (draft.split.numbers == i).any():
            raise DataError(f"every split must have items, got none in {split}; give more items, or a column split")


def _write_words(draft: _Draft) -> None:
    """Captions as they are, for `xmbench features extract`, and as word ids, by the words of train and valid."""
    if draft.captions is None:
        return
    (draft.folder / "text.captions.json").write_text(json.dumps(draft.captions.texts), "utf-8")
    whole = tokenised(draft.captions.where, draft.captions.texts)
    learnt = draft.split_of("text")
    counts = np.diff(whole.ends, prepend=0)
    kept = np.repeat((learnt == 0) | (learnt == 1), counts)
    vocabulary = build_vocabulary([Captions(whole.where, whole.words, whole.numbers[kept], whole.ends)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens, lengths = numbered(whole, vocabulary)
    draft.notes += [str(one.message) for one in caught]
    save(draft.folder / "text.tokens.npy", tokens.astype(np.int32))
    save(draft.folder / "text.lengths.npy", lengths)
    (draft.folder / "text.words.json").write_text(json.dumps(vocabulary), "utf-8")
    draft.items["text"].shapes["tokens"] = tokens.shape
    draft.words = len(vocabulary)


def _write_arrays(draft: _Draft) -> None:
    smallest = np.int64 if max(draft.sizes) > np.iinfo(np.int32).max else np.int32
    save(draft.folder / "pairs.npy", draft.pairs.astype(smallest))
    save(draft.folder / "split.npy", draft.split.numbers.astype(np.uint8))
    for name, items in draft.items.items():
        if items.ids is not None:
            save(draft.folder / f"{name}.ids.npy", np.array(items.ids, dtype=np.str_))
        if name in draft.labels:
            save(draft.folder / f"{name}.labels.npy", draft.labels[name])
        lost = int((draft.split_of(name) < 0).sum())
        if lost and draft.captions is None:
            draft.notes.append(f"{lost:,} of {items.n:,} rows of {name} are in no pair, and in no split")


def _note_encodings(draft: _Draft, request: Request) -> None:
    files = [located(file)[0] for file in (*request.labels, *request.captions, *([request.pairs] if request.pairs else []))]
    texts = {".csv", ".tsv", ".txt", ".list", ".token", ".json", ".jsonl", ""}
    draft.notes += [note for file in files if file.suffix.lower() in texts and (note := fallback_note(file))]


def _facts(draft: _Draft, request: Request) -> dict[str, Any]:
    names = list(draft.split.names)
    counts = [int((draft.split.numbers == i).sum()) for i in range(len(names))]
    facts: dict[str, Any] = {
        "name": request.name,
        "modalities": {name: _words_of(items) for name, items in draft.items.items()},
        "pairs": f"{len(draft.pairs):,}; {draft.pairing}",
        "splits": {name: f"{n:,} pairs" for name, n in zip(names, counts, strict=True)},
        "split": draft.splitting,
    }
    column = draft.pairs[:, 0]
    if np.bincount(column).max() > 1:
        facts[f"pairs per {next(iter(draft.items))}"] = findings.per_item(column)
    if draft.labels:
        first = draft.labels[next(iter(draft.items))]
        in_pairs = draft.split_of(next(iter(draft.items)))
        used = in_pairs >= 0
        facts["classes"] = len(draft.class_names)
        facts["items per class"], notes = findings.balance(first[used], draft.class_names, in_pairs[used], names)
        if first.ndim == 2:
            facts["labels per item"] = round(float(first[used].sum(axis=1).mean()), 3)
        draft.notes += notes
    hashes = {name: items.hashes for name, items in draft.items.items() if items.hashes is not None}
    facts["copies"] = findings.copy_facts(hashes, {name: draft.split_of(name) for name in hashes}, names)
    if draft.notes:
        facts["notes"] = {str(i): note for i, note in enumerate(draft.notes, 1)}
    kinds = [set(items.shapes) for items in draft.items.values()]
    several = any(labels.ndim == 2 for labels in draft.labels.values())
    facts["next"] = next_command(request.name, kinds, bool(draft.labels), several)
    return facts


def _words_of(items: Items) -> str:
    """Counts and dimensions of a modality."""
    parts = []
    for kind, shape in items.shapes.items():
        stored = f", {items.stored[kind]} in the files" if kind in items.stored else ""
        parts.append(f"{kind} {' x '.join(f'{n:,}' for n in shape)}{stored}")
    return "; ".join(parts) or f"{items.n:,}, without features"


def _card(draft: _Draft, request: Request, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of card.toml."""
    files = files_of(draft.folder)
    first = next(iter(draft.items.values()))
    several = np.bincount(draft.pairs[:, 0]).max() > 1
    per_image = round(facts[f"pairs per {first.name}"]["mean"]) if several else 1
    split_of = draft.split_of(first.name)
    sizes = {split: int((split_of == i).sum()) for i, split in enumerate(draft.split.names)}
    given = [
        *(f for files in request.features.values() for f in files),
        *request.labels,
        *request.captions,
        request.pairs,
        request.images,
    ]
    card: dict[str, Any] = {
        "layout": LAYOUT,
        "name": request.name,
        "title": request.about.get("title", request.name),
        "source": request.about.get("source", f"imported from {', '.join(filter(None, given))}"),
        "licence": request.about.get("licence", "not stated"),
        "citation": request.about.get("citation", "not stated"),
        "modalities": list(draft.items),
        "captions": max(per_image, 1),
    }
    if draft.labels:
        hot = draft.labels[first.name].ndim == 2
        card |= {"classes": len(draft.class_names), "class_names": list(draft.class_names), "multi_label": hot}
        card |= {"labels_per_item": facts["labels per item"]} if hot else {}
    if draft.words:
        card["words"] = draft.words
    if "sequences" in first.shapes:
        card["regions"] = list(first.shapes["sequences"][1:])
    if wanted := [f"{name}.vectors.npy" for name, items in draft.items.items() if not items.shapes]:
        card["wanted"] = wanted
    if draft.images is not None:
        card["images"] = str(draft.images.folder)
    card["version"] = version_of(card["modalities"], sizes, draft.class_names, files)
    card["sizes"] = sizes
    card["widths"] = {name: items.shapes["vectors"][1] for name, items in draft.items.items() if "vectors" in items.shapes}
    card["files"] = files
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    card["import"] = {
        "when": when,
        **_asked(request),
        "pairs_from": draft.pairing,
        "split_from": draft.splitting,
        "notes": draft.notes,
    }
    return card


def _asked(request: Request) -> dict[str, Any]:
    """The files of a request with their sizes, for the card."""
    asked: dict[str, Any] = {"files": [], "bytes": []}
    for file in (*(f for files in request.features.values() for f in files), *request.labels, *request.captions, request.pairs):
        if file:
            asked["files"].append(file)
            asked["bytes"].append(located(file)[0].stat().st_size)
    return asked | ({"images": request.images, "skip_broken": request.skip_broken} if request.images else {})
