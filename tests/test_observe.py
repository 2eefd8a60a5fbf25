"""What the harness looks at after an epoch, and what it keeps: against values by hand, and without a trace in the results."""

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

import xmbench as xb
from xmbench import observe
from xmbench.kept import history_arrays, kept_arrays
from xmbench.observe import class_observer, loss_observer
from xmbench.plan import cached_dataset, plan
from xmbench.run import Settings, execute, fit_method
from xmbench.shown import pair_order
from xmbench.spec import Spec, canonical
from xmbench.store import Store


@dataclass(kw_only=True)
class Sayer(xb.Method):
    """A classifier that says of every item the class that its first feature names."""

    def fit(self, train, context):
        pass

    def embed(self, modality):
        raise AssertionError("no embedding is asked for")

    def class_scores(self, modality):
        assert modality.labels is None
        return np.eye(3)[np.asarray(modality.vectors)[:, 0].astype(int)]


def split(said, labels):
    """Two modalities of items of which `Sayer` says the classes `said`, and whose labels (n, 3) are given."""
    rows = xb.Rows(np.array(said, dtype=np.float32)[:, None])
    return xb.PairedSet(modalities=tuple(xb.Modality(name=name, vectors=rows, labels=labels) for name in ("image", "text")))


def one_hot(numbers):
    return np.eye(3, dtype=bool)[np.array(numbers)]


def test_accuracy_is_the_share_of_labelled_items_by_given_and_by_true_labels():
    said, true, given = [0, 1, 2, 0], one_hot([0, 1, 2, 1]), one_hot([0, 2, 1, 1])
    given[3] = False  # an item without a label is not counted
    found = class_observer(Sayer(), split(said, given), split(said, true), {"KEY": split([1, 0], one_hot([1, 1]))}, 0)()
    assert found == {
        **{f"accuracy/given/{name}": pytest.approx(1 / 3) for name in ("image", "text")},
        **{f"accuracy/true/{name}": 0.75 for name in ("image", "text")},
        **{f"valid/KEY/accuracy/{name}": 0.5 for name in ("image", "text")},
    }


def test_items_with_several_classes_are_measured_by_micro_f1():
    labels = one_hot([0, 1]) | one_hot([1, 1])  # 0 and 1; 1: two hits, one class missed
    found = class_observer(Sayer(), split([0, 1], labels), split([0, 1], labels), {}, 0)()
    assert found["micro_f1/true/image"] == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_no_more_than_a_fixed_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr(observe, "OBSERVED_ITEMS", 5)
    seen = []
    monkeypatch.setattr(
        Sayer, "class_scores", lambda self, m: seen.append(np.asarray(m.vectors)[:, 0].tolist()) or np.eye(9)[:5]
    )
    items = split(range(9), np.eye(9, dtype=bool))
    look = class_observer(Sayer(), items, items, {}, 0)
    look(), look()
    assert {len(rows) for rows in seen} == {5}
    assert seen[:2] == seen[2:]


def test_methods_without_class_scores_are_not_asked():
    data = split([0], one_hot([0]))
    assert class_observer(xb.build_method("pls"), data, data, {}, 0)() == {}


SMALL = (("synthetic", "train", 120), ("synthetic", "valid", 60), ("synthetic", "test", 60))
DEEP = (("deep_sm", "hidden", 32), ("deep_sm", "epochs", 3), ("deep_sm", "lr", 1e-3))


def test_observing_leaves_every_number_as_it_is(tmp_path, monkeypatch):
    (cell,) = plan(Spec(methods=("deep_sm",), datasets=("synthetic",), settings=(*SMALL, *DEEP), rates=(0.4,), seeds=(0,)))
    stores = [Store(tmp_path / name) for name in ("seen", "unseen")]
    execute([cell], stores[0], Settings(), {})
    monkeypatch.setattr(sys.modules[Settings.__module__], "class_observer", lambda *_: dict)
    execute([cell], stores[1], Settings(), {})
    seen, unseen = (store.arrays(cell.run.run_id) for store in stores)
    assert stores[0].rows()["value"].tolist() == stores[1].rows()["value"].tolist()
    assert {name.rpartition("/")[0] for name in set(seen) - set(unseen)} == {
        "history/accuracy/given",
        "history/accuracy/true",
        "history/valid/accuracy",
    }
    assert all(np.array_equal(seen[name], unseen[name], equal_nan=True) for name in unseen if seen[name].dtype.kind == "f")
    np.testing.assert_allclose(seen["history/valid/map/mean"], seen["history/valid"])


def test_the_history_of_a_score_is_that_of_its_own_validation_split():
    rows = [{"epoch": 0.0, "valid/a": 0.1, "valid/b": 0.2, "valid/a/map/x2y": 0.3, "valid/b/map/x2y": 0.4}, {"epoch": 1.0}]
    arrays = history_arrays(rows, "b")
    assert {name: values.tolist()[0] for name, values in arrays.items()} == {
        "history/epoch": 0,
        "history/valid": 0.2,
        "history/valid/map/x2y": 0.4,
    }
    assert np.isnan(arrays["history/valid"][1])
    assert history_arrays([], "b") == {}


