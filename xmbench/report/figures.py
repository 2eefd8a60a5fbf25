"""The figures: what draws each one, of which groups, and what a store must hold for it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from xmbench.report.accuracy import accuracy_curves
from xmbench.report.beliefs import loss_mixture, recasting, rectified
from xmbench.report.clusters import clusters
from xmbench.report.curves import noise_curves, precision_recall
from xmbench.report.detection import noise_detection
from xmbench.report.detection_recall import detection_recall
from xmbench.report.files import Context, File
from xmbench.report.formulas import formulas
from xmbench.report.groups import Group
from xmbench.report.pair_lists import pair_examples
from xmbench.report.ranks import rank_diagram
from xmbench.report.retrieved import retrieved
from xmbench.report.sensitivity import sensitivity
from xmbench.report.training import training_curves
from xmbench.report.tsne import tsne


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        draw: writes the files of a group; none where the store lacks what they need.
        needs: what that is, and which command or option gives it.
        metric: of the groups that have this kind, `map` or `rsum`; "" for both.
        once: one for all groups, written with the first of them.
    """

    draw: Callable[[Group, Context], list[File]]
    needs: str
    metric: str = ""
    once: bool = False


_KEEP = "runs with `--keep first`, the default, or `--keep all`"
_NEWER = "; runs that an earlier version stored lack them"
_BELIEFS = f"a method that divides or rectifies training pairs, such as ncr or lnc, under noise of pairs; {_KEEP}{_NEWER}"
_BY_EPOCH = "a method that says after every epoch which training pairs it believes in, such as ncr or lnc, at rates above 0"
_SETTINGS = (
    "three values or more of one hyper-parameter, all others equal: runs with `--set mrl.beta=0.5` and so on, or `--tune grid`"
)

FIGURES: dict[str, Kind] = {
    "pr": Kind(precision_recall, "precision-recall curves, which every run on data with labels stores", "map"),
    "noise": Kind(noise_curves, "finished runs, best at several rates: `--rates 0,0.2,0.4,0.6,0.8`"),
    "training": Kind(training_curves, "a method that learns in two epochs or more, such as mrl"),
    "accuracy": Kind(
        accuracy_curves,
        f"a method that learns in epochs, and for accuracy one with class scores, such as ce, mrl or deep_sm{_NEWER}",
        "map",
    ),
    "tsne": Kind(tsne, f"embeddings of at most 30,000 items, one vector each: {_KEEP}", "map"),
    "clusters": Kind(clusters, f"embeddings and learnt centres, which mrl records: {_KEEP}{_NEWER}", "map"),
    "sensitivity": Kind(sensitivity, _SETTINGS),
    "loss_mixture": Kind(loss_mixture, f"losses of training pairs and their truth: {_BELIEFS}", "rsum"),
    "rectified": Kind(rectified, f"rectified labels of training pairs and their truth: {_BELIEFS}", "rsum"),
    "recasting": Kind(recasting, f"rectified labels, weights and truth of training pairs: {_BELIEFS}", "rsum"),
    "detection": Kind(noise_detection, _BY_EPOCH, "rsum"),
    "detection_recall": Kind(detection_recall, _BY_EPOCH, "rsum"),
    "topk": Kind(retrieved, f"rankings, and items with their labels or pairs: {_KEEP}{_NEWER}"),
    "pairs": Kind(pair_examples, f"the pairs that it is surest about: {_BELIEFS}", "rsum"),
    "ranks": Kind(
        rank_diagram, "finished runs of three methods or more in two blocks, datasets or noise rates, or more", once=True
    ),
    "ce_rc": Kind(formulas, "no run", once=True),
}


def lacking(made: Sequence[tuple[Group, Mapping[str, Sequence[File]]]], kinds: Collection[str]) -> list[str]:
    """A line per kind of figure for which groups have no data: which groups, and what it needs.

    Args:
        made: by group and kind, what was written.
        kinds: what was asked for.
    """
    lines = []
    for name, kind in FIGURES.items():
        if name in kinds and not any(name in of_group for _, of_group in made):
            lines.append(
                f"no {name}: it is of data {'with labels' if kind.metric == 'map' else 'of pairs'}, and needs {kind.needs}"
            )
        groups = [group.slug for group, kinds in made if name in kinds and not kinds[name]]
        drawn = any(kinds.get(name) for _, kinds in made)
        if groups and not (kind.once and drawn):
            lines.append(f"no {name} of {', '.join(groups)}: it needs {kind.needs}")
    return lines
