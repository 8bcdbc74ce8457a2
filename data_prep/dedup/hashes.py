"""What is compared of images, as columns: 49 bytes each, so that those of a large corpus fit in memory.

Equal bytes: xxh3-64 of the encoded image, and its size. Equal pixels: xxh3-128 of the decoded ones and their shape.
Near: the 64 bits of pattern.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import cv2
import numpy as np
import pyarrow as pa
import xxhash

from data_prep.dedup.pattern import pattern_hash
from pipeline.dataset.images import ImageError, decode, read_header
from pipeline.dataset.keys import key_hash

VERSION: Final = 1  # of the hashes: parts of another are made again
HASHED, FLAT, UNREADABLE, UNHASHED = range(4)  # why there is a pattern, or none: flat, no pixels, not asked for
SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("bytes", pa.uint64()),
        pa.field("size", pa.uint32()),
        pa.field("pixels_high", pa.uint64()),
        pa.field("pixels_low", pa.uint64()),
        pa.field("area", pa.uint32()),
        pa.field("pattern", pa.uint64()),
        pa.field("state", pa.uint8()),
    ]
)


@dataclass(frozen=True)
class ImageHash:
    """One image's. `area`: of how many pixels."""

    bytes: int
    size: int
    pixels_high: int
    pixels_low: int
    area: int
    pattern: int
    state: int


@dataclass(frozen=True)
class Hashes:
    """Those of n images, each column [n]. `key`: its hash, for the order of images of equal quality."""

    key: np.ndarray
    bytes: np.ndarray
    size: np.ndarray
    pixels_high: np.ndarray
    pixels_low: np.ndarray
    area: np.ndarray
    pattern: np.ndarray
    state: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Hashes":
        """Room for so many, to be filled in."""
        return cls(**{field.name: np.empty(count, field.type.to_pandas_dtype()) for field in SCHEMA})

    def fill(self, start: int, table: pa.Table) -> None:
        """Sets those from number `start` on to the rows of a table of SCHEMA."""
        for name in SCHEMA.names:
            getattr(self, name)[start : start + table.num_rows] = table[name].to_numpy()

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: np.ndarray) -> "Hashes":
        """Those of these images."""
        return Hashes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def by_quality(self) -> np.ndarray:
        """int64 [n]: image numbers, the best first: more pixels, then more bytes, then the key of lower hash."""
        worse = ~(self.area.astype(np.uint64) << np.uint64(32) | self.size)
        return np.lexsort((self.key, worse))


def hash_image(data: bytes, max_pixels: int, exact_only: bool) -> ImageHash:
    """Hashes an encoded image. One that cannot be decoded has its bytes for pixels: it equals those of equal bytes.

    The pattern is that of the decoded pixels, so equal pixels have equal patterns, whatever file they came in.
    """
    digest, size = xxhash.xxh3_64_intdigest(data), len(data)
    try:
        pixels = decode(data, read_header(data, max_pixels))
    except ImageError:
        return ImageHash(digest, size, *_halves(b"bytes", data), area=0, pattern=0, state=UNREADABLE)
    height, width = pixels.shape[:2]
    exact = _halves(b"%d x %d" % (width, height), np.ascontiguousarray(pixels).data)
    pattern = None if exact_only else pattern_hash(pixels)
    state = UNHASHED if exact_only else FLAT if pattern is None else HASHED
    return ImageHash(digest, size, *exact, area=height * width, pattern=pattern or 0, state=state)


def as_table(keys: Sequence[str], hashes: Sequence[ImageHash]) -> pa.Table:
    """Keys and what was found, as a table of SCHEMA."""
    columns = {name: [getattr(one, name) for one in hashes] for name in SCHEMA.names if name != "key"}
    return pa.table({"key": [key_hash(key) for key in keys], **columns}, schema=SCHEMA)


def one_thread() -> None:
    """Workers share the cores among them: each leaves OpenCV one."""
    cv2.setNumThreads(1)


def _halves(what: bytes, data: bytes | memoryview) -> tuple[int, int]:
    hasher = xxhash.xxh3_128(what)
    hasher.update(data)
    return divmod(hasher.intdigest(), 1 << 64)
