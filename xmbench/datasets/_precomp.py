"""Reading images as regions and their captions, in the layout of the SCAN release: f30k_precomp, coco_precomp, cc152k_precomp.

    <split>_ims.npy    (n, R, d) float16, float32 or float64: R regions per image; memory-mapped, never read whole
    <split>_caps.txt   one caption per line, the k captions of image i in lines k i .. k i + k - 1; k is read from the data
    <split>_ids.txt    one id per image or per caption; optional
    <split>_caps.tsv   instead of the two: an image id, a tab, a caption

Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018. The layout and the cut of dev were checked against
kuanghuei/SCAN, data.py; the .tsv files against XLearning-SCU/2021-NeurIPS-NCR, data.py. There k is 5, or 1 where images and
captions are as many, and the csv reader lets an odd quotation mark swallow the lines that follow; here neither is assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card
from xmbench.datasets._files import find_file, find_optional, readable
from xmbench.datasets._vocabulary import (
    Captions,
    build_vocabulary,
    numbered,
    read_captions,
    read_columns,
    read_lines,
    read_vocabulary,
)
from xmbench.types import Array, DataError, Dataset, Modality, PairedSet, Rows

SPLITS: Mapping[str, str] = {"train": "train", "valid": "dev", "test": "test"}  # split -> what its files are called
CHECKS = (
    "images and captions divide, every split has as many regions and features, ids stand in the order of the rows, and no "
    "caption is empty"
)
SCAN = (
    "kuanghueilee/scan-features of kaggle.com, behind a free account, 34 GB with f30k_precomp and coco_precomp: "
    "https://www.kaggle.com/datasets/kuanghueilee/scan-features; copies: "
    "https://drive.google.com/file/d/1iY6S-w-vG-4T_v9OvlFkZ1GDPzX5YVtl/view by github.com/woodfrog/vse_infty, where the "
    "folders are called otherwise, and two of Baidu in https://github.com/CrossmodalGroup/NAAF/issues/9. Or compute the "
    "features: captions and split are in https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, regions "
    "by bottom-up attention of Anderson et al., 36 boxes each"
)
SCAN_DEAD = (
    "https://scanproject.blob.core.windows.net/scan-data/data.zip",
    "https://iudata.blob.core.windows.net/scan/data.zip",
)
FILES = tuple(f"{stem}_{kind}" for stem in SPLITS.values() for kind in ("ims.npy", "caps.txt"))
PARAMETERS = {
    "valid_images": "first images of dev that make the validation set; 1000 are the 5000 captions that the released loaders "
    "use; 0: all",
    "vocabulary": "path of a vocabulary in JSON as released; empty: the words that occur four times or more in train and dev",
}


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `PARAMETERS`."""

    valid_images: int = 1000
    vocabulary: str = ""

    def __post_init__(self) -> None:
        if self.valid_images < 0:
            raise ValueError(f"valid_images must be 0 (all) or more, got {self.valid_images}")


@dataclass(frozen=True)
class Part:
    """One split as it lies on disk.

    Attributes:
        regions: (n, R, d) memory map.
        captions: k n of them, those of an image side by side.
        ids: (n,) names of the images; None where the files tell none.
    """

    regions: Array
    captions: Captions
    ids: NDArray[np.str_] | None

    @property
    def captions_per_image(self) -> int:
        return len(self.captions) // len(self.regions)


def load_precomp(card: Card, parameters: Parameters) -> Dataset:
    """The dataset of a folder in this layout, without labels.

    Raises:
        MissingDataError: a file is not there.
        DataError: files that do not belong together, or are not of this layout.
    """
    parts = {split: read_part(card, stem) for split, stem in SPLITS.items()}
    return assembled(card, parts, vars(parameters), images=first_of_valid(parts, parameters))


def first_of_valid(parts: Mapping[str, Part], parameters: Parameters) -> dict[str, Array]:
    """Which images of which splits are kept, as `assembled` takes it: the first of "valid", where not all of them."""
    n = parameters.valid_images
    return {"valid": np.arange(n)} if 0 < n < len(parts["valid"].regions) else {}


def read_part(card: Card, stem: str) -> Part:
    """Features, captions and ids of the files whose names begin with `stem`; counts are checked against each other."""
    images = find_file(card, f"{stem}_ims.npy")
    table = f"{stem}_caps.tsv"
    text = find_file(card, table if table in card.files else f"{stem}_caps.txt")
    regions, captions = _regions(images), read_captions(text)
    if not len(regions) or not len(captions) or len(captions) % len(regions):
        got = f"{len(captions)} in {text} and {len(regions)} in {images}"
        raise DataError(f"{card.name}: captions must be a whole number of times the images, got {got}")
    ids = text if text.suffix == ".tsv" else find_optional(card, f"{stem}_ids.txt")
    if ids is None:
        return Part(regions, captions, None)
    lines = [name for name, _ in read_columns(ids)] if ids == text else [line.strip() for line in read_lines(ids)]
    return Part(regions, captions, _image_ids(ids, lines, len(regions), len(captions)))


def _regions(path: Path) -> Array:
    with readable(path, "a whole .npy file of numbers"):
        regions = np.lib.format.open_memmap(path, mode="r")
    if not regions.dtype.isnative:
        got = f"got {regions.dtype.newbyteorder('=')} in the other one ({regions.dtype.str})"
        save = "save it again: numpy.save(NEW, numpy.load(OLD).astype(numpy.float32))"
        raise DataError(f"{path}: must be in this machine's byte order, {got}; {save}")
    if regions.ndim != 3 or regions.dtype not in (np.float16, np.float32, np.float64) or 0 in regions.shape[1:]:
        raise DataError(f"{path}: must be (n, regions, d) float16, float32 or float64, got {regions.dtype} {regions.shape}")
    return np.asarray(regions)  # still the memory map, without the cost of its class


