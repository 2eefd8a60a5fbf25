"""Loaders of video clips: MSR-VTT, LSMDC, YouCook2 and HowTo100M on files in their layouts, and the search over them."""

import csv
import json
import re
import warnings

import numpy as np
import pytest
from conftest import ROOT

from xmbench import FitContext, Noise, build_method, corrupt, load_dataset
from xmbench.convert import convert
from xmbench.datasets import MissingDataError, dataset_card, howto100m, is_ready
from xmbench.datasets._video import WordRows, words_of
from xmbench.evaluate import embed_split, measure
from xmbench.run import fit_method
from xmbench.spec import load_protocol
from xmbench.types import DataError

D2, D3, W = 6, 4, 5  # widths of 2D, 3D and word vectors
WORDS = ("a", "man", "man's", "dog", "Dog", "runs", "été")


def vector(name, width):
    """The raw features of a clip, known from its name."""
    return np.random.default_rng(sum(map(ord, name))).normal(3.0, 2.0, width).astype(np.float32)


def joined(name):
    """What a loader must make of them."""
    return np.concatenate([vector(name, d) / np.linalg.norm(vector(name, d)) for d in (D2, D3)])


def save_features(path, names, **changed):
    arrays = {"2d.ids": np.array(names), "2d": np.stack([vector(name, D2) for name in names])}
    arrays |= {"3d.ids": np.array(names[::-1]), "3d": np.stack([vector(name, D3) for name in names[::-1]])}
    np.savez(path, **{**arrays, **changed})


def save_words(folder):
    np.savez(folder / "word_vectors.npz", words=np.array(WORDS), vectors=word_vectors())


def word_vectors():
    return np.arange(1, len(WORDS) * W + 1, dtype=np.float32).reshape(-1, W)


def save_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))
    return tmp_path


def make_msrvtt(root, n_train=8, n_test=4):
    folder = root / "msrvtt"
    folder.mkdir()
    train, test = ([f"video{i}" for i in range(a, b)] for a, b in ((0, n_train), (n_train, n_train + n_test)))
    save_csv(folder / "train.csv", ["video_id"], [[name] for name in train])
    sentences = [{"video_id": f"video{i}", "caption": "a man, Dog!", "sen_id": 0} for j in range(3) for i in range(99)]
    (folder / "videodatainfo_2017.json").write_text(json.dumps({"sentences": sentences}), "utf-8")
    save_csv(
        folder / "test_sentences.csv",
        ["key", "video_id", "sentence"],
        [[i, name, "été, runs"] for i, name in enumerate(test)],
    )
    save_features(folder / "train_features.npz", train)
    save_features(folder / "test_features.npz", [*train, *test])
    save_words(folder)
    return folder


def make_lsmdc(root, n_test=5):
    folder = root / "lsmdc"
    folder.mkdir()
    for split, n in (("train", 6), ("valid", 3), ("test", n_test)):
        names = [f"{split}_{i}" for i in range(n)]
        lines = [f'{name}\t0\t1\t0\t1\t"a man runs.\n' for name in names]
        (folder / f"{split}.csv").write_text("".join(lines), "utf-8")
        save_features(folder / f"{split}_features.npz", names)
    save_words(folder)
    return folder


def youcook2_arrays(names):
    vectors = {kind: np.stack([vector(name, d) for name in names]) for kind, d in (("2d", D2), ("3d", D3))}
    return {**vectors, "caption": np.array(["a dog" for _ in names]), "id": np.array(names)}


def make_youcook2(root):
    folder = root / "youcook2"
    folder.mkdir()
    np.savez(folder / "train.npz", **youcook2_arrays([f"film_{v}_{i}" for v in range(5) for i in range(2)]))
    np.savez(folder / "val.npz", **youcook2_arrays([f"other_{i}" for i in range(3)]))
    save_words(folder)
    return folder


