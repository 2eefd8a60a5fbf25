"""What runs will cost: medians of equal runs, extrapolation to others, groups that share a fit, and what is told of a sweep."""

import json
import math
from types import SimpleNamespace

import pytest

from xmbench.cost import (
    MEASURING_SECONDS,
    STORING_SECONDS,
    Cost,
    CostModel,
    cost_table,
    epochs,
    group_costs,
    in_words,
    total_cost,
)
from xmbench.noise import Noise
from xmbench.plan import Cell, Run
from xmbench.spec import canonical, load_protocol
from xmbench.store import Finished

SIZES = {"small": (100, 50), "large": (1000, 200), "huge": (10_000, 200)}
NUMBERS = iter(range(10**6))


def sizes(dataset, parameters):
    return SIZES.get(dataset)


def stored(fit, evaluation=1.0, *, method="mrl", dataset="small", key=None, seed=0, status="ok", **other):
    """A run of a store; every one has a fit of its own unless `key` and `started` are given."""
    number = next(NUMBERS)
    known = {"peak_rss": 1e9, "threads": 1, "device": "cpu", "started": str(number), "bytes": 1000, **other}
    params = canonical(known.pop("params", {"epochs": 10}))
    return Finished(
        run_id=str(number), status=status, score_key=key or str(number), source_sha="", fit_seconds=fit, method=method,
        implementation=method, dataset=dataset, params=params, dataset_params="{}", seed=seed, protocol="default",
        eval_seconds=evaluation, **known,
    )  # fmt: skip


def planned(params=None, *, method="mrl", dataset="small", fit="f", key="s", seed=0, keep=True):
    run = Run(
        dataset=dataset, dataset_parameters={}, noise=Noise("symmetric", 0.2, seed), method=method, implementation=method,
        parameters={"epochs": 10} if params is None else params, seed=seed, protocol=load_protocol("default"),
    )  # fmt: skip
    return Cell(
        run=run, needs=frozenset(), fit_key=fit, score_key=key, source_sha="", spec="", profile="", keep=keep
    )  # fmt: skip


def model(runs, **options):
    return CostModel(runs, sizes=sizes, **options)


# equal runs


def test_of_equal_runs_the_median_time_and_disk_and_the_largest_memory_count():
    runs = [
        stored(fit, evaluation, peak_rss=rss, bytes=n)
        for fit, evaluation, rss, n in [(10, 1, 3e9, 700), (30, 2, 5e9, 900), (20, 9, 4e9, 800)]
    ]
    cost = model(runs).predict(planned())
    assert (cost.seconds, cost.peak_rss, cost.bytes) == (20 + 2 + STORING_SECONDS, 5e9, 800)
    assert cost.source == "equal"
    assert cost.low < cost.seconds < cost.high


def test_failed_runs_tell_nothing():
    assert model([stored(10), stored(99, status="failed")]).predict(planned()).seconds == pytest.approx(11 + STORING_SECONDS)


def test_a_fit_that_several_runs_share_counts_once():
    shared = {"started": "then", "seed": 1}
    runs = [stored(10, key="a", **shared), stored(10, key="a", **shared), stored(10, key="a", **shared), stored(30), stored(40)]
    assert model(runs).predict(planned()).seconds == pytest.approx(30 + 1 + STORING_SECONDS)


def test_evaluations_that_were_timed_together_cost_a_part_each():
    runs = [stored(10, 6, key=key, started="then") for key in "abc"]
    assert model(runs).predict(planned()).seconds == pytest.approx(10 + 2 + STORING_SECONDS)


def test_arrays_that_are_kept_take_their_own_space():
    runs = [stored(1, seed=seed, bytes=n) for seed, n in [(0, 9000), (0, 7000), (1, 100), (2, 200), (3, 300)]]
    known = model(runs)
    assert [known.predict(planned(keep=keep)).bytes for keep in (True, False)] == [8000, 200]


