"""Results on disk: one parquet file of rows and one npz of arrays per run, written whole or not at all; read as one table."""

import ast
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from xmbench.registry import closest, module_sha
from xmbench.types import Array

SCHEMA_VERSION = 1

_TEXT = (
    "run_id fit_key score_key status error dataset dataset_params features noise_scheme noise_sha noise_options method "
    "implementation method_version source_sha params protocol protocol_sha valid_labels tuning trial spec profile split fold "
    "network selection direction metric device git_commit versions started"
).split()
_WHOLE = "noise_seed seed epoch n_queries n_networks threads schema_version".split()
_REAL = "noise_rate realised_rate value chance fit_seconds eval_seconds cpu_seconds peak_rss".split()
_ORDER = (
    "run_id fit_key score_key status error dataset dataset_params features noise_scheme noise_rate noise_seed realised_rate "
    "noise_sha noise_options method implementation method_version source_sha params seed protocol protocol_sha valid_labels "
    "tuning trial spec profile split fold network selection epoch direction metric value chance n_queries n_networks collapsed "
    "oracle from_description fit_seconds eval_seconds cpu_seconds peak_rss device threads git_commit versions started "
    "schema_version"
).split()

COLUMNS: dict[str, pa.DataType] = {
    name: pa.string() if name in _TEXT else pa.int64() if name in _WHOLE else pa.float64() if name in _REAL else pa.bool_()
    for name in _ORDER
}
"""Column -> type of a row; one row per run, split, network, selection, direction and metric."""

_SCHEMA = pa.schema(list(COLUMNS.items()))
_ADDED = ("collapsed",)  # since the first files of this schema, which are read as if it were empty
_DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
_LOG = logging.getLogger("xmbench")


class StoreError(OSError):
    """A store that cannot be used: full, or written by a newer xmbench."""


@dataclass(frozen=True)
class Finished:
    """A run in the store, in short."""

    run_id: str
    status: str
    score_key: str
    source_sha: str
    fit_seconds: float
    method: str
    dataset: str
    params: str
    dataset_params: str


