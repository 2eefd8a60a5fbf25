"""Networks that several papers use."""

import torch
from torch import Tensor, nn

from xmbench import PairedSet, class_numbers


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
