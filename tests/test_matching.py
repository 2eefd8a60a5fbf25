"""Networks of regions and words beside the released code's outputs, and beside loops over captions written from the papers."""

import math

import golden_matching
import numpy as np
import pytest
import torch
from test_golden import arrays_of, index  # noqa: F401 (a fixture)
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from baselines import _attention, _matching, _sgraf
from baselines._attention import ScanSimilarity, unit
from baselines._matching import WordEncoder, matching_network

SIZES = {"region_dim": 7, "n_regions": 5, "n_words": 30, "dim": 12, "similarity_dim": 6, "steps": 3, "word_dim": 4}
SCANS = [(f"scan_{direction}", pooling) for direction in ("t2i", "i2t") for pooling in _attention.POOLINGS]
NETWORKS = [*SCANS, ("saf", "lse"), ("sgr", "lse")]
LENGTHS = torch.tensor([4, 9, 2, 6, 9, 3, 1])


def network(backbone, pooling="lse", dtype=torch.float64, **sizes):
    """A network whose parameters and statistics are all at random, without dropout."""
    torch.manual_seed(1)
    net = matching_network(backbone, **{**SIZES, "dropout": 0.0, "pooling": pooling, **sizes})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        for name, buffer in net.named_buffers():
            if "running" in name:
                buffer += torch.rand(buffer.shape)
    return net.to(dtype)


def encoded(dtype=torch.float64, n_images=3):
    """Unit regions and words, the latter with zeros at padding; both get gradients."""
    torch.manual_seed(2)
    images = nn.functional.normalize(torch.randn(n_images, SIZES["n_regions"], SIZES["dim"], dtype=dtype), dim=-1)
    captions = nn.functional.normalize(torch.randn(len(LENGTHS), 9, SIZES["dim"], dtype=dtype), dim=-1)
    captions[torch.arange(9) >= LENGTHS[:, None]] = 0
    return images.requires_grad_(), captions.requires_grad_()


# ---- one caption after the other, from the papers ---------------------------------------------------------------------


def attended(contexts, queries, temperature):
    """Context (B, Q, D) of every query (B, Q, D): its norm runs over the queries, its softmax over the contexts (B, K, D)."""
    raw = nn.functional.leaky_relu(contexts @ queries.transpose(1, 2), 0.1)
    weights = (temperature * raw / (raw.norm(dim=2, keepdim=True) + 1e-8)).softmax(dim=1)
    return weights.transpose(1, 2) @ contexts


def loop_scan(net, images, captions, lengths):
    columns = []
    for caption, n in zip(captions, lengths, strict=True):
        words = caption[:n].expand(len(images), n, -1)
        contexts, queries = (images, words) if net.direction == "t2i" else (words, images)
        cosines = torch.cosine_similarity(queries, attended(contexts, queries, net.lambda1), dim=2)
        pools = {"avg": cosines.mean(1), "sum": cosines.sum(1), "max": cosines.max(1).values}
        pools["lse"] = (net.lambda2 * cosines).exp().sum(1).log() / net.lambda2
        columns.append(pools[net.pooling])
    return torch.stack(columns, dim=1)


def l2(x):
    return x / (x.norm(dim=-1, keepdim=True) + 1e-8)


