"""Photos for benchmarks, made from nothing: equal arguments give equal bytes."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

CLASSES: Final = 10
DISTINCT: Final = 100  # photos; the rest are copies under other names
KINDS: Final = {  # width, height, JPEG quality, noise
    "small": (500, 375, 85, 5.0),
    "two": (1632, 1224, 88, 5.0),
    "large": (2048, 1536, 90, 6.0),
    "light": (2048, 1536, 85, 3.0),  # as large, of about half the bytes: less to read, as much to resize
}


def photo(width: int, height: int, seed: int, noise: float) -> np.ndarray:
    """Smooth random fields of four scales under sensor noise, uint8 [height, width, 3]: as hard to pack as a photo."""
    import cv2

    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.float32)
    for cells, contrast in ((4, 60), (16, 35), (64, 18), (200, 10)):
        field = random.normal(0, 1, (max(2, height * cells // width), cells, 3)).astype(np.float32)
        image += contrast * cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    image += random.normal(0, noise, (height, width, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


@cache
def encoded_photos(kind: str) -> list[bytes]:
    """The distinct ones."""
    import simplejpeg

    width, height, quality, noise = KINDS[kind]
    return [
        simplejpeg.encode_jpeg(photo(width, height, seed, noise), quality, "RGB", "420") for seed in range(DISTINCT)
    ]


def write_photos(folder: Path, kind: str, count: int) -> None:
    """photos/class-0/000000.jpg, ...; the same with .cls under labels/, for GNU tar; files.txt names all for its -T."""
    names = []
    for number in range(count):
        label = number % CLASSES
        photo_path, label_path = (folder / part / f"class-{label}" for part in ("photos", "labels"))
        for path in (photo_path, label_path):
            path.mkdir(parents=True, exist_ok=True)
        (photo_path / f"{number:06d}.jpg").write_bytes(encoded_photos(kind)[number % DISTINCT])
        (label_path / f"{number:06d}.cls").write_bytes(b"%d" % label)
        names += [f"photos/class-{label}/{number:06d}.jpg", f"labels/class-{label}/{number:06d}.cls"]
    (folder / "files.txt").write_text("\n".join(names) + "\n")


def listed(folder: Path) -> list[tuple[str, int]]:
    """(path, label) of every photo."""
    return [(str(path), int(path.parent.name.removeprefix("class-"))) for path in sorted(folder.glob("photos/*/*.jpg"))]
