"""The loader is started and killed, a thousand times, while it fills a cache on its node from a slow server or from
files; after each time somebody looks for what it has left."""

import fcntl
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO

import xxhash

from pipeline.config import Augment
from pipeline.data.cache import LOCK_NAME, Folder
from pipeline.data.order import Order
from tests.datasets import make_dataset
from tests.servers import Flaky, environment, fill, s3_server
from tests.soak.matrix import Matrix
from tests.soak.stream_life import Life
from tests.soak.stream_nest import Nest, alive, endings, send, session, steps_of, wait_for, wait_until_gone, workers_of
from tests.soak.stream_truth import Truth, truth_of

CYCLES_PER_TRIAL = 25
PLACES = ("http", "files", "s3")
DATASETS = ("a", "b")
SAMPLES, SHARDS, EPOCHS, SIZE, BATCH = 240, 6, 2, 16, 16
LIMIT = 1_300_000  # bytes of the cache: more than one dataset has, and less than both
PACE = 1_000_000  # bytes per second of an answer
HOUR_S = 3600.0


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of CYCLES_PER_TRIAL cycles each, over places and numbers of workers."""
    return [
        {
            "seed": seed * 1000 + i,
            "place": PLACES[i % 3],
            "workers": (1, 2)[i // 3 % 2],
            "cycles": min(CYCLES_PER_TRIAL, count - i * CYCLES_PER_TRIAL),
        }
        for i in range(-(-count // CYCLES_PER_TRIAL))
    ]


# -- what is read ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def datasets() -> dict[str, Path]:
    """Two, of small photos."""
    root = Path(mkdtemp(prefix="soak-cycles-"))
    for seed, name in enumerate(DATASETS):
        make_dataset(root / name, SAMPLES, shards=SHARDS, size=(96, 72), seed=seed)
    return {name: root / name for name in DATASETS}


def order() -> Order:
    """Of either."""
    return Order(samples=SAMPLES, seed=7, lanes=BATCH, chunk=4, window=2)


@lru_cache(maxsize=2)
def truth(name: str) -> Truth:
    """What an undisturbed reader makes of a dataset."""
    return truth_of(datasets()[name], order(), Augment(), SIZE, EPOCHS, length=2)


@contextmanager
def placed(place: str, seed: int) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Where the datasets lie, by name, and the environment in which they are found there."""
    if place == "files":
        yield {name: str(path) for name, path in datasets().items()}, {}
        return
    with s3_server() as upstream:
        buckets = {name: f"cycles-{seed}-{name}-{random.randrange(2**40):010x}" for name in DATASETS}
        for name, path in datasets().items():
            files = {f"train/{file.relative_to(path)}": file for file in path.rglob("*") if file.is_file()}
            fill(upstream, buckets[name], {key: file.read_bytes() for key, file in files.items()})
        with Flaky(upstream, rate=0, seed=seed, pace=PACE).running() as url:
            begin = "s3:/" if place == "s3" else url
            yield {name: f"{begin}/{bucket}/train" for name, bucket in buckets.items()}, environment(url)


# -- what is left ----------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A machine's folders, in which loaders leave nothing."""

    folder: Path
    nest: Nest

    def __post_init__(self) -> None:
        self.shm = names(self.nest.shm)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def look(self) -> Counter[str]:
        """After all processes have gone. Returns what lies in the cache, by kind."""
        left = names(self.nest.shm) - self.shm
        assert not left, f"/dev/shm: {left}"
        left = names(self.folder / "tmp")
        assert not left, f"TMPDIR: {left}"
        left = names(self.folder) - {"cache", "tmp", "lives", "stderr"}
        assert not left, f"beside the cache: {left}"
        found = [look_at(path) for path in sorted(self.cache.iterdir())] if self.cache.exists() else []
        total = sum(bytes_ for _, bytes_ in found)
        assert total <= LIMIT, f"{total} bytes in a cache of {LIMIT}"
        with suppress(FileNotFoundError, ValueError):  # not made yet, or not written: that counts as full
            used = json.loads((self.cache / LOCK_NAME).read_text())["used"]
            assert used >= total, f"{used} bytes are counted, {total} are there"
        return Counter(kind for kind, _ in found)

    def open_again(self) -> None:
        """What the next start does with what it finds."""
        Folder(self.cache, LIMIT)
        found = self.look()
        assert not found["part"], "half a file outlived the next start"
        used = json.loads((self.cache / LOCK_NAME).read_text())["used"]
        assert used == sum(look_at(path)[1] for path in self.cache.iterdir()), "miscounted"


def names(folder: Path) -> set[str]:
    """What lies there."""
    return {path.name for path in folder.iterdir()}


def look_at(path: Path) -> tuple[str, int]:
    """(kind, bytes) of a file in a cache: locked by nobody, and what its name says."""
    with path.open("rb") as file:
        wait_for(
            lambda: is_free(file), f"{path.name} is still locked", patience_s=5.0
        )  # threads end after their process
        if path.name == LOCK_NAME:
            return "lock", 0
        xxh3, _, bytes_ = path.stem.partition("-")
        assert path.suffix in (".shard", ".part") and bytes_.isdigit(), f"{path.name} is not the cache's"
        if path.suffix == ".shard":
            data = file.read()
            assert (len(data), xxhash.xxh3_64_hexdigest(data)) == (int(bytes_), xxh3), f"{path.name} holds another"
        return path.suffix[1:], int(bytes_)


