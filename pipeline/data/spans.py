"""Which ranges of a file are asked for, so that many samples need few requests. Pure."""

from typing import NamedTuple

LOCAL_GAP = 16 * 2**10  # bytes read for nothing that cost less than another request: a few microseconds of an NVMe,
REMOTE_GAP = 512 * 2**10  # and 10 ms of an object store
LARGEST = 32 * 2**20


class Span(NamedTuple):
    """A range of a file, and which of the extents asked for lie in it."""

    offset: int
    length: int
    members: list[int]  # numbers of the extents


def spans(extents: list[tuple[int, int]], gap: int) -> list[Span]:
    """Ranges that cover all `extents` (offset, length), in order of offset.

    Extents are joined where at most `gap` bytes lie between them and the whole is no larger than LARGEST; so at most
    `gap` bytes are read for nothing for each request that is saved. Extents may overlap: a tar's label block may be the
    next one's padding.
    """
    found: list[Span] = []
    begin = end = 0
    members: list[int] = []
    for number in sorted(range(len(extents)), key=extents.__getitem__):
        offset, length = extents[number]
        if members and offset - end <= gap and offset + length - begin <= LARGEST:
            end = max(end, offset + length)
            members.append(number)
            continue
        if members:
            found.append(Span(begin, end - begin, members))
        begin, end, members = offset, offset + length, [number]
    if members:
        found.append(Span(begin, end - begin, members))
    return found
