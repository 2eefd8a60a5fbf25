"""Items with several labels: gains of nDCG, micro F1, and methods that only classify."""

from dataclasses import dataclass

import numpy as np
import pytest

from xmbench import Embedding, Method, Modality, PairedSet, Rows
from xmbench.evaluate import embed_split, measure, selection_score
from xmbench.method import MethodInfo
from xmbench.metrics import evaluate_block
from xmbench.spec import load_protocol

PROTOCOL = load_protocol("multilabel")
LABELS = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)


@dataclass(kw_only=True)
class Given(Method):
    """Embeds an item as its features and scores classes by the first three of them."""

    info = MethodInfo("given", frozenset({"vectors"}), retrieval=lambda method: method.common)
    common: bool = True

    def fit(self, train, context):
        pass

    def embed(self, modality):
        return Embedding(modality.name, np.asarray(modality.vectors))

    def class_scores(self, modality):
        return np.asarray(modality.vectors)[:, :3]


def split(**vectors):
    modalities = [
        Modality(name=n, vectors=Rows(np.asarray(x, np.float32)), labels=LABELS[: len(x)]) for n, x in vectors.items()
    ]
    return PairedSet(modalities=tuple(modalities))


def measured(method, data):
    found = measure(method, data, embed_split(method, data, "float32", 0), PROTOCOL)
    return {(m.metric, m.direction): m.value for m in found.measures}


def test_ndcg_gains_are_the_numbers_of_shared_labels():
    query = [[1, 0, 0]]
    gallery = [[0.9, 0.1, 0], [0.5, 0.5, 0], [1, 0, 0], [0.1, 0.9, 0]]  # order of the items: 2, 0, 1, 3
    data = PairedSet(
        modalities=(
            Modality(name="image", vectors=Rows(np.array(query, np.float32)), labels=LABELS[:1]),
            Modality(name="text", vectors=Rows(np.array(gallery, np.float32)), labels=LABELS),
        )
    )
    discount = 1 / np.log2(np.arange(2, 6))
    expected = np.dot([0, 3, 2, 2], discount) / np.dot([3, 2, 2, 0], discount)
    values = measured(Given(), data)
    assert values["ndcg", "image2text"] == pytest.approx(expected, abs=1e-6)
    assert values["ndcg@100", "image2text"] == pytest.approx(expected, abs=1e-6)
    binary = np.dot([0, 1, 1, 1], discount) / np.dot([1, 1, 1, 0], discount)
    assert values["ndcg", "image2text"] != pytest.approx(binary, abs=1e-3)
    assert values["map", "image2text"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)


def test_ndcg_at_100_looks_no_deeper():
    similarity, gains = -np.arange(150.0)[None], np.zeros((1, 150))
    gains[0, [0, 120]] = [1, 5]
    relevance = gains > 0
    found = evaluate_block(["ndcg", "ndcg@100"], similarity, relevance, gains=gains)
    ideal = 5 + 1 / np.log2(3)
    assert found["ndcg@100"][0] == pytest.approx(1 / ideal)
    assert found["ndcg"][0] == pytest.approx((1 + 5 / np.log2(122)) / ideal)
    plain = evaluate_block(["ndcg@100"], similarity, relevance)["ndcg@100"][0]
    assert plain == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_a_classifier_is_chosen_by_micro_f1_and_has_no_retrieval_numbers():
    image, text = LABELS * 0.9, np.where(LABELS, 0.2, 0.1)
    data = split(image=image, text=text)
    classifier = Given(common=False)
    assert measured(classifier, data) == {("micro_f1", "image"): 1.0, ("micro_f1", "text"): 0.0}
    embeddings = embed_split(classifier, data, "float32", 0)
    assert selection_score(classifier, data, embeddings, load_protocol("default")) == pytest.approx(0.5)
    assert selection_score(Given(), data, embed_split(Given(), data, "float32", 0), PROTOCOL) == pytest.approx(
        measured(Given(), data)["map", "mean"]
    )


def test_class_scores_see_features_only():
    class Curious(Given):
        def class_scores(self, modality):
            assert modality.labels is None
            assert modality.item_ids is None
            return super().class_scores(modality)

    assert ("micro_f1", "image") in measured(Curious(), split(image=LABELS * 0.9, text=LABELS * 0.9))
