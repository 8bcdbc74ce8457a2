"""Every kind of picture becomes upright RGB: against references computed from the pixels that were put in."""

import io

import numpy as np
import pytest
from PIL import Image

from data_prep.options import Options
from data_prep.shards.images import encode
from pipeline.dataset.images import ImageError
from tests.formats import deep_png, deep_tiff, tiled_tiff
from tests.images import photo

pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings(r"ignore:.*:UserWarning:PIL")]

WIDTH, HEIGHT = 96, 64
RGB = photo(WIDTH, HEIGHT, seed=3)
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
HIGH = Options(quality=98, keep_small=False)
# Storing the upright picture like this and tagging it so shows it upright (CIPA DC-008, tag 0x0112).
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def assert_close(encoded, expected, mean=3.0):
    """The encoded image, decoded by Pillow, is `expected` up to what JPEG loses."""
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert image.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[encoded.suffix]
        assert image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1
        pixels = np.asarray(image).astype(int)
    assert (encoded.width, encoded.height) == pixels.shape[1::-1]
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < mean


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(64)


def alpha() -> np.ndarray:
    return np.linspace(0, 255, WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, axis=0)


def over_white(rgb: np.ndarray) -> np.ndarray:
    share = alpha()[..., None] / 255
    return rgb * share + 255 * (1 - share)


def transparent_palette() -> bytes:
    image = Image.fromarray(np.where(GREY > 128, 1, 0).astype(np.uint8), mode="P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    return saved(image, "PNG", transparency=1)


CASES = {
    "rgb jpeg": (saved(Image.fromarray(RGB), "JPEG", quality=98), RGB),
    "progressive jpeg": (saved(Image.fromarray(RGB), "JPEG", quality=98, progressive=True), RGB),
    "grey jpeg": (saved(Image.fromarray(GREY), "JPEG", quality=98), three(GREY)),
    "cmyk jpeg": (saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98), RGB),
    "rgb png": (saved(Image.fromarray(RGB), "PNG"), RGB),
    "grey png": (saved(Image.fromarray(GREY), "PNG"), three(GREY)),
    "one-bit png": (saved(Image.fromarray(GREY > 128), "PNG"), three(255 * (GREY > 128))),
    "16-bit grey png": (saved(Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "PNG"), three(GREY)),
    "palette png": (saved(palette(), "PNG"), np.asarray(palette().convert("RGB"))),
    "palette png with a clear colour": (
        transparent_palette(), np.where(GREY[..., None] > 128, 255, [255, 0, 0]),
    ),
    "alpha png": (saved(Image.fromarray(np.dstack([RGB, alpha()])), "PNG"), over_white(RGB)),
    "grey alpha png": (
        saved(Image.fromarray(np.dstack([GREY, alpha()]), mode="LA"), "PNG"), over_white(three(GREY)),
    ),
    "webp": (saved(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "alpha webp": (
        saved(Image.fromarray(np.dstack([RGB, alpha()])), "WEBP", lossless=True, exact=True), over_white(RGB),
    ),
    "gif": (saved(palette(), "GIF"), np.asarray(palette().convert("RGB"))),
    "animated gif": (
        saved(palette(), "GIF", save_all=True, append_images=[Image.new("P", (WIDTH, HEIGHT))]),
        np.asarray(palette().convert("RGB")),
    ),
    "rgb tiff": (saved(Image.fromarray(RGB), "TIFF"), RGB),
    "lzw tiff": (saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
    "deflate tiff": (saved(Image.fromarray(RGB), "TIFF", compression="tiff_adobe_deflate"), RGB),
    "jpeg tiff": (saved(Image.fromarray(RGB), "TIFF", compression="jpeg", quality=98), RGB),
    "tiled tiff": (tiled_tiff(RGB), RGB),
    "cmyk tiff": (saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB),
    "alpha tiff": (saved(Image.fromarray(np.dstack([RGB, alpha()])), "TIFF"), over_white(RGB)),
    "grey tiff": (saved(Image.fromarray(GREY), "TIFF"), three(GREY)),
    "16-bit grey tiff": (saved(Image.fromarray(GREY.astype(np.uint16) * 256 + 77), "TIFF"), three(GREY)),
    "16-bit rgb tiff": (deep_tiff(RGB, 16, 2), RGB),
    "12-bit grey tiff": (deep_tiff(GREY[..., None], 12, 1), three(GREY)),
    "16-bit grey tiff with white as zero": (deep_tiff(255 - GREY[..., None], 16, 0), three(GREY)),
    "one-bit fax tiff": (saved(Image.fromarray(GREY > 128), "TIFF", compression="group4"), three(255 * (GREY > 128))),
    "tiff of pages": (
        saved(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]), RGB,
    ),
    "rgb bmp": (saved(Image.fromarray(RGB), "BMP"), RGB),
    "32-bit bmp": (saved(Image.fromarray(RGB).convert("RGBA"), "BMP"), RGB),
    "one-bit bmp": (saved(Image.fromarray(GREY > 128), "BMP"), three(255 * (GREY > 128))),
    "palette bmp": (saved(palette(), "BMP"), np.asarray(palette().convert("RGB"))),
    "16-bit rgb png": (deep_png(RGB), RGB),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_mode_becomes_rgb(name):
    data, expected = CASES[name]
    hard_edges = any(word in name for word in ("one-bit", "palette", "gif"))  # of which 4:2:0 keeps less
    assert_close(encode(data, HIGH), expected, mean=8 if hard_edges else 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(form, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    assert_close(encode(saved(stored, form, exif=exif, **options), HIGH), RGB)


def test_jpegs_are_baseline_420():
    data = encode(CASES["progressive jpeg"][0], Options()).data
    assert b"\xff\xc0" in data and b"\xff\xc2" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.layer[0][1:3] == (2, 2) and image.layer[1][1:3] == (1, 1)


@pytest.mark.parametrize("as_is", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_truncated_is_an_error(name, as_is):
    data = CASES[name][0]
    if name == "animated gif":
        data = CASES["gif"][0]  # cut in the second frame, the first is still whole
    if name == "tiff of pages":
        data = CASES["rgb tiff"][0]
    with pytest.raises(ImageError):
        encode(data[: len(data) // 2], Options(as_is=as_is))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_which_nobody_says_what_is_white_are_an_error(mode):
    with pytest.raises(ImageError, match="32 bits, of which nobody says what is white"):
        encode(saved(Image.new(mode, (8, 8)), "TIFF"), Options())


def test_sides_that_no_jpeg_can_have_are_an_error():
    with pytest.raises(ImageError, match="cannot be encoded as JPEG: 70000 x 1 pixels"):
        encode(saved(Image.new("RGB", (70_000, 1)), "PNG"), Options())
