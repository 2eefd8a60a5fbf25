"""Hyper-parameters chosen by validation: the points, the choice, and what reports do with trials."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from xmbench import method_names, register_method
from xmbench.plan import plan
from xmbench.registry import MOST_POINTS, find_method, parameters_of
from xmbench.report import render
from xmbench.run import Settings
from xmbench.spec import Spec, load_spec
from xmbench.store import Store
from xmbench.sweep import sweep, todo
from xmbench.tuning import Rule, best, candidates, validation_scores

SMALL = (("synthetic", "train", 60), ("synthetic", "valid", 40), ("synthetic", "test", 40))
GRID = Spec(methods=("pls",), datasets=("synthetic",), rates=(0.0, 0.4), seeds=(0, 1), settings=SMALL).tuned("grid")
VALUES = find_method("pls").info.search["dim"]


def dims(cells):
    return [cell.run.parameters["dim"] for cell in cells]


def split(cells):
    """Trials and the runs that count."""
    return [c for c in cells if c.run.trial], [c for c in cells if not c.run.trial]


def rows_of(cells, values, **changes):
    """Stored rows in which the cells have these validation MAPs, and test MAPs that say the opposite."""
    row = {"selection": "best_valid", "network": "mean", "direction": "mean", "metric": "map", "status": "ok", **changes}
    rows = []
    for cell, value in zip(cells, values, strict=True):
        rows += [{**row, "run_id": cell.run.run_id, "split": "valid", "value": value}]
        rows += [{**row, "run_id": cell.run.run_id, "split": "test", "value": -value}]
        rows += [{**row, "run_id": cell.run.run_id, "split": "valid", "selection": "last", "value": -value}]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", method_names())
def test_every_search_space_has_at_most_twelve_points_of_parameters_that_exist(name):
    cls = find_method(name)
    assert set(cls.info.search) <= set(parameters_of(cls))
    points = candidates(name, Rule.parse("grid"), {})
    assert 1 <= len(points) <= MOST_POINTS
    made = {tuple(getattr(p.method, key) for key in cls.info.search) for p in points}
    assert made == set(product(*cls.info.search.values())) or not cls.info.search
    assert len(made) == len(points)


def test_a_larger_space_or_an_unknown_parameter_is_refused():
    for search, message in (({"dim": range(1, 14)}, "at most 12 points, got 13"), ({"rank": [1]}, "no parameter 'rank'")):
        with pytest.raises(ValueError, match=message):
            register_method("pls", needs={"vectors"}, search=search)(find_method("pls"))


def test_random_points_are_part_of_the_grid_and_fewer_are_part_of_more():
    numbers = {n: [p.number for p in candidates("cca", Rule.parse(f"random:{n}"), {})] for n in (1, 4, 99)}
    assert len(numbers[4]) == 4
    assert set(numbers[1]) < set(numbers[4]) < set(numbers[99])
    assert numbers[99] == [p.number for p in candidates("cca", Rule.parse("grid"), {})]


def test_what_is_set_is_not_searched():
    points = candidates("cca", Rule.parse("grid"), {"power": 0.5, "ridge": 0.1})
    assert [(p.method.dim, p.method.power, p.method.ridge) for p in points] == [(8, 0.5, 0.1), (32, 0.5, 0.1), (128, 0.5, 0.1)]
    alone = candidates("pls", Rule.parse("grid"), {"dim": 5})
    assert [(p.number, p.method.dim) for p in alone] == [("", 5)]


@pytest.mark.parametrize("text", ["", "random", "random:0", "random:x", "all", "grid:3"])
def test_a_rule_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"tuning must be grid, or random:N"):
        Rule.parse(text)


def test_the_first_of_equal_scores_is_best_and_failures_never_are():
    assert best([0.1, 0.3, 0.3]) == 1
    assert best([np.nan, -1.0]) == 1
    assert best([np.nan, np.nan]) is None


def test_trials_are_at_rate_04_and_seed_0_whatever_the_grid():
    trials, runs = split(plan(replace(GRID, rates=(0.2,), seeds=(5,))))
    assert {(c.run.noise.rate, c.run.seed, c.run.noise.seed) for c in trials} == {(0.4, 0, 0)}
    assert dims(trials) == list(VALUES)
    assert [(c.status, c.reason) for c in runs] == [("waiting", f"waits for {len(VALUES)} of {len(VALUES)} trials")]


def test_the_best_validation_map_is_taken_at_every_rate_and_seed():
    trials, _ = split(plan(GRID))
    rows = rows_of(trials, [0.1, 0.5, 0.3, 0.2, 0.2, 0.2])
    _, runs = split(plan(GRID, rows=rows))
    assert {c.status for c in runs} == {"ready"}
    assert dims(runs) == [VALUES[1]] * 4
    assert len({c.run.run_id for c in [*trials, *runs]}) == len(trials) + 4
    some = rows[rows["run_id"] != trials[0].run.run_id]
    assert {c.reason for c in split(plan(GRID, rows=some))[1]} == {f"waits for 1 of {len(VALUES)} trials"}


def test_per_rate_each_rate_has_its_own_choice():
    grid = replace(GRID, tune_per="rate")
    trials, _ = split(plan(grid))
    assert [c.run.noise.rate for c in trials] == [0.0] * len(VALUES) + [0.4] * len(VALUES)
    rows = rows_of(trials, [*np.eye(6)[0], *np.eye(6)[3]])
    chosen = {(c.run.noise.rate, c.run.parameters["dim"], c.run.tuning) for c in split(plan(grid, rows=rows))[1]}
    assert chosen == {(0.0, VALUES[0], "grid per rate over dim"), (0.4, VALUES[3], "grid per rate over dim")}


def test_failed_trials_are_passed_over_and_where_all_failed_the_runs_say_so():
    trials, _ = split(plan(GRID))
    rows = rows_of(trials, [0.1, 0.5, 0.3, 0.2, 0.2, 0.2])
    failed = rows["run_id"] == trials[1].run.run_id
    _, runs = split(plan(GRID, rows=rows.assign(status=np.where(failed, "failed", "ok"), value=rows["value"].mask(failed))))
    assert set(dims(runs)) == {VALUES[2]}
    _, runs = split(plan(GRID, rows=rows.assign(status="failed", value=np.nan)))
    assert {(c.status, c.reason) for c in runs} == {("skipped", "all 6 trials failed: their rows say why")}


def test_pair_data_are_chosen_by_rsum_and_classifiers_by_micro_f1():
    trials, _ = split(plan(GRID))
    for metric in ("rsum", "map"):
        scores = validation_scores(rows_of(trials[:2], [0.1, 0.5], metric=metric))
        assert scores == {trials[0].run.run_id: 0.1, trials[1].run.run_id: 0.5}
    both = pd.concat([rows_of(trials[:1], [v], metric="micro_f1", direction=d) for v, d in ((0.2, "image"), (0.6, "text"))])
    assert validation_scores(both) == {trials[0].run.run_id: pytest.approx(0.4)}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A store in which pls and cca are tuned and pls has run with its defaults too; and the planned cells."""
    store = Store(tmp_path_factory.mktemp("tuned"))
    grid = replace(GRID, methods=("pls", "cca"), tune={"pls": "grid", "cca": "random:2"}, seeds=(0,))
    for spec in (grid, grid, replace(grid, methods=("pls",), tune={})):
        sweep(todo(plan(spec, rows=store.rows()), store), store, Settings())
    return store, plan(grid, rows=store.rows())


