"""Our members are, byte for byte, those that tarfile writes."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.shards.tar import BLOCK, MAX_MEMBER_BYTES, TarError, end_of_archive, member, members

pytestmark = pytest.mark.fast

names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=100)


def by_tarfile(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@given(st.dictionaries(names, st.binary(max_size=2000), max_size=12))
def test_byte_for_byte_as_tarfile_writes_it(contents):
    tar = b"".join(member(name, data) for name, data in contents.items())
    assert tar + end_of_archive(len(tar)) == by_tarfile(contents)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8**6, 8**7 + 1])
def test_sizes_around_the_edges(size):
    data = bytes(size)
    assert member("a.jpg", data) + end_of_archive(len(member("a.jpg", data))) == by_tarfile({"a.jpg": data})


@given(st.dictionaries(names.map(lambda name: f"x{name}.jpg"[-100:]), st.binary(max_size=1000), max_size=5))
def test_members_reads_what_member_wrote(contents):
    tar = b"".join(member(name, data) for name, data in contents.items())
    read = list(members(io.BytesIO(tar + end_of_archive(len(tar)))))
    assert {m.name: m.data for m in read} == contents
    assert all(tar[m.offset : m.offset + len(m.data)] == m.data and m.offset % BLOCK == 0 for m in read)


@pytest.mark.parametrize("name", ["é.jpg", "x" * 101, "\udcff.jpg"])
def test_names_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError):
        member(name, b"")


@given(st.integers(0, 2047), st.binary(min_size=1, max_size=4))
def test_damage_is_a_tar_error_or_harmless(position, damage):
    tar = bytearray(member("a.jpg", b"1" * 700) + member("a.cls", b"1"))
    tar += end_of_archive(len(tar))
    tar[position : position + len(damage)] = damage
    try:
        for found in members(io.BytesIO(bytes(tar))):
            assert len(found.data) < MAX_MEMBER_BYTES and "/" not in found.name
    except TarError as error:
        assert "\n" not in str(error)
