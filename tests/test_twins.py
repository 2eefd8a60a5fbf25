"""Synthetic twins: the shape of a dataset's card, a planted signal, and nothing else of the original."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from xmbench import FitContext, build_method, load_dataset
from xmbench.datasets import dataset_card, dataset_names, dataset_parameters, is_ready, synthetic
from xmbench.datasets._twins import twin_of
from xmbench.metrics import average_precision, recall_at, shared_label
from xmbench.types import split_sha

ORIGINALS = sorted({name.removeprefix("synthetic_") for name in dataset_names()} - {"synthetic"})
CAPTIONED = sorted(name for name in ORIGINALS if dataset_card(name).regions)
VIDEOS = sorted(name for name in ORIGINALS if dataset_card(name).word_vectors)
LABELLED = sorted(set(ORIGINALS) - set(CAPTIONED) - set(VIDEOS))
MULTILABEL = {"mirflickr25k", "nus_wide_multilabel", "coco_multilabel"}


def vectors(split, modality=0):
    return np.asarray(split.modalities[modality].vectors)


def test_every_dataset_but_synthetic_has_a_twin():
    names = set(dataset_names())
    assert names == {"synthetic", *ORIGINALS, *(f"synthetic_{name}" for name in ORIGINALS)}
    released = {"wikipedia_deep", "nus_wide", "xmedianet", "xmedianet4", "inria_websearch"}
    assert {"wikipedia", "openmoji", *released, *MULTILABEL} <= names
    assert CAPTIONED == ["cc152k_precomp", "coco_clip", "coco_precomp", "f30k_clip", "f30k_precomp", "flickr8k"]
    assert VIDEOS == ["howto100m", "lsmdc", "msrvtt", "youcook2"]
    with pytest.raises(LookupError, match="no dataset named 'synthetic_nuswide'; did you mean 'synthetic_nus_wide'"):
        load_dataset("synthetic_nuswide")


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_twin_keeps_the_facts_of_the_card_and_says_that_it_is_synthetic(name):
    original, twin = dataset_card(name), dataset_card(f"synthetic_{name}")
    for fact in (
        "sizes",
        "widths",
        "classes",
        "multi_label",
        "labels_per_item",
        "regions",
        "captions",
        "words",
        "word_vectors",
        "folds",
    ):
        assert getattr(twin, fact) == getattr(original, fact), fact
    assert twin.name == f"synthetic_{name}"
    assert twin.title == f"Synthetic: the shape of {name}, nothing of its content"
    assert (twin.licence, twin.parcels, twin.checks, twin.folder) == ("none needed", (), "", "")
    assert "drawn from a seed" in twin.source
    assert is_ready(twin)
    assert original.multi_label == (original.labels_per_item > 1) == (name in MULTILABEL)
    assert set(twin.parameters) == set(dataset_parameters(twin.name)) >= {"shrink", "seed", "instance_signal"}


@pytest.mark.parametrize("name", LABELLED)
def test_a_shrunk_twin_has_the_shape_of_the_original(name):
    card, shrink = dataset_card(name), 500
    dataset = load_dataset(f"synthetic_{name}", shrink=shrink)
    assert (dataset.name, dataset.family) == (f"synthetic_{name}", f"synthetic_{name}")
    for part, split in dataset.splits().items():
        n = max(card.sizes[part] // shrink, 2 * card.classes)
        assert {m.name: m.vectors.shape for m in split.modalities} == {m: (n, d) for m, d in card.widths.items()}
        assert np.array_equal(split.pairs, np.stack([np.arange(n)] * len(card.widths), axis=1))
        labels = split.modalities[0].labels
        assert labels.shape == (n, card.classes)
        assert labels.sum(axis=0).min() >= 2, "two items of every class at least"
        assert (
            abs(labels.sum(axis=1).mean() - card.labels_per_item)
            < 5 * np.sqrt(card.labels_per_item / n) * card.multi_label + 1e-9
        )
        assert labels.sum(axis=1).min() >= 1
        assert all(m.labels is labels for m in split.modalities)
        assert vectors(split).dtype == np.float32


@pytest.mark.parametrize("name", ["wikipedia", "openmoji"])
def test_an_unshrunk_twin_has_the_sizes_of_data_that_can_be_read_here(name, request):
    if name == "wikipedia" and not (request.getfixturevalue("data_root") / "wikipedia" / "raw_features.mat").exists():
        pytest.skip("no wikipedia here")

    def shape(dataset):
        return {
            part: {m.name: (m.vectors.shape, m.labels.shape) for m in split.modalities}
            for part, split in dataset.splits().items()
        }

    assert shape(load_dataset(f"synthetic_{name}")) == shape(load_dataset(name))


def test_no_split_grows_by_shrinking_and_shrink_is_a_positive_number():
    smallest = load_dataset("synthetic_inria_websearch", shrink=10**9)
    assert {part: len(split.pairs) for part, split in smallest.splits().items()} == {"train": 200, "valid": 200, "test": 200}
    assert smallest.train.modalities[0].labels.sum(axis=0).tolist() == [2] * 100
    few = twin_of(replace(dataset_card("openmoji"), sizes={"train": 100, "valid": 12, "test": 30, "test:other": 5}))
    parts = few.load(few.Parameters(shrink=4))
    assert {part: len(split.pairs) for part, split in parts.splits().items()} == {
        "train": 25, "valid": 12, "test": 18, "test:other": 5,
    }  # fmt: skip
    with pytest.raises(ValueError, match="shrink must be 1 or more, got 0"):
        load_dataset("synthetic_openmoji", shrink=0)
    with pytest.raises(ValueError, match="a twin needs the widths and classes of synthetic, its card has not got both"):
        twin_of(replace(synthetic.CARD, classes=None))


def test_draws_depend_on_seed_and_dataset_alone():
    def first(name="nus_wide", **parameters):
        return vectors(load_dataset(f"synthetic_{name}", shrink=2000, **parameters).train)[:20]

    assert np.array_equal(first(), first(seed=0))
    assert not np.array_equal(first(), first(seed=1))
    assert not np.array_equal(first(), first("wikipedia_deep")), "another dataset of the same widths and classes"


@pytest.mark.parametrize("name", ["wikipedia", "mirflickr25k"])
def test_class_and_instance_signal_are_planted(name):
    def scores(**parameters):
        """MAP above chance, and R@1 by pair, of PLS on the test split."""
        dataset = load_dataset(f"synthetic_{name}", shrink={"wikipedia": 2, "mirflickr25k": 20}[name], **parameters)
        pls, test = build_method("pls", dim=8), dataset.tests["test"]
        pls.fit(dataset.train, FitContext())
        similarity = pls.similarity(*(pls.embed(m) for m in test.modalities))
        by_class = shared_label(*(m.labels for m in test.modalities))
        random = np.random.default_rng(0).random(similarity.shape)
        above = average_precision(similarity, by_class).mean() - average_precision(random, by_class).mean()
        return above, recall_at(similarity, np.eye(len(similarity), dtype=bool), 1).mean()

    by_class, by_pair = scores()
    assert by_class > 0.1
    assert by_pair > 0.1
    no_class, only_pair = scores(class_signal=0.0)
    assert no_class < 0.05
    assert only_pair > 0.1
    only_class, _ = scores(instance_signal=0.0)
    assert only_class > by_class


def test_rendering_in_blocks_changes_nothing_and_needs_one_copy(monkeypatch):
    whole = vectors(load_dataset("synthetic_wikipedia").train)
    monkeypatch.setattr(synthetic, "_BLOCK", 100)
    assert np.allclose(vectors(load_dataset("synthetic_wikipedia").train), whole, rtol=1e-6, atol=1e-6)
    twin = twin_of(dataset_card("nus_wide"))
    tracemalloc.start()
    dataset = twin.load(twin.Parameters(shrink=8))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    features = sum(4 * len(m) * m.vectors.shape[1] for split in dataset.splits().values() for m in split.modalities)
    assert features <= held < 1.05 * features
    assert peak < 1.1 * features


# Regions and captions


@pytest.mark.parametrize("name", CAPTIONED)
def test_a_twin_of_captioned_images_has_regions_and_words_of_the_shape_of_the_card(name):
    card, shrink = dataset_card(name), 500
    dataset = load_dataset(f"synthetic_{name}", shrink=shrink, region_width=8)
    assert set(dataset.tests) == {"test", *card.folds}
    most, k = max(card.folds.values(), default=1), card.captions
    for part, n_original in card.sizes.items():
        n = max(n_original // shrink, 2 * most)
        image, text = dataset.splits()[part].modalities
        assert image.sequences.shape == (n, card.regions[0], 8)
        assert (len(text), len(text.vocabulary), text.vocabulary[:4]) == (
            n * k,
            card.words,
            ("<pad>", "<start>", "<end>", "<unk>"),
        )
        assert (image.labels, text.labels, image.lengths) == (None, None, None)
        widths = {m.name: None if m.vectors is None else m.vectors.shape[1] for m in (image, text)}
        assert widths == (dict(card.widths) or {"image": None, "text": None})
        rows = np.arange(n * k)
        assert np.array_equal(dataset.splits()[part].pairs, np.stack([rows // k, rows], axis=1))


def test_folds_of_a_twin_stay_equal_and_are_the_test_itself():
    dataset = load_dataset("synthetic_coco_precomp", shrink=330, region_width=4)
    assert dataset.folds == {"test:1k": 5}
    assert dataset.tests["test:1k"] is dataset.tests["test"]
    sizes = [len(split.modalities[0]) for split in dataset.splits().values()]
    assert sizes == [343, 15, 15, 15]
    assert [len(split.modalities[0]) for split in load_dataset("synthetic_coco_precomp", shrink=10**9).splits().values()] == [
        10, 10, 10, 10,
    ]  # fmt: skip


def test_the_region_width_of_a_twin_is_that_of_the_card_unless_it_is_given():
    image = load_dataset("synthetic_f30k_precomp", shrink=5000).train.modalities[0]
    assert image.sequences.shape == (5, 36, 2048)
    for wrong in ({"shrink": 0}, {"region_width": -1}):
        with pytest.raises(ValueError, match="shrink must be 1 or more and region_width 0 or more"):
            load_dataset("synthetic_f30k_precomp", **wrong)


def words_and_regions(split):
    """Counts (n, words) of every caption, and the mean region (n, d) of its image."""
    image, text = split.modalities
    counts = np.zeros((len(text), len(text.vocabulary)))
    np.add.at(counts, (np.arange(len(text))[:, None], text.tokens), 1)
    return counts[:, 4:], np.asarray(image.sequences).mean(axis=1)[split.pairs[:, 0]]


def test_captions_of_synthetic_tell_their_images_apart():
    """A linear map from words to regions, fitted on train, finds the image of a test caption; on shuffled pairs it does not."""
    dataset = load_dataset("synthetic", regions=8, captions=3)
    words, regions = words_and_regions(dataset.train)
    test_words, test_regions = words_and_regions(dataset.tests["test"])

    def recall(regions):
        mapped = test_words @ np.linalg.lstsq(words.T @ words + np.eye(words.shape[1]), words.T @ regions, rcond=None)[0]
        a, b = mapped - mapped.mean(axis=0), test_regions[::3] - test_regions.mean(axis=0)
        cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
        return recall_at(cosine, np.arange(600)[:, None] // 3 == np.arange(200), 1).mean()

    assert recall(regions) > 0.6
    assert recall(np.random.default_rng(0).permutation(regions)) < 0.05


def test_synthetic_regions_show_all_concepts_of_an_item_and_captions_name_half_of_them_or_more():
    split = load_dataset("synthetic", regions=6, captions=2, noise=0.0, train=50).train
    image, text = split.modalities
    regions = np.asarray(image.sequences)
    prototypes, shown = np.unique(regions.reshape(-1, regions.shape[2]), axis=0, return_inverse=True)
    shown = shown.reshape(50, 6)
    assert all(len(set(row)) == 4 for row in shown.tolist())
    assert len(prototypes) <= 40
    named_by: dict[int, set[int]] = {}
    for row, (tokens, length) in enumerate(zip(text.tokens, text.lengths, strict=True)):
        assert (tokens[0], tokens[length - 1]) == (1, 2)
        assert not tokens[length:].any()
        words = [text.vocabulary[token] for token in tokens[1 : length - 1]]
        things = {word for word in words if word.startswith("thing")}
        assert 2 <= len(things) <= 4
        assert 1 <= len(words) - len(things) <= 4
        for thing in things:
            named_by.setdefault(thing, set(range(len(prototypes)))).intersection_update(shown[row // 2].tolist())
    assert all(named_by.values()), "one region stands for a word wherever it is named"
    assert len(set(text.lengths.tolist())) > 3


def test_several_captions_have_vectors_labels_and_ids_of_their_own():
    image, text = load_dataset("synthetic", captions=3, train=20).train.modalities
    assert (len(image), len(text), text.tokens, image.sequences) == (20, 60, None, None)
    assert np.array_equal(text.labels, np.repeat(image.labels, 3, axis=0))
    assert text.item_ids[:4].tolist() == ["train-0.0", "train-0.1", "train-0.2", "train-1.0"]
    assert len(np.unique(np.asarray(text.vectors), axis=0)) == 60
    assert np.array_equal(np.asarray(image.vectors), vectors(load_dataset("synthetic", train=20).train))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regions": -1}, r"synthetic\.regions must be 0 or more and synthetic\.captions 1 or more, got -1 and 1"),
        ({"captions": 0}, "got 0 and 0"),
        ({"regions": 4, "modalities": 3}, r"synthetic\.regions and synthetic\.captions need modalities=2, got 3"),
    ],
)
def test_synthetic_regions_and_captions_must_be_possible(wrong, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("synthetic", **wrong)


# Several classes per item, in `synthetic` itself


@pytest.mark.parametrize("average", [1.5, 3.0, 5.0])
def test_labels_per_item_is_their_average(average):
    labels = load_dataset("synthetic", labels_per_item=average, train=4000).train.modalities[0].labels
    per_item = labels.sum(axis=1)
    assert per_item.min() == 1
    spread = np.sqrt(9 * (average - 1) / 9 * (1 - (average - 1) / 9) / 4000)
    assert abs(per_item.mean() - average) < 4 * spread
    assert labels.mean(axis=0) == pytest.approx(np.full(10, average / 10), rel=0.15)


def test_one_label_per_item_is_the_default_and_draws_what_it_always_drew():
    dataset = load_dataset("synthetic")
    assert dataset.train.modalities[0].labels.sum(axis=1).tolist() == [1] * 400
    shas = [split_sha(split) for split in dataset.splits().values()]
    assert shas == ["da5d101c10509382", "7af5ffaacbfeb4ed", "54b236e46a8d49c4"]
    assert vectors(dataset.train)[0, :3] == pytest.approx([-0.8847671, -0.8357551, 0.1192987], rel=1e-5)
    assert vectors(dataset.train, 1)[-1, :3] == pytest.approx([-0.0810841, 0.1308261, -1.3039058], rel=1e-5)


def test_an_item_lies_between_the_means_of_its_classes():
    """Without instance part and noise, features are equal where the labels are, and single-label items stay on their mean."""
    parameters = {"instance_signal": 0.0, "noise": 0.0, "classes": 3, "train": 300}
    several, one = (load_dataset("synthetic", labels_per_item=n, **parameters).train for n in (2.0, 1.0))
    labels, x = several.modalities[0].labels, vectors(several)
    groups = {tuple(row) for row in labels.tolist()}
    assert len(groups) == 7
    for group in groups:
        rows = x[(labels == group).all(axis=1)]
        assert np.allclose(rows, rows[0], atol=1e-6)
    for k in range(3):
        alone = x[(labels == np.eye(3, dtype=bool)[k]).all(axis=1)][0]
        assert np.allclose(alone, vectors(one)[one.modalities[0].labels[:, k]][0], atol=1e-6)


@pytest.mark.parametrize("wrong", [0.9, 10.5])
def test_labels_per_item_must_be_possible(wrong):
    with pytest.raises(ValueError, match=rf"synthetic\.labels_per_item must lie in \[1, 10\], got {wrong}"):
        load_dataset("synthetic", labels_per_item=wrong)
