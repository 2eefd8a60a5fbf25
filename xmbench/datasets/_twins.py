"""Synthetic twins: data with the shape of a dataset's card and a planted signal, for planning and timing without its files."""

from dataclasses import dataclass, replace

from xmbench.datasets.synthetic import CARD, Recipe, drawn
from xmbench.types import Card, Dataset

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


def twin_of(original: Card) -> Twin:
    """The twin of the dataset with this card; its own card keeps the facts and says that nothing else is kept."""
    if not original.widths or not original.classes:
        raise ValueError(f"a twin needs the widths and classes of {original.name}, its card has not got both")
    signals = {name: CARD.parameters[name] for name in ("class_signal", "instance_signal", "noise", "seed")}
    card = replace(
        original,
        name=PREFIX + original.name,
        title=f"Synthetic: the shape of {original.name}, nothing of its content",
        source="drawn from a seed by xmbench/datasets/synthetic.py",
        licence="none needed",
        citation=f"specified by this project; the shape is that of {original.name}: {original.citation}",
        parameters={"shrink": "divides the number of items; two per class stay in every split"} | signals,
        files=(),
        sha256={},
        urls={},
    )
    return Twin(card)
