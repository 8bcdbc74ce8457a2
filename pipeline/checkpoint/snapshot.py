"""What a rank's slices hold at one moment, kept in host memory while training goes on."""

import mmap
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from pipeline.checkpoint.files import bytes_of
from pipeline.checkpoint.manifest import FLOAT_BYTES
from pipeline.checkpoint.state import Slice
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.names import one_line
from pipeline.dataset.quantities import human_bytes

_SPARE_BYTES: Final = 2**20  # ranks' shares are not equal to the last number


class Snapshot:
    """Host memory for one rank's slices, used again by every snapshot.

    It is made ready at once, beside whatever comes next: a page's first use takes far longer than the copy. Huge pages,
    where the system has them, make that several times shorter. Where there is a GPU it is page-locked, if that is
    allowed, so that the copy runs at the bus's speed.
    """

    def __init__(self, size: int, say: Callable[[str], None]) -> None:
        """`size`: bytes that it will take, about. Raises WorkFailed where the system does not let us have them."""
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self._say, self._locked = say, False
        self._make(size + size // 64 + _SPARE_BYTES)

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
            if self._locked:
                torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))
                self._locked = False
            del memory
            self._make(size)
        return self._memory.result()

    def _make(self, size: int) -> None:
        """Asks for the memory, and has a thread of its own make it ready."""
        try:
            mapped = mmap.mmap(-1, size - size % FLOAT_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError:
            fix = "use more ranks, or set checkpoint.asynchronous: false"
            raise WorkFailed(f"{human_bytes(size)} of memory for checkpoints cannot be had: {fix}") from None
        with suppress(OSError):  # a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(mapped, dtype=torch.float32)
        maker = ThreadPoolExecutor(1, "checkpoint-memory")
        self._memory: Future[Tensor] = maker.submit(self._ready, memory)  # float32, flat
        maker.shutdown(wait=False)

    def _ready(self, memory: Tensor) -> Tensor:
        memory.zero_()
        if self._device is not None:
            torch.cuda.set_device(self._device)  # each thread has its own; and its own last error, which ends with it
            try:
                torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
                self._locked = True
            except RuntimeError as error:
                size, why = human_bytes(memory.nbytes), one_line(str(error))
                self._say(f"{size} of memory cannot be page-locked ({why}): training waits longer for checkpoints")
        return memory
