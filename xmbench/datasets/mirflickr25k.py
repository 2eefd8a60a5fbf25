"""MIRFlickr-25K: images with tags, 24 classes, several per item."""

from dataclasses import dataclass

from xmbench.cards import Card, Parcel
from xmbench.datasets._multilabel import CHECKS, FORMAT, UNVERIFIED, load_npz
from xmbench.types import Dataset

_FILE = "mirflickr25k.npz"

CARD = Card(
    name="mirflickr25k",
    title="MIRFlickr-25K, multi-label",
    source="MIRFlickr of LIACS, Leiden; features and split are yours",
    licence="images under Creative Commons licences of their own",
    citation="Huiskes and Lew, The MIR Flickr Retrieval Evaluation, ACM MIR 2008; "
    "Yang et al., Rethinking Label-Wise Cross-Modal Retrieval from a Semantic Sharing Perspective, IJCAI 2021",
    sizes={"train": 20000, "valid": 2500, "test": 2500},
    widths={"image": 1024, "text": 300},
    classes=24,
    multi_label=True,
    labels_per_item=3.8,
    unverified=UNVERIFIED,
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="images, tags and annotations are at https://press.liacs.nl/mirflickr/mirdownload.html, as mirflickr25k.zip "
            f"and mirflickr25k_annotations_v080.zip in mirflickr25k.v3b; compute features and write {_FILE}: {FORMAT}",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """There are none."""


def load(parameters: Parameters) -> Dataset:
    """The format of `xmbench.datasets._multilabel` with 24 classes: one npz file of arrays `train/image` and so on."""
    return load_npz(CARD, _FILE, {})
