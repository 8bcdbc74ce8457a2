"""A ring of micro-batches in memory that a rank shares with its loader workers.

The memory is anonymous (memfd_create(2)), handed to the workers as a file descriptor: it has no name, so nothing can be
left behind in /dev/shm, or be limited by its size, and it is gone with the last process that has it.
"""

import mmap
import os
from dataclasses import dataclass

import numpy as np

_WORD = 8  # bytes, to which arrays are aligned


@dataclass(frozen=True)
class Shape:
    """What a ring holds."""

    slots: int  # micro-batches
    rows: int  # of one, with guests
    size: int  # of an image, in pixels

    @property
    def slot_bytes(self) -> int:
        """Images, labels and weights of a micro-batch; each begins a page."""
        used = self.rows * (self.size * self.size * 3 + 8 + 4) + 2 * _WORD
        return -(-used // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def bytes(self) -> int:
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Slot:
    """One micro-batch's arrays, in place."""

    images: np.ndarray  # uint8 [rows, size, size, 3]
    labels: np.ndarray  # int64 [rows]
    weights: np.ndarray  # float32 [rows]


class Ring:
    """The memory; with `fd`, that of another process, it is a second mapping of the same memory."""

    def __init__(self, shape: Shape, fd: int | None = None) -> None:
        self.shape = shape
        self.fd = os.memfd_create("vitstream-loader") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, max(shape.bytes, mmap.PAGESIZE))
        self.memory = mmap.mmap(self.fd, max(shape.bytes, mmap.PAGESIZE))

    def slot(self, number: int) -> Slot:
        """The arrays of a slot; they stay valid as long as anything refers to them."""
        shape, at = self.shape, number % self.shape.slots * self.shape.slot_bytes

        def array(dtype: type, *lengths: int) -> np.ndarray:
            nonlocal at
            at = -(-at // _WORD) * _WORD
            found = np.frombuffer(self.memory, dtype, int(np.prod(lengths)), at).reshape(lengths)
            at += found.nbytes
            return found

        return Slot(
            images=array(np.uint8, shape.rows, shape.size, shape.size, 3),
            labels=array(np.int64, shape.rows),
            weights=array(np.float32, shape.rows),
        )
