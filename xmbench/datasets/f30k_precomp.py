"""Flickr30K as 36 regions per image, five captions each: the release of SCAN, or any data in its layout."""

from xmbench.cards import Card, Parcel
from xmbench.datasets._precomp import CHECKS, FILES, PARAMETERS, SCAN, SCAN_DEAD, Parameters, load_precomp
from xmbench.types import Dataset

CARD = Card(
    name="f30k_precomp",
    title="Flickr30K, regions and captions",
    source="github.com/kuanghuei/SCAN: captions and split of Karpathy and Fei-Fei, regions by bottom-up attention",
    licence="images belong to their Flickr authors: research and education",
    citation="Young et al., From Image Descriptions to Visual Denotations, TACL 2014; "
    "Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018",
    sizes={"train": 29000, "valid": 1014, "test": 1000},
    regions=(36, 2048),
    captions=5,
    words=8481,
    unverified=("sizes",),
    parameters=PARAMETERS,
    parcels=(Parcel(files=dict.fromkeys(FILES, ""), note=SCAN, dead=SCAN_DEAD),),
    checks=CHECKS,
)

__all__ = ["CARD", "Parameters", "load"]


def load(parameters: Parameters) -> Dataset:
    """Regions and words; sizes, regions and captions per image are the files' own."""
    return load_precomp(CARD, parameters)
