"""Learning from pairs of an image and a caption: batches of them, and the training loop that the ranking methods share."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from baselines._matching import MatchingNetwork, matching_network
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive

GRADIENT_NORM = 2.0  # global norm that every released region-word code clips to
IMAGES_PER_BLOCK = 128  # scored and encoded at a time


class PairBatch(NamedTuple):
    """B training pairs: regions (B, R, d), tokens (B, L), true lengths (B,), and the pairs' numbers in `train.pairs` (B,)."""

    regions: Tensor
    tokens: Tensor
    lengths: Tensor
    numbers: np.ndarray


class PairData:
    """The training pairs of one modality of regions ("sequences") and one of words ("tokens"), on the device of a fit.

    Attributes:
        image, caption: names of the two modalities.
        sizes: what a network must know of the data: region_dim, n_regions, n_words.

    Raises:
        ValueError: not one modality of each kind.
    """

    def __init__(self, train: PairedSet, context: FitContext) -> None:
        kinds = [(m.name, m.sequences is not None, m.tokens is not None) for m in train.modalities]
        if sorted((regions, words) for _, regions, words in kinds) != [(False, True), (True, False)]:
            raise ValueError(f"one modality of regions and one of words are needed, got (name, regions, words) {kinds}")
        assert train.pairs is not None
        self._context = context
        self._check(train)
        first, second = context.tensors(train)
        swapped = first.sequences is None
        regions, words = (second, first) if swapped else (first, second)
        self._pairs = train.pairs[:, ::-1] if swapped else train.pairs
        assert regions.sequences is not None and words.tokens is not None and words.lengths is not None
        self._regions, self._tokens, self._lengths = regions.sequences, words.tokens, words.lengths
        self.image, self.caption = regions.name, words.name
        images, captions = (train.modalities[int(i)] for i in (swapped, not swapped))
        assert images.sequences is not None
        _, n_regions, region_dim = images.sequences.shape
        self.sizes: dict[str, Any] = {
            "region_dim": region_dim,
            "n_regions": n_regions,
            "n_words": len(captions.vocabulary or ()),
        }

    @staticmethod
    def _check(train: PairedSet) -> None:
        for m in train.modalities:
            if m.tokens is not None and m.lengths is None:
                raise ValueError(f"the words of {m.name!r} need their lengths: pass Modality(lengths=...), got none")
            if m.sequences is not None and m.lengths is not None and (m.lengths < m.sequences.shape[1]).any():
                got = f"{int((m.lengths < m.sequences.shape[1]).sum())} items with fewer"
                raise ValueError(f"every item of {m.name!r} must have all {m.sequences.shape[1]} regions, got {got}")

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, numbers: np.ndarray) -> PairBatch:
        """The pairs with these numbers, captions padded to the longest among them."""
        images, captions = self._pairs[numbers].T
        rows = torch.from_numpy(np.ascontiguousarray(captions)).to(self._tokens.device)
        lengths = self._lengths[rows]
        tokens = self._tokens[rows, : int(lengths.max())]
        return PairBatch(self._regions[images], tokens, lengths, numbers)

    def batches(self, batch_size: int, among: np.ndarray | None = None) -> Iterator[PairBatch]:
        """All pairs, or those with the numbers `among`, once, in the epoch's random order; batches of equal size, about."""
        numbers = np.arange(len(self)) if among is None else among
        for rows in self._context.batches(len(numbers), batch_size, even=True):
            yield self.batch(numbers[rows])


