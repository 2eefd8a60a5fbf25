"""Noise files of other projects, in and out. NumPy only.

Labels: a JSON list per modality, as penghu-cs/MRL keeps them. Pairs: a .npy vector of image rows, in one of two layouts:
    captions: one entry per caption, as XLearning-SCU/2021-NeurIPS-NCR saves its caption shuffles (data.py), and L2RM
        image shuffles, those of RCL with every entry repeated for the captions of its image.
    images: one entry per image, which all its captions get, as in QinYang79/DECL (data.py) and RCL.
A file is written under the very name that is given and told by its content, never by the ending of its name: NumPy adds ".npy"
to a name without it, and the NCR loader, which then does not find its file, draws new noise every time.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xmbench.datasets._files import check_npy, is_pickle
from xmbench.pair_noise import pair_images
from xmbench.types import Array, PairedSet, class_numbers

Layout = Literal["captions", "images", "labels"]
PROJECTS: Mapping[str, Layout] = {"mrl": "labels", "ncr": "captions", "l2rm": "captions", "decl": "images", "rcl": "images"}
_MAGIC = b"\x93NUMPY"


def export_labels(split: PairedSet, path: str | Path) -> None:
    """Write the labels as penghu-cs/MRL does: a JSON list of m lists of n class numbers from 0 (-1: unlabelled).

    Raises:
        ValueError: a modality without labels, or with several classes per item.
    """
    lists = [labels.tolist() for labels in split_class_numbers(split)]
    _write(Path(path), (json.dumps(lists) + "\n").encode())


def import_labels(path: str | Path, split: PairedSet) -> tuple[NDArray[np.int64], ...]:
    """The labels of an MRL noise file, one (n,) array of class numbers per modality.

    Args:
        path: JSON list of m lists of integers, in the modality and row order of `split`, classes counted from 0.
        split: the clean split that the file belongs to.

    Raises:
        ValueError: not such a list, wrong number of lists or labels, a class outside 0..c-1 (-1 is read where `split`
            is unlabelled too, and nowhere else). The released loader (src/noisydataset.py) counts the classes of the
            file instead, and so trains with class K where its own draw produced it; we refuse: no split has that class.
    """
    try:
        lists = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = "a noise file of labels must be JSON, a list of lists of class numbers; one of pairs a .npy array"
        raise ValueError(f"{path}: {message}: {error}") from error
    true, n_classes = split_class_numbers(split), split.n_classes
    if not isinstance(lists, list) or not all(isinstance(labels, list) for labels in lists):
        raise ValueError(f"{path}: a noise file must be a list with one list of class numbers per modality")
    if len(lists) != len(true):
        names = [modality.name for modality in split.modalities]
        raise ValueError(f"{path}: must hold one list of labels per modality {names}, got {len(lists)} lists")
    checked = zip(split.modalities, lists, true, strict=True)
    return tuple(_checked_labels(f"{path}: {m.name}", labels, known, n_classes) for m, labels, known in checked)


def _checked_labels(where: str, labels: list[Any], true: Array, n_classes: int) -> NDArray[np.int64]:
    if len(labels) != len(true):
        raise ValueError(f"{where}: must hold one label per item, {len(true)} of them, got {len(labels)}")
    for row, (label, known) in enumerate(zip(labels, true.tolist(), strict=True)):
        if type(label) is not int:
            got = type(label).__name__ if isinstance(label, list | dict) else repr(label)
            raise ValueError(f"{where}: labels must be integers, got {got:.40} for item {row}")
        if (label == -1) != (known == -1):
            raise ValueError(f"{where}: item {row} is {'un' * (known == -1)}labelled in the split, got label {label}")
        if label != -1 and not 0 <= label < n_classes:
            hint = "; the released MRL loader of September 2021 draws this class, which no data have" * (label == n_classes)
            raise ValueError(f"{where}: labels must lie in 0..{n_classes - 1}, got {label} for item {row}{hint}")
    return np.array(labels, dtype=np.int64)


def split_class_numbers(split: PairedSet, scheme: str = "a noise file") -> list[NDArray[np.int64]]:
    """Class numbers (n,) of every modality, -1 where unlabelled; a ValueError says what `scheme` needs."""
    labels = split_labels(split, scheme)
    for modality, hot in zip(split.modalities, labels, strict=True):
        if (hot.sum(axis=1) > 1).any():
            raise ValueError(
                f"{scheme} needs one class per item, {modality.name!r} has items with several; "
                "multi-label data are for the scheme symmetric_multilabel"
            )
    return [class_numbers(hot) for hot in labels]


def split_labels(split: PairedSet, scheme: str) -> list[NDArray[np.bool_]]:
    """Labels (n, c) of every modality; a ValueError where one has none."""
    labels = []
    for modality in split.modalities:
        if modality.labels is None:
            raise ValueError(f"{scheme} needs labels in every modality, {modality.name!r} has none")
        labels.append(modality.labels)
    return labels


@dataclass(frozen=True, eq=False)
class PairIndex:
    """A noise index of a split, and what it is.

    Attributes:
        images: (N,) image row that every pair is given.
        layout: one entry per caption, or per image.
        scheme: "caption_shuffle" or "image_shuffle"; "none" where every pair has its own image.
        rate: nominal, to two decimals: the share that must have been drawn for so many to be wrong, as shuffles give some back.
        wrong: number of pairs with a wrong image.
        n_images: images that have captions.
        kept: of these, images that keep a right caption.
    """

    images: NDArray[np.int64]
    layout: Layout
    scheme: Literal["caption_shuffle", "image_shuffle", "none"]
    rate: float
    wrong: int
    n_images: int
    kept: int


def is_index(path: str | Path) -> bool:
    """Whether a noise file is a NumPy array of pairs, whatever it is called; labels otherwise.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: it is a pickle, which is never opened: it could run any code.
    """
    path = Path(path)
    if not path.exists():
        hint = f"; there is {path}.npy: NumPy adds the ending when it saves" if Path(f"{path}.npy").exists() else ""
        raise FileNotFoundError(f"no noise file {path}{hint}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a noise file, got a folder; name the file in it")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            return True
    if is_pickle(path.read_bytes()):
        raise ValueError(
            f"{path}: a noise file must be a .npy array or JSON, got a pickle, which is not opened since it can run any code; "
            "where you trust it, convert its index: import numpy, pickle; "
            "numpy.save(NEW, numpy.asarray(pickle.load(open(OLD, 'rb'))))"
        )
    return False


def new_file(path: str | Path) -> Path:
    """`path`, where nothing is yet.

    Raises:
        FileExistsError: something is: noise that runs were made on must not change.
        NotADirectoryError: its folder is missing.
    """
    if Path(path).exists():
        raise FileExistsError(f"{path} exists; give the noise file another name")
    if not Path(path).parent.is_dir():
        raise NotADirectoryError(f"{path}: there is no folder {Path(path).parent}; make it first, or name another file")
    return Path(path)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_index(images: Array, path: str | Path) -> None:
    """Write image rows, per caption or per image, as a .npy vector of int64 under the very name that is given."""
    file = io.BytesIO()
    np.save(file, np.asarray(images, dtype=np.int64))
    _write(Path(path), file.getvalue())


def import_index(path: str | Path, split: PairedSet) -> PairIndex:
    """The images that a noise index gives the pairs of `split`, recognised by its length and content.

    Args:
        path: .npy vector of N or of n image rows; caption j is the j-th pair, image i the i-th row of the first modality.
        split: the clean split that the file belongs to.

    Raises:
        ValueError: not such a vector, wrong length, rows out of range, or no shuffle: then some image has more or fewer
            captions than it had.
    """
    true, n_images = pair_images(split, f"{path}: a noise index"), len(split.modalities[0])
    index = _image_rows(path, len(true), n_images)
    layout: Layout = "captions" if len(index) == len(true) else "images"
    images = index if layout == "captions" else index[true]
    right = images == true
    return PairIndex(
        images=images,
        layout=layout,
        **_recognised(str(path), true, images, one_by_one=layout == "captions"),
        wrong=int((~right).sum()),
        n_images=len(np.unique(true)),
        kept=len(np.unique(true[right])),
    )


def _image_rows(path: str | Path, n_pairs: int, n_images: int) -> NDArray[np.int64]:
    """The vector in a .npy file, which must be one of image rows, per pair or per image."""
    try:
        with Path(path).open("rb") as file:
            check_npy(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds for a damaged header, all with the same remedy
        pickled = "Object arrays" in str(error)
        reason = "pickled Python objects, which are not read: numpy.save an array of integers" if pickled else str(error)
        raise ValueError(f"{path}: a noise index must be a .npy array of integers, got {reason}") from None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{path}: a noise index must be a vector of integers, got {array.dtype} of shape {array.shape}")
    if len(array) not in (n_pairs, n_images):
        expected = f"one image per caption, {n_pairs} of them, or one per image, {n_images}"
        raise ValueError(f"{path}: a noise index must hold {expected}, got {len(array)}; is it of this split?")
    if array.min() < 0 or array.max() >= n_images:
        got = f"{array.min()}..{array.max()}"
        raise ValueError(f"{path}: images must be row numbers in 0..{n_images - 1}, got {got}")
    return array.astype(np.int64)


def _recognised(path: str, true: Array, images: Array, *, one_by_one: bool) -> dict[str, Any]:
    """Scheme and nominal rate of a shuffle; with one caption per image the two schemes are one, told apart by layout."""
    owners, first, captions = np.unique(true, return_index=True, return_counts=True)
    image_of_image = images[first]
    together = np.array_equal(image_of_image[np.searchsorted(owners, true)], images)
    if np.array_equal(images, true):
        return {"scheme": "none", "rate": 0.0}
    if together and len(np.unique(image_of_image)) == len(owners) and not (one_by_one and captions.max() == 1):
        wrong = int((image_of_image != owners).sum())
        return {"scheme": "image_shuffle", "rate": round((wrong + 1) / len(owners), 2)}
    given = np.bincount(images, minlength=true.max() + 1)
    had = np.bincount(true, minlength=len(given))
    if (given != had).any():
        row = int((given != had).argmax())
        message = "must be a shuffle, every image with as many captions as before"
        raise ValueError(f"{path}: a noise index {message}, got {given[row]} for image {row}, which has {had[row]}")
    share = float((images != true).mean())
    given_back = 1 - share + share * float((captions**2).sum()) / len(true)
    return {"scheme": "caption_shuffle", "rate": round(share + given_back / len(true), 2)}


def export_noise(given: PairedSet, clean: PairedSet, path: str | Path) -> None:
    """Write the noise of a split: its pairs as a .npy index with one entry per caption, or its labels as JSON.

    Raises:
        ValueError: both are noisy, or neither, or the noise has a class that the data have not.
    """
    pairs = given.pairs is not None and not np.array_equal(given.pairs, np.asarray(clean.pairs))
    with_labels = [(m.labels, known.labels) for m, known in zip(given.modalities, clean.modalities, strict=True)]
    labels = any(y is not None and not np.array_equal(y, np.asarray(known)) for y, known in with_labels)
    if pairs == labels:
        got = "both are noisy: write a file for each scheme" if pairs else "neither is noisy"
        raise ValueError(f"a noise file holds labels or pairs; {got}")
    if pairs:
        write_index(pair_images(given, "a noise index"), path)
    elif max(int(y.max(initial=-1)) for y in split_class_numbers(given)) >= clean.n_classes:
        raise ValueError(
            f"a noise file holds classes 0..{clean.n_classes - 1}, the noise has others; run on its scheme instead"
        )
    else:
        export_labels(given, path)


def convert(source: str | Path, path: str | Path, split: PairedSet, project: str = "") -> None:
    """Write a noise file again in the layout of another project, or in ours: per caption, or the labels.

    Raises:
        ValueError: the file does not fit the split, or the project has no such noise.
    """
    is_pairs = is_index(source)
    layout = PROJECTS[project] if project else "captions" if is_pairs else "labels"
    if is_pairs != (layout != "labels"):
        holds, reads = ("pairs", "labels") if is_pairs else ("labels", "pairs")
        raise ValueError(f"{source} holds {holds}, and {project} reads {reads}")
    if not is_pairs:
        import_labels(source, split)
        _write(Path(path), Path(source).read_bytes())
        return
    index = import_index(source, split)
    if layout == "images" and index.scheme == "caption_shuffle":
        raise ValueError(f"{source}: {project} moves all captions of an image together, got captions that move one by one")
    if layout == "captions":
        write_index(index.images, path)
        return
    image_of_image = np.arange(len(split.modalities[0]))
    image_of_image[pair_images(split, "a noise index")] = index.images
    write_index(image_of_image, path)


def facts(path: str | Path, split: PairedSet) -> dict[str, Any]:
    """What a noise file is and does to `split`; errors as `import_index` and `import_labels`."""
    if is_index(path):
        index = import_index(path, split)
        return {
            "holds": "pairs",
            "layout": f"one entry per {index.layout.removesuffix('s')}",
            "scheme": index.scheme,
            "nominal rate, about": index.rate,
            "realised rate": index.wrong / len(index.images),
            "captions": len(index.images),
            "captions with a wrong image": index.wrong,
            "images": index.n_images,
            "images that keep a right caption": index.kept,
        }
    given = {m.name: y for m, y in zip(split.modalities, import_labels(path, split), strict=True)}
    wrong = {name: int((y != true).sum()) for (name, y), true in zip(given.items(), split_class_numbers(split), strict=True)}
    labelled = {name: int((y >= 0).sum()) for name, y in given.items()}
    return {
        "holds": "labels",
        "realised rate": sum(wrong.values()) / max(sum(labelled.values()), 1),
        **{f"labels of {name}": labelled[name] for name in given},
        **{f"wrong labels of {name}": wrong[name] for name in given},
    }


def differences(first: str | Path, second: str | Path, split: PairedSet) -> dict[str, Any]:
    """How far two noise files of one split agree: on what is wrong, and on what it is instead.

    Raises:
        ValueError: one holds labels and one pairs, or a file does not fit the split.
    """
    kinds = [is_index(path) for path in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"two noise files of one kind can be compared, got {' and '.join('pairs' if k else 'labels' for k in kinds)}"
        )
    if kinds[0]:
        true = pair_images(split, "a noise index")
        given = [import_index(path, split).images for path in (first, second)]
    else:
        true = np.concatenate(split_class_numbers(split))
        given = [np.concatenate(import_labels(path, split)) for path in (first, second)]
    wrong, other_wrong = (values != true for values in given)
    either = int((wrong | other_wrong).sum())
    return {
        "holds": "pairs" if kinds[0] else "labels",
        "entries": len(true),
        "differ": int((given[0] != given[1]).sum()),
        "wrong in the first": int(wrong.sum()),
        "wrong in the second": int(other_wrong.sum()),
        "wrong in both": int((wrong & other_wrong).sum()),
        "overlap (both / either)": int((wrong & other_wrong).sum()) / either if either else 1.0,
    }
