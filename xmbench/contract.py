"""The contract that every method keeps, one check after the other, on small planted data with the method's smoke setting.

`xmbench validate` runs it on a method of one's own, the tests on every method of this package.
"""

import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from xmbench.noise import Noise, corrupt
from xmbench.registry import build_method, find_method, line_in, parameters_of, source_file, typed_parameters
from xmbench.subject import Subject, difference, embedded, networks

RATES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ABOVE_CHANCE = 0.05
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


class Inapplicable(Exception):
    """A check that has nothing to look at in this method; the message says why."""


# The checks: each returns what was got, "" where the contract is kept


def fits(subject: Subject) -> str:
    """Fit, embed, compare: without an error, and in the right shapes."""
    made = [networks(subject.clean, modality) for modality in subject.test.modalities]
    for modality, embeddings in zip(subject.test.modalities, made, strict=True):
        for embedding in embeddings:
            if np.ndim(embedding.values) not in (2, 3) or len(embedding.values) != len(modality):
                return f"values of shape {np.shape(embedding.values)} for {len(modality)} items of {modality.name}"
            if embedding.modality != modality.name:
                return f"an embedding that says it is of {embedding.modality!r}, for items of {modality.name!r}"
    shape = np.shape(subject.clean.similarity(made[0][0], made[1][0]))
    expected = tuple(len(modality) for modality in subject.test.modalities[:2])
    return "" if shape == expected else f"a similarity of shape {shape} for {expected[0]} and {expected[1]} items"


def finite(subject: Subject) -> str:
    """No NaN, no infinity, in embeddings and similarities."""
    for name, values in embedded(subject.clean, subject.test).items():
        bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        if bad:
            return f"NaN or infinity in {bad} of {len(values)} embeddings of {name}"
    first, second = (networks(subject.clean, modality)[0] for modality in subject.test.modalities[:2])
    bad = int((~np.isfinite(subject.clean.similarity(first, second))).sum())
    return f"NaN or infinity in {bad} similarities" if bad else ""


def same_seed(subject: Subject) -> str:
    """Two fits by one seed are the same."""
    return difference(subject.clean, subject.again, subject.test)


def inputs_unchanged(subject: Subject) -> str:
    """A fit writes nothing into its inputs."""
    subject.clean  # noqa: B018 - the fit is made
    return "training data that are other ones after a fit" if subject.inputs_changed else ""


def subset(subject: Subject) -> str:
    """Some items are embedded as they are among all."""
    rows = np.array([7, 3, 150])
    for modality in subject.test.modalities[:2]:
        pairs = zip(networks(subject.clean, modality), networks(subject.clean, modality.take(rows)), strict=True)
        for whole, part in pairs:
            if not np.allclose(part.values, whole.values[rows], _RELATIVE, _ABSOLUTE, equal_nan=True):
                gap = np.nanmax(np.abs(part.values - whole.values[rows]))
                return f"three items of {modality.name} embedded alone differ by up to {gap:.3g} from the same three among all"
    return ""


def block(subject: Subject) -> str:
    """A block of the similarities is as in the whole matrix."""
    rows, columns = np.array([7, 3, 150]), np.array([0, 42])
    first, second = (networks(subject.clean, modality)[0] for modality in subject.test.modalities[:2])
    whole = subject.clean.similarity(first, second)[np.ix_(rows, columns)]
    part = subject.clean.similarity(first.take(rows), second.take(columns))
    if np.allclose(part, whole, _RELATIVE, _ABSOLUTE, equal_nan=True):
        return ""
    return f"a block of 3 x 2 similarities that differs by up to {np.nanmax(np.abs(part - whole)):.3g} from the whole matrix"


def beats_chance(subject: Subject) -> str:
    """On clean data it ranks better than chance, in both directions."""
    if not subject.build().retrieves():
        raise Inapplicable("it has no common space to retrieve in")
    metric = "r@10" if subject.reads_sequences else "map"
    method = subject.fitted(subject.data().train, **subject.to_learn) if subject.to_learn else subject.clean
    for direction, (value, chance) in subject.scores(method, metric).items():
        if not value > chance + ABOVE_CHANCE:
            return f"{metric} {value:.3f} for {direction}, where chance has {chance:.3f}"
    return ""


def every_rate(subject: Subject) -> str:
    """It fits whatever share of the labels is wrong, all of them too."""
    for rate in RATES if "labels" in subject.build().needs() else (0.0, 1.0):  # others are not shown noise of labels
        train = corrupt(subject.data(train=120).train, Noise("symmetric", rate, 0), family="synthetic").train
        try:
            values = embedded(subject.fitted(train), subject.data().valid)
        except Exception as error:
            return f"at rate {rate:g} {_told(subject, error)}"
        if not all(np.isfinite(v).all() for v in values.values()):
            return f"NaN or infinity in the embeddings at rate {rate:g}"
    return ""


