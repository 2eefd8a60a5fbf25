"""One page of all results: a single HTML file that opens offline and asks nothing of the network.

Tables are DataTables, in the bundle that comes with itables; plots are plotly's, in the one that comes with it. The page's
policy allows these scripts by their hashes, and nothing else: no other script, no connection, no image from elsewhere.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from xmbench import __version__
from xmbench.published.citations import bibtex, cited
from xmbench.report import NothingToReport
from xmbench.report.files import write_text
from xmbench.report.groups import READ, Group, Reader, Results, group_rows
from xmbench.report.page_arrays import read_arrays
from xmbench.report.page_board import PROVENANCE, board, run_table, score_table, verdict_words
from xmbench.report.page_figures import class_plot, curve_plot, empty_words, noise_plot, training_plot
from xmbench.report.page_plot import Looks, Plot, looks_of
from xmbench.report.page_text import embedded
from xmbench.report.page_tsne import MAX_PLOTS, tsne_plot
from xmbench.report.words import counted

COLUMNS = list(dict.fromkeys([*READ, *PROVENANCE]))
"""The columns that the page reads."""
_EXPORTS = re.compile(r"export\{[^{}]*?([\w$]+) as default[^{}]*\};?")


def write_page(store: Results, rows: pd.DataFrame, path: Path, card: pd.DataFrame) -> None:
    """Write the page of these rows.

    Args:
        store: for the arrays of the runs.
        rows: what is shown, rows of `store` with the columns `COLUMNS`; those that are missing are left empty.
        path: of the file, replaced where it is there.
        card: these rows beside the published numbers, as `xmbench.repro.scorecard` has them.

    Raises:
        NothingToReport: no run of these rows has a MAP or an rSum on a test split.
    """
    groups = group_rows(rows.reindex(columns=[*rows.columns, *(name for name in PROVENANCE if name not in rows)]))
    if not groups:
        raise NothingToReport("nothing to report: a page needs a finished run with a MAP or an rSum on a test split")
    looks, reader = looks_of(groups), Reader(store)
    shown: list[dict[str, Any]] = []
    for group in groups:
        with_tsne = sum("tsne" in part["plots"] for part in shown) < MAX_PLOTS
        plots = _plots(group, reader, looks, with_tsne=with_tsne)
        found = {name: plot.content() for name, plot in plots.items() if plot is not None}
        shown.append(board(group, list(looks.place)) | {"plots": found, "empty": empty_words(group, with_tsne=with_tsne)})
    data = {
        "methods": list(looks.place),
        "looks": looks.traces(),
        "groups": shown,
        "runs": run_table(rows, groups),
        "scorecard": score_table(card) if card["ours"].notna().any() else None,
    }
    write_text(path, _page(groups, data, verdict_words(card)))


def _plots(group: Group, reader: Reader, looks: Looks, *, with_tsne: bool) -> dict[str, Plot | None]:
    """The plots of a group by name, None where the store has not what they need."""
    arrays = read_arrays(group, reader)
    return {
        "noise": noise_plot(group, looks),
        "pr": curve_plot(group, arrays, looks),
        "training": training_plot(group, arrays, looks),
        "classes": class_plot(group, arrays, looks),
        "tsne": tsne_plot(group, arrays, reader) if with_tsne else None,
    }


def _page(groups: Sequence[Group], data: dict[str, Any], verdicts: str) -> str:
    """The whole file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xmbench.report"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = files("xmbench.report") / "templates"
    scripts = [_table_library(), _plot_library(), own.joinpath("page.js").read_text("utf-8")]
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    names = {*datasets, "xmbench", *(str(name) for group in groups for name in group.runs["implementation"])}
    return environment.get_template("page.html.j2").render(
        title=f"xmbench: {', '.join(datasets)}",
        summary=", ".join(
            [
                counted(len(data["methods"]), "method"),
                counted(len(datasets), "dataset"),
                counted(len(data["runs"]["values"][0]["codes"]), "run"),
            ]
        ),
        version=__version__,
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
        scripts=scripts,
        styles=[_asset("itables", "html/dt_bundle.css"), own.joinpath("page.css").read_text("utf-8")],
        verdicts=verdicts,
        data=embedded(data),
        groups=[group["title"] for group in data["groups"]],
        bibtex=bibtex(names),
        uncited=sorted(names - cited()),
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(package: str, name: str) -> str:
    """A text file of an installed package."""
    return files(package).joinpath(name).read_text("utf-8")


def _plot_library() -> str:
    from plotly.offline import get_plotlyjs

    return _embeddable(get_plotlyjs())


def _table_library() -> str:
    """DataTables as a module that, instead of exporting its class, leaves it where the page's script finds it.

    Raises:
        RuntimeError: the bundle of the installed itables ends in another way.
    """
    text = _asset("itables", "html/dt_bundle.js")
    text, n = _EXPORTS.subn(r"globalThis.DataTable=\1;", text)
    if n != 1:
        raise RuntimeError("the script of itables must export DataTables once; install the version in constraints.txt")
    return _embeddable(text)


def _embeddable(script: str) -> str:
    """A script in which no text can be taken for the beginning or end of a script element; it means the same."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE)
