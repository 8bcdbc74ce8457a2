"""Which images of the listing are taken, and in which order: SQL over Parquet, out of core (DuckDB).

where -> keep list -> cap per class -> limit. Caps and limits take the first in the shuffle's own order, so what a
smaller one takes lies inside what a larger one takes.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from data_prep.catalog.listing import OWN_COLUMNS
from data_prep.common.keylists import key_chunks
from data_prep.options import Options
from data_prep.sources.base import COLUMNS
from pipeline.dataset.errors import UsageError, WorkFailed

MEMORY_LIMIT: Final = "1GB"
ORDER: Final = "shuffle, key"  # total, as keys are unique
_NUMBER: Final = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?"  # 007 is no number, but a name
_CHANGING: Final = re.compile(r"\b(random|(?:gen_random_)?uuid\w*|nextval|now|today)\s*\(", re.IGNORECASE)
_ROW_COLUMNS: Final = '"key", path, labels, bytes, file, "offset", source, shuffle, split_hash, reject'


@contextmanager
def plain_path(folder: Path) -> Iterator[str]:
    """A path of the folder for SQL, in which no character means anything: no glob, no quote, no byte but ASCII."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def catalogue(folder: Path, untyped: Collection[int] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the view `listing` over the Parquet files of a folder; it spills to disk, not into memory.

    `untyped` sources have text in all further columns: those in which it is all numbers become numbers.
    """
    with plain_path(folder) as path, duckdb.connect(":memory:") as connection:
        limit_memory(connection, f"{path}/spill")
        parts = []
        for number, file in enumerate(sorted(folder.glob("source-*.parquet"))):
            part = f"SELECT * FROM read_parquet('{path}/{file.name}')"
            parts.append(_with_numbers(connection, part) if number in untyped else part)
        union = " UNION ALL BY NAME ".join(parts)
        connection.execute(f"CREATE VIEW listing AS SELECT *, labels[1] AS label FROM ({union})")
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise WorkFailed(f"{folder}: the catalogue needs more room ({_first_line(error)})") from None


def limit_memory(connection: duckdb.DuckDBPyConnection, spill: str) -> None:
    """What does not fit in MEMORY_LIMIT goes to the folder `spill`."""
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    connection.execute("SET temp_directory = $1", [spill])
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET enable_progress_bar = false")


def _with_numbers(connection: duckdb.DuckDBPyConnection, part: str) -> str:
    """The query, with each of its own text columns that holds nothing but numbers as DOUBLE."""
    known = (*COLUMNS.names, *OWN_COLUMNS)
    names = [row[0] for row in rows(connection, f"DESCRIBE {part}") if row[1] == "VARCHAR" and row[0] not in known]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    if not quoted:
        return part
    tests = ", ".join(f"bool_and(regexp_full_match({name}, '{_NUMBER}'))" for name in quoted)
    found = first_row(connection, f"SELECT {tests} FROM ({part})")
    numeric = [name for name, right in zip(quoted, found, strict=True) if right]
    casts = ", ".join(f"CAST({name} AS DOUBLE) AS {name}" for name in numeric)
    return f"SELECT * REPLACE ({casts}) FROM ({part})" if numeric else part


def pick(connection: duckdb.DuckDBPyConnection, options: Options, keep: Path | None) -> None:
    """Makes table or view `picked`: the rows that are taken, with the columns that the plan needs.

    Raises:
        UsageError: --where is no condition over the listing's columns; nothing is left.
    """
    source = "listing"
    if options.where is not None:
        _check_condition(connection, options.where)
        source = f"(SELECT * FROM {source} WHERE ({options.where}\n))"
    if keep is not None:
        source = f"(SELECT * FROM {source} SEMI JOIN kept USING (key))"
        _register_keep(connection, keep)
    if options.per_class is not None:
        source = _capped(source, options.per_class)
    query = f"SELECT {_ROW_COLUMNS} FROM {source}"
    if options.limit is not None:
        query += f" ORDER BY {ORDER} LIMIT {options.limit}"
    all_of_it = source == "listing" and options.limit is None
    try:
        connection.execute(f"CREATE {'VIEW' if all_of_it else 'TABLE'} picked AS {query}")
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
        raise UsageError(f"--where {options.where!r}: {_first_line(error)}") from None
    (count,) = first_row(connection, "SELECT count(*) FROM picked")
    if count == 0:
        given = {"--where": options.where, "--keep": keep}
        what = [f"{option} leaves no image" for option, value in given.items() if value is not None]
        raise UsageError(f"{' and '.join(what) or 'SOURCE has no image'}: nothing to make a dataset of")


def ordered(connection: duckdb.DuckDBPyConnection, condition: str, batch: int) -> Iterator[pa.RecordBatch]:
    """The picked rows that meet `condition`, in the shuffle's order."""
    query = f"SELECT {_ROW_COLUMNS} FROM picked WHERE {condition} ORDER BY {ORDER}"
    yield from connection.sql(query).to_arrow_reader(batch)


def _capped(source: str, per_class: int) -> str:
    """The first `per_class` images of every class; one of several classes is taken where any of them has room."""
    ranked = (
        f'SELECT "key", row_number() OVER (PARTITION BY name ORDER BY {ORDER}) AS rank'
        f' FROM (SELECT "key", shuffle, unnest(labels) AS name FROM {source})'
    )
    return f'(SELECT * FROM {source} SEMI JOIN (SELECT "key" FROM ({ranked}) WHERE rank <= {per_class}) USING (key))'


def _check_condition(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    try:
        statements = connection.extract_statements(f"SELECT 1 FROM listing WHERE ({where}\n)")
        if len(statements) != 1:
            raise UsageError(f"--where {where!r}: more than one statement; write one condition")
        rows(connection, f"EXPLAIN SELECT 1 FROM listing WHERE ({where}\n)")
        if found := _CHANGING.search(where):
            why = f"{found[1]}() gives another answer every time, so the dataset could not be made again"
            raise UsageError(f"--where {where!r}: {why}; --limit takes a fair sample")
    except duckdb.Error as error:
        columns = [str(row[0]) for row in rows(connection, "DESCRIBE listing")]
        shown = ", ".join(name for name in columns if name not in ("shuffle", "split_hash", "reject"))
        raise UsageError(f"--where {where!r}: {_first_line(error)}; columns are {shown}") from None


def _register_keep(connection: duckdb.DuckDBPyConnection, keep: Path) -> None:
    """Table `kept`, with the keys of a list."""
    schema = pa.schema([("key", pa.string())])
    batches = (
        pa.RecordBatch.from_arrays([chunk.cast(pa.string())], schema=schema) for chunk in key_chunks(keep, "--keep")
    )
    first = next(batches, None)  # here, where what is wrong with it is told as it is
    everything = chain([] if first is None else [first], batches)
    connection.register("keep_list", pa.RecordBatchReader.from_batches(schema, everything))
    connection.execute("CREATE TABLE kept AS SELECT DISTINCT key FROM keep_list")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple]:
    """All rows of a small result: an unread one would block the connection."""
    return connection.execute(query).fetchall()


def first_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The only row of a result that has one."""
    return rows(connection, query)[0]
