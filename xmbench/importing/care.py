"""Imported datasets as they lie on disk."""

from typing import Any

import numpy as np

from xmbench.datasets import is_ready
from xmbench.datasets._imported import Imported, folders, open_imported
from xmbench.types import DataError


def found(name: str) -> Imported:
    """An imported dataset.

    Raises:
        LookupError: none of that name was imported.
        DataError: its card is damaged.
    """
    known = folders()
    if name not in known:
        raise LookupError(f"no imported dataset named {name!r}; imported: {', '.join(known) or 'none'}")
    return open_imported(known[name])


def listed() -> list[dict[str, Any]]:
    """One row per imported dataset, the damaged ones with the reason."""
    rows: list[dict[str, Any]] = []
    for name, folder in folders().items():
        row: dict[str, Any] = {"name": name, "folder": str(folder)}
        try:
            imported = open_imported(folder)
            counts = np.bincount(imported._array("split.npy"), minlength=len(imported.content["sizes"]))
        except DataError as error:
            rows.append({**row, "state": f"damaged: {error}"})
            continue
        card = imported.CARD
        rows.append(
            {
                **row,
                "state": "ready" if is_ready(card) else "features missing",
                "pairs": "/".join(map(str, counts)),
                "modalities": ", ".join(imported.content["modalities"]),
                "classes": card.classes,
                "GB": sum(file["bytes"] for file in imported.content["files"].values()) / 1e9,
            }
        )
    return rows
