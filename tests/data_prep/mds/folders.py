"""MDS folders as mosaicml-streaming writes them, by its layout and without it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def write_shard(path: Path, columns: dict[str, str], samples: Sequence[dict[str, object]]) -> None:
    """One shard."""
    names = sorted(columns)
    config = {
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [FIXED.get(columns[name]) for name in names],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": 1 << 26,
        "version": 2,
    }
    text = json.dumps(config, sort_keys=True).encode()
    packed = []
    for sample in samples:
        values = [encode(columns[name], sample[name]) for name in names]
        sizes = [len(v) for name, v in zip(names, values, strict=True) if columns[name] not in FIXED]
        packed.append(np.array(sizes, "<u4").tobytes() + b"".join(values))
    offsets = np.cumsum([0, *map(len, packed)]) + 4 + 4 * (len(packed) + 1) + len(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.array(len(packed), "<u4").tobytes() + offsets.astype("<u4").tobytes() + text + b"".join(packed))


def write_folder(
    folder: Path, columns: dict[str, str], samples: Sequence[dict[str, object]], shards: int = 1, below: str = ""
) -> Path:
    """A folder of `shards` shards of about equal length; `below`: a folder inside, as merged indexes have."""
    entries = []
    for number in range(shards):
        part = samples[len(samples) * number // shards : len(samples) * (number + 1) // shards]
        name = f"{below}shard.{number:05d}.mds"
        write_shard(folder / name, columns, part)
        raw = {"basename": name, "bytes": (folder / name).stat().st_size, "hashes": {}}
        entries.append({"format": "mds", "samples": len(part), "raw_data": raw, "zip_data": None, "compression": None})
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))
    return folder