def loop_reasoning(net, images, captions, lengths):
    look = net.image_global
    local = look.local_bn(look.local_fc(images)).tanh()
    overall = look.global_bn(look.global_fc(images.mean(1))).tanh()
    image_vectors = l2((look.score_fc(local * overall[:, None]).softmax(1) * images).sum(1))
    columns = []
    for caption, n in zip(captions, lengths, strict=True):
        words, read = caption[:n], net.text_global
        agreement = read.local_fc(words).tanh() * read.global_fc(words.mean(0)).tanh()
        text_vector = l2((read.score_fc(agreement).softmax(0) * words).sum(0))
        contexts = l2(attended(images, words.expand(len(images), -1, -1), 9.0))
        first = l2(net.global_fc((image_vectors - text_vector) ** 2))
        nodes = torch.cat([first[:, None], l2(net.local_fc((contexts - words) ** 2))], dim=1)
        if isinstance(net.reasoning, _sgraf.AttentionFiltration):
            gate = net.reasoning.gate_bn(net.reasoning.gate_fc(nodes).transpose(1, 2)).sigmoid()
            vector = l2((gate / gate.sum(2, keepdim=True) @ nodes)[:, 0])
        else:
            for step in net.reasoning.steps:
                edges = (step.query_fc(nodes) @ step.key_fc(nodes).transpose(1, 2)).softmax(-1)
                nodes = step.update_fc(edges @ nodes).relu()
            vector = nodes[:, 0]
        columns.append(net.score_fc(vector)[:, 0].sigmoid())
    return torch.stack(columns, dim=1)


def loop(net, *given):
    return (loop_scan if isinstance(net, ScanSimilarity) else loop_reasoning)(net, *given)


def run(function, net, given, weights):
    """Scores, gradients of their weighted sum by name, and the running statistics after it."""
    net.zero_grad()
    images, captions = (x.detach().clone().requires_grad_() for x in given)
    scores = function(images, captions, LENGTHS)
    (scores * weights).sum().backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    gradients |= {"images": images.grad, "captions": captions.grad}
    return scores.detach(), gradients, {name: b.clone() for name, b in net.named_buffers()}


def assert_close(found, wanted, tolerance):
    """Scores, gradients and statistics agree, relative to each array's largest entry where that is above 1."""
    for got, expected in zip(found, wanted, strict=True):
        got, expected = (x if isinstance(x, dict) else {"scores": x} for x in (got, expected))
        assert got.keys() == expected.keys()
        errors = {name: float((got[name] - e).abs().max() / max(1.0, e.abs().max())) for name, e in expected.items()}
        assert {name: error for name, error in errors.items() if not error <= tolerance} == {}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("backbone", "pooling"), NETWORKS)
def test_equals_a_loop_over_captions(backbone, pooling, training):
    weights = torch.randn(3, len(LENGTHS), generator=torch.Generator().manual_seed(0)).double()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        ours, theirs = (network(backbone, pooling, dtype).similarity.train(training) for _ in range(2))
        given = encoded(dtype)
        wanted = run(lambda *x, net=theirs: loop(net, *x), theirs, given, weights)
        found = run(ours, ours, given, weights)
        assert_close(found[:1] + found[2:], wanted[:1] + wanted[2:], tolerance)
        assert_close(found[1:2], wanted[1:2], 10 * tolerance)
        assert wanted[0].std() > 1e-3


# ---- what must change nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("backbone", "pooling"), NETWORKS)
def test_padding_blocks_and_recomputation_change_nothing(backbone, pooling, training, monkeypatch):
    weights, (images, captions) = torch.randn(3, len(LENGTHS)).double(), encoded()
    garbage = captions.detach().clone()
    garbage[torch.arange(9) >= LENGTHS[:, None]] = torch.nan
    longer = torch.cat([garbage, torch.full((len(LENGTHS), 4, SIZES["dim"]), torch.inf)], dim=1)

    def results(words):
        net = network(backbone, pooling).similarity.train(training)
        scores, gradients, statistics = run(net, net, (images, words), weights)
        inside = torch.arange(words.shape[1]) < LENGTHS[:, None]
        assert (gradients["captions"][~inside] == 0).all()
        gradients["captions"] = gradients["captions"][inside]
        return scores, gradients, statistics

    wanted = results(captions)
    for words in (garbage, longer, longer[:, :9]):
        assert_close(results(words), wanted, 1e-12)
    for name, value in (("BLOCK_BYTES", 1), ("SIMILAR_LENGTH", 0.0), ("SIMILAR_LENGTH", 1.0)):
        monkeypatch.setattr(_attention, name, value)
        assert_close(results(captions), wanted, 1e-12)
    calls = []
    again = _attention.checkpoint
    monkeypatch.setattr(_attention, "checkpoint", lambda *args, **options: calls.append(1) or again(*args, **options))
    monkeypatch.setattr(_attention, "KEPT_BYTES", 0)
    monkeypatch.setattr(_attention, "BLOCK_BYTES", 1)
    assert_close(results(garbage), wanted, 1e-12)
    assert len(calls) == len(LENGTHS)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("backbone", "pooling"), NETWORKS)
