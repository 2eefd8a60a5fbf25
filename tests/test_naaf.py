"""NAAF beside the released code's outputs and a loop over captions; and its thresholds by hand."""

import re

import numpy as np
import pytest
import torch
from scipy.stats import norm
from test_baselines import data, smoke
from test_golden import arrays_of, index, number  # noqa: F401 (a fixture)
from torch import nn

from baselines import _attention
from baselines.naaf import NegativeAware, boundary, mined, statistics, walked
from xmbench import FitContext
from xmbench.run import fit_method

LENGTHS = torch.tensor([4, 9, 2, 6, 9, 3, 1])


def similarity(mining="previous", temperature=20.0, least_words=200, thresholds=(0.0, 0.0)):
    made = NegativeAware(temperature, mining, 2.0, least_words).double()
    made.thresholds.copy_(torch.tensor(thresholds, dtype=torch.float64))
    return made


def encoded(dtype=torch.float64, n_images=7, seed=2):
    """Unit regions and words, the latter with zeros at padding; both get gradients. Words are like regions of their image."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n_images, 5, 12, dtype=torch.float64, generator=generator)
    captions = torch.randn(len(LENGTHS), 9, 12, dtype=torch.float64, generator=generator)
    captions[:n_images] += 1.5 * images[:, torch.arange(9) % 5]
    images, captions = (nn.functional.normalize(x, dim=-1) for x in (images, captions))
    captions[torch.arange(9) >= LENGTHS[:, None]] = 0
    return images.to(dtype).requires_grad_(), captions.to(dtype).requires_grad_()


# ---- one caption after the other, from the paper ----------------------------------------------------------------------


def column(images, words, threshold, temperature, smoothed):
    """Scores (B,) of one caption, and the maxima (B, n) of its words."""
    products = images @ words.T
    best = products.max(dim=1).values
    attention = nn.functional.leaky_relu(products, 0.1)
    attention = (temperature * attention / (attention.norm(dim=2, keepdim=True) + 1e-8)).softmax(dim=1)
    pull = (temperature * (products - threshold)).exp() * (products > threshold)
    context = pull.mT @ images
    found = (words * context).sum(dim=2) / context.norm(dim=2).clamp(min=1e-8)
    lacking = best - threshold
    kept = (lacking @ (5 * words @ words.T).softmax(dim=1).T if smoothed else lacking) < 0
    return (found + (attention * products).sum(dim=1) + lacking * kept).mean(dim=1), best


def loop(images, captions, lengths, thresholds, temperature=20.0, smoothed=False):
    pairs = zip(captions, lengths, thresholds, strict=True)
    return torch.stack([column(images, c[:n], th, temperature, smoothed)[0] for c, n, th in pairs], dim=1)


def crossing(positive, negative, penalty=2.0):
    """Where the density of the positives comes to be more than alpha times that of the negatives; NaN where nowhere."""
    grid = np.linspace(-1, 2, 20_001)
    densities = [norm.logpdf(grid, values.mean(), values.std(ddof=1)) for values in (positive, negative)]
    lead = densities[0] - densities[1] - np.log(penalty)
    rises = np.flatnonzero((lead[:-1] < 0) & (lead[1:] >= 0))
    return np.interp(0, lead[rises[0] : rises[0] + 2], grid[rises[0] : rises[0] + 2]) if len(rises) else np.nan


def released_walk(images, captions, lengths, start, least_words):
    """The released rule as a loop: scores, and both thresholds afterwards."""
    now, columns, words, positive, negative = list(start), [], 0, [], []
    for i, (caption, n) in enumerate(zip(captions, lengths, strict=True)):
        scores, best = column(images, caption[:n], now[0], 20.0, smoothed=False)
        columns.append(scores)
        if scores.argmax() == i:
            positive.append(best[i])
            negative.append(best[scores.argmin()])
            words += int(n)
            if words > least_words:
                p, q = (torch.cat(values) for values in (positive, negative))
                found = [float(crossing(p.numpy(), q.numpy())), float(p.mean() - 3 * p.std())]
                now = [0.7 * (x if 0 <= x <= 1 else 0) + 0.3 * old for x, old in zip(found, now, strict=True)]
        if words < least_words:
            now = [0.0, 0.0]
    return torch.stack(columns, dim=1), now


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
def test_equals_a_loop_over_captions(threshold, training):
    images, captions = encoded()
    weights = torch.randn(7, 7, dtype=torch.float64)
    net = similarity(thresholds=(threshold, threshold)).train(training)
    found = net(images, captions, LENGTHS)
    wanted = loop(images, captions, LENGTHS, [threshold] * 7, smoothed=not training)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert wanted.std() > 0.1
    gradients = [torch.autograd.grad((scores * weights).sum(), (images, captions)) for scores in (found, wanted)]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_padding_blocks_and_recomputation_change_nothing(training, monkeypatch):
    images, captions = encoded()
    garbage = captions.detach().clone()
    garbage[torch.arange(9) >= LENGTHS[:, None]] = torch.nan
    longer = torch.cat([garbage, torch.full((7, 4, 12), torch.inf)], dim=1)

    def results(words):
        net, given = similarity(least_words=5, thresholds=(0.3, 0.4)).train(training), images.detach().requires_grad_()
        scores = net(given, words, LENGTHS)
        gradient = torch.autograd.grad((scores**2).sum(), given)[0]
        assert (net.thresholds[0] == 0.3) == (not training)
        return torch.cat([scores.detach().flatten(), gradient.flatten(), net.thresholds])

    wanted = results(captions.detach())
    for words in (garbage, longer):
        torch.testing.assert_close(results(words), wanted, rtol=0, atol=1e-12)
    for name in ("BLOCK_BYTES", "KEPT_BYTES"):
        monkeypatch.setattr(_attention, name, 1)
        torch.testing.assert_close(results(garbage), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_order_of_captions_only_orders_the_columns(training):
    """And of the images: with the pairs as they were, the thresholds are the same too."""
    images, captions = encoded()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    nets = [similarity(least_words=5, thresholds=(0.3, 0.4)).train(training) for _ in range(2)]
    scores = nets[0](images, captions, LENGTHS)
    other = nets[1](images[order], captions[order], LENGTHS[order])
    torch.testing.assert_close(other, scores[order][:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(nets[1].thresholds, nets[0].thresholds, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite(dtype):
    """With padding, a region of zeros, a word of zeros, and a word below the threshold everywhere."""
    images, captions = (x.detach().to(dtype) for x in encoded())
    images[0, 1], captions[1, 2], captions[4, 3] = 0, 0, -images.sum(dim=(0, 1))
    images, captions = images.requires_grad_(), captions.requires_grad_()
    net = similarity(least_words=5, thresholds=(0.3, 0.4)).float()
    for training in (True, False):
        scores = net.train(training)(images, captions, LENGTHS)
        assert scores.isfinite().all()
        assert scores.dtype == torch.float32
        assert all(g.isfinite().all() for g in torch.autograd.grad((scores**2).sum(), (images, captions)))
    assert net.thresholds.isfinite().all()


# ---- what words lack --------------------------------------------------------------------------------------------------


def test_words_that_every_region_resembles_lack_nothing_at_threshold_zero():
    images, captions = (nn.functional.normalize(x.detach().abs() + 0.1, dim=-1) for x in encoded())
    lengths = torch.full((7,), 9)
    scores = similarity()(images, captions, lengths)
    mixed = torch.stack([column(images, c, 0.0, 20.0, smoothed=False)[0] for c in captions], dim=1)
    assert scores.min() > 0.5
    torch.testing.assert_close(scores, mixed, rtol=0, atol=1e-9)
    raised = similarity(thresholds=(2.0, 2.0))(images, captions, lengths)
    lacking = (images @ captions.flatten(0, 1).T).amax(dim=1).view(7, 7, 9).mean(dim=2) - 2
    attended = raised - lacking
    assert ((attended > 0) & (attended < 1)).all(), "above the threshold of 2 is nothing: the attention alone is left"


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_word_like_no_region_costs_the_threshold(training):
    images, word = torch.eye(4, dtype=torch.float64)[None, :3].expand(2, 3, 4), torch.eye(4, dtype=torch.float64)[3]
    scores = similarity(thresholds=(0.3, 0.25)).train(training)(images, word.expand(2, 1, 4), torch.tensor([1, 1]))
    torch.testing.assert_close(scores, torch.full((2, 2), -0.3 if training else -0.25, dtype=torch.float64))


def test_at_test_a_word_is_excused_by_the_words_that_are_like_it():
    regions = torch.eye(4, dtype=torch.float64)[None, :2]
    good, poor = torch.tensor([1.0, 0, 0, 0]), nn.functional.normalize(torch.tensor([0.25, 0, 1.0, 0]), dim=0)
    caption = torch.stack([good, poor])[None].double()
    net = similarity(thresholds=(0.3, 0.3))
    lead = (regions @ caption[0].T).amax(dim=1)[0] - 0.3
    assert lead[0] > 0 > lead[1]
    weights = (5 * caption[0] @ caption[0].T).softmax(dim=1)
    assert weights[1] @ lead < 0, "its own weight is the largest here"
    two, six = torch.tensor([2]), torch.tensor([6])
    assert net.eval()(regions, caption, two).item() == pytest.approx(net.train()(regions, caption, two).item())
    net.thresholds.fill_(0.3)
    alike = nn.functional.normalize(torch.tensor([[1.0, 0, 0.9, 0]]), dim=1).double()
    caption = torch.cat([caption[0], alike.expand(4, 4)])[None]
    lead = (regions @ caption[0].T).amax(dim=1)[0] - 0.3
    assert ((5 * caption[0] @ caption[0].T).softmax(dim=1) @ lead > 0).all()
    excused, kept = (net.train(training)(regions, caption, six).item() for training in (False, True))
    assert excused - kept == pytest.approx(-lead[1].item() / 6)


# ---- thresholds -------------------------------------------------------------------------------------------------------


def moments_of(*samples):
    """(5, 1) moments of positive and negative values."""
    sums = [s for values in samples for s in (values.sum(), (values**2).sum())]
    return torch.tensor([len(samples[0]), *sums], dtype=torch.float64)[:, None]


def drawn(mean_p=0.6, std_p=0.1, mean_n=0.2, std_n=0.15, n=300):
    """Values with exactly these means and deviations."""
    z = np.random.default_rng(0).standard_normal((2, n))
    z = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, ddof=1, keepdims=True)
    return mean_p + std_p * z[0], mean_n + std_n * z[1]


@pytest.mark.parametrize("deviations", [(0.1, 0.15), (0.15, 0.1), (0.1, 0.1), (0.1, 0.1 + 1e-9), (0.02, 0.2)])
def test_threshold_is_where_the_densities_cross(deviations):
    positive, negative = drawn(std_p=deviations[0], std_n=deviations[1])
    (threshold, safe), exists = boundary(moments_of(positive, negative), 2.0)
    assert exists
    assert threshold.item() == pytest.approx(crossing(positive, negative), abs=1e-6)
    assert safe.item() == pytest.approx(0.6 - 3 * deviations[0] if deviations[0] < 0.2 else 0)
    found = [x.item() for x in statistics(moments_of(positive, negative))]
    assert found == pytest.approx([0.6, deviations[0], 0.2, deviations[1]])


def test_equal_deviations_give_the_linear_root():
    (threshold, _), _ = boundary(moments_of(*drawn(std_p=0.1, std_n=0.1)), 2.0)
    assert threshold.item() == pytest.approx(0.4 + 0.01 * np.log(2) / 0.4, abs=1e-9)


def test_outside_its_range_a_threshold_is_zero():
    for sample in (drawn(mean_p=-0.3, mean_n=-0.7), drawn(mean_p=3.0, mean_n=2.0)):
        (threshold, safe), exists = boundary(moments_of(*sample), 2.0)
        assert (threshold.item(), safe.item(), exists.item()) == (0.0, 0.0, True)
    assert boundary(moments_of(*drawn(mean_p=0.2, std_p=0.1)), 2.0)[0][1].item() == 0, ".2 - 3 * .1 < 0"


@pytest.mark.parametrize("same", [drawn(std_p=0.0, std_n=0.0), drawn(mean_p=0.2, std_p=0.1, std_n=0.1), np.zeros((2, 300))])
def test_values_that_tell_nothing_leave_the_thresholds(same):
    """No deviation, or the same values twice, whose densities do not cross."""
    found, _ = boundary(moments_of(*same), 2.0)
    assert found.isfinite().all()
    after = walked(moments_of(*same), torch.tensor([0.2, 0.1]), 2.0, 200)
    assert after.isfinite().all()
    assert after[0, 0] == pytest.approx(0.2)


def test_a_threshold_keeps_a_share_of_the_one_before():
    moments, before = moments_of(*drawn()), torch.tensor([0.2, 0.1])
    (threshold, safe), _ = boundary(moments, 2.0)
    after = walked(moments, before, 2.0, 299)
    assert after[:, 1].tolist() == pytest.approx([0.7 * threshold.item() + 0.3 * 0.2, 0.7 * safe.item() + 0.3 * 0.1])
    assert walked(moments, before, 2.0, 300)[:, 1].tolist() == pytest.approx([0.2, 0.1]), "exactly as many: they stay"
    for few, least in ((moments, 301), (torch.zeros(5, 1), 200)):
        assert walked(few, before, 2.0, least)[:, 1].tolist() == pytest.approx([0.2, 0.1]), "fewer, or none: they stay too"
        assert walked(few, before, 2.0, least, anew=True)[:, 1].tolist() == [0, 0], "as released they are 0"
    assert walked(moments, before, 2.0, 300, anew=True)[:, 1].tolist() == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize(("mining", "after"), [("previous", [0.3, 0.4]), ("released", [0.0, 0.0])])
def test_a_batch_of_few_words_keeps_the_thresholds_but_as_released(mining, after):
    net = similarity(mining, least_words=10_000, thresholds=(0.3, 0.4))
    net(*encoded(), LENGTHS)
    assert net.thresholds.tolist() == pytest.approx(after)


def test_the_released_walk_scores_again_only_what_changes():
    net, columns = similarity("released", least_words=5, thresholds=(0.35, 0.25)), []
    scores = net._scores
    net._scores = lambda images, captions, *given: columns.append(len(captions)) or scores(images, captions, *given)
    net(*encoded(), LENGTHS)
    assert columns[0] == columns[-1] == len(LENGTHS)
    assert len(columns) > 2
    assert max(columns[1:-1]) < len(LENGTHS)


def test_mined_are_the_words_of_captions_that_rank_their_own_image_first():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.6], [0.1, 0.4, 0.7]])
    sums, squares = torch.arange(9.0).view(3, 3), 10 * torch.arange(9.0).view(3, 3)
    found = mined(scores, sums, squares, torch.tensor([4, 5, 6]))
    wanted = [[4.0, 0, 0, 6, 60], [0] * 5, [6.0, 8, 80, 2, 20]]  # caption 1 is likest image 2
    assert found.T.tolist() == wanted
    assert (mined(scores * torch.nan, sums, squares, torch.tensor([4, 5, 6])) == 0).all()


def test_a_batch_is_scored_with_the_threshold_of_those_before():
    images, captions = encoded()
    net = similarity(least_words=5)
    first, between = net(images, captions, LENGTHS), net.thresholds.clone()
    second = net(images, captions, LENGTHS)
    torch.testing.assert_close(first, loop(images, captions, LENGTHS, [0.0] * 7), rtol=0, atol=1e-9)
    assert between[0] > 0.1
    torch.testing.assert_close(second, loop(images, captions, LENGTHS, [between[0]] * 7), rtol=0, atol=1e-9)


@pytest.mark.parametrize("least_words", [1, 5, 12, 30, 200])
def test_the_released_rule_is_the_loop_over_captions(least_words):
    for seed in range(4):
        images, captions = (x.detach() for x in encoded(seed=seed))
        net = similarity("released", least_words=least_words, thresholds=(0.35, 0.25))
        scores, thresholds = released_walk(images, captions, LENGTHS, (0.35, 0.25), least_words)
        torch.testing.assert_close(net(images, captions, LENGTHS), scores, rtol=0, atol=1e-5)
        assert net.thresholds.tolist() == pytest.approx(thresholds, abs=1e-5)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    other = similarity("released", least_words=least_words, thresholds=(0.35, 0.25))(
        images[order], captions[order], LENGTHS[order]
    )
    assert (other - scores[order][:, order]).abs().max() > 1e-2, "it depends on the order of the captions"


def test_thresholds_are_learnt_in_a_fit_and_kept_with_the_network():
    train = data(regions=4, train=100).train
    method, few = (smoke("naaf", batch_size=50, epochs=20, lr=0.01, least_words=n) for n in (20, 10_000))
    for each in (method, few):
        fit_method(each, train, FitContext())
    assert 0.1 < method.nets_[0].state_dict()["similarity.thresholds"][0] < 1
    assert few.nets_[0].similarity.thresholds.tolist() == [0, 0]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("mining", ["previous", "released"])
def test_an_epoch_without_any_threshold_is_warned_of_once(mining, epochs, caplog):
    train = data(regions=4, train=40).train
    for least_words in (10_000, 1):
        fit_method(smoke("naaf", epochs=epochs, mining=mining, batch_size=20, least_words=least_words), train, FitContext())
    assert [message.split(":")[:2] for message in caplog.messages] == [
        ["naaf", " no threshold was found by the end of epoch 0"]
    ]
    assert "more than 10000 words" in caplog.text


# ---- the released code ------------------------------------------------------------------------------------------------


def inputs_of(z, captions="captions"):
    images, words = (torch.from_numpy(z[f"input.{name}"]).requires_grad_() for name in ("images", captions))
    return images, words, torch.from_numpy(z["input.caption_lengths"])


def golden_similarities(entry, z):
    for output in entry["outputs"]:
        if not (name := re.fullmatch(r"output\.(train|test)_similarity_th(.+)", output)):
            continue
        threshold = number(name[2])
        given = inputs_of(z)
        net = similarity(thresholds=(threshold,) * 2).train(name[1] == "train")
        scores = net(*given)
        scores.sum().backward()
        net.thresholds.fill_(threshold)
        assert torch.equal(net(*inputs_of(z, "captions_garbage_padding")), scores)
        yield output, scores.detach()
        if name[1] == "train":
            yield f"grad.train_th{name[2]}.images", given[0].grad
            yield f"grad.train_th{name[2]}.captions", given[1].grad
    yield "output.train_similarity_released_from_th0p3", similarity("released", thresholds=(0.3, 0.3))(*inputs_of(z)).detach()


def golden_mining(entry, z):
    start = tuple(entry["settings"][f"initial_{name}"] for name in ("threshold", "threshold_safe"))
    net = similarity("released", thresholds=start)
    kept = []
    net._after = lambda *given: kept.append(mined(*given)) or NegativeAware._after(net, *given)
    yield "output.similarity", net(*inputs_of(z)).detach()
    yield "output.threshold", net.thresholds[0]
    yield "output.threshold_safe", net.thresholds[1]
    mean_p, std_p, mean_n, std_n = statistics(kept[-1].sum(dim=1))
    yield from (("output.mean_pos", mean_p), ("output.std_pos", std_p), ("output.mean_neg", mean_n), ("output.std_neg", std_n))


@pytest.mark.parametrize(("name", "computed"), [("naaf_sim", golden_similarities), ("naaf_mining", golden_mining)])
def test_equals_the_released_code(name, computed, index):  # noqa: F811
    if name not in index:
        pytest.skip(f"no fixture {name}")
    entry = index[name]
    z = arrays_of(entry)
    errors = {}
    for output, value in computed(entry, z):
        expected, got = z[output], np.asarray(value)
        assert got.shape == expected.shape, output
        errors[output] = np.abs(got - expected).max() / max(1, np.abs(expected).max())
    assert {output: error for output, error in errors.items() if not error <= entry["tolerance"]["float64"]} == {}
    assert set(errors) == set(entry["outputs"])
