"""The contract that every registered method keeps, on planted data with its own smoke setting; and each method by hand."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tiny_clip
import torch
from sklearn import cross_decomposition

from baselines import (
    _co_rectify,
    acmr,
    bicro,
    ce,
    clip_adapter,
    clip_finetune,
    coteaching,
    crcl,
    dcca,
    dccae,
    decl,
    deep_sm,
    dividemix_sgr,
    dscmr,
    elr,
    fgcrossnet,
    gce,
    imram,
    infonce,
    labelwise,
    lnc,
    miech,
    mrl,
    naaf,
    rcl,
    robust_infonce,
    saf,
    scan,
    sce,
    sdml,
    sgr,
    sgr_clean,
    sgr_star,
    sgraf,
    smln,
    vse,
    vsrn,
)
from xmbench import FitContext, Noise, build_method, corrupt, method_names, unit_rows
from xmbench.contract import CHECKS, Inapplicable
from xmbench.evaluate import embed_split, measure
from xmbench.registry import find_method, parameters_of
from xmbench.run import fit_method
from xmbench.spec import load_protocol
from xmbench.subject import Subject
from xmbench.subject import planted as data

METHODS = [name for name in method_names() if name != "precomputed"]  # which learns nothing: test_precomputed.py
ITERATIVE = [name for name in METHODS if "epochs" in parameters_of(find_method(name))]
TERMS = [
    (mrl, "mrl", "robust_clustering"),
    (mrl, "mrl", "multimodal_contrastive"),
    (ce, "ce", "cross_entropy"),
    (gce, "gce", "generalised_cross_entropy"),
    (sce, "sce", "symmetric_cross_entropy"),
    (elr, "elr", "early_learning"),
    (elr, "elr", "cross_entropy"),
    (coteaching, "coteaching", "peer_loss"),
    (dcca, "dcca", "correlation_loss"),
    (dccae, "dccae", "correlation_loss"),
    (dccae, "dccae", "reconstruction_error"),
    (sdml, "sdml", "label_regression"),
    (sdml, "sdml", "reconstruction_error"),
    (dscmr, "dscmr", "label_regression"),
    (dscmr, "dscmr", "pairwise_likelihood"),
    (dscmr, "dscmr", "modality_gap"),
    (smln, "smln", "balanced_spectrum"),
    (deep_sm, "deep_sm", "cross_entropy"),
    (acmr, "acmr", "cross_entropy"),
    (acmr, "acmr", "triplet_loss"),
    (fgcrossnet, "fgcrossnet", "cross_entropy"),
    (fgcrossnet, "fgcrossnet", "centre_loss"),
    (fgcrossnet, "fgcrossnet", "sampled_quadruplet_loss"),
    (labelwise, "labelwise", "label_loss"),
    (labelwise, "labelwise", "mask_loss"),
    (vse, "vse", "hard_triplet"),
    (vsrn, "vsrn", "hard_triplet"),
    (vsrn, "vsrn", "caption_loss"),
    (naaf, "naaf", "hard_triplet"),
    (scan, "scan", "hard_triplet"),
    (imram, "imram", "hard_triplet"),
    (saf, "saf", "hard_triplet"),
    (sgr, "sgr", "hard_triplet"),
    (sgraf, "sgraf", "hard_triplet"),
    (sgr_star, "sgr_star", "hard_triplet"),
    (sgr_star, "sgr_star", "mean_triplet"),
    (sgr_clean, "sgr_clean", "hard_triplet"),
    (sgr_clean, "sgr_clean", "mean_triplet"),
    (_co_rectify, "ncr", "hard_triplet"),
    (_co_rectify, "ncr", "mean_triplet"),
    (_co_rectify, "lnc", "hard_triplet"),
    (lnc, "lnc", "mean_triplet"),
    (dividemix_sgr, "dividemix_sgr", "hard_triplet"),
    (dividemix_sgr, "dividemix_sgr", "mean_triplet"),
    (bicro, "bicro", "hard_triplet"),
    (bicro, "bicro", "selected_mean"),
    (decl, "decl", "evidential"),
    (decl, "decl", "dynamic_hinge"),
    (rcl, "rcl", "complementary_contrastive"),
    (crcl, "crcl", "active_complementary"),
    (miech, "miech", "max_margin"),
    (infonce, "infonce", "info_nce"),
    (robust_infonce, "robust_infonce", "bounded_info_nce"),
    (clip_adapter, "clip_adapter", "symmetric_cross_entropy"),
    (clip_finetune, "clip_finetune", "symmetric_cross_entropy"),
]
PER_ITEM = {  # bytes of training state per item
    "elr": 2 * 10 * 4,  # a target (10 classes, float32) per modality
    "ncr": 2 * 8,  # a weight per network and pair
    "lnc": 2 * (8 + 4),  # and gamma
    "dividemix_sgr": 2 * 8,
    "bicro": 2 * 8,
    "decl": 8,
    "crcl": 4,
}


TO_LEARN = {  # on so little data these three collapse under the hardest of more than a few negatives
    "sgr": {"batch_size": 2},
    "saf": {"batch_size": 2},
    "sgraf": {"batch_size": 4, "epochs": 3},
    "dividemix_sgr": {"warm_up": 8},  # longer than their smoke settings may take
    "bicro": {"warm_up": 10, "warm_up_share": 0.9},
}


ON_DISK = {"clip_finetune": {"checkpoint": tiny_clip.checkpoint()}}  # what a smoke setting cannot say


def data_for(name, **parameters):
    """Planted data with regions and words beside the vectors, where the method reads them; for zero_shot in one space."""
    if name == "zero_shot":
        return tiny_clip.in_one_space(data(**parameters))
    return data(**({"regions": 4} if smoke(name).needs() & {"sequences", "tokens"} else {}), **parameters)


def smoke(name, **parameters):
    return build_method(name, **{**find_method(name).info.smoke, **ON_DISK.get(name, {}), **parameters})


def noisy(split, rate, seed=0):
    return corrupt(split, Noise("symmetric", rate, seed), family="synthetic").train


def fitted(name, train, context=None, **parameters):
    method = smoke(name, **parameters)
    fit_method(method, train, context or FitContext())
    return method


@cache
def subject(name):
    """The method as the contract looks at it."""
    return Subject(
        name=name,
        parameters=ON_DISK.get(name, {}),
        to_learn=TO_LEARN.get(name, {}),
        some_epochs=SIX_EPOCHS.get(name),
        bytes_per_item=PER_ITEM.get(name, 0),
        load=(lambda **parameters: tiny_clip.in_one_space(data(**parameters))) if name == "zero_shot" else data,
    )


def clean_fit(name):
    """The method fitted on the clean training split: made once for all tests that only look at it."""
    return subject(name).clean


def networks(method, modality):
    """Embedding values of each network."""
    made = method.embed(replace(modality, labels=None, item_ids=None))
    return [embedding.values for embedding in (made if isinstance(made, list) else [made])]


def embedded(method, split):
    """All embeddings of a split as one list of arrays."""
    return [values for modality in split.modalities for values in networks(method, modality)]


def assert_same_bits(first, second, split):
    pairs = list(zip(embedded(first, split), embedded(second, split), strict=True))
    assert all(np.array_equal(a, b) for a, b in pairs)


def scores(method, split, metric="map"):
    """The metric and its chance level in every direction, their mean as "mean"."""
    measured = measure(method, split, embed_split(method, split, "float32", 0), load_protocol("default"), curves=False)
    return {m.direction: (m.value, m.chance) for m in measured.measures if (m.metric, m.network) == (metric, "mean")}


# The contract

CLAUSES = [(name, clause) for name in METHODS for clause in CHECKS if (name, clause) != ("random", "beats_chance")]
SIX_EPOCHS = {  # of methods with more stages than a warm-up
    "dividemix_sgr": {"warm_up": 1, "filter_epochs": 1, "epochs": 3},
    "crcl": {"restarts": 1, "restart_epochs": 1, "frozen": 1, "epochs": 3},
}


@pytest.mark.parametrize(("name", "clause"), CLAUSES, ids=[f"{name}-{clause}" for name, clause in CLAUSES])
def test_keeps_the_contract(name, clause):
    try:
        assert CHECKS[clause].run(subject(name)) == ""
    except Inapplicable:
        iterative = {"epochs", "resumes", "validation", "state_size"}
        assert (name not in ITERATIVE and clause in iterative) or (clause == "beats_chance" and not smoke(name).retrieves())


def test_random_does_not_beat_chance():
    assert all(abs(value - chance) < 0.02 for value, chance in subject("random").scores(clean_fit("random"), "map").values())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_grows_with_the_data_as_it_says_and_is_empty_without_epochs(name):
    small, large, n_epochs = subject(name).state
    assert large - small == 100 * PER_ITEM.get(name, 0)
    assert (small > 0) == (n_epochs > 0) == (name in ITERATIVE)


@pytest.mark.parametrize(("module", "name", "term"), TERMS, ids=[f"{name}-{term}" for _, name, term in TERMS])
def test_fit_calls_the_loss_that_the_golden_tests_check(module, name, term, monkeypatch):
    before = embedded(clean_fit(name), data_for(name).valid)
    monkeypatch.setattr(module, term, lambda scores, *rest: (scores**2).mean())
    after = embedded(fitted(name, data_for(name).train), data_for(name).valid)
    assert not any(np.allclose(a, b, atol=1e-3) for a, b in zip(before, after, strict=True))


# Resuming inside a fit, and validation


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_damaged_checkpoint_begins_anew(name, tmp_path):
    path = tmp_path / "fit.pt"
    subject(name).watch(path, stop_at=3)
    path.write_bytes(path.read_bytes()[:100])
    whole, resumed = subject(name).watched, subject(name).watch(path)
    assert len(whole[2]) == len(resumed[2]) == 6
    assert_same_bits(resumed[0], whole[0], data_for(name).valid)


@pytest.mark.parametrize("name", ITERATIVE)
def test_every_stage_ends_with_a_validation(name):
    assert len(subject(name).watched_rarely[2]) == 2 + (name in SIX_EPOCHS)


# MRL and CE by hand


@pytest.mark.parametrize("tau", [1.0, 0.2])
@pytest.mark.parametrize("n_classes", [2, 10, 100])
def test_robust_clustering_is_the_log_of_what_the_true_class_leaves(n_classes, tau):
    uniform = torch.zeros(4, n_classes, dtype=torch.float64)
    labels = torch.arange(4) % n_classes
    assert mrl.robust_clustering(uniform, labels, tau).item() == pytest.approx(math.log(1 - 1 / n_classes), abs=1e-12)
    scores = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, n_classes))).requires_grad_()
    p = torch.softmax(scores.detach() / tau, dim=1)
    true = p[torch.arange(4), labels]
    loss = mrl.robust_clustering(scores, labels, tau)
    assert loss.item() == pytest.approx(torch.log(1 - true).mean().item(), abs=1e-9)
    loss.backward()
    expected = p * (true / (1 - true))[:, None]
    expected[torch.arange(4), labels] = -true
    assert torch.allclose(scores.grad, expected / tau / 4, atol=1e-9)


def test_robust_clustering_stays_finite_where_the_softmax_rounds_to_one():
    scores = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss = mrl.robust_clustering(scores, torch.tensor([0]), 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(-200.0)
    assert scores.grad.tolist() == [[pytest.approx(-100.0), pytest.approx(100.0)]]


def contrast(*views, tau=1.0):
    return mrl.multimodal_contrastive(torch.from_numpy(np.stack(views)), tau).item()


def test_multimodal_contrast_has_its_closed_forms():
    n, eye = 7, np.eye(7)
    same = np.tile(eye[0], (n, 1))
    assert contrast(same, same) == pytest.approx(2 * math.log(2 * n - 1))
    assert contrast(eye, eye) == pytest.approx(2 * (math.log(math.e + 2 * n - 2) - 1))
    assert contrast(eye, eye, tau=0.5) == pytest.approx(2 * (math.log(math.e**2 + 2 * n - 2) - 2))
    assert contrast(eye[:1], eye[1:2]) == pytest.approx(0.0), "one instance alone"
    assert contrast(eye, eye, eye) == pytest.approx(2 * (math.log(2 * math.e + 3 * n - 3) - math.log(2 * math.e)))


def test_multimodal_contrast_knows_neither_axes_nor_order():
    rng = np.random.default_rng(0)
    x, y = (unit_rows(rng.standard_normal((6, 4))) for _ in range(2))
    rotation, order = np.linalg.qr(rng.standard_normal((4, 4)))[0], rng.permutation(6)
    value = contrast(x, y)
    for other in (contrast(x @ rotation, y @ rotation), contrast(x[order], y[order]), contrast(y, x)):
        assert other == pytest.approx(value)
    assert contrast(x, y[order]) != pytest.approx(value)
    bounds = [2 * math.log1p(10 * math.exp(sign * 2)) for sign in (-1, 1)]
    assert bounds[0] <= value <= bounds[1]


def test_contrast_alone_is_bit_identical_under_any_label_noise():
    train = data(train=120).train
    results = []
    for rate in (0.0, 0.4, 1.0):
        method = smoke("mrl", beta=0.0, epochs=2)
        context = FitContext()
        context.seed_torch()
        method.fit(noisy(train, rate), context)  # with labels in sight, which the harness would strip
        results.append(method)
    results.append(fitted("mrl", noisy(train, 0.4), beta=0.0, epochs=2))
    assert_same_bits(results[0], results[1], data().valid)
    assert_same_bits(results[0], results[2], data().valid)
    assert_same_bits(results[3], fitted("mrl", train, beta=0.0, epochs=2), data().valid)
    assert results[3].nets_.prototypes is None, "what is stripped cannot be read"


def test_prototypes_have_unit_length_in_every_forward(monkeypatch):
    norms, forward = [], mrl.PrototypeNetworks.scores
    monkeypatch.setattr(
        mrl.PrototypeNetworks, "scores", lambda nets, z: norms.append(nets.prototypes.norm(dim=0)) or forward(nets, z)
    )
    fitted("mrl", data(train=120).train, epochs=3)
    assert len(norms) == 3 * 2 * 2, "epochs, batches of 100 out of 120, modalities"
    assert torch.allclose(torch.stack(norms), torch.ones(1), atol=1e-6)


def test_cross_entropy_on_cosines_has_a_floor():
    context = FitContext()
    fitted("ce", data().train, context, epochs=40)
    losses = [row["loss"] / 2 for row in context.history]
    floor = math.log(1 + 9 / math.e)  # cosine 1 with the own prototype, 0 with the nine others
    assert floor == pytest.approx(1.461, abs=1e-3)
    assert floor - 0.3 < losses[-1] < losses[0] < math.log(10) + 0.1


def test_more_classes_than_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"dim >= number of classes, got 4 < 10; raise dim"):
        fitted("mrl", data().train, dim=4)


# CCA, MCCA and PLS by hand


def hadamard(columns):
    """Columns of the 8 x 8 Hadamard matrix, without the constant one: centred, of variance 1, uncorrelated."""
    h = np.array([[1.0]])
    for _ in range(3):
        h = np.block([[h, h], [h, -h]])
    return h[:, 1 : 1 + columns]


def plain(name, split, **parameters):
    method = build_method(name, **parameters)
    method.fit(split, FitContext())
    return method


def correlated(n=300, seed=0):
    """Views (n, 5) and (n, 4) with two latent variables in common."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 2))
    return [latent @ rng.standard_normal((2, d)) + rng.standard_normal((n, d)) for d in (5, 4)]


