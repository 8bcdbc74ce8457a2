"""A guarded process ends, or goes on, as it should; real processes, real images."""

import io
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_prep.shards.limits import Guard, read_position
from tests.formats import png

WORKER = """
import os, sys, time
from pathlib import Path
from data_prep.options import Options
from data_prep.shards.images import encode
from data_prep.shards.limits import Guard
from pipeline.dataset.images import ImageError

at, seconds, max_bytes, *files = sys.argv[1:]
with Guard(Path(at), int(seconds), int(max_bytes)) as guard:
    for position, file in enumerate(files):
        data = Path(file).read_bytes()
        guard.at(position)
        try:
            print(len(encode(data, Options(size=32)).data), flush=True)
        except ImageError as error:
            print(error, flush=True)
        {then}
"""


def run(tmp_path, *images: bytes, seconds=1, max_bytes=2**32, then="pass"):
    """Encodes `images` in a guarded process; returns it and the position that is left behind."""
    paths = []
    for number, image in enumerate(images):
        paths.append(str(tmp_path / str(number)))
        (tmp_path / str(number)).write_bytes(image)
    at = tmp_path / "at"
    command = [sys.executable, "-c", WORKER.format(then=then), str(at), str(seconds), str(max_bytes), *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines(), read_position(at)


def small() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def slow() -> bytes:
    """A progressive JPEG of 64 million pixels and thousands of scans, each of which passes over all of them."""
    data = simplejpeg.encode_jpeg(np.zeros((8000, 8000, 1), np.uint8), 50, "GRAY", "Gray")
    head = data[: data.index(b"\xff\xda")].replace(b"\xff\xc0", b"\xff\xc2")
    blocks = 1000 * 1000
    tables = b"\xff\xc4\x00\x14\x10" + b"\x01" + bytes(15) + b"\xe0"  # AC: one code, "no more in 2^14 blocks"
    run_of_blocks = b"\x00" * (blocks // 16_384 * 15 // 8 + 40)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + run_of_blocks
    return head + tables + scan * 4000 + b"\xff\xd9"


def hungry() -> bytes:
    """A PNG of 90 million grey pixels with transparency: 360 MB a copy."""
    packer = zlib.compressobj(1)
    row = bytes(1 + 2 * 9500)
    return png((9500, 9500), 8, 4, b"".join(packer.compress(row) for _ in range(9500)) + packer.flush())


def test_an_image_that_takes_too_long_ends_the_process_and_is_named(tmp_path):
    start = time.monotonic()
    code, lines, position = run(tmp_path, small(), small(), slow(), small())
    assert code == -signal.SIGALRM and len(lines) == 2 and position == 2
    assert time.monotonic() - start < 30


def test_waiting_is_not_counted(tmp_path):
    code, lines, position = run(tmp_path, small(), small(), then="time.sleep(1.2)")
    assert (code, len(lines), position) == (0, 2, None)


def test_each_image_has_the_whole_time(tmp_path):
    burn = "s = time.thread_time()\n        while time.thread_time() < s + 0.7: pass"
    code, lines, position = run(tmp_path, *[small()] * 4, then=burn)
    assert (code, len(lines), position) == (0, 4, None)


def test_an_image_that_wants_too_much_memory_is_rejected_and_the_next_is_not(tmp_path):
    code, lines, position = run(tmp_path, small(), hungry(), small(), seconds=60, max_bytes=2**29)
    assert code == 0 and position is None
    assert lines[1] == "too large for the memory that an image may take"
    assert lines[0] == lines[2]


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL])
def test_what_ends_a_process_leaves_its_position(tmp_path, crash):
    code, _, position = run(tmp_path, *[small()] * 3, then=f"position == 1 and os.kill(os.getpid(), {int(crash)})")
    assert (code, position) == (-crash, 1)


def test_the_block_leaves_everything_as_it_was(tmp_path):
    before = (
        resource.getrlimit(resource.RLIMIT_DATA),
        signal.getsignal(signal.SIGALRM),
        len(list(Path("/proc/self/fd").iterdir())),
    )
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), Guard(tmp_path / "at", 1) as guard:
            guard.at(5)
            assert read_position(tmp_path / "at") == 5
            raise ZeroDivisionError
    after = (
        resource.getrlimit(resource.RLIMIT_DATA),
        signal.getsignal(signal.SIGALRM),
        len(list(Path("/proc/self/fd").iterdir())),
    )
    assert before == after and read_position(tmp_path / "at") is None


@pytest.mark.parametrize("content", [None, b"", b"1234567", bytes(9)])
def test_no_position(tmp_path, content):
    if content is not None:
        (tmp_path / "at").write_bytes(content)
    assert read_position(tmp_path / "at") is None


def test_noting_it_costs_next_to_nothing(tmp_path):
    with Guard(tmp_path / "at", 60) as guard:
        start = time.process_time_ns()
        for position in range(20_000):
            guard.at(position)
        assert (time.process_time_ns() - start) / 20_000 < 10_000  # ns; 1,300 on a quiet machine
