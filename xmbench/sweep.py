"""Run many cells: what is missing, in parallel through joblib, with progress; a stop loses nothing that is finished."""

import math
import os
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from xmbench.compact import auto_compact
from xmbench.cost import Cost, CostModel, group_costs
from xmbench.engine import Control, Engine, EngineError, run_jobs
from xmbench.live import Claimed, claim, is_held, remove_dead, write_state
from xmbench.plan import Cell, to_json
from xmbench.registry import is_built_in
from xmbench.run import Settings, estimate_seconds, execute, failure_row
from xmbench.schema import WITHOUT_RESULT
from xmbench.spec import canonical
from xmbench.store import Finished, Store, StoreError
from xmbench.supervisor import Job, Report

RETRIED = frozenset({"failed", "crashed"})
"""Statuses of runs that are done again where nothing else is asked for: a run that timed out would do so again."""


@dataclass(frozen=True)
class Todo:
    """What a sweep has to do.

    Attributes:
        cells: all planned.
        done: of these, finished in the store before.
        given_up: of these, ended without a result before, by a status that is not to be retried.
        impossible: not applicable or skipped.
        waiting: their hyper-parameters are to be chosen, or to be chosen anew; plan again once the trials are done.
        groups: cells to run, those that share a fit together.
        shared: how many runs cost nothing, since another one has the same fit.
        stored: all finished runs of the store by id.
        known: score key -> stored run with the same results.
    """

    cells: list[Cell]
    done: list[Cell]
    given_up: list[Cell]
    impossible: list[Cell]
    waiting: list[Cell]
    groups: list[list[Cell]]
    shared: int
    stored: dict[str, Finished]
    known: dict[str, str]


@dataclass
class Outcome:
    """How a sweep ended: status -> number of runs, whether it was interrupted, its time was up, or why it could not go on."""

    counts: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False
    time_up: bool = False
    error: str = ""


