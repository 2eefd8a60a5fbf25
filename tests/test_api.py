"""Runs from Python: the same numbers as from the shell, methods as classes and objects, what is stale, and what is refused."""

import os
import sys
import types
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

import xmbench as xb
from xmbench import Embedding, Method, cli, register_method, registry
from xmbench.datasets import MissingDataError
from xmbench.registry import source_sha
from xmbench.store import Store

SMALL = {"synthetic": {"train": 60, "valid": 30, "test": 30}}
GRID = {"dataset": "synthetic", "rates": [0, 0.4], "seeds": 1, "settings": SMALL}


@pytest.fixture(autouse=True)
def forgotten():
    """What a test registers is forgotten after it."""
    yield
    for name in [name for name, cls in registry._METHODS.items() if not cls.__module__.startswith("baselines.")]:
        del registry._METHODS[name]


@dataclass(kw_only=True)
class FirstFeatures(Method):
    """The first features of each item, whatever they are."""

    dim: int = 4
    fails: bool = False

    def fit(self, train, context):
        if self.fails:
            raise RuntimeError("as it was told")
        assert train.pairs is not None and train.modalities[0].labels is not None

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, : self.dim])


def values(rows):
    """MAP on the test split by method and rate."""
    found = rows.query("split == 'test' and metric == 'map' and direction == 'mean' and selection == 'last'")
    return found.set_index(["method", "noise_rate"])["value"]


def test_the_rows_are_those_of_the_same_grid_from_the_shell(tmp_path, monkeypatch, capsys):
    ours = xb.run(["cca", "pls"], store=tmp_path / "a", **GRID)
    pd.testing.assert_frame_equal(ours, xb.load_results(tmp_path / "a"))
    options = [f"--set=synthetic.{name}={n}" for name, n in SMALL["synthetic"].items()]
    grid = ["--methods", "cca,pls", "--dataset", "synthetic", "--rates", "0,0.4", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["xmbench", "run", *grid, *options, "--store", str(tmp_path / "b")])
    with pytest.raises(SystemExit):
        cli.main()
    theirs = xb.load_results(tmp_path / "b")
    same = ["run_id", "fit_key", "score_key", "split", "direction", "metric", "value", "params", "noise_sha"]
    pd.testing.assert_frame_equal(*(rows[same].sort_values(same, ignore_index=True) for rows in (ours, theirs)))
    torch.set_num_threads(1)


def test_what_is_stored_is_not_run_again(tmp_path):
    first = xb.run(["pls"], store=tmp_path, **GRID)
    again = xb.run(["pls", "cca"], store=tmp_path, **GRID)
    assert set(again["method"]) == {"pls", "cca"}
    assert again.query("method == 'pls'")["started"].tolist() == first["started"].tolist()
    assert set(xb.run(["cca"], store=tmp_path, **GRID)["method"]) == {"cca"}


def test_classes_and_objects_are_methods_of_their_names():
    rows = xb.run([FirstFeatures, FirstFeatures(dim=2), FirstFeatures(dim=8)], **GRID)
    assert set(rows["method"]) == {"FirstFeatures", "FirstFeatures(dim=2)", "FirstFeatures(dim=8)"}
    assert set(rows["implementation"]) == {"FirstFeatures"}
    assert rows["params"].nunique() == 3
    assert values(rows).nunique() > 2
    assert "FirstFeatures" not in xb.method_names(), "registered for the run alone"


def test_an_object_with_the_defaults_and_a_registered_class_go_by_their_registered_name():
    cls = register_method("firsts", needs={"vectors", "labels", "pairs"})(type("Firsts", (FirstFeatures,), {}))
    rows = xb.run([cls(), xb.build_method("pls", dim=3)], **GRID)
    assert set(rows["method"]) == {"firsts", "pls(dim=3)"}
    assert "firsts" in xb.method_names()


def test_a_subclass_reads_what_its_base_reads():
    cls = type("MyPLS", (registry.find_method("pls"),), {"__module__": __name__})
    rows = xb.run([cls, "pls"], **GRID)
    ours = values(rows)
    assert ours["MyPLS"].tolist() == ours["pls"].tolist()
    assert rows.groupby("method")["fit_key"].nunique().tolist() == [1, 1], "labels are not read, so rates share a fit"


