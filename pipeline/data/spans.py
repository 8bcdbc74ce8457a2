"""Which ranges of a file are asked for, so that many samples need few requests. Pure."""

from dataclasses import dataclass

LOCAL_GAP = 64 * 2**10  # bytes read for nothing that cost less than another request: about 0.1 ms of a disk,
REMOTE_GAP = 512 * 2**10  # and of an object store, 10 ms
LARGEST = 32 * 2**20


@dataclass(frozen=True)
class Span:
    """A range of a file, and which of the extents asked for lie in it."""

    offset: int
    length: int
    members: tuple[int, ...]  # numbers of the extents


def spans(extents: list[tuple[int, int]], gap: int, largest: int = LARGEST) -> list[Span]:
    """Ranges that cover all `extents` (offset, length), in order of offset.

    Extents are joined where at most `gap` bytes lie between them and the whole stays below `largest`; so at most `gap`
    bytes per request are read for nothing. Extents may overlap: a tar's label block may be the next one's padding.
    """
    found: list[Span] = []
    for number in sorted(range(len(extents)), key=extents.__getitem__):
        offset, length = extents[number]
        last = found[-1] if found else None
        if last and offset - (last.offset + last.length) <= gap and offset + length - last.offset <= largest:
            end = max(last.offset + last.length, offset + length)
            found[-1] = Span(last.offset, end - last.offset, (*last.members, number))
        else:
            found.append(Span(offset, length, (number,)))
    return found
