"""Care of stores: is everything in one whole, several into one, rows out to one file."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from xmbench.files import StoreError, Write, atomic
from xmbench.generations import Block, Generation, all_generations
from xmbench.schema import COLUMNS, DAMAGE, SCHEMA, Newer, read_rows, same_bits
from xmbench.store import Store

Prefer = Literal["first", "newest"]
_KEYS = ["split", "fold", "network", "selection", "direction", "metric"]
_COMPARED = [*_KEYS, "epoch", "value", "n_queries"]


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not whole.

    Attributes:
        file: name of the file.
        what: what is wrong with it.
        runs: how many runs are done again once it is set aside.
    """

    file: str
    what: str
    runs: int = 1


def verify(store: Store, *, repair: bool = False, quick: bool = False) -> list[Problem]:
    """Read everything: all rows and arrays with their checksums, ids beside names, runs that are there twice.

    Args:
        store: a folder.
        repair: set damaged files aside as `*.damaged`, so that their runs are done again.
        quick: of rows read the runs alone, of arrays the list of them, which a cut file does not have.

    Raises:
        StoreError: a file of a newer xmbench is in it, which is not for this one to judge.
    """
    if store.is_remote or store.path.is_file():
        raise ValueError(f"store {store} must be a folder to be verified")
    names = store.names()
    problems = [problem for name in sorted(names) for problem in _problems_of(store, name, quick)]
    for generation in all_generations(store.path / "compact"):
        problems += _problems_compacted(generation, store, quick)
    if repair:
        for problem in problems:
            damaged = store.path / problem.file
            if damaged.exists():
                damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
    return problems


def _problems_of(store: Store, name: str, quick: bool) -> Iterator[Problem]:
    """What is wrong with a file of rows or arrays."""
    path = store.path / name
    try:
        if name.endswith(".npz"):
            _read_arrays(path, quick)
        elif name.endswith(".parquet"):
            with path.open("rb") as file:
                ids = set(read_rows(file, ["run_id"] if quick else list(COLUMNS))["run_id"].to_pylist())
            if len(path.stem) == 16 and ids != {path.stem}:
                yield Problem(name, f"holds {', '.join(sorted(map(str, ids))) or 'no run'}, not the run of its name")
    except FileNotFoundError:
        return  # compacted meanwhile
    except Newer as error:
        raise StoreError(f"{path} was {error}") from None
    except DAMAGE as error:
        yield Problem(name, f"damaged: {error}")


def _read_arrays(path: Path, quick: bool) -> None:
    if quick:
        zipfile.ZipFile(path).close()
        return
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            arrays[name]


def _problems_compacted(generation: Generation, store: Store, quick: bool) -> list[Problem]:
    """What is wrong with a generation and, where nothing is, with the arrays that its runs had."""
    n_runs = 0
    try:
        ids = generation.run_ids
        n_runs = len(ids)
        if quick:
            table = Block(generation.runs(["n_rows", "array_bytes"]), generation.rows(["run"]))
        else:
            table = generation.block(np.ones(n_runs, dtype=bool))
        counts = np.bincount(table.rows["run"].to_numpy(), minlength=n_runs)
        if len(set(ids)) < n_runs or not np.array_equal(counts, table.runs["n_rows"].to_numpy()):
            raise StoreError("runs are in it twice, or rows of runs are missing")
    except Newer:
        raise
    except (*DAMAGE, IndexError) as error:
        return [
            Problem(f"compact/{path.name}", f"damaged: {error}", n_runs)
            for path in (generation.runs_file, generation.rows_file)
        ]
    sizes = zip(ids, table.runs["array_bytes"].to_pylist(), strict=True)
    lost = [run_id for run_id, size in sizes if size and not (store.path / f"{run_id}.npz").exists()]
    return [Problem(f"{run_id}.npz", "is gone; its run is done again") for run_id in lost]


@dataclass(frozen=True)
class Merged:
    """What a merge did: runs taken, runs that were there with the same values, and those that differ and were refused."""

    taken: int
    same: int
    refused: list[str]


def merge(sources: Sequence[Store], into: Store, prefer: Prefer | None = None) -> Merged:
    """Write the runs of several stores into one.

    A finished run holds before one without a result; runs with equal measured values are one; of others `prefer` decides.

    Args:
        sources: from where, in this order.
        into: where to; what is in it comes first.
        prefer: "first" keeps the first of two different results, "newest" the one that was started last, None neither.
    """
    there = set(into.finished())
    taken, same, refused = 0, 0, []
    for source in sources:
        for run_id, table in whole_runs(source):
            if run_id in there:
                known = into.table(run_id)
                if same_values(known, table):
                    same += 1
                    continue
                better = _better(known, table, prefer)
                if better is None:
                    refused.append(run_id)
                if not better:
                    continue
            into.write_table(table, _copied(source, run_id))
            there.add(run_id)
            taken += 1
    return Merged(taken, same, refused)


def whole_runs(store: Store) -> Iterator[tuple[str, pa.Table]]:
    """Id and rows of each finished run whose arrays are whole."""
    finished = set(store.finished())
    for part in store.parts(list(COLUMNS)):
        part = part.sort_by([("_file", "ascending"), ("_place", "ascending")])
        keys = part.select(["_file", "run_id"]).to_pandas()
        for (_, run_id), numbers in keys.groupby(["_file", "run_id"]).indices.items():
            if run_id in finished:  # the first file of a run that is in two
                finished.discard(run_id)
                yield str(run_id), part.take(pa.array(numbers)).select(list(COLUMNS)).cast(SCHEMA)


def same_values(first: pa.Table, second: pa.Table) -> bool:
    """Whether two results of a run have the same status and, bit for bit, the same measured values, in any order."""
    order = [(name, "ascending") for name in _COMPARED]
    one, other = (table.select([*_COMPARED, "status"]).sort_by(order) for table in (first, second))
    return same_bits(one, other)


def _better(known: pa.Table, other: pa.Table, prefer: Prefer | None) -> bool | None:
    """Whether another result of a run takes the place of the known one; None where it is not for us to say."""
    known_ok, other_ok = (table["status"][0].as_py() == "ok" for table in (known, other))
    if known_ok != other_ok:
        return bool(other_ok)
    if not other_ok or prefer == "first":
        return False
    if prefer == "newest":
        return bool((other["started"][0].as_py() or "") > (known["started"][0].as_py() or ""))
    return None


def _copied(source: Store, run_id: str) -> Write | None:
    """What writes a copy of a run's file of arrays; None where there is none."""
    content = source.array_file(run_id)
    return None if content is None else lambda file: file.write(content)


def export(store: Store, to: Path, where: str | None = None) -> int:
    """Write the rows of a store to one new file, parquet or CSV by its ending; returns how many."""
    if to.suffix not in (".parquet", ".csv"):
        raise ValueError(f"FILE must end in .parquet or .csv, got {to.name}")
    if to.exists():
        raise ValueError(f"{to} must be a new file, and exists; remove it or choose another name")
    to.parent.mkdir(parents=True, exist_ok=True)
    n_rows = 0

    def write(file: IO[bytes]) -> None:
        nonlocal n_rows
        options = {"compression": "zstd", "write_page_checksum": True} if to.suffix == ".parquet" else {}
        with (pq.ParquetWriter if options else pyarrow.csv.CSVWriter)(file, SCHEMA, **options) as writer:
            for part in store.parts(list(COLUMNS), where):
                writer.write_table(part.select(list(COLUMNS)).cast(SCHEMA))
                n_rows += len(part)

    atomic(to, write)
    return n_rows
