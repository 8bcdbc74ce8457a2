"""Process lifetimes: nobody outlives who started them. And their memory. Torch-free."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGEST, _KEPT = 2**25, 2**23  # bytes


def die_with(parent_pid: int) -> None:
    """Asks the kernel to kill this process, at once, when its parent ends, however it ends. Linux only.

    The parent may have ended before the question is put; then we have another parent, and end too.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent_pid:
        os._exit(1)


def keep_freed_memory() -> None:
    """Asks the C library to keep what is freed, up to 8 MB of it, for whichever thread wants some next.

    By itself glibc hands a decoded photo's half a megabyte back to the kernel, and gets it again page by page for the
    next one, which takes as long as a fifth of the decoding; and what a thread has read and another has freed waits for
    the first. Elsewhere than in glibc nothing happens. To be called before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_ARENA_MAX, 1)
