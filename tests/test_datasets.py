"""Datasets: sizes and labels as published, what is embedded, what is planted; and finding and downloading files."""

import hashlib
import http.server
import os
import threading
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from xmbench import Card, FitContext, build_method, class_numbers, load_dataset
from xmbench.cards import Parcel
from xmbench.datasets import MissingDataError, dataset_card, dataset_names, dataset_parameters
from xmbench.datasets import _files as found_files
from xmbench.datasets._vocabulary import words_of
from xmbench.metrics import average_precision, recall_at, shared_label
from xmbench.types import split_sha

CONTENT = bytes(range(256)) * 8192  # 2 MB
SHA = hashlib.sha256(CONTENT).hexdigest()


def counts(split, modality=0):
    return np.bincount(class_numbers(split.modalities[modality].labels)).tolist()


def sizes(dataset):
    return {name: len(split.pairs) for name, split in dataset.splits().items()}


def is_paired_row_by_row(split):
    return all(np.array_equal(split.pairs[:, v], np.arange(len(m))) for v, m in enumerate(split.modalities))


# wikipedia


@pytest.fixture
def wikipedia(data_root):
    if not (data_root / "wikipedia" / "raw_features.mat").exists():
        pytest.skip(f"{data_root} holds no wikipedia")
    return lambda **parameters: load_dataset("wikipedia", **parameters)


def test_wikipedia_has_the_published_sizes_and_label_counts(wikipedia):
    dataset = wikipedia()
    assert sizes(dataset) == dict(dataset.card.sizes) == {"train": 2173, "valid": 231, "test": 462}
    assert [m.vectors.shape[1] for m in dataset.train.modalities] == [128, 10]
    assert counts(dataset.train) == counts(dataset.train, 1) == [138, 272, 244, 248, 202, 178, 186, 144, 214, 347]
    both = np.add(counts(dataset.valid), counts(dataset.tests["test"]))
    assert both.tolist() == [34, 88, 96, 85, 65, 58, 51, 41, 71, 104]
    assert dataset.class_names[1] == "biology"
    assert len(dataset.class_names) == 10
    for split in dataset.splits().values():
        assert is_paired_row_by_row(split)
        sums = [np.asarray(m.vectors, dtype=np.float64).sum(axis=1) for m in split.modalities]
        assert np.allclose(sums, 1, atol=1e-4), "both are histograms"


def test_wikipedia_parameters_change_features_and_split_and_no_draw(wikipedia):
    standard = wikipedia()
    svcl = wikipedia(split="svcl")
    assert sizes(svcl) == {"train": 2173, "valid": 693, "test": 693}
    first = np.asarray(svcl.tests["test"].modalities[0].vectors)
    parts = [np.asarray(split.modalities[0].vectors) for split in (standard.valid, standard.tests["test"])]
    assert np.array_equal(first, np.concatenate(parts)), "validation is the first 231 test rows"
    scaled = np.asarray(wikipedia(standardise=True).train.modalities[1].vectors, dtype=np.float64)
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(scaled.std(axis=0), 1, atol=1e-5)
    text = wikipedia(text="minilm").train.modalities[1]
    assert text.vectors.shape == (2173, 384)
    assert counts(wikipedia(text="minilm").train, 1) == counts(standard.train, 1)


# openmoji


def test_openmoji_is_embedded_with_the_sizes_of_its_card():
    dataset = load_dataset("openmoji")
    assert sizes(dataset) == dict(dataset.card.sizes) == {"train": 1254, "valid": 256, "test": 404}
    image, text = dataset.train.modalities
    assert (image.vectors.shape, text.vectors.shape, image.sequences.shape) == ((1254, 1280), (1254, 384), (1254, 16, 64))
    assert text.tokens.max() < len(text.vocabulary)
    assert text.tokens.min() == 0
    assert 2 < text.lengths.min() <= text.lengths.max() <= text.tokens.shape[1]
    totals = sum(np.array(counts(split)) for split in dataset.splits().values())
    names = dict(zip(dataset.class_names, totals.tolist(), strict=True))
    assert (names["people-body"], names["flags"], names["activities"]) == (388, 270, 85)
    assert len(names) == 9
    ids = [set(split.modalities[0].item_ids) for split in dataset.splits().values()]
    assert len(set.union(*ids)) == sum(map(len, ids)) == 1914, "no emoji in two splits"
    assert all(is_paired_row_by_row(split) for split in dataset.splits().values())


