"""Killed anywhere, `index` and `view` go on or begin again, to the same bytes; nothing half made has a final name."""

import random
import signal
import time
from pathlib import Path

import pytest

from data_prep.adopt.parts import WORK_NAME
from pipeline.dataset.index import ShardIndex
from tests.data_prep.adopt.tars import photo, write_tar
from tests.data_prep.test_kills import digests
from tests.runs import start, vitstream

TARS, SAMPLES, KILLS = 6, 1500, 5


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    pictures = [photo(number) for number in range(20)]
    for number in range(TARS):
        names = [f"{number}-{n:05d}" for n in range(SAMPLES)]
        images = [(f"{name}.jpg", pictures[n % 20]) for n, name in enumerate(names)]
        labels = [(f"{name}.cls", b"%d" % (n % 20)) for n, name in enumerate(names)]
        write_tar(folder / f"{number}.tar", [*images, *labels])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tars, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = vitstream("index", tars, "--out", out, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return out


def begun(out: Path, process) -> bool:
    """Whether it is at work, or has ended."""
    return (out / WORK_NAME).exists() or (out / "dataset.json").exists() or process.poll() is not None


def test_index_killed_anywhere(tars, undisturbed, tmp_path):
    out, chance = tmp_path / "data", random.Random(0)
    kills = 0
    for attempt in range(KILLS):
        process = start("index", tars, "--out", out, "--workers", 2, start_new_session=True)
        while not begun(out, process):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.25) * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
        for path in out.glob("shards/*.arrow"):
            assert len(ShardIndex(path)) == SAMPLES
        if (out / "dataset.json").exists():
            break
    assert kills
    if not (out / "dataset.json").exists():  # whenever it was: what it may leave is not in the way
        (out / "shards").mkdir(exist_ok=True)
        for name in ("shards/.1.arrow.tmp-0123456789ab", "shards/other.tar", ".samples.parquet.tmp-0123456789ab"):
            (out / name).touch()
    done = vitstream("index", tars, "--out", out, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(undisturbed)
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name or ".link-" in path.name]


def test_it_stops_when_asked_and_says_so(tars, tmp_path):
    process = start("index", tars, "--out", tmp_path / "data", "--workers", 1)
    while not begun(tmp_path / "data", process):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert (process.returncode, "stopped by SIGTERM; what was read is kept" in stderr) in ((3, True), (0, False)), (
        stderr
    )


def test_a_view_is_there_whole_or_not_at_all(undisturbed, tmp_path):
    keys = [key for number in range(TARS) for key in ShardIndex(undisturbed / f"shards/{number}.arrow").keys()[::2]]
    (tmp_path / "keep").write_text("\n".join(keys))
    arguments = ("view", undisturbed, "--keep", tmp_path / "keep", "--out")
    assert vitstream(*arguments, tmp_path / "peace").returncode == 0
    for delay in (0.4, 0.5, 0.55, 0.6):
        process = start(*arguments, tmp_path / "view")
        time.sleep(delay)
        process.kill()
        process.communicate()
        if (tmp_path / "view").exists():
            break
    assert vitstream(*arguments, tmp_path / "view").returncode == 0
    assert digests(tmp_path / "view") == digests(tmp_path / "peace")
    assert {path.name for path in tmp_path.iterdir()} == {"keep", "peace", "view"}
