"""The losses for wrong labels on MRL's networks, by hand: gce, sce, elr, coteaching."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from baselines import ce, coteaching, elr, gce, sce
from baselines._backbones import PrototypeNetworks
from xmbench import FitContext, Noise, build_method, corrupt, load_dataset
from xmbench.evaluate import embed_split, measure
from xmbench.run import fit_method
from xmbench.spec import load_protocol

SMALL = {"hidden": 32, "dim": 16, "epochs": 3, "batch_size": 50, "lr": 1e-3}


def logits_and_labels(n=6, n_classes=5, scale=3.0):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(scale * rng.standard_normal((n, n_classes))).requires_grad_()
    return logits, torch.from_numpy(rng.integers(n_classes, size=n))


def synthetic(**parameters):
    return load_dataset("synthetic", **{"train": 120, **parameters})


def fitted(name, train, **parameters):
    method = build_method(name, **{**SMALL, **parameters})
    fit_method(method, train, FitContext())
    return method


def first_network(method, split):
    """The vectors of all modalities, embedded by the method's first or only network."""
    made = [method.embed(replace(m, labels=None, item_ids=None)) for m in split.modalities]
    return [(m[0] if isinstance(m, list) else m).values for m in made]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("gce", {"q": 1e-6}),
        ("sce", {"alpha": 1.0, "beta": 0.0}),
        ("elr", {"weight": 0.0}),
        ("coteaching", {"forget_rate": 0.0}),
    ],
)
def test_each_has_plain_cross_entropy_as_a_limit(name, limit):
    data = synthetic()
    plain = first_network(fitted("ce", data.train), data.valid)
    for ours, wanted in zip(first_network(fitted(name, data.train, **limit), data.valid), plain, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    default = first_network(fitted(name, data.train), data.valid)
    assert not any(np.allclose(a, b, atol=1e-3) for a, b in zip(default, plain, strict=True))


@pytest.mark.parametrize(
    ("module", "name", "term"),
    [
        (gce, "gce", "generalised_cross_entropy"),
        (sce, "sce", "symmetric_cross_entropy"),
        (elr, "elr", "cross_entropy"),
        (elr, "elr", "early_learning"),
        (coteaching, "coteaching", "cross_entropy"),
    ],
)
def test_the_losses_see_cosines_over_the_temperature(module, name, term, monkeypatch):
    largest, loss = [], getattr(module, term)
    monkeypatch.setattr(module, term, lambda s, *args, **kw: largest.append(s.abs().max().item()) or loss(s, *args, **kw))
    for tau in (1.0, 0.1):
        largest.clear()
        fitted(name, synthetic().train, tau=tau, epochs=1, lr=1e-9)
        assert 0.3 / tau < max(largest) <= 1.0001 / tau


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gce", {"q": 0.0}),
        ("gce", {"q": 1.1}),
        ("sce", {"alpha": 0.0, "beta": 0.0}),
        ("sce", {"beta": -1.0}),
        ("elr", {"weight": -1.0}),
        ("elr", {"beta": 1.0}),
        ("coteaching", {"forget_rate": 1.0}),
        ("coteaching", {"gradual": 0}),
    ],
)
def test_parameters_out_of_range_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name}.{next(iter(wrong))}.* must .*, got"):
        build_method(name, **wrong)


# gce


def test_generalised_cross_entropy_by_hand_and_at_its_ends():
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    by_hand = gce.generalised_cross_entropy(logits, torch.tensor([0]), 0.7)
    assert by_hand.item() == pytest.approx((1 - 0.75**0.7) / 0.7, abs=1e-12)
    logits, labels = logits_and_labels()
    p = logits.detach().softmax(dim=1)
    absolute = (p - one_hot(labels, 5)).abs().sum(dim=1).mean() / 2
    assert gce.generalised_cross_entropy(logits, labels, 1.0).item() == pytest.approx(absolute.item(), abs=1e-12)
    plain = cross_entropy(logits, labels).item()
    assert gce.generalised_cross_entropy(logits, labels, 1e-7).item() == pytest.approx(plain, abs=1e-5)


