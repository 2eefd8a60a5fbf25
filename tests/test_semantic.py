"""Methods that tie the modalities by the meaning of the classes, by hand: deep_sm, acmr, fgcrossnet, labelwise."""

import math
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from baselines import acmr, fgcrossnet, labelwise
from xmbench import FitContext, Modality, PairedSet, Rows, build_method, load_dataset, one_hot
from xmbench.device import fast_matmul
from xmbench.metrics import micro_f1
from xmbench.registry import find_method
from xmbench.run import fit_method

METHODS = ("deep_sm", "acmr", "fgcrossnet", "labelwise")
CLASSIFIERS = ("deep_sm", "fgcrossnet", "labelwise")


def synthetic(**parameters):
    return load_dataset("synthetic", **{"train": 120, **parameters})


def fitted(name, train, **parameters):
    """The method with its small setting, and the context that it was fitted in."""
    method, context = build_method(name, **{**find_method(name).info.smoke, "epochs": 3, **parameters}), FitContext()
    fast_matmul()  # as in a run; were it switched between two fits, their last bits would differ
    fit_method(method, train, context)
    return method, context


@cache
def small_fit(name):
    return fitted(name, synthetic().train)[0]


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def numbers(n_items, n_classes, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(n_classes, size=n_items))


# All four


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_class_scores_are_posteriors(name):
    method, text = small_fit(name), synthetic().valid.modalities[1]
    scores = method.class_scores(text)
    assert scores.shape == (100, 10) and scores.min() >= 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["deep_sm", "fgcrossnet"])
def test_posteriors_are_what_is_compared(name):
    method, text = small_fit(name), synthetic().valid.modalities[1]
    embedding = method.embed(text)
    np.testing.assert_array_equal(embedding.values, method.class_scores(text))
    np.testing.assert_allclose(np.diag(method.similarity(embedding, embedding)), 1, atol=1e-6)


def test_pairs_are_read_only_where_the_objective_has_them():
    reads = {name: "pairs" in build_method(name).needs() for name in METHODS}
    assert reads == {"deep_sm": False, "acmr": True, "fgcrossnet": False, "labelwise": False}
    variants = {v: build_method("labelwise", variant=v) for v in ("shared", "consistency", "independent")}
    assert [v for v, method in variants.items() if "pairs" in method.needs()] == ["consistency"]
    assert build_method("labelwise", features="sequences").needs() == {"sequences", "labels"}


def bad_inputs():
    rng = np.random.default_rng(0)

    def split(vectors, *labels, dtype=np.float32):
        views = zip(("image", "text"), (vectors, vectors[:, :5]), labels * (3 - len(labels)), strict=False)
        parts = [Modality(name=n, vectors=Rows(x.astype(dtype)), labels=one_hot(y, 6)) for n, x, y in views]
        return PairedSet(modalities=tuple(parts), pairs=np.stack([np.arange(len(vectors))] * 2, axis=1))

    x, y = rng.standard_normal((12, 8)), np.arange(12) % 6
    return {
        "one class only": (split(x, np.zeros(12, int)), {}),
        "one item per class": (split(x[:6], y[:6]), {}),
        "a batch of one item": (split(x, y), {"batch_size": 1}),
        "a last batch of one item": (split(x, y), {"batch_size": 11}),
        "fewer items than classes": (split(x[:2], y[:2]), {}),
        "a class missing from one modality": (split(x, y, np.minimum(y, 4)), {}),
        "constant features": (split(np.full((12, 8), 3.0), y), {}),
        "features of zeros": (split(np.zeros((12, 8)), y), {}),
        "repeated rows": (split(np.repeat(x[:3], 4, axis=0), y), {}),
        "half precision": (split(x, y, dtype=np.float16), {}),
    }


