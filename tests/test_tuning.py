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
        own = {**row, "run_id": cell.run.run_id, "implementation": "pls", "score_key": cell.score_key, "source_sha": "x"}
        rows += [{**own, "split": "valid", "value": value}]
        rows += [{**own, "split": "test", "value": -value}]
        rows += [{**own, "split": "valid", "selection": "last", "value": -value}]
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


def test_random_points_are_part_of_the_grid_fewer_are_part_of_more_and_all_values_are_tried_alike():
    numbers = {n: [p.number for p in candidates("gce", Rule.parse(f"random:{n}"), {})] for n in (1, 4, 99)}
    assert len(numbers[4]) == 4
    assert set(numbers[1]) < set(numbers[4]) < set(numbers[99])
    assert numbers[99] == [p.number for p in candidates("gce", Rule.parse("grid"), {})]
    for name in method_names():
        space = find_method(name).info.search
        points = [p.method for p in candidates(name, Rule.parse("random:4"), {})]
        for key, values in space.items():
            counts = sorted(sum(getattr(point, key) == value for point in points) for value in values)
            assert counts[-1] - counts[0] <= 1, (name, key)


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
    together = pd.concat([rows_of(trials[:1], [0.3]), rows_of(trials[:1], [250.0], metric="rsum")])
    assert validation_scores(together) == {trials[0].run.run_id: 0.3}
    assert validation_scores(together, "rsum") == {trials[0].run.run_id: 250.0}
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
    assert "grid: pls; random:2: cca" in text
    listed = pd.read_csv(files["synthetic_symmetric_tuned_trials.csv"])
    assert len(listed) == len(trials)
    assert listed.groupby("method")["chosen"].sum().to_dict() == {"cca": 1, "pls": 1}
    best_rows = listed.groupby("method")["valid_map"].idxmax()
    assert listed.loc[best_rows, "chosen"].all()


def test_a_spec_says_which_methods_are_tuned_how(tmp_path):
    path = tmp_path / "own.toml"
    head = 'methods = ["pls", "cca", "mrl"]\ndatasets = ["synthetic"]\n'
    path.write_text(head + '[tune]\n"random:4" = "all"\ngrid = ["cca"]\n')
    grid = load_spec(str(path)).narrowed(methods=("cca", "mrl", "ce"))
    assert [str(grid.rule_of(name)) for name in grid.methods] == ["grid", "random:4", "random:4"], "one added later too"
    for tune, message in (
        ('grid = ["ce"]', "no method of spec"),
        ('often = ["cca"]', "tuning must be grid"),
        ('grid = "cca"', "must list methods"),
    ):
        path.write_text(f"{head}[tune]\n{tune}\n")
        with pytest.raises((ValueError, LookupError), match=message):
            load_spec(str(path))


def test_a_protocol_without_a_score_to_choose_by_is_refused(tmp_path):
    path = tmp_path / "gains.toml"
    path.write_text('metrics = ["ndcg"]\n')
    with pytest.raises(ValueError, match="tuning needs a protocol that measures map, r@1 or micro_f1, got ndcg"):
        plan(replace(GRID, protocol=str(path)))


def test_trials_of_other_data_or_of_another_version_choose_nothing():
    trials, _ = split(plan(GRID))
    rows = rows_of(trials, [0.1, 0.5, 0.3, 0.2, 0.2, 0.2])
    old = rows["run_id"] == trials[2].run.run_id
    _, runs = split(plan(GRID, rows=rows.assign(score_key=rows["score_key"].mask(old, "other"))))
    assert {c.reason for c in runs} == {"waits for 1 of 6 trials"}
    _, runs = split(plan(GRID, rows=rows.assign(source_sha="changed")))
    assert {c.status for c in runs} == {"ready"}, "a built-in method's source counts with --rerun stale alone"


BREAK = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from xmbench import Embedding, Method, register_method

@register_method("fragile", needs={"vectors"}, search={"dim": [1, 2, 5]})
@dataclass(kw_only=True)
class Fragile(Method):
    dim: int = 2
    def fit(self, train, context):
        if Path("broken").exists() and str(self.dim) in Path("broken").read_text().split():
            raise RuntimeError("out of order")
    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, : self.dim])
