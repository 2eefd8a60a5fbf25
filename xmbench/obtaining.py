"""Getting the files of a public dataset: downloaded where they may be, and for the rest what to do by hand."""

from dataclasses import dataclass, field
from pathlib import Path

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets._files import MissingDataError, file_sha256, on_disk
from xmbench.datasets._imported import roots
from xmbench.downloading import SUMS, NoSpaceError, Shown, fetch, recorded
from xmbench.types import DataError
from xmbench.unpacking import unpack


@dataclass
class Obtained:
    """What is there of a dataset, and what a person has to do for the rest.

    Attributes:
        files: file -> where it is, or that it is missing.
        missing: names of the files that are missing and needed.
        to_do: why a download failed, what to get by hand, and commands, in the order in which to do it.
    """

    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)


def obtain(card: Card, shown: Shown | None = None) -> Obtained:
    """Download what may be downloaded of a dataset into its folder below the data root.

    Raises:
        NoSpaceError: the disk is full.
    """
    got = Obtained()
    for parcel in card.parcels:
        if parcel.urls and absent(card, parcel):
            try:
                got.files |= _download(card, parcel, shown)
            except NoSpaceError:
                raise
            except (MissingDataError, DataError) as error:
                got.to_do.append(str(error))
        got.files |= {name: _state(on_disk(card, name)) for name in parcel.files}
        if missing := absent(card, parcel):
            got.to_do += _advice(card, parcel, missing)
            got.missing += missing if parcel.needed else []
    got.to_do = list(dict.fromkeys(got.to_do))
    return got


def absent(card: Card, parcel: Parcel) -> list[str]:
    """Names of the files of a parcel that are not on disk."""
    return [name for name in parcel.files if on_disk(card, name) is None]


def verified(card: Card) -> dict[str, str]:
    """File -> "ok", or what is wrong with it; every file with a known or kept sha256 is read."""
    facts = {}
    for name in (name for parcel in card.parcels for name in parcel.files):
        path = on_disk(card, name)
        if path is None:
            facts[name] = "missing" if name in card.files else "missing, and not needed"
        elif not (known := card.sha256.get(name) or recorded(path)):
            facts[name] = "there; its sha256 is not known"
        else:
            got = file_sha256(path)
            facts[name] = "ok" if got == known else f"damaged: sha256 must be {known[:12]}..., got {got[:12]}..."
    return facts


def _download(card: Card, parcel: Parcel, shown: Shown | None) -> dict[str, str]:
    """Download the files of a parcel, or the archive that holds them; returns where archives and what they hold are."""
    root = roots()[0]
    if not parcel.members:
        for name in absent(card, parcel):
            fetch(parcel.urls, root / card.place / name, parcel.files[name], shown)
        return {}
    downloads = root / DOWNLOADS
    targets = {member: root / card.place / name if name else _raw(member) for member, name in parcel.members.items()}
    archive = downloads / parcel.urls[0].rpartition("/")[2]
    if not all(path.exists() for path in targets.values()):
        unpack(fetch(parcel.urls, archive, shown=shown), targets)
    paths = [archive, *(path for path in targets.values() if path.parent == downloads)]
    return {f"{DOWNLOADS}/{path.name}": _state(path if path.exists() else None) for path in paths}


def _raw(member: str) -> Path:
    """Where a member of an archive lies that is to be converted."""
    return roots()[0] / DOWNLOADS / Path(member).name


def _state(path: Path | None) -> str:
    if path is None:
        return "missing"
    kept = recorded(path)
    return f"{path}{f'; its sha256, {kept[:12]}..., was not known and is kept in {SUMS}' if kept else ''}"


def _advice(card: Card, parcel: Parcel, missing: list[str]) -> list[str]:
    """What to do for missing files: the commands that make them, where what they read is there; else how to get them."""
    root = roots()[0]
    if parcel.then and all(_raw(member).exists() for member, name in parcel.members.items() if not name):
        return [f"in {root}: {command}" for command in parcel.then if any(name in command for name in missing)]
    dead = f" (dead: {', '.join(parcel.dead)})" if parcel.dead else ""
    then = "".join(f"; then, in {root}: {command}" for command in parcel.then)
    optional = "" if parcel.needed else "not needed by default: "
    how = parcel.note or f"from {' or '.join(parcel.urls)}"
    return [f"{optional}put {', '.join(missing)} into {root / card.place}: {how}{dead}{then}"]
