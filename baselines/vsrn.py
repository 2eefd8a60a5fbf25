"""VSRN: regions reason about each other on a graph, a recurrent network makes one vector of them, and captions are told.

Kunpeng Li, Yulun Zhang, Kai Li, Yuanyuan Li, Yun Fu, "Visual Semantic Reasoning for Image-Text Matching", ICCV 2019. With the
regions v_1 ... v_R of an image as rows of V, four layers of

    V* = V + BN(W (A g(V))),   A = theta(V) phi(V)' / R

and a GRU over the rows of the last, whose last state, at unit length, is the image. A caption is the last state of a GRU over
its words, at unit length; the score is the cosine. The loss is the triplet loss with the hardest negatives of the batch, summed
over its pairs, and the mean over pairs of

    L_G = - sum_l log p(y_l | y_1 ... y_(l-1), V*)

of a decoder with attention that is given the words before. Noise: every pair is taken for true.

Checked against KunpengLi1994/VSRN, model.py EncoderImagePrecompAttn, EncoderText and train_emb, GCN_lib/Rs_GCN.py, data.py
PrecompDataset, models/{EncoderRNN,DecoderRNN,Attention}.py and misc/utils.py LanguageModelCriterion. We follow the code:
- BN begins at zero, so that a layer begins as the identity.
- Its l2norm divides along the axis of the regions: it is each of the D features that has length 1, over an image's regions,
  and not each region. It stands after the layers and, under `architecture` "coco", before them; "f30k" has a batch
  normalisation of the GRU's state instead. The code chooses by the name of the data set.
- The end of a caption is followed by one padding, which is to be predicted too.
- Dropout of .2 of what the caption branch reads, none elsewhere.
Where we differ:
- A feature that is 0 in all regions stays 0 and gets no gradient; the code, which has no epsilon, makes it NaN.
- Decoding ends with the longest caption of the batch, not after 59 words, which gives the same; none is cut.
- The norm to which gradients are clipped counts each parameter once; the code lists the caption branch twice.
- The GRU's state of a batch of one pair is normalised by the running statistics. BN has the batch statistics of that image's
  regions as ever, and so an image must have two regions or more.
- The published rows average two networks; this is one.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from baselines._attention import word_mask
from baselines._correspondence import hard_triplet
from baselines._matching import Cosine, MatchingNetwork
from baselines._ranking import PairBatch, RankingMethod
from baselines._sgraf import drop, xavier
from xmbench import check_positive, register_method

LAYERS = 4  # of reasoning
DROPOUT = 0.2  # of the caption branch

Architecture = Literal["f30k", "coco"]


def over_length(x: Tensor, dim: int) -> Tensor:
    """x / |x| along `dim`; where |x| is 0 the values stay 0, with the gradient zero."""
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / length.masked_fill(length == 0, torch.inf)


# Encoders


class GraphLayer(nn.Module):
    """One step of reasoning among regions: (B, R, D) -> (B, R, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta, self.phi, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.bn = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.bn.weight)

    def forward(self, regions: Tensor) -> Tensor:
        affinities = self.theta(regions) @ self.phi(regions).mT / regions.shape[1]
        messages = self.output(affinities @ self.value(regions))
        return regions + self.bn(messages.flatten(0, 1)).view_as(messages)


class ReasoningEncoder(nn.Module):
    """The unit vector of an image out of its regions, (B, R, d) -> (B, D), in two parts: `reason` and `remember`."""

    def __init__(self, region_dim: int, dim: int, architecture: Architecture) -> None:
        super().__init__()
        self.fc = xavier(region_dim, dim)
        self.layers = nn.Sequential(*(GraphLayer(dim) for _ in range(LAYERS)))
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.bn = nn.BatchNorm1d(dim) if architecture == "f30k" else None

    def reason(self, regions: Tensor) -> Tensor:
        """Regions (B, R, d) -> (B, R, D), of unit length along R."""
        projected = self.fc(regions)
        if self.bn is None:
            projected = over_length(projected, dim=1)
        return over_length(self.layers(projected), dim=1)

    def remember(self, reasoned: Tensor) -> Tensor:
        """Regions (B, R, D) -> unit vectors (B, D)."""
        bn, state = self.bn, self.gru(reasoned)[1][0]
        if bn is not None and self.training and len(state) == 1:  # which has no batch statistics
            state = nn.functional.batch_norm(state, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        elif bn is not None:
            state = bn(state)
        return over_length(state, dim=1)

    def forward(self, regions: Tensor) -> Tensor:
        return self.remember(self.reason(regions))


class LastState(nn.Module):
    """The unit vector of a caption: the state of a GRU at its last true word, (C, L), (C,) -> (C, D)."""

    def __init__(self, n_words: int, word_dim: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_words, word_dim)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.gru = nn.GRU(word_dim, dim, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))
        return over_length(states[torch.arange(len(tokens), device=tokens.device), lengths - 1], dim=1)


