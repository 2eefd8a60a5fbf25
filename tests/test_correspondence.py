"""Triplet losses, prediction, soft margins and the mixture of losses: by hand, by loops, and beside the released code."""

import json
import math
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn.mixture import GaussianMixture

from baselines import _correspondence as co

GOLDEN = Path(os.environ.get("XMBENCH_GOLDEN") or ROOT.parent / "shared" / "golden")
ALPHA = 0.2


def random_scores(n=8, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (n, n)))


def diagonal_scores(n, own, other=0.0):
    """Every pair scores `own`, every other cell `other`."""
    return torch.full((n, n), other, dtype=torch.float64).fill_diagonal_(own)


def looped_costs(scores, row_margin, column_margin):
    """c1 and c2, cell by cell; the margins are functions of (i, j)."""
    n = len(scores)
    c1, c2 = np.zeros((n, n)), np.zeros((n, n))
    for i, j in product(range(n), range(n)):
        if i != j:
            c1[i, j] = max(0.0, row_margin(i, j) + scores[i, j].item() - scores[i, i].item())
            c2[i, j] = max(0.0, column_margin(i, j) + scores[i, j].item() - scores[j, j].item())
    return c1, c2


# Losses


def test_a_collapsed_network_has_the_losses_that_give_it_away():
    scores = torch.full((128, 128), 0.37, dtype=torch.float64)
    assert co.hard_triplet(scores, ALPHA).item() == pytest.approx(51.2, abs=1e-9)
    assert co.mean_triplet(scores, ALPHA).item() == pytest.approx(50.8, abs=1e-9)
    assert co.sum_triplet(scores, ALPHA).item() == pytest.approx(50.8 * 128, abs=1e-6)
    assert co.per_sample_loss(scores, ALPHA).tolist() == pytest.approx([50.8 / 128] * 128, abs=1e-12)


