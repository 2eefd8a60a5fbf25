"""Training pairs that a method has found out: those it takes for noisy, and those of them it has won back, with the truth.

After Huang et al., "Learning with Noisy Correspondence", IJCV 2024, Figures 8 and 9.
"""

import pandas as pd

from xmbench.report.examples import Line, write_examples
from xmbench.report.files import Context, File
from xmbench.report.groups import Arrays, Group, strip_prefix
from xmbench.report.selected import best_of, kept_runs
from xmbench.report.style import styled
from xmbench.report.words import absent_words, provenance_words

KINDS = {"detected": "Believed to be noisy", "recalled": "Won back by their rectified label"}
DRAWN = 12  # of each kind in the figure; the lists hold all that were kept


@styled()
def pair_examples(group: Group, context: Context) -> list[File]:
    """Write the pairs that were listed at the end of the fit: as lists of each method, and a figure of the best one."""
    rate, kept = kept_runs(group, context.reader, lambda names: "detected/weight" in names)
    lists = [listed(run.arrays).assign(label=run.label, run_id=run.run_id) for run in kept]
    table = pd.concat(lists, ignore_index=True) if lists else pd.DataFrame()
    if table.empty:
        return []
    runs = group.runs[group.runs["run_id"].isin(table["run_id"])]
    best = best_of(group, rate, [run for run in kept if run.label in set(table["label"])])
    absent = absent_words(group, set(table["label"]), "belief about pairs")
    footer = provenance_words(
        group, runs, "the surest first", "right: noisy in truth, or clean where won back", f"figure: {best.label}", absent
    )
    title = f"Training pairs found out on {group.dataset} at noise rate {rate:g}"
    first = ["label", "run_id", "kind", "weight", "rectified", "right"]
    ordered = table[[*first, *(name for name in table.columns if name not in first)]]
    return write_examples(
        group, context, "pairs", ordered, _columns(ordered[ordered["label"] == best.label]), title, runs, footer
    )


def listed(arrays: Arrays) -> pd.DataFrame:
    """One row per listed pair: kind, weight, rectified label, whether the method is right, and its items' words or names."""
    parts = []
    for kind in KINDS:
        own = strip_prefix(arrays, f"{kind}/")
        if "weight" not in own:
            continue
        clean = own["clean"].astype(bool)
        facts = {"kind": kind, "weight": own["weight"], "rectified": own.get("label", float("nan"))}
        modalities = [name for name in own if name not in ("weight", "clean", "label") and "/" not in name]
        shown = {name: own.get(f"{name}/words", own[name]).astype(str) for name in modalities}
        parts.append(pd.DataFrame(facts | {"right": clean if kind == "recalled" else ~clean} | shown))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _columns(table: pd.DataFrame) -> list[list[Line]]:
    """A column per kind."""
    columns = []
    for kind, words in KINDS.items():
        part = table[table["kind"] == kind].head(DRAWN)
        lines = [Line(f"{table['label'].iloc[0]}: {words}")]
        for row in part.to_dict("records"):
            items = " | ".join(str(row[name]) for name in table.columns[6:])
            value = f"y {row['rectified']:.2f}" if kind == "recalled" else f"w {row['weight']:.2f}"
            lines.append(Line(f"{value}  {items}", bool(row["right"])))
        columns += [lines] if len(part) else []
    return columns
