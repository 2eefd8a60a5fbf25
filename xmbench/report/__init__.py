"""Tables and figures from a store: `render` writes them all; one file per kind, one function `group -> files` each."""

from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd

from xmbench.report.curves import noise_curves, precision_recall
from xmbench.report.detection import noise_detection
from xmbench.report.files import Context, File
from xmbench.report.groups import NEEDED, READ, Group, Reader, Results, decoded, group_rows
from xmbench.report.index import write_index, write_provenance
from xmbench.report.recalls import rsum_tables
from xmbench.report.style import Palette
from xmbench.report.tables import map_tables
from xmbench.report.training import training_curves
from xmbench.report.trials import trial_table
from xmbench.report.tsne import tsne

__all__ = ["NEEDED", "READ", "REPORTS", "NothingToReport", "metrics_of", "render"]

REPORTS: dict[str, Callable[[Group, Context], list[File]]] = {
    "map": map_tables,
    "rsum": rsum_tables,
    "pr": precision_recall,
    "noise": noise_curves,
    "training": training_curves,
    "detection": noise_detection,
    "tsne": tsne,
    "trials": trial_table,
}
ONLY = {"map": "map", "pr": "map", "tsne": "map", "rsum": "rsum", "detection": "rsum"}  # kind -> metric of the groups it is for


class NothingToReport(LookupError):
    """The store holds no finished run that a report could show."""


def metrics_of(kinds: Collection[str]) -> list[str | None] | None:
    """The metrics that these kinds of files show, and None for runs without any; None for all metrics."""
    return ["map", None] if set(kinds) == {"map"} else None


def render(
    store: Results, out: Path, *, where: pd.DataFrame | None = None, kinds: Collection[str] = tuple(REPORTS)
) -> list[Path]:
    """Write all tables and figures of a store into a folder, and return their paths.

    Args:
        store: the results; only `rows` and `arrays` are called.
        out: folder, made where missing; files of the same names are replaced one by one.
        where: the rows to show, where not all of the store's.
        kinds: which of `REPORTS` to write.

    Raises:
        NothingToReport: no run of these rows has a MAP or an rSum on a test split.
    """
    rows = store.rows() if where is None else where
    groups = group_rows(rows)
    if not groups:
        raise NothingToReport(_nothing(rows))
    out.mkdir(parents=True, exist_ok=True)
    labels = sorted({label for group in groups for label in group.labels})
    context = Context(Reader(store), Palette(labels), out)
    made = [(group, _made(group, context, kinds)) for group in groups]
    files = [file for _, kinds in made for part in kinds.values() for file in part]
    return [*(file.path for file in files), write_provenance(out, files), write_index(out, made, rows)]


def _made(group: Group, context: Context, kinds: Collection[str]) -> dict[str, list[File]]:
    """The files of a group by kind; only tuned runs have trials, and only data with labels a MAP, PR curves and classes."""
    shown = [kind for kind in REPORTS if ONLY.get(kind, group.metric) == group.metric and (group.tuned or kind != "trials")]
    return {kind: REPORTS[kind](group, context) for kind in shown if kind in kinds}


def _nothing(rows: pd.DataFrame) -> str:
    """Why there is nothing to show, and what to run."""
    counts = decoded(rows.drop_duplicates("run_id"))["status"].value_counts().sort_index()
    found = ", ".join(f"{status} {count}" for status, count in counts.items()) or "no run at all"
    run = "xmbench run --methods mrl,ce,mcca --dataset wikipedia"
    return f"nothing to report: no finished run with a test MAP or rSum ({found}); run for example `{run}`"
