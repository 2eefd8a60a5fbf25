"""A method under test, with its planted data and its fits: what the checks of the contract share."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xmbench.datasets import load_dataset
from xmbench.device import fast_matmul
from xmbench.evaluate import embed_split, measure
from xmbench.method import FitContext, Method, data_fingerprint, state_bytes
from xmbench.registry import build_method, find_method, parameters_of
from xmbench.run import fit_method
from xmbench.spec import load_protocol
from xmbench.types import FEATURES, Array, Dataset, Embedding, Modality, PairedSet

Values = dict[str, Array]

SMOKE_SECONDS = 2.0  # that a fit takes at most with the smoke setting


@cache
def planted(**parameters: Any) -> Dataset:
    """The dataset `synthetic`, made once."""
    return load_dataset("synthetic", **parameters)


class Watcher:
    """A validation that scores by the epoch's embeddings, uses up random numbers, and can stop the fit."""

    def __init__(self, method: Method, split: PairedSet, stop_at: int | None = None) -> None:
        self.method, self.split, self.stop_at = method, split, stop_at
        self.calls: list[float] = []

    def __call__(self) -> dict[str, float]:
        import torch

        torch.rand(3)
        np.random.default_rng().random()
        first, second = (networks(self.method, modality)[0] for modality in self.split.modalities[:2])
        self.calls.append(float(self.method.similarity(first, second).diagonal().mean()))
        if len(self.calls) == self.stop_at:
            raise _StoppedError
        return {"rise": self.calls[-1], "fall": -self.calls[-1]}


class _StoppedError(BaseException):
    """Ends a fit as Ctrl-C does."""


@dataclass(kw_only=True)
class Subject:
    """A method under test, and what the checks share: its data and fits, each made once.

    Attributes:
        name: a registered method.
        parameters: beside its smoke setting.
        to_learn: further ones, with which it beats chance.
        some_epochs: parameters that make its fit take six epochs; None for `epochs`, and `warm_up` where it has that.
        bytes_per_item: by which its saved state grows with each training item; None for no more than a number per class and
            modality.
        load: makes the data, by parameters of the dataset `synthetic`.
        inputs_changed: whether its first fit has changed its inputs.
        seconds: of the processor that its second fit takes.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    to_learn: Mapping[str, Any] = field(default_factory=dict)
    some_epochs: Mapping[str, Any] | None = None
    bytes_per_item: int | None = None
    load: Callable[..., Dataset] = planted
    inputs_changed: bool = False
    seconds: float = 0.0

    def build(self, **parameters: Any) -> Method:
        """The method with its smoke setting."""
        return build_method(self.name, **{**find_method(self.name).info.smoke, **self.parameters, **parameters})

    def data(self, **parameters: Any) -> Dataset:
        """Planted data, with regions and words beside the vectors where the method reads them."""
        return self.load(**({"regions": 4} if self.reads_sequences else {}), **parameters)

    def obstacle(self) -> str:
        """Why the method cannot learn from planted data, or ""."""
        return self.build().obstacle(self.data().train.shapes())

    @cached_property
    def reads_sequences(self) -> bool:
        """Whether it reads regions or words: then it looks for the instance, not for the class."""
        return bool(self.build().needs() & {"sequences", "tokens"})

    @cached_property
    def test(self) -> PairedSet:
        """The test split of the planted data."""
        return self.data().tests["test"]

    def fitted(self, train: PairedSet, context: FitContext | None = None, **parameters: Any) -> Method:
        """The method fitted as the harness does it."""
        method = self.build(**parameters)
        fast_matmul()  # before the first fit, as in a run: later, it would make the second one another
        fit_method(method, train, context or FitContext())
        return method

    @cached_property
    def clean(self) -> Method:
        """The method fitted on the clean training split."""
        before = data_fingerprint(self.data().train)
        method = self.fitted(self.data().train)
        self.inputs_changed = data_fingerprint(self.data().train) != before
        return method

    @cached_property
    def again(self) -> Method:
        """The same fit another time."""
        self.clean  # noqa: B018 - libraries are loaded by the first one
        started = time.process_time()
        method = self.fitted(self.data().train)
        self.seconds = time.process_time() - started
        return method

    def watch(
        self, path: Path | None = None, stop_at: int | None = None, validate: bool = True, **options: Any
    ) -> tuple[Method, FitContext, list[float]]:
        """Fit over some epochs under a `Watcher`: the method, its context, and the scores of all validations."""
        method = self.build(**self._some_epochs())
        watcher = Watcher(method, self.data().valid, stop_at)
        context = FitContext(seed=1, validate=watcher if validate else None, checkpoint=path, checkpoint_seconds=0, **options)
        fast_matmul()
        with suppress(_StoppedError):
            fit_method(method, self.data(train=120).train, context)
        return method, context, watcher.calls

    @cached_property
    def watched(self) -> tuple[Method, FitContext, list[float]]:
        """Such a fit that comes to its end."""
        return self.watch()

    @cached_property
    def watched_rarely(self) -> tuple[Method, FitContext, list[float]]:
        """Such a fit with a validation after every fourth epoch."""
        return self.watch(validate_every=4)

    def _some_epochs(self) -> Mapping[str, Any]:
        if self.some_epochs is not None:
            return self.some_epochs
        known = parameters_of(find_method(self.name))
        return {} if "epochs" not in known else {"epochs": 4, "warm_up": 2} if "warm_up" in known else {"epochs": 6}

    @cached_property
    def state(self) -> tuple[int, int, int]:
        """Bytes of state that fits on 100 and on 200 items have declared, and the number of epochs of the first."""
        contexts = FitContext(), FitContext()
        for n, context in zip((100, 200), contexts, strict=True):
            self.fitted(self.data(train=n).train, context)
        return state_bytes(contexts[0]), state_bytes(contexts[1]), contexts[0].epoch + 1

    def scores(self, method: Method, metric: str) -> dict[str, tuple[float, float]]:
        """The metric on the test split and its chance level, by direction, their mean as "mean"."""
        protocol = load_protocol("default")
        measured = measure(method, self.test, embed_split(method, self.test, "float32", 0), protocol)
        return {m.direction: (m.value, m.chance) for m in measured.measures if (m.metric, m.network) == (metric, "mean")}


def networks(method: Method, modality: Modality) -> list[Embedding]:
    """What the method makes of a modality's features, one embedding per network."""
    made = method.embed(modality.only(FEATURES))
    return [made] if isinstance(made, Embedding) else list(made)


def embedded(method: Method, split: PairedSet) -> Values:
    """Embedding values of a split by modality and network."""
    made = {modality.name: networks(method, modality) for modality in split.modalities}
    return {f"{name}, network {k}": e.values for name, embeddings in made.items() for k, e in enumerate(embeddings)}


def difference(first: Method, second: Method, split: PairedSet) -> str:
    """How the embeddings by two fits differ; "" where every bit is the same."""
    for (name, a), b in zip(embedded(first, split).items(), embedded(second, split).values(), strict=True):
        if np.shape(a) != np.shape(b):
            return f"embeddings of {name} have shapes {np.shape(a)} and {np.shape(b)}"
        if not np.array_equal(a, b, equal_nan=True):
            rows = (np.asarray(a) != np.asarray(b)).reshape(len(a), -1).any(axis=1)
            return f"{int(rows.sum())} of {len(a)} embeddings of {name} differ, by up to {np.nanmax(np.abs(a - b)):.3g}"
    return ""
