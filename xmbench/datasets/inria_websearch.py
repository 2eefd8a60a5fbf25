"""INRIA-Websearch, the 100 largest classes: 14,698 web images with the texts around them."""

from dataclasses import dataclass

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_file
from xmbench.datasets._mat import mat_variable
from xmbench.datasets._released import CHECKS, Part, Parts, assembled, checked, joint_base
from xmbench.types import Dataset

_FILE = "INRIA-Websearch.mat"
_PREFIXES = {"train": "tr", "valid": "val", "test": "te"}

CARD = Card(
    name="inria_websearch",
    title="INRIA-Websearch, 100 classes, features of Wei et al.",
    source="Web Queries of INRIA; features of Wei et al., items of the authors of github.com/penghu-cs/MRL",
    licence="for research; the images are their owners'",
    citation="Krapac et al., Improving Web Image Search Results Using Query-Relative Classifiers, CVPR 2010; "
    "Wei et al., Cross-Modal Retrieval with CNN Visual Features: A New Baseline, IEEE Transactions on Cybernetics 2017; "
    "Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021",
    sizes={"train": 9000, "valid": 1332, "test": 4366},
    widths={"image": 4096, "text": 1000},
    classes=100,
    unverified=("text",),  # LDA topics; their number is in no text
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="ask the authors of github.com/penghu-cs/MRL, or Wei et al. for their feature package; images and texts "
            "alone are at https://lear.inrialpes.fr/~krapac/webqueries/webqueries.html. Image features are fc6 of AlexNet, "
            "https://github.com/penghu-cs/MRL/issues/5",
            dead=("https://weiyc.github.io/assets/projects/tcyb.html",),  # its links, https://github.com/penghu-cs/MRL/issues/9
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """There are none."""


def load(parameters: Parameters) -> Dataset:
    """Variables `tr_img`, `tr_txt`, `tr_img_lab`, `tr_txt_lab`, and the same with `val_` and `te_`.

    The released loader takes the labels as they are; here the smallest label of a modality over all splits counts as 0.
    """
    path = find_file(CARD, _FILE)

    def part(key: str) -> Part:
        labels = f"{key}_lab"
        return Part(mat_variable(path, key), mat_variable(path, labels), f"{path}: {key}", f"{path}: {labels}")

    parts: Parts = {}
    for split, prefix in _PREFIXES.items():
        stored = {"image": part(f"{prefix}_img"), "text": part(f"{prefix}_txt")}
        parts |= checked(CARD, {split: stored}, CARD.sizes)
    return assembled(CARD, path, joint_base(parts), {})
