"""Reading images and captions as a dual encoder such as CLIP has embedded them, and as it reads them: coco_clip, f30k_clip.

    <split>_images.npy    (n, d) float16, float32 or float64: embeddings of the images
    <split>_texts.npy     (k n, d) of the captions, the k of image i in rows k i .. k i + k - 1; k is read from the data
    <split>_patches.npy   (n, P, c p p) normalised pixels of the images, as patches in the order of the grid; optional
    <split>_tokens.npy    (k n, L) integers: byte pairs of the captions, padded by 0; optional, with the patches

Everything but the tokens is memory-mapped. Splits, the cut of dev, and the folds of COCO are those of the regions, see
`_precomp`; the noise draws are too, where the images stand in the same order there and are named by their row. A caption ends
at its largest number, as in CLIP, whose end of text is the last entry of its vocabulary.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_file, find_optional, readable
from xmbench.types import Array, DataError, Dataset, Modality, PairedSet, Rows

PARTS = ("train", "valid", "test")
EMBEDDINGS, INPUTS = ("images", "texts"), ("patches", "tokens")  # kinds of files
PARAMETERS = {"valid_images": "first images of dev that make the validation set, as for the regions; 0: all"}
CARD_SHAPE: Mapping[str, Any] = {  # of ViT-B/32 at 224 pixels
    "widths": {"image": 512, "text": 512},
    "regions": (49, 3 * 32 * 32),
    "captions": 5,
    "words": 49408,
}
SOURCE = "images and captions as for {0}, embedded by you with a CLIP"
CHECKS = (
    "embeddings of images and captions divide, every split has the same widths, and patches and tokens are there for every "
    "split or for none and have their rows"
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `PARAMETERS`."""

    valid_images: int = 1000

    def __post_init__(self) -> None:
        if self.valid_images < 0:
            raise ValueError(f"valid_images must be 0 (all) or more, got {self.valid_images}")


def parcels_of(*stems: str) -> tuple[Parcel, ...]:
    """The files of splits with these stems: those that are needed, and the others."""
    how = (
        "images and captions, embedded by you with a CLIP such as ViT-B/32 of github.com/openai/CLIP, in the layout of "
        "xmbench/datasets/_clip_inputs.py; docs/data.md says how"
    )
    return tuple(
        Parcel(files={f"{stem}_{kind}.npy": "" for stem in stems for kind in kinds}, note=how + use, needed=kinds == EMBEDDINGS)
        for kinds, use in ((EMBEDDINGS, ""), (INPUTS, "; for clip_finetune alone"))
    )


def load_clip_inputs(card: Card, parameters: Parameters, *, family: str, stems: tuple[str, ...]) -> Dataset:
    """The dataset of a folder in this layout, without labels.

    Args:
        card: of the dataset; its `folds` are tests too, of the same items as "test".
        parameters: how many images of dev are kept.
        family: the dataset of the same images and captions, whose noise draws it shares.
        stems: what the files of train, valid and test begin with.

    Raises:
        MissingDataError: a file is not there.
        DataError: files that do not belong together, or are not of this layout.
    """
    files = {part: _files(card, stem) for part, stem in zip(PARTS, stems, strict=True)}
    _check_complete(card, files)
    splits = {part: _paired(card, found) for part, found in files.items()}
    _check_alike(card, splits)
    valid = splits["valid"]
    if 0 < parameters.valid_images < len(valid.modalities[0]):
        splits["valid"] = _first(valid, parameters.valid_images)
    return Dataset(
        name=card.name,
        family=family,
        parameters=vars(parameters),
        train=splits["train"],
        valid=splits["valid"],
        tests={"test": splits["test"], **dict.fromkeys(card.folds, splits["test"])},
        card=card,
        folds=card.folds,
    )


def _files(card: Card, stem: str) -> dict[str, Path]:
    """Kind -> path of a split's files."""
    needed = {kind: find_file(card, f"{stem}_{kind}.npy") for kind in EMBEDDINGS}
    optional = {kind: find_optional(card, f"{stem}_{kind}.npy") for kind in INPUTS}
    return needed | {kind: path for kind, path in optional.items() if path is not None}


