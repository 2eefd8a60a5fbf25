"""Features of images and captions by pretrained models, written into an imported dataset.

An extractor is one small file: `efficientnet_lite`, `classifiers` (torchvision), `timm_models`, `detector`, `clip`,
`sentences` and `doc2vec`; `families` lists them. `extraction` leads images and captions through one, `rows` keeps every row
that was computed.
"""

from xmbench.features.extraction import Extraction, extract
from xmbench.features.families import listed

__all__ = ["Extraction", "extract", "listed"]
