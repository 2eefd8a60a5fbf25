"""Gated embedding units: one vector per video and per caption, compared by their cosine.

Miech, Laptev, Sivic, "Learning a Text-Video Embedding from Incomplete and Heterogeneous Data", arXiv 2018, as used in Miech et
al., ICCV 2019. With the words w_1 ... w_L of a caption in S slots, the empty ones filled with zeros,

    t = max over slots of relu(W w_l + b)                          pooled, coordinate by coordinate
    x1 = W1 x + b1,   f(x) = unit(x1 * sigmoid(W2 x1 + b2))        the gate, for x = t and for the video's vector

Checked against antoine77340/howto100m, model.py Net. There an empty slot takes part in the maximum, with relu(b); so it does
here, however few of the slots a batch is padded to, unless padding is masked. The scaling to unit length is in the code
alone; the batch norm that its gate holds and never uses is left out.
"""

import torch
from torch import Tensor, nn

from baselines._matching import Cosine, MatchingNetwork

MAX_WORDS = 20  # S, the released code's default


class GatedUnit(nn.Module):
    """A linear map whose output gates itself, scaled to unit length: (B, d) -> (B, D)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.fc, self.context = nn.Linear(in_dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return nn.functional.normalize(x * torch.sigmoid(self.context(x)), dim=1)


class WordPooling(nn.Module):
    """The maximum over the slots of a caption, each mapped to D and cut at zero.

    Args:
        word_dim: size of a word vector.
        dim: D.
        max_words: S, slots of a caption; words beyond them are not read.
        mask_padding: leave empty slots out of the maximum.
    """

    def __init__(self, word_dim: int, dim: int, max_words: int, mask_padding: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(word_dim, dim)
        self.max_words, self.mask_padding = max_words, mask_padding

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Word vectors (C, L, d) of captions with `lengths` (C,), padding anything -> (C, D)."""
        words = words[:, : self.max_words]
        filled = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        slots = torch.relu(self.fc(words.masked_fill(~filled[..., None], 0.0)))
        pooled = slots.masked_fill(~filled[..., None], 0.0).max(dim=1).values
        if self.mask_padding:
            return pooled
        empty = torch.relu(self.fc.bias) * (lengths < self.max_words)[:, None]
        return torch.maximum(pooled, empty)


class CaptionUnit(nn.Module):
    """Word vectors (C, L, d), or numbers (C, L) of words with learnt vectors, pooled and gated: -> (C, D)."""

    def __init__(self, words: nn.Module, pooling: WordPooling, gate: GatedUnit) -> None:
        super().__init__()
        self.words, self.pooling, self.gate = words, pooling, gate

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        return self.gate(self.pooling(self.words(words), lengths))


def gated_network(
    *,
    image_dim: int,
    caption_dim: int | None = None,
    n_words: int | None = None,
    dim: int,
    word_dim: int = 300,
    max_words: int = MAX_WORDS,
    mask_padding: bool = False,
) -> MatchingNetwork:
    """A network of videos (or images) as vectors and captions as words, with initial weights.

    Args:
        image_dim: size of a video's vector.
        caption_dim: size of the word vectors that captions are given as, or
        n_words: size of the vocabulary, where they are given as word numbers and their vectors are learnt.
        dim: D, of the common space and of pooled captions.
        word_dim: size of learnt word vectors.
        max_words: S, slots of a caption.
        mask_padding: leave empty slots out of the pooling.

    Raises:
        ValueError: both or none of `caption_dim` and `n_words`.
    """
    if (caption_dim is None) == (n_words is None):
        got = f"caption_dim={caption_dim} and n_words={n_words}"
        raise ValueError(f"captions must be word vectors (caption_dim) or word numbers (n_words), got {got}")
    words: nn.Module = nn.Identity()
    if n_words is not None:
        words = nn.Embedding(n_words, word_dim)
        nn.init.uniform_(words.weight, -0.1, 0.1)
    pooling = WordPooling(caption_dim or word_dim, dim, max_words, mask_padding)
    return MatchingNetwork(GatedUnit(image_dim, dim), CaptionUnit(words, pooling, GatedUnit(dim, dim)), Cosine())
