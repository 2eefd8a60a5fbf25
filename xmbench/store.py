"""Results on disk: rows and arrays per run, written whole or not at all, and read as one table whether compacted or not.

A run is `<run_id>.parquet` and, where it has arrays, `<run_id>.npz`; `xmbench store compact` moves the rows of many runs into
few larger files, see `generations`. A run's own file of rows, where there is one, holds before a compacted one.
"""

import itertools
import logging
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xmbench.datasets._files import check_archive
from xmbench.files import Files, LocalFiles, RemoteFiles, StoreError, Write, atomic, cache_folder, is_url, remove_leftovers
from xmbench.generations import Generation, generations
from xmbench.reading import SUMMARY, Finished, chosen, in_order, in_short, of_runs
from xmbench.registry import module_sha
from xmbench.schema import (
    COLUMNS,
    DAMAGE,
    MEASURED,
    SCHEMA,
    SCHEMA_VERSION,
    Newer,
    has_arrays,
    plain,
    read_rows,
    with_arrays,
    write_rows,
)
from xmbench.types import Array
from xmbench.where import columns_in, push_down, where_rows

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "Finished",
    "Store",
    "StoreError",
    "load_results",
    "mark_stale",
    "save_rows",
    "where_rows",
]

_ATTEMPTS = 10  # to read a store whose files are being compacted meanwhile
_T = TypeVar("_T")
_LOG = logging.getLogger("xmbench")


