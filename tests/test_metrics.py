"""Metrics against hand-computed values, every order of ties written out, and independent plain loops."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from xmbench import metrics, ties
from xmbench.metrics import METRICS, PRCurve, evaluate_block

CASE = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]]), np.array([[True, False, True, True, False]])  # AP (1 + 2/3 + 3/4) / 3


# ---- plain definitions on one ranked list -----------------------------------------------------------------


def plain_precision_at_hits(ranked, k):
    return [sum(ranked[: i + 1]) / (i + 1) for i in range(min(k, len(ranked))) if ranked[i]]


def plain_ap(ranked):
    return sum(plain_precision_at_hits(ranked, len(ranked))) / sum(ranked)


def plain_ap_hits(ranked, k):
    precision = plain_precision_at_hits(ranked, k)
    return sum(precision) / len(precision) if precision else 0.0


def plain_ap_min(ranked, k):
    return sum(plain_precision_at_hits(ranked, k)) / min(k, sum(ranked))


def plain_recall(ranked, k):
    return float(any(ranked[:k]))


def plain_first_rank(ranked):
    return list(ranked).index(True) + 1


def plain_r_precision(ranked):
    return sum(ranked[: sum(ranked)]) / sum(ranked)


def plain_ap_at_r(ranked):
    return sum(plain_precision_at_hits(ranked, sum(ranked))) / sum(ranked)


def plain_ndcg(gains, k):
    dcg = sum(gain / np.log2(i + 2) for i, gain in enumerate(gains[:k]))
    return dcg / sum(gain / np.log2(i + 2) for i, gain in enumerate(sorted(gains, reverse=True)[:k]))


PLAIN = {
    "ap": (plain_ap, metrics.average_precision),
    **{
        f"ap_hits@{k}": (
            lambda ranked, k=k: plain_ap_hits(ranked, k),
            lambda s, r, k=k: metrics.average_precision_at(s, r, k),
        )
        for k in (1, 2, 3, 4, 5, 9)
    },
    **{
        f"ap_min@{k}": (
            lambda ranked, k=k: plain_ap_min(ranked, k),
            lambda s, r, k=k: metrics.average_precision_at(s, r, k, "min"),
        )
        for k in (1, 3, 4, 9)
    },
    **{
        f"recall@{k}": (lambda ranked, k=k: plain_recall(ranked, k), lambda s, r, k=k: metrics.recall_at(s, r, k))
        for k in (1, 2, 4, 9)
    },
    "first_rank": (plain_first_rank, metrics.first_rank),
    "r_precision": (plain_r_precision, metrics.r_precision),
    "ap_at_r": (plain_ap_at_r, metrics.average_precision_at_r),
    "ndcg": (lambda ranked: plain_ndcg(ranked, None), metrics.ndcg),
    "ndcg@2": (lambda ranked: plain_ndcg(ranked, 2), lambda s, r: metrics.ndcg(s, r, 2)),
}


def ranked_lists(scores, values):
    """`values` in each order of the gallery that sorts the scores: all orders of ties, equally often."""
    for order in itertools.permutations(range(len(scores))):
        yield [values[i] for i in sorted(order, key=lambda i: -scores[i])]


def tied_cases():
    """Six items with one, two or three distinct scores, zeros of both signs among them, and 1 to 6 relevant items."""
    rng = np.random.default_rng(5)
    for levels in (1, 2, 2, 2, 3, 3, 3, 6):
        scores = rng.choice([0.0, -1.5, 2.0, 1.0, -3.0, 0.5][:levels], 6)
        scores[(scores == 0) & (rng.random(6) < 0.5)] *= -1.0
        relevance = np.zeros(6, bool)
        relevance[rng.permutation(6)[: rng.integers(1, 7)]] = True
        yield scores, relevance
    yield np.array([0.0, -0.0, 0.0, -0.0, 1.0, -1.0]), np.array([True, False, False, True, False, False])


# ---- hand-computed values ---------------------------------------------------------------------------------


def test_average_precision_by_hand():
    assert metrics.average_precision([[3.0, 2.0, 1.0]], [[True, False, True]])[0] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision(*CASE)[0] == pytest.approx(29 / 36)  # 0.80556
    assert metrics.average_precision_at(*CASE, 3)[0] == pytest.approx(5 / 6)  # 0.8333
    assert metrics.average_precision_at(*CASE, 3, "min")[0] == pytest.approx(5 / 9)  # 0.5556
    assert metrics.average_precision_at(*CASE, 2, "min")[0] == pytest.approx(1 / 2)
    assert metrics.average_precision_at([[3.0, 2.0, 1.0]], [[False, False, True]], 2)[0] == 0


def test_rank_metrics_by_hand():
    similarity, relevance = [[4.0, 3.0, 2.0, 1.0]], [[False, True, True, False]]
    assert metrics.first_rank(similarity, relevance)[0] == 2
    assert [metrics.recall_at(similarity, relevance, k)[0] for k in (1, 2, 3)] == [0, 1, 1]
    assert metrics.r_precision(similarity, relevance)[0] == 0.5
    wanted = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    assert metrics.ndcg(similarity, relevance)[0] == pytest.approx(wanted)
    graded = (3 / np.log2(3) + 1 / np.log2(4)) / (3 + 1 / np.log2(3))
    assert metrics.ndcg(similarity, [[0, 3, 1, 0]])[0] == pytest.approx(graded)


def test_single_relevant_item_at_rank_k_has_average_precision_one_over_k():
    similarity = np.tile(np.arange(20.0, 0, -1), (20, 1))
    np.testing.assert_allclose(metrics.average_precision(similarity, np.eye(20, dtype=bool)), 1 / np.arange(1, 21))


def test_pmrp_by_hand():
    query, gallery = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
    relevances = [metrics.plausible_relevance(query, gallery, zeta) for zeta in (0, 1, 2)]
    assert [r.tolist() for r in relevances] == [
        [[True, False, False, False]],
        [[True, True, False, False]],
        [[True, True, False, True]],
    ]
    similarity = [[4.0, 2.0, 3.0, 1.0]]  # the order 0, 2, 1, 3: R-precision 1, 1/2, 2/3
    assert metrics.pmrp(similarity, *relevances)[0] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    everything = metrics.plausible_relevance(query, gallery, 4)
    assert metrics.pmrp(similarity, everything)[0] == 1


def test_micro_f1_by_hand():
    scores = [[0.9, 0.6, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]  # predicted: {0, 1}, {}, {2}
    labels = np.array([[True, False, False], [False, True, False], [False, False, True]])  # TP 2, FP 1, FN 1
    assert metrics.micro_f1(scores, labels) == pytest.approx(2 / 3)
    assert np.isnan(metrics.micro_f1([[0.1]], [[False]]))


# ---- ties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_count_as_the_mean_over_all_orders(name, dtype):
    plain, ours = PLAIN[name]
    for scores, relevance in tied_cases():
        wanted = np.mean([plain(ranked) for ranked in ranked_lists(scores, relevance)])
        got = ours(scores[None].astype(dtype), relevance[None])[0]
        assert got == pytest.approx(wanted, abs=1e-13), (scores, relevance)


@pytest.mark.parametrize("k", [None, 1, 3])
def test_graded_gains_with_ties_count_as_the_mean_over_all_orders(k):
    for scores, _ in tied_cases():
        gains = [0.0, 2.0, 1.0, 0.0, 3.0, 1.0]
        wanted = np.mean([plain_ndcg(ranked, k) for ranked in ranked_lists(scores, gains)])
        assert metrics.ndcg(scores[None], [gains], k)[0] == pytest.approx(wanted, abs=1e-13)


def test_graded_ndcg_of_zeros_and_ones_equals_the_binary_one(rankings):
    similarity, relevance = rankings
    np.testing.assert_allclose(metrics.ndcg(similarity, relevance.astype(int)), metrics.ndcg(similarity, relevance), atol=1e-12)


def test_constant_similarity_scores_chance():
    relevance = np.arange(60) < np.array([[1], [7], [30], [60]])
    constant = np.full(relevance.shape, -0.25, np.float32)
    counts = relevance.sum(1)
    ap = metrics.average_precision(constant, relevance)
    np.testing.assert_allclose(ap, metrics.chance_ap(counts, 60), atol=1e-13)
    recall = metrics.recall_at(constant, relevance, 10)
    np.testing.assert_allclose(recall, metrics.chance_recall(counts, 60, 10), atol=1e-13)
    np.testing.assert_allclose(metrics.r_precision(constant, relevance), counts / 60)
    curve = metrics.pr_points(constant, relevance)
    np.testing.assert_allclose(curve, np.broadcast_to((counts / 60)[:, None, None], (4, 2, 11)))


def test_long_ties_agree_with_the_sum_over_positions():
    """Large groups far down the ranking, where differences of harmonic numbers cancel."""
    n = 20000
    scores = np.repeat([3.0, 2.0, 1.0, 0.0], [n - 5000, 2, 3998, 1000])
    relevance = np.zeros(n, bool)
    relevance[[10, n - 5000, n - 4999, n - 2000, n - 1500]] = True
    position, above = np.arange(1, n + 1), np.searchsorted(-scores, -scores)
    size = np.searchsorted(-scores, -scores, "right") - above
    hits = np.array([relevance[a : a + s].sum() for a, s in zip(above, size, strict=True)])
    before = np.array([relevance[:a].sum() for a in above])
    inside = (position - above - 1) * (hits - 1) / np.maximum(size - 1, 1)
    wanted = (hits / size * (before + 1 + inside) / position).sum() / 5
    assert metrics.average_precision(scores[None], relevance[None])[0] == pytest.approx(wanted, abs=1e-13)


def test_zeros_of_both_signs_are_equal():
    relevance = np.array([[True, False], [False, True]])
    for dtype in (np.float32, np.float64):
        ap = metrics.average_precision(np.array([[0.0, -0.0], [0.0, -0.0]], dtype), relevance)
        np.testing.assert_array_equal(ap, [0.75, 0.75])


# ---- independent implementations --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rankings():
    """Near ties (neighbouring float32 numbers), ties, both zeros, negative scores; 0 to many relevant items."""
    rng = np.random.default_rng(11)
    similarity = rng.standard_normal((40, 150)).astype(np.float32)
    similarity[:, ::3] = np.nextafter(similarity[:, 1::3], np.float32(9))
    similarity[10:20] = np.round(similarity[10:20], 1)  # also makes zeros of both signs
    similarity[20] = -0.5
    relevance = rng.random((40, 150)) < rng.choice([0.01, 0.1, 0.7], (40, 1))
    relevance[[3, 15]] = False
    assert (similarity == 0).any() and np.signbit(similarity[similarity == 0]).any()
    return similarity, relevance


def test_queries_without_relevant_items_are_nan_and_no_others(rankings):
    similarity, relevance = rankings
    names = ["map", "map@50", "map@50_min", "r@1", "r@10", "medr", "ndcg"]
    for name, values in evaluate_block(names, similarity, relevance).items():
        np.testing.assert_array_equal(np.isnan(values), ~relevance.any(1), err_msg=name)


def test_average_precision_equals_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    similarity = rng.standard_normal((25, 80)).astype(np.float32)
    relevance = rng.random((25, 80)) < 0.2
    wanted = [sklearn_metrics.average_precision_score(r, s) for s, r in zip(similarity, relevance, strict=True)]
    np.testing.assert_allclose(metrics.average_precision(similarity, relevance), wanted, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_untied_rankings_equal_the_plain_definition(name, rankings):
    similarity, relevance = rankings[0][:10].astype(np.float64), rankings[1][:10]
    plain, ours = PLAIN[name]
    assert all(len(np.unique(row)) == len(row) for row in similarity)
    known = relevance.any(1)
    wanted = [plain(list(r[np.argsort(-s)])) for s, r in zip(similarity[known], relevance[known], strict=True)]
    np.testing.assert_allclose(ours(similarity, relevance)[known], wanted, atol=1e-12)


def all_values(similarity, relevance):
    names = ["map", "map@50", "map@50_min", "map@r", "r@1", "r@5", "r@10", "medr", "meanr", "ndcg"]
    values = evaluate_block(names, similarity, relevance) | {"r_precision": metrics.r_precision(similarity, relevance)}
    points = metrics.pr_points(similarity, relevance).reshape(len(relevance), 22)
    return np.column_stack([*values.values(), points])


@pytest.mark.parametrize("count_up_to", [0, 10**9])
@pytest.mark.parametrize("sort_block", [1, 1 << 19])
def test_counting_and_sorting_equal_numpy_alone(count_up_to, sort_block, rankings, monkeypatch):
    monkeypatch.setattr(ties, "COUNT_UP_TO", count_up_to)
    monkeypatch.setattr(ties, "_SORT_BLOCK", sort_block)
    pytest.importorskip("numba")
    compiled = all_values(*rankings)
    monkeypatch.setattr(ties, "compiled", lambda: None)
    np.testing.assert_array_equal(compiled, all_values(*rankings))


def test_tie_groups_of_extreme_float32_values(monkeypatch):
    """The packed keys keep the order of every finite float32: subnormal, smallest, largest, both zeros."""
    pytest.importorskip("numba")
    info = np.finfo(np.float32)
    row = np.array([0, -0.0, info.smallest_subnormal, -info.smallest_subnormal, info.max, info.min, info.tiny, 1, -1])
    similarity = np.stack([np.random.default_rng(s).permutation(row) for s in range(9)]).astype(np.float32)
    relevance = np.random.default_rng(0).random((9, 9)) < 0.5
    monkeypatch.setattr(ties, "COUNT_UP_TO", 0)
    by_sort = all_values(similarity, relevance)
    np.testing.assert_array_equal(by_sort, all_values(similarity.astype(np.float64), relevance))
    monkeypatch.setattr(ties, "compiled", lambda: None)
    np.testing.assert_array_equal(by_sort, all_values(similarity, relevance))


def test_numba_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # makes `import numba` fail
    ties.compiled.cache_clear()
    assert ties.compiled() is None
    assert metrics.average_precision(*CASE)[0] == pytest.approx(29 / 36)
    ties.compiled.cache_clear()


# ---- invariances ------------------------------------------------------------------------------------------


def test_order_of_the_gallery_does_not_matter(rankings):
    similarity, relevance = rankings
    order = np.random.default_rng(3).permutation(similarity.shape[1])
    permuted = all_values(similarity[:, order], relevance[:, order])
    np.testing.assert_allclose(permuted, all_values(similarity, relevance), rtol=0, atol=1e-14)


def test_blocks_of_queries_give_the_values_of_the_whole(rankings):
    similarity, relevance = rankings
    blocks = [all_values(similarity[i : i + 7], relevance[i : i + 7]) for i in range(0, 40, 7)]
    np.testing.assert_array_equal(np.concatenate(blocks), all_values(similarity, relevance))


def test_transposed_and_wider_inputs_are_taken_as_they_are(rankings):
    similarity, relevance = rankings
    from_view = all_values(np.asfortranarray(similarity), np.asfortranarray(relevance))
    np.testing.assert_array_equal(from_view, all_values(similarity.astype(np.float64), relevance))
    wide, few = np.random.default_rng(7).random((2, 3, 700))  # more than one tile of the copy
    in_columns = metrics.average_precision(np.asfortranarray(wide), np.asfortranarray(few < 0.05))
    np.testing.assert_array_equal(in_columns, metrics.average_precision(wide, few < 0.05))


def test_depth_of_the_whole_gallery_equals_no_depth(rankings):
    similarity, relevance = rankings
    n = similarity.shape[1]
    ap = metrics.average_precision(similarity, relevance)
    for denominator in ("hits", "min"):
        at_end = metrics.average_precision_at(similarity, relevance, n, denominator)
        np.testing.assert_allclose(at_end, ap, atol=1e-14)
    np.testing.assert_array_equal(metrics.ndcg(similarity, relevance, n), metrics.ndcg(similarity, relevance))


# ---- chance -----------------------------------------------------------------------------------------------


def test_random_rankings_score_chance():
    rng = np.random.default_rng(8)
    n_queries, n_gallery, n_relevant = 20000, 30, 5
    similarity = rng.random((n_queries, n_gallery))
    relevance = np.tile(np.arange(n_gallery) < n_relevant, (n_queries, 1))
    for values, wanted in (
        (metrics.average_precision(similarity, relevance), metrics.chance_ap(n_relevant, n_gallery)),
        (metrics.recall_at(similarity, relevance, 3), metrics.chance_recall(n_relevant, n_gallery, 3)),
    ):
        assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(n_queries)


def test_chance_by_hand():
    assert metrics.chance_ap(1, 4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert metrics.chance_ap(4, 4) == 1 and metrics.chance_ap(1, 1) == 1
    np.testing.assert_allclose(metrics.chance_recall([1, 2, 100], 100, 10), [0.1, 1 - 90 * 89 / (100 * 99), 1])
    assert np.isnan(metrics.chance_ap(0, 9)) and np.isnan(metrics.chance_recall(0, 9, 3))


# ---- precision-recall curve -------------------------------------------------------------------------------


def plain_pr(counts):
    """Interpolated and raw points of a curve of (expected) relevant items at the depths 1, 2, ..."""
    n_relevant = round(counts[-1])
    interpolated, raw = [], []
    for level in range(11):
        wanted = max(1, (level * n_relevant + 9) // 10)
        depth = next(p for p, count in enumerate(counts, 1) if count > wanted - 1e-9)
        raw.append(counts[depth - 1] / depth)
        interpolated.append(max(counts[p - 1] / p for p in range(depth, len(counts) + 1)))
    return [interpolated, raw]


def test_pr_points_follow_the_expected_number_of_hits():
    for scores, relevance in tied_cases():
        counts = np.mean([np.cumsum(ranked) for ranked in ranked_lists(scores, relevance)], axis=0)
        points = metrics.pr_points(scores[None], relevance[None])[0]
        np.testing.assert_allclose(points, plain_pr(counts), atol=1e-12)


def test_pr_points_of_untied_rankings_equal_the_plain_loop(rankings):
    similarity, relevance = rankings[0][:10].astype(np.float64), rankings[1][:10]
    for points, s, r in zip(metrics.pr_points(similarity, relevance), similarity, relevance, strict=True):
        if r.any():
            np.testing.assert_allclose(points, plain_pr(np.cumsum(r[np.argsort(-s)])), atol=1e-12)


def test_pr_curve_falls_and_is_one_for_a_perfect_ranking(rankings):
    curve = metrics.pr_curve(*rankings)
    assert (np.diff(curve.precision_interpolated) <= 0).all()
    assert (curve.precision_interpolated >= curve.precision_raw).all()
    np.testing.assert_allclose(curve.recall, np.linspace(0, 1, 11))
    perfect = metrics.pr_curve(rankings[1].astype(float) + 0.1, rankings[1])
    np.testing.assert_array_equal(perfect.precision_interpolated, 1)
    np.testing.assert_array_equal(perfect.precision_raw, 1)


def test_pr_curve_is_the_mean_over_queries_with_relevant_items(rankings):
    similarity, relevance = rankings
    blocks = [metrics.pr_points(similarity[i : i + 16], relevance[i : i + 16]) for i in range(0, 40, 16)]
    curve, whole = PRCurve.from_points(np.concatenate(blocks)), metrics.pr_curve(similarity, relevance)
    np.testing.assert_array_equal(curve.precision_raw, whole.precision_raw)
    known = relevance.any(1)
    only_known = metrics.pr_curve(similarity[known], relevance[known])
    np.testing.assert_allclose(whole.precision_interpolated, only_known.precision_interpolated)
    assert np.isnan(metrics.pr_curve([[1.0]], [[False]]).precision_raw).all()


# ---- the table --------------------------------------------------------------------------------------------


def test_table_functions_equal_the_shared_pass(rankings):
    ranking = [name for name, m in METRICS.items() if m.relevance in ("labels", "pairs") and m.function and name != "pmrp"]
    noise = {"noise_precision", "noise_recall", "noise_f1", "noise_auroc"}
    assert set(METRICS) - set(ranking) == {"rsum", "micro_f1", "pmrp", *noise}
    shared = evaluate_block(ranking, *rankings)
    for name in ranking:
        np.testing.assert_array_equal(METRICS[name].function(*rankings), shared[name], err_msg=name)
    points = evaluate_block(["map", "pr_points"], *rankings)["pr_points"]
    np.testing.assert_array_equal(points, metrics.pr_points(*rankings))


def test_table_depths_and_denominators():
    similarity = np.tile(np.arange(100.0, 0, -1), (3, 1))
    relevance = np.zeros((3, 100), bool)
    relevance[0, [0, 60]] = relevance[1, [4, 49]] = relevance[2, 9] = True
    values = evaluate_block(["r@1", "r@5", "r@10", "map@50", "map@50_min"], similarity, relevance)
    assert [values[f"r@{k}"].tolist() for k in (1, 5, 10)] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_allclose(values["map@50"], [1, (1 / 5 + 2 / 50) / 2, 1 / 10])
    np.testing.assert_allclose(values["map@50_min"], [1 / 2, (1 / 5 + 2 / 50) / 2, 1 / 10])


def test_aggregates():
    ranks = np.array([1.0, 2.0, 5.0, 100.0])
    assert METRICS["medr"].aggregate(ranks) == 3  # 3.5 rounded down
    assert METRICS["medr"].aggregate(ranks[:3]) == 2
    assert METRICS["meanr"].aggregate(ranks) == 27
    assert METRICS["rsum"].aggregate([0.1, 0.2, 0.3, 0.4, 0.5, 1.0]) == pytest.approx(250)
    assert np.isnan(METRICS["map"].aggregate([]))


# ---- MAP from embeddings ----------------------------------------------------------------------------------


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(4)
    return rng.standard_normal((50, 8)), rng.standard_normal((70, 8)), rng.integers(0, 6, 50), rng.integers(0, 5, 70)


def cosine(a, b):
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


@pytest.mark.parametrize("block", [1, 16, 1024])
def test_mean_average_precision_equals_float64(block, embeddings):
    query, gallery, query_labels, gallery_labels = embeddings  # query class 5 has no gallery item
    wanted = np.nanmean(metrics.average_precision(cosine(query, gallery), query_labels[:, None] == gallery_labels))
    got = metrics.mean_average_precision(query, gallery, query_labels, gallery_labels, block=block)
    assert got == pytest.approx(wanted, abs=1e-6)
    one_hot = np.eye(6, dtype=bool)
    multi_hot = one_hot[query_labels], one_hot[gallery_labels]
    assert metrics.mean_average_precision(query, gallery, *multi_hot, block=block) == got


@pytest.mark.parametrize("all_labelled", [True, False])
def test_mean_average_precision_with_several_labels(all_labelled, embeddings):
    query, gallery, *_ = embeddings
    rng = np.random.default_rng(6)
    labels = rng.random((50, 4)) < 0.4, rng.random((70, 4)) < 0.4
    for of_items in labels:
        of_items[:, 3] |= all_labelled & ~of_items.any(1)
        assert of_items.any(1).all() == all_labelled
    shared = np.array([[bool((a & b).any()) for b in labels[1]] for a in labels[0]])
    np.testing.assert_array_equal(metrics.shared_label(*labels), shared)
    wanted = np.nanmean(metrics.average_precision(cosine(query, gallery), shared))
    assert metrics.mean_average_precision(query, gallery, *labels) == pytest.approx(wanted, abs=1e-6)


def test_zero_rows_are_tied_and_score_chance(embeddings):
    _, gallery, _, gallery_labels = embeddings
    got = metrics.mean_average_precision(np.zeros((1, 8)), gallery, [0], gallery_labels)
    assert got == pytest.approx(float(metrics.chance_ap((gallery_labels == 0).sum(), 70)))


# ---- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_similarity_raises(bad, dtype):
    similarity = np.zeros((4, 5), dtype)
    similarity[2, 3] = similarity[3, 0] = bad
    relevance = np.eye(4, 5, dtype=bool)
    for function in (metrics.average_precision, metrics.first_rank, metrics.ndcg, metrics.pr_points, metrics.micro_f1):
        with pytest.raises(ValueError, match=r"2 non-finite of 20 .* row 2, column 3"):
            function(similarity, relevance)


def test_infinities_of_both_signs_raise_and_large_numbers_do_not():
    with pytest.raises(ValueError, match="2 non-finite"):
        metrics.average_precision([[np.inf, -np.inf]], [[True, False]])
    large = np.full((1, 3), np.finfo(np.float32).max) * np.float32([1, 0.5, 1])
    assert metrics.average_precision(large, [[True, False, False]])[0] == 0.75


def test_non_finite_embeddings_raise():
    with pytest.raises(ValueError, match="non-finite"):
        metrics.mean_average_precision([[np.nan, 1.0]], [[1.0, 0.0]], [0], [0])


def test_wrong_inputs_raise():
    similarity, relevance = CASE
    with pytest.raises(ValueError, match="boolean"):
        metrics.average_precision(similarity, relevance.astype(int))
    with pytest.raises(ValueError, match="shape of similarity"):
        metrics.average_precision(similarity, relevance.T)
    with pytest.raises(ValueError, match="n_queries, n_gallery"):
        metrics.average_precision(similarity[0], relevance[0])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.recall_at(similarity, relevance, 0)
    with pytest.raises(ValueError, match='"hits" or "min"'):
        metrics.average_precision_at(similarity, relevance, 3, "all")
    with pytest.raises(ValueError, match="rsum"):
        evaluate_block(["map", "rsum"], similarity, relevance)
    with pytest.raises(ValueError, match="zeta"):
        metrics.pmrp(similarity)
    with pytest.raises(ValueError, match=r"pairs must lie in a matrix of shape \(1, 5\), got up to \[0, 5\]"):
        metrics.evaluate_matches(["r@1"], similarity, [[0, 5]])
    with pytest.raises(ValueError, match=r"names must be among r@1, .*, got \['map'\]"):
        metrics.evaluate_matches(["map"], similarity, [[0, 0]])


def test_importing_metrics_imports_no_heavy_package():
    code = "import sys, xmbench.metrics; print(sorted({'torch', 'numba', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- exactly matched elements -----------------------------------------------------------------------------


def test_exactly_matched_elements_by_hand():
    same = str.__eq__
    assert metrics.eme(["dog"], ["cat"], same) == 0
    assert metrics.eme(["dog", "ball"], ["ball", "dog"], same) == 1
    assert metrics.eme(["dog", "ball"], ["dog", "sky"], same) == 0.5
    assert metrics.eme(["dog", "ball"], ["dog"], same) == 0.75, "the toy example of the paper"
    assert metrics.eme(["dog"], ["dog", "ball"], same) == 0.75
    assert metrics.eme([], ["dog"], same) == metrics.eme([], [], same) == 0
    assert metrics.eme([3], ["three", "a"], lambda seen, said: {"three": 3}.get(said) == seen) == 0.75, "of two kinds"