@pytest.mark.parametrize("case", bad_inputs())
@pytest.mark.parametrize("name", METHODS)
def test_bad_input_leaves_everything_finite(name, case):
    train, options = bad_inputs()[case]
    method, context = fitted(name, train, **options)
    assert np.isfinite([row["loss"] for row in context.history]).all()
    assert all(np.isfinite(method.embed(m).values).all() for m in train.modalities)


@pytest.mark.parametrize("name", METHODS)
def test_double_precision_input_gives_the_same_bits(name):
    train = synthetic().train
    double = [replace(m, vectors=Rows(np.asarray(m.vectors, dtype=np.float64))) for m in train.modalities]
    image = synthetic().valid.modalities[0]
    again = fitted(name, replace(train, modalities=tuple(double)))[0]
    np.testing.assert_array_equal(again.embed(image).values, small_fit(name).embed(image).values)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("deep_sm", {"lr": 0.0}, "deep_sm.lr must be above 0"),
        ("acmr", {"adversary": -1.0}, "adversary must be 0 or above"),
        ("fgcrossnet", {"ranking_share": 1.5}, r"ranking_share must lie in \(0, 1\]"),
        ("labelwise", {"mask_weight": -1.0}, "mask_weight must be 0 or above"),
        ("labelwise", {"mask_rate": 1.0}, r"mask_rate must lie in \[0, 1\)"),
        ("labelwise", {"dim": 30, "heads": 4}, "dim must be a multiple of heads, got 30 and 4"),
    ],
)
def test_parameters_out_of_range_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        build_method(name, **wrong)


# deep_sm


def test_each_network_of_deep_sm_learns_on_its_own():
    train = synthetic().train
    image, text = train.modalities
    other = replace(text, vectors=Rows(np.asarray(text.vectors)[::-1]))
    method = fitted("deep_sm", replace(train, modalities=(image, other)))[0]
    image, text = synthetic().valid.modalities
    np.testing.assert_array_equal(method.embed(image).values, small_fit("deep_sm").embed(image).values)
    assert np.abs(method.embed(text).values - small_fit("deep_sm").embed(text).values).max() > 1e-3


# acmr


def test_the_reversal_is_the_identity_forward_and_turns_the_gradient():
    x = normal(3, 4).requires_grad_()
    out = acmr.reverse_gradient(x, 0.3)
    assert torch.equal(out, x)
    gradient = normal(3, 4, seed=1)
    out.backward(gradient)
    assert torch.allclose(x.grad, -0.3 * gradient)
    assert acmr.reversal_schedule(0.0) == 0.0
    assert acmr.reversal_schedule(0.1) == pytest.approx(math.tanh(0.5))
    assert acmr.reversal_schedule(1.0) == pytest.approx(math.tanh(5.0))


def naive_triplets(first, second, y_first, y_second, margin):
    total, n = 0.0, len(first)
    for anchors, others, y, z in ((first, second, y_first, y_second), (second, first, y_second, y_first)):
        for i in range(n):
            negatives = [((anchors[i] - others[j]) ** 2).sum() for j in range(n) if y[i] != z[j]]
            if negatives:
                total += max(0.0, margin + ((anchors[i] - others[i]) ** 2).sum() - min(negatives)) / n
    return total


@pytest.mark.parametrize("n_classes", [1, 2, 5])
def test_triplets_equal_a_loop(n_classes):
    first, second = normal(7, 3), normal(7, 3, seed=1)
    labels = numbers(7, n_classes), numbers(7, n_classes, seed=1)
    expected = naive_triplets(first.numpy(), second.numpy(), *labels, 0.1)
    got = acmr.triplet_loss(first, second, labels[0][:, None] != labels[1], 0.1)
    assert got.item() == pytest.approx(expected, abs=1e-12)
    assert (expected > 0) == (n_classes > 1)


def test_triplets_vanish_once_negatives_are_farther_by_the_margin():
    first, second = (
        torch.tensor([[0.0], [3.0]]),
        torch.tensor([[1.0], [4.0]]),
    )  # anchors at squared distances 1 and 16, 4, 4, 16
    different = torch.tensor([[False, True], [True, False]])
    assert acmr.triplet_loss(first, second, different, 3.0).item() == 0.0
    assert acmr.triplet_loss(first, second, different, 3.5).item() == pytest.approx(2 * 0.5 / 2)


