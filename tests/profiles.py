"""ICC profiles made by hand (ICC.1:2001-04): three primaries or none, and a gamma."""

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Columns: the primaries' XYZ, adapted to D50 (as in the profiles that are in use).
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def rgb_profile(primaries=DISPLAY_P3, gamma=2.2) -> bytes:
    tags = {b"wtpt": xyz(D50)}
    for name, primary in zip("rgb", primaries, strict=True):
        tags[f"{name}XYZ".encode()] = xyz(primary)
        tags[f"{name}TRC".encode()] = curve(gamma)
    return profile(b"RGB ", tags)


def grey_profile(gamma) -> bytes:
    return profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": curve(gamma)})


def srgb_curve(entries=1024) -> bytes:
    """sRGB's own curve, as a table: HP's profile, which nearly everyone embeds, has one of 1,024 entries."""
    return table(to_linear(np.linspace(0, 1, entries)))


def srgb_profile() -> bytes:
    tags = {b"wtpt": xyz(D50)}
    for name, primary in zip("rgb", SRGB, strict=True):
        tags[f"{name}XYZ".encode()] = xyz(primary)
        tags[f"{name}TRC".encode()] = srgb_curve()
    return profile(b"RGB ", tags)


def converted(pixels: np.ndarray, primaries, gamma) -> np.ndarray:
    """What `rgb_profile(primaries, gamma)` says the pixels are, in sRGB: the definition, in double precision."""
    light = (pixels / 255.0) ** gamma @ np.array(primaries)
    linear = np.clip(light @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def profile(kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), **tags}
    table_size = 4 + 12 * len(tags)
    entries, body = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += name + struct.pack(">II", 128 + table_size + len(body), len(content))
        body += content
    size = 128 + table_size + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", kind, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def table(values: np.ndarray) -> bytes:
    numbers = np.round(values * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(numbers)) + numbers.tobytes()
