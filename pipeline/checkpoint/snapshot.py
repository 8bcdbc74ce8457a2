"""What a rank's slices hold at one moment, kept in host memory while training goes on."""

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.checkpoint.files import bytes_of
from pipeline.checkpoint.manifest import FLOAT_BYTES
from pipeline.checkpoint.state import Slice
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.quantities import human_bytes


class Snapshot:
    """Host memory for one rank's slices, used again by every snapshot.

    Where there is a GPU it is page-locked, so that the copy runs at the bus's speed.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None  # float32, flat
        self._pinned = False

    def take(self, slices: list[Slice]) -> list[Slice]:
        """The same slices with copies of their values, which stand until the next call.

        Raises:
            WorkFailed: the system does not let us have such memory.
        """
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
            self._memory = torch.empty(size // FLOAT_BYTES)
            if torch.cuda.is_available():
                self._pin(self._memory)
        return self._memory

    def _pin(self, memory: Tensor) -> None:
        size = FLOAT_BYTES * memory.numel()
        try:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, 0))
        except RuntimeError as error:  # which CUDA would bring up again in whatever comes next
            fix = "raise the limit on locked memory, or set checkpoint.asynchronous: false"
            raise WorkFailed(f"{human_bytes(size)} of memory cannot be page-locked ({error}): {fix}") from None
        self._pinned = True

    def _release(self) -> None:
        if self._pinned and self._memory is not None:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr()))
        self._memory, self._pinned = None, False
