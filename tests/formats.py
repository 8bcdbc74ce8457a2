"""Image files that Pillow cannot write."""

import struct
import zlib

import numpy as np


def deep_tiff(pixels: np.ndarray, bits: int, photometric: int) -> bytes:
    """A TIFF of one strip. The upper 8 bits of its samples are those of `pixels` [height, width, samples]."""
    height, width, samples = pixels.shape
    deep = pixels.astype("<u2") << (bits - 8) | 0x3
    body = deep.tobytes()
    if bits == 12:  # packed, the most significant first
        high, low = deep.reshape(-1, 2).astype(int).T
        body = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=1).astype(np.uint8).tobytes()
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, samples, 8 + len(body) if samples > 2 else bits),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, height),
        (279, 4, 1, len(body)),
    ]  # fmt: skip
    return _tiff(body, struct.pack("<H", bits) * samples, entries)


def tiled_tiff(pixels: np.ndarray, side: int = 32) -> bytes:
    """RGB in tiles, of which there is a whole number."""
    height, width, _ = pixels.shape
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    tiles = [pixels[y : y + side, x : x + side].tobytes() for y, x in corners]
    size, count, body = len(tiles[0]), len(tiles), b"".join(tiles)
    arrays = struct.pack("<3H", 8, 8, 8) + struct.pack(f"<{count}I", *(8 + i * size for i in range(count)))
    arrays += struct.pack(f"<{count}I", *[size] * count)
    at = 8 + len(body)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (322, 3, 1, side), (323, 3, 1, side), (324, 4, count, at + 6), (325, 4, count, at + 6 + 4 * count),
    ]  # fmt: skip
    return _tiff(body, arrays, entries)


def deep_png(pixels: np.ndarray) -> bytes:
    """RGB of 16 bits a channel, the upper 8 those of `pixels`."""
    height, width, _ = pixels.shape
    deep = (pixels.astype(np.uint16) * 256 + 77).astype(">u2").view(np.uint8).reshape(height, -1)
    rows = np.hstack([np.zeros((height, 1), np.uint8), deep])  # each behind its filter: none
    return png((width, height), 16, 2, zlib.compress(rows.tobytes()))


def png(size: tuple[int, int], bits: int, colour: int, packed: bytes) -> bytes:
    """A PNG of (width, height), bit depth, colour type, and the rows, packed already."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _tiff(body: bytes, arrays: bytes, entries: list[tuple[int, int, int, int]]) -> bytes:
    """Little-endian: header, body, values that do not fit into the directory, directory."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body) + len(arrays)) + body + arrays + directory + bytes(4)
