"""Reading one sample of each kind of shard: what is there, or a hole that says why not."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.recent import Recent
from pipeline.data.sample import Hole, Sample
from pipeline.dataset import containers
from pipeline.dataset.containers import TarFile, Unreadable, WebDatasetFile, parse_header
from pipeline.dataset.index import ShardIndex, write_index
from pipeline.dataset.keys import own_key
from pipeline.dataset.manifest import Manifest, Shard
from pipeline.dataset.row import IndexRow
from tests.data_prep.adopt.tars import photo, write_tar
from tests.datasets import make_dataset
from tests.reading import DatasetReader

pytestmark = pytest.mark.fast

KEY = "0123456789abcdef01234567"


def test_threads_that_read_find_numpy_complete() -> None:
    """np.unique imports numpy.ma at its first call, in a way that recurses where another thread has just done so."""
    code = "import numpy, pipeline.data.read, sys; sys.exit('ma' not in vars(numpy))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_labels_are_read_from_our_own_tars(tmp_path: Path) -> None:
    """A .cls, or a .json that goes on over more than one block."""
    many = tuple(range(1000, 1200))
    body = b'{"labels": [%s]}' % b", ".join(b"%d" % label for label in many)
    for labels, name, data in (
        ((7,), "cls", b"7"),
        ((7,), "json", b'{"labels": [7]}'),
        ((), "json", b'{"labels": []}'),
        (many, "json", body),
    ):
        path = write_tar(tmp_path / "x.tar", [(f"{KEY}.jpg", photo()), (f"{KEY}.{name}", data)])
        file = WebDatasetFile(path)
        row = IndexRow(KEY, 512, len(photo()), labels, 32, 24)
        assert file.read(row).labels == labels and file.read(row).data == photo()
        with pytest.raises(Unreadable, match=r"the shard says label .*, its index 9"):
            file.read(row._replace(labels=(9,)))
        file.close()


def test_what_is_as_shard_writes_it_is_not_parsed_and_is_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever byte of the headers or of the label is another, a reader that parses all says the same."""
    make_dataset(tmp_path, 3, shards=1, size=(16, 16))
    (path,), (index,) = (tmp_path / "shards").glob("*.tar"), (tmp_path / "shards").glob("*.arrow")
    row = ShardIndex(index).row(1)
    offset, length = WebDatasetFile(path).extent(row)
    block = path.read_bytes()[offset : offset + length]
    tail = 512 + -(-row.size // 512) * 512

    def read(block: bytes) -> object:
        try:
            return WebDatasetFile(path).parse(row, block, length)
        except Unreadable as error:
            return str(error)

    def parsed(block: bytes) -> object:
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.dataset.containers._is_as_written", lambda *_: False)
            return read(block)

    assert containers._is_as_written(row.key, row.size, row.labels[0], block) and read(block) == parsed(block)
    refused = 0
    for at in (*range(0, 140), *range(tail, tail + 140), *range(tail + 512, tail + 516)):
        for byte in (0, ord("/"), ord("7"), block[at] ^ 1):
            other = block[:at] + bytes([byte]) + block[at + 1 :]
            assert read(other) == parsed(other), at
            refused += isinstance(read(other), str)
    assert refused > 100


def test_several_labels_are_for_datasets_that_have_them(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    path = write_tar(tmp_path / "shards/x.tar", [("a.jpg", photo()), ("b.jpg", photo())])
    size = len(photo())
    second = 512 + -(-size // 512) * 512 + 512
    rows = [
        IndexRow(own_key("x.tar", "a"), 512, size, (1,), 32, 24),
        IndexRow(own_key("x.tar", "b"), second, size, (0, 1), 32, 24),
    ]
    write_index(tmp_path / "shards/x.arrow", rows)
    shard = Shard("x.tar", 2, path.stat().st_size, "0" * 16, "0" * 16)
    for kind in ("single", "multi"):
        reader = DatasetReader(tmp_path, Manifest(("a", "b"), kind, (shard,), container="tar"))
        one, two = reader.read(0), reader.read(1)
        assert isinstance(one, Sample) and (one.label, one.data) == (1, photo())
        if kind == "single":
            assert isinstance(two, Hole) and two.cause == "has 2 labels; one is needed"
        else:
            assert isinstance(two, Sample) and (two.labels, two.data) == ((0, 1), photo())


def test_headers_of_all_formats() -> None:
    block = bytearray(512)
    block[:5], block[124:136] = b"a.jpg", b"00000000123\0"
    assert parse_header(bytes(block)) == ("a.jpg", 0o123)  # V7
    block[345:350] = b"where"
    block[257:265] = b"ustar\00000"
    assert parse_header(bytes(block)) == ("where/a.jpg", 0o123)
    block[257:265] = b"ustar  \0"  # GNU keeps other things there
    assert parse_header(bytes(block)) == ("a.jpg", 0o123)
    block[124:136] = b"\x80" + bytes(10) + b"\1"  # GNU's base 256, for what is larger than any image
    assert parse_header(bytes(block)) == ("", -1)
    assert parse_header(b"") == ("", 0)


def test_a_row_before_the_first_header(tmp_path: Path) -> None:
    file = TarFile(write_tar(tmp_path / "x.tar", [("a.jpg", photo())]))
    with pytest.raises(Unreadable, match="another member"):
        file.read(IndexRow(own_key("x.tar", "a"), 100, 10, (), 1, 1))
    with pytest.raises(Unreadable, match="bytes too early"):
        file.read(IndexRow(own_key("x.tar", "a"), 512, 10**6, (), 1, 1))
    file.close()


def test_files_are_closed_when_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.storage._BLOBS", Recent(2))
    monkeypatch.setattr("pipeline.data.read._MOST_FILES", 2)
    manifest = make_dataset(tmp_path, 12, shards=6, size=(16, 16))
    reader = DatasetReader(tmp_path, manifest)
    for _ in range(2):
        assert all(isinstance(reader.read(number), Sample) for number in range(12))
    open_files = [path for path in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(path.resolve())]
    assert len([path for path in open_files if path.resolve().suffix == ".tar"]) == 2
