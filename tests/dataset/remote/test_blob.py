"""A remote file reads as a local one does, through any network that answers now and then; or it is one line why not."""

import random
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import pytest

from pipeline.dataset.blob import LocalBlob, Unreadable
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.index import ShardIndex, write_index
from pipeline.dataset.keys import sample_key
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.remote.blob import RemoteBlob, read_file
from pipeline.dataset.remote.patience import Patience
from pipeline.dataset.remote.traffic import Traffic
from pipeline.dataset.row import IndexRow
from tests.datasets import make_dataset
from tests.remote import connected, upload
from tests.servers import Flaky, dead_server, fill, s3_server, silent_server

CONTENT = random.Random(0).randbytes(1_000_000)
NAMES = ("plain.tar", "ü %41 #1?.tar")
ROWS = [IndexRow(sample_key(str(n)), 512 + 4096 * n, 3000, (n % 7,), 400, 300) for n in range(5000)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    write_index(folder / "long.arrow", ROWS)
    write_index(folder / "short.arrow", ROWS[:100])
    index = (folder / "long.arrow").read_bytes()
    make_dataset(folder / "data", 100)
    with s3_server() as endpoint:
        fill(endpoint, "blobs", dict.fromkeys(NAMES, CONTENT) | {"empty": b"", "more/a": b"a"})
        flipped = bytes(byte ^ 255 if 999 < at < 2000 else byte for at, byte in enumerate(index))
        damaged = {"none": CONTENT[:5000], "cut": index[:-100_000], "flipped": flipped}
        fill(endpoint, "indexes", damaged | {"long": index, "short": (folder / "short.arrow").read_bytes()})
        upload(endpoint, "datasets", folder / "data")
        yield endpoint, folder


def urls(endpoint, name):
    return [(Location(root) / name).text for root in ("s3://blobs", f"{endpoint}/blobs/?sig=secret")]


@pytest.mark.parametrize("rate", [0, 0.15])
def test_any_range_is_that_of_the_file(server, rate, tmp_path):
    endpoint, _ = server
    (tmp_path / "file").write_bytes(CONTENT)
    local = LocalBlob(tmp_path / "file")
    chance = random.Random(1)
    ranges = [(chance.randrange(1_100_000), chance.randrange(200_000)) for _ in range(20)]
    ranges += [(0, 2_000_000), (999_999, 1), (999_999, 2), (1_000_000, 1), (0, 0), (5_000_000, 10)]
    flaky = Flaky(endpoint, rate, seed=3)
    with flaky.running() as proxy, connected(proxy):
        for kind, name in enumerate(NAMES):
            traffic = Traffic(hedges=True)
            blob = RemoteBlob(urls(proxy, name)[kind], Patience.lasting(12), traffic=traffic)
            assert (blob.name, blob.size()) == (name, len(CONTENT))
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(lambda place, blob=blob: blob.read(*place), ranges))
            assert found == [local.read(*place) for place in ranges]
            assert len(ranges) - 1 <= traffic.requests <= 2 * len(ranges) + 20
            assert rate or traffic.retries == 0
    assert (flaky.done.total() > flaky.done["fine"]) == (rate > 0)


def test_nothing_and_what_is_empty(server):
    endpoint, _ = server
    with connected(endpoint):
        for empty, missing in zip(urls(endpoint, "empty"), urls(endpoint, "missing"), strict=True):
            assert RemoteBlob(empty).read(0, 100) == read_file(empty) == b""
            for ask in (RemoteBlob(missing).size, lambda url=missing: RemoteBlob(url).read(0, 1)):
                with pytest.raises(Unreadable, match=r"^does not exist$"):
                    ask()
            with pytest.raises(FileNotFoundError):
                read_file(missing)
        for nowhere in ("s3://no-such-bucket/a", "s3://blobs/more"):
            with pytest.raises(Unreadable, match=r"^does not exist$"):
                RemoteBlob(nowhere).read(0, 1)


@pytest.mark.parametrize("kind", [0, 1])
def test_what_never_answers_is_one_line_after_the_patience_and_less_from_then_on(server, kind):
    endpoint, _ = server
    flaky = Flaky(endpoint, 1.0, seed=1, faults=("503",))
    with flaky.running() as proxy, connected(proxy):
        blob = RemoteBlob(urls(proxy, "plain.tar")[kind], Patience.lasting(3))
        took = []
        for _ in range(2):
            begin = monotonic()
            with pytest.raises(Unreadable, match=r"^(HTTP 503|503), for as long as it was asked$"):
                blob.read(0, 10)
            took.append(monotonic() - begin)
        assert took[1] < took[0]
        flaky.rate = 0
        assert blob.read(0, 10) == CONTENT[:10]


