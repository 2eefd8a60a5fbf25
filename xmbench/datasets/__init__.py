"""Datasets by name. One file per dataset: `CARD`, a dataclass `Parameters`, and `load(parameters) -> Dataset`.

A name is that of a built-in file, of an entry point, or of a folder under the data root that `xmbench data import` wrote. Every
built-in or imported dataset `x` but `synthetic` has a twin `synthetic_x`, drawn from a seed in the shape that its card states,
as long as it states classes and the widths of all modalities, or regions and words.
"""

import importlib
from typing import Any, Protocol, cast

from xmbench.cards import Card
from xmbench.datasets._files import MissingDataError, is_ready
from xmbench.datasets._imported import folders, imported_names, open_imported
from xmbench.datasets._twins import PREFIX, can_have_twin, twin_of
from xmbench.registry import closest, modules, parameters_of, typed_parameters
from xmbench.types import Dataset, check_split

__all__ = ["MissingDataError", "dataset_card", "dataset_names", "dataset_parameters", "is_ready", "load_dataset"]


class DatasetModule(Protocol):
    """What a dataset's file provides."""

    @property
    def CARD(self) -> Card: ...  # noqa: N802

    @property
    def Parameters(self) -> type: ...  # noqa: N802

    def load(self, parameters: Any) -> Dataset: ...


def dataset_names() -> list[str]:
    """Names of all datasets, built in, plugged in (entry-point group `xmbench.datasets`), imported, and twins.

    No module is imported.
    """
    known = _modules()
    return sorted({*known, *imported_names(), *_twins(known)})


def _modules() -> dict[str, str]:
    return modules("xmbench.datasets", "xmbench.datasets")


def _twins(known: dict[str, str]) -> dict[str, str]:
    """Name of a twin -> name of its original, for the built-in datasets of `known` and the imported ones."""
    built_in = [name for name, module in known.items() if module == f"xmbench.datasets.{name}"]
    imported = [name for name in imported_names() if can_have_twin(open_imported(folders()[name]).CARD)]
    return {PREFIX + name: name for name in (*built_in, *imported) if name != "synthetic"}


def _module(name: str) -> DatasetModule:
    known, imported = _modules(), folders()
    if name in known and name in imported:
        raise ValueError(f"{name!r} is provided twice, by {known[name]} and by {imported[name]}; rename one")
    if name in known:
        return cast(DatasetModule, importlib.import_module(known[name]))
    if name in imported:
        return open_imported(imported[name])
    if name in _twins(known):
        return twin_of(_module(_twins(known)[name]).CARD)
    raise closest("dataset", name, dataset_names())


def dataset_card(name: str) -> Card:
    """The card of dataset `name`; reads no data."""
    return _module(name).CARD


def dataset_parameters(name: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every parameter of dataset `name` with its value: the defaults, overridden by `given`, typed and checked."""
    cls = _module(name).Parameters
    return {**parameters_of(cls), **typed_parameters(name, cls, given or {})}


def load_dataset(name: str, **parameters: Any) -> Dataset:
    """Load dataset `name`.

    Raises:
        LookupError: no such dataset.
        ValueError: a parameter that does not exist or has the wrong type.
        DataError: data that cannot be used, such as features that are not finite.
        MissingDataError: files that are neither on disk nor could be downloaded.
    """
    module = _module(name)
    dataset = module.load(module.Parameters(**dataset_parameters(name, parameters)))
    for split, content in dataset.splits().items():
        check_split(f"{name}/{split}", content)
    return dataset
