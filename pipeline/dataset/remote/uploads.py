"""Files into s3:// and gs://, through fsspec, with patience. An object is there whole or not at all."""

from pathlib import Path

from pipeline.dataset.errors import UsageError
from pipeline.dataset.remote.filesystems import filesystem
from pipeline.dataset.remote.patience import Missing, Patience, Refused, patiently
from pipeline.dataset.remote.urls import public


def put_file(path: Path, url: str) -> None:
    """Uploads a file, in place of what was there.

    Raises:
        UsageError, WorkFailed: the server refuses, or does not answer.
    """
    try:
        patiently(url, lambda: filesystem(url, Patience.ours().silence_s).put_file(str(path), url))
    except Refused as error:
        raise UsageError(f"{public(url)}: {error}") from None


def remove(url: str) -> None:
    """Removes an object; none needs to be there. Raises as `put_file`."""
    try:
        patiently(url, lambda: filesystem(url, Patience.ours().silence_s).rm_file(url))
    except Missing:
        pass
    except Refused as error:
        raise UsageError(f"{public(url)}: {error}") from None