def step_down(loss: Tensor, net: nn.Module, optimiser: torch.optim.Optimizer) -> Tensor:
    """One step of the optimiser, the gradient clipped to `GRADIENT_NORM`; returns the loss before it, without its graph."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
    optimiser.step()
    return loss.detach()


def check_has_negatives(method: Method, batch_size: int) -> None:
    """Raise ValueError where a batch holds no negative."""
    if batch_size < 2:
        raise ValueError(f"{method.info.name}.batch_size must be 2 or more: a pair alone has no negatives, got {batch_size}")


def decayed(lr: float, epoch: int, lr_update: int) -> float:
    """The learning rate of an epoch, a tenth of the one before after every `lr_update` epochs."""
    return float(lr * 0.1 ** (max(epoch, 0) // lr_update))


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Let the optimiser go on with learning rate `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr


@dataclass(kw_only=True)
class MatchingMethod(Method):
    """One or more matching networks: how their items are embedded and compared. What is learnt and how is the subclass's.

    A fit begins with `learns`.
    """

    def learns(self, nets: list[MatchingNetwork], data: PairData, device: str) -> nn.ModuleList:
        """Take over the networks that are to be learnt from `data`, moved to the device."""
        self.nets_ = nn.ModuleList(nets).to(device)
        self.image_, self.caption_ = data.image, data.caption
        return self.nets_

    def embed(self, modality: Modality) -> list[Embedding]:
        """Regions (n, R, D) of images or words (n, L, D) of captions, by every network; (n, D) where a network pools them."""
        made = []
        for number, net in enumerate(self.nets_):
            assert isinstance(net, MatchingNetwork)
            net.eval()
            lengths = None if modality.name == self.image_ else modality.lengths
            blocks = [
                self._encoded(net, modality, slice(i, i + IMAGES_PER_BLOCK)) for i in range(0, len(modality), IMAGES_PER_BLOCK)
            ]
            values = np.concatenate(blocks)
            made.append(Embedding(modality.name, values, lengths if values.ndim == 3 else None, number))
        return made

    def _encoded(self, net: MatchingNetwork, modality: Modality, rows: slice) -> np.ndarray:
        device = next(net.parameters()).device
        with torch.inference_mode():
            if modality.name == self.image_:
                assert modality.sequences is not None
                return np.asarray(net.encode_images(torch.from_numpy(modality.sequences[rows]).to(device)).cpu())
            assert modality.tokens is not None and modality.lengths is not None
            lengths = modality.lengths[rows]
            tokens = torch.from_numpy(modality.tokens[rows, : lengths.max()]).to(device)
            values = np.asarray(net.encode_captions(tokens, torch.from_numpy(lengths).to(device)).cpu())
        if values.ndim == 2:
            return values
        return np.pad(values, ((0, 0), (0, modality.tokens.shape[1] - values.shape[1]), (0, 0)))

    def similarity(self, first: Embedding, second: Embedding) -> np.ndarray:
        """Scores (n_first, n_second) of the network that made both, in blocks of images."""
        if first.values.ndim == 2:
            return super().similarity(first, second)
        images, captions = (first, second) if first.modality == self.image_ else (second, first)
        net = self.nets_[images.network].eval()
        assert isinstance(net, MatchingNetwork)
        device = next(net.parameters()).device
        assert captions.lengths is not None
        dtype = next(net.parameters()).dtype
        words, lengths = torch.from_numpy(captions.values).to(device, dtype), torch.from_numpy(captions.lengths).to(device)
        regions = torch.from_numpy(images.values).split(IMAGES_PER_BLOCK)
        with torch.inference_mode():
            blocks = [net.scores(some.to(device, dtype), words, lengths).cpu().numpy() for some in regions]
        scores = np.concatenate(blocks)
        return scores if images is first else scores.T


@dataclass(kw_only=True)
class RankingMethod(MatchingMethod):
    """A matching network learnt by a loss on the (B, B) scores of every batch, images by captions, pairs on the diagonal.

    Adam without weight decay, gradients clipped to norm 2, the learning rate a tenth after every `lr_update` epochs: what
    all released region-word code does. A last short batch is dealt out over the others, where they train on it as it is.
    """

    dim: int = 1024  # D, of the common space
    word_dim: int = 300  # of the word embedding
    epochs: int = 30
    batch_size: int = 128  # B
    lr: float = 2e-4
    lr_update: int = 15
    margin: float = 0.2  # alpha

    def __post_init__(self) -> None:
        check_positive(self, "dim", "word_dim", "epochs", "lr", "lr_update", "margin")
        check_has_negatives(self, self.batch_size)

    @abstractmethod
    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        """The networks to learn, each on its own."""

    @abstractmethod
    def loss(self, scores: Tensor, epoch: int) -> Tensor:
        """The loss of a batch, summed over its B pairs."""

    def warm_up_epochs(self) -> int:
        """Epochs before the first that the learning rate counts and that validation may select."""
        return 0

    def learnt_from(self, train: PairedSet) -> np.ndarray | None:
        """Numbers of the pairs to learn from; None for all of them."""
        return None

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data, among, warm_up = PairData(train, context), self.learnt_from(train), self.warm_up_epochs()
        nets = self.learns(self.networks(data.sizes), data, context.device)
        optimisers = [torch.optim.Adam(net.parameters(), lr=self.lr, fused=True) for net in nets]
        state = {"nets": nets} | {f"optimiser {k}": optimiser for k, optimiser in enumerate(optimisers)}
        for epoch in context.epochs(warm_up + self.epochs, state=state):
            total, n_pairs = torch.zeros((), device=context.device), 0
            nets.train()
            for net, optimiser in zip(nets, optimisers, strict=True):
                set_rate(optimiser, decayed(self.lr, epoch - warm_up, self.lr_update))
                for batch in data.batches(self.batch_size, among):
                    scores = net(batch.regions, batch.tokens, batch.lengths)
                    total += step_down(self.loss(scores, epoch), net, optimiser)
                    n_pairs += len(batch.numbers)
            context.end_epoch(loss=total / max(n_pairs, 1), selectable=epoch >= warm_up)


@dataclass(kw_only=True)
class ReasoningMethod(RankingMethod):
    """The networks of Diao et al., AAAI 2021, over vectors of similarity: SGR unless a subclass names others."""

    backbones: ClassVar[tuple[str, ...]] = ("sgr",)

    epochs: int = 40
    lr_update: int = 30
    similarity_dim: int = 256  # S, of the similarity vectors
    steps: int = 3  # of graph reasoning

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "similarity_dim", "steps")

    def networks(self, sizes: dict[str, Any]) -> list[MatchingNetwork]:
        shape: dict[str, Any] = {
            "dim": self.dim,
            "word_dim": self.word_dim,
            "similarity_dim": self.similarity_dim,
            "steps": self.steps,
        }
        return [matching_network(backbone, **sizes, **shape) for backbone in self.backbones]
