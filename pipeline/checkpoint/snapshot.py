"""What a rank's slices hold at one moment, kept in host memory while training goes on."""

import mmap
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.checkpoint.files import bytes_of
from pipeline.checkpoint.manifest import FLOAT_BYTES
from pipeline.checkpoint.state import Slice


class Snapshot:
    """Host memory for one rank's slices, used again by every snapshot.

    Where there is a GPU it is page-locked, so that the copy runs at the bus's speed.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None  # float32, flat
        self._pinned = False

    def take(self, slices: list[Slice]) -> list[Slice]:
        """The same slices with copies of their values, which stand until the next call. Nothing else is waited for."""
        memory, at = self._room(bytes_of(slices)), 0
        copies = []
        for part in slices:
            tensors = {}
            for kind, values in part.tensors.items():
                tensors[kind] = memory[at : at + values.numel()]
                tensors[kind].copy_(values, non_blocking=True)
                at += values.numel()
            copies.append(replace(part, tensors=tensors))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copies

    def _room(self, size: int) -> Tensor:
        if self._memory is None or FLOAT_BYTES * self._memory.numel() < size:
            self._release()
            size = max(size, mmap.PAGESIZE)
            pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)  # few page faults in the first snapshot, which training waits for
            self._memory = torch.frombuffer(pages, dtype=torch.float32, count=size // FLOAT_BYTES)
            if torch.cuda.is_available():  # where the system allows that; else the copy takes longer
                status = torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), size, 0)
                self._pinned = int(status) == 0
        return self._memory

    def _release(self) -> None:
        if self._pinned and self._memory is not None:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr()))
        self._memory, self._pinned = None, False