def test_generalised_cross_entropy_weights_each_gradient_by_the_belief_in_its_label():
    logits, labels = logits_and_labels()
    gce.generalised_cross_entropy(logits, labels, 0.7).backward()
    p = logits.detach().softmax(dim=1)
    plain = (p - one_hot(labels, 5)) / len(labels)
    assert torch.allclose(logits.grad, plain * p[torch.arange(6), labels][:, None] ** 0.7, atol=1e-12)


# sce


def test_symmetric_cross_entropy_by_hand():
    logits, labels = logits_and_labels()
    p = logits.detach().softmax(dim=1).numpy()
    forward, reverse = [], []
    for j, y in enumerate(labels.tolist()):
        log_q = [0.0 if k == y else -4.0 for k in range(5)]
        forward.append(-math.log(p[j, y]))
        reverse.append(-sum(p[j, k] * log_q[k] for k in range(5)))
    for alpha, beta in ((0.1, 1.0), (1.0, 0.0), (0.0, 1.0), (6.0, 0.1)):
        wanted = alpha * np.mean(forward) + beta * np.mean(reverse)
        assert sce.symmetric_cross_entropy(logits, labels, alpha, beta).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, y: gce.generalised_cross_entropy(s, y, 0.7),
        lambda s, y: sce.symmetric_cross_entropy(s, y, 0.1, 1.0),
        lambda s, y: elr.early_learning(s, elr.ensembled(torch.zeros(2, 2), s, 0.7)),
    ],
    ids=["gce", "sce", "elr"],
)
def test_losses_stay_finite_where_the_softmax_rounds_to_zero_and_one(loss):
    logits = torch.tensor([[500.0, -500.0], [-500.0, 500.0]], requires_grad=True)
    value = loss(logits, torch.tensor([0, 0]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


# elr


def test_early_learning_has_the_gradient_that_the_paper_gives():
    logits, _ = logits_and_labels(scale=1.0)
    targets = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(5), size=6))
    value = elr.early_learning(logits, targets)
    value.backward()
    p = logits.detach().softmax(dim=1)
    agreement = (p * targets).sum(dim=1)
    assert value.item() == pytest.approx(torch.log(1 - agreement).mean().item(), abs=1e-12)
    for j in range(6):
        for c in range(5):
            pulls = sum((targets[j, k] - targets[j, c]) * p[j, k] for k in range(5))
            assert logits.grad[j, c].item() == pytest.approx((p[j, c] / (1 - agreement[j]) * pulls).item() / 6, abs=1e-12)


def test_targets_are_a_running_mean_of_clamped_predictions():
    first, second = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[1.0, 1e-9]]).log()
    once = elr.ensembled(torch.zeros(1, 2), first, 0.7)
    assert once.tolist() == [[pytest.approx(0.225), pytest.approx(0.075)]]
    twice = elr.ensembled(once, second.requires_grad_(), 0.7)
    assert twice.tolist() == [[pytest.approx(0.7 * 0.225 + 0.3 * 0.9999), pytest.approx(0.7 * 0.075 + 0.3 * 0.0001)]]
    assert not twice.requires_grad


def test_every_item_of_every_modality_keeps_its_own_targets():
    image, text = synthetic(train=30).train.modalities
    train = replace(synthetic(train=30).train, modalities=(image.take(np.arange(20)), text), pairs=None)
    method = build_method("elr", **{**SMALL, "epochs": 2, "batch_size": 1, "lr": 1e-12})
    method.fit(train, FitContext())
    moves = {"image": np.where(np.arange(20) < 10, 4, 2), "text": np.full(30, 2)}  # in two epochs of 30 steps
    for m, embedding in zip(train.modalities, first_network(method, train), strict=True):
        p = method.nets_.scores(torch.from_numpy(embedding)).softmax(dim=1).detach().numpy()
        np.testing.assert_allclose(method.targets_[m.name], p * (1 - 0.7 ** moves[m.name])[:, None], atol=1e-6)


# coteaching