def make_howto100m(root, seconds=20):
    make_msrvtt(root)
    folder = root / "howto100m"
    folder.mkdir()
    names = [f"tube{i}" for i in range(5)]
    save_csv(
        folder / "HowTo100M.csv",
        ["video_id", "task_id", "path"],
        [[name, i, f" {i}/{name}.npy"] for i, name in enumerate(names)],
    )
    lines = {"start": [0.0, 2.0, 4.0, 11.5], "end": [2.0, 4.0, 11.0, 12.0], "text": ["a man", "runs", "dog", "a dog"]}
    (folder / "captions.json").write_text(json.dumps(dict.fromkeys(names, lines)), "utf-8")
    for kind, width, rate in (("2d", D2, 1), ("3d", D3, 1.5)):
        for i, name in enumerate(names):
            (folder / f"features_{kind}" / str(i)).mkdir(parents=True)
            features = np.random.default_rng(i).random((int(seconds * rate), width), dtype=np.float32)
            np.save(folder / f"features_{kind}" / str(i) / f"{name}.npy", features)
    save_words(folder)
    return folder


MAKE = {"msrvtt": make_msrvtt, "lsmdc": make_lsmdc, "youcook2": make_youcook2, "howto100m": make_howto100m}
FEW = {"msrvtt": {"valid_videos": 2}, "lsmdc": {}, "youcook2": {"valid_videos": 2}, "howto100m": {"valid_videos": 2}}


def parts(split):
    """Vectors of clips, word vectors of captions, their lengths, names of both, and the clip of every caption."""
    video, text = split.modalities
    clip_of = split.pairs[np.argsort(split.pairs[:, 1]), 0]
    return np.asarray(video.vectors), np.asarray(text.sequences), text.lengths, video.item_ids, text.item_ids, clip_of


def looked_up(*words):
    rows = np.zeros((20, W), dtype=np.float32)
    rows[: len(words)] = word_vectors()[[WORDS.index(word) for word in words]]
    return rows


@pytest.mark.parametrize("name", MAKE)
def test_clips_and_captions_of_every_dataset_belong_together(root, name):
    MAKE[name](root)
    assert is_ready(dataset_card(name))
    dataset = load_dataset(name, **FEW[name])
    assert [modality.name for modality in dataset.train.modalities] == ["video", "text"]
    seen = set()
    for split in dataset.splits().values():
        vectors, words, lengths, clips, captions, clip_of = parts(split)
        assert (vectors.shape, words.shape[1:]) == ((len(clips), D2 + D3), (20, W))
        assert [caption.rpartition("#")[0] for caption in captions] == clips[clip_of].tolist()
        assert len(set(captions)) == len(captions)
        assert not seen & set(clips.tolist())
        seen |= set(clips.tolist())
        filled = (words != 0).any(axis=2)
        assert np.array_equal(filled, np.arange(20) < lengths[:, None])
        if name != "howto100m" or clips[0].startswith("video"):
            np.testing.assert_allclose(vectors, np.stack([joined(clip) for clip in clips]), rtol=1e-5)


def test_msrvtt_has_all_captions_of_every_clip_in_their_order(root):
    make_msrvtt(root)
    dataset = load_dataset("msrvtt", valid_videos=2)
    assert {part: [len(m) for m in split.modalities] for part, split in dataset.splits().items()} == {
        "train": [6, 18], "valid": [2, 6], "test": [4, 4],
    }  # fmt: skip
    _, words, lengths, _, captions, _ = parts(dataset.train)
    assert captions[:3].tolist() == [f"{captions[0].partition('#')[0]}#{j}" for j in range(3)]
    assert np.array_equal(words[0], looked_up("a", "man", "Dog")), "upper case counts"
    assert set(lengths) == {3}
    assert np.array_equal(parts(dataset.tests["test"])[1][0], looked_up("été", "runs"))
    again = load_dataset("msrvtt", valid_videos=2)
    assert np.array_equal(parts(again.valid)[3], parts(dataset.valid)[3]), "the same clips in every run"