def modalities(subject: Subject) -> str:
    """It takes as many modalities as it says."""
    most = find_method(subject.name).info.max_modalities or (2 if subject.reads_sequences else 3)
    data = subject.data(modalities=most)
    try:
        made = embedded(subject.fitted(data.train), data.tests["test"])
    except Exception as error:
        return f"with {most} modalities {_told(subject, error)}"
    lengths = {name: len(values) for name, values in made.items()}
    return "" if set(lengths.values()) == {len(data.tests["test"].modalities[0])} else f"with {most} modalities {lengths} rows"


def hyper_parameters(subject: Subject) -> str:
    """Every hyper-parameter has a value of its type, and no others are taken."""
    method, cls = subject.build(), find_method(subject.name)
    given = {key: getattr(method, key) for key in parameters_of(cls)}
    typed = typed_parameters(subject.name, cls, given)
    if changed := [key for key in given if typed[key] != given[key]]:
        return f"{changed[0]} = {given[changed[0]]!r}, which its type makes {typed[changed[0]]!r}"
    try:
        build_method(subject.name, no_such_thing=1)
    except ValueError:
        return ""
    return "no error for a parameter that does not exist"


def epochs(subject: Subject) -> str:
    """A fit in epochs is a loop over the context's, and every epoch changes what it learns."""
    size, _, n_epochs = subject.state
    if not n_epochs:
        if "epochs" in parameters_of(find_method(subject.name)):
            return "a hyper-parameter `epochs`, and a fit that never calls context.epochs"
        raise Inapplicable("its fit is no loop over context.epochs")
    if not size:
        return "context.epochs(..., state={}), an empty state"
    context = subject.watched[1]
    selectable = sum(row["selectable"] for row in context.history)
    if not selectable:
        return "no epoch that is selectable"
    same = context.best["rise"].epoch == context.best["fall"].epoch
    return "embeddings that are the same after every epoch" if same and selectable > 1 else ""


def _must_have_epochs(subject: Subject) -> None:
    if not subject.state[2]:
        raise Inapplicable("its fit is no loop over context.epochs")


