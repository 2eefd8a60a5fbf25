"""Compacted rows: generations of many runs each, as two parquet files, of the runs and of their measured values.

`<number>-<token>.runs.parquet` has one row per run, with what all of its rows share; `<number>-<token>.rows.parquet` has the
rest of every row, the number of its run in the former, and its place among the rows of the run. The latter is sorted so that
a reader who wants one split, metric and selection skips most of it. The file of runs is written last: a generation without it
does not count. It names the generations that it was merged from, which do not count from then on.
"""

import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmbench.files import StoreError, atomic
from xmbench.schema import (
    COLUMNS,
    DAMAGE,
    MEASURED,
    OF_RUN,
    SCHEMA_VERSION,
    TEXT,
    Newer,
    check_run_ids,
    check_types,
    coded,
    completed,
    plain,
    same_bits,
    write_rows,
)
from xmbench.types import Array

ROWS_PER_GROUP = 50_000  # rows of a parquet file that are read or skipped together
_SORTED = [(name, "ascending") for name in ("split", "metric", "selection", "network", "direction", "run", "place")]
_SIZES = {"n_rows": pa.int64(), "row_bytes": pa.int64(), "array_bytes": pa.int64()}
_RUNS_SCHEMA = pa.schema([*((name, COLUMNS[name]) for name in OF_RUN), *_SIZES.items()])
_ROWS_SCHEMA = pa.schema([("run", pa.int32()), ("place", pa.int32()), *((name, COLUMNS[name]) for name in MEASURED)])
_NAME = re.compile(r"\d{6}-[0-9a-f]{8}")
_REPLACES = b"xmbench.replaces"

Only = Mapping[str, Collection[str | None]]


@dataclass(frozen=True)
class Block:
    """Rows of some runs in two tables, the forms of the two files of a generation.

    Attributes:
        runs: what the rows of each run share; n_rows; row_bytes and array_bytes of its own files, 0 where there are none.
        rows: what differs; `run` is the number of a row of `runs`.
    """

    runs: pa.Table
    rows: pa.Table


