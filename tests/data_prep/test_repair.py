"""A damaged shard is made again from its source, to the same bytes, or left as it is."""

import shutil
from pathlib import Path

import pytest

from tests.data_prep.test_kills import digests
from tests.images import write_photo, write_photo_folder
from tests.runs import one_line, vitstream


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), classes=3, per_class=200)


@pytest.fixture(scope="module")
def dataset(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dataset") / "data"
    done = vitstream("shard", photos, "--out", out, "--size", 40, "--val-fraction", 0.2, "--where", "bytes > 10")
    assert done.returncode == 0, done.stderr
    return out


def test_damaged_and_missing_shards_come_back_to_the_byte(photos, dataset, tmp_path):
    out = tmp_path / "data"
    shutil.copytree(dataset, out)
    tar = out / "train/shards/shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-5000])
    (out / "train/shards/shard-000002.tar").unlink()
    (out / "val/shards/shard-000000.arrow").unlink()
    assert vitstream("verify", out).returncode == 1
    without = vitstream("verify", out, "--repair")  # the index can be had from the tar, a tar only from the source
    assert without.returncode == 1 and "--source" in without.stdout + without.stderr
    done = vitstream("verify", out, "--repair", "--source", photos)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(out) == digests(dataset)


def test_from_a_source_that_has_changed_nothing_is_taken(photos, dataset, tmp_path):
    out, source = tmp_path / "data", tmp_path / "photos"
    shutil.copytree(dataset, out)
    shutil.copytree(photos, source)
    (out / "train/shards/shard-000001.tar").unlink()
    for path in source.rglob("*.jpg"):  # as large as before, and all another picture
        size = path.stat().st_size
        write_photo(path, 64, 48, seed=7, quality=50)
        path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    done = vitstream("verify", out, "--repair", "--source", source)
    assert done.returncode == 1 and "comes out otherwise" in done.stdout + done.stderr
    assert not (out / "train/shards/shard-000001.tar").exists() and not (out / "train/.repair-work").exists()
    write_photo(source / "class-00" / "new.jpg", 64, 48, seed=1)
    done = vitstream("verify", out, "--repair", "--source", source)
    assert done.returncode == 2 and "number of images in SOURCE: 600 then, 601 now" in done.stdout + done.stderr


def test_what_is_no_dataset_of_ours(tmp_path):
    one_line(vitstream("verify", tmp_path, "--repair"), "no dataset.json in it")
