"""ACMR: adversarial cross-modal retrieval, labels and triplets against a classifier that guesses the modality.

Bokun Wang, Yang Yang, Xing Xu, Alan Hanjalic, Heng Tao Shen, "Adversarial Cross-Modal Retrieval", ACM Multimedia 2017.
Embeddings z of N instances in a batch, a label head C, a modality head D, both shared by all modalities:

    L_imd = 1/m sum_v 1/N sum_j -log softmax(C(z))_y                                          intra-modal discrimination
    L_inv = sum over ordered pairs of modalities 1/N sum_j max(0, g + |a - p|^2 - |a - n|^2)  inter-modal invariance
    L_adv = mean of -log softmax(D(z))_v                                                      modality classification
    embeddings: min w_1 L_imd + w_2 L_inv - l L_adv        D: min L_adv

a is an item, p its partner in the other modality, n the nearest item there of another label. One backward pass serves both
players: D sees z through a layer that is the identity forward and multiplies the gradient by -l backward, with
l(q) = lambda (2 / (1 + exp(-10 q)) - 1), q the share of epochs done.

Noise: none is assumed; pairs are right. Every modality has its own labels: an item of the other modality is a negative where
its label differs from the anchor's.

Where this differs, and which side we take (checked against sunpeng981712364/ACMR_demo,
models/adv_crossmodal_triplet_wiki.py AdvCrossModalSimple):
- The released optimiser of the embeddings leaves the adversary out and trains neither through D nor the label head, which
  stays at its random start. We train all of it, as the paper says; `released=True` gives the literal behaviour.
- Triplets: per item, with the nearest negative in the common space. The released hinge is one per direction and batch,
  max(0, .1 + 5 P - M), P and M half the summed squares over the batch, the negative being the partner of the most similar
  input of another label; `released=True` does so.
- w_1 : w_2 is the released 100 : 1; the code sums L_imd over the modalities, so does `released=True`. The paper's norm of
  the weights is in neither the code nor here.
- One width of layers for all modalities (released for Wikipedia: images 512, 100, 40; texts 40, 100, 40), tanh after each; D
  is linear throughout, as released. Batches are drawn anew and the short last one is kept; the code does neither.
- The cosine compares embeddings; the released evaluation uses the Euclidean distance.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from baselines._backbones import Instances, descend, input_of
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """`x` as it is; backward, its gradient times -strength (Ganin and Lempitsky, ICML 2015)."""
    reversed_: Tensor = _Reversal.apply(x, strength)
    return reversed_


def reversal_schedule(progress: float) -> float:
    """2 / (1 + exp(-10 q)) - 1 for the share q of training that is done: 0 at the start, 1 at the end."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


def triplet_loss(first: Tensor, second: Tensor, different: Tensor, margin: float) -> Tensor:
    """L_inv of two modalities, both directions: mean over anchors of max(0, g + |a - p|^2 - min_n |a - n|^2).

    An anchor without an item of another label counts 0.

    Args:
        first, second: (N, d) embeddings; row j of both is one instance.
        different: (N, N) bool, item i of the first has another label than item j of the second.
        margin: g.
    """
    distances = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    negatives = distances.masked_fill(~different, torch.inf)
    positive = (first - second).square().sum(1)
    hinges = [(margin + positive - negatives.amin(dim)).clamp_min(0).mean() for dim in (1, 0)]
    return torch.stack(hinges).sum()


def released_triplet_loss(first: Tensor, second: Tensor, different: Tensor, similar: list[Tensor]) -> Tensor:
    """The released hinge of two modalities, both directions: max(0, .1 + 5 P - M) over the whole batch.

    P and M are half the sums of |a - p|^2 and |a - n|^2; n is the partner of the input most similar to a's, where those whose
    partner has a's label count as similar by 0.

    Args:
        first, second: (N, d) embeddings; row j of both is one instance.
        different: (N, N) bool, item i of the first has another label than item j of the second.
        similar: (N, N) similarity of the inputs of the first, and of the second.
    """
    hinges = []
    for anchors, others, mask, inputs in ((first, second, different, similar[0]), (second, first, different.T, similar[1])):
        nearest = (inputs * mask).argmax(dim=1)
        positive, negative = ((anchors - x).square().sum() / 2 for x in (others, others[nearest]))
        hinges.append((0.1 + 5 * positive - negative).clamp_min(0))
    return torch.stack(hinges).sum()


