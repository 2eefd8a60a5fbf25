"""Contrast of global vectors: the networks and the training loop that the InfoNCE methods share."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from baselines._backbones import descend, input_of
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive


@dataclass(kw_only=True)
class ContrastiveMethod(Method):
    """A two-layer network per modality onto the unit sphere, learnt by a loss on the cosines of a batch's pairs.

    Adam; with more than two modalities the mean over all two of them.
    """

    hidden: int = 1024
    dim: int = 256
    tau: float = 0.07  # temperature of the softmax
    epochs: int = 20
    batch_size: int = 128  # B
    lr: float = 3e-4

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "tau", "epochs", "lr")
        if self.batch_size < 2:
            got = f"a pair alone has no negatives, got {self.batch_size}"
            raise ValueError(f"{self.info.name}.batch_size must be 2 or more: {got}")

    @abstractmethod
    def loss(self, scores: Tensor) -> Tensor:
        """The loss of the (B, B) cosines over tau, pairs on the diagonal: the mean over both directions."""

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data, together = context.tensors(train), train.rows_together()
        widths = {m.name: m.vectors.shape[1] for m in train.modalities if m.vectors is not None}
        self.nets_ = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(d, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.dim))
                for name, d in widths.items()
            }
        ).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, fused=True)
        two = list(combinations(range(len(data)), 2))
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            total = torch.zeros((), device=context.device)
            for batch in context.batches(len(together), self.batch_size, even=True):
                units = [
                    nn.functional.normalize(self.nets_[d.name](d.vectors[rows]), dim=1)
                    for d, rows in zip(data, together[batch].T, strict=True)
                ]
                loss = torch.stack([self.loss(units[a] @ units[b].T / self.tau) for a, b in two]).mean()
                total += descend(loss, optimiser) * len(batch)
            context.end_epoch(loss=total / len(together))

    def embed(self, modality: Modality) -> Embedding:
        with torch.inference_mode():
            values = nn.functional.normalize(self.nets_[modality.name](input_of(modality, self.nets_)), dim=1)
        return Embedding(modality.name, np.asarray(values.cpu()))
