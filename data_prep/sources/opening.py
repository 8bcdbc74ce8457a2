"""What each SOURCE of the command line is."""

from collections.abc import Sequence
from pathlib import Path

from data_prep.names import escape
from data_prep.remote.urls import check_scheme, is_url, public
from data_prep.sources.base import Source
from data_prep.sources.folder import FolderSource, RemoteFolderSource
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError


def open_sources(names: Sequence[str], options: SourceOptions) -> list[Source]:
    """A source for each name, in their order.

    Raises:
        UsageError: one is missing, of a kind that is not read, or given twice.
        WorkFailed: a remote one does not answer.
    """
    places = [name if is_url(name) else resolved(Path(name)) for name in names]
    for number, place in enumerate(places):
        if place in places[:number]:
            shown = public(names[number]) if is_url(names[number]) else escape(names[number])
            raise UsageError(f"{shown}: given twice as SOURCE")
    return [_open(place, options) for place in places]


def resolved(path: Path) -> Path:
    """The path without links. Raises UsageError where they lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # which of them depends on Python's version
        raise UsageError(f"{path}: a link that leads in a circle; name the folder itself") from None


def _open(place: str | Path, options: SourceOptions) -> Source:
    if isinstance(place, str):
        check_scheme(place)
        return RemoteFolderSource(place.rstrip("/"), public(place.rstrip("/")))
    return FolderSource(str(place), escape(place.name))
