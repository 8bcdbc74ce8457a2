"""An S3 that refuses some requests, or leaves them without an answer: for shards, or for one of them."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import servers


class Storage(servers.Flaky):
    """A proxy that forwards requests, but for those that its `fault` says something else of.

    Args:
        upstream: where to.
        refused: share of the requests for shards that get a 503.
        stalls: how many of them, from the `first` on, never get their answer's second half.
        victim: only this shard's requests count.
    """

    def __init__(self, upstream: str, refused: float, stalls: int, first: int, victim: str, seed: int) -> None:
        super().__init__(upstream, rate=refused, seed=seed, stall_s=600.0)
        self._stalls, self._first, self._victim = stalls, first, victim
        self._chance, self._guard = random.Random(seed), threading.Lock()
        self._shard_requests = 0
        self.healed = False

    def fault(self, path: str) -> str | None:
        """What is done to the next request."""
        with self._guard:
            what = None
            if not self.healed and path.split("?")[0].endswith(self._victim or ".tar"):
                number, self._shard_requests = self._shard_requests, self._shard_requests + 1
                if self._first <= number < self._first + self._stalls:
                    what = "stall"
                elif self._chance.random() < self.rate:
                    what = "503"
            self.done[what or "fine"] += 1
            return what


@contextmanager
def stored(dataset: Path, **faults: object) -> Iterator[tuple[Storage, dict[str, str]]]:
    """s3://soak/train behind a `Storage` of these faults, and the environment in which it is found."""
    objects = {f"train/{path.relative_to(dataset)}": path for path in dataset.rglob("*") if path.is_file()}
    with servers.s3_server() as upstream:
        bucket = f"soak-{random.randrange(2**40):010x}"  # within a process all servers have the same buckets
        servers.fill(upstream, bucket, {key: path.read_bytes() for key, path in objects.items()})
        storage = Storage(upstream, **faults)  # type: ignore[arg-type]
        with storage.running() as url:
            yield storage, servers.environment(url) | {"SOAK_TRAIN": f"s3://{bucket}/train"}
