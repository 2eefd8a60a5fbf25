"""Co-teaching: two networks, each trained on the items whose loss is small in the other, on MRL's networks.

Bo Han, Quanming Yao, Xingrui Yu, Gang Niu, Miao Xu, Weihua Hu, Ivor W. Tsang, Masashi Sugiyama, "Co-teaching: Robust
Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018. In epoch T = 0, 1, ..., for a batch D of N items
of one modality, networks f and g (each: all trunks, and prototypes C shared by the modalities), and the losses
l = -log softmax(C' z / tau)_y of each:

    R(T) = 1 - forget_rate min(T / T_k, 1)
    D_f = the R(T) N items of D with the smallest loss under f,   D_g = those under g
    f learns from the mean of l_f over D_g,  g from the mean of l_g over D_f

Each modality is selected from on its own, by its own labels: an item may be kept whose partner is not. Both networks see the
same batches and differ in how they begin. Two embeddings are returned, one per network; similarities are averaged.

Noise: labels may be wrong, each modality on its own; the networks learn right ones first, so that a small loss means a right
label. Pairs are not read.

Where this differs, and which side we take (checked against bhanML/Co-teaching, loss.py loss_coteaching and main.py):
- The paper sets the forget rate to the noise rate, which the harness does not tell. It is a fixed number here, .2 by
  default, and in the search space.
- R(T) follows the paper, reached after T_k epochs; the code's schedule gets there one epoch earlier. As there, R(T) N is
  rounded down; we keep one item at least.
- The code divides the mean loss by the number of items once more; we don't.
- The paper reports each network's accuracy; the harness measures each network and the mean of their similarities.
- Trunks, prototypes, optimiser and schedule are those of MRL (Hu et al., CVPR 2021), of which `ce` is the plain version:
  forget_rate = 0 trains two such. That the loss is applied to the cosines with the prototypes is our choice, as is the
  temperature. tau = 1, the default, is MRL's setting; a smaller one is in the search space. It changes which items count more,
  and hardly the order of the losses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def remember_rate(epoch: int, forget_rate: float, gradual: int) -> float:
    """R(T), the share of a batch that is kept in epoch T, counted from 0."""
    return 1 - forget_rate * min(epoch / gradual, 1)


def small_loss(losses: Tensor, rate: float) -> Tensor:
    """Positions of the share `rate` of losses (N,) that are smallest, rounded down but one at least, in ascending order."""
    kept = max(1, int(rate * len(losses)))
    return losses.detach().topk(kept, largest=False).indices.sort().values


def peer_loss(losses: Tensor, chosen: Tensor) -> Tensor:
    """Mean of a network's losses (N,) over the positions that the other network chose."""
    return losses[chosen].mean()


@register_method(
    "coteaching",
    needs={"vectors", "labels"},
    search={"forget_rate": [0.2, 0.4], "tau": [1.0, 0.1], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class CoTeaching(Method):
    """Two networks that choose each other's items; see the module's docstring."""

    forget_rate: float = 0.2  # tau of the paper, there the noise rate
    gradual: int = 10  # T_k, epochs until the whole share is forgotten
    tau: float = 1.0  # temperature of the cosines
    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "gradual", "tau", "hidden", "dim", "epochs", "batch_size", "lr")
        if not 0 <= self.forget_rate < 1:
            raise ValueError(f"coteaching.forget_rate must lie in [0, 1), got {self.forget_rate}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = [PrototypeNetworks(train, self.hidden, self.dim).to(context.device) for _ in range(2)]
        both = nn.ModuleList(self.nets_)
        optimiser = torch.optim.Adam(both.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = Instances(train, context)
        for epoch in context.epochs(self.epochs, state={"nets": both, "optimiser": optimiser}):
            optimiser.param_groups[0]["lr"] = cosine_schedule(self.lr, epoch, self.epochs)
            rate = remember_rate(epoch, self.forget_rate, self.gradual)
            losses = []
            for batch in data.batches(self.batch_size):
                losses.append(self.step(batch.vectors, batch.labels, rate, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def step(self, vectors: dict[str, Tensor], labels: list[Tensor], rate: float, optimiser: torch.optim.Optimizer) -> Tensor:
        """One step of both networks on a batch: vectors (N, d) and labels (N,) per modality; returns their mean loss."""
        for net in self.nets_:
            net.renormalise()
        terms = []
        for (name, x), y in zip(vectors.items(), labels, strict=True):
            f, g = (cross_entropy(net.scores(net(name, x)) / self.tau, y, reduction="none") for net in self.nets_)
            terms += [peer_loss(f, small_loss(g, rate)), peer_loss(g, small_loss(f, rate))]
        loss = torch.stack(terms).sum()
        return descend(loss, optimiser) / len(self.nets_)

    def embed(self, modality: Modality) -> list[Embedding]:
        return [net.embed(modality) for net in self.nets_]
