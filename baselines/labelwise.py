"""Label-wise semantic sharing: one transformer and one classifier for all modalities, and no consistency loss.

Yang Yang, Chubing Zhang, Yi-Chu Xu, Dianhai Yu, De-Chuan Zhan, Jian Yang, "Rethinking Label-Wise Cross-Modal Retrieval from A
Semantic Sharing Perspective", IJCAI 2021. Every modality's tokens are projected into one shared encoder; with logits f of the
shared classifier on the pooled tokens,

    L = sum_v L_label(f_v, y_v) + lambda sum_v L_mask                                                            (6)
    L_label  binary cross-entropy of every class (multi-label data); softmax cross-entropy (single-label data)
    L_mask   squared error of masked tokens, predicted from the encoded others (context prediction)
    similarity = cosine of the pooled tokens

Variants: "shared" is the above; "consistency" adds eta times a pairwise label-likelihood and a pair distance, as DSCMR has
them, on the pooled tokens (the paper's Ours+Con); "independent" has an encoder and a classifier per modality, hence class
scores and no common space.

Noise: none is assumed, and no part is robust. An item without any label counts as unlabelled: it enters L_mask alone
(and, in the variant "consistency", shares no class with any).

This is a re-implementation from a description: of the paper only the supplement was at hand. From it: a shared encoder of 6
layers and 8 heads, at most 150 tokens, batch 64, Adam 1e-4, dropout .1, at most 45 epochs, lambda .1 (.01 for COCO), eta .1,
and that lambda must be small. Ours, and what differs:
- Width 768 with 3072 in the feed-forward layers is BERT-base's, from whose weights the paper starts and we cannot.
- Pooling is the mean over tokens; 15 % of the tokens are masked, never all of an item's; masked tokens enter both losses.
- Each vector is standardised by itself before it is projected, so that lambda means the same for all features.
- Vectors have no tokens: one is cut into `chunks` equal parts, which stand in for regions and words. This is a degenerate
  version of the method; with one chunk L_mask is void. `features="sequences"` reads real ones: regions, word vectors.
"""

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def label_loss(logits: Tensor, labels: Tensor, several: bool) -> Tensor:
    """L_label, mean over the items that have a label.

    Args:
        logits: (N, K).
        labels: (N, K) bool.
        several: items may have several classes: max(f, 0) - f y + log(1 + exp(-|f|)), mean over the classes; else the softmax
            cross-entropy.
    """
    targets = labels.to(logits.dtype)
    if several:
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    else:
        losses = functional.cross_entropy(logits, targets, reduction="none")
    labelled = labels.any(dim=1)
    return (losses * labelled).sum() / labelled.sum().clamp_min(1)


def mask_loss(predicted: Tensor, tokens: Tensor) -> Tensor:
    """L_mask: mean squared error of predictions (k, d) of the masked tokens (k, d); 0 where none was masked."""
    return (predicted - tokens).square().sum() / max(tokens.numel(), 1)


def consistency_loss(embeddings: list[Tensor], labels: list[Tensor]) -> Tensor:
    """Pairwise label-likelihood plus pair distance (Zhen et al., "Deep Supervised Cross-Modal Retrieval", CVPR 2019).

    sum_{a <= b} mean_ij [log(1 + exp(G_ij)) - S_ij G_ij] + sum_{a < b} mean_i |z_i^a - z_i^b|, G half the cosines between the
    items of modalities a and b, S_ij whether they share a class.

    Args:
        embeddings: (N, L) per modality; row i of all is one instance.
        labels: (N, K) bool per modality.
    """
    units, hot = [functional.normalize(z, dim=1) for z in embeddings], [y.to(embeddings[0].dtype) for y in labels]
    terms = []
    for a, b in combinations_with_replacement(range(len(units)), 2):
        halves, shared = units[a] @ units[b].T / 2, (hot[a] @ hot[b].T > 0)
        terms.append((functional.softplus(halves) - shared * halves).mean())
    terms += [torch.linalg.vector_norm(first - second, dim=1).mean() for first, second in combinations(embeddings, 2)]
    return torch.stack(terms).sum()


