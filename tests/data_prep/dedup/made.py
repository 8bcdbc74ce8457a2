"""Pictures with the statistics of photos, and what becomes of photos on their way through the web."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from pipeline.dataset.keys import sample_key
from pipeline.dataset.manifest import Manifest
from tests.datasets import Entry, write_dataset


def scene(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    """uint8 [height, width, 3]: random, of amplitudes that fall with the frequency, as in natural images."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    amplitudes = 1 / np.maximum(np.hypot(rows, columns), 1) ** 1.1
    phases = np.exp(2j * np.pi * rng.random((3, height, width // 2 + 1)))
    red, green, blue = (np.fft.irfft2(amplitudes * phase, s=(height, width)) for phase in phases)
    colours = np.stack([red, 0.8 * red + 0.4 * green, 0.8 * red + 0.4 * blue], axis=-1)
    return np.clip(128 + 50 * colours / red.std(), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, fastdct=False)


def reencoded(pixels: np.ndarray, quality: int = 40) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg(pixels, quality))


def resized(pixels: np.ndarray, scale: float, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)


def brightened(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 1.05 + 8, 0, 255).astype(np.uint8)


def cropped(pixels: np.ndarray, share: float = 0.01) -> np.ndarray:
    """So much less of each side, from the middle."""
    height, width = pixels.shape[:2]
    top, left = round(height * share / 2), round(width * share / 2)
    return pixels[top : height - top, left : width - left]


NEAR: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quality 75": lambda pixels: reencoded(pixels, 75),
    "quality 40": lambda pixels: reencoded(pixels, 40),
    "half": lambda pixels: resized(pixels, 0.5),
    "at 0.7, linear": lambda pixels: resized(pixels, 0.7, cv2.INTER_LINEAR),
    "double": lambda pixels: resized(pixels, 2.0, cv2.INTER_CUBIC),
    "square": lambda pixels: cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_AREA),
    "brightened": brightened,
    "grey": lambda pixels: cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "cropped by 1 %": cropped,
}
OTHER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "turned": lambda pixels: np.rot90(pixels),
    "half of it": lambda pixels: pixels[:, : pixels.shape[1] // 2],
    "negative": lambda pixels: 255 - pixels,
}


def key(name: str) -> str:
    return sample_key(f"{name}.jpg")


def entry(name: str, data: bytes, label: int = 0, suffix: str = "jpg") -> Entry:
    """A sample of this name; its size is read from the bytes."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = (0, 0) if pixels is None else pixels.shape[:2]
    return Entry(key(name), data, label, width, height, suffix)


def write(path: Path, entries: Sequence[Entry], shards: int = 1, classes: Sequence[str] = ("cat", "dog")) -> Manifest:
    """A DATASET of these, dealt into so many shards."""
    size = -(-len(entries) // shards)
    return write_dataset(path, [entries[at : at + size] for at in range(0, len(entries), size)], tuple(classes))
