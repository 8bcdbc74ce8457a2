"""Shrunk pictures: their size, their place, their sharpness, against other resizers."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_prep.options import Options
from data_prep.shards.images import encode, fit
from tests.data_prep.shards.test_images import STORED, assert_close, saved
from tests.images import photo

pytestmark = pytest.mark.fast


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


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (2045, 1533), (401, 299)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_shrinking_neither_stretches_nor_moves_the_picture(size, orientation):
    """A scaled decode rounds up; half a pixel of that at one edge would show as an error in a ramp."""
    x, y = np.meshgrid(np.arange(size[0]) / size[0], np.arange(size[1]) / size[1])
    ramp = (np.dstack([x, y, 1 - x]) * 220 + 16).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](ramp)))
    encoded = encode(saved(stored, "JPEG", quality=100, subsampling=0, exif=exif), Options(size=32, quality=100))
    expected = np.asarray(Image.fromarray(ramp).resize((encoded.width, encoded.height), Image.Resampling.BOX))
    with Image.open(io.BytesIO(encoded.data)) as image:
        error = np.asarray(image).astype(int) - expected
    step = 220 / 32  # of the ramp, from one pixel to the next
    for edge in (np.s_[2:-2, 2:-2], np.s_[2:8, 2:8], np.s_[-8:-2, -8:-2]):
        assert np.abs(error[edge].mean(axis=(0, 1))).max() < 0.2 * step


@pytest.mark.parametrize("ratio", [1.05, 1.2, 1.32, 1.34, 1.46, 1.7, 1.99, 2.3, 3.1])
def test_shrinking_is_as_good_as_the_mean_of_areas(ratio):
    """Against Lanczos, by PSNR: at most 1.2 dB below cv2's INTER_AREA, whatever the ratio."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.float32)
    pixels = np.clip((cv2.GaussianBlur(noise, (0, 0), 1.2) - 128) * 3 + 128, 0, 255).astype(np.uint8)
    encoded = encode(saved(Image.fromarray(pixels), "PNG"), Options(size=round(480 / ratio), quality=100))
    shape = (encoded.width, encoded.height)
    reference = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.LANCZOS))
    area = simplejpeg.encode_jpeg(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), 100, "RGB", "420")

    def psnr(jpeg: bytes) -> float:
        return 10 * np.log10(255**2 / np.mean((simplejpeg.decode_jpeg(jpeg).astype(float) - reference) ** 2))

    assert psnr(encoded.data) > psnr(area) - 1.2
