"""What is known of a dataset without its files: its card, and where its files are to be had."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DOWNLOADS = "downloads"  # folder of the data root for archives, and for what is to be converted


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Files of a dataset that are had together: where from, and what to do with what one gets.

    Attributes:
        files: name in the dataset's folder -> sha256, "" where it is not known.
        urls: public addresses in the order in which they are tried: of the file, or of an archive where `members` says so.
        members: file in the archive, told by the end of its path -> its name in the dataset's folder; "" for what is to be
            converted, which lies in the folder of downloads.
        then: commands that make the files out of what was downloaded, to be run in the data root.
        size: bytes of the download; 0 where it is not known.
        note: in one line, what to do by hand where there is no address or none answers, and what is known of the files.
        dead: addresses that are known from papers and do not answer any more.
        needed: whether the dataset cannot be read without, at the defaults of its parameters.
    """

    files: Mapping[str, str]
    urls: tuple[str, ...] = ()
    members: Mapping[str, str] = field(default_factory=dict)
    then: tuple[str, ...] = ()
    size: int = 0
    note: str = ""
    dead: tuple[str, ...] = ()
    needed: bool = True

    def __post_init__(self) -> None:
        if not self.files or not (self.urls or self.note):
            raise ValueError(f"a parcel must have files, and addresses or a note, got {self}")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader must know of a dataset: where it is from, under which terms, and how large it is.

    Attributes:
        source: who made it, and out of what.
        sizes: split -> number of items of the first modality; of pairs, unless an item has several captions.
        widths: modality -> features of its vectors, in the dataset's order; empty where a dataset has no vectors.
        regions: regions per image and features of a region; None where images have no regions.
        captions: captions per image.
        words: size of the vocabulary, about; None where texts have no words.
        word_vectors: words per caption and features of a word, where texts are sequences of word vectors; else None.
        folds: test name -> number of folds that "test" is measured in under this name, see `Dataset`.
        classes: number of classes; None where a dataset has no labels.
        multi_label: whether an item may have several classes.
        labels_per_item: average number of classes of an item, about.
        unverified: which facts no publication and no public file states: "sizes", or a modality, for its width. They
            shape the synthetic twin; data of other sizes are accepted.
        parameters: parameter -> one line on what it chooses.
        folder: name of the folder of its files, where it is not the dataset's name.
        parcels: the files; none where a dataset needs no files.
        checks: what the loader refuses in these files.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    sizes: Mapping[str, int]
    widths: Mapping[str, int] = field(default_factory=dict)
    regions: tuple[int, int] | None = None
    captions: int = 1
    words: int | None = None
    word_vectors: tuple[int, int] | None = None
    folds: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    multi_label: bool = False
    labels_per_item: float = 1.0
    unverified: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    parcels: tuple[Parcel, ...] = ()
    checks: str = ""

    @property
    def place(self) -> str:
        """Name of the folder of its files."""
        return self.folder or self.name

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that are needed by default."""
        return tuple(name for parcel in self.parcels if parcel.needed for name in parcel.files)

    @property
    def sha256(self) -> dict[str, str]:
        """File -> its hash, of the files whose hash is known."""
        return {name: sha256 for parcel in self.parcels for name, sha256 in parcel.files.items() if sha256}

    @property
    def downloadable(self) -> bool:
        """Whether the files that are needed by default all have an address."""
        needed = [parcel for parcel in self.parcels if parcel.needed]
        return bool(needed) and all(parcel.urls for parcel in needed)

    def parcel_of(self, file: str) -> Parcel | None:
        """What a file is had with; None where no parcel names it."""
        return next((parcel for parcel in self.parcels if file in parcel.files), None)
