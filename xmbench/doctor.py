"""Whether this machine, this installation and a store are fit for runs. Looks only, and outlives what is broken."""

import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from xmbench import __version__
from xmbench.files import is_url

State = Literal["ok", "note", "warning", "problem"]

RUN_BYTES, DISK_BYTES, FULL_BYTES = 10**9, 10**9, 10**8  # memory for a run; disk that is little, and too little
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_GROUPS = ("xmbench.methods", "xmbench.datasets")
_MOST_FILES = 5
_SWITCHED_ON = {
    "bash": 'put into ~/.bashrc: eval "$(_XMBENCH_COMPLETE=bash_source xmbench)"',
    "zsh": 'put into ~/.zshrc: eval "$(_XMBENCH_COMPLETE=zsh_source xmbench)"',
    "fish": "put into ~/.config/fish/config.fish: _XMBENCH_COMPLETE=fish_source xmbench | source",
}


@dataclass(frozen=True)
class Finding:
    """What one look has found.

    Attributes:
        check: what was looked at.
        state: "note" is neither good nor bad.
        found: what is there.
        advice: what to do, "" where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8} {self.check}: {self.found}{f'; {self.advice}' if self.advice else ''}"


def examine(store: str) -> Iterator[Finding]:
    """Look at everything in turn.

    Args:
        store: name of a store, which need not be there.
    """
    for name, look in _LOOKS.items():
        try:
            for state, found, advice in look(store):
                yield Finding(name, state, found, advice)
        except Exception as error:
            yield Finding(name, "problem", f"cannot be looked at: {type(error).__name__}: {error}", "")


_Look = Iterator[tuple[State, str, str]]


def _python(_: str) -> _Look:
    """The interpreter against what the package asks for."""
    from packaging.specifiers import SpecifierSet

    try:
        wanted = metadata.metadata("xmbench")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        yield "warning", f"xmbench {__version__} is not installed, only its folder is found", "pip install -e ."
        wanted = ""
    version = platform.python_version()
    here = f"{version} on {platform.system()} {platform.machine()}, xmbench {__version__} in {Path(__file__).parent}"
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield "ok", here, ""
    else:
        yield "problem", f"{here}, which needs Python {wanted}", "make an environment with another Python"


def _packages(_: str) -> _Look:
    """Installed versions against the bounds of the package; those of extras where all of an extra is there."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in metadata.requires("xmbench") or []]
    except metadata.PackageNotFoundError:
        return
    extras = metadata.metadata("xmbench").get_all("Provides-Extra") or []
    main = [requirement for requirement in needed if _counts(requirement, "")]
    versions = {requirement.name: _version(requirement.name) for requirement in main}
    wrong = [requirement for requirement in main if not _fits(requirement)]
    for requirement in wrong:
        bounds = f"{requirement.name}{requirement.specifier}"
        yield "problem", f"{requirement.name} {versions[requirement.name] or 'is not installed'}", f"pip install '{bounds}'"
    if not wrong:
        yield "ok", ", ".join(f"{name} {version}" for name, version in versions.items()), ""
    for extra in [name for name in extras if name != "dev"]:
        of_extra = [requirement for requirement in needed if requirement not in main and _counts(requirement, extra)]
        there, advice = all(map(_fits, of_extra)), f"pip install 'xmbench[{extra}]'"
        yield "note", f"extra {extra} is {'there' if there else 'not there'}", "" if there else advice


def _counts(requirement: Any, extra: str) -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": extra}))


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _fits(requirement: Any) -> bool:
    version = _version(requirement.name)
    return version is not None and bool(requirement.specifier.contains(version, prereleases=True))


def _torch(_: str) -> _Look:
    """The build of torch, its devices, and its product of float32 matrices."""
    import torch

    from xmbench.device import fast_matmul, found_devices

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        devices = found_devices()
    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    build = build or (torch.version.hip and f"ROCm {torch.version.hip}") or "CPU"
    here = f"{torch.__version__}, build for {build}; devices: {', '.join(devices)}"
    if build != "CPU" and devices == ("cpu",):
        reason = f" ({str(told[0].message).splitlines()[0]})" if told else ""
        if shutil.which("nvidia-smi") or shutil.which("rocm-smi"):
            yield "warning", f"{here}: the GPU is not seen{reason}", "bring driver and build of torch together"
            return
        yield "note", f"{here}: no GPU is seen{reason}", "a CPU build of torch takes several GB less"
        return
    yield "ok", f"{here}; float32 products: {fast_matmul()}", ""


