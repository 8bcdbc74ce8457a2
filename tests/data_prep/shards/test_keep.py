"""Bytes that are kept: because nothing needs a change, or because the user wants them as they are."""

import pytest
from PIL import Image

from data_prep.options import Options
from data_prep.shards.images import encode
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import ImageError
from tests.data_prep.shards.test_images import CASES, HEIGHT, RGB, WIDTH, assert_close, saved
from tests.profiles import rgb_profile, srgb_profile

pytestmark = pytest.mark.fast

SMALL = Options(size=HEIGHT)


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    return saved(Image.fromarray(RGB), "JPEG", exif=exif, icc_profile=srgb_profile())


@pytest.mark.parametrize("options", [SMALL, Options(), Options(size=HEIGHT + 1, quality=20)])
@pytest.mark.parametrize("data", [CASES["rgb jpeg"][0], CASES["grey jpeg"][0], oriented(1)])
def test_a_jpeg_that_needs_no_change_keeps_its_bytes(data, options):
    encoded = encode(data, options)
    assert (encoded.data, encoded.suffix, encoded.width, encoded.height) == (data, "jpg", WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "data",
    [
        CASES["progressive jpeg"][0],
        CASES["cmyk jpeg"][0],
        CASES["rgb png"][0],
        CASES["rgb jpeg"][0] + b"the film that the phone took as well",
        saved(Image.fromarray(RGB), "JPEG", icc_profile=rgb_profile()),
        saved(Image.fromarray(RGB), "JPEG", keep_rgb=True),
        oriented(3),
    ],
)
def test_one_that_needs_a_change_does_not(data):
    encoded = encode(data, SMALL)
    assert encoded.data != data and encoded.data.startswith(b"\xff\xd8\xff\xe0")


@pytest.mark.parametrize("options", [Options(size=HEIGHT - 1), Options(size=HEIGHT, keep_small=False)])
def test_nor_does_one_that_is_larger_or_shall_be_encoded_anew(options):
    assert encode(CASES["rgb jpeg"][0], options).data != CASES["rgb jpeg"][0]


def test_it_is_decoded_before_it_is_kept():
    data = CASES["rgb jpeg"][0]
    with pytest.raises(ImageError, match="corrupt or truncated"):
        encode(data[: len(data) // 2] + b"\xff\xd9", SMALL)


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


@pytest.mark.parametrize("name", ["tiled tiff", "tiff of pages", "16-bit rgb tiff", "palette bmp"])
def test_as_is_turns_what_no_reader_of_shards_knows_into_a_png(name):
    encoded = encode(CASES[name][0], Options(as_is=True, check="header"))
    assert encoded.suffix == "png"
    assert_close(encoded, CASES[name][1], mean=1e-9)


@pytest.mark.parametrize("name", ["rgb jpeg", "rgb png", "webp"])
def test_a_check_of_the_header_finds_what_is_cut_and_reads_no_pixels(name):
    options = Options(as_is=True, check="header")
    data = CASES[name][0]
    assert encode(data, options).data == data
    damaged = data[:-60] + bytes(20) + data[-40:]
    assert encode(damaged, options).data == damaged
    if name != "webp":  # which has no checksum
        with pytest.raises(ImageError):
            encode(damaged, Options(as_is=True))
    for length in (len(data) // 2, len(data) - 20):
        with pytest.raises(ImageError, match=r"truncated: the end of a .* file is missing|not an image"):
            encode(data[:length], options)


def test_a_check_of_the_header_is_for_as_is():
    with pytest.raises(UsageError, match="--check header is for --as-is"):
        Options(check="header").check_values()
