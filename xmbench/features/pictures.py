"""Images of every kind as RGB on white."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

DECODED = "RGB on white, turned as its EXIF data say"


class BrokenPictureError(Exception):
    """An image that cannot be used: why."""


def read_picture(path: Path, sha256: bytes) -> "Image":
    """The image in a file.

    Raises:
        BrokenPictureError: it is gone, is another one than was imported, or cannot be decoded.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenPictureError(error.strerror or str(error)) from None
    if hashlib.sha256(content).digest() != sha256:
        raise BrokenPictureError("another image than was imported")
    try:
        return decoded(content)
    except Exception as error:  # decoders raise many kinds for damaged files
        raise BrokenPictureError(str(error)[:100] or type(error).__name__) from None


def decoded(content: bytes) -> "Image":
    """An image file as RGB: turned as its EXIF data say, transparent parts white, 16 bits to 8; of an animation the first."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of odd metadata
        with Image.open(io.BytesIO(content)) as file:
            image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits, which some formats hold in 32
        image = Image.fromarray((np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
