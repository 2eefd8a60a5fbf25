"""Robustness in one number against sums done by hand: areas, slopes, breakdown rates, gaps, and what is missing."""

import numpy as np
import pandas as pd
import pytest

from xmbench.report.files import Context
from xmbench.report.groups import Reader, group_rows
from xmbench.report.robustness import area, breakdown_rate, robustness, robustness_figures, slope
from xmbench.report.style import Palette

RATES = (0.0, 0.2, 0.4, 0.8)


def rows_of(method, curve, seed=0, *, gap=0.0, blind=False, **facts):
    """The rows of a method's runs at RATES, None for a run that failed; its last epoch lies `gap` times the rate below."""
    rows = []
    for rate, value in zip(RATES, curve, strict=True):
        base = {
            "run_id": f"{method}-{rate:g}-{seed}",
            "fit_key": f"{method}-{seed}" if blind else f"{method}-{seed}-{rate:g}",
            "status": "failed" if value is None else "ok",
            "error": None,
            "dataset": "wikipedia",
            "dataset_params": "{}",
            "features": "image 128, text 10",
            "noise_scheme": "symmetric",
            "noise_rate": rate,
            "noise_seed": seed,
            "realised_rate": rate,
            "noise_sha": f"{rate:g}-{seed}",
            "noise_options": "{}",
            "method": method,
            "implementation": method,
            "method_version": "1",
            "params": "{}",
            "seed": seed,
            "protocol": "default",
            "protocol_sha": "0123456789abcdef",
            "valid_labels": "clean",
            "tuning": "none",
            "profile": "",
            "oracle": False,
            "from_description": False,
            "n_networks": 1,
            "trial": None,
            "split": "test",
            "network": "mean",
            "direction": "mean",
            "metric": "map",
            "chance": 0.1,
        } | facts
        values = {} if value is None else {"best_valid": value, "last": value - gap * rate}
        rows += [base | {"selection": selection, "value": value} for selection, value in values.items()]
        rows += [] if values else [base | {"split": None, "selection": None, "metric": None, "value": np.nan}]
    return rows


def only_group(*parts):
    (group,) = group_rows(pd.DataFrame([row for part in parts for row in part]))
    return group


def figures_of(*parts):
    return robustness_figures(only_group(*parts)).set_index("method")


def test_the_area_weights_rates_by_their_distance():
    # .2 (.5 + .3) / 2 + .2 (.3 + .2) / 2 + .4 (.2 + .1) / 2 = .08 + .05 + .06, over .8
    assert area(RATES, np.array([0.5, 0.3, 0.2, 0.1])) == pytest.approx(0.19 / 0.8)
    assert area((0.2, 0.8), np.array([0.4, 0.4])) == pytest.approx(0.4), "a constant is its own mean, whatever the range"


def test_the_slope_is_that_of_the_line_with_the_least_squares():
    rates, values = np.array(RATES), np.array([0.5, 0.3, 0.35, 0.1])
    centred = rates - rates.mean()
    assert slope(RATES, values) == pytest.approx((centred * values).sum() / (centred**2).sum() / 10)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5, 0.4, 0.2, 0.1], 0.3),  # half-way between .2 and .4
        ([0.5, 0.3, 0.3, 0.1], 0.4),  # equal is not below: it crosses where it leaves
        ([0.2, 0.5, 0.5, 0.5], 0.0),  # from the start
        ([0.5, 0.2, 0.5, 0.2], 0.2 * 0.2 / 0.3),  # the first of two crossings
        ([0.5, 0.4, 0.4, 0.3], np.nan),  # never
    ],
)
def test_breakdown_is_where_the_line_between_two_rates_crosses_the_baseline(curve, expected):
    assert breakdown_rate(RATES, np.array(curve), np.full(4, 0.3)) == pytest.approx(expected, nan_ok=True)