class Store:
    """A folder of results, a place of them under a URL, or one parquet file of them.

    Args:
        path: the folder, made when first written to; a URL that fsspec knows, such as s3://bucket/sweep; or a parquet file, to
            read from.

    Attributes:
        path: the folder or file; under a URL, the folder of this machine for checkpoints, logs and locks.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        self.is_remote = is_url(path)
        self.path = cache_folder(self.name) if self.is_remote else Path(path)
        self._files: Files = RemoteFiles(self.name) if self.is_remote else LocalFiles(self.path)
        self._was_there = False

    def __str__(self) -> str:
        return self.name

    def rows(
        self,
        columns: Sequence[str] | None = None,
        *where: str | None,
        metrics: Collection[str | None] | None = None,
        coded: bool = False,
    ) -> pd.DataFrame:
        """Rows of the store as one tidy frame; empty where there is none. Only the files' parts that are asked for are read.

        A run's own file that cannot be read is set aside under the name `*.damaged`, and its run counts as not done.

        Args:
            columns: which of `COLUMNS`; None for all.
            where: which rows, as in `where_rows`, by filters that must all hold.
            metrics: whose rows, None among them for those without a metric, such as of failed runs; None for all.
            coded: text as categoricals, for many rows.

        Raises:
            StoreError: compacted rows are damaged, or the store has vanished.
            ValueError: a filter of another form.
        """
        names = list(COLUMNS) if columns is None else list(columns)
        parts = self._consistent(lambda: list(self._parts(names, where, metrics)))
        table = in_order(parts, names)
        frame: pd.DataFrame = (table if coded else plain(table)).to_pandas()
        return frame

    def first_rows(self, columns: Sequence[str], where: str | None, n_rows: int) -> tuple[pd.DataFrame, int]:
        """The first so many of `rows`, and how many there are, in the memory that the rows of some of the runs take."""

        def read() -> tuple[pd.DataFrame, int]:
            total, firsts = 0, []
            for part in self._parts(list(columns), [where]):
                total += len(part)
                firsts.append(in_order([part], part.column_names).slice(0, n_rows))
            frame: pd.DataFrame = plain(in_order(firsts, list(columns)).slice(0, n_rows)).to_pandas()
            return frame, total

        return self._consistent(read)

    def parts(self, columns: Sequence[str], *where: str | None) -> Iterator[pa.Table]:
        """The rows of `rows` in parts of no certain order, for more of them than memory may hold at a time.

        They have two columns more, `_file` and `_place`: of each row its run's own file, without the ending, and where in it.
        """
        return map(plain, self._parts(list(columns), where))

    def finished(self) -> dict[str, Finished]:
        """Run id -> summary of every run whose rows and arrays are whole.

        The arrays of a run with a file of rows of its own are read and checked. Of a compacted run their size is looked at,
        and they are read only where it is another one than then.
        """
        return self._consistent(self._finished)

    def _finished(self) -> dict[str, Finished]:
        sizes = self.sizes()
        found: dict[str, Finished] = {}
        for generation, counts in self.generations(sizes):
            table = plain(generation.runs([*SUMMARY, "row_bytes", "array_bytes"])).filter(pa.array(counts))
            then = table["array_bytes"].to_pylist()
            for run, size in zip(
                in_short(table, pc.add(table["row_bytes"], table["array_bytes"]).to_pylist()), then, strict=True
            ):
                if sizes.get(f"{run.run_id}.npz", 0) == size or self.arrays_whole(run.run_id, needed=size > 0):
                    found[run.run_id] = run
        own: dict[str, Finished] = {}
        needed = set()
        for name, table in self._own_files(sizes):
            ids, first = np.unique(np.asarray(table["run_id"].to_pylist(), dtype=object), return_index=True)
            table = table.take(pa.array(first[[run_id not in own for run_id in ids]]))
            each = [sizes[name] + sizes.get(f"{run_id}.npz", 0) for run_id in table["run_id"].to_pylist()]
            own |= {run.run_id: run for run in in_short(table, each)}
            needed |= set(table["run_id"].to_pylist()) if has_arrays(table) else set()
        if self.is_remote:  # where each file was put in one piece, and reading them all takes long
            return {run_id: run for run_id, run in own.items() if f"{run_id}.npz.damaged" not in sizes}
        whole = {run_id: run for run_id, run in own.items() if self.arrays_whole(run_id, needed=run_id in needed)}
        return dict(sorted((found | whole).items()))

    def runs(self, columns: Sequence[str]) -> pd.DataFrame:
        """One row per run, its id and these columns of `OF_RUN`, without a look at arrays, which may prove damaged."""
        return self._consistent(partial(self._runs, list(dict.fromkeys(["run_id", *columns]))))

    def _runs(self, columns: list[str]) -> pd.DataFrame:
        names = self.names()
        compacted = [plain(g.runs(columns)).filter(pa.array(kept)) for g, kept in self.generations(names)]
        own = [table for _, table in self._own_files(names, columns)]
        table = pa.concat_tables([SCHEMA.empty_table().select(columns), *own])
        frame: pd.DataFrame = pa.concat_tables([*compacted, table]).to_pandas()
        return frame.drop_duplicates("run_id", ignore_index=True)

    def run(self, run_id: str) -> pd.DataFrame:
        """The rows of one run."""
        frame: pd.DataFrame = self.table(run_id).to_pandas()
        return frame

    def table(self, run_id: str) -> pa.Table:
        """The rows of one run, as they were written."""

        def read() -> pa.Table:
            if (own := self._read(f"{run_id}.parquet")) is not None:
                return own
            for generation in generations(self.path / "compact"):
                kept = generation.run_ids == run_id
                if kept.any():
                    part = generation.flat(list(COLUMNS), kept).sort_by("place").select(list(COLUMNS))
                    size = generation.runs(["array_bytes"]).filter(pa.array(kept))["array_bytes"][0].as_py()
                    return with_arrays(plain(part).cast(SCHEMA), size > 0)
            return SCHEMA.empty_table()

        return self._consistent(read)

    def holds(self, run_id: str, score_key: str, source_sha: str) -> bool:
        """Whether a run of these keys is finished: a sweep asks before each fit, since another one may have come first."""
        rows = self.table(run_id)
        if not len(rows) or not self.arrays_whole(run_id, needed=has_arrays(rows)):
            return False
        first = rows.slice(0, 1).to_pylist()[0]
        return bool((first["status"], first["score_key"], first["source_sha"]) == ("ok", score_key, source_sha))

    def arrays(self, run_id: str) -> dict[str, Array]:
        """The arrays of one run by name; empty where none are stored."""
        name = f"{run_id}.npz"
        try:
            with self._array_files.open(name) as file:
                check_archive(file)
                with np.load(file, allow_pickle=False) as data:
                    return {name: data[name] for name in data.files}
        except FileNotFoundError:
            return {}
        except DAMAGE as error:
            _set_aside(self._array_files, name, error)
            return {}

    def array_file(self, run_id: str) -> bytes | None:
        """The content of the file of a run's arrays; None where there is none."""
        try:
            with self._array_files.open(f"{run_id}.npz") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, rows: list[dict[str, Any]], arrays: Mapping[str, Array]) -> None:
        """Write one run: its arrays first, its rows last; a run whose rows exist is done.

        Raises:
            StoreError: the disk is full, the folder not writable or gone; nothing half-written is left.
            ValueError: an array of objects.
        """
        if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
            raise ValueError(f"arrays must hold numbers or text, got objects, which need a pickle, in {', '.join(objects)}")
        table = pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=SCHEMA)
        self.write_table(table, partial(_write_arrays, dict(arrays)) if arrays else None)

    def write_table(self, table: pa.Table, arrays: Write | None) -> None:
        """`write`, of rows as a table and arrays by what writes their file, None where there are none."""
        run_id = table["run_id"][0].as_py()
        try:
            self._make()
            if arrays is not None:
                self._files.put(f"{run_id}.npz", arrays)
            rows = with_arrays(table, arrays is not None)
            self._files.put(f"{run_id}.parquet", lambda file: write_rows(rows, file))
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"run {run_id} could not be written to {self} ({reason})") from error

    def drop_arrays(self, run_id: str, prefixes: tuple[str, ...]) -> None:
        """Remove the arrays of a run whose names begin so."""
        arrays = self.arrays(run_id)
        rest = {name: array for name, array in arrays.items() if not name.startswith(prefixes)}
        if len(rest) < len(arrays):
            self._files.put(f"{run_id}.npz", partial(_write_arrays, rest))

    def check_writable(self) -> None:
        """Raise ValueError where results could not be written."""
        try:
            self._make()
            self._files.put(".writable", lambda file: None)
            self._files.remove(".writable")
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"store {self} must be a writable folder or URL ({reason}); choose another with --store") from None

    def remove_unfinished(self) -> None:
        """Remove what processes that are gone had begun to write."""
        remove_leftovers(self.path)

    def checkpoint(self, name: str) -> Path:
        """The file for the checkpoint `name` of an unfinished fit."""
        return self.folder("checkpoints") / f"{name}.pt"

    def log(self, run_id: str) -> Path:
        """The file for what the run prints; its folder is made."""
        return self.folder("logs") / f"{run_id}.log"

    def put_log(self, run_id: str) -> None:
        """Bring the log of a run that has ended to where the results are, if that is not this machine."""
        if self.is_remote and self.log(run_id).exists():
            content = self.log(run_id).read_bytes()
            self._files.put(f"logs/{run_id}.log", lambda file: file.write(content))

    def get_log(self, run_id: str) -> None:
        """Bring the log of a run from where the results are to this machine, if it is there and not here."""
        if self.is_remote and not self.log(run_id).exists():
            with suppress(FileNotFoundError), self._files.open(f"logs/{run_id}.log") as file:
                self.log(run_id).write_bytes(file.read())

    def folder(self, name: str) -> Path:
        """A folder of the store on this machine, made where missing."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def _array_files(self) -> Files:
        return LocalFiles(self.path.parent) if self.path.is_file() else self._files

    def _make(self) -> None:
        """Make the folder, unless it was there before: then it has vanished, with what was in it.

        Raises:
            StoreError: it has vanished.
        """
        if not self.is_remote and not self.path.is_dir():
            self.names()
            self.path.mkdir(parents=True, exist_ok=True)
        self._was_there = True

    def names(self) -> set[str]:
        """Names of all files among the results.

        Raises:
            StoreError: the store was there before and is no more.
        """
        if self._was_there and not self.is_remote and not self.path.exists():
            raise StoreError(f"store {self} has vanished; is its disk still mounted?")
        names = {self.path.name} if self.path.is_file() else self._files.names()
        self._was_there |= bool(names)
        return names

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every file among the results."""
        return dict.fromkeys(self.names(), 0) if self.path.is_file() else {} if not self.names() else self._files.sizes()

    def _consistent(self, read: Callable[[], _T]) -> _T:
        """What `read` gives, once no file goes away while it reads: what is compacted meanwhile has moved."""
        for _ in range(_ATTEMPTS):
            try:
                return read()
            except FileNotFoundError:
                continue
        return read()

    def _own_files(self, names: Collection[str], columns: Sequence[str] = tuple(COLUMNS)) -> Iterator[tuple[str, pa.Table]]:
        """Name and rows of each file that is not compacted."""
        found = [name for name in names if name.endswith(".parquet") and not name.startswith(".")]
        for name in [self.path.name] if self.path.is_file() else sorted(found):
            if (table := self._read(name, columns, missing_ok=False)) is not None:
                yield name, table

    def generations(self, names: Collection[str]) -> list[tuple[Generation, Array]]:
        """Generations, and which of their runs, (n,) bool, are in no newer one and have no file of their own."""
        found, seen = [], {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
        for generation in [] if self.is_remote or self.path.is_file() else generations(self.path / "compact"):
            ids = generation.run_ids
            found.append((generation, np.array([run_id not in seen for run_id in ids], dtype=bool)))
            seen.update(ids)
        return found

    def _parts(
        self, columns: list[str], filters: Sequence[str | None], metrics: Collection[str | None] | None = None
    ) -> Iterator[pa.Table]:
        """Tables with `columns`, text as dictionaries where compacted, and `_file` and `_place`, which say their order."""
        where = [text for text in filters if text is not None]
        for text in where:  # a wrong filter is an error where there are no rows, too
            where_rows(SCHEMA.empty_table().to_pandas(), text)
        names = self.names()
        compacted = self.generations(names)
        needed = list(dict.fromkeys([*columns, *itertools.chain(*map(columns_in, where)), "run_id", "metric"]))
        own = []
        for name, table in self._own_files(names):
            file = pa.DictionaryArray.from_arrays(np.zeros(len(table), np.int32), [name.removesuffix(".parquet")])
            place = pa.array(np.arange(len(table), dtype=np.int32))
            own.append(table.select(needed).append_column("_file", file).append_column("_place", place))
        if own:
            yield chosen(pa.concat_tables(own).unify_dictionaries(), where, metrics).select([*columns, "_file", "_place"])
        only: dict[str, list[str | None]] = {} if metrics is None else {"metric": list(metrics)}
        for text in where:
            only |= push_down(text, MEASURED)
        for generation, kept in compacted:
            kept = np.logical_and.reduce([kept, *(of_runs(generation, text) for text in where)])
            if kept.any():
                part = generation.flat(needed, kept, only)
                part = chosen(part.rename_columns([*needed, "run", "_place"]), where, metrics)
                file = pa.DictionaryArray.from_arrays(part["run"].combine_chunks(), pa.array(generation.run_ids, pa.string()))
                yield part.append_column("_file", file).select([*columns, "_file", "_place"])

    def _read(self, name: str, columns: Sequence[str] = tuple(COLUMNS), *, missing_ok: bool = True) -> pa.Table | None:
        """The rows in a file of its own; None where it was damaged and is set aside, or is not there and need not be."""
        path = self.path if self.path.is_file() else self.path / name
        try:
            with self._files.open(name) if path != self.path else path.open("rb") as file:
                return read_rows(file, columns)
        except Newer as error:
            raise StoreError(f"{path} was {error}") from None
        except FileNotFoundError:
            if missing_ok:
                return None
            raise
        except DAMAGE as error:
            if path == self.path:  # no folder of ours: leave it alone
                raise StoreError(f"store {path} must be a folder, or a parquet file of results ({error})") from None
            _set_aside(self._files, name, error)
            return None

    def arrays_whole(self, run_id: str, *, needed: bool = False) -> bool:
        """False where the arrays are damaged, or were set aside and not made anew; a run may have none."""
        name = f"{run_id}.npz"
        try:
            with self._array_files.open(name) as opened:
                check_archive(opened)
                with zipfile.ZipFile(opened) as file:
                    if (broken := file.testzip()) is not None:
                        raise zipfile.BadZipFile(f"array {broken} has another checksum")
        except FileNotFoundError:
            return not needed and not self._array_files.has(f"{name}.damaged")
        except DAMAGE as error:
            _set_aside(self._array_files, name, error)
            return False
        return True


def _write_arrays(arrays: dict[str, Array], file: IO[bytes]) -> None:
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def save_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write rows of a store as one parquet file, which `load_results` reads as it does a folder."""
    table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, lambda file: write_rows(table, file))


def mark_stale(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `stale`: the source file of the run's method is another one than when it ran."""
    now = {name: module_sha(name) for name in rows["implementation"].dropna().unique()}
    current, then = rows["implementation"].astype(object).map(now), rows["source_sha"].astype(object)
    return rows.assign(stale=current.notna() & then.notna() & (current != then))


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """All rows of a store, a folder, a URL or one parquet file, as one tidy frame; see `COLUMNS`."""
    return Store(path).rows()


def _set_aside(files: Files, name: str, error: Exception) -> None:
    """Rename a file whose content is damaged, so that its run is done again.

    Raises:
        OSError: `error`, where it is the system's: what cannot be read now may well be whole.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    path = f"{files}/{name}"
    try:
        files.move(name, f"{name}.damaged")
        _LOG.warning("%s is damaged (%s); set aside as %s.damaged, its run counts as not done", path, error, name)
    except OSError:
        _LOG.warning("%s is damaged (%s) and could not be set aside; its run counts as not done", path, error)
