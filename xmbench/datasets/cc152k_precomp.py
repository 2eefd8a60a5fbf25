"""CC152K: 152,000 images of Conceptual Captions with one caption each, which is wrong for some: noise of the world."""

from xmbench.cards import Card, Parcel
from xmbench.datasets._precomp import CHECKS, PARAMETERS, SPLITS, Parameters, load_precomp
from xmbench.types import Dataset

_FILES = tuple(f"{stem}_{kind}" for stem in SPLITS.values() for kind in ("ims.npy", "caps.tsv"))

CARD = Card(
    name="cc152k_precomp",
    title="Conceptual Captions, 152,000 pairs, regions and captions",
    source="github.com/XLearning-SCU/2021-NeurIPS-NCR, regions by bottom-up attention",
    licence="captions as Conceptual Captions; images belong to their authors",
    citation="Sharma et al., Conceptual Captions, ACL 2018; "
    "Huang et al., Learning with Noisy Correspondence for Cross-modal Matching, NeurIPS 2021",
    sizes={"train": 150000, "valid": 1000, "test": 1000},
    regions=(36, 2048),
    words=12072,
    parameters=PARAMETERS,
    parcels=(
        Parcel(
            files=dict.fromkeys(_FILES, ""),
            urls=("https://ncr-paper.cdn.bcebos.com/data/NCR-data.tar",),
            members={f"cc152k_precomp/{name}": name for name in _FILES},
            note="or compute them: github.com/XLearning-SCU/2021-NeurIPS-NCR has captions and addresses of the images in "
            "cc152k/, regions are by bottom-up attention of Anderson et al., 36 boxes each, in the layout of "
            "xmbench/datasets/_precomp.py",
        ),
    ),
    checks=CHECKS,
)

__all__ = ["CARD", "Parameters", "load"]


def load(parameters: Parameters) -> Dataset:
    """Regions and words; sizes, regions and captions per image are the files' own. No pair is known to be clean."""
    return load_precomp(CARD, parameters)
