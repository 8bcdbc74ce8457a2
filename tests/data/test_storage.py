"""A shard reads the same wherever it lies; what cannot be had is said once, and stops nobody."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest

from pipeline.config import Cache
from pipeline.data import storage as module
from pipeline.data.corpus import not_cached, open_member
from pipeline.data.recent import Recent
from pipeline.data.storage import Storage
from pipeline.dataset.blob import Unreadable
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import File, Manifest, read_manifest, write_manifest
from pipeline.dataset.remote.traffic import Fetched
from tests.data_prep.mds.folders import write_copy
from tests.datasets import make_dataset
from tests.remote import connected, upload
from tests.servers import Flaky, s3_server

SHARDS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "data"
    manifest = make_dataset(path, 240, shards=SHARDS)
    files = tuple(File.of(path, f"shards/{shard.index_name}") for shard in manifest.shards)
    write_manifest(path, Manifest(manifest.classes, "single", manifest.shards, files=files))
    return path


@pytest.fixture(scope="module")
def server(dataset):
    with s3_server() as endpoint:
        upload(endpoint, "storage", dataset)
        yield endpoint


def everything(storage: Storage, manifest: Manifest) -> list:
    """All rows and all bytes, by several threads at once."""

    def read(number):
        index, blob = storage.index(number), storage.open(number)
        return [index.row(n) for n in range(len(index))], blob.read(0, blob.size())

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(read, [*range(len(manifest.shards))] * 2))


def test_local_and_remote_are_the_same_and_requests_are_counted(dataset, server):
    manifest = read_manifest(dataset)
    here = Storage(Location.of(dataset), manifest)
    expected = everything(here, manifest)
    assert expected[0][1] == (dataset / "shards/shard-000000.tar").read_bytes()
    assert here.traffic.fetched == Fetched() and here.traffic.seconds == 0
    flaky = Flaky(server, rate=0.1, seed=1)
    with flaky.running() as proxy, connected(proxy):
        for place in ("s3://storage", f"{proxy}/storage"):
            storage = Storage(Location.of(place), read_manifest(place), retry_s=12)
            assert everything(storage, manifest) == expected
            traffic = storage.traffic
            held = sum(shard.bytes for shard in manifest.shards)
            index_bytes = sum(file.bytes for file in manifest.files)
            assert traffic.bytes == 2 * held + index_bytes  # an index is read once: a small one, all of it
            assert traffic.requests >= 3 * SHARDS and traffic.seconds > 0


def test_no_more_files_are_open_than_allowed_and_none_closes_under_a_reader(dataset, monkeypatch):
    monkeypatch.setattr(module, "_BLOBS", Recent(3))
    monkeypatch.setattr(module, "_INDEXES", Recent(3))
    manifest = read_manifest(dataset)
    storage = Storage(Location.of(dataset), manifest)
    before = len(list(Path("/proc/self/fd").iterdir()))
    first = storage.open(0)
    assert storage.open(0) is first
    assert everything(storage, manifest)[0][1] == first.read(0, 10**9)
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1 + 3 + 3
    assert storage.open(0) is not first


def test_what_is_missing(dataset, server, tmp_path):
    manifest = read_manifest(dataset)
    for name in ("shard-000001.arrow", "shard-000002.arrow", "shard-000003.tar", "shard-000004.arrow"):
        data = (dataset / "shards" / name).read_bytes()
        (tmp_path / "data/shards").mkdir(parents=True, exist_ok=True)
        if "1" not in name and "3" not in name:
            (tmp_path / "data/shards" / name).write_bytes(data[:-50] if "2" in name else data)
    here = Storage(Location.of(tmp_path / "data"), manifest)
    with pytest.raises(Unreadable, match=r"^its index is missing$"):
        here.index(1)
    with pytest.raises(WorkFailed, match=r"shard-000002\.arrow: no readable index"):
        here.index(2)
    with pytest.raises(FileNotFoundError):
        here.open(3)
    upload(server, "holey", tmp_path / "data")
    flaky = Flaky(server, rate=0, seed=1)
    with flaky.running() as proxy, connected(proxy):
        far = Storage(Location.of("s3://holey"), manifest, retry_s=3)
        with pytest.raises(Unreadable, match=r"^its index cannot be had: does not exist$"):
            far.index(1)
        asked = flaky.done.total()
        with pytest.raises(Unreadable, match=r"^its index cannot be had: does not exist$"):
            far.index(1)
        assert flaky.done.total() == asked
        with pytest.raises(WorkFailed, match=r"s3://holey/shards/shard-000002\.arrow: no readable index"):
            far.index(2)
        with pytest.raises(Unreadable, match=r"^does not exist$"):
            far.open(3).read(0, 10)
        assert far.index(4).row(3) == Storage(Location.of(dataset), manifest).index(4).row(3)


def test_a_server_that_is_away_costs_one_patience_per_file_not_per_sample(server, dataset):
    flaky = Flaky(server, rate=0, seed=1, faults=("503",), only="shards/")
    with flaky.running() as proxy, connected(proxy):
        storage = Storage(Location.of("s3://storage"), read_manifest(dataset), retry_s=2)
        flaky.rate = 1.0
        begin = monotonic()
        for _ in range(5):
            with pytest.raises(Unreadable, match="asked"):
                storage.index(0)
            with pytest.raises(Unreadable, match="asked"):
                storage.open(0).read(0, 10)
        assert monotonic() - begin < 2 * 2 + 5 * 1
        flaky.rate = 0
        assert len(storage.open(0).read(0, 10)) == 10


@pytest.mark.parametrize("hashes", [["xxh3_64"], ["sha1"], []])
def test_an_mds_folder_is_cached_where_copies_can_be_checked(dataset, server, tmp_path, hashes):
    bucket = "mds-" + "-".join(hash_.replace("_", "-") for hash_ in ("with", *hashes))
    upload(server, bucket, write_copy(dataset, tmp_path / "mds", shards=2, hashes=hashes))
    cache = Cache(dir=tmp_path / "cache", bytes="1GB")
    with connected(server):
        member = open_member(f"s3://{bucket}", "data.train")
        storage = Storage(member.location, member.manifest, cache)
        blobs = [storage.open(number) for number in range(2)]
        assert [blob.read(0, 10**9) for blob in blobs] == [
            (tmp_path / "mds" / shard.name).read_bytes() for shard in member.manifest.shards
        ]
    cached = len(list((tmp_path / "cache").glob("*.shard")))
    assert cached == (2 if "xxh3_64" in hashes else 0)
    assert [f"s3://{bucket} is not cached" in line for line in not_cached([member])] == [True] * (not cached)
