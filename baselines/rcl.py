"""RCL, robust cross-modal learning: nothing pulls the annotated pairs together, all others are pushed apart.

Peng Hu, Zhenyu Huang, Dezhong Peng, Xu Wang, Xi Peng, "Cross-Modal Retrieval With Partially Mismatched Pairs", TPAMI 2023. With
scores s of a batch and p_ij = softmax over j of s_ij / tau, the complementary contrastive loss is

    L = 1/B sum_i sum_{j != i} f(p_ij)  over the captions of images, and the same over the images of captions
    f(p):  log  -log(1 - p)     tan  tan p     abs  p     exp  exp(p - 1)     gce  (1 - (1 - p)^q) / q

Since the p of a query add up to 1, less for the others is more for its own. A wrong pair is never pulled together by name:
it gains what its query's negatives lose, and the gradient of a negative falls with its p.

Definition: the released code (penghu-cs/RCL, RCL-SGRAF/model.py CCL); the paper's text was not at hand. We leave out the random
subset of negatives (`ratio`), which it has off. log(1 - p) is a difference of log-sum-exps here, exact where the code takes
log(1 - p + 1e-10), whose p rounds to 1: the code's loss of a negative ends at 23 and has no gradient there, ours goes on. q of
gce is the code's own default; its commands share the option with the margin, .2. The paper's Table 6 has all five forms, `abs`
as "mae", with SGR at 60 % of wrong pairs. The code shuffles whole images with all
their captions: compare published rows with `image_shuffle` noise only.

Noise: pairs may be wrong; other pairs of a batch do not match by chance. Defaults are the released command for Flickr30K.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from baselines._complementary import ComplementaryMethod, log_probabilities, negatives
from baselines._ranking import PairData, decayed
from xmbench import FitContext, PairedSet, check_positive, register_method

Form = Literal["log", "tan", "abs", "exp", "gce"]


def log_complement(logs: Tensor) -> Tensor:
    """log(1 - p) of log p (..., B), distributions over the last dimension, finite however near 1 a p comes.

    Only the largest p can be near 1: its complement is the sum of the others.
    """
    largest = torch.zeros_like(logs, dtype=torch.bool).scatter(-1, logs.argmax(dim=-1, keepdim=True), True)
    others = logs.masked_fill(largest, float("-inf"))
    return torch.where(largest, others.logsumexp(dim=-1, keepdim=True), torch.log1p(-others.exp()))


def complementary_contrastive(scores: Tensor, tau: float, form: Form = "log", q: float = 0.5) -> Tensor:
    """L of scores (B, B), annotated pairs on the diagonal: the sum over both directions of the mean over queries."""
    logs = log_probabilities(scores, tau)
    if form == "log":
        costs = -log_complement(logs)
    elif form == "tan":
        costs = logs.exp().tan()
    elif form == "abs":
        costs = logs.exp()
    elif form == "exp":
        costs = torch.exp(torch.expm1(logs))
    else:
        costs = -torch.expm1(q * log_complement(logs)) / q
    return negatives(costs).sum() / len(scores)


@register_method(
    "rcl",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001], "tau": [0.05, 0.1]},
    smoke={"dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "epochs": 5, "batch_size": 32, "lr": 0.01},
)
@dataclass(kw_only=True)
class RCL(ComplementaryMethod):
    """Complementary contrastive learning; see the module's docstring."""

    form: Form = "log"  # f
    q: float = 0.5  # of gce
    tau: float = 0.05  # temperature of the softmax

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "tau")
        if not 0 < self.q <= 1:
            raise ValueError(f"rcl.q must lie in (0, 1], got {self.q}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        for epoch in context.epochs(self.epochs, state=self.begin(data, context)):
            rate = decayed(self.lr, epoch, self.lr_update)
            context.end_epoch(loss=self.train_epoch(data, rate, self.loss))

    def loss(self, network: int, scores: Tensor, numbers: np.ndarray) -> Tensor:
        """The mean loss of a batch with scores (B, B)."""
        return complementary_contrastive(scores, self.tau, self.form, self.q)
