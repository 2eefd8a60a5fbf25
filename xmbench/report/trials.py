"""The trials by which hyper-parameters were chosen: every point, its validation score, and which one was taken."""

import json
from collections.abc import Hashable
from typing import Any

import pandas as pd

from xmbench.report.files import Context, File, write_text
from xmbench.report.groups import Group
from xmbench.report.labels import written_params


def trial_table(group: Group, context: Context) -> list[File]:
    """Write the trials of a group of tuned runs as CSV, best first within each method and rate."""
    path = context.out / f"{group.slug}_trials.csv"
    table = trials_of(group)
    if table.empty:
        return []
    write_text(path, table.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    return [File(path, "trials that chose the hyper-parameters, by validation score", group, group.runs)]


def trials_of(group: Group) -> pd.DataFrame:
    """One row per trial: method, rule, noise_rate, seed, trial, searched parameters, valid_score, status, chosen."""
    runs = group.trials.drop_duplicates("run_id")
    seen = group.trials[
        (group.trials["split"] == "valid")
        & (group.trials["selection"] == "best_valid")
        & (group.trials["network"] == "mean")
        & (group.trials["direction"] == "mean")
        & (group.trials["metric"] == group.metric)
    ]
    scores = seen.set_index("run_id")["value"]
    valid = f"valid_{group.metric}"
    taken = {_choice(run) for run in group.runs.to_dict("records")}
    rows = [
        {
            "method": run["method"],
            "rule": run["tuning"],
            "noise_rate": run["noise_rate"],
            "seed": run["seed"],
            "trial": int(run["trial"]),
            "searched": _searched(runs[runs["method"] == run["method"]], run["params"]),
            valid: scores.get(run["run_id"], float("nan")),
            "status": run["status"],
            "chosen": _choice(run) in taken,
        }
        for run in runs.to_dict("records")
    ]
    order = ["method", "rule", "noise_rate", valid, "trial"]
    return pd.DataFrame(rows).sort_values(order, ascending=[True, True, True, False, True]) if rows else pd.DataFrame()


def _choice(run: dict[Hashable, Any]) -> tuple[Any, ...]:
    """What a trial has in common with the runs that took its parameters; their rate too, where each has its own choice."""
    rate = run["noise_rate"] if " per rate over " in run["tuning"] else None
    return run["method"], run["tuning"], run["params"], rate


def _searched(trials: pd.DataFrame, params: str) -> str:
    """Of one trial's parameters those that are not the same in all trials of its method."""
    every = [json.loads(text) for text in trials["params"]]
    own = json.loads(params)
    differing = {name: value for name, value in own.items() if any(other.get(name) != value for other in every)}
    return written_params(json.dumps(differing))
