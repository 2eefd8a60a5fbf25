"""XMediaNet with four modalities: image, text, audio and 3D model, item by item."""

from dataclasses import dataclass

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_file
from xmbench.datasets._mat import mat_variable
from xmbench.datasets._released import CHECKS, Part, Parts, assembled, checked, joint_base
from xmbench.types import DataError, Dataset

_FILE = "XMediaNet4View_pairs.mat"

CARD = Card(
    name="xmedianet4",
    title="XMediaNet, four modalities, features of Hu et al.",
    source="PKU XMediaNet of Peking University; features of the authors of github.com/penghu-cs/MRL",
    licence="for research, on request",
    citation="Peng, Qi and Yuan, Modality-Specific Cross-Modal Similarity Measurement with Recurrent Attention Network, "
    "TIP 2018; Hu et al., Learning Cross-Modal Retrieval with Noisy Labels, CVPR 2021",
    sizes={"train": 32000, "valid": 4000, "test": 4000},
    widths={"image": 4096, "text": 300, "audio": 29, "model": 4700},  # the last two as in XMedia, the smaller collection
    classes=200,
    unverified=("sizes", "image", "text", "audio", "model"),
    parcels=(
        Parcel(
            files={_FILE: ""},
            note="ask Peking University for PKU XMediaNet, https://www.icst.pku.edu.cn/mipl/lwsjjxz/dataset, and compute the "
            "features; or ask the authors of github.com/penghu-cs/MRL, who may not share the file. Neither paper nor code "
            "states sizes and widths or names the modalities: the order is that of the released command line, image, text, "
            "audio, 3D",
        ),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """There are none."""


def load(parameters: Parameters) -> Dataset:
    """Cells `train`, `valid`, `test` (1 x 4) of features and `train_labels`, ... of class numbers, row i of all one item.

    The released loader takes the labels as they are; here the smallest label of a modality over all splits counts as 0.
    """
    path = find_file(CARD, _FILE)
    parts: Parts = {}
    for split in CARD.sizes:
        cells = {key: mat_variable(path, key).reshape(-1) for key in (split, f"{split}_labels")}
        for key, cell in cells.items():
            if cell.dtype != object or len(cell) != len(CARD.widths):
                raise DataError(f"{path}: {key} must be a 1 x {len(CARD.widths)} cell array, got {cell.dtype} {cell.shape}")
        where = [(f"{path}: {split}{{{v + 1}}}", f"{path}: {split}_labels{{{v + 1}}}") for v in range(len(CARD.widths))]
        views = zip(CARD.widths, *cells.values(), where, strict=True)
        parts |= checked(CARD, {split: {name: Part(values, labels, *found) for name, values, labels, found in views}}, {})
    return assembled(CARD, path, joint_base(parts), {})
