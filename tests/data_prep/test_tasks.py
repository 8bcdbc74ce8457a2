"""`shard --task i/n` and `finalize`: whoever makes which shard, when and how often, the files are the same."""

import json
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from data_prep.shards.limits import read_position
from pipeline.dataset.manifest import read_manifest
from tests.data_prep.shards.test_limits import hungry, slow
from tests.data_prep.test_kills import digests, wait_for_shards
from tests.images import write_photo_folder
from tests.runs import one_line, start, vitstream

OPTIONS = ("--size", "40", "--val-fraction", "0.1", "--shard-size", "400kB")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), classes=5, per_class=300)


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    assert vitstream("shard", photos, "--out", out, *OPTIONS).returncode == 0
    return digests(out)


def task(photos: Path, out: Path, part: str, *more: object):
    return vitstream("shard", photos, "--out", out, *OPTIONS, "--task", part, "--workers", 1, *more)


def test_tasks_in_any_order_twice_and_late(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    for part in ("2/3", "1/3", "2/3"):
        done = task(photos, out, part)
        assert done.returncode == 0, done.stderr
        assert "when all tasks are done: vitstream finalize" in done.stdout
    missing = vitstream("finalize", out)
    one_line(missing, "shards are missing: train/shard-000000.tar", code=1)
    assert task(photos, out, "3/3").returncode == 0  # the same as 0/3
    done = vitstream("finalize", out, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["was_complete"] is False
    assert digests(out) == undisturbed
    late = task(photos, out, "1/3")
    assert late.returncode == 0 and "complete already" in late.stdout
    assert "complete already" in vitstream("finalize", out).stdout
    assert digests(out) == undisturbed


def test_seven_tasks_at_the_same_time_make_one_plan(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    parts = [f"{i}/7" for i in range(7)]
    running = [start("shard", photos, "--out", out, *OPTIONS, "--task", p, "--workers", 1) for p in parts]
    ends = [(process.communicate()[1], process.returncode) for process in running]
    assert ends == [("", 0)] * 7
    assert vitstream("finalize", out).returncode == 0
    assert digests(out) == undisturbed


def test_planned_first_and_then_by_other_numbers_of_tasks(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    done = vitstream("shard", photos, "--out", out, *OPTIONS, "--stop-after", "plan")
    assert done.returncode == 0 and "planned: 1,500 images in" in done.stdout
    assert task(photos, out, "0/2", "--stop-after", "stream").returncode == 0
    assert not list(out.glob("*/shards/*.tar"))
    assert task(photos, out, "0/2").returncode == 0
    one_line(
        vitstream("shard", photos, "--out", out, "--size", 50, "--task", "1/2"), "made with another --size: 40 then"
    )
    assert task(photos, out, "4/5").returncode == 0
    assert vitstream("shard", photos, "--out", out, *OPTIONS).returncode == 0  # all that is missing, and the end
    assert digests(out) == undisturbed


def test_what_cannot_be_finalized(photos, tmp_path):
    one_line(vitstream("finalize", tmp_path / "none"), "no planned dataset in it")
    one_line(task(photos, tmp_path / "data", "9/3"), "--task '9/3'")
    out = tmp_path / "damaged"
    assert task(photos, out, "0/1").returncode == 0
    record = next((out / ".shard-work/train").glob("*.json"))
    record.write_text("{")
    one_line(vitstream("finalize", out), f"{record}: damaged; delete it", code=1)
    record.unlink()
    shutil.copytree(out, tmp_path / "kept")
    assert task(photos, out, "0/1").returncode == 0 and vitstream("finalize", out).returncode == 0


def test_rejects_are_counted_over_all_tasks_at_the_end(photos, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    for path in list(source.glob("class-00/*.jpg"))[:100]:
        path.write_bytes(b"no image")
    out = tmp_path / "data"
    for part in ("0/2", "1/2"):
        assert task(source, out, part, "--max-rejects", "60").returncode == 0  # each has about 50 of them
    one_line(vitstream("finalize", out), "100 of 1,500 images rejected so far, 60 allowed", code=1)
    assert vitstream("finalize", out, "--max-rejects", "10%").returncode == 0
    rejects = [line for name in ("train", "val") for line in (out / name / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == 100


def test_an_image_that_takes_too_long_or_too_much_is_left_out_by_name(photos, tmp_path):
    source = tmp_path / "photos"
    shutil.copytree(photos, source)
    (source / "class-00/slow.jpg").write_bytes(slow())
    (source / "class-01/slow.jpg").write_bytes(slow())
    (source / "class-02/hungry.png").write_bytes(hungry())
    options = ("--size", "40", "--shard-size", "400kB", "--max-seconds", "1", "--max-pixels", "200000000")
    for out, more in ((tmp_path / "one", ()), (tmp_path / "other", ("--workers", "1"))):
        done = vitstream("shard", source, "--out", out, *options, *more)
        assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "one") == digests(tmp_path / "other")
    rejects = [json.loads(line) for line in (tmp_path / "one/rejects.jsonl").read_text().splitlines()]
    assert {r["source"]: r["reason"] for r in rejects if "slow" in r["source"]} == {
        "class-00/slow.jpg": "took longer than 1 s",
        "class-01/slow.jpg": "took longer than 1 s",
    }
    assert vitstream("verify", tmp_path / "one").returncode == 0


def test_a_decoder_that_crashes_costs_its_image_and_nothing_else(photos, undisturbed, tmp_path):
    out = tmp_path / "data"
    process = start("shard", photos, "--out", out, *OPTIONS, "--workers", 1, start_new_session=True)
    children = wait_for_shards(process, out, 1)
    worker = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
    stop_at_an_image(worker, out)
    worker.send_signal(signal.SIGSEGV)  # as from within: which image it is at is all that is left of it
    worker.resume()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    rejects = [json.loads(line) for name in ("train", "val") for line in (out / name / "rejects.jsonl").open()]
    assert [reject["reason"] for reject in rejects] == ["its decoder was killed by SIGSEGV"]
    assert vitstream("verify", out).returncode == 0
    same = [name for name, digest in digests(out).items() if name.endswith(".tar") and undisturbed[name] == digest]
    assert len(same) == sum(name.endswith(".tar") for name in undisturbed) - 1


def stop_at_an_image(worker: psutil.Process, out: Path) -> None:
    """Suspends the worker, but not between two shards."""
    while True:
        worker.suspend()
        if any(read_position(path) is not None for path in out.glob(".shard-work/*/*.at")):
            return
        worker.resume()
        time.sleep(0.003)


def test_a_keep_list_of_dedup_is_taken_by_shard(tmp_path):
    source = write_photo_folder(tmp_path / "photos", classes=2, per_class=20)
    shutil.copy(source / "class-00/photo-00003.jpg", source / "class-01/copy.jpg")
    assert vitstream("shard", source, "--out", tmp_path / "all").returncode == 0
    assert vitstream("dedup", tmp_path / "all", "--out", tmp_path / "dedup").returncode == 0
    keep = tmp_path / "dedup/keep.parquet"
    for out, command in (("shards", ("shard", source)), ("view", ("view", tmp_path / "all"))):
        done = vitstream(*command, "--keep", keep, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
    manifests = [read_manifest(tmp_path / name) for name in ("shards", "view")]
    assert manifests[0].key_sum == manifests[1].key_sum and manifests[0].samples == 40