def test_figures_are_computed_per_seed_and_averaged():
    figures = figures_of(
        rows_of("ce", [0.5, 0.4, 0.2, 0.1], 0, gap=0.1),
        rows_of("ce", [0.5, 0.5, 0.4, 0.2], 1, gap=0.2),
        rows_of("pls", [0.3] * 4, 0, blind=True),
        rows_of("pls", [0.3] * 4, 1, blind=True),
    )
    ce = figures.loc["ce"]
    areas = np.array([0.09 + 0.06 + 0.06, 0.1 + 0.09 + 0.12]) / 0.8
    assert (ce["area"], ce["area_std"]) == pytest.approx((areas.mean(), abs(areas[0] - areas[1]) / np.sqrt(2)))
    assert (ce["breakdown"], ce["breakdown_std"]) == pytest.approx(((0.3 + 0.6) / 2, 0.3 / np.sqrt(2)))
    assert ce["gap"] == pytest.approx(0.15 * np.mean(RATES)) and ce["gap_at_highest"] == pytest.approx(0.15 * 0.8)
    assert list(figures["n"]) == [2, 2] and list(figures["rank"]) == [1, 2]


def test_the_baseline_is_the_best_of_those_that_are_fitted_alike_at_every_rate():
    figures = figures_of(
        rows_of("cca", [0.25] * 4, blind=True),
        rows_of("pls", [0.3] * 4, blind=True),
        rows_of("gma", [0.31] * 4),  # as constant, but by other fits
        rows_of("ce", [0.5, 0.4, 0.28, 0.1]),
    )
    assert set(figures["baseline"]) == {"pls"}
    assert list(figures.index[~figures["reads_noise"]]) == ["cca", "pls"]
    assert figures.loc["ce", "breakdown"] == pytest.approx(0.2 + 0.2 * 0.1 / 0.12)
    assert figures.loc[["cca", "pls", "gma"], "breakdown"].isna().all()


def test_without_a_baseline_there_is_no_breakdown_rate_and_the_table_says_so(tmp_path):
    group = only_group(rows_of("ce", [0.5, 0.4, 0.3, 0.1]))
    assert robustness_figures(group)["breakdown"].isna().all()
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    (text,) = [file.path.read_text("utf-8") for file in written if file.path.suffix == ".md"]
    assert "No breakdown rates" in text and "| `ce` | **0.300** | -0.050 | – |" in text


def test_random_scores_are_no_baseline(tmp_path):
    """Nothing worth the name falls below them: every breakdown rate would read as none."""
    chance = rows_of("random", [0.05] * 4, blind=True)
    group = only_group(rows_of("ce", [0.5, 0.4, 0.3, 0.1]), chance)
    figures = robustness_figures(group)
    assert set(figures["baseline"]) == {""} and figures["breakdown"].isna().all()
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    (text,) = [file.path.read_text("utf-8") for file in written if file.path.suffix == ".md"]
    assert "> 0.8" not in text
    assert "No breakdown rates: of the methods that read nothing of what is corrupted (random) none is a baseline." in text
    figures = robustness_figures(only_group(rows_of("ce", [0.5, 0.4, 0.3, 0.1]), chance, rows_of("pls", [0.3] * 4, blind=True)))
    assert set(figures["baseline"]) == {"pls"}


def test_what_is_to_be_known_of_methods_stands_below_as_in_other_tables(tmp_path):
    group = only_group(
        rows_of("ce", [0.5, 0.4, 0.3, 0.1], n_networks=2, noise_sha="other"),
        rows_of("ncr", [0.6] * 4, from_description=True),
        rows_of("pls", [0.3] * 4, blind=True),
    )
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    (text,) = [file.path.read_text("utf-8") for file in written if file.path.suffix == ".md"]
    assert "| `ce` | <u>0.300</u>§ |" in text and "§: under other draws of the noise than most methods: ce at" in text
    assert "The similarities of 2 networks are averaged: ce." in text
    assert "Re-implementation from a description, neither code nor the paper's text could be had: ncr." in text


