"""SCAN: the words of a caption attend to the regions of an image, or the regions to the words.

Lee, Chen, Hua, Hu, He, "Stacked Cross Attention for Image-Text Matching", ECCV 2018. For a word t_l and regions v_r, both of
unit length: s_rl = [<v_r, t_l>] by a leaky ReLU, normalised over the words l of each region, a_rl = softmax over r of
lambda_1 s_rl, and the attended image of the word c_l = sum_r a_rl v_r ("t2i"; "i2t" swaps the roles). The score pools the
cosines of t_l and c_l over the words (eq. 4-8),

    AVG  mean_l cos_l        LSE  (1 / lambda_2) log sum_l exp(lambda_2 cos_l)        and max, sum

and is learnt by the triplet loss with the hardest negatives of the batch, margin alpha.

Where paper and released code (kuanghuei/SCAN, model.py) differ we follow the code: the leaky ReLU (slope .1) where the paper
clips at 0, and hard negatives always (its commands set them). Its LSE is the log of a sum, no mean, as printed: longer
captions score higher by log(n) / lambda_2. The paper's ensemble of a t2i and an i2t network is not this: one network is.
Defaults are the released command for Flickr30K, t2i AVG. Noise: every pair is taken for true.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from baselines._correspondence import hard_triplet
from baselines._matching import MatchingNetwork, matching_network
from baselines._ranking import RankingMethod
from xmbench import check_positive, register_method


@register_method(
    "scan",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "word_dim": 32, "epochs": 8, "batch_size": 32, "lr": 0.005},
)
@dataclass(kw_only=True)
class SCAN(RankingMethod):
    """Stacked cross attention; see the module's docstring."""

    direction: Literal["t2i", "i2t"] = "t2i"  # who attends: words to regions, or regions to words
    pooling: Literal["avg", "lse", "max", "sum"] = "avg"
    lambda1: float | None = None  # inverse temperature of the attention; None: 9 for t2i, 4 for i2t
    lambda2: float | None = None  # of the LSE pooling; None: 6 for t2i, 5 for i2t (the paper has 20 there on COCO)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, *(name for name in ("lambda1", "lambda2") if getattr(self, name) is not None))

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        return [
            matching_network(
                f"scan_{self.direction}", **sizes, dim=self.dim, word_dim=self.word_dim,
                pooling=self.pooling, lambda1=self.lambda1, lambda2=self.lambda2,
            )
        ]  # fmt: skip

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
