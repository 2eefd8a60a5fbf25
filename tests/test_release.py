"""A release: one version everywhere, everything in wheel and sdist, and a wheel that works outside the repository."""

import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from conftest import ROOT

import xmbench

sys.path.insert(0, str(ROOT / "scripts"))
try:
    import release
finally:
    sys.path.remove(str(ROOT / "scripts"))

SEMANTIC = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist."""
    return release.build(tmp_path_factory.mktemp("built"))


def test_the_version_is_semantic_and_the_same_everywhere():
    assert re.fullmatch(SEMANTIC, xmbench.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    unreleased, first, *_ = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    assert unreleased == ("Unreleased", "")
    assert first[0] == xmbench.__version__
    assert re.fullmatch(r" - (\d{4}-\d\d-\d\d|unreleased)", first[1])
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [xmbench.__version__]


def test_the_changelog_has_the_sections_of_keep_a_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_wheel_and_sdist_hold_what_belongs_in_them_and_the_sdist_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    assert wheel.name == f"xmbench-{xmbench.__version__}-py3-none-any.whl"
    assert release.faults_of(wheel, sdist, tmp_path) == []
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        about = file.read(f"xmbench-{xmbench.__version__}.dist-info/METADATA").decode()
        points = file.read(f"xmbench-{xmbench.__version__}.dist-info/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in about
    assert "Requires-Dist: torch>=" in about
    assert "xmbench = xmbench.cli:main" in points
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)
    data = "py.typed specs/smoke.toml layouts/map.toml protocols/default.toml published/results.csv published/citations.bib"
    more = "templates/method/method.py.txt datasets/openmoji_data/LICENSE.md"
    assert {f"xmbench/{name}" for name in (data + " " + more).split()} | {"baselines/mrl.py"} <= names


def test_a_file_that_is_left_out_is_found(built, tmp_path):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(tmp_path / wheel.name, "w") as less:
        for name in whole.namelist():
            if name != "xmbench/py.typed":
                less.writestr("tests/conftest.py" if name == "baselines/cca.py" else name, whole.read(name))
    (tree := tmp_path / "tree").mkdir()
    faults = release.faults_of(tmp_path / wheel.name, sdist, tree)
    assert {"wheel lacks xmbench/py.typed", "wheel lacks baselines/cca.py", "wheel holds tests/conftest.py"} <= set(faults)
    assert "the wheel that the sdist builds is another one" in faults


@pytest.mark.slow
def test_the_installed_wheel_does_all_that_a_first_user_does(built, tmp_path):
    """In an environment that has the dependencies of this one, and nothing else of it."""
    env, place = tmp_path / "env", tmp_path / "place"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (packages,) = env.glob("lib/python*/site-packages")
    (packages / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--no-deps", "--no-index", str(built[0])]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(env), "install", *options], check=True)
    place.mkdir()
    assert release.smoke(env / "bin", place) == []
    assert list((place / "report").rglob("*.tex"))
    assert list((place / "figures").rglob("*.pdf"))
    assert len(list((place / "store").glob("*.parquet"))) == 2
