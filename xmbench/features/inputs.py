"""The images and captions of an imported dataset, each with the sha256 that its features are kept under."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets._files import readable
from xmbench.datasets._imported import Imported
from xmbench.features.pictures import read_picture

IMAGES, CAPTIONS = "image.files.csv", "text.captions.json"
AGAIN = "import the dataset again"


@dataclass(frozen=True)
class Inputs:
    """What features of a modality are made of.

    Attributes:
        modality: "image" or "text".
        names: (n,) what an item is called in an error.
        sha256s: (n,) of the image files, or of the captions.
        open: from an item's row to the image or the caption.
        texts: (n,) the captions; of images none.
        train: (n,) whether an item is in the train split.
    """

    modality: str
    names: list[str]
    sha256s: list[bytes]
    open: Callable[[int], Any]
    texts: list[str]
    train: list[bool]

    def __len__(self) -> int:
        return len(self.names)


def inputs_of(imported: Imported, modality: str) -> Inputs | None:
    """The images or captions of a dataset, or None where it was imported without them."""
    if modality == "image" and IMAGES in imported.content["files"] and "images" in imported.content:
        return _images(imported)
    if modality == "text" and CAPTIONS in imported.content["files"]:
        return _captions(imported)
    return None


def _images(imported: Imported) -> Inputs:
    path, folder = imported.folder / IMAGES, Path(imported.content["images"])
    with readable(path, "the list of the images", AGAIN), path.open(encoding="utf-8", newline="") as file:
        rows = [(row["path"], row["sha256"]) for row in csv.DictReader(file)]
        sha256s = [bytes.fromhex(sha256) for _, sha256 in rows]
    names = [name for name, _ in rows]
    return Inputs(
        "image",
        names,
        sha256s,
        lambda i: read_picture(folder / names[i], sha256s[i]),
        [],
        _in_train(imported, "image", len(rows)),
    )


def _captions(imported: Imported) -> Inputs:
    path = imported.folder / CAPTIONS
    with readable(path, "a list of captions in JSON", AGAIN):
        texts = [str(text).encode("utf-8", "replace").decode() for text in json.loads(path.read_text("utf-8"))]
    sha256s = [hashlib.sha256(text.encode()).digest() for text in texts]
    names = [f"caption {i}" for i in range(len(texts))]
    return Inputs("text", names, sha256s, texts.__getitem__, texts, _in_train(imported, "text", len(texts)))


def _in_train(imported: Imported, modality: str, n: int) -> list[bool]:
    pairs = np.load(imported.folder / "pairs.npy", allow_pickle=False)
    split = np.load(imported.folder / "split.npy", allow_pickle=False)
    column = pairs[:, imported.content["modalities"].index(modality)]
    train = np.zeros(n, dtype=bool)
    train[column[split == list(imported.content["sizes"]).index("train")]] = True
    return list(train.tolist())
