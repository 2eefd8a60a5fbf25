"""Flickr8k: photographs of people and animals as 16 regions, five captions each, in the layout of f30k_precomp."""

from dataclasses import dataclass

import numpy as np

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_file, open_npz
from xmbench.datasets._precomp import CHECKS, PARAMETERS, SPLITS, Part, assembled, read_part
from xmbench.datasets._released import found
from xmbench.types import Array, DataError, Dataset, stream

_VECTORS = "vectors.npz"

CARD = Card(
    name="flickr8k",
    title="Flickr8k, regions and captions",
    source="captions and official split; regions: 4 x 4 grid of the EfficientNet-Lite0 feature map, reduced to 256 by PCA; "
    "vectors: EfficientNet-Lite0 and MiniLM",
    licence="images belong to their Flickr authors: research and education",
    citation="Hodosh, Young, Hockenmaier, Framing Image Description as a Ranking Task, JAIR 2013",
    sizes={"train": 6000, "valid": 1000, "test": 1000},
    widths={"image": 1280, "text": 384},
    regions=(16, 256),
    captions=5,
    words=3178,
    parameters={
        "train_images": "images of the train split, drawn with all their captions, small draws part of larger ones; 0: all",
        "vocabulary": PARAMETERS["vocabulary"],
    },
    folder="flickr8k_precomp",
    parcels=(
        Parcel(
            files={
                "train_ims.npy": "34b2d737f106b2c916599ee1c880df67c909ac52c46b89adbcf913a76fae68a1",
                "dev_ims.npy": "a62301b0b44e9b91a2e414fd29deb46972e14dc2191247dd91d31c6bba74315e",
                "test_ims.npy": "4cfd3573f9da63d12b961d96cd96cab40cba057e09837801759751e621fbde53",
                "train_caps.txt": "53af623f59f823f176bf236cfbbc738013e5a5322d8857af965f12b359be4f27",
                "dev_caps.txt": "c81eac4eee1d123b861d883c685f4d2f2713db242991ee9704b2e6bdc88826ed",
                "test_caps.txt": "9707711f2953d6ddd8eae9ad482fde98e82a0605791a86b21f754dc0e6fb7f93",
                "train_ids.txt": "9037916ba735b1422deaea4a4d39a58d6f1db0ab708c83e6d41320337d77b13e",
                "dev_ids.txt": "713c8332d75a22504b86a6a835ac0d8b6b8c08cd7764c79af25b5432a3c915df",
                "test_ids.txt": "713c8332d75a22504b86a6a835ac0d8b6b8c08cd7764c79af25b5432a3c915df",
                _VECTORS: "6d1d5428bb131f20262452cf8215cbb21d4cf76fe053ce2b222ceecec933af8e",
            },
            note="these features are at no public address. Images and captions are, Flickr8k_Dataset.zip and "
            "Flickr8k_text.zip below https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/, or on request at "
            "https://forms.illinois.edu/sec/1713398; `xmbench data import flickr8k_own --images Flicker8k_Dataset "
            "--captions Flickr8k.token.txt --skip-broken` and `xmbench features extract flickr8k_own` make a dataset of them, "
            "with splits of its own",
        ),
    ),
    checks=f"the sha256 of every file; {CHECKS}",
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    train_images: int = 0
    vocabulary: str = ""

    def __post_init__(self) -> None:
        n = CARD.sizes["train"]
        if self.train_images != 0 and not 2 <= self.train_images <= n:
            raise ValueError(f"flickr8k.train_images must be 0 (all) or lie in 2..{n}, got {self.train_images}")


def load(parameters: Parameters) -> Dataset:
    """Vectors of both modalities, 16 x 256 regions and words; the vocabulary is that of all training images."""
    parts = {split: read_part(CARD, stem) for split, stem in SPLITS.items()}
    n = len(parts["train"].regions)
    drawn = np.sort(stream("flickr8k", "train_images").permutation(n)[: parameters.train_images or n])
    images = {"train": drawn} if len(drawn) < n else {}
    return assembled(CARD, parts, vars(parameters), images=images, vectors=_vectors(parts))


def _vectors(parts: dict[str, Part]) -> dict[str, tuple[Array, Array]]:
    """Split -> float16 vectors (n, 1280) of the images and (k n, 384) of the captions."""
    path = find_file(CARD, _VECTORS)
    vectors = {}
    with open_npz(path) as content:
        for split, stem in SPLITS.items():
            vectors[split] = found(path, content, f"{stem}_image"), found(path, content, f"{stem}_text")
    for split, (image, text) in vectors.items():
        wanted = (len(parts[split].regions), len(parts[split].captions))
        if (len(image), len(text)) != wanted:
            raise DataError(f"{path}: {split} must hold {wanted} image and caption vectors, got {(len(image), len(text))}")
    return vectors
