"""Checkpoints published beside training: what was handed over is what is published, and failures stay small."""

import os
import shutil
import threading

import pytest
import torch

from pipeline.checkpoint import commit
from pipeline.checkpoint.files import TensorReader
from pipeline.checkpoint.manifest import published
from pipeline.checkpoint.restore import choose_checkpoint
from pipeline.checkpoint.saver import Saver
from pipeline.checkpoint.state import WEIGHT, Slice
from pipeline.checkpoint.verify import verify
from pipeline.config import Checkpoint
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.distributed import World
from pipeline.launch.environment import RankEnvironment
from pipeline.optim.masters import MOMENTS
from pipeline.run.directory import RunDirectory
from tests.checkpoint.test_manifest import manifest

KINDS = (WEIGHT, *MOMENTS)
NUMBERS = 300_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.setenv(name, "0")  # restored afterwards; World sets them
        joined = World(RankEnvironment(0, 1, 0), str(tmp_path_factory.mktemp("world") / "rendezvous"))
        yield joined
        joined.close()


@pytest.fixture
def run(world, tmp_path):
    return Run(world, tmp_path / "checkpoints")


class Run:
    """Slices that training changes, and a saver."""

    def __init__(self, world, checkpoints, newest=None, size=4 * 3 * NUMBERS, **config):
        self.said = []
        self.checkpoints = checkpoints
        self.saver = Saver(Checkpoint(**config), checkpoints, 0, world, newest, size, self.said.append)
        self.tensors = {kind: torch.zeros(NUMBERS) for kind in KINDS}

    def save(self, step, sync=lambda: None, what_then="training goes on"):
        """Fills all tensors with the step, hands them over, and goes on training at once."""
        for values in self.tensors.values():
            values.fill_(step)
        facts = {key: value for key, value in vars(manifest(step=step)).items() if key not in OF_THE_SAVER}
        slices = [Slice("a", (NUMBERS,), 0, NUMBERS, self.tensors)]
        self.saver.save(slices, facts, sync, what_then)
        for values in self.tensors.values():
            values.fill_(-1)

    def published(self):
        """step -> the one value that all of its tensors have."""
        found = {}
        for path in published(self.checkpoints):
            reader = TensorReader(path, made := verify(path))
            values = {v for kind in KINDS for v in reader.read(f"{kind}/a", 0, NUMBERS).unique().tolist()}
            (found[made.step],) = values
        return found


OF_THE_SAVER = ("parent", "files", "shapes", "tensors", "version")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_was_handed_over_is_published(world, tmp_path, asynchronous):
    run = Run(world, tmp_path / "checkpoints", asynchronous=asynchronous, keep_last=2)
    if not asynchronous:  # training does not go on before it stands
        run.save(3)
        assert run.published() == {3: 3}
    for step in (5, 6, 7):
        run.save(step)
    assert run.saver.wait() is None
    assert run.published() == {6: 6, 7: 7}
    assert verify(run.checkpoints / "step-00000007").parent == "step-00000006"
    assert [line.split(" published")[0] for line in run.said[-3:]] == [f"checkpoint step-0000000{n}" for n in (5, 6, 7)]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-00000006", "step-00000007"}


def test_a_large_state_is_several_files_of_a_rank(world, tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "_FILE_BYTES", 2**20)
    checkpoints = tmp_path / "checkpoints"
    saver = Saver(Checkpoint(), checkpoints, 0, world, None, 4 * 3 * NUMBERS, print)
    values = torch.arange(3.0 * NUMBERS)
    slices = [
        Slice(name, (NUMBERS,), 0, NUMBERS, {WEIGHT: values[at * NUMBERS :][:NUMBERS]}) for at, name in enumerate("abc")
    ]
    facts = {key: value for key, value in vars(manifest(step=1)).items() if key not in OF_THE_SAVER}
    saver.save(slices, facts, lambda: None)
    assert saver.wait() is None
    path = checkpoints / "step-00000001"
    names = [file["name"] for file in verify(path).files]
    assert names == ["rank-00000.safetensors", "rank-00000-1.safetensors", "rank-00000-2.safetensors"]
    assert {entry.name for entry in path.iterdir()} == {*names, "manifest.json"}
    weights = TensorReader(path, verify(path)).weights()
    assert torch.equal(torch.cat([weights[name] for name in "abc"]), values)