@pytest.mark.parametrize("name", ["cca", "mcca", "pls"])
def test_a_dimension_above_the_rank_is_clipped_and_said_so(name, paired, caplog):
    x, y = correlated()
    split = paired({"image": x, "text": y})
    method = plain(name, split, dim=9, **({"energy": 1.0} if name == "mcca" else {}))
    assert method.embed(split.modalities[0]).values.shape == (300, 4)
    assert f"{name}.dim is 9, but" in caplog.text and "has 4: 4 is used" in caplog.text
    caplog.clear()
    plain(name, split, dim=3)
    assert caplog.text == ""


@pytest.mark.parametrize("ridge", [1e-9, 0.5])
def test_cca_finds_planted_correlations(paired, ridge):
    h, planted = hadamard(5), np.array([0.8, 0.3])
    second = h[:, :2] * planted + h[:, 2:4] * np.sqrt(1 - planted**2)
    method = plain("cca", paired({"image": h[:, :2], "text": second}), dim=2, ridge=ridge)
    np.testing.assert_allclose(method.correlations_, planted / (1 + ridge), atol=1e-6)


def test_cca_agrees_with_scikit_learn(paired):
    x, y = correlated()
    method = plain("cca", paired({"image": x, "text": y}), dim=3, ridge=1e-9)
    scores = cross_decomposition.CCA(n_components=3, max_iter=5000, tol=1e-12).fit(x, y).transform(x, y)
    expected = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(*(s.T for s in scores), strict=True)]
    np.testing.assert_allclose(method.correlations_, expected, atol=1e-4)


