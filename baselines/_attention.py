"""Attention between image regions and words, computed over blocks of captions, and SCAN's similarity.

Kuang-Huei Lee, Xi Chen, Gang Hua, Houdong Hu, Xiaodong He, "Stacked Cross Attention for Image-Text Matching", ECCV 2018.
With regions v_r and words t_l of unit length, and text to image ("t2i": a word q attends to the regions k),

    a_kq = v_k' t_q,   g = LeakyReLU_0.1(a),   h_kq = g_kq / |g_k.|_2     (norm over the queries)
    p_kq = softmax_k(lambda1 h_kq),   c_q = sum_k p_kq v_k                (softmax over the contexts)
    similarity = pool_q cos(t_q, c_q)

Image to text ("i2t") is the same with regions and words exchanged. Pooling is "avg", "max", "sum", or "lse":
log(sum_q exp(lambda2 cos_q)) / lambda2, a plain sum, so that more queries score higher.

The released loop (checked against kuanghuei/SCAN, model.py xattn_score_t2i, xattn_score_i2t and func_attention) takes one
caption at a time. Here all images meet a block of captions of similar length in one masked computation, and the contexts
c_q are never built: with the Gram matrix G of the contexts' rows, t_q'c_q = sum_k p_kq a_kq and |c_q|^2 = p_q' G p_q.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Bytes that the intermediate results of one block of captions may take; about what a processor's cache holds.
BLOCK_BYTES = 64 * 2**20
# Bytes that all blocks together may keep for the backward pass; above, each block is computed again on the way back.
KEPT_BYTES = 2 * 2**30
# A block's captions have at least this share of the words of its longest one; the rest is padding.
SIMILAR_LENGTH = 0.6

EPSILON = 1e-8  # what the released code adds to a norm before it divides
POOLINGS = ("lse", "avg", "max", "sum")


def wide(x: Tensor) -> Tensor:
    """`x` in float32 where it has half precision, as it is otherwise: for norms and softmax."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """x / (|x| + 1e-8) along `dim`, in the type of `x`; rows of zeros stay zeros and get the gradient zero, not NaN."""
    return _Unit.apply(x, dim)


class _Unit(torch.autograd.Function):
    """With s = 1 / (|x| + eps) the gradient of u = s x is s (g - u (u'g) / (1 - eps s)), since s |x| = 1 - eps s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        values = wide(x)
        norm = (values * values).sum(dim=dim, keepdim=True).sqrt()
        scale = (norm + EPSILON).reciprocal().masked_fill(norm == 0, 0)
        out = values * scale
        ctx.save_for_backward(out, scale)
        ctx.dim = dim
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out, scale = ctx.saved_tensors
        along = (out * grad).sum(dim=ctx.dim, keepdim=True) / (1 - EPSILON * scale)
        return torch.addcmul(wide(grad), out, along, value=-1).mul_(scale).to(grad.dtype), None


def word_mask(lengths: Tensor, longest: int) -> Tensor:
    """True at the words of captions with these `lengths` (C,), False at padding: (C, longest)."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


# ---- blocks of captions ---------------------------------------------------------------------------------------------


def caption_blocks(lengths: list[int], most_words: float) -> Iterator[slice]:
    """Cut captions, sorted by decreasing length, into blocks of similar length with at most `most_words` words, padding too."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        longest = lengths[start]
        if stop == len(lengths) or lengths[stop] < SIMILAR_LENGTH * longest or (stop + 1 - start) * longest > most_words:
            yield slice(start, stop)
            start = stop


def by_blocks(
    function: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]], captions: Tensor, lengths: Tensor, bytes_per_word: int
) -> tuple[Tensor, ...]:
    """Apply `function` to blocks of captions of similar length, and put what it returns in the order of the captions.

    The function must draw no random numbers and change no state, since it runs twice where memory is short.

    Args:
        function: of caption numbers (c,), words (c, L', D) with zeros at padding, and their mask (c, L'); returns tensors
            whose last axis is that of the captions.
        captions: (C, L, D), anything at padding.
        lengths: (C,) number of words of each caption.
        bytes_per_word: size of the intermediate results of one word with all images.
    """
    ordered, order = lengths.sort(descending=True, stable=True)
    sizes = ordered.tolist()
    again = torch.is_grad_enabled() and sum(sizes) * bytes_per_word > KEPT_BYTES
    blocks = []
    for block in caption_blocks(sizes, BLOCK_BYTES / bytes_per_word):
        rows, longest = order[block], sizes[block.start]
        mask = word_mask(ordered[block], longest)
        words = captions[rows, :longest].masked_fill(~mask[:, :, None], 0)
        if again:
            blocks.append(checkpoint(function, rows, words, mask, use_reentrant=False, preserve_rng_state=False))
        else:
            blocks.append(function(rows, words, mask))
    back = order.argsort()
    return tuple(torch.cat(parts, dim=-1)[..., back] for parts in zip(*blocks, strict=True))


