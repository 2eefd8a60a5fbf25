"""Adapters: the numbers of the estimators themselves, the contract, a seed for what draws, and the file that is hashed."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA, PLSCanonical
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from xmbench import FitContext, load_dataset, registry
from xmbench.adapters import from_classifier, from_modules, from_pair_estimator, from_views_estimator
from xmbench.contract import examine
from xmbench.registry import build_method, source_file
from xmbench.run import fit_method
from xmbench.subject import Subject, planted


@pytest.fixture(autouse=True)
def forgotten():
    """What a test registers is forgotten after it."""
    yield
    for name in [name for name, cls in registry._METHODS.items() if not cls.__module__.startswith("baselines.")]:
        del registry._METHODS[name]


def embedded(name, **parameters):
    """Embeddings of the test split after a fit as the harness does it."""
    method = build_method(name, **parameters)
    fit_method(method, planted().train, FitContext())
    return [method.embed(m).values for m in planted().tests["test"].modalities]


def vectors(split):
    """Vectors of both modalities, whose rows belong together in the planted data."""
    return [np.asarray(m.vectors, dtype=np.float64) for m in split.modalities]


@pytest.mark.parametrize("estimator", [CCA, PLSCanonical])
def test_a_pair_estimator_is_the_estimator_on_the_pairs(estimator):
    from_pair_estimator("mine", lambda p: estimator(n_components=p.dim, max_iter=5000, tol=1e-12), dim=3)
    ours = embedded("mine", dim="2")
    theirs = estimator(n_components=2, max_iter=5000, tol=1e-12).fit(*vectors(planted().train))
    for a, b in zip(ours, theirs.transform(*vectors(planted().tests["test"])), strict=True):
        np.testing.assert_allclose(a, b * np.sign((a * b).sum(axis=0)), atol=1e-4)


class MeanOfViews:
    """As in cca_zoo: views are a list, in and out."""

    def get_params(self):
        return {"dim": 2}

    def set_params(self):
        return self

    def fit(self, views):
        self.means = [view.mean(axis=0) for view in views]
        return self

    def transform(self, views):
        return [(view - mean)[:, :2] for view, mean in zip(views, self.means, strict=True)]


def test_a_views_estimator_takes_any_number_of_views():
    from_views_estimator("mine", lambda p: MeanOfViews())
    data = planted(modalities=3)
    method = build_method("mine")
    fit_method(method, data.train, FitContext())
    for train, test in zip(data.train.modalities, data.tests["test"].modalities, strict=True):
        expected = np.asarray(test.vectors)[:, :2] - np.asarray(train.vectors)[:, :2].mean(axis=0)
        np.testing.assert_allclose(method.embed(test).values, expected, atol=1e-5)


def test_a_classifier_of_each_modality_gives_the_probabilities_of_all_classes():
    from_classifier("mine", lambda p: make_pipeline(StandardScaler(), LogisticRegression(C=p.c)), c=0.5)
    train = planted().train
    numbers = train.modalities[0].labels.argmax(axis=1)
    for ours, x, test in zip(embedded("mine"), vectors(train), vectors(planted().tests["test"]), strict=True):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(x, numbers).predict_proba(test)
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_classifier_without_probabilities_is_refused_with_what_to_do():
    from_classifier("mine", lambda p: LinearSVC())
    with pytest.raises(TypeError, match=r"LinearSVC has none; wrap it in sklearn\.calibration\.CalibratedClassifierCV"):
        fit_method(build_method("mine"), planted().train, FitContext())


def test_a_class_without_items_has_probability_0():
    from_classifier("mine", lambda p: LogisticRegression())
    data = load_dataset("synthetic", train=60)
    data.train.modalities[0].labels[:, 3] = False
    method = build_method("mine")
    fit_method(method, data.train, FitContext())
    scores = method.class_scores(data.valid.modalities[0])
    assert scores.shape == (100, 10)
    assert (scores[:, 3] == 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1)


def test_what_draws_follows_the_seed_of_the_fit():
    from_classifier("mine", lambda p: make_pipeline(StandardScaler(), RandomForestClassifier(3)))
    train = load_dataset("synthetic", train=20).train

    def made(seed):
        method = build_method("mine")
        fit_method(method, train, FitContext(seed=seed))
        return method.embed(planted().valid.modalities[0]).values

    assert np.array_equal(made(0), made(0))
    assert not np.allclose(made(0), made(1), atol=1e-3)


def towers(labels=False, **parameters):
    """Linear towers whose loss is the squared distance of partners to their class, or to each other."""

    def loss(p, embeddings, given=()):
        if not labels:
            first, second = embeddings
            return ((first - second) ** 2).mean()
        return sum(((z - y.float()) ** 2).mean() for z, y in zip(embeddings, given, strict=True))

    return from_modules("mine", lambda p, d: torch.nn.Linear(d, p.dim), loss, labels=labels, dim=10, **parameters)


@pytest.mark.slow
def test_modules_with_a_loss_keep_the_contract():
    towers(labels=True, epochs=6, lr=0.01)
    assert {f.check.name: f.got for f in examine(Subject(name="mine")) if f.outcome != "kept"} == {}


def test_modules_declare_what_the_loss_reads_and_take_their_parameters():
    assert towers().info.needs == {"vectors", "pairs"}
    cls = towers(labels=True, epochs=3)
    assert cls.info.needs == {"vectors", "pairs", "labels"}
    assert {f.name: f.default for f in fields(cls)} == {
        "epochs": 3, "batch_size": 100, "lr": 1e-3, "weight_decay": 0.0, "dim": 10,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"mine\.lr must be above 0"):
        build_method("mine", lr=0)


def test_the_loss_of_an_epoch_is_the_losses_mean_before_each_step():
    towers(batch_size=400, epochs=1)
    method, context = build_method("mine"), FitContext()
    context.seed_torch()
    nets = [torch.nn.Linear(m.vectors.shape[1], 10) for m in planted().train.modalities]
    first, second = (net(torch.from_numpy(m.vectors[:])) for net, m in zip(nets, planted().train.modalities, strict=True))
    fit_method(method, planted().train, context)
    assert context.history[0]["loss"] == pytest.approx(((first - second) ** 2).mean().item(), rel=1e-4)


def test_the_file_of_the_functions_is_the_source():
    assert source_file(towers()).name == "test_adapters.py"
    assert source_file(from_classifier("other", lambda p: LogisticRegression())).name == "test_adapters.py"
