"""What one image may cost: so much time, so much memory. And which image it was that brought its worker down.

A decoder is C code that holds the interpreter's lock, so no Python can stop it. Time is therefore kept by a timer
whose signal ends the process; memory by a limit of the kernel's, at which a decoder fails as if there were no more.
The clock is that of the worker's own thread: waiting for a source, a suspended job or a busy machine do not count, so
an image that is rejected for its time is rejected everywhere.
"""

import ctypes
import mmap
import os
import resource
import signal
import struct
from pathlib import Path
from types import TracebackType
from typing import Final

MAX_BYTES: Final = 4 * 2**30  # 100 million pixels, in the few copies that the worst of formats takes
_NOWHERE: Final = -1
_CLOCK_THREAD_CPUTIME_ID: Final = 3
_Timespec = ctypes.c_long * 2  # seconds, nanoseconds


class Guard:
    """Within the block, this process ends by SIGALRM if one image takes longer than `seconds` of processor time, and
    has `max_bytes` of memory beyond what it holds at the start.

    The position of the image being worked on is in the file `path`, which the kernel keeps whatever ends the process.
    For the main thread of a process of its own. Linux.
    """

    def __init__(self, path: Path, seconds: int, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._full = (_Timespec * 2)(_Timespec(0, 0), _Timespec(seconds, 0))  # struct itimerspec: interval, value

    def __enter__(self) -> "Guard":
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.pwrite(self._file, struct.pack("=q", _NOWHERE), 0)  # a real block: a full disk is an error now, no SIGBUS
        self._map = mmap.mmap(self._file, 8)
        self._position = memoryview(self._map).cast("q")
        self._handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._libc = ctypes.CDLL(None if hasattr(ctypes.CDLL(None), "timer_create") else "librt.so.1")
        self._settime = self._libc.timer_settime
        self._timer = ctypes.c_void_p()
        if self._libc.timer_create(_CLOCK_THREAD_CPUTIME_ID, None, ctypes.byref(self._timer)):  # None: SIGALRM
            raise OSError("no timer for the time limit")
        self._arm = (self._timer, 0, ctypes.byref(self._full), None)
        self._limits = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_data_limit(self._max_bytes, *self._limits), self._limits[1]))
        return self

    def at(self, position: int) -> None:
        """The next image, to which all time and memory from here on belong. `position`: at least 0."""
        self._position[0] = position
        self._settime(*self._arm)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._libc.timer_delete(self._timer)
        resource.setrlimit(resource.RLIMIT_DATA, self._limits)
        signal.signal(signal.SIGALRM, self._handler)
        self._position[0] = _NOWHERE
        self._position.release()
        self._map.close()
        os.close(self._file)


def read_position(path: Path) -> int | None:
    """Where a process within its Guard ended; None where it was at no image, or there was no Guard."""
    try:
        (position,) = struct.unpack("=q", path.read_bytes())
    except (OSError, struct.error):
        return None
    return None if position == _NOWHERE else position


def _data_limit(more: int, soft: int, hard: int) -> int:
    """RLIMIT_DATA that leaves `more` bytes, and is no looser than the one that there is."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * mmap.PAGESIZE
    return min([used + more, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
