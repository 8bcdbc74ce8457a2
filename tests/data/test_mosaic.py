"""`loader: {name: mosaic}`: mosaicml-streaming's own loader in our trainer, in the environment that has it."""

import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from pipeline.run.metrics import read_lines
from tests.datasets import make_dataset, photo_entry
from tests.runs import CHECKOUT, one_line, steps_of, vitstream, write_run

PYTHON = CHECKOUT / ".venv-mds/bin/python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-mds here; make test makes it")

SAMPLES, BATCH = 351, 32
MOSAIC = {"name": "mosaic", "workers": 1, "pixel_digest": True}
RUN = {"batch_size": BATCH, "loader": MOSAIC, "epochs": 5, "augment": {"mixup": 0.2}}
SAME = ("epoch", "consumed", "loss", "batch_digest", "pixel_digest", "holes")

WRITE = """
import sys
from pathlib import Path
from PIL import Image
from streaming import MDSWriter
with MDSWriter(out=sys.argv[2], columns={"y": "int", "x": "jpeg"}, size_limit=30000) as out:
    for number, name in enumerate(sorted(Path(sys.argv[1]).glob("*.jpg"))):
        out.write({"x": Image.open(name), "y": number % 5})
"""
# Its own partition, beside what we say of it; a step's batch at another number of ranks; what is left after a resume.
PARTITIONS = """
import numpy as np
from streaming.base.partition import get_partitions
from pipeline.data.mosaic.order import MosaicOrder

def in_turn(samples, canonical, nodes, of_node, batch, workers, done=0):
    ids = get_partitions("relaxed", samples, canonical, nodes, of_node, workers, batch, done)
    ids = ids.transpose(0, 1, 3, 2, 4).reshape(nodes * of_node, -1)  # of each rank, as a DataLoader takes them
    return [own[own >= 0] for own in ids]

for samples, canonical, nodes, of_node in [
    (350, 1, 1, 2), (351, 1, 1, 2), (100, 1, 1, 7), (103, 2, 2, 3), (103, 6, 2, 4), (103, 6, 3, 2), (103, 2, 4, 2),
    (97, 1, 4, 1), (9, 1, 1, 8), (8, 2, 2, 4), (1000, 64, 2, 8),
]:
    ranks = nodes * of_node
    order = MosaicOrder(samples, 0, canonical, nodes, ranks, 0)
    for workers in (1, 3):
        dealt = in_turn(samples, canonical, nodes, of_node, 4, workers)
        assert {len(own) for own in dealt} == {order.samples // ranks}, (samples, canonical, nodes, of_node)
        again = [order.is_repeat(order.places(rank, 0, len(own))) for rank, own in enumerate(dealt)]
        first = np.concatenate([own[~repeats] for own, repeats in zip(dealt, again)])
        assert sorted(first) == list(range(samples)), (samples, canonical, nodes, of_node)
        done = min(8, samples // (4 * ranks)) * 4 * ranks
        later = in_turn(samples, canonical, nodes, of_node, 4, workers, done)
        assert all((a[done // ranks:] == b).all() for a, b in zip(dealt, later))
    for other in (1, 2, 4, 8):  # ranks of one node, whose batch is 8 in all
        batches = [own.reshape(-1, 8 // other) for own in in_turn(160, 1, 1, other, 8 // other, 2)]
        assert (np.sort(np.concatenate(batches, axis=1)) == np.arange(160).reshape(-1, 8)).all()
"""


def train(run, *arguments: object, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(command(run, *arguments), capture_output=True, text=True, timeout=300, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    return done


def until_step(run, step: int) -> subprocess.Popen:
    """A run under way, which has done this step."""
    metrics = run.with_suffix("") / "metrics.jsonl"
    launcher = subprocess.Popen(command(run, "--nproc", 2), env=environment(), stderr=subprocess.PIPE, text=True)
    while launcher.poll() is None and not (metrics.exists() and max(steps_of(run), default=0) >= step):
        time.sleep(0.01)
    return launcher


def command(run, *arguments: object) -> list[str]:
    return [str(part) for part in (PYTHON, "-m", "pipeline.cli", "train", run, *arguments)]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "SLURM_PROCID")} | {
        "PYTHONPATH": str(CHECKOUT)
    }


