"""What to run: a spec from TOML or the command line, and the protocol it is measured by."""

import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from xmbench.datasets import dataset_card, dataset_names
from xmbench.metrics import METRICS
from xmbench.registry import closest, method_names, typed_parameters
from xmbench.tuning import UNTUNED, Rule
from xmbench.types import fingerprint

Setting = tuple[str, str, Any]

MOST_SEEDS = 10_000
_FILES = ("path", "checkpoint", "vocabulary")  # parameters of noise, methods and datasets that name a file
_MOST_BYTES, _DEEPEST = 100_000, 8  # of a spec; TOML unfolds keys such as a.a.a in time quadratic in their length


def canonical(value: Any) -> str:
    """The one JSON form of a value: sorted keys, no spaces, floats and integers apart."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How every run of a comparison is validated and measured; tables refuse to mix two of them.

    Attributes:
        valid_labels: clean, or as noisy as the training labels (and pairs).
        validate_every: epochs between validations.
        validate_items: at most so many pairs are used to choose an epoch.
        selection: what chooses it: auto is the mean MAP of all directions where there are labels, else rSum.
        metrics: names in `xmbench.metrics.METRICS`.
        no_relevant: a query without a relevant item is left out (skip) or counts as zero, as in the released MRL code.
        dtype: of embeddings and similarities when measured.
        threads: per run, where nothing else is asked for.
    """

    name: str
    description: str = ""
    valid_labels: Literal["clean", "noisy"] = "clean"
    validate_every: int = 1
    validate_items: int = 5000
    selection: Literal["auto", "map", "rsum"] = "auto"
    metrics: tuple[str, ...] = ("map",)
    no_relevant: Literal["skip", "zero"] = "skip"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("validate_every", "validate_items", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"protocol {self.name!r}: {name} must be 1 or more, got {getattr(self, name)}")
        if not self.metrics:
            raise ValueError(f"protocol {self.name!r}: at least one metric is needed, got none")
        for metric in self.metrics:
            if metric not in METRICS:
                raise closest("metric", metric, METRICS)

    @property
    def sha(self) -> str:
        """Hash of everything that it says, its name and description aside."""
        content = {k: v for k, v in vars(self).items() if k not in ("name", "description")}
        return fingerprint([canonical(content)])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A grid of runs.

    Attributes:
        name: of the spec, or "" for the command line.
        methods: registered names, or names of `variants`.
        datasets: dataset names.
        schemes: noise schemes, each of which meets every rate; empty for the default, see `noise_schemes`.
        rates: of the noise.
        seeds: of method and noise.
        noise_seed: fixes the noise's seed for all of them; None to follow `seeds`.
        protocol: its name or file.
        settings: (owner, parameter, value), later ones win; owner is a method, a dataset or "noise".
        dataset_settings: dataset -> settings that hold there alone.
        variants: name -> {"method": registered name, parameter: value}.
        profile: name of the profile that is applied, or "".
        tune: method as named in the spec, or "all" -> "grid" or "random:N"; a method that is not in it runs as it is set.
        tune_per: one choice of hyper-parameters per dataset and noise scheme, or one for each noise rate too.
    """

    name: str = ""
    description: str = ""
    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    rates: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    seeds: tuple[int, ...] = (0, 1, 2)
    noise_seed: int | None = None
    protocol: str = "default"
    settings: tuple[Setting, ...] = ()
    dataset_settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    profile: str = ""
    tune: Mapping[str, str] = field(default_factory=dict)
    tune_per: Literal["dataset", "rate"] = "dataset"

    def noise_schemes(self) -> tuple[str, ...]:
        """The schemes of the spec; where it names none, symmetric, or caption_shuffle where no dataset has labels."""
        known = [name for name in self.datasets if name in dataset_names()]
        without_labels = bool(known) and all(dataset_card(name).classes is None for name in known)
        return self.schemes or ("caption_shuffle" if without_labels else "symmetric",)

    def rule_of(self, method: str) -> Rule | None:
        """How `method`, as named in the spec, is tuned; None where it is not."""
        rule = self.tune.get(method, self.tune.get("all"))
        return None if rule is None else Rule.parse(rule, self.tune_per)

    def tuned(self, rule: str) -> "Spec":
        """This spec with all its methods tuned by `rule`, or none of them by "none"."""
        if rule != UNTUNED:
            Rule.parse(rule)
        return replace(self, tune={} if rule == UNTUNED else {"all": rule})

    def settings_of(self, owner: str, dataset: str = "") -> dict[str, Any]:
        """Parameter -> value of everything set for `owner`, on `dataset`."""
        chosen = (*self.settings, *self.dataset_settings.get(dataset, ()))
        return {name: value for setting_owner, name, value in chosen if setting_owner == owner}

    def with_profile(self, name: str) -> "Spec":
        """This spec with a profile's method parameters below its own settings."""
        content = _read("profile", name)
        if extra := set(content) - {"description", "set"}:
            raise ValueError(f"profile {name!r} must change method parameters only, got {', '.join(sorted(extra))}")
        settings = parse_settings(_table(f"[set] of profile {name!r}", content.get("set", {})))
        for owner, parameter, _ in settings:
            if owner not in {*method_names(), *self.implementations()}:
                raise ValueError(f"profile {name!r} must change method parameters only, got {owner}.{parameter}")
        ours = tuple(setting for setting in settings if setting[0] in self.implementations())
        return replace(self, settings=(*ours, *self.settings), profile=name)

    def as_twins(self, shrink: int) -> "Spec":
        """This spec on the synthetic twins of its datasets, each with 1/`shrink` of the items."""
        twins = {name: name if name.startswith("synthetic") else f"synthetic_{name}" for name in self.datasets}
        if unknown := set(twins.values()) - set(dataset_names()):
            raise ValueError(f"no synthetic twin of {', '.join(sorted(unknown))}: run without --twins")
        gone = {name for name, twin in twins.items() if twin != name}
        others = tuple(setting for setting in self.settings if setting[0] not in gone)
        sizes: tuple[Setting, ...] = tuple((twin, "shrink", shrink) for twin in twins.values() if twin != "synthetic")
        return replace(
            self,
            datasets=tuple(twins.values()),
            settings=(*others, *sizes),
            dataset_settings={twins.get(name, name): settings for name, settings in self.dataset_settings.items()},
        )

    def narrowed(self, **changes: Any) -> "Spec":
        """This spec with other fields; settings of methods and datasets that take part no longer are left out."""
        changed = replace(self, **changes)
        gone = {*self.implementations(), *self.datasets} - {*changed.implementations(), *changed.datasets}
        return replace(changed, settings=tuple(setting for setting in changed.settings if setting[0] not in gone))

    def overridden(self, settings: Sequence[Setting]) -> "Spec":
        """This spec with `settings` above all of its own, those of single datasets too; a variant keeps what makes it one."""
        given = {(owner, name) for owner, name, _ in settings}
        below = {
            dataset: tuple(setting for setting in own if setting[:2] not in given)
            for dataset, own in self.dataset_settings.items()
        }
        return replace(self, settings=(*self.settings, *settings), dataset_settings=below)

    def implementations(self) -> dict[str, str]:
        """Registered name (and name of a variant) -> registered name, for all methods of the spec."""
        named = {name: str(self.variants[name]["method"]) if name in self.variants else name for name in self.methods}
        return {**{registered: registered for registered in named.values()}, **named}


