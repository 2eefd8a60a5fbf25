"""VSE++: the plain two-branch baseline of image-text matching, one vector per image and per caption.

Faghri, Fleet, Kiros, Fidler, "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018. With unit vectors
i_n of the images and c_n of the captions, s_nk = <i_n, c_k> and margin alpha, a batch of B pairs costs (their eq. 6)

    sum_n max_k [alpha + s_nk - s_nn]_+ + sum_n max_k [alpha + s_kn - s_nn]_+        over k != n

The image is a linear map of its features, the caption the last state of a GRU over word embeddings.

With `negatives` "all" the sum over the batch's negatives takes the place of the maximum: the ranking loss of Kiros,
Salakhutdinov, Zemel, "Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models", arXiv:1411.2539, 2014, whose
VSE-LSTM this is with `recurrence` "lstm" as well.

Where this differs: the paper reads one vector of a convolutional network, or fine-tunes it; here it is the mean of the
regions that the other methods read, so that all see the same. The released code of the same group (with "precomputed"
features) averages crops likewise. Training is that of the region-word methods. Noise: every pair is taken for true, and the
hardest negative of a wrong pair is as good as any other.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines._correspondence import hard_triplet, sum_triplet
from baselines._matching import Cosine, MatchingNetwork
from baselines._ranking import RankingMethod
from xmbench import register_method

RECURRENCES: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class MeanRegion(nn.Module):
    """The unit vector of an image: a linear map of its mean region, (B, R, d) -> (B, D)."""

    def __init__(self, region_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(region_dim, dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, regions: Tensor) -> Tensor:
        return nn.functional.normalize(self.linear(regions.mean(dim=1)), dim=1)


class LastState(nn.Module):
    """The unit vector of a caption: the state of a GRU, or LSTM, at its last true word, (C, L), (C,) -> (C, D)."""

    def __init__(self, n_words: int, word_dim: int, dim: int, recurrence: str) -> None:
        super().__init__()
        self.words = nn.Embedding(n_words, word_dim)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.recurrence = RECURRENCES[recurrence](word_dim, dim, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.recurrence(self.words(tokens))
        last = states[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        return nn.functional.normalize(last, dim=1)


@register_method(
    "vse",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "word_dim": 32, "epochs": 10, "batch_size": 32, "lr": 0.005},
)
@dataclass(kw_only=True)
class VSE(RankingMethod):
    """VSE++, learnt as in eq. (6) of its paper; see the module's docstring."""

    negatives: Literal["hardest", "all"] = "hardest"  # of a batch, that count
    recurrence: Literal["gru", "lstm"] = "gru"  # that reads captions

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        image = MeanRegion(sizes["region_dim"], self.dim)
        caption = LastState(sizes["n_words"], self.word_dim, self.dim, self.recurrence)
        return [MatchingNetwork(image, caption, Cosine())]

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return (hard_triplet if self.negatives == "hardest" else sum_triplet)(scores, self.margin)
