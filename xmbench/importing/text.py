"""Text files of unknown encoding and layout."""

import codecs
import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from xmbench.types import DataError

FALLBACK = "latin-1"
_SIGNS = ("\t", ";", "|", ",")


def encoding(path: Path) -> tuple[str, int]:
    """UTF-8, or UTF-16 where the file begins so, or Latin-1 where it is neither, with the first line that shows it (else 0)."""
    return _encoding(path, path.stat().st_mtime_ns)


@lru_cache
def _encoding(path: Path, _changed: int) -> tuple[str, int]:
    lines = 1
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8")()
        block = b""
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
                lines += block.count(b"\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return FALLBACK, lines + block[: error.start].count(b"\n")
    return "utf-16" if wide else "utf-8-sig", 0


def fallback_note(path: Path) -> str:
    """What to tell of a file that is no UTF-8; "" of one that is."""
    _, line = encoding(path)
    return (
        f"{path} is not UTF-8 (first in line {line}): read as Latin-1; convert it where accents come out wrong" if line else ""
    )


def delimiter(line: str) -> str:
    """The sign between the cells of a line: the most frequent of tab, semicolon, bar and comma."""
    return max(_SIGNS, key=line.count) if any(sign in line for sign in _SIGNS) else ","


def read_rows(path: Path) -> Iterator[list[str]]:
    """The cells of every line that is not empty, without the spaces around them.

    Raises:
        DataError: a quotation mark is opened and not closed.
    """
    with path.open(encoding=encoding(path)[0], newline="") as file:
        sign = delimiter(file.readline())
        file.seek(0)
        try:
            mark = '"' if sign in ",;" else None  # elsewhere a quotation mark is a character like any other
            quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if mark else csv.QUOTE_NONE
            for row in csv.reader(file, delimiter=sign, skipinitialspace=True, strict=True, quoting=quoting):
                if row:
                    yield [cell.strip() for cell in row]
        except csv.Error as error:
            raise DataError(f"{path}: must be lines of cells ({error}); close its quotation marks") from None


def plain(name: str) -> str:
    """A column's name without case and signs: "Image Name" and image_name are one."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
