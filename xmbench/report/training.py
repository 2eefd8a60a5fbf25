"""Training curves: loss, validation score and, of pairs, the spread of the scores against the epoch.

The layout of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, supplement, Figure 5.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xmbench.report.cells import COLLAPSED_BELOW
from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group, Reader, strip_prefix
from xmbench.report.selected import best_words, ranked_labels
from xmbench.report.style import Style, epoch_ticks, finish, fold, log_scale, name_panel, panels, rate_colours, styled
from xmbench.report.words import METRIC_WORDS, absent_words, provenance_words

History = dict[str, Any]

BEST: Style = {"linestyle": "", "marker": "*", "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.3, "zorder": 4}
LAST: Style = {"linestyle": "", "marker": "s", "markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1, "zorder": 3}
VALID_LOSS = "valid/loss"
DASHED: Style = {"linestyle": "--", "linewidth": 0.8}
PANELS_PER_ROW = 4
MAX_METHODS = 40  # with two panels or three each


@styled()
def training_curves(group: Group, context: Context) -> list[File]:
    """Loss and validation score against the epoch, for the first finished seed of each method and rate."""
    histories = read_histories(group, context.reader)
    if not histories:
        return []
    best = [label for label in ranked_labels(group) if label in histories][:MAX_METHODS]
    few, absent = best_words(group, best, histories), absent_words(group, histories, "history")
    histories = {label: rates for label, rates in histories.items() if label in best}
    shown = [history["run_id"] for rates in histories.values() for history in rates.values()]
    runs = group.runs[group.runs["run_id"].isin(shown)]
    footer = provenance_words(group, runs, "first finished seed of each method and rate", few, absent)
    figure = draw_training_curves(group, histories, footer)
    paths = write_figure(context.out / f"{group.slug}_training", figure, footer)
    title = f"loss and validation {METRIC_WORDS[group.metric]} against the epoch"
    return [File(path, title, group, runs) for path in paths]


def read_histories(group: Group, reader: Reader) -> dict[str, dict[float, History]]:
    """By label and noise rate, the history of the first finished seed that has more than one epoch, and its run_id."""
    found: dict[str, dict[float, History]] = {}
    for run in group.finished:
        rates = found.setdefault(run["label"], {})
        if run["noise_rate"] not in rates:
            history = strip_prefix(reader.small(run["run_id"]), "history/")
            if len(history.get("epoch", [])) > 1:
                rates[run["noise_rate"]] = {**history, "run_id": run["run_id"]}
    return {label: rates for label, rates in found.items() if rates}


def draw_training_curves(group: Group, histories: dict[str, dict[float, History]], footer: str) -> Figure:
    """Two panels per method, loss above validation score; a line per noise rate; best epoch a star, last a square.

    The loss on validation pairs is dashed, where the method tells it.

    Of pairs a third panel below shows the standard deviation of the scores, where it was measured.

    Args:
        group: the runs.
        histories: by label and noise rate: epoch, loss, valid, valid/loss, selectable and score_std, each (epochs,).
        footer: what the figure shows.
    """
    labels = [label for label in group.labels if label in histories]
    n_bands, n_columns = fold(len(labels), PANELS_PER_ROW)
    names = ["loss", "valid", *(["score_std"] if group.metric == "rsum" and _has_spread(histories) else [])]
    figure, axes = panels(len(names) * n_bands, n_columns, width=2.2, height=1.8)
    highest = max(np.nanmax([0, *history.get("valid", [])]) for rates in histories.values() for history in rates.values())
    rates = sorted({rate for history in histories.values() for rate in history})
    colours = rate_colours(rates)
    for i, label in enumerate(labels):
        place = len(names) * (i // n_columns) * n_columns + i % n_columns
        of_label = {name: axes[place + k * n_columns] for k, name in enumerate(names)}
        for rate, history in histories[label].items():
            _training_lines(of_label, history, colours[rate])
        name_panel(of_label["loss"], label)
        of_label["loss"].set(xlabel="Epoch", ylabel="Loss")
        of_label["valid"].set(xlabel="Epoch", ylabel=f"Validation {METRIC_WORDS[group.metric]}", ylim=(0, 1.08 * highest or 1))
        if "score_std" in of_label:
            of_label["score_std"].axhline(COLLAPSED_BELOW, color="0.3", linestyle=":", linewidth=1)
            of_label["score_std"].set(xlabel="Epoch", ylabel="Std. dev. of scores")
            log_scale(of_label["score_std"], "y")
    for ax in axes:
        ax.xaxis.set_major_locator(epoch_ticks())
        ax.set_visible(bool(ax.lines) or bool(ax.get_title()))
    handles = [Line2D([], [], color=colours[rate], label=f"noise rate {rate:g}") for rate in rates]
    handles.append(Line2D([], [], color="0.3", **BEST, label="best epoch"))
    handles.append(Line2D([], [], color="0.3", **LAST, label="last epoch"))
    if any(VALID_LOSS in history for of_label in histories.values() for history in of_label.values()):
        handles.append(Line2D([], [], color="0.3", **DASHED, label="validation loss"))
    if "score_std" in names:
        handles.append(Line2D([], [], color="0.3", linestyle=":", linewidth=1, label="collapse"))
    title = f"Training on {group.dataset}, {group.noise_scheme} noise"
    finish(figure, title, footer, handles)
    return figure


def _has_spread(histories: dict[str, dict[float, History]]) -> bool:
    return any("score_std" in history for rates in histories.values() for history in rates.values())


def _training_lines(axes: dict[str, Axes], history: History, colour: str) -> None:
    """One run: lines over what was measured, and the marks of its best and last epoch on all panels.

    Args:
        axes: by name in the history.
        history: of the run.
        colour: of its rate.
    """
    epoch = np.asarray(history["epoch"])
    best = best_epoch(history)
    for name, ax in axes.items():
        values = np.asarray(history.get(name, np.full(len(epoch), np.nan)), dtype=float)
        measured = np.flatnonzero(np.isfinite(values))
        ax.plot(epoch[measured], values[measured], color=colour)
        if best is not None:
            ax.plot(epoch[best], values[best], color=colour, **BEST)
        if len(measured):
            ax.plot(epoch[measured[-1]], values[measured[-1]], color=colour, **LAST)
    if VALID_LOSS in history:
        axes["loss"].plot(epoch, history[VALID_LOSS], color=colour, **DASHED)


def best_epoch(history: History) -> int | None:
    """Index of the first best validation score among selectable epochs, or None where none was measured."""
    valid = np.asarray(history.get("valid", []), dtype=float)
    selectable = np.asarray(history.get("selectable", np.ones(len(valid))), dtype=bool)
    valid = np.where(selectable, valid, np.nan)
    return int(np.nanargmax(valid)) if np.isfinite(valid).any() else None