def test_anchors_without_a_negative_have_no_gradient():
    first, second = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    loss = acmr.triplet_loss(first, second, torch.zeros(4, 4, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0.0 and not first.grad.any()


def test_released_triplets_equal_a_loop():
    first, second, inputs = normal(6, 3), normal(6, 3, seed=1), normal(2, 6, 4, seed=2).abs()
    labels, units = numbers(6, 3), inputs / inputs.norm(dim=2, keepdim=True)
    similar, expected = units @ units.transpose(1, 2), 0.0
    for anchors, others, s in ((first, second, similar[0]), (second, first, similar[1])):
        nearest = [max((j for j in range(6) if labels[j] != labels[i]), key=lambda j, i=i, s=s: s[i, j]) for i in range(6)]
        positive, negative = ((anchors - x).square().sum() / 2 for x in (others, others[nearest]))
        expected += max(0.0, 0.1 + 5 * positive.item() - negative.item())
    got = acmr.released_triplet_loss(first, second, labels[:, None] != labels, list(similar))
    assert got.item() == pytest.approx(expected) and expected > 0


def adversarial(released):
    """Networks, vectors and labels of one batch, and the gradients by module of `loss` on it."""
    train = synthetic().train
    method = build_method("acmr", hidden=16, released=released)
    torch.manual_seed(0)
    method.nets_ = acmr.AdversarialNetworks(train, method.hidden, method.middle, method.dim)
    vectors = {m.name: torch.from_numpy(m.vectors[np.arange(20)]) for m in train.modalities}
    labels = [torch.from_numpy(m.labels[:20].argmax(axis=1)) for m in train.modalities]
    return method, vectors, labels


def test_every_module_is_trained_and_the_embeddings_against_the_modality_head():
    method, vectors, labels = adversarial(released=False)
    gradients = []
    for strength in (0.0, 0.5):
        method.nets_.zero_grad()
        method.loss(vectors, labels, strength).backward()
        gradients.append({name: p.grad.clone() for name, p in method.nets_.named_parameters()})
        assert all(g.abs().max() > 0 for g in gradients[-1].values())
    method.nets_.zero_grad()
    stacked = torch.cat([method.nets_.embedders[name](x) for name, x in vectors.items()])
    cross_entropy(method.nets_.modality_head(stacked), torch.arange(2).repeat_interleave(20)).backward()
    for name, parameter in method.nets_.named_parameters():
        if not name.startswith("label_head"):
            change = gradients[1][name] - gradients[0][name]
            expected = -0.5 * parameter.grad if name.startswith("embedders") else torch.zeros(())
            assert torch.allclose(change, expected, atol=1e-6)
    assert torch.equal(gradients[0]["label_head.weight"], gradients[1]["label_head.weight"])


def test_as_released_neither_the_label_head_nor_the_adversary_trains_the_embeddings():
    train = synthetic().train
    torch.manual_seed(0)
    method, context = build_method("acmr", hidden=16, released=True, epochs=2), FitContext()
    fit_method(method, train, context)
    context = FitContext()
    context.seed_torch()
    start = acmr.AdversarialNetworks(train, method.hidden, method.middle, method.dim).state_dict()
    moved = {name: not torch.equal(value, start[name]) for name, value in method.nets_.state_dict().items()}
    assert {name for name, has in moved.items() if not has} == {"label_head.weight", "label_head.bias"}
    method, vectors, labels = adversarial(released=True)
    method.loss(vectors, labels, 0.0).backward()
    with_head = [p.grad.clone() for p in method.nets_.embedders.parameters()]
    method.nets_.zero_grad()
    torch.nn.init.zeros_(method.nets_.modality_head[2].weight)
    method.loss(vectors, labels, 0.0).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(method.nets_.embedders.parameters(), with_head, strict=True))


def test_the_released_weights_are_100_per_modality_and_1(monkeypatch):
    method, vectors, labels = adversarial(released=True)
    monkeypatch.setattr(acmr, "released_triplet_loss", lambda *given: torch.tensor(1000.0))
    terms = [torch.tensor(3.0), torch.tensor(0.25)]  # of labels, then of modalities
    monkeypatch.setattr(acmr, "cross_entropy", lambda *given: terms.pop(0))
    assert method.loss(vectors, labels, 0.0).item() == 200 * 3 + 1000 + 0.25


@pytest.mark.parametrize(("adversary", "low", "high"), [(0.0, 0.7, 1.0), (1.0, 0.4, 0.6)])
def test_the_modality_head_is_left_at_chance_by_the_adversary(adversary, low, high):
    data = synthetic(train=400)
    method = fitted("acmr", data.train, adversary=adversary, epochs=16)[0]
    hits = []
    for number, modality in enumerate(data.tests["test"].modalities):
        guesses = method.nets_.modality_head(torch.from_numpy(method.embed(modality).values)).argmax(dim=1)
        hits.append((guesses == number).float().mean().item())
    assert low < np.mean(hits) < high


# fgcrossnet


def test_centre_loss_is_the_mean_squared_distance_from_the_own_centre():
    centres, labels = normal(4, 4), numbers(9, 4)
    assert fgcrossnet.centre_loss(centres[labels], labels, centres).item() == 0.0
    shift = normal(9, 4, seed=1)
    expected = np.mean([sum(v**2 for v in row) for row in shift.tolist()])
    assert fgcrossnet.centre_loss(centres[labels] + shift, labels, centres).item() == pytest.approx(expected)


def naive_quadruplets(x, y, margin, second_margin, squared, joint):
    """Mean of the hinges above 0 in a loop over all fours of items."""

    def d(i, j):
        square = float(((x[i] - x[j]) ** 2).sum())
        return square if squared else math.sqrt(square)

    above = []
    for a, p, n, o in product(range(len(x)), repeat=4):
        if a != p and y[a] == y[p] and len({int(y[a]), int(y[n]), int(y[o])}) == 3:
            parts = d(a, p) - d(a, n) + margin, d(a, p) - d(n, o) + second_margin
            term = max(0.0, sum(parts)) if joint else sum(max(0.0, part) for part in parts)
            above += [term] * (term > 0)
    return np.mean(above) if above else 0.0


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("joint", [False, True])
def test_quadruplets_equal_a_loop_over_the_fourth_power(squared, joint):
    x, y = normal(8, 3), torch.tensor([0, 0, 1, 2, 1, 3, 2, 0])
    expected = naive_quadruplets(x.numpy(), y, 1.0, 0.5, squared, joint)
    got = fgcrossnet.quadruplet_loss(x, y, 1.0, 0.5, squared, joint).item()
    assert got == pytest.approx(expected, abs=1e-12) and got > 0.1
    order = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    assert fgcrossnet.quadruplet_loss(x[order], y[order], 1.0, 0.5, squared, joint).item() == pytest.approx(got)


def test_quadruplets_vanish_when_separated_and_without_three_classes():
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    apart = (10.0 * torch.eye(3)[y]).requires_grad_()
    assert fgcrossnet.quadruplet_loss(apart, y, 1.0, 0.5).item() == 0.0
    assert fgcrossnet.quadruplet_loss(apart, y.clamp_max(1), 1.0, 0.5).item() == 0.0
    together = torch.ones(6, 3, requires_grad=True)
    loss = fgcrossnet.quadruplet_loss(together, y, 1.0, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert together.grad.tolist() == [[0.0] * 3] * 6, "no direction is better, and none is NaN"


def test_joint_and_separate_hinges_by_hand():
    x, y = torch.tensor([[0.0], [0.0], [0.25], [5.0]]), torch.tensor([0, 0, 1, 2])
    # Both (a, p): n = .25, n' = 5 gives 0 - .25 + 1 = .75 and 0 - 4.75 + .5 = -4.25; n = 5, n' = .25 gives -4 and -4.25.
    assert fgcrossnet.quadruplet_loss(x, y, 1.0, 0.5, joint=True).item() == 0.0
    assert fgcrossnet.quadruplet_loss(x, y, 1.0, 0.5, joint=False).item() == pytest.approx(0.75)


def test_drawn_quadruplets_are_uniform_over_all():
    labels = np.array([3, 0, 0, 1, 3, 3, 1, 7, 0])
    every = fgcrossnet.all_quadruplets(torch.from_numpy(labels)).numpy()
    n_drawn = 200 * every.shape[1]
    drawn = fgcrossnet.draw_quadruplets(labels, n_drawn, np.random.default_rng(0))
    place = len(labels) ** np.arange(4)
    found, counts = np.unique(place @ drawn, return_counts=True)
    assert set(found) == set(place @ every)
    statistic = ((counts - 200) ** 2 / 200).sum()  # chi-square with Q - 1 degrees of freedom
    assert abs(statistic - (len(found) - 1)) < 4 * math.sqrt(2 * len(found))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 3], [4], [2, 2, 2]])
