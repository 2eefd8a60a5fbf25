"""NCR, noisy correspondence rectifier: two networks divide the pairs for each other, and soft labels become margins.

Zhenyu Huang, Guocheng Niu, Xiao Liu, Wenbiao Ding, Xinyan Xiao, Hua Wu, Xi Peng, "Learning with Noisy Correspondence for
Cross-modal Matching", NeurIPS 2021. Equations are those of its journal version, see `lnc`. Two networks A and B with scores
S are warmed up on the mean over all negatives, margin alpha. Then, in every epoch:

    l_i    loss of pair i among the negatives of its batch                                    (1), (2)
    w_i    posterior of the component with the lower mean, of two Gaussians over l             (3)
    clean = {w_i > .5}, noisy = the others; A learns by the w of B, and B by that of A         co-divide
    P_i  = z_i / tau  z: how far S_ii stands out from its negatives, tau: mean of the best 10 %  (9)
    y_i  = w_i + (1 - w_i) P_i of clean pairs, (P_i^A + P_i^B) / 2 of noisy ones               (8), co-rectify
    L    = [alpha_i - S_ii + S_ih]_+ + [alpha_i - S_ii + S_hi]_+,  alpha_i = alpha Psi(y_i)    (10), (11)

with the hardest negative h of the batch. A trains on its whole epoch, then B, which sees the new A. Two embeddings are
returned, one per network; scores are averaged.

Noise: pairs may be wrong; a network learns right ones first, so that a small loss means a right pair.

Where paper and released code (XLearning-SCU/2021-NeurIPS-NCR, NCR/co_train.py main_NCR, train, warmup, eval_train and
split_prob, NCR/model.py) differ, and which side the defaults take:
- `margin_broadcast`, "intended" follows the paper: a pair's margin is its own label's, whichever side looks. "ncr_code" is
  what the code's shapes make of it: clean batches have a (B, B) matrix of labels w_i + (1 - w_i) P_j, so that the
  negative's prediction decides; noisy ones have label i, where caption j looks as well.
- `noisy_start`, .5 follows the code: noisy batches are trained on from the second half of the epochs only; 0 is the paper's,
  from the first. The code, because a hinge has a full gradient whatever its margin: a wrong pair with label 0 is still pulled
  together until it beats its hardest negative.
- `prediction`, "hinge" follows the code, which clips each negative at the margin before the mean; "raw" is (9).
- Each iteration takes two steps of the optimiser, on the clean batch and then on the noisy one (code); the paper has one
  loss. Clean pairs are those above .5 (code), not at it. Where every pair is, the code makes the least believed hundredth
  noisy; so do we.
- `psi`: linear, exponential (the default of both) and sin are NCR's; sigmoid is its successor's, see `lnc`.

What is ours: both networks score the same random batches in one pass (the code draws batches for each); batches are of equal
size, about, where the code's last one is short and a batch of one ends its epoch: the loss of a pair is a mean over B, and
pairs of a short batch would look clean. The start of the mixture is the best split in two, which the code's k-means nearly
always finds, and below the lower mean w does not fall again. tau is at least 1e-6, where the code's labels are NaN. A
network whose losses are equal, or whose scores have collapsed, believes every pair. Fewer than two clean pairs: the epoch is
one of noisy batches. Each of these is warned of, with the epoch.

Switches of ablation tables: `warm_up` = 0; `co_divide` off, every pair counts as noisy, from the first epoch; `co_rectify`
off, clean pairs have label 1 and noisy ones are left out (neither paper nor code says how these were made). `oracle`: w is
1 for right pairs and 0 for wrong ones, in the division and in the labels; with no noise that is SGR* twice. `backbone`: the
papers' NCR-SCAN is not released; its pooling is taken to be the average, with words that attend to regions.

Defaults are the released command for Flickr30K. Warm-up epochs count neither as epochs nor in the learning rate's decay, and
none of them is selected.
"""

from dataclasses import dataclass

from baselines._co_rectify import CoRectify
from xmbench import register_method


@register_method(
    "ncr",
    needs=lambda p: {*p.reads, "pairs"} | ({"clean"} if p.oracle else set()),
    max_modalities=2,
    search={"lr": [2e-4, 5e-4, 1e-3], "noisy_start": [0.0, 0.5]},
    smoke={
        "backbone": "scan_t2i", "dim": 32, "word_dim": 32, "warm_up": 4, "epochs": 2, "batch_size": 32, "lr": 0.005,
    },
)  # fmt: skip
@dataclass(kw_only=True)
class NCR(CoRectify):
    """Co-divide and co-rectify; see the module's docstring."""
