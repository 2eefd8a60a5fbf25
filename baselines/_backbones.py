"""Networks that several papers use, and what their training loops share."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xmbench import Embedding, FitContext, Modality, PairedSet, class_numbers


class Batch(NamedTuple):
    """Instances seen together: vectors (N, d) by modality; class numbers (N,) and row numbers (N,) of each modality's items.

    The list of class numbers is empty where labels were not declared.
    """

    vectors: dict[str, Tensor]
    labels: list[Tensor]
    rows: list[np.ndarray]


class Instances:
    """The training instances on the device of a fit, with one class per item.

    Raises:
        ValueError: an item with no label, or with several.
    """

    def __init__(self, train: PairedSet, context: FitContext) -> None:
        self._data = context.tensors(train)
        self._labels = class_targets(train, context.device)
        self._together = train.rows_together()
        self._context = context

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All instances once, in the epoch's random order."""
        for batch in self._context.batches(len(self._together), batch_size):
            rows = list(self._together[batch].T)
            vectors = {d.name: d.vectors[r] for d, r in zip(self._data, rows, strict=True)}
            yield Batch(vectors, [y[r] for y, r in zip(self._labels, rows, strict=False)], rows)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    """One step of the optimiser down the gradient of `loss`; returns the loss before it, without its graph."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()


def input_of(modality: Modality, nets: nn.Module) -> Tensor:
    """The vectors (n, d) of a modality on the device of `nets`."""
    return torch.from_numpy(np.asarray(modality.vectors)).to(next(nets.parameters()).device)


def trunk(n_features: int, hidden: int, dim: int) -> nn.Sequential:
    """Three fully connected layers, ReLU after the first two: d -> hidden -> hidden -> dim (Hu et al., CVPR 2021, sec. 4.1)."""
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim))


class PrototypeNetworks(nn.Module):
    """One trunk per modality onto the unit sphere of a common space, and one trainable unit prototype per class.

    Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, eq. (1)-(2). As in the released code the
    prototypes begin as columns of a random orthogonal matrix and are scaled to unit length in place before every step,
    outside the gradient.

    Args:
        train: gives names, feature sizes and, where declared, the number of classes.
        hidden: width of the trunks.
        dim: L, size of the common space.
    """

    prototypes: Tensor | None

    def __init__(self, train: PairedSet, hidden: int, dim: int) -> None:
        super().__init__()
        self.trunks = nn.ModuleDict(
            {m.name: trunk(m.vectors.shape[1], hidden, dim) for m in train.modalities if m.vectors is not None}
        )
        self.register_parameter("prototypes", None)
        if train.modalities[0].labels is not None:
            if train.n_classes > dim:
                raise ValueError(
                    f"orthogonal prototypes need dim >= number of classes, got {dim} < {train.n_classes}; raise dim"
                )
            self.prototypes = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim))[:, : train.n_classes].clone())

    def renormalise(self) -> None:
        """Scale every prototype, a column of (L, K), to unit length, in place."""
        if self.prototypes is not None:
            self.prototypes.data /= self.prototypes.data.norm(dim=0, keepdim=True)

    def forward(self, name: str, vectors: Tensor) -> Tensor:
        """Unit embeddings (n, L) of the vectors (n, d) of modality `name`."""
        return nn.functional.normalize(self.trunks[name](vectors), dim=1, eps=1e-12)

    def embed(self, modality: Modality) -> Embedding:
        """The unit embeddings of a modality's items."""
        with torch.inference_mode():
            return Embedding(modality.name, self(modality.name, input_of(modality, self)).cpu().numpy())

    def posteriors(self, modality: Modality, tau: float = 1.0) -> np.ndarray | None:
        """Class posteriors (n, K) of a modality's items, eq. (2), with unit prototypes; None where there are none."""
        if self.prototypes is None:
            return None
        with torch.inference_mode():
            embeddings = self(modality.name, input_of(modality, self))
            return (embeddings @ nn.functional.normalize(self.prototypes, dim=0) / tau).softmax(dim=1).cpu().numpy()

    def mean_loss(self, split: PairedSet, batch_size: int, loss: Callable[[Tensor, list[Tensor]], Tensor]) -> float:
        """Average over batches, in the order of the pairs, of `loss(embeddings, labels)` on another split.

        Args:
            split: with labels where `loss` reads them.
            batch_size: pairs that are seen together.
            loss: of embeddings (m, N, L) and the labels (N,) of each modality.
        """
        together = torch.from_numpy(split.rows_together())
        with torch.inference_mode():
            embeddings = [self(m.name, input_of(m, self)) for m in split.modalities]
            labels = class_targets(split, str(embeddings[0].device))
            losses = []
            for rows in together.split(batch_size):
                seen = torch.stack([z[r] for z, r in zip(embeddings, rows.T, strict=True)])
                losses.append(loss(seen, [y[r] for y, r in zip(labels, rows.T, strict=False)]))
            return float(torch.stack(losses).mean())

    def scores(self, embeddings: Tensor) -> Tensor:
        """Cosines (n, K) of unit embeddings (n, L) with the prototypes."""
        assert self.prototypes is not None
        return embeddings @ self.prototypes


def class_targets(train: PairedSet, device: str) -> list[Tensor]:
    """Class numbers (n,) of every modality's items; an empty list where labels were not declared.

    Raises:
        ValueError: an item with no label, or with several.
    """
    targets = []
    for m in train.modalities:
        if m.labels is not None:
            numbers = class_numbers(m.labels)
            if (numbers < 0).any():
                raise ValueError(f"every {m.name} needs a label, got {int((numbers < 0).sum())} without one")
            targets.append(torch.from_numpy(numbers).to(device))
    return targets


def cosine_schedule(lr: float, epoch: int, n_epochs: int) -> float:
    """The released MRL code's learning rate: lr (1 + cos(pi (e - 1) / E)) / 2, epochs 0 and 1 both at `lr`.

    The released loop steps its scheduler before it has a last epoch, which repeats the first value.
    """
    return 0.5 * lr * (1.0 + float(torch.cos(torch.tensor(torch.pi * max(epoch - 1, 0) / n_epochs, dtype=torch.float64))))