def test_a_sweep_stores_every_trial_and_runs_the_choice(tuned):
    store, cells = tuned
    rows = store.rows()
    trials, runs = split(cells)
    assert len(trials) == len(VALUES) + 2
    assert {c.run.run_id for c in cells} <= set(rows["run_id"])
    assert set(rows.loc[rows["trial"].notna(), "run_id"]) == {c.run.run_id for c in trials}
    scores = validation_scores(rows)
    own = [c for c in trials if c.run.method == "pls"]
    winner = max(own, key=lambda c: scores[c.run.run_id])
    assert {c.run.parameters["dim"] for c in runs if c.run.method == "pls"} == {winner.run.parameters["dim"]}
    at_04 = next(c for c in runs if c.run.method == "pls" and c.run.noise.rate == 0.4)
    assert winner.score_key == at_04.score_key, "the winner's fit is not done twice"
    test = rows[(rows["split"] == "test") & (rows["metric"] == "map")].set_index(["run_id", "selection", "direction"])["value"]
    pd.testing.assert_series_equal(test[winner.run.run_id], test[at_04.run.run_id])
    assert not todo(cells, store).groups


def test_no_table_mixes_tuned_and_default_and_none_shows_a_trial(tuned, tmp_path):
    store, cells = tuned
    files = {path.name: path for path in render(store, tmp_path)}
    both, default = (pd.read_csv(files[f"synthetic_symmetric{name}_map.csv"]) for name in ("_tuned", ""))
    trials = {c.run.run_id for c in cells if c.run.trial}
    shown = {name: set(" ".join(t["run_ids"]).split()) for name, t in (("tuned", both), ("default", default))}
    assert not (shown["tuned"] | shown["default"]) & trials
    assert shown["tuned"] == {c.run.run_id for c in cells} - trials
    assert sorted(default["method"].unique()) == ["pls"]
    assert sorted(both["method"].unique()) == ["cca", "pls"]
    text = files["synthetic_symmetric_tuned_map.md"].read_text()
    assert "hyper-parameters tuned" in text
    assert "grid over dim: pls; random:2 over dim, ridge: cca" in text
    listed = pd.read_csv(files["synthetic_symmetric_tuned_trials.csv"])
    assert len(listed) == len(trials)
    assert listed.groupby("method")["chosen"].sum().to_dict() == {"cca": 1, "pls": 1}
    best_rows = listed.groupby("method")["valid_map"].idxmax()
    assert listed.loc[best_rows, "chosen"].all()


def test_a_spec_says_which_methods_are_tuned_how(tmp_path):
    path = tmp_path / "own.toml"
    head = 'methods = ["pls", "cca", "mrl"]\ndatasets = ["synthetic"]\n'
    path.write_text(head + '[tune]\n"random:4" = "all"\ngrid = ["cca"]\n')
    assert load_spec(str(path)).tune == {"pls": "random:4", "cca": "grid", "mrl": "random:4"}
    for tune, message in (
        ('grid = ["ce"]', "no method of spec"),
        ('often = ["cca"]', "tuning must be grid"),
        ('grid = "cca"', "must list methods"),
    ):
        path.write_text(f"{head}[tune]\n{tune}\n")
        with pytest.raises((ValueError, LookupError), match=message):
            load_spec(str(path))
