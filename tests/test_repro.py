"""The scorecard against verdicts and intervals done by hand, and what keeps a number from being compared."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import ROOT

from xmbench.cli import cli, main
from xmbench.plan import plan
from xmbench.published.terms import published_cells
from xmbench.repro import (
    DIFFERS,
    MATCHES,
    NEEDED,
    NOT_ATTEMPTED,
    READ,
    SEED_NOISE,
    in_short,
    markdown,
    scorecard,
    seed_interval,
    summary,
    verdict,
)
from xmbench.run import failure_row
from xmbench.spec import load_spec
from xmbench.store import Store

REFERENCE = ROOT / "results" / "reference"


def rows_of(values, spec="mrl_table1", dataset="wikipedia_deep", method="mrl", rate=0.2, **changed):
    """Rows of finished runs as the spec of a table plans them, by seed the values of direction and metric."""
    asked = load_spec(spec).narrowed(
        datasets=(dataset,), methods=(method,), rates=(rate,), seeds=tuple(range(len(next(iter(values.values())))))
    )
    rows = []
    for cell in plan(asked):
        facts = failure_row(cell, "ok", "") | {"features": "image 4096, text 300", "realised_rate": rate, "error": None}
        for (direction, metric), by_seed in values.items():
            measure = {"split": "test", "fold": None, "network": "mean", "selection": "best_valid"}
            measure |= {"direction": direction, "metric": metric, "value": by_seed[cell.run.seed]}
            rows += [facts | measure | changed, facts | measure | {"selection": "last", "value": 0.9} | changed]
    return rows


def line_of(rows, **which):
    """The one line of the scorecard with these values."""
    card = scorecard(pd.DataFrame(rows), [which["paper"]])
    (line,) = card[(card[list(which)] == which).all(axis=1)].to_dict("records")
    return line


MRL = {"paper": "mrl2021", "table": "1", "dataset": "wikipedia_deep", "method": "mrl", "noise_rate": 0.2}
I2T = MRL | {"direction": "image2text"}  # printed 0.514
MAPS = ("image2text", "map")


def test_the_interval_is_that_of_one_more_seed():
    mean, spread = 0.2, np.sqrt(((0.01) ** 2 + (0.01) ** 2) / 2)  # of .19, .20, .21
    half = 4.302653 * spread * np.sqrt(1 + 1 / 3)  # t of 2 degrees
    assert seed_interval([0.19, 0.2, 0.21]) == pytest.approx((mean - half, mean + half))
    assert np.isnan(seed_interval([0.2])).all()


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_the_interval_holds_one_more_seed_as_often_as_it_says(n_seeds):
    generator = np.random.default_rng(n_seeds)
    draws = generator.normal(0.5, 0.02, (3000, n_seeds + 1))
    held = [low <= new <= high for *seen, new in draws.tolist() for low, high in [seed_interval(seen)]]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)  # three deviations


@pytest.mark.parametrize(
    ("published", "printed", "unit", "values", "expected"),
    [
        (0.514, "0.514", "fraction", [0.5144], MATCHES),  # the same digits, though one seed has no interval
        (0.514, "0.514", "fraction", [0.5146], DIFFERS),
        (0.514, "0.514", "fraction", [0.500, 0.510, 0.520], MATCHES),  # .510 +- .050, .004 away
        (0.514, "0.514", "fraction", [0.485, 0.495, 0.505], SEED_NOISE),  # .495 +- .050, .019 away
        (0.514, "0.514", "fraction", [0.494, 0.495, 0.496], DIFFERS),  # .495 +- .005
        (0.514, "0.514", "fraction", [0.510, 0.510], DIFFERS),  # .004 away, but seeds change nothing
        (0.584, "58.4", "percent", [0.5844, 0.5844], MATCHES),
        (0.584, "58.4", "percent", [0.5846, 0.5846], DIFFERS),
        (13.0, "13", "rank", [13.4], MATCHES),
        (13.0, "13", "rank", [11.0, 12.0, 13.0], MATCHES),
        (13.0, "13", "rank", [10.0, 11.0, 12.0], SEED_NOISE),
    ],
)
def test_verdicts(published, printed, unit, values, expected):
    assert verdict(published, printed, unit, values) == expected


def test_runs_of_the_spec_of_a_table_are_compared_with_it():
    line = line_of(rows_of({MAPS: [0.500, 0.510, 0.520]}), **I2T)
    assert (line["published"], line["printed"], line["n_seeds"]) == (0.514, "0.514", 3)
    assert (line["ours"], line["difference"]) == pytest.approx((0.51, -0.004))
    assert (line["low"], line["high"]) == pytest.approx((0.51 - 0.0496826, 0.51 + 0.0496826), abs=1e-6)
    assert (line["verdict"], line["reason"]) == (MATCHES, "")
    assert line["ours_on"] == "wikipedia_deep (image 4096, text 300), protocol default, clean labels"


def test_percent_and_pairs_are_in_the_unit_of_a_store():
    rows = rows_of({("text2image", "r@1"): [0.58, 0.59]}, "lnc_table1", "f30k_precomp", "lnc")
    line = line_of(rows, paper="lnc2024", table="1", dataset="f30k_precomp", method="lnc", metric="r@1", noise_rate=0.2,
                   direction="text2image")  # fmt: skip
    assert (line["published"], line["ours"], line["verdict"]) == pytest.approx((0.584, 0.585, MATCHES))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tuning": "random:4 over lr"}, "hyper-parameters tuned"),
        ({"protocol": "noisy_valid", "protocol_sha": "f" * 64}, "protocol noisy_valid, not default as it is"),
        ({"noise_options": '{"shared":true}'}, "other noise: shared=True (paper False)"),
        ({"dataset_params": '{"label_base":"per_split"}'}, "other data: label_base=per_split (paper joint)"),
        ({"implementation": "ce"}, "method ce, not mrl"),
    ],
)
def test_what_differs_from_the_spec_is_named_and_not_compared(changed, reason):
    line = line_of(rows_of({MAPS: [0.514, 0.514]}, **changed), **I2T)
    assert (line["verdict"], line["reason"]) == (NOT_ATTEMPTED, reason)
    assert line["ours"] == 0.514 and np.isnan(line["difference"]) and np.isnan(line["low"])


def test_other_hyper_parameters_are_named_whether_the_spec_sets_them_or_the_method():
    (row, *_) = rows_of({MAPS: [0.5]})
    for changed, words in (({"epochs": 30}, "epochs=30 (paper 100)"), ({"lr": 0.01}, "lr=0.01 (paper 0.0001)")):
        rows = rows_of({MAPS: [0.5, 0.5]}, params=json.dumps(json.loads(row["params"]) | changed))
        assert line_of(rows, **I2T)["reason"] == f"other hyper-parameters: {words}"


def test_other_features_of_the_same_items_are_shown_and_not_compared():
    card = scorecard(Store(REFERENCE).rows(READ, NEEDED), ["mrl2021"])
    near = card[card["n_seeds"] > 0]
    assert set(near["verdict"]) == {NOT_ATTEMPTED} and len(near) == 4 * 8 + 4 * 8  # four methods in Tables 1 and 3 each
    assert near["reason"].str.startswith("other features: wikipedia with image 128, text 10, the paper's").all()
    assert near["difference"].isna().all() and near["low"].isna().all()


def test_runs_as_the_spec_says_come_before_others():
    right, tuned = rows_of({MAPS: [0.514, 0.514]}), rows_of({MAPS: [0.3, 0.3, 0.3]}, tuning="random:4 over lr")
    for row in tuned:
        row["run_id"] += "t"
    assert line_of([*tuned, *right], **I2T)["verdict"] == MATCHES


def test_noise_of_another_kind_is_never_taken_and_clean_data_of_any_scheme_are():
    which = {"paper": "lnc2024", "table": "1", "dataset": "f30k_precomp", "method": "sgr", "noise_rate": 0.0, "metric": "r@1"}
    which |= {"direction": "image2text"}
    rows = rows_of({("image2text", "r@1"): [0.752, 0.752]}, "lnc_table1", "f30k_precomp", "sgr", 0.0)
    printed = published_cells("lnc2024").query("table == '1' and dataset == 'f30k_precomp' and method == 'sgr'")
    (value,) = printed.query("noise_rate == 0 and metric == 'r@1' and direction == 'image2text'")["value"]
    line = line_of([row | {"noise_scheme": "image_shuffle"} for row in rows], **which)
    assert line["verdict"] != NOT_ATTEMPTED and line["published"] == value
    for changed in ({"noise_scheme": "symmetric+caption_shuffle@0.2"}, {"realised_rate": 0.2}):
        assert line_of([row | changed for row in rows], **which)["n_seeds"] == 0
    rows = rows_of({MAPS: [0.514, 0.514]}, noise_scheme="pair_flip")
    assert line_of(rows, **I2T)["n_seeds"] == 0


def test_failed_and_stale_runs_and_single_seeds_are_told():
    rows = rows_of({MAPS: [0.514, 0.514]})
    failed = [row | {"status": "failed", "value": np.nan, "features": None} for row in rows if row["seed"] == 1]
    kept = [row | {"stale": True} for row in rows if row["seed"] == 0]
    line = line_of([*kept, *failed], **I2T)
    assert line["verdict"] == MATCHES
    assert line["reason"] == "one seed, no interval; 1 of 2 runs have it; stale: the method's source changed after these runs"
    assert line_of(failed, **I2T)["reason"] == "no run has it: failed"


def test_trials_do_not_count():
    assert line_of(rows_of({MAPS: [0.514, 0.514]}, trial="1"), **I2T)["n_seeds"] == 0


def test_a_number_in_doubt_is_compared_and_the_doubt_told():
    rows = rows_of({MAPS: [0.568, 0.568]}, "mrl_table2", "nus_wide", "mvda", 0.6)
    line = line_of(rows, paper="mrl2021", table="2", dataset="nus_wide", method="mvda", noise_rate=0.6, direction="image2text")
    assert line["verdict"] == MATCHES and line["suspect"]
    assert line["reason"].startswith("the printed number is in doubt: rises from 0.4 to 0.6")


def test_every_number_of_the_papers_has_a_line_and_a_reason():
    card = scorecard(pd.DataFrame(rows_of({MAPS: [0.5]})).iloc[:0])
    assert len(card) == 1588 and set(card["verdict"]) == {NOT_ATTEMPTED} and (card["reason"] != "").all()
    reason = card.drop_duplicates(["paper", "table", "dataset", "method", "setting", "label"]).set_index(
        ["paper", "table", "dataset", "method"]
    )["reason"]
    assert reason["mrl2021", "1", "wikipedia_deep", "mrl"] == (
        "no run in the store; `xmbench run --spec mrl_table1 --dataset wikipedia_deep`"
    )
    assert reason["lnc2024", "1", "f30k_precomp", "lnc"].startswith("restricted data: f30k_precomp is not free to download")
    assert reason["lnc2024", "1", "f30k_precomp", "scan"] == "the paper averages two networks, here each stands alone"
    assert "known by its numbers" in reason["lnc2024", "3", "msrvtt", "yu2018"]
    assert reason["lnc2024", "7", "f30k_precomp", "lnc"].startswith("the paper looks right after the warm-up")
    counts = summary(card).set_index("paper")
    assert counts.loc["all", "numbers"] == counts.loc["all", NOT_ATTEMPTED] == 1588
    assert counts.loc["mrl2021", "numbers"] == 512


def test_what_is_printed_sums_up_and_what_is_exported_has_all_numbers(tmp_path):
    store = Store(tmp_path / "store")
    rows = rows_of({MAPS: [0.500, 0.510, 0.520]})
    for seed in range(3):
        store.write([row for row in rows if row["seed"] == seed], {})
    run = CliRunner(catch_exceptions=False).invoke
    short = run(cli, ["repro", "mrl2021", "--store", str(store), "--format", "markdown"])
    line = "wikipedia_deep | mrl | image2text | map | 0.2 | 0.514 | 0.51 | 3 | -0.004 | 0.4603 | 0.5597 | matches |"
    assert line in short.stdout
    assert "numbers 512, matches 2, within seed noise 0, differs 0, not attempted 510" in short.stderr, "Table 3 repeats it"
    every = json.loads(run(cli, ["repro", "mrl2021", "--store", str(store), "--format", "json"]).stdout)
    matching = [number["ours"] for number in every if number["verdict"] == MATCHES]
    assert len(every) == 512 and matching == pytest.approx([0.51, 0.51])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mrl2022", "--store", REFERENCE], 2, "no published numbers of mrl2022; there are those of mrl2021"),
        (["--where", "method == 'nobody'", "--store", REFERENCE], 6, "no rows in"),
        (["--store", "nowhere"], 6, "fill it"),
    ],
)
def test_nothing_to_compare_says_what_to_do(arguments, code, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["xmbench", "repro", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code and words in capsys.readouterr().err


def test_the_page_on_reproduction_holds_the_scorecard_of_the_reference_results():
    text = (ROOT / "docs" / "reproduction.md").read_text("utf-8")
    near = "Published / ours by noise rate, not comparable"
    of_all = dict(in_short(scorecard(Store(REFERENCE).rows(READ, NEEDED))))
    for table in of_all.values():
        assert markdown(table) in text
    tuned = dict(in_short(scorecard(Store(REFERENCE / "reduced").rows(READ, NEEDED), ["mrl2021"])))[near]
    assert markdown(tuned[tuned["table"] == "1"]) in text