def test_the_truth_of_pairs_is_kept_in_the_order_of_the_records():
    dataset = cached_dataset("synthetic", "{}")
    corruption = xb.corrupt(dataset.train, xb.Noise(scheme="caption_shuffle", rate=0.5, seed=0), family=dataset.family)
    n_pairs = len(corruption.train.pairs)
    arrays = kept_arrays(dataset, corruption.train, {"pair_losses": np.arange(n_pairs)}, None, seed=3)
    order = pair_order(n_pairs, 3)
    assert 0 < arrays["record/pair_clean"].sum() < n_pairs
    np.testing.assert_array_equal(arrays["record/pair_clean"][np.argsort(order)], corruption.train.clean_pairs)
    test = dataset.tests["test"]
    pairs = np.stack([arrays[f"items/test/{m.name}/pairs"] for m in test.modalities], axis=1)
    np.testing.assert_array_equal(pairs, test.pairs)


@pytest.mark.parametrize("beta", [0.7, 0.0])
def test_mrl_records_its_centres_as_the_fit_ends_where_it_has_any(beta):
    train = cached_dataset("synthetic", canonical(dict.fromkeys(("train", "valid", "test"), 40))).train
    method, context = xb.build_method("mrl", beta=beta, hidden=16, dim=16, epochs=2), xb.FitContext()
    fit_method(method, train, context)
    assert set(context.records) == ({"prototypes"} if beta else set())
    if beta:
        np.testing.assert_array_equal(context.records["prototypes"], method.nets_.prototypes.detach().numpy().T)
        assert context.records["prototypes"].shape == (train.n_classes, 16)


@pytest.mark.parametrize("name", ["ce", "mrl"])
def test_validation_loss_and_accuracy_are_those_of_the_papers_formulas(name):
    """Against the softmax of cosines and the losses of MRL written out pair by pair, with batches of 4 of 6 labelled pairs."""
    data = cached_dataset("synthetic", canonical(dict.fromkeys(("train", "valid", "test"), 40)))
    method = xb.build_method(name, hidden=16, dim=16, epochs=1, batch_size=4)
    fit_method(method, data.train, xb.FitContext())
    labels = [m.labels.copy() for m in data.valid.modalities]
    labels[0][6:] = False  # the rest has no label and is left out
    modalities = tuple(replace(m, labels=y) for m, y in zip(data.valid.modalities, labels, strict=True))
    valid = xb.PairedSet(modalities=modalities, pairs=np.arange(40)[:, None].repeat(2, axis=1))
    (found,) = loss_observer(method, {"KEY": valid})().items()

    z = [method.embed(m).values[:6].astype(float) for m in modalities]
    c = method.nets_.prototypes.detach().numpy().astype(float)
    y = [labels.argmax(axis=1)[:6] for labels in labels]
    losses = []
    for rows in ([0, 1, 2, 3], [4, 5]):
        p = [np.exp(part[rows] @ c) / np.exp(part[rows] @ c).sum(axis=1, keepdims=True) for part in z]
        right = [part[np.arange(len(rows)), numbers[rows]] for part, numbers in zip(p, y, strict=True)]
        if name == "ce":
            losses.append(-sum(np.log(part).mean() for part in right))
            continue
        contrast = 0.0
        items = [(j, i) for j in range(2) for i in rows]
        for j, i in items:
            others = {item: np.exp(z[j][i] @ z[item[0]][item[1]]) for item in items if item != (j, i)}
            contrast -= np.log(others[1 - j, i] / sum(others.values())) / len(rows)
        losses.append(0.7 * sum(np.log(1 - part).mean() for part in right) + 0.3 * contrast)
    assert found == ("valid/KEY/loss", pytest.approx(np.mean(losses), rel=1e-5))
    unit = c / np.linalg.norm(c, axis=0)
    scores = np.exp(z[1] @ unit) / np.exp(z[1] @ unit).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(method.class_scores(modalities[1])[:6], scores, rtol=1e-4)


def test_methods_without_a_validation_loss_or_classes_are_left_alone():
    data = cached_dataset("synthetic", canonical(dict.fromkeys(("train", "valid", "test"), 40)))
    assert loss_observer(xb.build_method("pls"), {"KEY": data.valid})() == {}
    contrast = xb.build_method("mrl", beta=0.0, hidden=16, dim=16, epochs=1)
    fit_method(contrast, data.train, xb.FitContext())
    assert contrast.class_scores(data.valid.modalities[0]) is None
    assert list(loss_observer(contrast, {"KEY": data.valid})()) == ["valid/KEY/loss"], "the contrast alone"
