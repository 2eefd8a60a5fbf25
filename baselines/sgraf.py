"""SGRAF: the mean of an SGR and an SAF network, each learnt on its own.

Diao, Zhang, Ma, Lu, "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021. Nothing passes between the two
networks but the average of their scores at the test; the rows of each alone are stored beside it.

Where this differs: the released code trains them in two runs, of 40 (SGR) and 30 (SAF) epochs with their own decay of the
learning rate, and chooses the best epoch of each; here both go through the same epochs, SGR's, and the best epoch is
that of the average.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from baselines._correspondence import hard_triplet
from baselines._ranking import ReasoningMethod
from xmbench import register_method


@register_method(
    "sgraf",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "epochs": 2, "batch_size": 16, "lr": 0.005},
)
@dataclass(kw_only=True)
class SGRAF(ReasoningMethod):
    """Similarity graph reasoning and attention filtration; see the module's docstring."""

    backbones: ClassVar[tuple[str, ...]] = ("sgr", "saf")

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
