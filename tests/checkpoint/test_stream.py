"""A file is hashed as it is written, and what has changed since is named by its bytes."""

import errno
import hashlib
import os
import resource

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint import stream
from pipeline.checkpoint.stream import BLOCK_BYTES, changed_bytes, sha256_of, write_hashed

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks of 64 bytes, of which another thread writes pieces of 16 and more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BYTES", 64)
        patch.setattr(stream, "_SMALL", 16)
        yield


@settings(deadline=None)
@given(views=st.lists(st.binary(max_size=300), max_size=12))
def test_any_views_become_one_file_with_its_hashes(tmp_path_factory, views):
    path = tmp_path_factory.mktemp("stream") / "file"
    entry = write_hashed(path, map(memoryview, views))
    whole = b"".join(views)
    assert path.read_bytes() == whole
    blocks = [xxhash.xxh3_64_hexdigest(whole[at : at + 64]) for at in range(0, len(whole), 64)]
    sha256 = hashlib.sha256(whole).hexdigest()
    assert entry == {"name": "file", "bytes": len(whole), "sha256": sha256, "block_bytes": 64, "blocks": blocks}
    assert sha256_of(path) == sha256 and changed_bytes(path, 64, blocks) == []


@pytest.mark.parametrize(
    ("changed", "stretches"),
    [([0], [(0, 63)]), ([64], [(64, 127)]), ([10, 70, 199], [(0, 127), (192, 199)]), ([127, 128], [(64, 191)])],
)
def test_changed_bytes_are_named_by_their_blocks(tmp_path, changed, stretches):
    data = bytearray(os.urandom(200))
    entry = write_hashed(tmp_path / "file", [memoryview(bytes(data))])
    for at in changed:
        data[at] ^= 1
    (tmp_path / "file").write_bytes(data)
    assert changed_bytes(tmp_path / "file", 64, entry["blocks"]) == stretches


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        write_hashed(tmp_path / "file", [memoryview(b"y")])
    assert (tmp_path / "file").read_bytes() == b"x"


def test_what_the_disk_refuses_is_raised_and_later_pieces_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", BLOCK_BYTES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))  # Python ignores SIGXFSZ: EFBIG, as a full disk's
    try:
        with pytest.raises(OSError) as raised:
            write_hashed(tmp_path / "file", [memoryview(bytes(2**19)) for _ in range(64)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert (tmp_path / "file").stat().st_size == 2**20
