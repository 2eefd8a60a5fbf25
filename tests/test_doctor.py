"""`xmbench doctor`: each thing that may be wrong with an installation or a store is made so, and is found and explained."""

import os
import shutil
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest

from xmbench import __version__, doctor, registry
from xmbench.compact import compact
from xmbench.datasets import dataset_card
from xmbench.live import write_state
from xmbench.store import SCHEMA_VERSION, Store
from xmbench.store_care import verify

A, B = "a" * 16, "b" * 16
METADATA = f"Metadata-Version: 2.4\nName: xmbench\nVersion: {__version__}\nRequires-Python: >=3.11\nProvides-Extra: extra\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Have a package appear as installed: its metadata, its entry points, its modules."""

    def appear(name, content, points="", **modules):
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(content)
        (info / "entry_points.txt").write_text(points)
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        registry.modules.cache_clear()

    yield appear
    monkeypatch.undo()
    registry.modules.cache_clear()


@pytest.fixture
def installed(package):
    """The package itself as installed, with two requirements that hold and an extra that is not there."""

    def appear(*requirements):
        needed = ["click>=8", "numpy>=2", "no-such-thing>=1; extra == 'extra'", *requirements]
        package("xmbench", METADATA + "".join(f"Requires-Dist: {text}\n" for text in needed))

    return appear


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    for run_id in (A, B):
        store.write([{"run_id": run_id, "status": "ok", "metric": "map", "value": 0.5}], {"scores": np.arange(1000.0)})
    return store


def found(check, name="nowhere"):
    """(state, what was found, advice) of each finding of one check."""
    return list(doctor._LOOKS[check](str(name)))


def test_all_is_well_here(xmbench, installed, store, monkeypatch):
    installed()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.delenv("XMBENCH_DATA", raising=False)
    monkeypatch.setattr(doctor, "RUN_BYTES", 1)
    monkeypatch.setattr(doctor, "DISK_BYTES", 1)
    done = xmbench("doctor", "--store", store.path)
    assert done.code == 0, done.out
    assert done.err == "problems: 0, warnings: 0\n"
    lines = done.out.splitlines()
    assert any(line.startswith("ok       packages: click ") for line in lines)
    assert f"ok       store: {store.path}: 2 runs, of schema {SCHEMA_VERSION} as this xmbench writes it" in lines
    assert "note     packages: extra extra is not there; pip install 'xmbench[extra]'" in lines
    assert any(line.startswith("ok       data: ready: ") and "openmoji" in line for line in lines)
    assert any("bash_source" in line for line in lines)


def test_what_is_printed_as_json_is_what_is_found(xmbench, installed):
    installed("numpy>=99")
    done = xmbench("doctor", "--store", "nowhere", "--format", "json")
    assert done.code == 3
    problem = next(finding for finding in done.json if finding["state"] == "problem")
    assert problem == {
        "check": "packages",
        "state": "problem",
        "found": f"numpy {np.__version__}",
        "advice": "pip install 'numpy>=99'",
    }
    assert {
        "check": "store",
        "state": "note",
        "found": "there is no nowhere yet; the first run makes it",
        "advice": "",
    } in done.json


def test_a_package_that_is_missing_or_too_old_is_a_problem(installed, package):
    installed("absent-thing>=2", "pyarrow>=1", "rich<1; python_version < '3'")
    package("pyarrow", "Metadata-Version: 2.1\nName: pyarrow\nVersion: 0.5\n")
    assert found("packages")[:2] == [
        ("problem", "absent-thing is not installed", "pip install 'absent-thing>=2'"),
        ("problem", "pyarrow 0.5", "pip install 'pyarrow>=1'"),
    ]


def test_another_python_than_is_asked_for_is_a_problem(package):
    package("xmbench", METADATA.replace(">=3.11", ">=4"))
    (state, text, _), *_ = found("python")
    assert state == "problem"
    assert "which needs Python >=4" in text


def test_plug_ins_that_cannot_be_loaded_are_named_with_their_package(package):
    points = "[xmbench.methods]\nbroken = broken_method\nempty = empty_method\n[xmbench.datasets]\nleaving = leaving_data\n"
    sources = {"broken_method": "import no_such_module_here", "empty_method": "", "leaving_data": "raise SystemExit(3)"}
    package("faulty", "Metadata-Version: 2.1\nName: faulty\nVersion: 1\n", points, **sources)
    states, texts, advice = zip(*found("plug-ins"), strict=True)
    assert set(states) == {"problem"}
    assert set(advice) == {"update or uninstall faulty"}
    assert sorted(texts) == [
        "broken of faulty cannot be loaded: ModuleNotFoundError: No module named 'no_such_module_here'",
        "empty of faulty cannot be loaded: LookupError: module 'empty_method' must register a method 'empty': "
        "@register_method('empty', ...)",
        "leaving of faulty cannot be loaded: SystemExit: 3",
    ]


def test_a_name_that_is_provided_twice_is_a_problem(package):
    package("twice", "Metadata-Version: 2.1\nName: twice\nVersion: 1\n", "[xmbench.methods]\ncca = my_cca\n", my_cca="")
    assert found("plug-ins")[0][:2] == ("problem", "'cca' is provided twice, by baselines.cca and by my_cca; uninstall one")


