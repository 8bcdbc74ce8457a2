"""WebDataset tars as SOURCE: members in any order, plain or compressed; what cannot be used is rejected by name."""

import gzip
import io
import json
import random
import tarfile
import tracemalloc

import pyarrow as pa
import pytest

from data_prep.sources.base import Place
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import own_key
from tests.data_prep.sources.listing import ignored, opened, read_all, rows

pytestmark = pytest.mark.fast


def write_tar(path, members, layout=tarfile.PAX_FORMAT):
    """Members are (name, bytes), or TarInfos without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mtime = len(member[1]), 1234.5
            tar.addfile(info, io.BytesIO(member[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    compressed = {".gz": gzip.compress, ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True)}
    path.write_bytes(compressed.get(path.suffix, bytes)(buffer.getvalue()))
    return path


def samples(count, names=False):
    for number in range(count):
        yield f"d/{number:04d}.jpg", b"image %d" % number
        yield f"d/{number:04d}.cls", b"class-%d" % (number % 3) if names else b"%d\n" % (number % 3)
        yield f"d/{number:04d}.txt", b"a caption"


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("names", [False, True])
def test_members_in_any_order(tmp_path, suffix, names):
    members = list(samples(50, names))
    random.Random(1).shuffle(members)
    source = opened(write_tar(tmp_path / f"a.{suffix}", members))
    assert (source.streamed, source.numbered, source.multi) == (suffix != "tar", not names, False)
    found = rows(source)
    assert sorted(row["path"] for row in found) == [f"a.{suffix}/d/{number:04d}" for number in range(50)]
    assert sorted(row["offset"] for row in found) == [row["offset"] for row in found]
    number = int(found[0]["path"][-4:])
    assert found[0]["labels"] == [f"class-{number % 3}" if names else str(number % 3)]
    assert read_all(source)[f"a.{suffix}/d/0017"] == b"image 17"
    assert ignored(source) == {"tar members that are neither image nor label": 50}


def test_json_labels_and_several(tmp_path):
    members = [
        ("1.png", b"1"),
        ("1.json", b'{"label": ["b", "a"], "x": 1}'),
        ("2.png", b"2"),
        ("2.json", b'{"cls": "c"}'),
    ]
    source = opened(write_tar(tmp_path / "a.tar", members))
    assert (source.multi, source.numbered) == (True, False)
    assert [row["labels"] for row in rows(source)] == [["b", "a"], ["c"]]


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def test_what_cannot_be_used_is_rejected_by_name(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    cases = [
        ([("a.jpg", b"x")], "no label"),
        ([("a.cls", b"1")], "no image"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], "several images of one name: a.jpg, a.png"),
        ([("a.1.jpg", b"x"), ("a.cls", b"1")], "a.1.jpg has more than one dot"),
        ([("a.jpg", b"x"), ("a.cls", b"-1")], "label -1 is no class id"),
        ([("a.jpg", b"x"), ("a.cls", b"dog")], "label 'dog' is a name, where the source has numbers"),
        ([("a.jpg", b"x"), ("a.json", b"{")], "its .json is damaged"),
        ([("a.jpg", b"x"), ("a.cls", b"1"), ("a.cls", b"1")], "several .cls of one name"),
        ([("a.jpg", b"x"), ("a.json", b" " * 2**21)], "its .json has 2,097,152 bytes"),
        ([link("a.jpg"), ("a.cls", b"1")], "a.jpg is a link"),
        ([link("a.jpg", tarfile.LNKTYPE), ("a.cls", b"1")], "a.jpg is a link"),
        ([link("a.jpg", tarfile.CHRTYPE), ("a.cls", b"1")], "a.jpg is a device"),
        ([(f"{tmp_path}/a.jpg", b"x"), (f"{tmp_path}/a.cls", b"1")], "has an absolute name"),
        ([("../a.jpg", b"x"), ("../a.cls", b"1")], "has a name with '..'"),
    ]
    for number, (members, reason) in enumerate(cases):
        path = write_tar(tmp_path / f"tars/{number}.tar", [*samples(64), *members])
        found = rows(opened(path))
        assert not any(row["reject"] for row in found[:64])
        assert reason in " ".join(row["reject"] for row in found[64:]), reason
    assert secret.read_bytes() == b"secret"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.jpg", "tars"]


def test_a_sample_that_has_a_key_keeps_it(tmp_path):
    key = "0123456789abcdef01234567"
    found = rows(opened(write_tar(tmp_path / "a.tar", [(f"x/{key}.jpg", b"x"), (f"x/{key}.cls", b"1")])))
    assert own_key("a.tar", f"x/{key}.jpg") == key == found[0]["path"].rpartition("/")[2]


def test_hard_names(tmp_path):
    names = ["n" * 290, "写真/ü", "new\nline", "a/b/c", "q\"u,o'te"]
    members = [(f"{name}{suffix}", b"1") for name in names for suffix in (".JPG", ".cls")]
    found = read_all(opened(write_tar(tmp_path / "a.tar", members)))
    assert list(found) == [f"a.tar/{name}" for name in ("n" * 290, "写真/ü", r"new\x0aline", "a/b/c", "q\"u,o'te")]
    assert set(found.values()) == {b"1"}


def test_many_tars_are_one_source(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", list(samples(2)))
    given, folder = opened(*(tmp_path / f"{number}.tar" for number in range(3))), opened(tmp_path)
    assert (given.name, folder.name) == ("0.tar to 2.tar (3 tars)", tmp_path.name)
    assert [row["path"] for row in rows(given)] == [row["path"] for row in rows(folder)]
    write_tar(tmp_path / "3.tar.gz", [])
    with pytest.raises(UsageError, match="some of its tars are compressed"):
        opened(tmp_path)
    (tmp_path / "3.tar.gz").rename(tmp_path / "list.csv")
    with pytest.raises(UsageError, match=r"holds tars \(0.tar\) and tables \(list.csv\)"):
        opened(tmp_path)


def test_a_damaged_tar_is_refused_by_name(tmp_path):
    path = write_tar(tmp_path / "a.tar", list(samples(20)))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UsageError, match=r"a.tar: ends at byte 20,000, within "):
        rows(opened(path))
    path = write_tar(tmp_path / "b.tar.gz", list(samples(20)))
    source = opened(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UsageError, match=r"b.tar.gz: .*; leave it out, or make it again"):
        rows(source)
    with pytest.raises(WorkFailed, match=r"b\.tar\.gz"):
        list(source.stream(str(path)))


def test_a_tar_that_is_another_now_gives_no_image(tmp_path):
    members = [("1.jpg", b"x" * 100), ("1.cls", b"1"), ("2.jpg", b"y" * 100), ("2.cls", b"1")]
    path = write_tar(tmp_path / "a.tar", members, tarfile.GNU_FORMAT)
    source = opened(path)
    first, second = (Place(row["file"], row["offset"], row["bytes"]) for row in rows(source))
    data = path.read_bytes()
    path.write_bytes(data[:2048] + bytes(1024) + data[3072:])
    assert source.read(first) == b"x" * 100
    with pytest.raises(ImageError, match="changed since it was listed"):
        source.read(second)
    path.write_bytes(data[:600])
    with pytest.raises(ImageError, match="it ends before the image does"):
        source.read(first)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar.gz", [("1.jpg", bytes(30 * 2**20)), ("1.cls", b"1")])
    assert path.stat().st_size < 50_000
    monkeypatch.setattr("data_prep.sources.inflate._SLACK", 2**20)
    with pytest.raises(UsageError, match="refused as a bomb"):
        rows(opened(path))


def test_a_label_file_of_thousands_is_not_held_as_images(tmp_path):
    """What is kept of a tar is names and places."""
    members = [("big.jpg", b"x" * 20_000_000), ("big.json", json.dumps({"label": 1}).encode())]
    source = opened(write_tar(tmp_path / "a.tar", members))
    tracemalloc.start()
    assert len(rows(source)) == 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
