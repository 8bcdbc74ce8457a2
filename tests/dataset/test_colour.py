"""Profiles are applied where they say anything; against the definition, computed in double precision."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.dataset.colour import MAX_PROFILE_BYTES, is_srgb, lab_to_srgb, to_srgb
from pipeline.dataset.images import decode, read_header
from tests.images import photo
from tests.profiles import ADOBE_RGB, DISPLAY_P3, SRGB, converted, grey_profile, rgb_profile, srgb_profile, to_linear

pytestmark = pytest.mark.fast

RGB = photo(96, 64, seed=3)
WIDE = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return decode(data, read_header(data)).astype(int)


@pytest.mark.parametrize("name", WIDE)
def test_wide_gamuts(name):
    profile = rgb_profile(WIDE[name], 2.2)
    got = np.asarray(to_srgb(Image.fromarray(RGB), profile)).astype(int)
    expected = converted(RGB, WIDE[name], 2.2)
    assert np.abs(got - expected).mean() < 0.6 and np.abs(got - expected).max() <= 3
    assert np.abs(expected - RGB).mean() > 3  # it is a difference that one sees


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_in_every_format_that_carries_one(form):
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    data = saved(Image.fromarray(RGB), form, icc_profile=rgb_profile(), **options)
    assert np.abs(decoded(data) - converted(RGB, DISPLAY_P3, 2.2)).mean() < 1.5


def test_scaled_and_turned_pictures_too():
    tags = Image.Exif()
    tags[0x0112] = 6
    data = saved(Image.fromarray(photo(800, 600, 1)), "JPEG", icc_profile=rgb_profile(), exif=tags.tobytes())
    header = read_header(data)
    plain = read_header(saved(Image.fromarray(photo(800, 600, 1)), "JPEG", exif=tags.tobytes()))
    small = decode(data, header, 75, 100)
    assert small.shape == (100, 75, 3)
    expected = converted(decode(data, plain, 75, 100), DISPLAY_P3, 2.2)
    assert np.abs(small - expected).mean() < 0.6


@pytest.mark.parametrize("gamma", [1.8, 2.6])
def test_grey(gamma):
    grey = np.asarray(Image.fromarray(RGB).convert("L"))
    expected = 255 * ((grey / 255.0) ** gamma)
    for form in ("JPEG", "PNG"):
        options = {"quality": 100} if form == "JPEG" else {}
        got = decoded(saved(Image.fromarray(grey), form, icc_profile=grey_profile(gamma), **options))
        assert np.abs(255 * to_linear(got / 255.0) - expected[..., None]).mean() < 1.5


def test_transparency_lies_over_white_not_over_what_white_becomes():
    image = Image.fromarray(np.dstack([RGB, np.full(RGB.shape[:2], 128, np.uint8)]))
    got = decoded(saved(image, "PNG", icc_profile=rgb_profile()))
    expected = converted(RGB, DISPLAY_P3, 2.2) * 128 / 255 + 255 * 127 / 255
    assert np.abs(got - expected).mean() < 1


def test_srgb_in_its_usual_forms_changes_nothing():
    by_littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (by_littlecms, srgb_profile(), None):
        assert is_srgb(profile, "RGB")
    assert not is_srgb(rgb_profile(SRGB, 1.8), "RGB")
    for form in ("PNG", "JPEG"):
        with_profile = saved(Image.fromarray(RGB), form, icc_profile=srgb_profile())
        assert (decoded(with_profile) == decoded(saved(Image.fromarray(RGB), form))).all()


@given(st.integers(0, 600), st.binary(max_size=40))
def test_a_broken_profile_is_ignored_or_harmless(position, damage):
    profile = bytearray(rgb_profile())
    profile[position : position + len(damage)] = damage
    data = simplejpeg.encode_jpeg(RGB, 90, "RGB", "420")
    chunk = b"ICC_PROFILE\0\x01\x01" + bytes(profile)
    data = data[:2] + b"\xff\xe2" + (len(chunk) + 2).to_bytes(2, "big") + chunk + data[2:]
    assert decoded(data).shape == RGB.shape


@pytest.mark.parametrize(
    "profile", [b"x" * 200, b"", grey_profile(2.2), rgb_profile()[:300], bytes(MAX_PROFILE_BYTES + 1)]
)
def test_what_is_no_profile_of_this_picture_is_ignored(profile):
    image = Image.fromarray(RGB)
    assert (np.asarray(to_srgb(image, profile)) == RGB).all()


@pytest.mark.parametrize(
    ("lab", "expected"),
    [((136, 208, 195), (255, 0, 0)), ((135, 128, 128), (126, 126, 126))],  # L* 53.2, a* 80, b* 67: sRGB's red
)
def test_lab(lab, expected):
    image = Image.new("LAB", (8, 8), lab)
    assert np.abs(np.asarray(lab_to_srgb(image)).astype(int) - expected).max() <= 12
    assert np.abs(decoded(saved(image, "TIFF")) - expected).max() <= 12


def test_cmyk_has_adobes_inversion_right():
    cmyk = Image.new("CMYK", (64, 64), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert np.abs(decoded(saved(cmyk, "JPEG", quality=98)) - [255, 0, 0]).max() < 6
    assert np.abs(decoded(saved(cmyk, "TIFF")) - [255, 0, 0]).max() < 6
    inverted = 255 - np.asarray(cmyk)
    ycck = simplejpeg.encode_jpeg(np.ascontiguousarray(inverted), 98, "CMYK", "420")
    assert simplejpeg.decode_jpeg_header(ycck)[2] == "YCCK"
    assert np.abs(decoded(ycck) - [255, 0, 0]).max() < 6
