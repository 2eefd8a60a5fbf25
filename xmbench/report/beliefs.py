"""What methods believe of training pairs, split by the truth: losses and their mixture, rectified labels, recast margins.

The layouts of Huang et al., "Learning with Noisy Correspondence for Cross-Modal Matching", NeurIPS 2021, supplement, Figure 1,
and of its extension in IJCV 2024, Figures 4, 5 and 13. Of two networks the first one is shown.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Arrays, Group
from xmbench.report.selected import Kept, kept_runs
from xmbench.report.style import Style, finish, fold, hues, log_scale, name_panel, panels, styled
from xmbench.report.words import absent_words, provenance_words

Floats = NDArray[np.float64]

BINS = 40
LEAST_PAIRS = 0.7  # where the axis of counts begins
PANELS_PER_ROW = 4
TRUTH = "record/pair_clean"
LOSSES, LABELS, WEIGHTS = "record/pair_losses", "record/rectified_labels", "record/clean_weights"
LEAST_SLOPE = 10.0  # of the sigmoid, see `recast`
FUNCTIONS = {"linear": "Ψ₁ linear", "exponential": "Ψ₂ exponential", "sin": "Ψ₃ sine", "sigmoid": "Ψ₄ sigmoid"}


@styled()
def loss_mixture(group: Group, context: Context) -> list[File]:
    """Write the histogram of the pairs' losses, with two Gaussians fitted to them."""
    words = (
        "losses of the last division scaled to [0, 1]",
        "mixture fitted again to the stored losses, by ten steps of EM at most",
    )
    return _write(
        group, context, "loss_mixture", {LOSSES, TRUTH}, draw_losses, "losses of training pairs and their mixture", words
    )


@styled()
def rectified(group: Group, context: Context) -> list[File]:
    """Write the histogram of the pairs' rectified labels."""
    words = ("labels of the last epoch",)
    return _write(group, context, "rectified", {LABELS, TRUTH}, draw_rectified, "rectified labels of training pairs", words)


@styled()
def recasting(group: Group, context: Context) -> list[File]:
    """Write what the four recasting functions make of the rectified labels."""
    words = "margins for alpha = 1", "boundary of Ψ₄: mean of the mean labels of pairs believed clean and believed noisy"
    needed = {LABELS, WEIGHTS, TRUTH}
    return _write(group, context, "recasting", needed, draw_recasting, "margins by four recasting functions", words)


def _write(
    group: Group,
    context: Context,
    kind: str,
    needed: set[str],
    draw: Callable[[Group, list[Kept], float, str], Figure],
    title: str,
    words: tuple[str, ...],
) -> list[File]:
    """Draw the runs that kept the arrays `needed`; nothing where none did."""
    rate, kept = kept_runs(group, context.reader, lambda names: needed <= names)
    if not kept:
        return []
    runs = group.runs[group.runs["run_id"].isin(run.run_id for run in kept)]
    absent = absent_words(group, [run.label for run in kept], "such record")
    footer = provenance_words(group, runs, *words, "first network", absent)
    paths = write_figure(context.out / f"{group.slug}_{kind}", draw(group, kept, rate, footer), footer)
    return [File(path, f"{title}, by their truth, at noise rate {rate:g}", group, runs) for path in paths]


def first_network(arrays: Arrays, name: str) -> Floats:
    """Values (n,) of the training pairs, of the first network where there are several."""
    values: Floats = np.atleast_2d(arrays[name]).astype(float)[0]
    return values


def by_truth(values: Floats, clean: NDArray[Any], edges: Floats) -> dict[str, NDArray[np.int64]]:
    """Counts of clean and of noisy pairs per bin; values that are not finite are in none."""
    parts = {"clean": clean, "noisy": ~clean}
    return {name: np.histogram(values[part & np.isfinite(values)], bins=edges)[0] for name, part in parts.items()}


def min_max(losses: Floats) -> Floats:
    """Losses scaled to [0, 1]; all 0 where they are equal, and what is not finite stays so."""
    finite = losses[np.isfinite(losses)]
    span = np.ptp(finite) if len(finite) else 0.0
    return np.where(np.isfinite(losses), (losses - finite.min()) / span if span else 0.0, np.nan) if len(finite) else losses


