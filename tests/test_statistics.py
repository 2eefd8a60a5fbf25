"""Intervals, tests and effect sizes against SciPy, statsmodels, scikit-posthocs and autorank, and against loops."""

import sys
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from xmbench import statistics
from xmbench.statistics import (
    BOTH,
    BY_BOTH,
    BY_QUERY,
    BY_T,
    EXACT_ITEMS,
    MIN_SEEDS,
    MORE_FLIPS,
    N_FLIPS,
    QUERIES,
    ItemValues,
    compact_letters,
    effect,
    friedman,
    holm,
    item_numbers,
    item_values,
    linked_items,
    mean_interval,
    paired_tests,
    sign_flip_p,
)

RNG = np.random.default_rng(6)


def plain(values):
    """One direction, every query an item of its own."""
    values = np.atleast_2d(np.asarray(values, float))
    return item_values([values], [1.0], item_numbers([values.shape[1]]))


def p_of(values, n_differences=1):
    (tested,) = paired_tests([plain(values)], n_differences)
    return tested


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3, 3], [[0, 1, 2], [0, 1, 2]]),  # pair i
        ([2, 6], [[0, 1], [0, 0, 0, 1, 1, 1]]),  # image i with captions 3i to 3i + 2
        ([2, 3, 2], [[0, 1], [2, 3, 4], [0, 1]]),  # no pairs: each query by itself, over directions of one modality
        ([4], [[0, 1, 2, 3]]),
    ],
)
def test_queries_belong_to_items_by_their_place(sizes, expected):
    assert [numbers.tolist() for numbers in item_numbers(sizes)] == expected


def test_queries_belong_to_items_by_their_pairs():
    """Image 0 has captions 1, 2 and 4, image 1 has 0, image 2 has 3 and 5; caption 6 and image 3 have none."""
    images, captions = linked_items([4, 7], np.array([[0, 1], [1, 0], [0, 4], [2, 3], [0, 2], [2, 5]]))
    of = [{(0, i) for i in np.flatnonzero(images == item)} | {(1, i) for i in np.flatnonzero(captions == item)}
          for item in range(5)]  # fmt: skip
    assert sorted(map(sorted, of)) == [
        [(0, 0), (1, 1), (1, 2), (1, 4)], [(0, 1), (1, 0)], [(0, 2), (1, 3), (1, 5)], [(0, 3)], [(1, 6)],
    ]  # fmt: skip


def test_items_of_three_modalities_are_joined_through_any_of_them():
    """Audio 0 is paired with images 0 and 1, so that these are one draw; text goes with its image."""
    linked = linked_items([2, 2, 1], np.array([[0, 1, 0], [1, 0, 0]]))
    assert [part.tolist() for part in linked] == [[0, 0], [0, 0], [0]]


def test_mean_of_items_is_the_metric_with_several_queries_an_item_and_queries_without_a_value():
    images = np.array([[0.2, 0.4, np.nan], [0.6, 0.0, np.nan]])
    captions = np.array([[1.0, 0.0, 0.5, np.nan, 0.25, 0.75], [0.5, 0.5, 0.5, np.nan, 0.0, 1.0]])
    made = item_values([images, captions], [0.5, 0.5], item_numbers([3, 6]))
    of_seeds = [(0.3 + 2.5 / 5) / 2, (0.3 + 2.5 / 5) / 2]  # means of the two images, and of the five captions
    np.testing.assert_allclose(made.values.mean(axis=1), of_seeds)
    np.testing.assert_allclose(made.shares.mean(axis=1), of_seeds)
    assert made.n_queries == 7 and made.values.shape == (2, 3)


def test_a_query_without_a_value_in_one_training_is_left_out_of_all():
    made = plain([[0.5, np.nan, 0.1], [0.7, 0.9, 0.3]])
    np.testing.assert_allclose(made.values, [[0.5, 0.1], [0.7, 0.3]])
    with pytest.raises(ValueError, match="every direction must have a query with a value"):
        plain([[np.nan, np.nan]])


@pytest.mark.parametrize("n_seeds", [1, 4])
def test_interval_below_five_seeds_is_the_t_interval_of_the_mean_over_seeds(n_seeds):
    values = RNG.beta(0.5, 1.2, (n_seeds, 40))
    expected = stats.ttest_1samp(values.mean(axis=0), 0).confidence_interval(0.95)
    interval = mean_interval(values)
    np.testing.assert_allclose([interval.low, interval.high], expected)
    assert interval.over == QUERIES


