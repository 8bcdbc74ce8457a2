"""`vitstream order`, as a user calls it: what a step reads, and when a key is read."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Augment
from pipeline.data.corpus import Corpus, Member
from pipeline.data.feed import TrainFeed
from pipeline.data.ledger import batch_digest
from pipeline.data.lookup import Course, keys_of_step, place_of_key
from pipeline.data.order import Order
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import key_sum
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import read_manifest
from tests.datasets import make_dataset
from tests.reading import DatasetReader, recipe_of, run_loader
from tests.runs import COMMAND, one_line, vitstream

SAMPLES, BATCH, SEED = 90, 20, 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train"
    make_dataset(path, SAMPLES, shards=4, size=(16, 16))
    return path


def corpus_of(dataset: Path) -> Corpus:
    return Corpus((Member(Location.of(dataset), read_manifest(dataset)),))


def order(dataset: Path, *arguments: object) -> dict:
    done = vitstream("order", dataset, "--batch-size", BATCH, "--seed", SEED, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ranks_together_read_the_global_batch(dataset: Path) -> None:
    whole = order(dataset, "--step", 5)  # crosses into epoch 1
    assert whole["step"] == 5 and whole["epoch"] == 0 and len(whole["keys"]) == BATCH
    parts = [order(dataset, "--step", 5, "--world-size", 3, "--rank", rank)["keys"] for rank in range(3)]
    assert [key for part in parts for key in part] == whole["keys"]
    assert sorted(len(part) for part in parts) == [6, 7, 7]
    printed = vitstream("order", dataset, "--batch-size", BATCH, "--seed", SEED, "--step", 5)
    assert printed.stdout.split() == whole["keys"]


def test_a_key_is_found_where_its_step_has_it(dataset: Path) -> None:
    step = order(dataset, "--step", 7, "--world-size", 3, "--rank", 1)
    assert step["epoch"] == 1
    place = order(dataset, "--key", step["keys"][2], "--epoch", 1, "--world-size", 3)
    assert (place["step"], place["rank"]) == (7, 1)
    assert order(dataset, "--step", 7)["keys"][place["slot"]] == step["keys"][2]


@pytest.mark.fast
def test_every_key_of_every_epoch_inverts(dataset: Path) -> None:
    corpus, course = corpus_of(dataset), Course(BATCH, SEED)
    seen: dict[int, list[str]] = {0: [], 1: []}
    for step in range(1, 2 * SAMPLES // BATCH + 1):
        keys = keys_of_step(corpus, course, step, 3, None)["keys"]
        for slot, key in enumerate(keys):
            epoch = ((step - 1) * BATCH + slot) // SAMPLES
            seen[epoch].append(key)
            place = place_of_key(corpus, course, key, epoch, 3)
            assert (place["step"], place["slot"]) == (step, slot)
            assert key in keys_of_step(corpus, course, step, 3, place["rank"])["keys"]
    reader = DatasetReader(dataset, read_manifest(dataset))
    every = sorted(reader.locate(sample)[1].key for sample in range(SAMPLES))
    assert sorted(seen[0]) == sorted(seen[1]) == every and seen[0] != seen[1]


@pytest.mark.fast
def test_it_is_what_training_reads(dataset: Path) -> None:
    corpus, course = corpus_of(dataset), Course(BATCH, SEED)
    feed = TrainFeed(Order.fit(SAMPLES, BATCH, SEED), BATCH, 1, 0, 64, 0, 2 * SAMPLES)
    batches = list(run_loader(recipe_of(dataset, feed, 16, Augment())))
    reader = DatasetReader(dataset, read_manifest(dataset))
    for step in range(1, feed.steps + 1):
        keys = keys_of_step(corpus, course, step, 1, None)["keys"]
        assert batch_digest(batches[step - 1].rows.tolist()) == f"{key_sum(keys):016x}"
        read = [reader.read(int(n)).key for n in feed.order.ids(feed.positions(step - 1, 0))]
        assert read == keys
    assert np.array_equal(feed.slots[0], np.arange(BATCH))


REFUSED = {
    "neither step nor key": ((), "either --step or --key"),
    "both": (("--step", 1, "--key", "0" * 24), "either --step or --key"),
    "more ranks than samples": (("--step", 1, "--world-size", 21), "--batch-size 20 is smaller than --world-size 21"),
    "no such rank": (("--step", 1, "--world-size", 4, "--rank", 4), "--rank 4", "0 to 3"),
    "no such key": (("--key", "no-such-key"), "no-such-key", "no such sample"),
    "a key that is no text": (("--key", "\udcff"), r"--key \xff", "no such sample"),
    "a key of other letters": (("--key", "ключ\n"), r"--key ключ\x0a", "no such sample"),
    "a seed that no run has": (("--step", 1, "--seed", 2**63), "--seed 9223372036854775808", "RUN.yaml"),
    "a batch of billions": (("--step", 1, "--batch-size", 2 * 10**9), "--batch-size 2000000000", "in memory"),
    "a batch beyond all counting": (("--step", 1, "--batch-size", 2**63 - 1), "--batch-size", "at most 16777216"),
    "such a batch with a key": (("--key", "0" * 24, "--batch-size", 2**63 - 1), "at most 16777216"),
    "a step beyond the run": (("--step", 10, "--epochs", 2), "--step 10: a run of --epochs 2 ends with step 9"),
    "an epoch beyond the run": (("--key", "0" * 24, "--epoch", 2, "--epochs", 2), "--epoch 2", "is 1, the first is 0"),
    "a step beyond all counting": (("--step", 10**30), "--step", "no run"),
    "an epoch beyond all counting": (("--key", "0" * 24, "--epoch", 10**30), "--epoch", "no run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_usage_is_one_line(dataset: Path, case: str) -> None:
    arguments, *parts = REFUSED[case]
    one_line(vitstream("order", dataset, "--batch-size", BATCH, *arguments), *parts)


@pytest.mark.fast
def test_the_last_step_of_a_run_is_the_one_that_training_reads(dataset: Path) -> None:
    corpus, course = corpus_of(dataset), Course(BATCH, SEED, epochs=1)
    for world_size in (1, 3):
        feeds = [
            TrainFeed(Order.fit(SAMPLES, BATCH, SEED), BATCH, world_size, r, 64, 0, SAMPLES) for r in range(world_size)
        ]
        reader = DatasetReader(dataset, read_manifest(dataset))
        for step in range(1, feeds[0].steps + 1):
            for rank, feed in enumerate(feeds):
                positions = feed.positions(step - 1, 0)
                read = [reader.locate(int(n))[1].key for n in feed.order.ids(positions[positions >= 0])]
                assert keys_of_step(corpus, course, step, world_size, rank)["keys"] == read
    last = order(dataset, "--step", 5, "--epochs", 1)["keys"]
    assert len(last) == SAMPLES % BATCH and last == order(dataset, "--step", 5)["keys"][: len(last)]
    with pytest.raises(UsageError, match="ends with step 5"):
        keys_of_step(corpus, course, 6, 1, None)


def test_a_rank_without_a_sample_in_the_last_step_prints_nothing(dataset: Path) -> None:
    arguments = ("--batch-size", 80, "--step", 2, "--epochs", 1, "--world-size", 2, "--rank", 1)
    done = vitstream("order", dataset, *arguments)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_output_that_is_full_is_one_line(dataset: Path) -> None:
    command = [*COMMAND, "order", str(dataset), "--batch-size", "20", "--step", "1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "vitstream: the output cannot be written: No space left on device\n")


def test_no_dataset_is_one_line(dataset: Path, tmp_path: Path) -> None:
    one_line(vitstream("order", tmp_path / "none", "--batch-size", 1, "--step", 1), "no such dataset", "shard")
    one_line(vitstream("order", dataset.parent, "--batch-size", 1, "--step", 1), "train", "name one of them")
    make_dataset(tmp_path / "empty", 0, shards=0)
    one_line(vitstream("order", tmp_path / "empty", "--batch-size", 1, "--step", 1), "holds no samples")
