"""Encoded bytes to upright RGB. Sharding, verification and training decode here, so they agree on every image.

JPEG goes through libjpeg-turbo (simplejpeg), which can decode at k/8 of the size for a fraction of the cost;
everything else, and the rare JPEG it refuses (CMYK), through Pillow. Sizes are checked in the header, before any
pixel is allocated.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked first, with a reason that can be written down
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged EXIF: nothing that the user of a million images can use

MAX_PIXELS: Final = 100_000_000
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
_EXIF_ORIENTATION: Final = 0x0112


class ImageError(Exception):
    """An image that cannot be used; the message is the reason, in one line."""


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say. `width` and `height` are those of the upright image."""

    format: str
    width: int
    height: int
    orientation: int  # EXIF 1..8: what turns the stored image upright
    turbo: bool  # libjpeg-turbo can decode it to RGB


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Format, size and orientation of encoded bytes, without decoding.

    Raises:
        ImageError: empty, not an image, a format we do not take, or more than `max_pixels` pixels.
    """
    if not data:
        raise ImageError("empty file")
    return _jpeg_header(data, max_pixels) if data[:2] == b"\xff\xd8" else _pillow_header(data, max_pixels)


def decode(data: bytes, header: ImageHeader, min_width: int = 0, min_height: int = 0) -> np.ndarray:
    """Decodes to uint8 [height, width, 3], RGB, upright.

    With `min_width` and `min_height` a JPEG may come out smaller, by a factor of k/8, but not below either.
    Alpha is composited over white; of an animation the first frame is taken; 16-bit grey keeps its high byte.

    Raises:
        ImageError: truncated or corrupt.
    """
    if not header.turbo:
        return _pillow_decode(data, header.orientation)
    if header.orientation >= 5:  # stored on its side
        min_width, min_height = min_height, min_width
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=min_height, min_width=min_width)
    except ValueError as error:
        raise ImageError(f"corrupt or truncated: {_first_line(error)}") from None
    return _upright(pixels, header.orientation)


def _jpeg_header(data: bytes, max_pixels: int) -> ImageHeader:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageError(f"not a readable JPEG: {_first_line(error)}") from None
    _check_size(width, height, max_pixels)
    # The APP1 segment comes first in every file that has one; Pillow parses it only where it is there.
    orientation = 1
    if b"Exif\0\0" in data[:65536]:
        orientation = _pillow_header(data, max_pixels).orientation
    if orientation >= 5:
        width, height = height, width
    turbo = colorspace not in ("CMYK", "YCCK")
    return ImageHeader("JPEG", width, height, orientation, turbo)


def _pillow_header(data: bytes, max_pixels: int) -> ImageHeader:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            orientation = _orientation(image, data)
            if orientation >= 5:
                width, height = height, width
            return ImageHeader(image.format or "", width, height, orientation, turbo=False)
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise ImageError(f"not an image: {_first_line(error)}") from None


def _orientation(image: Image.Image, data: bytes) -> int:
    # Asked for the EXIF of a PNG, Pillow decodes all of it, as the chunk may come last: only where there is one.
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type exif" not in data:
        return 1
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not make the picture unusable
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, the limit is {max_pixels:,} in all")


def _pillow_decode(data: bytes, orientation: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return _upright(np.asarray(_to_rgb(image)), orientation)
    except Exception as error:
        raise ImageError(f"corrupt or truncated: {_first_line(error)}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it to white instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (CIPA DC-008, table of tag 0x0112) to [height, width, 3]."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" <_io.")[0]
