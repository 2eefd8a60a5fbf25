"""DSCMR: supervision in label space and in the common space, and layers that all modalities share.

Liangli Zhen, Peng Hu, Xu Wang, Dezhong Peng, "Deep Supervised Cross-Modal Retrieval", CVPR 2019. With common features u_i,
(N, L), of modality i on a batch, linear scores s_i = u_i C, one-hot labels h_i, theta = cos(u, u') / 2 and S = 1 where two
items share a class, else 0:

    J_1 = sum_i mean_a ||s_ia - h_ia||                                             label space
    J_2 = sum_{i <= j} mean_ab [log(1 + exp(theta_ab)) - S_ab theta_ab]            common space, within and between modalities
    J_3 = sum_{i < j} mean_a ||u_ia - u_ja||                                       modality gap, over the pairs
    J   = J_1 + alpha J_2 + beta J_3

u = D relu(E_i x): a first layer per modality, then layers D and C that are the same for all. Similarity is the cosine of u.

Noise: none is assumed. J_3 reads no label, J_1 and J_2 follow wrong ones; beta is small.

Where this differs, and which side we take (checked against penghu-cs/DSCMR, train_model.py calc_loss and model.py IDCM_NN):
- J_1 and J_3 are means of distances, as in the code; the paper, whose text was not at hand, is said to have 1/n times the
  Frobenius norm of the whole matrix, which makes other gradients.
- theta stays in [-1/2, 1/2], so that J_2 of a pair lies between 0.47 and 0.97 and alpha = 1e-3 makes it all but vanish. It is
  so in the code, and kept.
- The code gives one label to both items of a pair; here each modality has its own, noisy one, and S compares those.
- Batches are shuffled; the code reads its class-sorted training file in order. The best epoch is chosen on validation; the
  code's is chosen on the test split.
- More than two modalities: the sums over i, j above, of which the code's are the case m = 2. Labels may be multi-hot;
  `class_scores` are the scores, clipped to [0, 1].
- Adam's betas (0.5, 0.999), lr 1e-4, batch 100, 500 epochs, alpha = 1e-3 and beta = 0.1 are the code's.
"""

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from baselines._backbones import descend, input_of
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def label_regression(scores: Tensor, labels: Tensor) -> Tensor:
    """J_1 of one modality: mean distance of the scores (N, K) from the labels (N, K), 0 or 1."""
    return torch.linalg.vector_norm(scores - labels, dim=1).mean()  # its gradient at 0 is 0


def pairwise_likelihood(first: Tensor, second: Tensor, same: Tensor) -> Tensor:
    """J_2 of two modalities: mean of -log p(S | theta) with p(1 | theta) = 1 / (1 + exp(-theta)), theta half the cosine.

    Args:
        first: (N, L) unit rows.
        second: (N', L) unit rows.
        same: S, (N, N'), 1 where two items share a class, else 0.
    """
    theta = first @ second.T / 2
    return (softplus(theta) - same * theta).mean()


def modality_gap(first: Tensor, second: Tensor) -> Tensor:
    """J_3 of two modalities: mean distance of the features (N, L) of paired items."""
    return torch.linalg.vector_norm(first - second, dim=1).mean()


class SharedNetworks(nn.Module):
    """A layer with ReLU per modality, then linear layers to features and on to class scores, which all modalities share.

    Args:
        sizes: modality -> number of its features.
        hidden: width of the first layers.
        dim: L, size of the common space.
        n_classes: K.
    """

    def __init__(self, sizes: dict[str, int], hidden: int, dim: int, n_classes: int) -> None:
        super().__init__()
        self.first = nn.ModuleDict({name: nn.Linear(size, hidden) for name, size in sizes.items()})
        self.shared = nn.Linear(hidden, dim)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, name: str, vectors: Tensor) -> Tensor:
        """Features u (n, L) of the vectors (n, d) of modality `name`."""
        return self.shared(torch.relu(self.first[name](vectors)))


@register_method(
    "dscmr",
    needs={"vectors", "labels", "pairs"},
    multi_label=True,
    search={"alpha": [1e-3, 1e-1], "beta": [1e-1, 1.0], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class DSCMR(Method):
    """Label regression, pairwise likelihood and modality gap on shared layers; see the module's docstring."""

    alpha: float = 1e-3  # alpha, weight of J_2
    beta: float = 0.1  # beta, weight of J_3
    hidden: int = 2048  # width of the first layers
    dim: int = 1024  # L
    epochs: int = 500
    batch_size: int = 100  # N
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "epochs", "batch_size", "lr")
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"dscmr.{name} must be 0 or above, got {getattr(self, name)!r}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        for m in train.modalities:
            if not m.labels.any(axis=1).all():
                raise ValueError(f"every {m.name} needs a label, got {int((~m.labels.any(axis=1)).sum())} without one")
        sizes = {m.name: m.vectors.shape[1] for m in train.modalities}
        self.nets_ = SharedNetworks(sizes, self.hidden, self.dim, train.n_classes).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = context.tensors(train)
        together = train.rows_together()
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            losses = []
            for batch in context.batches(len(together), self.batch_size):
                rows = together[batch].T
                features = torch.stack([self.nets_(d.name, d.vectors[r]) for d, r in zip(data, rows, strict=True)])
                labels = torch.stack([d.labels[r] for d, r in zip(data, rows, strict=True)]).float()
                loss = self.loss(features, self.nets_.classifier(features), labels)
                losses.append(descend(loss, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def loss(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """J of a batch: features (m, N, L), scores (m, N, K), labels (m, N, K); item a of every modality is one instance."""
        units = normalize(features, dim=2, eps=1e-6)
        regression = [label_regression(s, h) for s, h in zip(scores, labels, strict=True)]
        likelihood, gap = [], []
        for i, j in combinations_with_replacement(range(len(features)), 2):
            likelihood.append(pairwise_likelihood(units[i], units[j], (labels[i] @ labels[j].T).clamp(max=1)))
        for i, j in combinations(range(len(features)), 2):
            gap.append(modality_gap(features[i], features[j]))
        return torch.stack(regression).sum() + self.alpha * torch.stack(likelihood).sum() + self.beta * torch.stack(gap).sum()

    def embed(self, modality: Modality) -> Embedding:
        return Embedding(modality.name, self._features(modality).cpu().numpy())

    def class_scores(self, modality: Modality) -> np.ndarray:
        with torch.inference_mode():
            return self.nets_.classifier(self._features(modality)).clamp(0, 1).cpu().numpy()

    def _features(self, modality: Modality) -> Tensor:
        with torch.inference_mode():
            return self.nets_(modality.name, input_of(modality, self.nets_))
