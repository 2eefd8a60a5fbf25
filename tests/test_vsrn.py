"""VSRN beside the released code's outputs; its graph, its images, and its captions beside a loop over their words."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from test_baselines import data, smoke
from test_golden import arrays_of, index  # noqa: F401 (a fixture)
from torch import nn

from baselines import vsrn
from baselines.vsrn import Captioner, GraphLayer, LastState, ReasoningEncoder, caption_loss, over_length
from xmbench import FitContext, build_method
from xmbench.run import fit_method

ARCHITECTURES = ["f30k", "coco"]
LENGTHS = torch.tensor([4, 7, 2])


def random(module, seed=0):
    """The module with parameters and statistics at random."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer += torch.rand(buffer.shape)
    return module.double()


def images(n=3, regions=5, seed=1):
    return torch.randn(n, regions, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def captions(seed=2):
    tokens = torch.randint(1, 11, (3, 7), generator=torch.Generator().manual_seed(seed))
    return tokens.masked_fill(torch.arange(7) >= LENGTHS[:, None], 0)


# ---- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_graph_layer_begins_as_the_identity(training):
    torch.manual_seed(0)
    layer = GraphLayer(7).double().train(training)
    assert torch.equal(layer(images()), images())
    assert not torch.allclose(random(layer)(images()), images(), atol=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_have_unit_length_over_the_regions(architecture):
    reasoned = random(ReasoningEncoder(7, 6, architecture)).reason(images())
    assert reasoned.shape == (3, 5, 6)
    torch.testing.assert_close(reasoned.square().sum(dim=1), torch.ones(3, 6, dtype=torch.float64))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_image_is_read_on_its_own_and_in_the_order_of_its_regions(architecture):
    encoder = random(ReasoningEncoder(7, 6, architecture)).eval()
    encoded, order = encoder(images()), torch.tensor([2, 0, 1])
    torch.testing.assert_close(encoder(images()[order]), encoded[order], rtol=0, atol=1e-12)
    assert (encoder(images()[:, [1, 0, 2, 3, 4]]) - encoded).abs().max() > 1e-3
    net = vsrn.ReasoningNetwork(encoder, random(LastState(11, 4, 6)), None)
    scores = net(images(), captions(), LENGTHS)
    assert scores.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(net(images()[order], captions(), LENGTHS), scores[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_zeros_gives_numbers(architecture, dtype):
    torch.manual_seed(0)
    encoder, regions = ReasoningEncoder(7, 6, architecture).to(dtype), images().to(dtype)
    regions[0] = 0
    reasoned = encoder.reason(regions)
    assert (reasoned[0] == 0).all()
    encoded = encoder.remember(reasoned)
    (encoded**2 * torch.arange(6)).sum().backward()
    assert encoded.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_a_zero_gets_no_gradient_and_the_others_the_usual():
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    values = over_length(x, 0)
    assert values.tolist() == [[0.6, 0.0], [0.8, 0.0]]
    values[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[16 / 125, 0.0], [-12 / 125, 0.0]], dtype=torch.float64))


def test_the_state_of_a_batch_of_one_image_is_normalised_by_running_statistics_and_the_graph_by_its_regions():
    encoder = random(ReasoningEncoder(7, 6, "f30k")).train()
    layer = encoder.layers[0].bn
    before, of_graph = encoder.bn.running_mean.clone(), layer.running_mean.clone()
    assert encoder(images(1)).isfinite().all()
    assert torch.equal(encoder.bn.running_mean, before)
    assert not torch.equal(layer.running_mean, of_graph)
    encoder(images(2))
    assert not torch.equal(encoder.bn.running_mean, before)


def test_images_of_one_region_are_refused():
    with pytest.raises(ValueError, match="vsrn needs images of two regions or more, which reason about each other, got 1"):
        fit_method(smoke("vsrn"), data(regions=1, train=40).train, FitContext())


# ---- captions ---------------------------------------------------------------------------------------------------------


def told_by_a_loop(captioner, reasoned, tokens, lengths):
    """L_G, caption by caption and word by word, the attention as it is printed."""
    total = 0.0
    for image, words, n in zip(reasoned, tokens, lengths, strict=True):
        read = captioner.encoder(captioner.region_fc(image)[None])[0][0]
        state = read[-1]
        for position in range(n):
            each = torch.cat([read, state.expand(len(read), -1)], dim=1)
            weights = captioner.attention_score(captioner.attention_fc(each).tanh())[:, 0].softmax(dim=0)
            given = torch.cat([captioner.embedding(words[position]), weights @ read])
            state = captioner.decoder(given, state)
            target = words[position + 1] if position + 1 < n else 0
            total -= captioner.word_fc(state).log_softmax(dim=0)[target]
    return total / len(tokens)


def test_caption_loss_is_that_of_a_loop_over_words():
    captioner, reasoned = random(Captioner(6, 11, 4, 5)).eval(), images().requires_grad_()
    captioner.region_fc = random(nn.Linear(7, 5))
    found = caption_loss(captioner(reasoned, captions(), LENGTHS), captions(), LENGTHS)
    wanted = told_by_a_loop(captioner, reasoned, captions(), LENGTHS)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-10)
    gradients = [torch.autograd.grad(loss, [reasoned, *captioner.parameters()]) for loss in (found, wanted)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert caption_loss(torch.zeros(13, 11), captions(), LENGTHS).item() == pytest.approx(13 / 3 * np.log(11), rel=1e-6)


def test_what_stands_in_the_padding_is_not_told():
    captioner = random(Captioner(7, 11, 4, 5)).eval()
    longer = torch.cat([captions(), torch.zeros(3, 4, dtype=torch.int64)], dim=1)
    garbage = torch.where(torch.arange(11) < LENGTHS[:, None], longer, 9)
    losses = [
        caption_loss(captioner(images(), tokens, LENGTHS), tokens, LENGTHS).item() for tokens in (captions(), longer, garbage)
    ]
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=1e-12)


def test_the_loss_of_a_batch_is_that_of_ranking_and_a_share_of_the_captions():
    method = smoke("vsrn", caption_weight=0.25)
    net = method.networks({"region_dim": 7, "n_regions": 5, "n_words": 11})[0].double().eval()
    batch = vsrn.PairBatch(images(), captions(), LENGTHS, np.arange(3))
    ranking = vsrn.hard_triplet(net(images(), captions(), LENGTHS), method.margin)
    reasoned = net.region_encoder.reason(images())
    told = told_by_a_loop(net.captioner, reasoned, captions(), LENGTHS)
    assert method.batch_loss(net, batch, 0).item() == pytest.approx((ranking + 0.25 * told).item(), abs=1e-9)
    net.captioner = None
    assert method.batch_loss(net, batch, 0).item() == pytest.approx(ranking.item(), abs=1e-12)


def test_captions_are_learnt_and_without_their_weight_there_is_no_branch(monkeypatch):
    train, begun = data(regions=4, train=40).train, []
    learns = vsrn.VSRN.learns
    monkeypatch.setattr(vsrn.VSRN, "learns", lambda *given: begun.append(deepcopy(given[1][0])) or learns(*given))
    for weight in (0.0, 1.0):
        method = smoke("vsrn", caption_weight=weight, epochs=1)
        fit_method(method, train, FitContext())
        before, after = (
            {name: p for name, p in net.named_parameters() if "captioner" in name} for net in (begun[-1], method.nets_[0])
        )
        assert len(after) == (len(list(Captioner(6, 11, 4, 5).parameters())) if weight else 0)
        assert [name for name in after if torch.equal(before[name], after[name])] == []
    with pytest.raises(ValueError, match=r"vsrn\.caption_weight must be 0 or more, got -1"):
        build_method("vsrn", caption_weight=-1.0)


# ---- the released code ------------------------------------------------------------------------------------------------

OURS = {"image_fc": "fc", "image_gru": "gru", "final_bn": "bn", "word_embedding": "embedding"}


def our_name(name):
    """Our name of a parameter of the fixtures."""
    module, _, rest = name.removeprefix("param.").partition(".")
    if layer := re.fullmatch(r"graph(\d)", module):
        return f"layers.{int(layer[1]) - 1}.{re.sub('^output_bn', 'bn', rest).replace('_conv', '')}"
    return f"{OURS.get(module, module)}.{rest}"


def loaded(module, entry, z):
    weights = {our_name(name): torch.from_numpy(z[name].copy()) for name in entry["parameters"]}
    weights = {name: value.squeeze(2) if value.ndim == 3 else value for name, value in weights.items()}
    missing = module.double().load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return module.eval()


def golden_images(entry, z):
    architecture = entry["settings"]["data_name"].removesuffix("_precomp")
    given = torch.from_numpy(z["input.images"])
    encoder = loaded(ReasoningEncoder(given.shape[2], entry["settings"]["embed"], architecture), entry, z)
    projected = encoder.fc(given)
    if architecture == "coco":
        projected = over_length(projected, 1)
    yield "output.graph_layer1_input", projected
    yield "output.graph_layer1", encoder.layers[0](projected)
    yield "output.region_features", encoder.reason(given)
    yield "output.image_embedding", encoder(given)
    yield "output.train_graph_layer1", encoder.layers[0].train()(projected)


def golden_text(entry, z):
    n_words, word_dim = z["param.word_embedding.weight"].shape
    encoder = loaded(LastState(n_words, word_dim, entry["settings"]["hidden"]), entry, z)
    tokens, lengths = (torch.from_numpy(z[f"input.caption_{name}"]) for name in ("ids", "lengths"))
    yield "output.text_embedding", encoder(tokens, lengths)


@pytest.mark.parametrize(
    ("name", "computed"), [("vsrn_image_f30k", golden_images), ("vsrn_image_coco", golden_images), ("vsrn_text", golden_text)]
)
def test_equals_the_released_code(name, computed, index):  # noqa: F811
    if name not in index:
        pytest.skip(f"no fixture {name}")
    entry = index[name]
    z = arrays_of(entry)
    errors = {}
    for output, value in computed(entry, z):
        expected, got = z[output], value.detach().numpy()
        assert got.shape == expected.shape, output
        errors[output] = np.abs(got - expected).max() / max(1, np.abs(expected).max())
    assert {output: error for output, error in errors.items() if not error <= entry["tolerance"]["float64"]} == {}
    assert set(errors) == set(entry["outputs"])
