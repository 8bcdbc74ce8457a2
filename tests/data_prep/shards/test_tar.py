"""Our members are, byte for byte, those that tarfile writes."""

import errno
import io
import subprocess
import sys
import tarfile

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from data_prep.shards.tar import BLOCK, MAX_MEMBER_BYTES, TarError, TarWriter, end_of_archive, member, members

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


@given(st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=8, unique_by=lambda member: member[0]))
def test_the_writer_writes_the_same_and_hashes_it(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with path.open("wb") as file:
        writer = TarWriter(file)
        pairs = [contents[i : i + 2] for i in range(0, len(contents), 2)]
        offsets = [writer.add(*pair) for pair in pairs]
        writer.close()
    tar = path.read_bytes()
    assert tar == by_tarfile(dict(contents))
    assert writer.size == len(tar) and writer.hexdigest() == xxhash.xxh3_64_hexdigest(tar)
    for offset, ((_, data), *_) in zip(offsets, pairs, strict=True):
        assert tar[offset : offset + len(data)] == data


def test_a_full_disk_is_an_error_of_the_writer():
    with open("/dev/full", "wb") as file, pytest.raises(OSError) as caught:  # noqa: PTH123
        TarWriter(file).add(("a.jpg", b"1" * 100_000))
    assert caught.value.errno == errno.ENOSPC


def test_what_the_kernel_takes_only_a_part_of_is_not_taken_for_the_whole(tmp_path):
    """A disk that is filling up takes what it has room for, and says so only when asked again."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from data_prep.shards.tar import TarWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "TarWriter(Path(sys.argv[1]).open('wb')).add(('a.jpg', bytes(10_000)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tar"], stderr=subprocess.PIPE, text=True)
    assert "OSError: [Errno 27]" in done.stderr and (tmp_path / "a.tar").stat().st_size == 5000


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
