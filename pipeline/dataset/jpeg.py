"""What the marker segments of a JPEG say (ITU-T T.81, annex B), read without decoding.

libjpeg-turbo says what the picture is; the rest, which it does not tell, is here: how it is compressed, how it was
held, in which colours. That takes a few microseconds, so every image can be asked.
"""

import struct
from dataclasses import dataclass
from typing import Final

from pipeline.dataset.blob import Bytes

_SOI, _EOI, _SOS, _APP1, _APP2, _TEM = 0xD8, 0xD9, 0xDA, 0xE1, 0xE2, 0x01
_BASELINE: Final = 0xC0
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables and a reserved one lie between them
_ALONE: Final = frozenset(range(0xD0, 0xD9)) | {_TEM}  # no length, no content
_EXIF, _PROFILE, _MORE_PICTURES = b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0"
_WHOLE_BLOCK: Final = b"\x00\x3f\x00"  # of a scan: its coefficients, first to last, and all their bits
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3  # of EXIF's types
_marker_and_length: Final = struct.Struct(">BBH").unpack_from


@dataclass(frozen=True, slots=True)
class JpegMarkers:
    """What stands before the picture's first line."""

    baseline: bool  # sequential, Huffman, 8 bits, by the book: what every decoder takes, in hardware too
    orientation: int  # EXIF, 1..8
    profile: bytes | None  # ICC
    more_pictures: bool  # CIPA DC-007: others follow behind this one


def read_markers(data: Bytes) -> JpegMarkers:
    """Reads them as far as they can be: what is damaged counts as not there, and the decoder's word is what decides."""
    baseline, orientation, more, chunks = False, None, False, []
    position, end = 2, len(data) - 4
    while position <= end:
        prefix, marker, length = _marker_and_length(data, position)
        if prefix != 0xFF:
            break
        if marker == 0xFF:  # fill
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        if marker in (_SOS, _EOI) or length < 2:
            baseline = baseline and data[position + length - 1 : position + length + 2] == _WHOLE_BLOCK
            break
        start, position = position + 4, position + 2 + length
        if marker in (_APP1, _APP2):
            content = bytes(data[start:position])
            if marker == _APP1 and orientation is None and content.startswith(_EXIF):
                orientation = exif_orientation(content.removeprefix(_EXIF))
            elif marker == _APP2 and content.startswith(_PROFILE):
                chunks.append(content.removeprefix(_PROFILE))
            elif marker == _APP2 and content.startswith(_MORE_PICTURES):
                more = True
        elif marker in _FRAMES:
            baseline = marker == _BASELINE
    return JpegMarkers(baseline, orientation or 1, _join(chunks) if chunks else None, more)


def with_whole_scan(data: bytes) -> bytes | None:
    """A baseline JPEG whose first scan says that it holds only some of the coefficients, put right.

    That cannot be, and every viewer passes over it; some cameras write it. None where it is not so.
    """
    position = 2
    while position + 4 <= len(data):
        prefix, marker, length = _marker_and_length(data, position)
        if prefix != 0xFF or length < 2 or marker in _FRAMES - {_BASELINE}:
            return None
        if marker == _SOS:
            end = position + 2 + length
            return data[: end - 3] + _WHOLE_BLOCK + data[end:] if data[end - 3 : end] != _WHOLE_BLOCK else None
        position += 2 + length
    return None


def exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory of EXIF's TIFF structure; 1 where there is none, or none that can be.

    TIFF: byte order, 42, offset of the directory; there the number of entries, and each: tag, type, count, value.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        magic, offset = struct.unpack_from(f"{order}HI", exif, 2)
        (entries,) = struct.unpack_from(f"{order}H", exif, offset)
        if magic != 42:
            return 1
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, offset + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else 1
    except struct.error:  # cut short
        pass
    return 1


def _join(chunks: list[bytes]) -> bytes | None:
    """A profile from its chunks: number of this one, of all, content (ICC.1, annex B.4). None if any is missing."""
    if any(len(chunk) < 2 for chunk in chunks):
        return None
    chunks = sorted(chunks, key=lambda chunk: chunk[0])
    whole = [(number, len(chunks)) for number in range(1, len(chunks) + 1)]
    return b"".join(chunk[2:] for chunk in chunks) if [(c[0], c[1]) for c in chunks] == whole else None
