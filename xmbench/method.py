"""What a method is: fit, embed, similarity; and the context that a fit runs in."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xmbench.types import NEEDS, Array, Embedding, Modality, PairedSet, Rows, Shapes, fingerprint, stream, stream_seed

if TYPE_CHECKING:
    import torch

Needs = frozenset[str]


@dataclass(frozen=True)
class MethodInfo:
    """What a method declares beside its code.

    Attributes:
        needs: names out of `NEEDS`, or a function of the method (its parameters) that returns them.
        version: raised when a change makes other numbers.
        max_modalities: the most that it can relate; None for any number.
        retrieval: False for a classifier without a common space, or a function of the method that says so.
        multi_label: whether it can read labels of items with several classes.
        from_description: neither code nor the paper's text could be had: re-implemented from what others write about it.
        search: hyper-parameter -> values tried when it is tuned; the grid has at most 12 points.
        smoke: parameters that make a fit on small data take at most two seconds, for the contract test.
    """

    name: str
    needs: Needs | Callable[[Any], Needs]
    version: int = 1
    max_modalities: int | None = None
    retrieval: bool | Callable[[Any], bool] = True
    multi_label: bool = False
    from_description: bool = False
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)


class Method(ABC):
    """A method for cross-modal retrieval. Its hyper-parameters are the fields of a keyword-only dataclass."""

    info: ClassVar[MethodInfo]

    @abstractmethod
    def fit(self, train: PairedSet, context: "FitContext") -> None:
        """Learn from `train`, which holds what the method declared and nothing else, its rows in a random order."""

    @abstractmethod
    def embed(self, modality: Modality) -> Embedding | list[Embedding]:
        """Embed every item of `modality`: features, lengths and name only. One embedding per network."""

    def similarity(self, first: Embedding, second: Embedding) -> Array:
        """Similarity (n_first, n_second) of each item with each; entry i, j depends on items i and j alone. Default: cosine.

        A row of zeros has similarity 0 with everything.
        """
        from xmbench.device import matmul

        return matmul(unit_rows(first.values), unit_rows(second.values).T)

    def obstacle(self, shapes: Shapes) -> str:
        """Why the method cannot learn from data of these shapes, with its present parameters; "" where it can.

        It is asked when a grid is planned: what it says becomes the reason of a cell that is not applicable.

        Args:
            shapes: modality -> "vectors", "sequences" or "tokens" -> shape of the training split.
        """
        return ""

    def files(self) -> dict[str, str]:
        """File -> sha256 of what the method reads beside its data: a run is another one where they are; its rows name them."""
        return {}

    def class_scores(self, modality: Modality) -> Array | None:
        """Score (n, c) of every class, in [0, 1]; None for methods without a classifier."""
        return None

    def validation_loss(self, split: PairedSet) -> float | None:
        """The training loss on another split, stripped as the training set is, without learning; None where there is none."""
        return None

    def clean_weights(self) -> Array | dict[str, Array] | list[Any] | None:
        """How clean each training pair or label is believed to be, in [0, 1], as `PairedSet.clean_pairs` or `clean` has it.

        One entry of a list per network. None for methods that hold no such belief.
        """
        return None

    def needs(self) -> Needs:
        """What the method reads, with its present parameters; the harness strips everything else."""
        declared = self.info.needs(self) if callable(self.info.needs) else self.info.needs
        known = NEEDS | {"items"} if type(self).__module__ == "baselines.precomputed" else NEEDS
        if unknown := declared - known:
            raise ValueError(f"method {self.info.name!r}: needs must be among {sorted(NEEDS)}, got {sorted(unknown)}")
        return frozenset(declared)

    def retrieves(self) -> bool:
        """Whether the method, with its present parameters, has a common space to retrieve in."""
        return bool(self.info.retrieval(self) if callable(self.info.retrieval) else self.info.retrieval)


def unit_rows(values: Array) -> Array:
    """Rows (n, d) scaled to length one; rows of zeros stay as they are."""
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(norms, np.finfo(values.dtype).tiny))


def check_positive(method: Method, *names: str) -> None:
    """Raise ValueError where one of the named hyper-parameters is not above zero."""
    for name in names:
        if not getattr(method, name) > 0:
            raise ValueError(f"{method.info.name}.{name} must be above 0, got {getattr(method, name)!r}")


def clipped(method: Method, name: str, limit: int, what: str) -> int:
    """The hyper-parameter `name`, or `limit` where that is smaller, with a warning that says so; `what` has the limit."""
    wanted = int(getattr(method, name))
    if wanted > limit:
        message = "%s.%s is %d, but %s: %d is used"
        logging.getLogger("xmbench").warning(message, method.info.name, name, wanted, f"{what} has {limit}", limit)
    return min(wanted, limit)


class DeviceRows:
    """Rows as a float32 tensor: kept on the device where they fit into half of its free memory, else moved batch by batch.

    Rows that are computed as they are read, such as word vectors looked up in a table, are never kept.
    """

    def __init__(self, rows: Rows, device: str) -> None:
        import torch

        self._device = device
        self._rows: Rows | torch.Tensor = rows
        if rows.stored and math.prod(rows.shape) * 4 < _free_bytes(device) / 2:
            self._rows = torch.from_numpy(np.asarray(rows)).to(device)

    def __getitem__(self, rows: Array) -> "torch.Tensor":
        import torch

        if isinstance(self._rows, Rows):
            return torch.from_numpy(self._rows[rows]).to(self._device)
        return self._rows[torch.from_numpy(rows).to(self._device)]


def _free_bytes(device: str) -> float:
    """Memory that new tensors may take on `device`."""
    import psutil
    import torch

    return float(torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else psutil.virtual_memory().available)


@dataclass(frozen=True)
class ModalityTensors:
    """A modality on the device: vectors and sequences by rows, labels (n, c) bool, tokens (n, L), lengths (n,)."""

    name: str
    vectors: DeviceRows | None
    sequences: DeviceRows | None
    labels: "torch.Tensor | None"
    tokens: "torch.Tensor | None"
    lengths: "torch.Tensor | None"


@dataclass
class Best:
    """The best epoch so far under one validation score, and the state that reached it."""

    value: float = -math.inf
    epoch: int = -1
    state: dict[str, Any] | None = None


class FitStopped(Exception):
    """A fit that was only to be timed has run long enough; `seconds` is what the whole fit would take."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class FitContext:
    """All that a fit may use beside its data: device, randomness, epochs with checkpoints, and validation.

    Every draw depends on `seed`, the name of the draw and the epoch alone, so that a fit resumed after any epoch
    continues with the same bits, and validation cannot change it.

    Args:
        seed: the method's seed.
        device: a torch device.
        validate: measures the method as it stands: {score key: value, higher is better}. One key per selection that is
            made on this fit.
        observe: further figures for the history, read at each end of an epoch: {name: value}.
        validate_every: epochs between validations; the last epoch of a stage is always validated.
        checkpoint: file that an interrupted fit continues from; None for none.
        checkpoint_seconds: least time between two checkpoints.
        time_batches: stop by `FitStopped` at the end of the first epoch, of which every pass over the data ends after so many
            batches.
        tell: called at each end of an epoch with {"epoch": number, "epochs": how many as far as is known, "loss": ...}, and
            "valid", the selection score, where it was validated.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        device: str = "cpu",
        validate: Callable[[], dict[str, float]] | None = None,
        observe: Callable[[], dict[str, float]] | None = None,
        validate_every: int = 1,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 60.0,
        time_batches: int | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda news: None,
    ) -> None:
        self.seed, self.device = seed, device
        self._validate, self._observe, self._validate_every = validate, observe, validate_every
        self._checkpoint, self._checkpoint_seconds = checkpoint, checkpoint_seconds
        self._time_batches, self._tell = time_batches, tell
        self.epoch = -1
        self.best: dict[str, Best] = {}
        self.history: list[dict[str, float]] = []
        self.records: dict[str, Array] = {}
        self._stage, self._stage_end, self._later, self._batch_calls, self._epoch_seconds = 0, 0, 0, 0, 0.0
        self._state: dict[str, Any] = {}
        self._ended = True
        self._saved_at = time.monotonic()
        self._resumed = _load(checkpoint) if checkpoint is not None and checkpoint.exists() else None

    def generator(self, *names: object) -> np.random.Generator:
        """A generator for the draw `names`, of its own in every epoch."""
        return stream("fit", self.seed, self.epoch, *names)

    def seed_torch(self, *names: object) -> None:
        """Seed torch's global generator for this epoch; the harness does so before `fit`, and every epoch begins with it."""
        import torch

        torch.manual_seed(stream_seed("fit", self.seed, self.epoch, "torch", *names))

    def tensors(self, train: PairedSet) -> tuple[ModalityTensors, ...]:
        """The modalities of `train` on the device."""
        import torch

        def move(values: Array | None) -> "torch.Tensor | None":
            return None if values is None else torch.from_numpy(values).to(self.device)

        def rows(values: Rows | None) -> DeviceRows | None:
            return None if values is None else DeviceRows(values, self.device)

        return tuple(
            ModalityTensors(m.name, rows(m.vectors), rows(m.sequences), move(m.labels), move(m.tokens), move(m.lengths))
            for m in train.modalities
        )

    def epochs(self, n_epochs: int, state: Mapping[str, Any], later: int = 0) -> Iterator[int]:
        """Count the epochs of one stage of training, from 0; a resumed fit begins after its last checkpoint.

        Args:
            n_epochs: how many.
            state: all that changes from epoch to epoch, by name: torch modules, optimisers, schedulers, tensors, and arrays
                (changed in place). Never data. A later stage names what it needs of earlier ones too: a resumed fit
                restores only what the interrupted stage names, and the best epoch goes back into the last stage's names.
            later: epochs of the stages after this one, as far as they are known: estimates of time count them.
        """
        first, stage = self._enter_stage(dict(state), n_epochs)
        for epoch in range(first, n_epochs):
            self.epoch += 1
            self._ended, self._batch_calls, self._stage_end = False, 0, n_epochs - 1 - epoch
            self._later = later
            if "torch" in _kinds(self._state):
                self.seed_torch()
            yield epoch
            if not self._ended:
                raise RuntimeError("every epoch must close with context.end_epoch(loss=...); this one did not")
            self._save(stage, epoch)
        if "torch" in _kinds(self._state):  # what is made between two stages, after a resume too
            self.seed_torch("after")

    def _enter_stage(self, state: dict[str, Any], n_epochs: int) -> tuple[int, int]:
        """Take over a stage's state; return its first epoch, after a resume the one behind the checkpoint, and its number."""
        stage, self._stage, self._state = self._stage, self._stage + 1, state
        resumed = self._resumed
        if resumed is None or stage > resumed["stage"]:
            return 0, stage
        if stage < resumed["stage"]:
            self.epoch += n_epochs
            return n_epochs, stage
        _restore(state, resumed["state"])
        self.epoch, self.history = resumed["epoch"], resumed["history"]
        self.best = {key: Best(**best) for key, best in resumed["best"].items()}
        self.records = {key: np.asarray(value) for key, value in resumed["records"].items()}
        return resumed["stage_epoch"] + 1, stage

    def batches(self, n_items: int, batch_size: int, *, even: bool = False) -> Iterator[NDArray[np.int64]]:
        """Row numbers 0..n_items-1 in a new random order, `batch_size` at a time; the last, short batch is kept.

        With `even` there is no short one: the rows are dealt into as many batches of `batch_size` or more as there can be,
        whose sizes differ by one at most, or into a single smaller one.
        """
        order = self.generator("batches", self._batch_calls).permutation(n_items)
        self._batch_calls += 1
        cuts = np.arange(batch_size, n_items, batch_size)
        parts = np.array_split(order, max(1, n_items // batch_size) if even else cuts)
        started = time.perf_counter()
        for number, part in enumerate(parts):
            yield part
            if self._time_batches is not None and number + 1 == min(self._time_batches, len(parts)):
                self._epoch_seconds += (time.perf_counter() - started) / (number + 1) * len(parts)
                return

    def end_epoch(self, *, loss: "float | torch.Tensor", selectable: bool = True) -> None:
        """Close an epoch: write its loss into the history, validate, and keep the state where it is strictly better.

        Args:
            loss: the epoch's mean training loss.
            selectable: False where this epoch must not be selected (warm-up, earlier stages).
        """
        if self._time_batches is not None:
            raise FitStopped(self._epoch_seconds * (self._stage_end + 1 + self._later))
        row = {"epoch": float(self.epoch), "loss": float(loss), "selectable": float(selectable)}
        scores: dict[str, float] = {}
        if self._stage_end == 0 or (self.epoch + 1) % self._validate_every == 0:
            with _Undisturbed(self._state):
                scores = self._validate() if self._validate is not None else {}
                row |= self._observe() if self._observe is not None else {}
            row |= {f"valid/{key}": value for key, value in scores.items()}
            if selectable:
                self._select(scores)
        self.history.append(row)
        self._ended = True
        n_epochs = self.epoch + 1 + self._stage_end + self._later
        validated = {"valid": next(iter(scores.values()))} if scores else {}
        self._tell({"epoch": self.epoch + 1, "epochs": n_epochs, "loss": row["loss"], **validated})

    def _select(self, scores: dict[str, float]) -> None:
        snapshot: dict[str, Any] | None = None
        for key, value in scores.items():
            if value > self.best.setdefault(key, Best()).value:
                snapshot = _capture(self._state, optimisers=False) if snapshot is None else snapshot
                self.best[key] = Best(value, self.epoch, snapshot)

    def restore_best(self, key: str) -> int:
        """Put the state of the best epoch under score `key` back into the method; return that epoch (-1: none was kept)."""
        best = self.best.get(key, Best())
        if best.state is not None:
            _restore(self._state, best.state)
        return best.epoch

    def record(self, name: str, array: Array) -> None:
        """Keep a diagnostic array (losses per pair, prototypes, rectified labels) for the run's store; the last one counts."""
        values = np.array(array)
        if values.dtype.kind not in "biufcSU":
            raise TypeError(f"record {name!r} must be an array of numbers or text, got {values.dtype} of shape {values.shape}")
        self.records[name] = values

    def _save(self, stage: int, stage_epoch: int) -> None:
        if self._checkpoint is None or time.monotonic() - self._saved_at < self._checkpoint_seconds:
            return
        _dump(
            self._checkpoint,
            {
                "stage": stage,
                "stage_epoch": stage_epoch,
                "epoch": self.epoch,
                "state": _capture(self._state),
                "history": self.history,
                "best": {key: vars(best) for key, best in self.best.items()},
                "records": {key: _plain(value) for key, value in self.records.items()},
            },
        )
        self._saved_at = time.monotonic()


def _plain(array: Array) -> "torch.Tensor | list[Any]":
    """What a checkpoint holds of a recorded array: a tensor, or text as a list."""
    return array.tolist() if array.dtype.kind in "SU" else _as_tensor(array)


def _as_tensor(array: Array) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _kinds(state: Mapping[str, Any]) -> set[str]:
    return {"numpy" if isinstance(value, np.ndarray) else "torch" for value in state.values()}


def _capture(state: Mapping[str, Any], *, optimisers: bool = True) -> dict[str, Any]:
    """A copy of `state` that holds tensors, numbers and containers of them only."""
    import copy

    import torch

    copies: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            copies[name] = torch.from_numpy(value.copy())
        elif isinstance(value, torch.Tensor):
            copies[name] = value.detach().clone()
        elif isinstance(value, torch.nn.Module) or optimisers:
            copies[name] = copy.deepcopy(value.state_dict())
    return copies


def _restore(state: Mapping[str, Any], copies: Mapping[str, Any]) -> None:
    """Put a `_capture` back in place."""
    import torch

    for name, saved in copies.items():
        value = state[name]
        if isinstance(value, np.ndarray):
            value[...] = saved.numpy()
        elif isinstance(value, torch.Tensor):
            with torch.no_grad():
                value.copy_(saved)
        else:
            value.load_state_dict(saved)


def _dump(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; a disk that takes none does not stop the fit."""
    import os

    import torch

    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
        logging.getLogger("xmbench").warning("checkpoint %s could not be written (%s); the fit goes on without it", path, error)


def _load(path: Path) -> dict[str, Any] | None:
    """A checkpoint's content; None, and the file removed, where it cannot be read: the fit then begins anew."""
    import zipfile

    import torch

    try:
        with zipfile.ZipFile(path) as file:  # torch.load compares no checksums
            if (broken := file.testzip()) is not None:
                raise zipfile.BadZipFile(f"{broken} has another checksum")
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return content
    except Exception:  # torch.load raises many kinds for a damaged file, all with the same remedy
        path.unlink(missing_ok=True)
        return None


class _Undisturbed:
    """Leave the modes of all modules and torch's generator as they were, whatever runs inside."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._values: Sequence[Any] = list(state.values())

    def __enter__(self) -> None:
        import torch

        modules = [m for value in self._values if isinstance(value, torch.nn.Module) for m in value.modules()]
        self._modes = [(module, module.training) for module in modules]
        self._generator = torch.get_rng_state()

    def __exit__(self, *_: object) -> None:
        import torch

        for module, training in self._modes:
            module.training = training
        torch.set_rng_state(self._generator)


def state_bytes(context: FitContext) -> int:
    """Size of the state that a fit declared, in bytes: it must hold no data."""
    import torch

    def size(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, Mapping):
            return sum(size(part) for part in value.values())
        return sum(size(part) for part in value) if isinstance(value, list | tuple) else 0

    return size(_capture(context._state))


def data_fingerprint(train: PairedSet) -> str:
    """Hash of all arrays of a split, to show that a fit left its inputs unchanged."""
    parts: list[Array | Rows | str | None] = [train.pairs]
    for m in train.modalities:
        parts += [m.vectors, m.labels, m.tokens, m.lengths]
    return fingerprint(parts)
