"""WebDataset tars: an image and its label are two members of one name. Plain ones are read at random; compressed ones
are streamed.

A sample's name is a member's path up to the first dot of its last part, in whatever order members lie. It is listed as
TAR/NAME, from which its key follows (pipeline/dataset/keys.py), so it is the same sample as in `vitstream index`.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import pyarrow as pa

from data_prep.foreign.packed import MAX_LABEL_BYTES, NO_LABELS, LabelError, Labels, from_cls, from_json
from data_prep.foreign.tars import BLOCK, BrokenTar, MemberHeader, iter_members, parse_header
from data_prep.sources.base import Place, Source
from data_prep.sources.files import base_name, open_file, read_part, shown
from data_prep.sources.folder import is_image
from data_prep.sources.inflate import Bomb, Inflated, codec
from data_prep.sources.labels import LabelStyle
from data_prep.sources.rows import Row, batches
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.images import ImageError
from pipeline.dataset.keys import sample_name
from pipeline.dataset.names import escape
from pipeline.dataset.remote.objects import MAX_FILE_BYTES
from pipeline.dataset.remote.urls import is_url

LABEL_SUFFIXES: Final = ("cls", "json")  # in this order: where there are both, the .json is about something else
PEEKED: Final = 64  # samples that say how labels are written


@dataclass(frozen=True)
class TarSource(Source):
    """Tars, in the order given. `files` are paths or URLs; all are compressed, or none."""

    files: tuple[str, ...]
    name: str
    streamed: bool
    remote: bool
    numbered: bool
    multi: bool

    def batches(self, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
        return batches(row for file in self.files for row in self._rows(file, ignored))

    def read(self, place: Place) -> bytes:
        data = read_part(place.file, place.offset - BLOCK, BLOCK + place.bytes)
        try:
            _, size, _ = parse_header(data[:BLOCK], place.offset - BLOCK)
        except BrokenTar:
            size = -1
        if size != place.bytes:
            raise ImageError("changed since it was listed: another tar lies there now")
        return data[BLOCK:]

    def stream(self, file: str) -> Iterator[tuple[int, bytes]]:
        name = next(name for name in self.files if escape(name) == file)
        try:
            with _opened(name) as tar:
                for member in iter_members(tar):
                    if _is_image(member) and member.refusal is None and member.size <= MAX_FILE_BYTES:
                        yield member.offset, tar.read(member.size)
        except (BrokenTar, Bomb) as error:
            raise WorkFailed(f"{shown(name)}: {error}") from None

    def _rows(self, file: str, ignored: Counter[str]) -> Iterator[Row]:
        style = LabelStyle(self.numbered, self.multi)
        container, where = escape(base_name(file)), escape(file)
        groups = _groups(file, ignored)
        for name, group in sorted(groups.items(), key=lambda item: item[1].offset):
            reject = group.refusal or style.refusal(group.labels)
            yield Row(f"{container}/{escape(name)}", list(group.labels.values), group.size, where, group.offset, reject)


@dataclass(slots=True)
class _Group:
    """What is known of one sample."""

    offset: int  # of the image, or of what was seen first
    size: int = -1
    images: list[str] = field(default_factory=list)
    labels: Labels = NO_LABELS
    labelled_by: str = ""
    refusal: str | None = None


def open_tars(files: tuple[str, ...], name: str) -> TarSource:
    """Opens tars that are either all compressed or none.

    Raises:
        UsageError: the first is no tar, or damaged.
        WorkFailed: a remote one does not answer.
    """
    style = LabelStyle.of(_peek(files[0]))
    compressed, remote = codec(files[0]) is not None, is_url(files[0])
    return TarSource(files, name, compressed, remote and not compressed, style.numbered, style.multi)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    with open_file(file) as plain:
        how = codec(file.partition("?")[0] if is_url(file) else file)
        yield plain if how is None else Inflated(plain, how)  # type: ignore[misc]


def _members(file: str) -> Iterator[tuple[MemberHeader, BinaryIO]]:
    """Every member but folders, with the tar standing at its content. Raises UsageError."""
    try:
        with _opened(file) as tar:
            for member in iter_members(tar):
                if member.kind != "folder":
                    yield member, tar
    except (BrokenTar, Bomb) as error:
        raise UsageError(f"{shown(file)}: {error}; leave it out, or make it again") from None
    except OSError as error:
        raise UsageError(f"{shown(file)}: cannot be read ({error.strerror})") from None


def _groups(file: str, ignored: Counter[str]) -> dict[str, _Group]:
    """The samples of a tar by name; one tar's worth of them is held in memory."""
    groups: dict[str, _Group] = {}
    for member, tar in _members(file):
        suffix = _suffix(member)
        if not _is_image(member) and suffix.rpartition(".")[2] not in LABEL_SUFFIXES:
            ignored["tar members that are neither image nor label"] += 1
            continue
        group = groups.setdefault(sample_name(member.name), _Group(member.offset))
        if member.refusal is not None:
            group.refusal = group.refusal or f"{_last(member)} {member.refusal}"
        elif _is_image(member):
            _add_image(group, member, suffix)
        elif suffix in LABEL_SUFFIXES:
            _add_labels(group, member, suffix, tar)
    for group in groups.values():
        if not group.images and group.refusal is None:
            group.refusal = "no image"
    return groups


def _add_image(group: _Group, member: MemberHeader, suffix: str) -> None:
    group.images.append(_last(member))
    group.offset, group.size = member.offset, member.size
    if len(group.images) > 1:
        group.refusal = f"several images of one name: {', '.join(group.images[:3])}"
    elif "." in suffix:
        group.refusal = f"{_last(member)} has more than one dot, and names end at the first"
    elif member.size > MAX_FILE_BYTES:
        group.refusal = f"too large: {member.size:,} bytes, the limit is {MAX_FILE_BYTES:,}"


def _add_labels(group: _Group, member: MemberHeader, suffix: str, tar: BinaryIO) -> None:
    if group.labelled_by == suffix:
        group.refusal = group.refusal or f"several .{suffix} of one name"
    if group.labelled_by == "cls" or group.refusal is not None:
        return
    try:
        if member.size > MAX_LABEL_BYTES:
            raise LabelError(f"its .{suffix} has {member.size:,} bytes; the limit is {MAX_LABEL_BYTES:,}")
        data = tar.read(member.size)
        labels = from_cls(data) if suffix == "cls" else from_json(data)
    except LabelError as error:
        group.refusal = str(error)
        return
    if labels != NO_LABELS:
        group.labels, group.labelled_by = labels, suffix


def _peek(file: str) -> Iterator[Labels]:
    """The labels of the first few samples."""
    found = 0
    for member, tar in _members(file):
        suffix = _suffix(member)
        if suffix not in LABEL_SUFFIXES or member.refusal is not None or member.size > MAX_LABEL_BYTES:
            continue
        try:
            data = tar.read(member.size)
            yield from_cls(data) if suffix == "cls" else from_json(data)
        except LabelError:
            continue  # it is rejected with that reason when it is listed
        found += 1
        if found == PEEKED:
            return


def _suffix(member: MemberHeader) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _is_image(member: MemberHeader) -> bool:
    return is_image(member.name.encode("utf-8", "surrogateescape"))


def _last(member: MemberHeader) -> str:
    return escape(member.name.rpartition("/")[2])
