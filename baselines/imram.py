"""IMRAM: attention between words and regions that is repeated, with queries that a gated memory refines.

Chen, Ding, Liu, Lin, Liu, Han, "IMRAM: Iterative Matching with Recurrent Attention Memory for Cross-Modal Image-Text
Retrieval", CVPR 2020. Words ask for regions (mode "text"), with q^1_l the word t_l and c_l = sum_r p_rl v_r what SCAN's
attention (`_attention`) finds for q^k_l among the regions v_r of an image; the similarity of step k and the next queries are

    F_k = mean_l cos(t_l, c_l),   q^(k+1)_l = g * q^k_l + (1 - g) * o,   g = sigmoid(W_g [q^k_l; c_l] + b_g),
                                                                        o = tanh(W_o [q^k_l; c_l] + b_o)

Regions ask for words in mode "image", with W_g and W_o of their own; mode "full" adds both. The score sum_k F_k of K steps is
learnt by the triplet loss with the hardest negatives of the batch, margin alpha, although it grows with K and the mode. Noise:
every pair is taken for true.

Checked against HuiChen24/IMRAM, model.py xattn_score_Text_IMRAM, xattn_score_Image_IMRAM, gated_memory_t2i, func_attention.
Its commands are "image_IMRAM" with K = 1 and lambda 9 for Flickr30K, which leaves the memory out, and "text_IMRAM" with K = 3
and lambda 11 for COCO; without a model_mode it stops. Defaults here are the paper's whole method, the row that others quote:
full, K = 3, with the released lambda for Flickr30K. The step's cosine is with t_l, not with q^k_l, as in the code. Its option
to scale refined queries to unit length (off in its commands) is `normalise`.

The code loops over captions and pads with memory that nobody set. Here all images meet a block of captions, and padding may
hold anything. From the second step on each pair has queries of its own, too large to keep for long: contexts are never built.
W [q; c] is W_q q + sum_r p_r (W_c v_r), with W_c v_r computed once per image and W_q t_l once per caption, so that only the
W_q q of steps 2 to K - 1 costs D^2 per word and image; the refinement after the last step, which nobody reads, is left out.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from baselines._attention import EPSILON, by_blocks, context_norms, pool, unit, wide
from baselines._correspondence import hard_triplet
from baselines._matching import MatchingNetwork, RegionEncoder, WordEncoder
from baselines._ranking import RankingMethod
from xmbench import check_positive, register_method

ASKING: dict[str, tuple[str, ...]] = {"text": ("text",), "image": ("image",), "full": ("text", "image")}
REFINED_FLOATS = 8  # that one refinement of a query takes, over D


class Queries(NamedTuple):
    """M items of Q rows that ask: rows (M, Q, D), their share in gate and candidate (M, Q, 2D), mask (M, Q) or None."""

    rows: Tensor
    share: Tensor
    mask: Tensor | None


class Contexts(NamedTuple):
    """N items of K rows that are asked: rows (N, K, D), Gram matrices (N, K, K), and share and mask as of queries."""

    rows: Tensor
    gram: Tensor
    share: Tensor
    mask: Tensor | None


class Memory(nn.Module):
    """The two linear maps of [q; c], D and D wide, to the logits of the gate and to the candidate for the next query."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_fc, self.candidate_fc = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)

    def split(self) -> "SplitMemory":
        """The maps as one, cut in two: the weights of q and those of c."""
        layers = self.gate_fc, self.candidate_fc
        of_query, of_context = zip(*(layer.weight.chunk(2, dim=1) for layer in layers), strict=True)
        return SplitMemory(torch.cat(of_query), torch.cat(of_context), torch.cat([layer.bias for layer in layers]))


class SplitMemory(NamedTuple):
    """Gate and candidate, one below the other: weights (2D, D) of queries and of contexts, and biases (2D,)."""

    of_query: Tensor
    of_context: Tensor
    bias: Tensor

    def queries(self, rows: Tensor, mask: Tensor | None = None) -> Queries:
        return Queries(rows, self.query_share(rows), mask)

    def query_share(self, rows: Tensor) -> Tensor:
        """(..., D) -> (..., 2D), biases included."""
        return nn.functional.linear(rows, self.of_query, self.bias)

    def contexts(self, rows: Tensor, mask: Tensor | None = None) -> Contexts:
        return Contexts(rows, rows @ rows.mT, nn.functional.linear(rows, self.of_context), mask)


def refine(queries: Tensor, share: Tensor, weights: Tensor, contexts: Contexts) -> Tensor:
    """The next queries (N, QM, D) of queries and their share, (QM, D) or (N, QM, D), whose attention is (N, K, QM)."""
    both = torch.baddbmm(share, weights.mT.to(contexts.share.dtype), contexts.share).to(queries.dtype)
    gate, candidate = both.chunk(2, dim=-1)
    return torch.lerp(candidate.tanh(), queries.expand_as(candidate), gate.sigmoid())


