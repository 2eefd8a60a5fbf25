"""The numbers that papers print: package data with one loader, never mixed into measured ones.

`results.csv` holds one row per printed number of "Learning Cross-Modal Retrieval with Noisy Labels" (mrl2021), the supplement
of "Learning with Noisy Correspondence for Cross-modal Matching" (ncr2021), the supplement of the label-wise paper
(labelwise2021) and "Learning with Noisy Correspondence" (lnc2024), with the digits as printed; `note` has repairs of
misprints, and doubts. The block without noise is `none`, rate 0.
"""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Systems that the papers' tables quote and that have no network here: there is nothing of theirs to run.
REPORTED = {
    "torabi2016": "C+LSTM+SA+FC7: Torabi, Tandon, Sigal, Learning Language-Visual Embedding for Movie Understanding, 2016",
    "kiros2014": "VSE-LSTM: Kiros, Salakhutdinov, Zemel, Unifying Visual-Semantic Embeddings with Multimodal Neural Language "
    "Models, 2014, applied to video by others; its ranking loss is vse.negatives=all",
    "kaufman2017": "Kaufman, Levi, Hassner, Wolf, Temporal Tessellation: A Unified Approach for Video Analysis, ICCV 2017",
    "yu2017": "CT-SAN: Yu, Ko, Choi, Kim, End-to-end Concept Word Detection for Video Captioning, Retrieval, CVPR 2017",
    "yu2018": "JSFusion: Yu, Kim, Kim, A Joint Sequence Fusion Model for Video Question Answering and Retrieval, ECCV 2018",
}


@cache
def published_results() -> "pd.DataFrame":
    """One row per printed number: paper, table, dataset, setting, noise, method, direction, metric, value, unit and note.

    `printed` is `value` with the digits of the paper. `registered` has the name of the method here, "" where there is none.
    """
    import pandas as pd

    from xmbench.registry import method_names

    with files(__package__).joinpath("results.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, dtype={"table": str, "value": str}, keep_default_na=False, na_values={"noise_rate": [""]})
    known, names = set(method_names()), rows["method"].str.replace("-", "_")
    renamed = names.replace({"sgr_c": "sgr_clean", "miech2019": "miech"})
    return rows.assign(
        value=rows["value"].astype(float), printed=rows["value"], registered=renamed.where(renamed.isin(known), "")
    )
