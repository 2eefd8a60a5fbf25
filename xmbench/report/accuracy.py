"""How classifiers take to wrong labels: accuracy on training items by the labels given and by the true ones, and validation.

The layout of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, Figures 2 and 5, and of Yang et al.,
"Rethinking Label-Wise Cross-Modal Retrieval from A Semantic Sharing Perspective", IJCAI 2021, supplement, Figure 1.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Arrays, Group, Reader, strip_prefix
from xmbench.report.selected import shown_rate
from xmbench.report.style import MARKERS, Style, epoch_ticks, finish, hues, name_panel, panels, styled
from xmbench.report.words import absent_words, direction_words, provenance_words

MEASURES = {"accuracy": "Accuracy", "micro_f1": "Micro F1"}  # the latter where items have several classes
LABELS: dict[str, Style] = {"given": {"linestyle": "--"}, "true": {"linestyle": "-"}}
MAP: Style = {"linestyle": ":", "markersize": 3, "markevery": 0.1}
PANELS_PER_ROW = 4


@styled()
def accuracy_curves(group: Group, context: Context) -> list[File]:
    """Write accuracy and MAP against the epoch at one noise rate, for the first seed of each method that has them."""
    rate, curves = read_curves(group, context.reader)
    if not curves:
        return []
    runs = group.runs[group.runs["run_id"].isin(run_id for run_id, _ in curves.values())]
    absent = absent_words(group, curves, "curve")
    footer = provenance_words(group, runs, "first finished seed", "accuracy on a fixed sample of at most 500 items", absent)
    figure = draw_accuracy(group, {label: history for label, (_, history) in curves.items()}, rate, footer)
    paths = write_figure(context.out / f"{group.slug}_accuracy", figure, footer)
    return [File(path, f"accuracy and MAP against the epoch at noise rate {rate:g}", group, runs) for path in paths]


def read_curves(group: Group, reader: Reader) -> tuple[float, dict[str, tuple[str, Arrays]]]:
    """The rate shown, and by label run id and history of the first run there with two epochs or more of such curves."""
    found: dict[float, dict[str, tuple[str, Arrays]]] = {}
    for run in group.finished:
        history = strip_prefix(reader.small(run["run_id"]), "history/")
        shown = (*MEASURES, "valid/map/", *(f"valid/{measure}/" for measure in MEASURES))
        own = {name: values for name, values in history.items() if name.startswith(shown)}
        if len(history.get("epoch", [])) > 1 and any(np.isfinite(values).sum() > 1 for values in own.values()):
            found.setdefault(run["noise_rate"], {}).setdefault(run["label"], (run["run_id"], own | {"epoch": history["epoch"]}))
    rate = shown_rate(list(found)) if found else min(group.rates)
    return rate, found.get(rate, {})


def draw_accuracy(group: Group, histories: dict[str, Arrays], rate: float, footer: str) -> Figure:
    """Two panels per classifier, training accuracy above validation accuracy and MAP; one, of MAP, per other method.

    Args:
        group: the runs.
        histories: by label, arrays by name in the history.
        rate: noise rate of the runs shown.
        footer: what the figure shows.
    """
    word = next(
        (word for name, word in MEASURES.items() for h in histories.values() if any(f"{name}/" in key for key in h)), ""
    )
    labels = sorted(histories, key=lambda label: (not _is_classified(histories[label]), group.labels.index(label)))
    n_classified, n_columns = sum(map(_is_classified, histories.values())), min(len(labels), PANELS_PER_ROW)
    bands = [2] * -(-n_classified // n_columns)  # rows of panels in each band: those with classifiers have one for training
    bands += [1] * -(-(len(labels) - n_columns * len(bands)) // n_columns)
    figure, axes = panels(sum(bands), n_columns, width=2.2, height=1.9, sharey=True)
    colours = dict(zip(_items(histories), hues(), strict=False))
    for i, label in enumerate(labels):
        band, column = divmod(i, n_columns)
        parts = axes[sum(bands[:band]) * n_columns + column : sum(bands[: band + 1]) * n_columns : n_columns]
        name_panel(parts[0 if _is_classified(histories[label]) else -1], label)
        _training(parts[0], histories[label], colours)
        _validation(parts[-1], histories[label], colours)
        if column == 0:
            parts[0].set_ylabel(f"Training {word.lower()}")
            parts[-1].set_ylabel(f"Validation {word.lower()} and MAP" if word else "Validation MAP")
        parts[-1].set_xlabel("Epoch")
    for ax in axes:
        ax.xaxis.set_major_locator(epoch_ticks())
        ax.set_visible(bool(ax.lines))
        ax.set_ylim(0, 1.03)
    title = f"Classification and retrieval on {group.dataset}, {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, _handles(colours, n_classified > 0))
    return figure


def _is_classified(history: Arrays) -> bool:
    return any(name.startswith(tuple(MEASURES)) for name in history)


def _items(histories: dict[str, Arrays]) -> list[str]:
    """Modalities, then directions, that have a curve: each has a colour."""
    ends = {name.rpartition("/")[2] for history in histories.values() for name in history if "/" in name} - {"mean"}
    directions = {name.rpartition("/")[2] for h in histories.values() for name in h if name.startswith("valid/map/")}
    return [*sorted(ends - directions), *sorted(directions - {"mean"})]


def _training(ax: Axes, history: Arrays, colours: dict[str, str]) -> None:
    for measure in MEASURES:
        for labels, line in LABELS.items():
            for modality, values in strip_prefix(history, f"{measure}/{labels}/").items():
                _line(ax, history["epoch"], values, color=colours[modality], **line)


def _validation(ax: Axes, history: Arrays, colours: dict[str, str]) -> None:
    for measure in MEASURES:
        for modality, values in strip_prefix(history, f"valid/{measure}/").items():
            _line(ax, history["epoch"], values, color=colours[modality])
    for direction, values in strip_prefix(history, "valid/map/").items():
        if direction != "mean":
            marker = MARKERS[list(colours).index(direction) % len(MARKERS)]
            _line(ax, history["epoch"], values, color=colours[direction], marker=marker, **MAP)


def _line(ax: Axes, epoch: NDArray[Any], values: NDArray[Any], **style: Any) -> None:
    """A line over what was measured."""
    measured = np.isfinite(values)
    ax.plot(np.asarray(epoch)[measured], np.asarray(values)[measured], **style)


def _handles(colours: dict[str, str], classified: bool) -> list[Line2D]:
    handles = []
    for i, (name, colour) in enumerate(colours.items()):
        if "2" in name:
            style = MAP | {"marker": MARKERS[i % len(MARKERS)], "markevery": 1}
            handles.append(Line2D([], [], color=colour, **style, label=f"MAP, {direction_words(name)}"))
        else:
            handles.append(Line2D([], [], color=colour, label=name))
    if classified:
        handles += [Line2D([], [], color="0.3", **line, label=f"by the {name} labels") for name, line in LABELS.items()]
    return handles
