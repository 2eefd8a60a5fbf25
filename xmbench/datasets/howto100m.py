"""HowTo100M: clips of narrated videos, each with what is said in it; about half of the pairs do not match. Tested on MSR-VTT.

    HowTo100M.csv           `video_id`, and `path` of the video's features below features_2d and features_3d
    captions.json           video_id -> `start` and `end` in seconds and `text`, lists; converted from the pickle
    features_2d/<path>      (time, d) .npy, one row per second
    features_3d/<path>      (time, d') .npy, 1.5 rows per second

The paper's 136 million clips are more than memory holds: `train_videos` are drawn, with all their clips.

A line of a video's captions is a clip: lines before or behind it are joined to it, the shorter extension first, until it lasts
`min_time` seconds. Its vectors are the maxima over [start rate, end rate] of the features, each of unit length; they are
zeros where the features end before. Vectors are read when they are asked for.

Checked against antoine77340/howto100m, youtube_dataloader.py. It draws a line of a video at random, here each is a pair; and it
puts lines from before a clip behind its own, which tells only in clips that are cut to 20 words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from xmbench.cards import DOWNLOADS, Card, Parcel
from xmbench.datasets import msrvtt
from xmbench.datasets._files import find_file
from xmbench.datasets._video import CHECKS, KINDS, MAX_WORDS, Part, assembled, held_out, read_table, unit, word_vectors
from xmbench.types import Array, DataError, Dataset, stream

LATEST = 1e9  # seconds
_RELEASE = "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/HowTo100M.zip"
RATES = {"2d": 1.0, "3d": 24.0 / 16.0}  # features per second

CARD = Card(
    name="howto100m",
    title="HowTo100M, 2D and 3D vectors and narration; tested on MSR-VTT",
    source="HowTo100M, in the files of github.com/antoine77340/howto100m; tested on those of msrvtt",
    licence="videos belong to their authors: research",
    citation="Miech et al., HowTo100M: Learning a Text-Video Embedding by Watching Hundred Million Narrated Video Clips, "
    "ICCV 2019",
    sizes={"train": 110000, "valid": 11000, "test": 1000},
    widths={"video": 4096},
    words=50000,
    word_vectors=(MAX_WORDS, 300),
    unverified=("sizes",),
    parameters={
        "train_videos": "videos to learn from, of about 110 clips, drawn, small draws part of larger ones; 0: all 1.2 million",
        "valid_videos": "videos whose clips make the validation set",
        "min_time": "seconds that a clip lasts at least, where the video has as much text",
    },
    parcels=(
        Parcel(
            files={"captions.json": ""},
            urls=(_RELEASE,),
            members={"caption.pickle": ""},
            then=(f"xmbench data convert {DOWNLOADS}/caption.pickle howto100m/captions.json",),
        ),
        Parcel(
            files={"HowTo100M.csv": "", "features_2d": "", "features_3d": ""},
            note=f"HowTo100M.csv is HowTo100M_v1.csv of {_RELEASE} with a further column `path`, a .npy file of every video "
            "below the folders features_2d and features_3d: compute these by github.com/antoine77340/video_feature_extractor "
            "out of the videos, for which https://www.di.ens.fr/willow/research/howto100m has a form",
        ),
        word_vectors("howto100m", "howto100m/captions.json", "msrvtt/test_sentences.csv"),
    ),
    checks=f"paths stay inside the folders, and no text ends before its start; {CHECKS}",
)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """See `CARD.parameters`."""

    train_videos: int = 1000
    valid_videos: int = 100
    min_time: float = 5.0

    def __post_init__(self) -> None:
        if self.train_videos < 0 or self.valid_videos < 1 or self.min_time < 0:
            got = f"{self.train_videos}, {self.valid_videos} and {self.min_time}"
            raise ValueError(
                f"howto100m.train_videos must be 0 (all) or more, valid_videos above 0, min_time 0 or more, got {got}"
            )


class ClipRows:
    """Vectors (n, d) of clips out of the features of their videos, read when they are asked for.

    Args:
        files: per video, its file of every kind.
        widths: features of every kind.
        video_of: (n,) number of the video of every clip.
        spans: (n, 2) start and end in seconds.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, files: Sequence[Sequence[Path]], widths: Sequence[int], video_of: Array, spans: Array) -> None:
        self._files, self._widths, self._video_of, self._spans = files, widths, video_of, spans
        self.shape = (len(spans), sum(widths))

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors = np.zeros((len(numbers), self.shape[1]), dtype=np.float32)
        for video in np.unique(self._video_of[numbers]):
            mine = np.flatnonzero(self._video_of[numbers] == video)
            spans, begin = self._spans[numbers[mine]], 0
            for kind, path, width in zip(KINDS, self._files[video], self._widths, strict=True):
                vectors[mine, begin : begin + width] = _maxima(read_video(path, width), spans * RATES[kind])
                begin += width
        return vectors


