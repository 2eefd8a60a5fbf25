"""BiCro, bidirectional cross-modal similarity consistency: what is like a right pair in one modality is like it in the other.

Shuo Yang, Zhaopan Xu, Kai Wang, Yang You, Hongxun Yao, Tongliang Liu, Min Xu, "BiCro: Noisy Correspondence Rectification for
Multi-modality Data via Bi-directional Cross-modal Similarity Consistency", CVPR 2023. Two networks A and B are warmed up on the
pairs of each batch whose loss (mean over negatives, margin alpha) is among the smallest `warm_up_share`. Then, in every epoch:

    w_i    posterior of the lower component, of two beta distributions over the losses scaled to [0, 1]; it never rises again
    clean = {w_i > .5}, noisy = the others; A learns by the w of B, and B by that of A
    anchors = the tenth of a clean batch that stands out most from its negatives
    y_i    = 1/2 [c(s(I_i, I_a), s(T_i, T_a)) + c(s(I_i, I_b), s(T_i, T_b))]   a, b: the anchors nearest by image, by text
    c(x, z) = min(x / z, z / x)                                                how alike two similarities are

with s the cosine of mean regions and of mean words, and y_i 0 up to `threshold`. Anchors have y = 1, the other pairs of a clean
batch (1 + y) / 2, those of a noisy one y; the other network makes them. As in `ncr` margins are alpha (10^y - 1) / 9, with the
hardest negatives, and noisy batches are learnt from in the second half of the epochs; here before the clean one.

Definition: the released code (xu5zhao/BiCro, model.py ContrastiveLoss and SGRAF.predict, co_train.py train, eval_train and
BetaMixture1D); the paper's text was not at hand. Where the code's indices go astray we do what is meant: it hands the labels of
the first pairs of a clean batch to those that are no anchors, in their order, and gives image i that looks the margin of the
caption it is compared with. What is ours: posteriors too are of losses kept 1e-4 away from 0 and 1, where a density can be
infinite; above the lower mean w never rises with the loss, where the code's turns up again and believes the largest losses of
all, since a lower component with a < 1 may have the heavier right tail; collapsed networks, and those whose losses are equal
or not finite, believe every pair, and a warning says so; an epoch with fewer than two clean pairs has no anchors and is left
out; batches are of equal size, about.

Noise: pairs may be wrong; a network learns right ones first, so that a small loss means a right pair. `clean_weights` are w.
Defaults are the released command for Flickr30K at 40 % of wrong pairs. The scores of both networks are averaged.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from baselines._co_rectify import COLLAPSED, NETWORKS, CoRectify, Ledger, rounds
from baselines._correspondence import hard_triplet, min_max, per_sample_loss, prominence, soft_margin
from baselines._matching import MatchingNetwork
from baselines._ranking import PairBatch, PairData, ReasoningMethod, decayed, set_rate, step_down
from xmbench import FitContext, PairedSet, check_positive, register_method

ROUNDS_OF_EM = 10
_EDGE = 1e-4  # losses are kept so far from 0 and 1
_LEAST = 1e-12  # of a component's share in a loss, and of a similarity that is divided by


def beta_beliefs(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior (n,) of the lower of two beta distributions over losses (n,), two of which must differ.

    Ten rounds of expectation and of matching the weighted moments, from Beta(1, 2) and Beta(2, 1) with equal weights. Above the
    lower mean no loss is believed more than a smaller one: the lower component may claim the largest losses too, whose belief
    then is the smallest that there is before them.
    """
    values = min_max(losses).clip(_EDGE, 1 - _EDGE)
    shapes, weights = np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([0.5, 0.5])

    def shares() -> NDArray[np.float64]:
        densities = [weight * stats.beta.pdf(values, *shape) for weight, shape in zip(weights, shapes, strict=True)]
        found = np.maximum(densities, _LEAST)
        return np.asarray(found / found.sum(axis=0))

    for _ in range(ROUNDS_OF_EM):
        share = shares()
        mean = (share * values).sum(axis=1) / share.sum(axis=1)
        variance = (share * (values - mean[:, None]) ** 2).sum(axis=1) / share.sum(axis=1)
        first = mean * (mean * (1 - mean) / np.maximum(variance, _LEAST) - 1)
        shapes, weights = np.stack([first, first * (1 - mean) / mean], axis=1), share.mean(axis=1)
    beliefs, order = shares()[0], np.argsort(values)
    above = order[values[order] > mean[0]]
    beliefs[above] = np.minimum.accumulate(beliefs[above])
    return beliefs


