"""Dual encoders and their embeddings: CLIP's transformers and checkpoints, fine-tuning, adapters, zero-shot, and the files."""

import hashlib
import io
import json
import math
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from tiny_clip import weights

from baselines import clip_finetune
from baselines._adapter import adapter_network
from baselines._clip import ScaledCosine, load_clip, named_weights, symmetric_cross_entropy
from xmbench import FitContext, Modality, Noise, PairedSet, Rows, build_method, corrupt, load_dataset, unit_rows
from xmbench.datasets import MissingDataError, dataset_card, is_ready
from xmbench.metrics import recall_at
from xmbench.types import DataError

KERNEL = (3, 2, 2)


def saved(path, content):
    np.savez(path, **content)
    return path


@pytest.fixture
def clip_file(tmp_path):
    """Write weights as a checkpoint; what is given as None is left out."""

    def write(**changed):
        content = {**weights(), **{name.replace("__", "."): value for name, value in changed.items()}}
        return saved(tmp_path / "clip.npz", {name: value for name, value in content.items() if value is not None})

    return write


# The two transformers against plain loops


def layer_norm(x, w, name):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def plain_gelu(x):
    return x * np.vectorize(lambda v: (1 + math.erf(v / math.sqrt(2))) / 2)(x)


def plain_blocks(x, w, prefix, layers, causal, activation=lambda v: v / (1 + np.exp(-1.702 * v))):
    """Tokens (L, width) of one item after all blocks, head by head and token by token."""
    length, width = x.shape
    heads = max(width // 64, 1)
    size = width // heads
    for block in (f"{prefix}.resblocks.{i}" for i in range(layers)):
        projected = layer_norm(x, w, f"{block}.ln_1") @ w[f"{block}.attn.in_proj_weight"].T + w[f"{block}.attn.in_proj_bias"]
        attended = np.zeros((length, width))
        for head in range(heads):
            q, k, v = (projected[:, part * width + head * size :][:, :size] for part in range(3))
            for i in range(length):
                last = i + 1 if causal else length
                p = np.exp(k[:last] @ q[i] / math.sqrt(size))
                attended[i, head * size : (head + 1) * size] = p @ v[:last] / p.sum()
        x = x + attended @ w[f"{block}.attn.out_proj.weight"].T + w[f"{block}.attn.out_proj.bias"]
        hidden = activation(layer_norm(x, w, f"{block}.ln_2") @ w[f"{block}.mlp.c_fc.weight"].T + w[f"{block}.mlp.c_fc.bias"])
        x = x + hidden @ w[f"{block}.mlp.c_proj.weight"].T + w[f"{block}.mlp.c_proj.bias"]
    return x


def unit(x):
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("width", [16, 128])
def test_an_image_is_what_the_convolution_and_plain_attention_make_of_its_pixels(tmp_path, width):
    single = weights(width=width, layers=2, kernel=KERNEL, patches=6)
    w = {name: value.astype(np.float64) for name, value in single.items()}
    pixels = np.random.default_rng(1).standard_normal((3, 4, 6))
    grid = torch.nn.functional.conv2d(torch.from_numpy(pixels)[None], torch.from_numpy(w["visual.conv1.weight"]), stride=2)
    tokens = (
        np.concatenate([w["visual.class_embedding"][None], grid[0].flatten(1).T.numpy()]) + w["visual.positional_embedding"]
    )
    tokens = plain_blocks(layer_norm(tokens, w, "visual.ln_pre"), w, "visual.transformer", 2, causal=False)
    expected = unit(layer_norm(tokens[0], w, "visual.ln_post") @ w["visual.proj"])
    patches = [pixels[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel() for i in range(2) for j in range(3)]
    net = load_clip(saved(tmp_path / "clip.npz", single))
    with torch.no_grad():
        made = net.encode_images(torch.tensor(np.array([patches]), dtype=torch.float32))
    np.testing.assert_allclose(made[0], expected, atol=2e-6)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_caption_is_its_last_token_after_attention_to_what_came_before(tmp_path, activation):
    single = weights(width=128, layers=2, context=7)
    w = {name: value.astype(np.float64) for name, value in single.items()}
    tokens, lengths = np.array([[1, 9, 30, 2, 0, 0], [1, 5, 2, 0, 0, 0], [1, 60, 61, 62, 63, 2]]), np.array([4, 3, 6])
    options = {"activation": plain_gelu} if activation == "gelu" else {}
    expected = []
    for row, length in zip(tokens, lengths, strict=True):
        x = w["token_embedding.weight"][row[:length]] + w["positional_embedding"][:length]
        x = plain_blocks(x, w, "transformer", 2, causal=True, **options)[-1]
        expected.append(unit(layer_norm(x, w, "ln_final") @ w["text_projection"]))
    net = load_clip(saved(tmp_path / "clip.npz", single), activation)
    with torch.no_grad():
        made = net.encode_captions(torch.from_numpy(tokens), torch.from_numpy(lengths))
        short = net.encode_captions(torch.from_numpy(tokens[:2, :4]), torch.from_numpy(lengths[:2]))
    np.testing.assert_allclose(made, expected, atol=2e-6)
    np.testing.assert_allclose(made[:2], short, atol=1e-6)


def test_logits_are_scaled_cosines_and_their_scale_stays_below_a_hundred():
    image, caption = (torch.nn.functional.normalize(torch.randn(3, 5), dim=1) for _ in range(2))
    cosine = ScaledCosine(0.07)
    assert torch.allclose(cosine(image, caption, torch.ones(3)), image @ caption.T / 0.07, atol=1e-5)
    with torch.no_grad():
        cosine.logit_scale.fill_(9.0)
    made = cosine(image, caption, torch.ones(3))
    assert torch.allclose(made, image @ caption.T * 100, atol=1e-3)
    assert cosine.logit_scale.item() == pytest.approx(math.log(100))
    made.sum().backward()
    assert cosine.logit_scale.grad.item() == pytest.approx(made.sum().item(), rel=1e-4), "it can come down again"


def test_the_loss_is_the_log_of_a_sum_of_exponentials_both_ways():
    logits = [[1.0, 2.0], [3.0, 5.0]]
    rows = (math.log(math.e + math.e**2) - 1, math.log(math.e**3 + math.e**5) - 5)
    columns = (math.log(math.e + math.e**3) - 1, math.log(math.e**2 + math.e**5) - 5)
    assert symmetric_cross_entropy(torch.tensor(logits)).item() == pytest.approx((sum(rows) + sum(columns)) / 4, rel=1e-6)
    huge = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert symmetric_cross_entropy(huge).item() == 0
    random = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 6)))
    both = [torch.nn.functional.cross_entropy(scores, torch.arange(6)).item() for scores in (random, random.T)]
    assert symmetric_cross_entropy(random).item() == pytest.approx(sum(both) / 2, abs=1e-12)


