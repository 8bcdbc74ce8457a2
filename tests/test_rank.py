"""What a rank says of the error that ends it."""

import errno

import pytest

from pipeline.rank import lacks_memory

pytestmark = pytest.mark.fast


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 67108864 bytes from file <x>: Cannot allocate memory (12)"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_what_torch_and_its_libraries_say_where_there_is_no_memory(error):
    assert lacks_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Read error [127.0.0.1]:13703: Connection reset by peer"),
        ValueError("out of memory is what this is about"),
        ImportError("libx.so: failed to map segment from shared object: Operation not permitted"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_other_errors(error):
    assert not lacks_memory(error)