def test_interval_from_five_seeds_follows_the_mean_squares_of_the_two_way_layout():
    n_seeds, n_items = 6, 30
    y = RNG.normal(0, 0.3, (n_seeds, 1)) + RNG.normal(0, 1, n_items) + RNG.normal(0, 0.5, (n_seeds, n_items))
    grand = y.mean()
    seeds = sum(n_items * (y[s].mean() - grand) ** 2 for s in range(n_seeds)) / (n_seeds - 1)
    items = sum(n_seeds * (y[:, i].mean() - grand) ** 2 for i in range(n_items)) / (n_items - 1)
    rest = sum(
        (y[s, i] - y[s].mean() - y[:, i].mean() + grand) ** 2 for s in range(n_seeds) for i in range(n_items)
    ) / ((n_seeds - 1) * (n_items - 1))  # fmt: skip
    variance = (seeds + items - rest) / (n_seeds * n_items)
    degrees = (seeds + items - rest) ** 2 / (
        seeds**2 / (n_seeds - 1) + items**2 / (n_items - 1) + rest**2 / ((n_seeds - 1) * (n_items - 1))
    )
    interval = mean_interval(y)
    assert interval.over == BOTH and interval.degrees == pytest.approx(degrees)
    assert interval.high - interval.mean == pytest.approx(stats.t.ppf(0.975, degrees) * np.sqrt(variance))


def test_interval_of_equal_trainings_is_that_over_queries():
    values = np.tile(RNG.beta(0.5, 1.2, 50), (MIN_SEEDS, 1))
    np.testing.assert_allclose(mean_interval(values).standard_error, stats.sem(values[0]))


def test_captions_of_an_image_count_as_one_draw():
    by_image = RNG.random((1, 40))
    one = mean_interval(plain(by_image).values)
    five = mean_interval(item_values([np.repeat(by_image, 5, axis=1)], [1.0], item_numbers([40, 200])[1:]).values)
    assert (five.low, five.high) == pytest.approx((one.low, one.high))


def test_directions_without_common_items_have_added_variances():
    first, second = RNG.random((1, 30)), RNG.random((1, 41))
    made = item_values([first, second], [0.5, 0.5], item_numbers([30, 41]))
    expected = 0.5 * np.sqrt(first.var() / 30 + second.var() / 41)
    assert mean_interval(made.values).standard_error == pytest.approx(expected, rel=0.02)  # n and n - 1 in denominators


def test_exact_sign_flips_agree_with_scipy():
    first, second = RNG.random((2, 10))
    expected = stats.permutation_test(
        (first, second), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert p_of(first - second).p == pytest.approx(expected.pvalue)


def test_random_sign_flips_come_close_to_all_of_them():
    differences = RNG.normal(0.4, 1, EXACT_ITEMS + 3)
    signs = 2 * ((np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences))) & 1) - 1
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    tested = p_of(differences)
    assert tested.by == BY_QUERY
    assert abs(tested.p - exact) < 4 * np.sqrt(exact * (1 - exact) / N_FLIPS)


def test_the_data_count_as_one_of_the_random_flips():
    """All 20 differ alike: of all flips two in 2 ** 20 bring that back, and none of the random ones."""
    assert p_of(np.ones(20)).p == 1 / (N_FLIPS + 1)
    assert p_of(np.ones(20), n_differences=2000).p == 1 / (MORE_FLIPS + 1), "level / 2000 needs more than N_FLIPS"


def test_p_values_that_no_flips_can_count_are_bounded_from_above():
    """By 2 exp(-n / 2), of n equal differences, while their exact p-value is 2 ** (1 - n)."""
    assert p_of(np.ones(60)).p == pytest.approx(2 * np.exp(-30))


def test_binary_differences_are_tied_with_flips_that_change_nothing():
    """Of 6 queries two differ, both in favour of the first: all 4 flips of them, two of which bring the difference back."""
    assert p_of([1, 1, 0, 0, 0, 0]).p == 0.5


def test_t_test_of_both_is_that_of_the_interval():
    differences = RNG.normal(0.1, 1, (5, 60))
    interval = mean_interval(differences)
    tested = p_of(differences)
    assert tested.by == BY_T
    assert tested.p == pytest.approx(2 * stats.t.sf(abs(interval.mean) / interval.standard_error, interval.degrees))


def test_sign_flips_of_many_comparisons_raise_no_false_alarms():
    """Of 3,000 comparisons without a difference the share below each level is at most that level, and Holm leaves none."""
    p = sign_flip_p(*_nothing(3000, 40), 0.05 / 3000)
    for level in (0.3, 0.05, 0.01, 0.001):
        assert (p <= level).mean() <= level + 3.5 * np.sqrt(level / len(p))
    assert holm(p).min() > 0.05


