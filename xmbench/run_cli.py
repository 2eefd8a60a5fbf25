"""The commands `xmbench run` and `xmbench plan`: a grid, and how it is executed. Thin, no logic."""

import math
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from xmbench.grid_cli import (
    DONE,
    INTERRUPTED,
    KEEP,
    NO_DATA,
    SOME_FAILED,
    STORE,
    TIME_UP,
    Stop,
    grid_options,
    spec_of,
)  # fmt: skip
from xmbench.printing import FORMAT, print_frame

if TYPE_CHECKING:
    import pandas as pd

    from xmbench.store import Store
    from xmbench.sweep import Outcome, Todo

_ENDINGS = ("failed", "timeout", "oom", "crashed")
_SUMMARISED = "run_id trial selection network direction metric dataset noise_scheme noise_rate method seed value".split()


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A length of time: 90s, 30min, 2h, 1d12h; without a unit seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In seconds."""
        import pandas as pd

        try:
            seconds = float(pd.Timedelta(f"{value}s" if re.fullmatch(r"[\d.]+", str(value)) else value).total_seconds())
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            self.fail(f"must be a length of time such as 90s, 30min, 2h or 1d12h, got {value!r}", param, ctx)
        return seconds


class Memory(click.ParamType):  # type: ignore[type-arg]
    """An amount of memory: 500MB, 4GB, 2GiB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", str(value), re.IGNORECASE)
        if match is None or not float(match[1]) > 0:
            self.fail(f"must be an amount of memory such as 500MB, 4GB or 2GiB, got {value!r}", param, ctx)
        return float(match[1]) * math.pow(1024 if match[3] else 1000, " KMGT".index(match[2].upper()))


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names out of a few, separated by commas."""

    name = "NAMES"

    def __init__(self, *known: str) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """As a tuple; "none" is the empty one."""
        names = tuple(name.strip() for name in value.split(",")) if value != "none" else ()
        if wrong := next((name for name in names if name not in self._known), None):
            self.fail(f"knows {', '.join(self._known)} and none, got {wrong!r}", param, ctx)
        return names


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how to execute; `plan` takes them too, so that one command line serves both."""
    options = [
        click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time.  [default: one per device, or all cores]"),
        click.option("--threads", type=click.IntRange(min=1), help="Threads per run.  [default: the protocol's]"),
        click.option("--devices", default="auto", show_default=True, metavar="NAMES",
                     help="Torch devices, separated by commas, such as cuda:0,cuda:1; auto takes all GPUs, or the CPU."),
        click.option("--per-device", type=click.IntRange(min=1), default=1, show_default=True,
                     help="Runs at a time on each GPU."),
        click.option("--backend", type=click.Choice(["loky", "dask"]), default="loky", show_default=True,
                     help="Processes of this machine, or workers of a Dask cluster."),
        click.option("--scheduler", default="", metavar="ADDRESS",
                     help="A running Dask scheduler.  [default: a local cluster]"),
        click.option("--timeout", type=Duration(), help="Longest time of a run, such as 2h."),
        click.option("--max-rss", type=Memory(), help="Most memory of a run, mapped files aside, such as 4GB."),
        click.option("--max-time", type=Duration(), help="Stop then, to go on another time with the same command."),
        click.option("--order", type=click.Choice(["seeds", "cheap", "method"]), default="seeds", show_default=True,
                     help="Every method at the first seed first; the shortest runs first; or one method after the other."),
        click.option("--retry", type=Names(*_ENDINGS), default="failed,crashed", show_default=True,
                     help=f"Which runs without a result to try again: {', '.join(_ENDINGS)}, or none."),
        click.option("--rerun", type=click.Choice(["stale"]), multiple=True, help="Run again what is stored but stale."),
        click.option("--isolation/--no-isolation", default=True, show_default=True, envvar="XMBENCH_ISOLATION",
                     help="Without it, runs share the process of the command: for a debugger."),
        click.option("--dry-run", is_flag=True, help="Only say what would run."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@grid_options
@KEEP
@STORE
@FORMAT
@execution_options
def run(**options: Any) -> None:
    """Run what is missing of a grid: methods x datasets x noise rates x seeds.

    Runs are executed in processes of their own: one that crashes, hangs (--timeout) or takes too much memory (--max-rss) is
    stored as such, and the next one begins. Ctrl-C lets what has begun come to its end, a second one stops it. Whatever ends
    a sweep, the same command goes on with it, from the last epoch of each fit.
    """
    from xmbench.plan import plan as make_plan
    from xmbench.progress import Progress, duration, makespan
    from xmbench.store import Store
    from xmbench.sweep import estimate, forget_losers, ordered, sweep, todo

    begun = time.monotonic()
    spec, store = spec_of(**options), Store(options["store"])
    settings, engine = _execution(spec.protocol, options)
    failed = False
    for trials_done in (False, True):
        cells = make_plan(spec, keep=options["keep"], rows=_trials(store) if spec.tune else None)
        if missing := next((cell for cell in cells if cell.status == "skipped" and not cell.fit_key), None):
            raise Stop(missing.reason, NO_DATA)
        if not options["dry_run"]:
            store.check_writable()
        if trials_done:
            forget_losers(cells, store)
        wanted = [cell for cell in cells if not (trials_done and cell.run.trial)]
        work = todo(wanted, store, frozenset(options["rerun"]), frozenset(options["retry"]))
        click.echo(_what_to_do(work), err=True)
        if not trials_done:
            _say_why_not(work)
        if options["dry_run"]:
            return
        costs = estimate(work, settings, measure=not options["isolation"])  # no fit runs outside its own process
        work = ordered(work, options["order"], costs)
        seconds = {key: cost.seconds for key, cost in costs.items()}
        if work.groups:
            where = f"{engine.jobs} at a time on {', '.join(dict.fromkeys(engine.devices))}"
            wall = f"about {duration(makespan(seconds.values(), engine.jobs))}" if seconds else "no such run is stored yet"
            click.echo(f"{wall}, {where}; store {store}", err=True)
        if engine.max_seconds is not None:
            engine = replace(engine, max_seconds=max(0.0, options["max_time"] - (time.monotonic() - begun)))
        with Progress(work.groups, seconds, engine.jobs) as progress:
            isolated = engine if options["isolation"] else None
            outcome = sweep(work, store, settings, engine=isolated, progress=progress, seconds_left=progress.seconds_left)
        failed |= bool(work.given_up) or any(outcome.counts.get(status) for status in _ENDINGS)
        if outcome.interrupted or outcome.time_up or outcome.error or not work.waiting:
            break
    _finish(outcome, failed, store, [cell.run.run_id for cell in cells], options["form"])


def _execution(protocol: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Settings and engine as the options describe them."""
    from pathlib import Path

    from xmbench.device import choose_devices
    from xmbench.engine import Engine
    from xmbench.run import Settings
    from xmbench.spec import load_protocol
    from xmbench.sweep import default_jobs

    if options["scheduler"] and options["backend"] != "dask":
        raise ValueError("--scheduler is the address of a Dask cluster: give --backend dask with it")
    limits = [name for name in ("timeout", "max_rss", "max_time", "scheduler") if options[name]]
    if not options["isolation"] and (limits or (options["jobs"] or 1) > 1):
        raise ValueError("--no-isolation runs one after the other without limits: leave out --jobs, --timeout, --max-rss, "
                         "--max-time and --scheduler")  # fmt: skip
    names = None if options["devices"] == "auto" else [name.strip() for name in options["devices"].split(",")]
    at_a_time = default_jobs(options["threads"] or load_protocol(protocol).threads) if options["isolation"] else 1
    if options["scheduler"]:  # its workers know what devices there are
        devices = tuple(names or ["auto"]) * options["per_device"]
    else:
        devices = choose_devices(names, options["per_device"], options["jobs"], at_a_time)
    engine = Engine(
        jobs=(options["jobs"] or 1) if options["scheduler"] else len(devices),
        backend=options["backend"],
        scheduler=options["scheduler"],
        devices=devices,
        timeout=options["timeout"],
        max_rss=options["max_rss"],
        max_seconds=options["max_time"],
    )
    plugins = tuple(str(Path(file).resolve()) for file in options["plugins"])
    return Settings(devices[0], options["threads"], plugins=plugins), engine


def _what_to_do(work: "Todo") -> str:
    """What a sweep begins with, in one line."""
    missing = sum(map(len, work.groups))
    given_up = f", {len(work.given_up)} given up before (see --retry)" if work.given_up else ""
    then = f"; then {len(work.waiting)} with the hyper-parameters that their trials choose" if work.waiting else ""
    return (
        f"{len(work.cells)} runs: {len(work.done)} done{given_up}, {len(work.impossible)} not applicable, {missing} to do, "
        f"of which {work.shared} share the fit of another{then}"
    )


def _say_why_not(work: "Todo") -> None:
    """Print once each why runs are not applicable, with their number."""
    for reason, n in Counter(cell.reason for cell in work.impossible if cell.status == "not_applicable").items():
        click.echo(f"not applicable, {n} of {len(work.cells)}: {reason}", err=True)


def _finish(outcome: "Outcome", failed: bool, store: "Store", run_ids: list[str], form: str) -> None:
    """Print the summary of a sweep and leave with its exit code."""
    rows = store.rows(_SUMMARISED, 'status == "ok" and split == "test"', metrics=("map", "rsum"))
    summary = _summary(rows[rows["run_id"].isin(run_ids)])
    if len(summary) or form != "table":
        print_frame(summary, form)
    runs = store.runs(["status", "error", "method", "dataset", "noise_rate", "seed", "trial"])
    without = runs[runs["run_id"].isin(run_ids) & ~runs["status"].isin(["ok", "not_applicable"])]
    for _, row in without.iterrows():
        reason = str(row["error"]).strip().splitlines()[-1]
        what = f"{row['method']} on {row['dataset']}, rate {row['noise_rate']}, seed {row['seed']}"
        trial = f", trial {row['trial']}" if isinstance(row["trial"], str) else ""
        click.echo(f"{row['status']}: {what}{trial}: {reason}", err=True)
    if outcome.time_up:
        raise Stop(how_to_go_on("the time of --max-time is up"), TIME_UP)
    if outcome.interrupted or outcome.error:
        click.echo(how_to_go_on(outcome.error or "interrupted"), err=True)
        raise click.exceptions.Exit(INTERRUPTED if outcome.interrupted else SOME_FAILED)
    click.echo(f"report: {shlex.join(['xmbench', 'report', '--store', str(store)])}", err=True)
    raise click.exceptions.Exit(SOME_FAILED if failed else DONE)


def _trials(store: "Store") -> "pd.DataFrame":
    """The rows by which hyper-parameters are chosen."""
    import pandas as pd

    return pd.concat([store.rows(None, 'split == "valid"'), store.rows(None, 'status != "ok"')], ignore_index=True)


def how_to_go_on(reason: str) -> str:
    """What to say of a sweep that has not come to its end."""
    return f"{reason}; finished runs are kept. To go on: {shlex.join(['xmbench', *sys.argv[1:]])}"


def _summary(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Mean MAP over directions and seeds, by dataset, method and noise rate."""
    best = (rows["selection"] == "best_valid") & (rows["network"] == "mean") & (rows["direction"] == "mean")
    chosen = rows[best & rows["trial"].isna()]
    metric = "map" if (chosen["metric"] == "map").any() else "rsum"
    chosen = chosen[chosen["metric"] == metric]
    table = chosen.pivot_table(index=["dataset", "noise_scheme", "method"], columns="noise_rate", values="value", sort=False)
    counts = chosen.groupby(["dataset", "noise_scheme", "method"])["seed"].nunique()
    table = table.sort_index(axis=1).round(3)
    table.columns = [f"{metric} at {rate:g}" for rate in table.columns]
    table["seeds"] = counts
    return table.reset_index()


@click.command()
@grid_options
@KEEP
@STORE
@FORMAT
@execution_options
@click.option("--cost", is_flag=True, help="Predict time, memory and disk of what is to do, by earlier runs of the store.")
def plan(cost: bool, **options: Any) -> None:
    """Print the cells of a grid: what is done, what is shared, what cannot run and why; or what it will cost."""
    import pandas as pd

    from xmbench.plan import plan as make_plan
    from xmbench.store import Store
    from xmbench.sweep import todo

    spec, store = spec_of(**options), Store(options["store"])
    cells = make_plan(spec, keep=options["keep"], rows=_trials(store) if spec.tune else None)
    work = todo(cells, store, frozenset(options["rerun"]), frozenset(options["retry"]))
    if cost:
        _print_cost(work, spec.protocol, options)
        return
    done, waiting = ({cell.run.run_id for cell in part} for part in (work.done, work.waiting))
    first = {group[0].run.run_id for group in work.groups}
    given_up = {cell.run.run_id: work.stored[cell.run.run_id].status for cell in work.given_up}
    rows = []
    for cell in cells:
        run = cell.run
        state = (
            "waiting"
            if run.run_id in waiting
            else cell.status
            if cell.status != "ready"
            else "done"
            if run.run_id in done
            else "to do"
            if run.run_id in first
            else "shares a fit"
        )
        run_id = "" if state == "waiting" else run.run_id
        tuning = f"trial {run.trial}" if run.trial else run.tuning
        if run.run_id in given_up:
            state = f"{given_up[run.run_id]} (see --retry)"
        rows.append([run_id, run.dataset, str(run.noise), run.method, run.seed, tuning, run.protocol.name, state, cell.reason])
    columns = ["run_id", "dataset", "noise", "method", "seed", "tuning", "protocol", "state", "reason"]
    print_frame(pd.DataFrame(rows, columns=columns), options["form"], below="reason")


def _print_cost(work: "Todo", protocol: str, options: dict[str, Any]) -> None:
    """Print what is to do by method and dataset, and all of it in a line to stderr."""
    from xmbench.cost import cost_table, in_words, total_cost
    from xmbench.sweep import estimate

    settings, engine = _execution(protocol, options)
    costs = estimate(work, settings, measure=False)
    table = cost_table(work.groups, work.known, costs)
    print_frame(in_words(table) if options["form"] == "table" else table, options["form"])
    click.echo(total_cost(work.groups, costs, engine.jobs), err=True)
