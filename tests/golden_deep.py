"""What the fixtures of DSCMR, SDML and FGCrossNet hold, computed by our functions: generators of (output, its value)."""

import re

import numpy as np
import torch

from baselines import dscmr, fgcrossnet, sdml
from xmbench import FitContext, Modality, PairedSet, Rows, build_method, one_hot


def recorded(monkeypatch, module, *terms):
    """Term -> list that every later call of the module's function of that name adds its value to."""
    values = {term: [] for term in terms}

    def recording(function, kept):
        return lambda *args: kept.append(function(*args)) or kept[-1]

    for term, kept in values.items():
        monkeypatch.setattr(module, term, recording(getattr(module, term), kept))
    return values


def dscmr_losses(entry, z, monkeypatch):
    settings = entry["settings"]
    method = build_method("dscmr", alpha=settings["alpha"], beta=settings["beta"])
    terms = recorded(monkeypatch, dscmr, "label_regression", "pairwise_likelihood", "modality_gap")
    views = ("image", "text")
    for case, sources in {"same": ("image", "image"), "noisy": views}.items():
        given = {f"{v}_{kind}": torch.from_numpy(z[f"input.{v}_{kind}"]) for kind in ("feature", "scores") for v in views}
        features, scores = (
            torch.stack([given[f"{v}_{kind}"].requires_grad_() for v in views]) for kind in ("feature", "scores")
        )
        hot = [one_hot(z[f"input.{source}_labels"], scores.shape[2]) for source in sources]
        for kept in terms.values():
            kept.clear()
        loss = method.loss(features, scores, torch.from_numpy(np.stack(hot)).double())
        loss.backward()
        regression, likelihood, gap = (torch.stack(kept).detach() for kept in terms.values())
        yield f"output.{case}.total", loss.detach()
        yield f"output.{case}.term1", regression.sum()
        yield f"output.{case}.term2", likelihood.sum()
        for name, value in zip(("image_image", "image_text", "text_text"), likelihood, strict=True):
            yield f"output.{case}.term2_{name}", value
        yield f"output.{case}.term3", gap.sum()
        for name, leaf in given.items():
            yield f"grad.{case}.{name}", leaf.grad
            leaf.grad = None


def dscmr_network(entry, z, monkeypatch):
    settings = entry["settings"]
    sizes = {view: settings[f"{view}_dim"] for view in ("image", "text")}
    nets = dscmr.SharedNetworks(sizes, settings["hidden"], settings["feature"], settings["classes"]).double()
    layers = {"image_fc": "first.image", "text_fc": "first.text", "shared_fc": "shared", "shared_classifier": "classifier"}
    weights = {}
    for name in entry["parameters"]:
        _, layer, kind = name.split(".")
        weights[f"{layers[layer]}.{kind}"] = torch.from_numpy(z[name])
    nets.load_state_dict(weights)
    for view in sizes:
        features = nets(view, torch.from_numpy(z[f"input.{view}s"])).detach()
        yield f"output.{view}_feature", features
        yield f"output.{view}_scores", nets.classifier(features).detach()


def autoencoders_of(entry, z):
    """LabelAutoencoders in float64 with the fixture's weights as modality "image", and the fixture's names -> parameters."""
    hidden, size = z["param.encoder.layer1.weight"].shape
    dim, n_classes = z["input.projection"].shape
    images = Modality(name="image", vectors=Rows(np.zeros((1, size))), labels=one_hot(np.zeros(1, dtype=int), n_classes))
    other = Modality(name="text", vectors=Rows(np.zeros((1, 1))), labels=images.labels)
    nets = sdml.LabelAutoencoders(PairedSet(modalities=(images, other)), hidden, dim, FitContext()).double()
    parameters = {}
    for name in entry["parameters"]:
        part, layer, kind = re.fullmatch(r"param\.(\w+)\.layer(\d)\.(\w+)", name).groups()
        parameter = nets.get_parameter(f"{part}s.image.{2 * (int(layer) - 1)}.{kind}")
        parameter.data.copy_(torch.from_numpy(z[name]))
        parameters[name.removeprefix("param.")] = parameter
    nets.projection.copy_(torch.from_numpy(z["input.projection"]))
    return nets, parameters


def sdml_steps(entry, z, monkeypatch):
    settings = entry["settings"]
    method = build_method("sdml", alpha=settings["alpha"])
    method.nets_, parameters = autoencoders_of(entry, z)
    vectors = torch.from_numpy(z["input.features"])
    labels = torch.from_numpy(one_hot(z["input.labels"], z["input.projection"].shape[1])).double()
    embeddings = method.nets_("image", vectors).detach()
    yield "output.embedding", embeddings
    yield "output.label_predictions", embeddings @ method.nets_.projection
    rebuilt, compared = sdml.reconstruction_error, []
    monkeypatch.setattr(sdml, "reconstruction_error", lambda *args: compared.append(args[0].detach()) or rebuilt(*args))
    terms = recorded(monkeypatch, sdml, "label_regression", "reconstruction_error")
    optimiser = torch.optim.Adam(parameters.values(), lr=settings["lr"], betas=settings["betas"], fused=True)
    weights = {"label": 1 - settings["alpha"], "reconstruction": settings["alpha"]}
    for step in range(1, 1 + max(int(found[1]) for name in entry["outputs"] if (found := re.search(r"step(\d+)$", name)))):
        yield f"output.total_step{step}", method.step({"image": vectors}, {"image": labels}, optimiser)
        for (name, weight), kept in zip(weights.items(), terms.values(), strict=True):
            yield f"output.weighted_{name}_term_step{step}", weight * kept[-1].detach()
            if step == 1:
                yield f"output.{name}_term", kept[0].detach()
        for name, parameter in parameters.items():
            if step == 1:
                yield f"grad.{name}", parameter.grad.clone()
            if f"after{step}.{name}" in entry["outputs"]:
                yield f"after{step}.{name}", parameter.detach().clone()
    yield "output.reconstruction", compared[0]


def fgcross_losses(entry, z, monkeypatch):
    labels, settings = torch.from_numpy(z["input.labels"]), entry["settings"]
    margins = settings["margin"], settings["margin2"]
    embeddings, centres = (torch.from_numpy(z[f"input.{name}"]).requires_grad_() for name in ("embeddings", "centers"))
    loss = fgcrossnet.centre_loss(embeddings, labels, centres)
    loss.backward()
    yield "output.center_loss", loss.detach()
    yield "grad.center_loss.embeddings", embeddings.grad
    yield "grad.center_loss.centers", centres.grad
    for case, scale in (("wide", 1.0), ("narrow", settings["narrow_scale"])):
        scaled = (embeddings.detach() * scale).requires_grad_()
        loss = fgcrossnet.quadruplet_loss(scaled, labels, *margins)
        loss.backward()
        yield f"output.ranking_loss_{case}", loss.detach()
        yield f"grad.ranking_loss_{case}.embeddings", scaled.grad
        yield f"output.ranking_loss_squared_{case}", fgcrossnet.quadruplet_loss(scaled, labels, *margins, True).detach()
        quadruplets = fgcrossnet.all_quadruplets(labels)
        above = fgcrossnet.quadruplet_terms(scaled, quadruplets, *margins, False, True) > 0
        share = above.sum() * torch.tensor(float(above.numel())).reciprocal()  # the code divides in single precision, so
        yield f"output.fraction_positive_{case}", share.double()


COMPUTED = {
    "dscmr_loss": dscmr_losses,
    "dscmr_net": dscmr_network,
    "sdml_loss": sdml_steps,
    "fgcross_losses": fgcross_losses,
}
