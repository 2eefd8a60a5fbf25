"""A folder of images: which can be decoded, and what their folders tell of splits, classes and captions."""

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xmbench.importing.captions import Captioned
from xmbench.importing.tables import Codes, coded
from xmbench.importing.text import encoding
from xmbench.types import DataError

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
SHOWN_BROKEN = 10
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
_DRAFT = (64, 64)  # a JPEG is decoded to about this size: every byte of it is read, in a tenth of the time


@dataclass(frozen=True)
class Picture:
    """An image that can be decoded; `path` is from the folder on."""

    path: str
    n_bytes: int
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Images:
    """The images of a folder, by their paths in order.

    Attributes:
        folder: where they lie.
        pictures: n of them.
        broken: path -> what is wrong with it, of those that were left out.
        splits: of the images, where all lie below folders such as train and test.
        classes: name of each image's class, where all lie in a folder per class.
    """

    folder: Path
    pictures: list[Picture]
    broken: dict[str, str]
    splits: Codes | None
    classes: list[str] | None

    @property
    def paths(self) -> list[str]:
        """Of all images in order, the broken ones too: what a file without names counts by."""
        return sorted([picture.path for picture in self.pictures] + list(self.broken))


def read_images(folder: str, *, skip_broken: bool) -> Images:
    """Decode every image below a folder.

    Raises:
        NotADirectoryError: it is no folder; archives are to be unpacked first.
        DataError: it has no images, or broken ones and `skip_broken` is not set.
    """
    root = Path(folder)
    if root.suffix.lower() in _ARCHIVES and root.is_file():
        raise NotADirectoryError(f"{root}: must be a folder, got an archive; unpack it first, and give the folder")
    if not root.is_dir():
        raise NotADirectoryError(f"{root}: must be a folder of images, got {'a file' if root.exists() else 'nothing'}")
    paths = sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not paths:
        raise DataError(f"{root}: must hold images ({', '.join(sorted(ENDINGS))}), got none")
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda path: _picture(root, path), paths))
    broken = {path: result for path, result in zip(paths, results, strict=True) if isinstance(result, str)}
    if broken and not skip_broken:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(broken.items())[:SHOWN_BROKEN])
        more = f" and {len(broken) - SHOWN_BROKEN} more" if len(broken) > SHOWN_BROKEN else ""
        got = f"{len(broken)} of {len(paths)} images are broken ({shown}{more})"
        raise DataError(f"{root}: {got}; repair them, or leave them out by --skip-broken")
    pictures = [result for result in results if isinstance(result, Picture)]
    if not pictures:
        raise DataError(f"{root}: must hold images that can be decoded, got {len(broken)} broken ones alone")
    return Images(root.resolve(), pictures, broken, *_told_by_folders(root, [picture.path for picture in pictures]))


def _picture(root: Path, path: str) -> Picture | str:
    """The image, or what is wrong with it."""
    from PIL import Image

    content = (root / path).stat().st_size
    if not content:
        return "empty file"
    try:
        with warnings.catch_warnings(), Image.open(root / path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of odd metadata
            width, height = image.size
            image.draft(None, _DRAFT)
            image.load()
    except Exception as error:  # decoders raise many kinds for damaged files
        return str(error).replace(str(root / path), "the file")[:100] or type(error).__name__
    with (root / path).open("rb") as file:
        return Picture(path, content, hashlib.file_digest(file, "sha256").hexdigest(), width, height)


def _told_by_folders(root: Path, paths: Sequence[str]) -> tuple[Codes | None, list[str] | None]:
    """Splits and classes: [split/][class/]image."""
    parts = [path.split("/")[:-1] for path in paths]
    splits = None
    try:
        splits = coded((folders[0] if folders else "" for folders in parts), str(root))
        parts = [folders[1:] for folders in parts]
    except DataError:
        pass
    classes = [folders[0] for folders in parts if len(folders) == 1]
    per_class = len(classes) == len(parts) and len(set(classes)) > 1
    return splits, classes if per_class else None


def beside(images: Images) -> Captioned | None:
    """The captions in text files beside the images, called as they are but for the ending; None where there are none.

    Raises:
        DataError: some of the images have one, others have none.
    """
    texts, names = [], []
    for picture in images.pictures:
        path = (images.folder / picture.path).with_suffix(".txt")
        if path.is_file():
            lines = [line for line in path.read_text(encoding(path)[0]).splitlines() if line.strip()]
            texts += lines
            names += [picture.path] * len(lines)
    if not texts:
        return None
    told = set(names)
    if without := [picture.path for picture in images.pictures if picture.path not in told]:
        got = f"none of {without[0]}, {len(without)} in all"
        raise DataError(f"{images.folder}: every image or none must have a text file beside it, got {got}")
    return Captioned(str(images.folder), "a text file beside each image", texts, names)
