"""One image on its way into a shard: checked, turned upright, made smaller, encoded. Or why not."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from data_prep.names import to_bytes
from data_prep.options import Options
from data_prep.sources.folder import SourceImage
from pipeline.dataset.images import ImageError, decode, read_header

cv2.setNumThreads(1)  # one process per core already; and a result must not depend on a thread count

MAX_FILE_BYTES: Final = 512 * 2**20
_SUFFIXES: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class EncodedImage:
    """An image as it goes into the tar. `width` and `height` are those of the upright image."""

    data: bytes
    suffix: str
    width: int
    height: int


def read_source(root: Path, image: SourceImage) -> bytes:
    """A listed file's bytes.

    Raises:
        ImageError: it cannot be read, is no regular file, too large, or not as it was listed.
    """
    path = os.fsencode(root) + b"/" + to_bytes(image.path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe must not wait for a writer
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"too large: {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
            if status.st_size != image.bytes:
                raise ImageError(f"changed since it was listed: from {image.bytes:,} to {status.st_size:,} bytes")
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def encode(data: bytes, options: Options) -> EncodedImage:
    """What goes into the tar for a file's bytes. Raises ImageError where it is no image that can be used."""
    if options.as_is:
        return _keep(data, options.max_pixels)
    header = read_header(data, options.max_pixels)
    width, height = fit(header.width, header.height, options.size)
    pixels = decode(data, header, min_width=width, min_height=height)
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    try:
        jpeg = simplejpeg.encode_jpeg(pixels, options.quality, "RGB", "420", fastdct=False)
    except ValueError as error:  # JPEG's sides end at 65,500 pixels
        raise ImageError(f"cannot be encoded as JPEG: {width} x {height} pixels ({error})") from None
    return EncodedImage(jpeg, "jpg", width, height)


def fit(width: int, height: int, size: int | None) -> tuple[int, int]:
    """The size at which the shorter side has `size` pixels, to the nearest pixel; never larger than it was."""
    shorter = min(width, height)
    if size is None or shorter <= size:
        return width, height
    return tuple((2 * side * size + shorter) // (2 * shorter) for side in (width, height))  # type: ignore[return-value]


def _keep(data: bytes, max_pixels: int) -> EncodedImage:
    """The bytes themselves, once they have been decoded to see that they can be; a GIF's first frame as PNG."""
    header = read_header(data, max_pixels)
    pixels = decode(data, header, min_width=1, min_height=1)  # at 1/8: every byte is parsed all the same
    if header.format in _SUFFIXES:
        return EncodedImage(data, _SUFFIXES[header.format], header.width, header.height)
    return EncodedImage(_png(pixels), "png", header.width, header.height)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
