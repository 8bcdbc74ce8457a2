"""The node's cache, with real processes: every byte is fetched once, the bound holds, nothing in use goes, and whatever
is killed, full, flipped or replaced, what is read is right."""

import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash

from pipeline.config import Cache
from pipeline.data import cache as module
from pipeline.data.cache import LOCK_NAME, folder_of, open_folder
from pipeline.data.storage import Storage
from pipeline.dataset.blob import LocalBlob, Unreadable
from pipeline.dataset.errors import UsageError
from pipeline.dataset.location import Location
from tests.data.cache_reader import manifest_of
from tests.remote import connected
from tests.runs import CHECKOUT
from tests.servers import Flaky, child_environment, fill, s3_server

SHARDS, SIZE = 6, 3_000_000
DATA = {kind: [random.Random(f"{kind}{n}").randbytes(SIZE + n) for n in range(SHARDS)] for kind in "abc"}

SHARDS_OF = {
    kind: [(f"{n}.tar", len(d), xxhash.xxh3_64_hexdigest(d)) for n, d in enumerate(DATA[kind])] for kind in DATA
}


def hashes(kind: str) -> list[str]:
    return [xxh3 for _, _, xxh3 in SHARDS_OF[kind]]


@pytest.fixture(scope="module")
def server():
    with s3_server() as endpoint:
        for kind, shards in DATA.items():
            fill(endpoint, f"cached-{kind}", {f"shards/{n}.tar": data for n, data in enumerate(shards)})
        yield endpoint


@pytest.fixture
def local(tmp_path):
    """Dataset a on a file system."""
    (tmp_path / "data/shards").mkdir(parents=True)
    for number, data in enumerate(DATA["a"]):
        (tmp_path / f"data/shards/{number}.tar").write_bytes(data)
    return tmp_path / "data"


class Reader:
    """One such process."""

    def __init__(self, place, kind, folder, limit, numbers=range(SHARDS), piece=2**20, endpoint="http://none", **popen):
        job = json.dumps([str(place), SHARDS_OF[kind], str(folder), limit, list(numbers), piece])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command, environment = [sys.executable, "-m", "tests.data.cache_reader", job], child_environment(endpoint)
        self.process = subprocess.Popen(command, env=environment, cwd=CHECKOUT, text=True, **pipes, **popen)

    def ready(self):
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        return self

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self):
        """(hashes, bytes that came, second requests)"""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def end(self):
        """What it said on stderr."""
        return self.process.communicate()[1]


def start(count, *arguments, **options):
    readers = [Reader(*arguments, **options) for _ in range(count)]
    return [reader.ready() for reader in readers]


def storage_of(place, kind, folder, limit="100MB", retry_s=20.0):
    folder_of.cache_clear()  # as a process that has just started
    return Storage(Location.of(place), manifest_of(SHARDS_OF[kind]), Cache(dir=folder, bytes=limit), retry_s)


def read(storage, numbers=range(SHARDS)):
    return [xxhash.xxh3_64_hexdigest(storage.open(number).read(0, 10**9)) for number in numbers]


def files(folder, suffix="shard"):
    return sorted(path for path in folder.iterdir() if path.suffix == f".{suffix}")


def age(folder):
    """All that lies there was last opened an hour ago."""
    for path in files(folder):
        os.utime(path, (time.time() - 3600,) * 2)


def test_four_processes_fetch_every_byte_once(server, tmp_path):
    flaky = Flaky(server, rate=0, seed=1)
    with flaky.running() as proxy:
        readers = start(4, "s3://cached-a", "a", tmp_path / "cache", "100MB", endpoint=proxy)
        for reader in readers:
            reader.go()
        answers = [reader.answer() for reader in readers]
    assert [found for found, *_ in answers] == [hashes("a")] * 4
    once = Counter({f"/cached-a/shards/{n}.tar": len(data) for n, data in enumerate(DATA["a"])})
    twice = 2**20 * sum(hedges for *_, hedges in answers)  # on a machine so busy that an answer took a second
    assert flaky.sent >= once and (flaky.sent - once).total() <= twice
    assert sum(came for _, came, _ in answers) == sum(map(len, DATA["a"]))
    assert [path.read_bytes() for path in files(tmp_path / "cache")] == [
        DATA["a"][hashes("a").index(path.name[:16])] for path in files(tmp_path / "cache")
    ]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        LOCK_NAME, *(f"{xxh3}-{size}.shard" for _, size, xxh3 in SHARDS_OF["a"])
    }  # fmt: skip
    for reader in readers:
        assert reader.end() == ""