def test_cca_projections_are_white_and_survive_linear_maps(paired):
    x, y = correlated()
    split = paired({"image": x, "text": y})
    method = plain("cca", split, dim=4, ridge=1e-9)
    a, b = (method.embed(m).values for m in split.modalities)
    np.testing.assert_allclose(a.T @ a / len(a), np.eye(4), atol=1e-5)
    np.testing.assert_allclose(a.T @ b / len(a), np.diag(method.correlations_), atol=1e-5)
    mapped = x @ np.random.default_rng(1).standard_normal((5, 5)) + 3
    np.testing.assert_allclose(
        plain("cca", paired({"image": mapped, "text": y}), dim=4, ridge=1e-9).correlations_, method.correlations_, atol=1e-5
    )
    same = plain("cca", paired({"image": x, "text": mapped}), dim=5, ridge=1e-9)
    np.testing.assert_allclose(same.correlations_, 1, atol=1e-4)
    weighted = plain("cca", split, dim=4, ridge=1e-9, power=2.0).embed(split.modalities[0]).values
    np.testing.assert_allclose(weighted, a * method.correlations_**2, atol=1e-8)


def standardised(values):
    return values / values.std(axis=0)


def test_mcca_of_two_modalities_is_cca(paired):
    x, y = correlated()
    split, c = paired({"image": x, "text": y}), 0.2
    cca, mcca = plain("cca", split, dim=4, ridge=c / (1 - c)), plain("mcca", split, dim=4, ridge=c, energy=1.0)
    first, second = ([standardised(method.embed(m).values) for m in split.modalities] for method in (cca, mcca))
    signs = np.sign((first[0] * second[0]).sum(axis=0))
    for ours, theirs in zip(second, first, strict=True):
        np.testing.assert_allclose(ours * signs, theirs, atol=1e-5)
    np.testing.assert_allclose(second[0].std(axis=0), 1)


