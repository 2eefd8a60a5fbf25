"""Random: what a ranking is worth that knows nothing. It learns nothing and looks at no item for what it shows.

Every item gets a Gaussian vector of its own, drawn by a generator that the item's features seed: items with equal features get
equal vectors, and the ranking of any gallery is uniformly random. The row "Random" of Miech et al., "HowTo100M", ICCV 2019,
and of Table 3 of LNC (IJCV 2024) is the expectation of this. Noise: it reads no label and no pair.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, register_method, stream

DIM = 32


@register_method("random", needs={"features"})
@dataclass(kw_only=True)
class Random(Method):
    """A uniformly random ranking; see the module's docstring."""

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.seed_ = int(context.generator("random").integers(2**63))

    def embed(self, modality: Modality) -> Embedding:
        drawn = [stream(self.seed_, modality.name, _hash_of(modality, i)).standard_normal(DIM) for i in range(len(modality))]
        return Embedding(modality.name, np.array(drawn))


def _hash_of(modality: Modality, i: int) -> str:
    """A hash of all features of item i."""
    digest = hashlib.sha256()
    for values in (modality.vectors, modality.sequences, modality.tokens):
        if values is not None:
            digest.update(np.ascontiguousarray(values[i : i + 1]).data)
    return digest.hexdigest()
