"""Noise: what the draws promise (counts, distribution, nestedness, independence), legacy replay, files, shuffling."""

import json
import random

import numpy as np
import pytest

from xmbench.noise import SCHEMES, Corruption, Noise, corrupt, export_labels, import_labels, shuffle, strip
from xmbench.types import Modality, PairedSet, Rows, class_numbers, one_hot, split_sha, stream

N, K = 2000, 10
NESTED = ("symmetric", "symmetric_exclusive", "asymmetric", "pair_flip", "mrl_kplus1", "mrl_0_9")
RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
CHI2_P001 = {8: 26.12, 9: 27.88, 90: 137.21}  # critical values of chi-square at p = .001, by degrees of freedom


def split_of(n=N, k=K, names=("image", "text"), *, d=2, balanced=True, pairs=True):
    """A clean single-label split whose item j has the same class and the vectors (j, ..., j) in every modality."""
    numbers = np.arange(n) % k if balanced else np.random.default_rng(5).integers(0, k, n)
    return PairedSet(
        modalities=tuple(
            Modality(
                name=name,
                vectors=Rows(np.repeat(np.arange(float(n))[:, None], d, axis=1)),
                labels=one_hot(numbers, k),
                item_ids=np.array([f"{name}{j}" for j in range(n)]),
            )
            for name in names
        ),
        pairs=np.stack([np.arange(n)] * len(names), axis=1) if pairs else None,
    )


def relabelled(split, *numbers, k=None):
    """The split with other class numbers, one array for all modalities or one each."""
    numbers = numbers * len(split.modalities) if len(numbers) == 1 else numbers
    return PairedSet(
        modalities=tuple(
            Modality(name=m.name, vectors=m.vectors, labels=one_hot(np.asarray(y), k or m.n_classes), item_ids=m.item_ids)
            for m, y in zip(split.modalities, numbers, strict=True)
        ),
        pairs=split.pairs,
    )


def numbers_of(split_or_corruption):
    """(m, n) class numbers."""
    split = split_or_corruption.train if isinstance(split_or_corruption, Corruption) else split_or_corruption
    return np.stack([class_numbers(modality.labels) for modality in split.modalities])


def draw(split, scheme, rate, *, seed=0, family="toy", part="train", **options):
    return corrupt(split, Noise(scheme, rate, seed=seed, options=options), family=family, part=part)


def chi_square(observed, expected):
    return float(((observed - expected) ** 2 / expected).sum())


# Noise and schemes


def test_noise_prints_as_its_name_and_equals_by_content():
    assert str(Noise("symmetric", 0.4, seed=3)) == "symmetric@0.4"
    assert [str(Noise("pair_flip", rate, seed=0)) for rate in (0, -0.0, 0.05, 1)] == [
        "pair_flip@0", "pair_flip@0", "pair_flip@0.05", "pair_flip@1",
    ]  # fmt: skip
    given = Noise("symmetric", np.float64(0), np.int64(1), {"shared": False})
    assert given == Noise("symmetric", 0, 1) and len({given, Noise("symmetric", 0.0, 1)}) == 1
    assert repr(given) == repr(Noise("symmetric", 0, 1)) and type(given.seed) is int and type(given.rate) is float
    assert given != Noise("symmetric", 0, 1, {"shared": True}) and given != Noise("symmetric", 0, 2)


def test_options_are_stored_complete_sorted_and_usable_again():
    noise = Noise("mrl_legacy", 0.2, seed=0, options={"release": "head", "legacy_seed": 7})
    assert noise.options == (("legacy_seed", 7), ("mode", "sym"), ("release", "head"))
    assert noise.option("mode") == "sym" and Noise("mrl_legacy", 0.2, 0, noise.options) == noise
    assert json.loads(json.dumps(dict(noise.options))) == {"legacy_seed": 7, "mode": "sym", "release": "head"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("symetric", 0.2, 0), LookupError, "no noise scheme named 'symetric'; did you mean 'symmetric'?"),
        (("pairflip", 0.2, 0), LookupError, "did you mean 'pair_flip'"),
        (("zzz", 0.2, 0), LookupError, "known are symmetric, symmetric_exclusive"),
        (("symmetric", 1.1, 0), ValueError, r"'symmetric' must lie in \[0, 1\], got 1.1"),
        (("symmetric", -0.1, 0), ValueError, r"must lie in \[0, 1\], got -0.1"),
        (("symmetric", float("nan"), 0), ValueError, "got nan"),
        (("symmetric", "0.2", 0), ValueError, "got '0.2'"),
        (("symmetric", True, 0), ValueError, "got True"),
        (("symmetric", 0.2, 0.5), ValueError, "seed must be an integer, got 0.5"),
        (("symmetric", 0.2, 0, {"share": True}), ValueError, "'symmetric' has no option 'share'; its options: shared"),
        (("symmetric", 0.2, 0, {"shared": 1}), ValueError, "'shared' of 'symmetric' must be bool .*, got 1"),
        (("mrl_legacy", 0.2, 0, {"shared": True}), ValueError, "no option 'shared'; its options: legacy_seed, mode"),
        (("mrl_legacy", 0.2, 0, {"legacy_seed": True}), ValueError, "must be int .*, got True"),
        (("mrl_legacy", 0.2, 0, {"mode": "pair"}), ValueError, r"one of \('sym', 'asym'\), got 'pair'"),
        (
            ("file", 0.2, 0),
            ValueError,
            r"option 'path' of 'file' must be str \(noise file, an MRL .json, or .*\), got none; give --set noise\.path=FILE",
        ),
    ],
)
def test_noise_that_cannot_be_is_refused_with_the_reason(arguments, error, message):
    with pytest.raises(error, match=message):
        Noise(*arguments)


