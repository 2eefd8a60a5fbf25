"""Imports point one way: the table of the architecture, held over the source; and what importing the package costs."""

import ast
import sys

import pytest
from conftest import ROOT

import xmbench

COMMANDS = {
    "compare_cli",
    "completion",
    "data_cli",
    "doctor_cli",
    "features_cli",
    "grid_cli",
    "new_cli",
    "noise_cli",
    "report_cli",
    "repro_cli",
    "run_cli",
    "store_cli",
    "watch_cli",
}
LAYERS = (
    {"types", "cards", "ties", "__version__"},
    {"method", "registry", "metrics", "statistics", "device", "datasets", "published", "subsets"}
    | {"noise", "noise_files", "label_noise", "pair_noise", "shown", "convert", "unpickling", "adapters"}
    | {"downloading", "unpacking"},
    {"tuning", "spec", "plan", "store", "evaluate", "scores", "detection", "progress", "observe", "kept", "elsewhere"}
    | {"compact", "files", "generations", "live", "reading", "schema", "store_care", "where"},
    {
        "run",
        "sweep",
        "check",
        "report",
        "catalogue",
        "printing",
        "worker",
        "supervisor",
        "engine",
        "cost",
        "api",
        "contract",
        "doctor",
        "subject",
        "scaffold",
        "watching",
        "repro",
        "importing",
        "obtaining",
        "features",
    },
    {"cli", *COMMANDS},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
REPORT_MAY = {"store", "published", "metrics", "statistics", "types", "report", "__version__"}
BASELINES_MAY = {f"xmbench.{name}" for name in xmbench.__all__} | {"numpy", "scipy", "sklearn", "torch"}
BASELINES_MAY |= {f"baselines.{path.stem}" for path in (ROOT / "baselines").glob("_[a-z]*.py")}
SOURCES = [path for package in ("xmbench", "baselines") for path in sorted((ROOT / package).rglob("*.py"))]


def imported(nodes):
    """Full names that import statements bring in: `from a.b import c` is a.b.c. The standard library is left out."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] not in sys.stdlib_module_names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    tree = ast.parse(path.read_text("utf-8"))
    names = set(imported(ast.walk(tree)))
    if path.is_relative_to(ROOT / "baselines"):
        assert {name for name in names if not any(f"{name}.".startswith(f"{may}.") for may in BASELINES_MAY)} == set()
        return
    module = path.relative_to(ROOT / "xmbench").parts[0].removesuffix(".py")
    if module == "__init__":  # the public API, which nothing inside the package may read but for its version
        return
    assert module in LAYER, f"give xmbench.{module} a layer, here and in the architecture"
    inside = {name.split(".")[1] for name in names if name.startswith("xmbench.")}
    assert {name for name in inside if LAYER.get(name, 99) > LAYER[module]} == set()
    outside = {name.partition(".")[0] for name in names} - {"xmbench"}
    if module == "types":
        assert outside == {"numpy"}
    if module == "report":
        assert inside <= REPORT_MAY
        assert "torch" not in outside
    if module in ("cli", "printing", *COMMANDS):
        at_once = {".".join(name.split(".")[:2]) for name in imported(tree.body)}
        at_once -= {f"xmbench.{name}" for name in ("printing", *COMMANDS)}
        assert at_once <= {"click", "click.shell_completion"}, "import inside the functions"


@pytest.mark.parametrize("code", ["import xmbench", "sys.argv = ['xmbench', '--help']; from xmbench.cli import main; main()"])
def test_importing_costs_neither_torch_nor_pandas(python, code):
    report = "atexit.register(lambda: print('heavy:', *{'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    done = python("-c", f"import atexit, sys; {report}; {code}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]
