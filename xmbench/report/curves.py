"""Precision-recall curves, and MAP or rSum against the noise rate."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import SELECTIONS, Group, Reader, strip_prefix
from xmbench.report.style import Palette, Style, finish, fold, panels, styled
from xmbench.report.words import METRIC_WORDS, direction_words, provenance_words, selection_words

LINES: dict[str, Style] = {"best_valid": {"linestyle": "-"}, "last": {"linestyle": "--", "markerfacecolor": "white"}}


@styled()
def precision_recall(group: Group, context: Context) -> list[File]:
    """Write the precision at 11 recall levels, one panel per direction: at the highest noise rate and at all rates."""
    curves = pr_curves(group, context.reader)
    if curves.empty:
        return []
    top = curves["noise_rate"].max()
    parts = [
        ("pr", curves[curves["noise_rate"] == top], f"at noise rate {top:g}"),
        ("pr_rates", curves, "at every noise rate"),
    ]
    files = []
    for name, part, words in parts:
        runs = group.runs[group.runs["run_id"].isin(part["run_id"])]
        footer = provenance_words(group, runs, selection_words(group, "best_valid"), "mean over seeds")
        figure = draw_precision_recall(group, part, context.palette, footer)
        paths = write_figure(context.out / f"{group.slug}_{name}", figure, footer)
        files += [File(path, f"precision-recall curves {words}", group, runs) for path in paths]
    return files


def pr_curves(group: Group, reader: Reader) -> pd.DataFrame:
    """One row per run, direction and recall level: label, noise_rate, run_id, direction, recall, precision."""
    rows = []
    prefix = f"pr/{group.split}/best_valid/mean/"
    for run in group.finished:
        what = {name: run[name] for name in ("label", "noise_rate", "run_id")}
        for direction, (recall, precision, _) in strip_prefix(reader.small(run["run_id"]), prefix).items():
            rows.append(pd.DataFrame({**what, "direction": direction, "recall": recall, "precision": precision}))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def draw_precision_recall(group: Group, curves: pd.DataFrame, palette: Palette, footer: str) -> Figure:
    """Panels by direction (rows) and noise rate (columns); directions stand side by side where there is one rate.

    Args:
        group: the runs.
        curves: of `pr_curves`.
        palette: colours of the methods.
        footer: what the figure shows.
    """
    directions = sorted(set(curves["direction"]) - {"mean"})
    rates = sorted(curves["noise_rate"].unique())
    many = len(rates) > 1
    grid = (len(directions), len(rates)) if many else fold(len(directions))
    width, height = (1.7, 1.7) if many else (2.8, 2.6)
    figure, axes = panels(*grid, width=width, height=height, sharex=True, sharey=True)
    mean = curves.groupby(["direction", "noise_rate", "label", "recall"])["precision"].mean()
    cells = [(direction, rate) for direction in directions for rate in rates]
    for ax, (direction, rate) in zip(axes, cells, strict=False):
        present = mean.loc[direction, rate].index.get_level_values("label").unique()
        for label in (label for label in group.labels if label in present):
            curve = mean.loc[direction, rate, label]
            ax.plot(curve.index, curve.to_numpy(), **palette[label], markersize=3, markeredgewidth=0)
        ax.set_title(direction_words(direction) + (f", {rate:g}" if many else ""))
        ax.set(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1) if many else np.linspace(0, 1, 6))
    axes[0].set_ylim(bottom=0)  # shared, so only now that all panels are drawn: it ends the scaling to the data
    _label_outer(axes, grid, len(cells), "Recall", "Precision")
    at = "by rate" if many else f"at rate {rates[0]:g}"
    title = f"Precision-recall on {group.dataset}, {group.noise_scheme} noise {at}"
    finish(figure, title, footer, _handles(group, curves, palette))
    return figure


@styled()
def noise_curves(group: Group, context: Context) -> list[File]:
    """Write MAP against the noise rate, one panel per direction and one for their mean; of pairs, rSum in one panel."""
    scores = pd.concat([group.scores(selection).assign(selection=selection) for selection in SELECTIONS])
    if scores.empty:
        return []
    footer = provenance_words(group, group.runs)
    figure = draw_noise_curves(group, scores, context.palette, footer)
    paths = write_figure(context.out / f"{group.slug}_noise", figure, footer)
    return [File(path, f"{METRIC_WORDS[group.metric]} against the noise rate", group, group.runs) for path in paths]


def draw_noise_curves(group: Group, scores: pd.DataFrame, palette: Palette, footer: str) -> Figure:
    """Mean over seeds as lines, standard deviation as bands, chance dotted.

    The last epoch is dashed, and left out where it equals the best one at every rate.

    Args:
        group: the runs.
        scores: the metric of both selections, of `Group.scores`, with a column `selection`.
        palette: colours of the methods.
        footer: what the figure shows.
    """
    grid = fold(len(group.directions))
    figure, axes = panels(*grid, width=2.5 if group.metric == "map" else 4.5, height=2.6, sharex=True, sharey=True)
    for ax, direction in zip(axes, group.directions, strict=False):
        for label in group.labels:
            part = scores[(scores["direction"] == direction) & (scores["label"] == label)]
            _noise_lines(ax, part, palette[label])
        ax.axhline(group.chance.get(direction, np.nan), color="0.3", linestyle=":", linewidth=1)
        ax.set_title(direction_words(direction) if group.metric == "map" else "")  # rSum is over all directions
        ax.set_xticks(group.rates)
    axes[0].set_ylim(bottom=0)  # shared, so only now that all panels are drawn: it ends the scaling to the data
    _label_outer(axes, grid, len(group.directions), "Noise rate", METRIC_WORDS[group.metric])
    names = {name: name if group.metric == "map" else selection_words(group, name) for name in SELECTIONS}
    keys = [Line2D([], [], color="0.3", **LINES[name], label=names[name]) for name in SELECTIONS]
    keys.append(Line2D([], [], color="0.3", linestyle=":", linewidth=1, label="chance"))
    title = (
        f"{METRIC_WORDS[group.metric]} on {group.dataset} by rate of {group.noise_scheme} noise, "
        "mean and standard deviation over seeds"
    )
    finish(figure, title, footer, [*_handles(group, scores, palette), *keys])
    return figure


def _noise_lines(ax: Axes, scores: pd.DataFrame, style: Style) -> None:
    """Mean and band of one method's best_valid, and its last epoch where that differs."""
    stats = scores.groupby(["selection", "noise_rate"])["value"].agg(["mean", "std"])
    curves = {name: stats.loc[name] for name in SELECTIONS if name in stats.index.get_level_values("selection")}
    if "last" in curves and "best_valid" in curves and curves["last"]["mean"].equals(curves["best_valid"]["mean"]):
        del curves["last"]
    for name, curve in curves.items():
        ax.plot(curve.index, curve["mean"].to_numpy(), **(style | LINES[name]))
        low, high = (curve["mean"] + sign * curve["std"].fillna(0) for sign in (-1, 1))
        ax.fill_between(curve.index, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _handles(group: Group, shown: pd.DataFrame, palette: Palette) -> list[Line2D]:
    """A legend entry per method; it says how many of the planned runs stand behind its lines where not all do.

    Args:
        group: the runs.
        shown: rows with label, noise_rate and run_id of what is drawn.
        palette: colours of the methods.
    """
    n_planned = group.n_planned * shown["noise_rate"].nunique()
    n_shown = shown.groupby("label")["run_id"].nunique().reindex(group.labels, fill_value=0)
    marks = {n_planned: "", 0: " (no result)"}
    names = {label: f"{label}{marks.get(n, f' ({n}/{n_planned} runs)')}" for label, n in n_shown.items()}
    return [Line2D([], [], **palette[label], label=names[label]) for label in group.labels]


def _label_outer(axes: Sequence[Axes], grid: tuple[int, int], n_used: int, x: str, y: str) -> None:
    """Label the panels on the left and at the bottom, and hide those that stay empty."""
    n_columns = grid[1]
    for i, ax in enumerate(axes):
        ax.set_visible(i < n_used)
        ax.tick_params(labelbottom=i + n_columns >= n_used)
        ax.set_xlabel(x if i + n_columns >= n_used else "")
        ax.set_ylabel(y if i % n_columns == 0 else "")
