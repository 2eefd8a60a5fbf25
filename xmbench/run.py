"""Execute planned runs: the only place that joins data, noise, method, evaluation and store. A failure becomes a row."""

import json
import logging
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from xmbench import __version__
from xmbench.detection import detection_measures
from xmbench.elsewhere import method_of, with_named_items, with_named_tests
from xmbench.evaluate import (
    COLLAPSED_BELOW,
    Measure,
    Measured,
    embed_split,
    few_items,
    measure,
    measure_folds,
    score_and_spread,
)
from xmbench.kept import history_arrays, kept_arrays
from xmbench.method import FitContext, FitStopped, Method
from xmbench.noise import Corruption, shuffle, strip
from xmbench.observe import class_observer, detection_observer, loss_observer, truth
from xmbench.plan import Cell, cached_dataset, corruption_of, valid_corruption
from xmbench.registry import find_method
from xmbench.spec import canonical
from xmbench.store import Store
from xmbench.subsets import chosen_pairs, with_items
from xmbench.types import Array, Dataset, Embedding, PairedSet

CHECKPOINT_SECONDS = 60.0
_IDENTITY = "run_id noise_scheme noise_rate noise_seed realised_rate noise_sha noise_options method spec profile tuning trial"


@dataclass(frozen=True)
class Settings:
    """How to execute, with no influence on what is measured beyond rounding.

    Attributes:
        device: a torch device or "auto".
        threads: per run; None takes the protocol's.
        checkpoint_seconds: least time between two checkpoints of a fit.
        plugins: files of methods that are neither built in nor installed.
    """

    device: str = "auto"
    threads: int | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    plugins: tuple[str, ...] = ()


@dataclass
class _Fitted:
    """A fit in progress: the method, its context, and what the harness knows that the method does not."""

    dataset: Dataset
    method: Method
    context: FitContext
    valid: dict[str, PairedSet]  # score key -> validation split as its protocol shows it
    corruption: Corruption
    weights: Any = None  # what the method believes of its training data as the fit ends
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    eval_seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def execute(
    cells: Sequence[Cell],
    store: Store,
    settings: Settings,
    known: Mapping[str, str],
    tell: Callable[[dict[str, Any]], None] = lambda news: None,
) -> list[tuple[str, str]]:
    """Fit once for cells that share a fit, measure once for those that share their results, store every run.

    Args:
        cells: planned runs with one fit key.
        store: where to.
        settings: device, threads, checkpoints.
        known: score key -> a stored run that has these results already.
        tell: called with what goes on: {"epoch", "epochs", "loss"}, {"phase"}, and {"stored": run id, "status"} for every
            run whose rows are in the store.

    Returns:
        (run id, status) per cell: "ok"; or "failed", or "oom" where memory did not suffice, with the traceback in its row.

    Raises:
        StoreError: the store cannot be written.
    """
    whole = {cell.score_key for cell in cells if _is_stored(cell, known.get(cell.score_key), store)}
    done = [_store_copy(cell, known[cell.score_key], store) for cell in cells if cell.score_key in whole]
    for run_id, status in done:
        tell({"stored": run_id, "status": status})
    rest = [cell for cell in cells if cell.score_key not in whole]
    if not rest:
        return done
    started = time.perf_counter()
    try:
        fitted = _fit(rest, store, settings, tell)
        tell({"phase": "measuring"})
        results = _measure(fitted, rest)
        written = [(_rows(cell, fitted, settings, results[cell.score_key][0]), results[cell.score_key][1]) for cell in rest]
        status = "ok"
    except Exception as error:
        message, seconds = "".join(traceback.format_exception(error)), time.perf_counter() - started
        status = "oom" if _is_want_of_memory(error) else "failed"
        written = [([failure_row(cell, status, message, seconds)], {}) for cell in rest]
    for rows, arrays in written:
        store.write(rows, arrays)
        tell({"stored": rows[0]["run_id"], "status": status, "error": rows[0].get("error") or ""})
    _checkpoint(rest[0], store).unlink(missing_ok=True)
    return done + [(cell.run.run_id, status) for cell in rest]


def _is_stored(cell: Cell, run_id: str | None, store: Store) -> bool:
    """Whether the run with the results of this one is in the store still: its files may have been damaged since the plan."""
    return run_id is not None and store.holds(run_id, cell.score_key, cell.source_sha)