def test_openmoji_subgroups_and_both():
    subgroup, both = load_dataset("openmoji", classes="subgroup"), load_dataset("openmoji", classes="both")
    assert len(subgroup.class_names) == 42
    assert sum(np.array(counts(split)) for split in subgroup.splits().values()).min() >= 15
    assert len(both.class_names) == 9 + 42
    per_item = both.train.modalities[0].labels.sum(axis=1)
    assert set(per_item.tolist()) == {1, 2}
    assert sizes(both) == sizes(load_dataset("openmoji"))


def test_openmoji_files_are_small_hold_no_pickle_and_name_their_licence():
    folder = files("xmbench.datasets") / "openmoji_data"
    for name in ("openmoji.npz", "openmoji_sequences.npz"):
        content = (folder / name).read_bytes()
        assert len(content) < 8_000_000
        with (folder / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype != object for key in arrays.files)
    licence = (folder / "LICENSE.md").read_text("utf-8")
    assert "CC BY-SA 4.0" in licence
    assert "OpenMoji" in licence


# synthetic


def test_synthetic_plants_what_its_parameters_say():
    def scores(**parameters):
        """MAP by class and R@1 by pair of CCA on the test split."""
        dataset = load_dataset("synthetic", **parameters)
        cca, test = build_method("cca", dim=8), dataset.tests["test"]
        cca.fit(dataset.train, FitContext())
        similarity = cca.similarity(*(cca.embed(m) for m in test.modalities))
        by_class = shared_label(*(m.labels for m in test.modalities))
        return average_precision(similarity, by_class).mean(), recall_at(
            similarity, np.eye(len(similarity), dtype=bool), 1
        ).mean()

    by_class, by_pair = scores()
    assert by_class > 0.2
    assert by_pair > 0.3
    no_class, only_pair = scores(class_signal=0.0)
    assert no_class < 0.17, "chance is .12, a query's partner adds a little"
    assert only_pair > 0.2
    only_class, no_pair = scores(instance_signal=0.0)
    assert only_class > 0.5
    assert no_pair < 0.1, "chance among the 20 items of the class is .05"


def test_synthetic_has_as_many_modalities_and_items_of_each_class_as_asked_for():
    test = load_dataset("synthetic", modalities=3, classes=4, test=20).tests["test"]
    assert [m.name for m in test.modalities] == ["image", "text", "audio"]
    assert [counts(test, v) for v in range(3)] == [[5] * 4] * 3
    assert is_paired_row_by_row(test)


def test_synthetic_depends_on_its_seed_alone():
    def first(**parameters):
        return np.asarray(load_dataset("synthetic", **parameters).train.modalities[0].vectors)

    assert np.array_equal(first(), first(seed=0))
    assert not np.array_equal(first(), first(seed=1))
    assert np.array_equal(first(), first(modalities=3)), "another modality changes the first"


@pytest.mark.parametrize("wrong", [{"modalities": 1}, {"modalities": 6}, {"classes": 1}, {"train": 1}, {"test": 0}])
def test_synthetic_refuses_what_it_cannot_draw(wrong):
    with pytest.raises(ValueError, match=rf"synthetic\.{next(iter(wrong))} must"):
        load_dataset("synthetic", **wrong)


def test_every_dataset_has_a_card_that_tells_its_parameters():
    for name in dataset_names():
        card = dataset_card(name)
        assert card.name == name
        assert all((card.title, card.source, card.licence, card.citation, card.sizes))
        seen = card.regions or (card.widths and card.word_vectors)
        assert (card.widths and card.classes) or (seen and card.words and card.classes is None)
        assert set(card.parameters) <= set(dataset_parameters(name))
        assert set(card.unverified) <= {"sizes", *card.widths}


@pytest.mark.parametrize("name", ["openmoji", "synthetic", "wikipedia"])
def test_the_facts_of_a_card_are_those_of_the_data(name, request):
    dataset = request.getfixturevalue("wikipedia")() if name == "wikipedia" else load_dataset(name)
    for part, split in dataset.splits().items():
        shapes = {m.name: m.vectors.shape for m in split.modalities}
        assert shapes == {m: (dataset.card.sizes[part], d) for m, d in dataset.card.widths.items()}
        assert split.n_classes == dataset.card.classes
    assert not dataset.card.multi_label


# flickr8k


