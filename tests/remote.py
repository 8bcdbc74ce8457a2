"""Datasets behind real servers, for tests of what reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.dataset.remote import filesystems
from tests.servers import environment, fill


@contextmanager
def connected(endpoint: str, seconds: float | None = None) -> Iterator[None]:
    """This process talks to it, for as long as the block lasts; `seconds`: VITSTREAM_RETRY_SECONDS."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(endpoint).items():
            patch.setenv(name, value)
        if seconds is not None:
            patch.setenv("VITSTREAM_RETRY_SECONDS", str(seconds))
        filesystems._opened.cache_clear()
        yield
    filesystems._opened.cache_clear()


def upload(endpoint: str, bucket: str, dataset: Path) -> None:
    """Its files, into a new bucket."""
    files = [path for path in dataset.rglob("*") if path.is_file()]
    fill(endpoint, bucket, {str(path.relative_to(dataset)): path.read_bytes() for path in files})
