"""What a file is: told by its sha256, else by keys, shapes and labels; else what is inside, and the import that would fit."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.cards import Card
from xmbench.datasets import dataset_card, dataset_names
from xmbench.datasets._files import file_sha256, readable
from xmbench.datasets._twins import PREFIX
from xmbench.importing.captions import read_captions as read_caption_files
from xmbench.importing.contents import Inside, arrays_in, histogram
from xmbench.importing.images import ENDINGS
from xmbench.importing.tables import first_lines, split_in
from xmbench.importing.text import fallback_note, plain
from xmbench.types import DataError

_ARRAYS = {".npy", ".npz", ".mat", ".h5", ".hdf5", ".h5py"}
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin"}
_WIKIPEDIA: dict[tuple[int, ...], str] = {  # items per class of the SVCL release, whose articles wikipedia_deep has too
    (138, 272, 244, 248, 202, 178, 186, 144, 214, 347): "train",
    (34, 88, 96, 85, 65, 58, 51, 41, 71, 104): "test",
}
_BY_KEYS: tuple[tuple[set[str], tuple[str, ...]], ...] = (
    ({"train_imgs_deep", "train_imgs_labels"}, ("wikipedia_deep", "nus_wide", "xmedianet")),
    ({"tr_img", "tr_txt", "tr_img_lab"}, ("inria_websearch",)),
    ({"I_tr", "T_tr", "I_te", "T_te"}, ("wikipedia",)),
    ({"train", "valid", "test", "train_labels"}, ("xmedianet4",)),
    ({"train/image", "train/text", "train/labels"}, ("mirflickr25k", "nus_wide_multilabel", "coco_multilabel")),
    ({"2d", "3d", "caption", "id"}, ("youcook2",)),
    ({"2d", "2d.ids", "3d", "3d.ids"}, ("msrvtt", "lsmdc")),
    ({"words", "vectors"}, ("msrvtt", "lsmdc", "youcook2", "howto100m")),
)
_SHOWN = 12

Facts = dict[str, Any]


def examine(path: Path) -> Facts:
    """What a file or folder is, what is inside, and what to do with it.

    Raises:
        FileNotFoundError: there is nothing.
        DataError: the file is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; name one that is there")
    if path.is_dir():
        return _folder(path)
    if not path.stat().st_size:
        raise DataError(f"{path}: is empty; get it again")
    if exact := _by_sha(path):
        return exact
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        target = path.with_suffix(".npz")
        return {
            "what": "a pickle, torch or word2vec file, which is not opened here",
            "next": _command("data", "convert", path, target),
        }
    if suffix in _ARRAYS:
        return _of_arrays(path, arrays_in(path))
    if suffix == ".parquet":
        return _unknown(path, {"kind": "parquet"}, _features(path))
    if suffix in ENDINGS:
        return _unknown(
            path, {"kind": "an image"}, _command("data", "import", "NAME", "--images", path.parent, "--captions", "FILE")
        )
    return _of_text(path)


def _command(*words: object) -> str:
    return shlex.join(["xmbench", *map(str, words)])


def _features(path: Path, key: str = "") -> str:
    file = f"{path}:{key}" if key else str(path)
    return _command(
        "data", "import", "NAME", "--features", f"image={file}", "--features", "text=FILE", "--labels", "labels.csv"
    )


def _cards() -> list[Card]:
    return [dataset_card(name) for name in dataset_names() if not name.startswith(PREFIX)]


def _recognised(what: str, card: Card, file: str, **more: Any) -> Facts:
    place = f"XMBENCH_DATA/{card.place}/{file}"
    return {"what": what, "dataset": card.name, "title": card.title, "put it at": place, **more}


def _by_sha(path: Path) -> Facts:
    """The file of a card with this very content."""
    sha = file_sha256(path)
    for card in _cards():
        if names := [name for name, known in card.sha256.items() if known == sha]:
            others = ", ".join(names[1:])
            return _recognised(
                f"the file {names[0]} of {card.name}, byte for byte", card, names[0], **({"and as": others} if others else {})
            )
    return {}


def _unknown(path: Path, inside: Facts, command: str) -> Facts:
    return {"what": "no released file that is known here", "inside": inside, "an import that would fit": command}