def test_order_of_captions_only_orders_the_columns(backbone, pooling, training):
    """In training too, but for the running statistics of SAF's gate: they weigh the last captions most, by design."""
    images, captions = encoded()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    ours, reordered = (network(backbone, pooling).similarity.train(training) for _ in range(2))
    scores = ours(images, captions, LENGTHS)
    torch.testing.assert_close(reordered(images, captions[order], LENGTHS[order]), scores[:, order], rtol=0, atol=1e-12)
    differ = {name for name, b in ours.named_buffers() if not torch.allclose(b, reordered.get_buffer(name), rtol=0, atol=1e-12)}
    gate = {"reasoning.gate_bn.running_mean", "reasoning.gate_bn.running_var"}
    assert differ == (gate if backbone == "saf" and training else set())


@pytest.mark.parametrize("backbone", _matching.BACKBONES)
def test_images_are_scored_some_at_a_time(backbone, monkeypatch):
    monkeypatch.setattr(_matching, "IMAGES_AT_ONCE", 4)
    net = network(backbone).eval()
    images, captions = encoded(n_images=9)
    sizes = []
    net.similarity.register_forward_hook(lambda module, given, scores: sizes.append(len(scores)))
    whole = net.scores(images, captions, LENGTHS)
    with torch.inference_mode():
        torch.testing.assert_close(net.scores(images, captions, LENGTHS), whole.detach(), rtol=0, atol=1e-12)
    assert sizes == [9, 4, 4, 1]


