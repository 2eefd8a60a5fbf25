"""The regression check: tolerances by hand, and mutations of the real code that it must see on the committed reference."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import baselines.mrl
from xmbench import Rows, class_numbers, cli, evaluate, load_results, noise, plan
from xmbench.check import SMALLEST_TOLERANCE, _compared_rows, check, compare, make_reference
from xmbench.datasets import synthetic
from xmbench.metrics import chance_ap
from xmbench.spec import Spec, load_spec
from xmbench.store import COLUMNS, save_rows
from xmbench.types import one_hot

REFERENCE = ROOT / "results" / "reference" / "ci.parquet"


# tolerances


def frame(values, **changes):
    """Rows of runs r0, r1, ... that differ in the seed alone."""
    rows = [
        {
            "run_id": f"r{seed}", "dataset": "toy", "dataset_params": "{}", "method": "mrl", "params": "{}", "error": None,
            "noise_scheme": "symmetric", "noise_options": "{}", "noise_rate": 0.4, "noise_sha": f"n{seed}", "seed": seed,
            "protocol": "default", "protocol_sha": "p", "split": "test", "fold": None, "selection": "last", "network": "mean",
            "direction": "image2text", "metric": "map", "n_queries": 9, "value": value, **changes,
        }
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def problems(reference, rows):
    return compare(reference, rows)["problem"].tolist()


def test_a_row_may_move_by_three_deviations_of_its_seeds():
    table = compare(frame([0.50, 0.52]), frame([0.542, 0.478]))
    deviation = np.std([0.50, 0.52], ddof=1)
    assert table["tolerance"].tolist() == pytest.approx([3 * deviation] * 2)
    assert table["problem"].tolist() == ["", ""]
    assert problems(frame([0.50, 0.52]), frame([0.543, 0.477])) == ["moved", "moved"]


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5]])
def test_a_row_may_always_move_by_a_hundredth_and_no_further(values):
    table = compare(frame(values), frame([0.509] * len(values)))
    assert table["tolerance"].tolist() == [SMALLEST_TOLERANCE] * len(values) == [0.01] * len(values)
    assert set(table["problem"]) == {""}
    for moved in (0.511, 0.489):
        assert set(problems(frame(values), frame([moved] * len(values)))) == {"moved"}


@pytest.mark.parametrize(
    "column", "dataset_params params noise_options noise_rate direction selection split network protocol".split()
)
def test_only_rows_that_differ_in_the_seed_alone_widen_the_tolerance(column):
    other = frame([0.9], **{column: 0.8 if column == "noise_rate" else "other"}).assign(run_id="s0")
    table = compare(pd.concat([frame([0.5, 0.5]), other]), pd.concat([frame([0.5, 0.5]), other]))
    assert table["tolerance"].tolist() == [0.01] * 3


@pytest.mark.parametrize(
    ("column", "problem"),
    [("noise_sha", "other noise"), ("protocol_sha", "other protocol"), ("n_queries", "other number of queries")],
)
def test_noise_protocol_and_sizes_must_be_the_same_exactly(column, problem):
    changed = frame([0.5, 0.5], **{column: 10 if column == "n_queries" else "x"})
    assert problems(frame([0.5, 0.5]), changed) == [problem, problem]


def test_what_was_not_measured_is_named_with_the_reason():
    failed = frame([np.nan], split=None, metric=None, error="Traceback\nValueError: no\n")
    other = frame([0.5, 0.5]).query("seed == 1")
    assert problems(frame([0.5, 0.5]), pd.concat([failed, other])) == ["not measured: ValueError: no", ""]
    assert problems(frame([0.5, 0.5]), frame([0.5])) == ["", "not measured: no such number now"]


def test_rows_that_the_reference_has_not_are_not_looked_at():
    more = pd.concat([frame([0.5]), frame([0.1], direction="text2image"), frame([0.1], split="valid")])
    assert problems(frame([0.5]), more) == [""]


def test_folds_are_left_to_their_average():
    folds = pd.concat([frame([0.2], fold="0"), frame([0.8], fold="1")])
    now = pd.concat([frame([0.5]), folds.assign(value=0.1)])
    assert problems(frame([0.5]), now) == [""]
    reference = pd.concat([frame([0.5]), folds]).assign(status="ok", trial=None)
    assert _compared_rows(reference)["value"].tolist() == [0.5]


# the committed reference


def test_the_reference_is_of_the_spec_and_clearly_above_chance():
    rows = load_results(REFERENCE)
    assert list(rows.columns) == list(COLUMNS)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["metric"]) == {"map"}
    grid = load_spec("ci")
    cells = {cell.run.run_id for cell in plan.plan(grid)}
    assert set(rows["run_id"]) == cells, "run scripts/make_ci_reference.py"
    assert {"cca", "mcca", "pls", "ce", "mrl", "mrl_rc", "mrl_mc"} <= set(grid.methods)
    assert {"synthetic", "openmoji"} <= set(grid.datasets)
    assert (rows["value"] > 1.5 * rows["chance"]).all()
    assert REFERENCE.stat().st_size < 100_000
    assert rows.loc[(rows["dataset"] == "synthetic") & (rows["split"] == "test"), "chance"].iloc[0] == pytest.approx(
        float(chance_ap(20, 200))
    )


@pytest.fixture
def forgotten():
    """Datasets and noise are made anew, before and after."""

    def forget():
        plan.cached_dataset.cache_clear()
        plan._corruption.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def checked(monkeypatch, capsys, tmp_path, forgotten):
    """Check a part of the reference from the command line; returns the exit code and the rows that differ."""

    def run(where="dataset == 'synthetic' and method in ['pls', 'mrl_rc'] and noise_rate == 0.4"):
        part = tmp_path / "part.parquet"
        save_rows(load_results(REFERENCE).query(where), part)
        monkeypatch.setattr(sys, "argv", ["xmbench", "check", "--against", str(part), "--format", "json"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code, json.loads(out) if out else [], err

    return run


def moved(rows):
    """Those of the rows whose value alone gives them away."""
    return [row for row in rows if row["value"] is not None and abs(row["value"] - row["reference"]) > row["tolerance"]]


def test_unchanged_code_is_0(checked):
    code, rows, err = checked("dataset == 'synthetic' and noise_rate == 0.4 and method in ['mrl', 'ce', 'cca', 'gma', 'dscmr']")
    assert (code, rows) == (0, []), rows
    assert "120 numbers of" in err
    assert "0 of them differ" in err


def test_robust_clustering_with_its_sign_flipped_is_4(checked, monkeypatch):
    right = baselines.mrl.robust_clustering
    monkeypatch.setattr(baselines.mrl, "robust_clustering", lambda scores, labels, tau: -right(scores, labels, tau))
    code, rows, _ = checked()
    assert code == 4
    assert {row["method"] for row in rows} == {"mrl_rc"}
    assert len(moved(rows)) == len(rows) == 24, "every number of both seeds"
    assert {row["problem"] for row in rows} == {"moved"}


def redrawn(change):
    """The scheme `symmetric` with its draw changed: change(split, noise, draw) -> split."""
    scheme = noise.SCHEMES["symmetric"]
    return replace(scheme, draw=lambda split, given, *rest: change(split, given, lambda s, n: scheme.draw(s, n, *rest)))


def one_more(split, given, draw):
    return draw(split, replace(given, rate=given.rate + 1 / len(split.modalities[0])))


def shifted(split, given, draw):
    def next_class(before, after):
        old, new = class_numbers(before.labels), class_numbers(after.labels)
        return replace(after, labels=one_hot(np.where(old == new, new, (new + 1) % split.n_classes), split.n_classes))

    drawn = draw(split, given)
    pairs = zip(split.modalities, drawn.modalities, strict=True)
    return replace(drawn, modalities=tuple(next_class(before, after) for before, after in pairs))


@pytest.mark.parametrize("change", [one_more, shifted])
def test_noise_off_by_one_is_4(checked, monkeypatch, change):
    monkeypatch.setitem(noise.SCHEMES, "symmetric", redrawn(change))
    code, rows, _ = checked()
    assert code == 4
    assert {row["problem"] for row in rows} == {"other noise"}
    assert {(row["method"], row["seed"]) for row in rows} == {(m, s) for m in ("pls", "mrl_rc") for s in (0, 1)}


def test_test_and_validation_swapped_is_4(checked, monkeypatch):
    load = synthetic.load

    def swapped(parameters):
        dataset = load(parameters)
        return replace(dataset, valid=dataset.tests["test"], tests={"test": dataset.valid})

    monkeypatch.setattr(synthetic, "load", swapped)
    code, rows, _ = checked()
    assert code == 4
    assert len(moved(rows)) > len(rows) / 2, "most numbers show it, were the sizes equal too"


def test_directions_swapped_is_4(checked, monkeypatch):
    keep = evaluate._keep_direction

    def swapped(measured, network, direction, *rest):
        keep(measured, network, "2".join(reversed(direction.split("2"))), *rest)

    monkeypatch.setattr(evaluate, "_keep_direction", swapped)
    code, rows, _ = checked()
    assert code == 4
    assert {row["direction"] for row in rows} == {"image2text", "text2image"}
    assert len(moved(rows)) == len(rows) >= 4
    assert "pls" in {row["method"] for row in rows}, "whose numbers are the same on every machine"


def test_partners_lost_is_4(checked, monkeypatch):
    """The pairs of the training split point at other items: one more of the ways in which a harness goes wrong."""
    load = synthetic.load

    def unpaired(parameters):
        dataset = load(parameters)
        image, text = dataset.train.modalities
        turned = replace(text, vectors=Rows(np.roll(np.asarray(text.vectors), 1, axis=0)))
        return replace(dataset, train=replace(dataset.train, modalities=(image, turned)))

    monkeypatch.setattr(synthetic, "load", unpaired)
    code, rows, _ = checked("dataset == 'synthetic' and method == 'pls' and noise_rate == 0.4")
    assert code == 4
    assert len(moved(rows)) == len(rows) == 24


def test_nothing_to_measure_is_6(checked):
    code, _, err = checked("status == 'failed'")
    assert code == 6
    assert "could be measured: it must hold finished runs with MAP" in err


def test_a_reference_whose_runs_all_fail_now_is_6_and_a_part_of_them_is_4(checked, monkeypatch):
    def broken(*args):
        raise ArithmeticError("this loss cannot count")

    monkeypatch.setattr(baselines.mrl, "robust_clustering", broken)
    assert checked("dataset == 'synthetic' and method == 'mrl_rc' and noise_rate == 0.4")[0] == 6
    code, rows, _ = checked()
    assert code == 4
    assert {row["problem"] for row in rows} == {"not measured: ArithmeticError: this loss cannot count"}


def test_missing_data_are_5(checked, monkeypatch):
    def missing(parameters):
        raise FileNotFoundError("synthetic: x.bin is missing; put it there")

    monkeypatch.setattr(synthetic, "load", missing)
    code, _, err = checked()
    assert (code, err) == (5, "Error: synthetic: x.bin is missing; put it there\n")


def test_an_interruption_is_130_and_no_regression(checked, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("xmbench.sweep.execute", interrupt)
    assert checked()[0] == 130


def test_a_reference_is_made_by_one_call_and_holds_what_check_reads(tmp_path, monkeypatch, forgotten):
    settings = (("synthetic", "train", 60), ("synthetic", "valid", 30), ("synthetic", "test", 30))
    grid = Spec(methods=("pls",), datasets=("synthetic",), rates=(0.4,), seeds=(0, 1), settings=settings)
    monkeypatch.setattr("xmbench.check.load_spec", lambda name: grid)
    made = make_reference(tmp_path / "new" / "ci.parquet")
    rows = load_results(tmp_path / "new" / "ci.parquet")
    assert len(rows) == len(made) == 2 * 2 * 2 * 3  # seeds, splits, selections, directions
    assert set(rows["metric"]) == {"map"}
    assert set(check(rows)["problem"]) == {""}
    monkeypatch.setattr("baselines.pls.np.linalg.svd", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(RuntimeError, match="every run of a reference must succeed, 2 did not"):
        make_reference(tmp_path / "new" / "ci.parquet")
    assert len(load_results(tmp_path / "new" / "ci.parquet")) == len(rows)