def read_video(path: Path, width: int | None = None) -> Array:
    """Features (time, width) of a video, memory-mapped."""
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(
            f"{path}: every video must have features of both kinds, {' and '.join(KINDS)}; it has not these"
        ) from None
    except Exception as error:  # NumPy raises many kinds for a damaged file, all with the same remedy
        raise DataError(f"{path}: must be a whole .npy file of numbers ({error}); extract it again") from None
    if features.ndim != 2 or features.dtype.kind != "f" or width not in (None, features.shape[1]):
        wanted = "(time, d)" if width is None else f"(time, {width}), as in other videos,"
        raise DataError(f"{path}: must be {wanted} numbers, got {features.dtype} {features.shape}")
    return np.asarray(features)


def _maxima(features: Array, spans: Array) -> NDArray[np.float32]:
    """Unit maxima (n, d) of features (time, d) over [start, end] of spans (n, 2), both in rows and rounded down."""
    parts = [features[start : end + 1] for start, end in spans.astype(np.int64)]
    zeros = np.zeros(features.shape[1], dtype=np.float32)
    return unit(np.stack([part.max(axis=0) if len(part) else zeros for part in parts]))


def load(parameters: Parameters) -> Dataset:
    """Vectors of clips and word vectors of what is said in them."""
    listed = read_table(find_file(CARD, "HowTo100M.csv"), "video_id", "path")
    train, valid = held_out(CARD, len(listed), parameters.valid_videos, "videos")
    if parameters.train_videos:
        train = np.sort(stream("howto100m", "train_videos").permutation(train)[: parameters.train_videos])
    captions = _captions(find_file(CARD, "captions.json"))
    folders = [find_file(CARD, f"features_{kind}") for kind in KINDS]
    parts = {
        split: _part(split, [listed[i] for i in videos], captions, folders, parameters.min_time)
        for split, videos in (("train", train), ("valid", valid))
    }
    return assembled(CARD, {**parts, "test": msrvtt.test_part()}, vars(parameters))


def _captions(path: Path) -> dict[str, dict[str, list[Any]]]:
    try:
        captions: dict[str, dict[str, list[Any]]] = json.loads(path.read_bytes())
        for name, lines in captions.items():
            _check_lines(path, name, *(lines[key] for key in ("start", "end", "text")))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        wanted = "an object of objects with the lists start, end and text"
        raise DataError(f"{path}: must be {wanted} ({error!r}); convert it again by `xmbench data convert`") from None
    return captions


def _check_lines(path: Path, video: str, starts: list[Any], ends: list[Any], texts: list[Any]) -> None:
    """The lines of a video must be text from a second to a later one."""
    if not all(isinstance(values, list) for values in (starts, ends, texts)) or not len(starts) == len(ends) == len(texts):
        raise DataError(f"{path}: start, end and text must be lists of one length, got others of video {video!r}")
    for start, end, text in zip(starts, ends, texts, strict=True):
        seconds = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (start, end))
        if not seconds or not 0 <= start <= end <= LATEST:
            got = f"{start!r:.40} and {end!r:.40} in video {video!r}"
            raise DataError(f"{path}: start and end must be seconds from 0, the end not before the start, got {got}")
        if not isinstance(text, str | int | float):
            raise DataError(f"{path}: text must be a list of texts, got {text!r:.40} in video {video!r}")


def _part(
    split: str, videos: Sequence[Sequence[str]], captions: Mapping[str, Any], folders: Sequence[Path], min_time: float
) -> Part:
    """The clips of videos (video_id, path): one per line of their captions."""
    ids, texts, video_of, spans = [], [], [], []
    for number, (name, _) in enumerate(videos):
        lines = captions.get(name, {"text": []})
        if not lines["text"]:
            raise DataError(f"{CARD.name}: every video must have captions, got none of {name!r}; take it out of the CSV file")
        for i in range(len(lines["text"])):
            first, last = extended(lines["start"], lines["end"], i, min_time)
            ids.append(f"{name}_{i}")
            texts.append(" ".join(map(str, lines["text"][first : last + 1])))
            video_of.append(number)
            spans.append((lines["start"][first], lines["end"][last]))
    files = [[_inside(folder, path) for folder in folders] for _, path in videos]
    if missing := next((path for paths in files for path in paths if not path.exists()), None):
        read_video(missing)
    widths = [read_video(path).shape[1] for path in files[0]]
    rows = ClipRows(files, widths, np.array(video_of), np.array(spans, dtype=np.float64))
    return Part(f"{CARD.name}/{split}", ids, cast(Array, rows), texts, np.arange(len(ids)))


def _inside(folder: Path, name: str) -> Path:
    """The file of a name, which must not lead out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{CARD.name}: every path in HowTo100M.csv must lie inside {folder}, got {name!r}; get it again")
    return folder / name


def extended(starts: Sequence[float], ends: Sequence[float], i: int, min_time: float) -> tuple[int, int]:
    """First and last line of the clip around line i: it grows to the side that adds less until it lasts `min_time`."""
    first, last = i, i
    while ends[last] - starts[first] < min_time and (first > 0 or last < len(ends) - 1):
        if last == len(ends) - 1:
            first -= 1
        elif first == 0 or ends[last + 1] - starts[first] < ends[last] - starts[first - 1]:
            last += 1
        else:
            first -= 1
    return first, last
