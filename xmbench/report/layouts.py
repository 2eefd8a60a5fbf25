"""Layouts: what the rows, columns and cells of a table are; the shipped ones are TOML files in `xmbench/layouts/`.

A layout with `heads` or `blocks` is a table of a paper: its rows and columns are those that the paper prints, in its order,
whether or not a run fills them. Any other layout shows what a store has.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from itertools import product
from typing import Any

DIMENSIONS = ("dataset", "noise_scheme", "protocol", "tuned", "noise_rate", "method", "direction", "metric")
"""What rows and columns may be; `dataset` names the test split too where there are several, `coco_precomp:1k`."""
OF_GROUPS = DIMENSIONS[:4]
MEAN_STD, MEAN_CI95 = "mean±std", "mean±ci95"
AGGREGATES = (MEAN_STD, MEAN_CI95, "median", "best")
SELECTIONS = ("best_valid", "last")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows.

    Attributes:
        name: of the layout; of its files too, where it is a table of a paper.
        title: what it shows, in a few words, `{metrics}` for the names of its metrics; "" for these alone.
        rows, cols: dimensions from outside to inside, out of DIMENSIONS.
        metrics: shown; where empty, what the runs are compared by.
        where: dimension that is neither in rows nor cols, or `split` -> its one value. `direction` is "mean" where not given.
        agg: how the values of several seeds become one number, out of AGGREGATES.
        digits: after the decimal point; None for the usual ones of each metric.
        selection: which epoch.
        networks: "mean" for the networks of a method together, "one network", "intersection".
        average: metrics whose mean over directions has a column, where directions have; None for all.
        bare: metrics whose cells show neither a spread nor marks, to save room.
        spec: the spec whose runs fill it.
        heads: dimension -> {value: head}; only these values are shown, in this order.
        blocks: rows in order, a rule between blocks: dimension -> values; without them, all of `heads`.
        same: method of `heads` -> methods here that stand for it too, each with a row of its own.
        paper, table: whose numbers it holds, as in the file of published numbers.
    """

    name: str
    title: str = ""
    rows: tuple[str, ...] = ("method",)
    cols: tuple[str, ...] = ("direction", "noise_rate")
    metrics: tuple[str, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    agg: str = MEAN_STD
    digits: int | None = None
    selection: str = "best_valid"
    networks: tuple[str, ...] = ("mean",)
    average: tuple[str, ...] | None = None
    bare: tuple[str, ...] = ()
    spec: str = ""
    heads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    blocks: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    same: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paper: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        dimensions = [*self.rows, *self.cols]
        if not self.rows or not self.cols or len(set(dimensions)) < len(dimensions):
            raise ValueError(f"rows and columns need one dimension each and none twice, got rows {self.rows}, cols {self.cols}")
        if unknown := set(dimensions) - set(DIMENSIONS):
            raise ValueError(f"rows and columns must be of {', '.join(DIMENSIONS)}, got {', '.join(sorted(unknown))}")
        if missing := {"method", "noise_rate"} - {*dimensions, *self.where}:
            raise ValueError(
                f"a cell never mixes methods or noise rates: put {' and '.join(sorted(missing))} in rows or columns"
            )
        if self.agg not in AGGREGATES:
            raise ValueError(f"agg must be of {', '.join(AGGREGATES)}, got {self.agg}")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Of rows and columns; `metric` is among them where several are shown."""
        return (*self.rows, *self.cols)

    @property
    def of_a_paper(self) -> bool:
        """Whether the rows and columns are fixed."""
        return bool(self.heads or self.blocks)

    def with_metrics(self, metrics: tuple[str, ...]) -> "Layout":
        """The layout with these metrics, told apart by the innermost columns where there are several."""
        cols = self.cols if len(metrics) < 2 or "metric" in self.dimensions else (*self.cols, "metric")
        return replace(self, metrics=metrics, cols=cols)

    def values(self, dimension: str) -> tuple[Any, ...]:
        """The values of a dimension in the paper's order; empty for all that there are."""
        if dimension == "metric":
            return self.metrics
        if dimension in self.heads:
            return tuple(float(value) if dimension == "noise_rate" else value for value in self.heads[dimension])
        return tuple(dict.fromkeys(value for block in self.blocks for value in block.get(dimension, ())))

    def fixed_rows(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Block and values of `rows` of each row of a paper's table."""
        for number, block in enumerate(self.blocks or ({},)):
            yield from ((number, key) for key in product(*(block.get(name) or self.values(name) for name in self.rows)))

    def fixed_cols(self) -> Iterator[tuple[Any, ...]]:
        """Values of `cols` of each column of a paper's table."""
        yield from product(*(self.values(name) for name in self.cols))


def layout_names() -> list[str]:
    """Names of the shipped layouts."""
    return sorted(path.name.removesuffix(".toml") for path in files("xmbench").joinpath("layouts").iterdir())


def load_layout(name: str) -> Layout:
    """The shipped layout of a name of `layout_names`."""
    content = tomllib.loads(files("xmbench").joinpath("layouts", f"{name}.toml").read_text("utf-8"))
    content["blocks"] = [
        {key: tuple(value) if isinstance(value, list) else (value,) for key, value in block.items()}
        for block in content.get("blocks", [])
    ]
    lists = {field.name for field in fields(Layout) if str(field.type).startswith("tuple")}
    given: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in content.items()}
    return Layout(name=name, **given)
