"""SIGKILL at random moments to ranks, loader workers and all of them, while 1 to 4 ranks stream a dataset; then on
from the last step that all had done, with other ranks, other workers and now and then another batch size."""

import json
import random
import time
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from pipeline.config import Augment
from pipeline.data.corpus import Corpus, Member
from pipeline.data.ledger import Ledger
from pipeline.data.order import Order
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import read_manifest
from tests.datasets import make_dataset
from tests.soak.matrix import Matrix
from tests.soak.stream_life import Life
from tests.soak.stream_nest import alive, endings, nest, send, session, steps_of, wait_for, wait_until_gone, workers_of
from tests.soak.stream_truth import Stretch, Truth, together, truth_of

WORLDS, WORKERS, BATCHES, LIMITS = (1, 2, 3, 4), (0, 1, 3), (48, 80), (7, 16, 100)
KILLS_PER_TRIAL = 2
SAMPLES, SHARDS, EPOCHS, SIZE = 900, 7, 2, 16
PLAIN: dict[str, Any] = {}
RICH = {"randaugment": {"n": 2, "m": 9.0}, "random_erasing": 0.25, "mixup": 0.4, "cutmix": 1.0}


def trials(count: int, seed: int) -> list[dict[str, Any]]:
    """Trials of KILLS_PER_TRIAL kills each, over every pair of a number of ranks and of workers to begin with."""
    return [
        {
            "seed": seed * 1000 + i,
            "world": WORLDS[i % 4],
            "workers": WORKERS[i // 4 % 3],
            "batch": BATCHES[i // 12 % 2],
            "other_batch": i % 3 == 2,
            "rich": i % 8 < 4,
            "kills": KILLS_PER_TRIAL,
        }
        for i in range(-(-count // KILLS_PER_TRIAL))
    ]


def order_of(batch: int) -> Order:
    """Chunks of 4 neighbours, windows of 3 chunks; a tail that is in no lane."""
    return Order(samples=SAMPLES, seed=11, lanes=batch, chunk=4, window=3)


@lru_cache(maxsize=1)
def dataset() -> Path:
    """Tiny photos in shards of about 130."""
    path = Path(mkdtemp(prefix="soak-stream-")) / "train"
    make_dataset(path, SAMPLES, shards=SHARDS, size=(24, 24))
    return path


@lru_cache(maxsize=4)
def truth(batch: int, rich: bool) -> Truth:
    """What an undisturbed reader, two samples at a time, makes of an order."""
    return truth_of(dataset(), order_of(batch), Augment(**(RICH if rich else PLAIN)), SIZE, EPOCHS, length=2)


def run(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Attempts that are killed, and a last one that is not: all that they read must be the truth."""
    rng = random.Random(trial["seed"])
    expected = truth(trial["batch"], trial["rich"])
    life = first_life(trial, folder, rng)
    done: list[Stretch] = []
    killed: Counter[str] = Counter()
    again = 0
    for attempt in range(trial["kills"] + 1):
        last = attempt == trial["kills"]
        pids = nest().begin(life)
        if last:
            wait_until_gone(pids, "the last attempt hangs")
            assert endings(life) == ["done"] * life.world, endings(life)
        else:
            killed[kill(life, pids, rng)] += 1
        steps = common_steps(life)
        for step in steps:
            assert step == expected.between(step.start, step.stop), f"attempt {attempt}, after {step.start} samples"
        kept = rng.randint(0, len(steps)) if not last and rng.random() < 0.3 else len(steps)  # an older checkpoint
        done, again = done + steps[:kept], again + len(steps) - kept
        life = next_life(life, trial, done[-1].stop if done else 0, rng)
    certify(order_of(trial["batch"]), done)
    return {"faults": killed.total(), "killed": killed, "steps": len(done), "done_again": again}


def first_life(trial: dict[str, Any], folder: Path, rng: random.Random) -> Life:
    """As the trial wants it."""
    return Life(
        folder=str(folder / "0"),
        dataset=str(dataset()),
        order=order_of(trial["batch"]).to_json(),
        augment=RICH if trial["rich"] else PLAIN,
        size=SIZE,
        batch=trial["batch"],
        limit=rng.choice(LIMITS),
        world=trial["world"],
        workers=trial["workers"],
        consumed=0,
        total=EPOCHS * SAMPLES,
        pause_s=rng.choice((0.0, 0.01)),
    )


def next_life(life: Life, trial: dict[str, Any], consumed: int, rng: random.Random) -> Life:
    """Goes on from there, with anything else that may change."""
    return replace(
        life,
        folder=str(Path(life.folder).with_name(str(int(Path(life.folder).name) + 1))),
        batch=rng.choice(BATCHES) if trial["other_batch"] else life.batch,
        limit=rng.choice(LIMITS),
        world=rng.choice(WORLDS),
        workers=rng.choice(WORKERS),
        consumed=consumed,
        pause_s=rng.choice((0.0, 0.01)),
    )


def kill(life: Life, pids: list[int], rng: random.Random) -> str:
    """SIGKILL to one rank, to one of its loader workers, or to everything; then to whatever is left. Returns to whom.

    The moment is any: now and then while processes start, else in the middle of a step.
    """
    rank = rng.randrange(life.world)
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.0, 0.8))
    else:
        left = -(-(life.total - life.consumed) // life.batch)
        goal = rng.randint(1, max(1, left // 2))
        wait_for(lambda: len(steps_of(life, rank)) >= goal or not alive(pids), "an attempt hangs")
        time.sleep(rng.uniform(0.0, 0.03))
    victim = rng.choice(("rank", "worker", "all"))
    mine = workers_of(pids[rank])
    if victim == "worker" and mine:
        send(rng.choice(mine))
        wait_for(lambda: pids[rank] not in alive(pids), "a rank outlived its loader worker")
        said = endings(life)[rank]
        assert said == "done" or "was killed by signal 9" in said or "ended" in said, said
    elif victim == "rank":
        send(pids[rank])
        wait_for(lambda: not session(pids[rank]), "loader workers outlived their rank", patience_s=10.0)
    else:
        victim = "all"
    for pid in pids:
        for process in session(pid):
            send(process)
    wait_for(lambda: not any(map(session, pids)), "processes outlived SIGKILL")
    return victim


def common_steps(life: Life) -> list[Stretch]:
    """The global batches that all ranks have done."""
    return [together(shares) for shares in zip(*(steps_of(life, rank) for rank in range(life.world)), strict=False)]


def certify(order: Order, steps: list[Stretch]) -> None:
    """The epochs' certificates, from a ledger that goes through a checkpoint after every step."""
    corpus = Corpus((Member(Location.of(dataset()), read_manifest(dataset())),))
    ledger, certificates = Ledger(), []
    for step in steps:
        ledger.add(*zip(*sorted(step.rows.items()), strict=True))
        ledger = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
        certificates += ledger.certify(order, corpus, step.stop)
    assert [c["epoch"] for c in certificates] == list(range(EPOCHS)), certificates
    assert all(c["exactly_once"] and c["samples"] == SAMPLES and "proof" not in c for c in certificates), certificates


MATRIX = Matrix(
    "stream-kills",
    "SIGKILL at random moments to ranks, loader workers and whole attempts, over {1, 2, 3, 4} ranks, {0, 1, 3} workers"
    " and two batch sizes, each attempt going on with other ones, half of the trials with RandAugment, random erasing,"
    " Mixup and CutMix: every global batch has the samples and the pixels (also when mixed) that one undisturbed"
    " process reads, nothing outlives its rank, and the epochs' certificates hold",
    200,
    trials,
    run,
)
