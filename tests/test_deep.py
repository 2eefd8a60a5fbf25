"""DCCA, DCCAE, SDML, DSCMR and SMLN by hand, and on data that nobody would wish for."""

import math
from dataclasses import replace
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy.linalg import eigh, inv, sqrtm
from torch import nn

from baselines import _correlation, dcca, dccae, dscmr, sdml, smln
from xmbench import FitContext, Noise, build_method, corrupt, load_dataset, one_hot
from xmbench.registry import find_method
from xmbench.run import fit_method

NORMS = ("frobenius", "trace")
SMALL = {
    "dcca": {"hidden": 16, "dim": 4, "batch_size": 20},
    "dccae": {"hidden": 16, "dim": 4, "batch_size": 20},
    "sdml": {"hidden": 16, "dim": 8, "batch_size": 20},
    "dscmr": {"hidden": 16, "dim": 8, "batch_size": 20},
    "smln": {"hidden": 16, "dim": 8, "batch_size": 20},
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(values):
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


def correlated(n=300, sizes=(5, 4), seed=0):
    """Views with two latent variables in common."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 2))
    return [latent @ rng.standard_normal((2, d)) + rng.standard_normal((n, d)) for d in sizes]


def fitted(name, train, context=None, **parameters):
    method = build_method(name, **{**SMALL[name], "epochs": 3, **parameters})
    fit_method(method, train, context or FitContext())
    return method


def embedded(method, split):
    return [method.embed(modality).values for modality in split.modalities]


def same_bits(first, second, split):
    return all(np.array_equal(a, b) for a, b in zip(embedded(first, split), embedded(second, split), strict=True))


# The correlation loss


def canonical(x, y, ridge=0.0):
    """Canonical correlations, by matrix roots."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    roots = [inv(sqrtm(v.T @ v / (len(v) - 1) + ridge * np.eye(v.shape[1])).real) for v in (x, y)]
    return np.linalg.svd(roots[0] @ (x.T @ y / (len(x) - 1)) @ roots[1], compute_uv=False)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("views", [2, 3])
def test_correlation_loss_sums_the_canonical_correlations_of_all_pairs(views, norm):
    h = normal(views, 40, 3) + normal(40, 3, seed=1)
    rho = [canonical(*pair, ridge=0.1) for pair in combinations(h, 2)]
    expected = -sum((r**2).sum() if norm == "frobenius" else r.sum() for r in rho)
    assert _correlation.correlation_loss(tensor(h), 0.1, norm).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_correlation_loss_of_a_linear_image_is_minus_the_dimension(norm):
    h = normal(50, 6)
    loss = _correlation.correlation_loss(tensor([h, h @ normal(6, 6, seed=1) + 3]), 1e-10, norm)
    assert loss.item() == pytest.approx(-6, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_correlation_loss_does_not_see_invertible_maps(norm):
    h = normal(2, 50, 4) + normal(50, 4, seed=1)
    mapped = [h[0] @ normal(4, 4, seed=2) - 1, h[1] @ normal(4, 4, seed=3) + 5]
    first, second = (_correlation.correlation_loss(tensor(views), 1e-11, norm).item() for views in (h, mapped))
    assert second == pytest.approx(first, abs=1e-7)
    assert _correlation.correlation_loss(tensor(mapped), 1.0, norm).item() != pytest.approx(first, abs=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_correlation_loss_has_the_gradient_of_finite_differences(norm):
    h = tensor(normal(3, 12, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _correlation.correlation_loss(x, 0.01, norm), h, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_correlation_loss_of_one_pair_or_of_constants_is_zero_with_a_finite_gradient(norm):
    for h in (normal(2, 1, 3), np.ones((2, 9, 3))):
        leaf = tensor(h).requires_grad_()
        loss = _correlation.correlation_loss(leaf, 1e-3, norm)
        loss.backward()
        assert loss.item() == 0
        assert torch.isfinite(leaf.grad).all()


# DCCA


@pytest.fixture
def linear(monkeypatch):
    """Trunks and decoders of one linear layer."""
    for module in (_correlation, dccae):
        monkeypatch.setattr(module, "trunk", lambda d, hidden, dim: nn.Linear(d, dim))


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_reach_the_optimum_of_cca(norm, paired, linear):
    x, y = correlated()
    split = paired({"image": x, "text": y})
    best = canonical(x, y)[:2].sum()

    def total(epochs):
        method = fitted("dcca", split, norm=norm, dim=2, ridge=1e-6, epochs=epochs, batch_size=300, lr=0.03)
        return canonical(*embedded(method, split)).sum()

    assert total(250) == pytest.approx(best, abs=1e-3)
    assert total(1) < best - 0.1


@pytest.mark.parametrize(
    ("views", "name", "parameters"), [(2, "cca", {"ridge": 1e-9}), (3, "mcca", {"ridge": 0.0, "energy": 1.0})]
)
def test_the_last_step_is_linear_cca_of_the_outputs(views, name, parameters, paired, monkeypatch):
    monkeypatch.setattr(_correlation, "trunk", lambda d, hidden, dim: nn.Sequential(nn.Identity(), nn.Linear(d, dim)))
    split = paired({f"view {i}": x for i, x in enumerate(correlated(sizes=(4, 4, 4)[:views]))})
    expected = build_method(name, dim=4, **parameters)
    expected.fit(split, FitContext())
    ours = embedded(fitted("dcca", split, ridge=1e-9, epochs=1), split)
    for a, b in zip(ours, embedded(expected, split), strict=True):
        a, b = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (a, b))
        np.testing.assert_allclose(np.abs((a * b).mean(axis=0)), 1, atol=1e-3)
    np.testing.assert_allclose(ours[0].var(axis=0), 1, atol=1e-2)


def test_directions_without_correlation_are_dropped(paired):
    x, y = correlated(sizes=(6, 6))
    split = paired({"image": x, "text": y})
    nets = _correlation.CorrelationNetworks(split, 8, 4)
    for view in nets.views.values():
        view.trunk[-1].weight.data[2:] = view.trunk[-1].weight.data[:2]  # outputs of rank 2 in 4 dimensions
        view.trunk[-1].bias.data[2:] = view.trunk[-1].bias.data[:2]
    nets.fit_linear(
        lambda rows: {"image": torch.from_numpy(x[rows]).float(), "text": torch.from_numpy(y[rows]).float()}, 300, 1e-6
    )
    for name in ("image", "text"):
        assert (nets.view(name).weights.abs().sum(dim=0) > 0).tolist() == [True, True, False, False]


def test_pairs_are_dealt_into_even_batches_of_at_least_the_batch_size(paired, monkeypatch):
    sizes, released = [], dcca.correlation_loss
    monkeypatch.setattr(dcca, "correlation_loss", lambda h, *rest: sizes.append(h.shape[1]) or released(h, *rest))
    fitted("dcca", paired(dict(zip(("image", "text"), correlated(n=130), strict=True))), batch_size=60, epochs=2)
    assert sizes == [65] * 4


def test_the_best_epoch_comes_back_with_its_linear_map(paired):
    split = paired(dict(zip(("image", "text"), correlated(), strict=True)))
    method, seen = build_method("dcca", **SMALL["dcca"], epochs=4), []
    context = FitContext(validate=lambda: seen.append(embedded(method, split)) or {"first": -len(seen)})
    fit_method(method, split, context)
    last = embedded(method, split)
    assert context.restore_best("first") == 0
    for now, then, later in zip(embedded(method, split), seen[0], last, strict=True):
        assert np.array_equal(now, then)
        assert not np.allclose(now, later, atol=1e-3)


@pytest.mark.parametrize("name", ["dcca", "dccae"])
def test_more_dimensions_than_pairs_are_clipped_and_said_so(name, paired, caplog):
    split = paired(dict(zip(("image", "text"), correlated(n=7), strict=True)))
    method = fitted(name, split, dim=20)
    assert method.embed(split.modalities[0]).values.shape == (7, 6)
    assert f"{name}.dim is 20" in caplog.text and "6 is used" in caplog.text


@pytest.mark.parametrize("name", ["dcca", "dccae"])
def test_labels_are_never_read(name):
    data = load_dataset("synthetic", train=120)
    methods = []
    for rate in (0.0, 1.0):
        method, context = build_method(name, **SMALL[name], epochs=2), FitContext()
        context.seed_torch()
        method.fit(corrupt(data.train, Noise("symmetric", rate, 0), family="synthetic").train, context)
        methods.append(method)
    assert same_bits(*methods, data.valid)


# DCCAE


@pytest.mark.parametrize("norm", NORMS)
def test_without_reconstruction_dccae_is_dcca_to_the_bit(norm):
    data = load_dataset("synthetic", train=120)
    plain = fitted("dcca", data.train, norm=norm)
    assert same_bits(fitted("dccae", data.train, norm=norm, reconstruction=0.0), plain, data.valid)
    assert not same_bits(fitted("dccae", data.train, norm=norm, reconstruction=1e-3), plain, data.valid)


def test_decoders_get_no_gradient_from_the_correlation(paired):
    x, y = correlated()
    split = paired({"image": x, "text": y})
    vectors = {"image": torch.from_numpy(x).float(), "text": torch.from_numpy(y).float()}
    method = fitted("dccae", split)
    decoders = list(method.decoders_.parameters())
    for weight, expected in ((0.0, False), (1.0, True)):
        method.reconstruction = weight
        gradients = torch.autograd.grad(method.loss(vectors), decoders)
        assert [bool(g.any()) for g in gradients] == [expected] * len(decoders)


def test_reconstruction_error_is_a_sum_over_features_and_a_mean_over_pairs():
    outputs, targets = tensor([[1, 2], [0, 0]]), tensor([[1, 4], [3, 0]])
    assert dccae.reconstruction_error(outputs, targets).item() == (4 + 9) / 2


def test_a_large_lambda_rebuilds_features_of_low_rank(paired, linear):
    latent = normal(200, 2)
    split = paired({"image": latent @ normal(2, 6, seed=1), "text": latent @ normal(2, 5, seed=2)})
    method = fitted("dccae", split, reconstruction=1e4, dim=2, epochs=300, batch_size=200, lr=0.03)
    for modality in split.modalities:
        view = method.nets_.view(modality.name)
        x = torch.from_numpy(np.asarray(modality.vectors))
        error = dccae.reconstruction_error(method.decoders_[modality.name](view.output(x)), view.standardised(x))
        assert error.item() < 1e-3 * x.shape[1]


# SDML


def autoencoders(train, dim=8):
    return sdml.LabelAutoencoders(train, 4, dim, FitContext())


def test_label_codes_are_orthonormal_and_stay_as_they_are(paired):
    split = paired(dict(zip(("image", "text"), correlated(n=60), strict=True)), np.arange(60) % 5)
    p = autoencoders(split).projection
    assert p.shape == (8, 5)
    np.testing.assert_allclose(p.T @ p, np.eye(5), atol=1e-6)
    assert torch.equal(fitted("sdml", split).nets_.projection, p)


def test_label_regression_is_the_mean_distance_over_labelled_items():
    projection, labels = torch.eye(3, 2, dtype=torch.float64), tensor([[1, 0], [0, 1], [0, 0]])
    z = tensor([[4, 4, 9], [0, 1, 0], [7, 7, 7]])
    assert sdml.label_regression(z, labels, projection).item() == (5 + 0) / 2
    assert sdml.label_regression(z, torch.zeros_like(labels), projection).item() == 0


def test_sdml_has_loss_zero_at_the_codes_with_a_perfect_decoder_and_a_finite_gradient(paired, monkeypatch):
    labels = np.arange(6) % 3
    split = paired({"image": normal(6, 8), "text": normal(6, 3)}, labels)
    method = build_method("sdml", unit_reconstruction=False)
    method.nets_ = autoencoders(split)
    codes = method.nets_.projection.T[labels].clone().requires_grad_()
    method.nets_.encoders["image"] = nn.Identity()
    method.nets_.decoders["image"] = nn.Identity()
    loss = method.loss("image", codes, torch.from_numpy(one_hot(labels, 3)).float())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(codes.grad).all()


def test_a_decoder_of_unit_length_cannot_reach_the_features(paired):
    split = paired({"image": normal(6, 8), "text": normal(6, 3)}, np.arange(6) % 3)
    x = torch.from_numpy(np.asarray(split.modalities[0].vectors))
    floor = (x.norm(dim=1) - 1).abs().mean().item()
    for unit, expected in ((True, floor), (False, 0.0)):
        method = build_method("sdml", alpha=1.0, unit_reconstruction=unit)
        method.nets_ = autoencoders(split)
        method.nets_.decoders["image"].register_forward_hook(lambda *_: x)
        assert method.loss("image", x, torch.zeros(6, 3)).item() == pytest.approx(expected, abs=1e-6)
    assert floor > 0.5


def test_sdml_trains_every_modality_as_if_it_were_alone():
    data = load_dataset("synthetic", train=120)
    image, text = data.train.modalities
    noisy = replace(image, labels=image.labels[::-1].copy())
    results = []
    for modalities in ((image, text), (text, image), (noisy, text)):
        method, context = build_method("sdml", **{**SMALL["sdml"], "dim": 16, "epochs": 2}), FitContext()
        context.seed_torch()
        method.fit(replace(data.train, modalities=modalities, pairs=None), context)
        results.append([method.embed(m).values for m in data.valid.modalities])
    (image_1, text_1), (image_2, text_2), (image_3, text_3) = results
    assert np.array_equal(image_1, image_2)
    assert np.array_equal(text_1, text_2) and np.array_equal(text_1, text_3)
    assert not np.allclose(image_1, image_3, atol=1e-4)


def test_sdml_learns_from_unlabelled_items_what_they_look_like(paired):
    split = paired({"image": normal(40, 6), "text": normal(40, 5)}, np.full(40, -1), n_classes=3)
    context = FitContext()
    fitted("sdml", split, context, epochs=6, lr=1e-2)
    losses = [row["loss"] for row in context.history]
    assert losses[-1] < losses[0] - 0.1


def test_sdml_refuses_more_classes_than_dimensions(paired):
    split = paired({"image": normal(40, 6), "text": normal(40, 5)}, np.arange(40) % 9)
    with pytest.raises(ValueError, match=r"dim >= number of classes, got 8 < 9; raise dim"):
        fitted("sdml", split)


# DSCMR


def test_dscmr_terms_by_hand():
    residual = dscmr.label_regression(tensor([[4, 4], [0, 1]]), tensor([[1, 0], [0, 1]]))
    assert residual.item() == (5 + 0) / 2
    u = tensor([[3, 4], [0, 0]])
    assert dscmr.modality_gap(u, torch.zeros_like(u)).item() == 2.5
    assert dscmr.modality_gap(u, u).item() == 0
    one, yes, no = tensor([[0.6, 0.8]]), tensor([[1]]), tensor([[0]])
    assert dscmr.pairwise_likelihood(one, one, yes).item() == pytest.approx(0.4741, abs=5e-5)
    assert dscmr.pairwise_likelihood(one, one, no).item() == pytest.approx(0.9741, abs=5e-5)
    assert dscmr.pairwise_likelihood(one, tensor([[0.8, -0.6]]), yes).item() == pytest.approx(math.log(2))


def test_dscmr_sums_over_all_pairs_of_modalities_each_with_its_own_labels():
    u, s = normal(3, 5, 4), normal(3, 5, 3, seed=1)
    numbers = np.random.default_rng(2).integers(0, 3, (3, 5))
    hot = np.eye(3)[numbers]
    expected = sum(np.linalg.norm(s[i] - hot[i], axis=1).mean() for i in range(3))
    for i, j in combinations_with_replacement(range(3), 2):
        for a in range(5):
            for b in range(5):
                theta = u[i, a] @ u[j, b] / np.linalg.norm(u[i, a]) / np.linalg.norm(u[j, b]) / 2
                expected += 0.5 * (math.log1p(math.exp(theta)) - (numbers[i, a] == numbers[j, b]) * theta) / 25
    expected += 0.3 * sum(np.linalg.norm(u[i] - u[j], axis=1).mean() for i, j in combinations(range(3), 2))
    method = build_method("dscmr", alpha=0.5, beta=0.3)
    assert method.loss(tensor(u), tensor(s), tensor(hot)).item() == pytest.approx(expected)
    assert method.loss(tensor(u[::-1].copy()), tensor(s[::-1].copy()), tensor(hot[::-1].copy())).item() == pytest.approx(
        expected
    )


def test_dscmr_has_a_finite_gradient_where_nothing_is_left_to_learn():
    hot = torch.eye(3).expand(2, 3, 3)
    features, scores = torch.zeros(2, 3, 4, requires_grad=True), hot.clone().requires_grad_()
    build_method("dscmr").loss(features, scores, hot).backward()
    assert torch.isfinite(features.grad).all()
    assert (scores.grad == 0).all()


def test_dscmr_shares_its_layers_between_modalities():
    nets = dscmr.SharedNetworks({"image": 5, "text": 4}, 6, 3, 2)
    sizes = {name: tuple(p.shape) for name, p in nets.named_parameters() if name.endswith("weight")}
    shapes = {"first.image": (6, 5), "first.text": (6, 4), "shared": (3, 6), "classifier": (2, 3)}
    assert sizes == {f"{name}.weight": shape for name, shape in shapes.items()}
    x, y = torch.from_numpy(normal(7, 5)).float(), torch.from_numpy(normal(7, 4)).float()

    def gradient(**vectors):
        loss = sum((nets.classifier(nets(name, v)) ** 2).sum() for name, v in vectors.items())
        return torch.autograd.grad(loss, nets.shared.weight)[0]

    assert torch.allclose(gradient(image=x, text=y), gradient(image=x) + gradient(text=y), atol=1e-4)
    assert gradient(image=x).any() and gradient(text=y).any()


def test_dscmr_refuses_unlabelled_items(paired):
    split = paired({"image": normal(40, 6), "text": normal(40, 5)}, np.arange(40) % 3 - 1)
    with pytest.raises(ValueError, match="every image needs a label, got 14 without one"):
        fitted("dscmr", split)


def test_dscmr_scores_classes():
    data = load_dataset("synthetic")
    method = fitted("dscmr", data.train, **find_method("dscmr").info.smoke)
    for modality in data.tests["test"].modalities:
        scores = method.class_scores(modality)
        assert scores.min() >= 0 and scores.max() <= 1
        assert (scores.argmax(axis=1) == modality.labels.argmax(axis=1)).mean() > 0.3


# SMLN


def random_graph(n, seed=0):
    w = np.random.default_rng(seed).uniform(0, 1, (n, n))
    return (w + w.T) / 2


@pytest.mark.parametrize("n_values", [2, 4])
def test_balanced_spectrum_is_the_mean_log_of_generalised_eigenvalues(n_values):
    y, w, ridge = normal(12, 4), random_graph(12), 0.1
    d = w.sum(axis=1)
    between = y.T @ (w - np.outer(d, d) / d.sum()) @ y / d.sum()
    within = y.T @ (np.diag(d) - w) @ y / d.sum() + ridge * np.eye(4)
    values = eigh(between, within, eigvals_only=True)[-n_values:]
    expected = -np.log(np.maximum(values, 0) + 1e-6).mean()
    assert smln.balanced_spectrum(tensor(y), tensor(w), ridge, n_values).item() == pytest.approx(expected)


def test_balanced_spectrum_has_the_gradient_of_finite_differences():
    labels = np.repeat(np.arange(3), 4)
    w = tensor((labels[:, None] == labels) + 0.1 * random_graph(12))
    y = tensor(normal(12, 4) + 2 * np.eye(3, 4)[labels]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smln.balanced_spectrum(x, w, 0.01, 2), y, eps=1e-6, atol=1e-6)


def test_balanced_spectrum_knows_neither_scale_nor_axes_nor_origin():
    labels = np.arange(12) % 3
    w, y = tensor(labels[:, None] == labels), normal(12, 4)
    value = smln.balanced_spectrum(tensor(y), w, 1e-9, 2).item()
    rotation = np.linalg.qr(normal(4, 4, seed=1))[0]
    for other in (7 * y, y @ rotation, y + 3):
        assert smln.balanced_spectrum(tensor(other), w, 1e-9, 2).item() == pytest.approx(value, abs=1e-5)
    separated = np.eye(3, 4)[labels] + 0.1 * y
    assert smln.balanced_spectrum(tensor(separated), w, 1e-9, 2).item() < value - 1


def test_balanced_spectrum_of_a_single_cluster_is_finite():
    for y in (normal(8, 3), np.ones((8, 3))):
        leaf = tensor(y).requires_grad_()
        loss = smln.balanced_spectrum(leaf, torch.ones(8, 8, dtype=torch.float64), 1e-2, 2)
        loss.backward()
        assert math.isfinite(loss.item()) and torch.isfinite(leaf.grad).all()


def test_neighbour_graph_is_a_heat_kernel_of_the_nearest():
    x = normal(9, 3)
    distances = ((x[:, None] - x) ** 2).sum(axis=2)
    nearest = [sorted(np.delete(np.arange(9), i), key=lambda j: distances[i, j])[:2] for i in range(9)]
    scale = np.median([distances[i, j] for i in range(9) for j in nearest[i]])
    expected = np.zeros((9, 9))
    for i in range(9):
        for j in nearest[i]:
            expected[i, j] = expected[j, i] = math.exp(-distances[i, j] / (2 * scale))
    graph = smln.neighbour_graph(tensor(x), 2).numpy()
    np.testing.assert_allclose(graph, expected, atol=1e-7)
    np.testing.assert_array_equal(graph, graph.T)
    same = smln.neighbour_graph(torch.ones(4, 3), 9)
    assert torch.equal(same, 1 - torch.eye(4))
    assert smln.neighbour_graph(torch.ones(1, 3), 5).tolist() == [[0.0]]


def test_similarity_matrix_adds_labels_instances_and_neighbours():
    numbers, eta = np.array([[0, 1, -1], [0, 0, 1]]), 0.1
    graphs = np.stack([random_graph(3), random_graph(3, seed=1)])
    expected = np.zeros((2, 3, 2, 3))
    for i, a, j, b in np.ndindex(expected.shape):
        known = numbers[i, a] >= 0 and numbers[j, b] >= 0
        expected[i, a, j, b] = int(known and numbers[i, a] == numbers[j, b]) + int(a == b)
        expected[i, a, j, b] += (i == j) * graphs[i, a, b] * (eta if known else 1)
    hot = np.stack([one_hot(row, 2) for row in numbers])
    w = smln.similarity_matrix(tensor(hot), tensor(graphs), eta).numpy()
    np.testing.assert_allclose(w, expected.reshape(6, 6))
    np.testing.assert_array_equal(w, w.T)


def test_smln_without_labels_reads_pairs_and_neighbours(paired):
    x, y = correlated(n=100)
    split = paired({"image": x, "text": y}, np.full(100, -1), n_classes=3)
    strangers = replace(split, pairs=np.stack([np.arange(100), np.roll(np.arange(100), 1)], axis=1))
    context = FitContext()
    cosines = []
    for train in (split, strangers):
        image, text = embedded(fitted("smln", train, context, epochs=20, lr=1e-2, batch_size=50), split)
        cosines.append((image * text).sum(axis=1).mean())
    assert cosines[0] > cosines[1] + 0.2


# Bad input


def bad(kind):
    """Vectors of two modalities and their labels, one kind of trouble each."""
    rng = np.random.default_rng(0)
    sizes = {"a last batch of one": 41, "one item per class": 6, "fewer items than dimensions": 4, "two items": 2}
    n = sizes.get(kind, 40)
    x, y, labels = rng.standard_normal((n, 7)), rng.standard_normal((n, 5)), np.arange(n) % 6
    if kind == "constant features":
        x[:], y[:, :2] = 2.5, 0.1
    elif kind == "duplicated rows":
        x[:], y[:] = x[np.arange(n) // 8], y[np.arange(n) // 8]
    elif kind == "a single class":
        labels[:] = 0
    hot = [one_hot(labels, 6), one_hot(np.where(labels == 5, 0, labels) if kind == "a class of one modality" else labels, 6)]
    return {"image": x, "text": y}, hot


KINDS = (
    "a single class",
    "a last batch of one",
    "one item per class",
    "a class of one modality",
    "constant features",
    "fewer items than dimensions",
    "duplicated rows",
    "two items",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_bad_input_gives_finite_losses_and_embeddings(name, kind, paired):
    vectors, hot = bad(kind)
    split = paired(vectors, np.zeros(len(hot[0]), dtype=int))
    split = replace(split, modalities=tuple(replace(m, labels=h) for m, h in zip(split.modalities, hot, strict=True)))
    context = FitContext()
    method = fitted(name, split, context, epochs=8, lr=1e-2)
    assert all(math.isfinite(row["loss"]) for row in context.history)
    assert all(torch.isfinite(p).all() for p in method.nets_.parameters())
    for values in embedded(method, split):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_float_type_gives_the_same_bits(name, paired):
    x, y = (v.astype(np.float16) for v in correlated(n=60))
    splits = [paired({"image": x.astype(kind), "text": y.astype(kind)}, np.arange(60) % 4) for kind in ("f2", "f4", "f8")]
    half, single, double = (fitted(name, split) for split in splits)
    assert same_bits(half, single, splits[1]) and same_bits(double, single, splits[1])
