"""IMRAM beside the released code's outputs, SCAN, and a loop over captions; and what must change nothing."""

import numpy as np
import pytest
import torch
from test_golden import arrays_of, index  # noqa: F401 (a fixture)
from test_matching import LENGTHS, SIZES, assert_close, attended, encoded, l2, run

from baselines import _attention, imram
from baselines._attention import ScanSimilarity
from xmbench import build_method

CASES = [
    ("text", 1, False),
    ("image", 1, False),
    ("text", 3, False),
    ("image", 3, False),
    ("full", 3, False),
    ("full", 2, True),
]
IDS = [f"{mode}-{steps}{'-normalised' * normalise}" for mode, steps, normalise in CASES]
each_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def network(mode, steps, normalise=False, dtype=torch.float64, dim=SIZES["dim"]):
    """The network that a fit begins with, and memories at random that matter."""
    torch.manual_seed(1)
    method = build_method("imram", dim=dim, word_dim=4, mode=mode, steps=steps, normalise=normalise)
    (net,) = method.networks({"region_dim": SIZES["region_dim"], "n_regions": SIZES["n_regions"], "n_words": SIZES["n_words"]})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return net.to(dtype)


def loop(net, images, captions, lengths):
    """Scores of one caption after the other, contexts built and joined to the queries, as the paper writes it."""
    columns = []
    for caption, n in zip(captions, lengths, strict=True):
        words, score = caption[:n].expand(len(images), n, -1), 0
        for asking, memory in net.memories.items():
            first, contexts = (words, images) if asking == "text" else (images, words)
            queries = first
            for _ in range(net.steps):
                found = attended(contexts, queries, net.temperature)
                score = score + torch.cosine_similarity(first, found, dim=2).mean(1)
                both = torch.cat([queries, found], dim=2)
                gate = memory.gate_fc(both).sigmoid()
                queries = gate * queries + (1 - gate) * memory.candidate_fc(both).tanh()
                queries = l2(queries) if net.normalise else queries
        columns.append(score)
    return torch.stack(columns, dim=1)


@each_case
def test_equals_a_loop_over_captions(case):
    weights = torch.randn(3, len(LENGTHS), generator=torch.Generator().manual_seed(0)).double()
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        net, given = network(*case, dtype=dtype).similarity, encoded(dtype)
        found = run(net, net, given, weights)
        wanted = run(lambda *x, net=net: loop(net, *x), net, given, weights)
        assert_close(found[:1], wanted[:1], tolerance)
        assert_close(found[1:2], wanted[1:2], 10 * tolerance)
        assert wanted[0].std() > 1e-3
        remembered = [name for name, gradient in wanted[1].items() if "fc" in name and gradient.abs().max() > 1e-6]
        assert len(remembered) == (4 * len(net.memories) if net.steps > 1 else 0)


@each_case
def test_padding_blocks_and_recomputation_change_nothing(case, monkeypatch):
    weights, (images, captions) = torch.randn(3, len(LENGTHS)).double(), encoded()
    padding = torch.arange(9) >= LENGTHS[:, None]
    garbage = captions.detach().masked_fill(padding[:, :, None], torch.nan)
    longer = torch.cat([garbage, torch.full((len(LENGTHS), 4, SIZES["dim"]), torch.inf)], dim=1)
    net = network(*case).similarity

    def results(words):
        scores, gradients, _ = run(net, net, (images, words), weights)
        outside = torch.arange(words.shape[1]) >= LENGTHS[:, None]
        assert (gradients["captions"][outside] == 0).all()
        gradients["captions"] = gradients["captions"][~outside]
        return scores, gradients

    wanted = results(captions)
    for words in (garbage, longer):
        assert_close(results(words), wanted, 1e-12)
    for name, value in (("BLOCK_BYTES", 1), ("SIMILAR_LENGTH", 0.0), ("SIMILAR_LENGTH", 1.0)):
        monkeypatch.setattr(_attention, name, value)
        assert_close(results(captions), wanted, 1e-12)
    calls, again = [], _attention.checkpoint
    monkeypatch.setattr(_attention, "checkpoint", lambda *args, **options: calls.append(1) or again(*args, **options))
    monkeypatch.setattr(_attention, "KEPT_BYTES", 0)
    monkeypatch.setattr(_attention, "BLOCK_BYTES", 1)
    assert_close(results(garbage), wanted, 1e-12)
    assert len(calls) == len(LENGTHS) * len(net.memories)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@each_case
