"""What a rank's slices hold at one moment, kept in host memory while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from pipeline.checkpoint.files import bytes_of
from pipeline.checkpoint.manifest import FLOAT_BYTES
from pipeline.checkpoint.state import Slice
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.quantities import human_bytes

_SPARE_BYTES: Final = 2**20  # ranks' shares are not equal to the last number


class Snapshot:
    """Host memory for one rank's slices, used again by every snapshot.

    It is made ready at once, beside whatever comes next: a page's first use takes far longer than the copy. Where there
    is a GPU it is page-locked, so that the copy runs at the bus's speed.
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes that it will take, about."""
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        maker = ThreadPoolExecutor(1, "checkpoint-memory")
        self._memory: Future[Tensor] = maker.submit(self._make, size + size // 64 + _SPARE_BYTES)  # float32, flat
        maker.shutdown(wait=False)

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
        if self._device is not None:
            torch.cuda.synchronize()
        return copies

    def _room(self, size: int) -> Tensor:
        memory = self._memory.result()
        if FLOAT_BYTES * memory.numel() < size:
            if self._device is not None:
                torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))
            memory = self._make(size)
            self._memory = Future()
            self._memory.set_result(memory)
        return memory

    def _make(self, size: int) -> Tensor:
        memory = torch.zeros(size // FLOAT_BYTES)
        if self._device is not None:
            torch.cuda.set_device(self._device)  # each thread has its own
            try:
                torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
            except RuntimeError as error:  # which CUDA would bring up again in whatever comes next
                fix = "raise the limit on locked memory, or set checkpoint.asynchronous: false"
                raise WorkFailed(f"{human_bytes(size)} of memory cannot be page-locked ({error}): {fix}") from None
        return memory
