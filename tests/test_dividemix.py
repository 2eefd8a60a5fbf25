"""DivideMix + SGR: a stage like NCR without rectification, a filter, a stage like SGR*; and with the truth as filter, SGR-C."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_co_rectify import TinyNetwork, data, mismatched, weights_of

from baselines import _co_rectify, _ranking
from xmbench import FitContext, build_method
from xmbench.run import fit_method

SHARED = {"dim": 8, "similarity_dim": 4, "steps": 1, "word_dim": 8, "batch_size": 10, "lr": 0.01, "warm_up": 2}
SMALL = {**SHARED, "filter_epochs": 2, "epochs": 2}


def noisy():
    return mismatched(data(40).train, 0.4)


@pytest.fixture
def tiny(monkeypatch):
    """Let every method learn tiny networks."""

    def network(backbone, *, region_dim, n_words, dim, **unused):
        return TinyNetwork(region_dim, n_words, dim)

    for module in (_ranking, _co_rectify):
        monkeypatch.setattr(module, "matching_network", network)


def fitted(name, train, context=None, **parameters):
    method = build_method(name, **parameters)
    fit_method(method, train, context or FitContext())
    return method


def scored(method, part):
    images, captions = (method.embed(replace(m, labels=None, item_ids=None)) for m in part.modalities)
    return [method.similarity(*both) for both in zip(images, captions, strict=True)]


def test_with_the_truth_as_filter_it_is_sgr_clean_bit_for_bit():
    train, valid = noisy(), data(40).valid
    shared = {**SHARED, "epochs": 2}
    ours = fitted("dividemix_sgr", train, oracle=True, **shared)
    theirs = fitted("sgr_clean", train, **shared)
    assert torch.equal(weights_of(ours.nets_), weights_of(theirs.nets_))
    for a, b in zip(scored(ours, valid), scored(theirs, valid), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not torch.equal(weights_of(ours.nets_), weights_of(fitted("sgr_star", train, **shared).nets_))


def test_only_an_oracle_is_told_the_truth_and_it_needs_a_right_pair():
    assert build_method("dividemix_sgr").needs() == {"sequences", "tokens", "pairs"}
    oracle = build_method("dividemix_sgr", oracle=True, **SMALL)
    assert oracle.needs() == {"sequences", "tokens", "pairs", "clean"}
    with pytest.raises(ValueError, match="needs at least one right pair, got 40 wrong ones"):
        oracle.fit(replace(noisy(), clean_pairs=np.zeros(40, dtype=bool)), FitContext())


class Stop(Exception):
    """Ends a fit between its stages."""


def test_the_first_stage_is_ncr_without_rectification(tiny, monkeypatch):
    train = noisy()
    ours = build_method("dividemix_sgr", **SMALL)

    def stop(*_):
        raise Stop

    monkeypatch.setattr(type(ours), "learn", stop)
    with pytest.raises(Stop):
        fit_method(ours, train, FitContext())
    theirs = fitted("ncr", train, **SHARED, epochs=2, co_rectify=False, psi="linear")
    assert len(ours.nets_) == 2
    for a, b in zip(ours.nets_, theirs.nets_, strict=True):
        assert torch.equal(weights_of(a), weights_of(b))
    assert not np.array_equal(ours.weights_, theirs.clean_weights()), "estimated once more, after the last epoch"


def test_the_second_stage_learns_from_what_the_mean_belief_leaves(tiny, monkeypatch):
    train = noisy()
    method = build_method("dividemix_sgr", **SMALL)
    left = np.array([3, 8, 9, 12, 20, 21, 22, 30, 33, 34, 35, 39])
    beliefs = np.full((2, 40), 0.5)
    beliefs[:, left] = [[0.9], [0.2]]  # the mean decides: one of the two doubts them
    monkeypatch.setattr(type(method), "filter", lambda self, data, context: self.weights_.__setitem__(..., beliefs))
    context, seen = FitContext(), []
    loss = type(method).batch_loss
    monkeypatch.setattr(type(method), "batch_loss", lambda *args: seen.append(args[2].numbers) or loss(*args))
    method.fit(train, context)
    assert sorted(np.concatenate(seen)) == sorted(left.tolist() * 4)
    np.testing.assert_array_equal(method.clean_weights(), beliefs.mean(axis=0))
    assert len(method.nets_) == 1


def test_only_the_second_stage_is_selected_and_brings_its_filter_along(tiny):
    context = FitContext(validate=lambda: {"rsum": -context.epoch})
    method = fitted("dividemix_sgr", noisy(), context, **SMALL)
    assert [row["selectable"] for row in context.history] == [0] * (4 + 2) + [1, 1]
    beliefs = method.clean_weights()
    assert context.restore_best("rsum") == 6
    np.testing.assert_array_equal(method.clean_weights(), beliefs)
    assert ((beliefs >= 0) & (beliefs <= 1)).all()


def test_a_filter_that_leaves_nothing_is_warned_of_and_left_out(tiny, monkeypatch, caplog):
    method = build_method("dividemix_sgr", **SMALL)
    monkeypatch.setattr("baselines.dividemix_sgr.Peers.estimate", lambda self, *_: self.weights_.fill(0.25))
    method.fit(noisy(), FitContext())
    assert caplog.messages[-1] == "dividemix_sgr: the filter leaves 0 of 40 pairs, too few to learn from; all are learnt from"
    assert method.kept().tolist() == list(range(40))
    assert caplog.messages[0].startswith("dividemix_sgr, epoch 2, network A: 0 of 40 pairs are believed clean")
    assert all(torch.isfinite(p).all() for p in method.nets_.parameters())


class Interrupted(Exception):
    """Stops a fit as a kill would."""


@cache
def whole():
    return fitted("dividemix_sgr", noisy(), **SMALL)


@pytest.mark.parametrize("at", [2, 4, 7])
def test_an_interrupted_fit_goes_on_with_the_same_bits_in_either_stage(at, tiny, tmp_path):

    def stop():
        if context.epoch == at:
            raise Interrupted
        return {}

    path = tmp_path / "checkpoint"
    context = FitContext(checkpoint=path, checkpoint_seconds=0, observe=stop)
    with pytest.raises(Interrupted):
        fitted("dividemix_sgr", noisy(), context, **SMALL)
    again = fitted("dividemix_sgr", noisy(), FitContext(checkpoint=path, checkpoint_seconds=0), **SMALL)
    assert torch.equal(weights_of(again.nets_), weights_of(whole().nets_))
    np.testing.assert_array_equal(again.clean_weights(), whole().clean_weights())