@pytest.mark.parametrize("broken", [dead_server, silent_server])
def test_a_dead_server_is_one_line_for_blobs_manifests_and_indexes(broken):
    with broken() as endpoint, connected(endpoint, seconds=1.5):
        for url in urls(endpoint, "plain.tar"):
            with pytest.raises(Unreadable, match="for as long as it was asked"):
                RemoteBlob(url).read(0, 10)
        with pytest.raises(WorkFailed, match="does not answer"):
            read_manifest(f"{endpoint}/data")
        with pytest.raises(Unreadable, match="asked"):
            ShardIndex(RemoteBlob(f"{endpoint}/shard.arrow"))


def test_a_second_request_overtakes_one_that_hangs_and_they_are_few(server):
    """The hanging one would be given up after ten seconds."""
    endpoint, _ = server
    for kind in (0, 1):
        flaky = Flaky(endpoint, 0, seed=1, stall_s=30, faults=("silence",))
        with flaky.running() as proxy, connected(proxy):
            traffic = Traffic(hedges=True)
            blob = RemoteBlob(urls(proxy, "plain.tar")[kind], Patience.lasting(60), traffic=traffic)
            for number in range(60):
                assert blob.read(number, 5) == CONTENT[number : number + 5]
            requests, hedges = traffic.requests, traffic.hedges
            assert hedges <= 1, "a busy machine may be slow once"
            flaky.rate = 1.0
            with ThreadPoolExecutor(1) as pool:
                begin = monotonic()
                answer = pool.submit(blob.read, 7, 7)
                while not flaky.done["silence"]:
                    sleep(0.01)
                flaky.rate = 0
                assert answer.result() == CONTENT[7:14]
            assert 0.9 < monotonic() - begin < 9
            assert (traffic.requests, traffic.hedges, traffic.retries) == (requests + 2, hedges + 1, 0)


def test_no_more_than_one_request_in_twenty_is_a_second_one():
    traffic = Traffic(hedges=True)
    hedged = 0
    for _ in range(400):
        traffic.asked()
        hedged += traffic.hedge()
    assert 15 <= hedged == traffic.hedges <= 22
    assert not Traffic().hedge() and Traffic().long_s(1) == float("inf")


def test_a_manifest_is_read_from_anywhere_or_said_to_be_missing(server):
    endpoint, folder = server
    with connected(endpoint):
        for place in ("s3://datasets", f"{endpoint}/datasets?sig=secret"):
            assert read_manifest(place) == read_manifest(folder / "data")
        with pytest.raises(UsageError, match=r"/blobs: no dataset\.json there") as caught:
            read_manifest(f"{endpoint}/blobs?sig=secret")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["long", "short"])
def test_an_index_is_read_by_its_footer_and_batches(server, name):
    endpoint, _ = server
    rows = ROWS if name == "long" else ROWS[:100]
    with connected(endpoint):
        traffic = Traffic()
        index = ShardIndex(RemoteBlob(f"s3://indexes/{name}", size=None, traffic=traffic), len(rows))
        assert [index.row(position) for position in range(20, 60)] == rows[20:60]
        assert traffic.requests == (2 if name == "long" else 1)
        assert traffic.bytes < 80_000
        assert index.row(len(rows) - 1) == rows[-1]
        assert (len(index), index.find(rows[77].key)) == (len(rows), 77)
        assert index.keys() == [row.key for row in rows]
        assert len(index._batches) <= 2


def test_damaged_indexes_are_named_and_missing_ones_are_unreadable(server):
    endpoint, _ = server
    with connected(endpoint):
        for name in ("none", "cut"):
            with pytest.raises(WorkFailed, match="no readable index"):
                ShardIndex(RemoteBlob(f"s3://indexes/{name}"), where=f"s3://indexes/{name}")
        with pytest.raises(WorkFailed, match=r"4999|5000"):
            ShardIndex(RemoteBlob("s3://indexes/long"), 4999).row(4998)
        with pytest.raises(WorkFailed, match="the manifest says 300"):
            ShardIndex(RemoteBlob("s3://indexes/long"), 300)
        with pytest.raises(WorkFailed, match="no readable index"):
            ShardIndex(RemoteBlob("s3://indexes/flipped")).row(3)
        assert ShardIndex(RemoteBlob("s3://indexes/flipped")).row(4000) == ROWS[4000]
        with pytest.raises(Unreadable, match=r"^does not exist$"):
            ShardIndex(RemoteBlob("s3://indexes/missing"))


def test_credentials_that_are_missing_stop_everything(server, tmp_path):
    endpoint, _ = server
    with connected(endpoint), pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(WorkFailed, match="no AWS credentials"):
            RemoteBlob("s3://blobs/plain.tar").read(0, 1)
        with pytest.raises(UsageError, match="no AWS credentials"):
            read_manifest("s3://datasets")