@pytest.fixture(scope="module")
def mds(tmp_path_factory):
    """351 photos of 5 classes, as its own writer packs them: 13 shards, no keys, no names of classes."""
    folder = tmp_path_factory.mktemp("mosaic")
    (folder / "photos").mkdir()
    for number in range(SAMPLES):
        (folder / f"photos/{number:03d}.jpg").write_bytes(photo_entry(number, number % 5, (32, 24), seed=0).data)
    write = [PYTHON, "-c", WRITE, folder / "photos", folder / "mds"]
    done = subprocess.run(write, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return folder / "mds"


def test_what_is_known_of_its_order():
    done = subprocess.run([PYTHON, "-c", PARTITIONS], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_killed_it_goes_on_with_what_an_undisturbed_run_reads(mds, tmp_path):
    """Its state in our checkpoint; the other run fetches shards into a cache. One image is damaged."""
    damaged = sorted(mds.glob("*.mds"))[3]
    damaged.write_bytes(damaged.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0", 1))
    data = {"train": str(mds), "classes": 5, "max_hole_rate": 0.1}
    cached = data | {"cache": {"dir": str(tmp_path / "cache"), "bytes": "1MB"}}
    whole, run = (
        write_run(tmp_path / f"{name}.yaml", mds, **RUN | {"data": each})
        for name, each in {"whole": data, "killed": cached}.items()
    )
    said = train(whole, "--nproc", 2).stdout
    assert "the order is mosaicml-streaming's" in said
    assert "epoch 0: 351 samples read once or, for 1 of them to fill the ranks, again, 1 could not be read" in said

    launcher = until_step(run, 17)
    launcher.kill()
    assert launcher.wait() == -signal.SIGKILL
    launcher = until_step(run, 38)
    for process in psutil.Process(launcher.pid).children(recursive=True):
        if "forkserver" in " ".join(process.cmdline()) and not process.children():  # a worker; their server has them
            process.kill()
    said = launcher.communicate(timeout=120)[1]
    assert launcher.returncode == 1 and "exited unexpectedly" in said and "the same command resumes" in said, said
    train(run, "--nproc", 2)
    ours, theirs = steps_of(run), steps_of(whole)
    assert list(ours) == list(theirs) == list(range(1, 56))
    assert [[ours[step][key] for key in SAME] for step in ours] == [
        [theirs[step][key] for key in SAME] for step in ours
    ]
    assert {line["attempt"] for line in ours.values()} == {0, 1, 2}
    for each in (run, whole):
        certificates = {line["epoch"]: line for line in read_lines(each.with_suffix("") / "digest.jsonl")}
        assert list(certificates) == list(range(5))
        for line in certificates.values():
            assert line["at_least_once"] and not line["exactly_once"] and line["digest"] == line["expected"]
            assert line["samples"] + line["holes"] == SAMPLES + line["repeats"] == 352
    assert len(list((tmp_path / "cache").rglob("*.mds"))) == len(list(mds.glob("*.mds")))


def test_a_shard_that_is_gone_ends_the_run(mds, tmp_path):
    gone = shutil.copytree(mds, tmp_path / "mds")
    sorted(gone.glob("*.mds"))[5].unlink()
    run = write_run(tmp_path / "run.yaml", gone, **RUN | {"data": {"train": str(gone), "classes": 5}})
    done = train(run, "--nproc", 1, "--set", "loader.workers=0", code=1)
    one_line(done, "mosaicml-streaming cannot go on: shard.00005.mds cannot be had", code=1)


def test_refusals(mds, tmp_path):
    run, data = tmp_path / "run.yaml", {"train": str(mds), "classes": 5}
    write_run(run, mds, **RUN | {"data": data})
    one_line(
        vitstream("train", run), "loader.name", "mosaicml-streaming is not installed", "pip install 'vitstream[mds]'"
    )
    one_line(vitstream("plan", run), "plan: the run has loader.name: mosaic")
    one_line(vitstream("order", run, "--step", 1), "order: the run has loader.name: mosaic")
    make_dataset(tmp_path / "tars", 10, shards=1, size=(16, 16))
    for words, overrides in {
        ("data.train", "one MDS folder, not a list"): [f"data.train=[{mds}, {tmp_path / 'tars'}]"],
        ("data.train", "is no MDS folder"): [f"data.train={tmp_path / 'tars'}", "data.classes=null"],
        ("loader.read_ahead", "has no meaning"): ["loader.read_ahead=32"],
        ("batch_size: 31", "take 32"): ["batch_size=31"],
    }.items():
        settings = [part for each in overrides for part in ("--set", each)]
        one_line(train(run, "--nproc", 2, *settings, code=2), *words)
