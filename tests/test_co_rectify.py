"""NCR and LNC: the schedule against a plain loop, every switch, what happens at the edges, and resuming."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from baselines import _co_rectify, lnc
from baselines import _correspondence as co
from baselines._co_rectify import endless, rounds
from baselines._ranking import PairData
from xmbench import FitContext, build_method, load_dataset
from xmbench.registry import find_method

SMALL = {"dim": 8, "similarity_dim": 4, "steps": 1, "word_dim": 8, "batch_size": 10, "lr": 0.01, "warm_up": 1, "epochs": 2}


def mismatched(train, rate, seed=0):
    """The split with the images of some captions exchanged in a circle, and the truth about its pairs."""
    pairs = train.pairs.copy()
    hit = np.random.default_rng(seed).permutation(len(pairs))[: int(rate * len(pairs))]
    pairs[hit, 0] = pairs[np.roll(hit, 1), 0]
    return replace(train, pairs=pairs, clean_pairs=pairs[:, 0] == train.pairs[:, 0])


def data(n=44, **parameters):
    return load_dataset("synthetic", regions=4, train=n, **parameters)


class TinyNetwork(nn.Module):
    """Cosine of the mean region and the mean word, through one layer each: fast, and with a random mask in training."""

    def __init__(self, region_dim, n_words, dim):
        super().__init__()
        self.image, self.words = nn.Linear(region_dim, dim), nn.Embedding(n_words, dim, padding_idx=0)
        self.mask = nn.Dropout(0.1)

    def forward(self, regions, tokens, lengths):
        images = nn.functional.normalize(self.mask(self.image(regions.mean(dim=1))), dim=1)
        return images @ nn.functional.normalize(self.words(tokens).sum(dim=1), dim=1).T


@pytest.fixture
def tiny(monkeypatch):
    """Let both methods learn tiny networks."""

    def network(backbone, *, region_dim, n_words, dim, **unused):
        return TinyNetwork(region_dim, n_words, dim)

    monkeypatch.setattr(_co_rectify, "matching_network", network)


def fitted(name, train, context=None, **parameters):
    method = build_method(name, **{**SMALL, **parameters})
    torch.manual_seed(0)
    method.fit(train, context or FitContext())
    return method


def weights_of(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# The schedule


def plain_ncr(train, context, margin, psi, broadcast, form, noisy_start, warm_up, epochs, batch_size, lr, lr_update, dim):
    """NCR on tiny networks as one straight loop: the networks, and the weights of the last division."""
    torch.manual_seed(0)
    pairs = PairData(train, context)
    n = len(pairs)
    nets = [TinyNetwork(pairs.sizes["region_dim"], pairs.sizes["n_words"], dim) for _ in "AB"]
    adams = [torch.optim.Adam(net.parameters(), lr=lr, fused=True) for net in nets]

    def scores(net, batch, training):
        return net.train(training)(batch.images, batch.captions, batch.lengths)

    def drawn(numbers):
        for rows in context.batches(len(numbers), batch_size, even=True):
            yield pairs.batch(numbers[rows])

    def learn(k, loss):
        adams[k].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(nets[k].parameters(), 2.0)
        adams[k].step()

    def belief(net, batch):
        with torch.no_grad():
            return co.prediction(scores(net, batch, False), margin, form)[0]

    for epoch in context.epochs(warm_up + epochs, state={"nets": nn.ModuleList(nets)}):
        if epoch < warm_up:
            for k in (0, 1):
                for batch in drawn(np.arange(n)):
                    learn(k, co.mean_triplet(scores(nets[k], batch, True), margin))
            context.end_epoch(loss=0.0)
            continue
        for adam in adams:
            adam.param_groups[0]["lr"] = lr * 0.1 ** ((epoch - warm_up) // lr_update)
        losses = np.zeros((2, n))
        for batch in drawn(np.arange(n)):
            for k in (0, 1):
                with torch.no_grad():
                    losses[k, batch.numbers] = co.per_sample_loss(scores(nets[k], batch, False), margin)
        w = [co.clean_beliefs(row, "plain loop") for row in losses]
        for k, other in ((0, 1), (1, 0)):
            clean = w[other] > 0.5
            assert 2 <= clean.sum() < n, "a division with two sides is what this compares"
            again = iter(())
            for batch in drawn(np.flatnonzero(clean)):
                trained = [
                    (batch, co.clean_labels(torch.tensor(w[other][batch.numbers]).float(), belief(nets[k], batch), broadcast))
                ]
                if epoch - warm_up >= int(noisy_start * epochs) and (~clean).sum() >= 2:
                    more = next(again, None)
                    if more is None:
                        again = drawn(np.flatnonzero(~clean))
                        more = next(again)
                    trained.append((more, co.noisy_labels(belief(nets[0], more), belief(nets[1], more), broadcast)))
                for one, labels in trained:
                    learn(k, co.hard_triplet(scores(nets[k], one, True), co.soft_margin(labels, psi, margin)))
        context.end_epoch(loss=0.0)
    return nets, w


@pytest.mark.parametrize(
    ("psi", "broadcast", "form", "noisy_start"),
    [
        ("exponential", "intended", "hinge", 0.5),
        ("exponential", "ncr_code", "hinge", 0.0),
        ("linear", "intended", "raw", 1.0),
        ("sin", "ncr_code", "raw", 0.0),
    ],
)
def test_ncr_is_its_schedule_as_a_plain_loop(psi, broadcast, form, noisy_start, tiny):
    train = mismatched(data(60).train, 0.4)
    settings = {"margin": 0.2, "psi": psi, "noisy_start": noisy_start, "warm_up": 3, "epochs": 4, "lr_update": 3}
    shared = {"batch_size": 10, "lr": 0.01, "dim": 8}
    method = fitted("ncr", train, **settings, **shared, margin_broadcast=broadcast, prediction=form)
    nets, w = plain_ncr(train, FitContext(), **settings, **shared, broadcast=broadcast, form=form)
    for ours, plain in zip(method.nets_, nets, strict=True):
        np.testing.assert_allclose(weights_of(ours), weights_of(plain), atol=1e-5)
    np.testing.assert_allclose(method.clean_weights(), w, atol=1e-5)


@pytest.mark.parametrize(
    "switch", [{"margin_broadcast": "ncr_code"}, {"prediction": "raw"}, {"psi": "linear"}, {"noisy_start": 0.0}]
)
def test_every_switch_between_paper_and_code_changes_the_fit(switch, tiny):
    train = mismatched(data(60).train, 0.4)
    default, other = (fitted("ncr", train, warm_up=2, epochs=4, **given) for given in ({}, switch))
    assert not torch.allclose(weights_of(default.nets_), weights_of(other.nets_), atol=1e-4)


def test_without_noise_and_doubt_ncr_is_sgr_star(monkeypatch):
    train = data(20).train
    ours = fitted("ncr", train, oracle=True, psi="linear")
    theirs = build_method("sgr_star", **SMALL)
    torch.manual_seed(0)
    theirs.fit(train, FitContext())
    assert torch.equal(weights_of(ours.nets_[0]), weights_of(theirs.nets_[0]))
    assert not torch.equal(weights_of(ours.nets_[0]), weights_of(ours.nets_[1]))


def test_learning_rates_do_not_count_warm_up_and_it_is_not_selected(tiny, monkeypatch):
    rates, set_rate = [], _co_rectify.set_rate
    monkeypatch.setattr(_co_rectify, "set_rate", lambda optimiser, lr: rates.append(lr) or set_rate(optimiser, lr))
    context = FitContext(validate=lambda: {"rsum": -context.epoch})
    fitted("ncr", data().train, context, warm_up=3, epochs=4, lr_update=2)
    assert rates[::2] == pytest.approx([0.01] * 5 + [0.001] * 2)
    assert [row["selectable"] for row in context.history] == [0.0] * 3 + [1.0] * 4
    assert context.best["rsum"].epoch == 3


def test_clean_pairs_set_the_length_of_an_epoch_and_noisy_ones_begin_again():
    context = FitContext()
    pairs, clean, noisy = PairData(data(40).train, context), np.arange(27), np.arange(27, 40)
    context.epoch = 0
    seen = list(rounds(pairs, 5, clean, noisy))
    assert sorted(np.concatenate([batch.numbers for batch, _ in seen])) == clean.tolist()
    assert len(seen) == 5
    others = [batch.numbers for _, batch in seen]
    assert sorted(np.concatenate(others[:2])) == sorted(np.concatenate(others[2:4])) == noisy.tolist()
    assert [batch for _, batch in rounds(pairs, 5, clean, noisy[:1])] == [None] * 5
    assert sum(len(batch.numbers) for none, batch in rounds(pairs, 5, clean[:1], noisy) if none is None) == 13
    assert list(rounds(pairs, 5, clean[:1], noisy[:0])) == []
    assert len(list(islice(endless(pairs, 5, noisy), 9))) == 9


# What is believed


def test_weights_are_unknown_before_the_first_division_and_follow_the_pair_list_after_it(tiny):
    beliefs, method = [], build_method("ncr", **SMALL | {"warm_up": 2})
    context = FitContext(observe=lambda: beliefs.append(method.clean_weights()) or {})
    method.fit(mismatched(data().train, 0.3), context)
    assert [found is None for found in beliefs] == [True, True, False, False]
    assert [w.shape for w in beliefs[-1]] == [(44,), (44,)]
    assert all(((w >= 0) & (w <= 1)).all() for w in beliefs[-1])
    np.testing.assert_array_equal(context.records["clean_weights"], beliefs[-1])
    assert context.records["pair_losses"].shape == (2, 44)


def test_the_best_epoch_brings_its_weights_back(tiny):
    beliefs, method = [], build_method("ncr", **SMALL | {"epochs": 3})
    context = FitContext(
        validate=lambda: {"rsum": -context.epoch}, observe=lambda: beliefs.append(method.clean_weights()) or {}
    )
    method.fit(mismatched(data().train, 0.3), context)
    assert context.restore_best("rsum") == 1
    np.testing.assert_array_equal(method.clean_weights(), beliefs[1])
    assert not np.array_equal(beliefs[1], beliefs[3])


def test_wrong_pairs_are_detected_after_warm_up():
    train = mismatched(data(600, noise=0.2).train, 0.2)
    settings = {"backbone": "scan_t2i", "dim": 32, "word_dim": 32, "batch_size": 32, "lr": 0.01, "warm_up": 5, "epochs": 1}
    weights = fitted("ncr", train, **settings).clean_weights()
    assert roc_auc_score(train.clean_pairs, np.mean(weights, axis=0)) > 0.9
    assert np.mean([w[train.clean_pairs].mean() - w[~train.clean_pairs].mean() for w in weights]) > 0.5


@pytest.mark.parametrize("name", ["ncr", "lnc"])
def test_an_oracle_is_told_the_truth_and_nobody_else(name, tiny, monkeypatch):
    assert build_method(name).needs() == {"sequences", "tokens", "pairs"}
    assert build_method(name, oracle=True).needs() == {"sequences", "tokens", "pairs", "clean"}
    monkeypatch.setattr(_co_rectify, "clean_beliefs", lambda *_: pytest.fail("an oracle estimates nothing"))
    train, context = mismatched(data().train, 0.3), FitContext()
    method = fitted(name, train, context, oracle=True, warm_up=2, noisy_start=1.0)
    np.testing.assert_array_equal(method.clean_weights(), [train.clean_pairs] * 2)
    labels = context.records["rectified_labels"]
    assert (labels[:, train.clean_pairs] == 1).all()
    assert np.isnan(labels[:, ~train.clean_pairs]).all(), "noisy pairs are not trained on yet"
    assert torch.isfinite(weights_of(method.nets_[0])).all()


@pytest.mark.parametrize("name", ["ncr", "lnc"])
def test_each_network_embeds_and_scores_for_itself(name):
    split = data(20)
    method = fitted(name, split.train, backbone="saf")
    images, captions = (method.embed(m.take(np.arange(7))) for m in split.valid.modalities)
    assert [e.network for e in images] == [e.network for e in captions] == [0, 1]
    image, caption = (m.take(np.arange(7)) for m in split.valid.modalities)
    for net, first, second in zip(method.nets_, images, captions, strict=True):
        given = (
            torch.from_numpy(np.asarray(image.sequences)),
            torch.from_numpy(caption.tokens),
            torch.from_numpy(caption.lengths),
        )
        with torch.no_grad():
            np.testing.assert_allclose(method.similarity(first, second), net.eval()(*given), atol=1e-5)
    assert np.abs(method.similarity(images[0], captions[0]) - method.similarity(images[1], captions[1])).max() > 1e-4


# LNC


def test_lnc_without_its_warm_up_is_ncr_to_the_bit(tiny):
    train = mismatched(data().train, 0.3)
    ncr = fitted("ncr", train, warm_up=3)
    for switches, same in (({"momentum_weight": 0.0, "abandon": False}, True), ({"abandon": False}, False)):
        ours = fitted("lnc", train, warm_up=3, **switches)
        pairs = zip(ours.nets_, ncr.nets_, strict=True)
        assert all(torch.equal(weights_of(a), weights_of(b)) == same for a, b in pairs)


def test_momentum_by_hand():
    gamma, predictions = torch.tensor([1.0, 0.5]), torch.tensor([0.2, 0.9], requires_grad=True)
    once = lnc.momentum(gamma, predictions, 0.9)
    assert once.tolist() == pytest.approx([0.92, 0.54])
    assert not once.requires_grad
    assert lnc.momentum(gamma, predictions, 1.0).tolist() == gamma.tolist()
    assert lnc.momentum(gamma, predictions, 0.0).tolist() == predictions.tolist()
    loss = lnc.momentum_regularisation(predictions, once)
    loss.backward()
    assert loss.item() == pytest.approx((0.72**2 + 0.36**2) / 2)
    assert predictions.grad.tolist() == pytest.approx([-0.72, 0.36])


def test_the_warm_up_loss_adds_the_regularisation_of_the_visited_pairs():
    method = build_method("lnc", momentum_weight=0.5, beta=0.8)
    method.memory(6, "cpu")
    scores, numbers = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)), np.array([4, 0, 2])
    wanted, (p, _) = co.mean_triplet(scores, 0.2), co.prediction(scores, 0.2)
    loss = method.warm_up_loss(scores, numbers, 1)
    gamma = 0.8 + 0.2 * p
    assert loss.item() == pytest.approx((wanted + 0.5 * ((p - gamma) ** 2).sum()).item(), abs=1e-6)
    np.testing.assert_allclose(method.gamma_[1, numbers], gamma, atol=1e-6)
    assert method.gamma_[1, [1, 3, 5]].tolist() == [1.0] * 3
    assert method.gamma_[0].tolist() == [1.0] * 6


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_gamma_is_updated_once_per_warm_up_epoch(beta, tiny, monkeypatch):
    seen = torch.ones(2, 44)
    predict = lnc.prediction

    def step(self, scores, numbers, network, wrapped=lnc.LNC.warm_up_loss):
        seen[network, numbers] = beta * seen[network, numbers] + (1 - beta) * predict(scores.detach(), 0.2)[0]
        return wrapped(self, scores, numbers, network)

    monkeypatch.setattr(lnc.LNC, "warm_up_loss", step)
    method = fitted("lnc", data().train, warm_up=2, beta=beta, abandon=False)
    np.testing.assert_allclose(method.gamma_, seen, atol=1e-6)
    assert (method.gamma_ == 1).all().item() == (beta == 1.0)


def test_abandoned_pairs_are_half_of_those_that_both_networks_suspect():
    weights = np.random.default_rng(0).uniform(size=(2, 101))
    suspects = set(np.flatnonzero((weights[0] < 0.5) & (weights[1] < 0.5)))
    draws = [set(range(101)) - set(lnc.kept_pairs(weights, np.random.default_rng(seed))) for seed in range(40)]
    assert len(suspects) % 2 == 1
    assert {len(dropped) for dropped in draws} == {len(suspects) // 2}
    assert set.union(*draws) == suspects
    assert lnc.kept_pairs(np.full((2, 5), 0.5), np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4]


def test_suspects_are_found_and_their_half_is_drawn_anew_before_every_warm_up_epoch_but_the_first(tiny, monkeypatch):
    trained: list[list[int]] = []
    step = lnc.LNC.warm_up_loss
    monkeypatch.setattr(lnc.LNC, "warm_up_loss", lambda *args: trained[-1].extend(args[2].tolist()) or step(*args))
    wanted, keep = [list(range(44))], lnc.kept_pairs
    monkeypatch.setattr(lnc, "kept_pairs", lambda *args: wanted.append(keep(*args).tolist()) or np.array(wanted[-1]))
    context = FitContext(observe=lambda: trained.append([]) or {})
    trained.append([])
    fitted("lnc", mismatched(data().train, 0.5), context, warm_up=4)
    assert [sorted(numbers) for numbers in trained[:4]] == [sorted(2 * kept) for kept in wanted]
    assert len(wanted[1]) < 44
    assert wanted[2] != wanted[3]


TABLE_8 = {
    "no warm-up": {"warm_up": 0},
    "no division": {"momentum_weight": 0.0, "abandon": False, "co_divide": False},
    "no rectification": {"momentum_weight": 0.0, "abandon": False, "co_rectify": False},
    "vanilla": {"momentum_weight": 0.0, "abandon": False},
    "MR": {"abandon": False},
    "RNA": {"momentum_weight": 0.0},
    "both": {},
}


def test_every_row_of_table_8_is_another_fit(tiny):
    train = mismatched(data().train, 0.4)
    rows = {row: weights_of(fitted("lnc", train, **{"warm_up": 3, **switches}).nets_[0]) for row, switches in TABLE_8.items()}
    assert all(torch.isfinite(row).all() for row in rows.values())
    names = list(rows)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.allclose(rows[a], rows[b], atol=1e-4)]


def test_without_division_every_pair_is_trained_on_with_the_mean_of_both_predictions(tiny, monkeypatch):
    monkeypatch.setattr(_co_rectify, "per_sample_loss", lambda *_: pytest.fail("nothing is to be divided"))
    monkeypatch.setattr(_co_rectify, "clean_labels", lambda *_: pytest.fail("no pair counts as clean"))
    context = FitContext()
    method = fitted("lnc", data().train, context, co_divide=False, abandon=False, epochs=1, noisy_start=1.0)
    assert np.isfinite(context.records["rectified_labels"]).all()
    assert method.clean_weights() is None


def test_without_rectification_clean_pairs_have_the_whole_margin_and_noisy_ones_are_left_out(tiny, monkeypatch):
    monkeypatch.setattr(_co_rectify, "prediction", lambda *_: pytest.fail("nothing is to be predicted"))
    context = FitContext()
    method = fitted("ncr", mismatched(data().train, 0.4), context, co_rectify=False, noisy_start=0.0, warm_up=3, epochs=1)
    labels, (first, second) = context.records["rectified_labels"], method.clean_weights()
    assert (labels[0] == 1).tolist() == (second > 0.5).tolist()
    assert (labels[1] == 1).tolist() == (first > 0.5).tolist()
    assert np.isnan(labels[0][second <= 0.5]).all()


def test_the_boundary_of_sigmoid_margins_is_between_clean_and_noisy_labels(tiny, monkeypatch):
    used, margins = [], _co_rectify.soft_margin
    monkeypatch.setattr(_co_rectify, "soft_margin", lambda *args: used.append((args[0], args[3])) or margins(*args))
    fitted("lnc", mismatched(data().train, 0.4), psi="sigmoid", warm_up=3, epochs=1, noisy_start=0.0)
    for (clean, boundary), (noisy, same) in zip(used[::2], used[1::2], strict=True):
        assert boundary.item() == same.item() == pytest.approx(((clean.mean() + noisy.mean()) / 2).item())
    used.clear()
    method = fitted("lnc", mismatched(data().train, 0.4), psi="sigmoid", warm_up=3, epochs=1, noisy_start=1.0)
    assert sum(len(labels) for labels, _ in used) == np.sum(np.array(method.clean_weights()) > 0.5), "noisy ones only predicted"
    assert any(abs(boundary.item() - clean.mean().item()) > 0.01 for clean, boundary in used)


# At the edges


def test_with_no_clean_pair_the_rectified_labels_of_all_are_learnt_from(tiny, caplog):
    train, context = mismatched(data().train, 0.0), FitContext()
    train = replace(train, clean_pairs=np.zeros(44, dtype=bool))
    method = fitted("ncr", train, context, oracle=True, epochs=1)
    assert caplog.messages[0].startswith("ncr, epoch 1, network A: 0 of 44 pairs are believed clean")
    assert np.isfinite(context.records["rectified_labels"]).all()
    assert torch.isfinite(weights_of(method.nets_[0])).all()
    before = weights_of(fitted("ncr", train, oracle=True, epochs=1, co_rectify=False).nets_[0])
    assert caplog.messages[-1].endswith("it trains on nothing")
    assert torch.isfinite(before).all()


class Constant(TinyNetwork):
    """Scores every pair alike, or own pairs far below all others where `own` is set, whatever it learns."""

    own = 0.0

    def forward(self, regions, tokens, lengths):
        return self.own * torch.eye(len(regions)) + 0.0 * super().forward(regions, tokens, lengths)


@pytest.mark.parametrize(("own", "warned"), [(0.0, "collapsed"), (-1.0, "tau is near zero")])
def test_a_network_that_tells_nothing_is_warned_of_and_leaves_finite_weights(own, warned, tiny, monkeypatch, caplog):
    monkeypatch.setattr(
        _co_rectify, "matching_network", lambda _, region_dim, n_words, dim, **__: Constant(region_dim, n_words, dim)
    )
    monkeypatch.setattr(Constant, "own", own)
    context = FitContext()
    method = fitted("ncr", data().train, context, epochs=1, noisy_start=0.0)
    found = [message for message in caplog.messages if warned in message]
    assert [message[:25] for message in found] == ["ncr, epoch 1, network A: ", "ncr, epoch 1, network B: "]
    assert all(np.isfinite(w).all() for w in method.clean_weights())
    assert np.isfinite(context.history[-1]["loss"])
    assert np.isfinite(context.records["rectified_labels"]).all()


def test_equal_losses_leave_every_pair_clean(tiny, monkeypatch, caplog):
    monkeypatch.setattr(_co_rectify, "per_sample_loss", lambda scores, margin: torch.full((len(scores),), 0.3))
    method = fitted("lnc", data().train, warm_up=2, epochs=1)
    assert [message[:25] for message in caplog.messages][:2] == ["lnc, epoch 1, network A: ", "lnc, epoch 1, network B: "]
    assert np.mean(method.clean_weights()) == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ncr", {"warm_up": -1}),
        ("ncr", {"noisy_start": 1.5}),
        ("ncr", {"backbone": "vsrn"}),
        ("ncr", {"psi": "cubic"}),
        ("ncr", {"co_divide": False, "co_rectify": False}),
        ("lnc", {"momentum_weight": -0.1}),
        ("lnc", {"beta": 1.1}),
    ],
)
def test_parameters_out_of_range_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name}.*{next(iter(wrong))}.*(got|left)"):
        build_method(name, **wrong)


@pytest.mark.parametrize("name", ["ncr", "lnc"])
@pytest.mark.parametrize("stop", [0, 2])
def test_a_fit_resumes_to_the_bit(name, stop, tiny, tmp_path):
    train, settings = mismatched(data().train, 0.4), {"warm_up": 2, "epochs": 2}

    def stopping():
        if context.epoch == stop + 1:
            raise KeyboardInterrupt
        return {}

    whole_context = FitContext()
    whole = fitted(name, train, whole_context, **settings)
    context = FitContext(checkpoint=tmp_path / "fit.pt", checkpoint_seconds=0.0, validate=stopping)
    with pytest.raises(KeyboardInterrupt):
        fitted(name, train, context, **settings)
    resumed_context = FitContext(checkpoint=tmp_path / "fit.pt")
    resumed = fitted(name, train, resumed_context, **settings)
    assert resumed_context.history == whole_context.history
    assert torch.equal(weights_of(resumed.nets_), weights_of(whole.nets_))
    np.testing.assert_array_equal(resumed.clean_weights(), whole.clean_weights())
    for record in ("rectified_labels", "pair_losses"):
        np.testing.assert_array_equal(resumed_context.records[record], whole_context.records[record])


@pytest.mark.parametrize("name", ["ncr", "lnc"])
def test_smoke_settings_beat_chance(name):
    split, method = data(400), build_method(name, **find_method(name).info.smoke)
    torch.manual_seed(0)
    method.fit(split.train, FitContext())
    images, captions = (method.embed(m) for m in split.tests["test"].modalities)
    similarity = np.mean([method.similarity(*pair) for pair in zip(images, captions, strict=True)], axis=0)
    assert (similarity.argsort(axis=1)[:, -10:] == np.arange(200)[:, None]).any(axis=1).mean() > 0.3