def _is_want_of_memory(error: Exception) -> bool:
    import torch

    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def estimate_seconds(cell: Cell, settings: Settings) -> float:
    """About how long the cell's fit takes: three batches of an iterative method are timed; others are fitted."""
    from xmbench.device import choose_device, fast_matmul, keep_freed_memory, limit_threads

    limit_threads(settings.threads or cell.run.protocol.threads)
    fast_matmul()
    keep_freed_memory()
    dataset = _dataset(cell)
    context = FitContext(seed=cell.run.seed, device=choose_device(settings.device), time_batches=3)
    started = time.perf_counter()
    try:
        _build_and_fit(cell, dataset, corruption_of(cell.run, dataset), context)
    except FitStopped as stopped:
        return stopped.seconds
    except Exception:
        return 0.0  # the run itself will tell
    return time.perf_counter() - started


def fit_method(method: Method, train: PairedSet, context: FitContext) -> None:
    """Fit on what the method declared and nothing else, rows in an order that says nothing, torch seeded."""
    shown = strip(shuffle(train, seed=context.seed, keep_pairs="pairs" in method.needs()), method.needs())
    context.seed_torch()
    method.fit(shown, context)


def _checkpoint(cell: Cell, store: Store) -> Path:
    """Where an unfinished fit keeps its last epoch: another source of the method does not go on from it."""
    return store.checkpoint(f"{cell.fit_key}-{cell.source_sha}")


def _dataset(cell: Cell) -> Dataset:
    return cached_dataset(cell.run.dataset, canonical(dict(cell.run.dataset_parameters)))


def _build_and_fit(cell: Cell, dataset: Dataset, corruption: Corruption, context: FitContext) -> Method:
    method = method_of(cell.run)
    fit_method(method, corruption.train, context)
    return method


def _fit(cells: Sequence[Cell], store: Store, settings: Settings, tell: Callable[[dict[str, Any]], None]) -> _Fitted:
    from xmbench.device import choose_device, fast_matmul, keep_freed_memory, limit_threads

    run = cells[0].run
    limit_threads(settings.threads or run.protocol.threads)
    fast_matmul()
    keep_freed_memory()
    dataset = _dataset(cells[0])
    corruption = corruption_of(run, dataset)
    method = method_of(run)
    if "items" in cells[0].needs:
        dataset = with_named_tests(dataset)
    valid = {cell.score_key: _valid_split(cell, dataset) for cell in cells}
    detect = detection_observer(method, shuffle(corruption.train, seed=run.seed, keep_pairs="pairs" in cells[0].needs))
    classify = class_observer(method, corruption.train, dataset.train, valid, run.seed)
    watch_loss = loss_observer(method, valid)
    figures: dict[str, float] = {}
    context = FitContext(
        seed=run.seed,
        device=choose_device(settings.device),
        validate=lambda: _validate(method, cells[0], valid, figures),
        observe=lambda: figures | detect() | classify() | watch_loss(),
        validate_every=run.protocol.validate_every,
        checkpoint=_checkpoint(cells[0], store),
        checkpoint_seconds=settings.checkpoint_seconds,
        tell=tell,
    )
    tell({"phase": "fitting"})
    fitted = _Fitted(dataset, method, context, valid, corruption)
    wall, cpu = time.perf_counter(), time.process_time()
    _reset_peak_rss()
    fit_method(method, corruption.train, context)
    fitted.seconds, fitted.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    fitted.weights = method.clean_weights()
    if not context.history and (seen := detect() | classify()):  # a fit without epochs
        context.history.append({"epoch": float(context.epoch), **seen})
    return fitted


def _valid_split(cell: Cell, dataset: Dataset) -> PairedSet:
    """What the protocol shows of the validation split: its labels, at most so many pairs."""
    noisy = valid_corruption(cell.run, dataset)
    split = dataset.valid if noisy is None else noisy.train
    if "items" in cell.needs:
        split = with_named_items("valid", split)
    return with_items(split, chosen_pairs(split, cell.run.protocol.validate_items))[0]


def _validate(method: Method, cell: Cell, valid: dict[str, PairedSet], figures: dict[str, float]) -> dict[str, float]:
    """Selection score per score key; items are embedded once where labels differ.

    Into `figures` go the spread of the scores, and the MAP of each direction, "valid/KEY/map/image2text".
    """
    protocol, shown, scores = cell.run.protocol, next(iter(valid.values())), dict[str, float]()
    embeddings = embed_split(method, shown, protocol.dtype, cell.run.seed)
    for key, split in valid.items():
        if not np.array_equal(split.pairs, shown.pairs):  # type: ignore[arg-type]
            shown, embeddings = split, embed_split(method, split, protocol.dtype, cell.run.seed)
        scores[key], score_std, by_direction = score_and_spread(method, split, embeddings, protocol)
        figures |= {f"valid/{key}/map/{direction}": value for direction, value in by_direction.items()}
        if not np.isnan(score_std):
            figures["score_std"] = score_std
    return scores


