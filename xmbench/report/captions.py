"""What a table says of itself: caption, source, and the footnotes where runs of different settings meet."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xmbench.report.aggregate import WORDS, in_percent
from xmbench.report.groups import Group
from xmbench.report.layouts import Layout
from xmbench.report.significance import LEVEL
from xmbench.report.words import (
    METRIC_WORDS,
    dataset_words,
    noise_words,
    protocol_words,
    run_words,
    scheme_words,
    setting_words,
    source_words,
)

LETTERS = (
    "methods of a column that share a letter are not separable (all pairs tested, paired over queries, with Holm's correction "
    f"at {LEVEL:g} over the pairs of all columns of the table; below five seeds: training variance not included)"
)
WITHIN = {"noise_rate": "rate", "dataset": "dataset", "metric": "metric", "direction": "direction"}


@dataclass(frozen=True)
class Differing:
    """A letter for each group, "" where all are alike, and the sentence that says what the letters stand for."""

    letters: list[str]
    notes: list[str]


def place(group: Group) -> str:
    """The dataset, with the name of the test split where it has one: `coco_precomp:1k`."""
    return ":".join(filter(None, [group.dataset, group.split.partition(":")[2]]))


def differing(groups: Sequence[Group], layout: Layout) -> Differing:
    """Footnotes for groups that differ in protocol, noise or tuning, or in the parameters of one dataset."""
    places = [place(group) for group in groups]
    facts = [
        {
            "protocol": protocol_words(group),
            "noise_scheme": scheme_words(group),
            "tuned": f"hyper-parameters {group.tuned or 'as set'}",
            "selection": setting_words(group, layout.selection),
            "dataset": dataset_words(group) if places.count(place(group)) > 1 else "",
        }
        for group in groups
    ]
    names = [name for name in facts[0] if len({fact[name] for fact in facts}) > 1] if facts else []
    spoken = {name for name in names if name in layout.dimensions and name != "dataset" and _tells(name, facts, groups)}
    told = ["; ".join(fact[name] for name in names if fact[name] and name not in spoken) for fact in facts]
    distinct = list(dict.fromkeys(told))
    if len(distinct) < 2:
        return Differing([""] * len(groups), [])
    letters = [_letter(distinct.index(text)) for text in told]
    listed = "; ".join(f"({letter}) {text or 'as the rest'}" for letter, text in dict(zip(letters, told, strict=True)).items())
    return Differing(letters, [f"Runs of different settings, not to be compared across letters: {listed}."])


def _tells(name: str, facts: list[dict[str, str]], groups: Sequence[Group]) -> bool:
    """Whether the head of a row or column, the bare name, tells apart all that differ in this."""
    return len({fact[name] for fact in facts}) == len({getattr(group, name) for group in groups})


def _letter(number: int) -> str:
    """a to z, then aa, ab and so on."""
    return ("" if number < 26 else _letter(number // 26 - 1)) + string.ascii_lowercase[number % 26]


def caption_of(groups: Sequence[Group], layout: Layout, *, ranked: bool) -> str:
    """What the table shows, on which data and noise, of which epoch, and what the numbers and marks are."""
    what = title_of(layout)
    percent = any(in_percent(metric) for metric in layout.metrics)
    datasets = ", ".join(dict.fromkeys(dataset_words(group) for group in groups))
    schemes = _each(scheme_words(group) for group in groups)
    settings = _each(setting_words(group, layout.selection) for group in groups)
    shown = f"{what}{' in percent' if percent else ''} on {datasets} by nominal rate of {schemes}, {settings}."
    centre, spread = WORDS[layout.agg]
    if layout.bare and "±" in spread:
        other = ", ".join(METRIC_WORDS.get(metric, metric) for metric in layout.metrics if metric not in layout.bare)
        spread = f" over seeds, for {other}{spread.removesuffix(' over seeds')}"
    chance = "" if layout.of_a_paper else "; chance is what a random ranking is expected to reach"
    across, along = (layout.cols, "each row") if "method" in layout.cols else (layout.rows, "each column")
    within = " and ".join([along, *(WITHIN.get(name, "setting") for name in across if name != "method")])
    marks = f"the best of {within} is bold, the second underlined" if ranked else LETTERS
    return f"{shown} {centre}{spread}; {marks}{chance}."


def title_of(layout: Layout) -> str:
    """What the table shows in a few words: its title, or the names of its metrics."""
    names = [METRIC_WORDS.get(metric, metric) for metric in layout.metrics]
    metrics = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return layout.title.replace("{metrics}", metrics) or metrics


def _each(texts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(texts))


def source_of(groups: Sequence[Group]) -> str:
    """Which runs, noise and protocol the table shows."""
    if len(groups) == 1:
        return source_words(groups[0])
    parts = [f"{place(group)}: {noise_words(group.runs)}, {protocol_words(group)}, {run_words(group.runs)}" for group in groups]
    return f"Shown: {'; '.join(parts)}; listed in provenance.csv."
