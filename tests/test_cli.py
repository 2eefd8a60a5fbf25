"""The command line: what it prints where, every option of `run`, exit codes, and what an interruption keeps."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_datasets import with_dead_addresses

import xmbench as xb
from xmbench.datasets import dataset_card
from xmbench.plan import cached_dataset
from xmbench.registry import _METHODS
from xmbench.store import COLUMNS, Store

TINY = [f"--set=synthetic.{part}={n}" for part, n in {"train": 60, "valid": 30, "test": 30}.items()]
RUN = ["run", "--dataset", "synthetic", "--jobs", "1", *TINY]
SMALL_MRL = [f"--set=mrl.{name}={value}" for name, value in {"hidden": 16, "dim": 16, "epochs": 2}.items()]


@pytest.fixture
def broken():
    """A method `broken` that raises in its fit."""
    before = dict(_METHODS)

    @xb.register_method("broken", needs={"vectors"})
    @dataclass(kw_only=True)
    class Broken(xb.Method):
        def fit(self, train, context):
            raise ArithmeticError("this method cannot count")

        def embed(self, modality):
            return xb.Embedding(modality.name, np.asarray(modality.vectors))

    yield
    _METHODS.clear()
    _METHODS.update(before)


def stored(folder="results"):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).iterdir() if path.is_file()}


# run


def test_run_counts_first_and_ends_with_the_table_and_the_report_command(xmbench):
    command = [*RUN, "--methods", "cca,mrl", "--rates", "0,0.4", "--seeds", "2", *SMALL_MRL]
    first = xmbench(*command)
    assert first.code == 0
    lines = first.err.splitlines()
    assert lines[0] == "8 runs: 0 done, 0 not applicable, 8 to do, of which 2 share the fit of another"
    assert re.fullmatch(r"about \d+ s, 1 at a time on \w+; store results", lines[1])
    assert [line.partition("]")[0] for line in lines[2:-1]] == [f"[{k}/8" for k in range(1, 9)]
    assert re.search(r"\] mrl on synthetic, symmetric@0\.4, seed 1: ok; .* left$", first.err, re.MULTILINE)
    assert lines[-1] == "report: xmbench report --store results"
    assert re.search(r"dataset +noise_scheme +method +map at 0 +map at 0\.4 +seeds", first.out)
    rows = xb.load_results("results")
    chosen = rows.query("split == 'test' and selection == 'best_valid' and direction == 'mean' and metric == 'map'")
    for method in ("cca", "mrl"):
        means = [chosen[(chosen["method"] == method) & (chosen["noise_rate"] == rate)]["value"].mean() for rate in (0, 0.4)]
        shown = " +".join(f"{mean:.3f}".rstrip("0") for mean in means)
        assert re.search(rf"synthetic +symmetric +{method} +{shown} +2 ", first.out)
    assert "map" not in first.err, "results go to stdout"

    before = stored()
    second = xmbench(*command)
    assert second.code == 0
    assert second.err.splitlines() == [
        "8 runs: 8 done, 0 not applicable, 0 to do, of which 0 share the fit of another",
        "report: xmbench report --store results",
    ]
    assert second.out == first.out
    assert stored() == before, "nothing is run or written again"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_summary_can_be_read_by_a_program(xmbench, form):
    done = xmbench(*RUN, "--methods", "cca,pls", "--rates", "0.4", "--seeds", "1", "--format", form)
    rows = done.json if form == "json" else list(csv.DictReader(io.StringIO(done.out)))
    assert {row["method"]: int(row["seeds"]) for row in rows} == {"cca": 1, "pls": 1}
    assert all(0 < float(row["map at 0.4"]) < 1 for row in rows)


def test_a_dry_run_says_how_many_and_touches_nothing(xmbench):
    done = xmbench(*RUN, "--methods", "cca", "--dry-run")
    assert (done.code, done.out) == (0, "")
    assert done.err == "15 runs: 0 done, 0 not applicable, 15 to do, of which 12 share the fit of another\n"
    assert not Path("results").exists()


def test_every_option_reaches_the_rows(xmbench):
    done = xmbench(
        *RUN, "--methods", "mrl", "--noise", "symmetric_exclusive", "--rates", "0.5", "--seeds", "7,", "--noise-seed", "3",
        *SMALL_MRL, "--set", "mrl.beta=0.5", "--set", "synthetic.class_signal=3", "--set", "noise.shared=true",
        "--protocol", "noisy_valid", "--keep", "none", "--threads", "2", "--devices", "cpu", "--store", "my store",
    )  # fmt: skip
    assert done.code == 0
    assert done.err.splitlines()[-1] == "report: xmbench report --store 'my store'"
    rows = xb.load_results("my store")
    facts = rows.drop_duplicates("run_id")
    (row,) = facts.to_dict("records")
    expected = {
        "noise_scheme": "symmetric_exclusive", "noise_rate": 0.5, "noise_seed": 3, "noise_options": '{"shared":true}',
        "seed": 7, "protocol": "noisy_valid", "valid_labels": "noisy", "threads": 2, "device": "cpu", "profile": "", "spec": "",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    parameters = json.loads(row["params"])
    assert [parameters[name] for name in ("beta", "epochs", "hidden")] == [0.5, 2, 16]
    assert [type(parameters[name]) for name in ("beta", "epochs", "hidden")] == [float, int, int]
    assert json.loads(row["dataset_params"])["class_signal"] == 3.0
    arrays = Store("my store").arrays(row["run_id"])
    assert not [name for name in arrays if name.startswith(("embedding", "ranking"))]


@pytest.mark.parametrize(("keep", "kept"), [([], {4}), (["--keep", "all"], {4, 2}), (["--keep", "none"], set())])
def test_keep_chooses_the_seeds_whose_embeddings_are_stored(xmbench, keep, kept):
    xmbench(*RUN, "--methods", "cca", "--rates", "0", "--seeds", "4,2", *keep)
    seeds = xb.load_results().drop_duplicates("run_id").set_index("run_id")["seed"]
    store = Store("results")
    assert {seed for run_id, seed in seeds.items() if "embedding/test/last/mean/text" in store.arrays(run_id)} == kept


def test_a_profile_sets_what_is_not_set_otherwise(xmbench):
    done = xmbench(*RUN, "--methods", "mrl", "--rates", "0", "--seeds", "1", "--profile", "reduced", "--set", "mrl.epochs=1")
    assert done.code == 0
    row = xb.load_results().iloc[0]
    parameters = json.loads(row["params"])
    assert (row["profile"], parameters["hidden"], parameters["dim"], parameters["epochs"]) == ("reduced", 1024, 128, 1)


def test_a_spec_file_is_run_and_other_options_change_it(xmbench, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'methods = ["cca", "thin", "mrl"]\ndatasets = ["synthetic"]\nseeds = [3]\n[noise]\nrates = [0.2]\n'
        '[variants.thin]\nmethod = "cca"\ndim = 2\n[set]\n"mrl.epochs" = 1\n'
    )
    done = xmbench("run", "--spec", "mine.toml", "--methods", "cca,thin", *TINY, "--jobs", "1", "--set", "cca.ridge=0.5")
    assert done.code == 0
    rows = xb.load_results().drop_duplicates("run_id").set_index("method")
    assert set(rows.index) == {"cca", "thin"}
    assert set(rows["spec"]) == {"mine"}
    assert set(rows["seed"]) == {3}
    assert {name: json.loads(rows.loc[name, "params"]) for name in rows.index} == {
        "cca": {"dim": 32, "power": 0.0, "ridge": 0.5},
        "thin": {"dim": 2, "power": 0.0, "ridge": 0.5},
    }


def test_settings_of_the_command_line_stand_above_those_of_a_dataset_in_the_spec(xmbench, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'methods = ["cca"]\ndatasets = ["synthetic"]\nseeds = 1\n[noise]\nrates = [0]\n[dataset.synthetic.set]\n"cca.dim" = 3\n'
    )
    plan = ["plan", "--spec", "mine.toml", *TINY, "--format", "json"]
    ids = [xmbench(*plan, *(f"--set=cca.dim={n}" for n in given)).json[0]["run_id"] for given in ([], [3], [4], [4, 5])]
    assert len({ids[0], *ids[2:]}) == 3
    assert ids[1] == ids[0]


def test_stale_built_in_methods_are_run_again_on_request(xmbench, monkeypatch):
    command = [*RUN, "--methods", "cca", "--rates", "0", "--seeds", "1"]
    xmbench(*command)
    monkeypatch.setattr("xmbench.plan.source_sha", lambda cls: "0" * 16)
    assert "1 done" in xmbench(*command, "--dry-run").err
    assert "1 to do" in xmbench(*command, "--rerun", "stale", "--dry-run").err


# plan, list, info


def test_plan_prints_every_cell_and_its_state(xmbench):
    xmbench(*RUN, "--methods", "cca", "--rates", "0", "--seeds", "1")
    grid = ["--dataset", "synthetic", *TINY, "--rates", "0,0.4", "--seeds", "1", "--format", "json"]
    rows = xmbench("plan", "--methods", "cca,mcca,ce", *grid).json
    assert {(row["method"], row["noise"]): row["state"] for row in rows} == {
        ("cca", "symmetric@0"): "done",
        ("cca", "symmetric@0.4"): "to do",
        ("mcca", "symmetric@0"): "to do",
        ("mcca", "symmetric@0.4"): "shares a fit",
        ("ce", "symmetric@0"): "to do",
        ("ce", "symmetric@0.4"): "to do",
    }
    (row,) = xmbench("plan", "--methods", "cca", *grid, "--set", "synthetic.modalities=3", "--rates", "0").json
    assert (row["state"], row["reason"]) == ("not_applicable", "cca takes at most 2 modalities, synthetic has 3")
    assert "cca takes at most 2 modalities" in xmbench("plan", "--methods=cca", *grid[:-2], "--set=synthetic.modalities=3").out


def test_under_a_table_of_the_plan_stands_every_reason_once(xmbench):
    grid = ["plan", "--methods", "cca,pls", "--dataset", "synthetic", *TINY, "--set=synthetic.modalities=3", "--seeds", "2"]
    table = xmbench(*grid).out
    reasons = [f"({i}) {name} takes at most 2 modalities, synthetic has 3" for i, name in enumerate(("cca", "pls"), 1)]
    assert table.splitlines()[-2:] == reasons
    for i, name in enumerate(("cca", "pls"), 1):
        assert len(re.findall(rf" {name} .* not_applicable +\({i}\) *$", table, re.MULTILINE)) == 10
    assert {row["reason"] for row in xmbench(*grid, "--format", "json").json} == {reason[4:] for reason in reasons}


def test_a_run_says_once_why_cells_cannot_run(xmbench):
    grid = [*RUN, "--methods", "cca,mcca", "--set=synthetic.modalities=3", "--rates", "0,0.4", "--seeds", "1"]
    for command in ([*grid, "--dry-run"], grid):
        done = xmbench(*command)
        assert done.code == 0
        assert done.err.splitlines()[:2] == [
            "4 runs: 0 done, 2 not applicable, 2 to do, of which 1 share the fit of another",
            "not applicable, 2 of 4: cca takes at most 2 modalities, synthetic has 3",
        ]
        assert done.err.count("takes at most") == 1


PLAN = ["plan", "--methods", "cca", "--dataset", "synthetic", "--format", "json"]


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("1", [0]), ("0,1,5", [0, 1, 5]), ("5,", [5]), ("2, 1", [2, 1])])
def test_seeds_are_a_count_or_a_list(xmbench, text, seeds):
    rows = xmbench(*PLAN, "--rates", "0", "--seeds", text).json
    assert [row["seed"] for row in rows] == seeds


def test_without_options_a_run_has_the_rates_and_seeds_of_the_manual(xmbench):
    rows = xmbench(*PLAN).json
    cells = [(seed, f"symmetric@{rate}", "default") for seed in range(3) for rate in ("0", "0.2", "0.4", "0.6", "0.8")]
    assert [(row["seed"], row["noise"], row["protocol"]) for row in rows] == cells


LISTED = {
    "methods": {
        "mrl",
        "ce",
        "cca",
        "mcca",
        "pls",
        "vse",
        "scan",
        "sgr",
        "ncr",
        "lnc",
        "infonce",
        "imram",
        "decl",
        "miech",
        "random",
    },
    "datasets": {
        "wikipedia",
        "openmoji",
        "synthetic",
        "flickr8k",
        "f30k_precomp",
        "coco_precomp",
        "cc152k_precomp",
        "msrvtt",
        "coco_clip",
    },
    "noise": {
        "symmetric",
        "symmetric_exclusive",
        "asymmetric",
        "pair_flip",
        "mrl_kplus1",
        "mrl_0_9",
        "mrl_legacy",
        "file",
        "symmetric_multilabel",
        "caption_shuffle",
        "image_shuffle",
        "ncr_legacy",
        "decl_legacy",
    },
    "metrics": {"map", "map@50", "map@50_min", "map@r", "pmrp", "r@1", "r@5", "r@10", "medr", "meanr", "rsum"},
    "specs": {
        "smoke",
        "ci",
        "reduced",
        "reference",
        "label_noise",
        "mrl_table1",
        "mrl_table2",
        "mrl_table3",
        "labelwise_table1",
        "ncr_table2",
        "ncr_table3",
        "lnc_table1",
        "lnc_table2",
        "lnc_table3",
        "lnc_table4",
        "lnc_table5",
        "lnc_table6",
        "lnc_table7",
        "lnc_table8",
        "lnc_table8_flickr8k",
        "lnc_table9",
        "lnc_table10",
        "lnc_table11",
        "lnc_figure5a",
        "lnc_table1_flickr8k",
    },
    "protocols": {"default", "noisy_valid", "multilabel", "pairs"},
    "published": {"sgr-c", "kiros2014"},
}


@pytest.mark.parametrize("kind", LISTED)
def test_list_and_info_know_the_same_names_in_every_format(xmbench, kind):
    as_json, as_csv, as_table = (xmbench("list", kind, "--format", form) for form in ("json", "csv", "table"))
    assert LISTED[kind] <= {row["name"] for row in as_json.json}
    assert [row["name"] for row in csv.DictReader(io.StringIO(as_csv.out))] == [row["name"] for row in as_json.json]
    assert all(re.search(rf"^ {re.escape(name)} ", as_table.out, re.MULTILINE) for name in LISTED[kind])
    assert [done.err for done in (as_json, as_csv, as_table)] == ["", "", ""]
    for name in sorted(LISTED[kind]):
        facts = xmbench("info", name, "--format", "json").json
        assert facts["name"] == name
        assert facts["kind"].startswith({"methods": "method", "noise": "noise"}.get(kind, kind.removesuffix("s")))
    told = xmbench("info", name)
    assert (told.code, told.err) == (0, "")
    assert f"name: {name}\n" in told.out
    facts = csv.DictReader(io.StringIO(xmbench("info", name, "--format", "csv").out))
    assert {"name", "kind"} <= {row["fact"] for row in facts}


def test_list_says_which_datasets_are_here(xmbench, monkeypatch, tmp_path):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("xmbench.datasets._files.cache_root", lambda: tmp_path)
    rows = xmbench("list", "datasets", "--format", "json").json
    assert {row["name"]: row["here"] for row in rows if row["name"] in LISTED["datasets"]} == {
        "openmoji": "ready",
        "synthetic": "ready",
        "wikipedia": "to download",
        **dict.fromkeys(("cc152k_precomp", "msrvtt"), "to download"),
        **dict.fromkeys(("flickr8k", "f30k_precomp", "coco_precomp", "coco_clip"), "missing"),
    }


def test_info_of_a_method_and_a_dataset_shows_parameters_with_defaults(xmbench):
    assert xmbench("info", "mrl", "--format", "json").json["parameters"]["beta"] == 0.7
    assert "[default: lda]" in xmbench("info", "wikipedia").out


# results


@pytest.fixture
def filled(xmbench):
    xmbench(*RUN, "--methods", "cca,pls", "--rates", "0,0.4", "--seeds", "1")
    return xmbench


def test_results_print_every_column_and_nothing_else(filled):
    as_json, as_csv = (filled("results", "--format", form) for form in ("json", "csv"))
    assert (as_json.code, as_json.err, as_csv.err) == (0, "", "")
    rows = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert list(rows[0]) == list(as_json.json[0]) == list(COLUMNS)
    assert len(rows) == len(as_json.json) == len(xb.load_results())
    assert as_json.json[0]["fold"] is None
    table = filled("results", "--where", "metric == 'map' and direction == 'mean' and split == 'test' and selection == 'last'")
    assert table.err == f"4 rows; {len(COLUMNS) - 12} more columns with --format csv or json\n"
    assert len(re.findall(r"^ synthetic ", table.out, re.MULTILINE)) == 4


def test_where_chooses_rows(filled):
    rows = filled("results", "--where", "method in ['pls'] and noise_rate > 0", "--format", "json").json
    assert {(row["method"], row["noise_rate"]) for row in rows} == {("pls", 0.4)}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("method.str.len() > 2", "may compare columns with constants, nothing else"),
        ("abs(value) > 1", "may compare columns with constants, nothing else"),
        ("value * 2 > 1", "may compare columns with constants, nothing else"),
        ("methd == 'cca'", "no column named 'methd'; did you mean 'method'"),
        ("method ==", "must be an expression such as"),
        ("method", "must be true or false for every row"),
    ],
)
def test_where_refuses_what_is_no_comparison(filled, where, message):
    for command in (["results"], ["report"]):
        done = filled(*command, "--where", where)
        assert (done.code, done.out) == (2, "")
        assert message in done.err


def test_nothing_matched_or_nothing_there_is_6(filled):
    for arguments in (["--where", "method == 'mrl'"], ["--store", "elsewhere"]):
        done = filled("results", *arguments)
        assert (done.code, done.out) == (6, "")
        assert re.match(r"Error: no rows in (results match|elsewhere); fill it: xmbench run --methods", done.err)


# report


def test_report_without_runs_says_what_to_run(xmbench):
    done = xmbench("report", "--store", "none")
    assert (done.code, done.out) == (6, "")
    assert "xmbench run --methods" in done.err
    assert not Path("reports").exists()


def test_report_shows_what_of_a_spec_has_no_run(xmbench):
    grid = 'methods = ["cca", "pls"]\ndatasets = ["synthetic"]\nseeds = 1\n[noise]\nscheme = "symmetric"\nrates = [0.0, 0.4]\n'
    Path("grid.toml").write_text(grid, "utf-8")
    assert xmbench("run", "--spec", "grid.toml", "--methods", "cca", "--rates", "0.4").code == 0
    assert xmbench("report", "--spec", "grid.toml").code == 0
    lines = Path("reports/synthetic_symmetric_map.md").read_text("utf-8").splitlines()
    for label in ("`cca`", "`pls`"):
        cells = next(line for line in lines if line.startswith(f"| {label}")).split("|")[2:]
        assert [cell.strip() == "–" for cell in cells[:2]] == [True, label == "`pls`"], "at 0 and at 0.4"
    assert any(line.startswith("–: no result: cca at 0; pls at 0, 0.4") for line in lines)


def test_report_prints_the_files_it_wrote(filled):
    done = filled("report", "--out", "out", "--where", "method == 'cca'")
    assert done.code == 0
    files = [Path(line) for line in done.out.splitlines()]
    assert all(file.is_file() and file.is_relative_to("out") for file in files)
    assert {".tex", ".md", ".csv", ".pdf", ".png"} <= {file.suffix for file in files}


def test_report_into_something_that_is_no_folder_is_2(filled):
    Path("file").touch()
    done = filled("report", "--out", "file")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


# exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "mrll"], "no method named 'mrll'; did you mean 'mrl'?"),
        (["--methods", ""], "a run needs methods and a dataset"),
        (["--dataset", "openmojo"], "no dataset named 'openmojo'; did you mean 'openmoji'?"),
        (["--noise", "symetric"], "no noise scheme named 'symetric'; did you mean 'symmetric'?"),
        (["--protocol", "defualt"], "no protocol named 'defualt'; did you mean 'default'?"),
        (["--protocol", "wrong.toml"], "no metric named 'mapp'; did you mean 'map'?"),
        (["--profile", "reduce"], "no profile named 'reduce'; did you mean 'reduced'?"),
        (["--profile", "smoke"], "profile 'smoke' must change method parameters only, got datasets, methods, noise, seeds"),
        (["--spec", "smok"], "no spec named 'smok'; did you mean 'smoke'?"),
        (["--spec", "reduced"], "use it as --profile reduced"),
        (["--spec", "none.toml"], "no file 'none.toml' for a spec"),
        (["--spec", "wrong.toml"], "must name methods"),
        (["--method", "cca"], "No such option '--method'. (Did you mean one of: '--methods'"),
        (["--set", "mrl.betta=1"], "mrl has no parameter 'betta'; did you mean mrl.beta?"),
        (["--set", "mlr.beta=1"], "no owner of a setting in this run named 'mlr'; did you mean 'mrl'?"),
        (["--set", "mrl.beta"], "--set must read OWNER.PARAM=VALUE, got 'mrl.beta'"),
        (["--set", "beta=1"], "must read OWNER.PARAM=VALUE, got 'beta'"),
        (["--set", "mrl.beta=much"], "mrl.beta must be of type float, got 'much'"),
        (["--set", "mrl.beta="], "mrl.beta must be of type float, got ''"),
        (["--set", "mrl.beta=1.5"], "beta must lie in [0, 1], got 1.5"),
        (["--set", "mrl.epochs=1.5"], "mrl.epochs must be of type int, got '1.5'"),
        (["--set", "mrl.epochs=0"], "epochs must be above 0, got 0"),
        (["--set", "mrl.epochs=-3"], "epochs must be above 0, got -3"),
        (["--set", "mrl.batch_size=0"], "batch_size must be above 0, got 0"),
        (["--set", "mrl.batch_size=-1"], "batch_size must be above 0, got -1"),
        (["--set", "synthetic.train=0"], "synthetic.train must be 2 or more, got 0"),
        (["--set", "noise.shared=perhaps"], "noise.shared must be of type bool, got 'perhaps'"),
        (["--set", "noise.path=x"], "noise scheme 'symmetric' has no option 'path'"),
        (["--noise", "file"], "got none; give --set noise.path=FILE"),
        (["--noise", "file", "--rates", "0.2", "--set", "noise.path=."], ". must be a noise file, got a folder"),
        (["--rates", "1.5"], "the rate of 'symmetric' must lie in [0, 1], got 1.5"),
        (["--rates", "-0.1"], "must lie in [0, 1], got -0.1"),
        (["--rates", "nan"], "must lie in [0, 1], got nan"),
        (["--rates", "some"], "--rates must hold numbers, got 'some'"),
        (["--rates", ""], "--rates must hold numbers, got ''"),
        (["--seeds", "0"], "seeds must be a count of 1 or more"),
        (["--seeds", "-1"], "seeds must be a count of 1 or more"),
        (["--seeds", "1,1"], "seeds must be a count of 1 or more, or different numbers"),
        (["--seeds", "0,-2"], "or different numbers of 0 or more"),
        (["--seeds", ","], "seeds must be a count of 1 or more"),
        (["--seeds", "few"], "--seeds must hold numbers, got 'few'"),
        (["--noise-seed", "x"], "'x' is not a valid integer"),
        (["--jobs", "0"], "0 is not in the range x>=1"),
        (["--threads", "-1"], "-1 is not in the range x>=1"),
        (["--keep", "some"], "'some' is not one of 'none', 'first', 'all'"),
        (["--devices", "gpu"], "device must be one that torch knows, such as cpu or cuda:0, got 'gpu'"),
        (["--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
        (["--store", "wrong.toml"], "store wrong.toml must be a writable folder"),
    ],
)
def test_bad_usage_is_2_with_one_line_and_nothing_written(xmbench, tmp_path, arguments, message):
    (tmp_path / "wrong.toml").write_text('metrics = ["mapp"]\n')
    done = xmbench("run", "--methods", "mrl", "--dataset", "synthetic", *arguments)
    assert (done.code, done.out) == (2, "")
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert done.err.splitlines()[-1] == errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.toml"]
    assert (tmp_path / "wrong.toml").read_text() == 'metrics = ["mapp"]\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["info", "wikipedai"], "did you mean 'wikipedia'?"),
        (["list", "method"], "'method' is not one of 'methods', 'datasets', 'noise', 'metrics', 'specs', 'protocols'"),
        (["run"], "a run needs methods and a dataset: give --methods and --dataset, or --spec"),
        (["plan", "--methods", "cca", "--dataset", "synthetic", "--rates", "2"], "must lie in [0, 1], got 2.0"),
        (["check"], "Missing option '--against'"),
        (["check", "--against", "none.parquet"], "Path 'none.parquet' does not exist"),
    ],
)
def test_other_commands_refuse_bad_usage_with_2_too(xmbench, arguments, message):
    done = xmbench(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_missing_data_are_5_with_one_line(xmbench, monkeypatch, tmp_path):
    card = dataset_card("wikipedia")
    monkeypatch.setattr("xmbench.datasets.wikipedia.CARD", with_dead_addresses(card))
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached_dataset.cache_clear()
    done = xmbench("run", "--methods", "cca", "--dataset", "wikipedia")
    assert (done.code, done.out) == (5, "")
    assert re.fullmatch(
        r"Error: wikipedia: \S+ cannot be downloaded from http://127.*put it at .*, or set XMBENCH_DATA to .*\n", done.err
    )
    assert not Path("results").exists()


def test_unusable_data_are_5(xmbench, monkeypatch):
    monkeypatch.setattr("xmbench.datasets.synthetic._rendered", lambda latent, *args: np.full((len(latent), 3), np.nan))
    done = xmbench("run", "--methods", "cca", "--dataset", "synthetic", "--set", "synthetic.seed=99")
    assert (done.code, done.out) == (5, "")
    assert done.err == (
        "Error: synthetic/train/image: vectors must be finite, got NaN or infinity in row 0; drop or repair it\n"
    )


def test_a_missing_noise_file_is_5(xmbench):
    done = xmbench(*RUN, "--methods", "ce", "--noise", "file", "--set", "noise.path=none.json", "--rates", "0.4")
    assert (done.code, done.out) == (5, "")
    assert "none.json" in done.err
    assert "Traceback" not in done.err


# noise

SEVERAL = ["--dataset", "synthetic", "--set=synthetic.train=60", "--set=synthetic.captions=3"]


def shown(done):
    """What a noise command printed, as a mapping of texts."""
    assert done.code == 0, done.err
    return dict(line.split(": ", 1) for line in done.out.splitlines())


def test_noise_is_made_looked_at_and_run_on(xmbench):
    made = shown(xmbench("noise", "make", "noise_0.4", *SEVERAL, "--noise", "caption_shuffle", "--rate", "0.4", "--seed", "3"))
    assert (made["noise"], made["scheme"], made["captions"], made["images"]) == (
        "caption_shuffle@0.4",
        "caption_shuffle",
        "180",
        "60",
    )
    assert np.load("noise_0.4").shape == (180,)
    assert float(made["realised rate"]) == int(made["captions with a wrong image"]) / 180 == pytest.approx(0.4, abs=0.04)
    assert float(made["nominal rate, about"]) == pytest.approx(0.4, abs=0.03)
    looked = xmbench("noise", "info", "noise_0.4", *SEVERAL, "--format", "json")
    assert {key: str(value) for key, value in looked.json.items()} == {k: made[k] for k in list(made)[3:]}
    run = ["run", "--methods", "cca", *SEVERAL, "--jobs", "1", "--seeds", "3,", "--rates", "0.4", "--noise"]
    done = xmbench(*run, "file,caption_shuffle", "--set", "noise.path=noise_0.4", "--format", "json")
    assert done.code == 0, done.err
    assert "2 runs: 0 done, 0 not applicable, 2 to do, of which 1 share the fit" in done.err
    rows = Store("results").rows()
    assert set(rows["noise_sha"]) == {made["noise_sha"]}
    assert set(rows["realised_rate"]) == {float(made["realised rate"])}


def test_labels_are_made_too_and_of_joined_schemes_one_at_a_time(xmbench):
    made = shown(xmbench("noise", "make", "labels.json", *SEVERAL, "--rate", "0.5", "--set", "noise.shared=false"))
    assert (made["noise"], made["holds"], made["labels of text"]) == ("symmetric@0.5", "labels", "180")
    assert [len(labels) for labels in json.loads(Path("labels.json").read_text())] == [60, 180]
    done = xmbench("noise", "make", "both", *SEVERAL, "--rate", "0.5", "--noise", "symmetric+image_shuffle@0.5")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: a noise file holds labels or pairs; both are noisy: write a file for each scheme\n"
    assert not Path("both").exists()


def test_a_file_of_another_project_is_taken_in_and_handed_on(xmbench):
    image_of_image = np.roll(np.arange(60), 1)
    image_of_image[30:] = np.arange(30, 60)
    image_of_image[0] = 29
    np.save("rcl.npy", image_of_image)
    done = xmbench("noise", "import", "rcl.npy", "ours.npy", *SEVERAL)
    assert shown(done) | {
        "layout": "one entry per image",
        "scheme": "image_shuffle",
        "captions with a wrong image": "90",
    } == shown(done)
    assert done.err == "to run on it: --noise file --set noise.path=ours.npy --rates 0.52\n"
    assert np.array_equal(np.load("ours.npy"), np.repeat(image_of_image, 3))
    assert shown(xmbench("noise", "export", "ours.npy", "decl.npy", "--for", "decl", *SEVERAL))["scheme"] == "image_shuffle"
    assert Path("decl.npy").read_bytes() == Path("rcl.npy").read_bytes()
    compared = shown(xmbench("noise", "diff", "rcl.npy", "ours.npy", *SEVERAL))
    assert (compared["differ"], compared["wrong in both"], compared["overlap (both / either)"]) == ("0", "90", "1.0")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "none.npy"], 5, "no noise file none.npy"),
        (["info", "short.npy"], 2, "must hold one image per caption, 180 of them, or one per image, 60, got 7"),
        (["import", "short.npy", "new.npy"], 2, "one per image, 60, got 7; is it of this split?"),
        (["import", "short.npy", "short.npy"], 2, "one per image, 60, got 7"),
        (["export", "short.npy", "new.npy"], 2, "Missing option '--for'"),
        (["export", "short.npy", "new.npy", "--for", "mrl"], 2, "short.npy holds pairs, and mrl reads labels"),
        (["make", "short.npy", "--rate", "0.2"], 2, "short.npy exists; give the noise file another name"),
        (["make", "new.npy", "--rate", "0"], 2, "rate 0 has no noise, and no file"),
        (["make", "none/new.npy", "--rate", "0.2"], 2, "none/new.npy: there is no folder none; make it first"),
        (
            ["make", "new.npy", "--rate", "1", "--noise", "mrl_kplus1"],
            2,
            "a noise file holds classes 0..9, the noise has others",
        ),
        (["make", "new.npy", "--rate", "1", "--noise", "image_shuffle"], 2, "'image_shuffle' must lie in [0, 1), got 1.0"),
        (["make", "new.npy", "--rate", "0.2", "--noise", "image_shufle"], 2, "did you mean 'image_shuffle'"),
        (["make", "new.npy", "--rate", "0.2", "--set", "noise.path=x"], 2, "noise scheme 'symmetric' has no option 'path'"),
        (["info", "short.npy", "--set", "cca.dim=3"], 2, "no owner of a setting in this run named 'cca'"),
        (["info", "short.npy", "--set", "synthetic.trian=3"], 2, "synthetic has no parameter 'trian'"),
        (["diff", "short.npy"], 2, "Missing argument 'SECOND'"),
        (["mkae"], 2, "No such command 'mkae'"),
    ],
)
def test_bad_use_of_noise_files_is_one_line_and_writes_nothing(xmbench, arguments, code, message):
    np.save("short.npy", np.arange(7))
    done = xmbench("noise", *arguments, *(SEVERAL if arguments[0] != "mkae" else []))
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in Path().iterdir()] == ["short.npy"]


def test_several_schemes_meet_every_rate_and_share_rate_0(xmbench):
    command = [*RUN, "--methods", "cca,pls", "--noise", "symmetric,caption_shuffle,symmetric+caption_shuffle@0.6"]
    done = xmbench(*command, "--rates", "0,0.6", "--seeds", "1", "--format", "json")
    assert done.code == 0, done.err
    assert "12 runs: 0 done, 0 not applicable, 12 to do, of which 8 share the fit of another" in done.err
    cca = {row["noise_scheme"]: row for row in done.json if row["method"] == "cca"}
    clean, moved, joined = (cca[name] for name in ("symmetric", "caption_shuffle", "symmetric+caption_shuffle@0.6"))
    assert clean["map at 0"] == clean["map at 0.6"] == moved["map at 0"] > moved["map at 0.6"]
    assert joined["map at 0"] == joined["map at 0.6"] == moved["map at 0.6"]
    planned = xmbench("plan", *command[1:], "--rates", "0.4", "--seeds", "1", "--format", "json").json
    assert planned[-1]["noise"] == "symmetric@0.4+caption_shuffle@0.6"


def test_a_store_of_a_newer_schema_is_5(filled):
    path = next(Path("results").glob("*.parquet"))
    pd.read_parquet(path).assign(schema_version=2).to_parquet(path)
    for command in (["results"], ["report"], [*RUN, "--methods", "cca"]):
        done = filled(*command)
        assert (done.code, done.out) == (5, "")
        assert "was written by a newer xmbench (schema 2, this one reads 1); update xmbench" in done.err


def test_a_failing_method_is_3_and_the_others_are_kept(xmbench, broken):
    command = [*RUN, "--methods", "broken,cca", "--rates", "0", "--seeds", "1"]
    done = xmbench(*command)
    assert done.code == 3
    assert "failed: broken on synthetic, rate 0.0, seed 0: ArithmeticError: this method cannot count\n" in done.err
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "report: xmbench report --store results"
    assert " cca " in done.out
    assert "broken" not in done.out
    again = xmbench(*command)
    assert again.code == 3
    assert again.err.startswith("2 runs: 1 done, 0 not applicable, 1 to do")
    failed = xmbench("results", "--where", "status == 'failed'", "--format", "json").json
    assert "Traceback" in failed[0]["error"]


def test_a_full_disk_stops_the_sweep_with_3_and_the_command_to_go_on(xmbench, monkeypatch):
    from xmbench import store

    write, calls = store.write_rows, []

    def full(table, file):
        calls.append(file)
        if len(calls) > 1:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        write(table, file)

    monkeypatch.setattr(store, "write_rows", full)
    command = [*RUN, "--methods", "cca,pls,mcca", "--rates", "0", "--seeds", "1"]
    done = xmbench(*command)
    assert done.code == 3
    last = done.err.splitlines()[-1]
    assert re.match(r"run \w+ could not be written to results \(No space left on device\); finished runs are kept", last)
    assert last.endswith(f"To go on: {shlex.join(['xmbench', *command])}")
    assert "Traceback" not in done.err
    assert len(calls) == 2, "the sweep stops"
    assert [name for name in stored() if name.startswith(".") or not name.endswith((".npz", ".parquet"))] == []
    monkeypatch.setattr(store, "write_rows", write)
    done = xmbench(*command)
    assert done.code == 0
    assert done.err.startswith("3 runs: 1 done, 0 not applicable, 2 to do")


def test_a_defect_is_1_with_its_traceback(xmbench, monkeypatch):
    for error in (RuntimeError("oops"), KeyError("oops"), TypeError("oops")):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr("xmbench.plan.plan", fail)
        done = xmbench("plan", "--methods", "cca", "--dataset", "synthetic")
        assert (done.code, done.out) == (1, "")
        assert "Traceback" in done.err
        assert "oops" in done.err
        assert done.err.endswith("Error: this is a defect of xmbench; please report it with the lines above\n")


def test_an_interruption_before_the_first_run_is_130_too(xmbench, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("xmbench.sweep.estimate", interrupt)
    done = xmbench(*RUN, "--methods", "cca", "--rates", "0")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1].startswith(
        "interrupted; finished runs are kept. To go on: xmbench run --dataset synthetic"
    )


# Ctrl-C


SLOW = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmbench import Embedding, Method, register_method


@register_method("slow", needs={"vectors"})
@dataclass(kw_only=True)
class Slow(Method):
    def fit(self, train, context):
        for _ in context.epochs(1, state={"nothing": np.zeros(1)}):
            for number, _ in enumerate(context.batches(8, 1)):
                while number == 5 and Path(os.environ["HOLD"]).exists():
                    time.sleep(0.01)
            context.end_epoch(loss=0.0)

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, :4])
"""


