"""What an extractor is, and what those that are torch models share: weights from disk, their hash, grids of regions."""

import hashlib
import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmbench.datasets._files import MissingDataError, file_sha256, readable
from xmbench.types import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

GRID = 4  # a feature map is averaged over the fields of a 4 x 4 grid, as the regions of flickr8k are


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An extractor that is to be loaded.

    Attributes:
        name: FAMILY or FAMILY:MODEL, as given.
        model: of the family.
        modality: "image" or "text".
        weights: a file or folder, or None for those of the library.
        device: of torch.
        texts: the captions that features are wanted of; of images none.
        train: those of them that belong to the train split.
    """

    name: str
    model: str
    modality: str
    weights: Path | None
    device: str
    texts: Sequence[str] = ()
    train: Sequence[str] = ()


class Extractor(ABC):
    """A model that is loaded.

    Attributes:
        recipe: all that decides the numbers, plain data: it stands in the card, and its hash names what was computed by it.
        kinds: "vectors", "regions" or "tokens" -> shape of one item's features.
    """

    recipe: dict[str, Any]
    kinds: dict[str, tuple[int, ...]]

    def prepare(self, item: Any) -> Any:
        """An item, an RGB image or a caption, as the model takes it; called in threads, while the model computes."""
        return item

    @abstractmethod
    def compute(self, batch: list[Any]) -> dict[str, Array]:
        """Features of prepared items: kind -> (k, ...) float32; of tokens zeros stand behind the last one."""


def library(package: str, module: str, name: str) -> Any:
    """The module of a library that may not be installed.

    Raises:
        ValueError: it is not, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = f"pip install {package}"
        raise ValueError(f"the extractor {name} needs {package}, which cannot be imported ({error}); {advice}") from None
    except RuntimeError as error:  # torchvision, where its operators were compiled for another torch
        advice = f"install the {package} that was built for this torch"
        raise ValueError(f"the extractor {name} needs {package}, which cannot be imported ({error}); {advice}") from None


def versions(*packages: str) -> dict[str, str]:
    """Name -> version of installed packages."""
    return {name: importlib.metadata.version(name) for name in sorted(packages)}


@contextmanager
def weights_wanted(name: str, place: str) -> Iterator[None]:
    """A MissingDataError out of whatever a library raises where it has no weights on disk and cannot download them."""
    try:
        yield
    except (MissingDataError, ModuleNotFoundError):
        raise
    except Exception as error:  # libraries raise many kinds, with one remedy
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingDataError(
            f"the weights of {name} are not on this machine and could not be downloaded ({reason}); {place}"
        ) from None


def read_weights(path: Path) -> dict[str, "Tensor"]:
    """The tensors of a .safetensors or torch file of weights alone; nothing else in it is opened.

    Raises:
        MissingDataError: there is no such file.
        DataError: it holds anything but tensors, or is damaged.
    """
    import torch

    if not path.is_file():
        raise MissingDataError(f"there is no file of weights {path}; name one, or none to take those of the library")
    with readable(path, "weights alone, in a .safetensors or torch file"):
        if path.suffix == ".safetensors":
            return dict(library("safetensors", "safetensors.torch", "of this file").load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        if not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise ValueError("something else is in it")
        return dict(content)


def load_weights(model: "nn.Module", path: Path) -> dict[str, str]:
    """Give a model the weights of a file, every one of them; what the recipe says of them is returned."""
    found = read_weights(path)
    with readable(path, f"the weights of this {type(model).__name__}", "name those of the same model"):
        model.load_state_dict(found)
    return {"weights": path.name, "weights_sha256": file_sha256(path)}


def parameters_sha256(model: "nn.Module") -> str:
    """The sha256 of a model's parameters and buffers by their names: of the weights, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).numpy().data)
    return digest.hexdigest()


def grid_of(maps: "Tensor") -> "Tensor":
    """Feature maps (k, d, h, w) as regions (k, 16, d), the fields of the grid row by row."""
    from torch.nn import functional

    return functional.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2)


def arrays(features: Mapping[str, "Tensor"]) -> dict[str, Array]:
    """Tensors as float32 arrays."""
    return {kind: values.float().cpu().numpy() for kind, values in features.items()}
