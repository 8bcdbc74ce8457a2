"""`vitstream train` on data that rots, vanishes, is refused, does not come, or is another: below the rate of holes that
is allowed the run goes on, in order; above it everything is saved, the run stops, and says why."""

import json
import math
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from pipeline.config import Augment
from pipeline.data.ledger import PIXELS, READ_SUM
from pipeline.data.order import Order
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import MASK64, hex64
from pipeline.dataset.manifest import read_manifest
from tests.datasets import make_dataset
from tests.runs import steps_of, verdict_of, vitstream, write_run
from tests.soak.matrix import Matrix
from tests.soak.stream_storage import Storage, stored
from tests.soak.stream_truth import Truth, truth_of

KINDS = ("corrupt", "deleted", "replaced tar", "refused", "stalled", "replaced")
SAMPLES, SHARDS, CLASSES, BATCH, EPOCHS, SIZE, SEED = 640, 16, 5, 32, 2, 32, 3
OF_SHARD = SAMPLES // SHARDS


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Every kind, below the rate and above it, in turn."""
    return [{"seed": seed * 1000 + i, "kind": KINDS[i % 6], "above": i // 6 % 2 == 1} for i in range(count)]


@dataclass
class Damage:
    """What was done to a dataset."""

    train: str  # where it is
    lost: frozenset[int]  # samples that cannot be read
    words: tuple[str, ...]  # of the cause
    environment: dict[str, str]
    retry_s: float = 5.0
    storage: Storage | None = None

    def heal(self, whole: Path) -> None:
        """All is as it was."""
        if self.storage:
            self.storage.healed = True
        else:
            shutil.copytree(whole, self.train, dirs_exist_ok=True)


# -- the truth -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def dataset() -> Path:
    """Small photos in many shards."""
    path = Path(mkdtemp(prefix="soak-faults-")) / "train"
    make_dataset(path, SAMPLES, classes=CLASSES, shards=SHARDS)
    return path


@lru_cache(maxsize=1)
def truth() -> Truth:
    """What an undisturbed reader makes of each sample, one by one."""
    return truth_of(dataset(), order(), Augment(), SIZE, EPOCHS, length=1)


def order() -> Order:
    """The run's."""
    return Order.fit(SAMPLES, BATCH, SEED)


@lru_cache(maxsize=1)
def undisturbed_losses() -> dict[int, float]:
    """Of one rank on whole data."""
    run = write(Path(mkdtemp(prefix="soak-whole-")) / "run.yaml", str(dataset()), 5.0)
    train(run, 1, {}, 0)
    return {step: line["loss"] for step, line in steps_of(run).items()}


# -- damage ----------------------------------------------------------------------------------------------------


@contextmanager
def damaged(trial: dict[str, Any], folder: Path) -> Iterator[Damage]:
    """The dataset, damaged as the trial says."""
    rng, kind, above = random.Random(trial["seed"]), trial["kind"], trial["above"]
    victim = rng.randrange(SHARDS)
    name = read_manifest(dataset()).shards[victim].name
    if kind not in ("refused", "stalled"):
        path = folder / "train"
        shutil.copytree(dataset(), path)
        lost, words = DAMAGES[kind](path, victim, rng)
        yield Damage(str(path), frozenset(lost), words, {})
        return
    first = rng.randrange(8)
    if above:  # of one shard, nothing ever comes
        faults = {"refused": float(kind == "refused"), "stalls": 10**6 * (kind == "stalled"), "victim": name}
    else:
        faults = {"refused": 0.1 * (kind == "refused"), "stalls": int(kind == "stalled"), "victim": ""}
    with stored(dataset(), **faults, first=0 if above else first, seed=trial["seed"]) as (storage, environment):
        lost = range(victim * OF_SHARD, (victim + 1) * OF_SHARD) if above else ()
        words = (name, "asked")
        yield Damage(
            environment.pop("SOAK_TRAIN"), frozenset(lost), words, environment, 12.0 if above else 30.0, storage
        )
        assert storage.done["503" if kind == "refused" else "stall"] >= (1 if above or kind == "stalled" else 5)


