"""Faults done to sweeps again and again: how many are survived, runs lost, values changed, finished runs done twice.

    python scripts/soak.py                          # 100 kills at random moments, and every other kind of fault
    python scripts/soak.py --only kills --kills 9 --backend dask

Every kind is a function of tests/faults.py. The exit code is 1 where anything was lost, changed, done twice or not survived.
"""

import atexit
import shutil
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path
from random import Random

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fault_bench import Bench
from faults import FAULTS

TIMES = {
    "hangs": 2, "memory": 1, "interrupts": 9, "concurrent": 4, "full_disk": 8, "read_only": 1, "clock": 2, "lost_renames": 12,
    "corruption": 16, "compaction": 24,
}  # fmt: skip
OF_ONE_MACHINE = ("memory", "full_disk", "compaction")  # of the store and the child alone, whatever the back end
COLUMNS = ("injected", "survived", "lost", "changed", "redone")


@click.command()
@click.option("--kills", default=100, show_default=True, help="SIGKILLs of child, supervisor and main process, together.")
@click.option("--scale", default=1.0, show_default=True, help="Of the number of times of every other fault.")
@click.option("--only", help=f"Kinds of faults, separated by commas: {', '.join(FAULTS)}.")
@click.option("--backend", type=click.Choice(["loky", "dask"]), default="loky", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the stores of all cases behind.")
def main(kills: int, scale: float, only: str | None, backend: str, seed: int, keep: bool) -> None:
    """Inject faults and print a line for each kind."""
    times = {"kills": kills, **{name: max(1, round(n * scale)) for name, n in TIMES.items()}}
    names = only.split(",") if only else [name for name in times if backend == "loky" or name not in OF_ONE_MACHINE]
    begun, totals, problems = time.monotonic(), dict.fromkeys(COLUMNS, 0), []
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    click.echo(f"{'fault':<48}" + "".join(f"{column:>10}" for column in COLUMNS))
    bench = Bench(folder, backend)
    atexit.register(bench.close)
    bench.measure()
    for name in names:
        for kind, figures in FAULTS[name](bench, Random(f"{seed}/{name}"), times[name]).items():
            line = dict(zip(COLUMNS, astuple(figures), strict=False))
            totals = {column: totals[column] + n for column, n in line.items()}
            problems += figures.problems
            click.echo(f"{kind:<48}" + "".join(f"{n:>10}" for n in line.values()))
            for problem in figures.problems:
                click.echo(f"    {problem}", err=True)
    minutes = (time.monotonic() - begun) / 60
    click.echo(f"{'total':<48}" + "".join(f"{n:>10}" for n in totals.values()) + f"   in {minutes:.0f} min")
    if keep or problems:
        click.echo(f"stores and what the commands said: {folder}", err=True)
    else:
        shutil.rmtree(folder)
    sys.exit(bool(problems or totals["survived"] < totals["injected"]))


if __name__ == "__main__":
    main()
