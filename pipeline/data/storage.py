"""The shards of one dataset, wherever they lie: on a file system, behind a server, or as a copy on this node."""

import os
import threading
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final

from pipeline.config import Cache
from pipeline.data.cache import Wanted, is_sound, reopen_folder
from pipeline.data.fetch import AnotherFile, NoRoom, fetch
from pipeline.data.recent import Recent
from pipeline.dataset.blob import Blob, LocalBlob, Unreadable
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import File, Manifest, Shard
from pipeline.dataset.mds_folder import MdsIndex, MdsManifest
from pipeline.dataset.remote.blob import RemoteBlob
from pipeline.dataset.remote.patience import Patience
from pipeline.dataset.remote.traffic import Traffic

MAX_OPEN: Final = 256  # files, and as many indexes, of all storages of a process; a file descriptor each
_RESIGNED_S: Final = 60.0  # that a file which could not be had is not asked for as a whole again
_NO_ROOM_S: Final = 60.0  # the same of one that had no room in the cache
_LATE_S: Final = 60.0  # that somebody may take to look at what was read from a copy

_BLOBS: Recent[Blob] = Recent(MAX_OPEN)
_INDEXES: Recent[ShardIndex | MdsIndex] = Recent(MAX_OPEN)


class _NotHere(Exception):
    """The cache has no copy, and none is waited for."""


