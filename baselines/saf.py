"""SAF: similarity vectors of a caption's words with the image, the meaningless ones filtered out by a gate.

Diao, Zhang, Ma, Lu, "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021, section 3.4. The similarity
vectors s_n of the words and of the whole caption are those of SGR; their gates are

    b_n = sigmoid(BN(W s_n)) / sum_m sigmoid(BN(W s_m))        and the score reads  sum_n b_n s_n

Learnt by the triplet loss with the hardest negatives, the score in (0, 1).

Where paper and released code (Paranioar/SGRAF, model.py) differ, the code is followed, as for SGR. Its batch normalisation of
the gate runs inside the loop over captions: in training the statistics are those of one caption with all images of the batch,
and the running ones, used when it is tested, an average over the last captions seen. We keep that, since its numbers depend on
it; the order of captions in the last batches therefore matters, a little. Defaults are the released command for Flickr30K.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from baselines._correspondence import hard_triplet
from baselines._matching import MatchingNetwork, matching_network
from baselines._ranking import RankingMethod
from xmbench import check_positive, register_method


@register_method(
    "saf",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "similarity_dim": 16, "word_dim": 32, "epochs": 2, "batch_size": 16, "lr": 0.01},
)
@dataclass(kw_only=True)
class SAF(RankingMethod):
    """Similarity attention filtration; see the module's docstring."""

    lr_update: int = 20
    similarity_dim: int = 256  # S, of the similarity vectors

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "similarity_dim")

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        return [matching_network("saf", **sizes, dim=self.dim, word_dim=self.word_dim, similarity_dim=self.similarity_dim)]

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