@pytest.mark.parametrize("other", [{"threads": 2}, {"device": "cuda"}])
def test_runs_with_other_threads_or_another_device_are_not_equal(other):
    known = model([stored(10), stored(20)], **other)
    assert known.predict(planned()).source == "similar"


def test_one_gpu_is_as_good_as_another():
    assert model([stored(10, device="cuda:1")], device="cuda:0").predict(planned()).source == "equal"


# others


def grid(cost, n_epochs=(5, 10, 20), datasets=("small", "large"), methods=("mrl",)):
    """Two runs of each, with the seconds that `cost(epochs, dataset)` says."""
    return [
        stored(cost(n, dataset), 0.5, method=method, dataset=dataset, params={"epochs": n, "lr": 0.1}, seed=seed)
        for method in methods
        for n in n_epochs
        for dataset in datasets
        for seed in range(2)
    ]


@pytest.mark.parametrize(("n_epochs", "dataset"), [(80, "small"), (80, "large"), (1, "large"), (30, "huge")])
def test_time_in_proportion_to_epochs_and_items_is_found_where_nothing_like_it_ran(n_epochs, dataset):
    def seconds(n, name):
        return 0.01 * n * SIZES[name][0]

    cost = model(grid(seconds)).predict(planned({"epochs": n_epochs, "lr": 0.3}, dataset=dataset))
    assert cost.seconds - 0.5 - STORING_SECONDS == pytest.approx(seconds(n_epochs, dataset), rel=0.05)
    assert cost.low < cost.seconds < cost.high
    assert cost.source == ("others" if dataset == "huge" else "similar")


def test_time_that_grows_otherwise_than_in_proportion_is_learned():
    known = model(grid(lambda n, _: n**2, n_epochs=(4, 8, 16, 32, 64)))
    cost = known.predict(planned({"epochs": 128, "lr": 0.1}))
    assert cost.seconds == pytest.approx(128**2, rel=0.25), "in proportion it would be half"


def test_a_method_that_never_ran_has_wide_limits():
    runs = grid(lambda n, name: n, methods=("mrl", "ce"))
    seen, new = (model(runs).predict(planned({"epochs": 40}, method=name)) for name in ("mrl", "sgr"))
    assert new.source == "others"
    assert new.high / new.low > 5 * seen.high / seen.low


def test_memory_errs_on_the_high_side():
    runs = [stored(1, params={"dim": dim}, peak_rss=rss) for dim, rss in [(8, 1e9), (16, 1.4e9), (32, 1.1e9), (64, 1.6e9)]]
    assert 1.3e9 < model(runs).predict(planned({"dim": 24})).peak_rss < 10e9


def test_of_an_empty_store_nothing_is_known():
    assert model([]).predict(planned()) is None


def test_a_dataset_that_is_not_there_takes_the_place_of_a_usual_one():
    cost = model(grid(lambda n, name: n)).predict(planned({"epochs": 10}, dataset="gone"))
    assert 1 < cost.seconds < 100


def test_epochs_of_all_stages_count():
    assert epochs({"epochs": 3, "warm_up": 2, "filter_epochs": 1, "warm_up_steps": 500, "start_epochs": None}) == 6
    assert epochs({"iterations": 20}) == 1


# groups


def test_runs_that_share_a_fit_cost_one_fit_and_an_evaluation_for_each_key():
    cells = [planned(key=key, keep=False) for key in ("s", "s", "t")]
    cost = model([stored(10, 2, bytes=500)]).predict_group(cells, {})
    assert cost.seconds == pytest.approx(10 + 2 * 2 + 3 * STORING_SECONDS)
    assert cost.bytes == 3 * 500


def test_results_that_are_there_cost_a_copy():
    cells = [planned(key="s"), planned(key="t")]
    known = model([stored(10, 2, bytes=500)])
    assert known.predict_group(cells, {"s": "x"}).seconds == pytest.approx(12 + 2 * STORING_SECONDS)
    copies = known.predict_group(cells, {"s": "x", "t": "x"})
    assert (copies.seconds, copies.bytes) == (pytest.approx(2 * STORING_SECONDS), 1000)


