"""Marker segments are read as Pillow reads them, and damage is never more than a marker that is not there."""

import io
import struct

import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.dataset.images import ImageError, decode, read_header
from pipeline.dataset.jpeg import exif_orientation, read_markers, with_whole_scan
from tests.images import photo

pytestmark = pytest.mark.fast

IMAGE = Image.fromarray(photo(48, 32, seed=1))


def saved(**options) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(*segments: bytes) -> bytes:
    data = saved()
    return data[:2] + b"".join(segments) + data[2:]


@given(
    st.integers(0, 9),
    st.sampled_from("<>"),
    st.lists(st.integers(1, 0x0111), unique=True, max_size=6),
    st.binary(max_size=64),
)
def test_orientation_in_either_byte_order_among_other_tags(orientation, order, others, behind):
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, 5, 0) for tag in sorted(others)]
    entries.append(struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    exif = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + directory + behind
    expected = orientation if 1 <= orientation <= 8 else 1
    assert exif_orientation(exif) == expected
    data = with_segments(segment(0xE1, b"Exif\0\0" + exif))
    assert read_markers(data).orientation == expected
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get(0x0112) == orientation  # Pillow reads the same, unjudged


@given(st.binary(max_size=100))
def test_any_bytes_are_an_orientation(exif):
    for start in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert 1 <= exif_orientation(start + exif) <= 8


@given(st.integers(2, 700), st.binary(min_size=1, max_size=8))
def test_damage_is_survived(position, damage):
    data = bytearray(saved(exif=b"Exif\0\0II*\0\x08\0\0\0", icc_profile=b"p" * 100))
    data[position : position + len(damage)] = damage
    for length in (len(data), position):
        assert 1 <= read_markers(bytes(data[:length])).orientation <= 8


@pytest.mark.parametrize("size", [1, 65_519, 65_520, 200_000])
def test_a_profile_comes_together_from_its_chunks(size):
    profile = bytes(i * 7 % 256 for i in range(size))
    assert read_markers(saved(icc_profile=profile)).profile == profile


def test_a_profile_with_a_chunk_missing_or_twice_is_none():
    chunks = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 3]) + b"x") for number in (1, 2, 3)]
    assert read_markers(with_segments(*reversed(chunks))).profile == b"xxx"
    assert read_markers(with_segments(chunks[0], chunks[2])).profile is None
    assert read_markers(with_segments(chunks[0], *chunks)).profile is None
    assert read_markers(with_segments(segment(0xE2, b"ICC_PROFILE\0"))).profile is None


def test_kinds():
    assert read_markers(saved()).baseline
    assert not read_markers(saved(progressive=True)).baseline
    assert read_markers(with_segments(segment(0xE2, b"MPF\0" + bytes(20)))).more_pictures
    assert not read_markers(saved()).more_pictures
    assert read_markers(with_segments(b"\xff\xff\xff\x01")).baseline  # fill bytes, a marker of no content


def odd_scan() -> bytes:
    """What some cameras write: a baseline scan that says it holds nothing but the mean of every block."""
    data = saved(quality=95)
    end = data.index(b"\xff\xda") + 2
    end += int.from_bytes(data[end : end + 2], "big")
    assert data[end - 3 : end] == b"\x00\x3f\x00"
    return data[: end - 3] + b"\x00\x00\x00" + data[end:]


def test_an_odd_scan_is_decoded_but_not_by_the_book():
    data = odd_scan()
    with pytest.raises(ValueError, match="Invalid SOS parameters"):
        simplejpeg.decode_jpeg(data)
    assert with_whole_scan(data) == saved(quality=95) and with_whole_scan(saved()) is None
    assert not read_header(data).plain and read_header(saved()).plain
    assert (decode(data, read_header(data)) == decode(saved(quality=95), read_header(saved()))).all()


def test_an_odd_scan_hides_no_damage():
    data = odd_scan()
    with pytest.raises(ImageError, match="corrupt or truncated"):
        decode(data[: len(data) // 2], read_header(data))


@given(st.binary(max_size=300))
def test_no_bytes_have_a_scan_to_mend(data):
    assert with_whole_scan(b"\xff\xd8" + data) is None or b"\xff\xda" in data
