"""MS-COCO with its object categories as labels: images with captions, 80 classes, several per item."""

from dataclasses import dataclass

from xmbench.datasets._multilabel import FORMAT, UNVERIFIED, load_npz
from xmbench.types import Card, Dataset

_FILE = "coco_multilabel.npz"

CARD = Card(
    name="coco_multilabel",
    title="MS-COCO, multi-label",
    source=f"cocodataset.org: images, captions and instances; features and split are yours. Write {_FILE}: {FORMAT}",
    licence="annotations CC BY 4.0; images under licences of their own",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; "
    "Yang et al., Rethinking Label-Wise Cross-Modal Retrieval from a Semantic Sharing Perspective, IJCAI 2021",
    sizes={"train": 113287, "valid": 5000, "test": 5000},
    widths={"image": 1024, "text": 300},
    classes=80,
    multi_label=True,
    labels_per_item=2.9,
    unverified=UNVERIFIED,
    files=(_FILE,),
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """There are none."""


def load(parameters: Parameters) -> Dataset:
    """The format of `xmbench.datasets._multilabel` with 80 classes: one npz file of arrays `train/image` and so on."""
    return load_npz(CARD, _FILE, {})