# Captions


class Captioner(nn.Module):
    """Tells captions from reasoned regions: a GRU reads the regions, another, which attends to the first's states, the words.

    Args:
        dim: D, of the regions.
        n_words: V, size of the vocabulary.
        word_dim: of its own word embedding.
        hidden: of both GRUs and the attention.
    """

    def __init__(self, dim: int, n_words: int, word_dim: int, hidden: int) -> None:
        super().__init__()
        self.region_fc, self.encoder = nn.Linear(dim, hidden), nn.GRU(hidden, hidden, batch_first=True)
        self.embedding = nn.Embedding(n_words, word_dim)
        self.attention_fc, self.attention_score = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.GRUCell(hidden + word_dim, hidden)
        self.word_fc = nn.Linear(hidden, n_words)
        for layer in (self.region_fc, self.word_fc):
            nn.init.xavier_normal_(layer.weight)

    def forward(self, reasoned: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (W, V) of what follows each of the W true words (B, L) of captions of regions (B, R, D)."""
        encoded, last = self.encoder(drop(self.region_fc(reasoned), DROPOUT, self.training))
        to_regions, to_state = self.attention_fc.weight.chunk(2, dim=1)
        keys = encoded @ to_regions.T + self.attention_fc.bias
        state, states = last[0], []
        for words in self.embedding(tokens).unbind(dim=1):
            attention = self.attention_score((keys + (state @ to_state.T)[:, None]).tanh()).softmax(dim=1)
            context = (attention.mT @ encoded)[:, 0]
            state = self.decoder(drop(torch.cat([words, context], dim=1), DROPOUT, self.training), state)
            states.append(state)
        return self.word_fc(torch.stack(states, dim=1)[word_mask(lengths, tokens.shape[1])])


def caption_loss(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """L_G: minus the log likelihood of what follows each true word, summed over a caption, its mean over captions.

    Args:
        logits: (W, V), of the true words of one caption after the other.
        tokens: (B, L); after the last word 0, the padding, is to follow.
        lengths: (B,).
    """
    true = word_mask(lengths, tokens.shape[1])
    following = nn.functional.pad(tokens, (0, 1))[:, 1:].masked_fill(~word_mask(lengths - 1, tokens.shape[1]), 0)
    return nn.functional.cross_entropy(logits, following[true], reduction="sum") / len(tokens)


class ReasoningNetwork(MatchingNetwork):
    """Both encoders, their cosine, and the captioner, or None."""

    region_encoder: ReasoningEncoder

    def __init__(self, images: ReasoningEncoder, words: LastState, captioner: Captioner | None) -> None:
        super().__init__(images, words, Cosine())
        self.captioner = captioner


@register_method(
    "vsrn",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "word_dim": 32, "caption_dim": 16, "epochs": 6, "batch_size": 32, "lr": 0.01},
)
@dataclass(kw_only=True)
class VSRN(RankingMethod):
    """Visual semantic reasoning; see the module's docstring."""

    dim: int = 2048
    lr_update: int = 10
    architecture: Architecture = "f30k"
    caption_weight: float = 1.0  # of L_G; 0: no caption branch
    caption_dim: int = 512  # of the caption branch

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "caption_dim")
        if self.caption_weight < 0:
            raise ValueError(f"vsrn.caption_weight must be 0 or more, got {self.caption_weight}")

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        if sizes["n_regions"] < 2:
            message = "vsrn needs images of two regions or more, which reason about each other, got {}; try vse"
            raise ValueError(message.format(sizes["n_regions"]))
        images = ReasoningEncoder(sizes["region_dim"], self.dim, self.architecture)
        words = LastState(sizes["n_words"], self.word_dim, self.dim)
        captioner = Captioner(self.dim, sizes["n_words"], self.word_dim, self.caption_dim) if self.caption_weight else None
        return [ReasoningNetwork(images, words, captioner)]

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)

    def batch_loss(self, net: nn.Module, batch: PairBatch, epoch: int) -> Tensor:
        net = cast(ReasoningNetwork, net)
        reasoned = net.region_encoder.reason(batch.images)
        captions = net.encode_captions(batch.captions, batch.lengths)
        loss = self.loss(net.scores(net.region_encoder.remember(reasoned), captions, batch.lengths), epoch)
        if net.captioner is None:
            return loss
        told = caption_loss(net.captioner(reasoned, batch.captions, batch.lengths), batch.captions, batch.lengths)
        return loss + self.caption_weight * told