def _threads(_: str) -> _Look:
    """Cores that may be used, against the machine's, the threads that the environment asks for, and what runs now."""
    from joblib import cpu_count

    usable, cores = int(cpu_count()), os.cpu_count() or 1
    cause = " (affinity, or the quota of a container)" if usable < cores else ""
    yield "ok", f"{usable} of {cores} cores may be used{cause}: so many runs at a time, one thread each", ""
    for name in _THREADS:
        if (value := os.environ.get(name)) is None:
            continue
        if not value.isdecimal() or not 0 < int(value) <= usable:
            yield "warning", f"{name} is {value!r}", f"set it to a number from 1 to {usable}, or not at all"
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > usable:
        yield "warning", f"{load:.1f} processes compete for {usable} cores", "times measured now are too long; use fewer --jobs"


def _memory(_: str) -> _Look:
    """What is free, of the machine and of the container."""
    import psutil
    from joblib import cpu_count

    machine = psutil.virtual_memory()
    free, limit = machine.available, _container_bytes()
    if limit is not None:
        free = min(free, limit[0] - limit[1])
    here = f"{free / 1e9:.1f} GB free of {min(machine.total, limit[0] if limit else machine.total) / 1e9:.1f} GB"
    jobs = max(1, int(free / RUN_BYTES))
    if jobs < cpu_count():
        yield "warning", f"{here}, little for {cpu_count()} runs at a time", f"use --jobs {jobs}, and --max-rss"
    else:
        yield "ok", here, ""


