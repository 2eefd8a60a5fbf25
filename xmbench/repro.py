"""The scorecard: every number of the papers beside ours, and whether it was reproduced.

A number is compared with runs of the same method, data, features, noise, metric, protocol and hyper-parameters, those of the
spec of its table, and with nothing else; what keeps others from being comparable is said. Both were measured on the same test
queries, so that what is left to chance is the training: the interval is the one in which a further training of ours would
fall with 95 %, mean ± t s sqrt(1 + 1/n) over n seeds with Student's t of n - 1 degrees. A printed number counts as one
training.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from xmbench.datasets import dataset_card, dataset_parameters
from xmbench.noise import scheme_options
from xmbench.plan import configured
from xmbench.published import REPORTED
from xmbench.published.terms import published_cells
from xmbench.registry import find_method, parameters_of
from xmbench.spec import Spec, load_protocol, load_spec
from xmbench.tuning import UNTUNED

MATCHES, SEED_NOISE, DIFFERS, NOT_ATTEMPTED = VERDICTS = "matches", "within seed noise", "differs", "not attempted"
TOLERANCE, RANK_TOLERANCE = 0.01, 1.0  # of what matches, in MAP, R@K or F1, and in ranks
LEVEL = 0.95
OTHER_FEATURES = {"wikipedia_deep": "wikipedia"}  # the same items, described otherwise
SETTING = (
    "dataset dataset_params noise_scheme noise_options method implementation params protocol protocol_sha "
    "valid_labels tuning profile"
).split()
NEEDED = "split != 'valid' and split != 'train'"
READ = [
    *SETTING,
    *"features run_id status source_sha seed noise_rate realised_rate trial split fold network selection direction".split(),
    *"metric value".split(),
]
COLUMNS = (
    "paper table dataset printed_dataset setting method label direction metric noise_scheme noise_rate published printed unit "
    "ours n_seeds difference low high verdict reason ours_on suspect"
).split()
_NOT_HERE = {
    "scan": "the paper averages two networks, here each stands alone",
    "vsrn": "the paper averages two networks, here each stands alone",
    "naaf": "the paper averages two networks, here each stands alone",
    "clip_finetune": "the paper took another training of CLIP, which is not repeated here",
}


def scorecard(rows: pd.DataFrame, papers: Sequence[str] = ()) -> pd.DataFrame:
    """One row per printed number, with ours and the verdict.

    Args:
        rows: of a store, `READ` at least; with a column `stale`, stale runs are told.
        papers: keys of `xmbench.published.PAPERS`; none for all.

    Returns:
        paper, table, dataset, method, direction, metric, noise_rate and more of `COLUMNS`. `published`, `ours` (the mean over
        seeds), `difference`, `low` and `high` are in the unit of a store's rows. `verdict` is

        - "matches": equal to the digits printed, or inside the interval and at most TOLERANCE (RANK_TOLERANCE) away;
        - "within seed noise": inside the interval, farther away;
        - "differs": outside the interval, or without one, since there is one seed;
        - "not attempted": nothing to compare with, for `reason`. `ours` then is that of runs which come close, for a look
          only: it has neither difference nor interval.

    Raises:
        LookupError: no such paper.
    """
    found = _settings(rows)
    stored = set(rows["dataset"].dropna())
    cells = published_cells(*papers).rename(columns={"value": "published"})
    scored = [cell | _scored(cell, found, stored) for cell in cells.to_dict("records")]
    return pd.DataFrame(scored, columns=COLUMNS).astype({"n_seeds": int})


def summary(card: pd.DataFrame) -> pd.DataFrame:
    """Counts of numbers by paper and verdict, the total last."""
    counts = pd.crosstab(card["paper"], card["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts = counts.loc[list(dict.fromkeys(card["paper"]))]
    counts.insert(0, "numbers", counts.sum(axis=1))
    counts.loc["all"] = counts.sum()
    return counts.rename_axis(index="paper", columns=None).reset_index()


def in_short(card: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The scorecard for reading: titles and tables, those aside that would be empty."""
    where = ["paper", "table", "dataset", "method", "direction", "metric"]
    card = card.assign(published=card["printed"], noise_rate=card["noise_rate"].map("{:g}".format))
    others = card[card["verdict"] == NOT_ATTEMPTED]
    compared = ["published", "ours", "n_seeds", "difference", "low", "high", "verdict", "reason"]
    near = others[others["n_seeds"] > 0]
    near = near.assign(beside=near["published"] + " / " + near["ours"].map("{:.3f}".format).astype(str))
    beside = near.pivot_table("beside", [*where, "ours_on"], "noise_rate", " ".join, fill_value="").reset_index()
    reasons = others.groupby([*where[:3], "reason"], sort=False)["method"]
    why = reasons.agg(numbers="size", methods=lambda names: ", ".join(dict.fromkeys(names))).reset_index()
    parts = {
        "Numbers by paper and verdict": summary(card),
        "Compared": card.loc[card["verdict"] != NOT_ATTEMPTED, [*where, "noise_rate", *compared]],
        "Published / ours by noise rate, not comparable": beside,
        "Not attempted": why,
    }
    return [(title, table) for title, table in parts.items() if len(table)]