def test_losses_of_two_pairs_by_hand():
    scores = torch.tensor([[0.5, 0.4], [0.1, 0.45]], dtype=torch.float64)
    c1, c2 = co.triplet_costs(scores, ALPHA)
    np.testing.assert_allclose(c1, [[0, 0.1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(c2, [[0, 0.15], [0, 0]], atol=1e-12)
    assert co.hard_triplet(scores, ALPHA).item() == pytest.approx(0.25)
    assert co.mean_triplet(scores, ALPHA).item() == pytest.approx(0.125)
    np.testing.assert_allclose(co.per_sample_loss(scores, ALPHA), [0.05, 0.075], atol=1e-12)


@pytest.mark.parametrize(
    ("margin", "row", "column"),
    [
        (ALPHA, lambda i, j: ALPHA, lambda i, j: ALPHA),
        (torch.arange(8) / 10, lambda i, j: i / 10, lambda i, j: j / 10),
        (torch.arange(8)[:, None] / 10, lambda i, j: i / 10, lambda i, j: i / 10),
        (torch.arange(64).view(8, 8) / 100, lambda i, j: (8 * i + j) / 100, lambda i, j: (8 * i + j) / 100),
    ],
    ids=["number", "per pair", "column", "matrix"],
)
def test_losses_equal_loops_over_cells(margin, row, column):
    scores = random_scores()
    c1, c2 = looped_costs(scores, row, column)
    assert co.hard_triplet(scores, margin).item() == pytest.approx(c1.max(axis=1).sum() + c2.max(axis=0).sum(), abs=1e-6)
    assert co.sum_triplet(scores, margin).item() == pytest.approx(c1.sum() + c2.sum(), abs=1e-5)
    assert co.mean_triplet(scores, margin).item() == pytest.approx((c1.sum() + c2.sum()) / 8, abs=1e-6)
    np.testing.assert_allclose(co.per_sample_loss(scores, margin), c1.mean(axis=1) + c2.mean(axis=0), atol=1e-6)


def test_hard_is_at_least_the_mean_and_nothing_is_left_to_learn_of_dominant_diagonals():
    scores = random_scores()
    c1, c2 = co.triplet_costs(scores, ALPHA)
    assert (c1.max(dim=1).values >= c1.mean(dim=1)).all()
    assert (c2.max(dim=0).values >= c2.mean(dim=0)).all()
    for loss in (co.hard_triplet, co.mean_triplet, co.sum_triplet):
        assert loss(diagonal_scores(6, own=0.9), 0.0).item() == 0
        assert loss(diagonal_scores(6, own=0.9), ALPHA).item() == 0
        assert loss(scores, ALPHA).item() > 0


def test_where_negatives_tie_one_of_them_has_the_gradient():
    scores = torch.full((4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    co.hard_triplet(scores, ALPHA).backward()
    pushed = scores.grad.clone().fill_diagonal_(0)
    assert pushed.sum().item() == 8
    assert set(pushed.flatten().tolist()) <= {0.0, 1.0, 2.0}
    assert scores.grad.diagonal().tolist() == [-2.0] * 4


# Prediction and labels


@pytest.mark.parametrize("form", ["hinge", "raw"])
def test_prediction_equals_a_loop_over_pairs(form):
    scores = random_scores(12)
    z = []
    for i in range(12):
        total = 0.0
        for j in range(12):
            if j != i:
                row, column = scores[i, j].item(), scores[j, i].item()
                own = scores[i, i].item()
                total += max(0, ALPHA + row - own) + max(0, ALPHA + column - own) if form == "hinge" else row + column
        gap = ALPHA - total / 24 if form == "hinge" else scores[i, i].item() - total / 24
        z.append(min(max(gap, 0.0), ALPHA))
    tau = np.mean(sorted(z)[-2:])
    predicted, scale = co.prediction(scores, ALPHA, form)
    assert scale.item() == pytest.approx(tau, abs=1e-12)
    np.testing.assert_allclose(predicted, np.minimum(np.array(z) / tau, 1), atol=1e-12)


def test_a_collapsed_network_predicts_one_for_every_pair_and_only_tau_tells():
    predicted, tau = co.prediction(torch.full((128, 128), 0.5, dtype=torch.float64), ALPHA)
    np.testing.assert_allclose(predicted, 1.0, atol=1e-9)
    assert tau.item() == pytest.approx(ALPHA / 128, abs=1e-12)


@pytest.mark.parametrize("form", ["hinge", "raw"])
def test_prediction_of_separated_pairs_and_of_one_bad_pair(form):
    scores = diagonal_scores(128, own=0.9)
    assert co.prediction(scores, ALPHA, form)[0].tolist() == pytest.approx([1.0] * 128)
    scores[5, 5] = 0.0
    scores[5, :5] = scores[6:, 5] = 0.9
    predicted = co.prediction(scores, ALPHA, form)[0]
    assert predicted[5].item() < 0.01
    assert predicted[torch.arange(128) != 5].min().item() > 0.99


@pytest.mark.parametrize("form", ["hinge", "raw"])
def test_where_no_pair_stands_out_the_prediction_is_zero_and_not_nan(form):
    scores = diagonal_scores(16, own=0.0, other=0.9).requires_grad_()
    predicted, tau = co.prediction(scores, ALPHA, form)
    predicted.sum().backward()
    assert tau.item() == pytest.approx(co.LEAST_TAU)
    assert predicted.tolist() == [0.0] * 16
    assert torch.isfinite(scores.grad).all()


def test_tau_has_no_gradient_and_pairs_at_either_end_have_none():
    scores = diagonal_scores(20, own=0.15).requires_grad_()
    with torch.no_grad():
        scores[0, 0], scores[1, 1] = 0.9, -0.9
    predicted, tau = co.prediction(scores, ALPHA)
    predicted.sum().backward()
    assert not tau.requires_grad
    moved = scores.grad.diagonal()
    assert moved[0].item() == moved[1].item() == 0
    assert moved[2].item() == pytest.approx(19 / 20 / tau.item())


def test_labels_are_vectors_unless_the_released_shapes_are_asked_for():
    w, p, q = torch.tensor([1.0, 0.6]), torch.tensor([0.2, 0.5]), torch.tensor([0.4, 0.1])
    assert co.clean_labels(w, p).tolist() == pytest.approx([1.0, 0.8])
    np.testing.assert_allclose(co.clean_labels(w, p, "ncr_code"), [[1.0, 1.0], [0.68, 0.8]], atol=1e-6)
    assert co.noisy_labels(p, q).tolist() == pytest.approx([0.3, 0.3])
    assert co.noisy_labels(p, q, "ncr_code").shape == (2, 1)
    for labels in (co.clean_labels(w, p), co.clean_labels(w, p, "ncr_code")):
        assert co.own_labels(labels).tolist() == pytest.approx([1.0, 0.8])
    assert co.own_labels(co.noisy_labels(p, q, "ncr_code")).tolist() == pytest.approx([0.3, 0.3])


def test_broadcasting_matters_only_where_labels_differ():
    scores = random_scores(16)

    def both(w, p):
        return [co.hard_triplet(scores, ALPHA * co.clean_labels(w, p, way)).item() for way in ("intended", "ncr_code")]

    equal, differing = torch.full((16,), 0.4), torch.linspace(0, 1, 16)
    assert both(equal, equal)[0] == pytest.approx(both(equal, equal)[1], abs=1e-6)
    assert abs(np.subtract(*both(equal, differing))) > 0.01


# Soft margins


@pytest.mark.parametrize("psi", ["linear", "exponential", "sin"])
def test_margins_rise_from_zero_to_alpha(psi):
    labels = torch.linspace(0, 1, 101, dtype=torch.float64)
    margins = co.soft_margin(labels, psi, ALPHA)
    assert margins[0].item() == pytest.approx(0, abs=1e-12)
    assert margins[-1].item() == pytest.approx(ALPHA, abs=1e-12)
    assert (margins.diff() > 0).all()


def test_margins_by_hand():
    half = torch.tensor([0.5, 0.25], dtype=torch.float64)
    assert co.soft_margin(half, "linear", ALPHA).tolist() == pytest.approx([0.1, 0.05])
    wanted = [ALPHA * (math.sqrt(10) - 1) / 9, ALPHA * (10**0.25 - 1) / 9]
    assert co.soft_margin(half, "exponential", ALPHA).tolist() == pytest.approx(wanted)
    assert co.soft_margin(half, "sin", ALPHA).tolist() == pytest.approx([0.1, ALPHA * (1 - math.sqrt(0.5)) / 2])
    wanted = [ALPHA / (1 + math.exp(-20 * -0.1)), ALPHA / (1 + math.exp(-20 * -0.35))]
    assert co.soft_margin(half, "sigmoid", ALPHA, 0.6).tolist() == pytest.approx(wanted)


def test_exponential_margins_become_linear_as_their_base_goes_to_one():
    labels = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(co.exponential(labels, 1.0), labels)
    np.testing.assert_allclose(co.exponential(labels, 1 + 1e-9), labels, atol=1e-8)
    for base in (2.0, 5.0, 20.0, 100.0):
        np.testing.assert_allclose(co.exponential(labels, base), (base**labels - 1) / (base - 1), atol=1e-12)


@pytest.mark.parametrize("boundary", [0.1, 0.39, 0.5, 0.8])
def test_sigmoid_margins_rise_wherever_the_boundary_is(boundary):
    margins = co.soft_margin(torch.linspace(0, 1, 101, dtype=torch.float64), "sigmoid", ALPHA, boundary)
    assert (margins.diff() > 0).all()
    assert 0 < margins.min().item() < margins.max().item() < ALPHA


# The mixture


def planted(n_clean=700, n_noisy=300, seed=0):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.normal(0.15, 0.03, n_clean), rng.normal(0.6, 0.08, n_noisy)])
    return losses, np.arange(n_clean + n_noisy) < n_clean


def test_two_means_is_the_best_of_all_cuts():
    for seed in range(5):
        values = np.random.default_rng(seed).gamma(2.0, size=40)
        ordered = np.sort(values)
        within = [k * ordered[:k].var() + (40 - k) * ordered[k:].var() for k in range(1, 40)]
        best = 1 + int(np.argmin(within))
        assert (np.sort(values[co.two_means(values)]) == ordered[:best]).all()
    assert co.two_means(np.array([0.0, 1.0, 0.0, 1.0])).tolist() == [True, False, True, False]


def test_planted_components_are_found():
    losses, clean = planted()
    weights = co.clean_beliefs(losses, "test")
    assert weights[clean].min() > 0.99
    assert weights[~clean].max() < 0.01
    mixture = co.loss_mixture(co.min_max(losses))
    assert sorted(mixture.weights_) == pytest.approx([0.3, 0.7], abs=0.005)


@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_is_that_of_scikit_learn_from_its_own_k_means(seed):
    rng = np.random.default_rng(seed)
    values = co.min_max(np.concatenate([rng.beta(2, 8, 300), rng.beta(4, 4, 200)]))
    theirs = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed).fit(values[:, None])
    ours = co.loss_mixture(values)
    np.testing.assert_allclose(co.clean_posterior(ours, values), co.clean_posterior(theirs, values), atol=1e-8)


def test_weights_do_not_depend_on_the_scale_of_losses():
    losses, _ = planted()
    np.testing.assert_allclose(co.clean_beliefs(100 * losses + 7, "test"), co.clean_beliefs(losses, "test"), atol=1e-9)


def test_the_smallest_losses_are_the_most_believed():
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(0.5, 0.02, 600), rng.normal(0.9, 0.25, 400).clip(0.5), [0.1, 0.2]])
    weights = co.clean_beliefs(losses, "test")
    values = co.min_max(losses)
    mixture = co.loss_mixture(values)
    assert co.clean_posterior(mixture, values)[losses.argmin()] < 0.5, "else there is nothing to guard against"
    below = values < mixture.means_.min()
    assert (weights[below] == weights.max()).all()
    np.testing.assert_array_equal(weights[~below], co.clean_posterior(mixture, values)[~below])