def test_nothing_is_drawn_where_there_is_no_quadruplet(labels):
    assert fgcrossnet.draw_quadruplets(np.array(labels), 10, np.random.default_rng(0)).shape == (4, 0)
    assert fgcrossnet.all_quadruplets(torch.tensor(labels)).shape == (4, 0)


def test_the_sampled_loss_is_exact_when_all_are_drawn_and_else_right_on_average():
    x, y, rng = normal(10, 3), numbers(10, 4), np.random.default_rng(0)
    exact = fgcrossnet.quadruplet_loss(x, y, 1.0, 0.5).item()
    every = fgcrossnet.all_quadruplets(y)
    assert fgcrossnet.sampled_quadruplet_loss(x, every[:, torch.randperm(every.shape[1])], 1.0, 0.5).item() == pytest.approx(
        exact
    )
    draws = [torch.from_numpy(fgcrossnet.draw_quadruplets(y.numpy(), 20, rng)) for _ in range(400)]
    sampled = np.array([fgcrossnet.sampled_quadruplet_loss(x, drawn, 1.0, 0.5).item() for drawn in draws])
    error = sampled.std() / math.sqrt(len(sampled))
    assert 0 < error < 0.02 * exact
    assert abs(sampled.mean() - exact) < 4 * error


@pytest.mark.parametrize("share", [1 / 3, 0.5, 1.0])
def test_quadruplets_are_ranked_in_the_second_stage_which_alone_can_be_selected(share, monkeypatch):
    calls, original = [], fgcrossnet.sampled_quadruplet_loss
    monkeypatch.setattr(fgcrossnet, "sampled_quadruplet_loss", lambda *given: calls.append(context.epoch) or original(*given))
    method, context = build_method("fgcrossnet", hidden=16, dim=8, epochs=6, ranking_share=share), FitContext()
    fit_method(method, synthetic().train, context)
    first = 6 - round(6 * share)
    assert calls == sorted([*range(first, 6)] * 2), "120 items in batches of 64"
    assert [row["selectable"] for row in context.history] == [0.0] * first + [1.0] * (6 - first)