def todo(cells: list[Cell], store: Store, rerun: frozenset[str] = frozenset(), retry: frozenset[str] = RETRIED) -> Todo:
    """Sort cells into finished, impossible and missing ones.

    Runs that ended by a status in `retry` count as missing, and a run whose trials are not all done as waiting. A run whose
    method's source file has changed is stale: it is run again where the method is not built in, where `rerun` holds "stale",
    or where it had no result.
    """
    stored = store.finished()
    ready = [cell for cell in cells if cell.status == "ready"]
    done_ids = {cell.run.run_id for cell in ready if _is_done(cell, stored.get(cell.run.run_id), rerun)}
    left_ids = {cell.run.run_id for cell in ready if _is_given_up(cell, stored.get(cell.run.run_id), retry)}
    tried = {_tuned_as(cell) for cell in ready if cell.run.trial and cell.run.run_id not in done_ids | left_ids}
    waiting = [c for c in cells if c.status == "waiting" or (not c.run.trial and _tuned_as(c) in tried)]
    waiting_ids = {cell.run.run_id for cell in waiting}
    possible = [cell for cell in ready if cell.run.run_id not in waiting_ids]
    done = [cell for cell in possible if cell.run.run_id in done_ids]
    given_up = [cell for cell in possible if cell.run.run_id in left_ids]
    missing = [cell for cell in possible if cell.run.run_id not in done_ids | left_ids]
    groups: dict[str, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(cell.fit_key, []).append(cell)
    sources = {(run.score_key, run.source_sha): run.run_id for run in stored.values() if run.status == "ok"}
    found = {cell.score_key: sources.get((cell.score_key, cell.source_sha)) for cell in missing}
    known = {key: run_id for key, run_id in found.items() if run_id is not None}
    fits = sum(any(cell.score_key not in known for cell in group) for group in groups.values())
    impossible = [cell for cell in cells if cell.status != "ready" and cell.run.run_id not in waiting_ids]
    return Todo(cells, done, given_up, impossible, waiting, list(groups.values()), len(missing) - fits, stored, known)


def _tuned_as(cell: Cell) -> tuple[str, str, str, str]:
    """What a trial and the runs whose hyper-parameters it helps to choose have in common."""
    return cell.run.dataset, cell.run.noise.scheme, cell.run.method, cell.run.tuning


def _is_done(cell: Cell, run: Finished | None, rerun: frozenset[str]) -> bool:
    """Whether a stored run is this cell's: finished, with the same data, noise and version (the key), and not stale."""
    if run is None or run.status != "ok" or run.score_key != cell.score_key:
        return False
    stale = run.source_sha != cell.source_sha
    return not (stale and ("stale" in rerun or not is_built_in(cell.run.implementation)))


def _is_given_up(cell: Cell, run: Finished | None, retry: frozenset[str]) -> bool:
    """Whether a stored run is this cell's, from the same source, without a result and not to be retried."""
    if run is None or run.status not in WITHOUT_RESULT or run.status in retry:
        return False
    return (run.score_key, run.source_sha) == (cell.score_key, cell.source_sha)


def estimate(work: Todo, settings: Settings, *, measure: bool = True) -> dict[str, Cost]:
    """Fit key -> what it will cost, by earlier runs of the store, or by timing three batches where there are none like it.

    Args:
        work: from `todo`.
        settings: of execution; what other devices took does not count.
        measure: False never loads data to time batches.
    """
    model = CostModel(work.stored.values(), device=settings.device, threads=settings.threads)
    timed = (lambda cell: estimate_seconds(cell, settings)) if measure else None
    return group_costs(work.groups, work.known, model, timed)


def ordered(work: Todo, order: str, costs: dict[str, Cost]) -> Todo:
    """The work with its fits in another order.

    Args:
        work: from `todo`, in the plan's order: every method at the first seed first.
        order: "seeds" leaves it so, "cheap" puts the shortest fits first, "method" one method after the other.
        costs: fit key -> expected cost; the shortest fits come before those of which nothing is known.
    """
    if order == "seeds":
        return work
    methods = {name: number for number, name in enumerate(dict.fromkeys(cell.run.method for cell in work.cells))}
    trials = {cell.fit_key for cell in work.cells if cell.run.trial}

    def place(group: list[Cell]) -> tuple[bool, float]:
        key = group[0].fit_key
        cost = costs[key].seconds if key in costs else math.inf
        return key not in trials, cost if order == "cheap" else float(methods[group[0].run.method])

    return replace(work, groups=sorted(work.groups, key=place))


def default_jobs(threads: int) -> int:
    """Runs at a time that use every core."""
    from joblib import cpu_count

    return int(max(1, cpu_count() // threads))  # as many as the process may use: affinity and a container's quota count


def sweep(
    work: Todo,
    store: Store,
    settings: Settings,
    *,
    engine: Engine | None = None,
    progress: Callable[[str, str, Cell], None] = lambda run_id, status, cell: None,
    seconds_left: Callable[[], float | None] = lambda: None,
) -> Outcome:
    """Run what is missing.

    Args:
        work: from `todo`.
        store: where results go; every finished run is there at once.
        settings: of execution.
        engine: where runs are executed; None executes them in this process, one after the other and unprotected.
        progress: called with run id, status and cell after every run.
        seconds_left: expected until all is done, for those who watch.
    """
    outcome = Outcome()
    by_id = {cell.run.run_id: cell for cell in work.cells}
    control, finished = Control(store.folder("sweeps")), {cell.run.run_id for cell in work.done}
    try:
        for cell in work.impossible:
            known = work.stored.get(cell.run.run_id)
            if known is None or known.status != cell.status:
                store.write([failure_row(cell, cell.status, cell.reason)], {})
            _count(outcome, cell.status)
        reports = (
            _in_this_process(work, store, settings)
            if engine is None
            else _by_engine(work, store, settings, engine, control, seconds_left)
        )
        for report in reports:
            for run_id, status in _results(report, work, store, by_id):
                _count(outcome, status)
                progress(run_id, status, by_id[run_id])
                if status == "ok":
                    finished.add(run_id)
            if report.store_error:
                raise StoreError(report.error)
    except KeyboardInterrupt:
        control.reason = "interrupted"
    except (StoreError, EngineError) as error:
        outcome.error = str(error)
    except OSError as error:
        outcome.error = f"the store {store} could not be read or written ({error})"
    outcome.interrupted, outcome.time_up = control.reason == "interrupted", control.reason == "time_up"
    with suppress(OSError):
        store.remove_unfinished()
        _remove_checkpoints(work, finished, store)
        auto_compact(store)
    return outcome


def _remove_checkpoints(work: Todo, finished: set[str], store: Store) -> None:
    """Remove what processes that were killed have left of fits all of whose runs are finished."""
    missing = {cell.fit_key for group in work.groups for cell in group if cell.run.run_id not in finished}
    keys = {cell.fit_key for cell in work.cells if cell.run.run_id in finished} - missing
    for path in store.folder("checkpoints").iterdir():
        key = path.name.partition("-")[0]
        if key in keys and not is_held(store.folder("running"), key):
            path.unlink(missing_ok=True)


def _count(outcome: Outcome, status: str) -> None:
    outcome.counts[status] = outcome.counts.get(status, 0) + 1


def _results(report: Report, work: Todo, store: Store, by_id: dict[str, Cell]) -> Iterator[tuple[str, str]]:
    """(run id, status) of what a fit has left in the store; runs that it left none of become rows here."""
    yield from report.stored.items()
    if report.status not in WITHOUT_RESULT:
        return
    group = next(group for group in work.groups if group[0].fit_key == report.fit_key)
    with suppress(Claimed), claim(store.folder("running"), report.fit_key):  # else another sweep is at it by now
        for cell in group:
            if cell.run.run_id not in report.stored:
                done = store.holds(cell.run.run_id, cell.score_key, cell.source_sha)  # by another sweep, since
                if not done:
                    store.write([failure_row(cell, report.status, report.error, report.seconds)], {})
                yield cell.run.run_id, "ok" if done else report.status


def _in_this_process(work: Todo, store: Store, settings: Settings) -> Iterator[Report]:
    for group in work.groups:
        yield Report(group[0].fit_key, dict(execute(group, store, settings, work.known)))


def _by_engine(
    work: Todo, store: Store, settings: Settings, engine: Engine, control: Control, seconds_left: Callable[[], float | None]
) -> Iterator[Report]:
    """Have every fit done under supervision, while the sweep's own state stands in the store for `status`."""
    groups = {group[0].fit_key: group for group in work.groups}
    runs, running = store.folder("sweeps"), store.folder("running")
    for folder in (runs, running):
        remove_dead(folder)
    state = {
        "command": shlex.join(["xmbench", *sys.argv[1:]]), "host": socket.gethostname(), "pid": os.getpid(),
        "jobs": engine.jobs, "backend": engine.backend, "planned": len(work.cells), "done_before": len(work.done),
        "to_do": sum(map(len, work.groups)), "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    counts: Counter[str] = Counter()
    with claim(runs, control.sweep), ExitStack() as ending:
        for folder in (runs, running):
            ending.callback(remove_dead, folder)
        write_state(runs, control.sweep, {**state, "counts": counts, "seconds_left": seconds_left()})
        for report in run_jobs(
            list(groups), lambda key: _job(groups[key], work, store, settings, engine, control), engine, control
        ):
            yield report
            counts.update(report.stored.values())
            if report.status in WITHOUT_RESULT:
                counts[report.status] += len(groups[report.fit_key]) - len(report.stored)
            write_state(runs, control.sweep, {**state, "counts": counts, "seconds_left": seconds_left()})


def _job(group: list[Cell], work: Todo, store: Store, settings: Settings, engine: Engine, control: Control) -> Job:
    run = group[0].run
    known = {cell.score_key: work.known[cell.score_key] for cell in group if cell.score_key in work.known}
    return Job(
        fit_key=group[0].fit_key,
        run_ids=tuple(cell.run.run_id for cell in group),
        request={"cells": [to_json(c) for c in group], "store": str(store), "settings": vars(settings), "known": known},
        state={"method": run.method, "dataset": run.dataset, "noise": str(run.noise), "seed": run.seed, "sweep": control.sweep},
        store=str(store),
        sweep=control.sweep,
        devices=engine.devices,
        threads=settings.threads or run.protocol.threads,
        timeout=engine.timeout,
        max_rss=engine.max_rss,
        main=os.getpid() if engine.backend == "loky" else 0,
    )


def forget_losers(cells: list[Cell], store: Store) -> None:
    """Remove the large arrays of trials whose hyper-parameters no run of `cells` has; their numbers stay."""
    taken = {(_tuned_as(cell), canonical(dict(cell.run.parameters))) for cell in cells if not cell.run.trial}
    for cell in cells:
        if cell.run.trial and cell.keep and (_tuned_as(cell), canonical(dict(cell.run.parameters))) not in taken:
            store.drop_arrays(cell.run.run_id, ("embedding/", "ranking/", "input/", "items/", "record/"))