def _detected(fitted: _Fitted, epoch: int) -> list[Measure]:
    """The noise detection of an epoch; none where the method says nothing or there is nothing to find."""
    row = next((row for row in fitted.context.history if row["epoch"] == epoch), {})
    expected = truth(fitted.method.clean_weights(), fitted.corruption.train)
    figures = {name: value for name, value in row.items() if name.startswith("noise_")}
    return [] if expected is None else detection_measures(figures, expected)


def _measure(fitted: _Fitted, cells: Sequence[Cell]) -> dict[str, tuple[list[dict[str, Any]], dict[str, Array]]]:
    """Score key -> measures as rows, and arrays: of the last epoch first, then of each key's best one."""
    started = time.perf_counter()
    kept = {cell.score_key: any(c.keep for c in cells if c.score_key == cell.score_key) for cell in cells}
    by_key = {cell.score_key: cell for cell in cells}
    last = {key: _measure_splits(fitted, cell, key, kept[key]) for key, cell in by_key.items()}
    context, results = fitted.context, {}
    common = {}
    if any(kept.values()):
        common = kept_arrays(fitted.dataset, fitted.corruption.train, context.records, fitted.weights, context.seed)
    for key, cell in by_key.items():
        best_epoch = fitted.context.best[key].epoch if key in fitted.context.best else fitted.context.epoch
        best = last[key]
        if best_epoch != fitted.context.epoch:
            fitted.context.restore_best(key)
            best = _measure_splits(fitted, cell, key, kept[key])
        selections = {"best_valid": (best, best_epoch), "last": (last[key], fitted.context.epoch)}
        rows, arrays = _collected(selections, history_arrays(fitted.context.history, key) | (common if kept[key] else {}))
        if not rows:
            metrics = ", ".join(cell.run.protocol.metrics)
            raise ValueError(
                f"no metric of protocol {cell.run.protocol.name!r} ({metrics}) can be measured on {fitted.dataset.name}"
            )
        for name, (_, epoch) in selections.items():
            rows += [{"split": "train", "selection": name, "epoch": epoch, **vars(m)} for m in _detected(fitted, epoch)]
        results[key] = rows, arrays
        _warn_of_collapse(fitted, rows)
    fitted.eval_seconds = time.perf_counter() - started
    return results


def _measure_splits(fitted: _Fitted, cell: Cell, key: str, keep: bool) -> dict[str, Measured]:
    """Validation and test splits, measured with the method as it stands."""
    protocol, seed = cell.run.protocol, cell.run.seed
    folds, measured = fitted.dataset.folds, {}
    embedded, embeddings = None, dict[str, list[Embedding]]()
    for name, split in {"valid": fitted.valid[key], **fitted.dataset.tests}.items():
        if split is not embedded:  # one split may be a test under two names, as a whole and in folds
            embeddings.clear()
            embedded, embeddings = split, embed_split(fitted.method, split, protocol.dtype, seed)
        test = name != "valid"
        if name in folds:
            measured[name] = measure_folds(fitted.method, split, embeddings, protocol, folds[name], curves=test)
        else:
            measured[name] = measure(fitted.method, split, embeddings, protocol, curves=test, rankings=keep and test)
        if keep and test and few_items(split):
            for modality, networks in embeddings.items():
                for number, embedding in enumerate(networks):
                    if embedding.values.ndim > 2:  # words and regions: gigabytes that no report reads
                        continue
                    network = "mean" if len(networks) == 1 else str(number)
                    measured[name].arrays[f"embedding/{network}/{modality}"] = embedding.values.astype(np.float16)
    return measured