def test_who_fetches_is_killed_and_another_goes_on(server, tmp_path):
    flaky = Flaky(server, rate=0, seed=1, pace=2_000_000)
    with flaky.running() as proxy:
        killed, *others = start(3, "s3://cached-a", "a", tmp_path, "100MB", numbers=[0], piece=2**18, endpoint=proxy)
        killed.go()
        while not (files(tmp_path, "part") and flaky.sent.total() > 2**18):
            time.sleep(0.01)
        for reader in others:
            reader.go()
        time.sleep(0.3)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        flaky.pace = 0
        assert [reader.answer()[0] for reader in others] == [hashes("a")[:1]] * 2
    assert SIZE < flaky.sent.total() < 2 * SIZE
    assert len(files(tmp_path)) == 1 and not files(tmp_path, "part")
    for reader in others:
        reader.end()


def test_what_killed_ones_left_goes_at_the_next_start(server, tmp_path):
    flaky = Flaky(server, rate=0, seed=1, pace=100_000)
    with flaky.running() as proxy:
        readers = start(2, "s3://cached-a", "a", tmp_path, "100MB", endpoint=proxy)
        for reader in readers:
            reader.go()
        while not files(tmp_path, "part"):
            time.sleep(0.01)
        for reader in readers:
            reader.process.kill()
            reader.process.wait()
        assert files(tmp_path, "part")
        with connected(proxy):
            storage_of("s3://cached-a", "a", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]
    assert json.loads((tmp_path / LOCK_NAME).read_text())["used"] == 0


def test_two_runs_at_once_stay_within_the_bound(server, tmp_path):
    """Each would need all of it; a third party watches the disk."""
    limit = 4 * SIZE + 100
    flaky = Flaky(server, rate=0.03, seed=1, faults=("503", "truncated", "shortened", "reset"))
    with flaky.running() as proxy:
        readers = start(2, "s3://cached-a", "a", tmp_path, str(limit), endpoint=proxy)
        readers += start(2, "s3://cached-b", "b", tmp_path, str(limit), endpoint=proxy)
        for reader in readers:
            reader.go()
        most, answers = 0, []
        with ThreadPoolExecutor(4) as pool:
            pending = [pool.submit(reader.answer) for reader in readers]
            while not all(answer.done() for answer in pending):
                most = max(most, sum(int(path.stem.partition("-")[2]) for path in tmp_path.glob("[0-9a-f]*-*.*")))
                time.sleep(0.005)
            answers = [answer.result()[0] for answer in pending]
    assert answers == [hashes("a")] * 2 + [hashes("b")] * 2
    assert 2 * SIZE < most <= limit
    said = "".join(reader.end() for reader in readers)
    assert said.count("\n") == 1 and "are in use; what has no room is read by ranges" in said


def test_the_least_recently_opened_go_but_none_that_is_open_or_rests(server, tmp_path):
    with connected(server):
        (held,) = start(1, "s3://cached-a", "a", tmp_path, "100MB", numbers=[0, 1], endpoint=server)
        held.go()
        held.answer()
        read(storage_of("s3://cached-a", "a", tmp_path))
        module_blobs_let_go()
        age(tmp_path)
        for order, number in enumerate([5, 3, 4, 2]):
            os.utime(tmp_path / f"{hashes('a')[number]}-{SIZE + number}.shard", (order + 1,) * 2)
        stranger, link = tmp_path / "mine.shard", tmp_path / f"{'0' * 16}-5.shard"
        stranger.write_bytes(b"mine")
        link.symlink_to(stranger)
        folder = f"{(SHARDS + 1) * SIZE + 100}"
        assert read(storage_of("s3://cached-b", "b", tmp_path, folder), [0, 1, 2]) == hashes("b")[:3]
        here = {path.name[:16] for path in files(tmp_path)} - {link.name[:16], "mine.shard"}
        # There is room for seven: 0 and 1 are open, 5 and 3 are the oldest.
        assert here == {*(hashes("a")[n] for n in (0, 1, 2, 4)), *hashes("b")[:3]}
        assert read(storage_of("s3://cached-b", "b", tmp_path, folder)) == hashes("b")
        here = {path.name[:16] for path in files(tmp_path)} - {link.name[:16], "mine.shard"}
        assert here == {*hashes("a")[:2], *hashes("b")[:5]}  # never one of its own for another
        module_blobs_let_go()
        assert read(storage_of("s3://cached-c", "c", tmp_path, folder), [0]) == hashes("c")[:1]
        assert {path.name[:16] for path in files(tmp_path)} >= here  # opened a moment ago: they rest
        held.end()
        assert stranger.read_bytes() == b"mine" and link.is_symlink()


