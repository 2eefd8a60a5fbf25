"""The registry: names to classes, typed parameters, and errors that say what was meant."""

import sys
import types
from dataclasses import dataclass, field
from typing import Literal

import pytest

from xmbench import Embedding, Method, build_method, method_names, register_method, registry
from xmbench.datasets import dataset_card, dataset_names, dataset_parameters
from xmbench.registry import _sha, closest, find_method, modules, parameters_of, source_sha, typed_parameters

BUILT_IN = {"cca", "ce", "mcca", "mrl", "pls"}


@dataclass(kw_only=True)
class Toy(Method):
    """All kinds of parameters."""

    steps: int = 3
    lr: float = 0.1
    name: str = "x"
    shared: bool = False
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    rest: list = field(default_factory=list)

    def fit(self, train, context):
        self.train_ = train

    def embed(self, modality):
        return Embedding(modality.name, modality.vectors[slice(None)])


@pytest.fixture
def toy():
    """Toy, registered as "toy" for one test."""
    yield register_method("toy", needs={"vectors"})(Toy)
    del registry._METHODS["toy"]


def test_built_in_methods_are_listed_by_file_name():
    assert set(method_names()) >= BUILT_IN
    assert not [name for name in method_names() if name.startswith("_")]
    assert find_method("mrl").info.name == "mrl"
    assert {"wikipedia", "openmoji", "synthetic"} <= set(dataset_names())


def test_listing_imports_nothing(python):
    code = "import sys, xmbench; print(len(xmbench.method_names()), *{'torch', 'baselines.cca', 'scipy'} & set(sys.modules))"
    count, *loaded = python("-c", code).stdout.split()
    assert int(count) >= len(BUILT_IN)
    assert loaded == []


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (find_method, "mrll", "no method named 'mrll'; did you mean 'mrl'?"),
        (find_method, "qqqqqq", "no method named 'qqqqqq'; known: "),
        (dataset_card, "wikipedai", "no dataset named 'wikipedai'; did you mean 'wikipedia'?"),
    ],
)
def test_an_unknown_name_gets_the_closest(kind, name, message):
    with pytest.raises(LookupError) as error:
        kind(name)
    assert str(error.value).startswith(message)


def test_closest_lists_what_is_known_where_nothing_is_close():
    assert str(closest("metric", "zzz", ["b", "a"])) == "no metric named 'zzz'; known: a, b"


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({"steps": "7"}, {"steps": 7}),
        ({"lr": "1e-3"}, {"lr": 1e-3}),
        ({"lr": 2}, {"lr": 2.0}),
        ({"shared": "True"}, {"shared": True}),
        ({"shared": False}, {"shared": False}),
        ({"limit": "none"}, {"limit": None}),
        ({"limit": "4"}, {"limit": 4}),
        ({"kind": "b"}, {"kind": "b"}),
        ({"name": "y"}, {"name": "y"}),
    ],
)
def test_parameters_become_their_fields_types(given, typed):
    got = typed_parameters("toy", Toy, given)
    assert got == typed
    assert [type(value) for value in got.values()] == [type(value) for value in typed.values()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": 1}, "toy has no parameter 'step'; did you mean toy.steps?"),
        ({"qqqq": 1}, "toy has no parameter 'qqqq'; known: steps, lr, name, shared, limit, kind, rest"),
        ({"steps": 1.5}, "toy.steps must be of type int, got 1.5"),
        ({"steps": "1.5"}, "toy.steps must be of type int, got '1.5'"),
        ({"steps": True}, "toy.steps must be of type int, got True"),
        ({"lr": "fast"}, "toy.lr must be of type float, got 'fast'"),
        ({"lr": True}, "toy.lr must be of type float, got True"),
        ({"lr": "nan"}, "toy.lr must be a finite number, got nan"),
        ({"lr": float("inf")}, "toy.lr must be a finite number, got inf"),
        ({"shared": "yes"}, "toy.shared must be of type bool, got 'yes'"),
        ({"shared": 1}, "toy.shared must be of type bool, got 1"),
        ({"name": 3}, "toy.name must be of type str, got 3"),
        ({"limit": "few"}, "toy.limit must be of type int, got 'few'"),
        ({"kind": "c"}, "toy.kind must be one of a, b, got 'c'"),
        ({"steps": None}, "toy.steps must be of type int, got None"),
    ],
)
def test_wrong_parameters_are_named(given, message):
    with pytest.raises(ValueError) as error:
        typed_parameters("toy", Toy, given)
    assert str(error.value) == message