def test_a_scheme_may_exclude_its_largest_rate(monkeypatch):
    monkeypatch.setitem(SCHEMES, "half_open", SCHEMES["pair_flip"].__class__("half_open", "", draw, inclusive=False))
    assert Noise("half_open", 0.99, seed=0).rate == 0.99
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1"):
        Noise("half_open", 1, seed=0)


def test_schemes_describe_themselves():
    of_pairs = ["caption_shuffle", "image_shuffle", "ncr_legacy", "decl_legacy"]
    assert list(SCHEMES) == [*NESTED, "symmetric_multilabel", "mrl_legacy", *of_pairs, "file"]
    options = {}
    for name, scheme in SCHEMES.items():
        kind = "correspondence" if name in of_pairs else "label or correspondence" if name == "file" else "label"
        assert (scheme.name, scheme.kind, scheme.max_rate, scheme.inclusive) == (name, kind, 1.0, name not in of_pairs)
        assert scheme.description and all(kind in (bool, int, str) for kind, _, _ in scheme.options.values())
        for option, (_, default, _) in scheme.options.items():
            assert options.setdefault(option, default) == default, "schemes that are joined share their options"


# What is corrupted


@pytest.mark.parametrize("scheme", [*NESTED, "mrl_legacy"])
def test_rate_0_is_the_identity_with_one_sha(scheme):
    split = split_of(60)
    result = draw(split, scheme, 0)
    assert np.array_equal(numbers_of(result), numbers_of(split)) and result.train.n_classes == K
    assert result.realised_rate == 0 and all(mask.all() for mask in result.clean.values())
    assert result.noise_sha == draw(split, "symmetric", 0.0, seed=9, family="other").noise_sha


def test_rate_0_of_file_does_not_read_it_and_data_without_labels_pass():
    split = split_of(60)
    assert draw(split, "file", 0, path="nowhere.json").noise_sha == draw(split, "symmetric", 0).noise_sha
    bare = strip(split, frozenset({"vectors", "pairs"}))
    assert draw(bare, "symmetric", 0).realised_rate == 0 and draw(bare, "symmetric", 0).train.modalities == bare.modalities
    with pytest.raises(ValueError, match="symmetric needs labels in every modality, 'image' has none"):
        draw(bare, "symmetric", 0.2)


@pytest.mark.parametrize("rate", RATES)
def test_exactly_floor_rn_labels_are_touched(rate):
    split = split_of(1003, balanced=False)
    for scheme in ("symmetric_exclusive", "pair_flip"):  # every label they touch is wrong
        result = draw(split, scheme, rate)
        assert [(~mask).sum() for mask in result.clean.values()] == [int(rate * 1003)] * 2
    result = draw(split_of(103, 20_000), "symmetric", rate)  # hits the true class once in 20 000
    assert [(~mask).sum() for mask in result.clean.values()] == [int(rate * 103)] * 2


def test_floor_survives_floating_point():
    assert 0.29 * 100 < 29  # why it needs a guard
    result = draw(split_of(100), "pair_flip", 0.29)
    assert result.realised_by_modality == {"image": 0.29, "text": 0.29}
    assert draw(split_of(100), "pair_flip", 0.299).realised_rate == 0.29


