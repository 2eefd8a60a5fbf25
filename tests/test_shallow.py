"""The shallow methods, kernel CCA and the supervised ones, each against another way to compute the same."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import cdist
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from baselines import gma, gss_sl, kcca, mvda_vc
from baselines._scatter import leading_eigenvectors, principal_components, reduced, ridged, scatter
from xmbench import FitContext, Modality, PairedSet, Rows, build_method, one_hot
from xmbench.registry import find_method

NAMES = ("image", "text", "audio")


def split_of(xs, numbers=None, n_classes=None):
    """A split of the rows (n, d) and class numbers (n,) of every modality; row i belongs to row i."""
    numbers = [None] * len(xs) if numbers is None else numbers
    n_classes = n_classes or max((int(np.max(y)) + 1 for y in numbers if y is not None), default=2)
    modalities = tuple(
        Modality(name=name, vectors=Rows(np.asarray(x)), labels=None if y is None else one_hot(y, n_classes))
        for name, x, y in zip(NAMES, xs, numbers, strict=False)
    )
    pairs = np.stack([np.arange(min(map(len, xs)))] * len(xs), axis=1)
    return PairedSet(modalities=modalities, pairs=pairs)


def fit(name, split, seed=0, **parameters):
    method = build_method(name, **parameters)
    method.context = FitContext(seed=seed)
    method.fit(split, method.context)
    return method


def classes(n=90, dims=(6, 5), n_classes=4, seed=0, noise=0.3):
    """Views of Gaussian classes (float32 values), and labels that are wrong independently per view at the rate `noise`."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % n_classes
    shared = rng.standard_normal((n_classes, 3))[true] * 2 + rng.standard_normal((n, 3))
    xs = [(shared @ rng.standard_normal((3, d)) + rng.standard_normal((n, d))).astype(np.float32) for d in dims]
    return xs, [np.where(rng.random(n) < noise, rng.integers(n_classes, size=n), true) for _ in dims]


def similarity(method, split):
    """Cosines of every pair of different modalities, one below the other."""
    values = [method.embed(m) for m in split.modalities]
    return np.concatenate([method.similarity(a, b).ravel() for a, b in combinations(values, 2)])


def cosines(a, b):
    """|cos| of the columns of a and b."""
    return np.abs((a * b).sum(axis=0)) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0))


def naive_scatter(z, numbers):
    """Within-class and between-class scatter of rows, by a loop over classes."""
    within = between = np.zeros((z.shape[1], z.shape[1]))
    for c in np.unique(numbers):
        rows = z[numbers == c]
        centred, offset = rows - rows.mean(0), rows.mean(0) - z.mean(0)
        within, between = within + centred.T @ centred, between + len(rows) * np.outer(offset, offset)
    return within, between


# Scatter


def test_scatters_are_those_of_the_stacked_projections():
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, d)) + 1 for n, d in ((30, 4), (20, 3), (25, 5))]
    numbers = [rng.integers(3, size=len(x)) for x in xs]
    within, between = scatter(xs, [one_hot(y, 3) for y in numbers])
    s = np.concatenate([x.sum(0) for x in xs])
    np.testing.assert_allclose(within + between, linalg.block_diag(*[x.T @ x for x in xs]) - np.outer(s, s) / 75, atol=1e-10)
    ws = [rng.standard_normal((x.shape[1], 2)) for x in xs]
    w, z = np.concatenate(ws), np.concatenate([x @ w for x, w in zip(xs, ws, strict=True)])
    expected = naive_scatter(z, np.concatenate(numbers))
    np.testing.assert_allclose(w.T @ within @ w, expected[0], atol=1e-10)
    np.testing.assert_allclose(w.T @ between @ w, expected[1], atol=1e-10)


def test_unlabelled_rows_have_no_part_in_the_scatters():
    xs, numbers = classes()
    numbers[0] = np.where(np.arange(90) < 20, -1, numbers[0])
    given = scatter(xs, [one_hot(y, 4) for y in numbers])
    without = scatter([xs[0][20:], xs[1]], [one_hot(y, 4) for y in (numbers[0][20:], numbers[1])])
    np.testing.assert_allclose(given, without, rtol=1e-6, atol=1e-4)


