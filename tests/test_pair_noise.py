"""Correspondence noise: what a shuffle moves and keeps, nestedness, joined schemes, and noise files of other projects."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from xmbench.noise import Noise, corrupt, export_labels
from xmbench.noise_files import (
    PROJECTS,
    convert,
    differences,
    export_noise,
    facts,
    import_index,
    is_index,
    new_file,
    write_index,
)
from xmbench.types import Modality, PairedSet, Rows, one_hot, split_sha, stream

RATES = (0.2, 0.5, 0.8)
OURS = ("caption_shuffle", "image_shuffle")
LEGACY = ("ncr_legacy", "decl_legacy")


def captioned(counts, *, labels=True, names=("image", "text")):
    """A split whose image i has counts[i] captions in a row, which share its class; items are told by their vectors."""
    images = np.repeat(np.arange(len(counts)), counts)
    sizes = [len(counts), *[len(images)] * (len(names) - 1)]
    classes = [np.arange(len(counts)) % 4, *[images % 4] * (len(names) - 1)]
    modalities = tuple(
        Modality(name=name, vectors=Rows(np.arange(float(n))[:, None]), labels=one_hot(y, 4) if labels else None)
        for name, n, y in zip(names, sizes, classes, strict=True)
    )
    return PairedSet(modalities=modalities, pairs=np.stack([images, *[np.arange(len(images))] * (len(names) - 1)], axis=1))


FIVE = captioned([5] * 2400)
UNEVEN = captioned([1, 2, 3, 4, 5, 7] * 40)
TINY = captioned([5] * 8)


def draw(split, scheme, rate, *, seed=0, family="toy", part="train", **options):
    return corrupt(split, Noise(scheme, rate, seed=seed, options=options), family=family, part=part)


def images_of(result):
    return result.train.pairs[:, 0]


# What a shuffle keeps


@pytest.mark.parametrize("scheme", [*OURS, *LEGACY])
@pytest.mark.parametrize("rate", RATES)
def test_images_are_given_out_again_and_the_realised_rate_is_the_nominal_one(scheme, rate):
    result = draw(FIVE, scheme, rate)
    assert np.array_equal(np.sort(images_of(result)), FIVE.pairs[:, 0]), "every image keeps its number of captions"
    assert np.array_equal(result.train.pairs[:, 1], FIVE.pairs[:, 1]), "captions keep their place"
    assert result.train.modalities is FIVE.modalities
    assert abs(result.realised_rate - rate) <= (0.001 if scheme in ("caption_shuffle", "ncr_legacy") else 0.003)
    assert result.realised_rate == result.wrong_pairs == (images_of(result) != FIVE.pairs[:, 0]).mean()


@pytest.mark.parametrize("scheme", [*OURS, *LEGACY])
def test_a_pair_is_clean_where_its_image_is_the_true_one(scheme):
    result = draw(UNEVEN, scheme, 0.5)
    assert np.array_equal(result.train.clean_pairs, images_of(result) == UNEVEN.pairs[:, 0])
    assert 0.3 < result.train.clean_pairs.mean() < 0.7
    assert all(mask.all() for mask in result.clean.values()), "no label is wrong"


def test_a_caption_that_gets_its_own_image_back_counts_as_clean():
    one = captioned([5])  # one image: every shuffle gives every caption its own
    result = draw(one, "caption_shuffle", 0.8)
    assert result.train.clean_pairs.all()
    assert (result.realised_rate, result.pair_sha) == (0, "")
    given_back = [
        800 - (~draw(captioned([5] * 200), "caption_shuffle", 0.8, seed=s).train.clean_pairs).sum() for s in range(40)
    ]
    assert np.mean(given_back) == pytest.approx(1 + 4 * 0.8, abs=1.2)


@pytest.mark.parametrize("split", [UNEVEN, captioned([3] * 300, labels=False)], ids=["uneven", "without labels"])
def test_all_captions_of_an_image_move_together_or_one_by_one(split):
    true = split.pairs[:, 0]
    together, alone = (images_of(draw(split, scheme, 0.6)) for scheme in ("image_shuffle", "caption_shuffle"))
    image_of_image = dict(zip(true.tolist(), together.tolist(), strict=True))
    assert [image_of_image[i] for i in true.tolist()] == together.tolist()
    assert sorted(image_of_image.values()) == sorted(image_of_image)
    assert len({(i, j) for i, j in zip(true.tolist(), alone.tolist(), strict=True)}) > 1.5 * len(image_of_image)


def test_the_draws_are_floor_rn_of_a_permutation_shuffled_among_themselves():
    rng = stream("noise", "toy", "caption_shuffle", 1, 3, split_sha(UNEVEN), "train")
    true = UNEVEN.pairs[:, 0].tolist()
    hit = rng.permutation(len(true)).tolist()[: 29 * len(true) // 100]
    given = list(true)
    for place, image in zip(hit, rng.permutation([true[place] for place in hit]).tolist(), strict=True):
        given[place] = image
    assert images_of(draw(UNEVEN, "caption_shuffle", 0.29, seed=3)).tolist() == given
    assert images_of(draw(captioned([1] * 100), "caption_shuffle", 0.29)).tolist() != list(range(100))


@pytest.mark.parametrize("scheme", OURS)
def test_what_is_hit_is_nested_over_rates(scheme):
    before = np.zeros(len(FIVE.pairs), dtype=bool)
    for rate in (0.1, 0.2, 0.29, 0.4, 0.8):
        wrong = ~draw(FIVE, scheme, rate).train.clean_pairs
        assert (before & ~wrong).sum() <= 25, "those hit before, but for the few that have their own image back"
        assert wrong.sum() > before.sum() + 1000
        before = wrong


@pytest.mark.parametrize("scheme", [*OURS, *LEGACY, "file"])
def test_rate_0_is_the_identity_and_the_same_as_no_noise_of_labels(scheme):
    for split in (TINY, captioned([5] * 8, labels=False)):
        result = draw(split, scheme, 0, **({"path": "nowhere.npy"} if scheme == "file" else {}))
        assert result.train.pairs is split.pairs
        assert result.train.clean_pairs.all()
        assert (result.realised_rate, result.noise_sha) == (0, draw(split, "symmetric", 0).noise_sha)


def test_draws_depend_on_seed_family_part_scheme_and_split_and_are_pinned():
    base = draw(UNEVEN, "caption_shuffle", 0.4)
    assert draw(UNEVEN, "caption_shuffle", 0.4).noise_sha == base.noise_sha
    shas = {
        base.noise_sha,
        draw(UNEVEN, "caption_shuffle", 0.4, seed=1).noise_sha,
        draw(UNEVEN, "caption_shuffle", 0.4, family="other").noise_sha,
        draw(UNEVEN, "caption_shuffle", 0.4, part="valid").noise_sha,
        draw(UNEVEN, "image_shuffle", 0.4).noise_sha,
        draw(UNEVEN, "ncr_legacy", 0.4).noise_sha,
        draw(UNEVEN, "ncr_legacy", 0.4, part="valid").noise_sha,
    }
    assert len(shas) == 7
    assert [draw(UNEVEN, name, 0.5, family="pinned").pair_sha for name in (*OURS, *LEGACY)] == PINNED
    wide = tuple(Modality(name=m.name, vectors=Rows(np.zeros((len(m), 7))), labels=m.labels) for m in UNEVEN.modalities)
    assert draw(PairedSet(modalities=wide, pairs=UNEVEN.pairs), "caption_shuffle", 0.4).noise_sha == base.noise_sha


PINNED = [
    "153c653985727e58",
    "473891d96dc914f3",
    "8b048b15bad0576c",
    "74e8ad5d2b00046e",
]  # a change of the draws needs a new scheme version


def test_of_three_modalities_the_first_moves_against_the_others():
    split = captioned([2] * 50, names=("image", "text", "audio"))
    for scheme in OURS:
        pairs = draw(split, scheme, 0.5).train.pairs
        assert np.array_equal(pairs[:, 1:], split.pairs[:, 1:])
        assert (pairs[:, 0] != split.pairs[:, 0]).sum() > 40


def test_what_is_known_to_be_wrong_before_stays_wrong():
    known = np.arange(40) % 3 > 0
    split = PairedSet(modalities=TINY.modalities, pairs=TINY.pairs, clean_pairs=known)
    result = draw(split, "caption_shuffle", 0.5)
    assert np.array_equal(result.train.clean_pairs, known & (images_of(result) == TINY.pairs[:, 0]))


def test_rates_below_one_and_pairs_are_needed():
    for scheme in OURS:
        with pytest.raises(ValueError, match=rf"the rate of '{scheme}' must lie in \[0, 1\), got 1"):
            Noise(scheme, 1, seed=0)
        with pytest.raises(ValueError, match=f"{scheme} needs pairs, the split has none"):
            draw(PairedSet(modalities=TINY.modalities), scheme, 0.2)


# Labels and pairs together

BOTH = "symmetric+caption_shuffle@0.2"


def test_joined_noise_prints_its_rates_and_has_one_form():
    noise = Noise("symmetric+caption_shuffle@0.20", 0.4, seed=3)
    assert (str(noise), noise.scheme) == ("symmetric@0.4+caption_shuffle@0.2", BOTH)
    assert noise == Noise(BOTH, 0.4, 3)
    assert noise.parts == (Noise("symmetric", 0.4, 3), Noise("caption_shuffle", 0.2, 3))
    assert Noise("symmetric", 0.4, 3).parts == (Noise("symmetric", 0.4, 3),)
    options = Noise("ncr_legacy+mrl_legacy@0.5", 0.1, 0, {"mode": "asym", "legacy_seed": 7})
    assert [dict(part.options) for part in options.parts] == [
        {"legacy_seed": 7}, {"legacy_seed": 7, "mode": "asym", "release": "first"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "error", "message"),
    [
        ("symmetric+pair_flip@0.2", ValueError, r"one that corrupts pairs can be joined, got symmetric \(label\), pair_flip"),
        ("caption_shuffle+image_shuffle@0.2", ValueError, "can be joined, got caption_shuffle"),
        ("symmetric+caption_shuffle@0.2+file@0.2", ValueError, "can be joined, got symmetric"),
        ("symmetric+caption_shuffle", ValueError, r"rate of its own, as in symmetric\+caption_.*, got 'caption_shuffle'"),
        ("symmetric+caption_shuffle@much", ValueError, "must have a rate of its own, .* got 'caption_shuffle@much'"),
        ("symmetric+caption_shuffle@1", ValueError, r"'caption_shuffle' must lie in \[0, 1\), got 1"),
        ("symmetric@0.4", ValueError, "the rate of a noise scheme is given by --rates, .* write 'symmetric'"),
        ("symmetric+caption_shufle@0.2", LookupError, "did you mean 'caption_shuffle'"),
        ("symmetric+", ValueError, "must have a rate of its own, .* got ''"),
    ],
)
def test_schemes_that_cannot_be_joined_are_refused(scheme, error, message):
    with pytest.raises(error, match=message):
        Noise(scheme, 0.4, 0)


def test_each_of_two_joined_schemes_draws_what_it_draws_alone():
    both, labels, pairs = draw(UNEVEN, BOTH, 0.4), draw(UNEVEN, "symmetric", 0.4), draw(UNEVEN, "caption_shuffle", 0.2)
    assert (both.label_sha, both.pair_sha) == (labels.label_sha, pairs.pair_sha)
    assert np.array_equal(both.train.pairs, pairs.train.pairs)
    assert np.array_equal(both.train.clean["text"], labels.clean["text"])
    assert (both.realised_rate, both.wrong_pairs) == (labels.realised_rate, pairs.wrong_pairs)
    assert len({both.noise_sha, labels.noise_sha, pairs.noise_sha}) == 3
    turned = draw(UNEVEN, "caption_shuffle+symmetric@0.4", 0.2)
    assert (turned.noise_sha, turned.realised_rate) == (both.noise_sha, pairs.wrong_pairs)
    assert draw(UNEVEN, BOTH, 0).noise_sha == pairs.noise_sha


def test_a_noise_file_cannot_be_joined_to_a_scheme_of_its_kind(tmp_path):
    export_noise(draw(TINY, "symmetric", 0.9).train, TINY, tmp_path / "labels")
    export_noise(draw(TINY, "caption_shuffle", 0.9).train, TINY, tmp_path / "pairs")
    for scheme, path, kind in (("symmetric+file@1", "labels", "labels"), ("caption_shuffle+file@1", "pairs", "pairs")):
        with pytest.raises(ValueError, match=f"got two that corrupt {kind}: the noise file holds them"):
            draw(TINY, scheme, 0.5, path=str(tmp_path / path))
    joined = draw(TINY, "symmetric+file@1", 0.5, path=str(tmp_path / "pairs"))
    assert joined.pair_sha == draw(TINY, "caption_shuffle", 0.9).pair_sha
    assert joined.label_sha == draw(TINY, "symmetric", 0.5).label_sha


# Noise files


@pytest.mark.parametrize("name", ["index.npy", "flickr_0.4", "f30k_precomp_0.2.np"])
def test_a_noise_file_is_found_under_the_name_that_it_was_written_to(tmp_path, name):
    drawn = draw(TINY, "caption_shuffle", 0.4)
    path = tmp_path / name
    export_noise(drawn.train, TINY, path)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert is_index(path)
    again = draw(TINY, "file", 0.4, path=str(path))
    assert (again.noise_sha, again.realised_rate) == (drawn.noise_sha, drawn.realised_rate)
    assert np.array_equal(again.train.clean_pairs, drawn.train.clean_pairs)
    assert np.load(path).dtype == np.int64
    with pytest.raises(FileExistsError, match="exists; give the noise file another name"):
        new_file(path)


def test_a_name_that_numpy_has_lengthened_is_pointed_out(tmp_path):
    np.save(tmp_path / "noise_0.2", np.arange(40))
    with pytest.raises(FileNotFoundError, match=r"no noise file .*noise_0\.2; there is .*noise_0\.2\.npy: NumPy adds"):
        draw(TINY, "file", 0.2, path=str(tmp_path / "noise_0.2"))
    with pytest.raises(FileNotFoundError, match=r"no noise file .*nothing\.npy$"):
        is_index(tmp_path / "nothing.npy")


@pytest.mark.parametrize("split", [FIVE, UNEVEN], ids=["five", "uneven"])
@pytest.mark.parametrize("rate", RATES)
def test_an_index_is_recognised_by_its_length_and_content(tmp_path, split, rate):
    paths = {scheme: tmp_path / scheme for scheme in OURS}
    for scheme, path in paths.items():
        export_noise(draw(split, scheme, rate).train, split, path)
    per_image = tmp_path / "per_image"
    convert(paths["image_shuffle"], per_image, split, "decl")
    found = {**{name: import_index(path, split) for name, path in paths.items()}, "decl": import_index(per_image, split)}
    assert [(index.scheme, index.layout) for index in found.values()] == [
        ("caption_shuffle", "captions"), ("image_shuffle", "captions"), ("image_shuffle", "images"),
    ]  # fmt: skip
    assert all(index.rate == pytest.approx(rate, abs=0.011) for index in found.values())
    assert len(np.load(per_image)) == len(split.modalities[0]) == found["decl"].n_images
    assert np.array_equal(found["decl"].images, found["image_shuffle"].images)
    for name, index in found.items():
        result = draw(split, "image_shuffle" if name == "decl" else name, rate)
        right = set(split.pairs[result.train.clean_pairs, 0].tolist())
        assert (index.wrong, index.kept) == ((~result.train.clean_pairs).sum(), len(right))


def test_images_that_keep_a_right_caption_are_fewer_where_they_move_as_a_whole(tmp_path):
    for scheme, share in (("caption_shuffle", 1 - 0.5**5), ("image_shuffle", 0.5)):
        path = tmp_path / scheme
        export_noise(draw(FIVE, scheme, 0.5).train, FIVE, path)
        assert import_index(path, FIVE).kept / 2400 == pytest.approx(share, abs=0.02)


def test_without_noise_and_with_one_caption_per_image_an_index_has_its_own_name(tmp_path):
    write_index(np.arange(8), tmp_path / "clean")
    found = import_index(tmp_path / "clean", TINY)
    assert (found.scheme, found.rate, found.wrong, found.kept) == ("none", 0.0, 0, 8)
    single = captioned([1] * 100)
    export_noise(draw(single, "image_shuffle", 0.5).train, single, tmp_path / "single")
    assert import_index(tmp_path / "single", single).scheme == "caption_shuffle"


TRUE = TINY.pairs[:, 0]


def changed(place, value):
    index = TRUE.copy()
    index[place] = value
    return index


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.arange(39), "must hold one image per caption, 40 of them, or one per image, 8, got 39; is it of this split"),
        (np.arange(0), "or one per image, 8, got 0"),
        (changed(3, 8), r"images must be row numbers in 0\.\.7, got 0\.\.8"),
        (changed(3, -1), r"in 0\.\.7, got -1\.\.7"),
        (changed(3, 5).astype(np.uint64) + np.uint64(2**63), r"must be row numbers in 0\.\.7"),
        (TRUE.astype(float), r"must be a vector of integers, got float64 of shape \(40,\)"),
        (TRUE == 0, r"must be a vector of integers, got bool of shape \(40,\)"),
        (TRUE.reshape(8, 5), r"must be a vector of integers, got int64 of shape \(8, 5\)"),
        (np.array(3), r"must be a vector of integers, got int64 of shape \(\)"),
        (TRUE.astype(object), "must be a .npy array of integers, got pickled Python objects, which are not read"),
        (changed(0, 5), "must be a shuffle, every image with as many captions as before, got 4 for image 0, which has 5"),
        (np.array([0, 0, 2, 3, 4, 5, 6, 7]), "must be a shuffle, .* got 10 for image 0, which has 5"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_with_file_and_reason(tmp_path, content, message):
    path = tmp_path / "bad.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad\.npy: .*" + message):
        import_index(path, TINY)
    with pytest.raises(ValueError, match=r"bad\.npy: .*" + message):
        draw(TINY, "file", 0.2, path=str(path))


def test_a_damaged_index_or_one_of_a_split_without_pairs_is_refused(tmp_path):
    path = tmp_path / "index.npy"
    write_index(TRUE, path)
    with pytest.raises(ValueError, match=r"index\.npy: a noise index needs pairs, the split has none"):
        import_index(path, PairedSet(modalities=TINY.modalities))
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(ValueError, match=r"index\.npy: a noise index must be a \.npy array of integers, got "):
        import_index(path, TINY)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"index\.npy: a noise file of labels must be JSON, .* one of pairs a \.npy array"):
        draw(TINY, "file", 0.2, path=str(path))
    np.savez(tmp_path / "many.npz", TRUE)
    with pytest.raises(ValueError, match=r"many\.npz: a noise file of labels must be JSON, .* one of pairs a \.npy array"):
        draw(TINY, "file", 0.2, path=str(tmp_path / "many.npz"))


@pytest.mark.parametrize("project", PROJECTS)
def test_a_file_is_converted_for_who_reads_it(tmp_path, project):
    sources = {name: tmp_path / name for name in ("labels", *OURS)}
    for name, path in sources.items():
        export_noise(draw(TINY, "symmetric" if name == "labels" else name, 0.6).train, TINY, path)
    fitting = {"mrl": {"labels"}, "ncr": {*OURS}, "l2rm": {*OURS}, "decl": {"image_shuffle"}, "rcl": {"image_shuffle"}}
    for name, path in sources.items():
        out = tmp_path / f"{name} for {project}"
        if name not in fitting[project]:
            with pytest.raises(ValueError, match=r"holds .* reads|moves all captions of an image together, got captions that"):
                convert(path, out, TINY, project)
            assert not out.exists()
            continue
        convert(path, out, TINY, project)
        assert draw(TINY, "file", 0.6, path=str(out)).noise_sha == draw(TINY, "file", 0.6, path=str(path)).noise_sha
        assert name == "labels" or len(np.load(out)) == (8 if project in ("decl", "rcl") else 40)


def test_a_file_holds_labels_or_pairs_and_not_both(tmp_path):
    for noise, got in ((BOTH, "both are noisy"), ("symmetric", "neither is noisy")):
        rate = 0.9 if noise == BOTH else 0
        with pytest.raises(ValueError, match=f"a noise file holds labels or pairs; {got}"):
            export_noise(draw(TINY, noise, rate).train, TINY, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_labels_are_told_from_pairs_by_content_whatever_the_name(tmp_path):
    drawn = draw(TINY, "symmetric", 0.9)
    export_noise(drawn.train, TINY, tmp_path / "labels.npy")
    assert not is_index(tmp_path / "labels.npy")
    assert facts(tmp_path / "labels.npy", TINY)["holds"] == "labels"
    assert draw(TINY, "file", 0.9, path=str(tmp_path / "labels.npy")).noise_sha == drawn.noise_sha


def test_a_class_that_the_data_have_not_is_not_written(tmp_path):
    drawn = next(d for seed in range(9) if (d := draw(TINY, "mrl_kplus1", 1, seed=seed)).train.modalities[1].labels[:, 4].any())
    with pytest.raises(ValueError, match=r"a noise file holds classes 0\.\.3, the noise has others"):
        export_noise(drawn.train, TINY, tmp_path / "labels.json")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for scheme in ("symmetric", "caption_shuffle"):
        with pytest.raises(OSError, match="No space left"):
            export_noise(draw(TINY, scheme, 0.9).train, TINY, tmp_path / "noise")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [TRUE, [[0, 1], [2, 3]]], ids=["array", "lists"])
def test_a_pickle_is_named_and_not_opened(tmp_path, protocol, content):
    (tmp_path / "noise.npy").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"noise\.npy: .* got a pickle, which is not opened .*numpy\.save\(NEW, "):
        draw(TINY, "file", 0.2, path=str(tmp_path / "noise.npy"))


def test_a_folder_is_no_noise_file_and_a_file_needs_one_that_is_there(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a noise file, got a folder; name the file in it"):
        draw(TINY, "file", 0.2, path=str(tmp_path))
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*none; make it first, or name another file"):
        new_file(tmp_path / "none" / "x.npy")


def test_facts_and_differences_are_counts(tmp_path):
    write_index(changed([0, 5], [1, 0]), tmp_path / "a")
    write_index(changed([0, 5, 10, 15], [1, 0, 3, 2]), tmp_path / "b")
    assert facts(tmp_path / "b", TINY) == {
        "holds": "pairs", "layout": "one entry per caption", "scheme": "caption_shuffle", "nominal rate, about": 0.14,
        "realised rate": 0.1, "captions": 40, "captions with a wrong image": 4,
        "images": 8, "images that keep a right caption": 8,
    }  # fmt: skip
    assert differences(tmp_path / "a", tmp_path / "b", TINY) == {
        "holds": "pairs", "entries": 40, "differ": 2, "wrong in the first": 2, "wrong in the second": 4, "wrong in both": 2,
        "overlap (both / either)": 0.5,
    }  # fmt: skip
    noisy = draw(TINY, "pair_flip", 0.5)
    export_labels(noisy.train, tmp_path / "labels")
    export_labels(TINY, tmp_path / "clean")
    assert facts(tmp_path / "labels", TINY) == {
        "holds": "labels", "realised rate": 0.5, "labels of image": 8, "labels of text": 40,
        "wrong labels of image": 4, "wrong labels of text": 20,
    }  # fmt: skip
    assert differences(tmp_path / "labels", tmp_path / "clean", TINY)["overlap (both / either)"] == 0
    assert differences(tmp_path / "labels", tmp_path / "clean", TINY)["differ"] == 24
    with pytest.raises(ValueError, match="two noise files of one kind can be compared, got labels and pairs"):
        differences(tmp_path / "labels", tmp_path / "a", TINY)