@pytest.mark.parametrize("scheme", [*NESTED, "mrl_legacy"])
def test_inputs_stay_and_clean_says_where_the_label_is_the_true_one(scheme):
    split = split_of(400)
    before = [m.labels.copy() for m in split.modalities]
    result = draw(split, scheme, 0.5)
    for modality, labels in zip(split.modalities, before, strict=True):
        assert np.array_equal(modality.labels, labels)
    given, true = numbers_of(result), numbers_of(split)
    for v, name in enumerate(("image", "text")):
        assert np.array_equal(result.clean[name], given[v] == true[v])
        assert result.realised_by_modality[name] == (given[v] != true[v]).mean()
    assert result.realised_rate == (given != true).mean() and 0 < result.realised_rate <= 0.5
    assert result.train.clean is result.clean and result.train.pairs is split.pairs
    assert result.train.modalities[0].vectors is split.modalities[0].vectors


def test_rate_1_exclusive_leaves_no_true_label():
    result = draw(split_of(), "symmetric_exclusive", 1)
    assert result.realised_rate == 1 and not result.clean["image"].any()


@pytest.mark.parametrize("rate", RATES)
def test_wrong_labels_of_symmetric_are_r_times_k_minus_1_over_k(rate):
    wrong = rate * (K - 1) / K
    sigma = np.sqrt(int(rate * N) * (1 / K) * (1 - 1 / K)) / N
    realised = draw(split_of(), "symmetric", rate).realised_by_modality
    assert all(abs(value - wrong) < 4 * sigma for value in realised.values())
    assert abs(realised["image"] - rate) > 2 * sigma  # nominal is not realised


def test_drawn_labels_are_uniform_and_know_nothing_of_the_true_one():
    split = split_of(10_000)
    true, given = numbers_of(split)[0], numbers_of(draw(split, "symmetric", 1))[0]
    table = np.bincount(true * K + given, minlength=K * K).reshape(K, K)
    assert chi_square(table.sum(0), 1000) < CHI2_P001[9]
    assert chi_square(table, 100) < CHI2_P001[90]  # 10 true classes with 9 degrees of freedom each
    offset = (numbers_of(draw(split, "symmetric_exclusive", 1))[0] - true) % K
    assert offset.min() == 1 and chi_square(np.bincount(offset)[1:], 10_000 / 9) < CHI2_P001[8]


