"""Slices <-> safetensors files. Reads any slice of any tensor; nothing is unpickled."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from pipeline.checkpoint.manifest import FLOAT_BYTES, CheckpointManifest, Damaged, Piece
from pipeline.checkpoint.state import WEIGHT, Slice, overlap
from pipeline.checkpoint.stream import write_hashed

_ALIGNMENT = 8  # bytes: where the data begins, as the format's own library has it


def write_slices(path: Path, slices: Iterable[Slice]) -> tuple[dict[str, Any], dict[str, list[Piece]]]:
    """Writes "KIND/NAME" tensors into a new file: whole ones in their own shape, parts of one as flat float32.

    Returns:
        The file's entry in the manifest, and which elements of each tensor lie where in it.

    Raises:
        OSError: the disk is full, say.
    """
    slices = list(slices)
    pieces = {
        f"{kind}/{part.name}": [(path.name, f"{kind}/{part.name}", part.start, part.stop)]
        for part in slices
        for kind in part.tensors
    }
    return write_hashed(path, _bytes(slices)), pieces


def bytes_of(slices: Iterable[Slice]) -> int:
    """Of the tensors' values."""
    return sum(FLOAT_BYTES * values.numel() for part in slices for values in part.tensors.values())


def shares(slices: list[Slice], most_bytes: int) -> list[list[Slice]]:
    """The slices, in order, in as many parts of about equal bytes as keep each near `most_bytes`; at least one."""
    count = max(1, -(-bytes_of(slices) // most_bytes))
    target = bytes_of(slices) / count
    parts: list[list[Slice]] = [[]]
    before = 0
    for part in slices:
        if parts[-1] and before >= len(parts) * target:
            parts.append([])
        parts[-1].append(part)
        before += bytes_of([part])
    return parts


def _bytes(slices: list[Slice]) -> Iterator[memoryview]:
    """A safetensors file: the header's length (8 bytes, little-endian), the header (JSON), the tensors."""
    header, at = {}, 0
    for part in slices:
        for kind, values in part.tensors.items():
            begin, at = at, at + FLOAT_BYTES * values.numel()
            shape = list(part.shape) if part.is_whole else [values.numel()]
            header[f"{kind}/{part.name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, at]}
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % _ALIGNMENT)
    yield memoryview(len(written).to_bytes(8, "little") + written)
    for part in slices:
        for values in part.tensors.values():
            yield memoryview(values.detach().to("cpu", torch.float32).contiguous().numpy())


class TensorReader:
    """Reads slices of a verified checkpoint's tensors, from memory-mapped files."""

    def __init__(self, directory: Path, manifest: CheckpointManifest) -> None:
        self._directory, self._manifest = directory, manifest
        self._files: dict[str, safetensors.safe_open] = {}

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """float32 [stop - start]: these elements of the flattened tensor "KIND/NAME"."""
        result = torch.empty(stop - start)
        self.read_into(result, key, start)
        return result

    def read_into(self, values: Tensor, key: str, start: int) -> None:
        """Fills `values`, flat, of any device, with the elements of "KIND/NAME" from `start` on."""
        stop = start + values.numel()
        for file, stored_key, low, high in self._manifest.tensors[key]:
            first, last = overlap(start, stop, low, high)
            if first < last:
                stored = self._file(file).get_tensor(stored_key).view(-1)
                values[first - start : last - start].copy_(stored[first - low : last - low])

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole, by name: to be loaded before the engine is built."""
        shapes = self._manifest.shapes
        return {
            name: self.read(f"{WEIGHT}/{name}", 0, torch.Size(shape).numel()).view(shape)
            for name, shape in shapes.items()
        }

    def restore(self, slices: Iterable[Slice]) -> None:
        """Copies the stored values into the engine's memory."""
        for part in slices:
            for kind, values in part.tensors.items():
                self.read_into(values, f"{kind}/{part.name}", part.start)

    def _file(self, name: str) -> "safetensors.safe_open":
        if name not in self._files:
            try:
                self._files[name] = safetensors.safe_open(self._directory / name, framework="pt")
            except safetensors.SafetensorError as error:
                raise Damaged(f"{self._directory / name}: not a safetensors file ({error})") from None
        return self._files[name]