def test_order_of_captions_only_orders_the_columns(case, training):
    net, (images, captions) = network(*case).train(training), encoded()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    wanted = net.scores(images, captions, LENGTHS)[:, order].detach()
    with torch.inference_mode(not training):
        found = net.scores(images, captions[order], LENGTHS[order])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mode", "direction"), [("text", "t2i"), ("image", "i2t")])
def test_one_step_is_scan_with_average_pooling(mode, direction):
    given = encoded()
    wanted = ScanSimilarity(direction, "avg", 9.0, 1.0)(*given, LENGTHS)
    torch.testing.assert_close(network(mode, 1).similarity(*given, LENGTHS), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["text", "image", "full"])
def test_steps_differ_unless_the_gate_keeps_the_queries(mode):
    net, given = network(mode, 3).similarity, encoded()
    steps = net.step_scores(*given, LENGTHS)
    assert (steps.diff(dim=0).abs().amax(dim=(1, 2)) > 1e-3).all()
    for memory in net.memories.values():
        memory.gate_fc.bias.data.fill_(1e3)
    kept = net.step_scores(*given, LENGTHS)
    torch.testing.assert_close(kept, steps[:1].expand_as(kept), rtol=0, atol=1e-12)


def test_nothing_is_refined_after_the_last_step(monkeypatch):
    calls, refine = [], imram.refine
    monkeypatch.setattr(_attention, "SIMILAR_LENGTH", 0.0)  # one block
    monkeypatch.setattr(imram, "refine", lambda *given: calls.append(1) or refine(*given))
    for steps in (1, 2, 3):
        network("text", steps).similarity(*encoded(), LENGTHS)
    assert len(calls) == 0 + 1 + 2


@pytest.mark.parametrize("how", ["float32", "autocast", "bfloat16"])
@each_case
def test_gradients_are_finite(case, how):
    """With padding of zeros, an image region of zeros, and a caption of one word, whose attention sees signs alone."""
    net = network(*case, dtype=torch.bfloat16 if how == "bfloat16" else torch.float32).train()
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
    assert (exact - scores)[:, LENGTHS > 1].abs().max() < (1e-5 if how == "float32" else 0.1 * case[1])


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps"):
        build_method("imram", steps=0)


# ---- the released code ------------------------------------------------------------------------------------------------


def outputs(z, name):
    """What the released code calls `name`, such as "text_K3_normalised": (output, its value by our network)."""
    mode, steps, *normalised = name.split("_")
    net = network(mode, int(steps[1:]), bool(normalised), dim=z["input.images"].shape[2]).similarity
    names = {ours: f"{ours.split('.')[1]}_memory.{ours.split('.', 2)[2]}" for ours, _ in net.named_parameters()}
    net.load_state_dict({ours: torch.from_numpy(z[f"param.{theirs}"]) for ours, theirs in names.items()})
    images, captions = (torch.from_numpy(z[f"input.{side}"]).requires_grad_() for side in ("images", "captions"))
    lengths = torch.from_numpy(z["input.caption_lengths"])
    similarity = net(images, captions, lengths)
    similarity.sum().backward()
    garbage = net(images, torch.from_numpy(z["input.captions_garbage_padding"]), lengths)
    assert torch.equal(garbage, similarity)
    yield f"output.{name}_similarity", similarity.detach()
    yield f"output.{name}_per_step", net.step_scores(images, captions, lengths).detach()
    yield f"grad.{name}.images", images.grad
    yield f"grad.{name}.captions", captions.grad
    yield from ((f"grad.{name}.{theirs}", net.get_parameter(ours).grad) for ours, theirs in names.items())


def test_equals_the_released_code(index):  # noqa: F811
    if "imram_sim" not in index:
        pytest.skip("no fixture imram_sim")
    entry = index["imram_sim"]
    z = arrays_of(entry)
    names = [output.removeprefix("output.").removesuffix("_similarity") for output in z if output.endswith("_similarity")]
    compared = {}
    for output, value in (made for name in names for made in outputs(z, name)):
        if output in z:
            assert value.shape == z[output].shape, output
            error = np.abs(np.asarray(value) - z[output]).max() / max(1, np.abs(z[output]).max())
            compared[output] = error <= entry["tolerance"]["float64"]
    assert [output for output, equal in compared.items() if not equal] == []
    assert set(compared) == set(entry["outputs"])