def markdown(table: pd.DataFrame) -> str:
    """A frame as a Markdown table, numbers with four digits."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy(dtype=object).tolist()]
    return "\n".join(f"| {' | '.join(map(_written, line))} |" for line in lines)


def _written(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value).replace("|", "\\|")


@dataclass(frozen=True)
class _Setting:
    """Runs of one method that differ in seed alone: what they share, how each ended, and their numbers.

    `is_corrupted` says whether labels or pairs are wrong, whatever the nominal rate.
    """

    shared: dict[str, str]
    statuses: Sequence[str]
    stale: bool
    is_corrupted: bool
    values: dict[tuple[str, str, str], list[float]]

    @property
    def words(self) -> str:
        """Data, features and protocol."""
        of = {name: self.shared[name] for name in ("dataset", "features", "protocol", "valid_labels")}
        return f"{of['dataset']} ({of['features']}), protocol {of['protocol']}, {of['valid_labels']} labels"


Found = dict[tuple[str, str, float], list[_Setting]]


def _settings(rows: pd.DataFrame) -> Found:
    """(dataset, method, noise rate) -> settings that it was run in; trials are left out."""
    rows = rows[rows["trial"].fillna("") == ""]
    rows = rows.assign(**{name: rows[name].astype(object).fillna("") for name in SETTING})
    number = rows.groupby([*SETTING, "noise_rate"]).ngroup()
    values = _values(rows, number)
    runs = rows.drop_duplicates("run_id")
    found: Found = defaultdict(list)
    for i, part in runs.groupby(number[runs.index]):
        first = part.iloc[0]
        shared = {name: str(first[name]) for name in SETTING}
        shared["features"] = str(next(iter(part["features"].dropna()), ""))
        is_corrupted = "+" in shared["noise_scheme"] or bool((part["realised_rate"] > 0).any())
        stale = "stale" in part and bool(part["stale"].any())
        setting = _Setting(shared, part["status"].tolist(), stale, is_corrupted, values.get(i, {}))
        found[shared["dataset"], shared["method"], round(float(first["noise_rate"]), 6)].append(setting)
    return found


def _values(rows: pd.DataFrame, number: pd.Series) -> dict[Any, dict[tuple[str, str, str], list[float]]]:
    """Number of a setting -> (split, direction, metric) -> the finished runs' values at the chosen epoch.

    They are of the mean of a run's networks, and of its folds, whose average is stored beside them.
    """
    shown = (rows["status"] == "ok") & (rows["network"] == "mean") & (rows["selection"] == "best_valid")
    kept = rows[shown & (rows["fold"].fillna("") == "") & rows["value"].notna()]
    groups = kept.groupby([number[kept.index], kept["split"], kept["direction"], kept["metric"]], observed=True)["value"]
    lists = groups.agg(list)
    values: dict[Any, dict[tuple[str, str, str], list[float]]] = defaultdict(dict)
    for (i, *what), measured in zip(lists.index.tolist(), lists.tolist(), strict=True):
        split, direction, metric = map(str, what)
        values[i][split, direction, metric] = measured
    return values


def _scored(cell: dict[Any, Any], found: Found, stored: set[str]) -> dict[str, Any]:
    """What is ours of one number, the verdict and the reason."""
    nothing = dict.fromkeys(["ours", "difference", "low", "high"], np.nan) | {"n_seeds": 0, "ours_on": ""}
    if reason := _never(cell):
        return nothing | {"verdict": NOT_ATTEMPTED, "reason": reason}
    what = (cell["split"], cell["direction"], cell["metric"])
    datasets = [cell["dataset"], *filter(None, [OTHER_FEATURES.get(cell["dataset"])])]
    near = [setting for dataset in datasets for setting in found.get((dataset, cell["method"], cell["noise_rate"]), [])]
    near = [s for s in near if s.shared["noise_scheme"] == cell["noise_scheme"] or not (cell["noise_scheme"] or s.is_corrupted)]
    judged = [(_differences(cell, setting), setting) for setting in near if what in setting.values]
    if not judged:
        return nothing | {"verdict": NOT_ATTEMPTED, "reason": _absent(cell, near, stored)}
    reasons, setting = min(judged, key=lambda pair: (len(pair[0]), -len(pair[1].values[what])))
    values = np.array(setting.values[what])
    ours = {"ours": float(values.mean()), "n_seeds": len(values), "ours_on": setting.words}
    if reasons:
        return nothing | ours | {"verdict": NOT_ATTEMPTED, "reason": "; ".join(reasons)}
    low, high = seed_interval(values)
    return ours | {
        "difference": ours["ours"] - cell["published"],
        "low": low,
        "high": high,
        "verdict": verdict(cell["published"], cell["printed"], cell["unit"], values),
        "reason": "; ".join(_remarks(cell, setting, len(values))),
    }


def seed_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float]:
    """Where a further training would fall with probability LEVEL, by those of the seeds; NaN for one seed.

    mean ± t s sqrt(1 + 1/n), the prediction interval for one more normal draw.

    >>> [round(bound, 3) for bound in seed_interval([0.2, 0.21, 0.22])]
    [0.16, 0.26]
    """
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    half = float(stats.t.isf((1 - LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1)) * (1 + 1 / n) ** 0.5
    mean = float(np.mean(values))
    return mean - half, mean + half


def verdict(published: float, printed: str, unit: str, values: Sequence[float] | np.ndarray[Any, Any]) -> str:
    """Whether ours, by seed, reproduce a printed number; see `scorecard`.

    Args:
        published: the number in the unit of `values`.
        printed: its digits, in `unit`: percent, fraction or rank.
        values: ours.
    """
    difference = abs(float(np.mean(values)) - published)
    half_digit = 0.5 * 10.0 ** -len(printed.partition(".")[2]) / (100 if unit == "percent" else 1)
    if difference <= half_digit + 1e-12:
        return MATCHES
    low, high = seed_interval(values)
    if not low <= published <= high:
        return DIFFERS
    return MATCHES if difference <= (RANK_TOLERANCE if unit == "rank" else TOLERANCE) + 1e-12 else SEED_NOISE


def _remarks(cell: dict[Any, Any], setting: _Setting, n_values: int) -> list[str]:
    """What a reader of a comparison must know."""
    remarks = ["one seed, no interval"] if n_values == 1 else []
    if n_values < len(setting.statuses):
        remarks.append(f"{n_values} of {len(setting.statuses)} runs have it")
    if setting.stale:
        remarks.append("stale: the method's source changed after these runs")
    return [*remarks, f"the printed number is in doubt: {cell['note']}"] if cell["suspect"] else remarks


def _never(cell: dict[Any, Any]) -> str:
    """Why the number cannot be compared whatever is run, or ""."""
    method, paper, setting = cell["method"], cell["paper"], cell["setting"]
    if method in REPORTED:
        return "a system that is known by its numbers, there is no network of it here"
    if method in _NOT_HERE:
        return _NOT_HERE[method]
    if paper == "labelwise2021":
        return "neither the features nor the split of the paper were published"
    if "unreleased" in cell["note"]:
        return "the network was not released"
    if "HowTo100M pretrained finetune" in setting:
        return "no method here begins with another's weights"
    if cell["split"] == "train":
        return "the paper looks right after the warm-up, the rows of a run at its chosen epoch"
    return ""


def _absent(cell: dict[Any, Any], near: Sequence[_Setting], stored: set[str]) -> str:
    """Why there is nothing of ours."""
    dataset = cell["dataset"]
    statuses = sorted({status for setting in near for status in setting.statuses})
    if statuses:
        return f"no run has it: {', '.join(statuses)}"
    if dataset in stored or any(parcel.urls and not parcel.members for parcel in dataset_card(dataset).parcels):
        return f"no run in the store; `xmbench run --spec {_spec_name(cell)} --dataset {dataset}`"
    return f"restricted data: {dataset} is not free to download, `xmbench info {dataset}` says who has it"


def _spec_name(cell: dict[Any, Any]) -> str:
    """The spec with the settings of the paper's table."""
    trained_on_regions = (cell["table"], cell["method"]) == ("5", "lnc")  # LNC Table 5 quotes its Table 10
    return f"{cell['paper'].rstrip('0123456789')}_table{'10' if trained_on_regions else cell['table']}"


