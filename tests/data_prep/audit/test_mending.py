"""verify --repair: what can be had from the rest comes back to the byte; the rest is named, with what to do."""

import json
import os
import shutil
from itertools import chain
from pathlib import Path

import pytest

from data_prep.adopt.adopt import adopt
from data_prep.audit.dataset import verify
from data_prep.audit.finding import Decoding
from data_prep.audit.repair import Sources, repair
from data_prep.views import keep_view, prefix_view
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import read_manifest
from tests.data_prep.adopt.tars import entries, write_tar
from tests.images import write_photo_folder
from tests.runs import one_line, vitstream

FIRST, SECOND = "shards/shard-000000", "shards/shard-000001"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    photos = write_photo_folder(root / "photos", classes=2, per_class=10, size=(24, 16))
    done = vitstream("shard", photos, "--out", root / "data", "--shard-size", "20kB", "--workers", 1)
    assert done.returncode == 0 and len(read_manifest(root / "data").shards) > 1, done.stderr
    return root / "data"


@pytest.fixture
def data(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "data"))


def contents(dataset: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dataset)): path.read_bytes() for path in sorted(dataset.rglob("*")) if path.is_file()}


def mend(dataset: Path):
    return repair(dataset, verify(dataset, workers=1).findings, Sources(), workers=1)


def flip(path: Path, at: int) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


def test_indexes_come_back_to_the_byte(good, data):
    (data / f"{FIRST}.arrow").unlink()
    flip(data / f"{SECOND}.arrow", 700)
    done = vitstream("verify", data, "--repair", "--workers", 1)
    assert done.returncode == 0 and done.stdout.count("repaired: ") == 2, done.stdout + done.stderr
    assert contents(data) == contents(good)


def test_what_cannot_be_had_is_named_and_nothing_is_touched(data):
    flip(data / f"{FIRST}.tar", 2000)
    (data / f"{FIRST}.arrow").unlink()
    (data / "samples.parquet").write_bytes(b"damage")
    before = contents(data)
    done = vitstream("verify", data, "--repair", "--json", "--workers", 1)
    body = json.loads(done.stdout)
    assert done.returncode == 1 and contents(data) == before
    assert any("shard-000000.tar: damaged; " in line and "--source" in line for line in body["repairs"])
    assert any("samples.parquet: only vitstream shard knows the paths" in line for line in body["repairs"])
    assert body["findings"]
    one_line(vitstream("verify", data, "--source", "x"), "are for --repair")


def test_a_view_is_repaired_where_it_can_be(data, tmp_path):
    keys = ShardIndex(data / f"{FIRST}.arrow").keys()
    (tmp_path / "keep").write_text("\n".join(keys[1:3]))
    prefix_view(data, 3, tmp_path / "first")
    keep_view(data, tmp_path / "keep", tmp_path / "kept")
    prefix_view(data, len(keys), tmp_path / "whole")
    views = [tmp_path / name for name in ("first", "kept", "whole")]
    assert [verify(view, workers=1).findings for view in views] == [()] * 3
    before = contents(views[0])
    (views[0] / f"{FIRST}.arrow").unlink()
    assert len(mend(views[0]).made) == 1 and contents(views[0]) == before
    flip(views[1] / f"{FIRST}.arrow", 20)  # its keys can still be read, or not: then nothing knows what it listed
    (views[1] / f"{FIRST}.arrow").unlink()
    assert "make the dataset again" in mend(views[1]).left[0]
    (data / f"{FIRST}.arrow").unlink()
    findings = verify(views[2], workers=1).findings
    assert "which is a link to ../../data/shards/shard-000000.arrow" in str(findings[0])
    assert "a link to another dataset's: repair that one" in mend(views[2]).left[0]
    assert len(mend(data).made) == 1 and verify(views[2], workers=1).findings == ()


