"""The contract finds what is broken: for every clause a method that breaks it and no other, and what is said of it."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import ROOT

from xmbench import Embedding, FitContext, Method, load_dataset, register_method, registry
from xmbench.contract import CHECKS, examine, explained
from xmbench.subject import Subject

GUIDE = " ".join((ROOT / "docs" / "method.md").read_text("utf-8").split())


@dataclass(kw_only=True)
class Regression(Method):
    """Least squares onto the classes, by gradient descent: it keeps the whole contract."""

    epochs: int = 8
    lr: float = 0.5

    def fit(self, train, context):
        self.weights_ = {m.name: np.zeros((m.vectors.shape[1], m.n_classes)) for m in train.modalities}
        self.scale_ = {m.name: np.linalg.norm(np.asarray(m.vectors), 2) ** 2 / len(m) for m in train.modalities}
        for _ in context.epochs(self.epochs, state=self.state(train)):
            for m in train.modalities:
                for rows in context.batches(len(m), 50):
                    self.weights_[m.name] -= self.rate() * self.gradient(m, rows) / self.scale_[m.name]
            self.after_epoch(train)
            context.end_epoch(loss=0.0)

    def state(self, train):
        return dict(self.weights_)

    def rate(self):
        return self.lr

    def gradient(self, modality, rows):
        x = modality.vectors[rows]
        return x.T @ (x @ self.weights_[modality.name] - modality.labels[rows]) / len(rows)

    def after_epoch(self, train):
        pass

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors) @ self.weights_[modality.name])


class HalfTheRows(Regression):
    def embed(self, modality):
        return Embedding(modality.name, super().embed(modality).values[::2])


class NotANumber(Regression):
    def embed(self, modality):
        values = super().embed(modality).values
        values[np.asarray(modality.vectors)[:, 0] > 0] = np.nan
        return Embedding(modality.name, values)


class Unseeded(Regression):
    def fit(self, train, context):
        super().fit(train, context)
        for weights in self.weights_.values():
            weights += 1e-6 * np.random.default_rng().standard_normal(weights.shape)


class InPlace(Regression):
    def fit(self, train, context):
        data = train.modalities[0].vectors._data
        np.clip(data, -1, 1, out=data)
        super().fit(train, context)


class BatchMean(Regression):
    def embed(self, modality):
        values = super().embed(modality).values
        return Embedding(modality.name, values - values.mean(axis=0))


class RowMaximum(Regression):
    def similarity(self, first, second):
        scores = super().similarity(first, second)
        return scores / np.abs(scores).max(axis=1, keepdims=True)


class OneSpaceEach(Regression):
    def embed(self, modality):
        values = super().embed(modality).values
        return Embedding(modality.name, np.roll(values, 1, axis=1) if modality.name == "text" else values)


class CleanLabelsOnly(Regression):
    def fit(self, train, context):
        first, second = (m.labels[rows] for m, rows in zip(train.modalities[:2], train.pairs.T, strict=False))
        if (first != second).any():
            raise ValueError("partners must have the same label")
        super().fit(train, context)


class TwoOnly(Regression):
    def fit(self, train, context):
        _, _ = train.modalities
        super().fit(train, context)


@dataclass(kw_only=True)
class NoDefault(Regression):
    dim: int = None


class OwnLoop(Regression):
    def fit(self, train, context):
        super().fit(train, FitContext(seed=context.seed))


class ForgottenCounter(Regression):
    steps_ = 0

    def rate(self):
        return self.lr / (1 + self.steps_)

    def after_epoch(self, train):
        self.steps_ += 1


class Looked(Regression):
    def fit(self, train, context):
        self.looks_ = np.zeros(1)
        super().fit(train, context)

    def state(self, train):
        return {**self.weights_, "looks": self.looks_}

    def rate(self):
        return self.lr / (1 + self.looks_[0])

    def embed(self, modality):
        self.looks_ += 0.01
        return super().embed(modality)


class SavedData(Regression):
    def state(self, train):
        return {**self.weights_, "data": np.asarray(train.modalities[0].vectors)}


class EmptyState(Regression):
    def state(self, train):
        return {}


class NoStep(Regression):
    def gradient(self, modality, rows):
        return 0.0

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors)[:, :5])


BROKEN = {
    "fits": (HalfTheRows, r"values of shape \(100, 10\) for 200 items of image"),
    "finite": (NotANumber, r"NaN or infinity in \d+ of 200 embeddings of image"),
    "same_seed": (Unseeded, r"200 of 200 embeddings of image, network 0 differ, by up to \d.*e-0"),
    "inputs_unchanged": (InPlace, "training data that are other ones after a fit"),
    "subset": (BatchMean, "three items of image embedded alone differ by up to"),
    "block": (RowMaximum, "a block of 3 x 2 similarities that differs by up to"),
    "beats_chance": (OneSpaceEach, r"map 0\.\d+ for image2text, where chance has 0\.1"),
    "every_rate": (CleanLabelsOnly, r"at rate 0.2 ValueError: partners must have the same label, line \d+"),
    "modalities": (TwoOnly, "with 3 modalities ValueError: too many values to unpack"),
    "hyper_parameters": (NoDefault, "dim must be of type int, got None"),
    "epochs": (OwnLoop, "a hyper-parameter `epochs`, and a fit that never calls context.epochs"),
    "resumes": (ForgottenCounter, "another loss or validation score after the epoch at which it was stopped"),
    "validation": (Looked, "embeddings of image, network 0 differ, by up to .* with 8 validations and without"),
    "state_size": (SavedData, "256 bytes for every training item, more than 160"),
}  # fmt: skip


@pytest.fixture
def findings(monkeypatch):
    """Examine a class under the name "mine", on data of its own."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    def look(cls):
        made = {}

        def load(**parameters):
            return made.setdefault(str(parameters), load_dataset("synthetic", **parameters))

        register_method("mine", needs={"vectors", "labels", "pairs"})(cls)
        return list(examine(Subject(name="mine", load=load, some_epochs={"epochs": 8})))

    return look


