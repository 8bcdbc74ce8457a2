"""Headers are read without decoding; nonsense is refused with a reason; scaled decoding keeps what is asked for."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.images import ImageError, decode, read_header
from tests.images import photo, write_giant_png

pytestmark = [pytest.mark.fast, pytest.mark.filterwarnings(r"ignore:.*:UserWarning:PIL")]


def saved(form: str, size=(96, 64), **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo(*size, seed=1)).save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_header_agrees_with_the_pixels(form):
    data = saved(form)
    header = read_header(data)
    assert (header.format, header.width, header.height, header.orientation) == (form, 96, 64, 1)
    assert decode(data, header).shape == (64, 96, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 8])
def test_width_and_height_are_upright(form, orientation):
    data = saved(form, exif=exif(orientation))
    header = read_header(data)
    assert (header.width, header.height) == ((64, 96) if orientation >= 5 else (96, 64))
    assert decode(data, header).shape == (header.height, header.width, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_is_none_is_upright(form, orientation):
    data = saved(form, exif=exif(orientation))
    assert decode(data, read_header(data)).shape == (64, 96, 3)


def test_exif_behind_the_pixels_of_a_png_counts():
    data = saved("PNG")
    body = exif(6).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    end = data.index(b"IEND") - 4
    data = data[:end] + chunk + data[end:]
    header = read_header(data)
    assert (header.width, header.height) == (64, 96)
    assert decode(data, header).shape == (96, 64, 3)


def test_damaged_exif_does_not_cost_the_picture():
    data = saved("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode(data, read_header(data)).shape == (64, 96, 3)


def test_a_giant_is_refused_before_it_is_decoded(tmp_path):
    write_giant_png(tmp_path / "giant.png")
    data = (tmp_path / "giant.png").read_bytes()
    with pytest.raises(ImageError, match="too large: 60000 x 60000 pixels, the limit is 100,000,000"):
        read_header(data)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (60_000, 60_000)  # a real one


def test_the_limit_is_on_pixels():
    data = saved("JPEG")
    assert read_header(data, max_pixels=96 * 64).width == 96
    with pytest.raises(ImageError, match="too large"):
        read_header(data, max_pixels=96 * 64 - 1)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM" + bytes(50)]
)
def test_what_is_no_image_is_an_image_error_of_one_line(data):
    with pytest.raises(ImageError) as caught:
        read_header(data)
    assert str(caught.value) and "\n" not in str(caught.value) and "object at 0x" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), st.integers(0, 3000), st.binary(min_size=1, max_size=8))
def test_damaged_bytes_give_pixels_or_an_image_error(form, position, damage):
    data = bytearray(saved(form, exif=exif(6)) if form != "GIF" else saved(form))
    position %= len(data)
    data[position : position + len(damage)] = damage
    try:
        header = read_header(bytes(data), max_pixels=10**6)
        pixels = decode(bytes(data), header)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape == (header.height, header.width, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_scaled_decoding_is_never_smaller_than_asked(orientation):
    data = saved("JPEG", size=(803, 601), exif=exif(orientation))
    header = read_header(data)
    for width, height in ((1, 1), (100, 80), (101, 76), (402, 301), (403, 1), (803, 601)):
        if orientation == 6:
            width, height = height, width
        pixels = decode(data, header, min_width=width, min_height=height)
        assert width <= pixels.shape[1] <= header.width and height <= pixels.shape[0] <= header.height
        assert abs(pixels.shape[1] / pixels.shape[0] - header.width / header.height) < 0.03
    assert decode(data, header, min_width=1, min_height=1).shape[0] <= header.height // 8 + 1
