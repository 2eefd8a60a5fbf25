"""What goes on in a store, for those who look from another shell or node: sweeps, fits that run, one run and its log.

Nothing is written, and no clock is trusted further than its own differences: times come from the processes themselves, which
measure them where they run, and from whether files change while one looks.
"""

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from xmbench.live import are_left, heard, is_held, read_states, whose_log
from xmbench.store import Store, mark_stale

UNHEARD_SECONDS = 60.0  # without a change of a state that is written every second
_SECOND_LOOK = 2.5
_MOST_REASONS = 10
_MOST_MATCHES = 10
_POLL_SECONDS = 0.5
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_SAID_BY_FITS = (
    "method dataset noise seed phase epoch epochs loss valid elapsed silent rss device host pid started sweep".split()
)
_NAMED_BY = ["method", "dataset", "noise_scheme", "noise_rate", "seed", "status", "started"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Status:
    """What goes on in a store, as records that JSON can hold.

    Attributes:
        store: its name.
        sweeps: that live: id, command, where, what is done of what, failures, seconds left, and the word they obey.
        running: fits that run: their runs, what they are, how far, and where.
        ended: sweeps that were killed: what they did, and the command to go on with.
        counts: status -> runs in the store.
        without_result: why runs have none, the most frequent reasons first: status, reason, runs, methods, an example.
        note: what cannot be seen from here, or "".
    """

    store: str
    sweeps: list[Record] = field(default_factory=list)
    running: list[Record] = field(default_factory=list)
    ended: list[Record] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    without_result: list[Record] = field(default_factory=list)
    note: str = ""


class Watch:
    """Looks at a store again and again.

    Args:
        store: to look at.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changes = _Changes()
        self._counted_until = -math.inf
        self._counts: tuple[dict[str, int], list[Record]] = {}, []

    def look(self) -> Status:
        """What goes on now; the runs of a large store are counted again only after ten times as long as it takes."""
        running = self._running()
        if any(fit["unheard"] > UNHEARD_SECONDS for fit in running):  # or the clock of its node is another one: look again
            time.sleep(_SECOND_LOOK)
            running = self._running()
        sweeps, ended = self._sweeps(running)
        if (began := time.monotonic()) >= self._counted_until:
            self._counts = _counted(self._store)
            now = time.monotonic()
            self._counted_until = now + 10 * (now - began)
        note = ""
        if self._store.is_remote:
            note = f"sweeps of other machines into {self._store} cannot be seen from here, only their results"
        return Status(str(self._store), sweeps, running, ended, *self._counts, note)

    def _running(self) -> list[Record]:
        """Fits whose claim is held."""
        folder = self._store.path / "running"
        fits = []
        for key, state in read_states(folder).items():
            if is_held(folder, key):
                unheard = round(self._changes.seconds_since(folder / f"{key}.json"), 1)
                said = {name: state.get(name) for name in _SAID_BY_FITS}
                fits.append({"runs": _run_ids(state), "fit_key": key, **said, "unheard": unheard})
        return sorted(fits, key=lambda fit: (str(fit["sweep"]), str(fit["started"]), fit["fit_key"]))

    def _sweeps(self, running: list[Record]) -> tuple[list[Record], list[Record]]:
        """Sweeps that live, and those that were killed."""
        folder = self._store.path / "sweeps"
        states = read_states(folder)
        left = are_left(folder, states)
        fits = Counter(str(fit["sweep"]) for fit in running)
        since = self._changes.seconds_between(
            [folder / f"{name}.json" for name in states],
            [self._store.path / "running" / f"{f['fit_key']}.json" for f in running],
        )
        sweeps, ended = [], []
        for name, state in states.items():
            record = {"sweep": name, **_progress(state), "running": fits[name]}
            if name in left:
                ended.append(record)
            elif is_held(folder, name):
                seconds = state.get("seconds_left")
                seconds = None if seconds is None else max(0.0, round(seconds - since[f"{name}.json"], 1))
                sweeps.append({**record, "seconds_left": seconds, "word": heard(folder, name)})
        return sweeps, ended


class _Changes:
    """For how long files have not changed: by the clock where one is seen first, by looking from then on."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float, float]] = {}  # time of the file, when it was seen first, its age then

    def seconds_since(self, path: Path) -> float:
        """Since the last change."""
        now, changed = time.monotonic(), _changed(path)
        before = self._seen.get(path)
        if before is None:
            self._seen[path] = changed, now, max(0.0, time.time() - changed / 1e9)
        elif before[0] != changed:
            self._seen[path] = changed, now, 0.0
        _, seen, age = self._seen[path]
        return age + now - seen

    @staticmethod
    def seconds_between(paths: list[Path], others: list[Path]) -> dict[str, float]:
        """Name -> seconds from the last change of each path to the last one of all: what runs writes every second."""
        times = {path.name: _changed(path) for path in paths}
        newest = max([*times.values(), *map(_changed, others)], default=0)
        return {name: (newest - changed) / 1e9 for name, changed in times.items()}


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it has just ended
        return 0


def _run_ids(state: Mapping[str, Any]) -> list[str]:
    return [str(run_id) for run_id in state.get("runs", [])]


def _progress(state: Mapping[str, Any]) -> Record:
    """What a sweep has said of itself."""
    counts = {str(status): int(n) for status, n in dict(state.get("counts") or {}).items()}
    before = int(state.get("done_before", 0))
    names = ("command", "host", "pid", "backend", "jobs", "started")
    return {
        **{name: state.get(name) for name in names},
        "done": before + counts.pop("ok", 0),
        "planned": before + int(state.get("to_do", 0)),
        "failures": counts,
    }


def _counted(store: Store) -> tuple[dict[str, int], list[Record]]:
    """Status -> runs of the store, and the reasons of those without a result."""
    runs = store.runs(["status", "error", "method"])
    counts = {str(status): int(n) for status, n in runs["status"].value_counts().items()}
    rest = runs[runs["status"] != "ok"]
    last = rest["error"].fillna("").astype(str).map(last_line)
    alike = last.map(lambda line: re.sub(r"\d[\d.]*", "0", line.partition("; its log: ")[0]))
    reasons = [
        {
            "status": status,
            "runs": len(part),
            "methods": sorted(set(part["method"])),
            "reason": last[part.index[0]],
            "example": part["run_id"].iloc[0],
        }
        for (status, _), part in rest.groupby([rest["status"], alike], sort=False)
    ]
    return counts, sorted(reasons, key=lambda reason: -reason["runs"])[:_MOST_REASONS]


def last_line(text: str) -> str:
    """The last line of an error, which says what went wrong."""
    return (text.strip().splitlines() or [""])[-1]


def running_fit(store: Store, run_id: str) -> Record | None:
    """The state of the fit that has this run, if it runs now."""
    folder = store.path / "running"
    for key, state in read_states(folder).items():
        if run_id in _run_ids(state) and is_held(folder, key):
            return {"fit_key": key, **state}
    return None


def a_sweep_lives(store: Store) -> bool:
    """Whether a sweep into the store lives, as far as can be seen from this machine."""
    folder = store.path / "sweeps"
    return any(is_held(folder, name) for name in read_states(folder))


def find_run(store: Store, text: str) -> str:
    """The id of the run that `text` means: an id, the beginning of one, or a method that has a single run.

    An id that is unknown is taken at its word while a sweep lives, which may be about to begin it.

    Raises:
        LookupError: no run or several ones, which are listed.
    """
    if _RUN_ID.fullmatch(text) and (_has_log(store, text) or a_sweep_lives(store) or not store.run(text).empty):
        return text
    known = _known_runs(store)
    matches = known[known.index.str.startswith(text) | (known["method"] == text)]
    if len(matches) == 1:
        return str(matches.index[0])
    if known.empty:
        raise LookupError(f"no run {text!r} in {store}, which has none yet; `xmbench plan` prints the ids of a grid")
    shown = known if matches.empty else matches
    problem = (
        f"no run {text!r} in {store}; there are"
        if matches.empty
        else f"{text!r} may be any of {len(matches)} runs; give more of an id"
    )
    lines = [_in_words(run_id, run) for run_id, run in shown.head(_MOST_MATCHES).iterrows()]
    more = [f"and {len(shown) - _MOST_MATCHES} more"] if len(shown) > _MOST_MATCHES else []
    raise LookupError("\n  ".join([f"{problem}:", *lines, *more]))


def _has_log(store: Store, run_id: str) -> bool:
    return (store.path / "logs" / f"{run_id}.log").exists()


def _known_runs(store: Store) -> pd.DataFrame:
    """Runs that run or have run, by id, with `_NAMED_BY`: those that run first, then the newest."""
    rows, folder = [], store.path / "running"
    for key, state in read_states(folder).items():
        said = {**state, "noise_scheme": state.get("noise"), "status": "running"}
        rows += [{"run_id": run_id, **said} for run_id in _run_ids(state) if is_held(folder, key)]
    known = store.runs(_NAMED_BY).sort_values("started", ascending=False)
    logged = [path.stem for path in (store.path / "logs").glob("*.log")]
    parts = [pd.DataFrame(rows, columns=known.columns), known, pd.DataFrame({"run_id": logged}, columns=known.columns)]
    every = pd.concat([part.astype(object) for part in parts], ignore_index=True)
    return every.drop_duplicates("run_id").set_index("run_id")


def _in_words(run_id: object, run: "pd.Series[Any]") -> str:
    if pd.isna(run["method"]):
        return f"{run_id}  without a result, see its log"
    noise = run["noise_scheme"] if pd.isna(run["noise_rate"]) else f"{run['noise_scheme']}@{run['noise_rate']:g}"
    return f"{run_id}  {run['method']} on {run['dataset']}, {noise}, seed {run['seed']}: {run['status']}"


def log_file(store: Store, run_id: str) -> Path:
    """The log that tells of a run: its own, or that of the run whose fit it shares."""
    store.get_log(run_id)
    path = store.path / "logs" / f"{run_id}.log"
    other = whose_log(path)
    if other is None or other == run_id:
        return path
    store.get_log(other)
    return store.path / "logs" / f"{other}.log"


def follow(store: Store, run_id: str) -> Iterator[bytes]:
    """The log of a run as it grows, until the run has ended; b"" whenever there is nothing new.

    The run has ended when nobody works on it and it is in the store, or no sweep lives that could begin it. A log that was cut
    or replaced is read from its beginning.
    """
    read: tuple[Path, int, int] | None = None
    while True:
        ended = running_fit(store, run_id) is None and (not store.run(run_id).empty or not a_sweep_lives(store))
        path = log_file(store, run_id)
        try:
            with path.open("rb") as file:
                number, size = os.fstat(file.fileno()).st_ino, os.fstat(file.fileno()).st_size
                at = read[2] if read is not None and read[:2] == (path, number) and read[2] <= size else 0
                file.seek(at)
                content = file.read()
                read = path, number, at + len(content)
                yield content
        except FileNotFoundError:
            yield b""
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def describe(store: Store, run_id: str) -> Record:
    """Everything about one run, as far as it has come; its last item is "metrics", a record per split, selection, direction.

    Raises:
        LookupError: nothing is known of it yet.
    """
    rows, fit = mark_stale(store.run(run_id)), running_fit(store, run_id)
    log = store.path / "logs" / f"{run_id}.log"
    if rows.empty and fit is None:
        hint = f"; see `xmbench logs {run_id}`" if _has_log(store, run_id) else ""
        raise LookupError(f"run {run_id} has not ended, and nobody is at it now{hint}")
    facts: Record = {"run_id": run_id}
    if fit is not None:
        facts["running"] = {name: value for name, value in fit.items() if name != "runs"}
    if rows.empty:
        return {**facts, "log": str(log), "metrics": []}
    first = {name: value for name, value in rows.iloc[0].items() if not _is_missing(value)}
    facts |= {name: first[name] for name in _SHOWN if name in first}
    for name in ("dataset_params", "params", "noise_options", "versions"):
        facts[name] = json.loads(str(first.get(name) or "{}"))
    best = rows[rows["selection"] == "best_valid"]["epoch"].dropna()
    last = rows[rows["selection"] == "last"]["epoch"].dropna()
    if len(best) and len(last):
        facts["best_epoch"], facts["last_epoch"] = int(best.iloc[0]), int(last.iloc[0])
    facts["files"] = _files(store, run_id, str(first.get("fit_key")))
    return {name: _plain(value) for name, value in facts.items()} | {"metrics": _headline(rows)}


_SHOWN = (
    "status error method implementation method_version dataset features noise_scheme noise_rate realised_rate noise_seed "
    "noise_sha seed protocol valid_labels spec profile tuning trial oracle from_description stale started fit_seconds "
    "eval_seconds cpu_seconds peak_rss device threads git_commit source_sha fit_key score_key"
).split()


def _headline(rows: pd.DataFrame) -> list[Record]:
    """MAP, or recalls and their sum, by split, selection and direction, of the mean of all networks."""
    chosen = rows[(rows["network"] == "mean") & rows["fold"].isna()]
    chosen = chosen[chosen["metric"].isin(["map", "rsum"]) | chosen["metric"].str.startswith("r@", na=False)]
    if chosen.empty:
        return []
    keys = ["split", "selection", "direction"]
    table = chosen.pivot_table(index=keys, columns="metric", values="value", sort=False)
    ordered = sorted(table.columns, key=lambda name: (name not in ("map", "rsum"), len(name), name))
    return [
        {str(name): None if _is_missing(value) else value for name, value in record.items()}
        for record in table[ordered].reset_index().to_dict("records")
    ]


def _files(store: Store, run_id: str, fit_key: str) -> dict[str, int]:
    """Name -> bytes of what the store has of a run; rows that were compacted lie among others."""
    sizes = store.sizes()
    found = {name: sizes[name] for suffix in ("parquet", "npz") if (name := f"{run_id}.{suffix}") in sizes}
    beside = [store.path / "logs" / f"{run_id}.log", *(store.path / "checkpoints").glob(f"{fit_key}-*.pt")]
    return found | {str(path.relative_to(store.path)): path.stat().st_size for path in beside if path.exists()}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA


def _plain(value: Any) -> Any:
    """A number as Python has it."""
    return value.item() if hasattr(value, "item") else value