@pytest.mark.parametrize(
    ("losses", "reason"), [([0.3] * 5, "equal"), ([0.1, float("nan"), 0.2], "not finite"), ([0.7], "equal")]
)
def test_losses_that_tell_nothing_leave_every_pair_clean_with_a_warning(losses, reason, caplog):
    assert co.clean_beliefs(np.array(losses), "ncr, epoch 3, network B").tolist() == [1.0] * len(losses)
    (message,) = caplog.messages
    assert message.startswith(f"ncr, epoch 3, network B: the losses of the pairs are {reason}")


@pytest.mark.parametrize(
    ("weights", "clean"),
    [
        ([0.5, 0.51, 0.2], [False, True, False]),
        ([0.1, 0.2, 0.3], [False, False, False]),
        ([0.9, 0.6, 0.8], [True, False, True]),
        ([1.0, 1.0, 1.0], [True, True, True]),
    ],
    ids=["threshold", "all noisy", "all clean", "all equal"],
)
def test_division_by_hand(weights, clean):
    assert co.believed_clean(np.array(weights)).tolist() == clean


def test_where_all_are_clean_the_least_believed_hundredth_is_not():
    weights = np.random.default_rng(0).uniform(0.6, 1, 450)
    assert np.flatnonzero(~co.believed_clean(weights)).tolist() == sorted(weights.argsort()[:5].tolist())


