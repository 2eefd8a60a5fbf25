"""R@K and rSum tables of instance retrieval, one block of rows per noise rate; mAP@R and PMRP in a table of their own."""

import json
from collections.abc import Sequence

import pandas as pd

from xmbench.report.blocks import DIGITS, RANKED, BlockTable, Column, block_cells, write_blocks
from xmbench.report.cells import tidy
from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.words import dataset_words, direction_words, scheme_words, selection_words, setting_words

RECALLS = {"r@1": "R@1", "r@5": "R@5", "r@10": "R@10"}
MATCHES = {"map@r": "mAP@R", "pmrp": "PMRP"}
RSUM = ("mean", "rsum")
SIZES = ("hidden", "steps", "batch_size", "lr", "warm_up")  # and all whose name ends in dim or epochs


def rsum_tables(group: Group, context: Context) -> list[File]:
    """Write the tables of each selection as LaTeX and Markdown, and all metrics of a selection as one tidy CSV."""
    files: list[File] = []
    for selection in SELECTIONS:
        cells = recall_cells(group, selection)
        if not cells["n"].any():
            continue
        table, others = recall_table(group, cells, selection), matches_table(group, cells, selection)
        files += write_blocks(group, context, table, cells)
        path = context.out / f"{table.stem}.csv"
        told = cells[(cells["n"] > 0) | (cells["metric"] == RSUM[1])]  # a cell without a result is told once
        write_text(path, tidy(group, told, selection).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
        files.append(File(path, f"all metrics by noise rate, {selection_words(group, selection)}", group, group.runs))
        files += write_blocks(group, context, others, cells) if others.columns else []
    return files


def recall_cells(group: Group, selection: str) -> pd.DataFrame:
    """Cells of all metrics of the split, as `block_cells` gives them."""
    return block_cells(group, group.measures(selection), [RSUM], group.collapsed(selection))


def recall_table(group: Group, cells: pd.DataFrame, selection: str) -> BlockTable:
    """R@1, R@5 and R@10 in each direction, and rSum with its deviation."""
    columns = [*_columns(cells, RECALLS, spread=False), Column(*RSUM, "", "rSum")]
    return BlockTable(
        stem=f"{group.slug}_rsum{_ending(selection)}",
        title=f"R@K and rSum by noise rate, {selection_words(group, selection)}",
        caption=(
            f"R@K and rSum in percent {_setting(group, selection)} Mean over seeds, for rSum ± standard deviation; {RANKED}."
        ),
        columns=columns,
        notes=[*_chance_notes(group), *size_notes(group)],
    )


def matches_table(group: Group, cells: pd.DataFrame, selection: str) -> BlockTable:
    """mAP@R and PMRP in each direction, as far as they were measured; without columns where they were not."""
    columns = _columns(cells, MATCHES, spread=True)
    words = " and ".join(dict.fromkeys(column.head for column in columns))
    return BlockTable(
        stem=f"{group.slug}_matches{_ending(selection)}",
        title=f"matches among the first R ranks ({words}) by noise rate, {selection_words(group, selection)}",
        caption=(
            f"Matches among the first R ranks, R as many as a query has ({words}), in percent {_setting(group, selection)} "
            f"Mean ± standard deviation over seeds; {RANKED}."
        ),
        columns=columns,
        notes=size_notes(group),
    )


def _columns(cells: pd.DataFrame, heads: dict[str, str], *, spread: bool) -> list[Column]:
    """A column per direction and metric that has been measured."""
    measured = set(zip(cells["direction"], cells["metric"], strict=True))
    directions = sorted({direction for direction, _ in measured} - {"mean"})
    return [
        Column(direction, metric, direction_words(direction), head, spread)
        for direction in directions
        for metric, head in heads.items()
        if (direction, metric) in measured
    ]


def _ending(selection: str) -> str:
    return "" if selection == "best_valid" else f"_{selection}"


def _setting(group: Group, selection: str) -> str:
    return f"on {dataset_words(group)} by nominal rate of {scheme_words(group)}, {setting_words(group, selection)}."


def _chance_notes(group: Group) -> list[str]:
    chance = group.chance.get("mean")
    return [] if chance is None or pd.isna(chance) else [f"A random ranking has an rSum of {chance:.{DIGITS}f}."]


def size_notes(group: Group) -> list[str]:
    """How large the methods' networks are and how they are trained: what the numbers of two papers often differ in."""
    labels: dict[str, list[str]] = {}
    for label, params in group.runs[["label", "params"]].drop_duplicates().itertuples(index=False, name=None):
        sizes = {name: value for name, value in json.loads(params).items() if _is_size(name) and isinstance(value, int | float)}
        labels.setdefault(", ".join(f"{name}={value:g}" for name, value in sizes.items()), []).append(label)
    listed = "; ".join(f"{sizes}: {_joined(names)}" for sizes, names in sorted(labels.items()) if sizes)
    return [f"Sizes and training. {listed}."] if listed else []


def _is_size(name: str) -> bool:
    return name in SIZES or name.endswith(("dim", "epochs"))


def _joined(names: Sequence[str]) -> str:
    return ", ".join(sorted(set(names)))
