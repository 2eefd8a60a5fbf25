"""DECL, RCL, CRCL and BiCro: losses against loops and closed forms, their limits, beliefs about pairs, and interrupted fits."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import beta
from test_co_rectify import TinyNetwork, data, mismatched, weights_of
from torch.distributions import Dirichlet, kl_divergence
from torch.nn.functional import cross_entropy

from baselines import _complementary, bicro, crcl, decl, rcl
from baselines._complementary import log_probabilities, negatives
from baselines._correspondence import mean_triplet, per_sample_loss, prominence
from baselines._ranking import PairData
from xmbench import FitContext, build_method
from xmbench.run import fit_method

SMALL = {"dim": 8, "similarity_dim": 4, "steps": 1, "word_dim": 8, "batch_size": 10, "lr": 0.01, "epochs": 2}
OF = {"rcl": {}, "crcl": {"restarts": 1, "restart_epochs": 1, "frozen": 1}, "decl": {"warm_up": 2}, "bicro": {"warm_up": 2}}
FORMS = ("log", "tan", "abs", "exp", "gce")


def noisy():
    return mismatched(data(40).train, 0.4)


@pytest.fixture
def tiny(monkeypatch):
    """Let all of them learn tiny networks."""

    def network(backbone, *, region_dim, n_words, dim, **unused):
        return TinyNetwork(region_dim, n_words, dim)

    monkeypatch.setattr(_complementary, "matching_network", network)


def fitted(name, context=None, **parameters):
    method = build_method(name, **{**SMALL, **OF[name], **parameters})
    fit_method(method, noisy(), context or FitContext())
    return method


def random_scores(n=6, seed=0, dtype=torch.float64):
    return torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both_ways(scores, tau):
    """p as nested lists, queries in rows: captions of images, images of captions."""
    for matrix in (scores.tolist(), scores.T.tolist()):
        yield [[math.exp(s / tau) / sum(math.exp(t / tau) for t in row) for s in row] for row in matrix]


# RCL


@pytest.mark.parametrize("form", FORMS)
def test_the_complementary_loss_equals_a_loop_over_negatives(form):
    f = {
        "log": lambda p: -math.log(1 - p),
        "tan": math.tan,
        "abs": lambda p: p,
        "exp": lambda p: math.exp(p - 1),
        "gce": lambda p: (1 - (1 - p) ** 0.3) / 0.3,
    }[form]
    scores, total = random_scores(), 0.0
    for p in both_ways(scores, 0.2):
        total += sum(f(p[i][j]) for i in range(6) for j in range(6) if i != j) / 6
    assert rcl.complementary_contrastive(scores, 0.2, form, 0.3).item() == pytest.approx(total, rel=1e-10)


def test_two_pairs_by_hand():
    scores = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64)
    # negatives of images: 3/4, 1/2; of captions: 1/2, 3/4
    assert rcl.complementary_contrastive(scores, 1.0).item() == pytest.approx(math.log(4) + math.log(2))
    assert rcl.complementary_contrastive(scores, 1.0, "abs").item() == pytest.approx(1.25)


def test_perfect_scores_cost_nothing_but_the_constant_of_exp():
    perfect = 100 * torch.eye(5)
    for form in FORMS:
        limit = 2 * 4 * math.exp(-1) if form == "exp" else 0.0
        assert rcl.complementary_contrastive(perfect, 0.05, form).item() == pytest.approx(limit, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_extreme_scores_have_finite_losses_and_gradients(form, scale):
    scores = (scale * (1 - torch.eye(5)[[1, 0, 2, 4, 3]])).requires_grad_()  # ties too
    worst = (scale * torch.eye(5)[[1, 2, 3, 4, 0]]).requires_grad_()  # one negative takes all
    for given in (scores, worst):
        loss = rcl.complementary_contrastive(given, 0.05, form)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(given.grad).all()
    if form == "log" and scale == 1:
        assert worst.grad.abs().max() > 1, "a negative that takes all is pushed away: 1 - p of it is not rounded to 0"


def test_the_complement_is_exact_where_p_rounds_to_one():
    logits = torch.tensor([[30.0, 0.0, 1.0], [0.0, 0.0, -2.0]])
    wanted = torch.log1p(-logits.double().softmax(dim=1))
    np.testing.assert_allclose(rcl.log_complement(logits.log_softmax(dim=1)), wanted, rtol=1e-6)


def test_probabilities_have_queries_in_rows():
    scores = random_scores()
    images, captions = log_probabilities(scores, 0.1)
    np.testing.assert_allclose(images.exp().sum(dim=1), 1)
    np.testing.assert_allclose(captions.exp(), (scores / 0.1).softmax(dim=0).T)
    assert negatives(images).diagonal().tolist() == [0] * 6
    assert (negatives(images) != 0).sum() == 30


# CRCL


def test_the_active_complementary_loss_equals_a_loop():
    scores, labels = random_scores(), torch.tensor([0.0, 1.0, 0.3, 0.9, 0.5, 0.1], dtype=torch.float64)
    total = 0.0
    for p in both_ways(scores, 0.2):
        for i, y in enumerate(labels.tolist()):
            tangents = [math.tan(x) for x in p[i]]
            total += -y * math.log(p[i][i]) + 5 * (sum(tangents) - tangents[i]) / sum(tangents) ** (1 - y)
    loss = crcl.active_complementary(log_probabilities(scores, 0.2), labels, 5.0)
    assert loss.item() == pytest.approx(total / 6, rel=1e-10)


def test_with_sure_labels_it_is_cross_entropy_and_the_tangent_form_of_rcl():
    scores, own = random_scores(), torch.arange(6)
    active = cross_entropy(scores / 0.1, own) + cross_entropy(scores.T / 0.1, own)
    for weight in (0.0, 3.0):
        loss = crcl.active_complementary(log_probabilities(scores, 0.1), torch.ones(6, dtype=torch.float64), weight)
        assert loss.item() == pytest.approx((active + weight * rcl.complementary_contrastive(scores, 0.1, "tan")).item())


def test_with_label_zero_a_pair_costs_no_more_than_twice_the_weight():
    scores = (50.0 * (1 - torch.eye(4))).requires_grad_()
    loss = crcl.active_complementary(log_probabilities(scores, 0.05), torch.zeros(4), 5.0)
    loss.backward()
    assert loss.item() == pytest.approx(10.0)
    assert torch.isfinite(scores.grad).all()


def test_labels_move_to_the_predictions_and_small_ones_become_zero():
    old, guess = torch.tensor([1.0, 0.2, 0.1, 0.0]), torch.tensor([0.0, 0.9, 0.0, 0.6])
    assert crcl.refined(old, guess, 0.8).tolist() == pytest.approx([0.8, 0.34, 0.0, 0.12])
    assert crcl.refined(old, guess, 1.0).tolist() == old.tolist()
    scores = random_scores()
    mean = [(p[i][i] + q[i][i]) / 2 for p, q in [tuple(both_ways(scores, 0.1))] for i in range(6)]
    assert crcl.predictions(log_probabilities(scores, 0.1)).tolist() == pytest.approx(mean)


def test_labels_stand_still_then_are_guessed_and_refined_and_outlive_the_networks(tiny, monkeypatch):
    calls, learnt, labels, loss = [], [], [], crcl.CRCL.loss

    def spy(self, network, scores, numbers):
        before = self.labels_[network, numbers].clone()
        made = loss(self, network, scores, numbers)
        guess = crcl.predictions(log_probabilities(scores, self.tau))
        calls.append((context.epoch, before, guess, self.labels_[network, numbers].clone()))
        return made

    begin = crcl.CRCL.begin
    monkeypatch.setattr(crcl.CRCL, "loss", spy)
    monkeypatch.setattr(
        crcl.CRCL, "begin", lambda self, *args: learnt.append(begin(self, *args)["nets"]) or {"nets": learnt[-1]}
    )
    context = FitContext(observe=lambda: labels.append(context.records["rectified_labels"]) or {})
    fitted("crcl", context, frozen=2, restarts=1, restart_epochs=1, epochs=1)
    for epoch, before, guess, after in calls:
        if epoch in (0, 3, 4):  # frozen
            wanted = crcl.refined(before, before, 1.0)
            assert epoch or (before == 1).all()
        elif epoch == 1:
            wanted = guess
        else:
            wanted = crcl.refined(before, guess, 0.8)
        assert torch.equal(after, wanted), epoch
    assert {epoch for epoch, *_ in calls} == set(range(6))
    assert len(learnt) == 2, "two pieces, two networks"
    np.testing.assert_array_equal(labels[2], labels[3], err_msg="the labels of the first piece begin the second")
    assert not np.array_equal(labels[4], labels[5])
    assert [row["selectable"] for row in context.history] == [0] * 3 + [1] * 3


def test_labels_are_the_weights_and_belong_to_their_network(tiny):
    method = fitted("crcl", backbone="sgraf", frozen=0, restarts=0)
    first, second = method.clean_weights()
    assert first.shape == second.shape == (40,)
    assert not np.array_equal(first, second)
    assert all(((w >= 0) & (w <= 1)).all() for w in (first, second))


# DECL


def test_tanh_of_the_logit_is_read_off_the_sigmoid():
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    np.testing.assert_allclose(decl.squashed(logits.sigmoid()), logits.tanh(), atol=1e-12)
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    assert decl.squashed(ends).tolist() == [-1, 1]
    decl.squashed(ends).sum().backward()
    assert torch.isfinite(ends.grad).all()


def test_evidence_of_scores_by_hand():
    scores = torch.tensor([[0.5, 1.0], [0.0, torch.tensor(0.3).sigmoid().item()]])
    wanted = [[1.0, math.exp(2)], [math.exp(-2), math.exp(2 * math.tanh(0.3))]]
    np.testing.assert_allclose(build_method("decl", tau=0.5).evidence(scores), wanted, rtol=1e-6)


def test_the_divergence_is_that_of_dirichlet_distributions_and_zero_for_the_uniform_one():
    assert decl.uniform_divergence(torch.ones(3, 7, dtype=torch.float64)).tolist() == pytest.approx([0] * 3, abs=1e-12)
    alpha = 1 + 50 * random_scores()
    wanted = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
    np.testing.assert_allclose(decl.uniform_divergence(alpha), wanted, rtol=1e-9)


def test_the_evidential_loss_is_the_expected_error_and_no_evidence_for_what_is_wrong():
    evidence, labels = 20 * random_scores(), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    losses = decl.evidential(evidence, labels, 0.3)
    for i, y in enumerate(labels):
        alpha, wanted = evidence[i] + 1, torch.zeros(6, dtype=torch.float64)
        wanted[i] = y
        expected = ((wanted - Dirichlet(alpha).mean) ** 2 + Dirichlet(alpha).variance).sum()  # E |y - p|^2
        wrong = torch.where(wanted == 1, 1.0, alpha)
        divergence = kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones(6, dtype=torch.float64)))
        assert losses[i].item() == pytest.approx((expected + 0.3 * divergence).item())


def test_the_divergence_is_precise_where_single_precision_is_not():
    evidence = torch.full((40, 40), math.exp(10.0)).requires_grad_()
    losses = decl.evidential(evidence, torch.zeros(40), 1.0)
    exact = kl_divergence(Dirichlet(evidence[0].detach().double() + 1), Dirichlet(torch.ones(40, dtype=torch.float64)))
    assert losses[0].item() == pytest.approx(exact.item(), abs=0.03)
    losses.sum().backward()
    assert evidence.grad.dtype == torch.float32
    assert torch.isfinite(evidence.grad).all()


@pytest.mark.parametrize("n", [1, 2, 5, 99])
def test_the_dynamic_hinge_equals_a_loop_over_the_hardest(n):
    scores, wanted = random_scores(), []
    for i in range(6):
        rows = sorted((max(0, 0.2 + scores[i, j] - scores[i, i]) for j in range(6) if j != i), reverse=True)[:n]
        columns = sorted((max(0, 0.2 + scores[j, i] - scores[i, i]) for j in range(6) if j != i), reverse=True)[:n]
        wanted.append(float(sum(rows) + sum(columns)) / min(n, 5))
    np.testing.assert_allclose(decl.dynamic_hinge(scores, 0.2, n), wanted)


def test_fewer_negatives_count_step_by_step():
    assert [decl.hardest(step, 128, 0.025, 5) for step in (1, 40, 41, 4919, 4921, 10**6)] == [127, 127, 126, 5, 5, 5]
    assert decl.hardest(100, 128, 1.0, 5) == 28


def test_answers_are_pairs_whose_evidence_is_not_beaten():
    evidence = torch.tensor([[5.0, 9.0, 1.0], [0.5, 4.0, 1.0], [1.0, 1.0, 1.0]])
    assert decl.answers(evidence).tolist() == [True, False, True]  # 10 against 9.5; 8 against 9.5; a tie
    assert decl.answers(torch.ones(4, 4)).all()


def test_the_loss_of_a_batch_is_a_mean_and_a_sum_and_leaves_out_the_hinge_of_wrong_pairs():
    method = build_method("decl", batch_size=6, eta=1.0, mu=2, margin=0.3, hinge_weight=0.7, divergence_weight=0.2)
    method.taken_, method.weights_ = np.array([1]), np.full((1, 9), np.nan)
    scores, numbers = random_scores(), np.array([8, 3, 0, 2, 7, 5])
    evidence, tanh = torch.exp(scores.logit().tanh() / 0.1), scores.logit().tanh()
    for labels in (torch.ones(6), torch.tensor([1.0, 0, 0, 1, 1, 0])):
        n = 6 - int(method.taken_[0]) - 1
        uncertain = decl.evidential(evidence, labels, 0.2) + decl.evidential(evidence.T, labels, 0.2)
        wanted = uncertain.mean() + 0.7 * (labels * decl.dynamic_hinge(tanh, 0.3, n)).sum()
        assert method.loss(0, scores, numbers).item() == pytest.approx(wanted.item())
        method.weights_[0, numbers] = [1, 0, 0, 1, 1, 0]
    assert method.taken_.tolist() == [3]


def test_wrong_pairs_are_asked_for_before_every_epoch_after_the_warm_up(tiny, monkeypatch):
    beliefs, asked, ask = [], [], decl.DECL.ask
    monkeypatch.setattr(decl.DECL, "ask", lambda self, data: asked.append(context.epoch) or ask(self, data))
    context = FitContext(observe=lambda: beliefs.append(method.clean_weights()) or {})
    method = build_method("decl", **SMALL, warm_up=2)
    fit_method(method, noisy(), context)
    assert asked == [2, 3]
    assert [found is None for found in beliefs] == [True, True, False, False]
    assert [row["selectable"] for row in context.history] == [0, 0, 1, 1]
    assert method.taken_.tolist() == [4 * 4]


# BiCro


def test_two_planted_beta_distributions_are_told_apart():
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.beta(2, 12, 600), rng.beta(8, 3, 400)])
    beliefs = bicro.beta_beliefs(3 * losses - 1)
    assert ((beliefs > 0.5) == (np.arange(1000) < 600)).mean() > 0.97
    assert np.isfinite(bicro.beta_beliefs(np.array([0.0, 0.0, 1.0, 1.0]))).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_above_the_lower_mean_no_larger_loss_is_believed_more(seed):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.exponential(0.01, 12_000), np.abs(rng.normal(0.15, 0.05, 8_000))])
    order = np.argsort(losses)
    beliefs, clean = bicro.beta_beliefs(losses)[order], (order < 12_000)
    above = losses[order] > 0.02  # twice the mean of the clean ones
    assert (np.diff(beliefs[above]) <= 0).all()
    assert beliefs[-200:].max() < 0.5
    assert ((beliefs > 0.5) == clean).mean() > 0.9
    np.testing.assert_allclose(bicro.beta_beliefs(losses[order]), beliefs, rtol=1e-9, err_msg="whatever the order of the pairs")


@pytest.mark.parametrize(
    ("losses", "spread", "why"),
    [
        ([0.1, 0.5], 1e-5, "collapsed, its scores deviate by 1.0e-05"),
        ([0.1, 0.1], 0.1, "the losses of the pairs are equal, so that none can be told apart"),
        ([0.1, np.nan], np.nan, "the losses of the pairs are not finite, so that none can be told apart"),
    ],
)
def test_losses_that_tell_nothing_leave_every_pair_clean_and_the_warning_says_why(losses, spread, why, caplog):
    method = build_method("bicro", **SMALL)
    method.weights_, method._peers = np.full((2, 2), np.nan), bicro.Peers()
    method._peers.pair_losses = lambda data: (np.array([losses, [0.1, 0.5]]), np.array([spread, 0.1]))
    method.estimate(None, FitContext())
    assert caplog.messages == [f"bicro, epoch -1, network A: {why}; all pairs are taken to be clean"]
    assert method.weights_[0].tolist() == [1, 1]
    assert method.weights_[1, 0] > 0.5 > method.weights_[1, 1]


def test_one_round_of_the_beta_mixture_by_hand(monkeypatch):
    monkeypatch.setattr(bicro, "ROUNDS_OF_EM", 1)
    x = np.array([0.0, 0.2, 0.5, 0.9, 1.0]).clip(1e-4, 1 - 1e-4)
    low = (1 - x) / (x + 1 - x)  # Beta(1, 2) has the density 2 (1 - x), Beta(2, 1) has 2 x
    densities = []
    for share in (low, 1 - low):
        mean = np.average(x, weights=share)
        variance = np.average((x - mean) ** 2, weights=share)
        a = mean * (mean * (1 - mean) / variance - 1)
        densities.append(share.mean() * beta(a, a * (1 - mean) / mean).pdf(x))
    np.testing.assert_allclose(bicro.beta_beliefs(np.array([0, 2, 5, 9, 10.0])), densities[0] / sum(densities), rtol=1e-9)


def test_the_warm_up_learns_from_the_smallest_losses():
    scores = random_scores()
    smallest = sorted(per_sample_loss(scores, 0.2).tolist())
    assert bicro.selected_mean(scores, 0.2, 0.5).item() == pytest.approx(sum(smallest[:3]))
    assert bicro.selected_mean(scores, 0.2, 1.0).item() == pytest.approx(mean_triplet(scores, 0.2).item())
    assert bicro.selected_mean(scores, 0.2, 0.01).item() == pytest.approx(smallest[0])


def test_labels_compare_both_similarities_with_the_nearest_anchor_by_hand():
    by_image = torch.tensor([[0.8, 0.2], [0.1, 0.5], [0.9, 0.0]])
    by_text = torch.tensor([[0.4, 0.9], [0.3, 0.6], [-0.3, 0.0]])
    assert bicro.consistency(by_image, by_text).tolist() == pytest.approx([0.5, 5 / 6, -3.0])
    assert bicro.consistency(by_text, by_image).tolist()[:2] == pytest.approx([2 / 9, 5 / 6])
    assert torch.isfinite(bicro.consistency(by_text, by_image)).all()
    assert bicro.kept(torch.tensor([-3.0, 0.5, 0.51, 1.2]), 0.5).tolist() == pytest.approx([0, 0, 0.51, 1])
    rows = torch.eye(3)
    assert bicro.agreement(rows, rows, rows[:2], rows[:2])[:2].tolist() == [1, 1], "an anchor agrees with itself"


def test_anchors_stand_out_most_and_means_leave_out_padding():
    scores = random_scores(20)
    order = np.argsort(-prominence(scores, 0.2).numpy())
    assert set(bicro.anchors(scores, 0.2).tolist()) == set(order[:3].tolist())
    words = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]])
    np.testing.assert_allclose(bicro.pooled(words, torch.tensor([2])), [[0.6, 0.8]], rtol=1e-6)


def test_anchors_have_label_one_and_noisy_pairs_are_learnt_from_first_and_late(monkeypatch):
    trained, hinge = [], bicro.hard_triplet
    monkeypatch.setattr(
        bicro, "hard_triplet", lambda scores, margin: trained.append((context.epoch, margin)) or hinge(scores, margin)
    )
    context = FitContext()
    method = fitted("bicro", context, warm_up=4, epochs=2)
    assert {epoch for epoch, _ in trained} == {4, 5}
    labels = context.records["rectified_labels"]
    for k in (0, 1):
        clean = method.weights_[1 - k] > 0.5
        assert (labels[k, clean] == 1).any()
        met = labels[k, ~np.isnan(labels[k])]
        assert ((met == 0) | ((met > 0.5) & (met <= 1))).all()
        assert not np.isnan(labels[k, ~clean]).all(), "the last epoch learns from noisy pairs too"
    early, late = ([margin.max().item() for epoch, margin in trained if epoch == at] for at in (4, 5))
    assert early + late[1::2] == pytest.approx([0.2] * (len(early) + len(late) // 2)), "clean batches, which have anchors"
    assert min(late[::2]) < 0.2, "noisy ones before them"


# All


@pytest.mark.parametrize("name", ["rcl", "crcl", "decl"])
def test_sgraf_is_one_network_of_each_kind(name):
    pairs, context, networks = PairData(noisy(), FitContext()), FitContext(), {}
    for backbone in ("sgr", "saf", "sgraf"):
        nets = build_method(name, **{**SMALL, "backbone": backbone}).begin(pairs, context)["nets"]
        networks[backbone] = [list(net.state_dict()) for net in nets]
    assert networks["sgraf"] == [*networks["sgr"], *networks["saf"]]
    assert networks["sgr"] != networks["saf"]


@cache
def whole(name):
    return fitted(name)


class Interrupted(Exception):
    """Stops a fit as a kill would."""


@pytest.mark.parametrize(
    ("name", "at"), [("rcl", 1), ("crcl", 1), ("crcl", 2), ("crcl", 3), ("decl", 2), ("decl", 3), ("bicro", 3)]
)
def test_an_interrupted_fit_goes_on_with_the_same_bits(name, at, tiny, tmp_path):
    def stop():
        if context.epoch == at:
            raise Interrupted
        return {}

    path = tmp_path / "checkpoint"
    context = FitContext(checkpoint=path, checkpoint_seconds=0, observe=stop)
    with pytest.raises(Interrupted):
        fitted(name, context)
    again = fitted(name, FitContext(checkpoint=path, checkpoint_seconds=0))
    assert torch.equal(weights_of(again.nets_), weights_of(whole(name).nets_))
    if name != "rcl":
        np.testing.assert_array_equal(again.clean_weights(), whole(name).clean_weights())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("rcl", {"q": 0.0}, r"rcl.q must lie in \(0, 1\], got 0.0"),
        ("crcl", {"beta": 1.5}, r"crcl.beta must lie in \[0, 1\], got 1.5"),
        ("crcl", {"restarts": -1}, "crcl.restarts must be 0 or more, got -1"),
        ("decl", {"mu": 0}, "decl.mu must be above 0, got 0"),
        ("bicro", {"warm_up_share": 0.0}, r"bicro.warm_up_share must lie in \(0, 1\], got 0.0"),
        ("decl", {"batch_size": 1}, "batch_size must be 2 or more"),
    ],
)
def test_what_has_no_meaning_is_refused(name, given, words):
    with pytest.raises(ValueError, match=words):
        build_method(name, **given)
