"""What all tests share: one thread, no display, the project's data where they lie beside it, and small splits."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # read when the libraries are loaded, here and in the processes that tests start
os.environ["MPLBACKEND"] = "Agg"
os.environ["XMBENCH_ISOLATION"] = "0"  # commands run in the process of the test, but where the test is of the processes
if "XMBENCH_DATA" not in os.environ and (ROOT.parent / "shared" / "data").is_dir():
    os.environ["XMBENCH_DATA"] = str(ROOT.parent / "shared" / "data")

import numpy as np
import pytest
import torch

from xmbench import Modality, PairedSet, Rows, one_hot

torch.set_num_threads(1)

# What `make test` leaves to `make test-slow`: the tests over all methods, of methods that take minutes in them and have test
# files of their own, and the largest tables. By file, the values of the test's parameter `name`.
SLOW = {
    "test_baselines.py": {
        "sgr",
        "sgr_star",
        "saf",
        "sgraf",
        "sgr_clean",
        "dividemix_sgr",
        "bicro",
        "ncr",
        "imram",
        "decl",
        "rcl",
        "crcl",
    },
    "test_hyper_parameters.py": {"sgr", "saf", "sgraf", "sgr_clean", "dividemix_sgr", "bicro", "ncr", "lnc"},
    "test_plan.py": {
        "mrl_table2",
        "ncr_table2",
        "ncr_table3",
        "lnc_table1",
        "lnc_table2",
        "lnc_table4",
        "lnc_table10",
        "lnc_table11",
    }
    | {"lnc_table1_flickr8k"},
}


def pytest_collection_modifyitems(items):
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if name in SLOW.get(item.path.name, ()):
            item.add_marker("slow")


class Called(NamedTuple):
    """A command that has ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def xmbench(monkeypatch, capsys, tmp_path):
    """Call the entry point as the shell would, in a folder of its own."""
    from xmbench import cli, registry

    monkeypatch.chdir(tmp_path)
    before = dict(registry._METHODS)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["xmbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return Called(left.value.code, *capsys.readouterr())

    yield call
    torch.set_num_threads(1)
    for name, cls in list(registry._METHODS.items()):
        if name not in before and not cls.__module__.startswith("baselines."):
            del registry._METHODS[name]


@pytest.fixture
def data_root():
    """The folder of real data; the test is skipped where there is none."""
    root = os.environ.get("XMBENCH_DATA")
    if root is None:
        pytest.skip("XMBENCH_DATA is not set: no real data to read")
    return Path(root)


@pytest.fixture
def python(tmp_path):
    """Run `python *arguments` in a process of its own, outside the repo; returns the finished process."""
    import subprocess

    def run(*arguments, **environment):
        paths = [environment.pop("PYTHONPATH", None), str(ROOT), os.environ.get("PYTHONPATH")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def paired():
    """Build a split out of {modality: (n, d) vectors}, row i of each belonging together, and class numbers (n,)."""

    def build(vectors, labels=None, n_classes=None):
        hot = None if labels is None else one_hot(np.asarray(labels), n_classes or int(np.max(labels)) + 1)
        modalities = tuple(Modality(name=name, vectors=Rows(np.asarray(x)), labels=hot) for name, x in vectors.items())
        rows = np.arange(len(modalities[0]))
        return PairedSet(modalities=modalities, pairs=np.stack([rows] * len(modalities), axis=1))

    return build
