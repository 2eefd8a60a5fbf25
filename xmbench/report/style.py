"""The look of all figures: fonts, sizes, and one colour and marker per method. Nothing global is changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import ceil
from textwrap import fill
from typing import Any, Literal

import matplotlib
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # 9 and 10 share no factor: 90 different pairs
FOOTER_SIZE = 5.5
FOOTER_CHARACTERS_PER_INCH = 22
LEAST_WIDTH = 4.0  # inches
LEGEND_LINE = 0.19  # inches
LEGEND_LINES = 20  # in one column

Style = dict[str, Any]


@dataclass(frozen=True)
class Palette:
    """One colour and marker per method, the same in all figures of a report.

    Attributes:
        labels: all methods of the report as shown.
    """

    labels: Sequence[str]

    def __getitem__(self, label: str) -> Style:
        i = self.labels.index(label)
        return {"color": hues()[i % len(hues())], "marker": MARKERS[i % len(MARKERS)]}


@cache
def hues() -> tuple[str, ...]:
    """Seaborn's "colorblind" palette, strong hues first and yellow, hard to see as a line on white, last."""
    import seaborn  # here, for a second that a report without figures need not wait

    return tuple(to_hex(seaborn.color_palette("colorblind")[i]) for i in (0, 1, 2, 3, 4, 5, 9, 6, 7, 8))


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings for the figures made and saved inside; also usable as a decorator."""
    import seaborn

    look = seaborn.axes_style("whitegrid") | seaborn.plotting_context("paper", font_scale=0.9)
    own = {
        "font.family": ["DejaVu Sans"],  # comes with Matplotlib: the same on every machine
        "font.sans-serif": ["DejaVu Sans"],
        "pdf.fonttype": 42,
        "savefig.dpi": 200,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "axes.titlesize": "medium",
        "grid.linewidth": 0.5,
        "legend.frameon": False,
        "text.parse_math": False,  # a dollar sign in a name is one
    }
    with matplotlib.rc_context(look | own):
        yield


def panels(n_rows: int, n_columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, row by row, without pyplot; they are wider where few stand side by side, for the title's sake.

    Args:
        n_rows: rows of panels.
        n_columns: columns of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        options: for `Figure.subplots`, such as `sharey`.
    """
    figure = Figure(figsize=(max(width * n_columns, LEAST_WIDTH), height * n_rows + 0.6), layout="constrained")
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, **options).flat)


def name_panel(ax: Axes, name: str) -> None:
    """Put a name above a panel about two inches wide, in as many lines as it needs."""
    ax.set_title(fill(name, 26))


def fold(n_panels: int, per_row: int = 3) -> tuple[int, int]:
    """Rows and columns of a grid for so many panels, with rows as even as can be."""
    n_rows = -(-n_panels // per_row)
    return n_rows, -(-n_panels // n_rows)


def epoch_ticks() -> MaxNLocator:
    """Matplotlib's own choice of ticks, whole numbers only."""
    return MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True)


@cache
def _drawn() -> frozenset[int]:
    """The characters that the figures' font has."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(text: str) -> str:
    """The text with a question mark for each character that the font lacks."""
    return "".join(c if c == "\n" or ord(c) in _drawn() else "?" for c in text)


def finish(figure: Figure, title: str, footer: str, handles: Sequence[Artist]) -> None:
    """Put the title above, the legend at the right and the line that says what is shown below; settle the layout.

    The figure grows by what the legend needs: it has as many columns as it takes to be no higher than the panels, or than
    twenty lines.
    """
    longest = max(len(str(handle.get_label())) for handle in handles)
    panels_width, height = figure.get_size_inches()
    n_columns = ceil(len(handles) / max(LEGEND_LINES, int((height - 0.9) / LEGEND_LINE)))
    width = panels_width + n_columns * (0.5 + 0.075 * longest)
    figure.set_size_inches(width, max(height, LEGEND_LINE * ceil(len(handles) / n_columns) + 0.9))
    figure.suptitle(fill(title, int(11 * panels_width)), x=panels_width / width / 2, fontsize="large")
    characters = int(FOOTER_CHARACTERS_PER_INCH * width)
    figure.supxlabel(fill(footer, characters), fontsize=FOOTER_SIZE, color="0.35", linespacing=1.3)
    figure.legend(handles=handles, loc="outside right upper", ncols=n_columns)
    for text in figure.findobj(Text):
        text.set_text(drawable(text.get_text()))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else it is computed again for each format


def log_scale(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, its ticks written out: Matplotlib's own would need the mathematics that `styled` turns off."""
    ax.set(**{f"{axis}scale": "log"})
    of_axis = ax.xaxis if axis == "x" else ax.yaxis
    of_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    of_axis.set_minor_formatter(NullFormatter())


def rate_colours(rates: Sequence[float]) -> dict[float, str]:
    """A colour per noise rate, from dark at the lowest to light at the highest."""
    steps = [0.85 * i / max(len(rates) - 1, 1) for i in range(len(rates))]
    return {rate: to_hex(colormaps["viridis"](step)) for rate, step in zip(rates, steps, strict=True)}