def parse_settings(table: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Settings out of {"owner.parameter": value}; a nested table {owner: {parameter: value}} is the same.

    >>> parse_settings({"mrl.beta": 0.5, "ce": {"epochs": 3}})
    (('mrl', 'beta', 0.5), ('ce', 'epochs', 3))
    """
    settings: list[Setting] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            settings += [(key, name, inner) for name, inner in value.items()]
            continue
        owner, dot, name = key.partition(".")
        if not (owner and dot and name):
            raise ValueError(f"a setting must read OWNER.PARAM=VALUE, got {key!r}; owner is a method, a dataset or noise")
        settings.append((owner, name, value))
    return tuple(settings)


def command_line_settings(texts: Sequence[str]) -> tuple[Setting, ...]:
    """Settings out of texts that read OWNER.PARAM=VALUE."""
    pairs = [text.partition("=") for text in texts]
    if bad := next((key for key, sign, _ in pairs if not sign), None):
        raise ValueError(f"--set must read OWNER.PARAM=VALUE, got {bad!r}")
    return parse_settings({key: value for key, _, value in pairs})


def load_spec(name: str) -> Spec:
    """The spec `name`, shipped with the package or a file.

    Raises:
        LookupError: neither.
        ValueError: not TOML, an unknown key, a value of the wrong kind, or a path that leaves the spec's folder. A path in a
            file counts from the file's folder.
    """
    content = _read("spec", name)
    if "methods" not in content:
        raise ValueError(f"spec {name!r} must name methods; if it is a profile, use it as --profile {name}")
    where = f"spec {name!r}"
    plain = {"description", "methods", "datasets", "seeds", "noise_seed", "protocol"}
    profile = content.pop("profile", None)
    _table(where, content, {"noise", "set", "dataset", "variants", "tune", *plain})
    given = {key: value for key, value in content.items() if key in plain}
    noise = _table(f"[noise] of {where}", content.get("noise", {}), {"scheme", "rates"})
    if "scheme" in noise:
        scheme = noise.pop("scheme")
        given["schemes"] = scheme if isinstance(scheme, list) else [scheme]
    given |= noise
    for key in {"methods", "datasets", "rates"} & set(given):
        if not isinstance(given[key], list):
            raise ValueError(f"{key} of {where} must be a list, got {given[key]!r}")
    if "seeds" in given:
        given["seeds"] = seed_list(given["seeds"])
    typed = typed_parameters(where, Spec, given)
    unique: dict[str, Any] = {key: tuple(dict.fromkeys(v)) if isinstance(v, tuple) else v for key, v in typed.items()}
    spec = Spec(
        name=Path(name).stem,
        settings=parse_settings(_table(f"[set] of {where}", content.get("set", {}))),
        dataset_settings=_dataset_settings(where, content.get("dataset", {})),
        variants=_variants(where, content.get("variants", {})),
        tune=_tune(where, content.get("tune", {}), unique["methods"]),
        **unique,
    )
    for dataset, settings in spec.dataset_settings.items():
        for owner, *_ in settings:
            if owner not in spec.implementations():
                raise closest(f"method of {where}, which [dataset.{dataset}.set] sets,", owner, spec.implementations())
    return spec if profile is None else spec.with_profile(profile)


def _dataset_settings(where: str, content: Any) -> dict[str, tuple[Setting, ...]]:
    settings = {}
    for name, table in _table(f"[dataset] of {where}", content).items():
        if name not in dataset_names():
            raise closest("dataset", name, dataset_names())
        inner = _table(f"[dataset.{name}] of {where}", table, {"set"})
        settings[name] = parse_settings(_table(f"[dataset.{name}.set] of {where}", inner.get("set", {})))
    return settings


def _tune(where: str, content: Any, methods: Sequence[str]) -> dict[str, str]:
    """[tune], rule = list of methods, or "all" for every method that no other rule names; as method or "all" -> rule."""
    rules: dict[str, str] = {}
    for rule, named in _table(f"[tune] of {where}", content).items():
        Rule.parse(rule)
        if named != "all" and not isinstance(named, list):
            raise ValueError(f'{rule} in [tune] of {where} must list methods, or be "all", got {named!r}')
        for name in [named] if named == "all" else named:
            if name not in (*methods, "all"):
                raise closest(f"method of {where}, which [tune] names,", name, methods)
            rules[name] = rule
    return rules


def _variants(where: str, content: Any) -> dict[str, Mapping[str, Any]]:
    variants = _table(f"[variants] of {where}", content)
    for name, variant in variants.items():
        if not isinstance(_table(f"[variants.{name}] of {where}", variant).get("method"), str):
            raise ValueError(f"variant {name!r} of {where} must say of which method it is one: method = NAME")
        if name in method_names():
            raise ValueError(f"variant {name!r} of {where} must have a name of its own, this is a method's")
    return variants


def _table(where: str, value: Any, known: Collection[str] | None = None) -> dict[str, Any]:
    """`value`, which must be a table with no other keys than `known`."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a table, got {value!r}")
    for key in value:
        if known is not None and key not in known:
            raise closest(f"key of {where}", key, known)
    return value