def test_lsmdc_draws_the_clips_that_it_tests_on(root):
    make_lsmdc(root)
    assert [len(split.modalities[0]) for split in load_dataset("lsmdc").splits().values()] == [6, 3, 5]
    names = [parts(load_dataset("lsmdc", test_clips=n).tests["test"])[3].tolist() for n in (3, 3, 4)]
    assert names[0] == names[1]
    assert set(names[0]) < set(names[2]) <= {f"test_{i}" for i in range(5)}


def test_youcook2_keeps_whole_videos_for_validation(root):
    make_youcook2(root)
    dataset = load_dataset("youcook2", valid_videos=2)
    train, valid = ({name.rpartition("_")[0] for name in parts(split)[3]} for split in (dataset.train, dataset.valid))
    assert (len(train), len(valid), train & valid) == (3, 2, set())
    assert [len(split.modalities[0]) for split in dataset.splits().values()] == [6, 4, 3]


def test_a_clip_of_howto100m_is_the_maximum_over_its_seconds(root):
    folder = make_howto100m(root)
    dataset = load_dataset("howto100m", valid_videos=2, train_videos=2)
    vectors, words, _, clips, _, _ = parts(dataset.train)
    assert (len(clips), len(parts(dataset.valid)[3])) == (8, 8)
    assert parts(dataset.tests["test"])[3].tolist() == [f"video{i}" for i in range(8, 12)], "tested on MSR-VTT"
    row = clips.tolist().index(next(name for name in clips if name.endswith("_1")))
    number = int(clips[row].removeprefix("tube").partition("_")[0])
    expected = []
    for kind, rate in (("2d", 1), ("3d", 1.5)):
        seconds = np.load(folder / f"features_{kind}" / str(number) / f"tube{number}.npy")
        best = seconds[0 : int(11 * rate) + 1].max(axis=0)  # lines 0 and 1 last four seconds, 0 to 2 eleven
        expected.append(best / np.linalg.norm(best))
    np.testing.assert_allclose(vectors[row], np.concatenate(expected), rtol=1e-6)
    assert np.array_equal(words[row], looked_up("a", "man", "runs", "dog"))


@pytest.mark.parametrize(("line", "min_time", "expected"), [
    (0, 0.0, (0, 0)), (0, 2.5, (0, 1)), (1, 2.5, (0, 1)), (1, 5.0, (0, 2)), (3, 1.0, (2, 3)), (2, 100.0, (0, 3)),
])  # fmt: skip
def test_a_clip_grows_to_the_side_that_adds_less(line, min_time, expected):
    assert howto100m.extended([0.0, 2.0, 4.0, 11.5], [2.0, 4.0, 11.0, 12.0], line, min_time) == expected


def test_a_clip_beyond_the_features_is_zeros(root):
    make_howto100m(root, seconds=5)
    vectors, _, _, clips, _, _ = parts(load_dataset("howto100m", valid_videos=2, min_time=0.0).train)
    beyond = np.char.endswith(clips, "_3")
    assert not vectors[beyond].any()
    np.testing.assert_allclose((vectors[~beyond] ** 2).sum(axis=1), 2, rtol=1e-5)


def test_words_are_runs_of_letters_and_apostrophes():
    assert words_of('A man\'s "dog" -- it_s 2nd, run.') == ["A", "man's", "dog", "it_s", "2nd", "run"]


def test_captions_of_unknown_words_are_zeros_with_a_warning_and_long_ones_are_cut(root):
    folder = make_msrvtt(root)
    rows = [["video8", "xyz!"], ["video9", ""], ["video10", "zzz " + "dog a " * 15], ["video11", "dog"]]
    save_csv(folder / "test_sentences.csv", ["video_id", "sentence"], rows)
    with pytest.warns(UserWarning, match=r"test_sentences\.csv: 2 of the captions have no word with a vector, and are zeros"):
        dataset = load_dataset("msrvtt", valid_videos=2)  # of 33 words 2 are unknown
    _, words, lengths, _, _, _ = parts(dataset.tests["test"])
    assert lengths.tolist() == [1, 1, 20, 1]
    assert not words[:2].any()
    assert np.array_equal(words[2], looked_up(*["dog", "a"] * 10))