@pytest.fixture
def flickr8k(data_root):
    if not (data_root / "flickr8k_precomp" / "train_ims.npy").exists():
        pytest.skip(f"{data_root} holds no flickr8k_precomp")
    return lambda **parameters: load_dataset("flickr8k", **parameters)


def test_flickr8k_has_the_official_split_and_the_facts_of_its_card(flickr8k, data_root):
    dataset = flickr8k()
    card = dataset.card
    assert {name: len(split.modalities[0]) for name, split in dataset.splits().items()} == dict(card.sizes)
    assert dict(card.sizes) == {"train": 6000, "valid": 1000, "test": 1000}
    stored = np.load(data_root / "flickr8k_precomp" / "vectors.npz")
    for stem, split in zip(("train", "dev", "test"), dataset.splits().values(), strict=True):
        image, text = split.modalities
        n = len(image)
        assert image.sequences.shape == (n, *card.regions)
        assert (image.vectors.shape, text.vectors.shape) == ((n, 1280), (5 * n, 384))
        assert np.array_equal(np.asarray(text.vectors)[-7], stored[f"{stem}_text"][-7].astype(np.float32))
        assert np.array_equal(split.pairs[:, 0], np.repeat(np.arange(n), 5))
        assert np.array_equal(split.pairs[:, 1], np.arange(5 * n))
        assert len(text.vocabulary) == card.words == 3178
    text = dataset.train.modalities[1]
    first = (data_root / "flickr8k_precomp" / "train_caps.txt").read_text().split("\n")[0]
    assert first.lower() == "a black dog is running after a white dog in the snow ."
    assert text.tokens[0, :15].tolist() == [1, 4, 5, 6, 7, 8, 9, 4, 10, 6, 11, 12, 13, 14, 2]
    assert (text.lengths[0], text.lengths.min(), text.lengths.max()) == (15, 4, 40)
    assert (text.tokens == 3).mean() < 0.02, "unknown words"


def test_flickr8k_draws_training_images_with_all_their_captions_and_the_same_words(flickr8k):
    whole, few, fewer = flickr8k(), flickr8k(train_images=1500), flickr8k(train_images=300)
    image, text = few.train.modalities
    assert (len(image), len(text), few.train.pairs.shape) == (1500, 7500, (7500, 2))
    rows = image.item_ids.astype(int)
    assert (np.diff(rows) > 0).all()
    assert set(fewer.train.modalities[0].item_ids) <= set(image.item_ids), "small draws are part of larger ones"
    some = np.array([0, 700, 1499])
    assert np.array_equal(image.sequences[some], whole.train.modalities[0].sequences[rows[some]])
    assert np.array_equal(image.vectors[some], whole.train.modalities[0].vectors[rows[some]])
    caption = 5 * 700 + 3
    assert few.train.pairs[caption].tolist() == [700, caption]
    assert np.array_equal(text.tokens[caption], whole.train.modalities[1].tokens[5 * rows[700] + 3])
    assert text.item_ids[caption] == f"{rows[700]}#3"
    assert text.vocabulary == whole.train.modalities[1].vocabulary
    assert [split_sha(s) for s in list(few.splits().values())[1:]] == [split_sha(s) for s in list(whole.splits().values())[1:]]
    assert len({split_sha(d.train) for d in (whole, few, fewer)}) == 3
    for wrong in (1, -1, 6001):
        with pytest.raises(ValueError, match=rf"flickr8k\.train_images must be 0 \(all\) or lie in 2\.\.6000, got {wrong}"):
            flickr8k(train_images=wrong)


def test_words_of_flickr8k_are_those_of_nltk(data_root):
    """The quick way for plain captions gives what the tokeniser gives, over a tenth of the real captions."""
    from nltk.tokenize import NLTKWordTokenizer

    path = data_root / "flickr8k_precomp" / "train_caps.txt"
    if not path.exists():
        pytest.skip(f"{data_root} holds no flickr8k_precomp")
    tokeniser = NLTKWordTokenizer()
    captions = [line for line in path.read_text().lower().split("\n")[::10] if ". " not in line.strip()]
    assert len(captions) > 2900
    assert [words_of(caption) for caption in captions] == [tokeniser.tokenize(caption) for caption in captions]