def test_runs_without_numbers_are_rows_and_warnings(caplog):
    rows = xb.run([FirstFeatures(fails=True), "pls"], **GRID)
    assert rows.set_index("method")["status"].to_dict() == {"FirstFeatures(fails=True)": "failed", "pls": "ok"}
    assert "failed: FirstFeatures(fails=True) on synthetic, rate 0.4, seed 0: RuntimeError: as it was told" in caplog.text


def test_threads_are_left_as_they_were():
    torch.set_num_threads(2)
    try:
        xb.run(["pls"], **GRID)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_function_and_the_module_of_one_name_do_not_meet():
    import xmbench.run

    assert callable(xb.run)
    assert xmbench.run is xb.run
    assert isinstance(sys.modules["xmbench.run"], types.ModuleType)


def typed_in(name, dim):
    """A class as typed into a notebook whose source cannot be read."""
    sys.modules["typed_in"] = types.ModuleType("typed_in")
    body = {"__module__": "typed_in", "dim": dim, "__annotations__": {"dim": int}}
    return dataclass(kw_only=True)(type(name, (FirstFeatures,), body))


def test_a_class_in_no_file_is_always_stale_and_that_is_said(caplog, tmp_path):
    one, other = typed_in("Typed", 4), typed_in("Typed", 2)
    assert source_sha(one) == source_sha(one) != source_sha(other)
    assert "the source of Typed cannot be read: its stored runs count as stale" in caplog.text
    first = xb.run([one], store=tmp_path, **GRID)
    assert values(xb.run([one], store=tmp_path, **GRID)).tolist() == values(first).tolist()
    assert values(xb.run([other], store=tmp_path, **GRID)).tolist() != values(first).tolist()


def test_a_class_in_a_notebook_is_known_by_its_source(monkeypatch):
    sources = {}
    monkeypatch.setattr(registry.inspect, "getsource", lambda cls: sources[cls])
    texts = ("class A:\n    dim = 1", "class A:\n    dim = 1  # why", "class A:\n    dim = 2")
    classes = [typed_in("A", n) for n in range(3)]
    sources.update(zip(classes, texts, strict=True))
    shas = [source_sha(cls) for cls in classes]
    assert shas[0] == shas[1] != shas[2]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"methods": ["plss"]}, LookupError, "did you mean 'pls'?"),
        ({"methods": ["pls", "pls"]}, ValueError, "every method must be given once, got pls 2 times"),
        (
            {"methods": [FirstFeatures], "jobs": 1},
            ValueError,
            "FirstFeatures must be in a file of `plugins`",
        ),
        ({"methods": [object()]}, TypeError, "must be names, subclasses of xmbench.Method or objects of one"),
        ({"methods": ["pls"], "dataset": "f30k_precomp", "settings": None}, MissingDataError, "f30k_precomp"),
        ({"methods": [type("pls", (FirstFeatures,), {})]}, ValueError, "'pls' is one of baselines.pls too; give another"),
        ({"methods": ["pls"], "settings": {"pls.dims": 3}}, ValueError, r"did you mean pls\.dim\?"),
        ({"methods": ["pls"], "seeds": 0}, ValueError, "seeds must be a count of 1 or more"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(arguments, kind, message, monkeypatch, tmp_path):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    with pytest.raises(kind, match=message):
        xb.run(**{**GRID, **arguments})


@pytest.mark.slow
def test_jobs_are_processes_of_their_own_for_methods_in_files(tmp_path):
    (tmp_path / "own.py").write_text(
        "import os\nfrom baselines.pls import PLS\nfrom xmbench import register_method\n"
        "@register_method('own', needs={'vectors', 'pairs'})\nclass Own(PLS):\n"
        "    def fit(self, train, context):\n        super().fit(train, context)\n"
        "        context.record('process', [os.getpid()])\n",
        "utf-8",
    )
    grid = {**GRID, "rates": [0], "store": tmp_path / "store"}
    rows = xb.run(["own", "pls"], plugins=[tmp_path / "own.py"], jobs=1, **grid)
    assert rows.set_index("method")["status"].to_dict() == {"own": "ok", "pls": "ok"}
    assert values(rows).nunique() == 1
    run_id = rows.query("method == 'own'")["run_id"].iloc[0]
    assert Store(tmp_path / "store").arrays(run_id)["record/process"] != [os.getpid()]


def test_one_method_needs_no_list():
    assert set(xb.run("pls", **GRID, store=None)["method"]) == {"pls"}
