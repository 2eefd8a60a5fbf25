"""SGR: similarity vectors of a caption's words with the image, reasoned over as a graph.

Diao, Zhang, Ma, Lu, "Similarity Reasoning and Filtration for Image-Text Matching", AAAI 2021. Every word, and the caption as
a whole, gives a vector of its similarity with what it attends to in the image, s = W|x - y|^2 / norm (eq. 1); these are the
nodes of a graph. A step lets every node attend to all, q'k, and be remade, X <- ReLU(A X W_r) (eq. 5-6); after the last one
the node of the whole caption is read out as a score in (0, 1). Learnt by the triplet loss with the hardest negatives.

Where paper and released code (Paranioar/SGRAF, model.py) differ, the code is followed: a bias beside W, one batch
normalisation per region slot in the image's global vector, dropout .4, three steps. Its ReLU without a residual can
silence the read-out node for all pairs: every score is then the same and stays so. Hard negatives from the start make it
likely, wrong pairs more so; the run's rows say `collapsed`. Defaults are the released command for Flickr30K.
"""

from dataclasses import dataclass

from torch import Tensor

from baselines._correspondence import hard_triplet
from baselines._ranking import ReasoningMethod
from xmbench import register_method


@register_method(
    "sgr",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "similarity_dim": 16, "word_dim": 32, "steps": 1, "epochs": 2, "batch_size": 16, "lr": 0.01},
)
@dataclass(kw_only=True)
class SGR(ReasoningMethod):
    """Similarity graph reasoning; see the module's docstring."""

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
