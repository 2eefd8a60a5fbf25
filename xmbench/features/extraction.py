"""From the images and captions of an imported dataset to features in its folder."""

import datetime
import errno
import importlib.metadata
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xmbench.datasets._files import file_sha256
from xmbench.datasets._imported import Imported
from xmbench.device import choose_device
from xmbench.features import rows as kept_rows
from xmbench.features.extractor import Extractor, Wanted
from xmbench.features.families import DEFAULTS, family_of, open_extractor
from xmbench.features.inputs import Inputs, inputs_of
from xmbench.features.pictures import BrokenPictureError
from xmbench.features.rows import KeptRows, recipe_hash
from xmbench.features.writing import cleared, file_of, install, shapes_in, write_features
from xmbench.importing.cards import next_command
from xmbench.importing.care import found
from xmbench.importing.images import SHOWN_BROKEN
from xmbench.progress import LongWork
from xmbench.types import Array, DataError

BY_DEFAULT = ("vectors", "regions")
KINDS = (*BY_DEFAULT, "tokens")


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What is extracted.

    Attributes:
        name: of an imported dataset.
        extractors: modality -> FAMILY or FAMILY:MODEL; where none is named, the one taken before, else that of `DEFAULTS`.
        kinds: of features; () for `BY_DEFAULT`, as far as an extractor gives them.
        weights: modality -> file or folder, where they are not those of the library.
        device: of torch, or "auto".
        batch_size: images or captions that go through a model at a time.
    """

    name: str
    extractors: Mapping[str, str] = field(default_factory=dict)
    kinds: Sequence[str] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    batch_size: int = 32


@dataclass(frozen=True)
class _Job:
    """One modality by one extractor."""

    inputs: Inputs
    extractor: str
    kinds: tuple[str, ...]
    weights: Path | None


def extract(request: Extraction) -> dict[str, Any]:
    """Write features into a dataset's folder, all or none of them, and return what was done.

    Raises:
        LookupError: no dataset of that name was imported, or there is no such extractor.
        ValueError: what is asked for does not fit the dataset, or a library is not installed.
        MissingDataError: weights are neither on disk nor to be downloaded.
        DataError: images are gone, changed or broken; what was computed of the others is kept.
        OSError: the data root is full; what was computed is kept.
    """
    root = found(request.name).folder.parent
    facts: dict[str, Any] = {"name": request.name}
    names: list[str] = []
    records: dict[str, dict[str, Any]] = {}
    busy = f"features of {request.name} are being extracted already"
    with _locked(root / kept_rows.FOLDER / request.name, busy), _room_told(root), cleared(root / request.name):
        imported = found(request.name)
        content: Mapping[str, Any] = imported.content
        jobs = _jobs(imported, request)
        facts |= {
            job.inputs.modality: f"{', '.join(job.kinds)} by {job.extractor} are there already"
            for job in jobs
            if _is_done(imported, job)
        }
        to_run = [(job, _opened(job, request.device)) for job in jobs if job.inputs.modality not in facts]  # all, before hours
        for job, extractor in to_run:
            modality = job.inputs.modality
            written, records[modality], facts[modality] = _run(imported, job, extractor, request.batch_size)
            names += written
        if names:
            content = install(imported, names, records)
    shapes = shapes_in(imported.folder, content["files"])
    labelled = next((name for name in content["files"] if name.endswith(".labels.npy")), "")
    kinds = [set(shapes.get(name, {})) for name in content["modalities"]]
    facts["next"] = next_command(request.name, kinds, bool(labelled), bool(content.get("multi_label")))
    return facts


def _jobs(imported: Imported, request: Extraction) -> list[_Job]:
    """What is to be done, checked against the dataset."""
    for modality in (*request.extractors, *request.weights):
        if modality not in imported.content["modalities"] or inputs_of(imported, modality) is None:
            got = "images" if modality == "image" else "captions"
            raise ValueError(f"{request.name} must have been imported with {got}, got none; see xmbench data import --help")
    jobs = [job for name in imported.content["modalities"] if (job := _job(imported, request, name)) is not None]
    if not jobs and request.kinds and not any(_made(imported, name) for name in imported.content["modalities"]):
        raise ValueError(f"no extractor gives {', '.join(request.kinds)} of {request.name}; see xmbench features list")
    return jobs


def _job(imported: Imported, request: Extraction, modality: str) -> _Job | None:
    """What is to be done for a modality; None where it is to be left as it is."""
    inputs, files, made = inputs_of(imported, modality), imported.content["files"], _made(imported, modality)
    given, weights = request.extractors.get(modality, ""), request.weights.get(modality)
    if inputs is None:
        return None
    extractor = given or next((str(one["extractor"]) for one in made.values()), DEFAULTS[modality])
    offered = family_of(extractor, modality).kinds
    kinds = tuple(kind for kind in request.kinds or BY_DEFAULT if kind in offered)
    if given and not kinds:
        raise ValueError(f"{extractor} must give {' or '.join(request.kinds)}, it gives {', '.join(offered)}")
    foreign = [kind for kind in kinds if file_of(modality, kind) in files and kind not in made]
    if foreign and (given or weights):
        advice = "import it without them, or ask for other features by --kind"
        raise ValueError(f"{request.name} was imported with {foreign[0]} of {modality}, which are not replaced; {advice}")
    return _Job(inputs, extractor, kinds, Path(weights) if weights else None) if kinds and not foreign else None


def _made(imported: Imported, modality: str) -> Mapping[str, Any]:
    """Kind -> what the card says of the features that were extracted."""
    made: Mapping[str, Any] = imported.content.get("features", {}).get(modality, {})
    return made


def _is_done(imported: Imported, job: _Job) -> bool:
    """Whether the dataset has these features already, by the same extractor, weights and versions."""
    made = _made(imported, job.inputs.modality)
    if job.weights is not None and not job.weights.is_file():
        return False
    own = file_sha256(job.weights) if job.weights is not None else ""
    for kind in job.kinds:
        record = made.get(kind, {})
        if record.get("extractor") != job.extractor or record.get("own_weights") != own:
            return False
        if record["versions"] != {package: _version(package) for package in record["versions"]}:
            return False
    return True


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _opened(job: _Job, device: str) -> Extractor:
    """The extractor of a modality, loaded."""
    texts, inside = job.inputs.texts, job.inputs.train
    return open_extractor(
        Wanted(
            name=job.extractor,
            model=job.extractor.partition(":")[2],
            modality=job.inputs.modality,
            weights=job.weights,
            device=choose_device(device),
            texts=texts,
            train=[text for text, kept in zip(texts, inside, strict=True) if kept] if texts else [],
        )
    )


def _run(imported: Imported, job: _Job, extractor: Extractor, batch_size: int) -> tuple[list[str], dict[str, Any], str]:
    """Compute what is not kept already, and write it under hidden names.

    Returns:
        Names of the files, what the card is to say of each kind, and what was done, in words.
    """
    inputs, modality = job.inputs, job.inputs.modality
    kinds = [kind for kind in job.kinds if kind in extractor.kinds]
    folder = imported.folder.parent / kept_rows.FOLDER / recipe_hash(extractor.recipe)
    with _locked(folder, f"{job.extractor} is computing features already"):
        rows = {kind: KeptRows(folder, kind, extractor.kinds[kind]) for kind in kinds}
        n_new = _fill(inputs, extractor, rows, batch_size, f"{modality} by {job.extractor}")
        names = [name for kind in kinds for name in write_features(imported.folder, modality, kind, rows[kind], inputs.sha256s)]
    own = file_sha256(job.weights) if job.weights is not None and job.weights.is_file() else ""
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    records = {
        kind: {**extractor.recipe, "width": extractor.kinds[kind][-1], "own_weights": own, "when": when} for kind in kinds
    }
    shapes = "; ".join(f"{kind} {' x '.join(f'{n:,}' for n in (len(inputs), *extractor.kinds[kind]))}" for kind in kinds)
    rest = f", {len(inputs) - n_new:,} kept or equal to another" if n_new < len(inputs) else ""
    return names, records, f"{shapes} by {job.extractor}; {n_new:,} computed{rest}"


def _fill(inputs: Inputs, extractor: Extractor, rows: Mapping[str, KeptRows], batch_size: int, what: str) -> int:
    """Compute the rows that are not kept; returns how many.

    Raises:
        DataError: images are broken; the rows of all others are kept.
    """
    first = {sha256: i for i, sha256 in reversed(list(enumerate(inputs.sha256s)))}
    distinct = sorted(first.values())
    sha256s = [inputs.sha256s[i] for i in distinct]
    lacking = {kind: dict(zip(distinct, kept.places(sha256s) < 0, strict=True)) for kind, kept in rows.items()}
    todo = [i for i in distinct if any(lack[i] for lack in lacking.values())]
    broken: dict[str, str] = {}
    if todo:
        print(f"{what}: {len(todo):,} of {len(inputs):,} to compute", file=sys.stderr, flush=True)
    work = LongWork(what, len(todo))
    n_done = 0
    for chunk, prepared in _ahead(lambda i: extractor.prepare(inputs.open(i)), todo, batch_size):
        batch = {}
        for i, future in zip(chunk, prepared, strict=True):
            try:
                batch[i] = future.result()
            except BrokenPictureError as error:
                broken[inputs.names[i]] = str(error)
        if batch:
            features = _computed(extractor, list(batch.values()))
            for kind, kept in rows.items():
                new = [k for k, i in enumerate(batch) if lacking[kind][i]]
                kept.append([inputs.sha256s[i] for i in batch if lacking[kind][i]], features[kind][new])
        n_done += len(chunk)
        work.done(n_done)
    if broken:
        raise DataError(_told_broken(broken, len(inputs)))
    return len(todo)


def _computed(extractor: Extractor, batch: list[Any]) -> dict[str, Array]:
    import torch

    try:
        return extractor.compute(batch)
    except torch.OutOfMemoryError:
        got = f"too little for {len(batch)} items at a time"
        raise ValueError(f"the device must have memory for a batch, got {got}; give a smaller --batch-size") from None


def _told_broken(broken: Mapping[str, str], n: int) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(broken.items())[:SHOWN_BROKEN])
    more = f" and {len(broken) - SHOWN_BROKEN} more" if len(broken) > SHOWN_BROKEN else ""
    advice = "put them back, or import the dataset again, without them by --skip-broken; the features of all others are kept"
    return f"{len(broken)} of {n} images cannot be used ({shown}{more}); {advice}"


def _ahead(prepare: Callable[[int], Any], todo: Sequence[int], size: int) -> Iterator[tuple[Sequence[int], list[Future[Any]]]]:
    """Batches of items that are being prepared, the next one already while the model computes."""
    waiting: deque[tuple[Sequence[int], list[Future[Any]]]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for start in range(0, len(todo), size):
            chunk = todo[start : start + size]
            waiting.append((chunk, [pool.submit(prepare, i) for i in chunk]))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _locked(folder: Path, told: str) -> Iterator[None]:
    folder.parent.mkdir(exist_ok=True)
    try:
        with FileLock(folder.parent / f"{folder.name}.lock").acquire(timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{told}, in another process; wait for it, the same command then goes on") from None


@contextmanager
def _room_told(root: Path) -> Iterator[None]:
    """What a full data root is called in an error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                f"no space left in {root}; make room and give the same command again, what was computed is kept"
            ) from None
        raise
