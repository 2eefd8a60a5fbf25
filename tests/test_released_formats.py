"""Released feature files: written here key by key as their loaders read them, most of them in true size, and read back."""

import tracemalloc
from dataclasses import replace
from importlib import import_module

import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from xmbench import class_numbers, load_dataset
from xmbench.datasets import MissingDataError, dataset_card, is_ready
from xmbench.datasets._mat import mat_variable
from xmbench.types import DataError

RELEASED = ("wikipedia_deep", "nus_wide", "xmedianet")
MULTILABEL = {"mirflickr25k": 24, "nus_wide_multilabel": 81, "coco_multilabel": 80}
FILES = {
    "wikipedia_deep": "wiki_deep_doc2vec_data_corr_ae.h5py",
    "nus_wide": "nus_wide_deep_doc2vec_data_42941.h5py",
    "xmedianet": "xmedianet_deep_doc2vec_data.h5py",
    "xmedianet4": "XMediaNet4View_pairs.mat",
    "inria_websearch": "INRIA-Websearch.mat",
    **{name: f"{name}.npz" for name in MULTILABEL},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where a dataset's file is looked for."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("xmbench.datasets._files.cache_root", lambda: tmp_path / "cache")

    def path(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name / FILES[name]

    return path


@pytest.fixture
def small(monkeypatch):
    """Make a dataset a small one: 30 / 6 / 12 pairs of 3 classes, 5 image and 4 text features."""

    def shrink(name, **changes):
        module = import_module(f"xmbench.datasets.{name}")
        facts = {"sizes": {"train": 30, "valid": 6, "test": 12}, "widths": {"image": 5, "text": 4}, "classes": 3}
        card = replace(module.CARD, **{**facts, **changes})
        monkeypatch.setattr(module, "CARD", card)
        return card

    return shrink


def features(n, d, dtype=np.float32, start=0.0):
    """(n, d) mostly zero; row i holds start + i in its first column and -i in its last."""
    values = np.zeros((n, d), dtype=dtype)
    values[:, 0], values[:, -1] = start + np.arange(n), -np.arange(n)
    return values


def arrays(card, *, bases=(0, 0), valid=False, text="text", dtype=np.float32):
    """What the file of a released HDF5 dataset holds, by key; labels count through the classes, test rows start at 1000."""
    n_test = card.sizes["test"] + (0 if valid else card.sizes["valid"])
    sizes = {"train": card.sizes["train"], "test": n_test} | ({"valid": card.sizes["valid"]} if valid else {})
    content = {}
    for part, n in sizes.items():
        for key, labels, view, base in (("imgs_deep", "imgs", "image", bases[0]), (text, "texts", "text", bases[1])):
            content[f"{part}_{key}"] = features(n, card.widths[view], dtype, start=1000.0 * (part == "test"))
            content[f"{part}_{labels}_labels"] = np.arange(n) % card.classes + base
    return content


def write_h5(path, content, **options):
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            file.create_dataset(key, data=values, **(options if values.ndim == 2 else {}))


def first_column(split, modality):
    return np.asarray(split.modalities[modality].vectors[slice(None)][:, 0])


def sizes(dataset):
    return {name: len(split.pairs) for name, split in dataset.splits().items()}


# Hu et al., HDF5


@pytest.mark.parametrize(
    ("written", "storage"),
    [
        ({}, {}),
        ({"bases": (1, 1), "text": "texts", "dtype": np.float64}, {}),
        ({"bases": (1, 0)}, {"chunks": True, "compression": "gzip", "compression_opts": 1}),
        ({"valid": True, "bases": (1, 1), "text": "texts"}, {}),
    ],
    ids=["as_released", "from_1_in_float64", "compressed_with_two_bases", "with_valid"],
)
def test_wikipedia_deep_is_read_in_true_size(place, written, storage):
    card = dataset_card("wikipedia_deep")
    content = arrays(card, **written)
    write_h5(place("wikipedia_deep"), content, **storage)
    dataset = load_dataset("wikipedia_deep")
    assert sizes(dataset) == {"train": 2173, "valid": 231, "test": 462}
    n_valid = 0 if "valid" in written else 231
    text = written.get("text", "text")
    for v, key in enumerate(("imgs_deep", text)):
        train = dataset.train.modalities[v]
        assert np.array_equal(np.asarray(train.vectors), content[f"train_{key}"].astype(np.float32))
        assert train.vectors[np.arange(3)].dtype == np.float32
        assert np.array_equal(class_numbers(train.labels), np.arange(2173) % 10)
        test = dataset.tests["test"]
        assert np.array_equal(first_column(test, v), 1000 + n_valid + np.arange(462)), "the rows after the validation rows"
        assert np.array_equal(class_numbers(test.modalities[v].labels), (n_valid + np.arange(462)) % 10)
        assert np.array_equal(first_column(dataset.valid, v), (1000 if n_valid else 0) + np.arange(231))
        assert np.array_equal(class_numbers(dataset.valid.modalities[v].labels), np.arange(231) % 10)
    assert [m.name for m in dataset.train.modalities] == ["image", "text"]
    assert np.array_equal(dataset.train.pairs, np.stack([np.arange(2173)] * 2, axis=1))


def sparse(file, key, shape):
    """A contiguous dataset of zeros that takes no room on disk."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5py.h5d.create(file.id, key.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), plan)


@pytest.mark.parametrize(("name", "n_valid", "mapped"), [("nus_wide", 5000, False), ("xmedianet", 4000, True)])
def test_large_files_are_read_once_or_mapped(place, name, n_valid, mapped):
    card = dataset_card(name)
    rows = {"train": card.sizes["train"], "test": card.sizes["test"] + n_valid}
    with h5py.File(place(name), "w") as file:
        for part, n in rows.items():
            for key, labels, view in (("imgs_deep", "imgs", "image"), ("text", "texts", "text")):
                shape = (n, card.widths[view])
                if mapped:
                    sparse(file, f"{part}_{key}", shape)
                else:
                    file.create_dataset(f"{part}_{key}", shape, np.float32, chunks=(4096, shape[1]), fillvalue=0.5)
                file[f"{part}_{key}"][n_valid] = np.arange(shape[1])
                file[f"{part}_{labels}_labels"] = (np.arange(n) % card.classes + 1).astype(np.uint8)
    tracemalloc.start()
    dataset = import_module(f"xmbench.datasets.{name}").load(import_module(f"xmbench.datasets.{name}").Parameters())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    full = 4 * sum(rows.values()) * sum(card.widths.values())
    labels = 2 * sum(rows.values()) * card.classes + 100_000_000  # with their numbers and pairs
    assert peak < labels + (0 if mapped else full), "features are held once at most"
    assert sizes(dataset) == dict(card.sizes)
    test, train = dataset.tests["test"], dataset.train
    for v, width in enumerate(card.widths.values()):
        assert np.array_equal(test.modalities[v].vectors[np.array([0])][0], np.arange(width)), "first row after validation"
        assert np.array_equal(train.modalities[v].vectors[np.array([n_valid])][0], np.arange(width))
        assert first_column(dataset.valid, v).tolist() == [0.0 if mapped else 0.5] * n_valid
    assert train.n_classes == card.classes
    assert np.array_equal(class_numbers(test.modalities[1].labels), (n_valid + np.arange(card.sizes["test"])) % card.classes)


def test_the_smallest_label_counts_over_all_splits_unless_per_split_is_asked_for(place, small):
    card = small("wikipedia_deep")
    content = arrays(card, bases=(1, 1))
    for modality in ("imgs", "texts"):
        content[f"test_{modality}_labels"] = np.arange(18) % 2 + 2  # class 1 is missing
    write_h5(place("wikipedia_deep"), content)
    joint = load_dataset("wikipedia_deep").tests["test"].modalities[0].labels
    assert np.array_equal(class_numbers(joint), np.arange(12) % 2 + 1)
    per_split = load_dataset("wikipedia_deep", label_base="per_split")
    released = content["test_imgs_labels"] - content["test_imgs_labels"].min()
    assert np.array_equal(class_numbers(per_split.tests["test"].modalities[0].labels), released[6:])
    assert np.array_equal(class_numbers(per_split.valid.modalities[1].labels), released[:6])
    assert per_split.parameters == {"label_base": "per_split"}


def test_per_split_leaves_the_image_labels_of_valid_as_the_released_loader_does(place, small):
    card = small("nus_wide")
    write_h5(place("nus_wide"), arrays(card, bases=(1, 1), valid=True))
    assert class_numbers(load_dataset("nus_wide").valid.modalities[0].labels).tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(
        DataError, match=r"got image 1 and text 0 \(counted from 0\) in row 0 of valid, and 6 of 6 pairs like it"
    ):
        load_dataset("nus_wide", label_base="per_split")
    write_h5(place("nus_wide"), arrays(card, valid=True))
    per_split = load_dataset("nus_wide", label_base="per_split")
    assert class_numbers(per_split.valid.modalities[0].labels).tolist() == [0, 1, 2, 0, 1, 2]


def without(key):
    return lambda content: content.pop(key)


def put(key, values):
    return lambda content: content.update({key: np.asarray(values)})


def changed(key, row, value):
    def change(content):
        content[key] = content[key].astype(np.result_type(content[key], value))
        content[key][row] = value

    return change


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            without("test_imgs_deep"),
            "must hold 'test_imgs_deep', got the keys test_imgs_labels, test_text, test_texts_labels, tr",
        ),
        (without("train_text"), "must hold 'train_texts', got the keys test_imgs_deep, "),
        (put("valid_text", np.zeros((6, 4))), "must hold 'valid_imgs_deep', got the keys"),
        (put("train_imgs_deep", np.zeros((29, 5))), r"train_imgs_deep must be \(30, 5\) numbers, got float32 \(29, 5\)"),
        (put("train_imgs_deep", np.zeros((5, 30), np.float32)), r"must be \(30, 5\) numbers, got float32 \(5, 30\)"),
        (put("test_text", np.zeros((12, 4))), r"test_text must be \(18, 4\) numbers, got float32 \(12, 4\)"),
        (put("test_text", np.zeros((18, 4), "S3")), r"test_text must be \(18, 4\) numbers, got \|S3 \(18, 4\)"),
        (
            put("train_imgs_labels", np.eye(3)[np.arange(30) % 3]),
            r"one class number for each of 30 items, got float64 \(30, 3\)",
        ),
        (put("train_imgs_labels", np.arange(29)), r"one class number for each of 30 items, got int64 \(29,\)"),
        (changed("train_texts_labels", 4, 1.5), "train_texts_labels must be whole numbers, got 1.5"),
        (changed("train_texts_labels", 4, np.nan), "train_texts_labels must be whole numbers, got nan"),
        (
            changed("train_texts_labels", 4, 0),
            r"got image 1 and text 0 \(counted from 0\) in row 4 of train, and 1 of 30 pairs",
        ),
        (changed("train_imgs_deep", (7, 2), np.inf), "wikipedia_deep/train/image: vectors must be finite, got .* in row 7"),
        (changed("test_text", (8, 2), np.nan), "wikipedia_deep/test/text: vectors must be finite, got .* in row 2"),
    ],
)
def test_a_released_file_that_does_not_fit_is_refused_with_key_and_reason(place, small, broken, message):
    content = arrays(small("wikipedia_deep"))
    broken(content)
    write_h5(place("wikipedia_deep"), content)
    with pytest.raises(DataError, match=message):
        load_dataset("wikipedia_deep")


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ([0, 1], "2 of them, numbered 0 to 1"),
        ([0, 1, 2, 3], "4 of them, numbered 0 to 3"),
        ([0, 1, 3], "3 of them, numbered 0 to 3"),
    ],
)
def test_the_number_of_classes_is_a_fact(place, small, labels, got):
    content = arrays(small("xmedianet"))
    for key in [key for key in content if key.endswith("labels")]:
        content[key] = np.resize(labels, len(content[key]))
    write_h5(place("xmedianet"), content)
    with pytest.raises(DataError, match=f"labels must be of 3 classes, numbered without a gap, got {got}"):
        load_dataset("xmedianet")


def test_labels_may_be_columns_or_rows(place, small):
    content = arrays(small("wikipedia_deep"))
    content["train_imgs_labels"] = content["train_imgs_labels"][:, None]
    content["train_texts_labels"] = content["train_texts_labels"][None, :].astype(np.float64)
    write_h5(place("wikipedia_deep"), content)
    assert class_numbers(load_dataset("wikipedia_deep").train.modalities[1].labels).tolist() == [0, 1, 2] * 10


@pytest.mark.parametrize("name", [*RELEASED, "inria_websearch", "mirflickr25k"])
def test_a_damaged_file_is_told_from_a_missing_one(place, name):
    place(name).write_bytes(b"<html>404</html>" * 40)
    with pytest.raises(DataError, match=rf"{FILES[name]}: must be a whole (HDF5|\.mat|\.npz) file"):
        load_dataset(name)


# .mat


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mat_variable_is_what_scipy_reads(tmp_path, compressed):
    rng = np.random.default_rng(0)
    kinds = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
    content = {f"of_{kind}": rng.integers(0, 100, (3, 5)).astype(kind) for kind in kinds}
    content |= {
        "one": np.array([[7.0]]),
        "cube": rng.random((2, 3, 4)),
        "none": np.zeros((0, 3)),
        "flags": rng.random((2, 2)) > 0.5,
    }
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [[content["cube"], content["of_u1"]], [np.ones((1, 300)), np.zeros((0, 0))]]
    savemat(tmp_path / "x.mat", content | {"cells": cells}, do_compression=compressed)
    expected = loadmat(tmp_path / "x.mat")
    for name in content:
        got = mat_variable(tmp_path / "x.mat", name)
        assert (got.dtype, got.shape) == (expected[name].dtype, expected[name].shape), name
        assert np.array_equal(got, expected[name])
    got = mat_variable(tmp_path / "x.mat", "cells")
    assert got.shape == (2, 2)
    for place in np.ndindex(2, 2):
        assert np.array_equal(got[place], expected["cells"][place])


def inria(card, *, base=1, dtype=np.float32):
    content = {}
    for prefix, n in zip(("tr", "val", "te"), card.sizes.values(), strict=True):
        for key, width in (("img", card.widths["image"]), ("txt", card.widths["text"])):
            content[f"{prefix}_{key}"] = features(n, width, dtype)
            content[f"{prefix}_{key}_lab"] = (np.arange(n) % card.classes + base).astype(np.uint8)[:, None]
    return content


def test_inria_websearch_is_read_in_true_size(place):
    card = dataset_card("inria_websearch")
    savemat(place("inria_websearch"), inria(card))
    dataset = load_dataset("inria_websearch")
    assert sizes(dataset) == {"train": 9000, "valid": 1332, "test": 4366}
    for name, split in dataset.splits().items():
        n = card.sizes[name]
        for v, width in enumerate((4096, 1000)):
            last = split.modalities[v].vectors[np.array([n - 1])][0]
            assert (last[0], last[-1], len(last), np.count_nonzero(last)) == (n - 1, 1 - n, width, 2)
            assert np.array_equal(first_column(split, v), np.arange(n))
            assert np.array_equal(class_numbers(split.modalities[v].labels), np.arange(n) % 100)


def test_inria_text_may_have_any_width_and_the_rest_may_not(place, small):
    card = small("inria_websearch", widths={"image": 5, "text": 7})
    savemat(place("inria_websearch"), inria(replace(card, widths={"image": 5, "text": 9}), dtype=np.float64))
    assert load_dataset("inria_websearch").train.modalities[1].vectors.shape == (30, 9)
    for key, values, message in (
        (
            "te_txt",
            np.zeros((12, 8)),
            r"test must have the widths of train, {'image': 5, 'text': 9}, got {'image': 5, 'text': 8}",
        ),
        ("te_img", np.zeros((12, 8)), r"te_img must be \(12, 5\) numbers, got float64 \(12, 8\)"),
        ("val_txt", np.zeros((5, 9)), r"val_txt must be \(6, d\) numbers, got float64 \(5, 9\)"),
    ):
        savemat(place("inria_websearch"), inria(replace(card, widths={"image": 5, "text": 9})) | {key: values})
        with pytest.raises(DataError, match=message):
            load_dataset("inria_websearch")


def test_a_missing_variable_of_a_mat_file_names_those_there_are(place, small):
    content = inria(small("inria_websearch"))
    del content["val_txt_lab"]
    savemat(place("inria_websearch"), content)
    known = "te_img, te_img_lab, te_txt, te_txt_lab, tr_img, tr_img_lab, tr_txt, tr_txt_lab, val_img, val_img_lab, val_txt"
    with pytest.raises(DataError, match=f"must hold 'val_txt_lab', got the keys {known}$"):
        load_dataset("inria_websearch")


def test_a_mat_file_of_matlab_7_3_is_named_as_such(place):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    place("inria_websearch").write_bytes(header + bytes(512))
    with pytest.raises(DataError, match=r"must be a \.mat file of MATLAB 5 to 7\.2, got 7\.3; save it again with -v7"):
        load_dataset("inria_websearch")


def four_views(n_classes=200, base=1, views=4):
    content = {}
    for part, n in (("train", 400), ("valid", 200), ("test", 210)):
        content[part], content[f"{part}_labels"] = np.empty((1, views), object), np.empty((1, views), object)
        for v in range(views):
            content[part][0, v] = features(n, 3 + v, np.float64)
            content[f"{part}_labels"][0, v] = (np.arange(n) % n_classes + base).astype(np.float64)[None, :]
    return content


def test_xmedianet4_has_four_modalities_item_by_item_in_sizes_of_its_own(place):
    savemat(place("xmedianet4"), four_views())
    dataset = load_dataset("xmedianet4")
    assert sizes(dataset) == {"train": 400, "valid": 200, "test": 210}
    assert [m.name for m in dataset.train.modalities] == ["image", "text", "audio", "model"]
    assert [m.vectors.shape for m in dataset.tests["test"].modalities] == [(210, 3), (210, 4), (210, 5), (210, 6)]
    for v in range(4):
        assert np.array_equal(first_column(dataset.valid, v), np.arange(200))
        assert np.array_equal(class_numbers(dataset.train.modalities[v].labels), np.arange(400) % 200)
    assert dataset.train.pairs.shape == (400, 4)


def test_xmedianet4_refuses_other_cells_rows_labels_and_classes(place):
    def refused(content, message):
        savemat(place("xmedianet4"), content)
        with pytest.raises(DataError, match=message):
            load_dataset("xmedianet4")

    refused(four_views(views=5), r"train must be a 1 x 4 cell array, got object \(5,\)")
    refused(four_views() | {"valid_labels": np.zeros((1, 4))}, r"valid_labels must be a 1 x 4 cell array, got float64 \(4,\)")
    refused(four_views(n_classes=199), "labels must be of 200 classes, numbered without a gap, got 199 of them")
    content = four_views()
    content["test"][0, 2] = content["test"][0, 2][:-1]
    refused(content, r"test\{3\} must be \(210, d\) numbers, got float64 \(209, 5\)")
    content = four_views()
    content["test_labels"][0, 3][0, 5] = 1
    refused(content, "got image 5 and model 0 .counted from 0. in row 5 of test")


# Multi-label, the project's own format


def multilabel(c, dtype=np.bool_):
    content = {}
    for part, n in (("train", 120), ("valid", 40), ("test", 50)):
        content[f"{part}/image"], content[f"{part}/text"] = features(n, 6), features(n, 4)
        hot = np.zeros((n, c), dtype)
        hot[np.arange(n), np.arange(n) % c] = hot[np.arange(1, n), np.arange(1, n) * 7 % c] = 1
        content[f"{part}/labels"] = hot
    return content


@pytest.mark.parametrize(("name", "c"), MULTILABEL.items())
def test_multilabel_data_are_read_in_sizes_of_their_own(place, name, c):
    content = multilabel(c)
    np.savez(place(name), **content, class_names=[f"k{k}" for k in range(c)])
    dataset = load_dataset(name)
    assert dataset.card.multi_label
    assert sizes(dataset) == {"train": 120, "valid": 40, "test": 50}
    for part, split in dataset.splits().items():
        for v, key in enumerate(("image", "text")):
            assert np.array_equal(np.asarray(split.modalities[v].vectors), content[f"{part}/{key}"])
            assert np.array_equal(split.modalities[v].labels, content[f"{part}/labels"])
    assert dataset.class_names[-1] == f"k{c - 1}"
    assert dataset.train.modalities[0].labels.sum(axis=1).max() == 2


def test_nus_wide_multilabel_may_have_21_classes_and_labels_0_and_1(place):
    np.savez(place("nus_wide_multilabel"), **multilabel(21, np.uint8))
    dataset = load_dataset("nus_wide_multilabel", classes=21)
    assert (dataset.train.n_classes, dataset.card.classes, dataset.class_names) == (21, 21, ())
    assert dataset.train.modalities[0].labels.dtype == np.bool_
    with pytest.raises(DataError, match=r"train/labels must be \(n, 81\), one column per class, got uint8 \(120, 21\)"):
        load_dataset("nus_wide_multilabel")
    with pytest.raises(ValueError, match=r"nus_wide_multilabel\.classes must be 81 or 21, got 80"):
        load_dataset("nus_wide_multilabel", classes=80)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (without("valid/text"), "must hold 'valid/text', got the keys test/image, test/labels, "),
        (put("train/text", np.zeros((119, 4))), r"train/text must be \(120, d\) numbers, got float64 \(119, 4\)"),
        (put("test/text", np.zeros((50, 5))), "test must have the widths of train"),
        (put("train/labels", np.arange(120)), r"train/labels must be \(n, 24\), one column per class, got int64 \(120,\)"),
        (put("train/labels", np.full((120, 24), 2)), "train/labels must be True or False, got 2"),
        (put("class_names", ["a"]), "class_names must be 24 names, got 1"),
        (
            put("class_names", np.array(["a"] * 24, dtype=object)),
            r"must be a whole \.npz file of arrays \(class_names\.npy: Object arrays",
        ),
        (changed("valid/image", (3, 1), np.nan), "mirflickr25k/valid/image: vectors must be finite, got .* in row 3"),
    ],
)
def test_multilabel_data_that_do_not_fit_are_refused(place, broken, message):
    content = multilabel(24)
    broken(content)
    np.savez(place("mirflickr25k"), **content)
    with pytest.raises(DataError, match=message):
        load_dataset("mirflickr25k")


# Files that are not there


@pytest.mark.parametrize("name", [name for name in FILES if name != "wikipedia_deep"])
def test_a_restricted_file_that_is_missing_says_where_to_get_and_to_put_it(place, name):
    card = dataset_card(name)
    with pytest.raises(MissingDataError) as error:
        load_dataset(name)
    wanted = f"{name}: file {FILES[name]} is missing and has no public download; set XMBENCH_DATA to a folder that holds "
    assert str(error.value) == f"{wanted}{name}/{FILES[name]}; how to get it: {card.parcels[0].note}"
    assert "\n" not in str(error.value)
    assert not is_ready(card)
    place(name).write_bytes(b"")
    assert is_ready(card)


def test_the_one_public_file_is_downloaded_by_commit_and_not_compared_with_a_sum_that_nobody_knows(place, monkeypatch):
    card = dataset_card("wikipedia_deep")
    (parcel,) = card.parcels
    ((file, sha256),), (address,) = parcel.files.items(), parcel.urls
    assert (file, sha256) == (FILES["wikipedia_deep"], "")
    assert address.startswith("https://raw.githubusercontent.com/penghu-cs/MRL/914fdd7")
    assert address.endswith(f"/data/wiki/{file}")
    dead = replace(parcel, urls=("http://127.0.0.1:1/x",))
    monkeypatch.setattr("xmbench.datasets.wikipedia_deep.CARD", replace(card, parcels=(dead,)))
    with pytest.raises(
        MissingDataError, match=r"wikipedia_deep: wiki_deep\S+ cannot be downloaded from .*get it by hand and put"
    ):
        load_dataset("wikipedia_deep")
    assert not is_ready(card)
