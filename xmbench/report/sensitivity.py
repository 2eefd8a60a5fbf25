"""How a metric depends on one hyper-parameter: runs, or trials, that differ in that one and in nothing else.

The layout of Hu et al., CVPR 2021, Figure 4, Huang et al., IJCV 2024, Figure 7, and Yang et al.,
IJCAI 2021, supplement, Figure 3.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group
from xmbench.report.style import Style, drawable, finish, log_scale, name_panel, panels, rate_colours, styled
from xmbench.report.words import METRIC_WORDS, direction_words, provenance_words

LEAST_VALUES = 3
MORE_METRICS = ("ndcg", "ndcg@100")  # shown too where they were measured
CHOICE = "of several sets of runs the one with the most values, then the most runs, then the first by its other parameters"
DECADES = 1.0  # of positive values, from which their axis is logarithmic


@styled()
def sensitivity(group: Group, context: Context) -> list[File]:
    """Write each metric against each hyper-parameter that has three values or more, all else equal, as figures.

    Of runs it is that of the test split, of trials that of validation.
    """
    return [file for metric in (group.metric, *MORE_METRICS) for file in _of_metric(group, metric, context)]


def _of_metric(group: Group, metric: str, context: Context) -> list[File]:
    points, split = (trial_points(group, metric), "validation") if group.tuned else (run_points(group, metric), "test")
    shown = slices(points)
    if shown.empty:
        return []
    runs = group.trials if group.tuned else group.rows
    runs = runs[runs["run_id"].isin(shown["run_id"])].drop_duplicates("run_id")
    own = f"{split} split, mean and standard deviation over seeds, all other parameters equal; {CHOICE}"
    footer = provenance_words(group, runs, own)
    stem = context.out / f"{group.slug}_sensitivity{'' if metric == group.metric else f'_{metric}'.replace('@', '')}"
    paths = write_figure(stem, draw_sensitivity(group, shown, split, footer, metric), footer)
    return [File(path, f"{METRIC_WORDS[metric]} against single hyper-parameters, {split} split", group, runs) for path in paths]


def run_points(group: Group, metric: str) -> pd.DataFrame:
    """One row per finished run and direction: run_id, method, params, noise_rate, seed, direction, value on the test split.

    Methods that are settings of one implementation, such as mrl and mrl_rc, are one method here.
    """
    measures = group.measures("best_valid")
    measures = measures[(measures["metric"] == metric) & (measures["network"] == "mean")]
    return measures[["run_id", "direction", "value"]].merge(_settings(group.runs), on="run_id")


def trial_points(group: Group, metric: str) -> pd.DataFrame:
    """The same of trials, with their validation score."""
    rows = group.trials[group.trials["status"] == "ok"]
    shown = (rows["split"] == "valid") & (rows["selection"] == "best_valid") & (rows["network"] == "mean")
    scores = rows.loc[shown & (rows["metric"] == metric), ["run_id", "direction", "value"]]
    return scores.merge(_settings(rows.drop_duplicates("run_id")), on="run_id")


def _settings(runs: pd.DataFrame) -> pd.DataFrame:
    columns = ["run_id", "implementation", "params", "noise_rate", "seed"]
    return runs[columns].rename(columns={"implementation": "method"})


def slices(points: pd.DataFrame) -> pd.DataFrame:
    """The points of each method and hyper-parameter of which all others are equal, with columns `parameter` and `x`, its value.

    Of several such sets one is taken that no score has chosen, see CHOICE.

    Args:
        points: of `run_points` or `trial_points`.
    """
    found = []
    for method, of_method in points.groupby("method"):
        params = {text: json.loads(text) for text in of_method["params"].unique()}
        for name in sorted({name for own in params.values() for name in own}):
            sets: dict[str, list[str]] = {}
            for text, own in params.items():
                if name in own:
                    rest = json.dumps({k: v for k, v in own.items() if k != name}, sort_keys=True)
                    sets.setdefault(rest, []).append(text)
            parts = [of_method[of_method["params"].isin(sets[rest])] for rest in sorted(sets)]
            chosen = max(parts, key=lambda part: (part["params"].nunique(), part["run_id"].nunique()), default=of_method[:0])
            if chosen["params"].nunique() >= LEAST_VALUES:
                x = chosen["params"].map({text: own.get(name) for text, own in params.items()})
                found.append(chosen.assign(method=method, parameter=name, x=x.astype(object)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def draw_sensitivity(group: Group, shown: pd.DataFrame, split: str, footer: str, metric: str) -> Figure:
    """A row of panels per method and hyper-parameter, a column per direction; a line per noise rate, of categories points.

    Args:
        group: the runs.
        shown: of `slices`.
        split: "test" or "validation".
        footer: what the figure shows.
        metric: whose values these are.
    """
    kinds = sorted(set(zip(shown["method"], shown["parameter"], strict=True)))
    directions = sorted(shown["direction"].unique(), key=lambda direction: (direction == "mean", direction))
    figure, axes = panels(len(kinds), len(directions), width=2.4 if len(directions) > 1 else 4, height=2.1, sharey="row")
    colours = rate_colours(sorted(shown["noise_rate"].unique()))
    cells = [(kind, direction) for kind in kinds for direction in directions]
    for ax, ((method, parameter), direction) in zip(axes, cells, strict=True):
        part = shown[(shown["method"] == method) & (shown["parameter"] == parameter) & (shown["direction"] == direction)]
        _lines(ax, part, colours)
        name_panel(ax, f"{method}: {direction_words(direction)}" if group.metric == "map" else str(method))
        ax.set_xlabel(str(parameter))
        ax.set_ylabel(METRIC_WORDS[metric] if direction == directions[0] else "")
    handles = [Line2D([], [], color=colour, marker="o", label=f"noise rate {rate:g}") for rate, colour in colours.items()]
    title = f"Sensitivity on {group.dataset} ({split}), {group.noise_scheme} noise"
    finish(figure, title, footer, handles)
    return figure


def _lines(ax: Axes, part: pd.DataFrame, colours: dict[float, str]) -> None:
    """A line per rate over the values, which stand at their places or, where they are no numbers, side by side."""
    values, places = axis_of(part["x"].unique())
    place = {_key(value): x for value, x in zip(values, places, strict=True)}
    named = any(isinstance(value, str | bool | list | dict | None) for value in values)  # no order to join them in
    for rate in sorted(part["noise_rate"].unique()):
        of_rate = part[part["noise_rate"] == rate]
        stats = (
            of_rate.assign(place=[place[_key(value)] for value in of_rate["x"]]).groupby("place")["value"].agg(["mean", "std"])
        )
        look: Style = {
            "color": colours[rate],
            "marker": "o",
            "capsize": 2,
            "elinewidth": 0.8,
            "linestyle": "none" if named else "-",
        }
        ax.errorbar(stats.index, stats["mean"], stats["std"].fillna(0), **look)
    if named:
        ax.set_xticks(places, [drawable(value if isinstance(value, str) else json.dumps(value)) for value in values])
    elif min(places) > 0 and np.log10(max(places) / min(places)) > DECADES:
        log_scale(ax, "x")


def axis_of(values: Iterable[Any]) -> tuple[list[Any], list[float]]:
    """The values in order, and where they stand: numbers at their own place, anything else at 0, 1, 2, ..."""
    values = list(values)
    if any(isinstance(value, str | bool | list | dict | None) for value in values):
        ordered = sorted(values, key=_key)
        return ordered, [float(i) for i in range(len(ordered))]
    return sorted(values), [float(value) for value in sorted(values)]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
