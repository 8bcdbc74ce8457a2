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
    several: int = 0  # classes of which an image has any number; 0: it has one

    @property
    def label_bytes(self) -> int:
        """Of an image: a number, or a bit for each class."""
        return -(-self.several // 8) or 8

    @property
    def slot_bytes(self) -> int:
        """Images, labels and weights of a micro-batch; each begins a page."""
        used = self.rows * (self.size * self.size * 3 + self.label_bytes + 4) + 2 * _WORD
        return -(-used // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def bytes(self) -> int:
        return self.slots * self.slot_bytes


@dataclass(frozen=True)
class Slot:
    """One micro-batch's arrays, in place."""

    images: np.ndarray  # uint8 [rows, size, size, 3]
    labels: np.ndarray  # int64 [rows]; or uint8 [rows, label_bytes], class 0 the highest bit of the first byte
    weights: np.ndarray  # float32 [rows]

    def set_labels(self, row: int, labels: tuple[int, ...]) -> None:
        """Of one image."""
        if self.labels.ndim == 1:
            (self.labels[row],) = labels
            return
        self.labels[row] = 0
        for label in labels:
            self.labels[row, label // 8] |= 128 >> label % 8


class Ring:
    """The memory; with `fd`, that of another process, it is a second mapping of the same memory."""

    def __init__(self, shape: Shape, fd: int | None = None) -> None:
        self.shape = shape
        self.fd = os.memfd_create("vitstream-loader") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, max(shape.bytes, mmap.PAGESIZE))
        self.memory = mmap.mmap(self.fd, max(shape.bytes, mmap.PAGESIZE))
        self._slots: dict[int, Slot] = {}  # those that were used: making one anew takes longer than all else of a take

    def slot(self, number: int) -> Slot:
        """The arrays of a slot; they stay valid as long as anything refers to them."""
        place = number % self.shape.slots
        if place not in self._slots:
            self._slots[place] = self._slot(place)
        return self._slots[place]

    def _slot(self, place: int) -> Slot:
        shape, at = self.shape, place * self.shape.slot_bytes

        def array(dtype: type, *lengths: int) -> np.ndarray:
            nonlocal at
            at = -(-at // _WORD) * _WORD
            found = np.frombuffer(self.memory, dtype, int(np.prod(lengths)), at).reshape(lengths)
            at += found.nbytes
            return found

        return Slot(
            images=array(np.uint8, shape.rows, shape.size, shape.size, 3),
            labels=array(np.uint8, shape.rows, shape.label_bytes) if shape.several else array(np.int64, shape.rows),
            weights=array(np.float32, shape.rows),
        )
