"""Wikipedia with the deep features of the MRL paper: VGG-19 image vectors and Doc2Vec text vectors."""

from dataclasses import dataclass
from typing import Literal

from xmbench.datasets._released import LABEL_BASE, load_h5
from xmbench.types import Card, Dataset

_FILE = "wiki_deep_doc2vec_data_corr_ae.h5py"
_COMMIT = "914fdd70e9ad74530a7d8246ee4612442159c06b"  # of the first release, 7 April 2021

CARD = Card(
    name="wikipedia_deep",
    title="Wikipedia featured articles, deep features of Hu et al.",
    source=f"github.com/penghu-cs/MRL, data/wiki/{_FILE}, as first committed. Its sha256 is not known and the address has not "
    "been tried: keys and sizes are checked instead; `git hash-object` of the file begins with e3ffcb7a6e42a853",
    licence="repository under the MIT licence; texts CC BY-SA (Wikipedia)",
    citation="Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021; "
    "Rasiwasia et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010",
    sizes={"train": 2173, "valid": 231, "test": 462},
    widths={"image": 4096, "text": 300},
    classes=10,
    parameters={"label_base": LABEL_BASE},
    urls={_FILE: f"https://raw.githubusercontent.com/penghu-cs/MRL/{_COMMIT}/data/wiki/{_FILE}"},
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    label_base: Literal["joint", "per_split"] = "joint"


def load(parameters: Parameters) -> Dataset:
    """The released file; where it has no `valid_*` arrays the first 231 test rows are the validation set, as in the paper."""
    return load_h5(CARD, _FILE, label_base=parameters.label_base)
