"""The gated text-video embedding: its network, its loss, and a fit on either kind of words."""

import numpy as np
import pytest
import torch
from test_golden import arrays_of, index  # noqa: F401 a fixture

from baselines import miech
from baselines._gated import GatedUnit, WordPooling, gated_network
from xmbench import FitContext, build_method, load_dataset
from xmbench.metrics import METRICS, first_rank, recall_at
from xmbench.run import fit_method

OURS = {  # their names of layers -> ours
    "text_pooling_fc": "word_encoder.pooling.fc",
    "text_fc": "word_encoder.gate.fc",
    "text_context_fc": "word_encoder.gate.context",
    "video_fc": "region_encoder.fc",
    "video_context_fc": "region_encoder.context",
}


def released(index):  # noqa: F811
    """Our network with the fixture's parameters in float64, and the fixture."""
    z = arrays_of(index["miech_net"])
    sizes = index["miech_net"]["settings"]
    shape = {"image_dim": sizes["video_dim"], "caption_dim": sizes["we_dim"], "dim": sizes["embd_dim"]}
    net = gated_network(**shape, max_words=sizes["max_words"]).double()
    theirs = {f"{OURS[layer]}.{kind}": f"param.{layer}.{kind}" for layer in OURS for kind in ("weight", "bias")}
    net.load_state_dict({ours: torch.from_numpy(z[name]) for ours, name in theirs.items()})
    return net, {name: torch.from_numpy(values) for name, values in z.items()}