_spec = lru_cache(maxsize=32)(load_spec)


def _differences(cell: dict[Any, Any], setting: _Setting) -> list[str]:
    """What keeps runs from being comparable with the number: data, noise, protocol and hyper-parameters."""
    spec, shared = _spec(_spec_name(cell)), setting.shared
    of_data = _data_differences(cell["dataset"], spec, shared)
    options = {name: default for name, (_, default, _) in scheme_options(shared["noise_scheme"]).items()}
    of_noise = _changed("noise", json.loads(shared["noise_options"] or "{}"), options) if cell["noise_rate"] else []
    protocol = load_protocol(spec.protocol)
    other = [] if shared["protocol_sha"] == protocol.sha else [f"protocol {shared['protocol']}, not {protocol.name} as it is"]
    return [*of_data, *of_noise, *other, *_method_differences(cell, spec, shared, known_data=not of_data)]


def _data_differences(dataset: str, spec: Spec, shared: dict[str, str]) -> list[str]:
    if shared["dataset"] != dataset:
        widths = ", ".join(f"{name} {width}" for name, width in dataset_card(dataset).widths.items())
        return [f"other features: {shared['dataset']} with {shared['features']}, the paper's are {dataset} with {widths}"]
    return _changed("data", json.loads(shared["dataset_params"]), dataset_parameters(dataset, spec.settings_of(dataset)))


def _method_differences(cell: dict[Any, Any], spec: Spec, shared: dict[str, str], *, known_data: bool) -> list[str]:
    """How method and hyper-parameters differ from the spec's; its methods' defaults are read for the right data only."""
    registered, fixed = configured(spec, cell["method"], cell["dataset"])
    if shared["implementation"] != registered:
        return [f"method {shared['implementation']}, not {registered}"]
    if shared["tuning"] not in ("", UNTUNED):
        return ["hyper-parameters tuned" + (f", profile {shared['profile']}" if shared["profile"] else "")]
    defaults = parameters_of(find_method(registered)) if known_data else {}
    return _changed("hyper-parameters", json.loads(shared["params"]), {**defaults, **fixed})


def _changed(what: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """One sentence on the values that are not those expected; none where all are."""
    expected = json.loads(json.dumps(theirs))
    changed = [f"{name}={ours.get(name)} (paper {value})" for name, value in expected.items() if ours.get(name) != value]
    return [f"other {what}: {', '.join(changed)}"] if changed else []
