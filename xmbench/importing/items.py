"""Modalities as they are read: features are written block by block, images and captions are kept as what names them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmbench.importing.findings import row_hashes
from xmbench.importing.folders import write_array
from xmbench.importing.images import Images
from xmbench.importing.sources import Source, located, open_source
from xmbench.importing.tables import Codes, split_in
from xmbench.types import Array, DataError

_KINDS = {2: "vectors", 3: "sequences"}


@dataclass
class Items:
    """A modality.

    Attributes:
        name: of it.
        n: number of items.
        shapes: kind of features -> shape, as written.
        stored: kind of features -> what the files held, in words.
        hashes: (n,) of the items' contents.
        ids: names of the items, where they are known.
        splits: of the items, where the names of files or folders tell.
    """

    name: str
    n: int
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    hashes: NDArray[np.uint64] | None = None
    ids: list[str] | None = None
    splits: Codes | None = None


def features(folder: Path, name: str, files: Sequence[str]) -> Items:
    """Write the features of a modality: matrices as vectors, arrays of three axes as sequences, several files below each other.

    Raises:
        DataError: other shapes, text, or a value that is not finite.
    """
    sources = [(open_source(file), file) for file in files]
    kinds: dict[str, list[tuple[Source, str]]] = {}
    for source, file in sources:
        if len(source.shape) not in _KINDS or 0 in source.shape[1:]:
            raise DataError(f"{source.where}: features must be (n, d), or (n, L, d), got {source.shape}")
        if source.dtype.kind not in "fiub":
            raise DataError(f"{source.where}: features must be real numbers, got {source.dtype} {source.shape}")
        kinds.setdefault(_KINDS[len(source.shape)], []).append((source, file))
    items: Items | None = None
    for kind, parts in sorted(kinds.items(), reverse=True):  # vectors first
        written = _write(folder, name, kind, parts)
        if items is not None and items.n != written.n:
            raise DataError(f"{name}: vectors and sequences must be of the same items, got {items.n} and {written.n}")
        if items is None:
            items = written
        items.shapes |= written.shapes
        items.stored |= written.stored
    if items is None:
        raise ValueError(f"features of {name} need a file, got none")
    return items


def _write(folder: Path, name: str, kind: str, parts: Sequence[tuple[Source, str]]) -> Items:
    row = parts[0][0].shape[1:]
    for source, _ in parts:
        if source.shape[1:] != row:
            raise DataError(
                f"{source.where}: must have the features of {parts[0][0].where}, {row} a row, got {source.shape[1:]}"
            )
    dtype = np.dtype(np.float16) if {source.dtype for source, _ in parts} == {np.dtype(np.float16)} else np.dtype(np.float32)
    counts: list[int] = []
    hashes: list[NDArray[np.uint64]] = []
    n = write_array(folder / f"{name}.{kind}.npy", _checked([source for source, _ in parts], dtype, counts, hashes), dtype, row)
    if not n:
        raise DataError(f"{name}: features must have rows, got none in {parts[0][0].where}")
    stored = ", ".join(dict.fromkeys(str(source.dtype) for source, _ in parts))
    told = [split_in(_telling(file)) for _, file in parts]
    splits = None
    if len(parts) > 1 and None not in told and len(set(told)) > 1:
        names = tuple(dict.fromkeys(map(str, told)))
        splits = Codes(np.repeat([names.index(str(one)) for one in told], counts).astype(np.int32), names)
    return Items(name, n, {kind: (n, *row)}, {kind: stored}, np.concatenate(hashes), None, splits)


def _telling(file: str) -> str:
    """The part of FILE or FILE:KEY that may tell a split."""
    path, key = located(file)
    return key if split_in(key) else path.stem


def _checked(
    sources: Sequence[Source], dtype: np.dtype[Any], counts: list[int], hashes: list[NDArray[np.uint64]]
) -> Iterator[Array]:
    """The blocks of all sources in the type that is stored; rows per source and hashes are appended to the lists."""
    for source in sources:
        counts.append(0)
        for block in source.blocks():
            with np.errstate(over="ignore"):
                values = np.asarray(block).astype(dtype)
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if not finite.all():
                bad = int((~finite).argmax())
                got = "NaN or infinity" if not np.isfinite(block[bad]).all() else f"a number beyond {dtype}"
                raise DataError(
                    f"{source.where}: features must be finite, got {got} in row {counts[-1] + bad}; drop or repair it"
                )
            hashes.append(row_hashes(values))
            counts[-1] += len(values)
            yield values


def of_images(folder: Path, images: Images, known: Items | None) -> Items:
    """The modality of images, its files listed in the folder; known features must be of as many, in the order of paths."""
    if known is not None and known.n != len(images.pictures):
        got = f"{known.n} rows and {len(images.pictures)} images"
        raise DataError(f"image: features must be of the images, in the order of their paths, got {got}")
    with (folder / "image.files.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "bytes", "sha256", "width", "height"])
        table.writerows(vars(picture).values() for picture in images.pictures)
    items = known or Items("image", len(images.pictures))
    items.ids = [picture.path for picture in images.pictures]
    items.splits = items.splits or images.splits
    if items.hashes is None:
        items.hashes = np.array([int(picture.sha256[:16], 16) for picture in images.pictures], dtype=np.uint64)
    return items


def text_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(n,) hashes of captions, case and spaces aside."""
    import hashlib

    return np.array(
        [
            int.from_bytes(hashlib.blake2b(" ".join(text.lower().split()).encode(), digest_size=8).digest(), "big")
            for text in texts
        ],
        dtype=np.uint64,
    )
