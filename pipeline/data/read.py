"""Sample ids -> bytes: few ranges of the shards through their indexes, and a check that they are the right samples.

The key is taken from the shard, not from the index, which only says where to look: the ledger adds up what was really
read. So is the label, in shards of our own; containers.py says how each kind of shard is read.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.ma  # np.unique imports it at its first call: by several threads at once, that recurses

from pipeline.config import Cache
from pipeline.data.corpus import Corpus, Member
from pipeline.data.sample import Hole, Sample, hole_of
from pipeline.data.spans import LOCAL_GAP, REMOTE_GAP, spans
from pipeline.data.storage import Storage
from pipeline.dataset.blob import Blob, LocalBlob, Part, Unanswered
from pipeline.dataset.containers import Packed, ShardFile, Unreadable, WebDatasetFile
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import key_hash
from pipeline.dataset.mds_folder import MdsIndex
from pipeline.dataset.opening import open_file
from pipeline.dataset.remote.traffic import Fetched
from pipeline.dataset.row import Columns, IndexRow

_Row = tuple[int, IndexRow]  # sample id, where it lies
_MOST_FILES = 256  # of which something is remembered
_APART = 4  # places from one sample to the next, on average


class Reader:
    """Reads samples of a corpus. One per process; safe to use from several threads at once."""

    def __init__(self, corpus: Corpus, cache: Cache | None = None, retry_s: float = 60.0) -> None:
        self.corpus, self._cached = corpus, cache is not None
        self._storages = [Storage(member.location, member.manifest, cache, retry_s) for member in corpus.members]
        self._files: OrderedDict[tuple[int, int], ShardFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, ids: Sequence[int], at_once: bool = False) -> dict[int, Sample | Hole]:
        """The samples, or holes that say why not. `at_once`: by ranges, whatever a cache would like.

        Raises:
            WorkFailed: a shard's index cannot be used, or a label is beyond the dataset's classes.
        """
        found: dict[int, Sample | Hole] = {}
        ascending = np.unique(np.asarray(ids, np.int64))
        members, shards, places = self.corpus.places(ascending)
        edges = [0, *(np.flatnonzero((np.diff(shards) != 0) | (np.diff(members) != 0)) + 1).tolist(), len(ascending)]
        numbers, inside = ascending.tolist(), places.tolist()
        for first, stop in pairwise(edges):
            if stop > first:
                reading = _ShardReading(self, int(members[first]), int(shards[first]), at_once)
                found |= reading.read(numbers[first:stop], inside[first:stop])
        return found

    @property
    def slow(self) -> bool:
        """Whether an answer may take a while: of a server, or of a cache that has to get a whole shard first."""
        return self._cached or self.corpus.is_remote

    def locate(self, sample_id: int) -> tuple[str, IndexRow]:
        """(name of the shard, row of its index). Raises Unreadable, WorkFailed."""
        member, shard, place = self._place(sample_id)
        return self.corpus.members[member].manifest.shards[shard].name, self.index(member, shard).row(place)

    def key(self, sample_id: int) -> str:
        """A sample's key, without its image. Raises Unreadable, WorkFailed."""
        member, shard, place = self._place(sample_id)
        return self.index(member, shard).key(place)

    def again(self, sample_id: int, sample: Sample, cause: str) -> Sample | Hole:
        """A sample that could not be decoded, from where it came if a copy on this node has rotted; else its hole."""
        if self.forget(*self._place(sample_id)[:2]):
            return self.read([sample_id], at_once=True)[sample_id]
        return self.hole(sample_id, cause, sample.key)

    def hole(self, sample_id: int, cause: str, key: str = "") -> Hole:
        """The hole that takes this sample's place. `key`: as it was read, if it was; else the index says it."""
        member, shard, place = self._place(sample_id)
        try:
            row = self.index(member, shard).row(place)
        except Unreadable:  # nor can its index
            return self.nameless_hole(sample_id, cause)
        name = self.corpus.members[member].manifest.shards[shard].name
        return hole_of(sample_id, row._replace(key=key or row.key), name, cause)

    def nameless_hole(self, sample_id: int, cause: str) -> Hole:
        """The same without a look into its index, which would not be answered either: nobody knows its key."""
        member, shard, _ = self._place(sample_id)
        return Hole(sample_id, "", 0, self.corpus.members[member].manifest.shards[shard].name, -1, cause)

    def file(self, member: int, shard: int, at_once: bool) -> ShardFile:
        """A shard, open for reading. Raises Unreadable, OSError."""
        blob = self._storages[member].open(shard, at_once)
        with self._lock:
            file = self._files.get((member, shard))
            if file is None or file.blob is not blob:  # it lies somewhere else now
                file = open_file(self.corpus.members[member].manifest, shard, blob)
                self._files[member, shard] = file
            self._files.move_to_end((member, shard))
            if len(self._files) > _MOST_FILES:  # whoever reads from it keeps it, and its blob, alive
                self._files.popitem(last=False)
            return file

    def forget(self, member: int, shard: int) -> bool:
        """Drops a copy of the shard that is kept on this node, if it has rotted; True if so."""
        return self._storages[member].forget(shard)

    @property
    def fetched(self) -> Fetched:
        """What has come from afar so far, of all datasets."""
        return Fetched.total(storage.traffic.fetched for storage in self._storages)

    def index(self, member: int, shard: int) -> ShardIndex | MdsIndex:
        """A shard's index. Raises Unreadable, WorkFailed."""
        return self._storages[member].index(shard)

    def _place(self, sample_id: int) -> tuple[int, int, int]:
        (member,), (shard,), (place,) = self.corpus.places(np.array([sample_id]))
        return int(member), int(shard), int(place)


