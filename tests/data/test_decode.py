"""crop_resize against Pillow: other decoders' pixels, other code's resampling."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cv2 import INTER_AREA, INTER_CUBIC, dilate, erode, resize
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
def test_jpeg_decoded_scaled_matches_pillow(box: tuple[int, int, int, int], size: int) -> None:
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
    assert shapes == [(100, 200), (400, 800), (800, 1_600)]  # 3/8 would do for the second, but takes longer than 1/2


def test_a_large_jpeg_is_decoded_scaled_and_still_matches() -> None:
    data = encoded(2_000, 1_500, "JPEG", quality=95)
    for box in ((0, 0, 2_000, 1_500), (403, 250, 1_001, 999), (1_601, 1_201, 399, 299)):
        ours = crop_resize(data, (2_000, 1_500), np.array(box), 64)
        assert_close(ours, by_pillow(data, box, 64), mean=1.5, most=6)


def detailed(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: with detail at every scale down to a few pixels, which aliasing would show in."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.float32)
    for cells in (4, 16, 64, 256):
        field = random.normal(0, 25, (cells, cells, 3)).astype(np.float32)
        image += resize(field, (width, height), interpolation=INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("width, height, least", [(341, 256, 41), (512, 384, 39), (1_024, 768, 32)])
def test_quality_beside_a_full_decode_and_cv2s_area_average(width: int, height: int, least: float) -> None:
    """Mean PSNR; plain linear samples have 35 and 33 dB where nothing is decoded scaled, nearest ones 24."""
    file = io.BytesIO()
    Image.fromarray(detailed(width, height, width)).save(file, "JPEG", quality=90)
    whole = np.asarray(Image.open(file))
    psnr = []
    for share in (0.66, 0.8, 0.9, 1.0):
        side = round(height * share)
        left, top = (width - side) // 2 // 8 * 8, (height - side) // 2 // 8 * 8  # of which no scale makes a fraction
        reference = resize(whole[top : top + side, left : left + side], (128, 128), interpolation=INTER_AREA)
        ours = crop_resize(file.getvalue(), (width, height), np.array([left, top, side, side]), 128)
        psnr.append(10 * np.log10(255**2 / np.square(ours.astype(float) - reference).mean()))
    assert np.mean(psnr) > least, psnr


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("box", [(0, 0, 320, 240), (17, 31, 101, 67), (0, 0, 320, 3)])
def test_flipped_and_in_place_are_the_same_pixels(kind: str, box: tuple[int, int, int, int]) -> None:
    data = encoded(320, 240, kind)
    plain = crop_resize(data, (320, 240), np.array(box), 64)
    batch = np.zeros((2, 64, 64, 3), np.uint8)
    for flip, slot in ((False, 0), (True, 1)):
        returned = crop_resize(data, (320, 240), np.array(box), 64, flip, out=batch[slot])
        assert np.shares_memory(returned, batch)
    assert (batch[0] == plain).all() and (batch[1] == plain[:, ::-1]).all()
    assert (crop_resize(data, (320, 240), np.array(box), 64, flip=True) == batch[1]).all()


def test_threads_make_the_same_pixels() -> None:
    data = [encoded(320, 240, "JPEG", seed=seed) for seed in range(16)]
    alone = [crop_resize(body, (320, 240), np.array([8, 8, 200, 200]), 64) for body in data]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda body: crop_resize(body, (320, 240), np.array([8, 8, 200, 200]), 64), data * 4)
        assert all((mine == alone[i % 16]).all() for i, mine in enumerate(together))


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
