"""GCE: generalised cross-entropy, between the cross-entropy and the mean absolute error, on MRL's networks.

Zhilu Zhang, Mert R. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
NeurIPS 2018. With unit embeddings z, unit prototypes C shared by all modalities, N items of each modality in a batch:

    p = softmax(C' z / tau)
    L_q = 1/N sum_j (1 - p_y^q) / q
    L   = sum_i L_q of modality i

q -> 0 is the cross-entropy, q = 1 half the mean absolute error between p and the one-hot label, 1 - p_y. Next to the
cross-entropy every item's gradient is weighted by p_y^q: what the network does not believe counts less.

Noise: labels may be wrong, symmetric or class-dependent, each modality on its own; pairs are not read.

Where this differs, and which side we take:
- The paper trains classifiers of images. Trunks, shared prototypes, optimiser and schedule are those of MRL (Hu et al., CVPR
  2021), of which `ce` is the plain version: that the loss is applied to the cosines with the prototypes is our choice.
- Cosines lie in [-1, 1]: at tau = 1 and for 10 orthogonal prototypes p_y is .23 where z lies on its own, .04 where opposite,
  and the weights p_y^q tell items apart by a factor of 3, not by orders of magnitude. tau = 1, the default, is MRL's setting; a
  smaller tau, in the search space, lets p reach from 0 to 1 as the paper has it.
- The truncated loss is left out: it prunes items of p_y <= k = .5 and needs an alternating optimisation with weights per item,
  and at tau = 1 it would prune all.
- q = .7 is the paper's value in all its experiments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """L_q of one modality: mean of (1 - p_y^q) / q.

    Args:
        logits: (N, K) scores over the temperature; p is their softmax.
        labels: (N,) class numbers.
        q: in (0, 1].
    """
    log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])
    return -torch.expm1(q * log_p).mean() / q


@register_method(
    "gce",
    needs={"vectors", "labels"},
    search={"q": [0.3, 0.7], "tau": [1.0, 0.1], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class GCE(Method):
    """Generalised cross-entropy on shared prototypes; see the module's docstring."""

    q: float = 0.7
    tau: float = 1.0  # temperature of the cosines
    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "q", "tau", "hidden", "dim", "epochs", "batch_size", "lr")
        if self.q > 1:
            raise ValueError(f"gce.q must lie in (0, 1], got {self.q}")

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
        loss = torch.stack([generalised_cross_entropy(s, y, self.q) for s, y in zip(logits, labels, strict=True)]).sum()
        return descend(loss, optimiser)

    def embed(self, modality: Modality) -> Embedding:
        return self.nets_.embed(modality)