def test_the_shared_layers_of_fgcrossnet_sum_the_gradients_of_both_modalities():
    train = synthetic().train
    method = build_method("fgcrossnet", hidden=16, dim=8)
    method.nets_ = fgcrossnet.SharedNetwork(train, 16, 8)
    vectors = {m.name: torch.from_numpy(m.vectors[np.arange(20)]) for m in train.modalities}
    labels = torch.from_numpy(train.modalities[0].labels[:20].argmax(axis=1))
    gradients = []
    for names in (["image"], ["text"], ["image", "text"]):
        method.nets_.zero_grad()
        method.centre_weight = 1e-3 * len(names)  # a mean over all items, where the cross-entropy is a sum over modalities
        method.loss({name: vectors[name] for name in names}, labels.repeat(len(names)), None).backward()
        gradients.append([p.grad.clone() for p in (method.nets_.classifier.weight, method.nets_.trunk[1].weight)])
    for image, text, both in zip(*gradients, strict=True):
        assert torch.allclose(both, image + text, atol=1e-6) and image.abs().max() > 1e-3


def test_features_can_be_compared_in_place_of_posteriors():
    text = synthetic().valid.modalities[1]
    method = fitted("fgcrossnet", synthetic().train, representation="feature")[0]
    features = torch.from_numpy(method.embed(text).values)
    assert features.shape == (100, 32)
    posteriors = method.nets_.classifier(features).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(posteriors, small_fit("fgcrossnet").embed(text).values, atol=1e-6)


