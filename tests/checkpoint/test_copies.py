"""Checkpoints copied elsewhere: the files first, the manifest last; a failure is a line."""

import shutil
from dataclasses import replace

import pytest

from pipeline.checkpoint.copies import Copier, copy_checkpoint
from pipeline.checkpoint.manifest import Damaged, read_checkpoint_manifest
from pipeline.checkpoint.verify import verify
from pipeline.dataset.location import Location
from tests.checkpoint.conftest import NAMES
from tests.checkpoint.test_verify import change
from tests.remote import connected
from tests.servers import Flaky, fill, s3_server


def test_a_folder_gets_what_verifies(checkpoint, tmp_path):
    target = Location.of(tmp_path / "there" / "deep" / checkpoint.name)
    assert copy_checkpoint(checkpoint, target)
    assert verify(target.path) == verify(checkpoint)
    assert not copy_checkpoint(checkpoint, target), "it is there already"


def test_half_a_copy_is_no_checkpoint(checkpoint, tmp_path):
    target = Location.of(tmp_path / "there" / checkpoint.name)
    (checkpoint / NAMES[1]).rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        copy_checkpoint(checkpoint, target)
    with pytest.raises(Damaged, match=r"manifest\.json: missing"):
        verify(target.path)
    (tmp_path / "aside").rename(checkpoint / NAMES[1])
    assert copy_checkpoint(checkpoint, target) and verify(target.path)


def test_a_damaged_copy_is_replaced_from_the_manifest_on(checkpoint, tmp_path):
    target = Location.of(tmp_path / "there" / checkpoint.name)
    copy_checkpoint(checkpoint, target)
    (target.path / "manifest.json").write_text("damaged")
    (checkpoint / NAMES[1]).rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        copy_checkpoint(checkpoint, target)
    assert not (target.path / "manifest.json").exists(), "a manifest beside files that are not its own"
    (tmp_path / "aside").rename(checkpoint / NAMES[1])
    assert copy_checkpoint(checkpoint, target) and verify(target.path)


def test_a_bucket_gets_it_too_also_where_requests_fail(checkpoint, tmp_path):
    with s3_server() as upstream:
        fill(upstream, "copies", {})
        flaky = Flaky(upstream, rate=0.2, seed=3, stall_s=0.5, faults=("500", "503", "reset"))
        with flaky.running() as url, connected(url, seconds=30):
            said: list[str] = []
            copier = Copier(Location.of("s3://copies/run"), said.append)
            for _ in range(4):
                copier.offer(checkpoint)
                copier.wait()
            assert said == [f"checkpoint {checkpoint.name} copied to s3://copies/run/{checkpoint.name}"]
            there = Location.of(f"s3://copies/run/{checkpoint.name}")
            (tmp_path / "back" / checkpoint.name).mkdir(parents=True)
            for name in (*NAMES, "manifest.json"):
                (tmp_path / "back" / checkpoint.name / name).write_bytes((there / name).read())
    assert verify(tmp_path / "back" / checkpoint.name) == verify(checkpoint)


def test_a_failure_is_said_and_the_next_one_is_copied(checkpoint, tmp_path):
    said: list[str] = []
    (tmp_path / "there").write_text("no folder")
    copier = Copier(Location.of(tmp_path / "there"), said.append)
    copier.offer(checkpoint)
    copier.wait()
    assert len(said) == 1 and f"{checkpoint.name} was not copied: {tmp_path / 'there'}" in said[0]
    assert said[0].endswith("; the next start tries again") and "\n" not in said[0]
    (tmp_path / "there").unlink()
    copier.offer(checkpoint)
    copier.wait()
    assert verify(tmp_path / "there" / checkpoint.name) and copier.busy is None
    shutil.rmtree(tmp_path / "there")
    change(checkpoint / "manifest.json", 20)
    copier.offer(checkpoint)
    copier.wait()
    assert "manifest.json" in said[-1] and not (tmp_path / "there").exists()


def test_a_copy_of_another_run_stays(checkpoint, tmp_path):
    target = Location.of(tmp_path / "there" / checkpoint.name)
    other = shutil.copytree(checkpoint, tmp_path / "other" / checkpoint.name)
    replace(read_checkpoint_manifest(other), optimizer_step=12345).write(other)
    copy_checkpoint(other, target)
    said: list[str] = []
    copier = Copier(Location.of(tmp_path / "there"), said.append)
    copier.offer(checkpoint)
    copier.wait()
    (line,) = said
    assert "another checkpoint is there, and stays" in line and "checkpoint.copy_to" in line
    assert verify(target.path) == verify(other)


def test_what_a_killed_copy_left_behind_is_removed(checkpoint, tmp_path):
    target = tmp_path / "there" / checkpoint.name
    target.mkdir(parents=True)
    for name in (*NAMES, "manifest.json"):
        (target / f".{name}.tmp-0123456789ab").write_text("half")
    copy_checkpoint(checkpoint, Location.of(target))
    assert {path.name for path in target.iterdir()} == {*NAMES, "manifest.json"}


def test_all_that_wait_are_copied_the_newest_first_but_what_is_pruned(checkpoint, tmp_path):
    others = [shutil.copytree(checkpoint, tmp_path / name) for name in ("step-00000001", "step-00000002")]
    said: list[str] = []
    copier = Copier(Location.of(tmp_path / "there"), said.append)
    copier.offer(others[0], others[1], tmp_path / "step-00000003", checkpoint)
    assert copier.wait()
    assert [line.split()[1] for line in said] == [checkpoint.name, "step-00000002", "step-00000001"]