def _of_arrays(path: Path, arrays: dict[str, Inside]) -> Facts:
    inside = {name or "array": str(one) for name, one in list(arrays.items())[:_SHOWN]}
    counts = {name: histogram(one.values) for name, one in arrays.items() if one.values is not None and name}
    for name, items in counts.items():
        inside[f"classes of {name}"] = (
            f"{len(items)}: {', '.join(map(str, items[:_SHOWN]))}{', ...' if len(items) > _SHOWN else ''} items"
        )
    for keys, names in _BY_KEYS:
        if keys <= set(arrays):
            return _by_keys(path, names, arrays, counts.values()) | {"inside": inside}
    only = arrays.get("")
    if only is not None and (found := _of_regions(path, only) or _of_index(path, only)):
        return found | {"inside": inside}
    if split := next((_WIKIPEDIA[items] for items in counts.values() if items in _WIKIPEDIA), ""):
        inside["labels"] = f"those of Wikipedia, {split}"
    features = [name for name, one in arrays.items() if len(one.shape) in (2, 3) and name not in counts]
    return _unknown(path, inside, _features(path, features[0] if len(arrays) > 1 and features else ""))


def _by_keys(path: Path, names: tuple[str, ...], arrays: dict[str, Inside], counts: Iterable[tuple[int, ...]]) -> Facts:
    """The dataset, out of those with these keys, whose numbers of items or classes are the file's."""
    cards = [dataset_card(name) for name in names]
    rows = {one.shape[0] for one in arrays.values() if one.shape} | {one.shape[-1] for one in arrays.values() if one.shape}
    classes = {len(items) for items in counts}
    fitting = [card for card in cards if card.sizes["train"] in rows or card.classes in classes | rows] or cards
    more = {} if len(fitting) == 1 else {"or": ", ".join(card.name for card in fitting[1:])}
    if any(items in _WIKIPEDIA for items in counts):
        more["labels"] = "those of Wikipedia"
    card = fitting[0]
    known = [*card.files, *card.sha256]
    file = next(
        (name for name in known if Path(name).name == path.name),
        next((n for n in known if Path(n).suffix == path.suffix), path.name),
    )
    sure = card.sizes["train"] in rows
    expected = "" if sure else f"; the card says {card.sizes['train']} items in train"
    return _recognised(f"by its keys, a file of {card.name}{expected}", card, file, **more)


def _of_regions(path: Path, only: Inside) -> Facts:
    """Regions of one of the datasets with regions, by their number and width."""
    for card in _cards():
        if len(only.shape) == 3 and card.regions == only.shape[1:] and card.captions and card.files:
            split = split_in(path.stem) or next((name for name, n in card.sizes.items() if n == only.shape[0]), None)
            fits = [name for name, n in card.sizes.items() if n == only.shape[0]]
            if not fits and "sizes" not in card.unverified:
                continue
            stem = {"valid": "dev", None: "train"}.get(split, split)
            return _recognised(f"regions of images, of the number and width of {card.name}, {split}", card, f"{stem}_ims.npy")
    return {}


