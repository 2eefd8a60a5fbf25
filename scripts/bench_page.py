"""Size of the page and seconds to write it, for a made-up store that keeps every kind of array.

    python scripts/bench_page.py --methods 25 --rates 5 --seeds 4 --datasets 2

By default 1,000 runs of two data sets: 30 epochs, 462 test items in ten classes, embeddings of 32 dimensions of the first seed.
Of the size, 5.6 MB are plotly.js and DataTables.
"""

import resource
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from xmbench.report.page import COLUMNS, write_page
from xmbench.repro import scorecard

N_ITEMS, N_CLASSES, N_EPOCHS, DIM = 462, 10, 30, 32
DIRECTIONS = ("image2text", "text2image", "mean")
SELECTIONS = ("best_valid", "last")


class MadeUp:
    """A store in memory whose arrays are drawn when they are read."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows
        self._seeds = dict(zip(rows["run_id"], rows["seed"], strict=True))

    def rows(self) -> pd.DataFrame:
        return self._rows

    def arrays(self, run_id: str) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(int(run_id, 16))
        arrays = {f"history/{name}": rng.random(N_EPOCHS) for name in ("loss", "valid")}
        arrays["history/epoch"] = np.arange(N_EPOCHS, dtype=float)
        for selection, direction in product(SELECTIONS, DIRECTIONS[:2]):
            arrays[f"pr/test/{selection}/mean/{direction}"] = np.stack([np.linspace(0, 1, 11), rng.random(11), rng.random(11)])
            arrays[f"per_query/test/{selection}/mean/{direction}/map"] = rng.random(N_ITEMS).astype(np.float32)
        if self._seeds[run_id] == 0:
            arrays["class_names"] = np.array([f"class {i}" for i in range(N_CLASSES)])
            for name in ("image", "text"):
                arrays[f"labels/test/{name}"] = np.eye(N_CLASSES, dtype=bool)[np.arange(N_ITEMS) % N_CLASSES]
                arrays[f"input/test/{name}"] = rng.normal(size=(N_ITEMS, DIM)).astype(np.float16)
                arrays[f"embedding/test/best_valid/mean/{name}"] = rng.normal(size=(N_ITEMS, DIM)).astype(np.float16)
        return arrays


def made_up_rows(n_methods: int, n_rates: int, n_seeds: int, n_datasets: int) -> pd.DataFrame:
    """Rows of MAP, one run per method, rate, seed and data set."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    cells = product(range(n_datasets), range(n_methods), range(n_rates), range(n_seeds))
    for number, (dataset, method, rate, seed) in enumerate(cells):
        facts = dict.fromkeys(COLUMNS) | {
            "run_id": f"{number:016x}", "status": "ok", "dataset": f"data{dataset}", "noise_scheme": "symmetric",
            "noise_rate": rate / n_rates, "noise_seed": seed, "noise_sha": f"{rate:08x}{seed:08x}",
            "method": f"method_{method}", "implementation": f"method_{method}", "method_version": "1",
            "seed": seed, "protocol": "default",
            "protocol_sha": "0123456789abcdef", "valid_labels": "clean", "tuning": "none", "n_networks": 1, "device": "cpu",
            "fit_seconds": 100 * rng.random(), "versions": '{"numpy": "2.3.0", "torch": "2.9.0"}', "git_commit": "c" * 40,
            "started": f"2026-01-01T00:00:{number % 60:02}+00:00", "split": "test", "network": "mean", "metric": "map",
            "params": '{"batch_size": 100, "epochs": 30, "hidden": 4096, "lr": 0.0001}', "chance": 0.1,
        }  # fmt: skip
        rows += [
            facts | {"selection": selection, "direction": direction, "value": rng.random()}
            for selection, direction in product(SELECTIONS, DIRECTIONS)
        ]
    return pd.DataFrame(rows)


@click.command()
@click.option("--methods", default=25, show_default=True)
@click.option("--rates", default=5, show_default=True)
@click.option("--seeds", default=4, show_default=True)
@click.option("--datasets", default=2, show_default=True)
def main(methods: int, rates: int, seeds: int, datasets: int) -> None:
    """Write the page of a made-up store and print what it took."""
    rows = made_up_rows(methods, rates, seeds, datasets)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        wall, cpu = time.perf_counter(), time.process_time()
        write_page(MadeUp(rows), rows, path, scorecard(rows))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        megabytes = path.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{rows['run_id'].nunique()} runs: {megabytes:.2f} MB, {cpu:.1f} s of CPU, {wall:.1f} s, {peak:.0f} MB of memory")


if __name__ == "__main__":
    main()
