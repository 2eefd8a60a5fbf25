"""What the harness tells of a run to the one method whose embeddings were made elsewhere, `precomputed`: which items it embeds,
and which files are the run's. It is told to no other method, since it gives rows, rates and splits away."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xmbench.method import Method
from xmbench.registry import build_method
from xmbench.types import Dataset, Items, PairedSet

if TYPE_CHECKING:
    from xmbench.plan import Run


def method_of(run: "Run") -> Method:
    """The method of a run; of embeddings made elsewhere, {dataset}, {noise}, {rate} and {seed} in its path are the run's."""
    method = build_method(run.implementation, **run.parameters)
    if "items" not in method.needs():
        return method
    facts = {"dataset": run.dataset, "noise": run.noise.scheme, "rate": f"{run.noise.rate:g}", "seed": str(run.seed)}
    path = str(run.parameters["path"])
    for name, value in facts.items():
        path = path.replace(f"{{{name}}}", value)
    return build_method(run.implementation, **{**run.parameters, "path": path})


def with_named_items(name: str, split: PairedSet) -> PairedSet:
    """The split, each modality of which knows its items."""
    named = [replace(m, items=Items(name, len(m), np.arange(len(m)), m.item_ids)) for m in split.modalities]
    return replace(split, modalities=tuple(named))


def with_named_tests(dataset: Dataset) -> Dataset:
    """The dataset with items that are known in its tests; a split that is a test under two names has the first."""
    first = {id(split): name for name, split in reversed(list(dataset.tests.items()))}
    named = {name: with_named_items(name, dataset.tests[name]) for name in first.values()}
    return replace(dataset, tests={name: named[first[id(split)]] for name, split in dataset.tests.items()})