@pytest.mark.parametrize(("unknown", "said"), [(1, None), (2, "18% of .* are dropped, most often xyz; if"), (9, "50% of")])
def test_many_words_without_a_vector_are_said_with_their_share(root, unknown, said):
    folder = make_msrvtt(root)
    rows = [["video8", "a man runs"], ["video9", "a man runs"], ["video10", "a man runs" + " xyz" * unknown]]
    save_csv(folder / "test_sentences.csv", ["video_id", "sentence"], rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset("msrvtt", valid_videos=2)
    assert len(caught) == (said is not None)
    assert said is None or re.search(rf"test_sentences\.csv: {said}", str(caught[0].message))


# Word vectors out of a word2vec file

CAPTION_FILES = {  # as docs/data.md has them
    "msrvtt": ["msrvtt/videodatainfo_2017.json", "msrvtt/test_sentences.csv"],
    "lsmdc": ["lsmdc/train.csv", "lsmdc/valid.csv", "lsmdc/test.csv"],
    "youcook2": ["youcook2/train.npz", "youcook2/val.npz"],
    "howto100m": ["howto100m/captions.json", "msrvtt/test_sentences.csv"],
}


@pytest.mark.parametrize("name", MAKE)
def test_the_documented_files_have_every_word_of_the_captions(root, name):
    whole = MAKE[name](root) / "word_vectors.npz"
    before = [parts(split)[1] for split in load_dataset(name, **FEW[name]).splits().values()]
    whole.unlink()
    rows = [word.encode() + b" " + row.astype("<f4").tobytes() + b"\n" for word, row in zip(WORDS, word_vectors(), strict=True)]
    (root / "w.bin").write_bytes(f"{len(rows) + 1} {W}\n".encode() + b"".join(rows) + b"unused " + bytes(4 * W) + b"\n")
    convert(root / "w.bin", whole, [root / file for file in CAPTION_FILES[name]])
    with np.load(whole) as made:
        assert {"a", "dog"} & set(made["words"].tolist())
        assert "unused" not in made["words"]
    after = [parts(split)[1] for split in load_dataset(name, **FEW[name]).splits().values()]
    assert all(map(np.array_equal, before, after))
    lines = [line for line in (ROOT / "docs" / "data.md").read_text("utf-8").splitlines() if f"{name}/word_vectors.npz" in line]
    assert [re.findall(r"--words (\S+)", line) for line in lines] == [CAPTION_FILES[name]]


def test_word_vectors_are_looked_up_when_they_are_asked_for():
    table, numbers = np.arange(12.0).reshape(4, 3), np.array([[1, 2], [3, 0]])
    rows = WordRows(table, numbers).rows().take(np.array([1, 0, 1]))
    table[3] = -1  # nothing was copied
    assert rows.shape == (3, 2, 3)
    assert rows[np.array([0, 2])].tolist() == [[[-1, -1, -1], [0, 1, 2]]] * 2
    assert np.asarray(rows).dtype == np.float32


# Bad input


def features(**changed):
    return lambda folder: save_features(folder / "train_features.npz", [f"video{i}" for i in range(8)], **changed)


def arrays(name, **values):
    return lambda folder: np.savez(folder / name, **values)


def text(name, content, features_of=None):
    def spoil(folder):
        (folder / name).write_text(content)
        for file, clips in (features_of or {}).items():
            save_features(folder / file, clips)

    return spoil


def deflated_with_damage(folder):
    np.savez_compressed(folder / "val.npz", **youcook2_arrays(["a_1"]))
    raw = bytearray((folder / "val.npz").read_bytes())
    raw[60:90] = b"\xff" * 30
    (folder / "val.npz").write_bytes(raw)


def no_3d(folder):
    for path in (folder / "features_3d").rglob("*.npy"):
        path.unlink()


BAD = {
    "no 3d features": ("msrvtt", features(**{"3d.ids": np.array([f"video{i}" for i in range(1, 9)])}),
        r"every clip must have features of both kinds, 2d and 3d, got no 3d features of 'video0' and 1 of 8 clips"),
    "no 2d at all": ("msrvtt", arrays("train_features.npz", **{"3d": np.ones(2), "3d.ids": np.ones(2)}),
        r"must hold 2d\.ids, 2d, got 3d, 3d\.ids; files of the release become these by `xmbench data convert`"),
    "another number of rows": ("msrvtt", features(**{"2d": np.ones((3, D2))}),
        r"2d must be one vector of numbers for each of 8 ids, got float64 \(3, 6\)"),
    "another width": ("msrvtt", features(**{"2d": np.ones((8, 9))}),
        r"every split must have vectors of one width, got \{'train': 13, 'valid': 13, 'test': 10\}"),
    "a pickle": ("msrvtt", text("train_features.npz", "(dp0\n."), r"must be a whole \.npz file .*by `xmbench data convert`"),
    "no captions": ("msrvtt", text("videodatainfo_2017.json", '{"sentences": []}'),
        r"train\.csv: every clip must have a caption, got none of 'video0' and 8 clips"),
    "a clip twice": ("msrvtt", text("train.csv", "video_id\nvideo1\nvideo1\n"), "must be named once, got 2 names of 1 clips"),
    "no clips": ("msrvtt", text("train.csv", "video_id\n"), "must name at least one clip"),
    "other columns": ("msrvtt", text("train.csv", "video\nvideo1\n"), r"train\.csv: must be a CSV file .* columns video_id"),
    "a short line": ("msrvtt", text("test_sentences.csv", "video_id,sentence\nvideo8\n"), "got a shorter one"),
    "other json": ("msrvtt", text("videodatainfo_2017.json", "[1]"), "a list of objects with video_id"),
    "few columns": ("lsmdc", text("test.csv", "a\tb\n"), r"must have 6 columns .*, got 2 in line 1"),
    "few word vectors": ("lsmdc", arrays("word_vectors.npz", words=np.array(["a"]), vectors=np.ones((2, 3))),
        r"word_vectors\.npz: vectors must be one for each of 1 words"),
    "a column short": ("youcook2", arrays("val.npz", **{**youcook2_arrays(["a_1"]), "id": np.array(["a", "b"])}),
        r"must hold 2d and 3d .* with one row per clip, got"),
    "a video without 3d": ("howto100m", no_3d, r"features_3d.*: every video must have features of both kinds, 2d and 3d"),
    "no lines": ("howto100m", text("captions.json", "{}"), "every video must have captions, got none of 'tube"),
    "uneven lines": ("howto100m", text("captions.json", '{"v": {"start": [1], "end": [], "text": []}}'),
        "start, end and text must be lists of one length, got others of video 'v'"),
    "features as text": ("msrvtt", features(**{"2d": np.full((8, D2), "x")}),
        r"2d must be one vector of numbers for each of 8 ids, got <U1 \(8, 6\)"),
    "features twice": ("msrvtt", features(**{"2d.ids": np.array(["video0", *(f"video{i}" for i in range(7))])}),
        r"2d\.ids must name every clip once, got 8 names of 7 clips"),
    "ids that are none": ("msrvtt", features(**{"2d.ids": np.array("video0")}), "2d must be one vector of numbers for each of"),
    "columns as text": ("youcook2", arrays("val.npz", **{**youcook2_arrays(["a_1"]), "2d": np.array([["x"]])}),
        "must hold 2d and 3d .* numbers, caption and id .* text"),
    "captions as numbers": ("youcook2", arrays("val.npz", **{**youcook2_arrays(["a_1"]), "caption": np.ones(1)}),
        "must hold 2d and 3d .* numbers, caption and id .* text"),
    "a clip of youcook2 twice": ("youcook2", arrays("val.npz", **youcook2_arrays(["a_1", "b_1", "a_1"])),
        r"val\.npz: every clip must be named once, got 'a_1' more often in test"),
    "a test clip to learn from": ("msrvtt", text("test_sentences.csv", "video_id,sentence\nvideo0,a dog\nvideo1,a\nvideo9,a\n"),
        r"msrvtt: no clip may be in two splits, got 'video0' and [12] clips in all in (train|valid) and test; take"),
    "a film in two splits": ("lsmdc", text("valid.csv", "train_1\t0\t0\t0\t0\ta dog\n", {"valid_features.npz": ["train_1"]}),
        "lsmdc: no clip may be in two splits, got 'train_1' and 1 clips in all in train and valid"),
    "clips of youcook2 in both": ("youcook2", arrays("val.npz", **youcook2_arrays([f"film_{v}_0" for v in range(5)])),
        "youcook2: no clip may be in two splits, got 'film_._0' and 3 clips in all in train and test"),
    "a damaged deflated file": ("youcook2", deflated_with_damage, r"val\.npz: must be a whole \.npz file of arrays"),
    "other captions": ("howto100m", text("captions.json", '{"v": {"start": [1]}}'), "objects with the lists start, end"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used_are_a_data_error(root, name):
    dataset, spoil, said = BAD[name]
    spoil(MAKE[dataset](root))
    with pytest.raises(DataError, match=said):
        load_dataset(dataset, **FEW[dataset])


LINES = {"start": [0, 2.5], "end": [2, 2.5], "text": ["a dog", "a man"]}
BAD_LINES = [
    ({"start": [None, 2]}, "must be seconds from 0, the end not before the start, got None and 2 in video 'tube0'"),
    ({"start": ["0", 2]}, "must be seconds from 0, .*, got '0' and 2"),
    ({"end": [[2], 3]}, r"must be seconds from 0, .*, got 0 and \[2\]"),
    ({"end": [True, 3]}, "must be seconds from 0, .*, got 0 and True"),
    ({"end": [2, float("nan")]}, r"must be seconds from 0, .*, got 2\.5 and nan"),
    ({"end": [2, 10**400]}, r"must be seconds from 0, .*, got 2\.5 and 10000"),
    ({"end": [2, 2]}, r"must be seconds from 0, .*, got 2\.5 and 2 in"),
    ({"start": [-1, 2]}, "must be seconds from 0, .*, got -1 and 2"),
    ({"start": 1}, "start, end and text must be lists of one length, got others of video 'tube0'"),
    ({"text": "ab"}, "start, end and text must be lists of one length"),
    ({"text": ["a", None]}, "text must be a list of texts, got None in video 'tube0'"),
]


@pytest.mark.parametrize(("changed", "said"), BAD_LINES)
def test_lines_of_narration_must_be_text_between_seconds(root, changed, said):
    folder = make_howto100m(root)
    lines = {f"tube{i}": {**LINES, **changed} if i == 0 else LINES for i in range(5)}
    (folder / "captions.json").write_text(json.dumps(lines))
    with pytest.raises(DataError, match=said):
        load_dataset("howto100m", valid_videos=2)
    (folder / "captions.json").write_text(json.dumps(dict.fromkeys(lines, LINES)))
    assert len(load_dataset("howto100m", valid_videos=2).train.modalities[0]) == 6


SMALL = [
    ("msrvtt", "valid_videos", 1),
    ("lsmdc", "test_clips", 1),
    ("youcook2", "valid_videos", 0),
    ("howto100m", "min_time", -1.0),
]


@pytest.mark.parametrize(("dataset", "key", "value"), SMALL)
def test_parameters_are_checked(dataset, key, value):
    with pytest.raises(ValueError, match=rf"{dataset}\..*{key} (must be )?\w+"):
        load_dataset(dataset, **{key: value})


def test_a_missing_file_and_too_few_clips_are_said(root):
    folder = make_msrvtt(root)
    with pytest.raises(DataError, match="train must keep two clips or more beside 7 for validation, got 8 in all"):
        load_dataset("msrvtt", valid_videos=7)
    (folder / "word_vectors.npz").unlink()
    with pytest.raises(MissingDataError, match=r"file word_vectors\.npz is missing .*metadata_eval\.zip.*xmbench data convert"):
        load_dataset("msrvtt", valid_videos=2)


# Search and noise


def test_text_to_video_is_measured_with_its_median_rank(root):
    make_msrvtt(root, n_train=12, n_test=6)
    dataset = load_dataset("msrvtt", valid_videos=2)
    method = build_method("miech", dim=8, epochs=2, batch_size=8)
    fit_method(method, dataset.train, FitContext())
    test = dataset.tests["test"]
    embedded = embed_split(method, test, "float32", 0)
    measured = measure(method, test, embedded, load_protocol("pairs"), curves=False)
    videos, texts = (embedded[name][0].values for name in ("video", "text"))
    scores = (texts @ videos.T)[test.pairs[:, 1].argsort()]
    own = scores[np.arange(6), test.pairs[test.pairs[:, 1].argsort(), 0]]
    ranks = (scores >= own[:, None]).sum(axis=1)
    assert measured.value("medr", direction="text2video") == np.floor(np.median(ranks))
    assert measured.value("r@5", direction="text2video") == pytest.approx((ranks <= 5).mean())
    assert {m.direction for m in measured.measures} >= {"text2video", "video2text"}


def test_noise_moves_single_captions_of_the_listed_pairs():
    dataset = load_dataset("synthetic_msrvtt", shrink=100)
    given = corrupt(dataset.train, Noise("caption_shuffle", 0.2, 0), family="synthetic_msrvtt").train
    before, after = dataset.train.pairs, given.pairs
    assert np.array_equal(np.bincount(after[:, 0]), np.bincount(before[:, 0])), "every clip keeps its 20"
    assert np.array_equal(after[:, 1], before[:, 1])
    assert abs((~given.clean_pairs).mean() - 0.2) < 0.01


@pytest.mark.parametrize("name", MAKE)
def test_a_twin_has_the_shape_of_the_card(name):
    card, shrink = dataset_card(name), 2000
    dataset = load_dataset(f"synthetic_{name}", shrink=shrink)
    for part, split in dataset.splits().items():
        n, (video, text) = max(card.sizes[part] // shrink, 2), split.modalities
        assert (video.vectors.shape, video.sequences) == ((n, 4096), None)
        assert (text.sequences.shape, text.vectors, text.tokens) == ((n * card.captions, 20, 300), None, None)
        filled = np.asarray(text.sequences).any(axis=2)
        assert np.array_equal(filled, np.arange(20) < text.lengths[:, None])
        rows = np.arange(n * card.captions)
        assert np.array_equal(split.pairs, np.stack([rows // card.captions, rows], axis=1))


@pytest.mark.parametrize("words", ["vectors", "learnt"])
def test_miech_finds_what_is_planted(words):
    if words == "vectors":
        dataset = load_dataset("synthetic_youcook2", shrink=20)
    else:
        dataset = load_dataset("synthetic", regions=4, test=100)
    method = build_method("miech", words=words, dim=32, word_dim=32, epochs=8, batch_size=64, lr=0.01)
    fit_method(method, dataset.train, FitContext())
    test = dataset.tests["test"]
    measured = measure(method, test, embed_split(method, test, "float32", 0), load_protocol("pairs"), curves=False)
    for m in measured.measures:
        if (m.metric, m.network) == ("r@10", "mean"):
            assert m.value > m.chance + 0.1, m.direction


def test_miech_says_how_to_do_without_word_vectors():
    with pytest.raises(
        ValueError, match=r"needs captions as word vectors .*, got image, text without them; set miech\.words=learnt"
    ):
        fit_method(build_method("miech"), load_dataset("synthetic", regions=4, train=20).train, FitContext())