def _collected(
    selections: dict[str, tuple[dict[str, Measured], int]], common: dict[str, Array]
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Rows of all measures, and arrays named kind/split/selection/...; values per query are kept for test splits."""
    rows: list[dict[str, Any]] = []
    arrays = dict(common)
    for selection, (splits, epoch) in selections.items():
        for split, measured in splits.items():
            what = {"split": split, "selection": selection, "epoch": epoch}
            what |= {"collapsed": measured.collapsed} if split != "valid" else {}
            rows += [{**what, **vars(m)} for m in measured.measures]
            if split != "valid":
                for name, array in measured.arrays.items():
                    kind, _, rest = name.partition("/")
                    arrays[f"{kind}/{split}/{selection}/{rest}"] = array
    return rows, arrays


def _warn_of_collapse(fitted: _Fitted, rows: list[dict[str, Any]]) -> None:
    """Name the first epoch whose scores were all but constant, which the ranks do not show."""
    seen = [int(row["epoch"]) for row in fitted.context.history if row.get("score_std", np.inf) < COLLAPSED_BELOW]
    epochs = seen + [row["epoch"] for row in rows if row.get("collapsed")]
    if epochs:
        message = "%s: the scores of epoch %d have collapsed: their standard deviation is below %g (seed %d, %s)"
        name, seed = fitted.method.info.name, fitted.context.seed
        logging.getLogger("xmbench").warning(message, name, min(epochs), COLLAPSED_BELOW, seed, fitted.dataset.name)


def _identity(cell: Cell) -> dict[str, Any]:
    """The columns that name a run."""
    run, noise = cell.run, cell.run.noise
    return {
        "run_id": run.run_id,
        "fit_key": cell.fit_key,
        "score_key": cell.score_key,
        "dataset": run.dataset,
        "dataset_params": canonical(dict(run.dataset_parameters)),
        "noise_scheme": noise.scheme,
        "noise_rate": noise.rate,
        "noise_seed": noise.seed,
        "noise_options": canonical(dict(noise.options)),
        "method": run.method,
        "implementation": run.implementation,
        "method_version": str(find_method(run.implementation).info.version),
        "source_sha": cell.source_sha,
        "params": canonical(dict(run.parameters)),
        "seed": run.seed,
        "protocol": run.protocol.name,
        "protocol_sha": run.protocol.sha,
        "valid_labels": run.protocol.valid_labels,
        "tuning": run.tuning,
        "trial": run.trial or None,
        "spec": cell.spec,
        "profile": cell.profile,
        "oracle": "clean" in cell.needs,
        "from_description": find_method(run.implementation).info.from_description,
    }


def _noise_facts(cell: Cell) -> dict[str, Any]:
    """What only the corrupted data tell: realised rate and hash."""
    corruption = corruption_of(cell.run, _dataset(cell))
    return {"realised_rate": corruption.realised_rate, "noise_sha": corruption.noise_sha}


def _rows(cell: Cell, fitted: _Fitted, settings: Settings, measures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes = ", ".join(f"{m.name} {m.vectors.shape[1]}" for m in fitted.dataset.train.modalities if m.vectors is not None)
    common = {
        **_identity(cell),
        **_noise_facts(cell),
        "status": "ok",
        "features": sizes,
        "n_networks": len({row["network"] for row in measures if row["network"].isdigit()}) or 1,
        "fit_seconds": fitted.seconds,
        "eval_seconds": fitted.eval_seconds,
        "cpu_seconds": fitted.cpu_seconds,
        "peak_rss": _peak_rss(),
        "device": fitted.context.device,
        "threads": settings.threads or cell.run.protocol.threads,
        "git_commit": git_commit(),
        "versions": json.dumps(json.loads(versions()) | fitted.method.files(), sort_keys=True),
        "started": fitted.started,
    }
    return [{**common, **measure} for measure in measures]


def failure_row(cell: Cell, status: str, error: str, seconds: float = 0.0) -> dict[str, Any]:
    """The one row of a run without numbers: failed, skipped or not applicable, with the reason."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        **_identity(cell), "status": status, "error": error, "fit_seconds": seconds, "git_commit": git_commit(),
        "versions": versions(), "started": started,
    }  # fmt: skip


def _store_copy(cell: Cell, run_id: str, store: Store) -> tuple[str, str]:
    """Store a run whose numbers another run already has: the same rows under its own name and noise."""
    own = {**_identity(cell), **_noise_facts(cell)}
    changed = {name: own[name] for name in _IDENTITY.split()}
    rows = [{**row, **changed} for row in store.run(run_id).astype(object).replace({np.nan: None}).to_dict("records")]
    store.write(rows, store.arrays(run_id))
    return cell.run.run_id, "ok"


@cache
def git_commit() -> str:
    """The commit that the package was run from, with "+" where the work tree differs; "" outside a repository."""
    folder = Path(__file__).parent
    if not (folder.parent / "pyproject.toml").exists():
        return ""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", "../baselines"]
        changed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


@cache
def versions() -> str:
    """Versions of what the numbers depend on, as JSON."""
    from xmbench.device import fast_matmul

    found = {"python": platform.python_version(), "matmul": fast_matmul().split()[0], "xmbench": __version__}
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return json.dumps(found, sort_keys=True)


def _reset_peak_rss() -> None:
    """Let the kernel count the peak memory of this process anew, where it can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss() -> float:
    """Peak memory in bytes since the last reset, or since the process began."""
    try:
        status = Path("/proc/self/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
    except (OSError, StopIteration):
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
