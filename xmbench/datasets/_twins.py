"""Synthetic twins: data with the shape of a dataset's card and a planted signal, for planning and timing without its files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from xmbench.cards import Card
from xmbench.datasets.synthetic import CARD, Recipe, drawn
from xmbench.types import Dataset

PREFIX = "synthetic_"


@dataclass(frozen=True, kw_only=True)
class TwinParameters:
    """See `twin_of`."""

    shrink: int = 1
    class_signal: float = 4.0
    instance_signal: float = 1.0
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shrink < 1:
            raise ValueError(f"shrink must be 1 or more, got {self.shrink}")


@dataclass(frozen=True, kw_only=True)
class RegionTwinParameters:
    """See `twin_of`."""

    shrink: int = 1
    region_width: int = 0
    instance_signal: float = 1.0
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shrink < 1 or self.region_width < 0:
            got = f"{self.shrink} and {self.region_width}"
            raise ValueError(f"shrink must be 1 or more and region_width 0 or more, got {got}")


@dataclass
class Twin:
    """A twin where a dataset's module is expected."""

    CARD: Card
    Parameters: type = TwinParameters

    def load(self, parameters: TwinParameters) -> Dataset:
        """Data in the sizes of the card divided by `shrink`, drawn as `synthetic` is."""
        card, classes = self.CARD, self.CARD.classes or 0
        recipe = Recipe(
            name=card.name,
            sizes={part: max(n // parameters.shrink, min(n, 2 * classes)) for part, n in card.sizes.items()},
            widths=card.widths,
            classes=classes,
            labels_per_item=card.labels_per_item,
            class_signal=parameters.class_signal,
            instance_signal=parameters.instance_signal,
            noise=parameters.noise,
            seed=parameters.seed,
        )
        return drawn(recipe, card, vars(parameters))


@dataclass
class RegionTwin:
    """A twin of images with regions and captions, without labels."""

    CARD: Card
    Parameters: type = RegionTwinParameters

    def load(self, parameters: RegionTwinParameters) -> Dataset:
        """Data in the sizes of the card divided by `shrink`; the card's folds stay equal."""
        card, (n_regions, width) = self.CARD, self.CARD.regions or (0, 0)
        most = max(card.folds.values(), default=1)
        sizes = {part: max(n // parameters.shrink, min(n, 2 * most)) for part, n in card.sizes.items()}
        recipe = Recipe(
            name=card.name,
            sizes=sizes | {"test": sizes["test"] // most * most},
            widths=card.widths or {"image": None, "text": None},
            classes=0,
            labels_per_item=1.0,
            class_signal=0.0,
            instance_signal=parameters.instance_signal,
            noise=parameters.noise,
            seed=parameters.seed,
            regions=(n_regions, parameters.region_width or width),
            captions=card.captions,
            words=card.words or 0,
        )
        dataset = drawn(recipe, card, vars(parameters))
        tests = {**dataset.tests, **dict.fromkeys(card.folds, dataset.tests["test"])}
        return replace(dataset, tests=tests, folds=card.folds)


@dataclass(frozen=True, kw_only=True)
class VideoTwinParameters:
    """See `twin_of`."""

    shrink: int = 1
    instance_signal: float = 1.0
    noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shrink < 1:
            raise ValueError(f"shrink must be 1 or more, got {self.shrink}")


@dataclass
class VideoTwin:
    """A twin of clips with vectors and captions of word vectors, without labels."""

    CARD: Card
    Parameters: type = VideoTwinParameters

    def load(self, parameters: VideoTwinParameters) -> Dataset:
        """Data in the sizes of the card divided by `shrink`."""
        card = self.CARD
        recipe = Recipe(
            name=card.name,
            sizes={part: max(n // parameters.shrink, 2) for part, n in card.sizes.items()},
            widths={**card.widths, "text": None},
            classes=0,
            labels_per_item=1.0,
            class_signal=0.0,
            instance_signal=parameters.instance_signal,
            noise=parameters.noise,
            seed=parameters.seed,
            word_vectors=card.word_vectors,
            captions=card.captions,
            words=card.words or 0,
        )
        return drawn(recipe, card, vars(parameters))


def can_have_twin(original: Card) -> bool:
    """Whether a card states enough for `twin_of`."""
    return bool((len(original.widths) > 1 and original.classes) or (original.regions and original.words))


def twin_of(original: Card) -> Twin | RegionTwin | VideoTwin:
    """The twin of the dataset with this card; its own card keeps the facts and says that nothing else is kept."""
    signals = {name: CARD.parameters[name] for name in ("instance_signal", "noise", "seed")}
    if original.regions is not None:
        shrink = {"shrink": "divides the number of items; two stay in every split, and in every fold of it"}
        width = {"region_width": "features of a region; 0: as many as the original has"}
        return RegionTwin(_twin_card(original, shrink | width | signals))
    if original.word_vectors is not None:
        shrink = {"shrink": "divides the number of items; two stay in every split"}
        return VideoTwin(_twin_card(original, shrink | signals))
    if not original.widths or not original.classes:
        raise ValueError(f"a twin needs the widths and classes of {original.name}, its card has not got both")
    shrink = {"shrink": "divides the number of items; two per class stay in every split"}
    return Twin(_twin_card(original, shrink | {"class_signal": CARD.parameters["class_signal"]} | signals))


def _twin_card(original: Card, parameters: Mapping[str, str]) -> Card:
    return replace(
        original,
        name=PREFIX + original.name,
        title=f"Synthetic: the shape of {original.name}, nothing of its content",
        source="drawn from a seed by xmbench/datasets/synthetic.py",
        licence="none needed",
        citation=f"specified by this project; the shape is that of {original.name}: {original.citation}",
        parameters=parameters,
        folder="",
        parcels=(),
        checks="",
    )