@pytest.mark.parametrize("how", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize(("backbone", "pooling"), NETWORKS)
def test_gradients_are_finite(backbone, pooling, how):
    """With padding, an image region of zeros, and a caption of one word."""
    net = network(backbone, pooling, torch.bfloat16 if how == "bfloat16" else torch.float32).train()
    regions = torch.randn(4, SIZES["n_regions"], SIZES["region_dim"], dtype=next(net.parameters()).dtype)
    regions[0, 1] = 0
    net.region_encoder.fc.bias.data.zero_()
    tokens = torch.randint(1, SIZES["n_words"], (len(LENGTHS), 9)) * (torch.arange(9) < LENGTHS[:, None])
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        scores = net(regions, tokens, LENGTHS)
    scores.float().sum().backward()
    assert scores.isfinite().all()
    assert [name for name, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []
    exact = net.float()(regions.float(), tokens, LENGTHS)
    assert (exact - scores).abs().max() < (1e-5 if how == "float32" else 0.1)


def test_unit_rows_and_their_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-8, 0.0]], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[3 / (5 + 1e-8), 4 / (5 + 1e-8)], [0.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit(x), wanted, rtol=0, atol=1e-15)
    unit(x).sum().backward()
    assert torch.equal(x.grad[1], torch.zeros(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(unit, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(lambda y: unit(y, 1), torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True))


# ---- SCAN -------------------------------------------------------------------------------------------------------------


def test_order_of_words_does_not_change_the_average():
    images, captions = encoded()
    similarity = ScanSimilarity("t2i", "avg", 9.0, 6.0)
    five = torch.full((len(captions),), 5)
    shuffled = captions[:, [3, 0, 4, 1, 2]]
    torch.testing.assert_close(
        similarity(images, captions[:, :5], five), similarity(images, shuffled, five), rtol=0, atol=1e-12
    )


def test_a_region_equal_to_every_word_gives_one():
    word = nn.functional.normalize(torch.randn(12, dtype=torch.float64), dim=0)
    image = torch.stack([word, *torch.linalg.qr(torch.eye(12).double() - torch.outer(word, word))[0].T[:4]])
    image[1:] -= image[1:] @ word[:, None] * word
    score = ScanSimilarity("t2i", "avg", 200.0, 6.0)(image[None], word.expand(1, 6, 12), torch.tensor([6]))
    assert score.item() == pytest.approx(1, abs=1e-9)


def test_log_sum_exp_lies_above_the_maximum_by_the_number_of_words_at_most():
    images, captions = encoded()
    highest, soft = (ScanSimilarity("t2i", pooling, 9.0, 6.0)(images, captions, LENGTHS) for pooling in ("max", "lse"))
    assert (soft >= highest - 1e-12).all()
    assert (soft <= highest + LENGTHS.log() / 6 + 1e-12).all()
    assert (soft - highest)[:, 6].abs().max() < 1e-12  # one word


# ---- SAF and SGR ------------------------------------------------------------------------------------------------------


def test_gates_sum_to_one():
    filtration = network("saf").similarity.reasoning.eval()
    nodes = torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6)  # the mixture of unit vectors is the vector of gates
    mixed, *_ = filtration(nodes, torch.arange(6) < torch.tensor([6, 3, 1])[:, None])
    gates = filtration.gate_bn(filtration.gate_fc(torch.eye(6).double())).sigmoid()[:, 0]
    for row, n in zip(mixed[0], (6, 3, 1), strict=True):
        torch.testing.assert_close(row[:n], gates[:n] / gates[:n].norm(), rtol=0, atol=1e-7)
        assert (row[n:] == 0).all()


@pytest.mark.parametrize("backbone", ["saf", "sgr"])
def test_scores_lie_between_zero_and_one(backbone):
    scores = network(backbone).similarity(*encoded(), LENGTHS)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("backbone", ["saf", "sgr"])
def test_order_of_regions_matters_to_their_batch_normalisation_alone(backbone):
    net = network(backbone).similarity.eval()
    images, captions = encoded()
    swapped = images[:, [1, 0, 2, 3, 4]]
    assert (net(images, captions, LENGTHS) - net(swapped, captions, LENGTHS)).abs().max() > 1e-6
    for name, value in [*net.image_global.local_bn.named_parameters(), *net.image_global.local_bn.named_buffers()]:
        if name != "num_batches_tracked":
            value.data.fill_(1.0)
    torch.testing.assert_close(net(swapped, captions, LENGTHS), net(images, captions, LENGTHS), rtol=0, atol=1e-12)


def test_a_dead_graph_gives_one_score_to_all_pairs():
    net = network("sgr").similarity.train()
    net.reasoning.steps[-1].update_fc.bias.data.fill_(-1e3)
    scores, gradients, _ = run(net, net, encoded(), torch.ones(3, len(LENGTHS)))
    assert (scores == net.score_fc.bias.sigmoid()).all()
    assert all(g.isfinite().all() for g in gradients.values())
    assert gradients["score_fc.bias"].abs() > 0
    assert (gradients["images"] == 0).all()


@pytest.mark.parametrize("backbone", ["saf", "sgr"])
def test_a_batch_of_one_image_is_normalised_by_running_statistics(backbone):
    net = network(backbone).similarity.train()
    images, captions = encoded(n_images=1)
    before = net.image_global.global_bn.running_mean.clone()
    assert net(images, captions, LENGTHS).isfinite().all()
    assert torch.equal(net.image_global.global_bn.running_mean, before)


def test_dropout_keeps_the_mean_and_rests_in_eval():
    x = torch.ones(200_000)
    dropped = _sgraf.drop(x, 0.4, training=True)
    assert sorted(set(dropped.tolist())) == [0.0, pytest.approx(1 / 0.6)]
    assert (dropped == 0).double().mean().item() == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / 200_000))
    assert _sgraf.drop(x, 0.4, training=False) is x


