"""The plots of the page, as plotly draws them: of every group all traces, of which the page shows those that are chosen."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xmbench.report.groups import SELECTIONS, Group
from xmbench.report.page_arrays import GroupArrays, RunArrays, class_means, first_histories, mean_curves
from xmbench.report.page_plot import Looks, Plot, axis
from xmbench.report.page_text import all_rounded, plain, rounded
from xmbench.report.training import best_epoch
from xmbench.report.words import METRIC_WORDS, direction_words

LEVELS = np.linspace(0.0, 1.0, 11)
MAX_EPOCHS = 100  # of a curve; of more, every second or third is shown
MAX_CLASSES = 30  # the most frequent ones are shown
MAX_WRITTEN = 12  # up to so many their numbers are written in the cells
EPOCHS = {
    "mode": "lines+markers",
    "hovertemplate": "epoch %{x}: %{y}",
    "selected": {"marker": {"size": 9, "opacity": 1}},
    "unselected": {"marker": {"opacity": 0}},
}
CELLS = {"coloraxis": "coloraxis", "hovertemplate": "%{x}: %{z:.3f}<extra>%{y}</extra>", "hoverongaps": False, "ygap": 1}


def noise_plot(group: Group, looks: Looks) -> Plot | None:
    """The metric against the noise rate, a panel per direction; the rate chosen on the page is a dotted line."""
    scores = pd.concat([group.scores(selection).assign(selection=selection) for selection in SELECTIONS])
    if scores.empty:
        return None
    metric, digits = METRIC_WORDS[group.metric], ".3f" if group.metric == "map" else ".1f"
    panels = [direction_words(direction) if group.metric == "map" else metric for direction in group.directions]
    hover = f"rate %{{x}}: %{{y:{digits}}}"
    plot = Plot(
        title=f"{metric} against noise",
        caption=f"{metric} by nominal noise rate, mean over seeds; bars are standard deviations, the grey line is chance.",
        panels=panels,
        x="Noise rate",
        y=metric,
        columns=["Method", "Panel", "Noise rate", metric],
        defaults={"scatter": [{"mode": "lines+markers", "hovertemplate": hover, "error_y": {"thickness": 1, "width": 3}}]},
        axes=({"tickvals": group.rates}, {"rangemode": "tozero"}),
        shared={"x": group.rates},
    )
    stats = scores.groupby(["direction", "label", "selection", "noise_rate"])["value"].agg(["mean", "std"])
    for key, part in stats.groupby(level=[0, 1, 2]):
        direction, label, selection = map(str, key)
        spread: dict[str, Any] = {}
        if part["std"].notna().any():  # one seed has none
            told = ["" if np.isnan(std) else f" ± {std:{digits}}" for std in part["std"]]
            spread = {"error_y": {"array": all_rounded(part["std"])}, "text": told, "hovertemplate": f"{hover}%{{text}}"}
        meta = {"method": looks.place[label], "selection": selection}
        rates = list(part.index.get_level_values("noise_rate"))
        x = {} if rates == group.rates else {"x": rates}
        y, where = all_rounded(part["mean"]), axis(group.directions.index(direction))
        plot.traces.append(go.Scatter(y=y, meta=meta, **spread, **x, **where))
    plot.traces += _guides(group, float((stats["mean"] + stats["std"].fillna(0.0)).max()))
    return plot


def _guides(group: Group, highest: float) -> list[Any]:
    """Chance in each panel, and a line at each rate for when it is chosen."""
    grey = {"mode": "lines", "hoverinfo": "skip", "hovertemplate": None, "showlegend": False}
    guides = []
    for i, direction in enumerate(group.directions):
        chance = rounded(group.chance.get(direction, np.nan))
        ends = [group.rates[0], group.rates[-1]]
        guides.append(go.Scatter(x=ends, y=[chance] * 2, line={"color": "#888", "width": 1}, **grey, **axis(i)))
        for k, rate in enumerate(group.rates):
            line = {"color": "#888", "width": 1, "dash": "dot"}
            guides.append(go.Scatter(x=[rate] * 2, y=[0, rounded(highest)], meta={"rate": k}, line=line, **grey, **axis(i)))
    return guides


def curve_plot(group: Group, arrays: GroupArrays, looks: Looks) -> Plot | None:
    """Precision at the levels of recall, a panel per direction."""
    curves = mean_curves(arrays)
    directions = sorted({direction for *_, direction in curves})
    if not directions:
        return None
    plot = Plot(
        title="Precision-recall curves",
        caption="Interpolated precision at the levels of recall, at the noise rate chosen, mean over seeds.",
        panels=[direction_words(direction) for direction in directions],
        x="Recall",
        y="Precision",
        columns=["Method", "Panel", "Recall", "Precision"],
        defaults={"scatter": [{"mode": "lines+markers", "hovertemplate": "recall %{x:.2f}: precision %{y:.3f}"}]},
        axes=({"range": [-0.02, 1.02]}, {"rangemode": "tozero"}),
        shared={"x": all_rounded(LEVELS)},
    )
    for (label, rate, selection, direction), (recall, precision) in curves.items():
        usual = len(recall) == len(LEVELS) and np.allclose(recall, LEVELS)
        x = {} if usual else {"x": all_rounded(recall)}
        meta = {"method": looks.place[label], "rate": group.rates.index(rate), "selection": selection}
        where = axis(directions.index(direction))
        plot.traces.append(go.Scatter(y=all_rounded(precision, 3), meta=meta, **x, **where))
    return plot


def training_plot(group: Group, arrays: GroupArrays, looks: Looks) -> Plot | None:
    """Loss and validation score against the epoch, of the first seed that has them; the best epoch is marked."""
    runs = first_histories(arrays)
    metric = METRIC_WORDS[group.metric]
    names = {
        "valid": f"Validation {metric}",
        "loss": "Loss",
        "valid/loss": "Validation loss",
        "score_std": "Std. dev. of scores",
    }
    shown = [name for name in names if any(np.isfinite(run.history.get(name, [np.nan])).any() for run in runs)]
    if not shown:
        return None
    plot = Plot(
        title="Training curves",
        caption="Against the epoch, at the noise rate chosen, of the first seed of each method; the epoch of the best "
        "validation score has a marker. Losses of different methods are of different kinds.",
        panels=[names[name] for name in shown],
        x="Epoch",
        y="",
        columns=["Method", "Panel", "Epoch", "Value"],
        defaults={"scatter": [EPOCHS]},
        axes=({"rangemode": "tozero"}, {}),
    )
    for run in runs:
        meta = {"method": looks.place[run.label], "rate": group.rates.index(run.noise_rate)}
        for i, name in enumerate(shown):
            plot.traces += _history(run, name, meta=meta, **axis(i))
    return plot


def _history(run: RunArrays, name: str, **options: Any) -> list[Any]:
    """What was measured at the epochs of a run, its best epoch selected, as a trace; none where nothing was."""
    best = best_epoch(run.history)
    values = np.asarray(run.history.get(name, []), dtype=float)
    places = _thinned(np.flatnonzero(np.isfinite(values)), best)
    if not len(places):
        return []
    epochs = run.history["epoch"][places]
    x = (
        {"x0": rounded(epochs[0])}
        if np.array_equal(epochs, epochs[0] + np.arange(len(epochs)))
        else {"x": all_rounded(epochs, 6)}
    )
    return [go.Scatter(y=all_rounded(values[places]), selectedpoints=np.flatnonzero(places == best).tolist(), **x, **options)]


def _thinned(places: Any, kept: int | None) -> Any:
    """At most about MAX_EPOCHS of the places, the last and `kept` among them."""
    step = -(-len(places) // MAX_EPOCHS)
    if step <= 1:
        return places
    return np.unique([*places[::step], places[-1], *([kept] if kept in places else [])])


def class_plot(group: Group, arrays: GroupArrays, looks: Looks) -> Plot | None:
    """Mean average precision of the queries of each class, a row per method and a panel per direction."""
    means = class_means(arrays)
    directions = sorted({direction for *_, direction in means})
    if not directions:
        return None
    counts = next(iter(arrays.labels.values())).sum(axis=0)
    frequent = np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES])
    names = [plain(arrays.class_names[i] if i < len(arrays.class_names) else str(i)) for i in frequent]
    few = f"; the {MAX_CLASSES} most frequent of {len(counts)} classes" if len(counts) > MAX_CLASSES else ""
    plot = Plot(
        title="Results by class",
        caption=f"Mean average precision of the queries of each class, at the noise rate chosen, mean over the seeds{few}.",
        panels=[direction_words(direction) for direction in directions],
        x="",
        y="",
        columns=["Method", "Panel", "Class", "MAP"],
        defaults={"heatmap": [CELLS | ({"texttemplate": "%{z:.2f}"} if len(names) <= MAX_WRITTEN else {})]},
        axes=({"type": "category", "showgrid": False}, {"type": "category", "autorange": "reversed", "showgrid": False}),
        height=190,
        row_height=24,
        per_row=2,
        shared={"x": names},
        layout={"coloraxis": {"colorscale": "Viridis", "colorbar": {"thickness": 12, "title": {"text": "MAP"}}}},
    )
    for (label, rate, selection, direction), values in means.items():
        meta = {"method": looks.place[label], "rate": group.rates.index(rate), "selection": selection}
        z, where = [all_rounded(values[frequent], 3)], axis(directions.index(direction))
        plot.traces.append(go.Heatmap(z=z, meta=meta, **where))
    return plot


def empty_words(group: Group, *, with_tsne: bool) -> dict[str, str]:
    """Why a plot is not there.

    Args:
        group: the runs.
        with_tsne: False where as many other groups have a t-SNE as a page shows.
    """
    tsne = "No run kept its embeddings: by default that of the first seed does."
    if not with_tsne:
        tsne = "A page shows the t-SNE of its first few groups only; choose this one with --where, or `--figures tsne`."
    if group.metric == "map":
        curves, classes = (f"No run kept {what}." for what in ("precision-recall curves", "its values per query and labels"))
    else:
        curves = classes = "These data have pairs and no classes."
    return {
        "noise": "No run has a value.",
        "pr": curves,
        "training": "No run has a history of several epochs.",
        "classes": classes,
        "tsne": tsne,
    }
