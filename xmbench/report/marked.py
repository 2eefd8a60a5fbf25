"""The marks of methods, and the notes that explain them, for tables that are no layouts."""

from collections.abc import Collection

from xmbench.report.cells import COLLAPSED, MEAN, OTHER_NOISE, STALE, cells_of, notes_of
from xmbench.report.groups import Group
from xmbench.report.layouts import Layout

MARKS = {STALE: "stale", COLLAPSED: "collapsed", OTHER_NOISE: "other_noise"}


def marked(group: Group, labels: Collection[str], selection: str) -> tuple[dict[tuple[str, float], str], list[str]]:
    """(label, noise rate) -> its marks, and what is to be known of these methods: settings, ensembles, origin, oracles."""
    layout = Layout(name="", cols=("noise_rate",), metrics=(group.metric,), selection=selection, where={"direction": MEAN})
    cells = cells_of(group, layout)
    cells = cells[cells["label"].isin(labels) & (cells["network"] == MEAN) & (cells["n"] > 0)]
    flags = cells[list(MARKS.values())].itertuples(index=False, name=None)
    keys = zip(cells["label"], cells["noise_rate"], strict=True)
    signs = {
        key: "".join(sign for sign, flag in zip(MARKS, own, strict=True) if flag) for key, own in zip(keys, flags, strict=True)
    }
    return signs, notes_of(group, cells.assign(n=group.n_planned), layout)