@pytest.fixture
def slow(tmp_path):
    """A plug-in whose fit lasts until a file is removed; returns the file and the environment that knows it."""
    folder = tmp_path / "plug-in" / "slow-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[xmbench.methods]\nslow = slow\n")
    (folder.parent / "slow.py").write_text(SLOW)
    hold = tmp_path / "hold"
    hold.touch()
    paths = [str(folder.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return hold, {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOLD": str(hold), "XMBENCH_ISOLATION": "1"}


def finished(folder):
    return {path.stem for path in folder.glob("*.parquet")}


@pytest.mark.parametrize("hold_on", [pytest.param(True, id="twice", marks=pytest.mark.slow), pytest.param(False, id="once")])
def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(tmp_path, slow, hold_on):
    """Twice stops what runs, once lets it come to its end; runs that have not begun are left in both cases."""
    hold, environment = slow
    arguments = ["run", "--methods", "cca,slow", *RUN[1:3], *TINY, "--rates", "0", "--seeds", "3", "--jobs", "2"]
    python = [sys.executable, "-c", "from xmbench.cli import main; main()"]
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # also where the tests run deaf to it
    with subprocess.Popen([*python, *arguments], start_new_session=True, **hears, **options) as process:
        deadline = time.monotonic() + 240
        while len(finished(tmp_path / "results")) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        kept = finished(tmp_path / "results")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the sweep
        seen = next(line for line in process.stderr if line.startswith("what has begun"))
        assert seen == "what has begun comes to its end; Ctrl-C again stops it\n"
        if hold_on:
            os.killpg(process.pid, signal.SIGINT)
        else:
            hold.unlink()
        out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert len(kept) == 2
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    command = shlex.join(["xmbench", *arguments])
    assert err.splitlines()[-1] == f"interrupted; finished runs are kept. To go on: {command}"
    assert re.search(r" cca +\S+ +2 ", out)
    ended = len(finished(tmp_path / "results"))
    assert ended == 2 if hold_on else ended in (3, 4)  # one or both of the slow ones had begun
    assert finished(tmp_path / "results") >= kept
    assert not [path for path in (tmp_path / "results").iterdir() if path.name.startswith(".")]

    hold.unlink(missing_ok=True)
    resumed = shlex.split(err.splitlines()[-1].partition("To go on: xmbench ")[2])
    done = subprocess.run([*python, *resumed], timeout=240, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"6 runs: {ended} done, 0 not applicable, {6 - ended} to do")
    assert len(finished(tmp_path / "results")) == 6


DEAF = """
import os, signal, subprocess, sys
from xmbench.engine import _deaf_children
code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
try:
    with _deaf_children():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        print(child.stdout.strip(), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("still here", flush=True)
except KeyboardInterrupt:
    print("heard", signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_processes_started_for_a_sweep_are_deaf_to_ctrl_c(python):
    """From their first instruction on: an interrupted import would print a traceback of its own."""
    done = python("-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + DEAF)
    assert done.stdout.splitlines() == ["True", "still here", "heard False"], done.stderr
