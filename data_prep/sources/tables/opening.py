"""Opening tables: the first one's columns and first rows say how all are read."""

from itertools import islice

from data_prep.foreign.packed import LabelError, Labels
from data_prep.sources.base import Source
from data_prep.sources.files import base_name, shown
from data_prep.sources.labels import LabelStyle
from data_prep.sources.options import SourceOptions
from data_prep.sources.tables.cells import labels_of
from data_prep.sources.tables.columns import Columns, choose, class_names, is_packed
from data_prep.sources.tables.formats import Chunk, ParquetTable, TableFile, suffix_of, table_file
from data_prep.sources.tables.packed import PackedTableSource
from data_prep.sources.tables.source import TableSource
from pipeline.dataset.errors import UsageError
from pipeline.dataset.names import escape
from pipeline.dataset.remote.urls import is_url, parent, public

_PEEKED = 1000  # rows


def open_table(files: tuple[str, ...], root: str, options: SourceOptions) -> Source:
    """Opens tables of one kind that lie in one folder. `root` is that folder, or the one table.

    Raises:
        UsageError: not a table, empty, or it is not clear which column is what.
        WorkFailed: a remote one does not answer.
    """
    kinds = {suffix_of(base_name(file)): file for file in files}
    if len(kinds) > 1:
        names = " and ".join(escape(base_name(file)) for file in kinds.values())
        raise UsageError(f"{shown(root)}: tables of several kinds ({names}); name those that are meant")
    table = table_file(files[0])
    present = table.columns()
    columns = choose(present, options, shown(files[0]))
    packed = is_packed(present[columns.image])
    chunk = _first(table, columns, packed)
    style = LabelStyle.of(_peeked(chunk, columns, table.text))
    classes = None
    if isinstance(table, ParquetTable) and style.numbered:
        classes = class_names(table.schema(), columns.labels, shown(files[0]))
    name = public(root) if is_url(root) else escape(base_name(root))
    if packed:
        return PackedTableSource(files, name, columns, style.numbered, style.multi, classes)
    base = parent(files[0]) if is_url(files[0]) else files[0].rpartition("/")[0]
    cells = chunk.values[columns.image]
    if not any(isinstance(cell, str) for cell in cells):
        raise UsageError(f"{shown(files[0])}: column {escape(columns.image)!r} holds neither paths nor images")
    remote = is_url(base) or any(isinstance(cell, str) and is_url(cell) for cell in cells)
    untyped = not isinstance(table, ParquetTable)
    return TableSource(files, base, name, columns, remote, style.numbered, style.multi, classes, untyped)


def _first(table: TableFile, columns: Columns, packed: bool) -> Chunk:
    wanted = columns.wanted if packed else [columns.image, *columns.wanted]
    chunk = next(iter(table.chunks(wanted, {}, _PEEKED)), None)
    if chunk is None:
        raise table.refuse("no rows in it")
    return chunk


def _peeked(chunk: Chunk, columns: Columns, text: bool) -> list[Labels]:
    found = []
    for cells in islice(zip(*(chunk.values[name] for name in columns.labels), strict=True), _PEEKED):
        try:
            found.append(labels_of(cells, text, None))
        except LabelError:
            continue  # it is rejected with that reason when it is listed
    return found
