"""CRCL, cross-modal robust complementary learning: each pair's label says how much it is pulled, and is refined by restarts.

Yang Qin, Yuan Sun, Dezhong Peng, Joey Tianyi Zhou, Xi Peng, Peng Hu, "Cross-modal Active Complementary Learning with
Self-refining Correspondence", NeurIPS 2023. With p as in `rcl`, both directions, and a label y_i in [0, 1] per pair, the active
complementary loss is

    L = 1/B sum_i  -y_i log p_ii  +  lambda [sum_{j != i} tan p_ij] / [sum_j tan p_ij]^(1 - y_i)        over both directions

y = 1 is InfoNCE and the tan form of `rcl`; y = 0 the bounded 1 - tan p_ii / sum_j tan p_ij alone. Labels are kept from epoch to
epoch and move with the mean p_ii of both directions whenever a batch is met,

    y_i <- beta y_i + (1 - beta) p_ii,  and 0 below .1

Training is cut into pieces. Each starts from new networks and a new learning rate and takes over nothing but the labels, which
stand still in its first `frozen` epochs; in the first piece they are 1 so long, and then what the last of these epochs
predicted. Only the last piece, which is longer, can be selected.

Definition: the released code (QinYang79/CRCL, CRCL_NeurIPS23/model/CRCL.py train_self, in which lambda is the number 5, and
train.py); the paper's text was not at hand. Ours are probabilities from log-softmax, where the code's exp(s / tau) overflows
beyond s = 88 tau. As there the optimiser is AdamW with weight decay .01. Its third network, VSE-infinity, is not here.

Noise: pairs may be wrong, and the more so the less likely the networks find them. `clean_weights` are the labels. Defaults are
the released command for Flickr30K, on SGR. It is the only one, and for 80 % of wrong pairs: for other data sets and rates its
comment sends readers to Table 1 of the paper's supplement, which was not at hand either.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines._complementary import ComplementaryMethod, log_probabilities, negatives
from baselines._ranking import PairData, decayed
from xmbench import FitContext, PairedSet, check_positive, register_method

LEAST_LABEL = 0.1  # below it a pair counts as wrong


def refined(labels: Tensor, predictions: Tensor, beta: float) -> Tensor:
    """beta y + (1 - beta) p of labels and predictions (B,), 0 where that is below `LEAST_LABEL`."""
    moved = beta * labels + (1 - beta) * predictions
    return torch.where(moved < LEAST_LABEL, 0.0, moved)


def predictions(logs: Tensor) -> Tensor:
    """The mean p_ii (B,) of both directions' log p (2, B, B), without a gradient."""
    return logs.detach().diagonal(dim1=1, dim2=2).exp().mean(dim=0)


def active_complementary(logs: Tensor, labels: Tensor, weight: float) -> Tensor:
    """L of both directions' log p (2, B, B) and labels y (B,), with lambda = `weight`."""
    tangents = logs.exp().tan()
    complementary = negatives(tangents).sum(dim=2) / tangents.sum(dim=2) ** (1 - labels)
    active = -labels * logs.diagonal(dim1=1, dim2=2)
    return (active + weight * complementary).sum(dim=0).mean()


@register_method(
    "crcl",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001], "beta": [0.7, 0.8, 0.9]},
    smoke={
        "dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "restarts": 1, "restart_epochs": 1, "epochs": 3,
        "frozen": 1, "batch_size": 32, "lr": 0.01,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class CRCL(ComplementaryMethod):
    """Active complementary learning with labels refined over restarts; see the module's docstring."""

    optimiser: ClassVar = torch.optim.AdamW

    lr: float = 5e-4
    epochs: int = 30  # of the last piece, beside the frozen ones
    restarts: int = 3  # pieces before the last
    restart_epochs: int = 5  # of each of them, beside the frozen ones
    frozen: int = 2  # epochs at the start of a piece in which labels stand still
    beta: float = 0.8  # momentum of the labels
    weight: float = 5.0  # lambda, of the complementary term
    tau: float = 0.05  # temperature of the softmax

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "restart_epochs", "weight", "tau")
        for name in ("restarts", "frozen"):
            if getattr(self, name) < 0:
                raise ValueError(f"crcl.{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"crcl.beta must lie in [0, 1], got {self.beta}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        self.labels_ = torch.ones(self.n_networks, len(data), device=context.device)
        for piece in range(self.restarts + 1):
            last = piece == self.restarts
            state = self.begin(data, context) | {"labels": self.labels_}
            n_epochs = self.frozen + (self.epochs if last else self.restart_epochs)
            later = 0 if last else self.frozen + self.epochs + (self.restarts - piece - 1) * (self.frozen + self.restart_epochs)
            for epoch in context.epochs(n_epochs, state=state, later=later):
                self._moving, self._first_guess = epoch >= self.frozen, piece == 0 and epoch == self.frozen - 1
                loss = self.train_epoch(data, decayed(self.lr, epoch, self.lr_update), self.loss)
                context.record("rectified_labels", self.labels_.cpu().numpy())
                context.end_epoch(loss=loss, selectable=last)

    def loss(self, network: int, scores: Tensor, numbers: np.ndarray) -> Tensor:
        """The mean loss of a batch with scores (B, B), whose labels move first."""
        logs = log_probabilities(scores, self.tau)
        guessed, labels = predictions(logs), self.labels_[network, numbers]
        labels = refined(labels, guessed, self.beta if self._moving else 1.0)
        self.labels_[network, numbers] = guessed if self._first_guess else labels
        return active_complementary(logs, labels, self.weight)

    def clean_weights(self) -> list[NDArray[np.float64]]:
        """The label of each pair, per network."""
        return list(self.labels_.cpu().numpy().astype(np.float64))
