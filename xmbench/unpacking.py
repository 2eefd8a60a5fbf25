"""Taking named files out of archives that may be hostile: .zip, and .tar in every compression."""

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from xmbench.datasets._files import readable, unfolded_limit
from xmbench.downloading import check_space, full
from xmbench.types import DataError

_BLOCK = 1 << 20
_SHOWN = 8  # members that an error names


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    plain: bool  # a file, and neither a link nor a device
    opened: Callable[[], IO[bytes] | None]


def unpack(archive: Path, wanted: Mapping[str, Path]) -> None:
    """Write members of an archive, told by the ends of their paths, to the files that are wanted; nothing else is written.

    A file has its name once it is whole; those that are there already stay. What can be had is written before an error tells
    what cannot.

    Raises:
        NoSpaceError: the disk has no room for them.
        DataError: the archive is damaged, lacks one of them, or has links where files should be, names that lead out of a
            folder, or a size that it unfolds to far above its own.
    """
    wanted = {name: path for name, path in wanted.items() if not path.exists()}
    if not wanted:
        return
    with readable(archive, "a whole .zip or .tar archive", "remove it and download it again"), _members(archive) as members:
        for member in members:
            path = PurePosixPath(member.name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{archive}: no name may lead out of the folder, got {member.name!r:.100}; do not use it")
        chosen, lacking = {}, []
        for name in wanted:
            try:
                chosen[name] = _chosen(archive, members, name)
            except DataError as error:
                lacking.append(str(error))
        size, most = sum(member.size for member in chosen.values()), unfolded_limit(archive.stat().st_size)
        if size > most:
            raise DataError(f"{archive}: must unfold to at most {most:,} bytes, says {size:,}; do not use it")
        for name, member in chosen.items():
            wanted[name].parent.mkdir(parents=True, exist_ok=True)
            check_space(wanted[name].parent, member.size, wanted[name].name)
            _write(member, wanted[name])
        if lacking:
            raise DataError("; ".join(lacking))


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """What is in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield [_of_zip(opened, info) for info in opened.infolist()]
    else:
        with tarfile.open(archive) as opened_tar:
            yield [_of_tar(opened_tar, info) for info in opened_tar]


def _of_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    plain = not info.is_dir() and kind in (0, stat.S_IFREG)
    return _Member(info.orig_filename, info.file_size, plain, lambda: archive.open(info))


def _of_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    return _Member(info.name, info.size, info.isreg(), lambda: archive.extractfile(info))


def _chosen(archive: Path, members: Sequence[_Member], name: str) -> _Member:
    """The one member whose path ends so."""
    end = PurePosixPath(name).parts
    found = [member for member in members if PurePosixPath(member.name).parts[-len(end) :] == end]
    if len(found) != 1:
        there = ", ".join(member.name for member in found or members[:_SHOWN]) or "nothing"
        raise DataError(f"{archive}: must hold one file {name}, got {len(found)}; there are {len(members):,}: {there:.500}")
    if not found[0].plain:
        raise DataError(f"{archive}: {found[0].name} must be a file, got a link, a folder or a device; do not use it")
    return found[0]


def _write(member: _Member, path: Path) -> None:
    """Copy a member to a file, as many bytes as it says."""
    part = path.with_name(f".{path.name}.unpacking")
    try:
        source = member.opened()
        assert source is not None  # it is a file
        with source, part.open("wb") as file:
            left = member.size
            while block := source.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise DataError(
                        f"{member.name}: unfolds to more than the {member.size:,} bytes that it says; do not use it"
                    )
                file.write(block)
        if left:
            raise EOFError(f"{member.name}: {left:,} bytes are missing")
        part.replace(path)
    except OSError as error:
        raise full(error, path.parent, f"{path.name} was not unpacked; make room and try again") or error from None
    finally:
        part.unlink(missing_ok=True)
