"""MS-COCO as 36 regions per image, five captions each: the release of SCAN, tested on all 5,000 images and in five folds.

Where `instances_val2014.json` lies in the folder, test images and captions have their 80 object categories as labels, joined
through testall_ids.txt: relevance for R-precision by plausible matches (PMRP) of Chun et al., Probabilistic Embeddings for
Cross-Modal Retrieval, CVPR 2021. An image without annotation has no label.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_optional, readable
from xmbench.datasets._precomp import (
    CHECKS,
    FILES,
    PARAMETERS,
    SCAN,
    SCAN_DEAD,
    SPLITS,
    Parameters,
    Part,
    assembled,
    first_of_valid,
    read_part,
)
from xmbench.types import DataError, Dataset

_INSTANCES = "instances_val2014.json"

CARD = Card(
    name="coco_precomp",
    title="MS-COCO, regions and captions",
    source="github.com/kuanghuei/SCAN: captions and split of Karpathy and Fei-Fei, regions by bottom-up attention",
    licence="annotations CC BY 4.0; images under licences of their own",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; "
    "Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018",
    sizes={"train": 113287, "valid": 5000, "test": 5000},
    regions=(36, 2048),
    captions=5,
    words=11353,
    folds={"test:1k": 5},
    unverified=("sizes",),
    parameters=PARAMETERS,
    parcels=(
        Parcel(files={name.replace("test_", "testall_"): "" for name in FILES}, note=SCAN, dead=SCAN_DEAD),
        Parcel(
            files={_INSTANCES: ""},
            urls=("http://images.cocodataset.org/annotations/annotations_trainval2014.zip",),
            members={f"annotations/{_INSTANCES}": _INSTANCES},
            size=252_872_794,
            note="for PMRP alone, with testall_ids.txt of the regions",
            needed=False,
        ),
    ),
    checks=CHECKS,
)

__all__ = ["CARD", "Parameters", "load"]


def load(parameters: Parameters) -> Dataset:
    """Regions and words; "test" is testall in one pass (5K), "test:1k" the same in five folds. Labels on tests alone."""
    parts = {split: read_part(CARD, stem) for split, stem in {**SPLITS, "test": "testall"}.items()}
    instances = find_optional(CARD, _INSTANCES)
    labels, names = ({}, ()) if instances is None else _labels(instances, parts["test"])
    images = first_of_valid(parts, parameters)
    return assembled(CARD, parts, vars(parameters), images=images, labels=labels, class_names=names)


def _labels(path: Path, test: Part) -> tuple[dict[str, NDArray[np.bool_]], tuple[str, ...]]:
    """Categories (n, c) of the test images, and their names."""
    names, annotated = _categories(path, path.stat().st_mtime_ns)
    labels = np.zeros((len(test.regions), len(names)), dtype=bool)
    for i, image in enumerate([] if test.ids is None else test.ids):
        labels[i, list(annotated.get(str(image), ()))] = True
    if not labels.any():
        known = "no ids" if test.ids is None else f"ids such as {test.ids[0]}"
        raise DataError(
            f"{path}: must annotate test images by the ids of testall_ids.txt, got {known}, none of them annotated; "
            "write the COCO id of every image there, or remove the annotations to do without PMRP"
        )
    return {"test": labels}, names


@cache
def _categories(path: Path, _changed: int) -> tuple[tuple[str, ...], dict[str, set[int]]]:
    """Names of the categories by their number, and image id -> positions of its categories among them."""
    wanted = "COCO instances in JSON, categories with id and name, and annotations with image_id and category_id"
    with readable(path, wanted):
        content = json.loads(path.read_bytes())
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        position = {number: i for i, number in enumerate(sorted(names))}
        annotated: dict[str, set[int]] = {}
        for annotation in content["annotations"]:
            annotated.setdefault(str(annotation["image_id"]), set()).add(position[annotation["category_id"]])
    return tuple(names[number] for number in sorted(names)), annotated