def module_blobs_let_go():
    """As if this process had ended."""
    from pipeline.data import storage

    storage._BLOBS._entries.clear()


def test_a_copy_that_has_rotted_is_dropped_and_read_from_its_origin(server, tmp_path):
    flaky = Flaky(server, rate=0, seed=1)
    with flaky.running() as proxy, connected(proxy):
        storage = storage_of("s3://cached-a", "a", tmp_path)
        assert read(storage, [0, 1]) == hashes("a")[:2]
        path = tmp_path / f"{hashes('a')[0]}-{SIZE}.shard"
        with path.open("r+b") as file:
            file.seek(12_345)
            file.write(bytes([DATA["a"][0][12_345] ^ 1]))
        assert storage.open(0).read(12_345, 1) != DATA["a"][0][12_345:12_346]
        assert storage.forget(1) is False
        assert storage.forget(0) is True
        assert storage.forget(0) is True  # another thread, which read before
        assert not path.exists()
        assert storage.open(0, at_once=True).read(12_345, 1) == DATA["a"][0][12_345:12_346]
        assert read(storage, [0, 1]) == hashes("a")[:2]
        assert path.read_bytes() == DATA["a"][0]
        assert json.loads((tmp_path / LOCK_NAME).read_text())["used"] == 2 * SIZE + 1
        assert Storage(Location.of("s3://cached-a"), manifest_of(SHARDS_OF["a"])).forget(0) is False


def test_at_once_does_not_wait(server, tmp_path):
    flaky = Flaky(server, rate=0, seed=1, pace=1_000_000)
    with flaky.running() as proxy, connected(proxy), ThreadPoolExecutor(1) as pool:
        storage = storage_of("s3://cached-a", "a", tmp_path)
        whole = pool.submit(storage.open, 0)
        while not flaky.sent.total():
            time.sleep(0.01)
        assert storage.open(0, at_once=True).read(1_000_000, 10) == DATA["a"][0][1_000_000:1_000_010]
        assert not whole.done()
        flaky.pace = 0
        assert isinstance(whole.result(), LocalBlob)
        assert storage.open(0, at_once=True) is whole.result()


def test_a_shard_that_is_another_one_is_unreadable_and_the_rest_is_not(server, tmp_path):
    data = dict(enumerate(DATA["a"])) | {1: DATA["b"][1], 2: DATA["a"][2][:-1]}
    fill(server, "replaced", {f"shards/{n}.tar": shard for n, shard in data.items()})
    flaky = Flaky(server, rate=0, seed=1)
    with flaky.running() as proxy, connected(proxy):
        storage = storage_of("s3://replaced", "a", tmp_path)
        for number in (1, 2):
            for _ in range(3):
                with pytest.raises(Unreadable, match=r"^the shard is not what its manifest says$"):
                    storage.open(number)
        assert flaky.sent["/replaced/shards/1.tar"] == 2 * len(DATA["b"][1])  # asked once more, and no more
        assert read(storage, [0, 3]) == [hashes("a")[0], hashes("a")[3]]
        assert storage.open(1, at_once=True).read(0, 100) == DATA["b"][1][:100]
    assert len(files(tmp_path)) == 2 and not files(tmp_path, "part")


def test_a_server_that_is_away_and_a_shard_that_is_missing(server, tmp_path):
    fill(server, "without", {f"shards/{n}.tar": DATA["a"][n] for n in range(2)})
    flaky = Flaky(server, rate=0, seed=1, faults=("503",))
    with flaky.running() as proxy, connected(proxy):
        storage = storage_of("s3://without", "a", tmp_path, retry_s=2.0)
        with pytest.raises(Unreadable, match=r"^does not exist$"):
            storage.open(2).read(0, 10)
        flaky.rate = 1.0
        begin = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unreadable, match="503"):
                storage.open(0).read(0, 10)
        assert time.monotonic() - begin < 8
        flaky.rate = 0
        assert read(storage, [0, 1]) == hashes("a")[:2]
    assert not files(tmp_path, "part")