def _image_ids(path: Path, lines: Sequence[str], n_images: int, n_captions: int) -> NDArray[np.str_] | None:
    """Names (n,) of the images out of one id per image or caption; None where the ids are the captions' own.

    Ids that are row numbers must stand in their rows, and those of one image side by side.
    """
    if len(lines) not in (n_images, n_captions):
        raise DataError(f"{path}: must hold one id per image ({n_images}) or caption ({n_captions}), got {len(lines)}")
    k = len(lines) // n_images
    ids = np.array(lines, dtype=np.str_)
    first = np.repeat(ids[::k], k)
    rows = np.arange(n_images).astype(np.str_)
    if set(lines) == set(rows.tolist()):  # the ids are rows
        first = np.repeat(rows, k)
    elif k > 1 and len(set(lines)) == len(lines):
        return None
    if (wrong := np.flatnonzero(first != ids)).size:
        i = int(wrong[0])
        got = f"{lines[i]!r} where its place says {str(first[i])!r}"
        rows_in_order = "ids that are row numbers must stand in their rows"
        wanted = rows_in_order if k == 1 else f"the {k} captions of an image must stand side by side, images in order"
        advice = "; put captions and features in one order, or remove the file where its ids are no rows" if k == 1 else ""
        raise DataError(f"{path}, line {i + 1}: {wanted}, got {got}{advice}")
    if len(set(lines)) < n_images:
        got = f"{len(set(lines))} ids for {n_images} rows of features"
        raise DataError(f"{path}: every image must have an id of its own, got {got}; keep one row of features per image")
    return np.asarray(ids[::k])


def assembled(
    card: Card,
    parts: Mapping[str, Part],
    parameters: Mapping[str, Any],
    *,
    images: Mapping[str, Array] | None = None,
    vectors: Mapping[str, tuple[Array, Array]] | None = None,
    labels: Mapping[str, Array] | None = None,
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """The dataset of parts: "train", "valid" and tests.

    Args:
        card: its `folds` are tests too, of the same items as "test".
        parts: as read; "train" and "valid" make the vocabulary, whole, unless parameters["vocabulary"] names one.
        parameters: of the loader.
        images: split -> rows of the images that are kept, in this order, with all their captions; else all.
        vectors: split -> (n, d) of the images and (k n, d') of the captions.
        labels: split -> (n, c) classes of the images, which their captions share.
        class_names: of the labels.
    """
    widths = {split: part.regions.shape[1:] for split, part in parts.items()}
    if len(set(widths.values())) > 1:
        raise DataError(f"{card.name}: every split must have the same number of regions and features, got {widths}")
    for test, n_folds in card.folds.items():
        if more := len(parts["test"].regions) % n_folds:
            got = (
                f"{len(parts['test'].regions)}; get its files again, or drop its last {more} images and their captions and ids"
            )
            raise DataError(f"{card.name}/{test}: its items must divide into {n_folds} equal folds, got {got}")
    path = str(parameters["vocabulary"])
    built_from = [parts["train"].captions, parts["valid"].captions]
    vocabulary = read_vocabulary(Path(path).expanduser()) if path else build_vocabulary(built_from)
    splits = {}
    for split, part in parts.items():
        whole = _paired(part, vocabulary, (vectors or {}).get(split), (labels or {}).get(split))
        splits[split] = _with_images(whole, (images or {}).get(split), part.captions_per_image)
    train, valid = splits.pop("train"), splits.pop("valid")
    return Dataset(
        name=card.name,
        family=card.name,
        parameters=parameters,
        train=train,
        valid=valid,
        tests=splits | dict.fromkeys(card.folds, splits["test"]),
        card=card,
        class_names=class_names,
        folds=card.folds,
    )


def _paired(part: Part, vocabulary: tuple[str, ...], vectors: tuple[Array, Array] | None, labels: Array | None) -> PairedSet:
    n, k = len(part.regions), part.captions_per_image
    image_of = np.repeat(np.arange(n), k)
    ids = np.arange(n).astype(np.str_) if part.ids is None else part.ids
    tokens, lengths = numbered(part.captions, vocabulary)
    image_vectors, text_vectors = (None, None) if vectors is None else (Rows(values) for values in vectors)
    image = Modality(name="image", vectors=image_vectors, sequences=Rows(part.regions), labels=labels, item_ids=ids)
    text = Modality(
        name="text",
        vectors=text_vectors,
        tokens=tokens,
        lengths=lengths,
        vocabulary=vocabulary,
        labels=None if labels is None else labels[image_of],
        item_ids=np.array([f"{name}#{j}" for name in ids for j in range(k)]),
    )
    return PairedSet(modalities=(image, text), pairs=np.stack([image_of, np.arange(n * k)], axis=1))


def _with_images(split: PairedSet, images: Array | None, k: int) -> PairedSet:
    """The split with the rows `images` of its images and their k captions each."""
    if images is None:
        return split
    image, text = split.modalities
    captions = (images[:, None] * k + np.arange(k)).reshape(-1)
    pairs = np.stack([np.repeat(np.arange(len(images)), k), np.arange(len(captions))], axis=1)
    return PairedSet(modalities=(image.take(images), text.take(captions)), pairs=pairs)