def _of_index(path: Path, only: Inside) -> Facts:
    """A noise index, by its length: a row of an image for every caption or for every image of a train split."""
    values = only.values
    if values is None or not values.size or values.min() < 0:
        return {}
    for card in sorted(_cards(), key=lambda card: not card.regions or card.name.endswith("_clip")):
        n, k = card.sizes["train"], card.captions
        if card.classes is not None or values.max() >= n or len(values) not in (n, n * k):
            continue
        true = np.repeat(np.arange(n), len(values) // n)
        together = bool((values.reshape(n, -1) == values.reshape(n, -1)[:, :1]).all())
        scheme = "image_shuffle (DECL, RCL, L2RM)" if together and k > 1 else "caption_shuffle (NCR)"
        wrong = float((values != true).mean())
        what = f"a noise index of the train split of {card.name}: {scheme}, {wrong:.0%} of its entries wrong"
        return {"what": what, "dataset": card.name, "next": _command("noise", "info", path, "--dataset", card.name)}
    return {}


def _of_text(path: Path) -> Facts:
    """JSON, tables and captions."""
    if path.suffix.lower() == ".json" and (found := _of_json(path)):
        return found
    rows = first_lines(path, 2)
    first = {plain(cell) for cell in rows[0]} if rows else set()
    for columns, name, file in _TABLES:
        if columns <= first:
            return _recognised(f"by its columns, a table of {name}", dataset_card(name), file)
    if found := _of_listing(path) or _of_precomp_text(path):
        return found
    if rows and path.suffix.lower() in (".csv", ".tsv") and {"label", "labels", "class"} & first:
        inside = {"columns": ", ".join(rows[0])}
        command = _command("data", "import", "NAME", "--features", "image=FILE", "--features", "text=FILE", "--labels", path)
        return _unknown(path, inside, command)
    if rows and path.suffix.lower() in (".csv", ".tsv") and rows[1:] and all(_is_number(cell) for cell in rows[1]):
        return _unknown(path, {"columns": len(rows[1]), "first line": ", ".join(rows[0])[:80]}, _features(path))
    try:
        captions = read_caption_files([str(path)])
    except DataError as error:
        return {"what": "no released file that is known here", "inside": f"no captions either: {error}"}
    images = "" if captions.images is None else f" of {len({*captions.images}):,} images"
    inside = {"captions": f"{len(captions.texts):,}{images}, {captions.layout}", "first": captions.texts[0][:80]}
    if note := fallback_note(path):
        inside["encoding"] = note
    return _unknown(path, inside, _command("data", "import", "NAME", "--features", "image=FILE", "--captions", path))


_TABLES: tuple[tuple[set[str], str, str], ...] = (
    ({"video_id", "sentence"}, "msrvtt", "test_sentences.csv"),
    ({"video_id", "path"}, "howto100m", "HowTo100M.csv"),
)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _of_json(path: Path) -> Facts:
    with readable(path, "JSON"):
        content = json.loads(path.read_bytes())
    if isinstance(content, list) and len(content) > 1 and all(isinstance(one, list) for one in content):
        return _of_label_noise(path, content)
    keys = set(content) if isinstance(content, dict) else set()
    if {"word2idx", "idx2word"} <= keys:
        what = f"a vocabulary of SCAN or VSRN, {len(content['word2idx']):,} words"
        return {"what": what, "next": f"xmbench run --dataset f30k_precomp --set f30k_precomp.vocabulary={path}"}
    if {"annotations", "categories"} <= keys:
        return _recognised("COCO instances, for PMRP", dataset_card("coco_precomp"), "instances_val2014.json")
    if {"sentences", "videos"} <= keys:
        return _recognised("the captions of MSR-VTT", dataset_card("msrvtt"), "videodatainfo_2017.json")
    if keys and all(isinstance(one, dict) and {"start", "end", "text"} <= set(one) for one in content.values()):
        return _recognised("what is said in videos, start, end and text", dataset_card("howto100m"), "captions.json")
    return {}


def _of_label_noise(path: Path, lists: list[list[Any]]) -> Facts:
    """A noise file of penghu-cs/MRL: a list of class numbers per modality."""
    sizes = {len(one) for one in lists}
    whole = all(type(label) is int for one in lists for label in one)
    for card in _cards() if whole and len(sizes) == 1 else []:
        if card.classes and sizes == {card.sizes["train"]} and max(map(max, lists)) <= card.classes:
            what = f"noisy labels of the train split of {card.name}, as penghu-cs/MRL keeps them"
            return {"what": what, "dataset": card.name, "next": _command("noise", "info", path, "--dataset", card.name)}
    return (
        {"what": f"lists of {', '.join(map(str, sizes))} entries: noisy labels of no train split that is known here"}
        if whole
        else {}
    )


def _of_listing(path: Path) -> Facts:
    """Text id, image id and category, as Wikipedia has them; told by the histogram of the categories."""
    lines = [line.split("\t") for line in path.read_bytes()[: 1 << 20].decode("utf-8", "replace").splitlines()]
    if not lines or any(len(line) != 3 or not line[2].isdecimal() for line in lines):
        return {}
    counts = Counter(int(line[2]) for line in lines)
    split = _WIKIPEDIA.get(tuple(counts[key] for key in sorted(counts)))
    return (
        _recognised(
            f"by its categories, the list of Wikipedia, {split}", dataset_card("wikipedia"), f"{split}set_txt_img_cat.list"
        )
        if split
        else {}
    )


def _of_precomp_text(path: Path) -> Facts:
    """Captions or ids in the layout of SCAN, by the name and the number of lines."""
    if not path.stem.endswith(("_caps", "_ids")):
        return {}
    with path.open("rb") as file:
        n = sum(1 for _ in file)
    split = split_in(path.stem) or ""
    cards = [card for card in _cards() if card.regions and card.sizes.get(split, 0) * card.captions == n]
    card = next((card for card in cards if card.files), None)
    return _recognised(f"{n:,} lines, as many as captions of {card.name}, {split}", card, path.name) if card else {}


def _folder(path: Path) -> Facts:
    """A folder, by what lies in it."""
    endings = Counter(file.suffix.lower() for file in path.rglob("*") if file.is_file())
    images = sum(n for ending, n in endings.items() if ending in ENDINGS)
    inside = {ending or "no ending": f"{n:,} files" for ending, n in endings.most_common(_SHOWN)}
    if not images:
        return {
            "what": "a folder without images",
            "inside": inside,
            "next": f"{_command('data', 'doctor', 'FILE')}, one at a time",
        }
    return _unknown(path, inside, _command("data", "import", "NAME", "--images", path, "--captions", "FILE"))
