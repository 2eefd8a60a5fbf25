"""The two losses of Hu et al., "Learning Cross-Modal Retrieval with Noisy Labels", CVPR 2021, Figure 3: no run is needed."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group
from xmbench.report.style import Style, finish, hues, panels, styled

STEM = "ce_rc"
LIMITS = ((-4.5, 4.5), (0, 20))


def cross_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """CE(p) = -log p, of the probability p of the given class."""
    return -np.log(p)


def cross_entropy_slope(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """dCE/dp = -1 / p: steepest where p is small, which wrong labels are."""
    return -1 / p


def robust_clustering(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """RC(p) = log(1 - p), (5)."""
    return np.log1p(-p)


def robust_clustering_slope(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """dRC/dp = -1 / (1 - p): steepest where p is large."""
    return -1 / (1 - p)


@styled()
def formulas(group: Group, context: Context) -> list[File]:
    """Write CE against RC, and the size of their gradients: once for all groups, for it shows no run."""
    if context.groups and group is not context.groups[0]:
        return []
    footer = "p: probability of the given class; drawn from the formulas CE = -log p and RC = log(1 - p), no run is shown"
    paths = write_figure(context.out / STEM, draw_formulas(footer), footer)
    return [File(path, "cross-entropy against robust clustering", group, group.runs.iloc[:0]) for path in paths]


def draw_formulas(footer: str) -> Figure:
    """The losses on the left, the absolute value of their derivatives by p on the right.

    Args:
        footer: what the figure shows.
    """
    p = np.linspace(0.002, 0.998, 499)
    figure, axes = panels(1, 2, width=3.0, height=2.6)
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], Style]] = {
        "cross-entropy, CE": (cross_entropy(p), np.abs(cross_entropy_slope(p)), {"linestyle": "-"}),
        "robust clustering, RC": (robust_clustering(p), np.abs(robust_clustering_slope(p)), {"linestyle": "--"}),
    }
    handles = []
    for colour, (name, (loss, slope, line)) in zip(hues(), curves.items(), strict=False):
        for ax, values in zip(axes, (loss, slope), strict=True):
            ax.plot(p, values, color=colour, **line)
        handles.append(Line2D([], [], color=colour, **line, label=name))
    for ax, limits, title in zip(axes, LIMITS, ("Loss", "Size of its gradient, |dL/dp|"), strict=True):
        ax.set(xlim=(0, 1), ylim=limits, xlabel="p", title=title)
    axes[0].axhline(0, color="0.3", linewidth=0.6)
    finish(figure, "Cross-entropy and robust clustering", footer, handles)
    return figure