def _nothing(n_tests, n):
    parts = np.random.default_rng(1).standard_t(3, (n_tests, n))
    return parts, np.abs(parts.sum(axis=1))


@pytest.mark.parametrize(
    ("n_seeds", "n_differences", "by"),
    [(4, 1, BY_QUERY), (5, 1, BY_T), (6, 1, BY_BOTH), (6, 2, BY_T), (10, 25, BY_BOTH), (10, 26, BY_T), (20, 2000, BY_BOTH)],
)
def test_seeds_are_flipped_where_they_are_enough_for_the_strictest_level_of_holm(n_seeds, n_differences, by):
    """The smallest p-value of n flipped seeds is 2 / 2 ** n: .0625 of five, .03125 of six, .00195 of ten."""
    assert p_of(RNG.normal(size=(n_seeds, 20)), n_differences).by == by


def test_flips_over_both_tell_a_difference_in_all_seeds_from_one_in_a_single_seed():
    """Query by query there is no doubt in either case; seed by seed there is in the second."""
    noise = RNG.normal(0, 0.1, (8, 100))
    everywhere, once = np.full((8, 1), 0.5), np.array([[4.0]] + [[0.0]] * 7)
    assert p_of(everywhere + noise).p < 0.001 < 0.3 < p_of(once + noise).p


def test_methods_that_are_the_same_have_no_difference():
    nothing = plain(np.zeros((7, 30)))
    (tested,) = paired_tests([nothing], 1)
    assert tested.p == 1
    assert (mean_interval(nothing.values).low, mean_interval(nothing.values).high) == (0, 0)
    assert effect(nothing) == statistics.Effect(0.0, 0.5)


def test_a_constant_difference_has_an_interval_without_width_and_an_infinite_effect():
    constant = plain(np.full((7, 30), 0.25))
    assert (mean_interval(constant.values).low, mean_interval(constant.values).high) == (0.25, 0.25)
    assert effect(constant) == statistics.Effect(np.inf, 1.0)
    assert paired_tests([constant], 100)[0].p == 0  # the t test's, since seven seeds are too few to be flipped


@pytest.mark.parametrize("n_seeds", [1, 5])
def test_one_query_tells_nothing(n_seeds):
    one = plain(np.full((n_seeds, 1), 0.5))
    assert np.isnan(mean_interval(one.values).low)
    assert paired_tests([one], 1)[0].p == 1


def test_holm_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.concatenate([RNG.random(20) ** 3, [0.01, 0.01, 1.0]])
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert len(holm([])) == 0


def test_effect_sizes_by_hand():
    """Differences 2, 0, 1, 1: mean 1, deviation sqrt(2 / 3); better on three of four, one tie."""
    difference = plain([[2.0, 0.0, 1.0, 1.0]])
    assert effect(difference).standardised == pytest.approx(1 / np.sqrt(2 / 3))
    assert effect(difference).superiority == 0.875
    assert effect(difference, higher_is_better=False).superiority == 0.125


def test_letters_by_hand():
    """1 and 2 differ from 4, 1 from 3: a holds 1, 2; b 2, 3; c 3, 4."""
    separable = np.zeros((4, 4), bool)
    for i, j in ((0, 3), (1, 3), (0, 2)):
        separable[i, j] = separable[j, i] = True
    assert compact_letters(separable) == ["a", "ab", "bc", "c"]
    assert compact_letters(np.zeros((1, 1), bool)) == ["a"]


def test_methods_share_a_letter_exactly_where_they_are_not_separable():
    for _ in range(30):
        separable = np.triu(RNG.random((8, 8)) < 0.5, 1)
        separable |= separable.T
        letters = compact_letters(separable)
        assert all(bool(set(letters[i]) & set(letters[j])) != separable[i, j] for i, j in combinations(range(8), 2))


def test_letters_go_on_after_z():
    separable = ~np.eye(54, dtype=bool)
    assert compact_letters(separable)[25:28] == ["z", "A", "B"]
    assert compact_letters(separable)[52:] == ["(53)", "(54)"]


SCORES = np.round(RNG.random((12, 5)) + np.array([0.0, 0.1, 0.5, 0.45, 0.9]), 1)  # with ties


