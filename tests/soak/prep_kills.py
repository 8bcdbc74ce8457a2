"""SIGKILL at random moments, to random processes, while 1, 2 or 7 tasks shard a corpus of real-sized photos, which
lies in a folder or in Parquet files."""

import hashlib
import os
import random
import signal
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.images import write_photo_folder
from tests.runs import start, vitstream
from tests.soak.matrix import Matrix

KILLS_PER_TRIAL = 10
OPTIONS = ("--size", "256", "--val-fraction", "0.1", "--shard-size", "2MB", "--seed", "3")
CORPUS = {"classes": 8, "per_class": 200, "size": (500, 375)}
LIFE_S = (0.5, 3.5)  # of a process, before it is killed: start-up, and about as long as an undisturbed run takes


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file below `out`."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@lru_cache(maxsize=2)
def corpus_and_truth(source: str) -> tuple[Path, dict[str, str]]:
    """The corpus, and the digests of what one undisturbed process makes of it.

    `folder` is read image by image; `parquet`, the same photos packed, can only be streamed, which takes two passes.
    """
    root = Path(mkdtemp(prefix=f"soak-{source}-"))
    photos = write_photo_folder(root / "photos", **CORPUS)  # type: ignore[arg-type]
    if source == "parquet":
        photos = pack(photos, root / "packed")
    done = vitstream("shard", photos, "--out", root / "data", *OPTIONS, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return photos, digests(root / "data")


def pack(photos: Path, folder: Path) -> Path:
    """The photos as Parquet files with their bytes, one file for each class."""
    folder.mkdir()
    for class_folder in sorted(photos.iterdir()):
        files = sorted(class_folder.glob("*.jpg"))
        columns = {"image": [file.read_bytes() for file in files], "label": [class_folder.name] * len(files)}
        pq.write_table(pa.table(columns), folder / f"{class_folder.name}.parquet", row_group_size=50)
    return folder


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of KILLS_PER_TRIAL kills each, over numbers of tasks and workers."""
    number = -(-count // KILLS_PER_TRIAL)
    return [
        {
            "seed": seed * 1000 + i,
            "tasks": (1, 2, 7)[i % 3],
            "workers": (1, 2)[i // 3 % 2],
            "source": ("folder", "folder", "parquet")[i % 5 % 3],
            "kills": min(KILLS_PER_TRIAL, count - i * KILLS_PER_TRIAL),
        }
        for i in range(number)
    ]


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Kills and restarts until enough were killed, then lets every task finish: the files must be the truth."""
    photos, truth = corpus_and_truth(trial["source"])
    rng, out = random.Random(trial["seed"]), folder / "data"
    killed: dict[str, int] = {}
    lives = 0
    while sum(killed.values()) < trial["kills"]:
        lives += 1
        if len(list(out.glob("*/shards/*.tar"))) == sum(name.endswith(".tar") for name in truth):
            vanish(out)  # hardly anything is left to be killed: begin anew
        processes = [begin(photos, out, trial, rng) for _ in range(rng.choice((1, 1, 2)))]
        time.sleep(rng.uniform(LIFE_S[0], LIFE_S[0] + (LIFE_S[1] - LIFE_S[0]) / trial["tasks"] ** 0.5))
        for process in processes:
            what = kill(process, rng)
            killed[what] = killed.get(what, 0) + (what != "had ended")
        assert_no_half_file(out, truth)
    finish(photos, out, trial, rng)
    assert digests(out) == truth
    killed.pop("had ended", None)
    return {"faults": sum(killed.values()), "lives": lives, "killed": killed, "files": len(truth)}


def command(photos: Path, out: Path, trial: dict[str, Any], task: int | None) -> list[object]:
    """A task's command line, or finalize's where `task` is None."""
    if task is None:
        return ["finalize", out]
    part = ["--task", f"{task}/{trial['tasks']}"] if trial["tasks"] > 1 else []
    return ["shard", photos, "--out", out, *OPTIONS, "--workers", trial["workers"], *part]


def begin(photos: Path, out: Path, trial: dict[str, Any], rng: random.Random) -> subprocess.Popen:
    """Starts one task, any, also one that was done before or runs already; now and then finalize."""
    task = None if rng.random() < 0.1 and trial["tasks"] > 1 else rng.randrange(trial["tasks"])
    return start(*command(photos, out, trial, task), start_new_session=True)


def kill(process: subprocess.Popen, rng: random.Random) -> str:
    """SIGKILL to the command, to one of its workers, or to all of them. Returns to whom."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if process.poll() is not None:
        process.communicate()
        return "had ended"
    target = rng.choice(("command", "worker", "group"))
    if target == "worker" and children:
        rng.choice(children).kill()
        try:
            process.wait(timeout=20)  # it says so, and ends
        except subprocess.TimeoutExpired:
            raise AssertionError("a command outlived its worker by 20 s") from None
    elif target == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        target = "command"
        process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, "a worker outlived its command"
    return target


def vanish(out: Path) -> None:
    """Removes OUT by renaming it aside; the trial goes on with a fresh one."""
    out.rename(out.with_name(f"done-{time.monotonic_ns()}"))


def assert_no_half_file(out: Path, truth: dict[str, str]) -> None:
    """Whatever has a final name is what it will be in the end."""
    for name, digest in digests(out).items() if out.exists() else ():
        hidden = any(part.startswith(".") for part in Path(name).parts)
        assert hidden or truth.get(name) == digest, f"{name} is half made, or not to be there"


def finish(photos: Path, out: Path, trial: dict[str, Any], rng: random.Random) -> None:
    """Runs every task to its end, in any order, one of them twice, and finalize."""
    order = list(range(trial["tasks"]))
    rng.shuffle(order)
    for task in order if trial["source"] == "parquet" and trial["tasks"] > 1 else ():
        done = vitstream(*command(photos, out, trial, task), "--stop-after", "stream")
        assert done.returncode == 0, done.stderr
    for task in [*order, order[0]]:
        done = vitstream(*command(photos, out, trial, task))
        assert done.returncode == 0, done.stderr
    if trial["tasks"] > 1:
        done = vitstream(*command(photos, out, trial, None))
        assert done.returncode == 0, done.stderr


MATRIX = Matrix(
    "prep-kills",
    "SIGKILL at random moments to commands, workers and whole groups of 1, 2 and 7 tasks of `vitstream shard`, over a"
    " folder and over Parquet that is streamed: every file in the end has the SHA-256 of an undisturbed run, and after"
    " every kill each file under its final name, too",
    100,
    trials,
    run,
)
