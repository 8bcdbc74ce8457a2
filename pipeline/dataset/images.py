"""Encoded bytes to upright sRGB. Sharding, verification and training decode here, so they agree on every image.

JPEG goes through libjpeg-turbo (simplejpeg), which can decode at 1/2, 1/4 and 1/8 of the size for less of the cost;
everything else, and the rare JPEG it refuses (CMYK), through Pillow. Sizes are checked in the header, before any
pixel is allocated.

An ICC profile is applied here too (colour.py). What `vitstream shard` encodes has none left, so that training pays
nothing; but of shards that keep the bytes of photos (`--as-is`, or tars of others), training then sees the same
colours as if they had been encoded anew.
"""

import io
import warnings
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.dataset.blob import Bytes
from pipeline.dataset.colour import is_srgb, lab_to_srgb, to_srgb
from pipeline.dataset.jpeg import read_markers, with_whole_scan

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked first, with a reason that can be written down
warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged EXIF: nothing that the user of a million images can use

MAX_PIXELS: Final = 100_000_000
FAST_EIGHTHS: Final = (1, 2, 4, 8)  # scales that libjpeg-turbo has vector code for; at 5/8 it is slower than at 8/8
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
_EXIF_ORIENTATION: Final = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF


class ImageError(Exception):
    """An image that cannot be used; the message is the reason, in one line."""


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say. `width` and `height` are those of the upright image."""

    format: str
    width: int
    height: int
    orientation: int  # what is left to do to turn the decoded image upright: EXIF 1..8
    turbo: bool  # libjpeg-turbo can decode it to RGB
    grey: bool = False  # a JPEG of one component
    profile: bytes | None = None  # a JPEG's ICC profile, where it says anything but sRGB
    plain: bool = False  # a JPEG that any decoder shows as we do: baseline, YCbCr or grey, sRGB, upright, one picture

    def as_stored(self) -> "ImageHeader":
        """The same without its orientation: decodes to the picture as it lies in the file."""
        sides = (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)
        return replace(self, width=sides[0], height=sides[1], orientation=1)


def read_header(data: Bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Format, size and orientation of encoded bytes, without decoding.

    Raises:
        ImageError: empty, not an image, a format we do not take, or more than `max_pixels` pixels.
    """
    if not data:
        raise ImageError("empty file")
    return _jpeg_header(data, max_pixels) if data[:2] == b"\xff\xd8" else _pillow_header(bytes(data), max_pixels)


def decode(data: Bytes, header: ImageHeader, min_width: int = 0, min_height: int = 0) -> np.ndarray:
    """Decodes to uint8 [height, width, 3], sRGB, upright.

    With `min_width` and `min_height` a JPEG may come out at 1/2, 1/4 or 1/8 of its size, but not below either.
    Alpha is composited over white; of an animation the first frame is taken, of a TIFF the first page; of 16 bits the
    upper 8 are kept.

    Raises:
        ImageError: truncated or corrupt, in colours of no known meaning, or too large for the memory there is.
    """
    if not header.turbo:
        return _pillow_decode(data, header.orientation)
    if header.orientation >= 5:  # stored on its side
        min_width, min_height = min_height, min_width
    stored = header if header.orientation == 1 else header.as_stored()
    min_width, min_height = _fast_size(stored, min_width, min_height)
    grey = header.grey and header.profile is not None
    try:
        pixels = _turbo_decode(data, "GRAY" if grey else "RGB", min_width, min_height)
        if header.profile is not None:
            pixels = np.asarray(to_srgb(Image.fromarray(pixels[..., 0] if grey else pixels), header.profile))
        return upright(pixels, header.orientation)
    except (ValueError, MemoryError) as error:
        raise _unusable(error) from None


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (CIPA DC-008, table of tag 0x0112) to [height, width, 3]."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _jpeg_header(data: Bytes, max_pixels: int) -> ImageHeader:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageError(f"not a readable JPEG: {_first_line(error)}") from None
    _check_size(width, height, max_pixels)
    markers = read_markers(data)
    grey = colours == "Gray"
    srgb = is_srgb(markers.profile, "L" if grey else "RGB")
    plain = markers.baseline and markers.orientation == 1 and not markers.more_pictures
    if markers.orientation >= 5:
        width, height = height, width
    return ImageHeader(
        "JPEG",
        width,
        height,
        markers.orientation,
        turbo=colours not in ("CMYK", "YCCK"),
        grey=grey,
        profile=None if srgb else markers.profile,
        plain=plain and srgb and (grey or colours == "YCbCr"),
    )


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
    if image.format == "TIFF":  # Pillow turns it itself; its size is the upright one
        return 1
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


def _fast_size(stored: ImageHeader, min_width: int, min_height: int) -> tuple[int, int]:
    """(width, height) at the smallest fast scale that is not below either; its own where it is asked for all of it."""
    if min_width <= 0 and min_height <= 0:
        return stored.width, stored.height
    for eighths in FAST_EIGHTHS:
        width, height = -(-stored.width * eighths // 8), -(-stored.height * eighths // 8)  # rounded up, as the decoder
        if width >= min_width and height >= min_height:
            break
    return width, height


def _turbo_decode(data: Bytes, colours: str, min_width: int, min_height: int) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, colours, min_height=min_height, min_width=min_width)
    except ValueError as error:  # strict: the first thing that is odd, and this one may hide worse
        mended = with_whole_scan(bytes(data)) if "Invalid SOS parameters" in str(error) else None
        if mended is None:
            raise
    return simplejpeg.decode_jpeg(mended, colours, min_height=min_height, min_width=min_width)


def _pillow_decode(data: Bytes, orientation: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return upright(np.asarray(_to_rgb(image)), orientation)
    except ImageError:
        raise
    except Exception as error:
        raise _unusable(error) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB in sRGB. Colours first, then transparency: the white beneath is sRGB's."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        return to_srgb(_upper_8_bits(image), profile).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("its pixels are of 32 bits, of which nobody says what is white; save it with 8 or 16")
    if image.mode == "LAB":
        return lab_to_srgb(image)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La")
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGBA"))
        alpha = straight.getchannel("A")
        image = to_srgb(straight.convert("L" if grey else "RGB"), profile).convert("RGB")
        image.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode not in ("L", "RGB", "CMYK"):  # one bit, palettes, YCbCr
        image = image.convert("RGB")
    return to_srgb(image, profile).convert("RGB")


def _upper_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow itself would clip to white, to 8. A TIFF may hold 12 of them, or black as the most."""
    tags = getattr(image, "tag_v2", {})
    (bits, *_) = tags.get(_BITS_PER_SAMPLE, (16,))
    grey = (np.asarray(image).astype(np.uint16) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)


def _unusable(error: Exception) -> ImageError:
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return ImageError("too large for the memory that an image may take")
    return ImageError(f"corrupt or truncated: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" <_io.")[0]
