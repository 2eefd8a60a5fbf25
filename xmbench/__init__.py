"""xmbench: the benchmark for cross-modal retrieval under noisy supervision. The public API, and nothing else."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from xmbench.cards import Card
from xmbench.method import FitContext, Method, check_positive, clipped, unit_rows
from xmbench.registry import build_method, method_names, register_method
from xmbench.types import (
    Dataset,
    Embedding,
    Modality,
    PairedSet,
    Rows,
    Shapes,
    class_numbers,
    one_hot,
    stream,
)

if TYPE_CHECKING:
    from xmbench.api import run
    from xmbench.datasets import load_dataset
    from xmbench.noise import Noise, corrupt
    from xmbench.store import load_results

__version__ = "0.1.0"

_LAZY = {
    "load_dataset": "xmbench.datasets",
    "Noise": "xmbench.noise",
    "corrupt": "xmbench.noise",
    "load_results": "xmbench.store",
    "run": "xmbench.api",
}

__all__ = [
    "Card",
    "Dataset",
    "Embedding",
    "FitContext",
    "Method",
    "Modality",
    "Noise",
    "PairedSet",
    "Rows",
    "Shapes",
    "build_method",
    "check_positive",
    "class_numbers",
    "clipped",
    "corrupt",
    "load_dataset",
    "load_results",
    "method_names",
    "one_hot",
    "register_method",
    "run",
    "stream",
    "unit_rows",
]


def __getattr__(name: str) -> Any:
    """Import what needs pandas or SciPy only when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'xmbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


class _Package(ModuleType):
    """Keeps `xmbench.run` the function: importing the module of the same name would put that in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "run" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