# Beside the released code


def with_gradient(function, scores):
    leaf = torch.from_numpy(scores).requires_grad_()
    value = function(leaf)
    value.backward()
    return value.item(), leaf.grad


def triplet_losses(z):
    forms = {"hard": co.hard_triplet, "sum": co.sum_triplet, "mean": co.mean_triplet}
    for name in ("hard", "sum", "mean", "hard_ncr", "mean_ncr"):
        loss = forms[name.removesuffix("_ncr")]
        yield f"output.{name}", f"grad.{name}.scores", *with_gradient(lambda s, loss=loss: loss(s, ALPHA), z["input.scores"])


def ncr_labels(z):
    given = {name.removeprefix("input."): torch.from_numpy(z[name]) for name in z if name.startswith("input.")}
    own = co.prediction(given["scores"], ALPHA)[0]
    pair = [co.prediction(given[f"scores_noisy_batch_{net}"], ALPHA)[0] for net in ("net", "other_net")]
    yield "output.per_sample_loss", co.per_sample_loss(given["scores"], ALPHA)
    yield "output.prediction_raw", co.prominence(given["scores"], ALPHA) / co.prediction(given["scores"], ALPHA)[1]
    yield "output.prediction", own
    for ending, broadcast in (("code", "ncr_code"), ("intended", "intended")):
        yield f"output.clean_labels_{ending}", co.clean_labels(given["clean_probability"], own, broadcast)
        yield f"output.noisy_labels_{ending}", co.noisy_labels(*pair, broadcast)
    for case in ("normal", "no_noisy"):
        yield f"output.split_{case}", co.believed_clean(z[f"input.probability_{case}"])


