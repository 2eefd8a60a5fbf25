"""Two matching networks that divide the training pairs for each other and rectify their labels: what NCR and LNC share."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from baselines._adapter import adapter_network
from baselines._correspondence import (
    LEAST_TAU,
    THRESHOLD,
    Broadcast,
    Prediction,
    Psi,
    believed_clean,
    clean_beliefs,
    clean_labels,
    hard_triplet,
    mean_triplet,
    noisy_labels,
    own_labels,
    per_sample_loss,
    prediction,
    soft_margin,
)
from baselines._gated import gated_network
from baselines._matching import MatchingNetwork, matching_network
from baselines._ranking import MatchingMethod, PairBatch, PairData, check_has_negatives, decayed, set_rate, step_down
from xmbench import FitContext, PairedSet, check_positive

NETWORKS = "AB"
COLLAPSED = 1e-4  # standard deviation of a batch's scores below which a network tells nothing apart


class Ledger:
    """What one epoch leaves behind: its loss, the rectified label of each pair, and the scales of predictions.

    Attributes:
        labels: (2, n), per network; NaN where it met the pair in no batch of this epoch.
        taus: per network, one per batch predicted.
    """

    def __init__(self, n_pairs: int) -> None:
        self.labels = np.full((len(NETWORKS), n_pairs), np.nan)
        self.taus: list[list[Tensor]] = [[] for _ in NETWORKS]
        self._losses: list[Tensor] = []
        self._n_pairs = 0

    def add(self, loss: Tensor, n_pairs: int) -> None:
        """Count a step on `n_pairs` pairs with a loss summed over them."""
        self._losses.append(loss)
        self._n_pairs += n_pairs

    def loss(self) -> float:
        """Mean loss per pair; 0 where nothing was trained on."""
        return float(torch.stack(self._losses).sum()) / self._n_pairs if self._losses else 0.0


class Rectified(NamedTuple):
    """A batch, and the labels that its margins come from: (B,), or (B, 1) or (B, B) as in the released code."""

    batch: PairBatch
    labels: Tensor


@dataclass(kw_only=True)
class CoRectify(MatchingMethod):
    """Warm-up, then co-divide and co-rectify; see the docstring of `ncr` for the method, and for each switch's default."""

    backbone: Literal["sgr", "saf", "scan_t2i", "scan_i2t", "miech", "miech_words", "linear", "mlp"] = "sgr"
    dim: int = 1024  # D, of the common space
    similarity_dim: int = 256  # S, of the similarity vectors of SGR and SAF
    steps: int = 3  # of graph reasoning in SGR
    word_dim: int = 300  # of the word embedding
    warm_up: int = 5  # epochs on the mean over negatives, before the others
    epochs: int = 40
    batch_size: int = 128  # B
    lr: float = 2e-4
    lr_update: int = 30  # epochs to a tenth of the learning rate; warm-up does not count
    margin: float = 0.2  # alpha
    psi: Psi = "exponential"  # from label to margin
    prediction: Prediction = "hinge"
    margin_broadcast: Broadcast = "intended"
    noisy_start: float = 0.5  # share of the epochs after which noisy pairs are trained on too
    co_divide: bool = True  # off: every pair counts as noisy
    co_rectify: bool = True  # off: clean pairs have label 1, noisy ones are left out
    oracle: bool = False  # w is the truth about the pairs

    def __post_init__(self) -> None:
        check_positive(self, "dim", "similarity_dim", "steps", "word_dim", "epochs", "lr", "lr_update", "margin")
        check_has_negatives(self, self.batch_size)
        name = self.info.name
        if self.warm_up < 0:
            raise ValueError(f"{name}.warm_up must be 0 or more, got {self.warm_up}")
        if not 0 <= self.noisy_start <= 1:
            raise ValueError(f"{name}.noisy_start must lie in [0, 1], got {self.noisy_start}")
        if not (self.co_divide or self.co_rectify):
            raise ValueError(f"{name} needs co_divide or co_rectify: without both no pair is left to learn from")

    @property
    def reads(self) -> tuple[str, str]:
        """Regions and words; videos as vectors, with word vectors or words to learn; or global vectors of both."""
        if self.backbone.startswith("miech"):
            return "vectors", "tokens" if self.backbone == "miech_words" else "sequences"
        return ("vectors", "vectors") if self.backbone in ("linear", "mlp") else super().reads

    def network(self, sizes: dict[str, Any]) -> MatchingNetwork:
        """One network of the backbone's kind, with its initial weights."""
        if self.backbone.startswith("miech"):
            return gated_network(**sizes, dim=self.dim, word_dim=self.word_dim)
        if self.backbone in ("linear", "mlp"):
            return adapter_network(self.backbone, **sizes, dim=self.dim)
        shape = {"dim": self.dim, "word_dim": self.word_dim, "similarity_dim": self.similarity_dim, "steps": self.steps}
        return matching_network(self.backbone, **sizes, **shape, pooling="avg")

    def warm_up_pairs(self, epoch: int, data: PairData, context: FitContext) -> NDArray[np.int64] | None:
        """Numbers of the pairs of this warm-up epoch; None for all."""
        return None

    def warm_up_loss(self, scores: Tensor, numbers: NDArray[np.int64], network: int) -> Tensor:
        """The loss of a warm-up batch with scores (B, B) of the pairs `numbers`, summed over them."""
        return mean_triplet(scores, self.margin)

    def memory(self, n_pairs: int, device: str) -> dict[str, Tensor]:
        """State of a subclass that goes on from epoch to epoch, by name."""
        return {}

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = PairData(train, context, self.reads)
        self.learns([self.network(data.sizes) for _ in NETWORKS], data, context.device)
        optimisers = [torch.optim.Adam(net.parameters(), lr=self.lr, fused=True) for net in self.nets_]
        self.weights_ = np.full((len(NETWORKS), len(data)), np.nan)  # not known yet
        if self.oracle:
            self.weights_[:] = 1.0 if train.clean_pairs is None else train.clean_pairs
        state = {"nets": self.nets_, "weights": self.weights_, **self.memory(len(data), context.device)}
        state |= {f"optimiser {k}": optimiser for k, optimiser in enumerate(optimisers)}
        for epoch in context.epochs(self.warm_up + self.epochs, state=state):
            for optimiser in optimisers:
                set_rate(optimiser, decayed(self.lr, epoch - self.warm_up, self.lr_update))
            ledger = Ledger(len(data))
            if epoch < self.warm_up:
                self.warm_up_epoch(epoch, data, context, optimisers, ledger)
            else:
                self.training_epoch(epoch - self.warm_up, data, context, optimisers, ledger)
                context.record("rectified_labels", ledger.labels)
            context.end_epoch(loss=ledger.loss(), selectable=epoch >= self.warm_up)

    def warm_up_epoch(
        self, epoch: int, data: PairData, context: FitContext, optimisers: Sequence[Optimizer], ledger: Ledger
    ) -> None:
        """Train network A, then B, on all negatives of each batch."""
        among = self.warm_up_pairs(epoch, data, context)
        for k, (net, optimiser) in enumerate(zip(self.nets_, optimisers, strict=True)):
            net.train()
            for batch in data.batches(self.batch_size, among):
                loss = self.warm_up_loss(net(batch.images, batch.captions, batch.lengths), batch.numbers, k)
                ledger.add(step_down(loss, net, optimiser), len(batch.numbers))

    def training_epoch(
        self, epoch: int, data: PairData, context: FitContext, optimisers: Sequence[Optimizer], ledger: Ledger
    ) -> None:
        """Divide the pairs by both networks' losses; train A on B's division, then B on A's. `epoch` has no warm-up in it."""
        if self.co_divide:
            self.estimate(data, context)
        elif not self.oracle:
            self.weights_[:] = np.nan  # those of the warm-up say nothing any more
        for k, optimiser in enumerate(optimisers):
            clean, noisy = self.divided(k, len(data), context)
            train_noisy = len(clean) < 2 or epoch >= int(self.noisy_start * self.epochs)
            predict_noisy = self.co_rectify and (train_noisy or self.psi == "sigmoid")
            for batches in rounds(data, self.batch_size, clean, noisy if predict_noisy else noisy[:0]):
                rectified = self.rectify(k, *batches, ledger)
                self.step(k, rectified if train_noisy else rectified[:1], boundary_of(rectified), optimiser, ledger)
        for k, taus in enumerate(ledger.taus):
            if taus and torch.stack(taus).min() <= LEAST_TAU:
                message = "%s: tau is near zero: in some batch no pair stands out from the others, and the prediction is 0"
                logging.getLogger("xmbench").warning(message, self.place(k, context))

    def estimate(self, data: PairData, context: FitContext) -> None:
        """Set `weights_`: row k is how clean each pair looks to network k. Both score the same random batches in one pass."""
        if self.oracle:
            return
        losses, spreads = self.pair_losses(data)
        for k in range(len(NETWORKS)):
            if spreads[k] < COLLAPSED:
                message = "%s: collapsed, its scores deviate by %.1e; all pairs are taken to be clean"
                logging.getLogger("xmbench").warning(message, self.place(k, context), spreads[k])
                self.weights_[k] = 1
            else:
                self.weights_[k] = clean_beliefs(losses[k], self.place(k, context))
        context.record("pair_losses", losses)
        context.record("clean_weights", self.weights_)
        context.record("score_spreads", spreads)

    def pair_losses(self, data: PairData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss of every pair among the random companions of its batch (2, n), and mean deviation of a batch's scores (2,)."""
        losses = np.zeros((len(NETWORKS), len(data)))
        deviations: list[list[Tensor]] = [[] for _ in NETWORKS]
        self.nets_.eval()
        with torch.no_grad():
            for batch in data.batches(self.batch_size):
                for k, net in enumerate(self.nets_):
                    scores = net(batch.images, batch.captions, batch.lengths)
                    losses[k, batch.numbers] = per_sample_loss(scores, self.margin).cpu()
                    deviations[k].append(scores.std(correction=0))
        return losses, np.array([torch.stack(values).mean().item() for values in deviations])

    def divided(self, k: int, n_pairs: int, context: FitContext) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the clean and of the noisy pairs for network k, as the other network sees them."""
        clean = np.zeros(n_pairs, dtype=bool)
        if self.co_divide:
            weights = self.weights_[1 - k]
            clean = weights > THRESHOLD if self.oracle else believed_clean(weights)
            if clean.sum() < 2:
                remedy = "it trains on the rectified labels of all" if self.co_rectify else "it trains on nothing"
                message = "%s: %d of %d pairs are believed clean, too few for this epoch; %s"
                logging.getLogger("xmbench").warning(message, self.place(k, context), clean.sum(), n_pairs, remedy)
        return np.flatnonzero(clean), np.flatnonzero(~clean)

    def rectify(self, k: int, clean: PairBatch | None, noisy: PairBatch | None, ledger: Ledger) -> list[Rectified]:
        """The clean and the noisy batch, where there is one, with network k's labels, made before it trains on either."""
        made = []
        self.nets_.eval()
        if clean is not None:
            weights = torch.from_numpy(self.weights_[1 - k, clean.numbers]).to(clean.images)
            labels = torch.ones_like(weights)
            if self.co_rectify:
                labels = clean_labels(weights, self.predict(k, clean, ledger), self.margin_broadcast)
            made.append(Rectified(clean, labels))
        if noisy is not None:
            first, second = (self.predict(j, noisy, ledger) for j in (k, 1 - k))
            made.append(Rectified(noisy, noisy_labels(first, second, self.margin_broadcast)))
        for batch, labels in made:
            ledger.labels[k, batch.numbers] = own_labels(labels).cpu()
        return made

    def predict(self, k: int, batch: PairBatch, ledger: Ledger) -> Tensor:
        """Network k's belief (B,) that each pair of the batch belongs together."""
        with torch.no_grad():
            scores = self.nets_[k](batch.images, batch.captions, batch.lengths)
            predicted, tau = prediction(scores, self.margin, self.prediction)
        ledger.taus[k].append(tau)
        return predicted

    def step(self, k: int, rectified: list[Rectified], boundary: Tensor, optimiser: Optimizer, ledger: Ledger) -> None:
        """One step of network k on each batch in turn, on the hardest negatives with the margins of the batch's labels."""
        net = self.nets_[k].train()
        for batch, labels in rectified:
            scores = net(batch.images, batch.captions, batch.lengths)
            loss = hard_triplet(scores, soft_margin(labels, self.psi, self.margin, boundary))
            ledger.add(step_down(loss, net, optimiser), len(batch.numbers))

    def place(self, k: int, context: FitContext) -> str:
        """Method, epoch and network, for warnings."""
        return f"{self.info.name}, epoch {context.epoch}, network {NETWORKS[k]}"

    def clean_weights(self) -> list[NDArray[np.float64]] | None:
        """How clean each pair looks to network A, and to B; None before they were first asked."""
        return None if np.isnan(self.weights_).any() else list(self.weights_.copy())


def rounds(
    data: PairData, batch_size: int, clean: NDArray[np.int64], noisy: NDArray[np.int64]
) -> Iterator[tuple[PairBatch | None, PairBatch | None]]:
    """All clean pairs once, each batch with one of noisy pairs, which begin again when they are used up; None where none are.

    A pair alone has no negatives: clean or noisy pairs that are fewer than two are none. Without clean pairs the noisy ones
    are gone through once.
    """
    if len(clean) < 2:
        if len(noisy) >= 2:
            yield from zip(repeat(None), data.batches(batch_size, noisy), strict=False)
        return
    others = endless(data, batch_size, noisy) if len(noisy) >= 2 else repeat(None)
    yield from zip(data.batches(batch_size, clean), others, strict=False)


def endless(data: PairData, batch_size: int, numbers: NDArray[np.int64]) -> Iterator[PairBatch]:
    """Batches of these pairs, again and again, each time in a new order."""
    while True:
        yield from data.batches(batch_size, numbers)


def boundary_of(rectified: list[Rectified]) -> Tensor:
    """div of the sigmoid margin: the mean label of the clean pairs and that of the noisy ones, averaged."""
    return torch.stack([own_labels(labels).mean() for _, labels in rectified]).mean()