class IteratedMatching(nn.Module):
    """IMRAM's similarity of images and captions.

    Args:
        dim: D, size of regions and words.
        mode: who asks: "text", "image", or "full" for both.
        steps: K.
        temperature: lambda of the attention.
        normalise: scale refined queries to unit length.
    """

    def __init__(self, dim: int, mode: str, steps: int, temperature: float, normalise: bool) -> None:
        super().__init__()
        self.memories = nn.ModuleDict({asking: Memory(dim) for asking in ASKING[mode]})
        self.steps, self.temperature, self.normalise = steps, temperature, normalise

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of regions (B, R, D) and words (C, L, D) of captions with `lengths` (C,)."""
        return self.step_scores(images, captions, lengths).sum(dim=0)

    def step_scores(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """F_k (K, B, C), in mode "full" that of words plus that of regions. For the arguments see `forward`."""
        functions = {"text": self._words_ask, "image": self._regions_ask}
        found = [functions[asking](images, captions, lengths) for asking in self.memories]
        return torch.stack(found).sum(dim=0)

    def _words_ask(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        memory = self._memory("text")
        contexts = memory.contexts(images)

        def block(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor]:
            return (self._iterate(memory, memory.queries(words, mask), contexts),)

        return by_blocks(block, captions, lengths, self._bytes_per_word(images, 1))[0]

    def _regions_ask(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        memory = self._memory("image")
        queries = memory.queries(images)

        def block(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor]:
            return (self._iterate(memory, queries, memory.contexts(words, mask)).mT,)

        per_word = images.shape[1] / float(lengths.float().mean())  # a caption's regions are as many whatever its length
        return by_blocks(block, captions, lengths, self._bytes_per_word(images, per_word))[0]

    def _memory(self, asking: str) -> SplitMemory:
        split = cast(Memory, self.memories[asking]).split()
        return split if self.steps > 1 else SplitMemory(*(part[:0] for part in split))  # nothing is refined

    def _bytes_per_word(self, images: Tensor, queries_per_word: float) -> int:
        n_images, n_regions, dim = images.shape
        refined = REFINED_FLOATS * dim * (self.steps - 1) * queries_per_word
        return int(4 * n_images * (8 * n_regions + refined))

    def _iterate(self, memory: SplitMemory, queries: Queries, contexts: Contexts) -> Tensor:
        """Mean cosines (K, N, M) of M items of queries with their contexts from each of N items, step by step.

        Rows and items of the queries share an axis: Q * M.
        """
        (m, q, _), (n, k, _) = queries.rows.shape, contexts.rows.shape
        asking, share = (part.transpose(0, 1).flatten(0, 1) for part in (queries.rows, queries.share))
        squares = wide(queries.rows).square().sum(dim=-1).T
        first = products = wide(contexts.rows @ asking.mT).view(n, k, q, m)
        scores: list[Tensor] = []
        while True:
            weights = self._attention(products, queries.mask, contexts.mask)
            lengths = (squares * context_norms(weights, contexts.gram)).clamp_min(EPSILON**2).sqrt()
            scores.append(pool((weights * first).sum(dim=1) / lengths, queries.mask, "avg", 0.0))
            if len(scores) == self.steps:
                return torch.stack(scores)
            if len(scores) > 1:
                share = memory.query_share(asking)
            asking = refine(asking, share, weights.flatten(2), contexts)
            asking = unit(asking) if self.normalise else asking
            products = wide(contexts.rows @ asking.mT).view(n, k, q, m)

    def _attention(self, products: Tensor, asking: Tensor | None, asked: Tensor | None) -> Tensor:
        """Weights (N, K, Q, M) of products of contexts and queries; masks (M, Q) of who asks and (N, K) of who is asked."""
        if asking is not None:
            products = products.masked_fill(~asking.T, 0)
        logits = self.temperature * unit(nn.functional.leaky_relu(products, 0.1), dim=2)
        if asked is not None:
            logits = logits.masked_fill(~asked[:, :, None, None], float("-inf"))
        return logits.softmax(dim=1)


@register_method(
    "imram",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "word_dim": 32, "steps": 2, "epochs": 3, "batch_size": 32, "lr": 0.01},
)
@dataclass(kw_only=True)
class IMRAM(RankingMethod):
    """Iterative matching with recurrent attention memory; see the module's docstring."""

    mode: Literal["text", "image", "full"] = "full"  # who asks: words, regions, or both; released as "full_IMRAM" and so on
    steps: int = 3  # K
    temperature: float = 9.0  # lambda
    normalise: bool = False  # refined queries to unit length

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "steps", "temperature")

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        similarity = IteratedMatching(self.dim, self.mode, self.steps, self.temperature, self.normalise)
        words = WordEncoder(sizes["n_words"], self.word_dim, self.dim, dropout=0.0)
        return [MatchingNetwork(RegionEncoder(sizes["region_dim"], self.dim), words, similarity)]

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
