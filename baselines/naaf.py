"""NAAF: words that no region matches count against a pair, and how badly a word must match for that is learnt.

Kun Zhang, Zhendong Mao, Quan Wang, Yongdong Zhang, "Negative-Aware Attention Framework for Image-Text Matching", CVPR 2022.
For unit words t_l and regions v_r, a_rl = <v_r, t_l>, a threshold th, z_rl = a_rl - th and m_l = max_r z_rl a word counts

    min(m_l, 0)                                                          what it lacks
    + <t_l, k_l> / |k_l|,   k_l = sum over z_rl > 0 of exp(lambda z_rl) v_r   what is found, 0 where no z is positive
    + sum_r w_rl a_rl,      w the attention of `scan`, words to regions, at lambda

and a pair the mean over its words. Learnt by the triplet loss with the hardest negatives of the batch. th is where matched
words are alpha times as dense as mismatched ones: captions that rank their own image first give max_r a_rl in that image,
N(mu_p, s_p), and in the least similar one, N(mu_n, s_n), and th is the root (-B + sqrt(B^2 - 4 A C)) / (2 A) of

    A th^2 + B th + C = 0,   A = s_p^2 - s_n^2,   B = 2 (mu_p s_n^2 - mu_n s_p^2),
    C = (mu_n s_p)^2 - (mu_p s_n)^2 + 2 (s_p s_n)^2 log(s_n / (alpha s_p))

At test th is mu_p - 3 s_p, and a word lacks m_l where its mean under softmax_l'(5 <t_l, t_l'>), not m_l itself, is negative.
Both thresholds are 0 outside [0, 1] and at first, keep .3 of what they were, and are estimated from more than `least_words`
words of captions that rank their own image first. Where an epoch ends and neither was ever found, a warning says so. Noise:
every pair is taken for true, but a pair that is not ranked first is not mined.

Checked against CrossmodalGroup/NAAF, model.py xattn_score, xattn_score_test and intra_relation. Where we differ:
- `mining`: the code begins anew in every batch, walks through its captions, and scores each with what the captions before it
  gave: mostly 0, since while these have too few words the thresholds are 0 again, and the order of the captions changes the
  scores. "released" is that rule; "previous", the default, scores a batch with one threshold, which the batches before it gave,
  and a batch of too few words leaves both as they are.
- The released walk is found as a whole: thresholds give ranks and ranks give thresholds, and after k rounds at least k captions
  have theirs; few rounds are needed, as the words' maxima do not depend on a threshold. A round computes again
  the scores of those captions alone whose threshold has changed.
- The root is computed as -2 C / (B + sqrt(B^2 - 4 A C)) where B > 0, which is -C / B for equal variances; the code adds 1e-10
  to 2 A, and 1e-8 in the logarithm.
- Word embeddings are learnt (the code's "basic"); its default begins with GloVe vectors. Its rows average two networks.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from baselines._attention import EPSILON, attend, by_blocks, context_norms, pool, wide
from baselines._correspondence import hard_triplet
from baselines._matching import MatchingNetwork, RegionEncoder, WordEncoder
from baselines._ranking import PairBatch, RankingMethod
from xmbench import FitContext, PairedSet, check_positive, register_method

KEPT = 0.3  # of the threshold before, when a new one is found
WITHIN = 5.0  # temperature of the words' attention to each other at test

Mining = Literal["previous", "released"]


# Thresholds


def mined(scores: Tensor, sums: Tensor, squares: Tensor, lengths: Tensor) -> Tensor:
    """What each caption gives to the statistics of matched and mismatched words: (5, C), zeros where it ranks another first.

    Args:
        scores: (C, C), images by captions, pairs on the diagonal.
        sums, squares: (C, C) of every caption's words in every image, the sum of max_r a_rl and of its square.
        lengths: (C,).

    Returns:
        Number of words; sum and sum of squares in its own image; and in the image with the lowest score.
    """
    least, captions = scores.argmin(dim=0), torch.arange(len(lengths), device=scores.device)
    both = [values for image in (captions, least) for values in (sums[image, captions], squares[image, captions])]
    right = scores.diagonal() >= scores.amax(dim=0)
    return torch.stack([lengths.to(sums), *both]).masked_fill(~right, 0)


def statistics(moments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mu_p, s_p, mu_n and s_n (C,) of moments (5, C), the standard deviations unbiased; zeros where there are no words."""
    n, *sums = moments
    made = []
    for total, squares in (sums[:2], sums[2:]):
        mean = total / n.clamp(min=1)
        variance = (squares - total * mean) / (n - 1).clamp(min=1)
        made += [mean, variance.clamp(min=0).sqrt()]
    return made[0], made[1], made[2], made[3]


