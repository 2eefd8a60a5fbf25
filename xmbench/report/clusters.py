"""Clusters of test items with the centres that the method has learnt.

The layout of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, supplement, Figure 6: hollow marks are
items, solid ones centres, their shape is the modality, their colour the class.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Arrays, Group, strip_prefix
from xmbench.report.selected import kept_runs
from xmbench.report.style import Style, finish, fold, hues, name_panel, panels, styled
from xmbench.report.tsne import MARKERS, MAX_ITEMS, PANELS_PER_ROW, first_class, layout, unit
from xmbench.report.words import absent_words, provenance_words

CLASSES = 4  # the most frequent ones of the split
CENTRES = "record/prototypes"
SELECTION = "last"  # what a method records, it records as its fit ends


@dataclass(frozen=True)
class Clusters:
    """Points of one panel.

    Attributes:
        points: (n, 2) layout.
        kind: (n,) name of the modality of each point, "" of a centre.
        class_number: (n,) its class.
    """

    points: NDArray[Any]
    kind: NDArray[Any]
    class_number: NDArray[Any]


@styled()
def clusters(group: Group, context: Context) -> list[File]:
    """Write the figure at one noise rate, for the first seed of each method that kept embeddings and recorded its centres."""
    prefix = f"embedding/{group.split}/{SELECTION}/mean/"
    rate, kept = kept_runs(
        group, context.reader, lambda names: CENTRES in names and any(name.startswith(prefix) for name in names)
    )
    laid_out = {run.label: lay_out(run.arrays, group.split) for run in kept}
    shown = {label: panel for label, panel in laid_out.items() if panel is not None}
    if not shown:
        return []
    runs = group.runs[group.runs["run_id"].isin(run.run_id for run in kept if run.label in shown)]
    words = (
        f"the {CLASSES} most frequent classes",
        f"at most {MAX_ITEMS} items",
        "last epoch",
        absent_words(group, shown, "centres"),
    )
    footer = provenance_words(group, runs, *words)
    names = [str(name) for name in kept[0].arrays.get("class_names", [])]
    paths = write_figure(context.out / f"{group.slug}_clusters", draw_clusters(group, shown, names, rate, footer), footer)
    return [
        File(path, f"clusters of test items and their learnt centres at noise rate {rate:g}", group, runs) for path in paths
    ]


def lay_out(arrays: Arrays, split: str) -> Clusters | None:
    """Items of the most frequent classes and the centres of these, laid out together; None where they lie in no one space."""
    spaces = strip_prefix(arrays, f"embedding/{split}/{SELECTION}/mean/")
    labels = {name: first_class(values) for name, values in strip_prefix(arrays, f"labels/{split}/").items()}
    centres = np.asarray(arrays[CENTRES], dtype=np.float32)
    if any(values.shape[1:] != centres.shape[1:] or name not in labels for name, values in spaces.items()):
        return None
    count = Counter(int(number) for name in spaces for number in labels[name] if number >= 0)
    chosen = sorted(number for number, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))[:CLASSES])
    parts, kinds, classes = [unit(centres[chosen])], [np.full(len(chosen), "", dtype=object)], [np.array(chosen)]
    for name, values in sorted(spaces.items()):
        rows = np.flatnonzero(np.isin(labels[name], chosen))
        rows = np.sort(np.random.default_rng(0).permutation(rows)[: MAX_ITEMS // len(spaces)])
        parts.append(unit(values[rows]))
        kinds.append(np.full(len(rows), name, dtype=object))
        classes.append(labels[name][rows])
    return Clusters(layout(np.concatenate(parts)), np.concatenate(kinds), np.concatenate(classes))


def draw_clusters(group: Group, shown: dict[str, Clusters], class_names: list[str], rate: float, footer: str) -> Figure:
    """A panel per method.

    Args:
        group: the runs.
        shown: by label, in the order of the panels.
        class_names: (c,) names; numbers are shown where empty.
        rate: noise rate of the runs shown.
        footer: what the figure shows.
    """
    figure, axes = panels(*fold(len(shown), PANELS_PER_ROW), width=2.5, height=2.5)
    numbers = sorted({int(number) for panel in shown.values() for number in panel.class_number})
    colours = dict(zip(numbers, hues(), strict=False))
    modalities = sorted({str(kind) for panel in shown.values() for kind in panel.kind} - {""})
    markers = dict(zip(modalities, cycle(MARKERS), strict=False))
    for ax, (label, panel) in zip(axes, shown.items(), strict=False):
        _scatter(ax, panel, colours, markers)
        name_panel(ax, label)
        ax.set(xticks=[], yticks=[])
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    point: Style = {"linestyle": "", "markersize": 5, "color": "0.2"}
    handles = [Line2D([], [], **point, marker=markers[name], markerfacecolor="none", label=name) for name in modalities]
    handles.append(Line2D([], [], **(point | {"markersize": 9}), marker="*", label="learnt centre"))
    for number in numbers:
        name = class_names[number] if number < len(class_names) else str(number)
        handles.append(Line2D([], [], **(point | {"color": colours[number]}), marker="o", markeredgewidth=0, label=name))
    title = f"Clusters of {group.dataset} ({group.split}), {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, handles)
    return figure


def _scatter(ax: Axes, panel: Clusters, colours: dict[int, str], markers: dict[str, str]) -> None:
    """Items as hollow marks, and over them the centres with the number of their class."""
    colour = np.array([colours[int(number)] for number in panel.class_number])
    for name, marker in markers.items():
        own = panel.kind == name
        x, y = panel.points[own].T
        ax.scatter(x, y, marker=marker, s=10, facecolors="none", edgecolors=colour[own], linewidths=0.6)
    centre = panel.kind == ""
    x, y = panel.points[centre].T
    ax.scatter(x, y, marker="*", s=150, c=colour[centre], edgecolors="black", linewidths=0.7, zorder=3)
    ax.margins(0.05)