def test_methods_are_built_with_their_parameters_checked():
    assert vars(build_method("cca", dim="4", ridge=1)) == {"dim": 4, "ridge": 1.0, "power": 0.0}
    with pytest.raises(ValueError, match=r"did you mean mrl\.beta\?"):
        build_method("mrl", betta=0.5)
    for name, wrong in (("epochs", 0), ("epochs", -1), ("batch_size", 0), ("lr", 0.0), ("tau", 0.0), ("beta", 1.5)):
        with pytest.raises(ValueError, match=f"{name} must"):
            build_method("mrl", **{name: wrong})


def test_parameters_of_a_dataset_are_typed_too():
    assert dataset_parameters("wikipedia", {"standardise": "true"}) == {"text": "lda", "split": "mrl", "standardise": True}
    with pytest.raises(ValueError, match=r"wikipedia\.text must be one of lda, minilm, got 'lsa'"):
        dataset_parameters("wikipedia", {"text": "lsa"})
    with pytest.raises(ValueError, match=r"did you mean openmoji\.classes\?"):
        dataset_parameters("openmoji", {"class": "group"})


def test_what_registers_must_be_a_dataclass_and_have_a_name_of_its_own(toy):
    with pytest.raises(TypeError, match=r"Plain must be a dataclass"):
        register_method("plain", needs={"vectors"})(type("Plain", (), {}))
    other = dataclass(type("Other", (Toy,), {"__module__": "elsewhere"}))
    with pytest.raises(ValueError, match=r"method 'toy' is defined twice, in .*test_registry and in elsewhere"):
        register_method("toy", needs={"vectors"})(other)
    assert find_method("toy") is toy


def test_needs_depend_on_parameters_and_must_be_known(toy):
    assert build_method("mrl", beta=1.0).needs() == {"vectors", "labels"}
    assert build_method("mrl", beta=0.0).needs() == {"vectors", "pairs"}
    assert build_method("mrl").needs() == {"vectors", "labels", "pairs"}
    register_method("toy", needs={"vectors", "truth"})(Toy)
    with pytest.raises(ValueError, match=r"needs must be among .*, got \['truth'\]"):
        Toy().needs()


def test_a_module_that_does_not_register_its_name_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "empty_plugin", types.ModuleType("empty_plugin"))
    monkeypatch.setattr("xmbench.registry.modules", lambda package, group: {"empty": "empty_plugin"})
    with pytest.raises(LookupError, match="'empty_plugin' must register a method 'empty'"):
        find_method("empty")


def test_a_source_sha_is_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    shas = []
    for content in ("class A: pass", "class A: pass", "class A: x = 1"):
        (tmp_path / "some_method.py").write_text(content)
        sys.modules.pop("some_method", None)
        shas.append(source_sha(__import__("some_method").A))
    assert shas[0] == shas[1] != shas[2]
    assert len(shas[0]) == 16


SOURCE = """
@register_method("a", needs={"vectors"}, smoke={"dim": 2})
class A:
    dim: int = 3
"""
SAME = [
    "# why\n" + SOURCE,
    SOURCE.replace("class A:", "class A:  # why"),
    SOURCE.replace("    dim", '    """What it is."""\n\n    dim'),
    SOURCE.replace('smoke={"dim": 2}', 'search={"dim": [1, 2]}'),
]
OTHER = [SOURCE.replace("dim: int = 3", "dim: int = 4"), SOURCE.replace('"vectors"', '"pairs"')]


def test_a_source_sha_leaves_out_what_cannot_change_a_number(tmp_path):
    def sha(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return _sha(path)

    assert {sha(text) for text in SAME} == {sha(SOURCE)}
    assert len({sha(text) for text in [SOURCE, *OTHER]}) == 3


def test_defaults_are_read_off_the_dataclass():
    assert parameters_of(Toy)["limit"] is None
    assert parameters_of(Toy)["kind"] == "a"
    assert modules("baselines", "xmbench.methods")["ce"] == "baselines.ce"
