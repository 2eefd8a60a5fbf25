"""Networks that match images, as sets of regions, with captions, as sequences of words: encoders, and a similarity of pairs.

Encoders as in SCAN (Lee et al., ECCV 2018) and SGRAF (Diao et al., AAAI 2021), checked against kuanghuei/SCAN and
Paranioar/SGRAF, model.py EncoderImage and EncoderText; similarities in `_attention` and `_sgraf`.
"""

import torch
from torch import Tensor, nn

from baselines._attention import POOLINGS, ScanSimilarity, unit
from baselines._gru import Packing, bidirectional
from baselines._sgraf import SimilarityReasoning, drop, xavier

# The released commands for Flickr30K: temperatures of attention and log-sum-exp.
TEMPERATURES = {"scan_t2i": (9.0, 6.0), "scan_i2t": (4.0, 5.0)}
BACKBONES = (*TEMPERATURES, "saf", "sgr")
IMAGES_AT_ONCE = 64  # when scores are computed without gradients


class RegionEncoder(nn.Module):
    """Regions on the unit sphere: one linear layer, rows scaled to unit length."""

    def __init__(self, region_dim: int, dim: int) -> None:
        super().__init__()
        self.fc = xavier(region_dim, dim)

    def forward(self, regions: Tensor) -> Tensor:
        """(B, R, d) -> unit rows (B, R, D)."""
        return unit(self.fc(regions))


class WordEncoder(nn.Module):
    """Words on the unit sphere: embedding, dropout, one bidirectional GRU whose directions are averaged."""

    def __init__(self, n_words: int, word_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_words, word_dim)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.dropout = dropout
        self.gru = nn.GRU(word_dim, dim, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Word numbers (C, L) of captions with `lengths` (C,) -> unit rows (C, L, D), zeros at padding."""
        packing = Packing(lengths)
        where = packing.sentence, packing.position
        states = bidirectional(self.gru, drop(self.embedding(tokens[where]), self.dropout, self.training), packing)
        words = states.new_zeros(*tokens.shape, states.shape[1])
        return words.index_put(where, unit(states))


class Cosine(nn.Module):
    """Scores (B, C) of images (B, D) and captions (C, D), both of unit length."""

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        return images @ captions.T


class MatchingNetwork(nn.Module):
    """Encoders of regions and words, and a similarity of image and caption.

    Args:
        region_encoder: (B, R, d) -> (B, R, D).
        word_encoder: (C, L), (C,) -> (C, L, D).
        similarity: (B, R, D), (C, L, D), (C,) -> (B, C).
    """

    def __init__(self, region_encoder: nn.Module, word_encoder: nn.Module, similarity: nn.Module) -> None:
        super().__init__()
        self.region_encoder, self.word_encoder, self.similarity = region_encoder, word_encoder, similarity

    def encode_images(self, regions: Tensor) -> Tensor:
        """Regions (B, R, d) -> unit rows (B, R, D)."""
        return self.region_encoder(regions)

    def encode_captions(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Word numbers (C, L) of captions with `lengths` (C,) -> unit rows (C, L, D), zeros at padding."""
        return self.word_encoder(tokens, lengths)

    def scores(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of encoded images (B, R, D) and captions (C, L, D) with `lengths` (C,), in bounded memory.

        In training mode the batch statistics are those of all images and captions given; padding may hold anything.
        """
        if self.training or torch.is_grad_enabled():
            return self.similarity(images, captions, lengths)
        return torch.cat([self.similarity(some, captions, lengths) for some in images.split(IMAGES_AT_ONCE)])

    def forward(self, regions: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of images (B, R, d) and captions (C, L) with `lengths` (C,)."""
        return self.scores(self.encode_images(regions), self.encode_captions(tokens, lengths), lengths)


def matching_network(
    backbone: str,
    *,
    region_dim: int,
    n_regions: int,
    n_words: int,
    dim: int,
    word_dim: int,
    similarity_dim: int = 256,
    steps: int = 3,
    dropout: float | None = None,
    pooling: str = "lse",
    lambda1: float | None = None,
    lambda2: float | None = None,
) -> MatchingNetwork:
    """A network of one of the papers' kinds, with their initial weights.

    Args:
        backbone: "scan_t2i", "scan_i2t", "saf" or "sgr".
        region_dim: d, size of a region's features.
        n_regions: R, regions per image.
        n_words: size of the vocabulary.
        dim: D, size of encoded regions and words.
        similarity_dim: S, size of the similarity vectors of SAF and SGR.
        steps: graph steps of SGR.
        word_dim: size of the word embedding.
        dropout: of word embeddings, and of self-attention in SAF and SGR; None for the papers': 0.4, in SCAN 0.
        pooling: of SCAN's cosines, "lse", "avg", "max" or "sum".
        lambda1: temperature of SCAN's attention; None for the released value (9 for t2i, 4 for i2t).
        lambda2: temperature of SCAN's log-sum-exp; None for the released value (6 and 5).

    Raises:
        ValueError: unknown backbone or pooling, or SGR with no step.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    if backbone == "sgr" and steps < 1:
        raise ValueError(f"sgr needs at least one graph step, got steps = {steps}")
    similarity: nn.Module
    if backbone in TEMPERATURES:
        released = TEMPERATURES[backbone]
        lambdas = [given or default for given, default in zip((lambda1, lambda2), released, strict=True)]
        similarity = ScanSimilarity(backbone.removeprefix("scan_"), pooling, *lambdas)
        dropout = dropout or 0.0
    else:
        dropout = 0.4 if dropout is None else dropout
        similarity = SimilarityReasoning(dim, similarity_dim, n_regions, steps if backbone == "sgr" else 0, dropout)
    return MatchingNetwork(RegionEncoder(region_dim, dim), WordEncoder(n_words, word_dim, dim, dropout), similarity)
