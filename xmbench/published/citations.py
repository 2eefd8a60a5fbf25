"""References to cite: one BibTeX entry per paper; its field `names` lists the methods, datasets and numbers that rest on it."""

import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files

_ENTRY = re.compile(r"^@.*?^}$", re.MULTILINE | re.DOTALL)
_NAMES = re.compile(r"^  names = \{(.*)\},\n", re.MULTILINE)


@cache
def _entries() -> tuple[tuple[str, frozenset[str]], ...]:
    """Each entry without its field `names`, and what that lists."""
    text = files(__package__).joinpath("citations.bib").read_text("utf-8")
    found = []
    for entry in _ENTRY.findall(text):
        names = _NAMES.search(entry)
        if names is None:
            raise ValueError(f"each entry of citations.bib must have a line `names`, got none in {entry.splitlines()[0]}")
        found.append((_NAMES.sub("", entry), frozenset(names[1].split(", "))))
    return tuple(found)


def cited() -> frozenset[str]:
    """Names of the methods, datasets and papers of published numbers that there is a reference for."""
    return frozenset[str]().union(*(names for _, names in _entries()))


def bibtex(names: Collection[str]) -> str:
    """The entries of these names, each once, in the order of the file; names without one are passed over."""
    return "\n\n".join(entry for entry, of in _entries() if not of.isdisjoint(names))
