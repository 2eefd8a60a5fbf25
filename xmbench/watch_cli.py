"""The commands `xmbench status`, `logs` and `show`: what goes on in a store. Thin, no logic."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from xmbench.completion import one
from xmbench.grid_cli import NOTHING, STORE, Stop
from xmbench.printing import FORMAT, print_facts, print_frame

if TYPE_CHECKING:
    from xmbench.store import Store
    from xmbench.watching import Status

_SECONDS_ON_TERMINAL, _SECONDS_ELSEWHERE = 2.0, 10.0
_SILENT_SECONDS = 300.0  # without a word of a fit, after which that is said


@click.command()
@STORE
@click.option("--watch", is_flag=True, help="Look again and again, until no sweep lives any more or Ctrl-C.")
@FORMAT
def status(store: str, watch: bool, form: str) -> None:
    """What goes on: sweeps with the time left, fits that run, what killed sweeps have left, and what has no result.

    From any shell or node that sees the store's folder; nothing is written.
    """
    from xmbench.watching import Watch

    watching = Watch(_there(store))
    try:
        if watch and form == "table" and sys.stdout.isatty():
            _refresh(watching)
        else:
            while True:
                found = watching.look()
                _print(found, form, watch)
                if not (watch and found.sweeps):
                    break
                time.sleep(_SECONDS_ELSEWHERE)
    except KeyboardInterrupt:
        if not watch:
            raise


@click.command()
@click.argument("run", shell_complete=one("runs"))
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows, until the run has ended or Ctrl-C.")
@STORE
def logs(run: str, follow: bool, store: str) -> None:
    """Print the log of a run: its id, the beginning of one, or a method that has a single run."""
    from xmbench.watching import find_run, log_file
    from xmbench.watching import follow as new_in

    source = _there(store)
    run_id = find_run(source, run)
    if not follow:
        if not (path := log_file(source, run_id)).exists():
            raise Stop(f"run {run_id} has no log: it has not begun yet, or without isolation", NOTHING)
        click.echo(path.read_bytes(), nl=False)
        return
    waits = False
    try:
        for content in new_in(source, run_id):
            click.echo(content, nl=False)
            if not content and not waits and not log_file(source, run_id).exists():
                waits = True
                click.echo(f"run {run_id} has not begun yet", err=True)
    except KeyboardInterrupt:
        return
    rows = source.run(run_id)
    click.echo(f"run {run_id} has ended: {rows['status'].iloc[0] if len(rows) else 'without a result'}", err=True)


@click.command()
@click.argument("run", shell_complete=one("runs"))
@STORE
@FORMAT
def show(run: str, store: str, form: str) -> None:
    """Print everything about one run: its id, the beginning of one, or a method that has a single run."""
    import pandas as pd

    from xmbench.progress import duration
    from xmbench.watching import describe, find_run

    source = _there(store)
    facts = describe(source, find_run(source, run))
    if form == "json":
        print_facts(facts, form)
        return
    metrics = pd.DataFrame(facts.pop("metrics"))
    if form == "csv":
        named = metrics.melt(["split", "selection", "direction"]) if len(metrics) else metrics
        flat = _flat(facts) | {" ".join(map(str, row[:-1])): row[-1] for row in named.itertuples(index=False)}
        print_frame(pd.DataFrame(flat.items(), columns=["fact", "value"]), form)
        return
    for name in ("fit_seconds", "eval_seconds", "cpu_seconds"):
        if name in facts:
            facts[name] = f"{facts[name]:.3g} ({duration(facts[name])})"
    if "peak_rss" in facts:
        facts["peak_rss"] = _size(facts["peak_rss"])
    if facts.get("last_epoch"):
        for name in ("best_epoch", "last_epoch"):
            facts[name] = f"{facts[name]} (the log counts it as {facts[name] + 1})"
    if "files" in facts:
        facts["files"] = {name: _size(size) for name, size in facts["files"].items()}
    print_facts(facts, form)
    if len(metrics):
        click.echo()
        print_frame(metrics, form)


def _there(name: str) -> "Store":
    """The store, which must be there."""
    from xmbench.store import Store

    store = Store(name)
    if not store.is_remote and not store.path.exists():
        raise Stop(f"there is no store {name}; name another one with --store", NOTHING)
    return store


def _refresh(watching: Any) -> None:
    """Show the status in place until no sweep lives."""
    from rich.live import Live
    from rich.text import Text

    with Live(Text(_as_text(found := watching.look())), auto_refresh=False) as live:
        while found.sweeps:
            time.sleep(_SECONDS_ON_TERMINAL)
            live.update(Text(_as_text(found := watching.look())), refresh=True)


def _print(found: "Status", form: str, watch: bool) -> None:
    import pandas as pd

    if form == "json":
        click.echo(json.dumps(asdict(found), indent=None if watch else 2))
    elif form == "csv":
        kinds = {"sweep": found.sweeps, "fit": found.running, "ended": found.ended, "no result": found.without_result}
        rows = [{"kind": kind, **_flat(record)} for kind, records in kinds.items() for record in records]
        rows += [{"kind": "runs", "status": status, "runs": n} for status, n in found.counts.items()]
        print_frame(pd.DataFrame(rows), form)
    else:
        click.echo(_as_text(found))


def _as_text(found: "Status") -> str:
    """A status for people; commands stay in one piece."""
    lines = [f"{time.strftime('%F %T')}, store {found.store}", ""]
    for sweep in found.sweeps:
        lines += [*_sweep_lines(sweep), ""]
    if not found.sweeps:
        lines += ["no sweep lives", ""]
    if found.running:
        lines += [*_fit_lines(found.running), ""]
    for sweep in found.ended:
        what = f"{sweep['done']} of {sweep['planned']} runs done"
        lines += [f"ended without saying: {_where(sweep)}, {what}; to go on:", f"  {sweep['command']}", ""]
    counts = ", ".join(f"{n} {status}" for status, n in found.counts.items())
    lines.append(f"in the store: {counts or 'no runs yet'}")
    for reason in found.without_result:
        methods = ", ".join(reason["methods"])
        lines.append(f"  {reason['status']}, {reason['runs']} of {methods}, such as {reason['example']}: {reason['reason']}")
    return "\n".join([*lines, found.note] if found.note else lines)


def _sweep_lines(sweep: Mapping[str, Any]) -> list[str]:
    from xmbench.progress import time_left

    words = {
        "drain": "drains: what has begun comes to its end, nothing begins",
        "stop": "stops, to be continued by the same command",
        "go": time_left(sweep["seconds_left"]) if sweep["seconds_left"] != 0 else "longer than expected",
    }
    failures = "".join(f", {n} {status}" for status, n in sweep["failures"].items())
    done = f"{sweep['done']} of {sweep['planned']} runs done{failures}, {sweep['running']} fits running"
    return [str(sweep["command"]), f"  {_where(sweep)}: {done}; {words[sweep['word']]}"]


def _where(sweep: Mapping[str, Any]) -> str:
    since = _local(sweep["started"])
    return f"{sweep['backend']} x {sweep['jobs']} on {sweep['host']}, process {sweep['pid']}, since {since}"


def _local(moment: Any) -> str:
    """A time in UTC as the clock on the wall has it."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%a %d %b %H:%M")
    except (TypeError, ValueError):
        return str(moment)