def is_free(file: BinaryIO) -> bool:
    """Whether nobody holds a lock on it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


# -- cycles ----------------------------------------------------------------------------------------------------


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Starts and kills, looks each time, and in the end reads everything."""
    rng = random.Random(trial["seed"])
    (folder / "tmp").mkdir()
    met: Counter[str] = Counter()
    with placed(trial["place"], trial["seed"]) as (places, values):
        nest = Nest(values | {"TMPDIR": str(folder / "tmp")}, own_shm=True, stderr=folder / "stderr")
        node = Node(folder, nest)
        for cycle in range(trial["cycles"]):
            lives = {
                f"{cycle}-{n}": life_of(node, places, rng.choice(DATASETS), trial["workers"], f"{cycle}-{n}")
                for n in range(rng.choice((1, 1, 2)))
            }
            started = [(life, *nest.begin(life)) for life in lives.values()]
            for life, pid in started:
                met[kill(life, pid, node, rng)] += 1
            for life, _ in started:
                met["before its first batch"] += not checked(life, places)
            met += node.look()
            meddle(node, rng)
        for name in DATASETS:
            life = life_of(node, places, name, trial["workers"], f"last-{name}")
            wait_until_gone(nest.begin(life), "the last one hangs")
            assert endings(life) == ["done"], endings(life)
            assert checked(life, places) == SAMPLES * EPOCHS // BATCH
        node.open_again()
        assert node.look()["shard"], "nothing was cached"
        nest.close()
    for line in (folder / "stderr").read_text().splitlines():
        assert line.startswith("vitstream: data.cache.dir ") and "what has no room is read by ranges" in line, line
    return {"faults": trial["cycles"], "met": met}


def life_of(node: Node, places: dict[str, str], name: str, workers: int, number: str) -> Life:
    """One rank on a dataset."""
    return Life(
        folder=str(node.folder / "lives" / number),
        dataset=places[name],
        order=order().to_json(),
        augment={},
        size=SIZE,
        batch=BATCH,
        limit=100,
        world=1,
        workers=workers,
        consumed=0,
        total=EPOCHS * SAMPLES,
        pause_s=0.0,
        cache={"dir": str(node.cache), "bytes": LIMIT},
    )


def checked(life: Life, places: dict[str, str]) -> int:
    """How many batches a life has read, all of them right."""
    (name,) = (name for name, place in places.items() if place == life.dataset)
    steps = steps_of(life, 0)
    for step in steps:
        assert step == truth(name).between(step.start, step.stop), f"after {step.start} samples of {life.dataset}"
    return len(steps)


def kill(life: Life, pid: int, node: Node, rng: random.Random) -> str:
    """SIGKILL to a rank, to all of its processes, or to one of its workers or their server, upon which it has to end.

    The moment is any of its start, or one at which a shard comes into the cache, or a step's. Returns to whom.
    """
    match rng.choice(("start", "fetch", "step")):
        case "start":
            time.sleep(rng.uniform(0.0, 0.6))
        case "fetch":
            wait_for(lambda: is_fetching(node) or len(steps_of(life, 0)) > 9 or not alive([pid]), "nothing is read")
            time.sleep(rng.uniform(0.0, 0.03))
        case "step":
            goal = rng.randint(1, SAMPLES * EPOCHS // BATCH)
            wait_for(lambda: len(steps_of(life, 0)) >= goal or not alive([pid]), "a step hangs")
    victim = rng.choice(("rank", "rank", "group", "group", "worker", "server"))
    helpers = workers_of(pid) if victim == "worker" else [child for child in session(pid) if child != pid]
    if victim == "group" or (victim != "rank" and not helpers):
        victim = "group"
        with suppress(ProcessLookupError):  # it has ended, or has no group yet
            os.killpg(pid, signal.SIGKILL)
        send(pid)
    else:
        send(pid if victim == "rank" else rng.choice(helpers))
    if victim in ("worker", "server"):
        wait_for(lambda: not alive([pid]), "a rank outlived one of its helpers")
        (said,) = endings(life)
        assert said == "done" or "loader worker" in said, said
    wait_for(lambda: not session(pid), f"processes outlived their rank, whose {victim} was killed", patience_s=10.0)
    return victim


def is_fetching(node: Node) -> bool:
    """Whether half a file is in the cache."""
    return node.cache.exists() and any(path.suffix == ".part" for path in node.cache.iterdir())


def meddle(node: Node, rng: random.Random) -> None:
    """What happens to a cache while nothing runs: nothing, it is opened, it grows old, or somebody removes it."""
    match rng.choice(("nothing", "opened", "old", "removed")):
        case "opened":
            node.open_again()
        case "old":
            for path in node.cache.iterdir() if node.cache.exists() else ():
                os.utime(path, (time.time() - HOUR_S,) * 2)
        case "removed":
            shutil.rmtree(node.cache, ignore_errors=True)


MATRIX = Matrix(
    "stream-cycles",
    "The loader (rank, fork server, 1 or 2 workers; now and then two ranks) started and killed with SIGKILL while it"
    " fills a cache from a slow HTTP server, S3 or files: after each time no process, no file in /dev/shm or TMPDIR, no"
    " lock, and in the cache only what it keeps, within its bytes, each shard of the right hash; half a file is gone"
    " after the next start, and every batch of every life has the samples and the pixels of an undisturbed reader",
    1000,
    trials,
    run,
)
