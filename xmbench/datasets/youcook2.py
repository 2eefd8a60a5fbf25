"""YouCook2: clips of cooking videos with one caption each, in the files that Miech et al. train and test on.

    train.npz, val.npz      `2d` and `3d` (n, d), `caption` and `id` (n,) text: what `xmbench data convert` makes of
                            train.pkl and val.pkl of the release, lists of objects with these four

The validation set of YouCook2 is the test set here, as everywhere: its test set has no public captions. Clips are called
after their video, "<video>_<number>"; all clips of `valid_videos` training videos are kept for validation.
"""

from dataclasses import dataclass

import numpy as np

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets._files import find_file
from xmbench.datasets._video import (
    CHECKS,
    EVALUATION,
    KINDS,
    MAX_WORDS,
    NUMBERS,
    Part,
    assembled,
    held_out,
    npz_arrays,
    unit,
    word_vectors,
)
from xmbench.types import DataError, Dataset

_FILES = {"youcook_train.pkl": "train.npz", "youcook_val.pkl": "val.npz"}

CARD = Card(
    name="youcook2",
    title="YouCook2, 2D and 3D vectors and captions",
    source="YouCook2, in the files of github.com/antoine77340/howto100m",
    licence="videos belong to their authors: research",
    citation="Zhou, Xu, Corso, Towards Automatic Learning of Procedures from Web Instructional Videos, AAAI 2018; "
    "Miech et al., HowTo100M, ICCV 2019",
    sizes={"train": 8800, "valid": 800, "test": 3350},
    widths={"video": 4096},
    words=2500,
    word_vectors=(MAX_WORDS, 300),
    unverified=("sizes",),
    parameters={"valid_videos": "training videos whose clips make the validation set"},
    parcels=(
        Parcel(
            files=dict.fromkeys(_FILES.values(), ""),
            urls=(EVALUATION,),
            members=dict.fromkeys(_FILES, ""),
            then=tuple(f"xmbench data convert {DOWNLOADS}/{old} youcook2/{new}" for old, new in _FILES.items()),
            note="where the release has no train: github.com/antoine77340/video_feature_extractor out of the videos of "
            "http://youcook2.eecs.umich.edu",
        ),
        word_vectors("youcook2", *(f"youcook2/{new}" for new in _FILES.values())),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    valid_videos: int = 100

    def __post_init__(self) -> None:
        if self.valid_videos < 1:
            raise ValueError(f"youcook2.valid_videos must be 1 or more, got {self.valid_videos}")


def load(parameters: Parameters) -> Dataset:
    """Vectors of clips and word vectors of their captions."""
    whole = _part("train.npz")
    videos, video_of = np.unique([name.rpartition("_")[0] for name in whole.ids], return_inverse=True)
    kept = held_out(CARD, len(videos), parameters.valid_videos, "videos")
    train, valid = (whole.take(np.flatnonzero(np.isin(video_of, some))) for some in kept)
    return assembled(CARD, {"train": train, "valid": valid, "test": _part("val.npz")}, vars(parameters))


def _part(name: str) -> Part:
    path = find_file(CARD, name)
    columns = *KINDS, "caption", "id"
    *kinds, captions, ids = npz_arrays(path, *columns)
    shapes = {column: values.shape for column, values in zip(columns, (*kinds, captions, ids), strict=True)}
    table = all(values.ndim == 2 and values.dtype.kind in NUMBERS for values in kinds)
    text = all(values.ndim == 1 and values.dtype.kind == "U" for values in (captions, ids))
    if not table or not text or len({shape[0] for shape in shapes.values()}) > 1:
        wanted = "2d and 3d (n, d) numbers, caption and id (n,) text, with one row per clip"
        raise DataError(f"{path}: must hold {wanted}, got {shapes}, {', '.join(str(v.dtype) for v in (*kinds, captions, ids))}")
    vectors = np.concatenate([unit(values) for values in kinds], axis=1)
    return Part(str(path), ids.tolist(), vectors, captions.tolist(), np.arange(len(ids)))
