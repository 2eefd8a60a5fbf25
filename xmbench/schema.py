"""The rows of a store: their columns and types, what of them belongs to a run, and reading them out of parquet files."""

import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmbench.files import StoreError

WITHOUT_RESULT = ("failed", "timeout", "oom", "crashed")
"""Statuses of runs that have begun and brought nothing: an error, too long, too much memory, the end of their process."""

SCHEMA_VERSION = 1

TEXT = (
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
    name: pa.string() if name in TEXT else pa.int64() if name in _WHOLE else pa.float64() if name in _REAL else pa.bool_()
    for name in _ORDER
}
"""Column -> type of a row; one row per run, split, network, selection, direction and metric."""

SCHEMA = pa.schema(list(COLUMNS.items()))
MEASURED = "split fold network selection epoch direction metric value chance n_queries collapsed".split()
"""Columns that differ between the rows of one run."""
OF_RUN = [name for name in _ORDER if name not in MEASURED]

_ARRAYS = b"xmbench.arrays"
_ADDED = ("from_description", "collapsed")  # since the first files of this schema, which are read as if they were empty
DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile, pa.ArrowException)
"""What reading a damaged file may raise."""


class Newer(StoreError):
    """A file of a newer xmbench."""


def read_rows(file: IO[bytes] | Any, columns: Sequence[str] = _ORDER) -> pa.Table:
    """The rows in a parquet file, checked by the checksums of its pages, with exactly these columns, run_id among them.

    Raises:
        Newer: its schema is a later one.
        one of DAMAGE: it is no such file.
    """
    wanted = list(dict.fromkeys([*columns, "schema_version"]))
    return conform(pq.ParquetFile(file, page_checksum_verification=True).read(wanted), columns)


def conform(table: pa.Table, columns: Sequence[str] = _ORDER) -> pa.Table:
    """The table with these columns of the schema, run_id among them, and their types."""
    newest = max((version or 0 for version in table["schema_version"].cast(pa.int64()).to_pylist()), default=0)
    if newest > SCHEMA_VERSION:
        raise Newer(f"written by a newer xmbench (schema {newest}, this one reads {SCHEMA_VERSION}); update xmbench")
    table = completed(table, columns).cast(pa.schema([SCHEMA.field(name) for name in columns], table.schema.metadata))
    check_run_ids(table["run_id"])
    return table


def completed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """These columns of the table; those that came after it was written are empty."""
    for name in _ADDED:
        if name in columns and name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), COLUMNS[name]))
    return table.select(list(columns))


def check_run_ids(run_ids: pa.ChunkedArray) -> None:
    """Raise ValueError where an id could not be the name of a file: files may have been written by others."""
    named = pc.match_substring_regex(pc.unique(run_ids), r"^[\w-]{1,64}$")
    if not pc.all(named, skip_nulls=False, min_count=0).as_py():
        raise ValueError("run ids must be of letters, digits, - and _: files are named by them")


def check_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table; ValueError where a column has another type than in the schema, dictionaries of it aside."""
    for field in table.schema:
        wanted = schema.field(field.name).type
        if field.type not in (wanted, pa.dictionary(pa.int32(), wanted)):
            raise ValueError(f"column {field.name} must be of {wanted}, got {field.type}")
    return table


def with_arrays(table: pa.Table, there_are: bool) -> pa.Table:
    """The rows of a run, with a note whether it has arrays: a run whose arrays are gone is not whole."""
    return table.replace_schema_metadata({_ARRAYS: b"1"} if there_are else None)


def has_arrays(table: pa.Table) -> bool:
    """Whether the rows of a run note that it has arrays."""
    return _ARRAYS in (table.schema.metadata or {})


def write_rows(table: pa.Table, file: IO[bytes], **options: Any) -> None:
    """Write a table as parquet: compressed, each page with its checksum."""
    pq.write_table(table, file, compression="zstd", write_page_checksum=True, **options)


def plain(table: pa.Table) -> pa.Table:
    """The table with dictionaries of text written out, in chunks whose text an offset of 32 bits can reach."""
    types = [pa.string() if pa.types.is_dictionary(field.type) else field.type for field in table.schema]
    schema = pa.schema(list(zip(table.column_names, types, strict=True)))
    return pa.Table.from_batches(table.to_batches(max_chunksize=1_000_000), table.schema).cast(schema)


def coded(table: pa.Table) -> pa.Table:
    """The table with text as dictionaries."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(i, field.name, table.column(i).dictionary_encode())
    return table


def same_bits(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables are equal, NaN like any other number."""
    if first.schema != second.schema or len(first) != len(second):
        return False
    for a, b in zip(first.combine_chunks().columns, second.combine_chunks().columns, strict=True):
        if pa.types.is_floating(a.type):
            a, b = (pa.chunked_array([chunk.view(pa.int64()) for chunk in part.chunks], pa.int64()) for part in (a, b))
        if not a.equals(b):
            return False
    return True
