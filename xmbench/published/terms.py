"""The numbers that papers print in our terms: datasets, noise, methods, directions, metrics and units as in a store's rows."""

import pandas as pd

from xmbench.published import PAPERS, published_results

DATASETS = {
    "wikipedia": "wikipedia_deep", "inria-websearch": "inria_websearch", "nus-wide": "nus_wide", "xmedianet": "xmedianet",
    "flickr30k": "f30k_precomp", "mscoco-1k": "coco_precomp", "mscoco-5k": "coco_precomp", "mscoco": "coco_precomp",
    "cc152k": "cc152k_precomp", "msr-vtt": "msrvtt", "lsmdc": "lsmdc", "youcook2": "youcook2", "flickr25k": "mirflickr25k",
    "nus-wide-multilabel": "nus_wide_multilabel", "coco1k-labelwise": "coco_multilabel", "coco5k-labelwise": "coco_multilabel",
}  # fmt: skip
NOISE = {"symmetric_label": "symmetric", "correspondence": "caption_shuffle"}
DIRECTIONS = {"i2t": "image2text", "t2i": "text2image"}
METRICS = {"precision": "noise_precision", "recall": "noise_recall", "f1": "noise_f1"}
METHODS = {"sgr_c": "sgr_clean"}
# names in the specs that hold the papers' settings, where they are not the papers' with underscores
METHODS_OF = {
    ("mrl2021", "1"): {"deep_sm": "ce"},  # Table 3 repeats all its numbers as CE
    ("mrl2021", "2"): {"deep_sm": "ce"},
    ("ncr2021", "3"): {"sgr": "sgr_star"},
    ("labelwise2021", "1"): {"independent": "labelwise_independent", "labelwise_con": "labelwise_consistency"},
    ("lnc2024", "3"): {"miech2019": "miech_word2vec", "lnc": "lnc_miech"},
    ("lnc2024", "6"): {"miech2019": "miech_word2vec", "lnc": "lnc_miech"},
    ("lnc2024", "8"): {
        "lnc_no_warmup": "lnc_no_warm_up",
        "lnc_vanilla_no_codivide": "lnc_no_divide",
        "lnc_vanilla_no_corectify": "lnc_no_rectify",
        "lnc_vanilla_warmup": "lnc_plain_warm_up",
        "lnc_mr_only": "lnc_momentum",
        "lnc_rna_only": "lnc_abandon",
    },
    ("lnc2024", "9"): {
        "lnc_psi1_linear": "lnc_linear",
        "lnc_psi2_exponential": "lnc_exponential",
        "lnc_psi3_sin": "lnc_sin",
        "lnc_psi4_sigmoid": "lnc_sigmoid",
    },
    ("lnc2024", "11"): {"lnc_gt_weights": "lnc_oracle"},
}
COLUMNS = (
    "dataset split noise_scheme noise_rate method direction metric value printed unit paper table printed_dataset setting "
    "label note suspect"
).split()


def published_cells(*papers: str) -> pd.DataFrame:
    """One row per number that the papers print, in our terms.

    Args:
        papers: keys of `PAPERS`; none for all.

    Returns:
        dataset, split, method, direction and metric as in a store's rows, `method` as the spec of the paper's table names it;
        noise_scheme, "" for what holds under every scheme, since nothing was corrupted, and noise_rate; `value` in the unit of
        a store's rows, fractions for percent; `printed` and `unit`, as in the paper; paper, table, printed_dataset, setting
        and `label`, the method as printed; note, and `suspect`, whether the number is in doubt.

    Raises:
        LookupError: no such paper.
    """
    if unknown := [paper for paper in papers if paper not in PAPERS]:
        raise LookupError(f"no published numbers of {', '.join(unknown)}; there are those of {', '.join(PAPERS)}")
    rows = published_results()
    rows = rows[rows["paper"].isin(papers or PAPERS)].reset_index(drop=True)
    clip = (rows["paper"] == "lnc2024") & (rows["table"] == "5") & (rows["method"] != "lnc")
    video = rows["setting"].str.startswith("text-to-video")
    modality = rows["setting"].str.extract(r"classification, (\w+) modality", expand=False)
    detection = rows["metric"].isin(METRICS)
    split = rows["dataset"].map({"mscoco-1k": "test:1k"}).fillna("test").mask(detection, "train")
    zero_shot_video = rows["setting"].str.contains("HowTo100M")
    direction = rows["direction"].replace(DIRECTIONS).mask(video, "text2video").mask(detection, "pairs")
    keys = zip(rows["paper"], rows["table"], rows["method"], rows["setting"], strict=True)
    return rows.assign(
        printed_dataset=rows["dataset"],
        dataset=rows["dataset"].map(DATASETS).mask(clip, "coco_clip").mask(zero_shot_video, "howto100m"),
        split=split,
        noise_scheme=rows["noise_type"].map(NOISE).fillna(""),
        noise_rate=rows["noise_rate"].fillna(0.0),
        method=[_method(*key) for key in keys],
        direction=modality.fillna(direction),
        metric=rows["metric"].replace(METRICS),
        value=rows["value"].where(rows["unit"] != "percent", rows["value"] / 100),
        label=rows["method_label"],
    )[COLUMNS]


def _method(paper: str, table: str, method: str, setting: str) -> str:
    """A method's name in the spec of the table."""
    name = method.replace("-", "_")
    if name.startswith("clip_"):
        return "clip_finetune" if setting == "finetune" else "zero_shot"
    return METHODS_OF.get((paper, table), METHODS).get(name, METHODS.get(name, name))
