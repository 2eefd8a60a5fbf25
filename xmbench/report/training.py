"""Training curves: loss and validation MAP against the epoch."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group, Reader, strip_prefix
from xmbench.report.style import Style, finish, fold, name_panel, panels, rate_colours, styled
from xmbench.report.words import absent_words, provenance_words

History = dict[str, Any]

BEST: Style = {"linestyle": "", "marker": "*", "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.3, "zorder": 4}
LAST: Style = {"linestyle": "", "marker": "s", "markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1, "zorder": 3}
PANELS_PER_ROW = 4


@styled()
def training_curves(group: Group, context: Context) -> list[File]:
    """Loss and validation MAP against the epoch, for the first finished seed of each method and rate."""
    histories = read_histories(group, context.reader)
    if not histories:
        return []
    shown = [history["run_id"] for rates in histories.values() for history in rates.values()]
    runs = group.runs[group.runs["run_id"].isin(shown)]
    absent = absent_words(group, histories, "history")
    footer = provenance_words(group, runs, "first finished seed of each method and rate", absent)
    figure = draw_training_curves(group, histories, footer)
    paths = write_figure(context.out / f"{group.slug}_training", figure, footer)
    return [File(path, "loss and validation MAP against the epoch", group, runs) for path in paths]


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
    """Two panels per method, loss above validation MAP; a line per noise rate; best epoch a star, last a square.

    Args:
        group: the runs.
        histories: by label and noise rate: epoch, loss, valid and selectable, each (epochs,).
        footer: what the figure shows.
    """
    labels = [label for label in group.labels if label in histories]
    n_bands, n_columns = fold(len(labels), PANELS_PER_ROW)
    figure, axes = panels(2 * n_bands, n_columns, width=2.2, height=1.8)
    highest = max(np.nanmax([0, *history.get("valid", [])]) for rates in histories.values() for history in rates.values())
    rates = sorted({rate for history in histories.values() for rate in history})
    colours = rate_colours(rates)
    for i, label in enumerate(labels):
        place = 2 * (i // n_columns) * n_columns + i % n_columns
        loss, valid = axes[place], axes[place + n_columns]
        for rate, history in histories[label].items():
            _training_lines(loss, valid, history, colours[rate])
        name_panel(loss, label)
        loss.set(xlabel="Epoch", ylabel="Loss")
        valid.set(xlabel="Epoch", ylabel="Validation MAP", ylim=(0, 1.08 * highest or 1))
    for ax in axes:
        ax.set_visible(bool(ax.lines) or bool(ax.get_title()))
    handles = [Line2D([], [], color=colours[rate], label=f"noise rate {rate:g}") for rate in rates]
    handles.append(Line2D([], [], color="0.3", **BEST, label="best epoch"))
    handles.append(Line2D([], [], color="0.3", **LAST, label="last epoch"))
    title = f"Training on {group.dataset}, {group.noise_scheme} noise"
    finish(figure, title, footer, handles)
    return figure


def _training_lines(loss: Axes, valid: Axes, history: History, colour: str) -> None:
    """One run: lines over what was measured, and the marks of its best and last epoch on both."""
    epoch = np.asarray(history["epoch"])
    best = best_epoch(history)
    for ax, name in ((loss, "loss"), (valid, "valid")):
        values = np.asarray(history.get(name, np.full(len(epoch), np.nan)), dtype=float)
        measured = np.flatnonzero(np.isfinite(values))
        ax.plot(epoch[measured], values[measured], color=colour)
        if best is not None:
            ax.plot(epoch[best], values[best], color=colour, **BEST)
        if len(measured):
            ax.plot(epoch[measured[-1]], values[measured[-1]], color=colour, **LAST)


def best_epoch(history: History) -> int | None:
    """Index of the first best validation MAP among selectable epochs, or None where none was measured."""
    valid = np.asarray(history.get("valid", []), dtype=float)
    selectable = np.asarray(history.get("selectable", np.ones(len(valid))), dtype=bool)
    valid = np.where(selectable, valid, np.nan)
    return int(np.nanargmax(valid)) if np.isfinite(valid).any() else None
