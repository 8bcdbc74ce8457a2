"""Slices <-> safetensors files. Reads any slice of any tensor; nothing is unpickled."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoint.manifest import CheckpointManifest, Piece
from pipeline.checkpoint.state import WEIGHT, Slice, overlap


def write_slices(path: Path, slices: Iterable[Slice]) -> dict[str, list[Piece]]:
    """Writes "KIND/NAME" tensors: whole ones in their own shape, parts of one as flat float32.

    Returns: which elements of each tensor lie where, for the manifest.
    """
    tensors: dict[str, Tensor] = {}
    pieces: dict[str, list[Piece]] = {}
    for part in slices:
        for kind, values in part.tensors.items():
            key = f"{kind}/{part.name}"
            values = values.detach().cpu().contiguous()
            tensors[key] = values.view(part.shape) if part.is_whole else values
            pieces[key] = [(path.name, key, part.start, part.stop)]
    save_file(tensors, path)
    return pieces


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TensorReader:
    """Reads slices of a verified checkpoint's tensors, from memory-mapped files."""

    def __init__(self, directory: Path, manifest: CheckpointManifest) -> None:
        self._directory, self._manifest = directory, manifest
        self._files: dict[str, safetensors.safe_open] = {}

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """float32 [stop - start]: these elements of the flattened tensor "KIND/NAME"."""
        result = torch.empty(stop - start)
        for file, stored_key, low, high in self._manifest.tensors[key]:
            first, last = overlap(start, stop, low, high)
            if first < last:
                stored = self._file(file).get_tensor(stored_key).view(-1)
                result[first - start : last - start] = stored[first - low : last - low]
        return result

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
                values.copy_(self.read(f"{kind}/{part.name}", part.start, part.stop))

    def _file(self, name: str) -> "safetensors.safe_open":
        if name not in self._files:
            self._files[name] = safetensors.safe_open(self._directory / name, framework="pt")
        return self._files[name]