def fitted_mixture(values: Floats) -> tuple[Floats, Floats, Floats] | None:
    """Weights, means and standard deviations (2,) of two Gaussians fitted to values in [0, 1], the lower mean first.

    By the settings of NCR's released code; None where the values tell nothing apart.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten steps are all that there are to be
        mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(values[:, None])
    order = np.argsort(mixture.means_[:, 0])
    deviations = np.sqrt(mixture.covariances_[:, 0, 0])
    return mixture.weights_[order], mixture.means_[order, 0], deviations[order]


def draw_losses(group: Group, kept: list[Kept], rate: float, footer: str) -> Figure:
    """A panel per method: losses of clean and of noisy pairs, and the two components of the mixture in pairs per bin."""
    figure, axes = panels(*fold(len(kept), PANELS_PER_ROW), width=2.3, height=2.0)
    edges, x = np.linspace(0, 1, BINS + 1), np.linspace(0, 1, 401)
    for ax, run in zip(axes, kept, strict=False):
        values, clean = min_max(first_network(run.arrays, LOSSES)), run.arrays[TRUTH].astype(bool)
        counts = by_truth(values, clean, edges)
        _bars(ax, counts, edges)
        if mixture := fitted_mixture(values):
            for line, weight, mean, deviation in zip(("--", ":"), *mixture, strict=True):
                density = weight * np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
                ax.plot(x, density * np.isfinite(values).sum() / BINS, color="0.15", linestyle=line, linewidth=1.2)
        name_panel(ax, run.label)
    _label(axes, len(kept), "Loss, scaled", "Pairs")
    names: dict[str, Style] = {"mixture, lower mean": {"linestyle": "--"}, "mixture, higher mean": {"linestyle": ":"}}
    lines = [Line2D([], [], color="0.15", linewidth=1.2, label=name, **line) for name, line in names.items()]
    title = f"Losses of training pairs on {group.dataset}, {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, [*_keys(), *lines])
    return figure


def draw_rectified(group: Group, kept: list[Kept], rate: float, footer: str) -> Figure:
    """A panel per method: rectified labels of clean and of noisy pairs."""
    figure, axes = panels(*fold(len(kept), PANELS_PER_ROW), width=2.3, height=2.0)
    edges = np.linspace(0, 1, BINS + 1)
    for ax, run in zip(axes, kept, strict=False):
        _bars(ax, by_truth(first_network(run.arrays, LABELS), run.arrays[TRUTH].astype(bool), edges), edges)
        name_panel(ax, run.label)
    _label(axes, len(kept), "Rectified label", "Pairs")
    title = f"Rectified labels of training pairs on {group.dataset}, {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, _keys())
    return figure


def recast(labels: Floats, boundary: float) -> dict[str, Floats]:
    """Margins Psi(y) for alpha = 1 of labels y (n,), by function, (11) of Huang et al., IJCV 2024.

    The slope of the sigmoid, 10 + 100 (boundary - .5), is at least `LEAST_SLOPE`: as printed it is negative below .4.
    """
    slope = max(LEAST_SLOPE, 10 + 100 * (boundary - 0.5))
    return {
        "linear": labels,
        "exponential": (10**labels - 1) / 9,
        "sin": (np.sin(np.pi * labels - np.pi / 2) + 1) / 2,
        "sigmoid": 1 / (1 + np.exp(-slope * (labels - boundary))),
    }


def boundary_of(arrays: Arrays) -> float:
    """div of the sigmoid: the mean of two means, of the labels of pairs believed clean and of those believed noisy.

    The first network's pairs are divided by the second one's weights, where there are two.
    """
    labels, weights = first_network(arrays, LABELS), np.atleast_2d(arrays[WEIGHTS])[-1]
    known = np.isfinite(labels)
    parts = [labels[known & (weights > 0.5)], labels[known & (weights <= 0.5)]]
    means = [part.mean() for part in parts if len(part)]
    return float(np.mean(means)) if means else 0.5


def draw_recasting(group: Group, kept: list[Kept], rate: float, footer: str) -> Figure:
    """A row per method: its labels under the four functions, and the margins that each of them gives."""
    figure, axes = panels(len(kept), 1 + len(FUNCTIONS), width=1.9, height=1.8)
    edges, y = np.linspace(0, 1, BINS + 1), np.linspace(0, 1, 201)
    styles: dict[str, Style] = {name: {"linestyle": line} for name, line in zip(FUNCTIONS, ("-", "--", "-.", ":"), strict=True)}
    for i, run in enumerate(kept):
        first, *others = axes[i * (1 + len(FUNCTIONS)) : (i + 1) * (1 + len(FUNCTIONS))]
        labels, clean = first_network(run.arrays, LABELS), run.arrays[TRUTH].astype(bool)
        boundary = boundary_of(run.arrays)
        _bars(first, by_truth(labels, clean, edges), edges)
        margins = first.twinx()
        for name, values in recast(y, boundary).items():
            margins.plot(y, values, color="0.15", linewidth=1, **styles[name])
        margins.set(ylim=(0, 1.05), yticks=[])
        first.tick_params(left=False, which="both")
        name_panel(first, run.label)
        first.set(xlabel="Rectified label y", ylabel="Pairs", xlim=(0, 1))
        for ax, (name, values) in zip(others, recast(labels, boundary).items(), strict=True):
            _bars(ax, by_truth(values, clean, edges), edges)
            ax.set(xlabel="Margin", xlim=(0, 1), title=FUNCTIONS[name] + (f", div {boundary:.2f}" if name == "sigmoid" else ""))
    lines = [Line2D([], [], color="0.15", linewidth=1, label=word, **styles[name]) for name, word in FUNCTIONS.items()]
    title = f"Recasting functions on {group.dataset}, {group.noise_scheme} noise at rate {rate:g}"
    finish(figure, title, footer, [*_keys(), *lines])
    return figure


def _bars(ax: Axes, counts: dict[str, NDArray[np.int64]], edges: Floats) -> None:
    """Two histograms, each filled and outlined; the axis of counts is logarithmic, for most pairs share a bin."""
    for colour, values in zip(hues(), counts.values(), strict=False):
        ax.stairs(values, edges, fill=True, color=colour, alpha=0.45)
        ax.stairs(values, edges, color=colour, linewidth=0.9)
    log_scale(ax, "y")
    ax.set(xlim=(0, 1), ylim=(LEAST_PAIRS, 2 * max(1, *(max(values) for values in counts.values()))))


def _keys() -> list[Patch]:
    return [
        Patch(color=colour, alpha=0.6, label=name) for colour, name in zip(hues(), ("clean pairs", "noisy pairs"), strict=False)
    ]


def _label(axes: list[Axes], n_used: int, x: str, y: str) -> None:
    for ax in axes:
        ax.set(xlabel=x, ylabel=y)
    for ax in axes[n_used:]:
        ax.set_visible(False)
