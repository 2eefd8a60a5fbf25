"""Learning to rank pairs: batches, the loop, and each small method beside what it is made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_baselines import data, smoke

from baselines import sgr_star
from baselines._ranking import PairData, decayed
from baselines.infonce import info_nce
from baselines.robust_infonce import bounded_info_nce
from xmbench import FitContext, PairedSet, build_method, load_dataset
from xmbench.run import fit_method

SMALL = {"dim": 16, "word_dim": 16, "similarity_dim": 8, "steps": 1, "epochs": 2, "warm_up": 1, "batch_size": 8, "lr": 0.01}


def split(**parameters):
    return data(regions=4, captions=2, train=20, **parameters).train


def bare(modality):
    return replace(modality, labels=None, item_ids=None)


def scored(method, part):
    """Scores (images, captions) of every network."""
    images, captions = (method.embed(bare(m)) for m in part.modalities)
    return [method.similarity(*both) for both in zip(images, captions, strict=True)]


def fitted(name, train, **parameters):
    method = smoke(name, **parameters)
    fit_method(method, train, FitContext())
    return method


def test_a_batch_holds_the_regions_and_words_of_its_pairs():
    train = split()
    drawn = PairData(train, FitContext())
    assert (len(drawn), drawn.sizes) == (40, {"region_dim": 32, "n_regions": 4, "n_words": 64})
    batch = drawn.batch(np.array([7, 0, 31]))
    images, captions = train.modalities
    np.testing.assert_array_equal(batch.images, images.sequences[np.array([3, 0, 15])])
    assert batch.lengths.tolist() == captions.lengths[[7, 0, 31]].tolist()
    assert batch.captions.shape[1] == batch.lengths.max(), "padded to the longest among them and no further"
    np.testing.assert_array_equal(batch.captions, captions.tokens[[7, 0, 31], : batch.captions.shape[1]])


def test_every_pair_asked_for_is_met_once_in_batches_of_about_equal_size():
    among = np.arange(1, 40, 3)
    batches = [batch.numbers for batch in PairData(split(), FitContext()).batches(5, among)]
    assert [len(numbers) for numbers in batches] == [7, 6]
    assert sorted(np.concatenate(batches)) == among.tolist()


def test_the_order_of_the_modalities_does_not_matter():
    part = split()
    turned = PairedSet(modalities=part.modalities[::-1], pairs=part.pairs[:, ::-1])
    methods = [build_method("sgr_star", **SMALL) for _ in range(2)]
    for method, train in zip(methods, (part, turned), strict=True):
        context = FitContext()
        context.seed_torch()
        method.fit(train, context)
    images, captions = (bare(m) for m in part.modalities)
    first = methods[0].similarity(methods[0].embed(images)[0], methods[0].embed(captions)[0])
    second = methods[1].similarity(methods[1].embed(captions)[0], methods[1].embed(images)[0])
    np.testing.assert_array_equal(first, second.T)


def test_data_without_regions_or_words_are_refused():
    with pytest.raises(
        ValueError, match="one modality of images with sequences and one of captions with tokens are needed, got"
    ):
        PairData(load_dataset("synthetic", train=20).train, FitContext())


def test_the_learning_rate_falls_to_a_tenth_and_not_during_warm_up():
    assert [decayed(0.1, epoch, 2) for epoch in (-3, 0, 1, 2, 4)] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("margin", [0.2, 0.05])
def test_sgr_star_takes_the_mean_over_negatives_first(margin, monkeypatch):
    calls = []
    for name in ("mean_triplet", "hard_triplet"):
        loss = getattr(sgr_star, name)
        monkeypatch.setattr(
            sgr_star, name, lambda scores, alpha, name=name, loss=loss: calls.append((name, alpha)) or loss(scores, alpha)
        )
    fitted("sgr_star", split(), **SMALL | {"margin": margin})
    assert calls == [("mean_triplet", margin)] * 5 + [("hard_triplet", margin)] * 10, "5 batches of 8, 1 + 2 epochs"


def test_sgr_clean_is_sgr_star_on_the_right_pairs():
    part = split()
    right = np.arange(40) % 3 > 0
    moved = part.pairs.copy()
    moved[~right, 0] = np.roll(moved[~right, 0], 5)
    told, without = (
        replace(part, pairs=moved, clean_pairs=right),
        replace(part, pairs=moved[right]),
    )
    results = []
    for name, train in (("sgr_clean", told), ("sgr_star", without), ("sgr_star", told)):
        method, context = build_method(name, **SMALL), FitContext()
        context.seed_torch()
        method.fit(train, context)
        results.append(scored(method, part)[0])
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_sgr_clean_without_a_right_pair_says_so():
    with pytest.raises(ValueError, match="sgr_clean needs at least one right pair, got 40 wrong ones"):
        build_method("sgr_clean", **SMALL).fit(replace(split(), clean_pairs=np.zeros(40, dtype=bool)), FitContext())


def test_sgraf_averages_an_sgr_and_an_saf_network():
    part = split()
    shape = {key: value for key, value in SMALL.items() if key != "warm_up"}
    method = fitted("sgraf", part, **shape)
    assert [type(net.similarity.reasoning).__name__ for net in method.nets_] == ["GraphReasoning", "AttentionFiltration"]
    first, second = scored(method, part)
    assert first.shape == second.shape == (20, 40)
    assert not np.allclose(first, second)


def test_vse_scores_are_cosines_of_a_mean_region_and_a_last_state():
    part = split()
    method = fitted("vse", part)
    net = method.nets_[0]
    images, captions = part.modalities
    with torch.no_grad():
        regions = torch.from_numpy(images.sequences[np.arange(20)])
        image = net.region_encoder.linear(regions.mean(dim=1)).numpy()
        words, row = net.word_encoder.words, 3
        true = torch.from_numpy(captions.tokens[row, : captions.lengths[row]])
        _, last = net.word_encoder.recurrence(words(true)[None])
    caption = last[0, 0].numpy()
    expected = image @ caption / np.linalg.norm(image, axis=1) / np.linalg.norm(caption)
    np.testing.assert_allclose(scored(method, part)[0][:, row], expected, atol=1e-6)


def test_vse_with_all_negatives_sums_the_hinges_of_kiros():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.6, 0.7], [0.2, 0.3, 0.4]], dtype=torch.float64)
    rows, columns = (0.1 + 0.1 + 0.3) + (0.0 + 0.1), (0.0 + 0.4 + 0.0) + (0.0 + 0.5)
    assert build_method("vse", negatives="all").loss(scores, 0).item() == pytest.approx(rows + columns)
    assert build_method("vse").loss(scores, 0).item() == pytest.approx((0.1 + 0.3 + 0.1) + (0.0 + 0.4 + 0.5))


def test_vse_reads_captions_with_an_lstm_where_it_is_told_to():
    part = split()
    method = fitted("vse", part, recurrence="lstm", epochs=1)
    encoder, row = method.nets_[0].word_encoder, 3
    assert isinstance(encoder.recurrence, torch.nn.LSTM)
    captions = part.modalities[1]
    with torch.no_grad():
        true = torch.from_numpy(captions.tokens[row, : captions.lengths[row]])
        _, (last, _) = encoder.recurrence(encoder.words(true)[None])
    expected = torch.nn.functional.normalize(last[0, 0], dim=0)
    np.testing.assert_allclose(method.embed(bare(captions))[0].values[row], expected, atol=1e-6)


def test_info_nce_is_cross_entropy_both_ways():
    scores, own = torch.randn(6, 6, dtype=torch.float64), torch.arange(6)
    expected = (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2
    assert info_nce(scores).item() == pytest.approx(expected.item())
    assert info_nce(torch.zeros(6, 6)).item() == pytest.approx(np.log(6), abs=1e-6)


def test_bounded_info_nce_lies_between_info_nce_and_the_mean_absolute_error():
    scores = 3 * torch.randn(6, 6, dtype=torch.float64)
    p = [torch.softmax(scores, dim=d).diagonal() for d in (0, 1)]
    assert bounded_info_nce(scores, 1.0).item() == pytest.approx((1 - torch.stack(p)).mean().item())
    assert bounded_info_nce(scores, 0.5).item() == pytest.approx(((1 - torch.stack(p) ** 0.5) / 0.5).mean().item())
    assert bounded_info_nce(scores, 1e-6).item() == pytest.approx(info_nce(scores).item(), rel=1e-4)
    hopeless = torch.full((4, 4), 500.0).fill_diagonal_(-500.0)
    assert bounded_info_nce(hopeless, 0.5).item() == pytest.approx(2.0), "1 / q at most"


def test_q_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"robust_infonce.q must lie in \(0, 1\], got 1.5"):
        build_method("robust_infonce", q=1.5)


def test_words_without_a_vocabulary_and_a_single_pair_are_refused():
    train = split()
    image, text = train.modalities
    numbers = PairedSet(modalities=(image, replace(text, vocabulary=None)), pairs=train.pairs)
    with pytest.raises(ValueError, match="to learn the words of 'text' their vocabulary is needed"):
        _ = PairData(numbers, FitContext()).sizes
    with pytest.raises(ValueError, match="two training pairs or more are needed, each other's negatives, got 1"):
        PairData(replace(train, pairs=train.pairs[:1]), FitContext())