def test_only_what_has_no_earlier_run_is_measured_and_once_for_a_method_on_a_dataset():
    measured = []

    def measure(cell):
        measured.append(cell.fit_key)
        return 8.0

    groups = [
        [planned(fit="equal")],
        [planned({"epochs": 20}, fit="similar")],
        [planned({"epochs": 4}, method="sgr", fit="new")],
        [planned({"epochs": 8}, method="sgr", fit="longer")],
        [planned({"dim": 2}, method="cca", fit="closed form")],
    ]
    costs = group_costs(groups, {}, model([stored(10)]), measure)
    assert measured == ["new"]
    assert [costs[key].source for key in costs] == ["equal", "similar", "measured", "measured", "others"]
    assert costs["longer"].seconds - costs["new"].seconds == pytest.approx(8.0)


def test_measuring_ends_when_it_has_taken_its_time(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("xmbench.cost.time", SimpleNamespace(monotonic=lambda: clock.now))

    def measure(cell):
        clock.now += 0.6 * MEASURING_SECONDS
        return 5.0

    groups = [[planned(method=name, fit=name)] for name in ("sgr", "saf", "ncr")]
    assert list(group_costs(groups, {}, model([]), measure)) == ["sgr", "saf"]


# what is told


def cost(seconds, *, rss=math.nan, n=math.nan, source="equal", factor=2.0):
    return Cost(seconds=seconds, low=seconds / factor, high=seconds * factor, peak_rss=rss, bytes=n, source=source)


GROUPS = [
    [planned(fit="a", key="a"), planned(fit="a", key="b")],
    [planned(fit="c", key="c")],
    [planned(method="ce", fit="d", key="d")],
    [planned(method="ce", fit="e", key="e")],
]
COSTS = {"a": cost(600, rss=2e9, n=1e6), "c": cost(1200, rss=1e9, n=3e6, source="similar"), "d": cost(3600, rss=5e8)}


def test_the_table_adds_up_each_method_on_each_dataset():
    table = cost_table(GROUPS, {"c": "x"}, COSTS)
    assert table.fillna(0).to_dict("records") == [
        {"method": "mrl", "dataset": "small", "runs": 3, "fits": 1, "seconds": 1800, "peak_rss": 2e9, "bytes": 4e6,
         "predicted from": "equal runs (1), the method's other settings there (1)"},
        {"method": "ce", "dataset": "small", "runs": 2, "fits": 2, "seconds": 3600, "peak_rss": 5e8, "bytes": 0,
         "predicted from": "equal runs (1), unknown (1)"},
    ]  # fmt: skip
    words = in_words(table)
    assert words.loc[0, ["time", "peak memory", "disk"]].to_list() == ["30 min", "2.0 GB", "4 MB"]


def test_the_total_is_a_schedule_with_the_largest_memory_at_a_time():
    line = total_cost(GROUPS, COSTS, 2)
    assert line.startswith("about 70 min with 2 at a time ("), "600 s and 3600 s in one slot, 1200 s in the other"
    assert "memory at most 3.0 GB, disk 4 MB" in line
    assert line.endswith("predicted from equal runs (2), the method's other settings there (1), unknown (1)")


def test_errors_add_up_within_a_method_and_in_squares_between_methods():
    groups = [[planned(fit="a")], [planned(fit="b")], [planned(method="ce", fit="c")]]
    costs = {"a": cost(1000), "b": cost(2000), "c": cost(4000)}
    low, high = 7000 - math.hypot(1500, 2000), 7000 + math.hypot(3000, 4000)
    assert f"({low / 60:.0f} min to {high // 3600:.0f} h {high % 3600 / 60:.0f} min)" in total_cost(groups, costs, 1)


def test_where_nothing_is_known_the_total_says_so():
    assert total_cost(GROUPS, {}, 2) == "nothing is known of the cost"
    assert total_cost([], {}, 2) == "nothing to do"
    assert json.loads(cost_table(GROUPS, {}, {}).to_json(orient="records"))[0]["seconds"] is None
