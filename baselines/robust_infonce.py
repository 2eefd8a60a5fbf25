"""Bounded InfoNCE on global vectors: the generalised cross-entropy of the batch's softmax.

The loss L_q of Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
NeurIPS 2018, eq. (6), on the softmax of InfoNCE: with p as there and q in (0, 1],

    L = 1/(2B) sum_i (1 - p(caption i | image i)^q) / q + (1 - p(image i | caption i)^q) / q

q -> 0 is InfoNCE, q = 1 the mean absolute error. A pair costs 1/q at most, and its gradient is InfoNCE's times p^q: a pair that
the network finds unlikely is hardly learnt from. Chuang et al., "Robust Contrastive Learning against Noisy Views" (RINCE),
CVPR 2022, bound the same loss by another function of the scores; ours is the one that is a loss of the softmax alone.
It assumes that what is learnt first is right, as under noise that leaves the right caption the likeliest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines._contrast import ContrastiveMethod
from xmbench import register_method


def bounded_info_nce(scores: Tensor, q: float) -> Tensor:
    """L_q of the diagonal of (B, B) scores, already divided by the temperature: mean over rows and columns."""
    logs = torch.stack([scores.diagonal() - torch.logsumexp(scores, dim=d) for d in (0, 1)])
    return -torch.expm1(q * logs).mean() / q


@register_method(
    "robust_infonce",
    needs={"vectors", "pairs"},
    search={"q": [0.3, 0.5, 0.7], "tau": [0.05, 0.1, 0.2]},
    smoke={"hidden": 64, "dim": 32, "epochs": 15, "batch_size": 64, "lr": 0.003},
)
@dataclass(kw_only=True)
class RobustInfoNCE(ContrastiveMethod):
    """InfoNCE made bounded by q; see the module's docstring."""

    q: float = 0.5  # q of eq. (6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.q <= 1:
            raise ValueError(f"robust_infonce.q must lie in (0, 1], got {self.q}")

    def loss(self, scores: Tensor) -> Tensor:
        return bounded_info_nce(scores, self.q)