def close(values, expected, tolerance=1e-9):
    assert (values.detach() - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("padding", ["as words", "as padding", "garbage", "cut away"])
def test_network_is_the_released_one_however_it_is_padded(index, padding):  # noqa: F811
    net, z = released(index)
    videos, texts = (z[f"input.{name}"].clone().requires_grad_() for name in ("videos", "texts"))
    lengths = z["input.word_counts"]
    filled = torch.arange(texts.shape[1]) < lengths[:, None]
    assert not filled.all() and not texts[~filled].any()
    words = texts
    if padding == "as words":
        lengths = torch.full_like(lengths, texts.shape[1])
    elif padding == "garbage":
        words = torch.where(filled[..., None], texts, torch.tensor(7.0, dtype=torch.float64))
    elif padding == "cut away":
        keep = torch.from_numpy(np.flatnonzero(lengths < texts.shape[1]))
        longest = int(lengths[keep].max())
        made = net.encode_captions(texts[keep, :longest], lengths[keep])
        assert longest < texts.shape[1]
        close(made, z["output.text_embedding"][keep])
        return
    close(net.encode_images(videos), z["output.video_embedding"])
    close(net.word_encoder.pooling(words, lengths), z["output.text_pooled"])
    close(net.encode_captions(words, lengths), z["output.text_embedding"])
    scores = net(videos, words, lengths)
    close(scores, z["output.similarity"].T)
    scores.sum().backward()
    close(videos.grad, z["grad.videos"])
    of_words = torch.ones_like(filled) if padding == "as words" else filled
    close(texts.grad[of_words], z["grad.texts"][of_words])
    for layer, ours in OURS.items():
        for kind in ("weight", "bias"):
            close(net.get_parameter(f"{ours}.{kind}").grad, z[f"grad.{layer}.{kind}"])


def of_clips(scores, margin, n_videos, n_clips, rate):
    """L with weights by which clips of the same video, side by side in a batch of several each, make up `rate` of it."""
    own, other = n_videos * rate, n_videos * (1 - rate) / (n_videos - 1)
    blocks = [scores[i : i + n_clips, i : i + n_clips] for i in range(0, len(scores), n_clips)]
    same = sum(miech.max_margin(block, margin) for block in blocks) / n_videos**2
    return other * miech.max_margin(scores, margin) + (own - other) * same


def test_losses_are_the_released_ones(index):  # noqa: F811
    z, settings = arrays_of(index["miech_loss"]), index["miech_loss"]["settings"]
    shape = settings["videos"], settings["clips_per_video"]
    cases = {
        "plain": lambda scores: miech.max_margin(scores, 0.1),
        "plain_margin1": lambda scores: miech.max_margin(scores, 1.0),
        "weighted": lambda scores: of_clips(scores, 0.1, *shape, 0.5),
        "weighted_rate0p3": lambda scores: of_clips(scores, 0.1, *shape, 0.3),
    }
    assert {f"output.{case}" for case in cases} == {name for name in index["miech_loss"]["outputs"] if name[7:] in cases}
    for case, loss_of in cases.items():
        scores = torch.from_numpy(z["input.scores"].T.copy()).requires_grad_()  # theirs are captions by videos
        loss = loss_of(scores)
        loss.backward()
        close(loss, torch.from_numpy(z[f"output.{case}"]))
        close(scores.grad, torch.from_numpy(z[f"grad.{case}.scores"].T.copy()))


def test_the_diagonal_adds_a_constant():
    apart = torch.eye(8) * 2 - 1  # right pairs at 1, wrong ones at -1: no hinge but the diagonal's
    assert miech.max_margin(apart, 0.1).item() == pytest.approx(2 * 0.1 / 8)


def test_a_gate_without_weights_halves_and_keeps_the_direction():
    unit, x = GatedUnit(5, 3), torch.randn(4, 5)
    torch.nn.init.zeros_(unit.context.weight)
    torch.nn.init.zeros_(unit.context.bias)
    torch.testing.assert_close(unit(x), torch.nn.functional.normalize(unit.fc(x), dim=1))


@pytest.mark.parametrize(("bias", "matters"), [(0.5, True), (-0.5, False)])
def test_empty_slots_matter_where_the_bias_is_positive_and_padding_is_not_masked(bias, matters):
    pooled = {}
    for masked in (False, True):
        pooling = WordPooling(2, 3, max_words=4, mask_padding=masked)
        torch.nn.init.constant_(pooling.fc.weight, -1.0)
        torch.nn.init.constant_(pooling.fc.bias, bias)
        pooled[masked] = pooling(torch.ones(1, 2, 2), torch.tensor([2])).detach()
    assert torch.equal(pooled[True], torch.zeros(1, 3)), "-2 + bias, cut at zero"
    assert torch.equal(pooled[False], torch.full((1, 3), max(bias, 0.0)))
    assert torch.equal(pooled[True], pooled[False]) != matters


def test_words_beyond_the_slots_are_not_read():
    pooling, words = WordPooling(3, 4, max_words=2, mask_padding=False), torch.randn(5, 6, 3)
    torch.testing.assert_close(pooling(words, torch.full((5,), 6)), pooling(words[:, :2], torch.full((5,), 2)))


def test_a_network_reads_one_kind_of_words():
    for kinds in ({}, {"caption_dim": 3, "n_words": 4}):
        with pytest.raises(ValueError, match=r"word vectors .* or word numbers .*, got caption_dim"):
            gated_network(image_dim=2, dim=2, **kinds)


def test_recalls_and_median_rank_are_the_released_ones(index):  # noqa: F811
    z = arrays_of(index["miech_loss"])
    scores = z["input.metric_scores"]
    relevance = np.eye(len(scores), dtype=bool)
    for k in (1, 5, 10):
        assert recall_at(scores, relevance, k).mean() == pytest.approx(float(z[f"output.metric_recall_at_{k}"]), abs=1e-9)
    assert METRICS["medr"].aggregate(first_rank(scores, relevance)) == float(z["output.metric_median_rank"])


def test_the_learning_rate_decays_by_the_epoch(monkeypatch):
    rates, set_rate = [], miech.set_rate
    monkeypatch.setattr(miech, "set_rate", lambda optimiser, lr: rates.append(lr) or set_rate(optimiser, lr))
    method = build_method("miech", words="learnt", dim=4, word_dim=4, epochs=3, lr=0.1, lr_decay=0.5)
    fit_method(method, load_dataset("synthetic", regions=4, train=20).train, FitContext())
    assert rates == [0.1, 0.05, 0.025]


@pytest.mark.parametrize("given", [{"margin": 0.0}, {"lr_decay": 0.0}, {"batch_size": 1}])
def test_hyper_parameters_are_checked(given):
    with pytest.raises(ValueError, match=f"miech.{next(iter(given))} must be"):
        build_method("miech", **given)
