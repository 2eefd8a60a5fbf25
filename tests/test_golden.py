"""Our functions beside the released code: inputs and outputs recorded in the folder XMBENCH_GOLDEN.

Names, shapes, settings and tolerances are read from its index.json; every output that it lists is compared. Any folder of
that format will do.
"""

import json
import os
import re
from pathlib import Path

import golden_deep
import numpy as np
import pytest
import torch
from conftest import ROOT

from baselines import ce, mrl
from baselines._backbones import PrototypeNetworks
from xmbench import Modality, PairedSet, Rows, build_method, class_numbers, one_hot, unit_rows
from xmbench.metrics import (
    METRICS,
    average_precision,
    average_precision_at,
    first_rank,
    plausible_relevance,
    recall_at,
    shared_label,
)
from xmbench.noise import Noise, corrupt

GOLDEN = Path(os.environ.get("XMBENCH_GOLDEN") or ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="module")
def index():
    """Fixture name -> its entry of index.json."""
    if not (GOLDEN / "index.json").exists():
        reason = f"no index.json in {GOLDEN}: XMBENCH_GOLDEN must name the folder of golden fixtures"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return {entry["name"]: entry for entry in json.loads((GOLDEN / "index.json").read_text("utf-8"))["fixtures"]}


def arrays_of(entry):
    """The arrays of a fixture, which must have the shapes and types of the index."""
    with np.load(GOLDEN / entry["file"], allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    found = {name: {"shape": list(arrays[name].shape), "dtype": str(arrays[name].dtype)} for name in entry["shapes"]}
    assert found == entry["shapes"]
    return arrays


def number(text):
    """1, 0.5 and so on out of their form in names: "1", "0p5"."""
    return float(text.replace("p", "."))


def matching(entry, pattern):
    """Match objects of the outputs that fit `pattern` as a whole."""
    return [found for name in entry["outputs"] if (found := re.fullmatch(pattern, name))]


def robust_clustering(entry, z, monkeypatch):
    for found in matching(entry, r"output\.loss_(?P<case>.+)_tau(?P<tau>\w+)"):
        case, tau = found["case"], found["tau"]
        scores = torch.from_numpy(z[f"input.scores_{case}"]).requires_grad_()
        loss = mrl.robust_clustering(scores, torch.from_numpy(z[f"input.labels_{case}"]), number(tau))
        loss.backward()
        yield found[0], loss.detach()
        yield f"grad.scores_{case}_tau{tau}", scores.grad


def multimodal_contrastive(entry, z, monkeypatch):
    for found in matching(entry, r"output\.loss_(?P<case>.+)_tau(?P<tau>\w+)"):
        case, tau = found["case"], found["tau"]
        embeddings = torch.from_numpy(z[f"input.embeddings_{case}"]).requires_grad_()
        loss = mrl.multimodal_contrastive(embeddings, number(tau))
        loss.backward()
        yield found[0], loss.detach()
        yield f"grad.embeddings_{case}_tau{tau}", embeddings.grad


def networks_of(entry, z):
    """PrototypeNetworks in float64 with the fixture's weights; and names of the parameters, fixture's -> ours."""
    names, sizes = {"prototypes": "prototypes"}, {}
    for name in entry["parameters"]:
        if found := re.fullmatch(r"param\.(\w+)_net\.layer(\d)\.(weight|bias)", name):
            view, layer, kind = found.groups()
            names[name.removeprefix("param.")] = f"trunks.{view}.{2 * (int(layer) - 1)}.{kind}"
            sizes[view, layer, kind] = z[name].shape
    views = list(dict.fromkeys(view for view, *_ in sizes))
    hidden, dim = sizes[views[0], "1", "bias"][0], sizes[views[0], "3", "bias"][0]
    labels = one_hot(np.arange(1), z["param.prototypes"].shape[1]) if "param.prototypes" in z else None
    vectors = {view: Rows(np.zeros((1, sizes[view, "1", "weight"][1]))) for view in views}
    train = PairedSet(modalities=tuple(Modality(name=view, vectors=x, labels=labels) for view, x in vectors.items()))
    nets = PrototypeNetworks(train, hidden, dim).double()
    weights = {names[name.removeprefix("param.")]: torch.from_numpy(z[name]) for name in entry["parameters"]}
    nets.load_state_dict(weights)
    return nets, names


def network(entry, z, monkeypatch):
    nets, _ = networks_of(entry, z)
    for found in matching(entry, r"output\.(?P<view>\w+)_embedding"):
        yield found[0], nets(found["view"], torch.from_numpy(z[f"input.{found['view']}s"])).detach()


def steps(entry, z, monkeypatch):
    settings, losses = entry["settings"], []
    cross_entropy = entry["name"].endswith("_ce")
    module, term = (ce, "cross_entropy") if cross_entropy else (mrl, "robust_clustering")
    method = build_method("ce") if cross_entropy else build_method("mrl", beta=settings["beta"], tau=settings["tau"])
    released = getattr(module, term)
    monkeypatch.setattr(module, term, lambda *args: losses.append(released(*args)) or losses[-1])
    method.nets_, names = networks_of(entry, z)
    assert settings["optimiser"] == "Adam"
    adam = {key: settings[key] for key in ("lr", "betas", "eps", "weight_decay")}
    optimiser = torch.optim.Adam(method.nets_.parameters(), **adam, fused=True)
    vectors = {view: torch.from_numpy(z[f"input.{view}s"]) for view in method.nets_.trunks}
    labels = [torch.from_numpy(z[f"input.{view}_labels"]) for view in vectors]
    for step in range(1, 1 + max(int(found[1]) for found in matching(entry, r"output\.total_loss_step(\d+)"))):
        losses.clear()
        yield f"output.total_loss_step{step}", method.step(vectors, labels, optimiser)
        yield f"output.view_losses_step{step}", torch.stack(losses).detach()
        ours = dict(method.nets_.named_parameters())
        for found in matching(entry, rf"(?:{'grad|' * (step == 1)}after{step})\.(?P<name>.+)"):
            value = ours[names[found["name"]]]
            yield found[0], (value.grad if found[0].startswith("grad.") else value).detach().clone()


def mean_average_precisions(entry, z, monkeypatch):
    def sides(case):
        if case == "rect":
            return [z[f"input.rect_{side}{part}"] for part in ("", "_labels") for side in ("query", "gallery")]
        first, second = ("text", "image") if "text_query" in case else ("image", "text")
        labels = z["input.square_multilabels" if "multilabel" in case else "input.square_labels"]
        return z[f"input.square_{first}"], z[f"input.square_{second}"], labels, labels

    for found in matching(entry, r"output\.(?P<case>.+?)_(?P<kind>map|ap_per_query)_(?P<rest>.+)"):
        query, gallery, query_labels, gallery_labels = sides(found["case"])
        similarity = unit_rows(query) @ unit_rows(gallery).T
        if found["rest"].endswith("_euclidean"):
            similarity = -np.linalg.norm(query[:, None] - gallery, axis=2)
        depths = [int(k) for k in re.findall(r"at(\d+)", found["rest"])]
        relevance = shared_label(query_labels, gallery_labels)
        values = [average_precision_at(similarity, relevance, k) for k in depths]
        if not depths or found["rest"].endswith("_and_all"):
            values.append(average_precision(similarity, relevance))
        if "multilabel" in found["case"]:  # the released code leaves out queries that retrieve nothing relevant
            values = [v[v > 0] for v in values]
        values = [np.nan_to_num(v) if found["kind"] == "ap_per_query" else np.nan_to_num(v).mean() for v in values]
        yield found[0], values[0] if len(values) == 1 else np.array(values)


def recalls(entry, z, monkeypatch):
    per_image = entry["settings"]["captions_per_image"]

    def directions(scores, captions):
        owner = np.arange(scores.shape[1]) // captions == np.arange(len(scores))[:, None]
        return {"i2t": (scores, owner), "t2i": (scores.T, owner.T)}

    def summary(scores, relevance):
        ranks = first_rank(scores, relevance)
        hits = [100 * recall_at(scores, relevance, k).mean() for k in (1, 5, 10)]
        return np.array([*hits, *(METRICS[name].aggregate(ranks) for name in ("medr", "meanr"))])

    def both(scores):
        first, second = (summary(*direction) for direction in directions(scores, per_image).values())
        hits = [first[:3], second[:3]]
        return np.concatenate(
            [first, second, [hits[0].mean(), hits[1].mean(), METRICS["rsum"].aggregate(np.divide(hits, 100))]]
        )

    for name, direction in directions(z["input.scores"], per_image).items():
        yield f"output.{name}", summary(*direction)
        yield f"output.{name}_ranks", first_rank(*direction) - 1
        yield f"output.{name}_top1", direction[0].argmax(axis=1)
    for name, direction in directions(z["input.scores_one_caption"], 1).items():
        yield f"output.one_caption_{name}", summary(*direction)
    yield "output.rsum", both(z["input.scores"])[-1]
    folds = np.stack([both(scores) for scores in z["input.scores_folds"]])
    yield "output.folds", folds
    yield "output.folds_mean", folds.mean(axis=0)


def plausible_matches(entry, z, monkeypatch):
    annotated = z["input.class_vectors"].any(axis=1)
    captions = annotated[z["input.caption_owner"]]
    scores, images = z["input.scores"][annotated][:, captions], z["input.class_vectors"][annotated]
    texts = z["input.class_vectors"][z["input.caption_owner"][captions]]
    for name, similarity, query, gallery in (("i2t", scores, images, texts), ("t2i", scores.T, texts, images)):
        relevances = [plausible_relevance(query, gallery, zeta) for zeta in entry["settings"]["zeta"]]
        yield f"output.{name}_pmrp", 100 * METRICS["pmrp"].function(similarity, *relevances).mean()
        yield f"output.{name}_pmr1", 100 * np.mean([recall_at(similarity, relevance, 1) for relevance in relevances])
        precisions = [METRICS["pmrp"].function(similarity, relevance) for relevance in relevances]
        yield f"output.{name}_rprecision_per_query", np.stack(precisions)


def label_noise(entry, z, monkeypatch):
    n_classes, seed = entry["settings"]["K"], entry["settings"]["seed"]
    labels = one_hot(z["input.labels"], n_classes)
    for found in matching(entry, r"output\.noisy_labels_(?P<mode>\w+)_ratio(?P<rate>\w+)"):
        views = (Modality(name=f"view {v}", labels=labels) for v in range(len(z[found[0]])))
        options = {"legacy_seed": seed, "mode": found["mode"], "release": "head"}
        given = corrupt(
            PairedSet(modalities=tuple(views)), Noise("mrl_legacy", number(found["rate"]), 0, options), family="golden"
        )
        yield found[0], np.stack([class_numbers(m.labels) for m in given.train.modalities])


def pair_noise(scheme, entry):
    """Matches of the outputs that hold the image of every caption, each with the split under that noise."""
    n, captions = entry["settings"]["N"], entry["settings"]["captions_per_image"]
    pairs = np.stack([np.arange(n) // captions, np.arange(n)], axis=1)
    vectors = (Modality(name=name, vectors=Rows(np.zeros((size, 1)))) for name, size in (("image", n // captions), ("text", n)))
    split = PairedSet(modalities=tuple(vectors), pairs=pairs)
    for found in matching(entry, r"output\.image_of_caption_(?P<case>N\d+_ratio(?P<rate>\w+)_seed(?P<seed>\d+))"):
        noise = Noise(scheme, number(found["rate"]), 0, {"legacy_seed": int(found["seed"])})
        yield found, corrupt(split, noise, family="golden").train


def caption_noise(entry, z, monkeypatch):
    for found, given in pair_noise("ncr_legacy", entry):
        yield found[0], given.pairs[:, 0]
        yield f"output.clean_{found['case']}", given.clean_pairs.astype(np.int64)


def image_noise(entry, z, monkeypatch):
    for found, given in pair_noise("decl_legacy", entry):
        yield found[0], given.pairs[:, 0]
        yield f"output.image_of_image_{found['case']}", given.pairs[:: entry["settings"]["captions_per_image"], 0]


COMPUTED = {
    "noise_ncr": caption_noise,
    "noise_decl": image_noise,
    "mrl_rc": robust_clustering,
    "mrl_mc": multimodal_contrastive,
    "mrl_net": network,
    "mrl_step_rc": steps,
    "mrl_step_ce": steps,
    "map_official": mean_average_precisions,
    "noise_mrl": label_noise,
    "recall_metrics": recalls,
    "pmrp": plausible_matches,
    **golden_deep.COMPUTED,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_equals_the_released_code(name, index, monkeypatch):
    if name not in index:
        pytest.skip(f"{GOLDEN} holds no fixture {name}")
    entry = index[name]
    z, tolerance = arrays_of(entry), entry["tolerance"]
    compared = {}
    for output, value in COMPUTED[name](entry, z, monkeypatch):
        expected, got = z[output], np.asarray(value)
        assert got.shape == expected.shape, output
        allowed = 0 if tolerance.get("exact") else tolerance["float64"] * max(1, np.abs(expected).max())
        compared[output] = np.abs(got - expected).max() <= allowed
    assert [output for output, equal in compared.items() if not equal] == []
    assert set(compared) == set(entry["outputs"])


def test_there_was_something_to_compare(index):
    assert set(COMPUTED) & set(index)
