"""Images of remote objects: one that is not there, or not for us, is an image to be rejected."""

from pipeline.dataset.images import ImageError
from pipeline.dataset.remote import objects
from pipeline.dataset.remote.patience import Refused
from pipeline.dataset.remote.urls import public


def read(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Bytes [offset, offset + size) of an object; the whole of it where `size` is None.

    Raises:
        ImageError: the object does not exist, is not for us, is shorter than that, or larger than an image may be.
        WorkFailed: no answer that makes sense, for as long as we have patience.
        UsageError: what reads such URLs is not installed, or there are no credentials.
    """
    try:
        return objects.read(url, offset, size)
    except Refused as error:
        raise ImageError(f"{public(url)}: {error}") from None
