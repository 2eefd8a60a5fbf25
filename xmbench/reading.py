"""What is read of a store: the rows that are asked for, in their order, and each run in short."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmbench.generations import Generation
from xmbench.schema import COLUMNS, OF_RUN, SCHEMA, TEXT, coded, plain
from xmbench.types import Array
from xmbench.where import about, columns_in, where_rows


@dataclass(frozen=True)
class Finished:
    """A run in the store, in short.

    Attributes:
        trial: number of the trial, "" for a run that counts.
        error: the last line of what went wrong, "" where nothing did.
        peak_rss: bytes; None, as what else is a number, where it was not measured.
        bytes: what its rows and arrays took on the disk when they were written.
    """

    run_id: str
    status: str
    score_key: str
    source_sha: str
    fit_seconds: float
    method: str
    dataset: str
    params: str
    dataset_params: str
    implementation: str = ""
    noise_scheme: str = ""
    noise_rate: float = 0.0
    seed: int = 0
    trial: str = ""
    protocol: str = ""
    eval_seconds: float | None = None
    peak_rss: float | None = None
    threads: int | None = None
    device: str = ""
    started: str = ""
    error: str = ""
    bytes: int = 0


SUMMARY = [name for name in Finished.__dataclass_fields__ if name in COLUMNS]


def in_short(table: pa.Table, sizes: Sequence[int]) -> Iterator[Finished]:
    """The summaries of runs, one per row."""
    columns = [pc.fill_null(table[name], "") if name in TEXT else table[name] for name in SUMMARY]
    values = {name: column.to_pylist() for name, column in zip(SUMMARY, columns, strict=True)}
    values["error"] = [error and (error.strip().splitlines() or [""])[-1] for error in values["error"]]
    values["bytes"] = list(sizes)
    return map(Finished, *(values[name] for name in Finished.__dataclass_fields__))


def of_runs(generation: Generation, where: str) -> Array:
    """(n,) bool: which runs of a generation may have rows that a filter chooses."""
    part = about(where, OF_RUN)
    if part is None:
        return np.ones(len(generation.run_ids), dtype=bool)
    frame = plain(generation.runs(columns_in(part))).to_pandas()
    kept = np.zeros(len(frame), dtype=bool)
    kept[where_rows(frame, part).index] = True
    return kept


def chosen(table: pa.Table, where: Sequence[str], metrics: Collection[str | None] | None) -> pa.Table:
    """The rows of the metrics for which all filters hold."""
    if metrics is not None:
        wanted = pa.array([*metrics], pa.string())
        table = table.filter(pc.is_in(plain(table.select(["metric"]))["metric"], value_set=wanted))
    for text in where:
        frame = plain(table.select(columns_in(text))).to_pandas()
        table = table.take(pa.array(where_rows(frame, text).index.to_numpy()))
    return table


def in_order(parts: Sequence[pa.Table], columns: list[str]) -> pa.Table:
    """All parts as one table, text as dictionaries, in the order of the names of the runs' own files, or those they had."""
    if not parts:
        return SCHEMA.empty_table().select(columns)
    table = pa.concat_tables(map(coded, parts)).unify_dictionaries().combine_chunks()
    file = table["_file"].combine_chunks()
    file = file.chunk(0) if isinstance(file, pa.ChunkedArray) else file
    names = np.asarray(file.dictionary.to_pylist(), dtype=object)
    rank = np.empty(len(names), dtype=np.int32)
    rank[np.argsort(names)] = np.arange(len(names), dtype=np.int32)
    ranks, places = rank[file.indices.to_numpy()].astype(np.int64), table["_place"].to_numpy()
    table = table.select(columns)
    if (np.diff((ranks << 32) + places) < 0).any():
        table = table.take(pa.array(np.lexsort((places, ranks))))
    return table
