"""Evaluation at scale: time per query-gallery pair from 10^4 to 10^6 items, and memory beside the features' file.

    python scripts/bench_scale.py                 # R@K and MAP, 2,000 queries
    python scripts/bench_scale.py --full          # then 10,000 queries, 1,000,000 items, every metric, curves and rankings

Features lie in a file that is mapped, (n, 512) float32; what is timed is embedding and measuring both directions, as a run
does. Every figure is taken in a process of its own, on one thread; anonymous memory is sampled every 10 ms (Linux).
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from xmbench import Embedding, Method, Modality, PairedSet, Rows, one_hot, scores
from xmbench.device import fast_matmul, keep_freed_memory, limit_threads
from xmbench.evaluate import embed_split, measure
from xmbench.method import MethodInfo
from xmbench.spec import Protocol, load_protocol

DIM, CLASSES = 512, 100
TURNS = 5
RECALLS = ("r@1", "r@5", "r@10", "medr", "meanr", "rsum")
GOALS = {"R@K": 1.5, "MAP": 2.5}
FULL_QUERIES, FULL_ITEMS, FULL_BYTES = 10_000, 1_000_000, 2e9


class AsGiven(Method):
    """The features are the embedding."""

    info = MethodInfo("as_given", frozenset({"vectors"}))

    def fit(self, train: PairedSet, context: object) -> None:
        pass

    def embed(self, modality: Modality) -> Embedding:
        return Embedding(modality.name, np.asarray(modality.vectors))


class AnonymousMemory(threading.Thread):
    """The largest anonymous memory of this process while it runs, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._halt = 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._halt.wait(0.01):
            self.peak = max(self.peak, anonymous_bytes())

    def ended(self) -> int:
        self._halt.set()
        self.join()
        return max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def write_planted(path: Path, n_items: int, n_queries: int, n_classes: int = CLASSES) -> None:
    """Gallery and queries, a block at a time: items around centres of classes, each query near the item that is its own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n_items)
    centres = rng.standard_normal((n_classes, DIM)) / 8
    gallery = np.lib.format.open_memmap(path / "gallery.npy", "w+", np.float32, (n_items, DIM))
    for start in range(0, n_items, 10_000):
        block = labels[start : start + 10_000]
        gallery[start : start + len(block)] = centres[block] + rng.standard_normal((len(block), DIM), dtype=np.float32)
    own = np.arange(n_queries) * (n_items // n_queries)
    queries = gallery[own] + 4 * rng.standard_normal((n_queries, DIM), dtype=np.float32)
    np.save(path / "queries.npy", queries)
    np.savez(path / "truth.npz", gallery=labels, queries=labels[own], own=own)


def planted_split(path: Path, *, labels: bool, pairs: bool) -> PairedSet:
    """The split in the folder `path`; its features stay in their files."""
    with np.load(path / "truth.npz") as truth:
        hot = {name: one_hot(truth[name], CLASSES) if labels else None for name in ("queries", "gallery")}
        own = truth["own"]
    modalities = tuple(
        Modality(name=name, vectors=Rows(np.load(path / f"{name}.npy", mmap_mode="r")), labels=hot[name]) for name in hot
    )
    return PairedSet(modalities=modalities, pairs=np.stack([np.arange(len(own)), own], axis=1) if pairs else None)


JOBS: dict[str, Callable[[Path], tuple[PairedSet, Protocol, bool]]] = {
    "R@K": lambda path: (
        planted_split(path, labels=False, pairs=True),
        replace(load_protocol("pairs"), metrics=RECALLS),
        False,
    ),
    "MAP": lambda path: (
        planted_split(path, labels=True, pairs=False),
        replace(load_protocol("default"), metrics=("map",)),
        False,
    ),
    "all": lambda path: (planted_split(path, labels=True, pairs=True), load_protocol("default"), True),
}


def run_job(job: str, folder: str) -> None:
    """Print CPU and wall seconds, memory and a few numbers of one job as JSON; in a process of its own."""
    path = Path(folder)
    limit_threads(1)
    fast_matmul()
    keep_freed_memory()
    for n_classes in (2, CLASSES):  # compiles the kernels for many relevant items and for few
        with tempfile.TemporaryDirectory() as small:
            write_planted(Path(small), 400, 100, n_classes)
            measured_by(job, Path(small))
    before = anonymous_bytes()
    memory, cpu, wall = AnonymousMemory(), time.process_time(), time.perf_counter()
    values = product_alone(path) if job == "product" else measured_by(job, path)
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"cpu": seconds[0], "wall": seconds[1], "before": before, "peak": memory.ended(), "values": values}))


def measured_by(job: str, path: Path) -> dict[str, float]:
    if job == "product":
        return {}
    split, protocol, everything = JOBS[job](path)
    method = AsGiven()
    embeddings = embed_split(method, split, protocol.dtype, 0)
    found = measure(method, split, embeddings, protocol, curves=everything, rankings=everything)
    return {f"{m.direction} {m.metric}": m.value for m in found.measures if m.direction != "mean"}


def product_alone(path: Path) -> dict[str, float]:
    """As many products of one tile as the pairs take: no exact number is found faster."""
    queries, gallery = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("queries", "gallery"))
    rows = np.array(queries[: scores.ROWS_PER_TILE])
    columns = np.array(gallery[: scores.COLUMNS_PER_TILE])
    for _ in range(max(1, round(len(queries) * len(gallery) / (len(rows) * len(columns))))):
        scores._product(rows, columns)
    return {}


def in_child(job: str, path: Path) -> dict[str, Any]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import bench_scale; bench_scale.run_job(*sys.argv[2:])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), job, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def bench_sizes(sizes: list[int], n_queries: int, scratch: Path | None) -> None:
    print(
        f"{n_queries:,} queries, d = {DIM}, both directions; ns of CPU per query-gallery pair, best of {TURNS} for small sizes"
    )
    print(
        f"{'items':>10}{'job':>9}{'ns/pair':>10}{'x 1st':>8}{'x product':>11}{'wall s':>9}{'anonymous MB':>14}{'of these':>10}"
    )
    first: dict[str, float] = {}
    for n_items in sizes:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            write_planted(Path(folder), n_items, n_queries)
            per_pair: dict[str, float] = {}
            for job in ("product", *GOALS):
                runs = [in_child(job, Path(folder)) for _ in range(min(TURNS, max(sizes) // n_items))]
                best = min(runs, key=lambda run: run["cpu"])
                per_pair[job] = 1e9 * best["cpu"] / (n_queries * n_items)
                ratio = per_pair[job] / first.setdefault(job, per_pair[job])
                peak, growth = best["peak"] / 1e6, (best["peak"] - best["before"]) / 1e6
                over = per_pair[job] / per_pair["product"]
                print(
                    f"{n_items:>10,}{job:>9}{per_pair[job]:>10.2f}{ratio:>8.2f}{over:>11.2f}{best['wall']:>9.1f}"
                    f"{peak:>14.0f}{growth:>+10.0f}"
                )
                if n_items == sizes[-1] and job in GOALS:
                    print(f"  goal {job} within {GOALS[job]}x: {'met' if ratio <= GOALS[job] else 'MISSED'}", flush=True)


def bench_full(scratch: Path | None) -> None:
    n_pairs = FULL_QUERIES * FULL_ITEMS
    print(f"\n{FULL_QUERIES:,} queries, {FULL_ITEMS:,} items, both directions: the default protocol, curves and rankings")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_planted(Path(folder), FULL_ITEMS, FULL_QUERIES)
        run = in_child("all", Path(folder))
    for name, value in run["values"].items():
        print(f"  {name:32}{value:.6f}")
    cpu, peak = run["cpu"], run["peak"]
    print(f"  CPU {cpu / 60:.1f} min, wall {run['wall'] / 60:.1f} min, {1e9 * cpu / n_pairs:.1f} ns per pair")
    print(f"  anonymous memory: {peak / 1e6:.0f} MB at most, {run['before'] / 1e6:.0f} MB before")
    print(f"  goal below {FULL_BYTES / 1e9:g} GB: {'met' if peak < FULL_BYTES else 'MISSED'}")


@click.command()
@click.option("--sizes", default="10000,100000,1000000", show_default=True, help="Gallery sizes, the first one the measure.")
@click.option("--queries", default=2000, show_default=True, type=click.IntRange(min=100))
@click.option("--full/--no-full", default=False, help="Then the full size: 4 GB of files, minutes to an hour.")
@click.option(
    "--scratch", type=click.Path(path_type=Path, file_okay=False), help="Folder of the files; the system's by default."
)
def main(sizes: str, queries: int, full: bool, scratch: Path | None) -> None:
    """Time evaluation by the size of the gallery."""
    if sizes:
        bench_sizes([int(size) for size in sizes.split(",")], queries, scratch)
    if full:
        bench_full(scratch)


if __name__ == "__main__":
    main()
