"""Data of one's own: what is written equals what was given, a broken import leaves nothing, and what files are is told."""

import errno
import json
import re
import sys
import tracemalloc
import types
from dataclasses import make_dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from xmbench import datasets, load_dataset, load_results
from xmbench.datasets import _imported, synthetic
from xmbench.features import extraction
from xmbench.importing import Request, assembly, folders, import_data
from xmbench.importing.captions import read_captions
from xmbench.importing.care import listed
from xmbench.importing.doctor import examine
from xmbench.importing.findings import copies, row_hashes
from xmbench.importing.sources import open_source
from xmbench.importing.text import encoding
from xmbench.plan import cached_dataset
from xmbench.types import DataError, Modality, PairedSet, Rows, one_hot, split_sha

RNG = np.random.default_rng(0)
N = 60
IMAGE, TEXT = RNG.standard_normal((N, 5)).astype(np.float32), RNG.standard_normal((N, 4)).astype(np.float32)
CLASSES = np.arange(N) % 3
SPLIT = np.where(np.arange(N) < 40, "train", np.where(np.arange(N) < 48, "val", "test"))


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    """A data root of its own, and the working folder."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.save("img.npy", IMAGE)
    np.save("txt.npy", TEXT)
    table({"label": CLASSES, "split": SPLIT}, "labels.csv")
    yield tmp_path / "data"
    cached_dataset.cache_clear()


def table(columns, path, **options):
    pd.DataFrame(columns).to_csv(path, index=False, **options)


def imported(name="mine", **request):
    if not {"features", "images"} & set(request):
        request["features"] = {"image": ["img.npy"], "text": ["txt.npy"]}
    return import_data(Request(name=name, **request))


def refused(message, error=DataError, **request):
    """The import is refused with this message, and nothing is left of it."""
    with pytest.raises(error, match=message):
        imported(**request)
    assert _imported.folders() == {}
    hidden = Path("data", folders.HIDDEN)
    assert not hidden.exists() or [path for path in hidden.iterdir() if path.is_dir()] == []


def values(split, name):
    return np.asarray(next(m for m in split.modalities if m.name == name).vectors)


def picture(path, colour=0, size=(8, 6)):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, 255 - colour)).save(path)


# what is given is what is read


def save_as(kind, path, array, key="x"):
    """The array in a file of another kind, and what names it."""
    path = f"{path}.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez_compressed(path, **{key: array, "other": np.zeros((2, 2))})
        return f"{path}:{key}"
    elif kind == "mat":
        savemat(path, {key: array})
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset(f"a/{key}", data=array, compression="gzip")
    elif kind == "csv":
        table({f"f{i}": column for i, column in enumerate(array.T)}, path)
    elif kind == "tsv":
        pd.DataFrame(array).to_csv(path, sep="\t", header=False, index=False)
    elif kind == "columns.parquet":
        pd.DataFrame({f"f{i}": column for i, column in enumerate(array.T)}).to_parquet(path)
    else:
        pd.DataFrame({"id": range(len(array)), "embedding": list(array)}).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "h5", "csv", "tsv", "columns.parquet", "lists.parquet"])
def test_every_kind_of_file_gives_back_its_numbers(kind):
    facts = imported(features={"image": [save_as(kind, "i", IMAGE)], "text": [save_as(kind, "t", TEXT)]}, labels=["labels.csv"])
    data = load_dataset("mine")
    for split, rows in (("train", slice(0, 40)), ("valid", slice(40, 48)), ("test", slice(48, N))):
        part = data.splits()[split]
        np.testing.assert_allclose(values(part, "image"), IMAGE[rows], rtol=1e-6)
        np.testing.assert_allclose(values(part, "text"), TEXT[rows], rtol=1e-6)
        assert np.array_equal(part.modalities[0].labels, one_hot(CLASSES[rows], 3))
        assert part.pairs.tolist() == [[i, i] for i in range(len(part.pairs))]
    assert data.class_names == ("0", "1", "2")
    assert facts["splits"] == {"train": "40 pairs", "valid": "8 pairs", "test": "12 pairs"}
    assert isinstance(data.train.modalities[0].vectors._data.base, np.memmap), "memory-mapped"


def test_a_matrix_of_matlab_73_is_turned():
    with h5py.File("x.mat", "w") as file:
        file["x"] = IMAGE.T
    assert np.array_equal(np.concatenate(list(open_source("x.mat").blocks())), IMAGE)


def test_half_precision_and_sequences_are_kept_and_a_column_that_numbers_rows_is_not():
    regions = RNG.standard_normal((N, 3, 2)).astype(np.float16)
    np.save("regions.npy", regions)
    pd.DataFrame(TEXT).to_csv("txt.csv")  # pandas writes the row numbers, in a column without a name
    imported(features={"image": ["img.npy", "regions.npy"], "text": ["txt.csv"]}, labels=["labels.csv"])
    train = load_dataset("mine").train
    assert np.array_equal(np.asarray(train.modalities[0].sequences), regions[:40].astype(np.float32))
    assert np.load("data/mine/image.sequences.npy").dtype == np.float16
    assert values(train, "text").shape == (40, 4)


def test_four_modalities_and_files_per_split():
    for name in "abcd":
        np.save(f"{name}_train.npy", IMAGE[:50])
        np.save(f"{name}_test.npy", IMAGE[50:] + 1)
    facts = imported(features={name: [f"{name}_train.npy", f"{name}_test.npy"] for name in "abcd"})
    assert "names of the files" in facts["split"]
    assert "valid drawn from train" in facts["split"]
    data = load_dataset("mine")
    assert [m.name for m in data.train.modalities] == list("abcd")
    assert [len(part.pairs) for part in data.splits().values()] == [45, 5, 10]
    assert np.array_equal(values(data.tests["test"], "d"), IMAGE[50:] + 1)


def test_where_no_split_is_told_one_is_drawn_that_divides_every_class():
    table({"label": ["a"] * 40 + ["b"] * 19 + ["c"]}, "l.csv")
    first = imported(labels=["l.csv"])
    data = load_dataset("mine")
    assert [m.labels.sum(axis=0).tolist() for m in (part.modalities[0] for part in data.splits().values())] == [
        [32, 15, 1],
        [4, 2, 0],
        [4, 2, 0],
    ]
    assert "seed 0" in first["split"]
    assert "1 classes have one item only, such as 'c'" in str(first["notes"])
    imported("again", labels=["l.csv"])
    assert split_sha(load_dataset("again").train) == split_sha(data.train)


def test_several_labels_per_item_and_none():
    table({"label": ["cat; dog", "", "dog"] * 20, "split": SPLIT}, "l.csv")
    facts = imported(labels=["l.csv"])
    labels = load_dataset("mine").train.modalities[1].labels
    assert labels[:3].tolist() == [[True, True], [False, False], [False, True]]
    assert datasets.dataset_card("mine").multi_label
    assert "20 of 60 items are unlabelled" in str(facts["notes"])
    table({"cat": [1, 0, 0] * 20, "dog": [1, 0, 1] * 20, "split": SPLIT}, "flags.csv")
    np.save("flags.npy", np.array([[1, 1], [0, 0], [0, 1]] * 20))
    for name, file in (("flags", "flags.csv"), ("array", "flags.npy")):
        imported(name, labels=[file])
    assert np.array_equal(load_dataset("flags").train.modalities[0].labels, labels)
    assert np.load("data/array/image.labels.npy")[:3].tolist() == labels[:3].tolist()


def test_pairs_of_a_file_may_be_any_and_rows_without_one_are_in_no_split():
    table(
        {"text": [3, 4, 5, 6, 7], "image": [0, 0, 1, 2, 3], "split": ["train", "train", "dev", "test", "test:other"]}, "p.csv"
    )
    facts = imported(pairs="p.csv")
    data = load_dataset("mine")
    assert np.array_equal(values(data.train, "image"), IMAGE[:1])
    assert np.array_equal(values(data.train, "text"), TEXT[3:5])
    assert data.train.pairs.tolist() == [[0, 0], [0, 1]]
    assert np.array_equal(values(data.tests["test:other"], "text"), TEXT[7:8])
    assert "56 of 60 rows of image are in no pair" in str(facts["notes"])


CAPTIONS = [f"a dog runs and number {i} plays" for i in range(10)]  # of five images, two each


def caption_file(layout):
    """Ten captions in one of the layouts; returns its name."""
    names = [f"im{i // 2}.png" for i in range(10)]
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    if layout == "lines":
        Path("c.txt").write_text("\n".join(CAPTIONS) + "\n")
    elif layout == "flickr":
        Path("c.txt").write_text("".join(f"{n}#{i % 2}\t{c}\n" for i, (n, c) in enumerate(zip(names, CAPTIONS, strict=True))))
    elif layout == "csv":
        table({"image": names, "caption": [f'{c}, "quoted"' for c in CAPTIONS], "split": splits}, "c.csv")
        return "c.csv"
    elif layout == "bars":
        rows = [f"{n}| {i % 2}| {c}" for i, (n, c) in enumerate(zip(names, CAPTIONS, strict=True))]
        Path("c.csv").write_text("\n".join(["image_name| comment_number| comment", *rows]))
        return "c.csv"
    elif layout == "json lines":
        lines = [json.dumps({"file_name": n, "captions": CAPTIONS[2 * i : 2 * i + 2]}) for i, n in enumerate(names[::2])]
        Path("c.jsonl").write_text("\n".join(lines))
        return "c.jsonl"
    elif layout == "coco":
        images = [{"id": 7 * i, "file_name": f"im{i}.png"} for i in range(5)]
        rows = [{"image_id": 7 * (i // 2), "caption": c} for i, c in enumerate(CAPTIONS)][::-1]
        Path("c.json").write_text(json.dumps({"images": images, "annotations": rows[1::2] + rows[::2]}))
        return "c.json"
    else:
        images = [
            {"filename": f"im{i}.png", "split": splits[2 * i].replace("train", "restval"),
             "sentences": [{"raw": c} for c in CAPTIONS[2 * i : 2 * i + 2]]}
            for i in range(5)
        ]  # fmt: skip
        Path("c.json").write_text(json.dumps({"images": images}))
        return "c.json"
    return "c.txt"


@pytest.mark.filterwarnings("ignore:.*unknown words")
@pytest.mark.parametrize("layout", ["lines", "flickr", "csv", "bars", "json lines", "coco", "karpathy"])
def test_captions_in_every_layout_belong_to_their_images(layout):
    np.save("five.npy", IMAGE[:5])
    facts = imported(features={"image": ["five.npy"]}, captions=[caption_file(layout)])
    data = load_dataset("mine")
    seen = {}
    for part in data.splits().values():
        image, text = part.modalities
        for i, t in part.pairs:
            row = int(np.flatnonzero((IMAGE[:5] == np.asarray(image.vectors[np.array([i])])).all(axis=1))[0])
            seen.setdefault(row, []).append([text.vocabulary[word] for word in text.tokens[t, 1 : text.lengths[t] - 1]])
    assert {row: len(texts) for row, texts in seen.items()} == dict.fromkeys(range(5), 2)
    assert seen[0][0][:4] == ["a", "dog", "runs", "and"]
    assert facts["pairs per image"] == {"least": 2, "most": 2, "mean": 2.0}
    if layout in ("csv", "karpathy"):
        assert [len(part.pairs) for part in data.splits().values()] == [6, 2, 2]
        assert listed()[0]["pairs"] == "6/2/2"


def test_images_and_captions_alone_wait_for_features(xmbench, capsys):
    for i in range(5):
        picture(f"pics/im{i}.png", 40 * i)
    facts = imported(images="pics", captions=[caption_file("coco")])
    assert "features extract mine" in facts["next"]
    listing = pd.read_csv("data/mine/image.files.csv")
    assert listing["path"].tolist() == [f"im{i}.png" for i in range(5)]
    assert (listing["width"], listing["height"])[0].tolist() == [8] * 5
    done = xmbench("run", "--methods", "vse", "--dataset", "mine", "--dry-run")
    assert (done.code, "features of its images are missing" in done.err) == (5, True)
    assert not datasets.is_ready(datasets.dataset_card("mine"))
    with pytest.raises(datasets.MissingDataError, match=r"features of its images are missing.*features extract mine"):
        load_dataset("mine")


def test_a_folder_per_class_labels_images_and_the_texts_beside_them():
    for split, n in (("train", 6), ("test", 4)):
        for i in range(n):
            stem = f"pics/{split}/{'cat' if i % 2 else 'dog'}/{i}"
            picture(f"{stem}.png", 20 * i + len(split))
            Path(f"{stem}.txt").write_text(f"one {i}\ntwo\n")
    np.save("ten.npy", IMAGE[:10])
    facts = imported(images="pics", features={"image": ["ten.npy"]})
    data = load_dataset("mine")
    assert data.class_names == ("cat", "dog")
    assert facts["classes"] == 2
    assert "folders of image" in facts["split"]
    assert len(data.tests["test"].modalities[0]) == 4
    assert data.tests["test"].modalities[1].labels.sum(axis=0).tolist() == [4, 4]
    assert data.tests["test"].modalities[0].item_ids[0] == "test/cat/1.png"


def test_labels_find_their_images_by_name_with_their_splits():
    for i in range(6):
        picture(f"pics/im{i}.png", 40 * i)
    np.save("six.npy", IMAGE[:6])
    rows = [(f"im{i}.png", f"class {i % 2}", "test" if i > 3 else "train") for i in (3, 5, 0, 2, 4, 1)]
    table(dict(zip(("image", "label", "split"), zip(*rows, strict=True), strict=True)), "l.csv")
    Path("c.txt").write_text("a dog\n" * 6)
    imported(images="pics", features={"image": ["six.npy"]}, labels=["l.csv"], captions=["c.txt"])
    test = load_dataset("mine").tests["test"].modalities[0]
    assert (test.item_ids.tolist(), test.labels.argmax(axis=1).tolist()) == (["im4.png", "im5.png"], [0, 1])
    table({"image": ["im0.png"] * 6, "label": [1, 2] * 3}, "l.csv")
    with pytest.raises(
        DataError, match=r"every item of image once, got 5 names twice, and no label of 5 items, such as im1\.png"
    ):
        imported("again", images="pics", features={"image": ["six.npy"]}, labels=["l.csv"], captions=["c.txt"])
    table({"image": [f"im{i}.png" for i in (0, 0, 1, 2, 3, 4, 5)], "label": [1, 2, 1, 2, 1, 2, 1]}, "l.csv")
    with pytest.raises(DataError, match=r"every item of image once, got 1 names twice$"):
        imported("again", images="pics", features={"image": ["six.npy"]}, labels=["l.csv"], captions=["c.txt"])


def six_pictures(broken=(0, 2, 4)):
    """Six of which some have no bytes, and the features of the others."""
    for i in range(6):
        picture(f"pics/p{i:02}.png", 40 * i)
        if i in broken:
            Path(f"pics/p{i:02}.png").write_bytes(b"")
    whole = [i for i in range(6) if i not in broken]
    np.save("whole.npy", IMAGE[whole])
    return {"images": "pics", "features": {"image": ["whole.npy"]}, "skip_broken": True}


def captions_of_pictures():
    """Name -> captions of the imported pictures."""
    names, texts = np.load("data/mine/image.ids.npy"), json.loads(Path("data/mine/text.captions.json").read_text())
    found = {}
    for image, text in np.load("data/mine/pairs.npy"):
        found.setdefault(str(names[image]), []).append(texts[text])
    return found


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.filterwarnings("ignore:.*unknown words")
def test_captions_and_labels_of_broken_images_are_left_out_with_them(named):
    rows = [(f"p{i // 2:02}.png", f"picture {i // 2} caption {i % 2}", ["train", "val", "test"][i // 4]) for i in range(12)]
    if named:
        table(dict(zip(("image", "caption", "split"), zip(*rows, strict=True), strict=True)), "c.csv")
    else:
        Path("c.csv").write_text("".join(f"{caption}\n" for _, caption, _ in rows))
    numbered = {"id": range(6)} if named else {}
    table({**numbered, "label": list("xyxxyx"), "split": ["train"] * 2 + ["val"] * 2 + ["test"] * 2}, "l.csv")
    facts = imported(**six_pictures(), captions=["c.csv"], labels=["l.csv"])
    assert captions_of_pictures() == {f"p0{i}.png": [f"picture {i} caption 0", f"picture {i} caption 1"] for i in (1, 3, 5)}
    assert "left out: 6 captions of broken images" in facts["notes"].values()
    assert np.load("data/mine/image.labels.npy").tolist() == [1, 0, 0], "of xyxxyx those of p01, p03 and p05"
    assert np.load("data/mine/split.npy").tolist() == [0, 0, 1, 1, 2, 2]


def test_a_first_extraction_tells_equal_images_from_kept_ones(monkeypatch):
    six_pictures(broken=())
    picture("pics/p05.png", 0)
    Path("c.txt").write_text("a dog\n" * 6)
    imported(images="pics", captions=["c.txt"])
    extractor = types.SimpleNamespace(
        kinds={"vectors": (2,)},
        recipe={"versions": {}},
        prepare=str,
        compute=lambda batch: {"vectors": IMAGE[: len(batch), :2]},
    )
    monkeypatch.setattr(extraction, "open_extractor", lambda _: extractor)
    facts = extraction.extract(extraction.Extraction(name="mine"))
    assert facts["image"].endswith("; 5 computed, 1 kept or equal to another")


def test_rows_that_may_be_counted_with_broken_images_are_refused():
    request = six_pictures()
    Path("c.txt").write_text("a dog\n" * 7)
    refused("a whole number of times all images, broken ones too, got 7 for 6; name", **request, captions=["c.txt"])
    np.save("six.npy", TEXT[:6])
    request["features"]["text"] = ["six.npy"]
    refused(r"text: rows must be of the images that are whole, 3, got 6 as of all 6, broken ones too", **request)


@pytest.mark.filterwarnings("ignore:.*unknown words")
def test_captions_of_images_that_are_not_there_are_left_out_on_request():
    lines = [f"{name}#{i}\tdog {name} {i}\n" for name in [*(f"p0{i}.png" for i in range(6)), "gone.png.1"] for i in (0, 1)]
    Path("c.token").write_text("".join(lines))
    request = six_pictures(broken=())
    advice = "got 'gone.png.1', 1 unknown ones; drop them, or leave them out by --skip-broken"
    refused(advice, **{**request, "skip_broken": False}, captions=["c.token"])
    facts = imported(**request, captions=["c.token"])
    assert captions_of_pictures() == {f"p0{i}.png": [f"dog p0{i}.png 0", f"dog p0{i}.png 1"] for i in range(6)}
    assert "left out: 2 captions of 1 images that are not there, such as 'gone.png.1'" in facts["notes"].values()


@pytest.mark.parametrize("index", [True, False])
def test_a_header_of_numbers_is_no_item(index):
    pd.DataFrame(IMAGE).to_csv("i.csv", index=index)
    pd.DataFrame(TEXT).to_csv("t.csv", index=index)
    imported(features={"image": ["i.csv"], "text": ["t.csv"]})
    np.testing.assert_allclose(np.load("data/mine/image.vectors.npy"), IMAGE, rtol=1e-6)
    np.testing.assert_allclose(np.load("data/mine/text.vectors.npy"), TEXT, rtol=1e-6)


@pytest.mark.parametrize(
    ("cell", "message"),
    [("red", "column 2 must be numbers, got 'red' in line 1;"), ("", "finite, got NaN or infinity in row 0")],
)
def test_a_first_row_with_one_bad_cell_is_no_header(cell, message):
    rows = IMAGE.astype(str)
    rows[0, 1] = cell
    pd.DataFrame(rows).to_csv("x.csv", header=False, index=False)
    refused(message, features={"image": ["x.csv"], "text": ["txt.npy"]})


def test_class_numbers_that_are_floats_in_one_file_are_the_same_classes():
    table({"label": CLASSES[:40] - 1}, "train.csv")
    table({"label": CLASSES[40:] - 1.0}, "test.csv")
    imported(labels=["train.csv", "test.csv"])
    assert load_dataset("mine").class_names == ("0", "1")
    assert np.load("data/mine/image.labels.npy").tolist() == (CLASSES - 1).tolist()


@pytest.mark.parametrize("text", ["a dog\nun caf\u00e9", "a \u72ac\nun caf\u00e9"])
def test_texts_that_end_in_an_accent_or_are_utf_16_are_read(text):
    wide = "\u72ac" in text
    Path("c.txt").write_bytes(text.encode("utf-16" if wide else "latin-1"))
    found = read_captions(["c.txt"])
    assert found.texts == text.splitlines()
    assert encoding(Path("c.txt")) == (("utf-16", 0) if wide else ("latin-1", 2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "picture,words\n1.png,a dog\n", "must have the columns image and caption, got picture, words; name them so"),
        ("c.csv", "image,caption\n1.png,a dog, a cat\n", "line 2: must have 2 cells, got 3; quote captions that hold commas$"),
        ("c.csv", "image,caption\n1.png\n", "line 2: must have 2 cells, got 1$"),
        ("c.tsv", "image\tcaption\n1.png\ta dog\ta, b\n", "line 2: must have 2 cells, got 3$"),
    ],
)
def test_tables_of_captions_that_cannot_be_used(name, content, message):
    Path(name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_captions([name])


def test_captions_in_one_column_without_a_name_are_lines():
    Path("c.csv").write_text("a dog\na cat, and more\n")
    assert read_captions(["c.csv"]).texts == ["a dog", "a cat, and more"]


# an imported dataset is as good as any other


def plugged_in(monkeypatch, name, data):
    """A plug-in dataset that returns `data`."""
    module = types.ModuleType("plugged_in")
    module.CARD, module.Parameters = replace(synthetic.CARD, name=name), make_dataclass("Parameters", [])
    module.load = lambda parameters: data
    monkeypatch.setitem(sys.modules, "plugged_in", module)
    known = datasets._modules()
    monkeypatch.setattr(datasets, "_modules", lambda: {**known, name: "plugged_in"})


def scores(store, dataset):
    rows = load_results(store).query("dataset == @dataset and status == 'ok'")
    keys = ["method", "noise_rate", "split", "selection", "direction", "metric", "network"]
    return rows.set_index(keys)["value"].sort_index()


def words_of(numbers, vocabulary):
    """Captions of ten words, looked up one by one."""
    known = {word: i for i, word in enumerate(vocabulary)}
    rows = [["<start>", *CAPTIONS[i].split(), "<end>"] for i in numbers]
    return np.array([[known.get(word, known["<unk>"]) for word in row] for row in rows])


@pytest.mark.filterwarnings("ignore:.*unknown words")
@pytest.mark.parametrize("methods", ["ce,cca", "vse,pls"])
def test_runs_equal_those_on_the_same_arrays_as_a_plug_in(xmbench, monkeypatch, methods):
    """Of ce and cca, rows with labels that belong together; of vse and pls, regions and words, two captions per image."""
    k, labelled = (1, True) if methods == "ce,cca" else (2, False)
    n = N if labelled else 10
    split = np.repeat(SPLIT[::k], k) if labelled else np.repeat(["train", "val", "test"], [6, 2, 2])
    regions = RNG.standard_normal((n // k, 3, 5)).astype(np.float16)
    np.save("images.npy", IMAGE[: n // k])
    np.save("texts.npy", TEXT[:n])
    np.save("regions.npy", regions)
    table({"image": np.arange(n) // k, "text": np.arange(n), "split": split}, "p.csv")
    options = (
        ["--labels", "labels.csv"] if labelled else ["--captions", caption_file("lines"), "--features", "image=regions.npy"]
    )
    features = ["--features", "image=images.npy", "--features", "text=texts.npy"]
    done = xmbench("data", "import", "mine", *features, "--pairs", "p.csv", *options, "--format", "json")
    assert done.code == 0, done.err
    mine, parts = load_dataset("mine"), {}
    for name in ("train", "val", "test"):
        texts = np.flatnonzero(split == name)
        images = np.unique(texts // k)
        first = Modality(
            name="image",
            vectors=Rows(IMAGE[images]),
            sequences=None if labelled else Rows(regions[images]),
            labels=one_hot(CLASSES[images], 3) if labelled else None,
        )
        vocabulary = mine.train.modalities[1].vocabulary
        tokens = {} if labelled else {"tokens": words_of(texts, vocabulary), "lengths": np.full(len(texts), 9)}
        labels = one_hot(CLASSES[texts], 3) if labelled else None
        second = Modality(name="text", vectors=Rows(TEXT[texts]), labels=labels, vocabulary=vocabulary, **tokens)
        pairs = np.stack([np.arange(len(texts)) // k, np.arange(len(texts))], axis=1)
        parts[name] = PairedSet(modalities=(first, second), pairs=pairs)
    tests = {"test": parts["test"]}
    other = replace(mine, name="other", parameters={}, train=parts["train"], valid=parts["val"], tests=tests)
    plugged_in(monkeypatch, "other", other)  # its family is the imported dataset's, so that both have the same noise
    small = {"ce": {"epochs": 2, "dim": 8, "hidden": 8}, "vse": {"epochs": 1, "dim": 8, "word_dim": 8}}
    settings = [f"--set={name}.{key}={n}" for name in methods.split(",") for key, n in small.get(name, {}).items()]
    noise = "symmetric" if labelled else "caption_shuffle"
    command = ["run", "--methods", methods, "--dataset", "mine,other", "--noise", noise, "--rates", "0.4", "--seeds", "1"]
    done = xmbench(*command, "--jobs", "1", *settings)
    assert done.code == 0, done.err
    found, expected = scores("results", "mine"), scores("results", "other")
    assert set(found.index.get_level_values("method")) == set(methods.split(","))
    pd.testing.assert_series_equal(found, expected, check_exact=True)


def test_it_is_listed_described_twinned_corrupted_and_removed(xmbench):
    imported(labels=["labels.csv"])
    assert "mine" in [row["name"] for row in xmbench("list", "datasets", "--format", "json").json]
    assert xmbench("info", "mine", "--format", "json").json["sizes"] == {"train": 40, "valid": 8, "test": 12}
    assert xmbench("data", "info", "mine", "--format", "json").json["import"]["files"] == ["img.npy", "txt.npy", "labels.csv"]
    assert [row["state"] for row in xmbench("data", "list", "--format", "json").json] == ["ready"]
    assert xmbench("noise", "make", "n.json", "--dataset", "mine", "--rate", "0.5").code == 0
    assert load_dataset("synthetic_mine").train.n_classes == 3
    assert xmbench("data", "remove", "mine").code == 0
    assert "mine" not in datasets.dataset_names()
    assert Path("img.npy").exists()
    assert xmbench("data", "info", "mine").code == 2


def test_other_files_under_the_same_name_are_another_version():
    imported(labels=["labels.csv"])
    first = datasets.dataset_parameters("mine")
    folders.remove("mine")
    np.save("img.npy", IMAGE + 1)
    imported(labels=["labels.csv"])
    assert datasets.dataset_parameters("mine") != first
    with pytest.raises(ValueError, match=r"mine\.version must be that of the files"):
        load_dataset("mine", **first)


def test_verify_finds_one_changed_byte_and_loading_a_missing_one(xmbench):
    imported(labels=["labels.csv"])
    path = Path("data/mine/text.vectors.npy")
    content = bytearray(path.read_bytes())
    assert xmbench("data", "verify", "mine").code == 0
    content[-1] ^= 1
    path.write_bytes(content)
    done = xmbench("data", "verify", "mine", "--format", "json")
    assert (done.code, done.json["text.vectors.npy"]) == (5, "another content than was imported")
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"text\.vectors\.npy: must have \d+,?\d* bytes, got"):
        load_dataset("mine")


def test_a_damaged_card_harms_no_other_dataset(xmbench):
    imported(labels=["labels.csv"])
    Path("data/broken").mkdir()
    Path("data/broken/card.toml").write_text("layout = ")
    assert "mine" in datasets.dataset_names()
    assert xmbench("list", "datasets").code == 0
    assert "damaged" in xmbench("data", "list").out
    with pytest.raises(DataError, match="the card of an imported dataset"):
        load_dataset("broken")


# what is told of data


def test_copies_in_two_splits_are_counted_and_the_first_named():
    image = IMAGE.copy()
    image[50], image[51], image[1] = image[0], image[0], image[2]  # test = train, twice; and within train
    np.save("img.npy", image)
    facts = imported(labels=["labels.csv"])
    expected = "3 rows have a copy in another split (row 0 in train = row 50 in test); 1 further copies within a split"
    assert facts["copies"] == {"image": expected, "text": "none across splits"}


def test_hashes_of_rows_differ_where_the_rows_do():
    rows = RNG.integers(0, 4, (20000, 6)).astype(np.float16)
    distinct = len(np.unique(rows, axis=0))
    assert len(np.unique(row_hashes(rows))) == distinct
    n, within, _ = copies(row_hashes(rows), np.zeros(20000, dtype=np.int32), ["train"])
    assert (n, within) == (0, 20000 - distinct)


# bad input


def test_a_label_file_shorter_than_the_features():
    table({"label": CLASSES[:-1]}, "l.csv")
    refused(r"l\.csv: must hold a label for each item, 60 \(image\) or 60 \(text\), got 59", labels=["l.csv"])


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda: np.save("x.npy", np.array([1, "a"], dtype=object)), "x.npy: must be an array of numbers, got objects"),
        (lambda: np.save("x.npy", np.full((N, 2), "a")), "features must be real numbers, got <U1"),
        (lambda: np.save("x.npy", np.zeros((N, 2), dtype=complex)), "features must be real numbers, got complex"),
        (lambda: np.save("x.npy", np.zeros(N)), r"features must be \(n, d\), or \(n, L, d\), got \(60,\)"),
        (lambda: np.save("x.npy", np.zeros((0, 2))), "features must have rows, got none"),
        (lambda: np.save("x.npy", np.where(np.arange(N)[:, None] == 7, np.nan, IMAGE)), "got NaN or infinity in row 7"),
        (lambda: np.save("x.npy", IMAGE.astype(np.float64) * 1e300), "a number beyond float32 in row 0"),
        (lambda: Path("x.npy").write_bytes(b""), "must hold numbers, got an empty file"),
        (lambda: Path("x.npy").write_bytes(b"\x93NUMPY"), "must be a whole .npy file of numbers"),
        (lambda: np.save("x.npy", IMAGE[:59]), "where the counts divide, got 59 of image, 60 of text"),
    ],
)
def test_features_that_cannot_be_used(save, message):
    save()
    refused(message, features={"image": ["x.npy"], "text": ["txt.npy"]})


def test_a_column_that_is_not_numeric_is_named_with_its_line():
    frame = pd.DataFrame(IMAGE, columns=list("abcde")).astype(object)
    frame.loc[20000 % N, "c"] = "red"
    pd.concat([pd.DataFrame(np.zeros((20000 - 20000 % N, 5)), columns=list("abcde")), frame]).to_csv("x.csv", index=False)
    refused("x.csv: column 'c' must be numbers, got 'red' in line 20002", features={"image": ["x.csv"], "text": ["txt.npy"]})


def test_a_file_with_several_arrays_wants_a_key():
    np.savez("x.npz", a=IMAGE, b=IMAGE)
    refused(r"must hold one array of numbers, got a, b; name the array", features={"image": ["x.npz"], "text": ["txt.npy"]})
    refused(r"must hold 'c', got a, b", features={"image": ["x.npz:c"], "text": ["txt.npy"]})
    refused("no file y.npz", FileNotFoundError, features={"image": ["y.npz"], "text": ["txt.npy"]})
    Path("x.pkl").write_bytes(b"\x80\x04N.")
    refused("xmbench data convert x.pkl", features={"image": ["x.pkl"], "text": ["txt.npy"]})
    refused("two modalities or more, got image", ValueError, features={"image": ["img.npy"]})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image": [0, 60], "text": [0, 1]}, r"line 3: a row of image must lie in 0..59, got 60; 1 pairs are out of range"),
        ({"image": [0, 1, 0], "text": [0, 1, 0]}, r"pairs must differ, got \[0, 0\] in line 2 and line 4, 1 such"),
        ({"image": [0, "x"], "text": [0, 1]}, "line 3: image must be a row, counted from 0, got 'x'"),
        ({"image": [0, 1]}, "must have the columns image, text, and optionally split, got image"),
        ({"image": [0, 1], "text": [0, 1], "split": ["train", "holdout"]}, "a split must be train, valid .* got 'holdout'"),
        ({"image": [0, 1, 0], "text": [0, 1, 2], "split": ["train", "valid", "test"]}, "row 0 of image in train and test"),
        ({"image": [0, 1], "text": [0, 1], "split": ["train", "valid"]}, "needs a train and a test split, got train, valid"),
    ],
)
def test_pairs_that_cannot_be_used(rows, message):
    table(rows, "p.csv")
    refused(message, pairs="p.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [("wikipedia", "name of a dataset"), ("mrl", "name of a method"), ("noise", "part of a run"), ("Mine", "small letters"),
     ("../mine", "small letters"), ("synthetic_x", "not begin with synthetic_"), ("taken", "taken exists and is no imported")],
)  # fmt: skip
def test_a_name_that_cannot_be_had(name, message, root):
    (root / "taken").mkdir(parents=True)
    refused(message, ValueError, name=name)


def test_a_name_that_was_imported_is_taken():
    imported(labels=["labels.csv"])
    with pytest.raises(ValueError, match=r"'mine' is imported already.*xmbench data remove mine"):
        imported(labels=["labels.csv"])
    assert len(load_dataset("mine").train.pairs) == 40


def test_captions_in_latin_1_are_read_as_such_and_told():
    np.save("five.npy", IMAGE[:5])
    Path("c.txt").write_bytes(("a dog\n" * 9 + "un café café café café\n").encode("latin-1"))
    facts = imported(features={"image": ["five.npy"]}, captions=["c.txt"])
    assert re.search(r"c\.txt is not UTF-8 \(first in line 10\): read as Latin-1", str(facts["notes"]))


def test_broken_images_are_listed_and_left_out_on_request():
    for i in range(12):
        picture(f"pics/im{i:02}.png", 20 * i)
    Path("pics/im03.png").write_bytes(b"")
    whole = Path("pics/im05.png").read_bytes()
    Path("pics/im05.png").write_bytes(whole[: len(whole) // 2])
    Path("c.csv").write_text("image,caption\n" + "".join(f"im{i:02}.png,a dog\n" for i in range(12) if i not in (3, 5)))
    refused(r"2 of 12 images are broken \(im03\.png: empty file; im05\.png: .*--skip-broken", images="pics", captions=["c.csv"])
    facts = imported(images="pics", captions=["c.csv"], skip_broken=True)
    assert facts["modalities"]["image"] == "10, without features"
    assert [note.partition(": ")[2].partition(":")[0] for note in facts["notes"].values()][:2] == ["im03.png", "im05.png"]


def test_an_archive_is_not_unpacked():
    import zipfile

    with zipfile.ZipFile("pics.zip", "w") as archive:
        archive.writestr("../escaped.png", b"x")
    refused("must be a folder, got an archive; unpack it first", NotADirectoryError, images="pics.zip")
    assert not Path("../escaped.png").exists()


# whole or not at all


def test_an_interrupted_import_leaves_nothing(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(assembly, "_card", interrupt)
    refused(None, KeyboardInterrupt, labels=["labels.csv"])


def test_what_a_killed_import_has_left_is_never_seen_and_removed_by_the_next(python):
    code = (
        "import os; from xmbench.importing import Request, assembly, import_data; assembly._card = lambda *_: os._exit(9); "
        "import_data(Request(name='killed', features={'image': ['img.npy'], 'text': ['txt.npy']}))"
    )
    assert python("-c", code).returncode == 9
    left = Path("data", folders.HIDDEN, "killed")
    assert (left / "image.vectors.npy").exists()
    assert "killed" not in datasets.dataset_names()
    imported(labels=["labels.csv"])
    assert not left.exists()


def test_a_full_disk_is_told_and_nothing_is_left(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(assembly, "save", full)
    refused(
        r"no space left for the import in .*data \(\d+\.\d GB free\); nothing of it was kept", OSError, labels=["labels.csv"]
    )


@pytest.mark.parametrize("where", ["/proc/x", "/proc/x/y", "img.npy", "img.npy/below"])
def test_a_data_root_that_cannot_be_is_told(monkeypatch, where):
    monkeypatch.setenv("XMBENCH_DATA", where)
    with pytest.raises(OSError, match=rf"^{where} cannot be written to \(.*\); set XMBENCH_DATA to a folder that can"):
        imported()


def test_two_imports_of_one_name_do_not_meet():
    with folders.new_folder("mine"), pytest.raises(ValueError, match="another import of 'mine' is under way"):
        imported(labels=["labels.csv"])
    assert Path("data/mine").is_dir()


def test_features_are_never_in_memory_as_a_whole():
    shape, rows = (20000, 500), np.arange(20000)
    with h5py.File("large.h5", "w") as file:
        file["x"] = np.zeros(shape, dtype=np.float32)
    large = np.lib.format.open_memmap("large.npy", "w+", np.float32, shape)
    large[:, 0] = rows
    large.flush()
    tracemalloc.start()
    imported(features={"image": ["large.npy"], "text": ["large.h5"]})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6, "two files of 40 MB each, and blocks of 4 MB"
    assert np.array_equal(np.load("data/mine/image.vectors.npy", mmap_mode="r")[:, 0], rows)


# the doctor


def test_files_of_the_papers_are_told_by_what_is_in_them():
    with h5py.File("unknown.h5", "w") as file:
        for split, n in (("train", 2173), ("test", 693)):
            file[f"{split}_imgs_deep"], file[f"{split}_text"] = np.zeros((n, 4), np.float32), np.zeros((n, 3), np.float32)
            file[f"{split}_imgs_labels"] = file[f"{split}_texts_labels"] = np.arange(n) % 10
    assert examine(Path("unknown.h5"))["dataset"] == "wikipedia_deep"
    savemat("some.mat", {"tr_img": np.zeros((9000, 2)), "tr_txt": np.zeros((9000, 2)), "tr_img_lab": np.ones((9000, 1))})
    found = examine(Path("some.mat"))
    assert (found["dataset"], found["put it at"]) == ("inria_websearch", "XMBENCH_DATA/inria_websearch/INRIA-Websearch.mat")
    index = np.arange(29000)
    index[:100] = np.roll(index[:100], 1)
    np.save("noise.npy", index.repeat(5))
    found = examine(Path("noise.npy"))
    assert (found["dataset"], "image_shuffle" in found["what"]) == ("f30k_precomp", True)
    Path("n.json").write_text(json.dumps([[1] * 42941, [2] * 42941]))
    assert examine(Path("n.json"))["dataset"] == "nus_wide"
    Path("v.json").write_text(json.dumps({"word2idx": {"a": 0}, "idx2word": {"0": "a"}, "idx": 1}))
    assert "vocabulary" in examine(Path("v.json"))["what"]


@pytest.mark.parametrize(
    ("file", "option"),
    [("img.npy", "image=img.npy"), ("labels.csv", "--labels labels.csv"), ("c.txt", "--captions c.txt"), (".", "--images .")],
)
def test_of_other_files_it_says_what_is_inside_and_which_import_would_fit(file, option):
    caption_file("flickr")
    picture("im0.png")
    found = examine(Path(file))
    assert found["what"] == "no released file that is known here"
    assert option in found["an import that would fit"]