# Checkpoints


def write_safetensors(path, content):
    header, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in content.items():
        data = value.tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + len(data)]}
        parts, at = [*parts, data], at + len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_npz(path, content):
    with path.open("wb") as file:
        np.savez(file, **content)


def write_torch(path, content, **options):
    torch.save({name: torch.from_numpy(value) for name, value in content.items()}, path, **options)


WRITERS = {
    "npz": write_npz,
    "safetensors": write_safetensors,
    "torch": write_torch,
    "old torch": lambda path, content: write_torch(path, content, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_checkpoint_of_any_kind_gives_its_own_weights_and_sizes(tmp_path, kind):
    content = weights(width=128, layers=2, dim=24, kernel=KERNEL, patches=6, words=20, context=7)
    path = tmp_path / "code"  # torch names the folder in its archives so too
    sizes = {name: np.array(7) for name in ("input_resolution", "context_length", "vocab_size")}
    WRITERS[kind](path, {**content, **({} if kind == "safetensors" else sizes)})
    loaded = named_weights(load_clip(path))
    assert set(loaded) == set(content)
    assert all(np.array_equal(loaded[name], value) for name, value in content.items())
    again = tmp_path / "again.pt"
    torch.save(loaded, again)
    twice = named_weights(load_clip(again))
    assert all(torch.equal(twice[name], value) for name, value in loaded.items())


def test_half_precision_is_read_as_float32(tmp_path):
    half = {name: value.astype(np.float16) for name, value in weights().items()}
    loaded = named_weights(load_clip(saved(tmp_path / "half.npz", half)))
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert np.array_equal(loaded["visual.proj"], half["visual.proj"].astype(np.float32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ln_final__bias": None}, r"got 1 missing \(ln_final\.bias\); rename or remove them"),
        ({"visual__proj": None}, r"1 missing \(visual\.proj\)"),
        ({"other": np.zeros(1)}, r"got 1 not known \(other\)"),
        ({"visual__proj": np.zeros((2, 2, 2))}, r"visual\.proj must have 2 dimensions, got shape \(2, 2, 2\)"),
        ({"ln_final__bias": np.zeros(31)}, r"ln_final\.bias must be \(32,\), got \(31,\)"),
        ({"ln_final__bias": np.full(32, np.nan)}, r"ln_final\.bias must be finite, got NaN"),
        ({"token_embedding__weight": np.zeros((64, 96))}, "widths must be multiples of 64, one head each, got 96"),
        ({"text_projection": np.zeros((32, 16))}, r"visual\.proj and text_projection must end in one width, got 32 and 16"),
    ],
)
def test_a_checkpoint_with_other_weights_is_refused_by_name(clip_file, changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_clip(clip_file(**changed))
    assert str(caught.value).startswith(str(clip_file()))


def test_a_block_that_is_missing_is_named(tmp_path):
    content = {name: value for name, value in weights(layers=3).items() if "visual.transformer.resblocks.1." not in name}
    with pytest.raises(ValueError, match=r"12 missing \(visual\.transformer\.resblocks\.1\.attn.*12 not known \(visual.*\.2\."):
        load_clip(saved(tmp_path / "clip.npz", content))


class Wicked:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def script():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("data.pkl", "code/__torch__/clip.py", "constants.pkl", "version"):
            archive.writestr(f"clip/{name}", b"")
    return file.getvalue()


def torch_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def damaged_npz(compressed, at):
    """A file of weights with other bytes from a place on."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **weights())
    content = bytearray(file.getvalue())
    content[at : at + 30] = b"\xff" * 30
    return bytes(content)


FILES = {
    "a damaged .npz": (lambda: damaged_npz(False, 400), r"must be a dictionary of tensors .*Bad CRC-32"),
    "a damaged compressed .npz": (
        lambda: damaged_npz(True, 80),
        r"must be a dictionary of tensors .*Error -3 while decompress",
    ),
    "TorchScript": (script, r"is a TorchScript archive, which holds code; save its weights alone: import torch; torch\.save"),
    "a pickle": (
        lambda: pickle.dumps({"a": Wicked()}),
        "must be a dictionary of tensors in a .npz, .safetensors or torch file",
    ),
    "code in a torch file": (lambda: torch_bytes({"a": Wicked()}), "must be a dictionary of tensors"),
    "nested": (lambda: torch_bytes({"state_dict": {"a": torch.zeros(1)}}), r"must be a dictionary of tensors.*other things"),
    "a list": (lambda: torch_bytes([torch.zeros(1)]), "must be a dictionary of tensors"),
    "nothing": (bytes, "must be a dictionary of tensors"),
    "text": (lambda: b"weights of a model", "must be a dictionary of tensors"),
    "a damaged header": (lambda: (9).to_bytes(8, "little") + b'{"a": {}}', "must be a dictionary of tensors"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_holds_no_weights_alone_is_refused_and_not_run(tmp_path, case):
    make, message = FILES[case]
    path = tmp_path / "clip.pt"
    path.write_bytes(make())
    with pytest.raises(ValueError, match=message):
        load_clip(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.pt: there is no such file; give the path of a checkpoint"):
        load_clip(tmp_path / "none.pt")


# Fine-tuning


def planted(n=200, **parameters):
    return load_dataset("synthetic", **{"regions": 4, "train": n, **parameters})


def fit(name, train, **parameters):
    method, context = build_method(name, **parameters), FitContext()
    context.seed_torch()
    method.fit(train, context)
    return method


def recall(method, split, network=0):
    """R@10, images by captions."""
    first, second = (method.embed(modality) for modality in split.modalities)
    first, second = (made[network] if isinstance(made, list) else made for made in (first, second))
    similarity = method.similarity(first, second)
    return recall_at(similarity, np.eye(len(similarity), dtype=bool), 10).mean()


def test_the_learning_rate_rises_to_its_value_and_falls_to_nothing():
    rates = [clip_finetune.rate_at(step, 10, 2.0, 4) for step in range(10)]
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, *(1 + math.cos(math.pi * done / 6) for done in range(1, 6))]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert clip_finetune.rate_at(7, 10, 2.0, 4) == pytest.approx(1.0), "half way"
    assert [clip_finetune.rate_at(step, 3, 2.0, 4) for step in range(3)] == [0.5, 1.0, 1.5]
    assert clip_finetune.rate_at(0, 3, 2.0, 0) == 2.0


def test_every_step_of_a_fit_has_its_own_rate(monkeypatch):
    seen = []
    monkeypatch.setattr(clip_finetune, "set_rate", lambda optimiser, lr: seen.append(lr))
    options = {"checkpoint": tiny_clip.checkpoint(), "epochs": 2, "batch_size": 40, "lr": 1e-4, "warm_up_steps": 3}
    fit("clip_finetune", planted(130).train, **options)
    assert seen == [clip_finetune.rate_at(step, 6, 1e-4, 3) for step in range(6)]


def test_one_step_is_that_of_adamw_with_decay_on_every_weight():
    train, lr, decay = planted(20).train, 1e-3, 0.3
    net = load_clip(Path(tiny_clip.checkpoint()))
    before = {name: value.clone() for name, value in named_weights(net).items()}
    image, text = train.modalities
    patches, tokens, lengths = (torch.from_numpy(np.asarray(x)) for x in (image.sequences, text.tokens, text.lengths))
    i, t = net.encode_images(patches), net.encode_captions(tokens, lengths)
    logits = before["logit_scale"].exp() * i @ t.T
    two = [torch.nn.functional.cross_entropy(x, torch.arange(20)) for x in (logits, logits.T)]
    (sum(two) / 2).backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    options = {"checkpoint": tiny_clip.checkpoint(), "epochs": 1, "batch_size": 20, "lr": lr, "warm_up_steps": 0}
    after = named_weights(fit("clip_finetune", train, weight_decay=decay, **options).nets_[0])
    for public, own in (
        ("visual.proj", "region_encoder.proj"),
        ("visual.ln_pre.bias", "region_encoder.ln_pre.bias"),
        ("text_projection", "word_encoder.text_projection"),
    ):
        g = gradients[own]
        expected = before[public] * (1 - lr * decay) - lr * g / (g.abs() + 1e-6)
        torch.testing.assert_close(after[public], expected, atol=2e-5, rtol=0)
    assert after["logit_scale"] != before["logit_scale"]


def test_fine_tuning_finds_captions_that_the_checkpoint_does_not():
    data = planted(400)
    options = {"checkpoint": tiny_clip.checkpoint(), "batch_size": 32, "warm_up_steps": 10}
    tuned = fit("clip_finetune", data.train, **options, epochs=6, lr=0.004)
    kept = fit("clip_finetune", data.train, **options, epochs=1, lr=1e-12)
    before, after = (recall(method, data.tests["test"]) for method in (kept, tuned))
    assert before < 0.12
    assert after > before + 0.15


def test_the_checkpoint_must_be_given_and_fit_the_data():
    with pytest.raises(ValueError, match=r"clip_finetune needs a checkpoint: set clip_finetune\.checkpoint=FILE"):
        fit("clip_finetune", planted(20).train)
    options = {"checkpoint": tiny_clip.checkpoint(), "epochs": 1}
    with pytest.raises(ValueError, match=r"images must be \(patches, numbers in a patch\) = \(4, 32\).*got \(3, 32\); cut the"):
        fit("clip_finetune", planted(20, regions=3).train, **options)
    image, text = planted(20).train.modalities
    for tokens, got in ((text.tokens + 60, r"10 and 1\d\d"), (np.pad(text.tokens, ((0, 0), (0, 1)), mode="edge"), "11 and")):
        wrong = replace(text, tokens=tokens, lengths=np.full(20, tokens.shape[1]), vocabulary=None)
        with pytest.raises(ValueError, match=rf"at most 10 tokens, each below 64, got {got}"):
            fit("clip_finetune", replace(planted(20).train, modalities=(image, wrong)), **options)


def test_a_fit_knows_the_content_of_its_checkpoint(tmp_path):
    path = Path(shutil.copy(tiny_clip.checkpoint(), tmp_path / "clip.npz"))
    sha, few = hashlib.sha256(path.read_bytes()).hexdigest(), {"checkpoint": str(path), "epochs": 1}
    for given in ("", sha[:8], sha):
        context = FitContext(checkpoint=tmp_path / "fit.pt", checkpoint_seconds=0.0)
        build_method("clip_finetune", checkpoint_sha=given, **few).fit(planted(20).train, context)
        assert str(context.records["checkpoint_sha256"]) == sha
    shutil.copy(tiny_clip.checkpoint(1), path)
    with pytest.raises(
        ValueError, match=rf"clip\.npz: its sha256 must begin with .*checkpoint_sha={sha[:8]}, got [0-9a-f]{{64}};"
    ):
        fit("clip_finetune", planted(20).train, checkpoint_sha=sha[:8], **few)


@pytest.mark.parametrize(
    "wrong", [{"checkpoint_sha": "xyz"}, {"batch_size": 1}, {"lr": 0.0}, {"weight_decay": -0.1}, {"warm_up_steps": -1}]
)
def test_settings_of_fine_tuning_must_be_possible(wrong):
    with pytest.raises(ValueError, match=f"clip_finetune.{next(iter(wrong))} must be"):
        build_method("clip_finetune", **wrong)


# Adapters


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_an_adapter_of_equal_widths_begins_at_the_embeddings(kind):
    x, y = torch.randn(4, 6), torch.randn(5, 6)
    with torch.no_grad():
        scores = adapter_network(kind, image_dim=6, caption_dim=6, dim=6)(x, y, torch.ones(5))
    assert torch.allclose(scores, torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_an_adapter_is_its_formula_and_unit_long(kind):
    x, net = torch.randn(4, 6), adapter_network(kind, image_dim=6, caption_dim=3, dim=5)
    weights = list(net.region_encoder.parameters())
    made = x @ weights[0].T + weights[1]
    if kind == "mlp":
        made = made.relu() @ weights[2].T + weights[3]
    with torch.no_grad():
        image, caption = net.encode_images(x), net.encode_captions(torch.randn(7, 3), torch.ones(7))
    assert torch.allclose(image, torch.nn.functional.normalize(made, dim=1), atol=1e-6)
    assert torch.allclose(caption.norm(dim=1), torch.ones(7))
    with pytest.raises(ValueError, match="adapter must be one of linear, mlp, got 'deep'"):
        adapter_network("deep", image_dim=6, caption_dim=3, dim=5)


FAST = {"dim": 32, "epochs": 8, "batch_size": 32, "lr": 0.003}


@pytest.mark.parametrize(
    ("adapter", "loss"), [("linear", "infonce"), ("mlp", "infonce"), ("linear", "triplet"), ("linear", "lnc"), ("mlp", "lnc")]
)
def test_adapters_of_different_widths_find_captions_by_every_loss(adapter, loss):
    data = load_dataset("synthetic", train=200)
    assert [m.vectors.shape[1] for m in data.train.modalities] == [64, 56]
    method = fit("clip_adapter", data.train, adapter=adapter, loss=loss, tau=0.07, **FAST)
    assert recall(method, data.tests["test"]) > 0.3, "chance is .05"


def test_the_lnc_loss_is_lnc_over_the_same_backbone():
    train = corrupt(load_dataset("synthetic", train=120).train, Noise("caption_shuffle", 0.4, 0), family="synthetic").train
    few = {**FAST, "epochs": 2, "margin": 0.3}
    adapter, lnc = fit("clip_adapter", train, adapter="mlp", loss="lnc", **few), fit("lnc", train, backbone="mlp", **few)
    for modality in train.modalities:
        pairs = list(zip(adapter.embed(modality), lnc.embed(modality), strict=True))
        assert len(pairs) == 2
        assert all(np.array_equal(a.values, b.values) for a, b in pairs)
    assert np.array_equal(adapter.clean_weights(), lnc.clean_weights())
    assert fit("clip_adapter", train, **few).clean_weights() is None


@pytest.mark.parametrize("loss", ["infonce", "lnc"])
def test_captions_that_have_words_too_are_read_by_their_vectors(loss):
    plain, words = (load_dataset("synthetic", train=60, regions=n) for n in (0, 4))
    few = {**FAST, "epochs": 1, "loss": loss}
    first, second = (fit("clip_adapter", dataset.train, **few) for dataset in (plain, words))
    for one, other in zip(plain.valid.modalities, words.valid.modalities, strict=True):
        assert np.array_equal(first.embed(one)[0].values, second.embed(other)[0].values)


def test_the_temperature_of_an_adapter_is_learnt_up_to_its_limit():
    train = load_dataset("synthetic", train=120).train
    learnt = [fit("clip_adapter", train, tau=tau, **FAST).nets_[0].similarity.logit_scale.item() for tau in (0.5, 0.001)]
    assert learnt[0] > math.log(2) + 0.05
    assert 4 < learnt[1] < math.log(100) + 0.01


# Zero-shot


def test_zero_shot_is_the_cosine_of_the_vectors_as_they_are():
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal((6, 3)).astype(np.float32)
    pairs = np.stack([np.arange(4), np.arange(4)], axis=1)
    sides = Modality(name="image", vectors=Rows(image)), Modality(name="text", vectors=Rows(text))
    method = fit("zero_shot", PairedSet(modalities=sides, pairs=pairs))
    np.testing.assert_allclose(method.similarity(*map(method.embed, sides)), unit_rows(image) @ unit_rows(text).T, rtol=1e-6)
    assert method.needs() == {"vectors"}, "one fit serves every rate of noise"


def test_zero_shot_refuses_embeddings_of_two_widths():
    with pytest.raises(
        ValueError, match=r"got 64 numbers \(image\) and 56 numbers \(text\); take the vectors of one dual encoder"
    ):
        fit("zero_shot", load_dataset("synthetic", train=20).train)


# The files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a dataset's folder under XMBENCH_DATA with three small splits, and return it."""
    monkeypatch.setenv("XMBENCH_DATA", str(tmp_path))

    def make(name="f30k_clip", k=3, sizes=(6, 4, 5), inputs=True, dtype=np.float16):
        path, rng = tmp_path / name, np.random.default_rng(0)
        path.mkdir(exist_ok=True)
        for stem, n in zip(("train", "dev", "testall" if name == "coco_clip" else "test"), sizes, strict=True):
            np.save(path / f"{stem}_images.npy", rng.standard_normal((n, 7)).astype(dtype))
            np.save(path / f"{stem}_texts.npy", rng.standard_normal((k * n, 7)).astype(dtype))
            if inputs:
                np.save(path / f"{stem}_patches.npy", rng.standard_normal((n, 6, 12)).astype(dtype))
                tokens = rng.integers(1, 9, (k * n, 8))
                ends = rng.integers(2, 7, k * n)
                tokens[np.arange(8) > ends[:, None]] = 0
                tokens[np.arange(k * n), ends] = 99
                np.save(path / f"{stem}_tokens.npy", tokens.astype(np.int32))
        return path

    return make


@pytest.mark.parametrize("k", [1, 3])
def test_embeddings_patches_tokens_and_pairs_are_those_of_the_files(folder, k):
    path = folder(k=k)
    dataset = load_dataset("f30k_clip")
    for stem, split in zip(("train", "dev", "test"), dataset.splits().values(), strict=True):
        image, text = split.modalities
        for modality, part, kind in ((image, "vectors", "images"), (text, "vectors", "texts"), (image, "sequences", "patches")):
            stored = np.load(path / f"{stem}_{kind}.npy").astype(np.float32)
            assert np.array_equal(np.asarray(getattr(modality, part)), stored)
        tokens = np.load(path / f"{stem}_tokens.npy")
        assert np.array_equal(text.tokens, tokens[:, : text.lengths.max()])
        assert not tokens[:, text.lengths.max() :].any()
        assert (tokens[np.arange(len(tokens)), text.lengths - 1] == 99).all()
        rows = np.arange(len(tokens))
        assert np.array_equal(split.pairs, np.stack([rows // k, rows], axis=1))
    assert is_ready(dataset_card("f30k_clip"))


def test_embeddings_alone_will_do_and_stay_on_disk(folder):
    folder(inputs=False)
    image, text = load_dataset("f30k_clip").train.modalities
    assert (image.sequences, text.tokens, text.lengths) == (None, None, None)
    base = image.vectors._data
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_coco_is_tested_whole_and_in_five_folds_and_dev_is_cut(folder):
    folder("coco_clip", sizes=(6, 8, 10))
    dataset = load_dataset("coco_clip", valid_images=3)
    assert dataset.folds == {"test:1k": 5}
    assert dataset.tests["test:1k"] is dataset.tests["test"]
    assert [len(m) for m in dataset.valid.modalities] == [3, 9]
    assert dataset.valid.pairs.tolist() == [[row // 3, row] for row in range(9)]
    assert [len(m) for m in load_dataset("coco_clip", valid_images=0).valid.modalities] == [8, 24]
    folder("coco_clip", sizes=(6, 8, 11))
    with pytest.raises(DataError, match="coco_clip/test:1k: its items must divide into 5 equal folds, got 11"):
        load_dataset("coco_clip")


def test_the_same_captions_are_wrong_as_among_the_regions(folder, tmp_path):
    folder()
    (tmp_path / "f30k_precomp").mkdir()
    for stem, n in (("train", 6), ("dev", 4), ("test", 5)):
        np.save(tmp_path / "f30k_precomp" / f"{stem}_ims.npy", np.ones((n, 2, 4), dtype=np.float32))
        (tmp_path / "f30k_precomp" / f"{stem}_caps.txt").write_text("a dog\n" * 3 * n)
    drawn = []
    for name in ("f30k_clip", "f30k_precomp"):
        dataset = load_dataset(name)
        drawn.append(corrupt(dataset.train, Noise("caption_shuffle", 0.5, 0), family=dataset.family).train.pairs)
    assert np.array_equal(*drawn)
    assert not np.array_equal(drawn[0], load_dataset("f30k_clip").train.pairs)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("train_texts", np.ones((19, 7)), "must be a whole number of times the images, got 19 in .* and 6 in"),
        ("train_images", np.ones((6, 7, 2)), r"images\.npy: must be \(n, d\) numbers with a point, got float64 \(6, 7, 2\)"),
        ("train_images", np.ones((6, 7), dtype=int), r"must be \(n, d\) numbers with a point, got int64 \(6, 7\)"),
        ("train_images", np.ones((0, 7)), "captions must be a whole number of times the images, got 18 in .* and 0 in"),
        ("dev_images", np.ones((4, 8)), r"every split must have the same features, got .*\(8,\).*; embed all by one model"),
        ("test_patches", np.ones((4, 6, 12)), "test_patches.npy: must have the 5 rows of the embeddings, got 4"),
        ("test_tokens", np.full((14, 8), 99), "test_tokens.npy: must have the 15 rows of the embeddings, got 14"),
        ("test_tokens", np.eye(15, 8, dtype=int), "must end every caption with the same.*got 0 in row 8 and 1 elsewhere"),
        ("test_tokens", np.ones((15, 8)), r"test_tokens\.npy: must be \(captions, L\) integers, got float64 \(15, 8\)"),
        ("test_tokens", None, "patches and tokens must be there for every split or for none, got train_patches.npy, "),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together_are_refused(folder, file, values, message):
    path = folder() / f"{file}.npy"
    path.unlink()
    if values is not None:
        np.save(path, values)
    with pytest.raises(DataError, match=message):
        load_dataset("f30k_clip")


def test_a_file_that_is_damaged_or_missing_is_named(folder):
    path = folder() / "dev_texts.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"dev_texts\.npy: must be a whole \.npy file of numbers"):
        load_dataset("f30k_clip")
    path.unlink()
    with pytest.raises(MissingDataError, match=r"f30k_clip: file dev_texts\.npy is missing.*embedded by you with a CLIP"):
        load_dataset("f30k_clip")
    with pytest.raises(ValueError, match="valid_images must be 0"):
        load_dataset("f30k_clip", valid_images=-1)


def test_a_twin_has_embeddings_patches_and_tokens_in_the_sizes_of_the_card():
    train = load_dataset("synthetic_f30k_clip", shrink=2000, region_width=12).train
    image, text = train.modalities
    assert (image.vectors.shape, image.sequences.shape, text.vectors.shape) == ((14, 512), (14, 49, 12), (70, 512))
    assert len(text.vocabulary) == 49408