# labelwise


def sequences(lengths, seed=0):
    """A split whose modalities hold random sequences of the given lengths, padded with large numbers."""
    rng, longest = np.random.default_rng(seed), max(lengths)
    labels = one_hot(np.arange(len(lengths)) % 3, 3)
    modalities = []
    for name in ("image", "text"):
        x = rng.standard_normal((len(lengths), longest, 6))
        x[..., :3] += 3 * labels[:, None, :]
        x[np.arange(longest) >= np.array(lengths)[:, None]] = 1e3
        modalities.append(Modality(name=name, sequences=Rows(x), lengths=np.array(lengths), labels=labels))
    return PairedSet(modalities=tuple(modalities), pairs=np.stack([np.arange(len(lengths))] * 2, axis=1))


def sharing(train, **parameters):
    """A method with untrained networks, in eval mode."""
    method = build_method("labelwise", **{**find_method("labelwise").info.smoke, "dropout": 0.0, **parameters})
    method.several_ = False
    torch.manual_seed(0)
    method.nets_ = labelwise.SharingNetworks(train, method).eval()
    return method


def parts_of(method, train, rows=slice(0, 20)):
    tokens = {}
    for m in train.modalities:
        features = torch.from_numpy(getattr(m, method.features)[rows])
        tokens[m.name] = method.nets_.tokens(m.name, features, None if m.lengths is None else torch.from_numpy(m.lengths[rows]))
    return tokens, [torch.from_numpy(m.labels[rows]) for m in train.modalities]


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_binary_cross_entropy_equals_the_plain_form_and_stays_finite(scale):
    logits, labels = scale * normal(5, 4), normal(5, 4, seed=1) > 0
    labels[2], labels[0, 0] = False, True
    with np.errstate(all="ignore"):
        p = 1 / (1 + np.exp(-logits.numpy()))
        plain = -np.where(labels, np.log(p), np.log1p(-p)).mean(axis=1)[[0, 1, 3, 4]].mean()
    got = labelwise.label_loss(logits, labels, True).item()
    assert math.isfinite(got)
    if scale == 1:
        assert got == pytest.approx(plain, abs=1e-12)
    stable = logits.clamp_min(0) - logits * labels + torch.log1p(torch.exp(-logits.abs()))
    assert got == pytest.approx(stable[labels.any(dim=1)].mean().item())


def test_single_labels_have_a_softmax_and_unlabelled_items_do_not_count():
    logits, targets = normal(5, 4), torch.tensor([0, 3, 1, 2, 2])
    labels = torch.nn.functional.one_hot(targets, 4).bool()
    assert labelwise.label_loss(logits, labels, False).item() == pytest.approx(cross_entropy(logits, targets).item())
    labels[1] = False
    kept = [0, 2, 3, 4]
    assert labelwise.label_loss(logits, labels, False).item() == pytest.approx(
        cross_entropy(logits[kept], targets[kept]).item()
    )
    assert labelwise.label_loss(logits, torch.zeros(5, 4, dtype=torch.bool), True).item() == 0.0


