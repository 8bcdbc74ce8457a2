"""crop_resize against Pillow: other decoders' pixels, other code's resampling."""

import io

import numpy as np
import pytest
from cv2 import dilate, erode
from PIL import Image, ImageOps

from pipeline.data.decode import crop_resize
from pipeline.dataset import images
from pipeline.dataset.images import ImageError
from tests.images import photo

pytestmark = pytest.mark.fast


def encoded(width: int, height: int, kind: str, seed: int = 0, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(width, height, seed)).save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The whole image decoded at full size, turned upright, cropped, then resized with antialiasing."""
    left, top, width, height = box
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    crop = image.crop((left, top, left + width, top + height))
    shrinks = width >= size and height >= size
    return np.asarray(crop.resize((size, size), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR))


def assert_within_half_a_pixel(ours: np.ndarray, theirs: np.ndarray) -> None:
    """A scaled decode rounds the box to its own, coarser pixels: a shift by at most half an output pixel."""
    smallest, largest = (extreme(theirs, np.ones((3, 3), np.uint8)).astype(int) for extreme in (erode, dilate))
    beyond = np.maximum(smallest - ours, 0) + np.maximum(ours - largest, 0)
    beyond = beyond[1:-1, 1:-1]  # at the edge the neighbour is missing
    assert np.percentile(beyond, 99) <= 4, f"{beyond.max()} beyond the neighbouring pixels"
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 4


def assert_close(ours: np.ndarray, theirs: np.ndarray, mean: float, most: float) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.mean() <= mean and np.percentile(difference, 99.5) <= most, (
        f"mean {difference.mean():.2f}, most {difference.max()}"
    )


BOXES = [(0, 0, 320, 240), (17, 31, 101, 67), (200, 100, 120, 140), (319, 239, 1, 1), (3, 0, 250, 200)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [16, 32, 100, 224])
def test_png_matches_pillow(box: tuple[int, int, int, int], size: int) -> None:
    data = encoded(320, 240, "PNG")
    ours = crop_resize(data, (320, 240), np.array(box), size)
    assert ours.shape == (size, size, 3) and ours.dtype == np.uint8
    assert_close(ours, by_pillow(data, box, size), mean=0.8, most=3)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [220, 224, 384])
def test_jpeg_at_full_size_matches_pillow(box: tuple[int, int, int, int], size: int) -> None:
    data = encoded(320, 240, "JPEG", quality=95)
    ours = crop_resize(data, (320, 240), np.array(box), size)
    assert_close(ours, by_pillow(data, box, size), mean=1.0, most=4)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [16, 24, 32, 100])
def test_jpeg_decoded_at_some_eighths_matches_pillow(box: tuple[int, int, int, int], size: int) -> None:
    data = encoded(320, 240, "JPEG", quality=95)
    ours = crop_resize(data, (320, 240), np.array(box), size)
    assert_within_half_a_pixel(ours, by_pillow(data, box, size))


def test_no_more_is_decoded_than_the_box_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def recording(*args: object, **options: object) -> np.ndarray:
        shapes.append((pixels := images.decode(*args, **options)).shape[:2])
        return pixels

    monkeypatch.setattr("pipeline.data.decode.decode", recording)
    data = encoded(1_600, 800, "JPEG")
    for box in ((0, 0, 1_600, 800), (400, 200, 400, 300), (0, 0, 100, 100)):
        crop_resize(data, (1_600, 800), np.array(box), 100)
    assert shapes == [(100, 200), (300, 600), (800, 1_600)]


def test_a_large_jpeg_is_decoded_scaled_and_still_matches() -> None:
    data = encoded(2_000, 1_500, "JPEG", quality=95)
    for box in ((0, 0, 2_000, 1_500), (403, 250, 1_001, 999), (1_601, 1_201, 399, 299)):
        ours = crop_resize(data, (2_000, 1_500), np.array(box), 64)
        assert_close(ours, by_pillow(data, box, 64), mean=1.5, most=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [24, 96])
def test_a_jpeg_that_lies_on_its_side_is_cropped_upright(orientation: int, size: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(320, 200, "JPEG", quality=95, exif=exif)
    upright = (320, 200) if orientation < 5 else (200, 320)
    box = (20, 60, 150, 110) if orientation < 5 else (60, 20, 110, 150)
    ours = crop_resize(data, upright, np.array(box), size)
    assert_within_half_a_pixel(ours, by_pillow(data, box, size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_tiny_and_thin_images(kind: str, shape: tuple[int, int]) -> None:
    data = encoded(*shape, kind)
    ours = crop_resize(data, shape, np.array([0, 0, *shape]), 32)
    assert ours.shape == (32, 32, 3)
    assert_close(ours, by_pillow(data, (0, 0, *shape), 32), mean=3.0, most=20)


def test_grey_and_palette_become_rgb() -> None:
    for mode in ("L", "P"):
        file = io.BytesIO()
        image = Image.fromarray(photo(80, 60, 1)).convert(mode)
        image.save(file, "PNG")
        expected = np.asarray(image.convert("RGB").resize((20, 15), Image.Resampling.BOX))
        ours = crop_resize(file.getvalue(), (80, 60), np.array([0, 0, 80, 60]), 15)
        assert ours.shape == (15, 15, 3)
        assert abs(float(ours.mean()) - float(expected.mean())) < 1.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_another_size_than_the_index_says_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="is 64 x 48 pixels, its index says 48 x 64"):
        crop_resize(encoded(64, 48, kind), (48, 64), np.array([0, 0, 48, 48]), 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_bytes_are_refused(kind: str) -> None:
    data = encoded(200, 150, kind)
    for keep in (0, 1, 20, len(data) // 2, len(data) - 30):
        with pytest.raises(ImageError):
            crop_resize(data[:keep], (200, 150), np.array([0, 0, 200, 150]), 32)
