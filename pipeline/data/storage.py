"""The shards of one dataset, wherever they lie: a file system, a server, or a copy on this node."""

from time import monotonic
from typing import Final

from pipeline.config import Cache
from pipeline.data.recent import Recent
from pipeline.dataset.blob import Blob, LocalBlob, Unreadable
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest

MAX_OPEN: Final = 256  # files, and as many indexes, of all storages of a process; a file descriptor each
_RESIGNED_S: Final = 600.0  # that an index which could not be had is not asked for again

_BLOBS: Recent[Blob] = Recent(MAX_OPEN)
_INDEXES: Recent[ShardIndex] = Recent(MAX_OPEN)


class Storage:
    """One per dataset and process; safe to use from several threads at once."""

    def __init__(
        self, location: Location, manifest: Manifest, cache: Cache | None = None, retry_s: float = 60.0
    ) -> None:
        """`retry_s`: seconds for which a read that a server does not answer is tried again. Raises UsageError."""
        self._shards, self._manifest = location / "shards", manifest
        self._retry_s = retry_s
        self._failed: dict[int, tuple[float, str]] = {}  # indexes: until when, and why
        if location.is_remote:
            from pipeline.dataset.remote.patience import Patience
            from pipeline.dataset.remote.traffic import Traffic

            self._patience, self._traffic = Patience.lasting(retry_s), Traffic(hedges=True)
            self._sizes = {file.name: file.bytes for file in manifest.files}

    def open(self, number: int, at_once: bool = False) -> Blob:
        """A shard, for reading by ranges; the same object as long as it is in use.

        `at_once`: without waiting until a whole shard has come into the cache.

        Raises:
            OSError: a local file cannot be opened.
            Unreadable: no more than a cause; a remote one says so only when it is read.
        """
        shard = self._manifest.shards[number]
        return _BLOBS.get((self, number), lambda: self._origin(shard.name, shard.bytes))

    def index(self, number: int) -> ShardIndex:
        """A shard's index: a memory map, or, from afar, its footer and, when one is asked for, a batch of its rows.

        Raises:
            WorkFailed: it is damaged; or it is local and missing.
            Unreadable: it is remote, and cannot be had.
        """
        return _INDEXES.get((self, number), lambda: self._open_index(number))

    def forget(self, number: int) -> bool:
        """Drops this node's copy of a shard if it is not what the manifest says (any more); True if so."""
        return False

    def stats(self) -> dict[str, float]:
        """{requests, bytes, retries, hedges, cache_hits, seconds}; `seconds`: of waiting, all threads together."""
        counters = ("requests", "bytes", "retries", "hedges", "seconds")
        traffic = getattr(self, "_traffic", None)
        return {name: getattr(traffic, name, 0) for name in counters} | {"cache_hits": 0}

    def _origin(self, name: str, size: int | None) -> Blob:
        location = self._shards / name
        if not location.is_remote:
            return LocalBlob(location.path)
        from pipeline.dataset.remote.blob import RemoteBlob

        return RemoteBlob(location.text, self._patience, size, self._traffic)

    def _open_index(self, number: int) -> ShardIndex:
        shard = self._manifest.shards[number]
        location = self._shards / shard.index_name
        if not location.is_remote:
            return ShardIndex(location.path, shard.samples)
        until, cause = self._failed.get(number, (0.0, ""))
        if monotonic() < until:
            raise Unreadable(cause)
        try:
            blob = self._origin(shard.index_name, self._sizes.get(f"shards/{shard.index_name}"))
            return ShardIndex(blob, shard.samples, str(location))
        except Unreadable as error:
            cause = f"its index cannot be had: {error}"
            self._failed[number] = monotonic() + _RESIGNED_S, cause
            raise Unreadable(cause) from None
