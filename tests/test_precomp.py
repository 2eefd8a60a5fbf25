"""Regions and captions: the layout of the SCAN release, words and vocabularies, folds and object categories of COCO."""

import json
import os
import pickle
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest

from xmbench import Modality, PairedSet, Rows, load_dataset, types
from xmbench.datasets import MissingDataError, dataset_card, f30k_precomp, is_ready
from xmbench.datasets._vocabulary import build_vocabulary, numbered, read_captions, read_vocabulary, words_of
from xmbench.types import DataError, check_split

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a dataset's folder under XMBENCH_DATA with three small splits, and return it."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))

    def make(name="f30k_precomp", test="test", k=3, sizes=(6, 4, 5), dtype=np.float16):
        path = tmp_path / name
        path.mkdir()
        for seed, (stem, n) in enumerate(zip(("train", "dev", test), sizes, strict=True)):
            np.save(path / f"{stem}_ims.npy", np.random.default_rng(seed).standard_normal((n, 2, 4)).astype(dtype))
            captions = [f"Image {'abcdefghij'[i % 10]}, seen {j}." for i in range(n) for j in range(k)]
            if name == "cc152k_precomp":
                lines = [f"{stem}{row}\t{caption}" for row, caption in enumerate(captions)]
                (path / f"{stem}_caps.tsv").write_text("\n".join(lines) + "\n")
            else:
                (path / f"{stem}_caps.txt").write_text("\n".join(captions) + "\n")
                (path / f"{stem}_ids.txt").write_text("".join(f"{i}\n" for i in range(n) for _ in range(k)))
        return path

    return make


# The layout


