"""Progress on stderr, with the time left: of a sweep, and of what takes long inside one run."""

import sys
import time
from types import TracebackType
from typing import Any

from xmbench.plan import Cell

SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(42), duration(600), duration(7_300)
    ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """A bar on a terminal, a line per finished run elsewhere; each finished run advances by what it was expected to take.

    Args:
        groups: cells to run, those that share a fit together.
        seconds: fit key -> expected seconds.
        jobs: runs at a time, for the time left before the first one has ended.
    """

    def __init__(self, groups: list[list[Cell]], seconds: dict[str, float], jobs: int = 1) -> None:
        self._n_runs = sum(map(len, groups))
        self._share = {group[0].fit_key: seconds[group[0].fit_key] / len(group) for group in groups}
        self._expected = sum(seconds.values())
        self._jobs = max(1, min(jobs, len(groups)))
        self._finished, self._worked = 0, 0.0
        self._started = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and self._n_runs:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(f"{self._left()} left", total=self._n_runs)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, run_id: str, status: str, cell: Cell) -> None:
        """One run has ended."""
        self._finished += 1
        self._worked += self._share[cell.fit_key]
        name = f"{cell.run.method} on {cell.run.dataset}, {cell.run.noise}, seed {cell.run.seed}: {status}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._finished, description=f"{self._left()} left; {name}")
        else:
            print(f"[{self._finished}/{self._n_runs}] {name}; {self._left()} left", file=sys.stderr, flush=True)

    def _left(self) -> str:
        """The time that the expected work still takes at the pace so far."""
        if self._worked <= 0:
            return duration(self._expected / self._jobs)
        left = max(self._expected - self._worked, 0.0)  # sums of floats may end below zero
        return duration((time.monotonic() - self._started) * left / self._worked)


class LongWork:
    """Lines about one computation: none in its first 30 seconds, then one every 30 at most, in a worker process too.

    Args:
        what: what is computed.
        total: its number of parts.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._started = self._told = time.monotonic()

    def done(self, parts: int) -> None:
        """So many parts are done."""
        now = time.monotonic()
        if parts < self._total and now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            left = duration((now - self._started) * (self._total - parts) / parts)
            print(f"{self._what}: {parts / self._total:.0%} done, {left} left", file=sys.stderr, flush=True)
