"""InfoNCE on global vectors: every pair against the other pairs of its batch.

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, eq. (4), in the symmetric form of
Radford et al., "Learning Transferable Visual Models from Natural Language Supervision", ICML 2021. With the cosines
s_ij of B images and captions and p the softmax of s / tau,

    L = -1/(2B) sum_i log p(caption i | image i) + log p(image i | caption i)

over features that stay as they are. tau is fixed where CLIP learns it. Noise: a pair that is wrong costs -log p without bound,
and the more so the better the network knows that it is wrong.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines._contrast import ContrastiveMethod
from xmbench import register_method


def info_nce(scores: Tensor) -> Tensor:
    """Cross-entropy of the diagonal of (B, B) scores, already divided by the temperature: mean over rows and columns."""
    own = scores.diagonal()
    return (torch.logsumexp(scores, dim=1) + torch.logsumexp(scores, dim=0) - 2 * own).mean() / 2


@register_method(
    "infonce",
    needs={"vectors", "pairs"},
    search={"tau": [0.05, 0.1, 0.2], "lr": [0.0001, 0.0003, 0.001]},
    smoke={"hidden": 64, "dim": 32, "epochs": 15, "batch_size": 64, "lr": 0.003},
)
@dataclass(kw_only=True)
class InfoNCE(ContrastiveMethod):
    """Symmetric InfoNCE; see the module's docstring."""

    def loss(self, scores: Tensor) -> Tensor:
        return info_nce(scores)
