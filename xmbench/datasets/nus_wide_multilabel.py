"""NUS-WIDE with all its labels: images with tags, 81 concepts or the 21 most frequent, several per item."""

from dataclasses import dataclass, replace

from xmbench.cards import Card, Parcel
from xmbench.datasets._multilabel import CHECKS, FORMAT, UNVERIFIED, load_npz
from xmbench.types import Dataset

_FILE = "nus_wide_multilabel.npz"

CARD = Card(
    name="nus_wide_multilabel",
    title="NUS-WIDE, multi-label",
    source="NUS-WIDE of the National University of Singapore; features and split are yours",
    licence="for research; the images are the photographers'",
    citation="Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore, CIVR 2009; "
    "Yang et al., Rethinking Label-Wise Cross-Modal Retrieval from a Semantic Sharing Perspective, IJCAI 2021",
    sizes={"train": 259648, "valid": 5000, "test": 5000},
    widths={"image": 1024, "text": 300},
    classes=81,
    multi_label=True,
    labels_per_item=1.9,
    unverified=UNVERIFIED,
    parameters={"classes": "81 concepts, or 21 for the subset of the most frequent ones"},
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="tags and concepts are named at https://github.com/NExTplusplus/NUS-WIDE, images on request at "
            "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html; "
            f"compute features and write {_FILE}: {FORMAT}",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    classes: int = 81

    def __post_init__(self) -> None:
        if self.classes not in (21, 81):
            raise ValueError(f"nus_wide_multilabel.classes must be 81 or 21, got {self.classes}")


def load(parameters: Parameters) -> Dataset:
    """The format of `xmbench.datasets._multilabel` with 81 or 21 classes: one npz file of arrays `train/image` and so on."""
    return load_npz(replace(CARD, classes=parameters.classes), _FILE, vars(parameters))
