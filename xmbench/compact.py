"""Moving the rows of runs out of their own files into few larger ones, at any time, whoever reads or writes the store.

The steps of a batch, of which a stop between any two loses no run and counts none twice:

1. runs' own files and small generations are read;
2. a new generation is written, read back and compared; the small ones in it stop to count, the runs' own files still do;
3. the small generations are removed;
4. each run's own file is taken away under another name; if it is the one that was read it is removed, else put back.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from xmbench.files import StoreError, remove_leftovers
from xmbench.generations import Block, Generation, block_of, clear_replaced, shares_a_run, write_generation
from xmbench.schema import DAMAGE, Newer, read_rows
from xmbench.store import Store
from xmbench.types import Array

RUNS_PER_GENERATION = 10_000  # at which a generation is full; one with fewer than half of them is merged into the next
MANY = 1_000  # runs with files of their own at which a sweep compacts the store as it ends

_OWN = re.compile(r"[0-9a-f]{16}\.parquet")
_AWAY = ".away"


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        runs: how many were moved.
        left: how many files hold no single whole run, and stay as they are.
    """

    runs: int
    left: int


@dataclass
class _Batch:
    """What becomes one generation: its blocks, the generations that it replaces, and the files of single runs by state."""

    blocks: list[Block] = field(default_factory=list)
    merged: list[Generation] = field(default_factory=list)
    own: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    @property
    def n_runs(self) -> int:
        return sum(len(block.runs) for block in self.blocks)

    def is_worth_it(self) -> bool:
        return bool(self.own) or len(self.merged) > 1


def compact(store: Store) -> Compacted:
    """Move the rows of runs with files of their own into larger ones, and merge what earlier compactions left small.

    Raises:
        ValueError: the store is no folder of this machine.
        StoreError: another compaction is under way, the disk is full, or a file could not be read back as it was written.
    """
    if store.is_remote or store.path.is_file():
        raise ValueError(
            f"store {store} must be a folder to be compacted; copy it into one: xmbench store merge {store} --into FOLDER"
        )
    folder = store.folder("compact")
    with _alone(folder, store):
        remove_leftovers(folder)
        for path in folder.glob(f"*{_AWAY}"):
            _put_back(path, store.path / path.name.removesuffix(_AWAY))
        clear_replaced(folder)
        sizes = store.sizes()
        moved, batch = 0, _Batch()
        for generation, counts in reversed(store.generations(sizes)):
            if counts.sum() < RUNS_PER_GENERATION / 2:
                batch.merged.append(generation)
                batch.blocks.append(_measured_again(generation.block(counts), store, sizes))
        own = [store.path / name for name in sorted(sizes) if _OWN.fullmatch(name)]
        for path in own:
            if (part := _single_run(path, sizes)) is not None:
                batch.blocks.append(part[0])
                batch.own[path] = part[1]
            if batch.n_runs >= RUNS_PER_GENERATION:
                moved += _write(batch, folder, store)
                batch = _Batch()
        if batch.is_worth_it():
            moved += _write(batch, folder, store)
    return Compacted(moved, len(own) - moved)


def auto_compact(store: Store) -> Compacted | None:
    """`compact` where many runs have files of their own; None where not, or where another process is at it."""
    if store.is_remote or store.path.is_file() or sum(map(bool, map(_OWN.fullmatch, store.sizes()))) < MANY:
        return None
    try:
        return compact(store)
    except Busy:
        return None


class Busy(StoreError):
    """Another compaction is under way."""


@contextmanager
def _alone(folder: Path, store: Store) -> Iterator[None]:
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            yield
    except Timeout:
        raise Busy(f"store {store} is being compacted by another process; try again later") from None


def _single_run(path: Path, sizes: dict[str, int]) -> tuple[Block, tuple[int, ...]] | None:
    """The run of a file, and the file's state; None where it does not hold exactly the one that it is named after."""
    try:
        with path.open("rb") as file:
            state, table = _state(os.fstat(file.fileno())), read_rows(file)
    except Newer:
        return None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        return None  # a reader of the store sets it aside
    if not len(table) or not shares_a_run(table) or table["run_id"][0].as_py() != path.stem:
        return None
    return block_of(table, state[1], sizes.get(f"{path.stem}.npz", 0)), state


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _measured_again(block: Block, store: Store, sizes: dict[str, int]) -> Block:
    """The block with the sizes of arrays that were rewritten since, such as without embeddings, where they are whole."""
    ids = block.runs["run_id"].to_pylist()
    then = block.runs["array_bytes"].to_numpy()
    now = np.array([sizes.get(f"{run_id}.npz", 0) for run_id in ids], dtype=np.int64)
    changed = [int(i) for i in np.flatnonzero((now != then) & (now > 0)) if store.arrays_whole(ids[i])]
    new: Array = then.copy()
    new[changed] = now[changed]
    place = block.runs.column_names.index("array_bytes")
    return Block(block.runs.set_column(place, "array_bytes", pa.array(new, pa.int64())), block.rows)


def _write(batch: _Batch, folder: Path, store: Store) -> int:
    """Steps 2 to 4; returns how many runs were moved."""
    try:
        write_generation(folder, batch.blocks, [generation.name for generation in batch.merged])
    except OSError as error:
        raise StoreError(f"store {store} could not be compacted ({error.strerror or error}); it is as it was") from error
    for generation in batch.merged:
        generation.remove()
    for path, state in batch.own.items():
        away = folder / (path.name + _AWAY)
        with suppress(FileNotFoundError):
            path.rename(away)
            if _state(away.stat()) == state:
                away.unlink()
            else:  # written again since it was read
                _put_back(away, path)
    return len(batch.own)


def _put_back(away: Path, path: Path) -> None:
    """Give a file its name back, unless there is a newer one."""
    with suppress(FileExistsError):
        os.link(away, path)
    away.unlink()
