"""Runs from Python: `xmbench.run`, with methods by name, as classes and as objects."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from xmbench.datasets import MissingDataError
from xmbench.device import choose_devices
from xmbench.engine import Engine
from xmbench.method import Method
from xmbench.plan import plan
from xmbench.progress import Progress
from xmbench.registry import load_plugin, modules, registered, source_file
from xmbench.run import Settings
from xmbench.spec import Spec, parse_settings, seed_list
from xmbench.store import Store
from xmbench.sweep import sweep, todo

MethodLike = str | type[Method] | Method


def run(
    methods: Sequence[MethodLike],
    dataset: str | Sequence[str],
    *,
    noise: str | Sequence[str] = (),
    rates: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8),
    seeds: int | Sequence[int] = 3,
    store: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    profile: str = "",
    protocol: str = "default",
    plugins: Sequence[str | Path] = (),
    jobs: int | None = None,
    device: str = "auto",
    keep: str = "first",
) -> pd.DataFrame:
    """Run what is missing of a grid, methods x datasets x noise rates x seeds, and return the rows of all of its runs.

    >>> import xmbench as xb
    >>> small = {"synthetic.train": 60, "synthetic.valid": 30, "synthetic.test": 30}
    >>> rows = xb.run(["cca", "pls"], "synthetic", rates=[0, 0.4], seeds=1, settings=small)
    >>> test = rows.query("split == 'test' and metric == 'map' and direction == 'mean' and selection == 'last'")
    >>> test.pivot(index="method", columns="noise_rate", values="value").round(2)
    noise_rate   0.0   0.4
    method
    cca         0.43  0.43
    pls         0.60  0.60

    Without `jobs` the runs are made in this process, one after the other, and a fit that brings it down takes them along. With
    it, each is made in a process of its own, which must be able to import its method: by name, or from a file in `plugins`.

    Args:
        methods: names of registered methods; classes, which run with their defaults; objects, which run with the
            hyper-parameters that they have, and are named by those that are not the default, as in `mine(dim=8)`. A class
            without @register_method goes by its own name for this run; it reads what the class that it is derived from reads,
            or vectors, labels and pairs.
        dataset: one name or several.
        noise: schemes; none for symmetric, or caption_shuffle where no dataset has labels.
        rates: noise rates.
        seeds: how many, or which.
        store: folder of the results, where finished runs are found again; None keeps nothing.
        settings: {"owner.parameter": value} of methods, datasets and noise.
        profile: a shipped set of method parameters, or a file, such as "reduced".
        protocol: how runs are validated and measured.
        plugins: files of further methods.
        jobs: runs at a time, each in a process of its own.
        device: a torch device, or "auto".
        keep: "none", "first" or "all" of the seeds have their embeddings stored.

    Returns:
        The rows of all runs, as `load_results` has them: one per run, split, network, selection, direction and metric, and
        one with status and error for a run without numbers, of which a warning tells too.

    Raises:
        LookupError, ValueError: an unknown name, or a value out of range.
        MissingDataError: the files of a dataset are not there.
    """
    with ExitStack() as stack:
        methods = [methods] if isinstance(methods, str) else methods
        for path in plugins:
            load_plugin(path)
        classes = [_class_of(method) for method in methods if not isinstance(method, str)]
        stack.enter_context(registered(classes))
        if jobs is None:
            stack.enter_context(_threads_restored())
        else:
            _check_importable(classes, plugins)
        spec = Spec(
            **_named(methods),
            datasets=(dataset,) if isinstance(dataset, str) else tuple(dataset),
            schemes=(noise,) if isinstance(noise, str) else tuple(noise),
            rates=tuple(map(float, rates)),
            seeds=seed_list(seeds),
            protocol=protocol,
            settings=parse_settings(settings or {}),
        )
        folder = Store(store if store is not None else stack.enter_context(tempfile.TemporaryDirectory()))
        return _execute(spec.with_profile(profile) if profile else spec, folder, plugins, jobs, device, keep)


def _execute(spec: Spec, store: Store, plugins: Sequence[str | Path], jobs: int | None, device: str, keep: str) -> pd.DataFrame:
    """Run what is missing of a spec; the rows of all its runs."""
    cells = plan(spec, keep=keep)
    if missing := next((cell for cell in cells if cell.status == "skipped" and not cell.fit_key), None):
        raise MissingDataError(missing.reason)
    work = todo(cells, store)
    engine = None
    if jobs is not None:
        engine = Engine(jobs=jobs, devices=choose_devices(None if device == "auto" else [device], jobs, jobs, jobs))
    chosen = Settings(device, plugins=tuple(str(Path(path).resolve()) for path in plugins))
    with Progress(work.groups, {}, jobs or 1) as progress:
        outcome = sweep(work, store, chosen, engine=engine, progress=progress)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.error:
        raise OSError(outcome.error)
    rows = store.rows()
    rows = rows[rows["run_id"].isin([cell.run.run_id for cell in cells])].reset_index(drop=True)
    _warn_of_failures(rows)
    return rows


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Leave the number of threads as it was: runs take their protocol's."""
    import torch

    before = torch.get_num_threads()
    with threadpool_limits(limits=None):
        yield
    torch.set_num_threads(before)


def _class_of(method: Method | type[Method]) -> type[Method]:
    cls = method if isinstance(method, type) else type(method)
    if not issubclass(cls, Method):
        raise TypeError(f"methods must be names, subclasses of xmbench.Method or objects of one, got {method!r}")
    return cls


def _named(methods: Sequence[MethodLike]) -> dict[str, Any]:
    """Methods and variants of a spec: an object whose hyper-parameters are not the defaults is a variant."""
    names: list[str] = []
    variants: dict[str, Mapping[str, Any]] = {}
    for method in methods:
        if isinstance(method, str):
            names.append(method)
            continue
        name = method.info.name
        if not isinstance(method, type) and (changed := _changed(method)):
            registered_name, name = name, f"{name}({', '.join(f'{key}={value}' for key, value in changed.items())})"
            variants[name] = {"method": registered_name, **changed}
        names.append(name)
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"every method must be given once, got {twice[0]} {names.count(twice[0])} times")
    return {"methods": tuple(names), "variants": variants}


def _changed(method: Method) -> dict[str, Any]:
    """The hyper-parameters of an object that are not the default."""
    changed = {}
    for field in fields(method):  # type: ignore[arg-type]
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if (value := getattr(method, field.name)) != default:
            changed[field.name] = value
    return changed


def _check_importable(classes: Sequence[type[Method]], plugins: Sequence[str | Path]) -> None:
    """Raise ValueError where a process of its own could not import a class."""
    installed = set(modules("baselines", "xmbench.methods").values())
    files = {Path(path).resolve() for path in plugins}
    for cls in classes:
        if cls.__module__ not in installed and source_file(cls) not in files:
            raise ValueError(
                f"{cls.__name__} must be in a file of `plugins` where `jobs` is given: a process of its own cannot import it "
                f"from {cls.__module__}; leave out jobs, or save it as a file"
            )


def _warn_of_failures(rows: pd.DataFrame) -> None:
    for _, row in rows[~rows["status"].isin(["ok", "not_applicable"])].iterrows():
        what = f"{row['method']} on {row['dataset']}, rate {row['noise_rate']:g}, seed {row['seed']}"
        reason = str(row["error"]).strip().rpartition("\n")[2]
        logging.getLogger("xmbench").warning("%s: %s: %s", row["status"], what, reason)
