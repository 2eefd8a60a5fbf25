"""MRL: multimodal robust learning, robust clustering plus multimodal contrast.

Peng Hu, Xi Peng, Hongyuan Zhu, Liangli Zhen, Jie Lin, "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021.
With unit embeddings z, unit prototypes c_k, N instances of m modalities in a batch:

    p(k | x) = softmax_k(c_k' z / tau)                                               (2)
    L_r = 1/N sum_i sum_j log(1 - p(y | x))                robust clustering, RC     (5)
    L_c = -1/N sum_i sum_j log P(j | x)                    contrast, MC              (6), (7)
    L   = beta L_r + (1 - beta) L_c                                                  (8)

Noise: labels may be wrong, independently per modality; pairs are right. beta = 1 (RC alone) reads no pairs, beta = 0 (MC
alone) no labels. At tau = 1 RC is nearly the mean absolute error: confident items drive the gradient, wrong labels fade.

Where this differs, and which side we take (checked against penghu-cs/MRL, src/utils.py MeanClusteringError.forward and
main_noisy.py cross_modal_contrastive_ctriterion and train):
- Self pair: eq. (6) counts an item among its own positives, the code leaves it out of both sums. We follow the code: the
  self term is the constant exp(1 / tau) and only damps the gradient.
- log(1 - p) is the log-sum-exp of the wrong classes minus that of all classes; the code takes log(1 - softmax), which is
  -inf once p rounds to 1.
- The learning rate follows the code's cosine schedule, of which the paper only gives the start.
- Defaults are the released command for Wikipedia (30 epochs, batch 100, beta 0.7); the paper reports 100 epochs, batch 50.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def robust_clustering(scores: Tensor, labels: Tensor, tau: float) -> Tensor:
    """RC, eq. (5), of one modality: mean of log(1 - p_y).

    Args:
        scores: (N, K) cosines with the prototypes.
        labels: (N,) class numbers.
        tau: temperature.
    """
    logits = scores / tau
    wrong = logits.scatter(1, labels[:, None], float("-inf"))
    return (wrong.logsumexp(dim=1) - logits.logsumexp(dim=1)).mean()


def multimodal_contrastive(embeddings: Tensor, tau: float) -> Tensor:
    """MC, eq. (7): for every item, the instance it belongs to is told from all other items of the batch, in all modalities.

    2 / (m N) sum_a [lse_{b != a} S_ab - lse_{b of the same instance, b != a} S_ab] with S the cosines over tau.

    Args:
        embeddings: (m, N, L) unit rows; item j of every modality is one instance.
        tau: temperature.
    """
    m, n, _ = embeddings.shape
    stacked = embeddings.flatten(0, 1)
    similarity = (stacked @ stacked.T / tau).fill_diagonal_(float("-inf"))
    same = similarity.view(m, n, m, n).diagonal(dim1=1, dim2=3)  # (m, m, N): item (i, j) with item (l, j)
    return 2.0 / (m * n) * (similarity.logsumexp(dim=1).sum() - same.logsumexp(dim=1).sum())


@register_method(
    "mrl",
    needs=lambda p: {"vectors"} | ({"labels"} if p.beta > 0 else set()) | ({"pairs"} if p.beta < 1 else set()),
    search={"beta": [0.5, 0.7, 0.85, 0.95], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class MRL(Method):
    """Robust clustering and multimodal contrast on one trunk per modality; see the module's docstring."""

    beta: float = 0.7  # beta, eq. (8)
    tau: float = 1.0  # tau_1 = tau_2, eq. (2) and (6)
    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30  # N_e
    batch_size: int = 100  # N_b
    lr: float = 1e-4  # alpha of Algorithm 1

    def __post_init__(self) -> None:
        check_positive(self, "tau", "hidden", "dim", "epochs", "batch_size", "lr")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {self.beta}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = PrototypeNetworks(train, self.hidden, self.dim).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = Instances(train, context)
        for epoch in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            optimiser.param_groups[0]["lr"] = cosine_schedule(self.lr, epoch, self.epochs)
            losses = []
            for batch in data.batches(self.batch_size):
                losses.append(self.step(batch.vectors, batch.labels, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())
        if self.nets_.prototypes is not None:
            context.record("prototypes", self.nets_.prototypes.detach().cpu().numpy().T)  # (K, L), as the fit ends

    def step(self, vectors: dict[str, Tensor], labels: list[Tensor], optimiser: torch.optim.Optimizer) -> Tensor:
        """One step of Algorithm 1 on a batch: vectors (N, d) and labels (N,) per modality; returns the loss before it."""
        self.nets_.renormalise()
        loss = self.loss(torch.stack([self.nets_(name, x) for name, x in vectors.items()]), labels)
        return descend(loss, optimiser)

    def loss(self, embeddings: Tensor, labels: list[Tensor]) -> Tensor:
        """Eq. (8) for embeddings (m, N, L) and the labels (N,) of each modality."""
        terms = []
        if self.beta > 0:
            clustering = [robust_clustering(self.nets_.scores(z), y, self.tau) for z, y in zip(embeddings, labels, strict=True)]
            terms.append(self.beta * torch.stack(clustering).sum())
        if self.beta < 1:
            terms.append((1 - self.beta) * multimodal_contrastive(embeddings, self.tau))
        return torch.stack(terms).sum()

    def embed(self, modality: Modality) -> Embedding:
        return self.nets_.embed(modality)

    def class_scores(self, modality: Modality) -> np.ndarray | None:
        return self.nets_.posteriors(modality, self.tau)

    def validation_loss(self, split: PairedSet) -> float:
        return self.nets_.mean_loss(split, self.batch_size, self.loss)