def boundary(moments: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """th and th_safe (2, C) of moments (5, C) with alpha = `penalty`, 0 outside [0, 1]; and whether there is a root (C,)."""
    mean_p, std_p, mean_n, std_n = statistics(moments)
    p, n = std_p**2, std_n**2
    a, b = p - n, 2 * (mean_p * n - mean_n * p)
    # vanishing deviations leave no logarithm: x log x is 0 there
    logs = p * torch.xlogy(n, n) - n * torch.xlogy(p, p) - 2 * p * n * torch.log(torch.tensor(penalty, dtype=p.dtype))
    c = mean_n**2 * p - mean_p**2 * n + logs
    discriminant = b**2 - 4 * a * c
    root = discriminant.clamp(min=0).sqrt()
    found = torch.stack([torch.where(b > 0, -2 * c / (b + root), (root - b) / (2 * a)), mean_p - 3 * std_p])
    return found.where((found >= 0) & (found <= 1), 0), discriminant > 0


def walked(moments: Tensor, before: Tensor, penalty: float, least_words: int, *, anew: bool = False) -> Tensor:
    """Both thresholds before each of C captions and after the last: (2, C + 1).

    After a caption that ranks its own image first new ones are estimated, from all words up to it, and kept with a share of
    the old ones. Up to `least_words` words the thresholds stay as they are.

    Args:
        moments: (5, C), from `mined`.
        before: (2,) thresholds before the first caption.
        anew: as released, the thresholds are 0 while there are fewer than `least_words` words.
    """
    collected = moments.cumsum(dim=1)
    n_words = collected[0]
    found, exists = boundary(collected, penalty)
    updates = (moments[0] > 0) & (n_words > least_words) & exists
    so_far = updates.cumsum(dim=0)
    since = (so_far[:, None] - so_far).clamp(min=0)
    shares = ((1 - KEPT) * KEPT ** since.to(found) * updates).tril()
    start = before.to(found)[:, None]
    if anew:
        start = start * (n_words[0] >= least_words)
    after = start * KEPT ** so_far.to(found) + found @ shares.T
    return torch.cat([before.to(found)[:, None], after], dim=1)


# The network


class NegativeAware(nn.Module):
    """NAAF's similarity; in training mode it also learns its thresholds, `thresholds`: that of training, and that of test.

    Args:
        temperature: lambda.
        mining: "previous" or "released".
        penalty: alpha.
        least_words: words of rightly ranked captions, more than which thresholds are estimated from.
    """

    thresholds: Tensor

    def __init__(self, temperature: float, mining: Mining, penalty: float, least_words: int) -> None:
        super().__init__()
        self.temperature, self.mining, self.penalty, self.least_words = temperature, mining, penalty, least_words
        self.register_buffer("thresholds", torch.zeros(2))
        self.any_found = False  # since it was made or read from a checkpoint

    def forward(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of regions (B, R, D) and words (C, L, D) of captions with `lengths` (C,); in training B = C."""
        with torch.autocast(images.device.type, enabled=False):
            given = wide(images), wide(captions), lengths
            if not self.training:
                return self._scores(*given, self.thresholds[1].repeat(len(captions)))[0]
            thresholds = self.thresholds[0].repeat(len(captions))
            if self.mining == "released":
                thresholds = self._walk(*given)
            scores, sums, squares = self._scores(*given, thresholds)
            self.thresholds.copy_(self._after(scores.detach(), sums, squares, lengths)[:, -1])
            self.any_found = self.any_found or bool(self.thresholds.any())
        return scores

    def _after(self, scores: Tensor, sums: Tensor, squares: Tensor, lengths: Tensor) -> Tensor:
        """Thresholds (2, .) before the batch, where the rule is the released one after each of its captions, and after it."""
        moments = mined(scores, sums, squares, lengths)
        if self.mining == "previous":
            moments = moments.sum(dim=1, keepdim=True)
        return walked(moments, self.thresholds, self.penalty, self.least_words, anew=self.mining == "released")

    @torch.no_grad()
    def _walk(self, images: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
        """Thresholds (C,) that the released loop over captions scores them with."""
        thresholds = torch.zeros(len(captions), dtype=self.thresholds.dtype, device=captions.device)
        thresholds[0] = self.thresholds[0]
        scores, sums, squares = self._scores(images, captions, lengths, thresholds)
        for _ in range(len(captions)):
            found = self._after(scores, sums, squares, lengths)[0, :-1].to(thresholds)
            changed = found != thresholds
            if not changed.any():
                break
            thresholds = found
            scores[:, changed] = self._scores(images, captions[changed], lengths[changed], thresholds[changed])[0]
        return thresholds

    def _scores(self, images: Tensor, captions: Tensor, lengths: Tensor, thresholds: Tensor) -> tuple[Tensor, ...]:
        """Scores, and the sums over the words of max_r a_rl and of its square: all (B, C), the sums in float64."""
        gram = images @ images.mT

        def function(rows: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            products, weights = attend(images, words, self.temperature)
            best, threshold = products.amax(dim=1), thresholds[rows].to(products)
            above, lead = products - threshold, best - threshold
            # what is found depends on the ratios of its weights alone
            pull = (self.temperature * (above - lead.detach()[:, None])).exp().masked_fill(above <= 0, 0)
            found = (pull * products).sum(dim=1) / context_norms(pull, gram).clamp_min(EPSILON**2).sqrt()
            matched = (lead if self.training else self._smoothed(lead, words, mask)) >= 0
            values = found + (weights * products).sum(dim=1) + lead.masked_fill(matched, 0)
            best = best.detach().double().masked_fill(~mask.T, 0)
            return pool(values, mask, "avg", 1.0), best.sum(dim=1), best.square().sum(dim=1)

        return by_blocks(function, captions, lengths, 14 * images.element_size() * images.shape[0] * images.shape[1])

    @staticmethod
    def _smoothed(lead: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """The mean m (B, L, c) of each word's caption, words (c, L, D) that are like it weighing most."""
        alike = (WITHIN * words @ words.mT).masked_fill(~mask[:, None, :], float("-inf")).softmax(dim=2)
        return torch.einsum("clk,bkc->blc", alike, lead)


@register_method(
    "naaf",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [0.0002, 0.0005, 0.001]},
    smoke={"dim": 32, "word_dim": 32, "epochs": 8, "batch_size": 32, "lr": 0.005, "least_words": 50},
)
@dataclass(kw_only=True)
class NAAF(RankingMethod):
    """Negative-aware attention; see the module's docstring."""

    epochs: int = 20
    lr: float = 5e-4
    lr_update: int = 10
    temperature: float = 20.0  # lambda, of both attentions
    mining: Mining = "previous"  # what a batch's threshold is estimated from
    penalty: float = 2.0  # alpha, of taking a mismatched word for a matched one
    least_words: int = 200  # of rightly ranked captions, more than which thresholds are estimated from

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature", "penalty", "least_words")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        self._epoch, self._warned = -1, False
        super().fit(train, context)
        self._look_back()

    def batch_loss(self, net: nn.Module, batch: PairBatch, epoch: int) -> Tensor:
        if epoch > self._epoch:
            self._look_back()
        self._epoch = epoch
        return super().batch_loss(net, batch, epoch)

    def _look_back(self) -> None:
        """Warn, once, where an epoch ended and no threshold was ever found."""
        if self._epoch >= 0 and not (self._warned or cast(NegativeAware, self.nets_[0].similarity).any_found):
            self._warned = True
            message = (
                "%s: no threshold was found by the end of epoch %d: no batch had more than %d words of captions that rank "
            )
            message += "their own image first; if that goes on, try more epochs, larger batches, or a smaller least_words"
            logging.getLogger("xmbench").warning(message, self.info.name, self._epoch, self.least_words)

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        images = RegionEncoder(sizes["region_dim"], self.dim)
        words = WordEncoder(sizes["n_words"], self.word_dim, self.dim, dropout=0.0)
        similarity = NegativeAware(self.temperature, self.mining, self.penalty, self.least_words)
        return [MatchingNetwork(images, words, similarity)]

    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        return hard_triplet(scores, self.margin)
