"""What is found for a query, the right items marked.

After Huang et al., NeurIPS 2021, supplement, Figures 2 and 3; IJCV 2024, Figures 11 and 12; and Yang et al., IJCAI 2021,
supplement, Figure 2. Queries are drawn once for a dataset, not picked: the same for every method, failures included.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xmbench.report.examples import Line, item_names, write_examples
from xmbench.report.files import Context, File
from xmbench.report.groups import Arrays, Group, strip_prefix
from xmbench.report.selected import best_of, kept_runs
from xmbench.report.style import styled
from xmbench.report.words import absent_words, direction_words, provenance_words, selection_words

QUERIES = 8  # of each direction
DEPTH = 5


@styled()
def retrieved(group: Group, context: Context) -> list[File]:
    """Write the first items of a few queries: of each method as CSV and Markdown, of the best one as a figure."""
    prefix = f"ranking/{group.split}/best_valid/mean/"

    def has(names: frozenset[str]) -> bool:
        return any(name.startswith(prefix) for name in names) and len(_modalities(names, group)) > 1

    rate, kept = kept_runs(group, context.reader, has)
    if not kept:
        return []
    table = pd.concat(
        [found_by(run.arrays, group).assign(label=run.label, run_id=run.run_id) for run in kept], ignore_index=True
    )
    runs = group.runs[group.runs["run_id"].isin(table["run_id"])]
    best = best_of(group, rate, kept)
    absent = absent_words(group, [run.label for run in kept], "list")
    footer = provenance_words(
        group, runs, selection_words(group, "best_valid"), "queries drawn at random", f"figure: {best.label}", absent
    )
    title = f"First {DEPTH} items of {QUERIES} queries on {group.dataset} at noise rate {rate:g}"
    ordered = table[["label", "run_id", "direction", "query", "rank", "item", "right"]]
    columns = _columns(ordered[ordered["label"] == best.label])
    return write_examples(group, context, "topk", ordered, columns, title, runs, footer)


def found_by(arrays: Arrays, group: Group) -> pd.DataFrame:
    """One row per direction, query and rank: names of query and item, and whether the item is right."""
    rows = []
    for direction, ranking in sorted(strip_prefix(arrays, f"ranking/{group.split}/best_valid/mean/").items()):
        names, right = _both_sides(arrays, group, direction, len(ranking))
        for query in np.sort(np.random.default_rng(0).permutation(len(ranking))[:QUERIES]):
            for rank, item in enumerate(ranking[query, :DEPTH], start=1):
                what = {"direction": direction, "query": names[0][query], "rank": rank, "item": names[1][item]}
                rows.append(what | {"right": right(int(query), int(item))})
    return pd.DataFrame(rows)


def _both_sides(arrays: Arrays, group: Group, direction: str, n_queries: int) -> tuple[list[NDArray[np.str_]], Any]:
    """Names of queries and items, and the function (query, item) -> whether they belong together."""
    own = _modalities(frozenset(arrays), group)
    modalities = next((a, b) for a in own for b in own if f"{a}2{b}" == direction)
    n_items = int(arrays[f"ranking/{group.split}/best_valid/mean/{direction}"].max()) + 1
    names = [item_names(arrays, group.split, m, n) for m, n in zip(modalities, (n_queries, n_items), strict=True)]
    names = [_with_words(names[i], arrays, group.split, modalities[i], modalities[1 - i]) for i in (0, 1)]
    if group.metric == "map":
        labels = [arrays[f"labels/{group.split}/{m}"] for m in modalities]
        return names, lambda query, item: bool((labels[0][query] & labels[1][item]).any())
    known = set(zip(*(arrays[f"items/{group.split}/{m}/pairs"].tolist() for m in modalities), strict=True))
    return names, lambda query, item: (query, item) in known


def _with_words(names: NDArray[np.str_], arrays: Arrays, split: str, modality: str, other: str) -> NDArray[np.str_]:
    """Names of items such as images, each followed by the words of the first item that it is paired with, where it has any."""
    pairs = [arrays.get(f"items/{split}/{m}/pairs") for m in (modality, other)]
    words = arrays.get(f"items/{split}/{other}/words")
    if f"items/{split}/{modality}/words" in arrays or words is None or pairs[0] is None or pairs[1] is None:
        return names
    first = dict(zip(pairs[0][::-1].tolist(), pairs[1][::-1].tolist(), strict=True))
    return np.array([f"{name}: {words[first[i]]}" if i in first else name for i, name in enumerate(names)])


def _modalities(names: frozenset[str], group: Group) -> list[str]:
    """The modalities whose items are known to belong together: by their labels, or of pairs."""
    start, end = (f"labels/{group.split}/", "") if group.metric == "map" else (f"items/{group.split}/", "/pairs")
    found = [name.removeprefix(start).removesuffix(end) for name in names if name.startswith(start) and name.endswith(end)]
    return sorted(name for name in found if "/" not in name and f"{start}{name}{end}" in names)


def _columns(table: pd.DataFrame) -> list[list[Line]]:
    """A column per direction: each query, and below it its items."""
    columns = []
    for direction, part in table.groupby("direction", sort=False):
        lines = [Line(f"{table['label'].iloc[0]}: {direction_words(str(direction))}")]
        for query, rank, item, right in part[["query", "rank", "item", "right"]].itertuples(index=False):
            lines += [Line(query)] if rank == 1 else []
            lines.append(Line(item, bool(right)))
        columns.append(lines)
    return columns
