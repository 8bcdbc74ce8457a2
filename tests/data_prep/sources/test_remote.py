"""Sources on a real S3 server, and behind a proxy that fails as networks do: every byte is right in the end, or it is
one line that says why not. No credential is ever shown."""

import gzip
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.common.prefetch import prefetch
from data_prep.sources.base import Place
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.remote import filesystems
from tests.data_prep.mds.folders import write_folder
from tests.data_prep.sources.listing import opened, read_all, rows
from tests.data_prep.sources.test_tables import hugging_face
from tests.data_prep.sources.test_tars import samples, write_tar
from tests.runs import CHECKOUT
from tests.servers import Flaky, dead_server, environment, fill, s3_server, silent_server

PHOTOS = {f"photos/{'ab'[n % 2]}/deep {n // 20}/ü {n}.jpg": random.Random(n).randbytes(1000 * n) for n in range(40)}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An S3 with one of everything."""
    folder = tmp_path_factory.mktemp("bucket")
    paths = [name.removeprefix("photos/") for name in PHOTOS]
    pq.write_table(pa.table({"path": paths, "label": list(range(len(paths)))}), folder / "list.parquet")
    hugging_face(folder / "hf.parquet")
    write_tar(folder / "a.tar", list(samples(50)))
    write_tar(folder / "a.tar.gz", list(samples(50)))
    write_folder(
        folder / "mds", {"image": "jpeg", "label": "int"}, [{"image": b"x%d" % n, "label": n} for n in range(9)], 2
    )
    extra = {
        "photos/list.parquet": folder / "list.parquet", "hf/a.parquet": folder / "hf.parquet",
        "tars/a.tar": folder / "a.tar",
        "packed/a.tar.gz": folder / "a.tar.gz",
    } | {f"mds/{path.name}": path for path in (folder / "mds").iterdir()}  # fmt: skip
    table = "".join(f"{name.removeprefix('photos/')},{n}\r\n" for n, name in enumerate(PHOTOS))
    with s3_server() as endpoint:
        more = {key: path.read_bytes() for key, path in extra.items()}
        tables = {"photos/list.csv.gz": gzip.compress(f"path,label\r\n{table}".encode())}
        tables["photos/a/notes.txt"] = tables["photos/"] = tables["photos/.hidden/a/1.jpg"] = b""
        fill(endpoint, "bucket", PHOTOS | more | tables)
        yield endpoint


@pytest.fixture
def connect(monkeypatch):
    """Makes this process talk to an endpoint."""

    def to(endpoint, seconds=12):
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VITSTREAM_RETRY_SECONDS", str(seconds))
        filesystems._opened.cache_clear()

    yield to
    filesystems._opened.cache_clear()


def images(prefix=""):
    return {prefix + name.removeprefix("photos/"): data for name, data in PHOTOS.items()}


def test_a_folder_in_a_bucket_is_listed_as_one_on_disk(server, connect, tmp_path):
    connect(server)
    for name, data in PHOTOS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    local, remote = opened(tmp_path / "photos"), opened("s3://bucket/photos/")
    assert (remote.name, remote.remote) == ("s3://bucket/photos", True)
    assert rows(remote) == rows(local)
    assert read_all(remote) == images()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bucket/photos/list.csv.gz", images()),
        ("s3://bucket/hf", {f"a.parquet/{n}": b"image %d" % n for n in range(100)}),
        ("s3://bucket/tars", {f"a.tar/d/{n:04d}": b"image %d" % n for n in range(50)}),
        ("{http}/bucket/tars/a.tar?signature=secret", {f"a.tar/d/{n:04d}": b"image %d" % n for n in range(50)}),
        ("s3://bucket/packed/a.tar.gz", {f"a.tar.gz/d/{n:04d}": b"image %d" % n for n in range(50)}),
        ("s3://bucket/mds", {f"shard.0000{n >= 4:d}.mds/{n - 4 * (n >= 4)}": b"x%d" % n for n in range(9)}),
    ],
)
def test_every_kind_of_source_through_a_flaky_network(server, connect, source, expected):
    flaky = Flaky(server, rate=0.1, seed=len(expected))
    with flaky.running() as proxy:
        connect(proxy)
        found = read_all(opened(source.format(http=proxy)))
    assert found == expected
    assert flaky.done["fine"] > 0


def test_a_page_of_a_listing_that_fails_is_asked_for_again_alone(server, connect):
    fill(server, "large", {f"a/{n:04d}.jpg": b"" for n in range(1200)} | {"b/1.jpg": b"", "empty/": b""})
    flaky = Flaky(server, rate=0.4, seed=2)
    with flaky.running() as proxy:
        connect(proxy, seconds=6)
        found = rows(opened("s3://large"))
    assert [row["path"] for row in found] == [*(f"a/{n:04d}.jpg" for n in range(1200)), "b/1.jpg"]
    fill(server, "slashes", {"a/1.jpg": b"", "a//2.jpg": b""})
    connect(server)
    with pytest.raises(UsageError, match="s3://slashes/a: has keys with two slashes in a row"):
        rows(opened("s3://slashes"))


def test_many_reads_at_once_come_in_order_whatever_fails(server, connect):
    flaky = Flaky(server, rate=0.2, seed=1)
    with flaky.running() as proxy:
        connect(proxy)
        source = opened("s3://bucket/photos")
        listed = rows(source)
        places = [Place(row["file"], row["offset"], row["bytes"]) for row in listed]
        places.insert(5, Place("a/nowhere.jpg", 0, 10))
        found = list(prefetch(source, places, threads=16))
    missing = found.pop(5)
    assert str(missing) == "s3://bucket/photos/a/nowhere.jpg: does not exist"
    assert found == [images()[row["path"]] for row in listed]
    assert flaky.done.total() - flaky.done["fine"] > 3


def test_no_more_is_read_ahead_than_threads(server, connect):
    connect(server)
    taken = []

    class Counting:
        def read(self, place):
            taken.append(place)
            return b""

    found = prefetch(Counting(), list(range(100)), threads=4)
    for _ in range(10):
        next(found)
    found.close()
    assert len(taken) <= 14


@pytest.mark.parametrize("broken", [dead_server, silent_server])
@pytest.mark.parametrize("source", ["s3://bucket/photos", "{http}/list.csv", "s3://bucket/a.tar"])
def test_a_server_that_does_not_answer_is_one_line(connect, broken, source):
    with broken() as endpoint:
        connect(endpoint, seconds=2)
        with pytest.raises(
            WorkFailed, match=r"does not answer \(.*\); run the same command again to continue"
        ) as caught:
            rows(opened(source.format(http=endpoint)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("s3://nowhere/photos", "does not exist"),
        ("s3://bucket/nothing/here", "does not exist"),
        ("s3://bucket/nothing/list.csv", "does not exist"),
        ("s3://bucket/photos/a/deep 0", "an image without a class"),
        ("{http}/bucket/photos", "HTTP cannot list a folder"),
        ("file:///etc/passwd", "not a URL that can be read"),
        ("pipe://cat", "not a URL that can be read"),
        ("s3://", "not a URL that can be read"),
        ("ftp://host/x.csv", "not a URL that can be read"),
    ],
)
def test_what_is_no_source_is_one_line(server, connect, source, reason):
    connect(server)
    with pytest.raises(UsageError, match=reason):
        rows(opened(source.format(http=server)))


def test_an_object_that_changed_is_rejected(server, connect):
    connect(server)
    source = opened("s3://bucket/photos")
    (row,) = [row for row in rows(source) if row["path"].endswith("ü 7.jpg")]
    with pytest.raises(ImageError, match="changed since it was listed: it is shorter now"):
        source.read(Place(row["file"], 0, 7001))


def test_credentials_are_neither_shown_nor_stored(server, connect, tmp_path):
    connect(server, seconds=1)
    with dead_server() as dead:
        host = dead.removeprefix("http://")
        urls = [f"http://me:secret@{host}/1.jpg?sig=secret", f"{server}/bucket/nowhere.jpg?sig=secret#secret"]
        (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{url},x\n" for url in urls))
        source = opened(tmp_path / "a.csv")
        listed = rows(source)
        assert [row["path"] for row in listed] == [f"http://{host}/1.jpg", f"{server}/bucket/nowhere.jpg"]
        said = []
        for row in listed:
            with pytest.raises((ImageError, WorkFailed)) as caught:
                source.read(Place(row["file"], 0, -1))
            said.append(str(caught.value))
        with pytest.raises(WorkFailed) as caught:
            opened(f"http://me:secret@{host}/a.tar?sig=secret")
    assert "secret" not in " ".join([*said, str(caught.value)])


def test_without_credentials_it_is_one_line(server, connect, monkeypatch, tmp_path):
    connect(server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no AWS credentials: set AWS_PROFILE, or FSSPEC_S3_ANON=true"):
        rows(opened("s3://bucket/photos"))


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("http", "aiohttp", "http")]
)
def test_a_missing_package_is_named(scheme, module, extra):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from data_prep.sources import open_sources\n"
        "from data_prep.sources.options import SourceOptions\n"
        "from pipeline.dataset.errors import UsageError\n"
        f"try: open_sources(['{scheme}://h/b/a.tar'], SourceOptions())\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout == f"{scheme}:// needs a package that is not installed: pip install 'vitstream[{extra}]'\n"