def _fit_lines(running: list[dict[str, Any]]) -> list[str]:
    """A line per fit that runs, what belongs together below each other; and what is odd about them."""
    from xmbench.progress import duration

    rows = []
    for fit in running:
        fitting = fit["epoch"] is not None and fit["phase"] == "fitting"
        scores = [f"{name} {fit[name]:.4g}" for name in ("loss", "valid") if fitting and fit[name] is not None]
        phase = f"epoch {fit['epoch']}/{fit['epochs']}" if fitting else str(fit["phase"])
        shared = f" and {len(fit['runs']) - 1} more" if len(fit["runs"]) > 1 else ""
        rows.append([
            f"{''.join(fit['runs'][:1])}{shared}", f"{fit['method']} on {fit['dataset']}, {fit['noise']}, seed {fit['seed']}",
            ", ".join([phase, *scores]), duration(fit["elapsed"] or 0.0), _size(fit["rss"] or 0.0),
            f"{fit['device']} of {fit['host']}:{fit['pid']}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + [line for fit in running for line in _warnings(fit)]


def _warnings(fit: Mapping[str, Any]) -> list[str]:
    """What is odd about a fit that runs."""
    from xmbench.progress import duration
    from xmbench.watching import UNHEARD_SECONDS

    name, silent = "".join(fit["runs"][:1]), fit["silent"] or 0.0
    if fit["unheard"] > UNHEARD_SECONDS:
        why = "suspended, or its node or disk is out of reach"
        return [f"{name}: nothing heard of its process for about {duration(fit['unheard'])}; it may be {why}"]
    return [f"{name}: has said nothing for {duration(silent)}"] if silent > _SILENT_SECONDS else []


def _size(n_bytes: float) -> str:
    """An amount of memory."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB" if n_bytes >= 1e6 else f"{n_bytes:.0f} B"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The facts with mappings in them as names with dots, and lists as text."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