def resumes(subject: Subject) -> str:
    """A fit that was stopped goes on to the same bits, and finds the same best epochs."""
    _must_have_epochs(subject)
    whole, known, calls = subject.watch()
    n = len(calls)
    if n < 2:
        raise Inapplicable("its fit has one epoch")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fit.pt"
        subject.watch(path, stop_at=n // 2 + 1)
        resumed, context, later = subject.watch(path)
    if len(later) != n - n // 2:
        return "a fit that begins anew"
    if context.history != known.history:
        return "another loss or validation score after the epoch at which it was stopped"
    if gap := difference(resumed, whole, subject.data().valid):
        return gap
    for key, best in known.best.items():
        if context.restore_best(key) != best.epoch or known.restore_best(key) != best.epoch:
            return f"another best epoch than {best.epoch}"
        if gap := difference(resumed, whole, subject.data().valid):
            return f"at its best epoch, {gap}"
    return ""


def validation(subject: Subject) -> str:
    """A fit is the same whether it is validated after every epoch, now and then, or never."""
    _must_have_epochs(subject)
    never = subject.watch(validate=False)[0]
    for method, _, calls in (subject.watched, subject.watched_rarely):
        if gap := difference(method, never, subject.data().valid):
            return f"{gap}, with {len(calls)} validations and without"
    return ""


def state_size(subject: Subject) -> str:
    """What is saved after an epoch holds no data."""
    _must_have_epochs(subject)
    small, large, _ = subject.state
    growth = (large - small) / 100
    train = subject.data().train
    most = 8 * train.n_classes * len(train.modalities)
    if subject.bytes_per_item is not None:
        return "" if growth == subject.bytes_per_item else f"{growth:g} bytes for every item, not {subject.bytes_per_item}"
    return "" if growth <= most else f"{growth:g} bytes for every training item, more than {most}"


@dataclass(frozen=True)
class Check:
    """One clause of the contract.

    Attributes:
        run: see above.
        must: what must hold, and why.
        mend: where to look.
        after: clauses without which this one says nothing.
    """

    run: Callable[[Subject], str]
    must: str
    mend: str
    after: tuple[str, ...] = ("fits",)

    @property
    def name(self) -> str:
        """Name of the clause."""
        return self.run.__name__


CHECKS = {
    check.name: check
    for check in (
        Check(
            fits,
            "`fit` takes the training split and a context, `embed` returns an Embedding with one row per item and the "
            "modality's name (or a list of them, one per network), `similarity` a matrix (n_first, n_second).",
            "Read the error. What the method does not name in `needs` is None: labels, pairs, vectors, sequences, tokens.",
            after=(),
        ),
        Check(
            finite,
            "Embeddings and similarities hold neither NaN nor infinity: a run that shows one is stored as failed.",
            "Rows of zeros divided by their length, a logarithm of 0, and a learning rate that is too high make them.",
        ),
        Check(
            same_seed,
            "Two fits with the same seed give the same embeddings, bit for bit: every number of a table can be had again.",
            'Draw from `context.generator("a name")`; torch is seeded before `fit` and at every epoch. `np.random`, '
            "`random`, sets that are looped over, and the clock differ from run to run.",
        ),
        Check(
            inputs_unchanged,
            "A fit leaves the arrays that it is given as they are: the next method reads the same ones.",
            "Write `x = x - mean`, not `x -= mean`; take a copy before anything is changed in place.",
        ),
        Check(
            subset,
            "An item's embedding depends on the item alone: the harness embeds in blocks, in an order of its own.",
            "Take means, deviations and vocabularies in `fit` and keep them; call `.eval()` in `embed`, so that batch "
            "normalisation and dropout are at rest.",
        ),
        Check(
            block,
            "`similarity[i, j]` depends on the items i and j alone: the harness computes it in blocks.",
            "No softmax, rank or normalisation over a row or column of the similarities; what needs other items, such as "
            "hubness, is not known of a single query.",
        ),
        Check(
            beats_chance,
            "On clean, easy data the method ranks better than chance, by more than 0.05, in both directions.",
            "The modalities must end in one space. Read them together by `train.pairs`, or by their labels: row i of one has "
            "nothing to do with row i of the other. With few epochs on 400 items, a smoke setting may need a higher rate.",
            after=("fits", "finite"),
        ),
        Check(
            every_rate,
            "A fit comes to its end at every noise rate, with finite embeddings: partners may disagree in their labels, "
            "classes may be mixed up, and one may have no item left.",
            "Guard what divides by the size of a class; do not assert that partners have the same label.",
            after=("fits", "finite"),
        ),
        Check(
            modalities,
            "The method takes as many modalities as `max_modalities` says; where it says nothing, any number, of which "
            "three are tried.",
            "Loop over `train.modalities`, or declare `max_modalities=2`.",
        ),
        Check(
            hyper_parameters,
            "Every hyper-parameter is a typed field with a default of its type, and one that does not exist is refused: "
            "`--set NAME.PARAM=VALUE` reads it as that type.",
            "Types are bool, int, float, str, a Literal, a tuple of one of them, or one of them or None (`int | None`).",
            after=(),
        ),
        Check(
            epochs,
            "A fit with epochs is a loop over `context.epochs(n, state={...})` that closes each with `context.end_epoch`; what "
            "it learns changes from epoch to epoch. The harness validates, chooses the best epoch and resumes by that.",
            "Name nets and optimisers in `state`; call `optimiser.step()`; leave one epoch or more selectable.",
            after=("fits", "finite"),
        ),
        Check(
            resumes,
            "A fit that was stopped goes on from its last epoch to the same bits as one that was not, and its best epoch can "
            "be restored.",
            "All that changes from epoch to epoch stands in `state`: nets, optimisers, schedulers, tensors, and NumPy arrays "
            "that are changed in place. A counter, a running mean or a queue that does not is lost.",
            after=("fits", "finite", "same_seed", "epochs"),
        ),
        Check(
            validation,
            "Looking does not touch: a fit ends in the same bits whether it is validated after every epoch or never.",
            "`embed` and `similarity` must change nothing that `fit` reads.",
            after=("fits", "finite", "same_seed", "epochs"),
        ),
        Check(
            state_size,
            "The state that is saved after each epoch holds what is learnt, and no data: per training item no more than one "
            "number for each class and modality.",
            "Leave features, losses of the last epoch and the like out of `state`; `context.record` keeps a diagnostic.",
            after=("fits", "epochs"),
        ),
    )
}


@dataclass(frozen=True)
class Finding:
    """What came of one check.

    Attributes:
        outcome: "kept", "broken", "not applicable", or "not looked at" where a clause that it builds on is broken.
        got: what was found, or why there was nothing to find.
    """

    check: Check
    outcome: Literal["kept", "broken", "not applicable", "not looked at"]
    got: str
    seconds: float


def examine(subject: Subject) -> Iterator[Finding]:
    """Run every check; what a method raises becomes a finding."""
    broken: set[str] = set()
    for name, check in CHECKS.items():
        if missing := [other for other in check.after if other in broken]:
            yield Finding(check, "not looked at", f"{missing[0]} is broken", 0.0)
            continue
        started = time.perf_counter()
        try:
            got = check.run(subject)
        except Inapplicable as reason:
            yield Finding(check, "not applicable", str(reason), time.perf_counter() - started)
            continue
        except Exception as error:
            got = _told(subject, error)
        broken |= {name} if got else set()
        yield Finding(check, "broken" if got else "kept", got, time.perf_counter() - started)


def explained(finding: Finding) -> str:
    """A finding for people: what must hold, what was got, how to mend it."""
    parts = {"must hold": finding.check.must, "got": finding.got, "to mend": finding.check.mend}
    lines = [f"{finding.check.name} is {finding.outcome}"]
    for title, text in parts.items():
        lines += textwrap.wrap(text, 110, initial_indent=f"  {title:11}", subsequent_indent=" " * 13)
    return "\n".join([*lines, f"  {'docs':11}docs/method.md#{finding.check.name}"])


def _told(subject: Subject, error: Exception) -> str:
    """An error of a method, with the line of its file that raised it."""
    file = source_file(find_method(subject.name))
    return f"{type(error).__name__}: {error}{line_in(file, error) if file else ''}"
