"""CE: cross-entropy on class prototypes shared by all modalities; deep-SM as the MRL paper runs it.

The row "CE" of Table 3 in Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, equals the row
"deep-SM" of its Table 1 (after Wei et al., "Cross-modal retrieval with CNN visual features", IEEE Trans. Cybernetics 2017):
MRL's networks and prototypes with the softmax cross-entropy of eq. (3) in place of eq. (5), and no contrast,

    L = -sum_i 1/N sum_j log softmax(C' z)_y

Retrieval is by cosine of the embeddings z, as in the released code with `--loss CE` and beta = 1; deep-SM itself compares
class posteriors. As there, the cosines enter without a temperature, so that the loss cannot fall below 1.46 for 10 classes.

Noise: none is assumed. The networks fit wrong labels in the end: the best epoch and the last one part.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from baselines._backbones import Instances, PrototypeNetworks, cosine_schedule, descend
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


@register_method(
    "ce",
    needs={"vectors", "labels"},
    search={"lr": [3e-5, 1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class CE(Method):
    """Cross-entropy on shared prototypes; see the module's docstring."""

    hidden: int = 4096  # width of the trunk
    dim: int = 512  # L
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "epochs", "batch_size", "lr")

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
        return descend(self.loss([self.nets_(name, x) for name, x in vectors.items()], labels), optimiser)

    def loss(self, embeddings: Iterable[Tensor], labels: list[Tensor]) -> Tensor:
        """The sum of each modality's mean cross-entropy, of embeddings (N, L) and labels (N,) per modality."""
        terms = [cross_entropy(self.nets_.scores(z), y) for z, y in zip(embeddings, labels, strict=True)]
        return torch.stack(terms).sum()

    def embed(self, modality: Modality) -> Embedding:
        return self.nets_.embed(modality)

    def class_scores(self, modality: Modality) -> np.ndarray | None:
        return self.nets_.posteriors(modality)

    def validation_loss(self, split: PairedSet) -> float:
        return self.nets_.mean_loss(split, self.batch_size, self.loss)
