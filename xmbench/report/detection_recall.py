"""How many of the noisy and of the clean training pairs a method takes for what they are, by epoch and noise rate.

The layout of Huang et al., "Learning with Noisy Correspondence", IJCV 2024, Figure 6.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group, Reader, strip_prefix
from xmbench.report.style import epoch_ticks, finish, fold, name_panel, panels, rate_colours, styled
from xmbench.report.words import absent_words, provenance_words

PARTS = {"noisy": "Noisy pairs found", "clean": "Clean pairs kept"}
PANELS_PER_ROW = 4


@styled()
def detection_recall(group: Group, context: Context) -> list[File]:
    """Write the share of noisy pairs found and of clean ones kept against the epoch, means over seeds."""
    curves = read_recalls(group, context.reader)
    if curves.empty:
        return []
    runs = group.runs[group.runs["run_id"].isin(curves["run_id"])]
    absent = absent_words(group, set(curves["label"]), "belief by epoch")
    footer = provenance_words(group, runs, "weights averaged over networks, mean over seeds", absent)
    paths = write_figure(context.out / f"{group.slug}_detection_recall", draw_recalls(group, curves, footer), footer)
    return [File(path, "noisy pairs found and clean ones kept, against the epoch", group, runs) for path in paths]


def read_recalls(group: Group, reader: Reader) -> pd.DataFrame:
    """One row per run, epoch and part, of runs with several epochs: label, noise_rate, run_id, epoch, part, recall."""
    realised = dict(zip(group.runs["run_id"], group.runs["realised_rate"], strict=True))
    rows = []
    for run in group.finished:
        history = strip_prefix(reader.small(run["run_id"]), "history/")
        noisy = np.asarray(history.get("noise_recall/mean", []), dtype=float)
        measured = np.isfinite(noisy)
        if measured.sum() > 1:
            clean = clean_recall(noisy, np.asarray(history["noise_precision/mean"], dtype=float), realised[run["run_id"]])
            for part, values in {"noisy": noisy, "clean": clean}.items():
                rows.append(pd.DataFrame({**run, "epoch": history["epoch"], "part": part, "recall": values})[measured])
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def clean_recall(recall: NDArray[np.float64], precision: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Share of the clean pairs that are not taken for noisy, from recall and precision of the noisy ones.

    1 - rate recall (1 / precision - 1) / (1 - rate): of n pairs, rate n recall are found rightly, and 1 / precision - 1 times
    as many wrongly. Without precision nothing was taken for noisy.

    Args:
        recall: (epochs,).
        precision: (epochs,), NaN where nothing was taken for noisy.
        rate: share of the pairs that are noisy.
    """
    if rate >= 1:
        return np.full(len(recall), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        wrongly = rate * recall * (1 / precision - 1)
    return np.asarray(np.where(np.isnan(precision), 1.0, 1 - wrongly / (1 - rate)))


def draw_recalls(group: Group, curves: pd.DataFrame, footer: str) -> Figure:
    """Two panels per method, one above the other; a line per noise rate.

    Args:
        group: the runs.
        curves: of `read_recalls`.
        footer: what the figure shows.
    """
    labels = [label for label in group.labels if label in set(curves["label"])]
    n_bands, n_columns = fold(len(labels), PANELS_PER_ROW)
    figure, axes = panels(len(PARTS) * n_bands, n_columns, width=2.2, height=1.8, sharey=True)
    mean = curves.groupby(["label", "part", "noise_rate", "epoch"])["recall"].mean()
    colours = rate_colours(sorted(curves["noise_rate"].unique()))
    for i, label in enumerate(labels):
        place = len(PARTS) * (i // n_columns) * n_columns + i % n_columns
        for k, (part, words) in enumerate(PARTS.items()):
            ax = axes[place + k * n_columns]
            for rate in mean.loc[label, part].index.unique("noise_rate"):
                line = mean.loc[label, part, rate]
                ax.plot(line.index, line.to_numpy(), color=colours[rate], marker=".", markersize=4)
            ax.set(xlabel="Epoch", ylabel=words if i % n_columns == 0 else "", ylim=(0, 1.03))
        name_panel(axes[place], label)
    for ax in axes:
        ax.xaxis.set_major_locator(epoch_ticks())
        ax.set_visible(bool(ax.lines))
    handles = [Line2D([], [], color=colour, marker=".", label=f"noise rate {rate:g}") for rate, colour in colours.items()]
    finish(figure, f"Recall of noisy and clean pairs on {group.dataset}, {group.noise_scheme} noise", footer, handles)
    return figure
