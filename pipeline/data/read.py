"""Sample ids -> bytes: few ranges of the shards through their indexes, and a check that they are the right samples.

The key is taken from the shard, not from the index, which only says where to look: the ledger adds up what was really
read. So is the label, in shards of our own; containers.py says how each kind of shard is read.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from pipeline.config import Cache
from pipeline.data.corpus import Corpus, Member
from pipeline.data.sample import Hole, Sample, hole_of
from pipeline.data.spans import LOCAL_GAP, REMOTE_GAP, Span, spans
from pipeline.data.storage import Storage
from pipeline.dataset.blob import LocalBlob, Unanswered
from pipeline.dataset.containers import Packed, ShardFile, Unreadable
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import key_hash
from pipeline.dataset.mds_folder import MdsIndex
from pipeline.dataset.opening import open_file
from pipeline.dataset.remote.traffic import Fetched
from pipeline.dataset.row import IndexRow

_Row = tuple[int, IndexRow]  # sample id, where it lies
_MOST_FILES = 256  # of which something is remembered


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
        edges = np.flatnonzero((np.diff(shards) != 0) | (np.diff(members) != 0)) + 1
        for some in np.split(np.arange(len(ascending)), edges):
            if len(some):
                reading = _ShardReading(self, int(members[some[0]]), int(shards[some[0]]), at_once)
                found |= reading.read(ascending[some].tolist(), places[some].tolist())
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
        """All of them, in as few requests as their places, which ascend, allow."""
        try:
            rows = list(zip(ids, self._reader.index(self._member_number, self._number).rows(places), strict=True))
        except (Unreadable, OSError) as error:
            return {sample: self._reader.nameless_hole(sample, _cause(error)) for sample in ids}
        try:
            file = self._reader.file(self._member_number, self._number, self._at_once)
        except (Unreadable, OSError) as error:
            return {sample: hole_of(sample, row, self._shard.name, _cause(error)) for sample, row in rows}
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
        gap = LOCAL_GAP if isinstance(file.blob, LocalBlob) else REMOTE_GAP
        for span in spans(extents, gap):
            self._read_span(file, span, readable, extents, found)
        return found

    def _read_span(
        self,
        file: ShardFile,
        span: Span,
        readable: list[_Row],
        extents: list[tuple[int, int]],
        found: dict[int, Sample | Hole],
    ) -> None:
        if len(span.members) > 1:
            try:
                blocks = file.blob.read_parts([extents[number] for number in span.members])
            except Unanswered as error:  # asking for each of them would take as long again, each time
                for number in span.members:
                    found[readable[number][0]] = hole_of(*readable[number], self._shard.name, str(error))
                return
            except (Unreadable, OSError):
                pass  # one bad place must not take its neighbours along
            else:
                for number, block in zip(span.members, blocks, strict=True):
                    found[readable[number][0]] = self._parsed(file, *readable[number], block, extents[number][1])
                return
        for number in span.members:
            sample, row = readable[number]
            try:
                block = file.blob.read(*extents[number])
            except (Unreadable, OSError) as error:
                found[sample] = self._again(sample, _cause(error))
            else:
                found[sample] = self._parsed(file, sample, row, block, extents[number][1])

    def _parsed(
        self, file: ShardFile, sample: int, row: IndexRow, block: bytes | bytearray, length: int
    ) -> Sample | Hole:
        try:
            return self._sample(file.parse(row, memoryview(block), length), row)
        except Unreadable as error:
            return self._again(sample, str(error))

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
        if len(packed.labels) != 1:
            raise Unreadable(f"has {len(packed.labels)} labels; one is needed")
        (label,) = packed.labels
        if label >= self._classes:
            say = f"{self._shard.name}: sample {packed.key} is of class {label}, the dataset has {self._classes}"
            raise WorkFailed(f"{say}; see: vitstream verify DATASET", "data", False)
        return Sample(packed.key, key_hash(packed.key), packed.data, label, row)


def _cause(error: Exception) -> str:
    return f"cannot read: {error.strerror}" if isinstance(error, OSError) else str(error)
