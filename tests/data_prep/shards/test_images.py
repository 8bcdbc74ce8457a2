"""Every kind of picture becomes upright RGB: against references computed from the pixels that were put in."""

import io

import numpy as np
import pytest
from PIL import Image

from data_prep.options import Options
from data_prep.shards.images import encode, fit
from pipeline.dataset.images import ImageError
from tests.images import photo

pytestmark = pytest.mark.fast

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
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_mode_becomes_rgb(name):
    data, expected = CASES[name]
    hard_edges = any(word in name for word in ("one-bit", "palette", "gif"))  # of which 4:2:0 keeps less
    assert_close(encode(data, HIGH), expected, mean=8 if hard_edges else 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(form, {})
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](RGB)))
    assert_close(encode(saved(stored, form, exif=exif, **options), HIGH), RGB)


@pytest.mark.parametrize("size", [(1000, 700), (700, 1000), (64, 2000)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_shrinking_keeps_the_picture_and_its_shape(size, orientation):
    pixels = photo(*size, seed=5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    encoded = encode(saved(stored, "JPEG", quality=95, exif=exif), Options(size=48, quality=98))
    width, height = (round(side * 48 / min(size)) for side in size)
    assert_close(encoded, np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)))


def test_size_of_the_shorter_side():
    assert fit(500, 375, 256) == (341, 256) and fit(375, 500, 256) == (256, 341)
    assert fit(300, 200, 256) == (300, 200) and fit(300, 200, None) == (300, 200)
    assert fit(4, 3, 2) == (3, 2)  # 2.67 to the nearest
    assert fit(5, 2, 1) == (3, 1)  # 2.5 upwards, as everybody but Python rounds
    assert fit(10_000, 3, 2) == (6667, 2)


def test_jpegs_are_baseline_420():
    data = encode(CASES["progressive jpeg"][0], Options()).data
    assert b"\xff\xc0" in data and b"\xff\xc2" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.layer[0][1:3] == (2, 2) and image.layer[1][1:3] == (1, 1)


@pytest.mark.parametrize("name", ["rgb jpeg", "cmyk jpeg", "16-bit grey png", "webp"])
def test_as_is_keeps_the_bytes_and_names_them_by_what_they_are(name):
    data = CASES[name][0]
    encoded = encode(data, Options(as_is=True))
    assert encoded.data == data and (encoded.width, encoded.height) == (WIDTH, HEIGHT)
    assert encoded.suffix == {"jpeg": "jpg", "png": "png", "webp": "webp"}[name.split()[-1]]


def test_as_is_turns_a_gif_into_a_png_of_its_first_frame():
    data, expected = CASES["animated gif"]
    encoded = encode(data, Options(as_is=True))
    assert encoded.suffix == "png"
    assert_close(encoded, expected, mean=1e-9)


@pytest.mark.parametrize("as_is", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_truncated_is_an_error(name, as_is):
    data = CASES[name][0]
    if name == "animated gif":
        data = CASES["gif"][0]  # cut in the second frame, the first is still whole
    with pytest.raises(ImageError):
        encode(data[: len(data) // 2], Options(as_is=as_is))


def test_sides_that_no_jpeg_can_have_are_an_error():
    with pytest.raises(ImageError, match="cannot be encoded as JPEG: 70000 x 1 pixels"):
        encode(saved(Image.new("RGB", (70_000, 1)), "PNG"), Options())
