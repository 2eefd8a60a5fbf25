"""NUS-WIDE, the single-label subset of the MRL paper: 71,602 images with tags, ten classes."""

from dataclasses import dataclass
from typing import Literal

from xmbench.cards import Card, Parcel
from xmbench.datasets._released import CHECKS, LABEL_BASE, load_h5
from xmbench.types import Dataset

_FILE = "nus_wide_deep_doc2vec_data_42941.h5py"

CARD = Card(
    name="nus_wide",
    title="NUS-WIDE, ten classes with one label per item, deep features of Hu et al.",
    source="NUS-WIDE of the National University of Singapore; items and features of the authors of github.com/penghu-cs/MRL",
    licence="features are not redistributable: the images are the photographers', the list is for research",
    citation="Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore, CIVR 2009; "
    "Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021",
    sizes={"train": 42941, "valid": 5000, "test": 23661},
    widths={"image": 4096, "text": 300},
    classes=10,
    parameters={"label_base": LABEL_BASE},
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="ask for images and tags at "
            "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html and compute the features, "
            "VGG-19 for images and Doc2Vec (github.com/jhlau/doc2vec) for tags, of the items listed in "
            "https://github.com/penghu-cs/MRL/issues/8; or ask its authors, who may not share the file",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    label_base: Literal["joint", "per_split"] = "joint"


def load(parameters: Parameters) -> Dataset:
    """The authors' file; where it has no `valid_*` arrays the first 5,000 test rows are the validation set."""
    return load_h5(CARD, _FILE, label_base=parameters.label_base)
