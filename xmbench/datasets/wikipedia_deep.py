"""Wikipedia with the deep features of the MRL paper: VGG-19 image vectors and Doc2Vec text vectors."""

from dataclasses import dataclass
from typing import Literal

from xmbench.cards import Card, Parcel
from xmbench.datasets._released import CHECKS, LABEL_BASE, load_h5
from xmbench.types import Dataset

_FILE = "wiki_deep_doc2vec_data_corr_ae.h5py"
_COMMIT = "914fdd70e9ad74530a7d8246ee4612442159c06b"  # of the first release, 7 April 2021

CARD = Card(
    name="wikipedia_deep",
    title="Wikipedia featured articles, deep features of Hu et al.",
    source="the authors of MRL, github.com/penghu-cs/MRL, as first committed",
    licence="repository under the MIT licence; texts CC BY-SA (Wikipedia)",
    citation="Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021; "
    "Rasiwasia et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010",
    sizes={"train": 2173, "valid": 231, "test": 462},
    widths={"image": 4096, "text": 300},
    classes=10,
    parameters={"label_base": LABEL_BASE},
    parcels=(
        Parcel(
            files={_FILE: ""},
            urls=(f"https://raw.githubusercontent.com/penghu-cs/MRL/{_COMMIT}/data/wiki/{_FILE}",),
            note="data/wiki of github.com/penghu-cs/MRL. No sha256 of it is known; `git hash-object` of the file prints "
            "e3ffcb7a6e42a853e24154a7834cbbeb21a913a7",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    label_base: Literal["joint", "per_split"] = "joint"


def load(parameters: Parameters) -> Dataset:
    """The released file; where it has no `valid_*` arrays the first 231 test rows are the validation set, as in the paper."""
    return load_h5(CARD, _FILE, label_base=parameters.label_base)