@pytest.mark.parametrize(("rate", "kept"), [(1.0, 7), (0.8, 5), (0.5, 3), (0.05, 1)])
def test_the_smallest_losses_are_chosen(rate, kept):
    losses = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0])
    wanted = sorted(sorted(range(7), key=lambda j: losses[j])[:kept])
    assert coteaching.small_loss(losses, rate).tolist() == wanted


def test_the_remember_rate_falls_to_its_end_and_stays(monkeypatch):
    schedule = [coteaching.remember_rate(epoch, 0.2, 10) for epoch in (0, 1, 5, 10, 25)]
    assert schedule == pytest.approx([1.0, 0.98, 0.9, 0.8, 0.8])
    rates, choose = [], coteaching.small_loss
    monkeypatch.setattr(coteaching, "small_loss", lambda losses, rate: rates.append(rate) or choose(losses, rate))
    fitted("coteaching", synthetic().train, epochs=4, batch_size=200, forget_rate=0.4, gradual=2)
    assert rates[::4] == pytest.approx([1.0, 0.8, 0.6, 0.6]), "two networks and two modalities per batch"
    assert len(rates) == 16


def test_each_network_learns_from_what_the_other_chose(monkeypatch):
    train = synthetic(train=20).train
    method = fitted("coteaching", train, epochs=1)
    learnt, mean = [], coteaching.peer_loss
    monkeypatch.setattr(coteaching, "peer_loss", lambda *args: learnt.append(args) or mean(*args))
    vectors = {m.name: torch.from_numpy(np.asarray(m.vectors)) for m in train.modalities}
    labels = [torch.from_numpy(m.labels.argmax(axis=1)) for m in train.modalities]
    for net in method.nets_:
        net.renormalise()
    expected = []
    for (name, x), y in zip(vectors.items(), labels, strict=True):
        losses = [cross_entropy(net.scores(net(name, x)), y, reduction="none").tolist() for net in method.nets_]
        choices = [sorted(sorted(range(20), key=lambda j, own=own: own[j])[:10]) for own in losses]
        assert choices[0] != choices[1]
        expected += [(losses[0], choices[1]), (losses[1], choices[0])]
    both = torch.nn.ModuleList(method.nets_)
    loss = method.step(vectors, labels, 0.5, torch.optim.SGD(both.parameters(), lr=0.0))
    for (losses, chosen), (wanted, choice) in zip(learnt, expected, strict=True):
        assert losses.tolist() == pytest.approx(wanted, abs=1e-5)
        assert chosen.tolist() == choice
    assert loss.item() == pytest.approx(sum(np.take(wanted, choice).mean() for wanted, choice in expected) / 2, abs=1e-5)


def test_without_forgetting_the_second_network_is_a_cross_entropy_of_its_own(monkeypatch):
    data, context = synthetic(), FitContext()
    method = fitted("coteaching", data.train, forget_rate=0.0)
    context.seed_torch()
    _, second = (PrototypeNetworks(data.train, SMALL["hidden"], SMALL["dim"]) for _ in range(2))
    monkeypatch.setattr(ce, "PrototypeNetworks", lambda *_: second)
    for ours, wanted in zip(
        [method.embed(m)[1].values for m in data.valid.modalities],
        first_network(fitted("ce", data.train), data.valid),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


# Robustness


@cache
def last_score_under_wrong_labels(name, **parameters):
    """Mean MAP after the last epoch at rate 0.6, on classes that a clean fit tells apart."""
    data = load_dataset("synthetic", train=400, class_signal=3.0, instance_signal=0.5)
    train = corrupt(data.train, Noise("symmetric", 0.6, 0), family="synthetic").train
    method = fitted(name, train, hidden=64, dim=32, epochs=30, **parameters)
    embeddings = embed_split(method, data.tests["test"], "float32", 0)
    return measure(method, data.tests["test"], embeddings, load_protocol("default")).value("map")


@pytest.mark.parametrize(("name", "parameters"), [("gce", {}), ("sce", {}), ("elr", {"tau": 0.1}), ("coteaching", {})])
def test_the_last_epoch_under_wrong_labels_is_better_than_that_of_cross_entropy(name, parameters):
    assert last_score_under_wrong_labels(name, **parameters) > last_score_under_wrong_labels("ce") + 0.05