"""


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """`xmbench` with a method whose fits fail for the values of dim that the file `broken` holds."""
    import importlib

    from click.testing import CliRunner

    from xmbench import registry
    from xmbench.cli import cli

    (tmp_path / "fragile_method.py").write_text(BREAK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "fragile_method", raising=False)
    importlib.import_module("fragile_method")
    small = [f"--set={owner}.{name}={value}" for owner, name, value in SMALL]
    grid = ["--methods", "fragile", "--dataset", "synthetic", "--rates", "0.2", "--seeds", "1", "--tune", "grid", *small]

    def run(command, *options):
        extra = ["--jobs", "1"] if command == "run" else []
        return CliRunner().invoke(cli, [command, *grid, *extra, *options])

    return run


def states(done):
    """Of `plan --format csv`: (tuning or trial, state) of every cell."""
    from io import StringIO

    table = pd.read_csv(StringIO(done.stdout), keep_default_na=False)
    return list(zip(table["tuning"], table["state"], strict=True))


def test_the_command_line_tries_chooses_and_goes_on(fragile):
    dry = fragile("run", "--dry-run")
    assert (dry.exit_code, dry.stderr.splitlines()) == (
        0,
        [
            "4 runs: 0 done, 0 not applicable, 3 to do, of which 0 share the fit of another; "
            "then 1 with the hyper-parameters that their trials choose"
        ],
    )
    tried = [(f"trial {k}", "to do") for k in range(3)]
    assert states(fragile("plan", "--format", "csv")) == [*tried, ("grid over dim", "waiting")]
    done = fragile("run")
    assert done.exit_code == 0, done.output
    assert {state for _, state in states(fragile("plan", "--format", "csv"))} == {"done"}
    assert "4 runs: 4 done" in fragile("run").stderr
    rows = Store("results").rows()
    scores = validation_scores(rows[rows["trial"].notna()])
    final = rows[rows["trial"].isna()].iloc[0]
    params = rows.drop_duplicates("run_id").set_index("run_id")["params"]
    assert final["params"] == params[max(scores, key=scores.get)]
    kept = {run_id: any(name.startswith("embedding/") for name in Store("results").arrays(run_id)) for run_id in params.index}
    assert {params[run_id] for run_id, has in kept.items() if has} == {final["params"]}, "the arrays of the losers are gone"


def test_a_failed_trial_is_tried_again_before_the_choice_is_made_anew(fragile):
    from pathlib import Path

    Path("broken").write_text("5")
    done = fragile("run")
    assert done.exit_code == 3
    assert "failed: fragile on synthetic, rate 0.4, seed 0, trial 2: RuntimeError: out of order" in done.stderr
    first = Store("results").rows().query("trial.isna()", engine="python").iloc[0]["params"]
    assert states(fragile("plan", "--format", "csv"))[2:] == [("trial 2", "to do"), ("grid over dim", "waiting")]
    Path("broken").unlink()
    assert fragile("run").exit_code == 0
    finals = Store("results").rows().query("trial.isna()", engine="python")["params"].unique()
    assert (first, sorted(finals)) == ('{"dim":2}', ['{"dim":2}', '{"dim":5}']), "both stay, and a table tells them apart"


def test_where_all_trials_failed_the_next_call_begins_with_them(fragile):
    from pathlib import Path

    Path("broken").write_text("1 2 5")
    assert fragile("run").exit_code == 3
    rows = Store("results").rows()
    assert rows.loc[rows["trial"].isna(), "error"].tolist() == ["all 3 trials failed: their rows say why"]
    Path("broken").unlink()
    assert fragile("run").exit_code == 0
    rows = Store("results").rows()
    assert "ok" in set(rows.loc[rows["trial"].isna(), "status"])


def test_twins_leave_what_is_synthetic_as_it_is():
    grid = replace(GRID, datasets=("synthetic", "openmoji"), settings=(*SMALL, ("openmoji", "classes", "subgroup")))
    twins = grid.as_twins(7)
    assert twins.datasets == ("synthetic", "synthetic_openmoji")
    assert twins.settings == (*SMALL, ("synthetic_openmoji", "shrink", 7))
