"""The README's example is a method that runs, and every command in it is one that the program takes."""

import importlib
import re
import shlex

import click
import pytest
from conftest import ROOT

from xmbench import registry
from xmbench.cli import cli
from xmbench.plan import plan
from xmbench.run import Settings
from xmbench.spec import Spec
from xmbench.store import Store
from xmbench.sweep import sweep, todo

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [line.strip().partition("  #")[0] for line in README.splitlines() if line.startswith("    xmbench ")]
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_method_beats_chance(tmp_path, monkeypatch):
    (tmp_path / "readme_means.py").write_text(EXAMPLE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    importlib.import_module("readme_means")
    store = Store(tmp_path / "store")
    sweep(todo(plan(Spec(methods=("means",), datasets=("openmoji",), rates=(0.2,), seeds=(0,))), store), store, Settings())
    rows = store.rows()
    assert set(rows["status"]) == {"ok"}, rows["error"].iloc[0]
    measured = rows[(rows["metric"] == "map") & (rows["split"] == "test") & (rows["direction"] == "mean")].iloc[0]
    assert measured["value"] > 2 * measured["chance"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    (tmp_path / "means.py").write_text(EXAMPLE, "utf-8")
    name, *arguments = shlex.split(command.partition(" > ")[0])[1:]
    known = cli.commands[name]
    while isinstance(known, click.Group):
        name, *arguments = arguments
        known = known.commands[name]
    context = known.make_context(name, arguments)  # raises for an option that does not exist
    assert context.params


def test_there_are_commands():
    assert len(COMMANDS) >= 8


def test_fidelity_has_a_row_for_every_method_and_names_tests_that_exist():
    text, names = (ROOT / "docs" / "fidelity.md").read_text("utf-8"), registry.modules("baselines", "none")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(names)
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = re.findall(r"`(test_\w+?)(?:_?\*)?`", text)
    assert len(named) > 30
    assert [name for name in named if f"def {name}" not in tests and not (ROOT / "tests" / f"{name}.py").exists()] == []
    described = {name for name in names if registry.find_method(name).info.from_description}
    assert described == set(re.findall(r"^\| `(\w+)` \| \*\*description\*\*", text, re.MULTILINE))
