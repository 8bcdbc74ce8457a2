"""Real image files for the tests, made in milliseconds: photo-like JPEGs in class folders, hostile files."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photo(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth random colours, which a JPEG keeps about as well as a photo's."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_photo(path: Path, width: int, height: int, seed: int, **options: object) -> None:
    """One photo; `options` go to Pillow's `save`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(width, height, seed)).save(path, **options)


def write_photo_folder(
    root: Path, classes: int, per_class: int, size: tuple[int, int] = (64, 48), seed: int = 0
) -> Path:
    """`classes` folders `class-00`, ... of `per_class` JPEG photos each; equal arguments give equal bytes."""
    for label in range(classes):
        for number in range(per_class):
            path = root / f"class-{label:02d}" / f"photo-{number:05d}.jpg"
            write_photo(path, *size, seed=hash((seed, label, number)) & 0xFFFFFFFF, quality=90)
    return root


def write_giant_png(path: Path, side: int = 60_000) -> None:
    """A valid black `side` x `side` one-bit PNG: a few hundred kB on disk, gigabytes once decoded to RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = b"\0" + b"\0" * ((side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in chunks:
            file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
