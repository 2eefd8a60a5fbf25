"""What an import costs: rows per second and the peak of memory, of features that are far larger than that peak.

Usage: python scripts/bench_import.py [ROWS] [FEATURES]
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def main(rows: int = 1_000_000, width: int = 64) -> None:
    """Import two .npy files of this size with labels, and print figures."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["XMBENCH_DATA"] = folder
        from xmbench.importing import Request, import_data

        for name, seed in (("image", 0), ("text", 1)):
            values = np.lib.format.open_memmap(f"{name}.npy", "w+", np.float32, (rows, width))
            rng = np.random.default_rng(seed)
            for start in range(0, rows, 1 << 16):
                values[start : start + (1 << 16)] = rng.standard_normal((min(1 << 16, rows - start), width), dtype=np.float32)
            values.flush()
            del values
        np.save("labels.npy", np.arange(rows) % 100)
        before = _peak()
        begin = time.perf_counter()
        files = {name: [f"{name}.npy"] for name in ("image", "text")}
        import_data(Request(name="large", features=files, labels=["labels.npy"]))
        seconds = time.perf_counter() - begin
        size = sum(path.stat().st_size for path in Path("large").iterdir())
        print(f"{rows:,} rows x {width}, {size / 1e9:.2f} GB written: {seconds:.0f} s, {rows / seconds:,.0f} rows per second")
        print(f"peak of memory: {_peak() / 1e6:.0f} MB, before the import {before / 1e6:.0f} MB")


def _peak() -> float:
    """Bytes; of the memory map's pages too, as far as they are in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
