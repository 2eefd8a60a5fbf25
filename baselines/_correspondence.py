"""Losses and beliefs of learning from pairs that may be wrong: triplet losses, prediction, soft margins, loss mixture.

Score matrices s are (B, B): rows are images, columns captions, the diagonal holds the annotated pairs. With a margin A,

    c1_ij = [A_ij + s_ij - s_ii]_+   image i looks for its caption,   c1_ii = 0
    c2_ij = [A_ij + s_ij - s_jj]_+   caption j looks for its image,   c2_jj = 0

All losses are summed over the batch, as in all released code: gradients grow with B, and are clipped.

Checked against Paranioar/SGRAF, model.py ContrastiveLoss, and XLearning-SCU/2021-NeurIPS-NCR, NCR/model.py ContrastiveLoss
and SGRAF.predict, NCR/co_train.py eval_train, train and split_prob.
"""

import logging
import math
import warnings
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

Psi = Literal["linear", "exponential", "sin", "sigmoid"]
Broadcast = Literal["intended", "ncr_code"]
Prediction = Literal["hinge", "raw"]

LEAST_TAU = 1e-6
THRESHOLD = 0.5  # of the belief that a pair is clean
_EQUAL = 1e-8  # losses that lie closer than this tell nothing apart
_REGULAR = 5e-4  # added to the variances of losses in [0, 1]: no component is narrower than 0.022


# Losses


