"""Flickr30K as a CLIP has embedded it, five captions per image."""

from xmbench.cards import Card
from xmbench.datasets._clip_inputs import CARD_SHAPE, CHECKS, PARAMETERS, SOURCE, Parameters, load_clip_inputs, parcels_of
from xmbench.types import Dataset

_STEMS = ("train", "dev", "test")

CARD = Card(
    name="f30k_clip",
    title="Flickr30K, embeddings of a CLIP, with its patches and tokens",
    source=SOURCE.format("f30k_precomp"),
    licence="images belong to their Flickr authors: research and education; CLIP MIT",
    citation="Young et al., From Image Descriptions to Visual Denotations, TACL 2014; "
    "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
    sizes={"train": 29000, "valid": 1014, "test": 1000},
    unverified=("sizes", "image", "text"),
    parameters=PARAMETERS,
    parcels=parcels_of(*_STEMS),
    checks=CHECKS,
    **CARD_SHAPE,
)

__all__ = ["CARD", "Parameters", "load"]


def load(parameters: Parameters) -> Dataset:
    """Embeddings, and patches and tokens where they are there."""
    return load_clip_inputs(CARD, parameters, family="f30k_precomp", stems=_STEMS)