@pytest.mark.parametrize("value", ["999", "0", "many"])
def test_threads_that_no_core_is_for_are_a_warning(monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert ("warning", f"OMP_NUM_THREADS is {value!r}") in [(state, text) for state, text, _ in found("threads")]


def test_cores_that_a_container_holds_back_and_others_at_work_are_told(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "getloadavg", lambda: (7.5, 1.0, 1.0))
    (_, cores, _), *rest = found("threads")
    assert cores.startswith("3 of 64 cores may be used (affinity, or the quota of a container)")
    assert ("warning", "7.5 processes compete for 3 cores") in [(state, text) for state, text, _ in rest]


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * 10**9, total=128 * 10**9))
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    assert found("memory") == [("ok", "64.0 GB free of 128.0 GB", "")]
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert found("memory") == [("ok", "64.0 GB free of 128.0 GB", "")]
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    assert found("memory") == [
        ("warning", "2.5 GB free of 3.0 GB, little for 4 runs at a time", "use --jobs 2, and --max-rss"),
    ]


def test_a_disk_that_is_nearly_full_is_found(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 4 * 10**8 if path == tmp_path else 10**7))
    states = {text.split(" for the ")[1].split(",")[0]: state for state, text, _ in found("disk", tmp_path / "not" / "yet")}
    assert states["store"] == "warning"
    assert states["data cache"] == "problem"


def test_data_that_are_only_partly_there_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    folder = tmp_path / (dataset_card("flickr8k").folder or "flickr8k")
    folder.mkdir()
    assert not any(text.startswith("flickr8k has ") for _, text, _ in found("data")), "an empty folder is nothing begun"
    (folder / "train_ims.npy").touch()
    states = {text.partition(" has ")[0]: state for state, text, _ in found("data")}
    assert states["flickr8k"] == "warning"
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "nowhere"))
    assert found("data")[0][:2] == ("note", f"there is no {tmp_path / 'nowhere'} yet")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "file"))
    assert found("data")[0][0] == "problem"


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("name", [f"{A}.parquet", f"{A}.npz"])
def test_a_file_that_was_cut_is_found_and_left_as_it_is(xmbench, store, name):
    cut(store.path / name)
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}
    done = xmbench("doctor", "--store", store.path, "--format", "json")
    assert done.code == 3
    (problem,) = [finding for finding in done.json if finding["check"] == "store"]
    assert problem["state"] == "problem"
    assert problem["found"].startswith(f"{store.path}/{name}: damaged: ")
    assert problem["advice"] == f"xmbench store verify --repair --store {store.path}"
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before


@pytest.mark.parametrize("kind", ["runs", "rows"])
def test_a_compacted_file_that_was_cut_is_found(store, kind):
    assert compact(store).runs == 2
    assert found("store", store.path)[0][0] == "ok"
    (path,) = store.path.glob(f"compact/*.{kind}.parquet")
    cut(path)
    assert [state for state, _, _ in found("store", store.path)] == ["problem", "problem"]


def test_the_quick_look_reads_no_content_of_arrays(store):
    path = store.path / f"{A}.npz"
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)
    assert [problem.file for problem in verify(store)] == [path.name]
    assert verify(store, quick=True) == []


@pytest.mark.parametrize("compacted", [False, True])
def test_a_store_of_a_newer_schema_is_refused_and_never_repaired(store, compacted):
    if compacted:
        compact(store)
        (path,) = store.path.glob("compact/*.runs.parquet")
    else:
        path = store.path / f"{A}.parquet"
    pd.read_parquet(path).assign(schema_version=SCHEMA_VERSION + 1).to_parquet(path)
    ((state, text, _),) = found("store", store.path)
    assert state == "problem"
    assert f"was written by a newer xmbench (schema {SCHEMA_VERSION + 1}" in text
    with pytest.raises(OSError, match="written by a newer xmbench"):
        verify(store, repair=True)
    assert path.exists()


def test_what_killed_sweeps_have_left_is_told(store):
    command = "xmbench run --methods cca --dataset synthetic"
    write_state(store.folder("sweeps"), "s1", {"command": command})
    (store.folder("running") / "k1.lock").touch()
    (store.path / f"{A}.npz.damaged").touch()
    assert found("store", store.path)[1:] == [
        ("warning", f"1 damaged files are set aside in {store.path}", "run them again, then remove *.damaged"),
        ("warning", f"a sweep was killed in {store.path}", f"to go on: {command}"),
        ("note", f"1 locks in {store.path} are held by nobody; the next run removes them", ""),
    ]


def test_a_look_that_fails_hinders_no_other(monkeypatch):
    def torn(_):
        raise ImportError("libtorch.so: no such file")

    monkeypatch.setitem(doctor._LOOKS, "torch", torn)
    monkeypatch.setitem(doctor._LOOKS, "packages", torn)
    findings = {finding.check: finding for finding in doctor.examine("nowhere")}
    assert findings["torch"].state == "problem"
    assert findings["torch"].found == "cannot be looked at: ImportError: libtorch.so: no such file"
    assert set(findings) == set(doctor._LOOKS)


def test_a_gpu_that_torch_does_not_see_is_a_warning_where_its_driver_is(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert found("torch")[0][0] == "note"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (state, _, advice) = found("torch")[0]
    assert (state, advice) == ("warning", "bring driver and build of torch together")
