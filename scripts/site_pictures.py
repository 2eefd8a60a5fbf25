"""Pictures of what noise schemes do, drawn from the schemes themselves on small data, each for light and for dark pages."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xmbench import Dataset, Noise, PairedSet, class_numbers, corrupt, load_dataset
from xmbench.noise import SCHEMES
from xmbench.report.style import hues, styled

RATE = 0.4
THEMES = {"light": ("#22262e", "#c4c9d2", "#ffffff"), "dark": ("#e3e6ec", "#565d6b", "#1e2129")}  # ink, faint, paper
WRONG, RIGHT = hues()[3], hues()[0]
CLASSES = (*hues()[:8], hues()[9])  # but for the grey
SHOWN_ITEMS = 40  # of the picture of nested draws, and of multi-label data
CAPTIONED = {"captions": 3, "train": 10, "classes": 4}  # small enough that every pair can be seen

LABELS = ("symmetric", "symmetric_exclusive", "asymmetric", "pair_flip", "mrl_kplus1", "mrl_0_9", "mrl_legacy")
PAIRS = ("caption_shuffle", "image_shuffle", "ncr_legacy", "decl_legacy")
CAPTIONS = {
    **{name: f"{name} at 40 %, image labels of openmoji: of a class (row), the percent given each label." for name in LABELS},
    **{name: f"{name} at 40 % on 10 images with 3 captions each: which image every caption is given." for name in PAIRS},
    "symmetric_multilabel": "symmetric_multilabel at 40 % on synthetic data: labels of 40 items before and after.",
    "nested": "One draw at five rates: who is hit at a rate is hit at every higher one, with the same wrong label.",
}  # fmt: skip


def pictures() -> dict[str, bytes]:
    """Path in the site -> SVG, of every scheme that can be drawn from a rate alone."""
    emoji = load_dataset("openmoji")
    captioned = load_dataset("synthetic", **CAPTIONED)
    several = load_dataset("synthetic", train=SHOWN_ITEMS, labels_per_item=2.0)
    drawn = {}
    for theme in THEMES:
        for name in LABELS:
            drawn[f"images/noise/{name}-{theme}.svg"] = _transitions(emoji, name, theme)
        for name in PAIRS:
            drawn[f"images/noise/{name}-{theme}.svg"] = _partners(captioned, name, theme)
        drawn[f"images/noise/symmetric_multilabel-{theme}.svg"] = _swaps(several, theme)
        drawn[f"images/noise/nested-{theme}.svg"] = _nested(emoji, theme)
    assert {*CAPTIONS} - {"nested"} == {*SCHEMES} - {"file"}, "every scheme has a picture, but that of a file"
    return drawn


def _noisy(data: Dataset, scheme: str, rate: float = RATE) -> PairedSet:
    return corrupt(data.train, Noise(scheme, rate, seed=0), family=data.family).train


@contextmanager
def _look(theme: str) -> Iterator[tuple[str, str, str]]:
    """The style of the reports' figures, with the colours of a theme: ink, faint, paper."""
    ink, faint, paper = THEMES[theme]
    own = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    with styled(), matplotlib.rc_context({**own, "axes.grid": False, "axes.edgecolor": faint, "svg.hashsalt": "xmbench"}):
        yield ink, faint, paper


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _plain(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def _transitions(data: Dataset, scheme: str, theme: str) -> bytes:
    """T[i, j] = share of the items of class i that are given label j, rows sum to 1."""
    given = _noisy(data, scheme).modalities[0]
    true = class_numbers(np.asarray(data.train.modalities[0].labels))
    noisy = class_numbers(np.asarray(given.labels))
    c, wide = data.train.n_classes, given.n_classes
    shares = np.zeros((c, wide))
    np.add.at(shares, (true[true >= 0], noisy[true >= 0]), 1)
    shares /= shares.sum(axis=1, keepdims=True)
    with _look(theme) as (ink, faint, paper):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        ax = figure.subplots()
        ax.imshow(shares, cmap=LinearSegmentedColormap.from_list("shares", [paper, RIGHT]), vmin=0, vmax=1)
        for i, j in np.ndindex(shares.shape):
            if shares[i, j] >= 0.005:
                dark = shares[i, j] > 0.5
                ax.text(
                    j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color="#ffffff" if dark else ink
                )
        ax.set(xlabel="given label", ylabel="true class", xticks=range(wide), yticks=range(c))
        ax.set_xticks(np.arange(wide + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(c + 1) - 0.5, minor=True)
        ax.grid(which="minor", color=faint, linewidth=0.4)
        ax.tick_params(length=0, which="both")
        return _svg(figure)


def _partners(data: Dataset, scheme: str, theme: str) -> bytes:
    """Lines from images to the captions that they are paired with; wrong ones stand out."""
    true, given = data.train.pairs, _noisy(data, scheme).pairs
    assert true is not None
    assert given is not None
    assert (given != true).any(), f"{scheme} has moved nothing: take more images"
    n_images, n_captions = len(data.train.modalities[0]), len(true)
    image_x = (np.arange(n_images) + 0.5) * n_captions / n_images - 0.5
    with _look(theme) as (ink, faint, _):
        figure = Figure(figsize=(7.0, 2.4), layout="constrained")
        ax = figure.subplots()
        for (own, caption), (image, _) in zip(true, given, strict=True):
            wrong = image != own
            style = {"color": WRONG if wrong else faint, "linewidth": 1.4 if wrong else 1.0, "zorder": 2 if wrong else 1}
            ax.plot([image_x[image], caption], [1, 0], **style)
        ax.scatter(image_x, np.ones(n_images), s=150, marker="s", color=RIGHT, zorder=3)
        ax.scatter(np.arange(n_captions), np.zeros(n_captions), s=45, color=ink, zorder=3)
        for image, x in enumerate(image_x):
            ax.text(x, 1, str(image + 1), ha="center", va="center", fontsize=7, color="#ffffff", zorder=4)
        for own, caption in true:
            ax.text(caption, -0.16, str(own + 1), ha="center", va="center", fontsize=7)
        ax.text(-1.2, 1, "image", ha="right", va="center")
        ax.text(-1.2, 0, "caption of", ha="right", va="center")
        ax.set(xlim=(-4.6, n_captions), ylim=(-0.3, 1.2))
        _plain(ax)
        return _svg(figure)


def _swaps(data: Dataset, theme: str) -> bytes:
    """Which classes items have: kept, taken away and wrongly given."""
    true, given = (np.asarray(split.modalities[0].labels) for split in (data.train, _noisy(data, "symmetric_multilabel")))
    with _look(theme) as (_, faint, _):
        figure = Figure(figsize=(6.2, 2.4), layout="constrained")
        ax = figure.subplots()
        colours = {"kept": RIGHT, "taken away": faint, "wrongly given": WRONG}
        for held, colour in zip((true & given, true & ~given, ~true & given), colours.values(), strict=True):
            rows, columns = np.nonzero(held)
            ax.scatter(rows, columns, s=26, marker="s", color=colour)
        ax.set(xlabel="item", ylabel="class", xticks=[], yticks=range(data.train.n_classes))
        ax.tick_params(length=0)
        handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        return _svg(figure)


def _nested(data: Dataset, theme: str) -> bytes:
    """Items by rates: the class that a wrong label names, by its colour; right labels are faint."""
    rates = (0.0, 0.2, 0.4, 0.6, 0.8)
    true = class_numbers(np.asarray(data.train.modalities[0].labels))[:SHOWN_ITEMS]
    with _look(theme) as (_, faint, _):
        figure = Figure(figsize=(6.2, 1.9), layout="constrained")
        ax = figure.subplots()
        for row, rate in enumerate(rates):
            given = class_numbers(np.asarray(_noisy(data, "symmetric", rate).modalities[0].labels))[:SHOWN_ITEMS]
            colours = [CLASSES[k] if k != own else faint for k, own in zip(given, true, strict=True)]
            ax.scatter(np.arange(SHOWN_ITEMS), np.full(SHOWN_ITEMS, row), s=34, marker="s", color=colours)
        ax.set(xlabel="item", ylabel="rate", xticks=[], yticks=range(len(rates)), ylim=(-0.6, len(rates) - 0.4))
        ax.set_yticklabels([f"{rate:g}" for rate in rates])
        ax.invert_yaxis()
        ax.tick_params(length=0)
        return _svg(figure)