@pytest.mark.parametrize("k", [1, 3])
def test_features_captions_pairs_and_ids_are_those_of_the_files(folder, k):
    path = folder(k=k)
    dataset = load_dataset("f30k_precomp")
    for stem, split in zip(("train", "dev", "test"), dataset.splits().values(), strict=True):
        features = np.load(path / f"{stem}_ims.npy")
        n = len(features)
        image, text = split.modalities
        assert np.array_equal(np.asarray(image.sequences), features.astype(np.float32))
        assert (image.vectors, image.lengths, image.labels, text.labels) == (None, None, None, None)
        rows = np.arange(n * k)
        assert np.array_equal(split.pairs, np.stack([rows // k, rows], axis=1))
        assert image.item_ids.tolist() == [str(i) for i in range(n)]
        assert text.item_ids.tolist() == [f"{row // k}#{row % k}" for row in rows]
        lines = (path / f"{stem}_caps.txt").read_text().split("\n")
        for row in rows:
            words = [text.vocabulary[token] for token in text.tokens[row]]
            told = [word if word in text.vocabulary else "<unk>" for word in words_of(lines[row])]
            assert words == ["<start>", *told, "<end>"]
        assert text.lengths.tolist() == [8] * (n * k)
        assert text.tokens.dtype == np.int64
    assert not dataset.folds


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_a_memory_map_are_float32_in_any_order(folder, dtype):
    path = folder(dtype=dtype)
    features = np.load(path / "train_ims.npy")
    rows = load_dataset("f30k_precomp").train.modalities[0].sequences
    batch = rows.take(np.array([5, 0, 3]))[np.array([2, 1])]
    assert batch.dtype == np.float32
    assert np.array_equal(batch, features[[3, 0]].astype(np.float32))
    batch[:] = 0
    assert np.array_equal(rows[np.array([3])], features[[3]].astype(np.float32)), "a batch is a copy"


def test_features_are_never_read_whole(folder):
    path = folder()
    for stem, n in (("train", 6), ("dev", 4), ("test", 5)):
        np.lib.format.open_memmap(path / f"{stem}_ims.npy", mode="w+", dtype=np.float32, shape=(n, 100, 10_000))[n - 1] = 1
    words_of("it's")  # NLTK is imported
    tracemalloc.start()
    train = f30k_precomp.load(f30k_precomp.Parameters()).train
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6, "the files have 60 MB"
    assert train.modalities[0].sequences[np.array([5])].sum() == 1e6


def test_ids_may_be_names_one_per_image_or_one_per_caption_or_missing(folder):
    path = folder()
    names = [f"90{i}" for i in range(6)]

    def ids():
        return [m.item_ids[3] for m in load_dataset("f30k_precomp").train.modalities]

    (path / "train_ids.txt").write_text("\n".join(names) + "\n")
    assert ids() == ["903", "901#0"]
    (path / "train_ids.txt").write_text("\n".join(name for name in names for _ in range(3)))
    assert ids() == ["903", "901#0"]
    (path / "train_ids.txt").write_text("\n".join(f"7{row}" for row in range(18)))
    assert ids() == ["3", "1#0"], "ids of captions name no image"
    (path / "train_ids.txt").unlink()
    assert ids() == ["3", "1#0"]


def test_dev_is_cut_to_the_images_of_the_released_loaders(folder):
    folder(sizes=(6, 1014, 5))

    def sizes(**parameters):
        return [len(m) for m in load_dataset("f30k_precomp", **parameters).valid.modalities]

    assert sizes() == [1000, 3000]
    assert sizes(valid_images=0) == [1014, 3042]
    assert sizes(valid_images=2) == [2, 6]
    assert sizes(valid_images=2000) == [1014, 3042]
    with pytest.raises(ValueError, match="valid_images must be 0"):
        load_dataset("f30k_precomp", valid_images=-1)


def test_a_quotation_mark_in_a_table_is_a_character_like_any_other(folder):
    path = folder("cc152k_precomp", k=1)
    lines = (path / "train_caps.tsv").read_text().split("\n")
    lines[1] = 'odd1\timage of a 5" nail and "the rest'
    (path / "train_caps.tsv").write_text("\n".join(lines))
    image, text = load_dataset("cc152k_precomp").train.modalities
    assert (len(image), len(text)) == (6, 6)
    assert image.item_ids.tolist() == ["train0", "odd1", "train2", "train3", "train4", "train5"]


def save(path, values):
    with path.open("wb") as file:
        np.save(file, values)


BROKEN = {
    "counts": (
        lambda path: (path / "train_caps.txt").write_text("a dog\n" * 17),
        r"captions must be a whole number of times the images, got 17 in .*train_caps\.txt and 6 in .*train_ims\.npy",
    ),
    "fewer captions than images": (lambda path: (path / "train_caps.txt").write_text("a dog\n" * 3), "got 3 in .* and 6 in"),
    "no caption": (lambda path: (path / "train_caps.txt").write_text(""), "got 0 in"),
    "rank": (
        lambda path: save(path / "dev_ims.npy", np.ones((4, 8), np.float32)),
        r"dev_ims\.npy: must be \(n, regions, d\) float16, float32 or float64, got float32 \(4, 8\)",
    ),
    "dtype": (lambda path: save(path / "dev_ims.npy", np.ones((4, 2, 4), int)), r"got int64 \(4, 2, 4\)"),
    "byte order": (
        lambda path: save(path / "dev_ims.npy", np.ones((4, 2, 4), np.dtype(np.float32).newbyteorder())),
        r"dev_ims\.npy: must be in this machine's byte order, got float32 in the other one .*\.astype\(numpy\.float32\)\)",
    ),
    "no region": (lambda path: save(path / "dev_ims.npy", np.ones((4, 0, 4))), r"got float64 \(4, 0, 4\)|must be a whole"),
    "truncated": (
        lambda path: (path / "dev_ims.npy").write_bytes((path / "dev_ims.npy").read_bytes()[:-9]),
        r"dev_ims\.npy: must be a whole \.npy file",
    ),
    "not npy": (lambda path: (path / "dev_ims.npy").write_bytes(b"PK\x03\x04 no"), r"must be a whole \.npy file"),
    "objects": (
        lambda path: np.save(path / "dev_ims.npy", np.array([{}], dtype=object), allow_pickle=True),
        r"must be a whole \.npy file of numbers",
    ),
    "other regions": (
        lambda path: save(path / "test_ims.npy", np.ones((5, 3, 4), np.float16)),
        r"every split must have the same number of regions and features, got .*\(3, 4\)",
    ),
    "not finite": (
        lambda path: save(path / "test_ims.npy", np.full((5, 2, 4), np.nan)),
        "f30k_precomp/test/image: sequences must be finite, got NaN or infinity in row 0",
    ),
    "empty caption": (
        lambda path: (path / "dev_caps.txt").write_text("a dog\n" * 7 + " \n" + "a dog\n" * 4),
        r"dev_caps\.txt, line 8: a caption must have a word, got an empty one",
    ),
    "not text": (lambda path: (path / "dev_caps.txt").write_bytes(b"caf\xe9\n" * 12), r"dev_caps\.txt: must be UTF-8"),
    "count of ids": (
        lambda path: (path / "dev_ids.txt").write_text("1\n" * 5),
        r"dev_ids\.txt: must hold one id per image \(4\) or caption \(12\), got 5",
    ),
    "captions interleaved": (
        lambda path: (path / "dev_ids.txt").write_text("".join(f"{row % 4}\n" for row in range(12))),
        r"dev_ids\.txt, line 2: the 3 captions of an image must stand side by side, images in order, got '1' where .* '0'",
    ),
    "rows in another order": (
        lambda path: (path / "dev_ids.txt").write_text("0\n2\n1\n3\n"),
        r"dev_ids\.txt, line 2: ids that are row numbers must stand in their rows, got '2' where its place says '1'; put capt",
    ),
    "one image, two ids": (
        lambda path: (path / "dev_ids.txt").write_text("".join(f"x{(row + 1) // 3}\n" for row in range(12))),
        r"dev_ids\.txt, line 3: the 3 captions of an image must stand side by side, .*got 'x1' where its place says 'x0'",
    ),
    "features repeated": (
        lambda path: (path / "dev_ids.txt").write_text("x\nx\ny\ny\n"),
        r"every image must have an id of its own, got 2 ids for 4 rows of features; keep one row",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_fit_is_refused_with_file_and_reason(folder, broken):
    change, message = BROKEN[broken]
    path = folder()
    load_dataset("f30k_precomp")
    change(path)
    with pytest.raises(DataError, match=message):
        load_dataset("f30k_precomp")


def test_a_table_must_have_two_columns_and_the_dataset_says_which_file_it_misses(folder):
    path = folder("cc152k_precomp", k=1)
    (path / "dev_caps.tsv").write_text("a\tb\nc d\n")
    with pytest.raises(DataError, match=r"dev_caps\.tsv, line 2: must be an id, a tab and a caption, got 0 tabs"):
        load_dataset("cc152k_precomp")
    (path / "dev_caps.tsv").unlink()
    with pytest.raises(MissingDataError, match=r"dev_caps\.tsv is missing and `xmbench data download cc152k_precomp` gets it"):
        load_dataset("cc152k_precomp")
    assert not is_ready(dataset_card("cc152k_precomp"))


# Words


AWKWARD = [
    "Two dogs play.", "a dog, a cat , and a bird", "We cannot see.", "gimme that", "T-shirt -- red", "it's 5:30 p.m.",
    "costs $4,000 (or so)", "one,,two", "...", "what?! no", "- a dash", "dog . runs .", "wanna-be", "naïve café", "a\tb",
    "rock'n'roll", "u.s. flag.", "50% off & more", "A.", ",", "-", "under_score", 'A "big" one', "lemme", "l'été",
    "x.y", "a . b", "e.g. this", "ends, ",
]  # fmt: skip


@pytest.mark.parametrize("caption", AWKWARD)
def test_words_are_those_of_nltk_sentence_by_sentence(caption):
    from nltk.tokenize import NLTKWordTokenizer

    pieces, piece = [], ""
    lowered = caption.lower()
    for i, letter in enumerate(lowered):
        piece += letter
        if letter in ".!?" and lowered[i + 1 : i + 2].isspace():
            pieces, piece = [*pieces, piece], ""
    expected = [word for part in [*pieces, piece] for word in NLTKWordTokenizer().tokenize(part)]
    assert words_of(caption) == expected


def captions_of(tmp_path, *lines, name="caps.txt"):
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return read_captions(tmp_path / name)


def test_a_vocabulary_counts_over_train_and_dev_and_keeps_the_order_of_appearance(folder):
    path = folder()
    (path / "train_caps.txt").write_text("zebra dog\n" * 3 + "cat cat cat\n" * 2 + "bird\n" * 13)
    (path / "dev_caps.txt").write_text("dog\n" + "new cup\n" * 3 + "cup\n" * 8)
    (path / "test_caps.txt").write_text("new zebra dog\n" * 15)
    dataset = load_dataset("f30k_precomp", valid_images=1)
    text = dataset.train.modalities[1]
    assert text.vocabulary == (*SPECIAL, "dog", "cat", "bird", "cup"), "dev counts whole"
    assert text.tokens[[0, 3, 5]].tolist() == [[1, 3, 4, 2, 0], [1, 5, 5, 5, 2], [1, 6, 2, 0, 0]]
    assert text.lengths[[0, 3, 5]].tolist() == [4, 5, 3]


def test_captions_of_unknown_words_are_kept_and_counted(tmp_path):
    captions = captions_of(tmp_path, "dog", "rare", "dog rare", "odd words")
    with pytest.warns(UserWarning, match=r"caps\.txt: 2 of the captions are made of unknown words alone, and kept"):
        tokens, lengths = numbered(captions, (*SPECIAL, "dog"))
    assert tokens.tolist() == [[1, 4, 2, 0], [1, 3, 2, 0], [1, 4, 3, 2], [1, 3, 3, 2]]
    assert lengths.tolist() == [3, 3, 4, 4]


def test_long_captions_are_cut_before_their_end_and_counted(tmp_path):
    captions = captions_of(tmp_path, " ".join(["dog"] * 62), " ".join(["dog"] * 63), " ".join(["dog"] * 200))
    with pytest.warns(UserWarning, match=r"caps\.txt: 2 of the captions are longer than 64 with start and end, and cut"):
        tokens, lengths = numbered(captions, (*SPECIAL, "dog"))
    assert lengths.tolist() == [64] * 3
    assert np.array_equal(tokens, np.tile([1, *[4] * 62, 2], (3, 1)))


def test_only_a_line_feed_ends_a_caption_and_a_changed_file_is_read_again(tmp_path):
    captions = captions_of(tmp_path, "a dog", "a cat\r", "one\x0bword\u2028two")
    assert len(captions) == 3
    assert build_vocabulary([captions] * 4)[4:] == ("a", "dog", "cat", "one", "word", "two")
    (tmp_path / "caps.txt").write_text("a bird")
    os.utime(tmp_path / "caps.txt", (1, 1))
    assert read_captions(tmp_path / "caps.txt").words == ("a", "bird")


def test_a_byte_order_mark_is_no_part_of_the_first_word_or_id(folder):
    path = folder()
    expected = load_dataset("f30k_precomp").train.modalities[1]
    for name in ("train_caps.txt", "train_ids.txt"):
        (path / name).write_bytes(b"\xef\xbb\xbf" + (path / name).read_bytes())
    text = load_dataset("f30k_precomp").train.modalities[1]
    assert np.array_equal(text.tokens, expected.tokens)
    assert text.item_ids.tolist() == expected.item_ids.tolist()
    assert read_captions(path / "train_caps.txt").words[0] == "image"


def stored(words):
    return {
        "word2idx": {w: i for i, w in enumerate(words)},
        "idx2word": {str(i): w for i, w in enumerate(words)},
        "idx": len(words),
    }


def test_a_released_vocabulary_gives_the_ids(folder, tmp_path):
    folder()
    (tmp_path / "v.json").write_text(json.dumps(stored([*SPECIAL, ".", "image", "seen", "c"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = load_dataset("f30k_precomp", vocabulary=str(tmp_path / "v.json")).train.modalities[1]
    assert text.vocabulary == (*SPECIAL, ".", "image", "seen", "c")
    assert text.tokens[[0, 6]].tolist() == [[1, 5, 3, 3, 6, 3, 4, 2], [1, 5, 7, 3, 6, 3, 4, 2]]


BAD_VOCABULARIES = {
    "keys": (lambda v: v.pop("idx"), "must hold the objects word2idx and idx2word and the number idx, got word2idx, idx2word"),
    "size": (lambda v: v.update(idx=9), "must be of one size, got 9, 5 and 5"),
    "gap": (lambda v: v["idx2word"].update({"9": v["idx2word"].pop("4")}), "without a gap; at 4 the word is None"),
    "not inverse": (lambda v: v["word2idx"].update(dog=3), "must be inverse and without a gap; at 4 the word is 'dog'"),
    "special": (
        lambda v: v.update(stored(["<pad>", "<unk>", "<start>", "<end>", "dog"])),
        "the first words must be <pad>, <start>, <end>, <unk>, got <pad>, <unk>, <start>, <end>",
    ),
}


@pytest.mark.parametrize("bad", BAD_VOCABULARIES)
def test_a_vocabulary_that_is_not_one_is_refused(tmp_path, bad):
    change, message = BAD_VOCABULARIES[bad]
    vocabulary = stored([*SPECIAL, "dog"])
    change(vocabulary)
    (tmp_path / "v.json").write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=message):
        read_vocabulary(tmp_path / "v.json")


def test_a_vocabulary_must_be_json_that_is_there(tmp_path):
    (tmp_path / "v.json").write_text("{")
    with pytest.raises(
        DataError, match=r"v\.json: must be a JSON vocabulary .*; convert a released one by `xmbench data convert`"
    ):
        read_vocabulary(tmp_path / "v.json")
    (tmp_path / "v.json").write_text("[1]")
    with pytest.raises(DataError, match="got list"):
        read_vocabulary(tmp_path / "v.json")
    with pytest.raises(DataError, match="must be a vocabulary in JSON, got a folder; name the file in it"):
        read_vocabulary(tmp_path)
    with pytest.raises(MissingDataError, match=r"vocabulary .*none\.json is missing"):
        read_vocabulary(tmp_path / "none.json")


@pytest.mark.parametrize(("name", "protocol"), [("v.pkl", 0), ("v.json", 2), ("v", 0), ("v.json", 1)])
def test_a_vocabulary_pickle_is_not_opened_and_the_error_says_how_to_convert_it(tmp_path, name, protocol):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was loaded')",))

    (tmp_path / name).write_bytes(pickle.dumps(Trap(), protocol))
    with pytest.raises(DataError, match=r"must be JSON, got a pickle, .*by: xmbench data convert \S+ \S+\.json$"):
        read_vocabulary(tmp_path / name)


# COCO


def annotate(path, pairs, categories=((18, "dog"), (1, "person"), (90, "brush"))):
    content = {
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [{"image_id": image, "category_id": category} for image, category in pairs],
    }
    (path / "instances_val2014.json").write_text(json.dumps(content))


def test_coco_is_tested_whole_and_in_five_folds(folder):
    folder("coco_precomp", test="testall", sizes=(6, 4, 10))
    dataset = load_dataset("coco_precomp")
    assert list(dataset.tests) == ["test", "test:1k"]
    assert dataset.tests["test:1k"] is dataset.tests["test"]
    assert dataset.folds == {"test:1k": 5}
    assert len(dataset.tests["test"].modalities[0]) == 10
    assert all(m.labels is None for split in dataset.splits().values() for m in split.modalities)


def test_coco_categories_join_through_the_ids(folder):
    path = folder("coco_precomp", test="testall", sizes=(6, 4, 5))
    (path / "testall_ids.txt").write_text("391895\n42\n7\n13\n99\n")
    annotate(path, [(42, 18), (42, 18), (42, 90), (391895, 1), (13, 90), (123456, 1)])
    dataset = load_dataset("coco_precomp")
    image, text = dataset.tests["test"].modalities
    assert dataset.class_names == ("person", "dog", "brush"), "in the order of their numbers"
    expected = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert np.array_equal(image.labels, expected)
    assert np.array_equal(text.labels, np.repeat(expected, 3, axis=0))
    assert all(m.labels is None for split in (dataset.train, dataset.valid) for m in split.modalities)


def test_coco_annotations_of_other_images_and_other_files_are_refused(folder):
    path = folder("coco_precomp", test="testall", sizes=(6, 4, 5))
    annotate(path, [(42, 18), (43, 1)])
    with pytest.raises(DataError, match=r"by the ids of testall_ids\.txt, got ids such as 0, none of them annotated"):
        load_dataset("coco_precomp")
    (path / "testall_ids.txt").unlink()
    with pytest.raises(DataError, match="got no ids, none of them annotated"):
        load_dataset("coco_precomp")
    (path / "instances_val2014.json").write_text('{"annotations": []}')
    with pytest.raises(DataError, match=r"must be COCO instances in JSON, .*KeyError\('categories'\)"):
        load_dataset("coco_precomp")


def test_folds_must_be_equal_and_of_a_test(folder):
    folder("coco_precomp", test="testall", sizes=(6, 4, 7))
    message = r"coco_precomp/test:1k: its items must divide into 5 equal folds, got 7; .* drop its last 2 images and"
    with pytest.raises(DataError, match=message):
        load_dataset("coco_precomp")
    toy = load_dataset("synthetic")
    with pytest.raises(ValueError, match="folds must be of tests, got 'valid'; there are test"):
        replace(toy, folds={"valid": 5})
    assert replace(toy, folds={"test": 5}).folds == {"test": 5}


# Checks of every split


def check(**parts):
    text = Modality(name="text", **{"tokens": np.array([[1, 4, 2], [1, 2, 0]]), "lengths": np.array([3, 2]), **parts})
    check_split("toy", PairedSet(modalities=(Modality(name="image", vectors=Rows(np.ones((2, 1)))), text)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vocabulary": SPECIAL}, r"toy/text: tokens must be word ids in 0\.\.3, got 0\.\.4"),
        ({"tokens": np.array([[1, -4, 2], [1, 2, 0]])}, r"got -4\.\.2"),
        ({"tokens": np.ones((2, 3))}, r"tokens must be \(n, L\) integers, got float64 \(2, 3\)"),
        ({"tokens": np.ones(2, dtype=int)}, r"got int64 \(2,\)"),
        ({"lengths": np.array([4, 2])}, r"toy/text: lengths of tokens must lie in 1\.\.3, got 2\.\.4"),
        ({"lengths": np.array([3, 0])}, r"got 0\.\.3"),
        ({"lengths": np.ones(2)}, r"lengths of tokens must be \(n,\) integers, got float64 \(2,\)"),
        ({"sequences": Rows(np.ones((2, 2, 5)))}, r"lengths of sequences must lie in 1\.\.2, got 2\.\.3"),
        ({"sequences": Rows(np.ones((2, 5)))}, r"toy/text: sequences must be \(n, L, d\), got \(2, 5\)"),
        ({"vectors": Rows(np.ones((2, 5, 3)))}, r"toy/text: vectors must be \(n, d\), got \(2, 5, 3\)"),
        ({"sequences": Rows(np.array([[[1.0]], [[np.inf]]])), "tokens": None, "lengths": None}, "infinity in row 1"),
    ],
)
def test_words_and_sequences_are_checked(parts, message):
    check(vocabulary=(*SPECIAL, "dog"))
    with pytest.raises(DataError, match=message):
        check(**parts)


def test_of_large_data_evenly_spaced_rows_are_looked_at(monkeypatch):
    class Counted(Rows):
        read = 0

        def __getitem__(self, rows):
            Counted.read += len(rows)
            return super().__getitem__(rows)

    def check_with(bad):
        values = np.ones((100, 2, 5))
        values[bad] = np.nan
        Counted.read = 0
        image = Modality(name="image", sequences=Counted(values))
        check_split("toy", PairedSet(modalities=(image, Modality(name="text", vectors=Rows(np.ones((100, 1)))))))

    monkeypatch.setattr(types, "_BLOCK", 70)
    with pytest.raises(DataError, match="in row 99"):
        check_with(99)
    assert Counted.read == 100
    monkeypatch.setattr(types, "_CHECKED", 100)
    check_with(99)
    assert Counted.read == 10
    with pytest.raises(DataError, match="in row 90"):
        check_with(90)
