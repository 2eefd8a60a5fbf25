"""MSR-VTT: clips of web videos with 20 captions each, in the files that Miech et al. train and test on.

    train.csv               `video_id` of the training clips
    videodatainfo_2017.json   `sentences`, a list of objects with `video_id` and `caption`
    train_features.npz      see `_video`; out of train_features.pth
    test_sentences.csv      `video_id` and `sentence`: the 1,000 pairs of JSFusion
    test_features.npz       out of features.pth

Every (clip, caption) pair is a pair; the released loader draws one of a clip's captions per epoch. It looks at the test set
after every epoch; here `valid_videos` of the training clips are kept for validation.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets._files import find_file, readable
from xmbench.datasets._video import (
    CHECKS,
    EVALUATION,
    MAX_WORDS,
    Part,
    assembled,
    captioned,
    grouped,
    held_out,
    read_table,
    word_vectors,
)
from xmbench.types import Dataset

_TABLES = {  # file of the release -> as it is called here
    "MSRVTT_train.csv": "train.csv",
    "MSRVTT_data.json": "videodatainfo_2017.json",
    "MSRVTT_JSFUSION_test.csv": "test_sentences.csv",
}
_FEATURES = {"MSRVTT_train.pth": "train_features.npz", "MSRVTT_JSFUSION_test.pth": "test_features.npz"}

CARD = Card(
    name="msrvtt",
    title="MSR-VTT, 2D and 3D vectors and captions",
    source="MSR-VTT 2017, in the files of github.com/antoine77340/howto100m",
    licence="videos belong to their authors: research",
    citation="Xu et al., MSR-VTT: A Large Video Description Dataset for Bridging Video and Language, CVPR 2016; "
    "Miech et al., HowTo100M, ICCV 2019",
    sizes={"train": 6513, "valid": 497, "test": 1000},
    widths={"video": 4096},
    captions=20,
    words=20000,
    word_vectors=(MAX_WORDS, 300),
    unverified=("sizes",),
    parameters={"valid_videos": "clips of train.csv that make the validation set, drawn with all their captions"},
    parcels=(
        Parcel(
            files=dict.fromkeys(_TABLES.values(), ""),
            urls=(EVALUATION,),
            members=_TABLES,
            note="also in https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msrvtt_data.zip, train.csv as "
            "MSRVTT_train.7k.csv (7,010 clips) there",
            dead=("http://ms-multimedia-challenge.com/2017/dataset",),
        ),
        Parcel(
            files=dict.fromkeys(_FEATURES.values(), ""),
            urls=(EVALUATION,),
            members=dict.fromkeys(_FEATURES, ""),
            then=tuple(f"xmbench data convert {DOWNLOADS}/{old} msrvtt/{new}" for old, new in _FEATURES.items()),
            note="where the release has no features of train, compute them by "
            "github.com/antoine77340/video_feature_extractor out of the videos, "
            "https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip",
        ),
        word_vectors("msrvtt", "msrvtt/videodatainfo_2017.json", "msrvtt/test_sentences.csv"),
    ),
    checks=CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    valid_videos: int = 497

    def __post_init__(self) -> None:
        if self.valid_videos < 2:
            raise ValueError(f"msrvtt.valid_videos must be 2 or more, got {self.valid_videos}")


def load(parameters: Parameters) -> Dataset:
    """Vectors of clips and word vectors of their captions; 1,000 clips with a caption each to test on."""
    clips = find_file(CARD, "train.csv")
    sentences = _sentences(find_file(CARD, "videodatainfo_2017.json"))
    names = [name for (name,) in read_table(clips, "video_id")]
    whole = captioned(str(clips), names, sentences, find_file(CARD, "train_features.npz"))
    train, valid = held_out(CARD, len(names), parameters.valid_videos, "clips")
    return assembled(CARD, {"train": whole.take(train), "valid": whole.take(valid), "test": test_part()}, vars(parameters))


def test_part() -> Part:
    """The 1,000 pairs that text-to-video retrieval is measured on."""
    path = find_file(CARD, "test_sentences.csv")
    captions = grouped(read_table(path, "video_id", "sentence"))
    return captioned(str(path), captions, captions, find_file(CARD, "test_features.npz"))


def _sentences(path: Path) -> dict[str, list[str]]:
    with readable(path, "an object with `sentences`, a list of objects with video_id and caption"):
        sentences = json.loads(path.read_bytes())["sentences"]
        return grouped((str(one["video_id"]), str(one["caption"])) for one in sentences)
