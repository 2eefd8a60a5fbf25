"""Speed and memory of a store of many runs: a report's tables, what is finished, one run, and compaction.

    python scripts/bench_store.py --runs 100000

The store is made of real rows, those of results/reference, under new ids, seeds and names of datasets, their values jittered;
it is written as compaction writes it. Each job runs in a fresh process, so that its wall time has the start of Python in it and
its peak memory is its own.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmbench.compact import RUNS_PER_GENERATION, compact
from xmbench.generations import Block, block_of, joined, write_generation
from xmbench.schema import SCHEMA
from xmbench.store import Store

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
N_DATASETS = 10  # copies of each dataset under another name; the other copies are further seeds
WALL_GOAL, MEMORY_GOAL = 5.0, 1.0  # seconds and GB of a report's tables
OWN_RUNS = 2_000  # runs with files of their own that are compacted

CHOSEN = "metric == 'map' and split == 'test' and selection == 'best_valid' and network == 'mean' and direction == 'mean'"
CLI = "from xmbench.cli import main; main()"
OPEN = "import sys; from xmbench.store import Store; store = Store(sys.argv[1]); "
JOBS = {
    "table": [
        f"{OPEN}rows = store.rows(['dataset', 'method', 'noise_rate', 'value'], {CHOSEN!r}, coded=True); "
        "print(rows.groupby(['dataset', 'method', 'noise_rate'], observed=True)['value'].agg(['mean', 'std']).unstack())",
        "{store}",
    ],
    "report --only map": [CLI, "report", "--only", "map", "--store", "{store}", "--out", "{out}"],
    "what is finished": [f"{OPEN}print(len(store.finished()))", "{store}"],
    "the rows of one run": [f"{OPEN}print(store.run(sys.argv[2]))", "{store}", "{run_id}"],
    "results --where": [
        CLI, "results", "--store", "{store}", "--where", f"dataset == 'wikipedia3' and seed < 9 and {CHOSEN}",
    ],
    "results": [CLI, "results", "--store", "{store}"],
    "report": [CLI, "report", "--store", "{store}", "--out", "{out}"],
}  # fmt: skip
GOALS = ("table", "report --only map")
QUICK = [name for name in JOBS if name != "report"]  # which reads the arrays of every run for its figures


def template() -> Block:
    """The runs of the reference that measure the default metrics."""
    table = Store(REFERENCE).rows()
    sizes = table.groupby("run_id")["run_id"].transform("size")
    parts = table[sizes >= 60].groupby("run_id", sort=False)
    return joined([block_of(pa.Table.from_pandas(part, schema=SCHEMA, preserve_index=False), 12_000, 0) for _, part in parts])


def copies(of: Block, first: int, n_runs: int, array_bytes: int) -> Block:
    """So many runs made of those of `of`: new ids, seeds and names of datasets, values jittered."""
    rng = np.random.default_rng(first)
    n = len(of.runs)
    numbers = np.arange(first, first + n_runs)
    which, copy = numbers % n, numbers // n
    runs = of.runs.take(pa.array(which))
    datasets = [f"{name}{k % N_DATASETS}" for name, k in zip(runs["dataset"].to_pylist(), copy, strict=True)]
    values = {
        "run_id": pa.array([f"{int(k) * 0x9E3779B97F4A7C15 % 2**64:016x}" for k in numbers]),
        "dataset": pa.array(datasets),
        "seed": pc.add(runs["seed"], pa.array(3 * (copy // N_DATASETS))),
        "array_bytes": pa.array(np.full(n_runs, array_bytes)),
    }
    for name, column in values.items():
        runs = runs.set_column(runs.column_names.index(name), name, column)
    starts = np.searchsorted(of.rows.sort_by("run")["run"].to_numpy(), np.arange(n + 1))
    by_run = of.rows.sort_by([("run", "ascending"), ("place", "ascending")])
    counts = np.diff(starts)[which]
    picked = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in which])
    rows = by_run.take(pa.array(picked)).set_column(0, "run", pa.array(np.repeat(np.arange(n_runs), counts), pa.int32()))
    value = rows["value"].to_numpy() * rng.uniform(0.98, 1.0, len(rows))
    return Block(runs, rows.set_column(rows.column_names.index("value"), "value", pa.array(value, from_pandas=True)))


def make_store(folder: Path, n_runs: int) -> None:
    """Fill a folder with compacted runs and their files of arrays."""
    content = io.BytesIO()
    np.savez_compressed(content, values=np.zeros(10))
    of = template()
    compacted = Store(folder).folder("compact")
    started, n_rows = time.perf_counter(), 0
    for first in range(0, n_runs, RUNS_PER_GENERATION):
        block = copies(of, first, min(RUNS_PER_GENERATION, n_runs - first), len(content.getvalue()))
        write_generation(compacted, [block])
        n_rows += len(block.rows)
        for run_id in block.runs["run_id"].to_pylist():
            (folder / f"{run_id}.npz").write_bytes(content.getvalue())
    size = sum(path.stat().st_size for path in compacted.iterdir()) / 1e6
    files = len(list(compacted.glob("*.parquet")))
    print(f"{n_runs} runs, {n_rows} rows in {files} files of {size:.0f} MB; made in {time.perf_counter() - started:.1f} s")


def measure(name: str, arguments: list[str], **names: str) -> None:
    """Print wall seconds and peak memory of a job in a fresh process."""
    code, *rest = arguments
    command = [sys.executable, "-c", code, *(part.format(**names) for part in rest)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        wall, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{name} failed: {errors.read().decode()}")
    cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9
    goal = ""
    if name in GOALS:
        met = wall < WALL_GOAL and memory < MEMORY_GOAL
        goal = f"   goal: below {WALL_GOAL:g} s and {MEMORY_GOAL:g} GB: {'met' if met else 'MISSED'}"
    print(f"  {name:20s} {wall:7.2f} s wall {cpu:7.2f} s CPU {memory:6.2f} GB{goal}", flush=True)


def time_compaction(folder: Path) -> None:
    """Print how long it takes to move runs out of their own files."""
    store, of = Store(folder), template()
    block = copies(of, 0, OWN_RUNS, 0)
    made = write_generation(store.folder("made"), [block])
    flat = made.flat([*SCHEMA.names], np.ones(OWN_RUNS, dtype=bool)).sort_by([("run", "ascending"), ("place", "ascending")])
    table = flat.select(SCHEMA.names).cast(SCHEMA)
    ends = np.cumsum(made.runs(["n_rows"])["n_rows"].to_numpy())
    started = time.perf_counter()
    for first, end in zip([0, *ends], ends, strict=False):
        store.write_table(table.slice(first, end - first), None)
    written = time.perf_counter() - started
    started = time.perf_counter()
    moved = compact(store).runs
    seconds = time.perf_counter() - started
    print(f"  {moved} runs written in {written:.1f} s, compacted in {seconds:.1f} s: {1e3 * seconds / moved:.2f} ms per run")


@click.command()
@click.option("--runs", default=100_000, show_default=True, type=click.IntRange(min=1), help="Runs of the store.")
@click.option("--jobs", default=",".join(QUICK), show_default=True, help="Comma-separated names; `report` takes minutes.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it is, or is made.  [default: temporary]")
def main(runs: int, jobs: str, folder: Path | None) -> None:
    """Time a store of many runs."""
    names = jobs.split(",")
    if unknown := set(names) - set(JOBS):
        raise click.BadParameter(f"jobs must be among {', '.join(JOBS)}, got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary) / "store"
        if not place.exists():
            place.mkdir(parents=True)  # in another process, whose memory would count as that of the jobs started here
            make = f"from pathlib import Path; from bench_store import make_store; make_store(Path({str(place)!r}), {runs})"
            subprocess.run(
                [sys.executable, "-c", make], check=True, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
            )
        run_id = next(path.stem for path in place.glob("*.npz"))
        for name in names:
            measure(name, JOBS[name], store=str(place), out=f"{temporary}/out", run_id=run_id)
        time_compaction(Path(temporary) / "own")


if __name__ == "__main__":
    main()
