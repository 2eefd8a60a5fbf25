"""Mean ranks of methods over blocks, a dataset with a noise scheme at a rate: Friedman's test and Nemenyi's, with a diagram.

The diagram is that of Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7 (2006): methods on
an axis of mean ranks, a bar over those that the critical difference does not separate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xmbench.metrics import METRICS
from xmbench.report.files import Context, File, write_figure, write_text
from xmbench.report.groups import Group
from xmbench.report.labels import IDENTITY, setting_notes, with_labels
from xmbench.report.rendering import render_table
from xmbench.report.significance import LEVEL, p_words
from xmbench.report.style import FOOTER_CHARACTERS_PER_INCH, FOOTER_SIZE, Palette, drawable, styled
from xmbench.report.tables import Cell, Head, Row, Table
from xmbench.report.words import METRIC_WORDS, counted, noise_words, protocol_words, run_words, selection_words
from xmbench.statistics import Ranked, friedman

DEPENDENT = (
    "The blocks of one dataset are dependent (the same test queries and, rate by rate, nested noise), while the tests take "
    "them as independent: their p-values are too small."
)
SHOWN_MISSING = 20
_INCHES_PER_LINE = 0.21


class IncompleteBlocks(ValueError):
    """A method has no result in a block."""


def rank_diagram(group: Group, context: Context) -> list[File]:
    """Write the ranks over all groups of one protocol, with the first of them; or what is missing for that."""
    peers = [other for other in context.groups if _key(other) == _key(group)]
    if not peers or group is not peers[0]:
        return []
    names, notes = with_common_numbers(peers)
    scores = block_scores(peers, names)
    if len(scores) < 2 or scores.shape[1] < 3:
        return []
    whole = _joined(peers)
    stem = context.out / whole.slug
    try:
        check_complete(scores)
    except IncompleteBlocks as error:
        write_text(stem.with_suffix(".md"), " ".join([f"No critical-difference diagram: {error}", *notes]) + "\n")
        return [File(stem.with_suffix(".md"), "mean ranks, refused", whole, whole.runs)]
    ranked = friedman(scores.to_numpy() * (1 if METRICS[group.metric].higher_is_better else -1), LEVEL)
    caption = rank_caption(whole, scores, ranked)
    figure = draw_ranks(list(scores.columns), ranked, context.palette, caption)
    paths = write_figure(stem, figure, caption)
    table = replace(_table(whole, scores, ranked, caption), notes=tuple(notes))
    texts = {suffix: render_table(table, suffix) for suffix in ("tex", "md", "html")}
    texts["csv"] = scores.reset_index().to_csv(index=False, float_format="%.10g", lineterminator="\n")
    for suffix, text in texts.items():
        paths.append(stem.with_suffix(f".{suffix}"))
        write_text(paths[-1], text)
    return [File(path, table.title, whole, whole.runs) for path in paths]


def _table(group: Group, scores: pd.DataFrame, ranked: Ranked, caption: str) -> Table:
    """The methods by their mean rank."""
    means = scores.mean()
    rows = [
        Row((Head(scores.columns[i], code=True),), (Cell(f"{ranked.ranks[i]:.2f}"), Cell(f"{means.iloc[i]:.4g}")))
        for i in np.argsort(ranked.ranks, kind="stable")
    ]
    return Table(
        stem=group.slug,
        title="mean ranks over datasets and noise rates",
        caption=caption,
        source="The runs are listed in provenance.csv.",
        titles=("Method",),
        cols=((Head("mean rank"),), (Head(f"mean {METRIC_WORDS[group.metric]}"),)),
        rows=tuple(rows),
        notes=(),
        groups=(group,),
        cells=scores,
    )


def _key(group: Group) -> tuple[str, ...]:
    return group.protocol_sha, group.tuned, group.metric


def block_scores(groups: Sequence[Group], names: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Blocks by methods, oracles aside: the mean over seeds of the groups' metric, NaN where there is none.

    Without noise the schemes of a dataset give one block.

    Args:
        groups: of one protocol and metric.
        names: of each group how those of its labels are called that are not called so in all of them.
    """
    rows: dict[tuple[str | float, ...], pd.Series] = {}
    pairs = list(zip(groups, names, strict=True))
    labels = sorted({own.get(label, label) for group, own in pairs for label in group.labels if label not in group.oracles})
    for group, own in pairs:
        scores = group.scores("best_valid").replace({"label": dict(own)})
        means = scores[scores["direction"] == "mean"].groupby(["noise_rate", "label"])["value"].mean()
        for rate in group.rates:
            scheme = group.noise_scheme if rate > 0 else "none"
            key = (group.dataset, group.dataset_params, group.split, scheme, group.noise_options if rate > 0 else "{}", rate)
            found = means.loc[rate] if rate in means.index else pd.Series(dtype=float)
            rows[key] = rows.get(key, pd.Series(index=labels, dtype=float)).fillna(found)
    levels = ["dataset", "dataset_params", "split", "noise_scheme", "noise_options", "noise_rate"]
    index = pd.MultiIndex.from_tuples(list(rows), names=levels)
    return pd.DataFrame(list(rows.values()), index=index, columns=labels)