def test_only_the_rates_that_all_methods_have_count_and_the_others_are_named(tmp_path):
    group = only_group(
        rows_of("ce", [0.5, 0.4, 0.3, None]),
        rows_of("mrl", [0.6, 0.6, 0.6, 0.0]),
        rows_of("gce", [0.1, None, None, None]),  # one rate alone decides nothing
    )
    figures = robustness_figures(group).set_index("method")
    assert set(figures["rates"]) == {"0 0.2 0.4"}
    assert list(figures.loc[["ce", "mrl"], "area"]) == pytest.approx([0.4, 0.6])
    assert figures.loc["gce", "n"] == 0 and np.isnan(figures.loc["gce", "area"])
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    texts = {file.path.suffix: file.path.read_text("utf-8") for file in written}
    assert "Left out, since not every method has a result there: 0.8." in texts[".md"]
    assert "| `gce` | – | – | – | – | – |" in texts[".md"]
    assert "–: no seed has a result at all these rates: gce." in texts[".md"]


def test_seeds_without_all_rates_are_left_out_and_one_seed_has_no_deviation():
    figures = figures_of(
        rows_of("ce", [0.5, 0.4, 0.3, 0.2], 0),
        rows_of("ce", [0.9, 0.9, None, 0.9], 1),
        rows_of("pls", [0.1] * 4, blind=True),
    )
    assert figures.loc["ce", "n"] == 1
    assert figures.loc["ce", "area"] == pytest.approx((0.09 + 0.07 + 0.1) / 0.8)
    assert np.isnan(figures.loc["ce", "area_std"])


def test_a_seed_that_never_breaks_down_makes_the_mean_a_bound(tmp_path):
    group = only_group(
        rows_of("ce", [0.5, 0.4, 0.2, 0.1], 0),
        rows_of("ce", [0.5, 0.5, 0.5, 0.5], 1),
        rows_of("mrl", [0.6] * 4, 0),
        rows_of("dscmr", [0.2] * 4, 0),
        rows_of("pls", [0.3] * 4, 0, blind=True),
    )
    figures = robustness_figures(group).set_index("method")
    assert figures.loc["ce", "breakdown"] == pytest.approx((0.3 + 0.8) / 2) and figures.loc["ce", "breakdown_of"] == 1
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    texts = {file.path.suffix: file.path.read_text("utf-8") for file in written}
    assert "| ≥ 0.55 (1/2) |" in texts[".md"], "one seed falls below at .3, the other counts with .8"
    assert "| > 0.8 |" in texts[".md"] and "| 0.00 |" in texts[".md"]
    assert r"$\geq$ 0.55" in texts[".tex"] and r"\textgreater{} 0.8" in texts[".tex"]


def test_stale_and_collapsed_runs_are_marked_and_oracles_and_chance_not_ranked(tmp_path):
    group = only_group(
        rows_of("ce", [0.5, 0.4, 0.3, 0.1], stale=True),
        rows_of("saf", [0.7] * 4, collapsed=True),
        rows_of("clean", [0.9] * 4, oracle=True, blind=True),
    )
    figures = robustness_figures(group).set_index("method")
    assert figures.loc["ce", "rank"] == 1 and figures.loc[["saf", "clean"], "rank"].isna().all()
    assert set(figures["baseline"]) == {""}, "an oracle is no baseline"
    written = robustness(group, Context(Reader(None), Palette(group.labels), tmp_path))
    (text,) = [file.path.read_text("utf-8") for file in written if file.path.suffix == ".md"]
    assert "| `ce` | **0.300**† |" in text and "| `saf` | 0.700‡ |" in text and "| `clean` (oracle) | 0.900 |" in text
    assert "†: stale, the source of the method changed after these runs: ce." in text


def test_one_rate_makes_no_file(tmp_path):
    group = only_group(rows_of("ce", [0.5, None, None, None]))
    assert robustness(group, Context(Reader(None), Palette(group.labels), tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
