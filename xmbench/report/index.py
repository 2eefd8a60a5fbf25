"""The list of a report's files: provenance.csv and index.md, one line per file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xmbench.report.figures import FIGURES
from xmbench.report.files import File, write_text
from xmbench.report.groups import KEY, Group, decoded, short_hash
from xmbench.report.markup import inline, template
from xmbench.report.words import counted, dataset_words, noise_words, protocol_words, run_words, scheme_words

COLUMNS = ["file", *KEY, "split", "noise", "noise_shas", "n_runs", "run_set", "run_ids"]


def write_provenance(out: Path, files: Sequence[File]) -> Path:
    """Write which runs, noise and protocol each file shows, a line per file and group; earlier files keep their lines."""
    path = out / "provenance.csv"
    shown = {id(file.runs): file.runs for file in files}  # many files show the same runs
    listed = {key: _listed(runs) for key, runs in shown.items()}
    origins = [_origin(file) | listed[id(file.runs)] for file in files]
    told = pd.DataFrame(origins, columns=COLUMNS)
    if path.is_file():
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False).reindex(columns=COLUMNS)
        there = [(out / str(name)).is_file() for name in earlier["file"]]
        told = pd.concat([told, earlier[~earlier["file"].isin(told["file"]) & np.array(there, dtype=bool)]])
    write_text(path, told.to_csv(index=False, lineterminator="\n"))
    return path


def _origin(file: File) -> dict[str, Any]:
    """What is written of one file, its runs aside."""
    return {"file": file.path.name, **{name: getattr(file.group, name) for name in [*KEY, "split"]}}


def _listed(runs: pd.DataFrame) -> dict[str, Any]:
    """What is written of the runs of a file; lists are separated by spaces."""
    runs = runs.loc[runs["status"] != "no run", ["run_id", "noise_sha"]]
    shas = sorted(set(runs["noise_sha"]) - {""})
    return {
        "noise": noise_words(runs),
        "noise_shas": " ".join(shas),
        "n_runs": len(runs),
        "run_set": short_hash(runs["run_id"]),
        "run_ids": " ".join(sorted(runs["run_id"])),
    }


def write_index(out: Path, made: Sequence[tuple[Group, dict[str, list[File]]]], rows: pd.DataFrame) -> Path:
    """Write the list of all files by group, and the runs that have no result.

    Args:
        out: the folder.
        made: by group and kind of report, what was written.
        rows: all rows of the report, for the runs that did not finish.
    """
    files = [file for _, kinds in made for part in kinds.values() for file in part]
    known = {file.path.name for file in files} | {"index.md", "provenance.csv"}
    older = sorted(p.name for p in out.iterdir() if p.is_file() and p.name not in known and not p.name.startswith("."))
    text = template("index.md.j2").render(
        sections=[_section(group, kinds) for group, kinds in made], unfinished=unfinished(rows), older=older
    )
    path = out / "index.md"
    write_text(path, text)
    return path


def _section(group: Group, kinds: dict[str, list[File]]) -> dict[str, Any]:
    words = [noise_words(group.runs), protocol_words(group), run_words(group.runs)]
    return {
        "title": f"{dataset_words(group)}, {scheme_words(group)}",
        "source": "; ".join(words),
        "lines": [
            f"[{file.path.name}]({file.path.name}): {inline(file.title)}, {counted(len(file.runs), 'run')}"
            for files in kinds.values()
            for file in files
        ],
        "tables": [file.path.read_text("utf-8") for file in kinds.get("rsum", []) if file.path.name == f"{group.slug}_rsum.md"],
        "absent": ", ".join(kind for kind, files in kinds.items() if not files and kind not in FIGURES),
        "lacking": [f"{name}: {FIGURES[name].needs}" for name, files in kinds.items() if _is_lacking(name, files)],
    }


def _is_lacking(kind: str, files: Sequence[File]) -> bool:
    """Whether a figure of this group is missing for want of data."""
    return kind in FIGURES and not files and not FIGURES[kind].once


def unfinished(rows: pd.DataFrame) -> list[str]:
    """Lines on runs without a result: dataset, method, rates, status and the last line of the first error."""
    runs = decoded(rows[rows["status"] != "ok"].drop_duplicates("run_id")).sort_values("run_id")
    lines = []
    keys = [runs[name] for name in ("dataset", "noise_scheme", "method", "status")]
    for (dataset, scheme, method, status, _), part in runs.groupby([*keys, runs["trial"].notna()], dropna=False):
        rates = ", ".join(f"{rate:g}" for rate in sorted(part["noise_rate"].unique()))
        errors = [str(error).strip().splitlines()[-1] for error in part["error"].dropna() if str(error).strip()]
        reason = f": {errors[0]}" if errors else ""
        if part["trial"].notna().all():
            method = f"{method} (trials)"
        lines.append(f"{dataset}, {scheme}: {method} at {rates}: {status}, {counted(len(part), 'run')}{reason}")
    return lines