def with_common_numbers(groups: Sequence[Group]) -> tuple[list[dict[str, str]], list[str]]:
    """Label -> label in the ranks, of each group, and sentences on what the numbers in them stand for.

    A number such as that of `mrl (1)` is of the settings of one group: here those of all groups are numbered together, so that
    one label is one setting.
    """
    runs = pd.concat([group.runs.assign(group=i) for i, group in enumerate(groups)], ignore_index=True)
    numbered = runs.loc[runs["label"].str.fullmatch(r".* \(\d+\)"), "method"].unique()
    common = runs[runs["method"].isin(numbered)].sort_values(["method", *IDENTITY]).rename(columns={"label": "own"})
    if common.empty:
        return [{}] * len(groups), []
    common = with_labels(common)
    names = [dict(common.loc[common["group"] == i, ["own", "label"]].astype(str).to_numpy()) for i in range(len(groups))]
    return names, setting_notes(common)


def check_complete(scores: pd.DataFrame) -> None:
    """Raise IncompleteBlocks where a method has no result in a block, with what is missing."""
    empty = scores.isna()
    places = scores.index.to_frame(index=False)
    missing = []
    for label in scores.columns[empty.any()]:
        without = places[empty[label].to_numpy()]
        for (dataset, scheme), part in without.groupby(["dataset", "noise_scheme"], sort=False):
            rates = ", ".join(f"{rate:g}" for rate in part["noise_rate"])
            missing.append(f"{label} on {dataset}" + ("" if scheme == "none" else f", {scheme} at {rates}"))
    if missing:
        more = f"; and {len(missing) - SHOWN_MISSING} more" if len(missing) > SHOWN_MISSING else ""
        raise IncompleteBlocks(
            f"every method must have a result in each of the {len(scores)} blocks, missing are "
            f"{'; '.join(missing[:SHOWN_MISSING])}{more}. Run them, or choose methods, datasets or rates with --where."
        )


def _joined(groups: Sequence[Group]) -> Group:
    """All groups as one, for the words about them."""
    first = groups[0]
    every = {name: " + ".join(dict.fromkeys(getattr(g, name) for g in groups)) for name in ("dataset", "noise_scheme", "split")}
    slug = "_".join(filter(None, ["ranks", first.metric, first.protocol_sha[:8], first.tuned.replace(" ", "-")]))
    parts = {name: pd.concat([getattr(g, name) for g in groups], ignore_index=True) for name in ("rows", "train", "trials")}
    return replace(first, **every, **parts, dataset_params="{}", noise_options="{}", slug=slug)  # type: ignore[arg-type]


