"""Files of a report: written whole or not at all, with the runs they show."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd
from matplotlib.figure import Figure

from xmbench.report.groups import Group, Reader
from xmbench.report.style import Palette


@dataclass(frozen=True)
class File:
    """A written file.

    Attributes:
        path: where it is.
        title: what it shows, in a few words.
        group: the group it is about.
        runs: the runs it shows, rows of `group.runs`.
    """

    path: Path
    title: str
    group: Group
    runs: pd.DataFrame


@dataclass(frozen=True)
class Context:
    """What all files of one report share.

    Attributes:
        reader: arrays of the runs.
        palette: colours of the methods.
        out: the folder.
        groups: all of them, for what is over several.
        agg: how tables make one number of several seeds, of `layouts.AGGREGATES`.
        papers: whose printed numbers tables show beside ours.
        mark: what tables mark, the "best" of a column or by letters the "significance" of differences.
    """

    reader: Reader
    palette: Palette
    out: Path
    groups: Sequence[Group] = ()
    agg: str = "mean±std"
    papers: tuple[str, ...] = ()
    mark: str = "best"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with Unix line ends."""
    _replace(path, lambda file: file.write(text.encode()))


def write_figure(stem: Path, figure: Figure, subject: str) -> list[Path]:
    """Write a figure atomically as PDF and PNG, without a date, so that the same figure gives the same bytes.

    Args:
        stem: path without suffix.
        figure: what to write.
        subject: which runs it shows, for the files' metadata.
    """
    paths = [stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")]
    pdf = {"Title": stem.name, "Subject": subject, "CreationDate": None}
    png = {"Title": stem.name, "Description": subject}
    _replace(paths[0], lambda file: figure.savefig(file, format="pdf", metadata=pdf))
    _replace(paths[1], lambda file: figure.savefig(file, format="png", metadata=png))
    return paths


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