def test_friedman_by_hand_with_ties():
    """Ranks 1 2 3, 1 2 3, 1.5 1.5 3, 2 1 3: sums 5.5, 6.5, 12. Without ties 12 / 48 x 216.5 - 48 = 6.125; the one tie of two
    divides that by 1 - (8 - 2) / (4 x (27 - 3)) = .9375. The upper tail of chi-squared with 2 degrees is exp(-x / 2)."""
    ranked = friedman(np.array([[0.9, 0.5, 0.1], [0.8, 0.6, 0.2], [0.7, 0.7, 0.3], [0.4, 0.6, 0.1]]))
    statistic = 6.125 / 0.9375
    assert (ranked.statistic, ranked.p) == pytest.approx((statistic, np.exp(-statistic / 2)))
    assert ranked.ranks.tolist() == [5.5 / 4, 6.5 / 4, 3]


def test_nemenyi_agrees_with_scikit_posthocs():
    import scikit_posthocs

    ranked = friedman(SCORES)
    np.testing.assert_allclose(ranked.ranks, pd.DataFrame(SCORES).rank(axis=1, ascending=False).mean())
    apart = np.abs(ranked.ranks[:, None] - ranked.ranks) >= ranked.critical_difference
    assert apart.any() and not apart.all()
    np.testing.assert_array_equal(scikit_posthocs.posthoc_nemenyi_friedman(SCORES).to_numpy() <= 0.05, apart)


def test_critical_difference_agrees_with_autorank():
    from autorank import autorank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = autorank(pd.DataFrame(SCORES), alpha=0.05, force_mode="nonparametric", order="ascending")
    assert friedman(SCORES).critical_difference == pytest.approx(expected.cd, rel=1e-4)  # it has rounded quantiles


def test_friedman_without_any_difference_and_without_a_score():
    assert friedman(np.ones((4, 3))).p == 1
    with pytest.raises(ValueError, match="every block must have a score of every method, 1 are missing"):
        friedman(np.where(np.arange(12).reshape(4, 3) == 5, np.nan, 1.0))
    with pytest.raises(ValueError, match="needs 2 blocks and 3 methods at least, got 9 and 2"):
        friedman(np.ones((9, 2)))


@pytest.fixture(scope="module")
def bench():
    """The script that simulates coverage."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import bench_coverage
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return bench_coverage


REPLICATIONS = 300
MARGIN = 3.5 * np.sqrt(0.95 * 0.05 / REPLICATIONS)  # standard errors


@pytest.mark.parametrize("n_seeds", [1, 3, 5, 10, 20])
def test_intervals_cover_what_they_claim(bench, n_seeds):
    two = next(scenario for scenario in bench.SCENARIOS if scenario.between is not None)
    for scenario in (bench.AP, two):
        small = bench.replace(scenario, n_items=100)
        assert abs(bench.coverage(small, n_seeds, REPLICATIONS)[0] - 0.95) < MARGIN, scenario.name


def test_an_interval_over_queries_leaves_the_training_out(bench):
    """It says so, and it must: of all trainings it has the mean far less often than of its own."""
    (much,) = (scenario for scenario in bench.SCENARIOS if "much" in scenario.name)
    _, of_all, _ = bench.coverage(much, 3, REPLICATIONS)
    assert of_all < 0.85


def test_captions_that_belong_together_must_not_count_one_by_one(bench):
    captions = bench.replace(bench.R1, n_items=100)
    clustered, _, apart = bench.coverage(captions, 1, REPLICATIONS)
    assert abs(clustered - 0.95) < MARGIN and apart < 0.95 - MARGIN


@pytest.mark.parametrize("n_seeds", [3, 5, 8])
def test_false_alarms_stay_below_their_level(bench, n_seeds):
    (two,) = (scenario for scenario in bench.SCENARIOS if scenario.name.startswith("AP of both, two"))
    _, share = bench.false_alarms(bench.replace(two, n_items=100), n_seeds, REPLICATIONS)
    assert share < 0.05 + MARGIN


def test_parts_of_several_lengths_keep_their_places():
    """Two tests of other lengths between each other get the p-values that they have alone."""
    made = [plain(RNG.normal(0.3, 1, n)) for n in (8, 30, 8, 30)]
    together = [tested.p for tested in paired_tests(made, 4)]
    assert together == [paired_tests([one], 4)[0].p for one in made]
    assert sign_flip_p(np.array([[1.0, 1.0]]), np.array([2.0])).tolist() == [0.5]


def test_differences_are_of_one_training_each():
    first, second = plain([[0.5, 0.1], [0.9, 0.3]]), plain([[0.1, 0.1], [0.2, 0.2]])
    difference = first.take([1, 0]).minus(second)
    assert isinstance(difference, ItemValues)
    np.testing.assert_allclose(difference.values, [[0.8, 0.2], [0.3, -0.1]])