def rank_caption(group: Group, scores: pd.DataFrame, ranked: Ranked) -> str:
    """What the diagram shows, and what the tests say."""
    n_datasets = scores.reset_index()[["dataset", "dataset_params", "split"]].drop_duplicates().shape[0]
    p = p_words(ranked.p)
    return (
        f"Mean ranks by {METRIC_WORDS[group.metric]} ({selection_words(group, 'best_valid')}, mean over seeds) of "
        f"{scores.shape[1]} methods over {counted(len(scores), 'block')}, {counted(n_datasets, 'dataset')} by noise rate; "
        f"1 is the best. Friedman's chi-squared {ranked.statistic:.2f}, p {p if p[0] == '<' else f'= {p}'}; Nemenyi's critical "
        f"difference at {LEVEL:g} is {ranked.critical_difference:.2f}: methods under one bar are not separable. {DEPENDENT} "
        f"{group.dataset}; {group.noise_scheme} noise; {noise_words(group.runs)}; {protocol_words(group)}; "
        f"{run_words(group.runs)}."
    )


@styled()
def draw_ranks(labels: Sequence[str], ranked: Ranked, palette: Palette, caption: str) -> Figure:
    """The diagram: an axis of mean ranks, the best at the left, names at both sides.

    Args:
        labels: methods, in the order of the ranks.
        ranked: their ranks.
        palette: colours of the methods.
        caption: below it.
    """
    order = np.argsort(ranked.ranks, kind="stable")
    ranks, names = ranked.ranks[order], [labels[i] for i in order]
    cliques = not_separable(ranks, ranked.critical_difference)
    n_left = -(-len(names) // 2)
    bars = 0.5 * len(cliques) + 0.7
    n_lines = bars + n_left + 0.5
    width = 6.5
    figure = Figure(figsize=(width, _INCHES_PER_LINE * (n_lines + 3) + 0.9), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(1, len(names)), ylim=(n_lines, 0))
    ax.xaxis.tick_top()
    ax.set_xticks(range(1, len(names) + 1))
    ax.set_yticks([])
    ax.grid(visible=False)
    for side in ("left", "right", "bottom"):
        ax.spines[side].set_visible(False)
    for k, (first, last) in enumerate(cliques):
        ax.plot(
            ranks[[first, last]] + [-0.04, 0.04],
            [0.5 + 0.5 * k] * 2,
            color="0.25",
            linewidth=2.5,
            solid_capstyle="butt",
            marker="",
        )
    for i, (rank, name) in enumerate(zip(ranks, names, strict=True)):
        left = i < n_left
        _name_method(
            ax,
            rank,
            bars + (i if left else len(names) - 1 - i),
            drawable(f"{name} ({rank:.2f})"),
            palette[name]["color"],
            left=left,
        )
    _draw_difference(ax, ranked.critical_difference)
    figure.supxlabel(
        fill(drawable(caption), int(FOOTER_CHARACTERS_PER_INCH * width)), fontsize=FOOTER_SIZE, color="0.35", linespacing=1.3
    )
    return figure


def _name_method(ax: Axes, rank: float, y: float, text: str, colour: str, *, left: bool) -> None:
    """A line from the axis down to the method's height and out to its name."""
    low, high = ax.get_xlim()
    end = low if left else high
    ax.plot([rank, rank, end], [0, y, y], color=colour, linewidth=1, marker="")
    ax.annotate(
        text, (end, y), (-3 if left else 3, 0), textcoords="offset points", ha="right" if left else "left", va="center",
        fontsize="small",
    )  # fmt: skip


def _draw_difference(ax: Axes, difference: float) -> None:
    """A ruler as long as the critical difference, above the axis."""
    low, high = ax.get_xlim()
    to = min(low + difference, high)
    ax.annotate(
        "",
        (low, -2.2),
        (to, -2.2),
        arrowprops={"arrowstyle": "|-|,widthA=.25,widthB=.25", "color": "0.25"},
        annotation_clip=False,
    )
    ax.annotate(f"critical difference {difference:.2f}", (to, -2.2), (6, 0), textcoords="offset points", va="center",
                fontsize="small", annotation_clip=False)  # fmt: skip


def not_separable(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """First and last of each longest run of sorted ranks (n,) that lie within the critical difference, two at least.

    >>> not_separable(np.array([1.0, 1.5, 3.0, 3.4]), 1.9)
    [(0, 1), (1, 3)]
    """
    last = [int(np.flatnonzero(ranks <= rank + difference)[-1]) for rank in ranks]
    return [(i, end) for i, end in enumerate(last) if end > i and (i == 0 or end > last[i - 1])]
