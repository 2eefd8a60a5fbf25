"""SDML: every modality trained on its own towards label codes that are fixed before, by an autoencoder each.

Peng Hu, Liangli Zhen, Dezhong Peng, Pei Liu, "Scalable Deep Multimodal Learning for Cross-Modal Retrieval", SIGIR 2019. With
unit embeddings z, (L,), of N items of one modality, P, (L, K), with orthonormal columns, random and never trained, and the
one-hot label h, (K,):

    L = (1 - alpha) 1/N_l sum_i ||P' z_i - h_i|| + alpha 1/N sum_i ||g(z_i) - x_i||,   z = f(x) / ||f(x)||

the first sum over the N_l items that have a label. P is all that the modalities share: pairs are never read, and a modality
can be added or trained without the others. Similarity is the cosine of z.

Noise: none is assumed. The distance is not squared, so that a wrong label pulls no harder than a right one; the
reconstruction is the only term that labels cannot mislead.

Where this differs, and which side we take (checked against penghu-cs/SDML, SDML.py Solver.train_view and model.py):
- The code scales the decoder's output to unit length, though the features are raw: only their direction can be learnt. We
  follow the code; `unit_reconstruction=False` leaves the output as it is.
- The code selects by validation label loss, each modality its own epoch. Here the harness selects one epoch for all, by
  validation MAP. To that end the modalities are trained in lock-step, on batches of their own; their losses share no weight.
- The last, short batch of an epoch is kept, the code drops it. Where modalities have unequal numbers of items, the smaller
  ones repeat theirs within an epoch.
- The code's learning rate is 1e-4 for images and 2e-4 for all else; a method here does not know images: 2e-4. Adam's betas
  (0.5, 0.999), batch 100, 200 epochs and alpha = 0.5 are the code's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines._backbones import descend, input_of, trunk
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def label_regression(embeddings: Tensor, labels: Tensor, projection: Tensor) -> Tensor:
    """Mean distance of P' z from the label, over the items that have one; 0 where none has.

    Args:
        embeddings: z, (N, L) unit rows.
        labels: h, (N, K) 0 or 1; a row of zeros is unlabelled.
        projection: P, (L, K).
    """
    labelled = labels.any(dim=1).to(embeddings.dtype)
    distances = torch.linalg.vector_norm(embeddings @ projection - labels, dim=1)  # its gradient at 0 is 0
    return distances @ labelled / labelled.sum().clamp(min=1)


def reconstruction_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean distance of the decoder's outputs (N, d) from the features (N, d)."""
    return torch.linalg.vector_norm(outputs - targets, dim=1).mean()


class LabelAutoencoders(nn.Module):
    """Encoder and decoder of each modality, and the label codes P that all of them share.

    What one modality begins with depends on its name alone, not on which others there are.

    Args:
        train: gives names, feature sizes and the number of classes.
        hidden: width of encoders and decoders.
        dim: L, size of the common space.
        context: seeds each part.
    """

    projection: Tensor

    def __init__(self, train: PairedSet, hidden: int, dim: int, context: FitContext) -> None:
        super().__init__()
        if train.n_classes > dim:
            raise ValueError(f"orthonormal label codes need dim >= number of classes, got {dim} < {train.n_classes}; raise dim")
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for m in train.modalities:
            context.seed_torch("networks", m.name)
            self.encoders[m.name] = trunk(m.vectors.shape[1], hidden, dim)
            self.decoders[m.name] = trunk(dim, hidden, m.vectors.shape[1])
        context.seed_torch("projection")
        self.register_buffer("projection", nn.init.orthogonal_(torch.empty(dim, dim))[:, : train.n_classes].clone())

    def forward(self, name: str, vectors: Tensor) -> Tensor:
        """Unit embeddings (n, L) of the vectors (n, d) of modality `name`."""
        return normalize(self.encoders[name](vectors), dim=1, eps=1e-12)


@register_method(
    "sdml",
    needs={"vectors", "labels"},
    search={"alpha": [0.1, 0.5, 0.9], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class SDML(Method):
    """One autoencoder per modality, regressed onto fixed label codes; see the module's docstring."""

    alpha: float = 0.5  # alpha, weight of the reconstruction
    unit_reconstruction: bool = True  # scale the decoder's output to unit length
    hidden: int = 1024  # width of encoders and decoders
    dim: int = 512  # L
    epochs: int = 200
    batch_size: int = 100  # N
    lr: float = 2e-4

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "dim", "epochs", "batch_size", "lr")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"sdml.alpha must lie in [0, 1], got {self.alpha!r}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = LabelAutoencoders(train, self.hidden, self.dim, context).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = context.tensors(train)
        together = train.rows_together()
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            losses = []
            for batch in context.batches(len(together), self.batch_size):
                rows = list(zip(data, together[batch].T, strict=True))
                vectors = {d.name: d.vectors[r] for d, r in rows}
                losses.append(self.step(vectors, {d.name: d.labels[r].float() for d, r in rows}, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def step(self, vectors: dict[str, Tensor], labels: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Tensor:
        """One step of every modality: vectors (N, d) and labels (N, K) of each; returns the sum of the losses before it."""
        loss = torch.stack([self.loss(name, x, labels[name]) for name, x in vectors.items()]).sum()
        return descend(loss, optimiser)

    def loss(self, name: str, vectors: Tensor, labels: Tensor) -> Tensor:
        """L of one modality: vectors (N, d), labels (N, K)."""
        embeddings = self.nets_(name, vectors)
        rebuilt = self.nets_.decoders[name](embeddings)
        if self.unit_reconstruction:
            rebuilt = normalize(rebuilt, dim=1, eps=1e-12)
        regression = label_regression(embeddings, labels, self.nets_.projection)
        return (1 - self.alpha) * regression + self.alpha * reconstruction_error(rebuilt, vectors)

    def embed(self, modality: Modality) -> Embedding:
        with torch.inference_mode():
            return Embedding(modality.name, self.nets_(modality.name, input_of(modality, self.nets_)).cpu().numpy())