# Finding and downloading files


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A web server on this machine that serves CONTENT, knows ranges, and closes the connection where `cut` says so."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        cut = None

        def do_GET(self):
            asked = self.headers.get("Range")
            requests.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : Handler.cut])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.delenv("XMBENCH_DATA", raising=False)
    monkeypatch.setattr(found_files, "cache_root", lambda: tmp_path / "cache")
    server.handler, server.requests = Handler, requests
    server.url = f"http://127.0.0.1:{server.server_port}/x.bin"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def card_of(url=None, sha256=SHA):
    parcel = Parcel(files={"x.bin": sha256}, urls=(url,) if url else (), note="drawn by hand")
    return replace(dataset_card("synthetic"), name="toy", parcels=(parcel,))


def with_dead_addresses(card):
    """A card whose files cannot be downloaded."""
    dead = ("http://127.0.0.1:1/x",)
    return replace(card, parcels=tuple(replace(parcel, urls=parcel.urls and dead) for parcel in card.parcels))


def test_a_file_is_downloaded_once_into_the_cache(web, tmp_path):
    for _ in range(2):
        path = found_files.find_file(card_of(web.url), "x.bin")
        assert path == tmp_path / "cache" / "toy" / "x.bin"
        assert path.read_bytes() == CONTENT
    assert web.requests == [None]
    assert found_files.is_ready(card_of(web.url))


def test_a_file_whose_sum_nobody_knows_is_taken_as_it_is(web, tmp_path, monkeypatch):
    card = card_of(web.url, sha256="")
    path = found_files.find_file(card, "x.bin")
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"other")
    assert found_files.find_file(card, "x.bin").read_bytes() == b"other"
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "cache"))
    assert found_files.find_file(card, "x.bin") == path


def test_without_a_connection_one_line_tells_what_to_do(web):
    web.shutdown()
    web.server_close()
    with pytest.raises(MissingDataError) as error:
        found_files.find_file(card_of(web.url), "x.bin")
    message = str(error.value)
    assert "\n" not in message
    for part in ("toy: x.bin cannot be downloaded from http://127.0.0.1", "put it at", "XMBENCH_DATA", "toy/x.bin"):
        assert part in message


def test_a_file_without_a_public_address_is_named(web):
    wanted = r"toy: file x\.bin is missing and has no public download; set .* toy/x.bin; how to get it: drawn by hand"
    with pytest.raises(MissingDataError, match=wanted):
        found_files.find_file(card_of(), "x.bin")
    assert not found_files.is_ready(card_of())
    other = replace(card_of(), parcels=())
    with pytest.raises(MissingDataError, match=r"toy: file y\.bin is missing .*; how to get it: drawn from a seed"):
        found_files.find_file(other, "y.bin")
    assert web.requests == []


def test_a_file_under_xmbench_data_comes_first_and_must_be_whole(web, tmp_path, monkeypatch):
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "data"))
    path = tmp_path / "data" / "toy" / "x.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert found_files.find_file(card_of(web.url), "x.bin") == path
    path.write_bytes(CONTENT[:-1])
    os.utime(path, (1, 1))  # two writes can fall into one tick of the file system's clock
    with pytest.raises(MissingDataError, match="is damaged") as error:
        found_files.find_file(card_of(web.url), "x.bin")
    assert str(path) in str(error.value)
    assert web.requests == []


def test_wikipedia_without_data_says_what_is_missing(web, monkeypatch):
    card = dataset_card("wikipedia")
    monkeypatch.setattr("xmbench.datasets.wikipedia.CARD", with_dead_addresses(card))
    with pytest.raises(MissingDataError, match=r"wikipedia: raw_features\.mat cannot be downloaded"):
        load_dataset("wikipedia")


def test_no_pickle_is_read_from_a_data_file(web, tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was loaded')",))

    folder = tmp_path / "data" / "wikipedia"
    folder.mkdir(parents=True)
    trapped = np.empty(1, dtype=object)
    trapped[0] = Trap()
    np.savez(folder / "trap.npz", T_tr=trapped, T_te=trapped)
    monkeypatch.setattr("xmbench.datasets.wikipedia.find_file", lambda card, name: folder / "trap.npz")
    monkeypatch.setattr("scipy.io.loadmat", lambda *args, **kwargs: {"I_tr": 0, "I_te": 0})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_dataset("wikipedia", text="minilm")


def test_bad_data_stop_the_loading(monkeypatch):
    from xmbench.datasets import synthetic

    monkeypatch.setattr(synthetic, "_rendered", lambda latent, *args: np.full((len(latent), 3), np.nan))
    with pytest.raises(ValueError, match="synthetic/train/image: vectors must be finite"):
        load_dataset("synthetic")
    assert isinstance(synthetic.CARD, Card)
