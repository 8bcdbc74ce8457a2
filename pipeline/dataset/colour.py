"""Colours as the web and every data set understand them: sRGB.

A picture's ICC profile says what its numbers mean. Nearly always that is sRGB; then there is nothing to do, and finding
it out costs a look into a table. Photos of phones (Display P3), of cameras set to Adobe RGB, and prints (CMYK) are
converted, so that the same colour has the same numbers in every image. A profile that is damaged, or meant for
another kind of picture, is ignored, as every viewer does.
"""

import io
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES: Final = 4 * 2**20  # those of the largest printing processes have 2 to 3 MB
_KINDS: Final = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}
# Of the numbers of sRGB's own profiles, of which there are several, rounded differently: none is seen.
_TOLERANCE: Final = 2
_SRGB: Final = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB, L or CMYK image, whose numbers mean what `profile` says, as RGB or L in sRGB.

    Relative to the medium's white, black on black; a colour that sRGB does not have becomes the nearest that it has.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode in ("RGB", "L") else image.convert("RGB")


def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether `to_srgb` would leave an image of that mode as it is."""
    return not profile or _transform(profile, mode) is None


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """CIE L*a*b* (D50) to sRGB."""
    lab = ImageCms.createProfile("LAB")
    return _build(ImageCms.ImageCmsProfile(lab), "LAB").apply(image)


@lru_cache(maxsize=32)  # most corpora hold a handful
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None: there is nothing to convert."""
    if len(profile) > MAX_PROFILE_BYTES or profile[16:20] != _KINDS.get(mode):
        return None
    try:
        transform = _build(ImageCms.ImageCmsProfile(io.BytesIO(profile)), mode)
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _build(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        profile,
        _SRGB,
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a grid of all colours comes out as it went in: what a profile does counts, not what it is called."""
    steps = np.arange(0, 256, 15 if mode == "RGB" else 1, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    after = np.asarray(transform.apply(Image.fromarray(grid))).astype(int)
    before = grid if mode == "RGB" else grid[..., None]
    return bool(np.abs(after - before).max() <= _TOLERANCE)
