"""SGR*: SGR after a warm-up with all negatives, so that the hardest ones do not end it at once.

Huang et al., "Learning with Noisy Correspondence for Cross-modal Matching", NeurIPS 2021 (NCR), whose tables name so the
network of Diao et al., AAAI 2021, trained for "a few epochs" on the mean over all negatives of the batch first,

    sum_i 1/B sum_j [alpha + s_ij - s_ii]_+ + sum_i 1/B sum_j [alpha + s_ji - s_ii]_+        over j != i,

and on the hardest negative then. One network, no filter: what NCR is without its own contribution.

The number of warm-up epochs is not given; ours is that of NCR on Flickr30K. As in NCR's code the mean divides by B although a
pair has B - 1 negatives, and warm-up epochs count neither as epochs nor in the decay of the learning rate.
"""

from dataclasses import dataclass

from torch import Tensor

from baselines._correspondence import hard_triplet, mean_triplet
from baselines._ranking import ReasoningMethod
from xmbench import check_positive, register_method


@register_method(
    "sgr_star",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={
        "dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "epochs": 2, "warm_up": 8, "batch_size": 32, "lr": 0.01,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class SGRStar(ReasoningMethod):
    """SGR with a warm-up; see the module's docstring."""

    warm_up: int = 5  # epochs on the mean over negatives

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "warm_up")

    def warm_up_epochs(self) -> int:
        return self.warm_up

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return (mean_triplet if epoch < self.warm_up else hard_triplet)(scores, self.margin)