def test_components_hold_the_energy_at_a_mean_variance_of_one():
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((50, 4)))[0] * np.sqrt([0.6, 0.3, 0.08, 0.02])
    assert [principal_components(x, energy).shape[1] for energy in (0.5, 0.85, 0.95, 0.99, 1.0)] == [1, 2, 3, 4, 4]
    for z in (x, x.T):  # through X' X and through X X'
        kept = z @ principal_components(z, 0.95)
        u, s, _ = np.linalg.svd(z)
        assert (kept**2).mean() == pytest.approx(1)
        np.testing.assert_allclose(
            kept @ kept.T, (u[:, :3] * s[:3] ** 2) @ u[:, :3].T * 3 * len(z) / (s[:3] ** 2).sum(), atol=1e-9
        )


def test_eigenvectors_come_by_size_and_stop_at_the_rank():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 6)), rng.standard_normal((20, 6))
    a, b = x.T @ x, y.T @ y
    regular = ridged(b, a, 0.1)
    np.testing.assert_allclose(regular, b + 0.1 * np.trace(b) / 6 * np.eye(6))
    w = leading_eigenvectors(a, regular, 5)
    assert w.shape == (6, 3)
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(regular, a)).real)[::-1][:3]
    np.testing.assert_allclose(w.T @ a @ w, np.diag(expected), atol=1e-10)
    np.testing.assert_allclose(w.T @ regular @ w, np.eye(3), atol=1e-10)


# MvDA


def test_mvda_of_one_modality_is_lda():
    xs, numbers = classes(noise=0)
    x = xs[0] - xs[0].mean(0, dtype=np.float64)
    within, between = scatter([x], [one_hot(numbers[0], 4)])
    w = leading_eigenvectors(between, within, 3)
    expected = LinearDiscriminantAnalysis(solver="eigen").fit(x, numbers[0]).scalings_[:, :3]
    np.testing.assert_allclose(cosines(w, expected), 1, atol=1e-8)