def _check_complete(card: Card, files: Mapping[str, Mapping[str, Path]]) -> None:
    there = [path.name for found in files.values() for kind, path in found.items() if kind in INPUTS]
    if there and len(there) < len(files) * len(INPUTS):
        raise DataError(f"{card.name}: patches and tokens must be there for every split or for none, got {', '.join(there)}")


def _paired(card: Card, files: Mapping[str, Path]) -> PairedSet:
    images, texts = (_memory_map(files[kind], "(n, d)", "f") for kind in EMBEDDINGS)
    n, k = len(images), len(texts) // max(len(images), 1)
    if not n or not k or len(texts) % n:
        got = f"{len(texts)} in {files['texts']} and {n} in {files['images']}"
        raise DataError(f"{card.name}: captions must be a whole number of times the images, got {got}")
    patches = _memory_map(files["patches"], "(n, patches, numbers)", "f") if "patches" in files else None
    tokens, lengths = _tokens(files["tokens"]) if "tokens" in files else (None, None)
    for kind, values, wanted in (("patches", patches, n), ("tokens", tokens, n * k)):
        if values is not None and len(values) != wanted:
            raise DataError(f"{files[kind]}: must have the {wanted} rows of the embeddings, got {len(values)}")
    rows = np.arange(n * k)
    ids = np.arange(n).astype(np.str_)
    sequences = None if patches is None else Rows(patches)
    image = Modality(name="image", vectors=Rows(images), sequences=sequences, item_ids=ids)
    names = np.array([f"{name}#{j}" for name in ids for j in range(k)])
    text = Modality(name="text", vectors=Rows(texts), tokens=tokens, lengths=lengths, item_ids=names)
    return PairedSet(modalities=(image, text), pairs=np.stack([rows // k, rows], axis=1))


def _memory_map(path: Path, shape: str, kind: str) -> Array:
    """The numbers of a .npy file, left on disk.

    Args:
        path: the file.
        shape: what its rows must be, in words whose commas tell the number of dimensions.
        kind: NumPy's letters for the types of number that it may hold.
    """
    with readable(path, "a whole .npy file of numbers", "make it again"):
        values = np.lib.format.open_memmap(path, mode="r")
    if values.ndim != shape.count(",") + 1 or values.dtype.kind not in kind or 0 in values.shape[1:]:
        what = "numbers with a point" if kind == "f" else "integers"
        raise DataError(f"{path}: must be {shape} {what}, got {values.dtype} {values.shape}; make it again")
    return np.asarray(values)  # still the memory map, without the cost of its class


def _tokens(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens (k n, L), cut to the longest caption, and the length (k n,) of each with its end of text."""
    tokens = np.asarray(_memory_map(path, "(captions, L)", "iu"), dtype=np.int64)
    ends = tokens.max(axis=1, initial=-1)
    if (wrong := np.flatnonzero(ends != ends.max(initial=0))).size:
        i = int(wrong[0])
        wanted = "must end every caption with the same number, its largest, as CLIP's tokeniser does"
        raise DataError(f"{path}: {wanted}, got {ends[i]} in row {i} and {ends.max()} elsewhere; cut before the end of text")
    lengths = tokens.argmax(axis=1) + 1
    return tokens[:, : lengths.max(initial=1)], lengths


def _check_alike(card: Card, splits: Mapping[str, PairedSet]) -> None:
    """Every split must have the same numbers of features."""
    shapes = {
        part: {
            f"{m.name} {kind}": getattr(m, kind).shape[1:]
            for m in split.modalities
            for kind in ("vectors", "sequences")
            if getattr(m, kind) is not None
        }
        for part, split in splits.items()
    }
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise DataError(f"{card.name}: every split must have the same features, got {shapes}; embed all by one model")


def _first(split: PairedSet, n: int) -> PairedSet:
    """The first n images of a split with all their captions."""
    image, text = split.modalities
    assert split.pairs is not None
    pairs = split.pairs[split.pairs[:, 0] < n]
    return PairedSet(modalities=(image.take(np.arange(n)), text.take(np.arange(len(pairs)))), pairs=pairs)