class _ShardReading:
    """Some samples of one shard."""

    def __init__(self, reader: Reader, member: int, shard: int, at_once: bool) -> None:
        self._reader, self._at_once = reader, at_once
        self._member_number, self._number = member, shard
        self._member: Member = reader.corpus.members[member]
        self._shard = self._member.manifest.shards[shard]
        self._classes = len(reader.corpus.classes)

    def read(self, ids: list[int], places: list[int]) -> dict[int, Sample | Hole]:
        """All of them; `places` ascend."""
        try:
            index = self._reader.index(self._member_number, self._number)
            columns = index.columns(places)
        except (Unreadable, OSError) as error:
            return {sample: self._reader.nameless_hole(sample, _cause(error)) for sample in ids}
        try:
            file = self._reader.file(self._member_number, self._number, self._at_once)
        except (Unreadable, OSError) as error:
            holes = zip(ids, columns.rows, strict=True)
            return {sample: hole_of(sample, row, self._shard.name, _cause(error)) for sample, row in holes}
        if isinstance(file, WebDatasetFile) and isinstance(file.blob, LocalBlob) and _lie_apart(places):
            found = self._apart(file, ids, columns)
            if len(found) == len(ids):
                return found
        else:
            found = {}
        rows = [(sample, row) for sample, row in zip(ids, columns.rows, strict=True) if sample not in found]
        return found | self._together(file, rows)

    def _apart(self, file: WebDatasetFile, ids: list[int], columns: Columns) -> dict[int, Sample | Hole]:
        """Each by a read of its own; only those that are just as `shard` writes them."""
        keys, _, _, labels, widths, heights = columns
        images = file.read_as_written(columns)
        return {
            sample: Sample(key, key_hash(key), image, self._known(of_it, key), width, height)
            for sample, key, image, of_it, width, height in zip(ids, keys, images, labels, widths, heights, strict=True)
            if image is not None
        }

    def _together(self, file: ShardFile, rows: list[_Row]) -> dict[int, Sample | Hole]:
        """All of them, in as few requests as their places allow."""
        found: dict[int, Sample | Hole] = {}
        readable: list[_Row] = []
        extents: list[tuple[int, int]] = []
        for sample, row in rows:
            if row.offset + row.size > self._shard.bytes:
                found[sample] = hole_of(sample, row, self._shard.name, "its index points beyond the shard's end")
                continue
            try:
                extents.append(file.extent(row))
                readable.append((sample, row))
            except (Unreadable, OSError) as error:
                found[sample] = hole_of(sample, row, self._shard.name, _cause(error))
        for (sample, row), (_, length), block in zip(readable, extents, _blocks(file.blob, extents), strict=True):
            try:
                if isinstance(block, Exception):
                    raise block
                found[sample] = self._sample(file.parse(row, block, length), row)
            except Unanswered as error:
                found[sample] = hole_of(sample, row, self._shard.name, str(error))
            except (Unreadable, OSError) as error:
                found[sample] = self._again(sample, _cause(error))
        return found

    def _again(self, sample: int, cause: str) -> Sample | Hole:
        """From where it came, if a copy on this node has rotted; else its hole."""
        if self._reader.forget(self._member_number, self._number):
            try:
                _, row = self._reader.locate(sample)
                return self._sample(self._reader.file(self._member_number, self._number, True).read(row), row)
            except (Unreadable, OSError) as error:
                return self._reader.hole(sample, _cause(error))
        return self._reader.hole(sample, cause)

    def _sample(self, packed: Packed, row: IndexRow) -> Sample:
        if len(packed.labels) != 1 and self._member.manifest.labels == "single":
            raise Unreadable(f"has {len(packed.labels)} labels; one is needed")
        labels = self._known(packed.labels, packed.key)
        return Sample(packed.key, key_hash(packed.key), packed.data, labels, row.width, row.height)

    def _known(self, labels: tuple[int, ...], key: str) -> tuple[int, ...]:
        if labels and max(labels) >= self._classes:
            say = f"{self._shard.name}: sample {key} is of class {max(labels)}, the dataset has {self._classes}"
            raise WorkFailed(f"{say}; see: vitstream verify DATASET", "data", False)
        return labels


def _lie_apart(places: list[int]) -> bool:
    """Whether few of these, which ascend, are neighbours, so that joining requests saves little."""
    return places[-1] - places[0] > _APART * len(places)


def _blocks(blob: Blob, extents: list[Part]) -> list[bytes | bytearray | Unreadable | OSError]:
    """The bytes of each extent, by as few requests as their places allow; or what kept them away."""
    blocks: list[Any] = [None] * len(extents)
    for span in spans(extents, LOCAL_GAP if isinstance(blob, LocalBlob) else REMOTE_GAP):
        if len(span.members) > 1:
            try:
                parts = blob.read_parts([extents[number] for number in span.members])
            except Unanswered as error:  # asking for each of them would take as long again, each time
                parts = [error] * len(span.members)
            except (Unreadable, OSError):
                parts = None  # one bad place must not take its neighbours along
            if parts is not None:
                for number, part in zip(span.members, parts, strict=True):
                    blocks[number] = part
                continue
        for number in span.members:
            try:
                blocks[number] = blob.read(*extents[number])
            except (Unreadable, OSError) as error:
                blocks[number] = error
    return blocks


def _cause(error: Exception) -> str:
    return f"cannot read: {error.strerror}" if isinstance(error, OSError) else str(error)
