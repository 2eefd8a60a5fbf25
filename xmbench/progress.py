"""Progress on stderr, with the time left: of a sweep, and of what takes long inside one run."""

import heapq
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median
from types import TracebackType
from typing import Any

from xmbench.plan import Cell

SECONDS_BETWEEN_LINES = 30.0
_OVERDUE = 0.25  # of the time it has taken: what a run is expected to take still that should have ended
_MANY = 1000
_TOO_FAR = 366 * 86400.0


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(42), duration(600), duration(7_300)
    ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def until(seconds: float) -> str:
    """The clock time so many seconds from now, with the day where it is another one: "14:20", "Tue 14:20", "Tue 24 Nov"."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    days = (end.date() - now.date()).days
    return f"{end:%H:%M}" if days == 0 else f"{end:%a %H:%M}" if days < 7 else f"{end:%a %d %b %Y}"


def time_left(seconds: float | None) -> str:
    """How much time is left, in words; where it is minutes or more, with the clock time of the end."""
    if seconds is None:
        return "time left unknown"
    clock = f", until {until(seconds)}" if 90 <= seconds < _TOO_FAR else ""
    return f"about {duration(seconds)} left{clock}"


def makespan(waiting: Iterable[float], jobs: int, running: Iterable[float] = ()) -> float:
    """Seconds until all is done, each job that is waiting beginning, in order, where a slot is first free.

    Args:
        waiting: seconds that each job takes.
        jobs: slots.
        running: seconds that each job in a slot still takes, at most `jobs` of them.

    >>> makespan([1, 1, 1, 9], jobs=2), makespan([], jobs=2, running=[100])
    (10.0, 100.0)
    """
    slots = [float(seconds) for seconds in running]
    slots += [0.0] * (max(1, jobs) - len(slots))
    heapq.heapify(slots)
    for seconds in waiting:
        heapq.heapreplace(slots, slots[0] + seconds)
    return max(slots)


def pace_of(ended: tuple[float, float], running: Iterable[tuple[float, float]], trust: float) -> float | None:
    """How many seconds pass for one that was expected: (trust + passed) / (trust + expected), so 1 as a sweep begins.

    A running job that takes longer than expected at the pace of those that have ended counts as if it ended now.

    Args:
        ended: sums of the expected and of the passed seconds of the jobs that have ended.
        running: expected and passed seconds of each running job.
        trust: expected seconds after which what was observed weighs as much as what was expected.

    Returns:
        The pace; None without trust before a job has ended.
    """
    expected, passed = ended[0] + trust, ended[1] + trust
    if expected <= 0:
        return None
    overdue = [job for job in running if job[1] * expected > job[0] * passed]
    return (passed + sum(job[1] for job in overdue)) / (expected + sum(job[0] for job in overdue))


class Progress:
    """A bar on a terminal, a line per finished run elsewhere, both with the time left.

    That is what a schedule of the rest takes: the expected seconds times the pace of this sweep so far, one group after
    the other where a slot is first free. So one long run at the end counts in full, however many may run at a time.

    Args:
        groups: cells to run, those that share a fit together, in the order in which they begin.
        seconds: fit key -> expected seconds; a group that is not in it counts as the median of the others.
        jobs: groups at a time.
    """

    def __init__(self, groups: Sequence[Sequence[Cell]], seconds: Mapping[str, float], jobs: int = 1) -> None:
        keys = [group[0].fit_key for group in groups]
        known = [seconds[key] for key in keys if key in seconds]
        other = median(known) if known else 1.0  # without any expectation, groups count alike
        self._expected = {key: seconds.get(key, other) for key in keys}
        self._trust = sum(known) / len(known) if known else 0.0
        self._open = {group[0].fit_key: len(group) for group in groups}
        self._n_runs, self._finished, self._jobs = sum(map(len, groups)), 0, max(1, jobs)
        self._waiting, self._running = deque(keys), dict[str, float]()  # the latter with the time when each began
        self._ended = (0.0, 0.0)
        self._fill(time.monotonic())
        self._told: tuple[float, str] | None = None
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty() and self._n_runs:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._left(), total=self._n_runs)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, run_id: str, status: str, cell: Cell) -> None:
        """One run has ended."""
        self._finished += 1
        self._open[cell.fit_key] -= 1
        if self._open[cell.fit_key] == 0:
            self._end(cell.fit_key, status, time.monotonic())
        name = f"{cell.run.method} on {cell.run.dataset}, {cell.run.noise}, seed {cell.run.seed}: {status}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._finished, description=f"{self._left()}; {name}")
        else:
            print(f"[{self._finished}/{self._n_runs}] {name}; {self._left()}", file=sys.stderr, flush=True)

    def seconds_left(self) -> float | None:
        """Expected seconds until all is done; None while there is nothing to go by."""
        now = time.monotonic()
        running = [(self._expected[key], now - began) for key, began in self._running.items()]
        pace = pace_of(self._ended, running, self._trust)
        if pace is None:
            return None
        rest = [max(pace * expected - passed, _OVERDUE * passed) for expected, passed in running]
        return makespan((pace * self._expected[key] for key in self._waiting), self._jobs, rest)

    def _fill(self, now: float) -> None:
        """The next groups begin where slots are free."""
        while self._waiting and len(self._running) < self._jobs:
            self._running[self._waiting.popleft()] = now

    def _end(self, key: str, status: str, now: float) -> None:
        """A group has ended; what failed says nothing about the pace."""
        if key not in self._running:  # it began before its turn, and the last one that seemed to run has yet to begin
            self._waiting.remove(key)
            other, began = self._running.popitem()
            self._waiting.appendleft(other)
            self._running[key] = began
        began = self._running.pop(key)
        if status == "ok":
            self._ended = (self._ended[0] + self._expected[key], self._ended[1] + now - began)
        self._fill(now)

    def _left(self) -> str:
        """The time left in words; of a long list it is worked out once a second."""
        now = time.monotonic()
        if self._told is None or len(self._waiting) < _MANY or now - self._told[0] >= 1:
            self._told = now, time_left(self.seconds_left())
        return self._told[1]


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