class AdversarialNetworks(nn.Module):
    """Tanh networks d -> hidden -> middle -> dim per modality, a linear label head, a linear modality head of three layers."""

    def __init__(self, train: PairedSet, hidden: int, middle: int, dim: int) -> None:
        super().__init__()
        self.embedders = nn.ModuleDict(
            {
                m.name: nn.Sequential(
                    *(nn.Linear(m.vectors.shape[1], hidden), nn.Tanh()),
                    *(nn.Linear(hidden, middle), nn.Tanh()),
                    *(nn.Linear(middle, dim), nn.Tanh()),
                )
                for m in train.modalities
            }
        )
        half, quarter = max(dim // 2, 1), max(dim // 4, 1)
        self.label_head = nn.Linear(dim, train.n_classes)
        self.modality_head = nn.Sequential(
            nn.Linear(dim, half), nn.Linear(half, quarter), nn.Linear(quarter, len(train.modalities))
        )


@register_method(
    "acmr",
    needs={"vectors", "labels", "pairs"},
    search={"adversary": [0.01, 0.1, 1.0], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "epochs": 16, "lr": 3e-3},
)
@dataclass(kw_only=True)
class ACMR(Method):
    """Label prediction and triplets against a modality classifier; see the module's docstring."""

    label_weight: float = 1.0  # w_1; 100 for each modality where released
    triplet_weight: float = 0.01  # w_2; 1 where released
    adversary: float = 0.1  # lambda, the largest strength of the reversal
    margin: float = 0.1  # g
    released: bool = False  # the literal behaviour of the released code, in which nothing is adversarial
    hidden: int = 512
    middle: int = 100  # width of the second layer
    dim: int = 40
    epochs: int = 50
    batch_size: int = 64
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(
            self, "label_weight", "triplet_weight", "margin", "hidden", "middle", "dim", "epochs", "batch_size", "lr"
        )
        if self.adversary < 0:
            raise ValueError(f"adversary must be 0 or above, got {self.adversary}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self.nets_ = AdversarialNetworks(train, self.hidden, self.middle, self.dim).to(context.device)
        self.nets_.label_head.requires_grad_(not self.released)
        trained = [p for p in self.nets_.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = Instances(train, context)
        for epoch in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            strength = 0.0 if self.released else self.adversary * reversal_schedule(epoch / self.epochs)
            losses = []
            for batch in data.batches(self.batch_size):
                losses.append(descend(self.loss(batch.vectors, batch.labels, strength), optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def loss(self, vectors: dict[str, Tensor], labels: list[Tensor], strength: float) -> Tensor:
        """w_1 L_imd + w_2 L_inv + L_adv behind the reversal, for vectors (N, d) and labels (N,) per modality."""
        w_1, w_2 = (100.0 * len(vectors), 1.0) if self.released else (self.label_weight, self.triplet_weight)
        embeddings = [self.nets_.embedders[name](x) for name, x in vectors.items()]
        stacked = torch.cat(embeddings)
        discrimination = cross_entropy(self.nets_.label_head(stacked), torch.cat(labels))  # every modality has N rows
        invariance = torch.stack(list(self.triplets(list(vectors.values()), embeddings, labels))).sum()
        modality = torch.arange(len(embeddings), device=stacked.device).repeat_interleave(len(embeddings[0]))
        adversarial = cross_entropy(self.nets_.modality_head(reverse_gradient(stacked, strength)), modality)
        return w_1 * discrimination + w_2 * invariance + adversarial

    def triplets(self, vectors: list[Tensor], embeddings: list[Tensor], labels: list[Tensor]) -> Iterator[Tensor]:
        """The triplet loss of every two modalities."""
        units = [normalize(x, dim=1) for x in vectors] if self.released else []
        for a, b in combinations(range(len(embeddings)), 2):
            different = labels[a][:, None] != labels[b]
            if self.released:
                similar = [units[v] @ units[v].T for v in (a, b)]
                yield released_triplet_loss(embeddings[a], embeddings[b], different, similar)
            else:
                yield triplet_loss(embeddings[a], embeddings[b], different, self.margin)

    def embed(self, modality: Modality) -> Embedding:
        with torch.inference_mode():
            embeddings = self.nets_.embedders[modality.name](input_of(modality, self.nets_))
        return Embedding(modality.name, embeddings.cpu().numpy())