def triplet_costs(scores: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """The costs c1 and c2 (B, B) of every negative, the diagonal zero.

    Args:
        scores: (B, B).
        margin: a number; or (B,), one per pair, which then holds for that pair's image and for its caption as the one that
            looks: A_ij is margin i in c1 and margin j in c2; or what broadcasts to (B, B), entry by entry in both.
    """
    own = scores.diagonal()
    per_pair = isinstance(margin, Tensor) and margin.ndim == 1
    rows = margin[:, None] if per_pair else margin
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    c1 = (rows + scores - own[:, None]).clamp(min=0).masked_fill(itself, 0)
    c2 = (margin + scores - own).clamp(min=0).masked_fill(itself, 0)
    return c1, c2


def hard_triplet(scores: Tensor, margin: float | Tensor) -> Tensor:
    """sum_i max_j c1_ij + sum_j max_i c2_ij: the hardest negatives alone. Where several tie, one has the gradient."""
    c1, c2 = triplet_costs(scores, margin)
    return c1.max(dim=1).values.sum() + c2.max(dim=0).values.sum()


def sum_triplet(scores: Tensor, margin: float | Tensor) -> Tensor:
    """sum_ij c1_ij + c2_ij: all negatives; (2) of Huang et al., IJCV 2024."""
    c1, c2 = triplet_costs(scores, margin)
    return c1.sum() + c2.sum()


def mean_triplet(scores: Tensor, margin: float | Tensor) -> Tensor:
    """`sum_triplet` over B, which is the released code's mean over negatives, of which there are B - 1."""
    return sum_triplet(scores, margin) / len(scores)


def per_sample_loss(scores: Tensor, margin: float | Tensor) -> Tensor:
    """The share (B,) that each pair has in `mean_triplet`: mean_j c1_ij + mean_j c2_ji."""
    c1, c2 = triplet_costs(scores, margin)
    return c1.mean(dim=1) + c2.mean(dim=0)


# Prediction and labels


def prominence(scores: Tensor, margin: float, form: Prediction = "hinge") -> Tensor:
    """By how much each pair (B,) stands out from its negatives in the batch, clamped into [0, margin].

    Args:
        scores: (B, B).
        margin: alpha.
        form: "raw" is (9) of Huang et al., IJCV 2024: s_ii less the mean of its negatives in row and column, which are
            summed without the pair itself and divided by B. "hinge" is the released code: alpha less half the pair's
            `per_sample_loss`, so that a negative that is far away counts no more than one at the margin.
    """
    if form == "hinge":
        return (margin - per_sample_loss(scores, margin) / 2).clamp(0, margin)
    own = scores.diagonal()
    negatives = scores.sum(dim=1) + scores.sum(dim=0) - 2 * own
    return (own - negatives / (2 * len(scores))).clamp(0, margin)


def prediction(scores: Tensor, margin: float, form: Prediction = "hinge") -> tuple[Tensor, Tensor]:
    """The belief P (B,) in [0, 1] that each pair of the batch belongs together, and the scale tau.

    P_i = min(z_i / tau, 1) with z the prominence and tau the mean of its B // 10 + 1 largest values: one pair in ten is taken
    to be clean. tau carries no gradient and is at least `LEAST_TAU`: where no pair stands out at all, P is 0 and not NaN. P
    has no scale of its own: a network that scores everything alike predicts 1 for every pair, which only tau shows (alpha / B).
    """
    z = prominence(scores, margin, form)
    tau = z.detach().topk(len(z) // 10 + 1).values.mean().clamp(min=LEAST_TAU)
    return (z / tau).clamp(max=1), tau


def clean_labels(weights: Tensor, predictions: Tensor, broadcast: Broadcast = "intended") -> Tensor:
    """Rectified labels of pairs believed clean, y_i = w_i + (1 - w_i) P_i, from w and P (B,).

    Returns:
        (B,); under "ncr_code" the (B, B) matrix w_i + (1 - w_i) P_j that the released code makes of them, whose margins are
        those of the negative's prediction.
    """
    if broadcast == "ncr_code":
        weights = weights[:, None]
    return weights + (1 - weights) * predictions


def noisy_labels(first: Tensor, second: Tensor, broadcast: Broadcast = "intended") -> Tensor:
    """Rectified labels of pairs believed noisy, the mean of both networks' predictions (B,).

    Returns:
        (B,); under "ncr_code" (B, 1), by which a caption that looks for its image has the label of each negative image.
    """
    labels = (first + second) / 2
    return labels[:, None] if broadcast == "ncr_code" else labels


def own_labels(labels: Tensor) -> Tensor:
    """The label (B,) of each pair itself, of labels (B,), (B, 1) or (B, B)."""
    return labels if labels.ndim == 1 else labels.expand(len(labels), len(labels)).diagonal()


# Soft margins: Psi, Huang et al., IJCV 2024, (11)


def exponential(labels: Tensor, base: float = 10.0) -> Tensor:
    """(m^y - 1) / (m - 1) with m = `base` >= 1; y itself in the limit m = 1."""
    return labels if base == 1 else torch.expm1(labels * math.log1p(base - 1)) / (base - 1)


def sine(labels: Tensor) -> Tensor:
    """(sin(pi y - pi / 2) + 1) / 2."""
    return (torch.sin(math.pi * labels - math.pi / 2) + 1) / 2


def logistic(labels: Tensor, boundary: float | Tensor) -> Tensor:
    """sigmoid((10 + 100 (div - .5)) (y - div)) with div = `boundary`.

    The slope is at least 10: as printed it is negative for div < .4, and the least believed pairs get the largest margins.
    """
    slope = max(10.0, 10 + 100 * (float(boundary) - 0.5))
    return torch.sigmoid(slope * (labels - boundary))


def soft_margin(labels: Tensor, psi: Psi, margin: float, boundary: float | Tensor = 0.5) -> Tensor:
    """Margins alpha Psi(y) of labels y of any shape; `boundary` is div of the sigmoid."""
    if psi == "linear":
        return margin * labels
    if psi == "exponential":
        return margin * exponential(labels)
    if psi == "sin":
        return margin * sine(labels)
    return margin * logistic(labels, boundary)


# Which pairs are clean


def min_max(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses (n,), which must differ, scaled to [0, 1]."""
    return (losses - losses.min()) / np.ptp(losses)


def two_means(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the values (n,), two of which must differ, belong to the lower of two means: the exact optimum.

    In one dimension the optimum cuts the sorted values, at the place with the largest between-group sum of squares.
    """
    ordered = np.sort(values) - values.mean()
    sums, sizes = np.cumsum(ordered)[:-1], np.arange(1, len(ordered))
    between = sums**2 / sizes + sums**2 / (len(ordered) - sizes)
    between[np.diff(ordered) == 0] = -np.inf
    return np.asarray(values < np.sort(values)[between.argmax() + 1])


def loss_mixture(values: NDArray[np.float64]) -> GaussianMixture:
    """Two Gaussians fitted to values (n,) in [0, 1] by at most ten steps of EM, started from `two_means`.

    The settings of the released code, whose start is a k-means with random centres. EM stops after two to five steps, so the
    start matters: one from quantiles ends up to .5 away in the posterior.
    """
    lower = two_means(values)
    groups = (values[lower], values[~lower])
    mixture = GaussianMixture(
        2,
        max_iter=10,
        tol=1e-2,
        reg_covar=_REGULAR,
        weights_init=[len(group) / len(values) for group in groups],
        means_init=[[group.mean()] for group in groups],
        precisions_init=[[[1 / (group.var() + _REGULAR)]] for group in groups],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten steps are all that there are to be
        return mixture.fit(values[:, None])


def clean_posterior(mixture: GaussianMixture, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior (n,) of the component with the lower mean."""
    return np.asarray(mixture.predict_proba(values[:, None])[:, mixture.means_.argmin()])


def clean_beliefs(losses: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """The belief w (n,) in [0, 1] that each pair is clean: posterior of the lower of two Gaussians over the pairs' losses (n,).

    Small losses mean clean pairs. A wide upper component would claim the very smallest ones as well, so below the lower mean w
    is constant at its largest value there; the released code lets it fall.

    Losses that are all equal, or not all finite, tell nothing: every pair is then believed clean, and a warning says so.

    Args:
        losses: (n,).
        where: method, epoch and network, for the warning.
    """
    finite = bool(np.isfinite(losses).all())
    if not finite or np.ptp(losses) < _EQUAL:
        message = "%s: the losses of the pairs are %s, so that none can be told apart; all pairs are taken to be clean"
        logging.getLogger("xmbench").warning(message, where, "equal" if finite else "not finite")
        return np.ones(len(losses))
    values = min_max(losses)
    mixture = loss_mixture(values)
    weights = clean_posterior(mixture, values)
    below = values < mixture.means_.min()
    weights[below] = weights[below].max(initial=0.0)
    return weights


def believed_clean(weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs count as clean: w > .5; where that is all of them, all but the hundredth with the smallest w.

    As in the released code the hundredth is n // 100 + 1 pairs. Where equal weights leave none above it, all are clean.
    """
    if weights.min() <= THRESHOLD:
        return np.asarray(weights > THRESHOLD)
    above = np.asarray(weights > np.sort(weights)[len(weights) // 100])
    return above if above.any() else np.ones(len(weights), dtype=bool)
