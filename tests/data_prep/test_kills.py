"""Kill it anywhere: the files that come out in the end are the same, and none is ever half there."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.images import write_photo_folder
from tests.runs import one_line, start, vitstream

OPTIONS = ["--size", "40", "--val-fraction", "0.1", "--shard-size", "400kB"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), classes=10, per_class=400)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory) -> dict[str, str]:
    """SHA-256 of every file that one worker makes of 4,000 photos in peace."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = vitstream("shard", photos, "--out", out, *OPTIONS, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return digests(out)


def digests(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def begin(photos: Path, out: Path, *more: object) -> subprocess.Popen:
    return start("shard", photos, "--out", out, *OPTIONS, "--workers", 2, *more, start_new_session=True)


def wait_for_shards(process: subprocess.Popen, out: Path, count: int) -> list[psutil.Process]:
    """Waits until so many shards are there, of a command that is still at work. Returns its child processes."""
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/shards/*.tar"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert process.poll() is None
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(children: list[psutil.Process]) -> None:
    assert children
    _, alive = psutil.wait_procs(children, timeout=2)
    assert not alive


def assert_no_half_file(out: Path, undisturbed: dict[str, str]) -> None:
    """Whatever has a final name is what it will be in the end."""
    seen = {name: digest for name, digest in digests(out).items() if not name.startswith(".shard-work/")}
    assert seen and seen.items() <= undisturbed.items()


def test_two_workers_make_the_files_that_one_makes(photos, undisturbed, tmp_path):
    done = vitstream("shard", photos, "--out", tmp_path / "data", *OPTIONS, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert len(undisturbed) > 40
    assert digests(tmp_path / "data") == undisturbed


def test_killed_three_times_and_continued_makes_the_same_files(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    for count, group in ((2, True), (7, False), (13, True)):
        process = begin(photos, out)
        children = wait_for_shards(process, out, count)
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert_gone(children)
        assert_no_half_file(out, undisturbed)
        assert not list(out.glob("*/dataset.json"))
    done = vitstream("shard", photos, "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert digests(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_signal_says_how_to_go_on(photos, undisturbed, tmp_path, number):
    out = tmp_path / "data"
    process = begin(photos, out)
    children = wait_for_shards(process, out, 3)
    process.send_signal(signal.SIGSTOP)  # or it might end before the second has begun
    one_line(vitstream("shard", photos, "--out", out, *OPTIONS), "another vitstream shard is at work")
    process.send_signal(signal.SIGCONT)
    for worker in (child for child in children if "spawn_main" in " ".join(child.cmdline())):
        worker.send_signal(signal.SIGINT)  # theirs to leave to the parent
    time.sleep(0.1)
    assert process.poll() is None and all(child.is_running() for child in children)
    os.killpg(process.pid, number)  # as a terminal does
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 3
    assert stderr.count("\n") == 1 and "run the same command again to continue" in stderr
    assert_gone(children)
    kept = set(out.glob("*/shards/*.tar"))
    assert_no_half_file(out, undisturbed)
    done = vitstream("shard", photos, "--out", out, *OPTIONS)
    assert done.returncode == 0 and kept <= set(out.glob("*/shards/*.tar"))
    assert digests(out) == undisturbed


def test_a_killed_worker_is_one_line(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    process = begin(photos, out)
    children = wait_for_shards(process, out, 3)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.count("\n") == 1 and "was killed by SIGKILL" in stderr and "to continue" in stderr
    assert_gone(children)
    assert vitstream("shard", photos, "--out", out, *OPTIONS).returncode == 0
    assert digests(out) == undisturbed


def test_stopped_between_manifest_and_cleaning_up(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    assert vitstream("shard", photos, "--out", out, *OPTIONS).returncode == 0
    (out / ".shard-work/train").mkdir(parents=True)
    (out / ".shard-work/train/shard-000003.json").write_text("{}")
    assert "left over" in vitstream("verify", out).stdout
    assert vitstream("shard", photos, "--out", out, *OPTIONS).returncode == 0
    assert digests(out) == undisturbed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_goes_on_with_more_room(photos, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = vitstream("shard", photos, "--out", disk / "data", *OPTIONS)
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("\n") == 1 and "no space left" in done.stderr
        assert_no_half_file(disk / "data", undisturbed)
        subprocess.run(["mount", "-o", "remount,size=64M", disk], check=True)
        assert vitstream("shard", photos, "--out", disk / "data", *OPTIONS).returncode == 0
        assert digests(disk / "data") == undisturbed
    finally:
        subprocess.run(["umount", disk], check=True)


def test_workers_know_that_their_parent_died_before_they_could_ask(tmp_path):
    code = (
        "import os, sys, time\n"
        "from pipeline.dataset.processes import die_with\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    while os.getppid() == parent: time.sleep(0.01)\n"
        "    die_with(parent)\n"
        f"    open({str(tmp_path / 'outlived')!r}, 'w')\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    time.sleep(0.5)
    assert not (tmp_path / "outlived").exists()
