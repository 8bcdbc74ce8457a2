"""Rows out of table files, some thousand at a time. What cannot be read is refused by file and line."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.files import base_name, open_file, shown
from data_prep.sources.inflate import SUFFIXES, Bomb, Inflated, codec
from pipeline.dataset.errors import UsageError
from pipeline.dataset.names import escape

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES: Final = (".jsonl", ".ndjson")
PARQUET: Final = ".parquet"
MAX_LINE: Final = 4 * 2**20  # characters
MAX_CHUNK: Final = 32 * 2**20  # characters
_BUFFER: Final = 2**20


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table. `values` are Python's, of the columns that were asked for; `extra` Arrow's."""

    start: int  # number of the first row, from 0
    lines: Sequence[int] | None  # where in the file each row ends; None where there are no lines
    values: dict[str, list[Any]]
    extra: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def where(self, position: int) -> str:
        """How to find a row."""
        return f"row {self.start + position}" if self.lines is None else f"line {self.lines[position]}"


class TableFile(ABC):
    """One file. `text`: its cells are text, whatever they stand for."""

    text: bool

    def __init__(self, file: str) -> None:
        self.file = file

    @abstractmethod
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types. Raises UsageError, WorkFailed."""

    @abstractmethod
    def chunks(self, wanted: Sequence[str], extra: dict[str, pa.DataType], rows: int) -> Iterator[Chunk]:
        """All rows, `rows` at a time; a column that is not there is full of None. Raises UsageError, WorkFailed."""

    def refuse(self, problem: str) -> UsageError:
        """What to raise."""
        return UsageError(f"{shown(self.file)}: {problem}")


def is_table(name: str) -> bool:
    """Whether a file's name says that it is a table."""
    return suffix_of(name) in (*DELIMITERS, *JSON_SUFFIXES, PARQUET)


def suffix_of(name: str) -> str:
    """What kind of table a name says; a compression's suffix behind it is left out, where text may be compressed."""
    name = name.lower()
    packed = next((suffix for suffix in SUFFIXES if suffix != ".tgz" and name.endswith(suffix)), "")
    kind = f".{name.removesuffix(packed).rpartition('.')[2]}"
    return kind if not packed or kind != PARQUET else packed


def table_file(file: str) -> TableFile:
    """The reader for a file."""
    suffix = suffix_of(base_name(file))
    if suffix == PARQUET:
        return ParquetTable(file)
    return JsonTable(file) if suffix in JSON_SUFFIXES else CsvTable(file)


