"""XMediaNet, images and texts: 40,000 pairs of 200 classes, as in the MRL paper."""

from dataclasses import dataclass
from typing import Literal

from xmbench.cards import Card, Parcel
from xmbench.datasets._released import CHECKS, LABEL_BASE, load_h5
from xmbench.types import Dataset

_FILE = "xmedianet_deep_doc2vec_data.h5py"

CARD = Card(
    name="xmedianet",
    title="XMediaNet, images and texts, deep features of Hu et al.",
    source="PKU XMediaNet of Peking University; features of the authors of github.com/penghu-cs/MRL",
    licence="for research, on request",
    citation="Peng, Qi and Yuan, Modality-Specific Cross-Modal Similarity Measurement with Recurrent Attention Network, "
    "TIP 2018; Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021",
    sizes={"train": 32000, "valid": 4000, "test": 4000},
    widths={"image": 4096, "text": 300},
    classes=200,
    parameters={"label_base": LABEL_BASE},
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="ask Peking University for PKU XMediaNet, https://www.icst.pku.edu.cn/mipl/lwsjjxz/dataset, and compute the "
            "features, VGG-19 for images and Doc2Vec for texts; or ask the authors of github.com/penghu-cs/MRL, who may not "
            "share the file",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    label_base: Literal["joint", "per_split"] = "joint"


def load(parameters: Parameters) -> Dataset:
    """The authors' file; where it has no `valid_*` arrays the first 4,000 test rows are the validation set."""
    return load_h5(CARD, _FILE, label_base=parameters.label_base)
