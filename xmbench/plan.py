"""From a spec to its runs: ids, keys, what can be shared, and cells that cannot run with the reason."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import pandas as pd

from xmbench.datasets import dataset_names, dataset_parameters, load_dataset
from xmbench.elsewhere import method_of
from xmbench.method import Method, Needs
from xmbench.noise import Corruption, Noise, corrupt, corrupted_by, scheme_options
from xmbench.registry import closest, find_method, is_built_in, parameters_of, source_sha, typed_parameters, typed_value
from xmbench.spec import Protocol, Spec, canonical, load_protocol
from xmbench.tuning import CHOOSING, RATE, SEED, UNTUNED, Candidate, best, candidates, searched, validation_scores
from xmbench.types import FEATURES, Dataset, fingerprint, split_sha


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cell of a grid: what is fitted, on what, and how it is measured.

    Attributes:
        method: the name it goes by in tables: a registered method or a spec's variant of one.
        implementation: the registered method.
        parameters: every hyper-parameter with its value.
        tuning: the rule by which they were chosen and the parameters that it chose, or "none".
        trial: number of the point in the search space, where the run is a trial; "" for a run that counts.
    """

    dataset: str
    dataset_parameters: Mapping[str, Any]
    noise: Noise
    method: str
    implementation: str
    parameters: Mapping[str, Any]
    seed: int
    protocol: Protocol
    tuning: str = UNTUNED
    trial: str = ""

    @cached_property
    def run_id(self) -> str:
        """First 16 hex digits of the sha256 of the run's canonical JSON."""
        noise = {**vars(self.noise), "options": dict(self.noise.options)}
        content = {**vars(self), "noise": noise, "protocol": [self.protocol.name, self.protocol.sha]}
        content["trial"] = bool(self.trial)  # its number is no part of what is done
        if self.tuning == UNTUNED:
            del content["tuning"], content["trial"]
        return fingerprint([canonical(content)])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A planned run and what is known before it runs.

    Attributes:
        needs: what its method reads.
        fit_key: equal for runs whose fit reads the same: they share it.
        score_key: equal for runs with the same fit, protocol and validation labels: they share their results.
        reason: why it cannot run; "" where it can.
        status: "ready", "not_applicable" (method and data do not fit), "skipped" (data are missing), or "waiting" (for the
            trials that choose its hyper-parameters; those it holds are the first trial's).
        keep: whether embeddings and diagnostics are stored.
    """

    run: Run
    needs: Needs
    fit_key: str
    score_key: str
    source_sha: str
    spec: str
    profile: str
    keep: bool
    status: str = "ready"
    reason: str = ""


def to_json(cell: Cell) -> dict[str, Any]:
    """A ready cell as plain data, for another process; see `from_json`."""
    run = {**vars(cell.run), "noise": {**vars(cell.run.noise), "options": dict(cell.run.noise.options)}}
    run["protocol"] = vars(cell.run.protocol)
    return {**vars(cell), "run": {key: run[key] for key in Run.__dataclass_fields__}, "needs": sorted(cell.needs)}


def from_json(content: Mapping[str, Any]) -> Cell:
    """The cell that `to_json` wrote."""
    run = dict(content["run"])
    protocol = {**run["protocol"], "metrics": tuple(run["protocol"]["metrics"])}
    run |= {"noise": Noise(**run["noise"]), "protocol": Protocol(**protocol)}
    return Cell(**{**content, "run": Run(**run), "needs": frozenset(content["needs"])})


def plan(spec: Spec, *, keep: str = "first", rows: pd.DataFrame | None = None) -> list[Cell]:
    """The cells of a spec: trials first, then seeds outermost, so that a half-done sweep is already a table over all methods.

    Args:
        spec: the grid.
        keep: "first" stores embeddings of the first seed's runs, "all" of every run, "none" of no run.
        rows: of the store; where a method is tuned, the finished trials in it decide.

    Raises:
        LookupError, ValueError: an unknown name, a parameter that does not exist, a value out of range.
    """
    protocol = load_protocol(spec.protocol)
    _check(spec, protocol)
    points = {(d, m): _points(spec, m, d) for d in spec.datasets for m in spec.methods}
    make = partial(_planned, spec, protocol, keep)
    known = {} if rows is None or not spec.tune else _scores_of_trials(rows, protocol)
    trials: list[Cell] = []
    choices: dict[tuple[str, str, str, float], tuple[Candidate, str, str]] = {}
    for ((dataset, name), tried), scheme in itertools.product(points.items(), spec.noise_schemes()):
        for rate in _rates(spec) if spec.tune_per == "rate" else (RATE,):
            points_tried = [point for point in tried if point.number]
            own = [make(dataset, noise_of(spec, scheme, rate, SEED), SEED, name, p, trial=p.number) for p in points_tried]
            trials += own
            for of_rate in (rate,) if spec.tune_per == "rate" else _rates(spec):
                choices[dataset, name, scheme, of_rate] = _chosen(tried, own, known)
    return trials + [
        make(
            dataset,
            noise_of(spec, scheme, rate, seed),
            seed,
            name,
            choices[dataset, name, scheme, rate][0],
            outcome=choices[dataset, name, scheme, rate][1:],
        )
        for seed in spec.seeds
        for dataset in spec.datasets
        for scheme in spec.noise_schemes()
        for rate in _rates(spec)
        for name in spec.methods
    ]


def _planned(
    spec: Spec,
    protocol: Protocol,
    keep: str,
    dataset: str,
    noise: Noise,
    seed: int,
    name: str,
    point: Candidate,
    *,
    trial: str = "",
    outcome: tuple[str, str] = ("", ""),
) -> Cell:
    """The cell of one run of a spec; `outcome` is the status and reason of one whose parameters could not be chosen."""
    method, rule = point.method, spec.rule_of(name)
    _, fixed = configured(spec, name, dataset)
    run = Run(
        dataset=dataset,
        dataset_parameters=dataset_parameters(dataset, spec.settings_of(dataset)),
        noise=noise,
        method=name,
        implementation=method.info.name,
        parameters={key: getattr(method, key) for key in parameters_of(type(method))},
        seed=seed,
        protocol=protocol,
        tuning=UNTUNED if rule is None else f"{rule} over {', '.join(searched(method.info.name, fixed)) or 'nothing'}",
        trial=trial,
    )
    kept = keep == "all" or (keep == "first" and seed == (SEED if trial else spec.seeds[0]))
    cell = make_cell(run, method, spec=spec.name, profile=spec.profile, keep=kept)
    status, reason = outcome
    return replace(cell, status=status, reason=reason) if status and cell.status == "ready" else cell


@lru_cache(maxsize=16)
def _has_several_classes(name: str, parameters: str) -> bool:
    labels = [m.labels for m in cached_dataset(name, parameters).train.modalities]
    return any(y is not None and bool((y.sum(axis=1) > 1).any()) for y in labels)


def _points(spec: Spec, name: str, dataset: str) -> list[Candidate]:
    """What is tried of a method on a dataset: one point where it is not tuned."""
    registered, fixed = configured(spec, name, dataset)
    return candidates(registered, spec.rule_of(name), fixed)


def _scores_of_trials(rows: pd.DataFrame, protocol: Protocol) -> dict[tuple[str, ...], float]:
    """What identifies a trial's result, see `_result_of` -> its validation score."""
    scores = validation_scores(rows, protocol.selection)
    runs = rows.drop_duplicates("run_id")
    keys = zip(runs["run_id"], runs["implementation"], runs["score_key"], runs["source_sha"], strict=True)
    return {_result_of(run_id, *rest): scores[run_id] for run_id, *rest in keys if run_id in scores}


def _result_of(run_id: str, implementation: str, score_key: str, source: str) -> tuple[str, ...]:
    """A result is another one with other data, protocol or version (the score key), or another source of a plug-in."""
    return run_id, score_key, "" if is_built_in(implementation) else source


def _chosen(tried: list[Candidate], trials: list[Cell], known: Mapping[tuple[str, ...], float]) -> tuple[Candidate, str, str]:
    """The best point by validation, with the status and reason of runs that cannot have one yet, or at all."""
    possible = [
        (point, _result_of(cell.run.run_id, cell.run.implementation, cell.score_key, cell.source_sha))
        for point, cell in zip(tried, trials, strict=False)
        if cell.status == "ready"
    ]
    if not possible:
        return tried[0], "", ""
    missing = sum(result not in known for _, result in possible)
    if missing:
        return tried[0], "waiting", f"waits for {missing} of {len(possible)} trials"
    position = best([known[result] for _, result in possible])
    if position is None:
        return tried[0], "skipped", f"all {len(possible)} trials failed: their rows say why"
    return possible[position][0], "", ""


def make_cell(run: Run, method: Method, *, spec: str = "", profile: str = "", keep: bool = False) -> Cell:
    """The cell of one run, its keys computed from the data that it will read."""
    needs = method.needs()
    method = method_of(run) if "items" in needs else method
    fixed: dict[str, Any] = {"source_sha": source_sha(type(method)), "spec": spec, "profile": profile, "keep": keep}
    try:
        dataset = cached_dataset(run.dataset, canonical(dict(run.dataset_parameters)))
    except FileNotFoundError as error:
        return Cell(run=run, needs=needs, fit_key="", score_key="", status="skipped", reason=str(error), **fixed)
    if reason := _obstacle(method, needs, run, dataset):
        return Cell(run=run, needs=needs, fit_key="", score_key="", status="not_applicable", reason=reason, **fixed)
    fit_key = _fit_key(run, method, needs, dataset)
    score_key = fingerprint([fit_key, run.protocol.name, run.protocol.sha, _valid_sha(run, dataset)])
    return Cell(run=run, needs=needs, fit_key=fit_key, score_key=score_key, **fixed)


@lru_cache(maxsize=4)
def cached_dataset(name: str, parameters: str) -> Dataset:
    """`load_dataset` with the parameters as canonical JSON, kept for the next runs of this process."""
    return load_dataset(name, **json.loads(parameters))


def corruption_of(run: Run, dataset: Dataset) -> Corruption:
    """The training split under the run's noise."""
    return _corruption(run.dataset, canonical(dict(run.dataset_parameters)), run.noise, "train")


def valid_corruption(run: Run, dataset: Dataset) -> Corruption | None:
    """The validation split as the protocol shows it: under noise, or None where it is clean."""
    if run.protocol.valid_labels == "clean":
        return None
    return _corruption(run.dataset, canonical(dict(run.dataset_parameters)), run.noise, "valid")


@lru_cache(maxsize=64)
def _corruption(name: str, parameters: str, noise: Noise, part: str) -> Corruption:
    dataset = cached_dataset(name, parameters)
    split = dataset.train if part == "train" else dataset.valid
    return corrupt(split, noise, family=dataset.family, part=part)


def _fit_key(run: Run, method: Method, needs: Needs, dataset: Dataset) -> str:
    """Hash of what the fit reads; noisy labels or pairs only where the method reads them."""
    parts = [
        canonical([run.dataset, dict(run.dataset_parameters), split_sha(dataset.train)]),
        canonical([run.implementation, method.info.version, dict(run.parameters), run.seed]),
        corruption_of(run, dataset).label_sha if needs & {"labels", "clean"} else None,
    ]
    if "pairs" in needs and corrupted_by(run.noise.scheme) != {"label"}:
        parts += [sha for sha in (corruption_of(run, dataset).pair_sha,) if sha]  # no key of its own where no pair has moved
    if files := method.files():
        parts.append(canonical(files))
    return fingerprint(parts)


def _valid_sha(run: Run, dataset: Dataset) -> str:
    noisy = valid_corruption(run, dataset)
    return split_sha(dataset.valid) if noisy is None else noisy.noise_sha


def _obstacle(method: Method, needs: Needs, run: Run, dataset: Dataset) -> str:
    """Why the method cannot run on the dataset, or ""."""
    modalities = dataset.train.modalities
    limit = method.info.max_modalities
    if limit is not None and len(modalities) > limit:
        return f"{method.info.name} takes at most {limit} modalities, {dataset.name} has {len(modalities)}"
    features = sorted(needs & FEATURES)
    for need in (*features, *(needs & {"labels"})):
        if all(getattr(m, need) is None for m in modalities):
            return f"{method.info.name} reads {need}, which {dataset.name} has not"
    without = [m.name for m in modalities if all(getattr(m, feature) is None for feature in features)]
    if features and without:  # different modalities may be read by different features
        return f"{method.info.name} reads {' or '.join(features)}, which {dataset.name} has not for {', '.join(without)}"
    if (
        "labels" in needs
        and not method.info.multi_label
        and _has_several_classes(run.dataset, canonical(dict(run.dataset_parameters)))
    ):
        return f"{method.info.name} reads one class per item, {dataset.name} has items with several"
    if "pairs" in needs and dataset.train.pairs is None:
        return f"{method.info.name} reads pairs, which {dataset.name} has not"
    if reason := method.obstacle(dataset.train.shapes()):
        return reason
    return _obstacle_to_noise(run.noise, dataset)


def _obstacle_to_noise(noise: Noise, dataset: Dataset) -> str:
    """Why the dataset cannot be corrupted so, or ""."""
    for part in noise.parts:
        kinds = corrupted_by(part.scheme) if part.rate > 0 else {}
        if "label" in kinds and all(m.labels is None for m in dataset.train.modalities):
            return f"{part.scheme} corrupts labels, which {dataset.name} has not"
        if "correspondence" in kinds and dataset.train.pairs is None:
            return f"{part.scheme} corrupts pairs, which {dataset.name} has not"
    return ""


def configured(spec: Spec, name: str, dataset: str) -> tuple[str, dict[str, Any]]:
    """The registered method that `name` stands for in the spec, and the parameters that are set for it on `dataset`."""
    variant = dict(spec.variants.get(name, {"method": name}))
    registered = str(variant.pop("method"))
    parameters = {**spec.settings_of(registered, dataset), **variant}
    if name != registered:
        parameters |= spec.settings_of(name, dataset)
    return registered, parameters


def noise_of(spec: Spec, scheme: str, rate: float, seed: int) -> Noise:
    """The noise of a spec's scheme at a rate and seed, with those settings of owner "noise" that the scheme declares."""
    declared, given = scheme_options(scheme), spec.settings_of("noise")
    options = {k: typed_value(f"noise.{k}", declared[k][0], v) for k, v in given.items() if k in declared}
    return Noise(scheme, rate, seed if spec.noise_seed is None else spec.noise_seed, options)


def _rates(spec: Spec) -> tuple[float, ...]:
    if not spec.rates:
        raise ValueError("at least one noise rate is needed, got none; give --rates")
    return spec.rates


def _check(spec: Spec, protocol: Protocol) -> None:
    """Raise where a name in the spec is unknown, or a setting's owner does not take part."""
    if not spec.methods or not spec.datasets:
        raise ValueError("a run needs methods and a dataset: give --methods and --dataset, or --spec")
    for name in spec.implementations().values():
        find_method(name)
    if spec.tune and not CHOOSING & set(protocol.metrics):
        raise ValueError(f"tuning needs a protocol that measures map, r@1 or micro_f1, got {', '.join(protocol.metrics)}")
    for name in spec.datasets:
        if name not in dataset_names():
            raise closest("dataset", name, dataset_names())
    check_owners(spec)
    for owner, name, value in spec.settings:
        if owner in spec.implementations():  # so that a wrong one is found even where a variant overrides it
            registered = spec.implementations()[owner]
            typed_parameters(registered, find_method(registered), {name: value})


def check_owners(spec: Spec) -> None:
    """Raise where a setting is nobody's: its owner does not take part, or no noise scheme has the option."""
    owners = {*spec.implementations(), *spec.datasets, "noise"}
    if unknown := next((owner for owner, *_ in spec.settings if owner not in owners), None):
        raise closest("owner of a setting in this run", unknown, owners)
    schemes = spec.noise_schemes()
    options = {name for scheme in schemes for name in scheme_options(scheme)}
    if wrong := next((name for name in spec.settings_of("noise") if name not in options), None):
        which = ", ".join(map(repr, schemes))
        raise ValueError(f"noise scheme {which} has no option {wrong!r}; its options: {', '.join(sorted(options)) or 'none'}")
