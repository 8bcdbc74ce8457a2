"""Sources and disks that fail while `vitstream shard` is at work: a bucket behind a flaky network, files that vanish,
a disk that fills up. And now and then the command is killed as well."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.dataset.manifest import read_manifest
from tests.images import write_photo_folder
from tests.runs import start, vitstream
from tests.servers import Flaky, environment, fill, s3_server
from tests.soak.matrix import Matrix
from tests.soak.prep_kills import digests

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server's line for every request
OPTIONS = ("--size", "64", "--shard-size", "300kB", "--seed", "3", "--workers", "2", "--max-rejects", "10%")
KINDS = ("bucket", "vanish", "disk")
SPOILED = 0.1  # of the requests


@lru_cache(maxsize=1)
def corpus_and_truth() -> tuple[Path, dict[str, str]]:
    """The corpus, and the digests of what one undisturbed process makes of it."""
    root = Path(mkdtemp(prefix="soak-sources-"))
    photos = write_photo_folder(root / "photos", classes=4, per_class=100, size=(160, 120))
    done = vitstream("shard", photos, "--out", root / "data", *OPTIONS)
    assert done.returncode == 0, done.stderr
    return photos, digests(root / "data")


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """One trial per fault: which kind, in turn."""
    return [{"seed": seed * 1000 + i, "kind": KINDS[i % len(KINDS)]} for i in range(count)]


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One corpus, one kind of fault."""
    return {"bucket": _bucket, "vanish": _vanish, "disk": _disk}[trial["kind"]](random.Random(trial["seed"]), folder)


def _bucket(rng: random.Random, folder: Path) -> dict[str, Any]:
    """10 % of all requests fail, stall, or give less than they should; and the command is killed once."""
    photos, truth = corpus_and_truth()
    objects = {f"photos/{path.relative_to(photos)}": path.read_bytes() for path in sorted(photos.rglob("*.jpg"))}
    out = folder / "data"
    with s3_server() as upstream:
        fill(upstream, "corpus", objects)
        flaky = Flaky(upstream, SPOILED, rng.randrange(2**32), stall_s=2.0)
        with flaky.running() as url:
            arguments = ("shard", "s3://corpus/photos", "--out", out, *OPTIONS)
            ours = os.environ | environment(url)
            process = start(*arguments, env=ours, start_new_session=True)
            time.sleep(rng.uniform(1.0, 4.0))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            for _ in range(5):  # a source that fails for too long ends the command, which goes on when run again
                done = vitstream(*arguments, **environment(url))
                assert done.returncode in (0, 1), done.stderr
                assert done.returncode == 0 or done.stderr.count("\n") == 1, done.stderr
                if done.returncode == 0:
                    break
            assert done.returncode == 0, done.stderr
            spoiled = sum(count for kind, count in flaky.done.items() if kind != "fine")
    seen = digests(out)
    assert {n: d for n, d in seen.items() if n != "dataset.json"} == {
        n: d for n, d in truth.items() if n != "dataset.json"
    }
    assert read_manifest(out).fingerprint == read_manifest(photos.parent / "data").fingerprint
    return {"faults": 1, "spoiled_requests": spoiled, "requests": sum(flaky.done.values())}


def _vanish(rng: random.Random, folder: Path) -> dict[str, Any]:
    """Files are deleted, cut, emptied or turned into folders between the plan and the shards: rejected by name, and
    any number of tasks agrees on the rest."""
    photos, _ = corpus_and_truth()
    source, out = folder / "photos", folder / "data"
    shutil.copytree(photos, source)
    assert vitstream("shard", source, "--out", out, *OPTIONS, "--stop-after", "plan").returncode == 0
    shutil.copytree(out, folder / "again")
    gone = rng.sample(sorted(source.rglob("*.jpg")), rng.randint(1, 30))
    for path in gone:
        data = path.read_bytes()
        path.unlink()
        how = rng.choice(("delete", "cut", "empty", "folder"))
        if how == "folder":
            path.mkdir()
        elif how != "delete":
            path.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    for i in range(2):
        done = vitstream("shard", source, "--out", out, *OPTIONS, "--task", f"{i}/2")
        assert done.returncode == 0, done.stderr
    assert vitstream("finalize", out).returncode == 0
    for i in range(3):
        assert vitstream("shard", source, "--out", folder / "again", *OPTIONS, "--task", f"{i}/3").returncode == 0
    assert vitstream("finalize", folder / "again").returncode == 0
    assert digests(out) == digests(folder / "again")
    rejects = [json.loads(line)["source"] for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert sorted(rejects) == sorted(str(path.relative_to(source)) for path in gone)
    assert read_manifest(out).samples == 400 - len(gone)
    assert vitstream("verify", out).returncode == 0
    return {"faults": 1, "files": len(gone)}


def _disk(rng: random.Random, folder: Path) -> dict[str, Any]:
    """The disk is full, and then larger."""
    photos, truth = corpus_and_truth()
    disk = folder / "disk"
    disk.mkdir()
    size_kb = rng.randint(100, 900)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", disk], capture_output=True)
    assert mounted.returncode == 0, "a small disk could not be mounted: run as root"
    try:
        done = vitstream("shard", photos, "--out", disk / "data", *OPTIONS)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "no space left" in done.stderr or "more room" in done.stderr, done.stderr
        made = {n: d for n, d in digests(disk / "data").items() if not n.startswith(".")}
        assert made.items() <= truth.items()
        subprocess.run(["mount", "-o", "remount,size=64M", disk], check=True)
        done = vitstream("shard", photos, "--out", disk / "data", *OPTIONS)
        assert done.returncode == 0, done.stderr
        assert digests(disk / "data") == truth
    finally:
        subprocess.run(["umount", disk], check=True)
    return {"faults": 1, "disk_kb": size_kb, "shards_before": sum(name.endswith(".tar") for name in made)}


MATRIX = Matrix(
    "prep-sources",
    "A bucket of which 10 % of the requests fail, stall or are cut (a real S3 server, a killed command on top), files"
    " that vanish or change after the plan, a full disk: retried, rejected by name or stopped with exit code 1, and the"
    " command run again completes to the same bytes",
    30,
    trials,
    run,
)
