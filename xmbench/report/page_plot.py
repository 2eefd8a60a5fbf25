"""What all plots of the page share: their form, and how the methods look in them.

A trace says in `meta` when it is shown: `method`, `rate` and `selection` are places in the page's list of methods and the
group's list of rates, and the name of a selection; `colour` is how points are coloured. What it leaves out holds always. How
a trace of a method looks is said once for all of them, in `Looks`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xmbench.report.groups import Group
from xmbench.report.page_text import plain
from xmbench.report.selected import ranked_labels
from xmbench.report.style import hues

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")  # 7 and 10 colours: 70 pairs
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass
class Plot:
    """A plot of a group.

    Attributes:
        title: what it shows, in a few words.
        caption: the same at length, and its text alternative.
        panels: titles of its panels, side by side, or one above the other where the page is narrow.
        x, y: titles of the axes; of y one for all panels or one each.
        columns: titles of the columns of its data as a table: name, panel, x, y.
        defaults: what all traces of a type have in common, as plotly's templates have it.
        axes: settings of all x and of all y axes.
        height: in pixels; `row_height` is added for each method shown.
        shared: what all traces have in common, arrays too.
        traces: all of them.
    """

    title: str
    caption: str
    panels: list[str]
    x: str
    y: str | list[str]
    columns: list[str]
    defaults: dict[str, Any]
    axes: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    height: int = 380
    row_height: int = 0
    per_row: int = 4
    layout: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    traces: list[Any] = field(default_factory=list)

    def content(self) -> dict[str, Any]:
        """The plot as the page's script reads it."""
        return {
            "title": self.title,
            "caption": self.caption,
            "columns": self.columns,
            "panels": self.panels,
            "height": self.height,
            "rowHeight": self.row_height,
            "defaults": go.layout.template.Data(self.defaults).to_plotly_json(),
            "shared": self.shared,
            "wide": self._layout(narrow=False),
            "narrow": self._layout(narrow=True),
            "traces": [_in_short(trace) for trace in self.traces],
        }

    def _layout(self, *, narrow: bool) -> dict[str, Any]:
        """Panels in a grid, titles and axes; a legend at the right, or below where the page is narrow."""
        n = len(self.panels)
        n_columns = min(n, 1 if narrow else self.per_row)
        n_rows = -(-n // n_columns)
        titles = [plain(panel) for panel in self.panels]
        gap = {"horizontal_spacing": (0.1 if self.row_height else 0.26) / n_columns}
        gap["vertical_spacing"] = (0.45 if self.row_height else 0.26) / n_rows
        figure = make_subplots(n_rows, n_columns, subplot_titles=titles, **gap)
        figure.update_xaxes(**self.axes[0])
        figure.update_yaxes(**self.axes[1])
        y = [self.y] * n if isinstance(self.y, str) else self.y
        for i, title in enumerate(y):
            row, column = divmod(i, n_columns)
            place = {"row": row + 1, "col": column + 1}
            figure.update_xaxes(title_text=self.x if i + n_columns >= n else "", **place)
            figure.update_yaxes(title_text=title if column == 0 or not isinstance(self.y, str) else "", **place)
            if self.row_height and column:  # the same methods in the same order
                figure.update_yaxes(showticklabels=False, **place)
        figure.update_layout(template=None, **self.layout)
        if narrow:
            figure.update_layout(legend={"orientation": "h", "y": -0.22 / n_rows, "yanchor": "top", "x": 0})
        layout: dict[str, Any] = figure.to_plotly_json()["layout"]
        return {**layout, "height": self.height * (n if narrow else n_rows)}


def _in_short(trace: Any) -> dict[str, Any]:
    """The trace without its type where that is plotly's default: a page has thousands."""
    return {name: value for name, value in trace.to_plotly_json().items() if (name, value) != ("type", "scatter")}


@dataclass(frozen=True)
class Looks:
    """Colour, symbol and dash of each method, the same in all plots of the page.

    Attributes:
        numbers: of each method as shown, its colour's number, and how many methods had the colour before.
    """

    numbers: dict[str, tuple[int, int]]

    @cached_property
    def place(self) -> dict[str, int]:
        """Place of each method among all."""
        return {label: i for i, label in enumerate(self.numbers)}

    def traces(self) -> list[dict[str, Any]]:
        """Of each method what distinguishes its traces, as plotly has it."""
        return [self._trace(*item) for item in self.numbers.items()]

    def _trace(self, label: str, number: tuple[int, int]) -> dict[str, Any]:
        colour, before = number
        symbol, dash = SYMBOLS[(colour + before) % len(SYMBOLS)], DASHES[before % len(DASHES)]
        marker = {"color": hues()[colour], "symbol": symbol}
        return {"name": plain(label), "legendgroup": str(self.place[label]), "marker": marker, "line": {"dash": dash}}


def looks_of(groups: Iterable[Group]) -> Looks:
    """Looks by which the best methods of each group, those seen first, differ in colour as far as there are colours."""
    numbers: dict[str, tuple[int, int]] = {}
    uses: Counter[int] = Counter()
    for group in groups:
        ranked = ranked_labels(group)
        near = Counter(numbers[label][0] for label in ranked[: len(hues())] if label in numbers)
        for label in ranked:
            if label not in numbers:
                number = min(range(len(hues())), key=lambda k: (near[k], uses[k], k))
                numbers[label] = (number, uses[number])
                near[number] += 1
                uses[number] += 1
    return Looks(numbers)


def axis(i: int) -> dict[str, str]:
    """The axes of the panel of that number."""
    return {} if i == 0 else {"xaxis": f"x{i + 1}", "yaxis": f"y{i + 1}"}
