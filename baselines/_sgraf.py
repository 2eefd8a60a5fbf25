"""The similarity networks SAF and SGR: vectors of similarity between an image and a caption, and how a score is made of them.

Haiwen Diao, Ying Zhang, Lin Ma, Huchuan Lu, "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021. With
c_l the attended region vector of word t_l (SCAN's text-to-image attention, scaled to unit length), vhat and that the global
vectors of image and caption,

    s_l = unit(W_l (c_l - t_l)^2 + b_l),   s_g = unit(W_g (vhat - that)^2 + b_g),   X = [s_g, s_1, ..., s_n]
    SGR: X <- ReLU(softmax(X Wq (X Wk)') X Wr + b), several steps; the score is sigmoid(w'x_0 + b) of the global node
    SAF: y = unit(sum_n beta_n x_n), beta the nodes' gates sigmoid(BN(w'x_n + b)) divided by their sum; score sigmoid(w'y + b)

Where this differs, and which side we take (checked against Paranioar/SGRAF, model.py EncoderSimilarity, VisualSA, TextSA,
GraphReasoning and AttentionFiltration):
- The paper's graph has the words as nodes; the code adds the global vector as node 0 and reads only that one. So do we.
- The code loops over captions. Here all images meet a block of captions at once. One linear map replaces query and key,
  x_p'(Wq'Wk)x_q + (Wk'bq)'x_q: what is left out is the same for all q, and the softmax drops it; the key's bias has no
  gradient. The last step is computed for node 0 alone.
- The gate's batch normalisation runs in the code once per caption, over images x nodes. So it does here, and its running
  statistics are those after all captions in their order.
- A last batch of one image crashes the code's batch normalisation; here it is normalised by the running statistics.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines._attention import EPSILON, attend, by_blocks, context_norms, unit, wide, word_mask

TEMPERATURE = 9.0  # lambda of the attention
CACHE_BYTES = 4 * 2**20  # of differences at a time, so that they stay in the cache
CAPTIONS_AT_ONCE = 128  # for their global vectors
Reasoning = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # nodes, mask -> vectors (B, c, S), statistics (c,)


def xavier(n_inputs: int, n_outputs: int) -> nn.Linear:
    """A linear layer with weights from U(-r, r), r = sqrt(6 / (inputs + outputs)), and bias 0."""
    layer = nn.Linear(n_inputs, n_outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _LocalSimilarity(torch.autograd.Function):
    """W (c - t)^2 + b of attended contexts c = p'v and words t, for a few images at a time.

    Differences have the size of the joint space, for every pair of image and word: nothing else here is as large. They stay
    in the cache and are not kept for the backward pass, which computes them again at R / S of the cost of the linear map.

    Shapes: weights p (B, R, W), images v (B, R, D), words t (W, D), weight (S, D), bias (S,); the result (B, W, S).
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, images: Tensor, words: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weights, images, words, weight)
        out = images.new_empty(*weights.shape[::2], len(weight))
        for some in _few_images(weights, words):
            difference = torch.baddbmm(words, weights[some].mT, images[some], beta=-1)
            torch.addmm(bias, difference.square_().flatten(0, 1), weight.T, out=out[some].view(-1, len(weight)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        weights, images, words, weight = ctx.saved_tensors
        to_weights, to_images = torch.empty_like(weights), torch.empty_like(images)
        to_words, to_weight = torch.zeros_like(words), torch.zeros_like(weight)
        twice, grad = 2 * weight, grad.contiguous()
        for some in _few_images(weights, words):
            difference = torch.baddbmm(words, weights[some].mT, images[some], beta=-1)
            flat = grad[some].flatten(0, 1)
            back = (flat @ twice).view_as(difference).mul_(difference)
            torch.bmm(images[some], back.mT, out=to_weights[some])
            torch.bmm(weights[some], back, out=to_images[some])
            to_words -= back.sum(dim=0)
            to_weight.addmm_(flat.T, difference.square_().flatten(0, 1))
        return to_weights, to_images, to_words, to_weight, grad.sum(dim=(0, 1))


def _few_images(weights: Tensor, words: Tensor) -> Iterator[slice]:
    """Cut the images so that the differences to the words (W, D) fit a core's cache."""
    few = max(1, CACHE_BYTES // (words.numel() * words.element_size()))
    for start in range(0, len(weights), few):
        yield slice(start, start + few)


def drop(x: Tensor, rate: float, training: bool) -> Tensor:
    """torch's dropout with uniform random numbers, a third of the time of its Bernoulli numbers on a processor."""
    return x.masked_fill(torch.rand_like(x) < rate, 0) / (1 - rate) if training and rate > 0 else x


# ---- global vectors -------------------------------------------------------------------------------------------------


class ImageSelfAttention(nn.Module):
    """The global vector of an image: its regions v_r, weighted by how well they agree with their mean m.

    u_r = dropout(tanh(BN(W v_r + b))) with one channel of BN per region slot, w = dropout(tanh(BN(W' m + b'))),
    vhat = unit(sum_r softmax_r(a'(u_r * w) + a_0) v_r).
    """

    def __init__(self, dim: int, n_regions: int, dropout: float) -> None:
        super().__init__()
        self.local_fc, self.local_bn = xavier(dim, dim), nn.BatchNorm1d(n_regions)
        self.global_fc, self.global_bn = xavier(dim, dim), nn.BatchNorm1d(dim)
        self.score_fc = xavier(dim, 1)
        self.dropout = dropout

    def forward(self, regions: Tensor) -> Tensor:
        """Unit vectors (B, D) of regions (B, R, D)."""
        local = drop(self.local_bn(self.local_fc(regions)).tanh(), self.dropout, self.training)
        overall = drop(self._normalise(self.global_fc(regions.mean(dim=1))).tanh(), self.dropout, self.training)
        weights = wide(self.score_fc(local * overall[:, None])).softmax(dim=1)
        return unit((weights * regions).sum(dim=1)).to(regions.dtype)

    def _normalise(self, overall: Tensor) -> Tensor:
        """Batch normalisation of (B, D); one image alone has no batch statistics and takes the running ones."""
        bn = self.global_bn
        if self.training and len(overall) == 1:
            return nn.functional.batch_norm(overall, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return bn(overall)


class TextSelfAttention(nn.Module):
    """The global vector of a caption: as that of an image, over its words, without batch normalisation."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.local_fc, self.global_fc, self.score_fc = xavier(dim, dim), xavier(dim, dim), xavier(dim, 1)
        self.dropout = dropout

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors (C, D) of words (C, L, D), zeros at padding, with their mask (C, L)."""
        local = drop(self.local_fc(words[mask]).tanh(), self.dropout, self.training)
        mean = words.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        overall = drop(self.global_fc(mean.to(words.dtype)).tanh(), self.dropout, self.training)
        scores = wide(self.score_fc(local * overall[mask.nonzero()[:, 0]])[:, 0])
        weights = scores.new_full(mask.shape, float("-inf")).masked_scatter(mask, scores).softmax(dim=1)
        return unit((weights[:, :, None] * words).sum(dim=1)).to(words.dtype)


# ---- what makes a score of the nodes ----------------------------------------------------------------------------------


class GraphStep(nn.Module):
    """One step of reasoning on the graph of nodes: X <- ReLU(softmax(X Wq (X Wk)') X Wr + b)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_fc, self.key_fc, self.update_fc = xavier(dim, dim), xavier(dim, dim), xavier(dim, dim)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight (S, S) and bias (S,) of the linear map that stands for query and key."""
        return self.key_fc.weight.T @ self.query_fc.weight, self.query_fc.bias @ self.key_fc.weight

    def forward(self, nodes: Tensor, padding: Tensor, readers: Tensor, merged: tuple[Tensor, Tensor]) -> Tensor:
        """The new `readers` (..., P, S), some of the nodes or all of them.

        Args:
            nodes: (..., N, S).
            padding: (..., 1, N), 0 at nodes and -inf at padding.
            readers: (..., P, S) the nodes that are updated.
            merged: see there.
        """
        queries = nn.functional.linear(readers, *merged)
        edges = (wide(queries @ nodes.mT) + padding).softmax(dim=-1)
        return self.update_fc(edges.to(nodes.dtype) @ nodes).relu_()


class GraphReasoning(nn.Module):
    """SGR: several graph steps, of which the last is computed for the global node alone."""

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(GraphStep(dim) for _ in range(steps))

    def prepared(self) -> Reasoning:
        """What turns nodes (B, c, N, S) with their mask (c, N) into the global node (B, c, S) after all steps."""
        steps = cast(list[GraphStep], list(self.steps))
        merged = [step.merged() for step in steps]

        def reason(nodes: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            padding = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))[:, None]
            for step, query in zip(steps[:-1], merged[:-1], strict=True):
                nodes = step(nodes, padding, nodes, query)
            return (steps[-1](nodes, padding, nodes[:, :, :1].contiguous(), merged[-1])[:, :, 0],)

        return reason


class AttentionFiltration(nn.Module):
    """SAF: the nodes' mean under gates, which are normalised over the images and nodes of each caption in training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_fc, self.gate_bn = xavier(dim, 1), nn.BatchNorm1d(1)

    def prepared(self) -> Reasoning:
        """`forward`."""
        return self

    def forward(self, nodes: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Unit vectors (B, c, S) of nodes (B, c, N, S) with their mask (c, N); in training also mean and variance (c,)."""
        gates = wide(self.gate_fc(nodes)[..., 0])
        statistics = self._statistics(gates, mask) if self.training else ()
        mean, variance = (s.view(-1, 1) for s in statistics or (self.gate_bn.running_mean, self.gate_bn.running_var))
        gates = (gates - mean) * (variance + self.gate_bn.eps).rsqrt() * self.gate_bn.weight + self.gate_bn.bias
        gates = gates.sigmoid().masked_fill(~mask, 0)
        gates = gates / (gates.sum(dim=-1, keepdim=True) + EPSILON)
        mixed = (gates[:, :, None].to(nodes.dtype) @ nodes)[:, :, 0]
        return unit(mixed), *statistics

    @staticmethod
    def _statistics(gates: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (c,) of each caption's gates (B, c, N)."""
        count = len(gates) * mask.sum(dim=1)
        mean = gates.masked_fill(~mask, 0).sum(dim=(0, 2)) / count
        centred = (gates - mean[:, None]).masked_fill(~mask, 0)
        return mean, centred.square().sum(dim=(0, 2)) / count

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Running statistics after one update per caption, in order: r <- 0.9^C r + sum_k 0.1 0.9^(C-1-k) s_k.

        Args:
            mean: (C,) of each caption's gates.
            variance: (C,) biased; the running one is unbiased.
            count: (C,) gates that each was computed of.
        """
        bn, n = self.gate_bn, len(mean)
        assert bn.momentum is not None and bn.num_batches_tracked is not None
        kept = 1 - bn.momentum
        shares = bn.momentum * kept ** torch.arange(n - 1, -1, -1, dtype=mean.dtype, device=mean.device)
        bn.running_mean.mul_(kept**n).add_(shares @ mean)
        bn.running_var.mul_(kept**n).add_(shares @ (variance * count / (count - 1)))
        bn.num_batches_tracked += n


# ---- the network ----------------------------------------------------------------------------------------------------


class SimilarityReasoning(nn.Module):
    """Scores in (0, 1) of images and captions by SGR or SAF.

    Args:
        dim: D, size of regions and words.
        similarity_dim: S, size of the similarity vectors.
        n_regions: R.
        steps: graph steps of SGR; 0 for SAF.
        dropout: in the self-attention.
    """

    def __init__(self, dim: int, similarity_dim: int, n_regions: int, steps: int, dropout: float) -> None:
        super().__init__()
        self.image_global = ImageSelfAttention(dim, n_regions, dropout)
        self.text_global = TextSelfAttention(dim, dropout)
        self.local_fc, self.global_fc = xavier(dim, similarity_dim), xavier(dim, similarity_dim)
        self.reasoning = GraphReasoning(similarity_dim, steps) if steps else AttentionFiltration(similarity_dim)
        self.score_fc = xavier(similarity_dim, 1)
        self.steps = steps

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of regions (B, R, D) and words (C, L, D) of captions with `lengths` (C,).

        Global vectors and batch statistics are computed once, over the whole batch, before and after the blocks.
        """
        gram, image_vectors = images @ images.mT, self.image_global(images)
        text_vectors, reason = self.text_vectors(captions, lengths), self.reasoning.prepared()

        def block(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            first, others = (
                self.global_similarity(image_vectors, text_vectors[rows]),
                self.local_similarities(images, gram, words),
            )
            vectors, *statistics = reason(torch.cat([first, others], dim=2), nn.functional.pad(mask, (1, 0), value=True))
            return wide(self.score_fc(vectors)[..., 0]).sigmoid(), *statistics

        n_images, n_regions, _ = images.shape
        floats = (4 * self.steps + 6) * self.score_fc.in_features + 6 * n_regions
        scores, *statistics = by_blocks(block, captions, lengths, 4 * n_images * floats)
        if isinstance(self.reasoning, AttentionFiltration) and self.training:
            mean, variance = statistics
            self.reasoning.update_statistics(mean, variance, n_images * (lengths + 1))
        return scores

    def text_vectors(self, captions: Tensor, lengths: Tensor) -> Tensor:
        """Global vectors (C, D) of captions (C, L, D), some at a time."""
        vectors = []
        for words, n_words in zip(captions.split(CAPTIONS_AT_ONCE), lengths.split(CAPTIONS_AT_ONCE), strict=True):
            mask = word_mask(n_words, int(n_words.max()))
            vectors.append(self.text_global(words[:, : mask.shape[1]].masked_fill(~mask[:, :, None], 0), mask))
        return torch.cat(vectors)

    def global_similarity(self, images: Tensor, captions: Tensor) -> Tensor:
        """Node 0 (B, c, 1, S) of the global vectors (B, D) and (c, D)."""
        return unit(self.global_fc((images[:, None] - captions).square()))[:, :, None]

    def local_similarities(self, images: Tensor, gram: Tensor, words: Tensor) -> Tensor:
        """The words' nodes (B, c, L, S), of regions (B, R, D) with their Gram matrices (B, R, R) and words (c, L, D)."""
        _, weights = attend(images, words, TEMPERATURE)
        weights = weights / (context_norms(weights, gram).clamp_min(EPSILON**2).sqrt() + EPSILON)[:, None]
        layer = [parameter.to(images.dtype) for parameter in (self.local_fc.weight, self.local_fc.bias)]
        with torch.autocast(images.device.type, enabled=False):
            vectors = _LocalSimilarity.apply(
                weights.flatten(2).to(images.dtype), images, words.transpose(0, 1).flatten(0, 1), *layer
            )
        return unit(vectors).view(len(images), words.shape[1], len(words), -1).transpose(1, 2)
