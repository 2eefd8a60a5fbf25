"""LSMDC: clips of films with one description each, in the files that Miech et al. train and test on.

    train.csv, valid.csv, test.csv      tab-separated without a header: the clip's id first, its sentence sixth
    train_features.npz and so on        see `_video`; out of train_features.pth, val_features.pth and retrieval_features.pth

They are LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and LSMDC16_challenge_1000_publictect.csv of the release. Where the
test file has more clips than the 1,000 of the challenge, as many are drawn, the same ones in every run; the released training
script draws them by the seed of the run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets._files import find_file
from xmbench.datasets._video import CHECKS, EVALUATION, MAX_WORDS, Part, assembled, captioned, grouped, word_vectors
from xmbench.datasets._vocabulary import read_lines
from xmbench.types import DataError, Dataset, stream

_SPLITS = ("train", "valid", "test")
_FEATURES = {"LSMDC_train.pth": "train_features.npz", "LSMDC_test.pth": "test_features.npz"}
_ID, _SENTENCE = 0, 5  # columns

CARD = Card(
    name="lsmdc",
    title="LSMDC, 2D and 3D vectors and descriptions",
    source="LSMDC 2016, in the files of github.com/antoine77340/howto100m",
    licence="films belong to their owners: research, on request",
    citation="Rohrbach et al., Movie Description, IJCV 2017; Miech et al., HowTo100M, ICCV 2019",
    sizes={"train": 101046, "valid": 7408, "test": 1000},
    widths={"video": 4096},
    words=20000,
    word_vectors=(MAX_WORDS, 300),
    unverified=("sizes",),
    parameters={"test_clips": "clips of the test file that are measured; 0: all"},
    parcels=(
        Parcel(
            files={f"{split}.csv": "" for split in _SPLITS},
            note="ask for a name and a password at https://sites.google.com/site/describingmovies and take "
            "LSMDC16_annos_training.csv, LSMDC16_annos_val.csv and LSMDC16_challenge_1000_publictect.csv of lsmdc2016 for "
            "train.csv, valid.csv and test.csv",
        ),
        Parcel(
            files=dict.fromkeys(_FEATURES.values(), ""),
            urls=(EVALUATION,),
            members=dict.fromkeys(_FEATURES, ""),
            then=tuple(f"xmbench data convert {DOWNLOADS}/{old} lsmdc/{new}" for old, new in _FEATURES.items()),
            note="where the release has no features of train, compute them by github.com/antoine77340/video_feature_extractor",
        ),
        Parcel(
            files={"valid_features.npz": ""},
            note="the released command line names none any more: val_features.pth of an earlier release, or compute them by "
            "github.com/antoine77340/video_feature_extractor, and then xmbench data convert val_features.pth "
            "valid_features.npz",
        ),
        word_vectors("lsmdc", *(f"lsmdc/{split}.csv" for split in _SPLITS)),
    ),
    checks=f"six columns in every line; {CHECKS}",
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    test_clips: int = 1000

    def __post_init__(self) -> None:
        if self.test_clips < 0 or self.test_clips == 1:
            raise ValueError(f"lsmdc.test_clips must be 0 (all), or 2 or more, got {self.test_clips}")


def load(parameters: Parameters) -> Dataset:
    """Vectors of clips and word vectors of their descriptions."""
    parts = {split: _part(split) for split in _SPLITS}
    n = len(parts["test"].ids)
    drawn = np.sort(stream("lsmdc", "test_clips").permutation(n)[: parameters.test_clips or n])
    return assembled(CARD, {**parts, "test": parts["test"].take(drawn)}, vars(parameters))


def _part(split: str) -> Part:
    path = find_file(CARD, f"{split}.csv")
    captions = grouped(_rows(path))
    return captioned(str(path), captions, captions, find_file(CARD, f"{split}_features.npz"))


def _rows(path: Path) -> list[tuple[str, str]]:
    rows = []
    for i, line in enumerate(read_lines(path)):
        columns = line.split("\t")  # a quotation mark is a character like any other
        if len(columns) <= _SENTENCE:
            got = f"{len(columns)} in line {i + 1}"
            raise DataError(f"{path}: every line must have {_SENTENCE + 1} columns with tabs between them, got {got}")
        rows.append((columns[_ID], columns[_SENTENCE]))
    return rows
