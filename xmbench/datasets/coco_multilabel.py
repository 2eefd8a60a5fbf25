"""MS-COCO with its object categories as labels: images with captions, 80 classes, several per item."""

from dataclasses import dataclass

from xmbench.cards import Card, Parcel
from xmbench.datasets._multilabel import CHECKS, FORMAT, UNVERIFIED, load_npz
from xmbench.types import Dataset

_FILE = "coco_multilabel.npz"

CARD = Card(
    name="coco_multilabel",
    title="MS-COCO, multi-label",
    source="cocodataset.org; features and split are yours",
    licence="annotations CC BY 4.0; images under licences of their own",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; "
    "Yang et al., Rethinking Label-Wise Cross-Modal Retrieval from a Semantic Sharing Perspective, IJCAI 2021",
    sizes={"train": 113287, "valid": 5000, "test": 5000},
    widths={"image": 1024, "text": 300},
    classes=80,
    multi_label=True,
    labels_per_item=2.9,
    unverified=UNVERIFIED,
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="images, captions and instances are at https://cocodataset.org/#download, the latter two as "
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip; "
            f"compute features and write {_FILE}: {FORMAT}",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """There are none."""


def load(parameters: Parameters) -> Dataset:
    """The format of `xmbench.datasets._multilabel` with 80 classes: one npz file of arrays `train/image` and so on."""
    return load_npz(CARD, _FILE, {})
