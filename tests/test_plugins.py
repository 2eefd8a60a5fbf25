"""Plug-ins: a package that declares an entry point adds a method, installed by pip as any package is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

METHOD = """
from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, build_method, register_method


@register_method("trimmed_cca", needs={"vectors", "pairs"}, max_modalities=2)
@dataclass(kw_only=True)
class TrimmedCCA(Method):
    keep: float = 0.6

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.cca_ = build_method("cca", dim=4)
        self.cca_.fit(train, context)

    def embed(self, modality: Modality) -> Embedding:
        return self.cca_.embed(modality)
"""

DATASET = """
from dataclasses import replace

from xmbench.datasets import synthetic
from xmbench.datasets.synthetic import Parameters, load

CARD = replace(synthetic.CARD, name="toy_data")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install a package with these methods (name -> module) and modules (name -> source); returns its folder."""

    def install(methods, modules, group="xmbench.methods"):
        source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
        points = "".join(f'{name} = "{module}"\n' for name, module in methods.items())
        (source / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "xmb-{"-".join(modules)}"\nversion = "1"\n[project.entry-points."{group}"]\n{points}'
            f"[tool.hatch.build.targets.wheel]\nonly-include = {[f'{name}.py' for name in modules]}\n"
        )
        for name, content in modules.items():
            (source / f"{name}.py").write_text(content)
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
        return str(target)

    return install


@pytest.fixture(scope="module")
def trimmed(installed):
    return installed({"trimmed_cca": "trimmed_cca"}, {"trimmed_cca": METHOD})


def test_a_package_adds_a_method(python, trimmed):
    code = """
import numpy as np
from xmbench import FitContext, build_method, load_dataset
data = load_dataset("synthetic")
method = build_method("trimmed_cca", keep="0.5")
method.fit(data.train, FitContext())
image, text = (method.embed(m) for m in data.tests["test"].modalities)
print(type(method).__name__, method.keep, method.similarity(image, text).shape)
"""
    done = python("-c", code, PYTHONPATH=trimmed)
    assert done.stdout.split(maxsplit=2) == ["TrimmedCCA", "0.5", "(200, 200)\n"], done.stderr


def test_the_command_line_lists_it_beside_the_built_in_ones(python, trimmed):
    done = python("-c", "from xmbench.cli import main; main()", "list", "methods", "--format", "json", PYTHONPATH=trimmed)
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads(done.stdout)]
    assert {"trimmed_cca", "mrl", "ce", "cca", "mcca", "pls"} <= set(names)
    assert len(names) == len(set(names))


def test_a_dataset_comes_the_same_way(python, installed):
    folder = installed({"toy_data": "toy_data"}, {"toy_data": DATASET}, group="xmbench.datasets")
    done = python("-c", "import xmbench; print(len(xmbench.load_dataset('toy_data', train=30).train.pairs))", PYTHONPATH=folder)
    assert done.stdout == "30\n", done.stderr


def test_a_name_given_twice_is_an_error(python, installed):
    folder = installed({"cca": "my_cca"}, {"my_cca": METHOD})
    done = python("-c", "import xmbench; xmbench.method_names()", PYTHONPATH=folder)
    assert done.returncode == 1
    assert "ValueError: 'cca' is provided twice, by baselines.cca and by my_cca" in done.stderr


def test_a_broken_plug_in_breaks_nothing_but_itself(python, installed):
    folder = installed({"broken": "broken", "empty": "empty"}, {"broken": "import no_such_module_here", "empty": ""})
    code = "import xmbench; print('broken' in xmbench.method_names()); print(xmbench.build_method('cca').dim)"
    done = python("-c", code, PYTHONPATH=folder)
    assert done.stdout.split() == ["True", "32"], done.stderr
    done = python("-c", "import xmbench; xmbench.build_method('broken')", PYTHONPATH=folder)
    assert "No module named 'no_such_module_here'" in done.stderr
    done = python("-c", "import xmbench; xmbench.build_method('empty')", PYTHONPATH=folder)
    assert "module 'empty' must register a method 'empty'" in done.stderr
    assert Path(folder, "broken.py").exists()