def indistinct(losses: NDArray[np.float64], spread: float) -> str | None:
    """Why losses (n,) tell no pairs apart, in words; None where they may. `spread`: mean deviation of a batch's scores."""
    if spread < COLLAPSED:
        return f"collapsed, its scores deviate by {spread:.1e}"
    finite = bool(np.isfinite(losses).all())
    if finite and np.ptp(losses) >= COLLAPSED:
        return None
    return f"the losses of the pairs are {'equal' if finite else 'not finite'}, so that none can be told apart"


def selected_mean(scores: Tensor, margin: float, share: float) -> Tensor:
    """Sum of the smallest `share` of the losses over all negatives, of scores (B, B): at least one pair's."""
    losses = per_sample_loss(scores, margin)
    return losses.topk(max(1, int(share * len(losses))), largest=False).values.sum()


def pooled(values: Tensor, lengths: Tensor) -> Tensor:
    """Unit mean (B, D) of the first `lengths` (B,) rows of each of the values (B, L, D)."""
    inside = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    return normalize((values * inside[:, :, None]).sum(dim=1), dim=1)


def anchors(scores: Tensor, margin: float) -> Tensor:
    """Numbers of the B // 10 + 1 pairs that stand out most from their negatives in scores (B, B)."""
    return prominence(scores, margin).topk(len(scores) // 10 + 1).indices


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """c (n,) of every item's similarities with the anchor that is nearest to it by `first`; both (n, anchors)."""
    near, where = first.max(dim=1)
    far = second.gather(1, where[:, None])[:, 0]
    ratio = near / torch.where(far.abs() < _LEAST, _LEAST, far)
    return torch.where(ratio < 1, ratio, far / torch.where(near.abs() < _LEAST, _LEAST, near))


def agreement(images: Tensor, captions: Tensor, anchor_images: Tensor, anchor_captions: Tensor) -> Tensor:
    """y (n,), not clamped, of pairs of unit rows (n, D) beside anchors (k, D)."""
    by_image, by_text = images @ anchor_images.T, captions @ anchor_captions.T
    return (consistency(by_image, by_text) + consistency(by_text, by_image)) / 2


def kept(labels: Tensor, threshold: float) -> Tensor:
    """Labels clamped into [0, 1], and 0 where they are not above the threshold."""
    return torch.where(labels > threshold, labels, 0.0).clamp(0, 1)


@dataclass(kw_only=True)
class Peers(CoRectify):
    """Two networks that divide the pairs for each other."""


@register_method(
    "bicro",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001], "warm_up_share": [0.3, 0.5]},
    smoke={
        "dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "warm_up": 2, "epochs": 1, "batch_size": 32, "lr": 0.01,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class BiCro(ReasoningMethod):
    """Bidirectional similarity consistency with anchors; see the module's docstring."""

    warm_up: int = 10  # epochs on the pairs with the smallest losses
    warm_up_share: float = 0.3  # of each batch
    threshold: float = 0.5  # labels up to it are 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "warm_up")
        if not 0 < self.warm_up_share <= 1:
            raise ValueError(f"bicro.warm_up_share must lie in (0, 1], got {self.warm_up_share}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"bicro.threshold must lie in [0, 1), got {self.threshold}")

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return selected_mean(scores, self.margin, self.warm_up_share)

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        nets = self.learns([net for _ in NETWORKS for net in self.networks(data.sizes)], data, context.device)
        optimisers = [torch.optim.Adam(net.parameters(), lr=self.lr, fused=True) for net in nets]
        self.weights_ = np.full((len(NETWORKS), len(data)), np.nan)  # not known yet
        self._peers = Peers(batch_size=self.batch_size, margin=self.margin, co_rectify=False)
        self._peers.nets_, self._peers.weights_ = nets, self.weights_
        state: dict[str, Any] = {"nets": nets, "weights": self.weights_}
        state |= {f"optimiser {k}": optimiser for k, optimiser in enumerate(optimisers)}
        for epoch in context.epochs(self.warm_up + self.epochs, state=state):
            for optimiser in optimisers:
                set_rate(optimiser, decayed(self.lr, epoch - self.warm_up, self.lr_update))
            ledger = Ledger(len(data))
            if epoch < self.warm_up:
                self.warm_up_epoch(epoch, data, optimisers, ledger)
            else:
                self.training_epoch(epoch - self.warm_up, data, context, optimisers, ledger)
                context.record("rectified_labels", ledger.labels)
            context.end_epoch(loss=ledger.loss(), selectable=epoch >= self.warm_up)

    def warm_up_epoch(self, epoch: int, data: PairData, optimisers: Sequence[torch.optim.Optimizer], ledger: Ledger) -> None:
        """Train network A, then B, on the smallest losses of each batch."""
        for net, optimiser in zip(self.nets_, optimisers, strict=True):
            net.train()
            for batch in data.batches(self.batch_size):
                ledger.add(step_down(self.batch_loss(net, batch, epoch), net, optimiser), len(batch.numbers))

    def training_epoch(
        self, epoch: int, data: PairData, context: FitContext, optimisers: Sequence[torch.optim.Optimizer], ledger: Ledger
    ) -> None:
        """Divide the pairs by both networks' losses; train A on B's division and labels, then B on A's."""
        self.estimate(data, context)
        for k, optimiser in enumerate(optimisers):
            clean, noisy = self._peers.divided(k, len(data), context)
            late = epoch >= self.epochs // 2
            for believed, others in rounds(data, self.batch_size, clean, noisy if late else noisy[:0]):
                if believed is None:  # too few are clean
                    break
                labelled = self.label(1 - k, believed, others)
                for batch, labels in labelled[::-1]:  # the noisy one first
                    ledger.labels[k, batch.numbers] = labels.cpu()
                    net = self.net(k).train()
                    scores = net(batch.images, batch.captions, batch.lengths)
                    loss = hard_triplet(scores, soft_margin(labels, "exponential", self.margin))
                    ledger.add(step_down(loss, net, optimiser), len(batch.numbers))

    def estimate(self, data: PairData, context: FitContext) -> None:
        """Set `weights_`: row k is how clean each pair looks to network k."""
        losses, spreads = self._peers.pair_losses(data)
        for k in range(len(NETWORKS)):
            if trouble := indistinct(losses[k], spreads[k]):
                message = "%s: %s; all pairs are taken to be clean"
                logging.getLogger("xmbench").warning(message, self._peers.place(k, context), trouble)
            self.weights_[k] = 1.0 if trouble else beta_beliefs(losses[k])
        context.record("clean_weights", self.weights_)

    def net(self, k: int) -> MatchingNetwork:
        """Network k."""
        return cast(MatchingNetwork, self.nets_[k])

    def label(self, other: int, clean: PairBatch, noisy: PairBatch | None) -> list[tuple[PairBatch, Tensor]]:
        """The clean batch, and the noisy one where there is one, with labels (B,) by network `other`."""
        net = self.net(other).eval()
        with torch.no_grad():
            images, captions = net.encode_images(clean.images), net.encode_captions(clean.captions, clean.lengths)
            chosen = anchors(net.scores(images, captions, clean.lengths), self.margin)
            both = self.means(images, captions, clean.lengths)
            nearest = [values[chosen] for values in both]
            labels = kept((1 + agreement(*both, *nearest)) / 2, self.threshold).index_fill(0, chosen, 1.0)
            made = [(clean, labels)]
            if noisy is not None:
                images, captions = net.encode_images(noisy.images), net.encode_captions(noisy.captions, noisy.lengths)
                both = self.means(images, captions, noisy.lengths)
                made.append((noisy, kept(agreement(*both, *nearest), self.threshold)))
        return made

    @staticmethod
    def means(images: Tensor, captions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Unit mean region (B, D) of encoded images (B, R, D), and unit mean word of encoded captions (B, L, D)."""
        return normalize(images.mean(dim=1), dim=1), pooled(captions, lengths)

    def clean_weights(self) -> list[NDArray[np.float64]] | None:
        """How clean each pair looks to network A, and to B; None before they were first asked."""
        return None if np.isnan(self.weights_).any() else list(self.weights_.copy())


Peers.info = BiCro.info  # whose name is in its warnings
