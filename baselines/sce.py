"""SCE: symmetric cross-entropy, the cross-entropy plus its reverse, on MRL's networks.

Yisen Wang, Xingjun Ma, Zaiyi Chen, Yuan Luo, Jinfeng Yi, James Bailey, "Symmetric Cross Entropy for Robust Learning with
Noisy Labels", ICCV 2019. With unit embeddings z, unit prototypes C shared by all modalities, N items of each modality in a
batch, q the one-hot label, and log 0 = A < 0:

    p = softmax(C' z / tau)
    l_ce = -sum_k q(k) log p(k) = -log p_y,   l_rce = -sum_k p(k) log q(k) = -A (1 - p_y)
    L = sum_i 1/N sum_j (alpha l_ce + beta l_rce)

l_rce is the mean absolute error times -A / 2, which symmetric noise does not bias; l_ce makes it converge.

Noise: labels may be wrong, each modality on its own; pairs are not read.

Where this differs, and which side we take (checked against YisenWang/symmetric_cross_entropy_for_noisy_labels, loss.py
symmetric_cross_entropy and train_models.py):
- The code clips the one-hot label at 1e-4 and takes the natural logarithm, A = -9.21; the paper has A = -4. We follow the
  paper. Only beta A counts: the code's setting is beta = 2.3 here.
- The code clips p at 1e-7 under the logarithm, which takes the gradient away from what lies below; log-softmax needs no clip.
- Trunks, shared prototypes, optimiser and schedule are those of MRL (Hu et al., CVPR 2021), of which `ce` is the plain
  version: that the loss is applied to the cosines with the prototypes is our choice, as is the temperature. tau = 1, the
  default, is MRL's setting, at which p_y is .23 where z lies on its own of 10 orthogonal prototypes, so that l_rce never comes
  near 0; a smaller tau, in the search space, lets p reach from 0 to 1 as the paper has it.
- alpha = .1, beta = 1 are the paper's for CIFAR-10 (.01 and 1 for MNIST, 6 and .1 for CIFAR-100).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method

LOG_ZERO = -4.0  # A


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """Mean of alpha l_ce + beta l_rce of one modality.

    Args:
        logits: (N, K) scores over the temperature; p is their softmax.
        labels: (N,) class numbers.
        alpha, beta: weights of the cross-entropy and of the reverse one.
    """
    log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])
    return (beta * LOG_ZERO * torch.expm1(log_p) - alpha * log_p).mean()


@register_method(
    "sce",
    needs={"vectors", "labels"},
    search={"alpha": [0.1, 1.0], "tau": [1.0, 0.1], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class SCE(Method):
    """Symmetric cross-entropy on shared prototypes; see the module's docstring."""

    alpha: float = 0.1
    beta: float = 1.0
    tau: float = 1.0  # temperature of the cosines
    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "tau", "hidden", "dim", "epochs", "batch_size", "lr")
        if min(self.alpha, self.beta) < 0 or max(self.alpha, self.beta) == 0:
            raise ValueError(f"sce.alpha and sce.beta must be 0 or more, not both 0, got {self.alpha} and {self.beta}")

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

    def step(self, vectors: dict[str, Tensor], labels: list[Tensor], optimiser: torch.optim.Optimizer) -> Tensor:
        """One step on a batch: vectors (N, d) and labels (N,) per modality; returns the loss before it."""
        self.nets_.renormalise()
        logits = [self.nets_.scores(self.nets_(name, x)) / self.tau for name, x in vectors.items()]
        terms = [symmetric_cross_entropy(s, y, self.alpha, self.beta) for s, y in zip(logits, labels, strict=True)]
        loss = torch.stack(terms).sum()
        return descend(loss, optimiser)

    def embed(self, modality: Modality) -> Embedding:
        return self.nets_.embed(modality)
