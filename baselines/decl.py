"""DECL, deep evidential cross-modal learning: scores are evidence for each answer, and wrong pairs have too little of it.

Yang Qin, Dezhong Peng, Xi Peng, Xu Wang, Peng Hu, "Deep Evidential Learning with Noisy Correspondence for Cross-modal
Retrieval", ACM Multimedia 2022. With r the network's score before its sigmoid, for the B captions j of an image i of the batch,
and for the images of a caption alike,

    e_ij = exp(tanh(r_ij) / tau),  alpha_ij = e_ij + 1,  S_i = sum_j alpha_ij             evidence, Dirichlet distribution
    L_e  = sum_j (y_ij - alpha_ij / S_i)^2 + alpha_ij (S_i - alpha_ij) / (S_i^2 (S_i + 1))  squared error, and its variance
           + lambda_2 KL(Dir(alpha~_i) | Dir(1)),   alpha~_ij = (1 - y_ij) e_ij + 1        no evidence for what is wrong
    L_h  = 1/n sum of the n largest [m + tanh(r_ij) - tanh(r_ii)]_+, j != i                robust dynamic hinge
    n    = max(floor(B - eta t), mu) at step t of the optimiser

y_ij is 1 for annotated pairs and 0 elsewhere. After the warm-up every epoch begins by asking which pairs are right, those whose
evidence e_ij + e_ji is not beaten by another caption's in a random batch; the others have y_ii = 0, and no hinge. The loss of
a batch is the mean of L_e plus lambda_1 times the *sum* of L_h, both directions. Items are compared by sigmoid(r).

Definition: the released code (QinYang79/DECL, DECL/model/DECL.py, forward_sim of DECL/model/SGRAF.py, get_correspondence of
DECL/train.py); the paper's text was not at hand. What is ours: n is below the size of the batch, whose diagonal the code can
count as a hinge of 0; where several captions tie for the most evidence the pair is right, where the code takes the lowest
number and so calls all pairs of a collapsed network wrong but one per batch; batches are of equal size, about, where the code
ends an epoch at one of no more than mu pairs. L_e is computed in double precision: terms of about 1e7 cancel in the divergence.
tanh(r) is computed from the network's sigmoid s as (2s - 1) / (s^2 + (1 - s)^2).

Noise: pairs may be wrong; the released warm-up is 5 epochs, and 2 from 60 % of wrong pairs on. `clean_weights` are the last
answers, 1 or 0. Defaults are the released command for Flickr30K, whose noise shuffles whole images (`image_shuffle`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines._complementary import ComplementaryMethod
from baselines._correspondence import triplet_costs
from baselines._ranking import PairData, decayed
from xmbench import FitContext, PairedSet, check_positive, register_method


def squashed(scores: Tensor) -> Tensor:
    """tanh(r) of scores sigmoid(r)."""
    return (2 * scores - 1) / (scores**2 + (1 - scores) ** 2)


def uniform_divergence(alpha: Tensor) -> Tensor:
    """KL(Dir(alpha) | Dir(1)) of every row (B,) of alpha (B, K)."""
    total = alpha.sum(dim=1)
    logs = torch.lgamma(total) - torch.lgamma(alpha).sum(dim=1) - torch.lgamma(alpha.new_tensor(alpha.shape[1]))
    return logs + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(dim=1)


def evidential(evidence: Tensor, labels: Tensor, weight: float) -> Tensor:
    """L_e (B,) of each query.

    Args:
        evidence: e (B, B), queries in rows.
        labels: y_ii (B,), in [0, 1].
        weight: lambda_2.
    """
    evidence = evidence.double()
    wanted = torch.diag(labels.to(evidence))
    alpha = evidence + 1
    total = alpha.sum(dim=1, keepdim=True)
    mean = alpha / total
    error = (wanted - mean) ** 2 + mean * (1 - mean) / (total + 1)
    return error.sum(dim=1) + weight * uniform_divergence((1 - wanted) * evidence + 1)


def dynamic_hinge(scores: Tensor, margin: float, n_hardest: int) -> Tensor:
    """L_h (B,) of scores (B, B), both directions, over the n hardest negatives of either: B - 1 at most."""
    n = max(1, min(n_hardest, len(scores) - 1))
    c1, c2 = triplet_costs(scores, margin)
    return (c1.topk(n, dim=1).values.sum(dim=1) + c2.topk(n, dim=0).values.sum(dim=0)) / n


def hardest(step: int, batch_size: int, eta: float, mu: int) -> int:
    """n, how many negatives count at a step of the optimiser, the first being 1."""
    return max(int(batch_size - eta * step), mu)


def answers(evidence: Tensor) -> Tensor:
    """Whether each pair (B,) has the most of its image's evidence e_ij + e_ji, of e (B, B)."""
    both = evidence + evidence.T
    return both.diagonal() >= both.max(dim=1).values


