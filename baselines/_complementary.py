"""What DECL, RCL and CRCL share: the networks they are published on, the loop over an epoch, and probabilities within a batch.

All three read the scores s (B, B) of a batch as a question with B answers, by rows (an image and all captions) and by columns
(a caption and all images), and learn from the answers that are wrong: that two things drawn at random do not belong together
is nearly always true, whatever the annotated pairs are worth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from baselines._matching import matching_network
from baselines._ranking import MatchingMethod, PairData, check_has_negatives, set_rate, step_down
from xmbench import FitContext, check_positive

NETWORKS = {"sgr": ("sgr",), "saf": ("saf",), "sgraf": ("sgr", "saf")}

BatchLoss = Callable[[int, Tensor, np.ndarray], Tensor]


def log_probabilities(scores: Tensor, tau: float) -> Tensor:
    """log p of every caption given an image, and of every image given a caption.

    Args:
        scores: (B, B), rows are images, columns captions, the diagonal holds the annotated pairs.
        tau: temperature of the softmax.

    Returns:
        (2, B, B), each with queries in rows and the annotated pairs on the diagonal.
    """
    logits = scores / tau
    return log_softmax(torch.stack([logits, logits.T]), dim=2)


def negatives(values: Tensor) -> Tensor:
    """Values (..., B, B) with the annotated pairs, on the diagonal, set to 0."""
    return values.masked_fill(torch.eye(values.shape[-1], dtype=torch.bool, device=values.device), 0)


@dataclass(kw_only=True)
class ComplementaryMethod(MatchingMethod):
    """SGR, SAF or one of each, learnt by a loss of batches. What goes on between epochs is the subclass's."""

    optimiser: ClassVar[Callable[..., torch.optim.Optimizer]] = torch.optim.Adam

    backbone: Literal["sgr", "saf", "sgraf"] = "sgr"  # sgraf: one of each, which learn on their own; scores are averaged
    dim: int = 1024  # D, of the common space
    word_dim: int = 300  # of the word embedding
    similarity_dim: int = 256  # S, of the similarity vectors
    steps: int = 3  # of graph reasoning in SGR
    epochs: int = 30
    batch_size: int = 128  # B
    lr: float = 2e-4
    lr_update: int = 15  # epochs to a tenth of the learning rate

    def __post_init__(self) -> None:
        check_positive(self, "dim", "word_dim", "similarity_dim", "steps", "epochs", "lr", "lr_update")
        check_has_negatives(self, self.batch_size)

    @property
    def n_networks(self) -> int:
        """How many networks are learnt."""
        return len(NETWORKS[self.backbone])

    def begin(self, data: PairData, context: FitContext) -> dict[str, Any]:
        """Make new networks, each with its optimiser; returns them as state by name."""
        shape: dict[str, Any] = {
            "dim": self.dim,
            "word_dim": self.word_dim,
            "similarity_dim": self.similarity_dim,
            "steps": self.steps,
        }
        nets = [matching_network(backbone, **data.sizes, **shape) for backbone in NETWORKS[self.backbone]]
        self.learns(nets, data, context.device)
        self.optimisers_ = [type(self).optimiser(net.parameters(), lr=self.lr, fused=True) for net in nets]
        return {"nets": self.nets_} | {f"optimiser {k}": optimiser for k, optimiser in enumerate(self.optimisers_)}

    def train_epoch(self, data: PairData, lr: float, loss: BatchLoss) -> Tensor:
        """Train every network on all pairs once, gradients clipped to norm 2.

        Args:
            data: the training pairs.
            lr: learning rate.
            loss: (number of the network, scores (B, B), numbers of the pairs (B,)) -> mean loss of the batch.

        Returns:
            the mean loss of networks and pairs.
        """
        losses = []
        self.nets_.train()
        for k, (net, optimiser) in enumerate(zip(self.nets_, self.optimisers_, strict=True)):
            set_rate(optimiser, lr)
            for batch in data.batches(self.batch_size):
                scores = net(batch.images, batch.captions, batch.lengths)
                losses.append(step_down(loss(k, scores, batch.numbers), net, optimiser) * len(batch.numbers))
        return torch.stack(losses).sum() / (len(data) * self.n_networks)
