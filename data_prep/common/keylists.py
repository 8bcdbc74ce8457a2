"""Many keys at once: 12 bytes each, sorted, so that lists as long as a corpus fit in memory.

A key is 24 hex digits, so its 12 bytes say all that it says.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import KEY_DIGITS, is_key

PACKED: Final = np.dtype(f"S{KEY_DIGITS // 2}")  # compares like the text
_BLOCK: Final = 1 << 20
_VALUES: Final = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def pack(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Keys -> PACKED [n]. Raises ValueError where one is no key."""
    if isinstance(keys, pa.ChunkedArray):
        return np.concatenate([np.empty(0, PACKED), *(pack(chunk) for chunk in keys.chunks)])
    if keys.null_count:
        raise ValueError("an empty row")
    text = "".join(keys.to_pylist()).encode()
    digits = _VALUES[np.frombuffer(text, np.uint8)]
    if pc.any(pc.not_equal(pc.binary_length(keys), KEY_DIGITS)).as_py() or (digits == 255).any():
        wrong = next(key for key in keys.to_pylist() if not is_key(key))
        raise ValueError(f"{wrong[:40]!r} is no key")
    return (digits[::2] << 4 | digits[1::2]).view(PACKED)


def contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """bool [n]: which of `keys` are in `sorted_keys`."""
    places = np.searchsorted(sorted_keys, keys)
    inside = places < len(sorted_keys)
    inside[inside] = sorted_keys[places[inside]] == keys[inside]
    return inside


def read_key_list(path: Path, option: str) -> np.ndarray:
    """The keys of a file, PACKED, sorted, each once. Raises UsageError as `key_chunks`."""
    return np.unique(np.concatenate([np.empty(0, PACKED), *map(pack, key_chunks(path, option))]))


def key_chunks(path: Path, option: str) -> Iterator[pa.Array]:
    """The keys of a file, in pieces: Parquet or CSV with a column `key`, or text with one per line.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        for chunk in _chunks(path):
            pack(chunk)  # raises where one is no key
            yield chunk
    except KeyError:
        raise UsageError(f"{option} {path}: has no column key") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).splitlines()[0]
        raise UsageError(f"{option} {path}: cannot be read as a list of keys ({reason})") from None


def _chunks(path: Path) -> Iterator[pa.Array]:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head == b"PAR1":
            parquet = pq.ParquetFile(file)
            if "key" not in parquet.schema_arrow.names:
                raise KeyError
            for batch in parquet.iter_batches(_BLOCK, columns=["key"]):
                yield batch.column("key").cast(pa.string())
        elif path.suffix.lower() in (".csv", ".tsv"):
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            text = pa.csv.ConvertOptions(include_columns=["key"], column_types={"key": pa.string()})
            parsed = pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
            yield from (b.column("key") for b in pa.csv.open_csv(file, parse_options=parsed, convert_options=text))
        else:
            yield from _lines(file)


def _lines(file: pa.NativeFile) -> Iterator[pa.Array]:
    first = True
    while lines := file.readlines(_BLOCK * KEY_DIGITS):
        keys = [line.strip().decode("utf-8", "replace") for line in lines]
        if first:
            keys[0] = keys[0].removeprefix("\ufeff").strip()
            keys = keys[keys[0] == "key" :]
        first = False
        yield pa.array([key for key in keys if key], pa.string())
