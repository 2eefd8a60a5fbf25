"""t-SNE on the page: inputs and common spaces of the best methods at one noise rate, coloured by class or by modality."""

from collections import Counter
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from xmbench.report.groups import Group, Reader
from xmbench.report.page_arrays import GroupArrays
from xmbench.report.page_plot import SYMBOLS, Plot, axis
from xmbench.report.page_text import all_rounded, plain
from xmbench.report.selected import Kept, best_words, ranked_labels, shown_rate
from xmbench.report.style import hues
from xmbench.report.tsne import MAX_CLASSES, MAX_ITEMS, MAX_METHODS, Cloud, clouds_of

MAX_PLOTS = 4  # groups that have one
OTHER = "#999999"


def tsne_plot(group: Group, arrays: GroupArrays, reader: Reader) -> Plot | None:
    """A panel per modality's input, then one per method, the best ones first; the first seed that kept embeddings."""
    kept = [run for run in arrays.runs if run.has_embeddings]
    if not kept:
        return None
    rate = shown_rate([run.noise_rate for run in kept])
    runs = {run.label: run for run in reversed(kept) if run.noise_rate == rate}
    labels = [label for label in ranked_labels(group) if label in runs][:MAX_METHODS]
    clouds = clouds_of(group, [Kept(label, runs[label].run_id, reader.all(runs[label].run_id)) for label in labels])
    more = f" Shown are {few}." if (few := best_words(group, labels, runs)) else ""
    modalities = sorted({str(name) for cloud in clouds for name in cloud.modality})
    signs = ", ".join(f"{name}: {SYMBOLS[i % len(SYMBOLS)]}" for i, name in enumerate(modalities))
    plot = Plot(
        title="Inputs and embeddings, by t-SNE",
        caption=f"t-SNE of at most {MAX_ITEMS} items of {group.split} per panel, at noise rate {rate:g} whichever rate is "
        f"chosen, best epoch, first seed. Symbols: {signs}.{more}",
        panels=[cloud.title for cloud in clouds],
        x="",
        y="",
        columns=["Class or modality", "Panel", "x", "y"],
        defaults={"scatter": [{"mode": "markers", "hovertemplate": "%{fullData.name}<extra></extra>", "marker": {"size": 5}}]},
        axes=({"visible": False}, {"visible": False}),
        height=300,
    )
    names = _class_names(clouds, arrays.class_names)
    for i, cloud in enumerate(clouds):
        plot.traces += [*_by_modality(cloud, i, modalities), *_by_class(cloud, i, modalities, names)]
    return plot


def _class_names(clouds: list[Cloud], names: list[str]) -> dict[int, str]:
    """By number, the names of the most frequent classes."""
    count = Counter(int(number) for cloud in clouds for number in cloud.class_number if number >= 0)
    frequent = sorted(number for number, _ in count.most_common(MAX_CLASSES))
    return {number: names[number] if number < len(names) else str(number) for number in frequent}


def _by_modality(cloud: Cloud, panel: int, modalities: list[str]) -> list[Any]:
    return [
        _points(cloud, cloud.modality == name, panel, "modality", name, hues()[i % len(hues())], SYMBOLS[i % len(SYMBOLS)])
        for i, name in enumerate(modalities)
        if (cloud.modality == name).any()
    ]


def _by_class(cloud: Cloud, panel: int, modalities: list[str], names: dict[int, str]) -> list[Any]:
    """A trace per class and modality; classes that have no colour are grey."""
    colours = dict(zip(names, hues(), strict=False))
    shown = np.array([number if number in names else -1 for number in cloud.class_number.tolist()])
    traces = []
    for number in np.unique(shown).tolist():
        for i, modality in enumerate(modalities):
            picked = (shown == number) & (cloud.modality == modality)
            if picked.any():
                name, symbol = names.get(number, "other"), SYMBOLS[i % len(SYMBOLS)]
                traces.append(_points(cloud, picked, panel, "class", name, colours.get(number, OTHER), symbol))
    return traces


def _points(cloud: Cloud, picked: NDArray[Any], panel: int, by: str, name: str, colour: str, symbol: str) -> Any:
    """Some points of a panel, as a trace for when they are coloured so."""
    x, y = (all_rounded(values, 3) for values in cloud.points[picked].T)
    marker = {"color": colour, "symbol": symbol}
    return go.Scatter(x=x, y=y, name=plain(name), legendgroup=plain(name), marker=marker, meta={"colour": by}, **axis(panel))
