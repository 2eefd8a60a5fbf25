"""Whether a release may go out: sdist and wheel are built, looked into, installed in clean environments and tried there.

    python scripts/release.py --python python3.11 --python python3.13 --resolution lowest-direct --resolution highest

Each environment is made with uv, from wheels alone, and removed once its commands have run. --pin fixes a package where the
index would give another build than is wanted, such as torch==2.13.0+cpu. Exit code 1 where anything fails.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
GRID = "--spec smoke --methods mrl,cca --store store".split()
SMOKE: tuple[list[str], ...] = (
    ["--version"],
    ["doctor"],
    ["list", "methods"],
    ["run", *GRID, "--jobs", "1"],
    ["report", "--store", "store", "--out", "report"],
    ["report", "--store", "store", "--out", "figures", "--figures", "all", "--html", "page.html"],
    ["new", "method", "mine"],
    ["validate", "mine/mine.py"],
    ["check", "--against", "store"],
)
WRITTEN = ("report/index.md", "page.html", "mine/test_mine.py")
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "constraints.txt")
IN_SDIST += ("tests/conftest.py", "scripts/release.py", "docs/release.md", "results/reference/ci.parquet")


def build(folder: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """Build wheel and sdist of a source tree into a folder."""
    _run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], source)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def faults_of(wheel: Path, sdist: Path, folder: Path) -> list[str]:
    """What is wrong with the content of wheel and sdist: files of the packages that are missing, files that do not belong."""
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("xmbench", "baselines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    content = _content(wheel)
    there = {name for name in content if ".dist-info/" not in name}
    faults = [f"wheel lacks {name}" for name in sorted(wanted - there)] + [
        f"wheel holds {name}" for name in sorted(there - wanted)
    ]
    licences = [name.partition("/licenses/")[2] for name in content if "/licenses/" in name]
    if missing := {"LICENSE", "xmbench/datasets/openmoji_data/LICENSE.md"} - set(licences):
        faults.append(f"wheel lacks the licences {', '.join(sorted(missing))}")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
        file.extractall(folder, filter="data")
    faults += [f"sdist lacks {name}" for name in sorted((wanted | set(IN_SDIST)) - names)]
    (tree,) = folder.glob("xmbench-*")
    again, _ = build(folder, tree)
    faults += [] if _content(again) == content else ["the wheel that the sdist builds is another one"]
    return faults


def smoke(bin_: Path, folder: Path) -> list[str]:
    """Run the commands of an installation in an empty folder; the first one that fails, with what it said, or none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XMBENCH"))}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "MPLBACKEND": "Agg"}
    environment["PATH"] = f"{bin_}{os.pathsep}{environment['PATH']}"
    for command in SMOKE:
        done = subprocess.run(
            ["xmbench", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        if done.returncode:
            return [f"xmbench {' '.join(command)} left with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-3000:]}"]
    return [f"{name} was not written" for name in WRITTEN if not (folder / name).exists()]


def install(folder: Path, python: str, artefact: Path, resolution: str, pins: tuple[str, ...]) -> Path:
    """Make an environment of wheels, the newest or the oldest dependencies that are permitted, and the artefact in it."""
    uv, interpreter = [sys.executable, "-m", "uv"], str(folder / "env" / "bin" / "python")
    _run([*uv, "venv", "--quiet", "--no-project", "--python", python, str(folder / "env")], folder)
    (folder / "pins.txt").write_text("\n".join(pins))
    wheels = ["--resolution", resolution, "--only-binary", ":all:", "--overrides", "pins.txt"]
    pip = [*uv, "pip", "install", "--quiet", "--python", interpreter]
    _run([*pip, *wheels, "--requirements", str(ROOT / "pyproject.toml")], folder)
    _run([*pip, "--no-deps", str(artefact)], folder)
    _run([*uv, "pip", "check", "--python", interpreter], folder)
    return folder / "env" / "bin"


def versions(bin_: Path) -> str:
    """What an environment has of the packages whose versions matter most."""
    names = ("torch", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "click")
    code = "import platform, sys\nfrom importlib.metadata import version\n"
    code += "print(platform.python_version(), *(f'{name} {version(name)}' for name in sys.argv[1:]))"
    done = subprocess.run([bin_ / "python", "-I", "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


@click.command()
@click.option("--python", "pythons", multiple=True, default=[sys.executable], help="Interpreters to install for.")
@click.option(
    "--resolution", "resolutions", multiple=True, type=click.Choice(["highest", "lowest-direct"]), default=["highest"]
)
@click.option("--artefact", "kinds", multiple=True, type=click.Choice(["wheel", "sdist"]), default=["wheel", "sdist"])
@click.option("--pin", "pins", multiple=True, metavar="NAME==VERSION")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="Where wheel and sdist go.")
def main(
    pythons: tuple[str, ...], resolutions: tuple[str, ...], kinds: tuple[str, ...], pins: tuple[str, ...], out: Path
) -> None:
    """Build, look into, install and try a release."""
    with tempfile.TemporaryDirectory() as work:
        built = dict(zip(("wheel", "sdist"), build(Path(work)), strict=True))
        (tree := Path(work, "tree")).mkdir()
        failures = faults_of(built["wheel"], built["sdist"], tree)
        click.echo(f"{len(_content(built['wheel']))} files in the wheel, {len(failures)} faults")
        for python in pythons:
            for resolution in resolutions:
                for kind in kinds:
                    failures += tried(python, resolution, built[kind], pins)
        if failures:
            raise click.ClickException("\n".join(failures))
        out.mkdir(parents=True, exist_ok=True)
        for path in built.values():
            click.echo(shutil.copy(path, out))


def tried(python: str, resolution: str, artefact: Path, pins: tuple[str, ...]) -> list[str]:
    """Install an artefact in a new environment, and try it there; what fails."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        what = f"{python} {resolution} {artefact.name}"
        try:
            bin_ = install(Path(folder), python, artefact, resolution, pins)
            (place := Path(folder, "place")).mkdir()
            failures, here = smoke(bin_, place), versions(bin_)
        except click.ClickException as error:
            failures, here = [error.message], "could not be installed"
        click.echo(f"{'fails' if failures else 'passes'}: {what}: {here} ({time.monotonic() - began:.0f} s)")
        return [f"{what}: {failure}" for failure in failures]


if __name__ == "__main__":
    main()