@dataclass(frozen=True)
class Generation:
    """A generation on the disk; what is read of it is kept while it is in use."""

    folder: Path
    name: str

    @property
    def runs_file(self) -> Path:
        return self.folder / f"{self.name}.runs.parquet"

    @property
    def rows_file(self) -> Path:
        return self.folder / f"{self.name}.rows.parquet"

    @cached_property
    def replaces(self) -> list[str]:
        """Names of the generations that it was merged from."""
        metadata = self._guarded(lambda: pq.read_schema(self.runs_file).metadata or {})
        return [str(name) for name in json.loads(metadata.get(_REPLACES, b"[]"))]

    @cached_property
    def run_ids(self) -> Array:
        """(n,) ids of its runs in ascending order."""
        return np.asarray(self.runs(["run_id"])["run_id"].to_pylist(), dtype=object)

    def runs(self, columns: Sequence[str]) -> pa.Table:
        """These columns of its runs, of `OF_RUN` and n_rows, row_bytes and array_bytes; text as dictionaries."""
        names = list(dict.fromkeys([*columns, "schema_version"]))
        read = {"read_dictionary": [name for name in names if name in TEXT and name != "run_id"]}

        def checked() -> pa.Table:
            table = pq.ParquetFile(self.runs_file, page_checksum_verification=True, **read).read(columns=names)
            if (newest := pc.max(table["schema_version"]).as_py() or 0) > SCHEMA_VERSION:
                raise Newer(f"{self.runs_file} was written by a newer xmbench (schema {newest}); update xmbench")
            if "run_id" in names:
                check_run_ids(table["run_id"])
            return check_types(completed(table, names), _RUNS_SCHEMA)

        table: pa.Table = self._guarded(checked)
        return table.select(list(columns))

    def rows(self, columns: Sequence[str], only: Only = MappingProxyType({})) -> pa.Table:
        """These columns of its rows, of `MEASURED`, run and place, text as dictionaries; without most rows but `only` those."""

        def read() -> pa.Table:
            coded = [name for name in columns if name in TEXT]
            with pq.ParquetFile(self.rows_file, read_dictionary=coded, page_checksum_verification=True) as file:
                groups = [i for i in range(file.num_row_groups) if _may_hold(file.metadata.row_group(i), only)]
                return check_types(completed(file.read_row_groups(groups, columns=list(columns)), columns), _ROWS_SCHEMA)

        table: pa.Table = self._guarded(read)
        return table

    def block(self, kept: Array) -> Block:
        """The rows of those of its runs for which `kept`, (n,) bool, holds."""
        rows = plain(self.rows(_ROWS_SCHEMA.names))
        rows = rows.filter(pa.array(kept[rows["run"].to_numpy()]))
        numbers = np.cumsum(kept, dtype=np.int32) - 1
        rows = rows.set_column(0, "run", pa.array(numbers[rows["run"].to_numpy()], pa.int32()))
        return Block(plain(self.runs(_RUNS_SCHEMA.names)).filter(pa.array(kept)), rows)

    def flat(self, columns: Sequence[str], kept: Array, only: Only = MappingProxyType({})) -> pa.Table:
        """Whole rows: these columns of `COLUMNS`, text as dictionaries, and `run` and `place`.

        Args:
            columns: which.
            kept: (n,) bool, of which runs.
            only: column of `MEASURED` -> values; rows with others may be left out.
        """
        rows = self.rows(["run", "place", *(name for name in columns if name in MEASURED)], only)
        if not kept.all():
            rows = rows.filter(pa.array(kept[rows["run"].to_numpy()]))
        of_run = [name for name in columns if name in OF_RUN]
        runs = coded(self.runs(of_run)).unify_dictionaries().combine_chunks()
        for name in of_run:
            rows = rows.append_column(name, runs[name].take(rows["run"]))
        return rows.select([*columns, "run", "place"])

    def remove(self) -> None:
        """Remove its files, the one without which it does not count first."""
        self.runs_file.unlink(missing_ok=True)
        self.rows_file.unlink(missing_ok=True)

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except DAMAGE as error:
            if isinstance(error, StoreError | FileNotFoundError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise StoreError(
                f"{self.folder / self.name} is damaged ({error}); `xmbench store verify --repair` sets it aside, and its runs "
                "are done again"
            ) from error


def all_generations(folder: Path) -> list[Generation]:
    """Those that are there, the newest first."""
    found = {path.name.removesuffix(".runs.parquet") for path in folder.glob("*.runs.parquet")}
    return [Generation(folder, name) for name in sorted(found, reverse=True) if _NAME.fullmatch(name)]


def generations(folder: Path) -> list[Generation]:
    """Those that count, the newest first: of a run that is in several, the newest one holds."""
    found = all_generations(folder)
    replaced = {name for generation in found for name in generation.replaces}
    return [generation for generation in found if generation.name not in replaced]


def clear_replaced(folder: Path) -> None:
    """Remove what a compaction that was killed left: generations that are replaced, and those without a file of runs."""
    counting = {generation.name for generation in generations(folder)}
    for path in sorted(folder.glob("*.parquet"), key=lambda path: path.name.endswith(".rows.parquet")):
        name = path.name.partition(".")[0]
        if _NAME.fullmatch(name) and name not in counting:
            path.unlink(missing_ok=True)


def write_generation(folder: Path, blocks: Iterable[Block], replaces: Sequence[str] = ()) -> Generation:
    """Write runs, each in one of the blocks only, as a new generation, the newest one, and read it back.

    Args:
        folder: of the generations.
        blocks: the runs.
        replaces: names of the generations whose runs are among them.

    Raises:
        StoreError: what was read back differs, and is removed.
    """
    block = joined(list(blocks))
    numbers = [int(path.name[:6]) for path in folder.glob("*.parquet") if _NAME.match(path.name)]
    made = Generation(folder, f"{max(numbers, default=0) + 1:06d}-{uuid.uuid4().hex[:8]}")
    runs = block.runs.replace_schema_metadata({_REPLACES: json.dumps(list(replaces)).encode()})
    atomic(made.rows_file, lambda file: write_rows(block.rows, file, row_group_size=ROWS_PER_GROUP))
    whole = same_bits(plain(made.rows(_ROWS_SCHEMA.names)), block.rows)
    if whole:
        atomic(made.runs_file, lambda file: write_rows(runs, file))
        whole = same_bits(plain(made.runs(_RUNS_SCHEMA.names)), block.runs)
    if not whole:
        made.remove()
        raise StoreError(f"{made.rows_file} could not be read back as it was written; the disk may be failing")
    return made


def block_of(table: pa.Table, row_bytes: int, array_bytes: int) -> Block:
    """The block of one run.

    Args:
        table: its rows, with the columns `COLUMNS`.
        row_bytes: of its own file of rows.
        array_bytes: of its file of arrays, 0 where there is none.
    """
    runs = table.slice(0, 1).select(OF_RUN)
    for name, size in zip(_SIZES, (len(table), row_bytes, array_bytes), strict=True):
        runs = runs.append_column(name, pa.array([size], pa.int64()))
    places = pa.array(np.arange(len(table), dtype=np.int32))
    rows = table.select(MEASURED).add_column(0, "place", places)
    return Block(runs, rows.add_column(0, "run", pa.array(np.zeros(len(table), dtype=np.int32))))


def joined(blocks: Sequence[Block]) -> Block:
    """One block of several: runs by id, rows in the order of the file."""
    runs = pa.concat_tables([block.runs for block in blocks]).cast(_RUNS_SCHEMA)
    order = np.argsort(np.asarray(runs["run_id"].to_pylist()))
    position = np.empty(len(order), dtype=np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    first = np.repeat(np.cumsum([0, *(len(block.runs) for block in blocks)])[:-1], [len(block.rows) for block in blocks])
    rows = pa.concat_tables([block.rows for block in blocks]).cast(_ROWS_SCHEMA)
    rows = rows.set_column(0, _ROWS_SCHEMA.field("run"), pa.array(position[rows["run"].to_numpy() + first]))
    return Block(
        runs.take(pa.array(order)).combine_chunks().replace_schema_metadata(None),
        rows.sort_by(_SORTED).combine_chunks().replace_schema_metadata(None),
    )


def _may_hold(group: Any, only: Only) -> bool:
    """Whether a row group may have rows with these values, by the smallest and largest ones in it."""
    for i in range(group.num_columns):
        values, column = only.get(group.column(i).path_in_schema), group.column(i)
        if values is None or column.physical_type != "BYTE_ARRAY":  # Arrow aborts on damaged bounds of numbers
            continue
        if (bounds := column.statistics) is not None and bounds.has_null_count:
            empty = None in values and bounds.null_count > 0
            texts = [value for value in values if value is not None] if bounds.has_min_max else []
            if not empty and not any(bounds.min <= text <= bounds.max for text in texts):
                return False
    return True


def shares_a_run(table: pa.Table) -> bool:
    """Whether all rows agree in the columns of a run."""
    return all(pc.count_distinct(table[name], mode="all").as_py() == 1 for name in OF_RUN)
