"""What each SOURCE of the command line is."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from data_prep.common.remote import read
from data_prep.sources import tables
from data_prep.sources.base import Source
from data_prep.sources.dataset import open_dataset
from data_prep.sources.files import base_name
from data_prep.sources.folder import FolderSource, RemoteFolderSource
from data_prep.sources.inflate import codec
from data_prep.sources.mds import open_mds
from data_prep.sources.options import SourceOptions
from data_prep.sources.tars import open_tars
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import MANIFEST_NAME
from pipeline.dataset.mds_listing import INDEX_NAME
from pipeline.dataset.names import escape
from pipeline.dataset.remote.objects import list_folder
from pipeline.dataset.remote.urls import check_scheme, is_http, is_url, join, public

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")
_KINDS = "a folder of class folders, tables, tars, a dataset, or an MDS folder"


def open_sources(names: Sequence[str], options: SourceOptions) -> list[Source]:
    """A source for each name, in their order; neighbouring tars are one.

    Raises:
        UsageError: one is missing, of a kind that is not read, or given twice.
        WorkFailed: a remote one does not answer.
    """
    places = [_place(name) for name in names]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise UsageError(f"{public(place) if is_url(place) else escape(names[number])}: given twice as SOURCE")
    sources: list[Source] = []
    for kind, group in groupby(places, key=_tar_kind):
        if kind is not None:
            sources.append(_tars(tuple(group)))
        else:
            sources += [_open(place, options) for place in group]
    _check_options(sources, options)
    return sources


def resolved(path: Path) -> Path:
    """The path without links. Raises UsageError where they lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # which of them depends on Python's version
        raise UsageError(f"{path}: a link that leads in a circle; name the folder itself") from None


def _place(name: str) -> str:
    """An absolute path without links, or a URL."""
    if not name:
        raise UsageError("SOURCE '': empty, as a variable that is not set; name a folder, a file or a URL")
    if not is_url(name):
        return str(resolved(Path(name)))
    check_scheme(name)
    return name if is_http(name) else name.rstrip("/")


def _tar_kind(place: str) -> tuple[bool, bool] | None:
    """(remote, compressed) of a tar; None for anything else."""
    name = base_name(place)
    if not name.lower().endswith(_TAR_SUFFIXES) or (not is_url(place) and Path(place).is_dir()):
        return None
    return is_url(place), codec(name) is not None


def _tars(files: tuple[str, ...]) -> Source:
    names = [escape(base_name(file)) for file in files]
    return open_tars(files, names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names):,} tars)")


def _open(place: str, options: SourceOptions) -> Source:
    if tables.is_table(base_name(place)) and (is_url(place) or not Path(place).is_dir()):
        return tables.open_table((place,), place, options)
    return _open_bucket(place, options) if is_url(place) else _open_folder(Path(place), options)


def _open_folder(folder: Path, options: SourceOptions) -> Source:
    name = escape(folder.name)
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        folders = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return FolderSource(str(folder), name)  # which says what is wrong with it
    present = [entry.name for entry in entries if entry.name not in folders]
    if MANIFEST_NAME in present:
        return open_dataset(folder)
    splits = [split for split in ("train", "val") if (folder / split / MANIFEST_NAME).exists()]
    if splits:
        raise UsageError(f"{escape(str(folder))}: holds the datasets {' and '.join(splits)}; name one of them")
    if INDEX_NAME in present and _is_mds((folder / INDEX_NAME).read_bytes()):
        return open_mds(str(folder), name)
    return _of_files(str(folder), name, present, folders, options) or FolderSource(str(folder), name)


def _open_bucket(url: str, options: SourceOptions) -> Source:
    folders, files = list_folder(url)
    present = [name for name, _ in files]
    if INDEX_NAME in present and _is_mds(read(join(url, INDEX_NAME))):
        return open_mds(url, public(url))
    if MANIFEST_NAME in present:
        raise UsageError(f"{public(url)}: a dataset in a bucket; copy it, or name its tars: {public(url)}/shards")
    if not present and not folders:
        raise UsageError(f"{public(url)}: nothing there; expected {_KINDS}")
    return _of_files(url, public(url), present, folders, options) or RemoteFolderSource(url, public(url))


def _is_mds(index: bytes) -> bool:
    """Other programs write an index.json, too."""
    return b'"mds"' in index


def _of_files(root: str, name: str, present: list[str], folders: list[str], options: SourceOptions) -> Source | None:
    """The source that these files are, where they lie directly in a folder without folders; else None."""
    visible = [file for file in present if not file.startswith((".", "_"))]
    packed = [file for file in visible if file.lower().endswith(_TAR_SUFFIXES)]
    listed = [file for file in visible if tables.is_table(file)]
    if any(not folder.startswith(".") for folder in folders) or not (packed or listed):
        return None
    shown = public(root) if is_url(root) else escape(root)
    if packed and listed:
        raise UsageError(f"{shown}: holds tars ({packed[0]}) and tables ({listed[0]}); name the files that are meant")
    files = tuple(join(root, file) if is_url(root) else f"{root}/{file}" for file in packed or listed)
    if listed:
        return tables.open_table(files, root, options)
    if len({codec(file) is None for file in packed}) > 1:
        raise UsageError(f"{shown}: some of its tars are compressed and some are not; name those that are meant")
    return open_tars(files, name)


def _check_options(sources: Sequence[Source], options: SourceOptions) -> None:
    """Raises UsageError where columns are named, but nothing has any."""
    given = [f"--{name}" for name in ("labels", "image", "key") if getattr(options, name)]
    if given and not any(isinstance(source, tables.TableSource | tables.PackedTableSource) for source in sources):
        raise UsageError(f"{given[0]}: names a column, but no SOURCE is a table")
