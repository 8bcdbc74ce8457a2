"""One S3 GET of a range. fsspec's own throws away what the answer says of the whole object, by which alone an answer
that was cut short on its way can be told from an object that is short."""

import re
from typing import Any

from data_prep.remote.patience import Unexpected


async def get(filesystem: Any, url: str, offset: int, limit: int) -> bytes:
    """Bytes [offset, offset + limit), or fewer where the object ends before.

    Raises:
        Unexpected: another part came, or not all of it.
        Exception: what s3fs raises.
    """
    bucket, key, _ = filesystem.split_path(url)
    wanted = f"bytes={offset}-{offset + limit - 1}"
    response = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, Range=wanted)
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