@register_method(
    "decl",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001], "warm_up": [2, 5]},
    smoke={
        "dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "warm_up": 4, "epochs": 1, "batch_size": 32, "lr": 0.01,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class DECL(ComplementaryMethod):
    """Deep evidential cross-modal learning; see the module's docstring."""

    epochs: int = 40
    lr_update: int = 20
    warm_up: int = 5  # epochs on all pairs, before the others
    margin: float = 0.2  # m
    tau: float = 0.1  # scale of the evidence
    hinge_weight: float = 0.8  # lambda_1
    divergence_weight: float = 0.1  # lambda_2
    eta: float = 0.025  # negatives fewer per step
    mu: int = 5  # the fewest negatives

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "warm_up", "margin", "tau", "hinge_weight", "divergence_weight", "eta", "mu")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        self.weights_ = np.full((self.n_networks, len(data)), np.nan)  # not known yet
        self.taken_ = np.zeros(self.n_networks, dtype=np.int64)  # steps of the optimisers
        state = self.begin(data, context) | {"weights": self.weights_, "taken": self.taken_}
        for epoch in context.epochs(self.warm_up + self.epochs, state=state):
            if epoch >= self.warm_up:
                self.ask(data)
                context.record("clean_weights", self.weights_)
            loss = self.train_epoch(data, decayed(self.lr, epoch - self.warm_up, self.lr_update), self.loss)
            context.end_epoch(loss=loss, selectable=epoch >= self.warm_up)

    def ask(self, data: PairData) -> None:
        """Set `weights_`: 1 for the pairs that each network takes for right, 0 for the others."""
        self.nets_.eval()
        with torch.no_grad():
            for batch in data.batches(self.batch_size):
                for k, net in enumerate(self.nets_):
                    scores = net(batch.images, batch.captions, batch.lengths)
                    self.weights_[k, batch.numbers] = answers(self.evidence(scores)).cpu()

    def evidence(self, scores: Tensor) -> Tensor:
        """e (B, B) of scores (B, B)."""
        return torch.exp(squashed(scores) / self.tau)

    def loss(self, network: int, scores: Tensor, numbers: np.ndarray) -> Tensor:
        """The loss of a batch with scores (B, B)."""
        self.taken_[network] += 1
        labels = torch.from_numpy(np.nan_to_num(self.weights_[network, numbers], nan=1.0)).to(scores)
        evidence = self.evidence(scores)
        uncertain = sum(evidential(given, labels, self.divergence_weight) for given in (evidence, evidence.T))
        n = hardest(int(self.taken_[network]), self.batch_size, self.eta, self.mu)
        hinge = dynamic_hinge(squashed(scores), self.margin, n)
        return torch.as_tensor(uncertain).mean() + self.hinge_weight * (labels * hinge).sum()

    def clean_weights(self) -> list[NDArray[np.float64]] | None:
        """Whether each network takes each pair for right, 1 or 0; None before they were first asked."""
        return None if np.isnan(self.weights_).any() else list(self.weights_.copy())