def corrupt(path: Path, victim: int, rng: random.Random) -> tuple[set[int], tuple[str, ...]]:
    """1 % of the samples, one of which is in the first step."""
    lost = {int(order().ids(np.arange(BATCH))[rng.randrange(BATCH)])}
    lost |= set(rng.sample(sorted(set(range(SAMPLES)) - lost), SAMPLES // 100 - 1))
    for number, sample in enumerate(sorted(lost)):
        tar = path / "shards" / f"shard-{sample // OF_SHARD:06d}.tar"
        row = ShardIndex(tar.with_suffix(".arrow")).row(sample % OF_SHARD)
        with tar.open("r+b") as file:
            file.seek(row.offset + (row.size // 2 if number % 2 else 0))
            file.write(b"\0" * (row.size // 2))
    return lost, ()


def delete(path: Path, victim: int, rng: random.Random) -> tuple[set[int], tuple[str, ...]]:
    """Three shards."""
    victims = rng.sample(range(SHARDS), 3)
    for shard in victims:
        (path / f"shards/shard-{shard:06d}.tar").unlink()
    return {shard * OF_SHARD + n for shard in victims for n in range(OF_SHARD)}, ("No such file",)


def replace_tar(path: Path, victim: int, rng: random.Random) -> tuple[set[int], tuple[str, ...]]:
    """A shard's tar by one of the same dataset, whose keys are others."""
    other = rng.choice([n for n in range(SHARDS) if n != victim])
    shutil.copy(path / f"shards/shard-{other:06d}.tar", path / f"shards/shard-{victim:06d}.tar")
    return {victim * OF_SHARD + n for n in range(OF_SHARD)}, (f"shard-{victim:06d}.tar", "another member")


def replace_both(path: Path, victim: int, rng: random.Random) -> tuple[set[int], tuple[str, ...]]:
    """Tar and index, by those of another shard, which is no longer than what it replaces."""
    shards = read_manifest(dataset()).shards
    victim = max(range(SHARDS), key=lambda n: shards[n].bytes)
    other = rng.choice([n for n in range(SHARDS) if n != victim])
    for suffix in ("tar", "arrow"):
        shutil.copy(path / f"shards/shard-{other:06d}.{suffix}", path / f"shards/shard-{victim:06d}.{suffix}")
    return {victim * OF_SHARD + n for n in range(OF_SHARD)}, ("epoch 0", "do not add up", "data changed")


DAMAGES = {"corrupt": corrupt, "deleted": delete, "replaced tar": replace_tar, "replaced": replace_both}


# -- runs ------------------------------------------------------------------------------------------------------


def write(path: Path, data: str, retry_s: float) -> Path:
    """A short run that digests its pixels."""
    return write_run(
        path,
        Path("unused"),
        data={"train": data, "retry_s": retry_s},
        batch_size=BATCH,
        epochs=EPOCHS,
        seed=SEED,
        loader={"workers": 1, "pixel_digest": True},
        checkpoint={"every_steps": 1000},
    )


def train(run: Path, ranks: int, environment: dict[str, str], code: int, *options: str) -> subprocess.CompletedProcess:
    """One attempt, which must end with `code`, in a time that nobody calls a hang."""
    try:
        done = vitstream("train", run, "--nproc", ranks, *options, **environment)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{run.name} on {ranks} ranks hangs") from None
    assert done.returncode == code, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    return done


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One dataset, one damage, and what a run makes of it."""
    with damaged(trial, folder) as damage:
        run = write(folder / "run.yaml", damage.train, damage.retry_s)
        if trial["kind"] == "replaced":
            return exchanged(run, damage, trial["above"])
        if trial["above"]:
            return stopped(run, damage, saved_is_lost=trial["seed"] // 12 % 2 == 1)
        return tolerated(run, damage, folder)


def tolerated(run: Path, damage: Damage, folder: Path) -> dict[str, Any]:
    """Two ranks go on, and a rank alone trains on the same."""
    done = train(run, 2, damage.environment, 0, "--set", "data.max_hole_rate=0.99")
    assert_in_order(run, {(epoch, sample) for epoch in range(EPOCHS) for sample in damage.lost})
    assert_reported(run, done)
    if not damage.lost:
        losses = undisturbed_losses()
    else:
        alone = write(folder / "alone.yaml", damage.train, damage.retry_s)
        train(alone, 1, damage.environment, 0, "--set", "data.max_hole_rate=0.99")
        losses = {step: line["loss"] for step, line in steps_of(alone).items()}
    assert_losses(run, losses)
    return {"faults": 1, "holes": len(holes_of(run))}


def stopped(run: Path, damage: Damage, saved_is_lost: bool) -> dict[str, Any]:
    """The default rate: saved, stopped, named; mended, it goes on.

    Where nothing was saved, as of a run that was killed before, all steps are done again, on mended data, and have the
    same holes all the same.
    """
    done = train(run, 2, damage.environment, 1)
    holes, last = holes_of(run), max(steps_of(run))
    missed = {(line["epoch"], line["sample"]) for line in holes}
    assert missed, "no holes"
    assert missed <= {(epoch, sample) for epoch in range(EPOCHS) for sample in damage.lost}, missed
    assert_named(done, damage.words)
    assert any(f"{line['shard']}: {line['cause']}" in done.stderr for line in holes), done.stderr
    assert_reported(run, done)
    saved = sorted(path.name for path in (run.with_suffix("") / "checkpoints").iterdir())
    assert saved == [f"step-{last:08d}"], (last, saved)
    assert verdict_of(run, 0)["cause"] == "data", verdict_of(run, 0)
    damage.heal(dataset())
    if saved_is_lost:
        shutil.rmtree(run.with_suffix("") / "checkpoints" / saved[0])
        (run.with_suffix("") / "published.json").unlink()
    train(run, 2, damage.environment, 0)
    assert_in_order(run, missed)
    return {"faults": 1, "holes": len(holes), "stopped_at": last}


def exchanged(run: Path, damage: Damage, above: bool) -> dict[str, Any]:
    """Tar and index agree, and are not the manifest's: nothing is unreadable, so only the epoch's certificate tells."""
    rate = [] if above else ["--set", "data.max_hole_rate=0.99"]
    assert_named(train(run, 2, damage.environment, 1, *rate), damage.words)
    assert not holes_of(run), holes_of(run)[:2]
    differ, wrong = set(), set()
    for step, line in steps_of(run).items():
        if line["batch_digest"] != hex64(expected(line, set())[0]):
            differ.add(step)
        if {place[1] for place in places(line)} & damage.lost:
            wrong.add(step)
    assert differ == wrong, (differ, wrong)
    verify = vitstream("verify", damage.train)
    assert verify.returncode == 1 and "shard-" in verify.stdout + verify.stderr, verify.stdout + verify.stderr
    return {"faults": 1, "stopped_at": max(steps_of(run))}


# -- what must hold --------------------------------------------------------------------------------------------


def holes_of(run: Path) -> list[dict[str, Any]]:
    """The lines of holes.jsonl."""
    file = run.with_suffix("") / "holes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def places(line: dict[str, Any]) -> list[tuple[int, int]]:
    """(epoch, sample) of each slot of a step."""
    start = line["consumed"] - min(BATCH, line["consumed"] - (line["step"] - 1) * BATCH)
    epochs, ids = order().at(np.arange(start, line["consumed"]))
    return list(zip(epochs.tolist(), ids.tolist(), strict=True))


def expected(line: dict[str, Any], lost: set[tuple[int, int]]) -> tuple[int, int, int]:
    """(sum of key hashes, of pixel hashes, holes) of a step in which these could not be read."""
    here = places(line)
    start = line["consumed"] - len(here)
    gone = frozenset(start + n for n, place in enumerate(here) if place in lost)
    if len(gone) == len(here):
        return 0, 0, len(gone)
    rows = truth().between(start, line["consumed"], without=gone).rows.values()
    return sum(r[READ_SUM] for r in rows) & MASK64, sum(r[PIXELS] for r in rows) & MASK64, len(gone)


def assert_in_order(run: Path, lost: set[tuple[int, int]]) -> None:
    """Every step has the samples and pixels that it must have, but for the lost, which are its holes."""
    steps = steps_of(run)
    assert sorted(steps) == list(range(1, SAMPLES * EPOCHS // BATCH + 1)), sorted(steps)
    for step, line in steps.items():
        keys, pixels, holes = expected(line, lost)
        found = (line["batch_digest"], line["pixel_digest"], line["holes"])
        assert found == (hex64(keys), hex64(pixels), holes), (step, found, holes)
    assert {(line["epoch"], line["sample"]) for line in holes_of(run)} == lost, "other holes"
    digests = (run.with_suffix("") / "digest.jsonl").read_text().splitlines()
    certificates = [json.loads(line) for line in digests]
    assert [(c["epoch"], c["exactly_once"], c["holes"]) for c in certificates] == [
        (epoch, True, sum(where == epoch for where, _ in lost)) for epoch in range(EPOCHS)
    ], certificates


def assert_named(done: subprocess.CompletedProcess, words: tuple[str, ...]) -> None:
    """One line on stderr, which has all of these words."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vitstream: "), done.stderr
    assert all(word in lines[0] for word in words), (words, lines[0])


def assert_reported(run: Path, done: subprocess.CompletedProcess) -> None:
    """One line for each shard and cause of the holes, and none besides."""
    said = [line for line in done.stdout.splitlines() if "hole: " in line]
    causes = {(line["shard"], line["cause"]) for line in holes_of(run)}
    for shard, cause in causes:
        lines = [line for line in said if shard in line and cause in line]
        assert len(lines) == 1, (shard, cause, said)
        said = [line for line in said if line not in lines]
    assert not said, said


def assert_losses(run: Path, others: dict[int, float]) -> None:
    """Means over the real samples: in the first step all logits are 0, and so each sample's loss is ln(classes)."""
    steps = steps_of(run)
    assert math.isclose(steps[1]["loss"], math.log(CLASSES), rel_tol=1e-5), steps[1]
    for step, line in steps.items():
        assert math.isclose(line["loss"], others[step], rel_tol=1e-3), (step, line["loss"], others[step])


MATRIX = Matrix(
    "stream-faults",
    "`vitstream train` on two ranks with 1 % corrupt samples, three deleted shards, a shard that is another (its tar;"
    " tar and index), S3 with 10 % of reads answered 503 and with a stalled connection: each step has the samples and"
    " pixels of an undisturbed run but for exactly the lost ones, the loss is the mean over those read, one line per"
    " shard and cause; above the rate of holes: saved, stopped with one line that names shard and cause, and mended it"
    " goes on, with the same holes where steps are done again",
    24,
    trials,
    run,
)
