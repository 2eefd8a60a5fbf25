"""Run many cells: what is missing, in parallel through joblib, with progress; a stop loses nothing that is finished."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from xmbench.plan import Cell
from xmbench.registry import is_built_in
from xmbench.run import Settings, estimate_seconds, execute, failure_row
from xmbench.spec import canonical
from xmbench.store import Finished, Store, StoreError

_SECONDS_TO_MEASURE = 0.1  # and to store a run; a guess that keeps the shortest fits from counting as nothing


@dataclass(frozen=True)
class Todo:
    """What a sweep has to do.

    Attributes:
        cells: all planned.
        done: of these, finished in the store before.
        impossible: not applicable or skipped.
        waiting: their hyper-parameters are to be chosen, or to be chosen anew; plan again once the trials are done.
        groups: cells to run, those that share a fit together.
        shared: how many runs cost nothing, since another one has the same fit.
        stored: all finished runs of the store by id.
        known: score key -> stored run with the same results.
    """

    cells: list[Cell]
    done: list[Cell]
    impossible: list[Cell]
    waiting: list[Cell]
    groups: list[list[Cell]]
    shared: int
    stored: dict[str, Finished]
    known: dict[str, str]


@dataclass
class Outcome:
    """How a sweep ended: status -> number of runs, whether it was interrupted, and why it could not go on."""

    counts: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False
    error: str = ""


def todo(cells: list[Cell], store: Store, rerun: frozenset[str] = frozenset()) -> Todo:
    """Sort cells into finished, impossible and missing ones.

    Failed runs count as missing, and a run whose trials are not all done as waiting. A run whose method's source file has
    changed is stale: it is run again where the method is not built in, or where `rerun` holds "stale".
    """
    stored = store.finished()
    ready = [cell for cell in cells if cell.status == "ready"]
    done_ids = {cell.run.run_id for cell in ready if _is_done(cell, stored.get(cell.run.run_id), rerun)}
    tried = {_tuned_as(cell) for cell in ready if cell.run.trial and cell.run.run_id not in done_ids}
    waiting = [c for c in cells if c.status == "waiting" or (not c.run.trial and _tuned_as(c) in tried)]
    waiting_ids = {cell.run.run_id for cell in waiting}
    possible = [cell for cell in ready if cell.run.run_id not in waiting_ids]
    done = [cell for cell in possible if cell.run.run_id in done_ids]
    missing = [cell for cell in possible if cell.run.run_id not in done_ids]
    groups: dict[str, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(cell.fit_key, []).append(cell)
    sources = {(run.score_key, run.source_sha): run.run_id for run in stored.values() if run.status == "ok"}
    found = {cell.score_key: sources.get((cell.score_key, cell.source_sha)) for cell in missing}
    known = {key: run_id for key, run_id in found.items() if run_id is not None}
    fits = sum(any(cell.score_key not in known for cell in group) for group in groups.values())
    impossible = [cell for cell in cells if cell.status != "ready" and cell.run.run_id not in waiting_ids]
    return Todo(cells, done, impossible, waiting, list(groups.values()), len(missing) - fits, stored, known)


def _tuned_as(cell: Cell) -> tuple[str, str, str, str]:
    """What a trial and the runs whose hyper-parameters it helps to choose have in common."""
    return cell.run.dataset, cell.run.noise.scheme, cell.run.method, cell.run.tuning


def _is_done(cell: Cell, run: Finished | None, rerun: frozenset[str]) -> bool:
    """Whether a stored run is this cell's: finished, with the same data, noise and version (the key), and not stale."""
    if run is None or run.status != "ok" or run.score_key != cell.score_key:
        return False
    stale = run.source_sha != cell.source_sha
    return not (stale and ("stale" in rerun or not is_built_in(cell.run.implementation)))


