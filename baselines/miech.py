"""Miech et al.: gated embeddings of a video's vector and a caption's words, learnt by a max-margin ranking loss.

Antoine Miech, Dimitri Zhukov, Jean-Baptiste Alayrac, Makarand Tapaswi, Ivan Laptev, Josef Sivic, "HowTo100M: Learning a
Text-Video Embedding by Watching Hundred Million Narrated Video Clips", ICCV 2019. With the cosines s_ij of B videos and
captions of a batch and margin delta

    L = 1/B^2 sum_ij [delta + s_ij - s_ii]_+ + [delta + s_ij - s_jj]_+

The networks are in `_gated`. Adam, no clipping of gradients, the learning rate times `lr_decay` after every epoch.

Noise: every pair is taken for true. All negatives count alike, which a wrong pair spoils less than the hardest one would.

Checked against antoine77340/howto100m, loss.py MaxMarginRankingLoss, model.py and train.py. Where it decides:
- The diagonal is part of the sum, as in the code: a constant 2 delta / B without a gradient. The paper leaves it out.
- In HowTo100M a batch has several clips of a video, and negatives are weighted so that those of the same video make up half
  of the loss. A method is not told which clips are from one video: no fit has such weights.
- The code draws one of a clip's captions per epoch. Here every (video, caption) pair is visited, which the estimates of
  robust methods need; an epoch of MSR-VTT is 20 of the code's.
- The command for MSR-VTT, 50 epochs without decay, gives the defaults; for HowTo100M it is 15 with .9. The common space has
  4096 dimensions, as in training on HowTo100M and in LNC (the weights that were released: 6144, the code's default: 2048).
- A last short batch is dealt out over the others, where the code drops it.
- `words` = "learnt" learns the vectors of words out of the captions, for data that have word numbers and no vectors.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines._gated import gated_network
from baselines._ranking import MatchingMethod, PairData, check_has_negatives, set_rate
from xmbench import FitContext, PairedSet, check_positive, register_method


def max_margin(scores: Tensor, margin: float) -> Tensor:
    """L, of scores (B, B) with right pairs on the diagonal."""
    own = scores.diagonal()
    costs = torch.relu(margin + scores - own[:, None]) + torch.relu(margin + scores - own[None, :])
    return costs.mean()


@register_method(
    "miech",
    needs=lambda p: {"vectors", "pairs", p.reads[1]},
    max_modalities=2,
    search={"lr": [1e-4, 1e-3], "lr_decay": [0.9, 1.0], "margin": [0.1, 0.2]},
    smoke={"words": "learnt", "dim": 32, "word_dim": 32, "epochs": 10, "batch_size": 64, "lr": 0.01},
)
@dataclass(kw_only=True)
class Miech(MatchingMethod):
    """Gated embeddings of video and text; see the module's docstring."""

    words: Literal["vectors", "learnt"] = "vectors"
    dim: int = 4096
    word_dim: int = 300  # of learnt words
    mask_padding: bool = False  # keep empty slots out of the maximum over words
    epochs: int = 50
    batch_size: int = 256  # B
    lr: float = 1e-4
    lr_decay: float = 1.0
    margin: float = 0.1  # delta

    def __post_init__(self) -> None:
        check_positive(self, "dim", "word_dim", "epochs", "lr", "lr_decay", "margin")
        check_has_negatives(self, self.batch_size)

    @property
    def reads(self) -> tuple[str, str]:
        return ("vectors", "tokens" if self.words == "learnt" else "sequences")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self._check_words(train)
        data = PairData(train, context, self.reads)
        shape = {**data.sizes, "dim": self.dim, "word_dim": self.word_dim}
        nets = self.learns([gated_network(**shape, mask_padding=self.mask_padding)], data, context.device)
        optimiser = torch.optim.Adam(nets.parameters(), lr=self.lr, fused=True)
        for epoch in context.epochs(self.epochs, state={"nets": nets, "optimiser": optimiser}):
            total = torch.zeros((), device=context.device)
            nets.train()
            set_rate(optimiser, self.lr * self.lr_decay**epoch)
            for batch in data.batches(self.batch_size):
                optimiser.zero_grad()
                loss = max_margin(nets[0](batch.images, batch.captions, batch.lengths), self.margin)
                loss.backward()
                optimiser.step()
                total += loss.detach() * len(batch.numbers)
            context.end_epoch(loss=total / len(data))

    def _check_words(self, train: PairedSet) -> None:
        """Regions of images are sequences too, but without lengths: no words."""
        has_words = any(m.sequences is not None and m.lengths is not None for m in train.modalities)
        if self.words == "vectors" and not has_words:
            got = f"got {', '.join(m.name for m in train.modalities)} without them"
            raise ValueError(
                f"miech needs captions as word vectors with their lengths, {got}; set miech.words=learnt to learn them"
            )