def test_mcca_of_three_modalities(paired):
    x, y = correlated()
    split = paired({"image": x, "text": y, "audio": x})
    method = plain("mcca", split, dim=3, energy=1.0)
    image, text, audio = (method.embed(m).values for m in split.modalities)
    np.testing.assert_allclose(image, audio, atol=1e-6)
    assert abs(np.corrcoef(image[:, 0], text[:, 0])[0, 1]) > 0.6
    split = data(modalities=3)
    directions = scores(fitted("mcca", split.train, dim=16), split.tests["test"])
    assert len(directions) == 7
    assert all(value > chance + 0.05 for value, chance in directions.values())


def test_mcca_keeps_the_components_that_hold_the_energy():
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((50, 4)))[0] * np.sqrt([0.6, 0.3, 0.08, 0.02])
    kept = [build_method("mcca", energy=energy)._components(x).shape[1] for energy in (0.5, 0.85, 0.95, 0.99, 1.0)]
    assert kept == [1, 2, 3, 4, 4]
    assert build_method("mcca", max_components=2)._components(x).shape == (4, 2)


def test_pls_maximises_covariance(paired):
    x, y = correlated()
    split = paired({"image": x, "text": y})
    method = plain("pls", split, dim=3)
    a, b = (method.embed(m).values for m in split.modalities)
    singular = np.linalg.svd((x - x.mean(0)).T @ (y - y.mean(0)) / len(x), compute_uv=False)[:3]
    np.testing.assert_allclose(a.T @ b / len(a), np.diag(singular), atol=1e-5)
    weights = method.weights_["image"]
    np.testing.assert_allclose(weights.T @ weights, np.eye(3), atol=1e-9)
    scaled = plain("pls", paired({"image": 7 * x, "text": y}), dim=3).weights_
    for name, w in method.weights_.items():
        np.testing.assert_allclose(np.abs((scaled[name] * w).sum(axis=0)), 1, atol=1e-6)


def test_pls_follows_a_rotation(paired):
    x, _ = correlated()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    weights = plain("pls", paired({"image": x, "text": x @ rotation}), dim=5).weights_
    np.testing.assert_allclose(weights["text"], rotation.T @ weights["image"], atol=1e-4)


@pytest.mark.parametrize("name", ["cca", "mcca", "pls"])
def test_linear_methods_read_the_pairs(name, paired):
    x, y = correlated()
    order = np.random.default_rng(2).permutation(len(x))
    ordered = paired({"image": x, "text": y})
    jumbled = paired({"image": x, "text": y[order]})
    jumbled = replace(jumbled, pairs=np.stack([order, np.arange(len(x))], axis=1))
    first, second = (
        standardised(plain(name, split, dim=2).embed(ordered.modalities[0]).values) for split in (ordered, jumbled)
    )
    np.testing.assert_allclose(np.abs((first * second).mean(axis=0)), 1, atol=1e-6)
