"""The words by which every file says which runs, noise and protocol it shows."""

import json
from collections.abc import Collection

import pandas as pd

from xmbench.report.groups import Group, short_hash
from xmbench.report.labels import written_params

METRIC_WORDS = {
    "map": "MAP", "map@50": "MAP@50", "r@1": "R@1", "r@5": "R@5", "r@10": "R@10", "rsum": "rSum", "medr": "MedR",
    "meanr": "MeanR", "map@r": "mAP@R", "pmrp": "PMRP", "ndcg": "nDCG", "ndcg@100": "nDCG@100", "micro_f1": "micro F1",
    "noise_precision": "Precision", "noise_recall": "Recall", "noise_f1": "F1", "noise_auroc": "AUROC",
}  # fmt: skip


def selection_words(group: Group, selection: str) -> str:
    """Which epoch is shown."""
    return f"epoch of the best validation {METRIC_WORDS[group.metric]}" if selection == "best_valid" else "last epoch"


def setting_words(group: Group, selection: str) -> str:
    """Which epoch is shown, by which validation data it was chosen, the profile and the way to hyper-parameters."""
    relevance = "labels" if group.metric == "map" else "pairs"
    valid = " or ".join(sorted(set(group.runs["valid_labels"].dropna())))
    profiles = sorted(set(group.runs["profile"].dropna()) - {"", "none", "default"})
    profile = f", profile {' and '.join(profiles)}" if profiles else ""
    tuned = f", hyper-parameters {group.tuned}" if group.tuned else ""
    rule = selection_words(group, selection) + (f" ({valid} {relevance})" if selection == "best_valid" else "")
    return f"{rule}{profile}{tuned}"


def source_words(group: Group) -> str:
    """The sentence below a table that says which runs, noise and protocol it shows."""
    words = [noise_words(group.runs), protocol_words(group), run_words(group.runs)]
    return f"Shown: {'; '.join(words)}; listed in provenance.csv."


def noise_words(runs: pd.DataFrame) -> str:
    """The noise hash of runs: of the one draw, or combined over several."""
    shas = sorted(set(runs["noise_sha"]) - {""})
    if len(shas) < 2:
        return f"noise {shas[0][:8]}" if shas else "no noise hash"
    return f"noise {short_hash(shas)} ({len(shas)} draws)"


def dataset_words(group: Group) -> str:
    """Dataset, its parameters, its features and the test split, `wikipedia (text=lda; image 128, text 10)`."""
    features = sorted(set(group.runs["features"].dropna()) - {""})
    given = {name: value for name, value in json.loads(group.dataset_params).items() if value != ""}
    inside = "; ".join(filter(None, [written_params(json.dumps(given)), *features]))
    name = f"{group.dataset} ({inside})" if inside else group.dataset
    return name if group.split == "test" else f"{name}, split {group.split}"


def scheme_words(group: Group) -> str:
    """Noise scheme and its options."""
    options = written_params(group.noise_options)
    return f"{group.noise_scheme or 'no'} noise" + (f" ({options})" if options else "")


def protocol_words(group: Group) -> str:
    """Protocol and its hash."""
    return f"protocol {group.protocol} ({group.protocol_sha[:8]})"


def run_words(runs: pd.DataFrame) -> str:
    """Number, hash and seeds of runs; the full list is in provenance.csv."""
    finished = int((runs["status"] == "ok").sum())
    total = counted(len(runs), "run")
    count = total if finished == len(runs) else f"{finished} of {total}"
    seeds = sorted(runs["seed"].unique())
    listed = ", ".join(str(seed) for seed in seeds)
    return f"{count} (set {short_hash(runs['run_id'])}), {'seed' if len(seeds) == 1 else 'seeds'} {listed}"


def counted(n: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def provenance_words(group: Group, runs: pd.DataFrame, *more: str) -> str:
    """One line that says which runs, noise and protocol a figure shows."""
    words = [dataset_words(group), scheme_words(group), noise_words(runs), protocol_words(group), run_words(runs)]
    return "; ".join([*words, *filter(None, more)])


def absent_words(group: Group, shown: Collection[str], what: str) -> str:
    """Which methods a figure does not show, for want of what it needs though they ran; empty where there are none."""
    ran = set(group.runs.loc[group.runs["status"] != "no run", "label"])
    absent = [label for label in group.labels if label in ran and label not in shown]
    return f"no {what}: {', '.join(absent)}" if absent else ""


def direction_words(direction: str) -> str:
    """`image2text` as `Image → Text`, `mean` as `Average`."""
    if direction == "mean":
        return "Average"
    query, _, gallery = direction.partition("2")
    return f"{query.capitalize()} → {gallery.capitalize()}"