@contextmanager
def small_disk(path):
    """A file system of 8 MB."""
    path.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path]).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_means_ranges_and_is_said_once(local, tmp_path, capfd):
    with small_disk(tmp_path / "disk") as disk:
        assert read(storage_of(local, "a", disk)) == hashes("a")
        assert len(files(disk)) == 2 and not files(disk, "part")
        assert read(storage_of(local, "a", disk)) == hashes("a")
        module_blobs_let_go()
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "what has no room is read by ranges" in said


def test_a_file_that_may_not_be_that_large_means_ranges(local, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))

    (reader,) = start(1, local, "a", tmp_path / "cache", "100MB", preexec_fn=small_files)
    reader.go()
    assert reader.answer()[0] == hashes("a")
    assert reader.end().count("no room on its disk (File too large)") == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [LOCK_NAME]


def test_a_limit_below_one_shard_means_ranges(local, tmp_path):
    assert read(storage_of(local, "a", tmp_path / "cache", "1MB")) == hashes("a")
    assert not files(tmp_path / "cache")


def test_a_lost_or_damaged_account_is_made_anew(local, tmp_path):
    folder = tmp_path / "cache"
    for damage in (b"", b"{", b'{"used": "x"}', b'{"used": 0, "said": 0}', b"[]", os.urandom(100)):
        assert read(storage_of(local, "a", folder), [0]) == hashes("a")[:1]
        (folder / LOCK_NAME).write_bytes(damage)
        assert read(storage_of(local, "a", folder, "10MB"), [0, 1]) == hashes("a")[:2]
        assert json.loads((folder / LOCK_NAME).read_text())["used"] == 2 * SIZE + 1
        for path in files(folder):  # by hand
            path.unlink()


def test_one_that_stands_still_is_not_waited_for(local, tmp_path):
    folder = tmp_path / "cache"
    storage = storage_of(local, "a", folder, retry_s=0.5)
    with (folder / f"{hashes('a')[0]}-{SIZE}.part").open("wb") as part:
        fcntl.flock(part.fileno(), fcntl.LOCK_EX)
        begin = time.monotonic()
        assert read(storage, [0]) == hashes("a")[:1]
        assert 0.9 < time.monotonic() - begin < 3
    assert not files(folder)


def test_a_folder_that_fails_while_a_run_goes_on_means_ranges_and_is_said_once(local, tmp_path, capfd):
    folder = tmp_path / "cache"
    readers = start(2, local, "a", folder, "100MB")
    for path in (folder / LOCK_NAME, folder):
        path.unlink() if path.is_file() else path.rmdir()
    folder.write_bytes(b"")
    for reader in readers:
        reader.go()
    assert [reader.answer()[0] for reader in readers] == [hashes("a")] * 2
    assert read(storage_of(local, "a", folder)) == hashes("a")  # another loader, as for an evaluation
    said = "".join(reader.end() for reader in readers) + capfd.readouterr().err
    assert (
        said
        == f"vitstream: data.cache.dir {folder}: cannot be used any more (Not a directory); shards are read by ranges\n"
    )


def opened(dataset, folder):
    """As before a run."""
    folder_of.cache_clear()
    return open_folder(Cache(dir=folder, bytes="100MB"), [Location.of(dataset)])


def test_folders_that_cannot_be_caches(local, tmp_path, monkeypatch):
    for inside in (local, local / "shards", local / "new/deep"):
        with pytest.raises(UsageError, match=r"data\.cache\.dir .*: lies inside the dataset .*; name another folder"):
            opened(local, inside)
    (tmp_path / "link").symlink_to(local)
    with pytest.raises(UsageError, match="lies inside the dataset"):
        opened(local, tmp_path / "link/cache")
    (tmp_path / "file").write_bytes(b"")
    for unusable in (tmp_path / "file", tmp_path / "file/below", Path("/proc/cache")):
        with pytest.raises(UsageError, match=r"data\.cache\.dir .*: cannot be used \(.*\); name another"):
            opened(local, unusable)
    (tmp_path / "busy").mkdir()
    monkeypatch.setattr(module, "LOCK_S", 0.3)
    with (tmp_path / "busy" / LOCK_NAME).open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process holds its lock"):
            opened(local, tmp_path / "busy")
