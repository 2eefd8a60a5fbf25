"""t-SNE of test items: the input features of each modality, and the common space of each method.

van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008. Modalities differ in the dimension of their
features, so each has an input panel of its own; in a common space all modalities are laid out together, after scaling
to unit length, where Euclidean distance orders items as cosine similarity does.
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
from threadpoolctl import threadpool_limits

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Arrays, Group, strip_prefix
from xmbench.report.selected import Kept, best_words, kept_runs, ranked_labels
from xmbench.report.style import Style, finish, fold, hues, name_panel, panels, styled
from xmbench.report.words import absent_words, provenance_words, selection_words

MAX_ITEMS = 500  # per panel
MAX_METHODS = 6  # a layout takes a second
MAX_ITERATIONS = 500
PANELS_PER_ROW = 4
MAX_CLASSES = 10  # the most frequent ones are coloured, others grey
GREY = "0.75"
MARKERS = ("o", "^", "s", "D", "v", "P", "X")


@dataclass(frozen=True)
class Cloud:
    """Points of one panel.

    Attributes:
        title: such as `Input: image` or a method's name.
        points: (n, 2) layout.
        modality: (n,) name of each point's modality.
        class_number: (n,) first class of each point, -1 where it has none.
    """

    title: str
    points: NDArray[Any]
    modality: NDArray[Any]
    class_number: NDArray[Any]


@styled()
def tsne(group: Group, context: Context) -> list[File]:
    """Write the t-SNE figure at one noise rate, for the first seed of the best methods that kept embeddings."""
    prefix = f"embedding/{group.split}/best_valid/"
    rate, kept = kept_runs(group, context.reader, lambda names: any(name.startswith(prefix) for name in names))
    kept = [run for run in kept if embeddings(run.arrays, group.split)]
    if not kept:
        return []
    absent = absent_words(group, [run.label for run in kept], "embedding")
    known = [run.label for run in kept]
    best = [label for label in ranked_labels(group) if label in known][:MAX_METHODS]
    kept = [run for run in kept if run.label in best]
    runs = group.runs[group.runs["run_id"].isin(run.run_id for run in kept)]
    clouds, class_names = clouds_of(group, kept), [str(name) for name in kept[0].arrays.get("class_names", [])]
    items = f"at most {MAX_ITEMS} items per panel"
    footer = provenance_words(group, runs, selection_words(group, "best_valid"), items, best_words(group, best, known), absent)
    figure = draw_tsne(group, clouds, class_names, rate, footer)
    paths = write_figure(context.out / f"{group.slug}_tsne", figure, footer)
    return [File(path, f"t-SNE of inputs and embeddings at noise rate {rate:g}", group, runs) for path in paths]


def embeddings(arrays: Arrays, split: str) -> Arrays:
    """(n, d) embeddings by modality, best epoch, of the only network or the first of several; empty where none fit a plane."""
    for network in ("mean", "0"):
        found = strip_prefix(arrays, f"embedding/{split}/best_valid/{network}/")
        if found and all(values.ndim == 2 for values in found.values()):
            return found
    return {}


def clouds_of(group: Group, kept: list[Kept]) -> list[Cloud]:
    """Panels of the inputs, then of each method."""
    first = kept[0].arrays
    labels = {name: first_class(values) for name, values in strip_prefix(first, f"labels/{group.split}/").items()}
    inputs = strip_prefix(first, f"input/{group.split}/")
    clouds = [_cloud(f"Input: {name}", {name: values}, labels) for name, values in sorted(inputs.items())]
    for run in kept:
        spaces = embeddings(run.arrays, group.split)
        clouds.append(_cloud(run.label, {name: unit(values) for name, values in sorted(spaces.items())}, labels))
    return clouds


def _cloud(title: str, spaces: Arrays, labels: Arrays) -> Cloud:
    """Lay out a fixed sample of the items of one or several modalities that share a space."""
    parts, names, classes = [], [], []
    for name, values in spaces.items():
        n_items = min(len(values), MAX_ITEMS // len(spaces))
        picked = np.sort(np.random.default_rng(0).permutation(len(values))[:n_items])
        parts.append(np.asarray(values, dtype=np.float32)[picked])
        names.append(np.full(n_items, name, dtype=object))
        classes.append(labels[name][picked] if name in labels else np.full(n_items, -1))
    return Cloud(title, layout(np.concatenate(parts)), np.concatenate(names), np.concatenate(classes))


def layout(values: NDArray[Any]) -> NDArray[Any]:
    """t-SNE coordinates, (n, d) -> (n, 2).

    One thread, because the sums in its gradient depend on the number of threads, and with them the layout.
    """
    n = len(values)
    if n < 5 or np.allclose(values, values[0]):  # nothing to lay out, such as a collapsed space
        return np.zeros((n, 2), dtype=np.float32)
    centred = values - values.mean(0)
    init = "pca" if values.shape[1] > 1 else "random"
    from sklearn.manifold import TSNE

    with threadpool_limits(1):
        model = TSNE(perplexity=min(30.0, (n - 1) / 3), init=init, random_state=0, max_iter=MAX_ITERATIONS)
        points: NDArray[Any] = model.fit_transform(centred)
    return points


def first_class(labels: NDArray[Any]) -> NDArray[Any]:
    """(n, c) multi-hot -> (n,) number of the first class, -1 where there is none."""
    return np.where(labels.any(1), labels.argmax(1), np.int64(-1))


def unit(values: NDArray[Any]) -> NDArray[Any]:
    from sklearn.preprocessing import normalize

    unit: NDArray[Any] = normalize(values.astype(np.float32))
    return unit


def draw_tsne(group: Group, clouds: list[Cloud], class_names: list[str], rate: float, footer: str) -> Figure:
    """One panel per cloud; colour is the class, marker the modality.

    Args:
        group: the runs.
        clouds: the panels.
        class_names: (c,) names; numbers are shown where empty.
        rate: noise rate of the runs shown.
        footer: what the figure shows.
    """
    figure, axes = panels(*fold(len(clouds), PANELS_PER_ROW), width=2.2, height=2.2)
    count = Counter(int(number) for cloud in clouds for number in cloud.class_number if number >= 0)
    frequent = sorted(number for number, _ in count.most_common(MAX_CLASSES))
    colours = dict(zip(frequent, hues(), strict=False))
    modalities = sorted({str(name) for cloud in clouds for name in cloud.modality})
    markers = dict(zip(modalities, cycle(MARKERS), strict=False))
    for ax, cloud in zip(axes, clouds, strict=False):
        _scatter(ax, cloud, colours, markers)
    for ax in axes[len(clouds) :]:
        ax.set_visible(False)
    names = {number: class_names[number] if number < len(class_names) else str(number) for number in frequent}
    point: Style = {"linestyle": "", "markersize": 5, "markeredgewidth": 0}
    handles = [Line2D([], [], **point, marker=markers[name], color="0.2", label=name) for name in modalities]
    handles += [Line2D([], [], **point, marker="o", color=colours[number], label=names[number]) for number in frequent]
    if set(count) - set(frequent):
        handles.append(Line2D([], [], **point, marker="o", color=GREY, label="other classes"))
    title = f"t-SNE of {group.dataset} ({group.split}), {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, handles)
    return figure


def _scatter(ax: Axes, cloud: Cloud, colours: dict[int, str], markers: dict[str, str]) -> None:
    """All points of a panel, in a fixed random order so that no class hides the others."""
    order = np.random.default_rng(1).permutation(len(cloud.points))
    for name, marker in markers.items():
        picked = order[cloud.modality[order] == name]
        colour = [colours.get(int(number), GREY) for number in cloud.class_number[picked]]
        x, y = cloud.points[picked].T
        ax.scatter(x, y, c=colour, marker=marker, s=9, alpha=0.75, linewidths=0, label=name)
    name_panel(ax, cloud.title)
    ax.set(xticks=[], yticks=[])
    ax.margins(0.04)
