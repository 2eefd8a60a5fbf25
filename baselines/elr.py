"""ELR: early-learning regularisation, the cross-entropy held to the network's own earlier predictions, on MRL's networks.

Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning Regularization Prevents
Memorization of Noisy Labels", NeurIPS 2020. With unit embeddings z, unit prototypes C shared by all modalities, N items of
each modality in a batch, and for every training item of every modality a target t, at first 0:

    p = softmax(C' z / tau)
    t <- beta t + (1 - beta) p                 temporal ensembling, outside the gradient
    L = sum_i 1/N sum_j [-log p_y + lambda log(1 - <p, t>)]

The second term rises with the agreement of p and t in such a way that its gradient with respect to the logits,
p_c / (1 - <p, t>) sum_k (t_k - t_c) p_k times lambda, cancels that of a wrong label and keeps that of a right one alive.

Noise: labels may be wrong, each modality on its own; right ones are learnt first. Pairs are not read.

Where this differs, and which side we take (checked against shengliu66/ELR, ELR/model/loss.py elr_loss):
- As in the code p is clamped to [1e-4, 1 - 1e-4] in the second term, and the targets average p scaled to sum to one again; the
  paper's equations have neither. The clamp keeps the logarithm finite.
- ELR without the plus: no second network, no weight averaging, no mixup.
- Trunks, shared prototypes, optimiser and schedule are those of MRL (Hu et al., CVPR 2021), of which `ce` is the plain
  version: that the loss is applied to the cosines with the prototypes is our choice, as is the temperature. tau = 1, the
  default, is MRL's setting, at which p_y is .23 where z lies on its own of 10 orthogonal prototypes; p and t stay close to
  uniform and the second term's gradient is about a tenth of the first's at lambda = 3: the method comes near `ce`.
  A smaller tau, in the search space, lets p reach from 0 to 1 as the paper has it.
- lambda = 3, beta = .7 are the paper's for CIFAR-10 (7 and .9 for CIFAR-100).
- Every modality has targets of its own: its labels are wrong on their own. A shorter modality is repeated within an epoch, and
  its targets move in every batch that holds them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method

CLAMP = 1e-4


def early_learning(logits: Tensor, targets: Tensor) -> Tensor:
    """The second term of L, without lambda, of one modality: mean of log(1 - <p, t>).

    Args:
        logits: (N, K) scores over the temperature; p is their softmax, clamped.
        targets: (N, K) t, each row with a sum of at most 1.
    """
    p = logits.softmax(dim=1).clamp(CLAMP, 1 - CLAMP)
    return torch.log1p(-(p * targets).sum(dim=1)).mean()


def ensembled(targets: Tensor, logits: Tensor, beta: float) -> Tensor:
    """Targets (N, K) after an epoch: beta t + (1 - beta) p, with p clamped and scaled to a sum of 1; no gradient."""
    p = logits.detach().softmax(dim=1).clamp(CLAMP, 1 - CLAMP)
    return beta * targets + (1 - beta) * p / p.sum(dim=1, keepdim=True)


@register_method(
    "elr",
    needs={"vectors", "labels"},
    search={"weight": [3.0, 7.0], "tau": [1.0, 0.1], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class ELR(Method):
    """Cross-entropy and early-learning regularisation on shared prototypes; see the module's docstring."""

    weight: float = 3.0  # lambda
    beta: float = 0.7  # of the temporal ensemble
    tau: float = 1.0  # temperature of the cosines
    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "tau", "hidden", "dim", "epochs", "batch_size", "lr")
        if self.weight < 0:
            raise ValueError(f"elr.weight must be 0 or more, got {self.weight}")
        if not 0 <= self.beta < 1:
            raise ValueError(f"elr.beta must lie in [0, 1), got {self.beta}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = PrototypeNetworks(train, self.hidden, self.dim).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = Instances(train, context)
        self.targets_ = {m.name: torch.zeros(len(m), train.n_classes, device=context.device) for m in train.modalities}
        state = {"nets": self.nets_, "optimiser": optimiser, **{f"targets/{name}": t for name, t in self.targets_.items()}}
        for epoch in context.epochs(self.epochs, state=state):
            optimiser.param_groups[0]["lr"] = cosine_schedule(self.lr, epoch, self.epochs)
            losses = []
            for batch in data.batches(self.batch_size):
                losses.append(self.step(batch.vectors, batch.labels, batch.rows, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def step(
        self, vectors: dict[str, Tensor], labels: list[Tensor], rows: list[np.ndarray], optimiser: torch.optim.Optimizer
    ) -> Tensor:
        """One step on a batch: vectors (N, d), labels (N,) and row numbers (N,) per modality; returns the loss before it."""
        self.nets_.renormalise()
        terms = []
        for (name, x), y, r in zip(vectors.items(), labels, rows, strict=True):
            logits = self.nets_.scores(self.nets_(name, x)) / self.tau
            targets = ensembled(self.targets_[name][r], logits, self.beta)
            self.targets_[name][r] = targets
            terms.append(cross_entropy(logits, y) + self.weight * early_learning(logits, targets))
        loss = torch.stack(terms).sum()
        return descend(loss, optimiser)

    def embed(self, modality: Modality) -> Embedding:
        return self.nets_.embed(modality)
