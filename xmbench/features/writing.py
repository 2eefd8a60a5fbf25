"""Features into the folder of an imported dataset: files first, the card last, so that it never names what is not there."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets._files import file_sha256
from xmbench.datasets._imported import CARD_FILE, Imported
from xmbench.features.rows import KeptRows
from xmbench.files import atomic, remove_leftovers, sync_folder
from xmbench.importing.cards import version_of
from xmbench.importing.folders import save, sync, toml, write_array
from xmbench.types import Array

FILES = {"vectors": "vectors", "regions": "sequences", "tokens": "sequences"}  # kind of features -> of files
_BLOCK = 1 << 26  # bytes that are copied at a time


def file_of(modality: str, kind: str) -> str:
    """Name of the file that holds features of a kind."""
    return f"{modality}.{FILES[kind]}.npy"


def hidden(folder: Path, name: str) -> Path:
    """Where a file is written before it gets its name."""
    return folder / f".{name}.new"


@contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Remove what an extraction has left that did not end well: one before, and the one of the block."""
    remove_leftovers(folder)
    for path in folder.glob(".*.new"):
        path.unlink()
    try:
        yield
    finally:
        for path in folder.glob(".*.new"):
            path.unlink()


def write_features(folder: Path, modality: str, kind: str, rows: KeptRows, sha256s: list[bytes]) -> list[str]:
    """Write kept rows, one per item, under hidden names; returns the names that they are to have."""
    places = rows.places(sha256s)
    step = max(1, _BLOCK // (rows.dtype.itemsize * int(np.prod(rows.shape))))
    lengths: list[Array] = []

    def blocks() -> Iterable[Array]:
        for start in range(0, len(places), step):
            block = rows.read(places[start : start + step])
            if kind == "tokens":
                lengths.append(block.any(axis=2).sum(axis=1))
            yield block

    name = file_of(modality, kind)
    write_array(hidden(folder, name), blocks(), rows.dtype, rows.shape)
    if kind != "tokens":
        return [name]
    save(hidden(folder, f"{modality}.lengths.npy"), np.concatenate(lengths).astype(np.int64))
    return [name, f"{modality}.lengths.npy"]


def install(imported: Imported, names: Iterable[str], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Give files their names, and name them in the card; returns its content.

    Where features are replaced, the card first forgets the old ones: at no time does it name other content than there is.

    Args:
        imported: the dataset.
        names: of the files that lie in its folder under hidden names.
        records: modality -> kind -> what the card says of how they were made.
    """
    folder, names = imported.folder, list(names)
    gone = [f"{m}.{rest}" for m, kinds in records.items() if "tokens" in kinds for rest in ("tokens.npy", "words.json")]
    facts = {name: {"bytes": (path := hidden(folder, name)).stat().st_size, "sha256": file_sha256(path)} for name in names}
    content = copy.deepcopy(dict(imported.content))
    if any(name in content["files"] for name in (*names, *gone)):
        content = _carded(content, folder, {}, (*names, *gone), {})
        _write_card(folder, content)
    for name in names:
        sync(hidden(folder, name))
        hidden(folder, name).replace(folder / name)
    sync_folder(folder)
    content = _carded(content, folder, facts, gone, records)
    _write_card(folder, content)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    return content


def _write_card(folder: Path, content: Mapping[str, Any]) -> None:
    atomic(folder / CARD_FILE, lambda file: file.write(toml(content).encode()))


def _carded(
    content: dict[str, Any], folder: Path, new: Mapping[str, Any], gone: Iterable[str], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of a card with other files: what follows from them is stated anew."""
    files = dict(sorted(({name: facts for name, facts in content["files"].items() if name not in gone} | dict(new)).items()))
    features = {m: dict(kinds) for m, kinds in content.get("features", {}).items()}
    for modality, kinds in records.items():
        features[modality] = features.get(modality, {}) | dict(kinds)
    features = {m: {kind: told for kind, told in kinds.items() if file_of(m, kind) in files} for m, kinds in features.items()}
    shapes = shapes_in(folder, files)
    scalars = {key: value for key, value in content.items() if not isinstance(value, dict)}
    for key in ("wanted", "regions", "word_vectors", "words"):
        scalars.pop(key, None)
    modalities = content["modalities"]
    if wanted := [f"{name}.vectors.npy" for name in modalities if not shapes.get(name)]:
        scalars["wanted"] = wanted
    for key, modality in (("regions", "image"), ("word_vectors", "text")):
        if "sequences" in shapes.get(modality, {}):
            scalars[key] = list(shapes[modality]["sequences"][1:])
    if "text.words.json" in files:
        scalars["words"] = content["words"]
    scalars["version"] = version_of(modalities, content["sizes"], content.get("class_names", ()), files)
    widths = {name: shapes[name]["vectors"][1] for name in modalities if "vectors" in shapes.get(name, {})}
    tables = {"sizes": content["sizes"], "widths": widths, "features": features, "files": files, "import": content["import"]}
    return {**scalars, **tables}


def shapes_in(folder: Path, files: Iterable[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Modality -> "vectors", "sequences" or "tokens" -> shape, of the files that a card names."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in files:
        modality, kind, *rest = name.split(".")
        if rest == ["npy"] and kind in ("vectors", "sequences", "tokens"):
            shapes.setdefault(modality, {})[kind] = np.load(folder / name, mmap_mode="r", allow_pickle=False).shape
    return shapes