class Store:
    """A folder of results, or one parquet file of them.

    Args:
        path: the folder, made when first written to; or a parquet file, to read from.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rows(self) -> pd.DataFrame:
        """All rows as one tidy frame with the columns `COLUMNS`; empty where there is no run.

        A file that cannot be read is set aside under the name `*.damaged`, and its run counts as not done.
        """
        files = [self.path] if self.path.is_file() else sorted(self.path.glob("*.parquet"))
        tables = [table for path in files if (table := self._read(path)) is not None]
        table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def finished(self) -> dict[str, Finished]:
        """Run id -> summary of every run whose rows and arrays are whole."""
        frame = self.rows().drop_duplicates("run_id")
        records = frame[list(Finished.__dataclass_fields__)].itertuples(index=False, name=None)
        runs = {run.run_id: run for run in (Finished(*record) for record in records)}
        return {run_id: run for run_id, run in runs.items() if self._arrays_whole(run_id)}

    def run(self, run_id: str) -> pd.DataFrame:
        """The rows of one run."""
        table = self._read(self.path / f"{run_id}.parquet")
        frame: pd.DataFrame = (table if table is not None else _SCHEMA.empty_table()).to_pandas()
        return frame

    def arrays(self, run_id: str) -> dict[str, Array]:
        """The arrays of one run by name; empty where none are stored."""
        path = self._array_file(run_id)
        if not path.exists():
            return {}
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except _DAMAGE as error:
            _set_aside(path, error)
            return {}

    def write(self, rows: list[dict[str, Any]], arrays: Mapping[str, Array]) -> None:
        """Write one run: its arrays first, its rows last; a run whose rows exist is done.

        Raises:
            StoreError: the disk is full or the folder not writable; nothing half-written is left.
            ValueError: an array of objects.
        """
        run_id = rows[0]["run_id"]
        if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
            raise ValueError(f"arrays must hold numbers or text, got objects, which need a pickle, in {', '.join(objects)}")
        table = pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=_SCHEMA)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if arrays:
                _atomic(self.path / f"{run_id}.npz", lambda file: np.savez_compressed(file, **dict(arrays)))  # type: ignore[arg-type]
            _atomic(self.path / f"{run_id}.parquet", lambda file: _write_table(table, file))
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"run {run_id} could not be written to {self.path} ({reason})") from error

    def drop_arrays(self, run_id: str, prefixes: tuple[str, ...]) -> None:
        """Remove the arrays of a run whose names begin so."""
        arrays = self.arrays(run_id)
        rest = {name: array for name, array in arrays.items() if not name.startswith(prefixes)}
        if len(rest) < len(arrays):
            _atomic(self._array_file(run_id), lambda file: np.savez_compressed(file, **rest))  # type: ignore[arg-type]

    def check_writable(self) -> None:
        """Raise ValueError where results could not be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"store {self.path} must be a writable folder ({reason}); choose another with --store") from None

    def remove_unfinished(self) -> None:
        """Remove what processes that this one started and stopped had begun to write."""
        for path in self.path.glob(f".*.{os.getpid()}-*"):
            path.unlink(missing_ok=True)

    def checkpoint(self, name: str) -> Path:
        """The file for the checkpoint `name` of an unfinished fit."""
        folder = self.path / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.pt"

    def _array_file(self, run_id: str) -> Path:
        return (self.path.parent if self.path.is_file() else self.path) / f"{run_id}.npz"

    def _read(self, path: Path) -> pa.Table | None:
        """The rows in a file; None where it is not there, or was damaged and is set aside."""
        if not path.exists():
            return None
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            newest = max((version or 0 for version in table["schema_version"].to_pylist()), default=0)
            if newest <= SCHEMA_VERSION:
                for name in _ADDED:
                    if name not in table.column_names:
                        table = table.append_column(name, pa.nulls(len(table), COLUMNS[name]))
                return table.select(_ORDER).cast(_SCHEMA)
        except _DAMAGE as error:
            if path == self.path:  # no folder of ours: leave it alone
                raise StoreError(f"store {path} must be a folder, or a parquet file of results ({error})") from None
            _set_aside(path, error)
            return None
        raise StoreError(
            f"{path} was written by a newer xmbench (schema {newest}, this one reads {SCHEMA_VERSION}); update xmbench"
        )

    def _arrays_whole(self, run_id: str) -> bool:
        """False where the arrays are damaged, or were set aside and not made anew; a run may have none."""
        path = self._array_file(run_id)
        if not path.exists():
            return not _aside(path).exists()
        try:
            with zipfile.ZipFile(path) as file:
                if (broken := file.testzip()) is not None:
                    raise zipfile.BadZipFile(f"array {broken} has another checksum")
        except _DAMAGE as error:
            _set_aside(path, error)
            return False
        return True


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _set_aside(path: Path, error: Exception) -> None:
    """Rename a file whose content is damaged, so that its run is done again.

    Raises:
        OSError: `error`, where it is the system's: what cannot be read now may well be whole.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    try:
        path.replace(_aside(path))
        _LOG.warning("%s is damaged (%s); set aside as %s, its run counts as not done", path, error, _aside(path).name)
    except OSError:
        _LOG.warning("%s is damaged (%s) and could not be set aside; its run counts as not done", path, error)


def _atomic(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under a temporary name, to the disk, and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getppid()}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_table(table: pa.Table, file: IO[bytes]) -> None:
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def save_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write rows of a store as one parquet file, which `load_results` reads as it does a folder."""
    table = pa.Table.from_pandas(rows, schema=_SCHEMA, preserve_index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    _atomic(path, lambda file: _write_table(table, file))


def mark_stale(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `stale`: the source file of the run's method is another one than when it ran."""
    now = {name: module_sha(name) for name in rows["implementation"].dropna().unique()}
    current = rows["implementation"].map(now)
    return rows.assign(stale=current.notna() & rows["source_sha"].notna() & (current != rows["source_sha"]))


_QUERY_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.BinOp, ast.BitAnd, ast.BitOr,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant,
    ast.List, ast.Tuple,
)  # fmt: skip


def where_rows(rows: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """The rows for which `where` holds: pandas query syntax over columns and constants, without function calls.

    Raises:
        ValueError: another syntax, or a name that is no column.
    """
    if where is None:
        return rows
    try:
        nodes = list(ast.walk(ast.parse(where, mode="eval")))
    except SyntaxError as error:
        raise ValueError(
            f"--where must be an expression such as 'method == \"mrl\" and noise_rate >= 0.4', got {where!r} ({error.msg})"
        ) from None
    for node in nodes:
        if not isinstance(node, _QUERY_NODES):
            raise ValueError(f"--where may compare columns with constants, nothing else, got {ast.unparse(node)!r}")
        if isinstance(node, ast.Name) and node.id not in rows.columns:
            raise closest("column", node.id, rows.columns)
    try:
        chosen = rows.eval(where, engine="python")
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"--where {where!r} cannot be evaluated: {error}") from None
    if not (isinstance(chosen, pd.Series) and pd.api.types.is_bool_dtype(chosen)):
        raise ValueError(f"--where must be true or false for every row, such as 'noise_rate >= 0.4', got {where!r}")
    return rows[chosen]


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """All rows of a store, a folder or one parquet file, as one tidy frame; see `COLUMNS`."""
    return Store(path).rows()