def test_mask_loss_is_a_mean_and_0_for_nothing():
    assert labelwise.mask_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).item() == 2.5
    assert labelwise.mask_loss(torch.empty(0, 2), torch.empty(0, 2)).item() == 0.0


def test_consistency_equals_a_loop():
    u, v = normal(4, 3).numpy(), normal(4, 3, seed=1).numpy()
    y, z = (normal(4, 2, seed=s).numpy() > 0 for s in (2, 3))
    expected = np.mean([np.linalg.norm(a - b) for a, b in zip(u, v, strict=True)])
    for (first, hot), (second, warm) in (((u, y), (u, y)), ((u, y), (v, z)), ((v, z), (v, z))):
        for i, j in product(range(4), repeat=2):
            half = first[i] @ second[j] / np.linalg.norm(first[i]) / np.linalg.norm(second[j]) / 2
            expected += (math.log(1 + math.exp(half)) - half * (hot[i] & warm[j]).any()) / 16
    given = [torch.from_numpy(x) for x in (u, v)], [torch.from_numpy(x) for x in (y, z)]
    assert labelwise.consistency_loss(*given).item() == pytest.approx(expected)
    same = torch.ones(2, 3, requires_grad=True)
    labelwise.consistency_loss([same, same], [torch.ones(2, 1, dtype=torch.bool)] * 2).backward()
    assert same.grad.isfinite().all(), "also where pairs coincide"


def test_one_encoder_is_shared_and_independent_ones_have_nothing_in_common():
    train = synthetic().train
    for variant in ("shared", "consistency"):
        method = sharing(train, variant=variant)
        assert method.nets_.encoder("image") is method.nets_.encoder("text")
        assert method.retrieves()
    method = sharing(train, variant="independent")
    tokens, labels = parts_of(method, train)
    method.loss({"image": tokens["image"]}, labels[:1]).backward()
    touched = {name for name, p in method.nets_.named_parameters() if p.grad is not None}
    method.nets_.zero_grad()
    method.loss({"text": tokens["text"]}, labels[1:]).backward()
    others = {name for name, p in method.nets_.named_parameters() if p.grad is not None}
    assert not touched & others
    assert touched | others == {name for name, _ in method.nets_.named_parameters()}
    assert not method.retrieves()


def test_the_shared_classifier_sums_the_gradients_of_both_modalities():
    train = synthetic().train
    method, gradients = sharing(train, mask_weight=0.0), []
    tokens, labels = parts_of(method, train)
    for v in ([0], [1], [0, 1]):
        method.nets_.zero_grad()
        method.loss({name: tokens[name] for name in np.array(list(tokens))[v]}, [labels[i] for i in v]).backward()
        gradients.append(method.nets_.encoder("image").classifier.weight.grad.clone())
    assert torch.allclose(gradients[2], gradients[0] + gradients[1], atol=1e-6)
    assert min(g.abs().max() for g in gradients) > 1e-3


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_without_a_weight_the_mask_heads_have_no_gradient(weight):
    train = synthetic().train
    method = sharing(train, mask_weight=weight)
    method.loss(*parts_of(method, train)).backward()
    given = [p.grad is not None for p in [*method.nets_.mask_heads.parameters(), method.nets_.encoder("image").mask]]
    assert given == [weight > 0] * 5


