"""Labels as the sources have them, names or numbers, to the ids that are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.catalog.select import first_row, rows
from data_prep.sources.base import Source
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import LabelKind
from pipeline.dataset.names import escape

MAX_CLASSES: Final = 10_000_000


@dataclass(frozen=True)
class Classes:
    """The class list; a label is a position in it. `numbered`: the sources write that position, not the name."""

    names: tuple[str, ...]
    labels: LabelKind
    numbered: bool


def read_class_list(path: Path) -> tuple[str, ...]:
    """One name per line; line i is class i. Raises UsageError, naming the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"--classes {path}: cannot be read ({reason}); write one class name per line") from None
    names = [escape(line.strip()) for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"--classes {path}: line {number} is empty; a class id is its line number, less one")
        if name in seen:
            raise UsageError(f"--classes {path}: {name!r} stands in lines {seen[name]} and {number}")
        seen[name] = number
    if not names:
        raise UsageError(f"--classes {path}: empty; write one class name per line")
    return tuple(names)


def resolve(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], given: tuple[str, ...] | None) -> Classes:
    """The classes of what table `picked` holds, by the first of these that applies: the list that was given; the list
    that every source brings; numbers as they are; the names there are in table `listing`, in the order of their bytes.
    So ids do not move when a filter or a limit leaves classes out.

    Raises:
        UsageError: an image without a label, or with one that is in no list.
    """
    lists = {source.class_names for source in sources}
    numbered = sources[0].numbered
    if any(source.numbered != numbered for source in sources):
        raise UsageError("some SOURCEs have numbers for labels and some have names; write all of them in one way")
    if given is None and len(lists) > 1:
        raise UsageError("the SOURCEs bring different class lists; give one for all with --classes FILE")
    known = given if given is not None else lists.pop()
    most, least = first_row(connection, "SELECT max(len(labels)), min(len(labels)) FROM picked WHERE reject IS NULL")
    kind: LabelKind = "multi" if (most or 0) > 1 or any(source.multi for source in sources) else "single"
    if kind == "single" and least == 0:
        (path,) = first_row(connection, "SELECT min(path) FROM picked WHERE len(labels) = 0 AND reject IS NULL")
        raise UsageError(f"{path!r}: has no label; leave it out with --where 'len(labels) > 0', or label it")
    if known is not None:
        _check_known(connection, known, numbered, "the list of --classes" if given else "the source's own class list")
        return Classes(known, kind, numbered)
    if numbered:
        return Classes(tuple(map(str, range(_highest(connection) + 1))), kind, numbered)
    names = rows(connection, "SELECT DISTINCT unnest(labels) AS name FROM listing ORDER BY name")
    return Classes(tuple(name for (name,) in names), kind, numbered)


def to_ids(labels: pa.Array, names: pa.Array | None) -> pa.Array:
    """list<string> -> list<uint32>: each label's place in `names`; without these, labels are ids already."""
    flat = labels.flatten()
    ids = flat.cast(pa.uint32()) if names is None else pc.index_in(flat, names).cast(pa.uint32())
    lengths = pc.list_value_length(labels).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    return pa.ListArray.from_arrays(offsets, ids)


def _highest(connection: duckdb.DuckDBPyConnection) -> int:
    path, label, number = first_row(
        connection,
        "SELECT path, label, TRY_CAST(label AS BIGINT) AS number"
        " FROM (SELECT path, unnest(labels) AS label FROM listing WHERE reject IS NULL)"
        " ORDER BY number IS NULL DESC, number < 0 DESC, number DESC LIMIT 1",
    )
    advice = "give names, with --classes FILE"
    if number is None or number < 0:
        raise UsageError(f"{path!r}: label {label!r} is no number from 0, as others are; {advice}")
    if number >= MAX_CLASSES:
        raise UsageError(f"{path!r}: label {number} would make {number + 1:,} classes; {advice}")
    return int(number)


def _check_known(connection: duckdb.DuckDBPyConnection, known: tuple[str, ...], numbered: bool, where: str) -> None:
    """Raises UsageError where a label is not in the list: as a number below its length, or as a name."""
    connection.register("known_classes", pa.table({"name": pa.array(known, pa.string())}))
    number = f"regexp_full_match(label, '0|[1-9][0-9]{{0,8}}') AND CAST(label AS BIGINT) < {len(known)}"
    right = number if numbered else "label IN (SELECT name FROM known_classes)"
    unknown = f"FROM (SELECT path, unnest(labels) AS label FROM picked WHERE reject IS NULL) WHERE NOT ({right})"
    (count,) = first_row(connection, f"SELECT count(*) {unknown}")
    if count:
        path, label = first_row(connection, f"SELECT path, label {unknown} ORDER BY path LIMIT 1")
        raise UsageError(
            f"{path!r}: label {label!r} is not in {where}, which has {len(known):,} classes"
            f" ({count:,} such labels in all); add it there, or leave it out with --where"
        )