# ---- encoders and the factory -----------------------------------------------------------------------------------------


def test_word_encoder_equals_torch_on_packed_sentences():
    torch.manual_seed(0)
    encoder = WordEncoder(30, 4, 12, dropout=0.0).double()
    tokens = torch.randint(1, 30, (len(LENGTHS), 9)) * (torch.arange(9) < LENGTHS[:, None])
    weights = torch.randn(len(LENGTHS), 9, 12).double()
    packed = pack_padded_sequence(encoder.embedding(tokens), LENGTHS, batch_first=True, enforce_sorted=False)
    forward, backward = pad_packed_sequence(encoder.gru(packed)[0], batch_first=True)[0].chunk(2, dim=2)
    wanted = l2((forward + backward) / 2)
    found = encoder(tokens, LENGTHS)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert torch.equal(found == 0, (torch.arange(9) >= LENGTHS[:, None])[:, :, None].expand_as(found))
    gradients = [torch.autograd.grad((x * weights).sum(), list(encoder.parameters())) for x in (found, wanted)]
    for (name, _), got, expected in zip(encoder.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10, msg=name)


def test_word_encoder_reads_only_the_words():
    encoder = WordEncoder(30, 4, 12, dropout=0.0)
    tokens = torch.randint(1, 30, (len(LENGTHS), 9))
    short = LENGTHS.clamp(max=4)
    whole = encoder(tokens, short)
    assert torch.equal(encoder(tokens[:, :4], short), whole[:, :4])
    assert (whole[:, 4:] == 0).all()


def test_initial_weights_are_the_papers():
    torch.manual_seed(0)
    net = matching_network("sgr", **{**SIZES, "region_dim": 40, "n_words": 500, "dim": 60})
    weight, bound = net.region_encoder.fc.weight, math.sqrt(6 / 100)
    assert bound * 0.98 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert 0.099 < net.word_encoder.embedding.weight.abs().max() <= 0.1
    assert net.word_encoder.gru.weight_hh_l0.abs().max() <= 1 / math.sqrt(60)
    linear = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear)}
    assert len(linear) == 1 + 3 + 3 + 3 + 3 * 3
    assert all((m.bias == 0).all() for m in linear.values())
    assert len(net.similarity.reasoning.steps) == 3
    assert [x.dropout for x in (net.word_encoder, net.similarity.image_global, net.similarity.text_global)] == [0.4] * 3
    scan = matching_network("scan_i2t", **SIZES)
    assert (scan.word_encoder.dropout, scan.similarity.lambda1, scan.similarity.lambda2) == (0.0, 4.0, 5.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"backbone": "sraf"}, "backbone must be one of scan_t2i, scan_i2t, saf, sgr, got 'sraf'"),
        ({"pooling": "mean"}, "pooling must be one of lse, avg, max, sum, got 'mean'"),
        ({"steps": 0}, "sgr needs at least one graph step, got steps = 0"),
    ],
)
def test_unknown_networks_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        matching_network(**{"backbone": "sgr", **SIZES, **changed})


# ---- the released code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden_matching.COMPUTED)
def test_equals_the_released_code(name, index, monkeypatch):  # noqa: F811
    if name not in index:
        pytest.skip(f"no fixture {name}")
    entry = index[name]
    z = arrays_of(entry)
    compared = {}
    for output, value in golden_matching.COMPUTED[name](entry, z, monkeypatch):
        expected, got = z[output], np.asarray(value)
        assert got.shape == expected.shape, output
        compared[output] = np.abs(got - expected).max() <= entry["tolerance"]["float64"] * max(1, np.abs(expected).max())
    assert [output for output, equal in compared.items() if not equal] == []
    assert set(compared) == {output for output in entry["outputs"] if not golden_matching.LEFT_OUT.fullmatch(output)}
