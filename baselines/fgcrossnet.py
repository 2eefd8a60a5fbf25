"""FGCrossNet: one network for all modalities under classification, centre and quadruplet ranking losses.

Xiangteng He, Yuxin Peng, Liu Xie, "A New Benchmark and Approach for Fine-grained Cross-media Retrieval", ACM Multimedia 2019.
With logits f of a network that all m modalities share, N instances in a batch, learnable centres c_k, d the distance of two
items' logits, and quadruplets (a, p, n, n'): a and p of one class, n and n' of two other classes:

    L_cls = sum_v 1/N sum_j -log softmax(f)_y
    L_cen = 1/(m N) sum |f - c_y|^2
    L_rank = mean over what is above 0 of [d(a, p) - d(a, n) + g_1] + [d(a, p) - d(n, n') + g_2]
    stage 1: L_cls + 1e-3 L_cen          stage 2: L_cls + 1e-3 L_cen + .1 L_rank
    similarity = cosine of the softmax of f

Noise: none is assumed. Modalities meet in the classes alone: no pairs are read, and each item's own label is used.

Where this differs, and which side we take (checked against PKU-ICST-MIPL/FGCrossNet_ACMMM2019, centerloss.py
CenterLoss.forward and rankingloss.py ranking_loss):
- The network: a ResNet-50 on pixels, there for every modality alike. Features are fixed here, so that each modality has an
  adapter d -> hidden of its own, and trunk and logits are shared.
- Optimiser: SGD with a falling rate there, Adam here. The code multiplies the centres' gradient by 1/1e-3; to
  Adam a factor means nothing, and it is left out: a centre moves by the learning rate in a step.
- The hinge: the code clips the sum of both parts at 0, the paper each part; `joint` chooses, the code's way by default.
- The quadruplets: the code takes all of a batch of 16, a mask of 16^4 entries. `quadruplet_loss` is that; training draws
  `quadruplets` of them uniformly: the mean of those above 0 has the same expectation wherever one is drawn.
- The number of epochs is ours: half for each stage. Only epochs of stage 2 can be selected.
- The code retrieves by posteriors; `representation="feature"` takes what enters the last layer.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines._backbones import Instances, descend, input_of
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def centre_loss(logits: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """L_cen: mean squared distance of logits (N, K) from the centre (K, K) of their class, labels (N,)."""
    return (logits - centres[labels]).square().sum(dim=1).mean()


def all_quadruplets(labels: Tensor) -> Tensor:
    """(4, Q) row numbers of every (a, p, n, n'): a and p two items of one class, n and n' of two other classes."""
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    valid = pairs[:, :, None, None] & ~same[:, None, :, None] & ~same[:, None, None, :] & ~same[None, None]
    return valid.nonzero().T


def draw_quadruplets(labels: np.ndarray, n_drawn: int, rng: np.random.Generator) -> np.ndarray:
    """(4, n_drawn) quadruplets out of `all_quadruplets`, each as likely as any other; (4, 0) where there is none.

    First the classes of (a, p) and of n, by how many quadruplets they have; then the items, n' among all that are left.
    """
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order, starts = np.argsort(numbers, kind="stable"), np.cumsum(counts) - counts  # items of class k: order[starts[k] + ...]
    rest = len(labels) - counts[:, None] - counts
    weights = (counts * (counts - 1))[:, None] * counts * rest * ~np.eye(len(counts), dtype=bool)
    total = np.cumsum(weights)
    if total[-1] == 0:
        return np.empty((4, 0), dtype=np.int64)
    drawn = np.searchsorted(total, rng.integers(total[-1], size=n_drawn), side="right")
    same, other = np.divmod(drawn, len(counts))
    anchor = rng.integers(counts[same])
    positive = rng.integers(counts[same] - 1)
    positive += positive >= anchor
    last = rng.integers(rest[same, other])
    for block in (np.minimum(same, other), np.maximum(same, other)):  # step over the items of both classes
        last += np.where(last >= starts[block], counts[block], 0)
    negative = starts[other] + rng.integers(counts[other])
    return order[np.stack([starts[same] + anchor, starts[same] + positive, negative, last])]


def quadruplet_terms(
    embeddings: Tensor, quadruplets: Tensor, margin: float, second_margin: float, squared: bool, joint: bool
) -> Tensor:
    """The hinge (Q,) of each of the quadruplets (4, Q); see `quadruplet_loss`."""
    anchor, positive, negative, last = quadruplets

    def distance(i: Tensor, j: Tensor) -> Tensor:
        squares = (embeddings.index_select(0, i) - embeddings.index_select(0, j)).square().sum(dim=1)
        return squares if squared else squares.clamp_min(1e-16).sqrt()  # the root's gradient at 0 is taken as 0

    near = distance(anchor, positive)
    first, second = near - distance(anchor, negative) + margin, near - distance(negative, last) + second_margin
    return (first + second).clamp_min(0) if joint else first.clamp_min(0) + second.clamp_min(0)


def sampled_quadruplet_loss(
    embeddings: Tensor, quadruplets: Tensor, margin: float, second_margin: float, squared: bool = False, joint: bool = True
) -> Tensor:
    """L_rank over the given quadruplets (4, Q): the mean of the hinges above 0; 0 where there is none."""
    terms = quadruplet_terms(embeddings, quadruplets, margin, second_margin, squared, joint)
    return terms.sum() / (terms > 0).sum().clamp_min(1)


def quadruplet_loss(
    embeddings: Tensor, labels: Tensor, margin: float, second_margin: float, squared: bool = False, joint: bool = True
) -> Tensor:
    """L_rank over every quadruplet of a small batch: memory grows with the fourth power of its size.

    Args:
        embeddings: (N, K).
        labels: (N,) class numbers; with fewer than three classes there is no quadruplet, and the loss is 0.
        margin: g_1.
        second_margin: g_2.
        squared: distances are squared.
        joint: the two parts are clipped at 0 together, else each on its own.
    """
    return sampled_quadruplet_loss(embeddings, all_quadruplets(labels), margin, second_margin, squared, joint)


class SharedNetwork(nn.Module):
    """An adapter d -> hidden per modality, then for all hidden -> hidden -> dim -> K; and the centres, drawn from N(0, 1)."""

    def __init__(self, train: PairedSet, hidden: int, dim: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({m.name: nn.Linear(m.vectors.shape[1], hidden) for m in train.modalities})
        self.trunk = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
        self.classifier = nn.Linear(dim, train.n_classes)
        self.centres = nn.Parameter(torch.randn(train.n_classes, train.n_classes))

    def forward(self, vectors: dict[str, Tensor]) -> Tensor:
        """Features (sum of n, dim) of vectors (n, d) per modality, one modality below the other."""
        return self.trunk(torch.cat([self.adapters[name](x) for name, x in vectors.items()]))


@register_method(
    "fgcrossnet",
    needs={"vectors", "labels"},
    search={"ranking_weight": [0.01, 0.1, 1.0], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3, "ranking_share": 1 / 3},
)
@dataclass(kw_only=True)
class FGCrossNet(Method):
    """Classification, centres and ranked quadruplets in one network for all modalities; see the module's docstring."""

    centre_weight: float = 1e-3
    ranking_weight: float = 0.1
    margin: float = 1.0  # g_1
    second_margin: float = 0.5  # g_2
    joint: bool = True  # both hinges clipped together, as released; False: each, as in the paper
    quadruplets: int = 512  # drawn per batch
    representation: Literal["posterior", "feature"] = "posterior"
    hidden: int = 1024
    dim: int = 512
    epochs: int = 60  # of both stages
    ranking_share: float = 0.5  # of the epochs: stage 2
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "centre_weight", "ranking_weight", "margin", "second_margin", "quadruplets")
        check_positive(self, "hidden", "dim", "epochs", "batch_size", "lr", "ranking_share")
        if self.ranking_share > 1:
            raise ValueError(f"ranking_share must lie in (0, 1], got {self.ranking_share}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = SharedNetwork(train, self.hidden, self.dim).to(context.device)
        data = Instances(train, context)
        ranked = max(1, round(self.epochs * self.ranking_share))
        for n_epochs, ranking in ((self.epochs - ranked, False), (ranked, True)):
            optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, fused=True)
            for _ in context.epochs(n_epochs, state={"nets": self.nets_, "optimiser": optimiser}):
                rng = context.generator("quadruplets")
                losses = []
                for batch in data.batches(self.batch_size):
                    targets = torch.cat(batch.labels)
                    drawn = draw_quadruplets(targets.cpu().numpy(), self.quadruplets, rng) if ranking else None
                    losses.append(self.step(batch.vectors, targets, drawn, optimiser))
                context.end_epoch(loss=torch.stack(losses).mean(), selectable=ranking)

    def step(
        self, vectors: dict[str, Tensor], labels: Tensor, drawn: np.ndarray | None, optimiser: torch.optim.Optimizer
    ) -> Tensor:
        """One step on vectors (N, d) per modality and all their labels (m N,), with quadruplets (4, Q) in stage 2."""
        loss = self.loss(vectors, labels, None if drawn is None else torch.from_numpy(drawn).to(labels.device))
        return descend(loss, optimiser)

    def loss(self, vectors: dict[str, Tensor], labels: Tensor, quadruplets: Tensor | None) -> Tensor:
        """The loss of stage 1, or of stage 2 where there are quadruplets."""
        logits = self.nets_.classifier(self.nets_(vectors))
        loss = len(vectors) * cross_entropy(logits, labels)  # every modality has N rows
        loss = loss + self.centre_weight * centre_loss(logits, labels, self.nets_.centres)
        if quadruplets is None:
            return loss
        ranking = sampled_quadruplet_loss(logits, quadruplets, self.margin, self.second_margin, False, self.joint)
        return loss + self.ranking_weight * ranking

    def embed(self, modality: Modality) -> Embedding:
        if self.representation == "posterior":
            return Embedding(modality.name, self.class_scores(modality))
        return Embedding(modality.name, self.features(modality).cpu().numpy())

    def class_scores(self, modality: Modality) -> np.ndarray:
        with torch.inference_mode():
            return self.nets_.classifier(self.features(modality)).softmax(dim=1).cpu().numpy()

    def features(self, modality: Modality) -> Tensor:
        """Features (n, dim) of a modality's items."""
        with torch.inference_mode():
            return self.nets_({modality.name: input_of(modality, self.nets_)})
