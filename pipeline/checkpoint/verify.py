"""Whether a checkpoint is, byte for byte, what was written; and where it is not. Torch-free."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, Final

from pipeline.checkpoint.manifest import (
    FLOAT_BYTES,
    MANIFEST_NAME,
    CheckpointManifest,
    Damaged,
    fault_of,
    read_checkpoint_manifest,
    step_name,
)
from pipeline.checkpoint.stream import changed_bytes, sha256_of
from pipeline.dataset.files import open_regular

_THREADS: Final = 4
_MOST_HEADER_BYTES: Final = 100_000_000  # what the safetensors library takes, too
_MOST_SHOWN: Final = 3


def verify(directory: Path) -> CheckpointManifest:
    """Reads every byte of a checkpoint.

    Raises:
        Damaged: at the first file that is not what was written.
        UsageError: it is of another format.
        WorkFailed: a file cannot be read now.
    """
    manifest = read_named(directory)
    for damage in damages(directory, manifest, range(len(manifest.files))):
        raise damage
    return manifest


def read_named(directory: Path) -> CheckpointManifest:
    """A checkpoint's manifest. Raises as that does; Damaged also where the folder is another step's."""
    manifest = read_checkpoint_manifest(directory)
    if directory.name != step_name(manifest.step):
        raise Damaged(f"{directory / MANIFEST_NAME}: is of step {manifest.step}")
    return manifest


def damages(directory: Path, manifest: CheckpointManifest, which: Sequence[int]) -> Iterator[Damaged]:
    """What is wrong with these of the manifest's files, by number; several are read at a time. Raises WorkFailed."""
    held: dict[str, dict[str, int]] = {file["name"]: {} for file in manifest.files}
    for pieces in manifest.tensors.values():
        for name, key, start, stop in pieces:
            held[name][key] = FLOAT_BYTES * (stop - start)

    def check(number: int) -> Damaged | None:
        file = manifest.files[number]
        try:
            check_file(directory / file["name"], file, held[file["name"]])
            return None
        except Damaged as damage:
            return damage

    with ThreadPoolExecutor(_THREADS, "checkpoint-verify") as pool:
        yield from filter(None, pool.map(check, which))


def check_file(path: Path, file: dict[str, Any], tensors: dict[str, int]) -> None:
    """Raises Damaged where a file is not what the manifest's entry says, or does not hold these tensors.

    WorkFailed where that cannot be read now.

    Args:
        tensors: key -> bytes of each tensor that it should hold.
    """
    try:
        size = path.stat().st_size
        if size != file["bytes"]:
            raise Damaged(f"{path}: {size:,} bytes, not {file['bytes']:,}")
        if sha256_of(path) != file["sha256"]:
            raise Damaged(f"{path}: {_where(path, file)}")
        if tensors:
            _check_header(path, size, tensors)
    except OSError as error:
        raise fault_of(path, error) from None


def _where(path: Path, file: dict[str, Any]) -> str:
    stretches = changed_bytes(path, file["block_bytes"], file["blocks"]) if "blocks" in file else []
    if not stretches:
        return "its bytes do not have the SHA-256 that the manifest states"
    shown = ", ".join(f"{first:,} to {last:,}" for first, last in stretches[:_MOST_SHOWN])
    more = f" and in {len(stretches) - _MOST_SHOWN:,} more places" if len(stretches) > _MOST_SHOWN else ""
    return f"bytes {shown}{more} are not what was written"


def _check_header(path: Path, size: int, tensors: dict[str, int]) -> None:
    """The safetensors header: these tensors and no others, in float32, one after the other up to the file's end.

    A file of the right hash can still be one that was never ours; it is asked before any library maps it.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        room = size - 8 - length
        if length > _MOST_HEADER_BYTES or room < 0:
            raise Damaged(f"{path}: not a safetensors file: its header would have {length:,} bytes")
        written = file.read(length)
    try:
        header = json.loads(written)
        entries = {key: header[key] for key in tensors}
        at = 0
        for key, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            sizes = (end - begin, FLOAT_BYTES * prod(entry["shape"]))
            if entry["dtype"] != "F32" or begin != at or sizes != (tensors[key], tensors[key]):
                raise Damaged(f"{path}: {key} is not there as the manifest says")
            at = end
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: not a readable safetensors header ({type(error).__name__}: {error})") from None
    if at != room or header.keys() - tensors.keys() - {"__metadata__"}:
        raise Damaged(f"{path}: holds more than the manifest says")