def test_mvda_is_the_lda_of_what_it_projects_each_modality_by_its_own_labels():
    xs, numbers = classes(dims=(6, 5, 4))
    xs, numbers = [xs[0], xs[1][:60], xs[2]], [numbers[0], numbers[1][:60], numbers[2]]
    numbers[2] = np.where(numbers[2] == 3, 0, numbers[2])  # a class that one modality lacks
    split = split_of(xs, numbers)
    method = fit("mvda", split, ridge=1e-10, energy=1.0)
    z = np.concatenate([method.embed(m).values for m in split.modalities])
    within, between = naive_scatter(z, np.concatenate(numbers))
    np.testing.assert_allclose(within, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(between, np.diag(between.diagonal()), atol=1e-6)
    total = linalg.block_diag(*[(x - x.mean(0)).T @ (x - x.mean(0)) for x in xs])
    stacked = scatter([x - x.mean(0) for x in xs], [one_hot(y, 4) for y in numbers])
    expected = linalg.eigh(stacked[1], total - stacked[1], eigvals_only=True)[::-1][:3]
    np.testing.assert_allclose(between.diagonal(), expected, rtol=1e-4)
    assert between[2, 2] > 0.01


def test_mvda_gives_equal_modalities_equal_maps():
    xs, numbers = classes()
    weights = fit("mvda", split_of([xs[0], xs[0]], [numbers[0]] * 2)).weights_
    np.testing.assert_allclose(weights["image"], weights["text"], atol=1e-10)


def test_mvda_of_two_classes_has_one_dimension():
    xs, numbers = classes(n_classes=2)
    assert fit("mvda", split_of(xs, numbers)).weights_["image"].shape == (6, 1)


@pytest.mark.parametrize(("name", "parameters"), [("mvda", {}), ("gss_sl", {}), ("gma", {"align": "means"})])
def test_without_pairs_the_order_of_a_modality_means_nothing(name, parameters):
    xs, numbers = classes()
    order = np.random.default_rng(1).permutation(90)
    split, jumbled = split_of(xs, numbers), split_of([xs[0], xs[1][order]], [numbers[0], numbers[1][order]])
    methods = [fit(name, replace(s, pairs=None), **parameters) for s in (split, jumbled)]
    assert "pairs" not in methods[0].needs()
    np.testing.assert_allclose(similarity(methods[0], split), similarity(methods[1], split), atol=1e-6)


@pytest.mark.parametrize("name", ["gma", "mvda_vc", "kcca"])
def test_pairs_are_read(name):
    xs, numbers = classes()
    order = np.random.default_rng(1).permutation(90)
    split, jumbled = split_of(xs, numbers), split_of([xs[0], xs[1][order]], [numbers[0], numbers[1][order]])
    told = replace(jumbled, pairs=np.stack([order, np.arange(90)], axis=1))
    known, same, other = (similarity(fit(name, s, dim=3), split) for s in (split, told, jumbled))
    np.testing.assert_allclose(same, known, atol=1e-5)
    assert np.abs(other - known).max() > 0.1


@pytest.mark.parametrize("name", ["gma", "mvda", "mvda_vc", "gss_sl", "kcca"])
def test_units_of_measure_do_not_matter(name):
    xs, numbers = classes()
    known, other = (split_of([xs[0], scale * xs[1]], numbers) for scale in (1, 1024))
    np.testing.assert_allclose(similarity(fit(name, known), known), similarity(fit(name, other), other), atol=1e-5)


# MvDA-VC


@pytest.mark.parametrize("n", [8, 40])
def test_coefficients_are_the_same_in_primal_and_dual(n):
    x = np.random.default_rng(0).standard_normal((n, 12))
    gram = x @ x.T
    expected = np.linalg.solve(gram + mvda_vc.RHO * np.trace(gram) * np.eye(n), x)
    np.testing.assert_allclose(mvda_vc.dual_map(x), expected, atol=1e-9)


def test_consistency_is_the_distance_of_the_coefficients():
    rng = np.random.default_rng(0)
    maps = [mvda_vc.dual_map(rng.standard_normal((20, d))) for d in (4, 3, 5)]
    penalty = mvda_vc.consistency(maps)
    assert np.linalg.eigvalsh(penalty).min() > -1e-12
    ws = [rng.standard_normal(p.shape[1]) for p in maps]
    expected = sum(np.sum((maps[i] @ ws[i] - maps[j] @ ws[j]) ** 2) for i, j in combinations(range(3), 2))
    assert np.concatenate(ws) @ penalty @ np.concatenate(ws) == pytest.approx(expected)
    equal, w = mvda_vc.consistency([maps[0], maps[0]]), ws[0]
    assert np.r_[w, w] @ equal @ np.r_[w, w] == pytest.approx(0, abs=1e-12)
    assert np.r_[w, -w] @ equal @ np.r_[w, -w] == pytest.approx(4 * np.sum((maps[0] @ w) ** 2))


def test_mvda_vc_without_its_weight_is_mvda():
    split = split_of(*classes())
    method = fit("mvda_vc", replace(split, pairs=None), weight=0.0)
    assert method.needs() == {"vectors", "labels"}
    np.testing.assert_array_equal(similarity(method, split), similarity(fit("mvda", split), split))


def test_mvda_vc_solves_its_eigenproblem():
    xs, numbers = classes()
    split, weight, ridge = split_of(xs, numbers), 0.7, 0.05
    method = fit("mvda_vc", split, weight=weight, ridge=ridge)
    data = reduced(split, method.energy)
    within, between = scatter(data.vectors, data.labels)
    maps = [mvda_vc.dual_map(x) for x in data.vectors]
    penalty = np.block([[maps[0].T @ maps[0], -maps[0].T @ maps[1]], [-maps[1].T @ maps[0], maps[1].T @ maps[1]]])
    trace, k = np.trace(within), len(within)
    _, w = linalg.eigh(between, within + weight * trace / np.trace(penalty) * penalty + ridge * trace / k * np.eye(k))
    expected = data.weights(w[:, :-4:-1])
    for name in ("image", "text"):
        np.testing.assert_allclose(cosines(method.weights_[name], expected[name]), 1, atol=1e-9)


def test_a_heavy_consistency_makes_equal_modalities_map_alike():
    xs, numbers = classes(noise=0.6)
    split = split_of([xs[0], xs[0]], numbers)
    gaps = []
    for weight in (0.0, 1.0, 1e6):
        image, text = fit("mvda_vc", split, weight=weight).weights_.values()
        gaps.append(np.linalg.norm(image - text) / np.linalg.norm(image))
    assert gaps[0] > 0.5 > gaps[1] > 0.01 > 1e-4 > gaps[2]


# GMA


def graphs(split, **parameters):
    """B_v and A_v of every modality's reduced rows, and these rows."""
    method, data = build_method("gma", **parameters), reduced(split, 1.0)
    return [(*method._graphs(x, y), x) for x, y in zip(data.vectors, data.labels, strict=True)]


def test_gma_splits_the_total_scatter_in_two():
    for within, between, x in graphs(split_of(*classes())):
        np.testing.assert_allclose(within + between, x.T @ x, atol=1e-9)


def test_gma_without_coupling_is_one_lda_per_modality():
    xs, numbers = classes(noise=0)
    weights = fit("gma", split_of(xs, numbers), alpha=0.0, dim=6, ridge=1e-9, energy=1.0).weights_
    parts = [weights["image"], weights["text"]]
    norms = np.stack([np.linalg.norm(w, axis=0) for w in parts])
    alone = norms > 1e-5 * norms.max(axis=0)
    assert alone.sum(axis=1).tolist() == [3, 3] and (alone.sum(axis=0) == 1).all()
    for x, y, w, own in zip(xs, numbers, parts, alone, strict=True):
        expected = LinearDiscriminantAnalysis(solver="eigen").fit(x, y).scalings_[:, :3]
        np.testing.assert_allclose(cosines(w[:, own], expected), 1, atol=1e-5)


def test_gma_of_two_gaussians_is_fishers_direction():
    xs, numbers = classes(n_classes=2, noise=0)
    weights = fit("gma", split_of(xs, numbers), alpha=0.0, dim=2, ridge=1e-9, energy=1.0).weights_
    for x, w in zip(xs, weights.values(), strict=True):
        x = x.astype(np.float64)
        within, _ = naive_scatter(x, numbers[0])
        fisher = np.linalg.solve(within, x[numbers[0] == 0].mean(0) - x[numbers[0] == 1].mean(0))
        own = w[:, np.linalg.norm(w, axis=0).argmax()]
        assert cosines(own[:, None], fisher[:, None]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("criterion", ["lda", "mfa"])
@pytest.mark.parametrize("align", ["pairs", "means"])
def test_gma_solves_its_eigenproblem_whichever_modality_is_first(criterion, align):
    xs, numbers = classes()
    numbers[1] = np.where(numbers[1] == 3, 0, numbers[1])  # a class that one modality lacks
    split, alpha, ridge = split_of(xs, numbers), 3.0, 0.05
    options = {"criterion": criterion, "align": align}
    method = fit("gma", split, alpha=alpha, ridge=ridge, energy=1.0, **options)
    (b_1, a_1, x_1), (b_2, a_2, x_2) = graphs(split, **options)
    cross = x_1.T @ x_2
    if align == "means":
        cross = np.zeros_like(cross)
        for c in range(3):
            first, second = (x[y == c] for x, y in zip((x_1, x_2), numbers, strict=True))
            cross += np.sqrt(len(first) * len(second)) * np.outer(first.mean(0), second.mean(0))
    b = linalg.block_diag(b_1, b_2 * np.trace(b_1) / np.trace(b_2))
    a = np.block([[a_1, alpha * cross], [alpha * cross.T, a_2]])
    _, w = linalg.eigh(a, b + ridge * np.trace(b) / len(b) * np.eye(len(b)))
    expected = reduced(split, 1.0).weights(w[:, :-4:-1])
    for name in ("image", "text"):
        np.testing.assert_allclose(cosines(method.weights_[name], expected[name]), 1, atol=1e-9)
    swapped = replace(split, modalities=split.modalities[::-1])
    other = fit("gma", swapped, alpha=alpha, ridge=ridge, energy=1.0, **options)
    np.testing.assert_allclose(similarity(other, split), similarity(method, split), atol=1e-9)


def test_gma_gives_equal_modalities_equal_maps():
    xs, numbers = classes()
    weights = fit("gma", split_of([xs[0], xs[0]], [numbers[0]] * 2)).weights_
    np.testing.assert_allclose(weights["image"], weights["text"], atol=1e-9)


@pytest.mark.parametrize("k", [1, 4, 50])
def test_mfa_graphs_are_those_of_a_loop(k):
    rng = np.random.default_rng(0)
    x, numbers = rng.standard_normal((30, 3)), np.r_[rng.integers(3, size=28), 3, 3]
    distances = cdist(x, x)
    near, far = np.zeros((2, 30, 30))
    for i in range(30):
        own = [j for j in np.argsort(distances[i]) if j != i and numbers[j] == numbers[i]]
        near[i, own[:k]] = near[own[:k], i] = 1
    for c in range(4):
        across = [(distances[i, j], i, j) for i in range(30) for j in range(30) if numbers[i] == c != numbers[j]]
        for _, i, j in sorted(across)[:k]:
            far[i, j] = far[j, i] = 1
    np.testing.assert_array_equal(gma.class_neighbours(x, numbers, k).toarray(), near)
    np.testing.assert_array_equal(gma.marginal_pairs(x, numbers, k).toarray(), far)
    w = rng.standard_normal(3)
    forms = gma.marginal_fisher(np.r_[x, 9 * x[:2]], one_hot(np.r_[numbers, -1, -1], 4), k, k)
    for form, graph in zip(forms, (near, far), strict=True):
        assert w @ form @ w == pytest.approx((graph * np.subtract.outer(x @ w, x @ w) ** 2).sum() / 2)


# KCCA


def test_kcca_with_a_linear_kernel_is_ridge_cca():
    xs, _ = classes(dims=(5, 5))
    split = split_of(xs)
    expected = fit("cca", split, dim=4, ridge=5 * 0.02)  # relative to the mean variance, not to their sum
    for landmarks in (2000, 40):  # 5 dimensions are spanned by fewer landmarks than items
        method = fit("kcca", split, dim=4, kernel="linear", kappa=0.02, landmarks=landmarks)
        np.testing.assert_allclose(method.correlations_, expected.correlations_, atol=1e-8)
        for m in split.modalities:
            np.testing.assert_allclose(np.abs(method.embed(m).values), np.abs(expected.embed(m).values), atol=1e-5)


def test_kcca_with_all_items_as_landmarks_is_the_exact_dual():
    xs, _ = classes(n=40)
    split, new = split_of(xs), classes(n=12, seed=1)[0]
    method, widths, centring = fit("kcca", split, dim=3, width=0.8, kappa=0.02), [], np.eye(40) - 1 / 40
    kernels, embedded = [], []
    for x in xs:
        widths.append(0.8 * np.median(cdist(x, x)[np.triu_indices(40, 1)]))
        kernels.append(centring @ np.exp(-cdist(x, x, "sqeuclidean") / (2 * widths[-1] ** 2)) @ centring)
    regular = [k + 0.02 * np.trace(k) * np.eye(40) for k in kernels]
    product = np.linalg.solve(regular[0], kernels[1]) @ np.linalg.solve(regular[1], kernels[0])
    values, a = np.linalg.eig(product)
    a = a[:, np.argsort(-values.real)[:3]].real
    np.testing.assert_allclose(method.correlations_, np.sqrt(np.sort(values.real)[::-1][:3]), atol=1e-6)
    coefficients = [a, np.linalg.solve(regular[1], kernels[0] @ a)]
    for x, fresh, k, r, width, alpha in zip(xs, new, kernels, regular, widths, coefficients, strict=True):
        alpha = alpha * np.sqrt(40 / np.diag(alpha.T @ r @ k @ alpha))
        raw = np.exp(-cdist(x, x, "sqeuclidean") / (2 * width**2))
        shown = np.exp(-cdist(fresh, x, "sqeuclidean") / (2 * width**2))
        embedded.append((shown - raw.mean(0)) @ centring @ alpha)
    for m, expected in zip(split_of(new).modalities, embedded, strict=True):
        np.testing.assert_allclose(np.abs(method.embed(m).values), np.abs(expected), atol=1e-5)


def test_kcca_on_drawn_landmarks_is_near_the_exact_form():
    split = split_of(classes(n=200)[0])
    exact = fit("kcca", split, dim=3, width=2.0)
    drawn = [fit("kcca", split, dim=3, width=2.0, landmarks=100, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_allclose(drawn[0].correlations_, exact.correlations_, atol=0.01)
    values = [method.embed(split.modalities[0]).values for method in drawn]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.allclose(np.abs(values[0]), np.abs(values[2]), atol=1e-6)


def test_kcca_counts_an_item_once_per_pair():
    xs, _ = classes(n=40)
    split = split_of([xs[0][:20], xs[1]])
    split = replace(split, pairs=np.stack([np.arange(40) // 2, np.arange(40)], axis=1))
    written_out = split_of([np.repeat(xs[0][:20], 2, axis=0), xs[1]])
    known, other = (fit("kcca", s, dim=3) for s in (written_out, split))
    np.testing.assert_allclose(similarity(other, written_out), similarity(known, written_out), atol=1e-6)


def test_kcca_finds_what_no_line_fits_and_everything_without_a_ridge():
    rng = np.random.default_rng(0)
    x, unrelated = rng.standard_normal((300, 1)), rng.standard_normal((300, 1))
    linear, curved = (fit("kcca", split_of([x, x**2]), dim=1, kernel=k).correlations_[0] for k in ("linear", "rbf"))
    assert linear < 0.2 < 0.9 < curved
    ridged, free = (fit("kcca", split_of([x, unrelated]), dim=1, width=0.05, kappa=k).correlations_[0] for k in (0.1, 1e-9))
    assert ridged < 0.5 < 0.999 < free


@pytest.mark.parametrize("shape", [(30, 40), (40, 30)])
def test_the_leading_singular_vectors_are_those_of_the_whole_decomposition(shape):
    rng = np.random.default_rng(0)
    t = rng.standard_normal((shape[0], 6)) @ rng.standard_normal((6, shape[1]))
    for dim in (4, 7, 20):  # below and above the rank; small and large against the matrix
        u, s, v = kcca.leading_svd(t, dim)
        np.testing.assert_allclose(s, np.linalg.svd(t, compute_uv=False)[:dim], atol=1e-9)
        np.testing.assert_allclose(u.T @ t @ v, np.diag(s), atol=1e-9)
        np.testing.assert_allclose(u.T @ u, np.eye(dim), atol=1e-9)
        np.testing.assert_allclose(v.T @ v, np.eye(dim), atol=1e-9)


# GSS-SL


def centred(x):
    x = x - x.mean(0, dtype=np.float64)
    return x / x.std()


def test_gss_sl_without_its_norm_is_least_squares():
    xs, numbers = classes()
    weights = fit("gss_sl", split_of(xs, numbers), sparsity=1e-10).weights_
    for x, y, w in zip(xs, numbers, weights.values(), strict=True):
        design = np.c_[x, np.ones(90)].astype(np.float64)
        np.testing.assert_allclose(w, np.linalg.lstsq(design, one_hot(y, 4).astype(float))[0][:-1], atol=1e-6)


def test_gss_sl_ends_where_the_subgradient_vanishes_with_noise_features_at_zero():
    xs, numbers = classes(n=200, noise=0)
    x = np.c_[centred(xs[0]), np.random.default_rng(2).standard_normal((200, 6))]
    x, f = centred(x), one_hot(numbers[0], 4).astype(float)
    u, _ = build_method("gss_sl", sparsity=0.2, iterations=3000)._regress(x, f.astype(bool))
    norms, gradient = np.linalg.norm(u, axis=1), 2 * x.T @ (x @ u + f.mean(0) - f)
    kept = norms > 1e-3
    assert kept[:6].sum() >= 3 and not kept[6:].any()
    assert norms[6:].max() < 2e-5
    penalty = 0.2 * len(x)
    np.testing.assert_allclose(gradient[kept], -penalty * u[kept] / norms[kept, None], atol=1e-3 * penalty)
    assert (np.linalg.norm(gradient[~kept], axis=1) <= penalty).all()


@pytest.mark.parametrize("labelled", [1.0, 0.3])
def test_gss_sl_never_raises_its_objective(labelled):
    xs, numbers = classes(n=120)
    unknown = np.random.default_rng(3).random((2, 120)) >= labelled
    method = fit("gss_sl", split_of(xs, [np.where(u, -1, y) for u, y in zip(unknown, numbers, strict=True)], 4), sparsity=0.1)
    values = method.context.records["objective"]
    assert len(values) == 20
    assert values[-1] < values[0]
    assert (np.diff(values) <= 1e-9 * values[0]).all()


def test_the_objective_is_the_fit_the_norm_and_the_graph():
    x, u = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -2.0]]), np.array([[3.0], [4e-6]])
    f, graph = np.array([[1.0], [0.0], [2.0]]), gss_sl.neighbour_laplacian(np.array([[0.0], [1.0], [5.0]]), 1)
    np.testing.assert_array_equal(graph.toarray(), [[1, -1, 0], [-1, 2, -1], [0, -1, 1]])
    fitted = (3 + 1 - 1) ** 2 + (8e-6 + 1 - 0) ** 2 + (-3 - 8e-6 + 1 - 2) ** 2
    norm = 3 + (16e-12 / 1e-5 + 1e-5) / 2
    assert gss_sl.objective(x, u, f, 0.5) == pytest.approx(fitted + 0.5 * norm, rel=1e-12)
    assert gss_sl.objective(x, u, f, 0.5, graph, 10.0) == pytest.approx(fitted + 0.5 * norm + 10 * (1 + 4), rel=1e-12)


def test_the_reweighted_step_is_the_plain_solution():
    rng = np.random.default_rng(0)
    x, f, norms = rng.standard_normal((30, 5)), rng.standard_normal((30, 2)), np.array([1.0, 0.5, 0.0, 2.0, 1e-9])
    expected = np.linalg.solve(x.T @ x + 3 * np.diag(0.5 / np.maximum(norms, 1e-5)), x.T @ f)
    np.testing.assert_allclose(gss_sl.reweighted(x.T @ x, x.T @ f, norms, 3.0), expected, atol=1e-12)


def test_labels_are_kept_and_carried_over_the_graph():
    rng = np.random.default_rng(0)
    x, numbers = np.r_[rng.standard_normal((15, 2)), rng.standard_normal((15, 2)) + 8], np.full(30, -1)
    numbers[[0, 15]] = 0, 1
    graph, responses = gss_sl.neighbour_laplacian(x, 5), rng.standard_normal((30, 2))
    every, some = one_hot(rng.integers(2, size=30), 2), one_hot(numbers, 2)
    np.testing.assert_array_equal(gss_sl.propagated(responses, every, graph, 0.5), every)
    f = gss_sl.propagated(responses, some, graph, 0.5)
    u, known = numbers < 0, numbers >= 0
    dense = graph.toarray()
    right = responses[u] - 0.5 * dense[np.ix_(u, known)] @ some[known]
    np.testing.assert_allclose(f[u], np.linalg.solve(np.eye(28) + 0.5 * dense[np.ix_(u, u)], right), atol=1e-12)
    np.testing.assert_array_equal(f[known], some[known])
    carried = gss_sl.propagated(np.zeros((30, 2)), some, graph, 100.0)
    assert (carried.argmax(axis=1) == np.arange(30) // 15).all()


# Bad input

METHODS = {
    "kcca": ("kcca", {}),
    "kcca-linear": ("kcca", {"kernel": "linear"}),
    "kcca-nystrom": ("kcca", {"landmarks": 5}),
    "gma": ("gma", {}),
    "gma-means": ("gma", {"align": "means"}),
    "gma-mfa": ("gma", {"criterion": "mfa"}),
    "mvda": ("mvda", {}),
    "mvda_vc": ("mvda_vc", {}),
    "gss_sl": ("gss_sl", {}),
}


def awkward(case):
    """Vectors and class numbers of two views, bad in one way."""
    xs, numbers = classes(n=24)
    rng = np.random.default_rng(4)
    match case:
        case "fewer items than features":
            xs = [rng.standard_normal((24, d)) for d in (60, 50)]
        case "constant features":
            xs = [np.c_[x, np.full((24, 2), 0.1)].astype(np.float32) for x in xs]
        case "a constant modality":
            xs = [xs[0], np.full((24, 5), 0.1, dtype=np.float32)]
        case "duplicates":
            xs, numbers = [np.repeat(x[:6], 4, axis=0) for x in xs], [np.repeat(y[:6], 4) for y in numbers]
        case "duplicated features":
            xs = [np.c_[x, x] for x in xs]
        case "all items alike but one":
            xs = [np.where(np.arange(24)[:, None] == 0, x, x[1]) for x in xs]
        case "one item per class":
            numbers = [np.arange(24), rng.permutation(24)]
        case "a class missing from one modality":
            numbers = [numbers[0], np.where(numbers[1] == 2, 0, numbers[1])]
        case "one class":
            numbers = [np.zeros(24, dtype=int)] * 2
        case "half unlabelled":
            numbers = [np.where(np.arange(24) < 12, -1, y) for y in numbers]
        case "no label":
            numbers = [numbers[0], np.full(24, -1)]
        case "float16":
            xs = [x.astype(np.float16) for x in xs]
        case "float64 of huge values":
            xs = [x.astype(np.float64) * 1e12 + 1e12 for x in xs]
    return xs, numbers


@pytest.mark.parametrize(
    "case",
    [
        "fewer items than features",
        "constant features",
        "a constant modality",
        "duplicates",
        "duplicated features",
        "all items alike but one",
        "one item per class",
        "a class missing from one modality",
        "one class",
        "half unlabelled",
        "no label",
        "float16",
        "float64 of huge values",
    ],
)
@pytest.mark.parametrize(("name", "parameters"), METHODS.values(), ids=METHODS)
def test_bad_input_gives_finite_similarities(name, parameters, case):
    xs, numbers = awkward(case)
    method = fit(name, split_of(xs, numbers, 24), **parameters)
    new = np.random.default_rng(5)
    fresh = split_of([x[:7] + new.standard_normal((7, x.shape[1])) * xs[0].std() for x in xs])
    values = similarity(method, fresh).astype(np.float32)
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 1 + 1e-5).all()
    image = np.asarray(method.embed(fresh.modalities[0]).values)
    assert image.any() or (name, case) == ("gss_sl", "one class"), "the sound modality is still mapped"


@pytest.mark.parametrize(("name", "limit"), [("mvda", 3), ("mvda_vc", 3), ("kcca", 40), ("gma", 6)])
def test_a_dimension_above_the_rank_is_clipped_and_said_so(name, limit, caplog):
    split = split_of(*classes(n=40))
    method = fit(name, split, dim=200, **({"energy": 1.0} if name == "gma" else {}))
    assert method.embed(split.modalities[0]).values.shape == (40, limit)
    assert [record.getMessage() for record in caplog.records if record.name == "xmbench"] != []
    assert f"{name}.dim is 200" in caplog.text and f"{limit} is used" in caplog.text


@pytest.mark.parametrize("name", ["gma", "mvda", "mvda_vc", "gss_sl", "kcca"])
def test_nothing_is_clipped_in_the_search_on_usual_data(name, caplog):
    xs, numbers = classes(n=60, dims=(40, 40), n_classes=6)
    noise = np.random.default_rng(6).standard_normal((2, 60, 40))
    split, space = split_of(list(xs + 3 * noise), numbers), find_method(name).info.search
    for values in [{}, *(dict(zip(space, point, strict=True)) for point in product(*space.values()))]:
        assert np.isfinite(similarity(fit(name, split, **values), split)).all()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gma", {"alpha": -1.0}, "gma.alpha must be 0 or more, got -1.0"),
        ("mvda_vc", {"weight": -1.0}, "mvda_vc.weight must be 0 or more, got -1.0"),
        ("gss_sl", {"smoothness": -1.0}, "gss_sl.smoothness must be 0 or more, got -1.0"),
        ("mvda", {"dim": 0}, "mvda.dim must be above 0, got 0"),
        ("kcca", {"kappa": 0.0}, "kcca.kappa must be above 0, got 0.0"),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        build_method(name, **parameters)