def test_an_index_whose_shard_moved_under_it(data, tmp_path):
    """A view of a dataset that was made anew: the tar is another, and every sample says so."""
    prefix_view(data, 3, tmp_path / "view")
    tar = data / f"{FIRST}.tar"
    body = tar.read_bytes()
    size = ShardIndex(data / f"{FIRST}.arrow").row(1).offset - 512
    tar.write_bytes(body[size:] + bytes(size))
    findings = verify(tmp_path / "view", workers=1).findings
    assert sum("where its index says" in f.problem for f in findings) + sum(
        "its index says" in f.problem for f in findings
    )
    assert all(f.shard == "shard-000000.tar" for f in findings)


def test_decoding_a_sample_of_the_images(data):
    """The same for the same seed; others for another; a broken picture is found where it is among them."""
    indexes = [ShardIndex(data / "shards" / shard.index_name) for shard in read_manifest(data).shards]
    keys = list(chain.from_iterable(index.keys() for index in indexes))
    for text in ("5", "25%", "0.25"):
        chosen = [[key for key in keys if Decoding.parse(text, 20, seed).takes(key)] for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2] and 1 <= len(chosen[0]) <= 12
    assert all(Decoding.parse("all", 20, 0).takes(key) for key in keys)
    assert not any(Decoding.parse("0", 20, 0).takes(key) for key in keys)
    with pytest.raises(UsageError, match="--decode 'half'"):
        Decoding.parse("half", 20, 0)
    done = vitstream("verify", data, "--decode", "25%", "--seed", 3)
    assert done.returncode == 0 and "25% of the images agree" in done.stdout
    one_line(vitstream("verify", data, "--decode", "half"), "--decode 'half'")


def test_a_key_in_two_views(data, tmp_path):
    prefix_view(data, 2, tmp_path / "train")
    prefix_view(data, 3, tmp_path / "val")
    findings = verify(tmp_path, workers=1).findings
    assert len(findings) == 2 and all("is there 2 times" in finding.problem for finding in findings)


def test_an_adopted_catalogue_waits_for_its_shards(tmp_path):
    write_tar(tmp_path / "x.tar", [(f"{n}.jpg", entry.data) for n, entry in enumerate(entries(3))])
    adopt([tmp_path / "x.tar"], tmp_path / "data", None, "0", workers=1)
    whole, before = (tmp_path / "x.tar").read_bytes(), contents(tmp_path / "data")
    (tmp_path / "x.tar").write_bytes(whole[:2000])
    (tmp_path / "data/samples.parquet").unlink()
    (tmp_path / "data/shards/x.arrow").write_bytes(b"damage")
    (tmp_path / "data/rejects.jsonl").write_bytes(b"[" * 100_000)
    repairs = mend(tmp_path / "data")
    assert repairs.made == () and ["whole first" in line for line in repairs.left].count(True) == 1
    assert "rejects.jsonl: nothing else says" in repairs.left[-1]
    (tmp_path / "x.tar").write_bytes(whole)
    (tmp_path / "data/rejects.jsonl").write_bytes(b"")
    assert len(mend(tmp_path / "data").made) == 2 and contents(tmp_path / "data") == before


def test_pipes_and_devices_are_found_and_not_read(data):
    """From a pipe without a writer, and from /dev/zero, one would read for ever."""
    for number, name in enumerate((f"{FIRST}.tar", f"{FIRST}.arrow", "samples.parquet", "rejects.jsonl")):
        (data / name).unlink()
        os.mkfifo(data / name) if number % 2 else (data / name).symlink_to("/dev/zero")
    problems = [str(finding) for finding in verify(data, workers=1).findings]
    for name in ("shard-000000.tar", "shard-000000.arrow", "samples.parquet", "rejects.jsonl"):
        assert any(name in problem and "not a regular file" in problem for problem in problems), problems
    with pytest.raises(WorkFailed, match="not a regular file"):
        prefix_view(data, 3, data.parent / "view")
    (data / "dataset.json").unlink()
    os.mkfifo(data / "dataset.json")
    with pytest.raises(UsageError, match="not a regular file"):
        read_manifest(data)
