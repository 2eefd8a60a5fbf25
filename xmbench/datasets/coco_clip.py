"""MS-COCO as a CLIP has embedded it, five captions per image, tested on all 5,000 images and in five folds."""

from xmbench.cards import Card
from xmbench.datasets._clip_inputs import CARD_SHAPE, CHECKS, PARAMETERS, SOURCE, Parameters, load_clip_inputs, parcels_of
from xmbench.types import Dataset

_STEMS = ("train", "dev", "testall")

CARD = Card(
    name="coco_clip",
    title="MS-COCO, embeddings of a CLIP, with its patches and tokens",
    source=SOURCE.format("coco_precomp"),
    licence="annotations CC BY 4.0; images under licences of their own; CLIP MIT",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; "
    "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
    sizes={"train": 113287, "valid": 5000, "test": 5000},
    folds={"test:1k": 5},
    unverified=("sizes", "image", "text"),
    parameters=PARAMETERS,
    parcels=parcels_of(*_STEMS),
    checks=CHECKS,
    **CARD_SHAPE,
)

__all__ = ["CARD", "Parameters", "load"]


def load(parameters: Parameters) -> Dataset:
    """Embeddings, and patches and tokens where they are there; "test" is testall (5K), "test:1k" the same in five folds."""
    return load_clip_inputs(CARD, parameters, family="coco_precomp", stems=_STEMS)
