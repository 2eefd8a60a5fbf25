"""The wheel: built, installed and run outside the repository, with the embedded data in it."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

import xmbench


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run `xmbench *arguments` from the installed wheel, in a folder and on a path without the repository."""
    target, folder = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("elsewhere")
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(target), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("XMBENCH_DATA", None)
    code = f"import xmbench, baselines; assert xmbench.__file__.startswith({str(target)!r}); import xmbench.cli as c; c.main()"

    def run(*arguments):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)

    run.folder = folder
    return run


def test_the_wheel_holds_the_package_its_data_and_their_licences(wheel):
    assert re.fullmatch(rf"xmbench-{re.escape(xmbench.__version__)}-py3-none-any\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        metadata = file.read(f"xmbench-{xmbench.__version__}.dist-info/METADATA").decode()
        entry_points = file.read(f"xmbench-{xmbench.__version__}.dist-info/entry_points.txt").decode()
    wanted = [
        path.relative_to(ROOT).as_posix()
        for package in ("xmbench", "baselines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert set(wanted) == {name for name in names if ".dist-info/" not in name}
    assert {"xmbench/py.typed", "xmbench/specs/smoke.toml", "xmbench/datasets/openmoji_data/LICENSE.md"} <= set(wanted)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch>=" in metadata
    assert "xmbench = xmbench.cli:main" in entry_points


@pytest.mark.slow
def test_the_installed_wheel_lists_runs_and_reports_outside_the_repository(installed):
    listed = installed("list", "datasets", "--format", "csv")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^openmoji,ready,1254/256/404,", listed.stdout, re.MULTILINE)
    done = installed("run", "--spec", "smoke", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"openmoji +symmetric +mrl +0\.[2-9]", done.stdout)
    assert len(list((installed.folder / "results").glob("*.parquet"))) == 3
    report = installed("report")
    assert report.returncode == 0, report.stderr
    files = [installed.folder / line for line in report.stdout.splitlines()]
    assert files
    assert all(file.stat().st_size > 0 for file in files)
    assert {".tex", ".pdf", ".png", ".md", ".csv"} <= {file.suffix for file in files}
