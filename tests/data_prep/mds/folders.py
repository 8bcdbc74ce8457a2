"""MDS folders as mosaicml-streaming writes them, by its layout and without it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import read_manifest

HASHES = {"xxh3_64": xxhash.xxh3_64_hexdigest, "sha1": lambda data: hashlib.sha1(data).hexdigest()}
FIXED = {"int": 8, "int64": 8, "uint16": 2}


def encode(encoding: str, value: object) -> bytes:
    """A value as MDSWriter encodes it."""
    if isinstance(value, bytes):
        return value
    if encoding in FIXED:
        return np.array(value, {"int": "<i8"}.get(encoding, encoding)).tobytes()
    if encoding == "ndarray":  # int64, one dimension: type 65; one dimension, of uint8: 1 << 2 | 0
        return bytes([65, 4, len(value)]) + np.array(value, "<i8").tobytes()  # type: ignore[arg-type]
    return json.dumps(value).encode() if encoding == "json" else str(value).encode()


def config_of(columns: dict[str, str], hashes: Sequence[str] = ()) -> dict[str, object]:
    """What a shard, and its entry in index.json, say of themselves."""
    names = sorted(columns)
    return {
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [FIXED.get(columns[name]) for name in names],
        "compression": None,
        "format": "mds",
        "hashes": list(hashes),
        "size_limit": 1 << 26,
        "version": 2,
    }


def write_shard(path: Path, columns: dict[str, str], samples: Sequence[dict[str, object]]) -> None:
    """One shard."""
    names = sorted(columns)
    text = json.dumps(config_of(columns), sort_keys=True).encode()
    packed = []
    for sample in samples:
        values = [encode(columns[name], sample[name]) for name in names]
        sizes = [len(v) for name, v in zip(names, values, strict=True) if columns[name] not in FIXED]
        packed.append(np.array(sizes, "<u4").tobytes() + b"".join(values))
    offsets = np.cumsum([0, *map(len, packed)]) + 4 + 4 * (len(packed) + 1) + len(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array(len(packed), "<u4").tobytes() + offsets.astype("<u4").tobytes() + text + b"".join(packed))


def write_folder(
    folder: Path,
    columns: dict[str, str],
    samples: Sequence[dict[str, object]],
    shards: int = 1,
    below: str = "",
    hashes: Sequence[str] = (),
) -> Path:
    """A folder of `shards` shards of about equal length.

    Args:
        below: a folder inside, as merged indexes have.
        hashes: those that MDSWriter was asked for: xxh3_64, sha1.
    """
    entries = []
    for number in range(shards):
        part = samples[len(samples) * number // shards : len(samples) * (number + 1) // shards]
        name = f"{below}shard.{number:05d}.mds"
        write_shard(folder / name, columns, part)
        data = (folder / name).read_bytes()
        raw = {"basename": name, "bytes": len(data), "hashes": {each: HASHES[each](data) for each in hashes}}
        entries.append(config_of(columns, hashes) | {"samples": len(part), "raw_data": raw, "zip_data": None})
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))
    return folder


def write_copy(dataset: Path, folder: Path, of: Sequence[int] | None = None, **options: Any) -> Path:
    """A DATASET's samples, or those of some of its shards, as `vitstream convert` writes them; see `write_folder`."""
    manifest = read_manifest(dataset)
    samples: list[dict[str, object]] = []
    for number in range(len(manifest.shards)) if of is None else of:
        tar = dataset / "shards" / manifest.shards[number].name
        data, index = tar.read_bytes(), ShardIndex(tar.with_suffix(".arrow"))
        for row in map(index.row, range(len(index))):
            image = data[row.offset : row.offset + row.size]
            samples.append({"image": image, "key": row.key, "label": row.labels[0]})
    write_folder(folder, {"image": "jpeg", "key": "str", "label": "int"}, samples, **options)
    (folder / "classes.json").write_text(json.dumps(manifest.classes))
    return folder
