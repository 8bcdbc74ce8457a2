"""Where a dataset, or one of its files, lies: a path, or a URL."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.blob import Blob, LocalBlob
from pipeline.dataset.files import open_regular

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Location:
    """A path of a file system, or an s3://, gs://, http:// or https:// URL."""

    text: str

    @classmethod
    def of(cls, place: "str | Path | Location") -> "Location":
        """From whatever names one."""
        return place if isinstance(place, Location) else cls(str(place))

    @property
    def is_remote(self) -> bool:
        return _URL.match(self.text) is not None

    @property
    def path(self) -> Path:
        """The path, of one that is local."""
        assert not self.is_remote, self.text
        return Path(self.text)

    @property
    def name(self) -> str:
        """Its last part."""
        return self.text.rstrip("/").rpartition("/")[2]

    def __truediv__(self, name: str) -> "Location":
        """What lies below it. A URL's query (a signature, say) is kept."""
        if not self.is_remote:
            return Location(str(self.path / name))
        from pipeline.dataset.remote.urls import join

        return Location(join(self.text, name))

    def __str__(self) -> str:
        """What may be shown: of a URL neither query nor credentials."""
        if not self.is_remote:
            return self.text
        from pipeline.dataset.remote.urls import public

        return public(self.text)

    def read(self) -> bytes:
        """A whole small file.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
            UsageError, WorkFailed: a server refuses, or does not answer.
        """
        if not self.is_remote:
            with open_regular(self.path) as file:
                return file.read()
        from pipeline.dataset.remote.blob import read_file

        return read_file(self.text)

    def blob(self) -> Blob:
        """The file, opened for reading by ranges. Raises OSError; of a remote one nothing is asked yet."""
        if not self.is_remote:
            return LocalBlob(self.path)
        from pipeline.dataset.remote.blob import RemoteBlob

        return RemoteBlob(self.text)


def without_credentials(value: Any) -> Any:
    """JSON, of whose URLs neither credentials nor query are left: what may be stored anywhere."""
    if isinstance(value, dict):
        return {key: without_credentials(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_credentials(each) for each in value]
    return str(Location(value)) if isinstance(value, str) else value