def test_a_method_that_keeps_the_contract_is_said_to(findings):
    assert [f.outcome for f in findings(Regression)] == ["kept"] * len(CHECKS)


@pytest.mark.parametrize("clause", CHECKS)
def test_every_clause_is_broken_by_a_method_that_breaks_no_other(clause, findings):
    cls, got = BROKEN[clause]
    found = findings(cls)
    (broken,) = [finding for finding in found if finding.outcome == "broken"]
    assert broken.check.name == clause
    assert re.search(got, broken.got), broken.got
    needed = {name for name, check in CHECKS.items() if clause in check.after}
    assert {finding.check.name for finding in found if finding.outcome == "not looked at"} == needed


@pytest.mark.parametrize(
    ("cls", "got"),
    [(EmptyState, "context.epochs(..., state={}), an empty state"), (NoStep, "embeddings that are the same after every epoch")],
)
def test_a_loop_over_epochs_must_learn_something_that_it_saves(cls, got, findings):
    assert {f.check.name: f.got for f in findings(cls)}["epochs"] == got


def test_an_explanation_says_what_must_hold_what_was_got_and_how_to_mend_it(findings):
    (broken,) = [finding for finding in findings(TwoOnly) if finding.outcome == "broken"]
    text = " ".join(explained(broken).split())
    assert text.startswith("modalities is broken must hold The method takes as many modalities as `max_modalities` says;")
    assert "got with 3 modalities ValueError: too many values to unpack (expected 2), line" in text
    assert text.endswith("to mend Loop over `train.modalities`, or declare `max_modalities=2`. docs docs/method.md#modalities")


@pytest.mark.parametrize("clause", CHECKS)
def test_the_guide_has_the_paragraph_of_every_clause(clause):
    assert f"### {clause} {CHECKS[clause].must} {CHECKS[clause].mend}" in GUIDE
