"""How well methods find the noise in the training pairs: a table in the layout of LNC's Table 7, and curves by epoch."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xmbench.report.cells import MEAN
from xmbench.report.files import Context, File, write_figure
from xmbench.report.groups import Group, Reader, strip_prefix
from xmbench.report.style import Palette, epoch_ticks, finish, panels, styled
from xmbench.report.table_files import detection_tables
from xmbench.report.words import METRIC_WORDS, absent_words, provenance_words

PAIRS = "pairs"  # the direction under which it is stored; that of labels has the names of modalities
CURVES = ("noise_auroc", "noise_f1")


def noise_detection(group: Group, context: Context) -> list[File]:
    """Write the table of each selection, and the curves by epoch."""
    return [*detection_tables(group, context), *detection_curves(group, context)]


def detected(group: Group, selection: str) -> pd.DataFrame:
    """Rows of noise detection among the training pairs."""
    rows = group.train[(group.train["status"] == "ok") & (group.train["direction"] == PAIRS)]
    return rows[(rows["selection"] == selection) & rows["metric"].isin(CURVES) & rows["value"].notna()]


@styled()
def detection_curves(group: Group, context: Context) -> list[File]:
    """Write AUROC and F1 of noise detection against the epoch."""
    curves = read_detection(group, context.reader)
    constant = single_values(group, curves)
    shown = pd.concat([curves, constant])
    if curves.empty:
        return []
    runs = group.runs[group.runs["run_id"].isin(shown["run_id"])]
    words = (
        "weights averaged over networks, mean over seeds",
        "dashed: one value, no epochs",
        absent_words(group, set(shown["label"]), "belief"),
    )
    footer = provenance_words(group, runs, *words)
    figure = draw_detection(group, curves, constant, context.palette, footer)
    paths = write_figure(context.out / f"{group.slug}_detection_epochs", figure, footer)
    return [File(path, "detection of noisy training pairs against the epoch", group, runs) for path in paths]


def read_detection(group: Group, reader: Reader) -> pd.DataFrame:
    """One row per run, metric and epoch, of the runs with several epochs."""
    parts = [pd.DataFrame(columns=["label", "noise_rate", "run_id", "metric", "epoch", "value"])]
    for run in group.finished:
        history = strip_prefix(reader.small(run["run_id"]), "history/")
        for metric in CURVES:
            values = np.asarray(history.get(f"{metric}/{MEAN}", []), dtype=float)
            measured = np.isfinite(values)
            if measured.sum() > 1:
                what = {name: run[name] for name in ("label", "noise_rate", "run_id")} | {"metric": metric}
                parts.append(pd.DataFrame({**what, "epoch": history["epoch"][measured], "value": values[measured]}))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def single_values(group: Group, curves: pd.DataFrame) -> pd.DataFrame:
    """Rows of the runs that have a value and no curve, such as those of a closed form: label, noise_rate, metric, value."""
    rows = detected(group, "last")
    drawn = rows["run_id"].isin(curves["run_id"])
    return rows[~drawn & rows["metric"].isin(CURVES) & (rows["network"] == MEAN)]


def draw_detection(group: Group, curves: pd.DataFrame, constant: pd.DataFrame, palette: Palette, footer: str) -> Figure:
    """Panels by metric (rows) and noise rate (columns); a line per method, dashed where it has one value only.

    Args:
        group: the runs.
        curves: of `read_detection`.
        constant: of `single_values`.
        palette: colours of the methods.
        footer: what the figure shows.
    """
    rates = sorted(curves["noise_rate"].unique())
    figure, axes = panels(len(CURVES), len(rates), width=2.4, height=2.0, sharex=True, sharey="row")
    lines = curves.groupby(["metric", "noise_rate", "label", "epoch"])["value"].mean()
    levels = constant.groupby(["metric", "noise_rate", "label"])["value"].mean()
    labels = [label for label in group.labels if label in {*curves["label"], *constant["label"]}]
    for ax, (metric, rate) in zip(axes, [(metric, rate) for metric in CURVES for rate in rates], strict=True):
        for label in labels:
            if (metric, rate, label) in levels.index:
                ax.axhline(levels[metric, rate, label], color=palette[label]["color"], linestyle="--", linewidth=1)
            elif (metric, rate, label) in lines.index:
                line = lines.loc[metric, rate, label]
                ax.plot(line.index, line.to_numpy(), **palette[label])
        ax.set_title(f"noise rate {rate:g}" if metric == CURVES[0] else "")
        ax.set_xlabel("Epoch" if metric == CURVES[-1] else "")
        ax.set_ylabel(METRIC_WORDS[metric] if rate == rates[0] else "")
        ax.set_ylim(0, 1.03)
        ax.xaxis.set_major_locator(epoch_ticks())
    handles = [
        Line2D(
            [],
            [],
            label=label,
            **(palette[label] | ({"marker": "", "linestyle": "--"} if label not in set(curves["label"]) else {})),
        )
        for label in labels
    ]
    finish(figure, f"Detection of noisy pairs on {group.dataset}, {group.noise_scheme} noise", footer, handles)
    return figure