class _TextTable(TableFile):
    """A table with a row per line, or nearly."""

    _characters = 0  # read since the last chunk

    @abstractmethod
    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line at which it ends, cells by column) of every row."""

    def chunks(self, wanted: Sequence[str], extra: dict[str, pa.DataType], rows: int) -> Iterator[Chunk]:
        start, lines, cells = 0, [], []
        for line, row in self._rows():
            lines.append(line)
            cells.append(row)
            if len(cells) == rows or self._characters > MAX_CHUNK:
                yield _chunk(start, lines, cells, wanted, extra)
                start, lines, cells, self._characters = start + len(cells), [], [], 0
        if cells:
            yield _chunk(start, lines, cells, wanted, extra)

    @contextmanager
    def _lines(self) -> Iterator[Iterator[str]]:
        """Its lines as text, none of them too long; bytes that are no UTF-8 as surrogates, as in file names."""
        with open_file(self.file) as plain:
            how = codec(base_name(self.file))
            opened: Any = plain if how is None else io.BufferedReader(Inflated(plain, how), _BUFFER)
            try:
                if opened.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise self.refuse("UTF-16 text; save it as UTF-8")
                yield self._bounded(io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape", newline=""))
            except Bomb as error:
                raise self.refuse(str(error)) from None

    def _bounded(self, text: io.TextIOWrapper) -> Iterator[str]:
        number = 0
        while line := text.readline(MAX_LINE):
            number += 1
            self._characters += len(line)
            if len(line) == MAX_LINE:
                raise self.refuse(f"line {number} is longer than {MAX_LINE:,} characters")
            yield line


class CsvTable(_TextTable):
    """Comma or tab separated, with a header; quoted cells may span lines (RFC 4180)."""

    text = True

    def columns(self) -> dict[str, pa.DataType]:
        with self._lines() as lines:
            return dict.fromkeys(self._header(self._reader(lines)), pa.string())

    def _reader(self, lines: Iterator[str]) -> Any:
        return csv.reader(lines, delimiter=DELIMITERS[suffix_of(base_name(self.file))], strict=True)

    def _header(self, reader: Any) -> list[str]:
        names = next(self._cells(reader), [])
        for name in names:
            if names.count(name) > 1:
                raise self.refuse(f"has two columns {escape(name)!r}; rename one")
        return names

    def _cells(self, reader: Any) -> Iterator[list[str]]:
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self.refuse(f"line {reader.line_num}: {error}; is a quote missing?") from None

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._lines() as lines:
            reader = self._reader(lines)
            names = self._header(reader)
            for cells in self._cells(reader):
                if len(cells) == len(names):
                    yield reader.line_num, dict(zip(names, cells, strict=True))
                elif cells:  # not an empty line
                    problem = f"line {reader.line_num}: {len(cells)} cells, the header has {len(names)}"
                    raise self.refuse(problem)


class JsonTable(_TextTable):
    """One JSON object per line."""

    text = False
    PEEKED: Final = 1000  # lines that say which columns there are

    def columns(self) -> dict[str, pa.DataType]:
        names: dict[str, pa.DataType] = {}
        for number, (_, row) in enumerate(self._rows()):
            names |= dict.fromkeys(row, pa.string())
            if number == self.PEEKED:
                break
        return names

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with self._lines() as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise self.refuse(f"line {number}: not a JSON object")
                yield number, row


class ParquetTable(TableFile):
    """Parquet; nothing of a column is read that was not asked for."""

    text = False

    def columns(self) -> dict[str, pa.DataType]:
        return {field.name: field.type for field in self.schema()}

    def schema(self) -> pa.Schema:
        """With the metadata that Hugging Face leaves there. Raises UsageError, WorkFailed."""
        with self.open() as file:
            return file.schema_arrow

    def chunks(self, wanted: Sequence[str], extra: dict[str, pa.DataType], rows: int) -> Iterator[Chunk]:
        start = 0
        with self.open() as file:
            present = set(file.schema_arrow.names)
            leaves = [name for name in (*wanted, *extra) if name in present]
            for batch in file.iter_batches(rows, columns=leaves, use_threads=False):
                values = {n: batch.column(n).to_pylist() if n in present else [None] * len(batch) for n in wanted}
                columns = {
                    name: batch.column(name).cast(kind) if name in present else pa.nulls(len(batch), kind)
                    for name, kind in extra.items()
                }
                yield Chunk(start, None, values, columns)
                start += len(batch)

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """Raises UsageError for what is damaged, also while it is read."""
        with open_file(self.file) as file:
            try:
                # Without pre-buffering, a column is read a page at a time.
                with pq.ParquetFile(_Shared(file), pre_buffer=False, buffer_size=_BUFFER) as parquet:
                    yield parquet
            except (pa.ArrowException, OSError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise self.refuse(f"damaged, or no Parquet ({escape(reason)})") from None


class _Shared(io.RawIOBase):
    """A file that Arrow may close as it likes; an error of ours goes through Arrow as it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _chunk(
    start: int, lines: list[int], cells: list[dict[str, Any]], wanted: Sequence[str], extra: dict[str, pa.DataType]
) -> Chunk:
    values = {name: [row.get(name) for row in cells] for name in wanted}
    columns = {name: pa.array([_as_text(row.get(name)) for row in cells], pa.string()) for name in extra}
    return Chunk(start, lines, values, columns)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
