"""Precomputed: embeddings that were made elsewhere, a file per split, so that authors' own code can be scored.

Nothing is learnt and nothing is read of the training data; items are compared by cosine. `path` is a folder with `valid.npz`,
`test.npz` and one file for every further test (`test-twemoji.npz` for test:twemoji), each with an array (n, d) per modality,
named as the modality. Or it is a pattern: `{split}` and `{modality}` stand for theirs (`emb/{split}_{modality}.npy`), and
`{dataset}`, `{noise}`, `{rate}` and `{seed}` for those of the run, 0.2 for a rate of 20 %. Where the path names none of the
latter, all rates have the same numbers.

Rows stand in the dataset's order; or an .npz names them, in an array `image_ids` beside `image`, by the dataset's item ids.

What the code that made the files has seen, nobody checks: it may have chosen by the test labels. The harness tells this method
which items it is shown, and no other. Every run's rows name its files with their sha256, in `versions`; other files, other run.
"""

import glob
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, Shapes, register_method


@register_method("precomputed", needs={"features", "items"})
@dataclass(kw_only=True)
class Precomputed(Method):
    """Embeddings made elsewhere; see the module's docstring."""

    path: str = ""

    def obstacle(self, shapes: Shapes) -> str:
        if not self.path:
            wanted = "a folder with valid.npz and test.npz, in each an array (n, d) per modality"
            return f"precomputed needs embeddings: set precomputed.path=FOLDER, {wanted}"
        return "" if self.files() else f"precomputed finds no file {self._pattern()}"

    def files(self) -> dict[str, str]:
        parts = map(glob.escape, re.split(r"\{split\}|\{modality\}", self._pattern()))
        pattern = Path("*".join(parts))
        found = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))) if self.path else ()
        return {str(file): _sha256(file, file.stat().st_mtime_ns) for file in sorted(found)}

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.read_ = dict[Path, tuple[np.ndarray, np.ndarray | None]]()
        self.width_ = dict[str, int]()

    def embed(self, modality: Modality) -> Embedding:
        items, name = modality.items, modality.name
        file = Path(self._pattern().replace("{split}", items.split.replace(":", "-")).replace("{modality}", name))
        where = f"{name!r} of {file}"
        key = file / name
        if key not in self.read_:
            self.read_.clear()  # one at a time: blocks of a modality come one after the other
            self.read_[key] = _read(file, name, where)
        values, ids = self.read_[key]
        if ids is not None:
            rows = _places(where, ids, items.ids)
        elif len(values) == items.n_items:
            rows = items.rows
        else:
            wanted = f"one row for each of the {items.n_items} items of {items.split}, in the dataset's order"
            raise ValueError(f"{where} must have {wanted}, got {len(values)}; or name them in an array '{name}_ids'")
        self.width_[name] = values.shape[1]
        if len(set(self.width_.values())) > 1:
            raise ValueError(f"embeddings must have one width in all modalities, got {self.width_}")
        return Embedding(name, values[rows])

    def _pattern(self) -> str:
        return self.path if "{split}" in self.path else f"{self.path}/{{split}}.npz"


@lru_cache
def _sha256(file: Path, changed: int) -> str:
    """sha256 of a file as it was `changed` at."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _read(file: Path, name: str, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The embeddings (n, d) of a modality, and the ids of their items or None."""
    if not file.is_file():
        there = ", ".join(sorted(other.name for other in file.parent.glob(f"*{file.suffix}"))) or "nothing of the kind"
        raise ValueError(f"there must be a file {file} for this split, beside it is {there}")
    try:
        with file.open("rb") as content:
            loaded = np.load(content, allow_pickle=False)
            arrays = {key: loaded[key] for key in loaded.files} if isinstance(loaded, np.lib.npyio.NpzFile) else {name: loaded}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} must be an .npz or .npy file of plain arrays, got: {error}") from None
    if name not in arrays:
        raise ValueError(f"{file} must hold an array {name!r}, it has {', '.join(arrays) or 'none'}")
    values = arrays[name]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError(f"{where} must be (n, d) numbers, got {values.dtype} {values.shape}")
    if not (finite := np.isfinite(values).all(axis=1)).all():
        bad = int((~finite).sum())
        raise ValueError(f"{where} must be finite, got NaN or infinity in {bad} rows, the first is row {finite.argmin()}")
    ids = arrays.get(f"{name}_ids")
    if ids is not None and ids.shape != values.shape[:1]:
        raise ValueError(f"'{name}_ids' of {file} must name each of the {len(values)} rows, got shape {ids.shape}")
    return values, ids


def _places(where: str, ids: np.ndarray, wanted: np.ndarray | None) -> np.ndarray:
    """The row of each item that is wanted, by its id."""
    if wanted is None:
        raise ValueError(f"{where} names its items, but the dataset has no item ids: store the rows in its order, without ids")
    row_of = {str(name): row for row, name in enumerate(ids)}
    if len(row_of) < len(ids):
        raise ValueError(f"{where} must name every item once, got {len(ids)} rows of {len(row_of)} items")
    if missing := [str(name) for name in wanted if str(name) not in row_of]:
        raise ValueError(f"{where} must hold every item, it lacks {len(missing)} of {len(wanted)}, such as {missing[0]!r}")
    return np.array([row_of[str(name)] for name in wanted])