def estimate(work: Todo, settings: Settings) -> dict[str, float]:
    """Fit key -> about how many seconds it will take: by earlier runs of the store, else by timing three batches."""
    finished = (run for run in work.stored.values() if run.status == "ok")
    earlier = {(run.method, run.dataset, run.dataset_params, run.params): run.fit_seconds for run in finished}
    seconds, timed = {}, dict[tuple[str, ...], float]()
    for group in work.groups:
        cell = group[0]
        seconds[cell.fit_key] = _SECONDS_TO_MEASURE * len(group)
        if all(c.score_key in work.known for c in group):
            continue
        run = cell.run
        key = (run.method, run.dataset, canonical(dict(run.dataset_parameters)), canonical(dict(run.parameters)))
        alike = key[:3] if run.trial else key  # one trial of a method stands for the others
        if key not in earlier and alike not in timed:
            timed[alike] = estimate_seconds(cell, settings)
        seconds[cell.fit_key] += earlier[key] if key in earlier else timed[alike]
    return seconds


def default_jobs(threads: int) -> int:
    """Runs at a time that use every core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def sweep(
    work: Todo,
    store: Store,
    settings: Settings,
    *,
    jobs: int = 1,
    progress: Callable[[str, str, Cell], None] = lambda run_id, status, cell: None,
) -> Outcome:
    """Run what is missing.

    Args:
        work: from `todo`.
        store: where results go; every finished run is there at once.
        settings: of execution.
        jobs: runs at a time, each in a process of its own; 1 runs in this process.
        progress: called with run id, status and cell after every run.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool

    outcome = Outcome()
    by_id = {cell.run.run_id: cell for cell in work.cells}
    try:
        for cell in work.impossible:
            known = work.stored.get(cell.run.run_id)
            if known is None or known.status != cell.status:
                store.write([failure_row(cell, cell.status, cell.reason)], {})
            _count(outcome, cell.status)
        for finished in _executed(work, store, settings, jobs):
            for run_id, status in finished:
                _count(outcome, status)
                progress(run_id, status, by_id[run_id])
    except KeyboardInterrupt:
        outcome.interrupted = True
    except StoreError as error:
        outcome.error = str(error)
    except BrokenProcessPool:
        outcome.error = "a process that ran a fit was killed, most likely for want of memory; try fewer --jobs"
    if jobs > 1 and (outcome.interrupted or outcome.error):
        _stop_workers(store)
    return outcome


def _count(outcome: Outcome, status: str) -> None:
    outcome.counts[status] = outcome.counts.get(status, 0) + 1


def _executed(work: Todo, store: Store, settings: Settings, jobs: int) -> Iterator[list[tuple[str, str]]]:
    if jobs == 1:
        for group in work.groups:
            yield execute(group, store, settings, work.known)
        return
    from joblib import Parallel, delayed

    parallel: Any = Parallel(n_jobs=jobs, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)
    with _deaf_children():
        finished = parallel(delayed(_in_worker)(group, store, settings, work.known) for group in work.groups)
    yield from finished


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes and threads started inside never hear Ctrl-C, which is the main one's to handle; it waits until the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_worker(group: list[Cell], store: Store, settings: Settings, known: dict[str, str]) -> list[tuple[str, str]]:
    """`execute` in a worker process, which leaves Ctrl-C to the main process even where signals cannot be blocked."""
    from xmbench.device import return_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return execute(group, store, settings, known)
    finally:
        return_freed_memory()


def forget_losers(cells: list[Cell], store: Store) -> None:
    """Remove the large arrays of trials whose hyper-parameters no run of `cells` has; their numbers stay."""
    taken = {(_tuned_as(cell), canonical(dict(cell.run.parameters))) for cell in cells if not cell.run.trial}
    for cell in cells:
        if cell.run.trial and cell.keep and (_tuned_as(cell), canonical(dict(cell.run.parameters))) not in taken:
            store.drop_arrays(cell.run.run_id, ("embedding/", "ranking/", "input/", "items/", "record/"))


def _stop_workers(store: Store) -> None:
    """Kill the workers, and remove what they were about to write."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    store.remove_unfinished()
