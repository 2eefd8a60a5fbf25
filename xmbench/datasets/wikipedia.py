"""Wikipedia: 2,866 sections of featured articles with their images, ten classes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmbench.cards import Card, Parcel
from xmbench.datasets._files import find_file
from xmbench.types import Array, Dataset, Modality, PairedSet, Rows, one_hot

_COPIES = (
    "https://raw.githubusercontent.com/emanuetre/crossmodal/master/wikipedia_info/",
    "https://cdn.jsdelivr.net/gh/emanuetre/crossmodal@master/wikipedia_info/",
)
_FEATURES = "raw_features.mat"
_LISTS = {"train": "trainset_txt_img_cat.list", "test": "testset_txt_img_cat.list"}
_FILES = (  # name, sha256, bytes
    (_FEATURES, "ca628f765a69575e168ab29eb97f5ade12fadf47b31de1328c7ff631c7f225ae", 1075232),
    (_LISTS["train"], "30c1ba8afbe90da5986de9b12496b6dd2e4680d3876b79ab7aae2e437d5819a3", 155153),
    (_LISTS["test"], "ec3123ee31cc89dd95fbeb23eb73b2ecfd1d8909bba863723471aad99408c1eb", 49494),
)
_ORIGINAL = "also in http://www.svcl.ucsd.edu/projects/crossmodal/wikipedia_dataset.zip, with the images and texts"
_MINILM = "wikipedia_text_minilm384.npz"
_CLASSES = (
    "art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare",
)  # fmt: skip
_VALID = 231  # the released MRL loader takes the first 231 test rows as validation set

CARD = Card(
    name="wikipedia",
    title="Wikipedia featured articles (SVCL release)",
    source="www.svcl.ucsd.edu/projects/crossmodal, of which github.com/emanuetre/crossmodal has a copy of the same files",
    licence="research release without a licence text; texts CC BY-SA (Wikipedia)",
    citation="Rasiwasia et al., A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010; "
    "Costa Pereira et al., On the Role of Correlation and Abstraction in Cross-Modal Multimedia Retrieval, TPAMI 2014",
    sizes={"train": 2173, "valid": 231, "test": 462},
    widths={"image": 128, "text": 10},
    classes=10,
    parameters={
        "text": "lda: the released 10-d topic posteriors; minilm: 384-d sentence embeddings, from a local file",
        "split": "mrl: 2173 / 231 / 462, validation = first 231 test rows; svcl: 2173 / 693, validation = test",
        "standardise": "each feature to mean 0 and variance 1, by the train split",
    },
    parcels=(
        *(
            Parcel(files={name: sha256}, urls=tuple(copy + name for copy in _COPIES), size=size, note=_ORIGINAL)
            for name, sha256, size in _FILES
        ),
        Parcel(
            files={_MINILM: "c95a5a0ceca988b1954fe812a132ee4f8ca0ac4eff546b3e627893ff32c885d5"},
            note="this project's embeddings of the sections, at no public address; for wikipedia.text=minilm alone: arrays "
            "T_tr (2173, 384) and T_te (693, 384), all-MiniLM-L6-v2 of the texts in the order of the lists",
            needed=False,
        ),
    ),
    checks="the sha256 of every file",
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    text: Literal["lda", "minilm"] = "lda"
    split: Literal["mrl", "svcl"] = "mrl"
    standardise: bool = False


def load(parameters: Parameters) -> Dataset:
    """The SVCL features as released: SIFT histograms (128-d) and topic posteriors (10-d), row i of both one section.

    Hu et al. (CVPR 2021) use the same articles and split sizes with deep features that are not part of this release, and a
    row order of their own: which rows are validation there cannot be known from here. The SVCL release has no validation set;
    `split=svcl` selects on the test rows, as its users did, and is not for reporting robustness.
    """
    image, text = _features(parameters.text)
    parts = {}
    for part, listing in _LISTS.items():
        ids, labels = _listing(find_file(CARD, listing).read_text())
        parts[part] = _paired(image[part], text[part], labels, ids)
    if parameters.standardise:
        parts = _standardised(parts)
    test = parts["test"]
    first, rest = np.arange(_VALID), np.arange(_VALID, len(test.modalities[0]))
    mrl = parameters.split == "mrl"
    return Dataset(
        name="wikipedia",
        family="wikipedia",
        parameters=vars(parameters),
        train=parts["train"],
        valid=_part(test, first) if mrl else test,
        tests={"test": _part(test, rest) if mrl else test},
        card=CARD,
        class_names=_CLASSES,
    )


def _features(text: str) -> tuple[dict[str, Array], dict[str, Array]]:
    from scipy.io import loadmat

    released = loadmat(find_file(CARD, _FEATURES), variable_names=["I_tr", "I_te", "T_tr", "T_te"])
    image = {"train": released["I_tr"], "test": released["I_te"]}
    if text == "lda":
        return image, {"train": released["T_tr"], "test": released["T_te"]}
    with np.load(find_file(CARD, _MINILM), allow_pickle=False) as minilm:
        return image, {"train": minilm["T_tr"], "test": minilm["T_te"]}


def _listing(content: str) -> tuple[Array, Array]:
    """Ids "text/image" and class numbers 0..9 from lines of text id, image id and category 1..10."""
    lines = [line.split("\t") for line in content.splitlines() if line.strip()]
    return np.array([f"{text}/{image}" for text, image, _ in lines]), np.array([int(category) for *_, category in lines]) - 1


def _paired(image: Array, text: Array, labels: Array, ids: Array) -> PairedSet:
    hot = one_hot(labels, len(_CLASSES))
    modalities = tuple(
        Modality(name=name, vectors=Rows(values.astype(np.float32)), labels=hot, item_ids=ids)
        for name, values in (("image", image), ("text", text))
    )
    rows = np.arange(len(ids))
    return PairedSet(modalities=modalities, pairs=np.stack([rows, rows], axis=1))


def _part(split: PairedSet, rows: Array) -> PairedSet:
    """The rows `rows` of every modality, item i paired with item i."""
    pairs = np.stack([np.arange(len(rows))] * len(split.modalities), axis=1)
    return PairedSet(modalities=tuple(m.take(rows) for m in split.modalities), pairs=pairs)


def _standardised(parts: dict[str, PairedSet]) -> dict[str, PairedSet]:
    from dataclasses import replace

    train = [np.asarray(m.vectors, dtype=np.float64) for m in parts["train"].modalities]
    scaled = {}
    for part, split in parts.items():
        modalities = []
        for m, x in zip(split.modalities, train, strict=True):
            values = (np.asarray(m.vectors, dtype=np.float64) - x.mean(0)) / np.maximum(x.std(0), 1e-12)
            modalities.append(replace(m, vectors=Rows(values.astype(np.float32))))
        scaled[part] = replace(split, modalities=tuple(modalities))
    return scaled