class Encoder(nn.Module):
    """A transformer encoder with its positions, its mask token and its classifier."""

    def __init__(self, method: "Labelwise", n_places: int, n_classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            method.dim, method.heads, method.hidden, method.dropout, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, method.layers, enable_nested_tensor=False)
        self.positions = nn.Parameter(0.02 * torch.randn(n_places, method.dim)) if method.positions else None
        self.mask = nn.Parameter(0.02 * torch.randn(method.dim))
        self.classifier = nn.Linear(method.dim, n_classes)

    def forward(self, projected: Tensor, padding: Tensor | None, masked: Tensor | None) -> Tensor:
        """Encoded tokens (n, T, dim) of projected ones (n, T, dim); True in (n, T) is padding, or replaced by the mask."""
        if masked is not None:
            projected = torch.where(masked[:, :, None], self.mask, projected)
        if self.positions is not None:
            projected = projected + self.positions[: projected.shape[1]]
        return self.layers(projected, src_key_padding_mask=padding)


class SharingNetworks(nn.Module):
    """A projection and a mask head per modality; the encoder and the classifier one for all, or one each."""

    def __init__(self, train: PairedSet, method: "Labelwise") -> None:
        super().__init__()
        self.features, self.places = method.features, method.chunks if method.features == "vectors" else method.max_length
        sizes = {m.name: getattr(m, method.features).shape[-1] for m in train.modalities}
        if method.features == "vectors":  # the width of a chunk
            sizes = {name: -(-d // method.chunks) for name, d in sizes.items()}
        self.widths = sizes
        self.projections = nn.ModuleDict({name: nn.Linear(d, method.dim) for name, d in sizes.items()})
        self.mask_heads = nn.ModuleDict({name: nn.Linear(method.dim, d) for name, d in sizes.items()})
        owners = list(sizes) if method.variant == "independent" else ["shared"]
        self.encoders = nn.ModuleDict({owner: Encoder(method, self.places, train.n_classes) for owner in owners})

    def encoder(self, name: str) -> Encoder:
        """The encoder of modality `name`."""
        encoder = self.encoders[name if name in self.encoders else "shared"]
        assert isinstance(encoder, Encoder)
        return encoder

    def tokens(self, name: str, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Standardised tokens (n, T, d) of vectors (n, d) or sequences (n, L, d); True in (n, T) is padding, None for none."""
        features = functional.layer_norm(features, features.shape[-1:])
        if self.features == "vectors":
            width = self.widths[name]
            return functional.pad(features, (0, self.places * width - features.shape[1])).unflatten(1, (-1, width)), None
        features = features[:, : self.places]
        if lengths is None:
            return features, None
        return features, torch.arange(features.shape[1], device=features.device) >= lengths.clamp_min(1)[:, None]

    def forward(self, name: str, tokens: Tensor, padding: Tensor | None, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoded tokens (n, T, dim), and their mean (n, dim) over what is not padding."""
        encoded = self.encoder(name)(self.projections[name](tokens), padding, masked)
        if padding is None:
            return encoded, encoded.mean(dim=1)
        real = ~padding[:, :, None]
        return encoded, torch.where(real, encoded, 0).sum(dim=1) / real.sum(dim=1)


@register_method(
    "labelwise",
    needs=lambda p: {p.features, "labels"} | ({"pairs"} if p.variant == "consistency" else set()),
    retrieval=lambda p: p.variant != "independent",
    multi_label=True,
    from_description=True,
    search={"mask_weight": [0.001, 0.01, 0.1, 1.0], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"layers": 1, "heads": 2, "hidden": 64, "dim": 32, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class Labelwise(Method):
    """Labels and masked context through a shared transformer; see the module's docstring."""

    variant: Literal["shared", "consistency", "independent"] = "shared"
    features: Literal["vectors", "sequences"] = "vectors"
    mask_weight: float = 0.1  # lambda, eq. (6)
    mask_rate: float = 0.15
    consistency_weight: float = 0.1  # eta, of the variant "consistency"
    chunks: int = 4  # tokens that a vector is cut into
    max_length: int = 150  # tokens of a sequence that are read
    positions: bool = True  # a learned vector per place of a token; False where order means nothing
    layers: int = 6
    heads: int = 8
    hidden: int = 3072  # width of the feed-forward layers
    dim: int = 768
    dropout: float = 0.1
    epochs: int = 45
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "consistency_weight", "chunks", "max_length", "layers", "heads", "hidden", "dim")
        check_positive(self, "epochs", "batch_size", "lr")
        if self.mask_weight < 0:
            raise ValueError(f"mask_weight must be 0 or above, got {self.mask_weight}")
        for name in ("mask_rate", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.several_ = any(bool((m.labels.sum(axis=1) > 1).any()) for m in train.modalities)
        self.nets_ = SharingNetworks(train, self).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, fused=True)
        data = context.tensors(train)
        together = train.rows_together()
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            self.nets_.train()
            losses = []
            for batch in context.batches(len(together), self.batch_size):
                parts, labels = {}, []
                for d, rows in zip(data, together[batch].T, strict=True):
                    lengths = None if d.lengths is None else d.lengths[rows]
                    parts[d.name] = self.nets_.tokens(d.name, getattr(d, self.features)[rows], lengths)
                    labels.append(d.labels[rows])
                loss = self.loss(parts, labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            context.end_epoch(loss=torch.stack(losses).mean())

    def loss(self, parts: dict[str, tuple[Tensor, Tensor | None]], labels: list[Tensor]) -> Tensor:
        """Eq. (6) for (tokens, padding) and labels (N, K) per modality, plus eta times consistency in that variant."""
        terms, pooled = [], []
        for (name, (tokens, padding)), y in zip(parts.items(), labels, strict=True):
            masked = self.draw_mask(tokens, padding) if self.mask_weight > 0 else None
            encoded, mean = self.nets_(name, tokens, padding, masked)
            terms.append(label_loss(self.nets_.encoder(name).classifier(mean), y, self.several_))
            if masked is not None:
                predicted = self.nets_.mask_heads[name](encoded[masked])
                terms.append(self.mask_weight * mask_loss(predicted, tokens[masked]))
            pooled.append(mean)
        if self.variant == "consistency":
            terms.append(self.consistency_weight * consistency_loss(pooled, labels))
        return torch.stack(terms).sum()

    def draw_mask(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """Which tokens (n, T) are masked: each at `mask_rate`, no padding, and none of an item that would lose all of them."""
        masked = torch.rand(tokens.shape[:2], device=tokens.device) < self.mask_rate
        if padding is None:
            return masked & ~masked.all(dim=1, keepdim=True)
        return masked & ~padding & ~(masked | padding).all(dim=1, keepdim=True)

    def encode(self, modality: Modality) -> Tensor:
        """Pooled tokens (n, dim) of a modality's items."""
        device = next(self.nets_.parameters()).device
        features = torch.from_numpy(np.asarray(getattr(modality, self.features))).to(device)
        lengths = None if modality.lengths is None else torch.from_numpy(modality.lengths).to(device)
        with torch.inference_mode():
            self.nets_.eval()
            return self.nets_(modality.name, *self.nets_.tokens(modality.name, features, lengths))[1]

    def embed(self, modality: Modality) -> Embedding:
        return Embedding(modality.name, self.encode(modality).cpu().numpy())

    def class_scores(self, modality: Modality) -> np.ndarray:
        with torch.inference_mode():
            logits = self.nets_.encoder(modality.name).classifier(self.encode(modality))
            return (logits.sigmoid() if self.several_ else logits.softmax(dim=1)).cpu().numpy()
