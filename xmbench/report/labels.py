"""How methods are shown: the registered name, and what differs between its settings where it occurs with several."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

IDENTITY = ["params", "implementation", "method_version", "tuning"]
MAX_DETAILS = 2  # differing settings up to which a label spells them out


def with_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column `label`: the method's name, told apart by what differs between its settings.

    Up to MAX_DETAILS differing settings are spelt out, `mrl (beta=0.5)`; more become a number, `mrl (1)`, and
    `setting_notes` says what it stands for.

    Args:
        rows: rows of one group; parameters that differ between groups need no telling apart.
    """
    keys = rows.groupby(["method", *IDENTITY], observed=True, sort=False)
    settings = _with_versions(rows[["method", *IDENTITY]].drop_duplicates().astype(str))
    named = _without_chosen_per_rate(settings)
    labels: dict[tuple[Any, ...], str] = {}
    for method, part in named.drop_duplicates().groupby("method"):
        details = _details(_settings(part))
        spelt = max(map(len, details)) <= MAX_DETAILS
        shown = [_written(detail) if spelt else str(i) for i, detail in enumerate(details, 1)]
        names = [f"{method} ({text})" if text and len(part) > 1 else str(method) for text in shown]
        labels |= dict(zip(part.itertuples(index=False, name=None), names, strict=True))
    of_settings = pd.Categorical([labels[key] for key in named.itertuples(index=False, name=None)])
    number = keys.ngroup().to_numpy()
    versions = pd.Categorical(settings["method_version"])
    return rows.assign(method_version=versions[number], label=of_settings[number])


def _without_chosen_per_rate(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without those parameters that were chosen anew for every rate: they differ by design."""

    def rest(params: str, tuning: str) -> str:
        rule, _, searched = tuning.partition(" over ")
        if not rule.endswith("per rate"):
            return params
        return json.dumps({k: v for k, v in json.loads(params).items() if k not in searched.split(", ")})

    return rows.assign(params=[rest(*pair) for pair in zip(rows["params"], rows["tuning"], strict=True)])


def _with_versions(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows where a run that failed before its method's version was known has that of the runs with equal settings."""
    others = [column for column in ["method", *IDENTITY] if column != "method_version"]
    known = rows["method_version"].where(rows["method_version"] != "")
    versions = known.groupby([rows[column] for column in others]).transform("first")
    return rows.assign(method_version=known.fillna(versions).fillna(""))


def setting_notes(rows: pd.DataFrame) -> list[str]:
    """One sentence per method that occurs with several settings.

    Args:
        rows: rows with a column `label`.
    """
    notes = []
    named = _without_chosen_per_rate(rows[["method", "label", *IDENTITY]].drop_duplicates().astype(str))
    for method, part in named.drop_duplicates().groupby("method"):
        if len(part) > 1:
            pairs = zip(part["label"], _details(_settings(part)), strict=True)
            listed = "; ".join(sorted(f"{label}: {_written(detail)}" for label, detail in pairs))
            notes.append(f"{method} occurs with {len(part)} settings. {listed}.")
    return notes


def written_params(params: str) -> str:
    """JSON parameters as `a=1, b=x`."""
    return _written(json.loads(params))


def _settings(part: pd.DataFrame) -> list[dict[str, Any]]:
    rest = [column for column in IDENTITY if column != "params"]
    return [json.loads(row["params"]) | {name: row[name] for name in rest} for row in part.to_dict("records")]


def _details(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What differs: of each setting the entries that are not the same in all."""
    names = sorted({name for setting in settings for name in setting})
    differing = [name for name in names if len({json.dumps(s.get(name), sort_keys=True) for s in settings}) > 1]
    return [{name: setting.get(name) for name in differing} for setting in settings]


def _written(setting: dict[str, Any]) -> str:
    shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in sorted(setting.items())}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
