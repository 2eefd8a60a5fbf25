"""Execute planned runs: the only place that joins data, noise, method, evaluation and store. A failure becomes a row."""

import json
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
from xmbench.evaluate import Measured, embed_split, measure, noise_detection, selection_score
from xmbench.method import FitContext, FitStopped, Method
from xmbench.noise import Corruption, shuffle, strip
from xmbench.plan import Cell, cached_dataset, corruption_of, valid_corruption
from xmbench.registry import build_method, find_method
from xmbench.spec import canonical
from xmbench.store import Store
from xmbench.types import Array, Dataset, PairedSet, stream

CHECKPOINT_SECONDS = 60.0
_INPUT_COMPONENTS = 50
_IDENTITY = "run_id noise_scheme noise_rate noise_seed realised_rate noise_sha noise_options method spec profile tuning trial"


@dataclass(frozen=True)
class Settings:
    """How to execute, with no influence on what is measured beyond rounding.

    Attributes:
        device: a torch device or "auto".
        threads: per run; None takes the protocol's.
        checkpoint_seconds: least time between two checkpoints of a fit.
    """

    device: str = "auto"
    threads: int | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass
class _Fitted:
    """A fit in progress: the method, its context, and what the harness knows that the method does not."""

    dataset: Dataset
    method: Method
    context: FitContext
    valid: dict[str, PairedSet]  # score key -> validation split as its protocol shows it
    corruption: Corruption
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    eval_seconds: float = 0.0
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def execute(cells: Sequence[Cell], store: Store, settings: Settings, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """Fit once for cells that share a fit, measure once for those that share their results, store every run.

    Args:
        cells: planned runs with one fit key.
        store: where to.
        settings: device, threads, checkpoints.
        known: score key -> a stored run that has these results already.

    Returns:
        (run id, status) per cell: "ok", or "failed" with the traceback in its row.

    Raises:
        StoreError: the store cannot be written.
    """
    done = [_store_copy(cell, known[cell.score_key], store) for cell in cells if cell.score_key in known]
    rest = [cell for cell in cells if cell.score_key not in known]
    if not rest:
        return done
    started = time.perf_counter()
    try:
        fitted = _fit(rest, store, settings)
        results = _measure(fitted, rest)
        written = [(_rows(cell, fitted, settings, results[cell.score_key][0]), results[cell.score_key][1]) for cell in rest]
        status = "ok"
    except Exception as error:
        message, seconds = "".join(traceback.format_exception(error)), time.perf_counter() - started
        written = [([failure_row(cell, "failed", message, seconds)], {}) for cell in rest]
        status = "failed"
    for rows, arrays in written:
        store.write(rows, arrays)
    _checkpoint(rest[0], store).unlink(missing_ok=True)
    return done + [(cell.run.run_id, status) for cell in rest]


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
    method = build_method(cell.run.implementation, **cell.run.parameters)
    fit_method(method, corruption.train, context)
    return method


def _fit(cells: Sequence[Cell], store: Store, settings: Settings) -> _Fitted:
    from xmbench.device import choose_device, fast_matmul, keep_freed_memory, limit_threads

    run = cells[0].run
    limit_threads(settings.threads or run.protocol.threads)
    fast_matmul()
    keep_freed_memory()
    dataset = _dataset(cells[0])
    corruption = corruption_of(run, dataset)
    method = build_method(run.implementation, **run.parameters)
    valid = {cell.score_key: _valid_split(cell, dataset) for cell in cells}
    context = FitContext(
        seed=run.seed,
        device=choose_device(settings.device),
        validate=lambda: _validate(method, cells[0], valid),
        observe=_observer(method, shuffle(corruption.train, seed=run.seed, keep_pairs="pairs" in cells[0].needs)),
        validate_every=run.protocol.validate_every,
        checkpoint=_checkpoint(cells[0], store),
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    fitted = _Fitted(dataset, method, context, valid, corruption)
    wall, cpu = time.perf_counter(), time.process_time()
    _reset_peak_rss()
    fit_method(method, corruption.train, context)
    fitted.seconds, fitted.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return fitted


def _valid_split(cell: Cell, dataset: Dataset) -> PairedSet:
    """The validation split with the labels that the protocol shows."""
    noisy = valid_corruption(cell.run, dataset)
    return dataset.valid if noisy is None else noisy.train


def _validate(method: Method, cell: Cell, valid: dict[str, PairedSet]) -> dict[str, float]:
    """Selection score per score key; the items are embedded once, the labels may differ."""
    protocol, seed = cell.run.protocol, cell.run.seed
    first = next(iter(valid.values()))
    rows = _chosen_pairs(first, protocol.validate_items)
    embeddings = embed_split(method, _subset(first, rows), protocol.dtype, seed)
    return {key: selection_score(method, _subset(split, rows), embeddings, protocol) for key, split in valid.items()}


def _chosen_pairs(split: PairedSet, n: int) -> Array | None:
    """At most `n` pairs by number, the same for every run; None where all are used."""
    if split.pairs is None or len(split.pairs) <= n:
        return None
    return np.sort(stream("validate").permutation(len(split.pairs))[:n])


def _subset(split: PairedSet, pairs: Array | None) -> PairedSet:
    """The split with the pairs by number, and the items in them."""
    if pairs is None or split.pairs is None:
        return split
    items = [np.unique(column, return_inverse=True) for column in split.pairs[pairs].T]
    modalities = tuple(m.take(rows) for m, (rows, _) in zip(split.modalities, items, strict=True))
    return PairedSet(modalities=modalities, pairs=np.stack([inverse for _, inverse in items], axis=1))


def _observer(method: Method, shown: PairedSet) -> Callable[[], dict[str, float]]:
    """Noise detection at each end of an epoch, for methods that say how clean they believe each item to be."""

    def observe() -> dict[str, float]:
        weights = method.clean_weights()
        return {} if weights is None or shown.clean is None else noise_detection(weights, shown.clean)

    return observe


def _measure(fitted: _Fitted, cells: Sequence[Cell]) -> dict[str, tuple[list[dict[str, Any]], dict[str, Array]]]:
    """Score key -> measures as rows, and arrays: of the last epoch first, then of each key's best one."""
    started = time.perf_counter()
    kept = {cell.score_key: any(c.keep for c in cells if c.score_key == cell.score_key) for cell in cells}
    by_key = {cell.score_key: cell for cell in cells}
    last = {key: _measure_splits(fitted, cell, key, kept[key]) for key, cell in by_key.items()}
    results = {}
    for key, cell in by_key.items():
        best_epoch = fitted.context.best[key].epoch if key in fitted.context.best else fitted.context.epoch
        best = last[key]
        if best_epoch != fitted.context.epoch:
            fitted.context.restore_best(key)
            best = _measure_splits(fitted, cell, key, kept[key])
        selections = {"best_valid": (best, best_epoch), "last": (last[key], fitted.context.epoch)}
        results[key] = _collected(selections, _common_arrays(fitted, key, kept[key]))
        if not results[key][0]:
            metrics = ", ".join(cell.run.protocol.metrics)
            raise ValueError(
                f"no metric of protocol {cell.run.protocol.name!r} ({metrics}) can be measured on {fitted.dataset.name}"
            )
    fitted.eval_seconds = time.perf_counter() - started
    return results


def _measure_splits(fitted: _Fitted, cell: Cell, key: str, keep: bool) -> dict[str, Measured]:
    """Validation and test splits, measured with the method as it stands."""
    protocol, seed = cell.run.protocol, cell.run.seed
    measured = {}
    for name, split in {"valid": fitted.valid[key], **fitted.dataset.tests}.items():
        embeddings = embed_split(fitted.method, split, protocol.dtype, seed)
        measured[name] = measure(
            fitted.method, split, embeddings, protocol, curves=name != "valid", rankings=keep and name != "valid"
        )
        if keep and name != "valid":
            for modality, networks in embeddings.items():
                for number, embedding in enumerate(networks):
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
            rows += [{"split": split, "selection": selection, "epoch": epoch, **vars(m)} for m in measured.measures]
            if split != "valid":
                for name, array in measured.arrays.items():
                    kind, _, rest = name.partition("/")
                    arrays[f"{kind}/{split}/{selection}/{rest}"] = array
    return rows, arrays


def _common_arrays(fitted: _Fitted, key: str, keep: bool) -> dict[str, Array]:
    """The history of the fit; and, where arrays are kept, diagnostics, labels, items and input features."""
    history = fitted.context.history
    names = dict.fromkeys(name for row in history for name in row if not name.startswith("valid/"))
    arrays = {f"history/{name}": np.array([row.get(name, np.nan) for row in history]) for name in names}
    if history:
        arrays["history/valid"] = np.array([row.get(f"valid/{key}", np.nan) for row in history])
    if not keep:
        return arrays
    arrays |= {f"record/{name}": array for name, array in fitted.context.records.items()}
    arrays["class_names"] = np.array(fitted.dataset.class_names)
    for split, content in fitted.dataset.tests.items():
        for m in content.modalities:
            if m.labels is not None:
                arrays[f"labels/{split}/{m.name}"] = m.labels
            if m.item_ids is not None:
                arrays[f"items/{split}/{m.name}"] = m.item_ids
            if m.vectors is not None:
                arrays[f"input/{split}/{m.name}"] = _leading_components(np.asarray(m.vectors)).astype(np.float16)
    return arrays


def _leading_components(values: Array) -> Array:
    """Scores (n, <= 50) of the leading principal components of vectors (n, d)."""
    centred = values.astype(np.float64) - values.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray((u * s)[:, :_INPUT_COMPONENTS])


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
        "method_version": str(fitted.method.info.version),
        "n_networks": len({row["network"] for row in measures} - {"mean"}) or 1,
        "fit_seconds": fitted.seconds,
        "eval_seconds": fitted.eval_seconds,
        "cpu_seconds": fitted.cpu_seconds,
        "peak_rss": _peak_rss(),
        "device": fitted.context.device,
        "threads": settings.threads or cell.run.protocol.threads,
        "git_commit": git_commit(),
        "versions": versions(),
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