class Storage:
    """One per dataset and process; safe to use from several threads at once."""

    def __init__(
        self, location: Location, manifest: Manifest, cache: Cache | None = None, retry_s: float = 60.0
    ) -> None:
        """`retry_s`: seconds for which a read that a server does not answer is tried again."""
        self._location, self._manifest = location, manifest
        self._patience, self.traffic = Patience.lasting(retry_s), Traffic(hedges=True)
        self._files = {file.name: file for file in manifest.files}
        self._resigned: dict[str, tuple[float, str]] = {}  # file name: until when it is not asked for again, and why
        self._rotten: dict[int, float] = {}  # shards: when their copy here was dropped
        self._sound: dict[int, os.stat_result] = {}  # shards: which copy was looked through, and was right
        self._lock = threading.Lock()
        self._folder = None if cache is None else reopen_folder(cache)
        if self._folder is not None:
            self._folder.claim(Wanted(file.bytes, file.xxh3) for file in (*manifest.shards, *manifest.files))

    def open(self, number: int, at_once: bool = False) -> Blob:
        """A shard, for reading by ranges; the same object as long as it is in use.

        `at_once`: without waiting until a whole shard has come into the cache.

        Raises:
            OSError: a local file cannot be opened.
            Unreadable: a whole shard has come, and is another than its manifest says.
        """
        shard = self._manifest.shards[number]
        if self._folder is not None and shard.is_hashed:
            copy = _BLOBS.peek((self, number, "copy"))
            if copy is not None:
                return copy
            with suppress(_NotHere):
                if at_once:
                    return _BLOBS.get((self, number, "copy at once"), lambda: self._copy(number, at_once=True))
                return _BLOBS.get((self, number, "copy"), lambda: self._copy(number, at_once=False))
        return self._original(number)

    def index(self, number: int) -> ShardIndex | MdsIndex:
        """A shard's index: a memory map, or, from afar, its footer and, when one is asked for, a batch of its rows.

        Of an MDS folder it is the beginning of the shard itself.

        Raises:
            WorkFailed: it is damaged.
            Unreadable: it is missing, or cannot be had; or it is part of its shard, and damaged with it.
        """
        return _INDEXES.get((self, number), lambda: self._open_index(number))

    def forget(self, number: int) -> bool:
        """Says that samples of a shard were not what they should be.

        True if they were read from this node's copy and that has rotted: it is gone now, read them again.
        """
        with self._lock:
            if monotonic() - self._rotten.get(number, -inf) < _LATE_S:  # what was read before it went
                return True
            if self._folder is None:
                return False
            wanted = _wanted(self._manifest.shards[number])
            keys = [(self, number, "copy"), (self, number, "copy at once")]
            copy = next(filter(None, map(_BLOBS.peek, keys)), None)
            if copy is None:  # it is long ago that it was read
                with suppress(OSError):
                    copy = self._folder.open(wanted)
            if not isinstance(copy, LocalBlob):
                return False
            seen = os.fstat(copy.fd)
            if number in self._sound and os.path.samestat(seen, self._sound[number]):
                return False
            with suppress(OSError):
                if is_sound(copy.fd, wanted):
                    self._sound[number] = seen
                    return False
            with suppress(OSError, TimeoutError):
                self._folder.remove(wanted, copy)  # first, or another thread might open it once more
            self._rotten[number] = monotonic()
            for key in keys:
                _BLOBS.drop(key)
            _INDEXES.drop((self, number))  # of an MDS shard it was part of the copy
            return True

    def _original(self, number: int) -> Blob:
        shard = self._manifest.shards[number]
        return _BLOBS.get((self, number), lambda: self._origin(self._manifest.path(number), shard.bytes))

    def _origin(self, path: str, size: int | None) -> Blob:
        location = self._location / path
        if not location.is_remote:
            return LocalBlob(location.path)
        return RemoteBlob(location.text, self._patience, size, self.traffic)

    def _copy(self, number: int, at_once: bool) -> LocalBlob:
        """A shard in the cache. Raises _NotHere; Unreadable where it is another."""
        assert self._folder is not None
        shard = self._manifest.shards[number]
        copy = None
        with suppress(OSError):
            copy = self._folder.open(_wanted(shard))
        if copy is not None:
            return copy
        if at_once:
            raise _NotHere
        self._check_resigned(shard.name)
        try:
            return fetch(self._folder, _wanted(shard), lambda: self._original(number), 2 * self._patience.seconds)
        except AnotherFile as error:
            raise self._resign(shard.name, _RESIGNED_S, f"the shard is {error}") from None
        except (Unreadable, OSError):  # the original says why, sample by sample
            self._resign(shard.name, _RESIGNED_S, "")
        except NoRoom:
            self._resign(shard.name, _NO_ROOM_S, "")
        raise _NotHere

    def _open_index(self, number: int) -> ShardIndex | MdsIndex:
        shard = self._manifest.shards[number]
        if isinstance(self._manifest, MdsManifest):
            return self._open_mds_index(number, self._manifest)
        path = f"shards/{shard.index_name}"
        location = self._location / path
        if not location.is_remote:
            if not location.path.exists():
                raise Unreadable("its index is missing")  # often with its shard
            return ShardIndex(location.path, shard.samples)
        self._check_resigned(shard.index_name)
        file = self._files.get(path)
        origin = self._origin(path, file and file.bytes)
        try:
            copy = None if file is None else self._index_copy(_wanted(file), origin)
            return ShardIndex(copy or origin, shard.samples, str(location))
        except Unreadable as error:
            raise self._resign(shard.index_name, _RESIGNED_S, f"its index cannot be had: {error}") from None

    def _open_mds_index(self, number: int, manifest: MdsManifest) -> MdsIndex:
        name = manifest.paths[number]
        self._check_resigned(f"{name}, its beginning")
        for _ in range(2):
            try:
                return MdsIndex(self.open(number, at_once=True), manifest, number)
            except (OSError, Unreadable) as error:
                why = f"cannot read: {error.strerror}" if isinstance(error, OSError) else str(error)
            if not self.forget(number):  # else once more, from where the rotten copy came
                break
        raise self._resign(f"{name}, its beginning", _RESIGNED_S, why) if self._location.is_remote else Unreadable(why)

    def _index_copy(self, wanted: Wanted, origin: Blob) -> LocalBlob | None:
        """An index in the cache, looked through: it is small. Raises Unreadable."""
        if self._folder is None:
            return None
        with suppress(NoRoom, OSError, TimeoutError):
            copy = fetch(self._folder, wanted, lambda: origin, 2 * self._patience.seconds)
            if is_sound(copy.fd, wanted):
                return copy
            self._folder.remove(wanted, copy)
        return None

    def _resign(self, name: str, seconds: float, cause: str) -> Unreadable:
        self._resigned[name] = monotonic() + seconds, cause
        return Unreadable(cause)

    def _check_resigned(self, name: str) -> None:
        """Raises Unreadable where a file could not be had a short while ago; _NotHere where it had no room."""
        until, cause = self._resigned.get(name, (-inf, ""))
        if monotonic() < until:
            raise Unreadable(cause) if cause else _NotHere


def _wanted(file: Shard | File) -> Wanted:
    return Wanted(file.bytes, file.xxh3)
