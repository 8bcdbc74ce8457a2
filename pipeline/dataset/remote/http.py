"""One HTTP GET, of a range or of everything, that believes nothing: statuses, ranges and lengths are checked."""

import re
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from pipeline.dataset.remote.patience import Missing, Refused, Unexpected

_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_AGAIN: Final = (408, 425, 429)  # and every 5xx
_PIECE: Final = 2**18


async def get(filesystem: Any, url: str, offset: int, limit: int, silence: float) -> bytes:
    """Bytes [offset, offset + limit), or fewer where the object ends before. `silence`: seconds without a byte.

    Raises:
        Refused: the server says that it will not.
        Unexpected: it cannot now, or answers something else.
    """
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={offset}-{offset + limit - 1}"}
    async with _ask(await filesystem.set_session(), url, headers, silence) as response:
        if response.status == 416:  # it ends before `offset`
            return b""
        _check(response)
        if response.status != 206 and offset:  # `length` has seen that it can
            raise Unexpected("everything came instead of a part")
        start, total = _content_range(response) if response.status == 206 else (0, None)
        if start != offset:
            raise Unexpected("another range than was asked for")
        data = bytearray()
        async for piece in response.content.iter_chunked(_PIECE):
            data += piece
            if len(data) >= limit:
                break
    if total is not None and len(data) < min(limit, total - offset):
        raise Unexpected(f"{len(data):,} of {min(limit, total - offset):,} bytes came")
    return bytes(data[:limit])


async def length(filesystem: Any, url: str, silence: float) -> int:
    """Bytes of an object, which can be had by ranges. Raises as `get`."""
    for _ in range(2):  # of many machines behind one name, one may be different
        async with _ask(await filesystem.set_session(), url, {"Range": "bytes=0-0"}, silence) as response:
            if response.status == 416:
                return 0
            _check(response)
            total = _content_range(response)[1] if response.status == 206 else None
            if total is not None:
                return total
    raise Refused("the server cannot send a part of a file; download it first")


def _ask(session: aiohttp.ClientSession, url: str, headers: dict[str, str], silence: float) -> Any:
    # A signature covers the URL as it was written: nothing that is escaped, or need not be, is touched.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
    return session.get(URL(quote(url, safe=_ASCII), encoded=True), headers=headers, timeout=timeout)


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status >= 500 or status in _AGAIN:
        raise Unexpected(f"HTTP {status}")
    if status == 404:
        raise Missing
    if status not in (200, 206):
        raise Refused({401: "access denied", 403: "access denied"}.get(status, f"HTTP {status}"))


def _content_range(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """First byte, and the object's size where it is known."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
    if not found:
        raise Unexpected("no Content-Range")
    return int(found[1]), None if found[2] == "*" else int(found[2])