@pytest.mark.parametrize("scheme", ["symmetric_exclusive", "pair_flip"])
def test_which_items_are_hit_is_uniform_over_rows(scheme):
    hit = np.flatnonzero(~draw(split_of(10_000), scheme, 0.3).clean["image"])
    assert chi_square(np.bincount(hit // 1000, minlength=10), 300) < CHI2_P001[9]


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_masks_of_two_modalities_overlap_as_independent_ones(rate):
    masks = [~mask for mask in draw(split_of(), "symmetric_exclusive", rate).clean.values()]
    sigma = np.sqrt(N) * rate * (1 - rate)  # hypergeometric, to first order
    assert abs((masks[0] & masks[1]).sum() - rate**2 * N) < 4 * sigma
    assert not np.array_equal(*masks)


def test_unlabelled_items_stay_so_and_do_not_count():
    split = split_of(500)
    true = numbers_of(split)
    true[:, ::5] = -1
    split = relabelled(split, *true)
    for scheme in [*NESTED, "mrl_legacy"]:
        given = numbers_of(draw(split, scheme, 1))
        assert (given[:, ::5] == -1).all() and (np.delete(given, np.s_[::5], axis=1) >= 0).all(), scheme
    result = draw(split, "pair_flip", 0.5)
    assert [(~mask).sum() for mask in result.clean.values()] == [200, 200] and result.realised_rate == 0.5


def test_shared_noise_hits_pairs_that_are_labelled_in_every_modality():
    split = split_of(500)
    true = numbers_of(split)
    true[0, ::5] = true[1, 1::5] = -1
    result = draw(relabelled(split, *true), "pair_flip", 0.5, shared=True)
    assert np.array_equal(result.clean["image"], result.clean["text"])
    assert (~result.clean["image"]).sum() == 150 and result.realised_rate == 150 / 400


def test_items_with_several_classes_name_the_scheme_that_takes_them():
    split = split_of(60)
    labels = split.modalities[1].labels.copy()
    labels[3] = True
    split = PairedSet(modalities=(split.modalities[0], Modality(name="text", labels=labels)), pairs=split.pairs)
    for scheme in [*NESTED, "mrl_legacy"]:
        with pytest.raises(ValueError, match=f"{scheme} needs one class per item, 'text' .* scheme symmetric_multilabel$"):
            draw(split, scheme, 0.2)
    assert draw(split, "symmetric", 0).realised_rate == 0


# What the draws depend on


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scheme", NESTED)
def test_noise_is_nested_and_a_wrong_label_is_the_same_at_every_rate(scheme, shared):
    split = split_of(500, balanced=False)
    true = numbers_of(split)
    full = numbers_of(draw(split, scheme, 1, shared=shared))
    before = np.zeros(true.shape, dtype=bool)
    for rate in (0.1, 0.2, 0.29, 0.4, 0.8):
        given = numbers_of(draw(split, scheme, rate, shared=shared))
        wrong = given != true
        assert (wrong & before).sum() == before.sum() and wrong.sum() > before.sum()
        assert np.array_equal(given[wrong], full[wrong])
        before = wrong


def test_draws_ignore_features():
    variant = split_of(300, d=7)
    for scheme in NESTED:
        result = draw(split_of(300), scheme, 0.4)
        assert result.noise_sha == draw(variant, scheme, 0.4).noise_sha, scheme


def test_draws_depend_on_seed_family_part_scheme_modality_and_items():
    split = split_of(300)
    base = draw(split, "symmetric", 0.4)
    assert np.array_equal(numbers_of(base), numbers_of(draw(split, "symmetric", 0.4)))
    others = [
        draw(split, "symmetric", 0.4, seed=1),
        draw(split, "symmetric", 0.4, family="other"),
        draw(split, "symmetric", 0.4, part="valid"),
        draw(split, "mrl_0_9", 0.4),
        draw(relabelled(split, np.roll(numbers_of(split)[0], 1)), "symmetric", 0.4),
    ]
    for other in others:
        both = sum((~base.clean[name] & ~other.clean[name]).sum() for name in base.clean)
        wrong, wrong_other = (sum((~mask).sum() for mask in result.clean.values()) for result in (base, other))
        assert both < 1.5 * wrong * wrong_other / 600  # as many as independent draws share, give or take
    assert not np.array_equal(*numbers_of(base))
    with pytest.raises(ValueError, match="part must be 'train' or 'valid', got 'test'"):
        draw(split, "symmetric", 0.4, part="test")


def test_the_draws_of_version_1_are_these():
    """Pinned: a change of the draws (ours, or of NumPy's generators) needs a new scheme version."""
    split = split_of(50)
    assert {name: draw(split, name, 0.5, family="pinned").noise_sha for name in [*NESTED, "mrl_legacy"]} == {
        "symmetric": "4aafb73aecbc97ef",
        "symmetric_exclusive": "07dfab1bf3acfa7c",
        "asymmetric": "585d338e8c8fcb83",
        "pair_flip": "b192992dc511a67f",
        "mrl_kplus1": "9d2c5730aa731661",
        "mrl_0_9": "1ae9ad6ffba7f96e",
        "mrl_legacy": "35576a0121e3a79a",
    }


# Single schemes


@pytest.mark.parametrize("scheme", NESTED)
def test_shared_noise_hits_the_same_pairs_with_the_same_labels(scheme):
    split = split_of(400)
    turned = np.random.default_rng(1).permutation(400)  # text rows in another order, the pairs say which
    text = split.modalities[1].take(np.argsort(turned))
    split = PairedSet(modalities=(split.modalities[0], text), pairs=np.stack([np.arange(400), turned], axis=1))
    given = numbers_of(draw(split, scheme, 0.6, shared=True))
    assert np.array_equal(given[0], given[1][turned])
    assert (given[0] != numbers_of(split)[0]).any() and not np.array_equal(given[0], given[1])
    alone = numbers_of(draw(split, scheme, 0.6))
    assert not np.array_equal(alone[0], alone[1][turned])


def test_shared_noise_needs_one_to_one_pairs():
    split = split_of(60)
    for pairs, got in ((None, "no pairs"), (split.pairs[:-1], "59 pairs"), (split.pairs[[0, *range(59)]], "60 pairs")):
        broken = PairedSet(modalities=split.modalities, pairs=pairs)
        with pytest.raises(ValueError, match=f"shared noise needs one-to-one pairs, .* got {got}.*set shared=false"):
            draw(broken, "symmetric", 0.2, shared=True)
        assert draw(broken, "symmetric", 0.2).realised_rate > 0


def test_pair_flip_goes_to_the_next_class():
    split = split_of(200)
    true, given = numbers_of(split), numbers_of(draw(split, "pair_flip", 1))
    assert np.array_equal(given, (true + 1) % K)
    half = numbers_of(draw(split, "pair_flip", 0.5))
    assert set(((half - true) % K).ravel()) == {0, 1} and (half != true).sum() == 200


@pytest.mark.parametrize("k", [9, 10])
def test_asymmetric_maps_half_of_the_classes_to_the_other_half(k):
    split = split_of(90 * k, k)
    true, given = numbers_of(split), numbers_of(draw(split, "asymmetric", 1))
    class_map = dict(zip(true.ravel().tolist(), given.ravel().tolist(), strict=True))
    assert all(class_map[t] == g for t, g in zip(true.ravel().tolist(), given.ravel().tolist(), strict=True))
    moved = {t: g for t, g in class_map.items() if t != g}
    assert len(moved) == k // 2 == len(set(moved.values())) and not set(moved) & set(moved.values())
    assert (given != true).mean() == pytest.approx((k // 2) / k)
    wrong_at_half = draw(split, "asymmetric", 0.5).realised_rate
    assert wrong_at_half == pytest.approx(0.5 * (k // 2) / k, abs=0.04)
    smaller = split_of(10 * k, k)  # the map is the family's and the seed's, not the split's
    valid = numbers_of(draw(smaller, "asymmetric", 1, part="valid"))
    assert all(class_map[t] == g for t, g in zip(numbers_of(smaller).ravel(), valid.ravel(), strict=True))
    assert not np.array_equal(numbers_of(draw(split, "asymmetric", 1, seed=1)), given)


def test_mrl_kplus1_has_a_class_too_many():
    result = draw(split_of(), "mrl_kplus1", 0.6)
    given = numbers_of(result)
    assert result.train.n_classes == K + 1 and given.max() == K
    spurious = 0.6 * N / (K + 1)
    assert all(abs((row == K).sum() - spurious) < 4 * np.sqrt(spurious) for row in given)
    assert not result.clean["image"][given[0] == K].any()
    assert numbers_of(draw(split_of(), "symmetric", 0.6)).max() == K - 1


@pytest.mark.parametrize(("k", "columns"), [(5, 10), (100, 100)])
def test_mrl_0_9_stays_among_ten_classes(k, columns):
    split = split_of(3000, k)
    result = draw(split, "mrl_0_9", 1)
    given = numbers_of(result)[0]
    assert result.train.n_classes == columns and set(given) == set(range(10))
    assert chi_square(np.bincount(given), 300) < CHI2_P001[9]


# Several classes per item


def several(n=N, k=8, *, seed=3, unlabelled=0, pairs=True):
    """A clean split whose items have any number of classes, the same in both modalities; the first few have none."""
    labels = np.random.default_rng(seed).random((n, k)) < np.linspace(0.02, 0.4, k)
    labels[:unlabelled] = False
    split = split_of(n, 2, pairs=pairs)
    modalities = tuple(Modality(name=m.name, vectors=m.vectors, labels=labels.copy()) for m in split.modalities)
    return PairedSet(modalities=modalities, pairs=split.pairs)


def hot_of(result):
    """(m, n, c) labels."""
    split = result.train if isinstance(result, Corruption) else result
    return np.stack([modality.labels for modality in split.modalities])


def swapped(labels, rate, rng):
    """The scheme as a loop over classes and items: who loses the class, who gets it, one at a time."""
    given, known = labels.copy(), labels.any(axis=1)
    for k in range(labels.shape[1]):
        order = [i for i in rng.permutation(len(labels)).tolist() if known[i]]
        losing = [i for i in order if labels[i, k]]
        getting = [i for i in order if not labels[i, k]]
        for n_swaps in range(1, len(losing) + 1):
            if n_swaps > rate * len(losing) + 1e-9 or n_swaps > len(getting):
                break
            given[losing[n_swaps - 1], k], given[getting[n_swaps - 1], k] = False, True
    return given


@pytest.mark.parametrize("rate", [0.0, 0.29, 0.6, 1.0])
def test_multilabel_noise_is_the_naive_loop(rate):
    split = several(100, unlabelled=7)
    given = hot_of(draw(split, "symmetric_multilabel", rate, seed=4))
    for v, modality in enumerate(split.modalities):
        rng = stream("noise", "toy", "symmetric_multilabel", 1, 4, split_sha(split), "train", modality.name)
        assert np.array_equal(given[v], swapped(modality.labels, rate, rng))


@pytest.mark.parametrize("rate", RATES)
def test_multilabel_noise_moves_floor_rn_labels_of_every_class_and_keeps_their_number(rate):
    split = several()
    true = hot_of(split)
    result = draw(split, "symmetric_multilabel", rate)
    given = hot_of(result)
    assert np.array_equal(given.sum(axis=1), true.sum(axis=1))
    lost, got = true & ~given, given & ~true
    floors = np.floor(rate * true.sum(axis=1) + 1e-9)
    assert np.array_equal(lost.sum(axis=1), floors)
    assert np.array_equal(got.sum(axis=1), floors)
    assert result.realised_rate == floors.sum() / true.sum() == pytest.approx(rate, abs=0.01)
    assert result.realised_by_modality["text"] == floors[1].sum() / true[1].sum()


def test_multilabel_clean_items_are_those_with_all_their_labels_and_no_other():
    split = several(unlabelled=50)
    true, result = hot_of(split), draw(split, "symmetric_multilabel", 0.3)
    given = hot_of(result)
    for v, name in enumerate(("image", "text")):
        assert np.array_equal(result.clean[name], (given[v] == true[v]).all(axis=1))
        assert 0.1 < result.clean[name].mean() < 0.9
    assert not given[:, :50].any(), "who had no label gets none"
    assert result.clean["image"][:50].all()
    assert (true.any(axis=2) & ~given.any(axis=2)).sum() > 100, "an item may lose all its labels"
    assert np.array_equal(hot_of(split), true)


def test_multilabel_noise_is_nested_in_what_is_lost_and_in_what_is_given():
    split = several(500)
    true = hot_of(split)
    full = hot_of(draw(split, "symmetric_multilabel", 1))
    before = np.zeros(true.shape, dtype=bool)
    for rate in (0.1, 0.2, 0.29, 0.4, 0.8):
        given = hot_of(draw(split, "symmetric_multilabel", rate))
        changed = given != true
        assert (changed & before).sum() == before.sum() < changed.sum()
        assert np.array_equal(given[changed], full[changed])
        before = changed


def test_multilabel_noise_is_independent_over_modalities_unless_shared():
    split = several()
    true = hot_of(split)
    image, text = hot_of(draw(split, "symmetric_multilabel", 0.4)) != true
    hit = true[0]  # of the labels that an item has, two fifths are lost in each modality
    share = (image & text & hit).sum() / hit.sum()
    assert abs(share - 0.4**2) < 4 * np.sqrt(0.4**2 / hit.sum())
    together = hot_of(draw(split, "symmetric_multilabel", 0.4, shared=True))
    assert np.array_equal(together[0], together[1])
    assert (together != true).any()


def test_multilabel_noise_depends_on_seed_family_part_and_items_and_is_pinned():
    split = several(60)
    first = draw(split, "symmetric_multilabel", 0.5, family="pinned").noise_sha
    assert first == draw(several(60), "symmetric_multilabel", 0.5, family="pinned").noise_sha == "92f9ed34df88826b"
    others = [{"seed": 1}, {"family": "other"}, {"part": "valid"}]
    shas = {draw(split, "symmetric_multilabel", 0.5, **{"family": "pinned", **other}).noise_sha for other in others}
    assert len(shas | {first}) == 4


def test_a_class_of_most_items_moves_as_often_as_there_are_others():
    labels = np.zeros((10, 2), dtype=bool)
    labels[:8, 0] = labels[7:, 1] = True
    split = PairedSet(modalities=tuple(Modality(name=name, labels=labels) for name in ("image", "text")))
    given = hot_of(draw(split, "symmetric_multilabel", 1))
    assert [(labels & ~g).sum(axis=0).tolist() for g in given] == [[2, 3], [2, 3]]
    assert np.array_equal(given.sum(axis=1), [[8, 3], [8, 3]])


def test_multilabel_noise_refuses_single_label_data_and_missing_labels():
    with pytest.raises(ValueError, match=r"symmetric_multilabel needs items with several classes, .* scheme symmetric$"):
        draw(split_of(60), "symmetric_multilabel", 0.2)
    with pytest.raises(ValueError, match="symmetric_multilabel needs labels in every modality, 'image' has none"):
        draw(strip(split_of(60), frozenset({"vectors"})), "symmetric_multilabel", 0.2)
    with pytest.raises(ValueError, match="shared noise needs one-to-one pairs"):
        draw(several(60, pairs=False), "symmetric_multilabel", 0.2, shared=True)


# Replay of the released loader


def test_mrl_legacy_replays_the_first_release_by_default():
    split = split_of(231, balanced=False)
    random.seed(123)
    expected = numbers_of(split)
    for labels in expected:
        order = list(range(231))
        random.shuffle(order)
        hit = order[: int(0.6 * 231)]
        for i in range(231):
            if i in hit:
                labels[i] = random.randint(0, 9)
    result = draw(split, "mrl_legacy", 0.6, seed=5, family="any")
    assert np.array_equal(numbers_of(result), expected) and result.train.n_classes == K
    other = numbers_of(draw(split, "mrl_legacy", 0.6, legacy_seed=124))
    assert not np.array_equal(other, expected)
    assert not np.array_equal(numbers_of(draw(split, "mrl_legacy", 0.6, part="valid")), expected)


# Noise files


def test_labels_survive_a_noise_file(tmp_path):
    split = split_of(200)
    noisy = draw(split, "symmetric", 0.4)
    export_labels(noisy.train, tmp_path / "noise.json")
    lists = json.loads((tmp_path / "noise.json").read_text())
    assert lists == numbers_of(noisy).tolist() and type(lists[0][0]) is int
    read = import_labels(tmp_path / "noise.json", split)
    assert isinstance(read, tuple) and np.array_equal(np.stack(read), numbers_of(noisy))
    again = draw(split, "file", 0.4, path=str(tmp_path / "noise.json"))
    assert again.noise_sha == noisy.noise_sha and again.realised_rate == noisy.realised_rate
    assert np.array_equal(again.train.clean["text"], noisy.clean["text"])
    with pytest.raises(ValueError, match="a noise file is of the train split, none for 'valid'; use clean valid data"):
        draw(split, "file", 0.4, part="valid", path=str(tmp_path / "noise.json"))


def test_unlabelled_items_survive_a_noise_file(tmp_path):
    split = relabelled(split_of(4, 2), [0, -1, 1, 1])
    export_labels(split, tmp_path / "noise.json")
    assert [labels.tolist() for labels in import_labels(tmp_path / "noise.json", split)] == [[0, -1, 1, 1]] * 2
    write(tmp_path / "noise.json", [[0, -1, 1, 1], [0, 0, 1, 1]])
    with pytest.raises(ValueError, match="text: item 1 is unlabelled in the split, got label 0"):
        import_labels(tmp_path / "noise.json", split)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[0, 1,", "must be JSON, a list of lists of class numbers; one of pairs a .npy array: Expecting value"),
        ("\x00", "must be JSON"),
        ({"image": [0, 1, 2]}, "must be a list with one list of class numbers per modality"),
        ([0, 1, 2], "must be a list with one list of class numbers per modality"),
        ([[0, 1, 2]], r"one list of labels per modality \['image', 'text'\], got 1 lists"),
        ([[0, 1, 2], [0, 1]], "text: must hold one label per item, 3 of them, got 2"),
        ([[0, 1, 2], [0, 1, 7]], r"text: labels must lie in 0..2, got 7 for item 2$"),
        ([[0, 1, 2], [0, 3, 2]], "got 3 for item 1; the released MRL loader of September 2021 draws this class"),
        ([[0, -2, 2], [0, 1, 2]], "image: labels must lie in 0..2, got -2 for item 1"),
        ([[-1, 1, 2], [0, 1, 2]], "image: item 0 is labelled in the split, got label -1"),
        ([[0, 1.5, 2], [0, 1, 2]], "image: labels must be integers, got 1.5 for item 1"),
        ([[0, True, 2], [0, 1, 2]], "image: labels must be integers, got True for item 1"),
        ([[0, "1", 2], [0, 1, 2]], "image: labels must be integers, got '1' for item 1"),
    ],
)
def test_a_noise_file_that_does_not_fit_is_refused_with_file_and_reason(tmp_path, content, message):
    write(tmp_path / "bad.json", content)
    with pytest.raises(ValueError, match=r"bad\.json: .*" + message):
        import_labels(tmp_path / "bad.json", split_of(3, 3))
    with pytest.raises(ValueError, match=r"bad\.json: .*" + message):
        draw(split_of(3, 3), "file", 0.2, path=str(tmp_path / "bad.json"))


def test_rate_0_keeps_what_is_known_of_the_pairs():
    split = captioned()
    assert np.array_equal(draw(split, "symmetric", 0).train.clean_pairs, split.clean_pairs)


def test_export_needs_labels(tmp_path):
    with pytest.raises(ValueError, match="a noise file needs labels in every modality, 'image' has none"):
        export_labels(strip(split_of(9), frozenset({"vectors"})), tmp_path / "noise.json")


# Shuffle and strip


def captioned(n=400):
    """n images with five captions each, pairs sorted by image, and a clean mask per pair."""
    image = Modality(name="image", vectors=Rows(np.arange(float(n))[:, None]), lengths=np.arange(n))
    text = Modality(name="text", sequences=Rows(np.arange(5.0 * n)[:, None, None]), lengths=np.arange(5 * n))
    pairs = np.stack([np.repeat(np.arange(n), 5), np.arange(5 * n)], axis=1)
    return PairedSet(modalities=(image, text), pairs=pairs, clean_pairs=pairs[:, 1] % 3 > 0)


def where_from(split):
    """Old row numbers by new row, read off the features."""
    return [np.asarray(m.vectors if m.vectors is not None else m.sequences).reshape(len(m), -1)[:, 0].astype(int)
            for m in split.modalities]  # fmt: skip


def correlation(a, b):
    return abs(float(np.corrcoef(a, b)[0, 1]))


def test_shuffle_keeps_every_item_pair_label_and_clean_flag_together():
    split = draw(split_of(300), "symmetric", 0.5).train
    mixed = shuffle(split, seed=0, keep_pairs=True)
    for old, new, rows in zip(split.modalities, mixed.modalities, where_from(mixed), strict=True):
        assert sorted(rows) == list(range(300))
        assert np.array_equal(new.labels, old.labels[rows]) and np.array_equal(new.item_ids, old.item_ids[rows])
        assert np.array_equal(mixed.clean[new.name], split.clean[new.name][rows])
    image, text = where_from(mixed)
    assert np.array_equal(image[mixed.pairs[:, 0]], text[mixed.pairs[:, 1]])
    assert sorted(image[mixed.pairs[:, 0]]) == list(range(300))


def test_shuffle_takes_lengths_and_the_clean_mask_of_the_pairs_along():
    mixed = shuffle(captioned(), seed=0, keep_pairs=True)
    image, text = where_from(mixed)
    assert np.array_equal(mixed.modalities[0].lengths, image) and np.array_equal(mixed.modalities[1].lengths, text)
    assert np.array_equal(image[mixed.pairs[:, 0]], text[mixed.pairs[:, 1]] // 5)
    assert np.array_equal(mixed.clean_pairs, text[mixed.pairs[:, 1]] % 3 > 0)


def test_row_order_and_pair_order_carry_no_information():
    mixed = shuffle(split_of(), seed=0, keep_pairs=True)
    image, text = where_from(mixed)
    limit, rows = 4 / np.sqrt(N), np.arange(N)
    assert max(correlation(image, rows), correlation(text, rows), correlation(image, text)) < limit
    assert (image == text).sum() < 10  # one is expected of independent orders
    for column in mixed.pairs.T:
        assert correlation(column, rows) < limit and correlation(image[column], rows) < limit
    assert correlation(*mixed.pairs.T) < limit  # row i's partner is not row i
    five = shuffle(captioned(), seed=0, keep_pairs=True).pairs
    assert (five[1:, 0] == five[:-1, 0]).mean() < 0.02  # sorted by image it was .8


def test_without_pairs_nothing_says_who_belongs_to_whom():
    split = draw(split_of(), "symmetric", 0.5).train
    mixed = shuffle(split, seed=0, keep_pairs=False)
    image, text = where_from(mixed)
    assert mixed.pairs is None and (image == text).sum() < 10 and correlation(image, text) < 4 / np.sqrt(N)
    assert np.array_equal(mixed.clean["text"], split.clean["text"][text])
    assert shuffle(captioned(), seed=0, keep_pairs=False).clean_pairs is None
    assert shuffle(mixed, seed=0, keep_pairs=True).pairs is None


def test_shuffle_knows_its_seed_and_neither_noise_nor_rate():
    split = split_of(300)
    base = where_from(shuffle(split, seed=0, keep_pairs=True))
    noisy = shuffle(draw(split, "mrl_kplus1", 0.8, seed=4).train, seed=0, keep_pairs=True)
    assert np.array_equal(where_from(noisy), base)
    assert np.array_equal(noisy.pairs, shuffle(split, seed=0, keep_pairs=True).pairs)
    other = shuffle(split, seed=1, keep_pairs=True)
    assert (np.array(where_from(other)) == base).mean() < 0.05 and not np.array_equal(other.pairs, noisy.pairs)
    assert np.array_equal(where_from(split), [range(300)] * 2)


def test_strip_leaves_only_what_is_needed():
    train = draw(split_of(60), "symmetric", 0.5).train
    full = strip(train, frozenset({"vectors", "labels", "pairs", "clean"}))
    assert full.pairs is train.pairs and full.clean is train.clean
    assert full.modalities[1].labels is train.modalities[1].labels and full.modalities[1].item_ids is None
    bare = strip(train, frozenset({"vectors"}))
    assert bare.pairs is None and bare.clean is None
    assert all(m.labels is None and m.item_ids is None and len(m.vectors) == 60 for m in bare.modalities)
    assert strip(train, frozenset({"labels"})).modalities[0].vectors is None
