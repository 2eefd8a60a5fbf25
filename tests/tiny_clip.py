"""Random weights of a small CLIP under the names of the released checkpoints, and files of them."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from xmbench import Rows

_FOLDER = tempfile.TemporaryDirectory()  # gone when the tests end


def weights(seed=0, *, width=32, layers=1, dim=32, kernel=(32, 1, 1), patches=4, words=64, context=10):
    """Name -> float32 array; by default for the regions and words of `synthetic` with four regions."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else width)).astype(np.float32)

    made = {
        "visual.class_embedding": normal(width),
        "visual.positional_embedding": normal(patches + 1, width),
        "visual.conv1.weight": normal(width, *kernel) * np.float32(kernel[-1] ** 0.5 / np.prod(kernel) ** 0.5),
        "visual.proj": normal(width, dim),
        "token_embedding.weight": normal(words, width),
        "positional_embedding": normal(context, width) * np.float32(0.1),
        "text_projection": normal(width, dim),
        "logit_scale": np.float32(np.log(5)),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for prefix in ("visual.transformer", "transformer"):
        for block in (f"{prefix}.resblocks.{i}" for i in range(layers)):
            made[f"{block}.attn.in_proj_weight"] = normal(3 * width, width)
            made[f"{block}.attn.in_proj_bias"] = normal(3 * width)
            for name, shape in (
                ("attn.out_proj", (width, width)),
                ("mlp.c_fc", (4 * width, width)),
                ("mlp.c_proj", (width, 4 * width)),
            ):
                made[f"{block}.{name}.weight"], made[f"{block}.{name}.bias"] = normal(*shape), normal(shape[0])
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
    for name in norms:
        made[f"{name}.weight"], made[f"{name}.bias"] = 1 + normal(width), normal(width)
    return {name: np.asarray(value, dtype=np.float32) for name, value in made.items()}


@cache
def checkpoint(seed=0, **shape):
    """Path of a file with the weights of this seed and shape."""
    path = Path(_FOLDER.name) / f"clip{seed}-{len(list(Path(_FOLDER.name).iterdir()))}.npz"
    np.savez(path, **weights(seed, **shape))
    return str(path)


def in_one_space(dataset):
    """The dataset with vectors of every modality that are those of the first, and noise."""

    def with_shared(split):
        first = np.asarray(split.modalities[0].vectors)
        noise = np.random.default_rng(len(first)).standard_normal((len(split.modalities), *first.shape), dtype=np.float32)
        sides = zip(split.modalities, noise, strict=True)
        return replace(split, modalities=tuple(replace(m, vectors=Rows(first + 0.5 * part)) for m, part in sides))

    train, valid = with_shared(dataset.train), with_shared(dataset.valid)
    return replace(dataset, train=train, valid=valid, tests={name: with_shared(test) for name, test in dataset.tests.items()})