# ---- attention ------------------------------------------------------------------------------------------------------


def attend(contexts: Tensor, queries: Tensor, temperature: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Products a and attention weights p of every query with every context row: both (N, K, Q, M).

    Args:
        contexts: (N, K, D): N items of K rows each, over which the softmax runs.
        queries: (M, Q, D): M items of Q rows each, over which the norm runs; zeros at padding.
        temperature: lambda1.
        mask: (N, K), False at padding of the contexts.
    """
    (n, k, _), (m, q, _) = contexts.shape, queries.shape
    products = wide(contexts @ queries.transpose(0, 1).flatten(0, 1).T).view(n, k, q, m)
    logits = temperature * unit(nn.functional.leaky_relu(products, 0.1), dim=2)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, :, None, None], float("-inf"))
    return products, logits.softmax(dim=1)


def context_norms(weights: Tensor, gram: Tensor) -> Tensor:
    """Squared lengths p'Gp (N, Q, M) of the contexts that weights p (N, K, Q, M) mix, with the Gram matrices G (N, K, K)."""
    with torch.autocast(weights.device.type, enabled=False):
        mixed = wide(gram) @ weights.flatten(2)
    return (weights * mixed.view_as(weights)).sum(dim=1)


def cosines(contexts: Tensor, gram: Tensor, queries: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """cos(query, attended context): (N, Q, M), 0 at padding of the queries. For the arguments see `attend`."""
    products, weights = attend(contexts, queries, temperature, mask)
    squares = wide(queries).square().sum(dim=-1).T * context_norms(weights, gram)
    return (weights * products).sum(dim=1) / squares.clamp_min(EPSILON**2).sqrt()


def pool(values: Tensor, mask: Tensor | None, pooling: str, temperature: float) -> Tensor:
    """One number per pair out of the values (N, Q, M) of its queries: (N, M).

    Args:
        values: cosines.
        mask: (M, Q), False at padding of the queries, or None.
        pooling: "lse", "avg", "max" or "sum".
        temperature: lambda2 of "lse".
    """
    if pooling in ("lse", "max"):
        if mask is not None:
            values = values.masked_fill(~mask.T, float("-inf"))
        return values.amax(dim=1) if pooling == "max" else (temperature * values).logsumexp(dim=1) / temperature
    if mask is not None:
        values = values.masked_fill(~mask.T, 0)
    total = values.sum(dim=1)
    if pooling == "sum":
        return total
    return total / (values.shape[1] if mask is None else mask.sum(dim=1))


class ScanSimilarity(nn.Module):
    """SCAN's similarity of images and captions; it has no parameters to learn.

    Args:
        direction: "t2i" (words attend to regions) or "i2t".
        pooling: "lse", "avg", "max" or "sum".
        lambda1: temperature of the attention.
        lambda2: temperature of "lse".
    """

    def __init__(self, direction: str, pooling: str, lambda1: float, lambda2: float) -> None:
        super().__init__()
        self.direction, self.pooling, self.lambda1, self.lambda2 = direction, pooling, lambda1, lambda2

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Similarities (B, C) of regions (B, R, D) and words (C, L, D) of captions with `lengths` (C,)."""
        gram = images @ images.mT

        def text_to_image(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor]:
            return (pool(cosines(images, gram, words, self.lambda1), mask, self.pooling, self.lambda2),)

        def image_to_text(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor]:
            values = cosines(words, words @ words.mT, images, self.lambda1, mask)
            return (pool(values, None, self.pooling, self.lambda2).T,)

        function = text_to_image if self.direction == "t2i" else image_to_text
        n_images, n_regions, _ = images.shape
        return by_blocks(function, captions, lengths, 8 * 4 * n_images * n_regions)[0]
