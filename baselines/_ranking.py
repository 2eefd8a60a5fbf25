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
REGIONS_AND_WORDS = ("sequences", "tokens")  # what networks of regions and words read
IMAGES_PER_BLOCK = 128  # scored and encoded at a time


class PairBatch(NamedTuple):
    """B training pairs.

    Attributes:
        images: regions (B, R, d) or vectors (B, d).
        captions: word numbers (B, L), word vectors (B, L, d) or vectors (B, d).
        lengths: (B,) true lengths of the captions; 1 where they are vectors.
        numbers: (B,) numbers of the pairs in `train.pairs`.
    """

    images: Tensor
    captions: Tensor
    lengths: Tensor
    numbers: np.ndarray


class PairData:
    """The training pairs of a modality of images, or videos, and one of captions, on the device of a fit.

    Args:
        reads: the part of either side that is given to networks: "sequences" or "vectors" of the images; "tokens", "sequences"
            or "vectors" of the captions. Where both modalities have both parts, the first is the images.

    Attributes:
        image, caption: names of the two modalities.

    Raises:
        ValueError: no modality for either side.
    """

    def __init__(self, train: PairedSet, context: FitContext, reads: tuple[str, str] = REGIONS_AND_WORDS) -> None:
        first = _images_of(train, reads)
        assert train.pairs is not None
        self._context = context
        self._pairs = train.pairs[:, ::-1] if first else train.pairs
        images, captions = train.modalities[first], train.modalities[1 - first]
        _check(images, captions, reads)
        if len(train.pairs) < 2:
            raise ValueError(f"two training pairs or more are needed, each other's negatives, got {len(train.pairs)}")
        self.image, self.caption = images.name, captions.name
        tensors = context.tensors(train)
        self._images = getattr(tensors[first], reads[0])
        self._captions = getattr(tensors[1 - first], reads[1])
        self._lengths = None if reads[1] == "vectors" else tensors[1 - first].lengths
        self._sides = ("image", images, reads[0]), ("caption", captions, reads[1])

    @property
    def sizes(self) -> dict[str, Any]:
        """What a network must know of the data: region_dim and n_regions, or image_dim; n_words, or caption_dim."""
        sizes: dict[str, Any] = {}
        for side, modality, part in self._sides:
            shape = getattr(modality, part).shape
            if part == "tokens":
                if not modality.vocabulary:
                    raise ValueError(f"to learn the words of {modality.name!r} their vocabulary is needed, got numbers alone")
                sizes["n_words"] = len(modality.vocabulary)
            elif part == "sequences" and side == "image":
                sizes |= {"n_regions": shape[1], "region_dim": shape[2]}
            else:
                sizes[f"{side}_dim"] = shape[-1]
        return sizes

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, numbers: np.ndarray) -> PairBatch:
        """The pairs with these numbers, captions padded to the longest among them."""
        images, captions = self._pairs[numbers].T
        device = self._context.device
        if self._lengths is None:
            lengths = torch.ones(len(numbers), dtype=torch.int64, device=device)
            return PairBatch(self._images[images], self._captions[captions], lengths, numbers)
        rows = torch.from_numpy(np.ascontiguousarray(captions)).to(device)
        lengths = self._lengths[rows]
        values = self._captions[rows if isinstance(self._captions, Tensor) else captions]
        return PairBatch(self._images[images], values[:, : int(lengths.max())], lengths, numbers)

    def batches(self, batch_size: int, among: np.ndarray | None = None) -> Iterator[PairBatch]:
        """All pairs, or those with the numbers `among`, once, in the epoch's random order; batches of equal size, about."""
        numbers = np.arange(len(self)) if among is None else among
        for rows in self._context.batches(len(numbers), batch_size, even=True):
            yield self.batch(numbers[rows])


def _images_of(train: PairedSet, reads: tuple[str, str]) -> int:
    """Which of the two modalities, 0 or 1, is read as images."""
    if len(train.modalities) == 2:
        for first in (0, 1):
            sides = train.modalities[first], train.modalities[1 - first]
            if all(getattr(side, part) is not None for side, part in zip(sides, reads, strict=True)):
                return first
    got = [
        (m.name, *(part for part in ("vectors", "sequences", "tokens") if getattr(m, part) is not None))
        for m in train.modalities
    ]
    raise ValueError(f"one modality of images with {reads[0]} and one of captions with {reads[1]} are needed, got {got}")


def _check(images: Modality, captions: Modality, reads: tuple[str, str]) -> None:
    if reads[1] != "vectors" and captions.lengths is None:
        raise ValueError(f"the words of {captions.name!r} need their lengths: pass Modality(lengths=...), got none")
    if reads[0] == "sequences" and images.lengths is not None and images.sequences is not None:
        n_regions = images.sequences.shape[1]
        if (images.lengths < n_regions).any():
            got = f"{int((images.lengths < n_regions).sum())} items with fewer"
            raise ValueError(f"every item of {images.name!r} must have all {n_regions} regions, got {got}")


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

    @property
    def reads(self) -> tuple[str, str]:
        """The parts of an image and of a caption that the networks are given, as `PairData` takes them."""
        return REGIONS_AND_WORDS

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
        of_images = modality.name == self.image_
        part = getattr(modality, self.reads[not of_images])[rows]
        device = next(net.parameters()).device
        with torch.inference_mode():
            if of_images:
                return np.asarray(net.encode_images(torch.from_numpy(part).to(device)).cpu())
            known = None if self.reads[1] == "vectors" else modality.lengths
            lengths = np.ones(len(part), dtype=np.int64) if known is None else known[rows]
            words = part if known is None else part[:, : lengths.max()]
            values = np.asarray(
                net.encode_captions(torch.from_numpy(words).to(device), torch.from_numpy(lengths).to(device)).cpu()
            )
        if values.ndim == 2:
            return values
        return np.pad(values, ((0, 0), (0, part.shape[1] - values.shape[1]), (0, 0)))

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

    def batch_loss(self, net: nn.Module, batch: PairBatch, epoch: int) -> Tensor:
        """The loss of a batch where it needs more than the scores."""
        return self.loss(net(batch.images, batch.captions, batch.lengths), epoch)

    def warm_up_epochs(self) -> int:
        """Epochs before the first that the learning rate counts and that validation may select."""
        return 0

    def learnt_from(self, train: PairedSet) -> np.ndarray | None:
        """Numbers of the pairs to learn from; None for all of them."""
        return None

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data, among, warm_up = PairData(train, context, self.reads), self.learnt_from(train), self.warm_up_epochs()
        nets = self.learns(self.networks(data.sizes), data, context.device)
        optimisers = [torch.optim.Adam(net.parameters(), lr=self.lr, fused=True) for net in nets]
        state = {"nets": nets} | {f"optimiser {k}": optimiser for k, optimiser in enumerate(optimisers)}
        for epoch in context.epochs(warm_up + self.epochs, state=state):
            total, n_pairs = torch.zeros((), device=context.device), 0
            nets.train()
            for net, optimiser in zip(nets, optimisers, strict=True):
                set_rate(optimiser, decayed(self.lr, epoch - warm_up, self.lr_update))
                for batch in data.batches(self.batch_size, among):
                    total += step_down(self.batch_loss(net, batch, epoch), net, optimiser)
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