def test_memory_that_does_not_suffice_is_made_anew(world, tmp_path):
    run = Run(world, tmp_path / "checkpoints", size=1000)
    run.save(1)
    run.save(2)
    assert run.saver.wait() is None and run.published() == {1: 1, 2: 2}


class NoPageLocking:
    """What a driver says that may not lock pages."""

    def cudaHostRegister(self, address, size, flags):
        raise RuntimeError("CUDA error: operation not permitted\nin two lines")


def test_memory_that_must_not_be_page_locked_does_as_well(world, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "cudart", NoPageLocking)
    for name in ("set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    run = Run(world, tmp_path / "checkpoints", size=1000)
    run.save(1)  # for which it does not suffice
    assert run.saver.wait() is None and run.published() == {1: 1}
    refused = [line for line in run.said if "cannot be page-locked (CUDA error: operation not permitted" in line]
    assert len(refused) == 2 and not any("\n" in line for line in refused)


def test_memory_that_cannot_be_had_is_said_before_the_first_step(world, tmp_path):
    with pytest.raises(WorkFailed, match=r"\d TB of memory for checkpoints cannot be had: use more ranks, or set"):
        Run(world, tmp_path / "checkpoints", size=2**62)


def test_a_write_that_fails_says_of_which_file_and_a_broken_group_is_one_line(run, monkeypatch):
    def full(path, slices):
        raise OSError(28, "No space left on device")  # as write and fsync say it

    monkeypatch.setattr(commit, "write_slices", full)
    run.save(1)
    file = run.checkpoints / "step-00000001.tmp-000" / "rank-00000.safetensors"
    assert f"No space left on device ({file})" in str(run.saver.wait())
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda fd: full(None, None))
    run.save(2)
    assert f"No space left on device ({file.parent.with_name('step-00000002.tmp-000')}" in str(run.saver.wait())
    monkeypatch.undo()

    def broken(*arguments):
        raise RuntimeError("gloo: Connection closed\nby peer")

    monkeypatch.setattr(commit, "save", broken)
    run.save(3)
    assert "Connection closed\\x0aby peer" in str(run.saver.wait()) and "\n" not in run.said[-1]


def test_training_goes_on_while_a_checkpoint_is_written(run, monkeypatch):
    """The disk is as slow as the test wants; one checkpoint at a time."""
    gate = threading.Event()
    write = commit.write_slices
    monkeypatch.setattr(commit, "write_slices", lambda *arguments: gate.wait(30) and write(*arguments))
    run.save(1)
    assert run.saver.step == 1 and run.saver.published is None and run.published() == {}
    threading.Timer(0.2, gate.set).start()
    run.save(2)  # waits for the first
    assert run.saver.published == "step-00000001"
    assert run.saver.wait() is None and run.published() == {1: 1, 2: 2}


def test_a_failure_is_said_and_the_next_one_succeeds(run):
    run.save(1)
    run.saver.wait()
    aside = run.checkpoints.with_name("aside")
    run.checkpoints.rename(aside)
    run.checkpoints.write_text("no folder")
    run.save(2)
    failure = run.saver.wait()
    assert failure is not None and "step-00000002 was not written: rank 0 on " in str(failure)
    assert run.said[-1] == f"{failure}; training goes on, the newest checkpoint is step-00000001"
    assert run.saver.step is None and run.saver.published == "step-00000001"
    run.checkpoints.unlink()
    aside.rename(run.checkpoints)
    run.save(3)
    assert run.saver.wait() is None and run.published() == {1: 1, 3: 3}
    assert verify(run.checkpoints / "step-00000003").parent == "step-00000001"


def test_nothing_is_published_before_its_metrics_are_on_disk(run):
    def full():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    run.save(1, sync=full)
    assert "No space left on device (metrics.jsonl)" in str(run.saver.wait())
    assert list(run.checkpoints.iterdir()) == [] if run.checkpoints.exists() else True


def test_a_folder_whose_disk_is_gone_is_not_made_anew(world, tmp_path):
    run = Run(world, tmp_path / "mount" / "run" / "checkpoints")
    run.save(1)
    assert "No such file or directory" in str(run.saver.wait())
    assert not (tmp_path / "mount").exists()


def test_no_room_is_known_before_anything_is_written(run, monkeypatch):
    run.save(1)
    run.saver.wait()
    usage = shutil.disk_usage(run.checkpoints)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4 * 3 * NUMBERS))
    run.save(2)
    assert "No space left: it takes 4.6 MB, and 3.6 MB are free" in str(run.saver.wait())
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]