def _container_bytes() -> tuple[int, int] | None:
    """The limit of the container's memory, and how much of it is in use; None where there is no limit."""
    for folder, names in (("", ("memory.max", "memory.current")),
                          ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"))):  # fmt: skip
        with suppress(OSError, ValueError):
            limit, used = (int((CGROUP / folder / name).read_text()) for name in names)
            return (limit, used) if limit < 1 << 60 else None
    return None


CGROUP = Path("/sys/fs/cgroup")


def _disk(store: str) -> _Look:
    """Free space where results and data go."""
    from xmbench.datasets._files import cache_root, data_root

    places = {"data cache": cache_root()}
    if not is_url(store):
        places = {"store": Path(store), **places}
    if (root := data_root()) is not None:
        places["data"] = root
    for name, path in places.items():
        there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        state: State = "problem" if free < FULL_BYTES else "warning" if free < DISK_BYTES else "ok"
        yield state, f"{free / 1e9:.1f} GB free for the {name}, {path}", "" if state == "ok" else "make room there"


def _data(_: str) -> _Look:
    """The data root, and the datasets whose files are there; nothing is loaded."""
    from xmbench.datasets import dataset_card, is_ready
    from xmbench.datasets._files import data_root
    from xmbench.importing.care import listed
    from xmbench.registry import modules

    root = data_root()
    if root is None:
        yield "note", "XMBENCH_DATA is not set", "set it to the folder of data that are not downloaded"
    elif not root.exists():
        yield "note", f"there is no {root} yet", "the first import or download makes it"
    elif not root.is_dir() or not os.access(root, os.R_OK):
        yield "problem", f"XMBENCH_DATA is {root}, which is no folder that can be read", "name another folder, or none"
        root = None
    names = [name for name, module in modules("xmbench.datasets", _GROUPS[1]).items() if module.startswith("xmbench.")]
    cards = {name: dataset_card(name) for name in names}
    ready = [name for name, card in cards.items() if is_ready(card)]
    yield "ok", f"ready: {', '.join(ready)}", ""
    missing = [name for name in names if name not in ready]
    begun = [name for name in missing if root is not None and any((root / cards[name].place).glob("*"))]
    for name in begun:
        wanted = ", ".join(sorted(cards[name].files))
        yield "warning", f"{name} has a folder in {root}, but not all of {wanted}", f"xmbench info {name}"
    if absent := [name for name in missing if name not in begun]:
        yield "note", f"not here: {', '.join(absent)}", "xmbench info NAME tells where from, and synthetic_NAME is its twin"
    for row in listed():
        advice = {"ready": "", "features missing": f"xmbench features extract {row['name']}"}
        state: State = "ok" if row["state"] == "ready" else "note" if row["state"] in advice else "problem"
        yield state, f"imported: {row['name']}, {row['state']}", advice.get(row["state"], f"xmbench data verify {row['name']}")


def _plugins(_: str) -> _Look:
    """Methods and datasets of other packages: whether each can be loaded."""
    from xmbench.datasets import dataset_card, dataset_parameters
    from xmbench.registry import find_method, modules

    found = 0
    for group, package in zip(_GROUPS, ("baselines", "xmbench.datasets"), strict=True):
        try:
            known = modules(package, group)
        except ValueError as error:
            yield "problem", str(error), "no method can be used before" if group == _GROUPS[0] else ""
            continue
        for point in metadata.entry_points(group=group):
            found += 1
            owner = point.dist.name if point.dist is not None else known[point.name]
            try:
                if group == _GROUPS[0]:
                    find_method(point.name)
                else:
                    dataset_card(point.name)
                    dataset_parameters(point.name)
                yield "ok", f"{point.name} of {owner}", ""
            except (Exception, SystemExit) as error:
                reason = f"{type(error).__name__}: {error}"
                yield "problem", f"{point.name} of {owner} cannot be loaded: {reason}", f"update or uninstall {owner}"
    if not found:
        yield "note", "none are installed", ""


def _store(name: str) -> _Look:
    """Whether the store can be read, in short; a folder's files as `xmbench store verify` does, less the content of arrays."""
    from xmbench.schema import SCHEMA_VERSION
    from xmbench.store import Store, StoreError
    from xmbench.store_care import verify

    store = Store(name)
    if not store.is_remote and not store.path.exists():
        yield "note", f"there is no {name} yet; the first run makes it", ""
        return
    if store.is_remote or store.path.is_file():
        n_runs = len(store.names()) if store.is_remote else len(store.runs([]))
        yield "ok", f"{name} can be read: {n_runs} {'files' if store.is_remote else 'runs'}", ""
        return
    try:
        problems = verify(store, quick=True)
    except StoreError as error:
        yield "problem", str(error), ""
        return
    for problem in problems[:_MOST_FILES]:
        yield "problem", f"{name}/{problem.file}: {problem.what}", f"xmbench store verify --repair --store {name}"
    if more := problems[_MOST_FILES:]:
        yield "problem", f"{len(more)} more files of {name} are damaged", "xmbench store verify lists them"
    names = store.names()
    if not problems:
        own = sum(file.endswith(".parquet") for file in names)
        n_runs = own + sum(int(kept.sum()) for _, kept in store.generations(names))
        yield "ok", f"{name}: {n_runs} runs, of schema {SCHEMA_VERSION} as this xmbench writes it", ""
    if aside := [file for file in names if file.endswith(".damaged")]:
        yield "warning", f"{len(aside)} damaged files are set aside in {name}", "run them again, then remove *.damaged"
    if not os.access(store.path, os.W_OK):
        yield "warning", f"{name} cannot be written to", "name another one for new runs, with --store"
    yield from _left_behind(store)


def _left_behind(store: Any) -> _Look:
    """Sweeps that live, and what killed ones have left in a store."""
    from xmbench.live import are_left, is_held, read_states

    sweeps, running = store.path / "sweeps", store.path / "running"
    states = read_states(sweeps)
    left = are_left(sweeps, states)
    for sweep in left:
        yield "warning", f"a sweep was killed in {store}", f"to go on: {states[sweep].get('command')}"
    locks = [path.stem for folder in (sweeps, running) for path in folder.glob("*.lock") if not is_held(folder, path.stem)]
    if dead := [name for name in locks if name not in left]:
        yield "note", f"{len(dead)} locks in {store} are held by nobody; the next run removes them", ""
    if n_alive := sum(is_held(sweeps, name) for name in states):
        yield "ok", f"{n_alive} sweeps write to {store} now: xmbench status", ""


def _programs(_: str) -> _Look:
    """Programs that are good to have, and how the shell completes names."""
    for program, use in (("pdflatex", "to typeset the tables"), ("chromium", "for the tests of the page")):
        path = shutil.which(program)
        yield "note", f"{program}: {path}" if path else f"{program} is not there; good to have {use}", ""
    shell = Path(os.environ.get("SHELL", "")).name
    yield "note", "the shell can complete names of methods, datasets and runs", _SWITCHED_ON.get(shell, _SWITCHED_ON["bash"])


_LOOKS: dict[str, Callable[[str], _Look]] = {
    "python": _python,
    "packages": _packages,
    "torch": _torch,
    "threads": _threads,
    "memory": _memory,
    "disk": _disk,
    "data": _data,
    "plug-ins": _plugins,
    "store": _store,
    "programs": _programs,
}
