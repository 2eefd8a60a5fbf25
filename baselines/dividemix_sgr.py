"""DivideMix + SGR: two networks filter the pairs for each other, and a third one learns from those that are left.

A row of Huang et al., "Learning with Noisy Correspondence", IJCV 2024 (LNC), Table 4: DivideMix (Li, Socher, Hoi, "DivideMix:
Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020) filters the pairs, SGR learns from the rest. DivideMix is a
method for classifiers and the paper says no more, so that what stands for it here is our choice:

    stage 1   two SGR networks A and B, warmed up on the mean over negatives. Then in each epoch w_i is the posterior of the
              lower of two Gaussians over the pairs' losses, and A learns from the pairs with w_i > .5 by B, B from those by A,
              on the hardest negatives with the whole margin: `ncr` with co_rectify off. At the end w is estimated once more
    filter    a pair stays where the mean of both w_i is above .5
    stage 2   one SGR network, new, learns from the pairs that stay, as `sgr_star` does

DivideMix's semi-supervised half (sharpened guesses, MixMatch, the penalty) has no counterpart: pairs have no classes to guess.
Warm-up and number of filtering epochs are ours. Fewer than two pairs that stay: stage 2 takes all, and a warning says so.

Noise: pairs may be wrong; a network learns right ones first, so that a small loss means a right pair. `clean_weights` is the
filter. `oracle`: the filter is the truth, there is no stage 1, and the result is that of `sgr_clean`, bit for bit.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines._co_rectify import NETWORKS, CoRectify, Ledger
from baselines._correspondence import THRESHOLD, hard_triplet, mean_triplet
from baselines._ranking import PairData, ReasoningMethod, decayed, set_rate, step_down
from xmbench import FitContext, PairedSet, check_positive, register_method


@dataclass(kw_only=True)
class Peers(CoRectify):
    """Stage 1: networks that divide the pairs for each other, and learn from clean ones with label 1."""


@register_method(
    "dividemix_sgr",
    needs=lambda p: {"sequences", "tokens", "pairs"} | ({"clean"} if p.oracle else set()),
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={
        "dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "warm_up": 3, "filter_epochs": 1, "epochs": 2,
        "batch_size": 32, "lr": 0.01,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class DivideMixSGR(ReasoningMethod):
    """A filter by two networks, then SGR*; see the module's docstring."""

    warm_up: int = 5  # epochs on the mean over negatives, of either stage
    filter_epochs: int = 5  # of stage 1, after its warm-up
    oracle: bool = False  # the filter is the truth about the pairs

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "warm_up", "filter_epochs")

    def warm_up_epochs(self) -> int:
        return self.warm_up

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return (mean_triplet if epoch < self.warm_up else hard_triplet)(scores, self.margin)

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        self.weights_ = np.full((len(NETWORKS), len(data)), np.nan)  # not known yet
        if self.oracle:
            self.weights_[:] = 1.0 if train.clean_pairs is None else train.clean_pairs
            if not self.weights_.any():
                raise ValueError(f"dividemix_sgr.oracle needs at least one right pair, got {len(data)} wrong ones and no other")
        else:
            self.filter(data, context)
        self.learn(data, context)

    def filter(self, data: PairData, context: FitContext) -> None:
        """Stage 1: set `weights_`, how clean each pair looks to either network."""
        peers = Peers(
            warm_up=self.warm_up, epochs=self.filter_epochs, batch_size=self.batch_size, margin=self.margin,
            psi="linear", co_rectify=False,
        )  # fmt: skip
        nets = self.learns([net for _ in NETWORKS for net in self.networks(data.sizes)], data, context.device)
        optimisers = [torch.optim.Adam(net.parameters(), lr=self.lr, fused=True) for net in nets]
        peers.nets_, peers.weights_ = nets, self.weights_
        state: dict[str, Any] = {"nets": nets, "weights": self.weights_}
        state |= {f"optimiser {k}": optimiser for k, optimiser in enumerate(optimisers)}
        n_epochs = self.warm_up + self.filter_epochs
        for epoch in context.epochs(n_epochs, state=state, later=self.warm_up + self.epochs):
            ledger = Ledger(len(data))
            if epoch < self.warm_up:
                peers.warm_up_epoch(epoch, data, context, optimisers, ledger)
            else:
                peers.training_epoch(epoch - self.warm_up, data, context, optimisers, ledger)
            if epoch == n_epochs - 1:
                peers.estimate(data, context)
                if (left := int((self.weights_.mean(axis=0) > THRESHOLD).sum())) < 2:
                    message = "%s: the filter leaves %d of %d pairs, too few to learn from; all are learnt from"
                    logging.getLogger("xmbench").warning(message, self.info.name, left, len(data))
            context.end_epoch(loss=ledger.loss(), selectable=False)

    def learn(self, data: PairData, context: FitContext) -> None:
        """Stage 2: one network on the pairs that the filter leaves."""
        nets = self.learns(self.networks(data.sizes), data, context.device)
        optimiser = torch.optim.Adam(nets.parameters(), lr=self.lr, fused=True)
        state = {"nets": nets, "optimiser": optimiser, "weights": self.weights_}
        for epoch in context.epochs(self.warm_up + self.epochs, state=state):
            set_rate(optimiser, decayed(self.lr, epoch - self.warm_up, self.lr_update))
            total, n_pairs = torch.zeros((), device=context.device), 0
            nets.train()
            for batch in data.batches(self.batch_size, self.kept()):
                total += step_down(self.batch_loss(nets[0], batch, epoch), nets, optimiser)
                n_pairs += len(batch.numbers)
            context.end_epoch(loss=total / n_pairs, selectable=epoch >= self.warm_up)

    def kept(self) -> NDArray[np.int64]:
        """Numbers of the pairs that the filter leaves."""
        kept = np.flatnonzero(self.weights_.mean(axis=0) > THRESHOLD)
        return kept if len(kept) >= 2 or self.oracle else np.arange(self.weights_.shape[1])

    def clean_weights(self) -> NDArray[np.float64] | None:
        """How clean each pair looks to both networks of stage 1 on average; None before they were first asked."""
        return None if np.isnan(self.weights_).any() else np.asarray(self.weights_.mean(axis=0))


Peers.info = DivideMixSGR.info  # whose name is in its warnings
