"""What the shell completes: by click's own testing of it, in a real bash, and without the cost of torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import ShellComplete

from xmbench.cli import cli
from xmbench.compact import compact
from xmbench.store import Store
from xmbench.types import one_hot

RUNS = ["0123456789abcdef", "01ff000000000000", "fedcba9876543210"]


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """What is offered for the last of some words; a path where the shell is to complete one."""
    monkeypatch.chdir(tmp_path)

    def offered(*words):
        items = ShellComplete(cli, {}, "xmbench", "_XMBENCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
        return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]

    return offered


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["run", "--methods", "mr"], ["mrl"]),
        (["run", "--methods", "ce,mr"], ["ce,mrl"]),
        (["run", "--methods", "mrl,mr"], []),
        (["plan", "--dataset", "wiki"], ["wikipedia", "wikipedia_deep"]),
        (["run", "--dataset", "openmoji,flickr"], ["openmoji,flickr8k"]),
        (["run", "--noise", "symmetric+caption_"], ["symmetric+caption_shuffle"]),
        (["run", "--profile", ""], ["reduced"]),
        (["run", "--spec", "mrl_table"], ["mrl_table1", "mrl_table2", "mrl_table3"]),
        (["run", "--spec", "./my"], ["<file>"]),
        (["run", "--protocol", "noisy"], ["noisy_valid"]),
        (["noise", "make", "out.npy", "--noise", "asym"], ["asymmetric"]),
        (["report", "--table", "ncr_"], ["ncr_table2", "ncr_table3"]),
        (["report", "--metric", "map@50,map@50_"], ["map@50,map@50_min"]),
        (["report", "--published", "l"], ["labelwise2021", "lnc2024"]),
        (["repro", "mrl2021", "ncr"], ["ncr2021"]),
        (["compare", "mrl", "sgr_"], ["sgr_clean", "sgr_star"]),
        (["validate", "mean"], ["<file>"]),
        (["cite", "mrl", "hodosh"], []),
        (["cite", "flickr"], ["flickr8k"]),
        (["info", "rsu"], ["rsum"]),
        (["list", "lay"], ["layouts"]),
    ],
    ids=" ".join,
)
def test_names_are_completed(complete, words, offered):
    assert complete(*words) == offered


def test_imported_data_are_among_the_datasets(complete, xmbench, tmp_path, monkeypatch):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for name in ("img", "txt"):
        np.save(f"{name}.npy", rng.standard_normal((60, 4)).astype(np.float32))
    np.save("labels.npy", one_hot(np.arange(60) % 3, 3).argmax(1))
    files = ["--features", "image=img.npy", "--features", "text=txt.npy", "--labels", "labels.npy"]
    assert xmbench("data", "import", "owndata", *files).code == 0
    assert complete("run", "--dataset", "own") == ["owndata"]


@pytest.mark.parametrize("form", ["files", "compacted", "one file"])
def test_runs_of_the_store_that_is_named_are_completed(complete, form):
    store = Store("mine")
    for run_id in RUNS:
        store.write([{"run_id": run_id, "status": "ok"}], {})
    if form == "compacted":
        assert compact(store).runs == 3
        store.log("01aaaaaaaaaaaaaa").touch()
    name = "mine"
    if form == "one file":
        from xmbench.store import save_rows

        save_rows(store.rows(), Path(name := "rows.parquet"))
    of_a_log = ["01aaaaaaaaaaaaaa"] if form == "compacted" else []
    assert complete("show", "--store", name, "01") == [RUNS[0], *of_a_log, RUNS[1]]
    assert complete("logs", "--store", name, "fe") == [RUNS[2]]
    assert complete("show", "01") == []


def test_what_cannot_be_read_completes_nothing(complete):
    Path("damaged.parquet").write_text("no rows")
    assert complete("show", "--store", "damaged.parquet", "") == []


def test_completing_executes_no_plugin(complete):
    Path("mine.py").write_text("open('executed', 'w')\n")
    assert complete("run", "--plugin", "mine.py", "--methods", "mr") == ["mrl"]
    assert not Path("executed").exists()


HEAVY = "{'torch', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)"
LIGHT = f"import atexit, sys; atexit.register(lambda: print('\\nheavy:', *{HEAVY}))"


@pytest.mark.parametrize("line", ["run --methods mrl,c", "run --dataset w", "run --noise s", "report --metric m", "show 01"])
def test_completing_costs_neither_torch_nor_pandas(python, line):
    environment = {"COMP_WORDS": f"xmbench {line}", "COMP_CWORD": str(len(line.split())), "_XMBENCH_COMPLETE": "bash_complete"}
    done = python("-c", f"{LIGHT}; sys.argv = ['xmbench']; from xmbench.cli import main; main()", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]


@pytest.fixture
def command(tmp_path):
    """A folder with the command, for the PATH of a shell."""
    script = tmp_path / "bin" / "xmbench"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom xmbench.cli import main\n\nmain()\n")
    script.chmod(0o755)
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(root)}


def test_bash_completes(command, tmp_path):
    source = """
eval "$(_XMBENCH_COMPLETE=bash_source xmbench)"
complete -p xmbench
press_tab() { COMP_WORDS=(xmbench "$@"); COMP_CWORD=$#; COMPREPLY=(); _xmbench_completion xmbench; echo "${COMPREPLY[*]}"; }
press_tab run --methods ce,mr
press_tab list d
"""
    shell = [shutil.which("bash"), "--norc", "-c", source]
    done = subprocess.run(shell, env=command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["complete -o nosort -F _xmbench_completion xmbench", "ce,mrl", "datasets"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs the shell fish")
def test_fish_completes_lists_beyond_their_first_comma(command, tmp_path):
    source = "_XMBENCH_COMPLETE=fish_source xmbench | source; complete --do-complete 'xmbench run --methods ce,mr'"
    shell = ["fish", "--no-config", "-c", source]
    done = subprocess.run(shell, env=command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["ce,mrl"], done.stderr
