"""LNC: NCR with a warm-up that resists wrong pairs, by momentum regularisation and by leaving out half of the suspects.

Zhenyu Huang, Peng Hu, Guocheng Niu, Xinyan Xiao, Jiancheng Lv, Xi Peng, "Learning with Noisy Correspondence", International
Journal of Computer Vision 2024. From the first epoch after warm-up it is `ncr`, whose docstring says what the shared switches
do and whose side they take. In warm-up each network learns from

    gamma_i <- beta gamma_i + (1 - beta) P_i,   gamma_i = 1 at first       (5)
    L_mr = 1/n sum_i (P_i - gamma_i)^2                                      (4), MR
    L_w  = L_tri + lambda L_mr                                              (6)

with P the prediction (9) and n the pairs of the batch, on the pairs without a random half of the suspects

    {i: w_i^A < .5 and w_i^B < .5}                                          (7), RNA

which are found, and their half is drawn, anew before every warm-up epoch but the first.

Noise: pairs may be wrong, as in NCR.

There is no released code. What the paper leaves open, and what we chose:
- beta and lambda (`momentum_weight`) are given nowhere: .9 and .1. The number of warm-up epochs is, 3 on Flickr30K: with
  beta = .9 gamma is at least .73 until then, so that the term mostly pulls every pair towards 1; smaller ones are searched.
- lambda weighs L_mr against the mean triplet loss per pair. Both are then summed over the batch, as all losses of this family
  are, so that lambda = 0 is NCR's warm-up to the bit.
- (4) lacks its sum. P has a gradient through the scores, clamped to [0, 1] without one outside; tau and gamma have none. gamma
  is updated before it is compared with, each network has one of its own, and a pair is visited once per epoch.
- L_tri is NCR's mean over negatives: (2) prints a sum, B times as large.
- Algorithm 1 estimates w after the last warm-up epoch and again before the first epoch proper; once is enough.
- `noisy_start`, .5: Algorithm 1 trains on noisy batches in every epoch (0); we keep what NCR's code does, for its reason.
- `psi`: the four of (11). sigmoid(slope (y - div)): the printed slope is negative for div < .4, ours is at least 10; div is
  the mean of the clean and the noisy batch's mean labels, one of the two definitions that the text gives.
- `oracle`, the paper's Table 11: the truth is also what RNA goes by.

The rows of its Table 8: no warm-up, `warm_up` = 0; vanilla, `momentum_weight` = 0 and `abandon` off (which is NCR); MR alone,
`abandon` off; RNA alone, `momentum_weight` = 0; and `co_divide` or `co_rectify` off with a vanilla warm-up. Its rows differ by
less than the chance error of R@1 on 1,000 images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines._co_rectify import NETWORKS, CoRectify
from baselines._correspondence import THRESHOLD, mean_triplet, prediction
from baselines._ranking import PairData
from xmbench import FitContext, register_method


def momentum(gamma: Tensor, predictions: Tensor, beta: float) -> Tensor:
    """(5), the running mean (B,) of predictions (B,), without a gradient."""
    return beta * gamma + (1 - beta) * predictions.detach()


def momentum_regularisation(predictions: Tensor, gamma: Tensor) -> Tensor:
    """(4), the mean of (P_i - gamma_i)^2 over pairs (B,)."""
    return ((predictions - gamma) ** 2).mean()


def kept_pairs(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """RNA, (7): numbers of all pairs but a random half, rounded down, of those that every network takes for wrong.

    Args:
        weights: (networks, n) in [0, 1].
        rng: draws the half.
    """
    suspects = np.flatnonzero((weights < THRESHOLD).all(axis=0))
    return np.delete(np.arange(weights.shape[1]), rng.choice(suspects, len(suspects) // 2, replace=False))


@register_method(
    "lnc",
    needs=lambda p: {*p.reads, "pairs"} | ({"clean"} if p.oracle else set()),
    max_modalities=2,
    search={"lr": [2e-4, 1e-3], "momentum_weight": [0.1, 0.5, 1.0], "beta": [0.5, 0.9]},
    smoke={
        "backbone": "scan_t2i", "dim": 32, "word_dim": 32, "warm_up": 4, "epochs": 2, "batch_size": 32, "lr": 0.005,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class LNC(CoRectify):
    """NCR with momentum regularisation and randomly noise abandon; see the module's docstring."""

    warm_up: int = 3
    momentum_weight: float = 0.1  # lambda
    beta: float = 0.9  # momentum of gamma
    abandon: bool = True  # RNA

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum_weight < 0:
            raise ValueError(f"lnc.momentum_weight must be 0 or more, got {self.momentum_weight}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"lnc.beta must lie in [0, 1], got {self.beta}")

    def memory(self, n_pairs: int, device: str) -> dict[str, Tensor]:
        self.gamma_ = torch.ones(len(NETWORKS), n_pairs, device=device)
        return {"gamma": self.gamma_}

    def warm_up_pairs(self, epoch: int, data: PairData, context: FitContext) -> NDArray[np.int64] | None:
        if not self.abandon or epoch == 0:
            return None
        self.estimate(data, context)
        return kept_pairs(self.weights_, context.generator("abandon"))

    def warm_up_loss(self, scores: Tensor, numbers: NDArray[np.int64], network: int) -> Tensor:
        loss = mean_triplet(scores, self.margin)
        if self.momentum_weight == 0:
            return loss
        predictions, _ = prediction(scores, self.margin, self.prediction)
        rows = torch.from_numpy(numbers).to(scores.device)
        gamma = momentum(self.gamma_[network, rows], predictions, self.beta)
        self.gamma_[network, rows] = gamma
        return loss + self.momentum_weight * len(scores) * momentum_regularisation(predictions, gamma)
