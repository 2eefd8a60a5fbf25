"""The numbers that papers print: package data with its loaders, never mixed into measured ones.

`results.csv` holds one row per printed number of the tables of `PAPERS`, with the digits as printed; `note` has repairs of
misprints, and doubts. The block without noise is `none`, rate 0. `anomalies.csv` says which numbers are odd, and `README.md`
what the columns mean and how the numbers were transcribed and checked.
"""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PAPERS = {
    "mrl2021": "Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021",
    "ncr2021": "Huang et al., Learning with Noisy Correspondence for Cross-modal Matching, NeurIPS 2021, supplement",
    "labelwise2021": "Yang et al., Rethinking Label-Wise Cross-Modal Retrieval from a Semantic Sharing Perspective, "
    "IJCAI 2021, supplement",
    "lnc2024": "Huang et al., Learning with Noisy Correspondence, IJCV 2024",
}

# Systems that the papers' tables quote and that have no network here: there is nothing of theirs to run.
REPORTED = {
    "torabi2016": "C+LSTM+SA+FC7: Torabi, Tandon, Sigal, Learning Language-Visual Embedding for Movie Understanding, 2016",
    "kiros2014": "VSE-LSTM: Kiros, Salakhutdinov, Zemel, Unifying Visual-Semantic Embeddings with Multimodal Neural Language "
    "Models, 2014, applied to video by others; its ranking loss is vse.negatives=all",
    "kaufman2017": "Kaufman, Levi, Hassner, Wolf, Temporal Tessellation: A Unified Approach for Video Analysis, ICCV 2017",
    "yu2017": "CT-SAN: Yu, Ko, Choi, Kim, End-to-end Concept Word Detection for Video Captioning, Retrieval, CVPR 2017",
    "yu2018": "JSFusion: Yu, Kim, Kim, A Joint Sequence Fusion Model for Video Question Answering and Retrieval, ECCV 2018",
}


_NOTED = ("misread", "read-again", "garbled-line", "label")  # anomalies that the notes of the numbers tell already
_WHICH = ["paper", "table", "dataset", "method", "noise_rate", "direction", "metric"]


@cache
def published_results() -> "pd.DataFrame":
    """One row per printed number: paper, table, dataset, setting, noise, method, direction, metric, value, unit and note.

    `printed` is `value` with the digits of the paper; `suspect` says whether the number is in doubt, and `note` why.
    `registered` has the name of the method here, "" where there is none.
    """
    from xmbench.registry import method_names

    rows = _read("results.csv").assign(suspect=False)
    for anomaly in published_anomalies().query("dataset != '' or method != ''").to_dict("records"):
        about = {name: anomaly[name] for name in _WHICH if anomaly[name] != ""}
        hit = (rows[list(about)] == about).all(axis=1)
        rows.loc[hit, "suspect"] |= anomaly["suspect"]
        if anomaly["kind"] in _NOTED:
            continue
        rows.loc[hit, "note"] = [f"{note}; {anomaly['detail']}".removeprefix("; ") for note in rows.loc[hit, "note"]]
    known, names = set(method_names()), rows["method"].str.replace("-", "_")
    renamed = names.replace({"sgr_c": "sgr_clean", "miech2019": "miech"})
    return rows.assign(
        value=rows["value"].astype(float),
        noise_rate=rows["noise_rate"].replace("", "nan").astype(float),
        printed=rows["value"],
        registered=renamed.where(renamed.isin(known), ""),
    )


@cache
def published_anomalies() -> "pd.DataFrame":
    """What is odd: which numbers it is about ("" for all), its kind, whether they are in doubt, and the detail."""
    rows = _read("anomalies.csv")
    return rows.assign(suspect=rows["suspect"] == "yes")


def provenance() -> str:
    """Where the numbers are from, how they were transcribed and checked, and what the columns mean, as Markdown."""
    return files(__package__).joinpath("README.md").read_text("utf-8")


def _read(name: str) -> "pd.DataFrame":
    """A file of this package as text, "" where nothing stands."""
    import pandas as pd

    with files(__package__).joinpath(name).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False)
