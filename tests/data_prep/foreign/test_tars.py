"""Tars of anybody's: what the standard library writes is read the same, and every way to lie is refused."""

import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.foreign.tars import BLOCK, MAX_EXTENDED_BYTES, BrokenTar, MemberHeader, compression, iter_members

pytestmark = pytest.mark.fast

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda name: name.strip("/") and not name.endswith("/")
)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **attributes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def packed(*members: tuple[tarfile.TarInfo, bytes], layout: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of headers as they are: nothing checks that sizes and contents agree."""
    parts = [
        made.tobuf(layout, "utf-8", "surrogateescape") + data + bytes(-len(data) % BLOCK) for made, data in members
    ]
    return b"".join(parts) + bytes(2 * BLOCK)


def read(data: bytes) -> list[MemberHeader]:
    return list(iter_members(io.BytesIO(data)))


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500), st.floats(0, 2**31)), max_size=6), FORMATS)
def test_what_tarfile_writes_is_read_the_same(members, layout):
    buffer = io.BytesIO()
    written = []
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for name, data, mtime in members:
            try:
                tar.addfile(info(name, len(data), mtime=mtime), io.BytesIO(data))
            except ValueError:  # a name too long for ustar
                continue
            written.append((name, data))
    found = read(buffer.getvalue())
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        theirs = [(member.name, member.offset_data, member.size) for member in tar]
    content = [buffer.getvalue()[m.offset : m.offset + m.size] for m in found]
    assert [(m.name.rstrip("/"), m.offset, m.size) for m in found] == theirs
    assert list(zip([m.name for m in found], content, strict=True)) == written
    for member in found:
        header = buffer.getvalue()[member.offset - BLOCK : member.offset]
        assert member.kind == "file"
        assert member.plain_name == (tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name == member.name)


@pytest.mark.parametrize(
    ("made", "kind", "reason"),
    [
        (info("/etc/passwd"), "file", "absolute"),
        (info("a/../../b.jpg"), "file", "'..'"),
        (info(".."), "file", "'..'"),
        (info("a.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "link", "link"),
        (info("a.jpg", kind=tarfile.LNKTYPE, linkname="b.jpg"), "link", "link"),
        (info("a.jpg", kind=tarfile.CHRTYPE), "device", "device"),
        (info("a.jpg", kind=tarfile.BLKTYPE), "device", "device"),
        (info("a.jpg", kind=tarfile.FIFOTYPE), "device", "pipe"),
        (info("a.jpg", kind=tarfile.GNUTYPE_SPARSE), "sparse", "sparse"),
        (info("a.jpg", kind=b"Z"), "unknown", "unknown"),
        (info("a.jpg", pax_headers={"GNU.sparse.major": "1"}), "sparse", "sparse"),
        (info("a.jpg", pax_headers={"path": "/abs.jpg"}), "file", "absolute"),
        (info("a.jpg", pax_headers={"path": "b/" * 3000 + "c"}), "file", "4,096"),
        (info("a.jpg", pax_headers={"comment": "c" * MAX_EXTENDED_BYTES}), "bad header", "extended header"),
    ],
)
def test_members_that_must_not_be_used(made, kind, reason):
    (first, second) = read(packed((made, b""), (info("fine.jpg", 3), b"abc")))
    assert (first.kind, second.kind, second.refusal) == (kind, "file", None)
    assert reason in first.refusal


def test_an_ordinary_member_and_a_folder():
    found = read(packed((info("a/", kind=tarfile.DIRTYPE), b""), (info("a/1.jpg", 3), b"abc")))
    assert [(m.name, m.kind, m.refusal, m.plain_name) for m in found] == [
        ("a/", "folder", None, True), ("a/1.jpg", "file", None, True),
    ]  # fmt: skip


WHOLE = packed((info("1.jpg", 700), b"x" * 700), (info("1.cls", 1), b"3"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends at byte 0"),
        (b"GIF89a" * 200, "no tar"),
        (b"\x1f\x8b\x08" + bytes(600), r"compressed \(gzip\)"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), r"compressed \(zstd\)"),
        (WHOLE[:1000], "within '1.jpg'"),
        (WHOLE[: -2 * BLOCK], "without the blocks of zeros"),
        (WHOLE[:1536] + b"junk" * 128 + WHOLE[2048:], "damaged: no header at byte 1,536"),
        (WHOLE + WHOLE, "concatenated"),
        (packed((info("1.jpg", 2**32), b"abc")), "within '1.jpg'"),
        (packed((info("1.jpg", 3, pax_headers={"size": "9999"}), b"abc")), "another size"),
        (packed((info("1.jpg", 3, pax_headers={"size": "-3"}), b"abc")), "another size"),
        (packed((info("g", kind=tarfile.XGLTYPE, size=17), b"17 path=../../x\n\0")), "global header"),
        (packed((info("x", kind=tarfile.XHDTYPE), b"")), "without a member"),
        (packed(*[(info("x", kind=tarfile.XHDTYPE), b"")] * 9), "in a row"),
    ],
)
def test_tars_that_are_refused(data, reason):
    with pytest.raises(BrokenTar, match=reason):
        read(data)


def test_a_negative_size_does_not_send_the_reader_round_in_circles():
    header = bytearray(info("1.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" + (-1024).to_bytes(11, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    with pytest.raises(BrokenTar, match="-1,024 bytes"):
        read(bytes(header) + bytes(1024))


@settings(max_examples=300)
@given(st.binary(max_size=3000), st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=40))
def test_no_bytes_make_it_raise_anything_else(noise, at, patch):
    for data in (noise, WHOLE[:at] + patch + WHOLE[at + len(patch) :], WHOLE[:at], WHOLE[:BLOCK] + noise):
        try:
            for member in iter_members(io.BytesIO(data)):
                assert member.offset + member.size <= len(data)
        except BrokenTar as error:
            assert str(error)


def test_memory_does_not_follow_what_headers_say():
    huge = packed(*[(info("a.jpg", 2**30, pax_headers={"comment": "c" * 2**20}), b"")] * 2)

    class Endless(io.RawIOBase):
        """A stream without an end that says it can seek, so that every size is believed."""

        def __init__(self) -> None:
            self.at = 0

        def read(self, size: int = -1) -> bytes:
            self.at += size
            return (huge[self.at - size : self.at] + bytes(size))[:size]

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset if whence == 0 else 2**60
            return self.at

        def seekable(self) -> bool:
            return True

    tracemalloc.start()
    members = list(iter_members(Endless()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [member.kind for member in members] == ["bad header"]
    assert peak < 2**20


def test_compressions_are_told_by_their_first_bytes():
    assert compression(b"\x1f\x8b\x08\0") == "gzip" and compression(b"a.jpg") is None