def test_a_checkpoint_that_somebody_removed_is_missed(run):
    run.save(1)
    run.saver.wait()
    shutil.rmtree(run.checkpoints)
    run.save(2)
    assert run.saver.wait() is None and run.published() == {2: 2}
    assert f"{run.checkpoints / 'step-00000001'}, the checkpoint before it, is gone" in run.said[-1]


def test_what_stands_under_the_name_is_set_aside(run):
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    (run.checkpoints / "step-00000001" / "file").write_text("of somebody")
    run.save(1)
    assert run.saver.wait() is None and run.published() == {1: 1}
    assert (run.checkpoints / "step-00000001.damaged-000" / "file").read_text() == "of somebody"


# -- choosing --------------------------------------------------------------------------------------------------


@pytest.fixture
def three(run):
    """Checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        run.save(step)
    run.saver.wait()
    return run.checkpoints


def flip(checkpoint):
    path = checkpoint / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_damaged_ones_are_set_aside_one_after_the_other(world, three):
    said = []
    assert choose_checkpoint(three, 5, world, said.append)[0].name == "step-00000003" and said == []
    flip(three / "step-00000003")
    os.truncate(three / "step-00000002" / "manifest.json", 10)
    path, made = choose_checkpoint(three, 5, world, said.append)
    assert (path.name, made.step) == ("step-00000001", 1)
    assert len(said) == 2
    assert "step-00000003 is damaged" in said[0] and "rank-00000.safetensors: bytes 0 to 3,600," in said[0]
    assert "step-00000002 is damaged" in said[1] and "manifest.json" in said[1]
    assert "set aside as step-00000002.damaged-005" in said[1]
    flip(path)
    with pytest.raises(UsageError, match="none verifies; --from-scratch"):
        choose_checkpoint(three, 6, world, said.append)
    with pytest.raises(UsageError, match="none verifies; --from-scratch"):
        choose_checkpoint(three, 7, world, said.append)


def test_what_cannot_be_set_aside_is_passed_over(world, three, monkeypatch):
    flip(three / "step-00000003")

    def read_only(path, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(three), "rename", read_only)
    said = []
    assert choose_checkpoint(three, 5, world, said.append)[0].name == "step-00000002"
    assert said[-1].endswith("it cannot be set aside (Read-only file system)")


def test_a_renamed_checkpoint_is_noticed(world, three):
    said = []
    (three / "step-00000003").rename(three / "step-00000003.bak")
    assert choose_checkpoint(three, 5, world, said.append)[0].name == "step-00000002"
    assert said == [f"{three / 'step-00000003.bak'} is not the name of a checkpoint, and is not used"]
    for step in (1, 2):
        shutil.rmtree(three / f"step-0000000{step}")
    with pytest.raises(UsageError, match="none verifies; --from-scratch"):
        choose_checkpoint(three, 5, world, said.append)


def test_checkpoints_that_have_gone_are_not_a_run_that_begins(world, three):
    said, folder = [], RunDirectory(three.parent)
    shutil.rmtree(three / "step-00000003")
    assert choose_checkpoint(three, 5, world, said.append)[0].name == "step-00000002"
    assert len(said) == 1 and "step-00000003, which was published last, is gone" in said[0]
    again = Run(world, three, ("step-00000002", 2))
    again.save(4)  # from here on, that is the newest
    again.saver.wait()
    assert choose_checkpoint(three, 5, world, said.append)[0].name == "step-00000004" and len(said) == 1
    shutil.rmtree(three)
    for make in (lambda: None, three.mkdir):
        make()
        with pytest.raises(UsageError, match=r"step-00000004 was published here, .* mounted.*--from-scratch"):
            choose_checkpoint(three, 6, world, said.append)
    folder.published_file.path.write_bytes(b"{")
    with pytest.raises(UsageError, match=r"published\.json: is not what was written"):
        choose_checkpoint(three, 6, world, said.append)
    folder.set_aside(7)  # as --from-scratch does
    assert choose_checkpoint(three, 7, world, said.append) is None


def test_no_checkpoint_at_all_is_a_start(world, tmp_path):
    assert choose_checkpoint(tmp_path / "nowhere", 0, world, print) is None
    (tmp_path / "step-00000001.tmp-000").mkdir()
    assert choose_checkpoint(tmp_path, 0, world, print) is None
    assert list(tmp_path.iterdir()) == []
