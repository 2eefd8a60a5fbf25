"""DCCAE: deep CCA whose outputs must also suffice to rebuild the features, by one decoder per modality.

Weiran Wang, Raman Arora, Karen Livescu, Jeff Bilmes, "On Deep Multi-View Representation Learning", ICML 2015. With the
outputs h_i = f_i(x_i) of a batch of n pairs, T_ij their whitened cross-covariance (see the loss) and decoders g_i:

    L = - sum_{i < j} ||T_ij|| + lambda 1/n sum_i sum ||x_i - g_i(h_i)||^2,   embed(x_i) = (f_i(x_i) - mean) W_i

with W_i the linear CCA of the outputs on all training pairs, fitted after every epoch; similarity is the cosine.

Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.

Where this differs, and which side we take. The MRL paper compares with DCCAE ("DCCA-E") and names no setting.
- The correlation term, the networks, the batches and the last linear CCA are those of DCCA here: lambda = 0 gives its results
  bit for bit. That is, the squared Frobenius norm stands for the sum of correlations (`norm="trace"`), Adam from random
  weights for SGD from pretrained layers.
- Decoders mirror the trunks. Features are standardised, so that the errors of the modalities compare; the error is a sum
  over features and a mean over pairs, as in the paper. cca_zoo averages over features and weighs the terms lambda to
  1 - lambda instead.
- lambda depends on the number of features and has to be searched; 1e-3 is our default.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from baselines._backbones import descend, input_of, trunk
from baselines._correlation import CorrelationNetworks, correlation_loss
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


def reconstruction_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of each decoder's output (n, d) from the features (n, d), mean over the pairs."""
    return ((outputs - targets) ** 2).sum(dim=1).mean()


@register_method(
    "dccae",
    needs={"vectors", "pairs"},
    search={"dim": [10, 20], "reconstruction": [1e-4, 1e-2], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 10, "epochs": 20, "batch_size": 200},
)
@dataclass(kw_only=True)
class DCCAE(Method):
    """Deep CCA with autoencoders on standardised features; see the module's docstring."""

    reconstruction: float = 1e-3  # lambda
    hidden: int = 1024  # width of trunks and decoders
    dim: int = 20  # o, small: batches have to be much larger
    ridge: float = 1e-3  # r
    norm: Literal["frobenius", "trace"] = "frobenius"
    epochs: int = 100
    batch_size: int = 800  # the least
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "ridge", "epochs", "batch_size", "lr")
        if not self.reconstruction >= 0:
            raise ValueError(f"dccae.reconstruction must be 0 or above, got {self.reconstruction!r}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        together = train.rows_together()
        dim = clipped(self, "dim", max(1, len(together) - 1), "the covariance of all pairs")
        self.nets_ = CorrelationNetworks(train, self.hidden, dim).to(context.device)
        sizes = {m.name: m.vectors.shape[1] for m in train.modalities}
        self.decoders_ = nn.ModuleDict({name: trunk(dim, self.hidden, d) for name, d in sizes.items()}).to(context.device)
        parameters = [*self.nets_.parameters(), *self.decoders_.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=self.lr, fused=True)
        data = context.tensors(train)

        def vectors(pairs: np.ndarray) -> dict[str, Tensor]:
            return {d.name: d.vectors[rows] for d, rows in zip(data, together[pairs].T, strict=True)}

        state = {"nets": self.nets_, "decoders": self.decoders_, "optimiser": optimiser}
        for _ in context.epochs(self.epochs, state=state):
            losses = []
            for batch in context.batches(len(together), self.batch_size, even=True):
                losses.append(descend(self.loss(vectors(batch)), optimiser))
            self.nets_.fit_linear(vectors, len(together), self.ridge)
            context.end_epoch(loss=torch.stack(losses).mean())

    def loss(self, vectors: dict[str, Tensor]) -> Tensor:
        """L of a batch of pairs: the vectors (n, d) of every modality."""
        outputs = self.nets_.outputs(vectors)
        errors = [
            reconstruction_error(self.decoders_[name](h), self.nets_.view(name).standardised(x))
            for h, (name, x) in zip(outputs, vectors.items(), strict=True)
        ]
        return correlation_loss(outputs, self.ridge, self.norm) + self.reconstruction * torch.stack(errors).sum()

    def embed(self, modality: Modality) -> Embedding:
        view = self.nets_.view(modality.name)
        with torch.inference_mode():
            return Embedding(modality.name, view(input_of(modality, view)).cpu().numpy())
