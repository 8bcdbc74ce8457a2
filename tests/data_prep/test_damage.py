"""Work folders that were damaged, and sources that were gone: one line that names the file, and the way to the end."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.catalog.plan import PlannedShard
from data_prep.publish import RejectLimit
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.files import write_json
from tests.data_prep.test_kills import digests
from tests.images import write_photo_folder
from tests.runs import one_line, vitstream

SHARDS = ("--shard-size", "20kB", "--workers", "1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), classes=2, per_class=10)


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "packed.parquet"
    files = sorted(photos.rglob("*.jpg"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": images, "label": [file.parent.name for file in files]}), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(packed, tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    assert vitstream("shard", packed, "--out", out, *SHARDS).returncode == 0
    return digests(out)


@pytest.fixture(scope="module")
def begun(packed, tmp_path_factory) -> Path:
    """Streamed, and some of its shards are made."""
    out = tmp_path_factory.mktemp("begun") / "data"
    assert vitstream("shard", packed, "--out", out, *SHARDS, "--stop-after", "stream").returncode == 0
    assert vitstream("shard", packed, "--out", out, *SHARDS, "--task", "0/2").returncode == 0
    return out


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # in an image of the last shard, which is yet to be made
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("all/shard-000000.json", lambda path: path.write_text('{"shard": {}, "index": {}, "rejects": [1]}')),
        ("all/shard-000000.parquet", lambda path: path.write_bytes(b"PAR1")),
        ("all/shard-000001.poison", lambda path: path.write_text("[]")),
        ("spool/stream-000000.arrow", lambda path: path.write_bytes(b"")),
        ("spool/stream-000000.bin", flip),
    ],
)
def test_a_damaged_part_is_named_and_made_again_once_it_is_deleted(packed, begun, undisturbed, tmp_path, name, damage):
    out = tmp_path / "data"
    shutil.copytree(begun, out)
    part = out / ".shard-work" / name
    damage(part)
    one_line(vitstream("shard", packed, "--out", out, *SHARDS), f"{name}: damaged", "delete it and run", code=1)
    part.unlink()
    done = vitstream("shard", packed, "--out", out, *SHARDS)
    assert done.returncode == 0, done.stderr
    assert digests(out) == undisturbed


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("plan/all.parquet", b"", 1),
        ("plan/streams.json", b"[]", 1),
        ("plan/streams.json", b'[{"number": "x"}]', 1),
        ("plan.json", b'{"asked": 1}', 2),
    ],
)
def test_a_damaged_plan_is_named(packed, begun, tmp_path, name, content, code):
    out = tmp_path / "data"
    shutil.copytree(begun, out)
    (out / ".shard-work" / name).write_bytes(content)
    one_line(vitstream("shard", packed, "--out", out, *SHARDS), f"{name}: damaged", "start again", code=code)


def test_a_source_that_was_gone_while_sharding_costs_nothing(photos, tmp_path):
    source, out = tmp_path / "photos", tmp_path / "data"
    shutil.copytree(photos, source)
    assert vitstream("shard", source, "--out", tmp_path / "whole", *SHARDS).returncode == 0
    command = ("shard", source, "--out", out, *SHARDS)
    assert vitstream(*command, "--stop-after", "plan").returncode == 0
    source.rename(tmp_path / "elsewhere")
    source.mkdir()  # as where a disk is not mounted
    one_line(vitstream(*command, "--task", "0/1"), "photos: is gone, or empty", code=1)
    source.rmdir()
    (tmp_path / "elsewhere").rename(source)
    missing = source / "class-00"
    missing.rename(tmp_path / "class")
    one_line(vitstream(*command, "--task", "0/1"), "rejected so far", "mostly: cannot be read", code=1)
    (tmp_path / "class").rename(missing)
    assert vitstream(*command).returncode == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_records_of_a_deleted_plan_are_not_taken_for_another(photos, tmp_path):
    source, out = tmp_path / "photos", tmp_path / "data"
    shutil.copytree(photos, source)
    command = ("shard", source, "--out", out, *SHARDS)
    assert vitstream(*command, "--task", "0/1").returncode == 0
    (out / ".shard-work/plan.json").unlink()
    image = next(source.rglob("*.jpg"))
    image.rename(image.with_name("renamed.jpg"))
    assert vitstream(*command).returncode == 0
    assert vitstream("shard", source, "--out", tmp_path / "fresh", *SHARDS).returncode == 0
    assert digests(out) == digests(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--subsets", "21"), "21 samples; the dataset has 20"),
        (("--subsets", "20", "--max-rejects", "1"), "of 20 images, --max-rejects 1 may leave only 19"),
    ],
)
def test_a_subset_that_rejects_might_not_leave_is_refused_before_anything_is_encoded(photos, tmp_path, options, said):
    one_line(vitstream("shard", photos, "--out", tmp_path / "data", *options), said)
    assert not list((tmp_path / "data").rglob("*.tar"))


def test_rejects_are_counted_by_kind_and_each_shard_once(tmp_path):
    shards = [PlannedShard("all", number, number * 10, number * 10 + 10) for number in range(3)]
    (tmp_path / "all").mkdir()
    reasons = ["no label (a.csv, line 17)", "no label (a.csv, line 18)", "corrupt or truncated: at byte 7"]
    for shard, reason in zip(shards, reasons, strict=True):
        made = {"name": shard.name, "samples": 9, "bytes": 1, "xxh3": "0", "key_sum": "0"}
        index = {"name": "shards/x", "bytes": 1, "xxh3": "0"}
        reject = {"source": "x", "key": "y", "reason": reason}
        record = tmp_path / "all" / shard.name.replace(".tar", ".json")
        write_json(record, {"shard": made, "index": index, "rejects": [reject]})
    limit = RejectLimit(tmp_path, shards, "2")
    limit.add(shards[0])
    limit.add(shards[1])
    with pytest.raises(WorkFailed, match=r"3 of 30 images rejected so far, 2 allowed; mostly: no label \(2\)"):
        limit.add(shards[2])
    assert (tmp_path / "rejects.jsonl").read_text().count("\n") == 3
