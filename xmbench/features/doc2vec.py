"""Doc2Vec, the text features of the papers on label noise, trained on the captions of the train split alone.

Le and Mikolov, Distributed Representations of Sentences and Documents, ICML 2014, as gensim has it: 300 numbers, distributed
bag of words, the parameters that Lau and Baldwin (RepL4NLP 2016) recommend. The papers took a model that was trained on
Wikipedia; such a model is a pickle, which is not opened here. Seeded and in one thread, so that it gives the same numbers
every time.
"""

import hashlib
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from xmbench.datasets._vocabulary import words_of
from xmbench.features.extractor import Extractor, Wanted, library, versions
from xmbench.types import Array

PARAMETERS = {
    "vector_size": 300,
    "dm": 0,
    "dbow_words": 1,
    "window": 15,
    "negative": 5,
    "sample": 1e-3,
    "min_count": 1,
    "epochs": 40,
    "seed": 0,
    "workers": 1,
}
INFER_EPOCHS = 50


class Doc2Vec(Extractor):
    """Vectors are inferred, those of the train split too, so that all captions are treated alike."""

    def __init__(self, wanted: Wanted) -> None:
        module = library("gensim", "gensim.models.doc2vec", wanted.name)
        keyed = library("gensim", "gensim.models.keyedvectors", wanted.name)
        if wanted.weights is not None:
            raise ValueError("the extractor doc2vec is trained on the captions of the train split: it takes no --weights")
        # gensim begins from Python's hash of a text, which differs from process to process
        module.pseudorandom_weak_vector = partial(keyed.pseudorandom_weak_vector, hashfxn=lambda text: crc32(text.encode()))
        self._model = module.Doc2Vec(**PARAMETERS)
        documents = [module.TaggedDocument(words_of(text), [i]) for i, text in enumerate(wanted.train)]
        self._model.build_vocab(documents)
        self._model.train(documents, total_examples=len(documents), epochs=self._model.epochs)
        self.kinds = {"vectors": (self._model.vector_size,)}
        trained_on = hashlib.sha256("\n".join(wanted.train).encode()).hexdigest()
        self.recipe = {
            "extractor": wanted.name,
            "trained_on": f"{len(documents)} captions of the train split, sha256 {trained_on}",
            "parameters": {**PARAMETERS, "infer_epochs": INFER_EPOCHS},
            "preprocessing": "lower case, words by NLTK's tokeniser",
            "output": "inferred vectors, not normalised",
            "versions": versions("gensim", "nltk", "numpy"),
        }

    def prepare(self, item: Any) -> list[str]:
        return words_of(item)

    def compute(self, batch: list[list[str]]) -> dict[str, Array]:
        return {"vectors": np.stack([self._inferred(words) for words in batch])}

    def _inferred(self, words: list[str]) -> Array:
        """The vector of a caption, whatever was inferred before it."""
        self._model.random.seed(PARAMETERS["seed"])
        return np.asarray(self._model.infer_vector(words, epochs=INFER_EPOCHS), dtype=np.float32)


load = Doc2Vec