@pytest.mark.parametrize("width", [3, 8, 10])
def test_vectors_are_cut_into_chunks_in_order(width, paired):
    x = normal(4, width).float()
    method = sharing(paired({"image": x, "text": x}, [0, 1, 0, 1]))
    tokens, padding = method.nets_.tokens("image", x, None)
    assert padding is None and tokens.shape == (4, 4, -(-width // 4))
    expected = (x - x.mean(dim=1, keepdim=True)) / x.var(dim=1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    assert torch.allclose(tokens.flatten(1)[:, :width], expected, atol=1e-6)
    assert not tokens.flatten(1)[:, width:].any()


def test_padding_is_never_read():
    train = sequences([5, 2, 4, 1])
    method = sharing(train, features="sequences")
    image = train.modalities[0]
    x = np.asarray(image.sequences).copy()
    x[np.arange(5) >= image.lengths[:, None]] = np.random.default_rng(1).standard_normal((8, 6))
    np.testing.assert_allclose(method.embed(replace(image, sequences=Rows(x))).values, method.embed(image).values, atol=1e-6)
    alone = Modality(name="image", sequences=Rows(x[1:2, :2]))
    np.testing.assert_allclose(method.embed(alone).values, method.embed(image).values[1:2], atol=1e-6)
    longer = Modality(name="image", sequences=image.sequences, lengths=np.array([5, 3, 4, 1]))
    assert np.abs(method.embed(longer).values - method.embed(image).values)[1].max() > 1e-2


@pytest.mark.parametrize("positions", [True, False])
def test_without_positions_the_order_of_tokens_means_nothing(positions):
    train = sequences([5, 5])
    method = sharing(train, features="sequences", positions=positions)
    image = train.modalities[0]
    turned = replace(image, sequences=Rows(np.asarray(image.sequences)[:, ::-1]))
    change = np.abs(method.embed(turned).values - method.embed(image).values).max()
    assert (change > 1e-3) == positions and (positions or change < 1e-5)


def test_the_mask_leaves_every_item_a_token_and_takes_no_padding():
    method = build_method("labelwise", mask_rate=0.3)
    torch.manual_seed(0)
    masked = method.draw_mask(torch.empty(20000, 3, 1), None)
    assert not masked.all(dim=1).any()
    assert masked.double().mean().item() == pytest.approx(0.3 - 0.3**3, abs=0.01)
    padding = torch.arange(3) >= torch.tensor([1, 2, 3]).repeat(200)[:, None]
    masked = method.draw_mask(torch.empty(600, 3, 1), padding)
    assert not (masked & padding).any() and not (masked | padding).all(dim=1).any()
    assert not method.draw_mask(torch.empty(50, 1, 1), None).any(), "one chunk: nothing to predict from"


def test_sequences_are_learned_from():
    train, test = sequences([1, 2, 3, 4] * 30), sequences([4, 1, 2, 3] * 15, seed=1)
    method = fitted("labelwise", train, features="sequences", epochs=15)[0]
    for modality in test.modalities:
        shown = replace(modality, labels=None)
        assert micro_f1(method.class_scores(shown), modality.labels) > 0.8


def planted(n, seed):
    """Items with 1 to 6 labels out of 6, each a direction of its own in both modalities, and some noise."""
    rng, directions = np.random.default_rng(seed), np.random.default_rng(0).standard_normal((2, 6, 16))
    labels = rng.random((n, 6)) < 0.3
    labels[np.arange(n), rng.integers(6, size=n)] = True
    views = zip(("image", "text"), directions, strict=True)
    return PairedSet(
        modalities=tuple(
            Modality(name=name, vectors=Rows(labels @ d + 0.3 * rng.standard_normal((n, 16))), labels=labels)
            for name, d in views
        ),
        pairs=np.stack([np.arange(n)] * 2, axis=1),
    )


@pytest.mark.parametrize("variant", ["shared", "consistency", "independent"])
def test_several_labels_are_found_by_every_variant(variant):
    train, test = planted(300, 1), planted(100, 2)
    method = fitted("labelwise", train, variant=variant, epochs=25, lr=3e-3)[0]
    assert method.several_
    for modality in test.modalities:
        scores = method.class_scores(replace(modality, labels=None))
        assert scores.min() >= 0 and scores.max() <= 1 and scores.sum(axis=1).max() > 1.5
        everything = micro_f1(np.ones_like(scores), modality.labels)
        assert micro_f1(scores, modality.labels) > 0.8 > everything + 0.15