def ncr_losses(z):
    soft, losses = torch.from_numpy(z["input.soft_labels"]), {"hard": co.hard_triplet, "mean": co.mean_triplet}
    code = {"BxB": torch.from_numpy(z["output.clean_labels_code"]), "Bx1": soft[:, None], "B": soft[None]}
    shapes = {f"output.code_{{psi}}_labels_{shape}_{{kind}}": (f"grad.code_{{psi}}_labels_{shape}_{{kind}}.scores", y)
              for shape, y in code.items()}  # fmt: skip
    shapes["derived.intended_{psi}_{kind}"] = ("derived.grad.intended_{psi}_{kind}.scores", soft)
    shapes["derived.intended_{psi}_{kind}_clean_labels"] = ("", torch.from_numpy(z["output.clean_labels_intended"]))
    for psi, kind, (name, (grad, labels)) in product(("linear", "exponential", "sin"), losses, shapes.items()):
        margins = co.soft_margin(labels, psi, ALPHA)
        value, gradient = with_gradient(lambda s, m=margins, kind=kind: losses[kind](s, m), z["input.scores"])
        yield name.format(psi=psi, kind=kind), grad.format(psi=psi, kind=kind), value, gradient


def mixtures(z):
    for case in ("separated", "overlapping"):
        values = co.min_max(z[f"input.{case}_losses"])
        mixture = co.loss_mixture(values)
        order = mixture.means_.ravel().argsort()
        yield f"output.{case}_normalised", values
        yield f"output.{case}_posterior", co.clean_posterior(mixture, values)
        yield f"output.{case}_posterior_ncr_eval_train", co.clean_posterior(mixture, values)
        yield f"output.{case}_means", mixture.means_.ravel()[order]
        yield f"output.{case}_variances", mixture.covariances_.ravel()[order]
        yield f"output.{case}_weights", mixture.weights_[order]
        yield f"output.{case}_iterations", np.array(mixture.n_iter_)


def flattened(rows):
    """(name, value) of rows (name, value) and (name, name of the gradient, value, gradient)."""
    for row in rows:
        names, values = row[: len(row) // 2], row[len(row) // 2 :]
        yield from zip(names, values, strict=True)


@pytest.mark.parametrize(
    ("name", "functions"),
    [("triplet_losses", [triplet_losses]), ("ncr_losses", [ncr_labels, ncr_losses]), ("gmm_posterior", [mixtures])],
)
def test_equals_the_released_code(name, functions):
    if not (GOLDEN / "index.json").exists():
        pytest.skip(f"no index.json in {GOLDEN}: XMBENCH_GOLDEN must name the folder of golden fixtures")
    entries = json.loads((GOLDEN / "index.json").read_text("utf-8"))["fixtures"]
    entry = next(entry for entry in entries if entry["name"] == name)
    with np.load(GOLDEN / entry["file"], allow_pickle=False) as file:
        z = dict(file)
    compared = {}
    for function in functions:
        for output, value in flattened(function(z)):
            if output in z:  # the index has no gradient, or no mean form, of some derived losses
                allowed = entry["tolerance"]["float64"] * max(1, np.abs(z[output]).max())
                assert np.shape(value) == z[output].shape, output
                compared[output] = np.abs(np.asarray(value).astype(float) - z[output]).max() <= allowed
    assert [output for output, equal in compared.items() if not equal] == []
    assert set(compared) == set(entry["outputs"])
