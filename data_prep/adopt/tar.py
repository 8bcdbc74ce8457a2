"""One tar of others: which of its members are an image and its label, in whatever order they lie.

Members are of one sample where their paths agree up to the first dot of the last part, as webdataset cuts them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import xxhash

from data_prep.catalog.samples import Reject
from data_prep.foreign.packed import (
    MAX_IMAGE_BYTES,
    MAX_LABEL_BYTES,
    NO_LABELS,
    LabelError,
    Labels,
    PackedSample,
    from_cls,
    from_json,
)
from data_prep.foreign.tars import BLOCK, MemberHeader, iter_members
from pipeline.dataset.containers import parse_header
from pipeline.dataset.images import ImageError, read_header
from pipeline.dataset.keys import own_key, sample_name
from pipeline.dataset.names import escape

IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
LABEL_SUFFIXES: Final = ("cls", "json")  # in this order: where there are both, the .json is about something else


@dataclass(slots=True)
class _Group:
    """The members of one sample that matter."""

    images: list[MemberHeader] = field(default_factory=list)
    labels: dict[str, list[MemberHeader]] = field(default_factory=dict)
    dotted: str = ""  # a member that would be an image, but for dots in its name
    refusal: str = ""


def scan_tar(path: Path, name: str) -> Iterator[PackedSample | Reject]:
    """Every sample of the tar at `path`, which the dataset calls `name`, in the order of its images.

    Raises:
        BrokenTar: it cannot be read to its end.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        groups = _groups(file)
        for own, group in groups.items():
            yield _sample(file.fileno(), name, own, group)


def _groups(file: BinaryIO) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for member in iter_members(file):
        if member.kind == "folder":
            continue
        own = sample_name(member.name)
        suffix = member.name.rpartition("/")[2].partition(".")[2].lower()
        kind = suffix.rpartition(".")[2]
        if kind not in IMAGE_SUFFIXES and kind not in LABEL_SUFFIXES:
            continue
        group = groups.setdefault(own, _Group())
        if member.refusal is not None:
            group.refusal = group.refusal or f"{_last(member)} {member.refusal}"
        elif suffix in IMAGE_SUFFIXES:
            group.images.append(member)
        elif suffix in LABEL_SUFFIXES:
            group.labels.setdefault(suffix, []).append(member)
        elif kind in IMAGE_SUFFIXES:
            group.dotted = member.name
    return dict(sorted(groups.items(), key=lambda item: item[1].images[0].offset if item[1].images else 0))


def _sample(fd: int, tar: str, own: str, group: _Group) -> PackedSample | Reject:
    key = own_key(tar, own)
    name = escape(f"{tar}/{own}")
    try:
        image = _image(fd, group)
        labels = _labels(fd, group)
        return read_sample(fd, name, key, image.offset, image.size, labels)
    except (ImageError, LabelError) as error:
        return Reject(name, key, str(error))


def read_sample(fd: int, name: str, key: str, offset: int, size: int, labels: Labels) -> PackedSample:
    """The sample whose image lies there. Raises ImageError where it cannot be used."""
    if size > MAX_IMAGE_BYTES:
        raise ImageError(f"too large: {size:,} bytes, the limit is {MAX_IMAGE_BYTES:,}")
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise ImageError("cut short")
    header = read_header(data)
    return PackedSample(name, key, offset, size, labels, header.width, header.height, xxhash.xxh3_64_hexdigest(data))


def _image(fd: int, group: _Group) -> MemberHeader:
    """The one image. Raises ImageError where there is none, or several, or reading could not tell that it is this."""
    if group.refusal:
        raise ImageError(group.refusal)
    if not group.images and not group.dotted:
        raise ImageError("no image")
    if not group.images:
        raise ImageError(f"no image: {escape(group.dotted)} has more than one dot, and names end at the first")
    if len(group.images) > 1:
        named = ", ".join(_last(member) for member in group.images[:3])
        raise ImageError(f"several images of one name: {named}")
    (image,) = group.images
    if not image.plain_name or parse_header(os.pread(fd, BLOCK, image.offset - BLOCK)) != (image.name, image.size):
        raise ImageError("its name does not fit in a plain tar header; vitstream shard can take it from this tar")
    return image


def _labels(fd: int, group: _Group) -> Labels:
    """What the label members say; NO_LABELS where there are none. Raises LabelError."""
    for suffix in LABEL_SUFFIXES:
        members = group.labels.get(suffix, [])
        if len(members) > 1:
            raise LabelError(f"several .{suffix} of one name")
        if not members:
            continue
        (member,) = members
        if member.size > MAX_LABEL_BYTES:
            raise LabelError(f"its .{suffix} has {member.size:,} bytes; the limit is {MAX_LABEL_BYTES:,}")
        data = os.pread(fd, member.size, member.offset)
        labels = from_cls(data) if suffix == "cls" else from_json(data)
        if labels != NO_LABELS:
            return labels
    return NO_LABELS


def _last(member: MemberHeader) -> str:
    return escape(member.name.rpartition("/")[2])