def seed_list(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Seeds from a count (3 is 0, 1, 2) or a list.

    >>> seed_list(2), seed_list([5, 7])
    ((0, 1), (5, 7))
    """
    chosen: Any = range(min(seeds, MOST_SEEDS + 1)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if isinstance(chosen, Sequence) and len(chosen) > MOST_SEEDS:
        raise ValueError(f"seeds must be at most {MOST_SEEDS}, got more")
    numbers = isinstance(chosen, Sequence) and all(type(seed) is int and seed >= 0 for seed in chosen)
    if not numbers or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be a count of 1 or more, or different numbers of 0 or more, got {seeds!r}")
    return tuple(chosen)


def load_protocol(name: str) -> Protocol:
    """The protocol `name`, shipped with the package or a file; errors as `load_spec`."""
    content = _read("protocol", name)
    return Protocol(**{**typed_parameters(f"protocol {name!r}", Protocol, content), "name": Path(name).stem})


def shipped(kind: str) -> list[str]:
    """Names of the specs (with profiles) or protocols that the package holds."""
    return sorted(item.name[:-5] for item in (files("xmbench") / f"{kind}s").iterdir() if item.name.endswith(".toml"))


def describe(kind: str, name: str) -> dict[str, Any]:
    """The content of a shipped or own spec, profile or protocol."""
    return _read(kind, name)


def _read(kind: str, name: str) -> dict[str, Any]:
    folder = "protocol" if kind == "protocol" else "spec"
    path, own = Path(name), name.endswith(".toml")
    if own:
        if not path.exists():
            raise LookupError(f"no file {name!r} for a {kind}; shipped: {', '.join(shipped(folder))}")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    elif name in shipped(folder):
        content = (files("xmbench") / f"{folder}s" / f"{name}.toml").read_bytes()
    else:
        raise closest(kind, name, shipped(folder))
    where = f"{kind} {name!r}"
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{where} must have at most {_MOST_BYTES:,} bytes, got more; write it as several")
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{where} is not TOML: {error}") from None
    except (RecursionError, ValueError):  # brackets by the thousand, a number of more digits than Python reads
        raise ValueError(f"{where} is not TOML: its values are too deep or too large") from None
    return {key: _checked(where, path.parent if own else None, key, value) for key, value in table.items()}


def _checked(where: str, folder: Path | None, key: str, value: Any, depth: int = 1) -> Any:
    """`value` with its paths taken from the folder of the spec, which they must not leave; none where it is shipped."""
    if depth > _DEEPEST:
        raise ValueError(f"{where}: tables and lists must be at most {_DEEPEST} deep, got more in {key!r:.40}")
    if isinstance(value, dict):
        return {name: _checked(where, folder, name, inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_checked(where, folder, key, inner, depth + 1) for inner in value]
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError(f"{where}: whole numbers must have at most 64 bits, got more for {key!r:.40}")
    if not isinstance(value, str) or folder is None or not value:
        return value
    named = key.rpartition(".")[2] in _FILES or (key in ("protocol", "profile") and value.endswith(".toml"))
    inside = named and not value.startswith("~") and (folder / value).resolve().is_relative_to(folder.resolve())
    if named and not inside:
        advice = "copy the file there, or give its path on the command line"
        raise ValueError(f"{where}: {key!r} must be a path below the folder of the spec, got {value!r:.200}; {advice}")
    return str(folder / value) if named else value
