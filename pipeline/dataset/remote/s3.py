"""Single requests to S3, so that each can be asked again alone: a GET of a range, and one page of a listing.

fsspec's own GET throws away what the answer says of the whole object, by which alone an answer that was cut short on
its way can be told from an object that is short; its listing of a folder is all of a thousand pages, or nothing.
"""

import re
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.remote.patience import Refused, Unexpected


@dataclass(frozen=True)
class Page:
    """Part of a folder: names of folders, (name, bytes) of files, and how to ask for the next part."""

    folders: list[str]
    files: list[tuple[str, int]]
    token: str | None


async def get(filesystem: Any, url: str, offset: int, limit: int) -> bytes:
    """Bytes [offset, offset + limit), or fewer where the object ends before.

    Raises:
        Unexpected: another part came, or not all of it.
        Exception: what s3fs raises.
    """
    bucket, key, _ = filesystem.split_path(url)
    wanted = f"bytes={offset}-{offset + limit - 1}"
    response = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, Range=wanted, **filesystem.req_kw)
    try:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.get("ContentRange", ""))
        if not found or int(found[1]) != offset or response["ContentLength"] > limit:
            raise Unexpected("another range than was asked for")
        data = await response["Body"].read()
    finally:
        response["Body"].close()
    expected = min(limit, int(found[2]) - offset)
    if len(data) != expected:
        raise Unexpected(f"{len(data):,} of {expected:,} bytes came")
    return data


async def page(filesystem: Any, url: str, token: str | None) -> Page:
    """What lies directly below a URL, from `token` on.

    Raises:
        Refused: nothing lies there, or under a name that is none.
        Unexpected: not the whole page.
        Exception: what s3fs raises.
    """
    bucket, key, _ = filesystem.split_path(url)
    prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
    more = {"ContinuationToken": token} if token else {}
    response = await filesystem._call_s3(
        "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **more, **filesystem.req_kw
    )
    below = [entry["Prefix"] for entry in response.get("CommonPrefixes", [])]
    files = [(entry["Key"], int(entry["Size"])) for entry in response.get("Contents", [])]
    if response.get("KeyCount", 0) != len(below) + len(files):
        raise Unexpected("a page of the listing was cut short")
    if not (below or files or token) and prefix:
        raise Refused("does not exist")
    if prefix + "/" in below:
        raise Refused("has keys with two slashes in a row, which no folder can have; rename them")
    return Page(
        [name[len(prefix) : -1] for name in below],
        [(name[len(prefix) :], size) for name, size in files if name != prefix],  # but for the folder's own marker
        response["NextContinuationToken"] if response.get("IsTruncated") else None,
    )
