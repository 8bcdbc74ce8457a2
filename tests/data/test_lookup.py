"""`vitstream order`, as a user calls it: what a step reads, and when a key is read."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import Augment
from pipeline.data.corpus import Corpus, Member, fit_order, open_corpus
from pipeline.data.feed import TrainFeed
from pipeline.data.ledger import batch_digest
from pipeline.data.lookup import Course, keys_of_step, place_of_key
from pipeline.data.order import Order
from pipeline.data.places import Weighted
from pipeline.data.read import Reader
from pipeline.data.stretches import begun, resumed
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import key_sum
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import read_manifest
from tests.data_prep.mds.folders import write_folder
from tests.datasets import make_dataset, photo_entry, write_dataset
from tests.reading import DatasetReader, recipe_of, run_loader
from tests.runs import COMMAND, one_line, vitstream, write_run
from tests.servers import environment, fill, s3_server

SAMPLES, BATCH, SEED = 90, 20, 3
COURSE = Course(BATCH, SEED)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train"
    make_dataset(path, SAMPLES, shards=4, size=(16, 16))
    return path


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset, of which the last sample is also the other's."""
    path = tmp_path_factory.mktemp("data") / "web"
    entries = [photo_entry(number, number % 5, (16, 16), seed=1) for number in range(39)]
    shards = [entries[:20], [*entries[20:], photo_entry(7, 2, (16, 16), seed=0)]]
    write_dataset(path, shards, tuple(f"class-{label:02d}" for label in range(5)))
    return path


def corpus_of(dataset: Path) -> Corpus:
    return Corpus((Member(Location.of(dataset), read_manifest(dataset)),))


def both(dataset: Path, web: Path, weights: tuple[float, float] | None) -> Corpus:
    """A concatenation, or a mixture."""
    if weights is None:
        return open_corpus((dataset, web))
    return open_corpus(tuple(Weighted(path=p, weight=w) for p, w in zip((dataset, web), weights, strict=True)))


def order(dataset: Path, *arguments: object) -> dict[str, Any]:
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
    corpus = corpus_of(dataset)
    seen: dict[int, list[str]] = {0: [], 1: []}
    for step in range(1, 2 * SAMPLES // BATCH + 1):
        keys = keys_of_step(corpus, COURSE, step, 3, None)["keys"]
        for slot, key in enumerate(keys):
            epoch = ((step - 1) * BATCH + slot) // SAMPLES
            seen[epoch].append(key)
            place = place_of_key(corpus, COURSE, key, epoch, 3)
            assert place.keys() == {"key", "epoch", "step", "rank", "slot"}
            assert (place["step"], place["slot"]) == (step, slot)
            assert key in keys_of_step(corpus, COURSE, step, 3, place["rank"])["keys"]
    reader = DatasetReader(dataset, read_manifest(dataset))
    every = sorted(reader.locate(sample)[1].key for sample in range(SAMPLES))
    assert sorted(seen[0]) == sorted(seen[1]) == every and seen[0] != seen[1]


@pytest.mark.fast
@pytest.mark.parametrize("weights", [None, (1.0, 3.0)], ids=["concatenation", "mixture"])
def test_of_several_datasets_every_key_inverts_in_its_own_epochs(
    dataset: Path, web: Path, weights: tuple[float, float] | None
) -> None:
    corpus = both(dataset, web, weights)
    order, reader = fit_order(corpus, BATCH, SEED), Reader(corpus)
    for step in range(1, 10):
        found = keys_of_step(corpus, COURSE, step, 1, None)
        consumed = (step - 1) * BATCH + np.arange(BATCH)
        epochs, ids = order.at(consumed)
        assert found["epoch"] == (step - 1) * BATCH // 130
        assert found["keys"] == [reader.locate(sample)[1].key for sample in ids.tolist()]
        for slot, (key, epoch, sample) in enumerate(zip(found["keys"], epochs.tolist(), ids.tolist(), strict=True)):
            place = place_of_key(corpus, COURSE, key, epoch, 3)
            mine = {"dataset": str(web if sample >= SAMPLES else dataset), "step": step, "slot": slot}
            places = [place, *place.get("others", ())]
            assert len(places) == (2 if sample in (7, 129) else 1)
            assert [each for each in places if {name: each[name] for name in mine} == mine]
            assert [each["step"] for each in places] == sorted(each["step"] for each in places)


@pytest.mark.fast
def test_it_is_what_training_reads(dataset: Path) -> None:
    corpus = corpus_of(dataset)
    feed = TrainFeed(Order.fit(SAMPLES, BATCH, SEED), BATCH, 1, 0, 64, 0, 2 * SAMPLES)
    reader = Reader(corpus)
    for step, batch in enumerate(run_loader(recipe_of(dataset, feed, 16, Augment())), 1):
        keys = keys_of_step(corpus, COURSE, step, 1, None)["keys"]
        assert batch_digest(batch.rows.tolist()) == f"{key_sum(keys):016x}"
        ids = feed.order.ids(feed.positions(step - 1)).tolist()
        samples = reader.read(ids)
        assert [samples[sample].key for sample in ids] == keys
    assert step == feed.steps and np.array_equal(feed.slots[0], np.arange(BATCH))


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
    reader, fitted = Reader(corpus), Order.fit(SAMPLES, BATCH, SEED)
    for world_size in (1, 3):
        feeds = [TrainFeed(fitted, BATCH, world_size, rank, 64, 0, SAMPLES) for rank in range(world_size)]
        for step in range(1, feeds[0].steps + 1):
            for rank, feed in enumerate(feeds):
                positions = feed.positions(step - 1)
                read = [reader.locate(int(n))[1].key for n in feed.order.ids(positions[positions >= 0])]
                assert keys_of_step(corpus, course, step, world_size, rank)["keys"] == read
    last = order(dataset, "--step", 5, "--epochs", 1)["keys"]
    assert len(last) == SAMPLES % BATCH and last == order(dataset, "--step", 5)["keys"][: len(last)]
    with pytest.raises(UsageError, match="ends with step 5"):
        keys_of_step(corpus, course, 6, 1, None)


def test_a_run_yaml_says_it_all(dataset: Path, web: Path, tmp_path: Path) -> None:
    places = [{"path": str(dataset), "weight": 1}, {"path": str(web), "weight": 2}]
    run = write_run(tmp_path / "run.yaml", dataset, data={"train": places}, batch_size=24, seed=5, epochs=2)
    corpus, course = both(dataset, web, (1, 2)), Course(24, 5, epochs=2)
    done = vitstream("order", run, "--step", 3, "--batch-size", 24, "--json")  # what agrees may be said
    assert json.loads(done.stdout) == keys_of_step(corpus, course, 3, 1, None)
    shared = photo_entry(7, 2, (16, 16), seed=0).key
    place = place_of_key(corpus, course, shared, 0, 1)
    printed = vitstream("order", run, "--key", shared).stdout.splitlines()
    assert printed == [
        f"epoch 0 of {each['dataset']}: step {each['step']}, rank 0, slot {each['slot']}"
        for each in (place, *place["others"])
    ]
    one_line(vitstream("order", run, "--step", 3, "--batch-size", 20), f"--batch-size 20: {run} has batch_size: 24")
    one_line(vitstream("order", run, "--step", 3, "--seed", 0), f"--seed 0: {run} has seed: 5")
    one_line(vitstream("order", run, "--step", 12), "--step 12: a run of --epochs 2 ends with step 11")
    key = photo_entry(0, 0, (16, 16), seed=0).key  # of the dataset that has but a third: its epoch 1 is never ended
    one_line(vitstream("order", run, "--key", key, "--epoch", 7), "--epoch 7: a run of --epochs 2 ends before it reads")
    write_run(run, dataset, epochs=None, steps=4)
    one_line(vitstream("order", run, "--step", 5), "--step 5: a run of 4 steps ends with step 4")
    one_line(vitstream("order", run, "--step", 1, "--epochs", 2), f"--epochs 2: {run} has steps: 4")
    one_line(vitstream("order", run, "--step", 1, "--world-size", 33), "--batch-size 32", "--world-size 33")
    one_line(vitstream("order", tmp_path / "none.yaml", "--step", 1), "none.yaml: No such file")
    one_line(vitstream("order", dataset, "--step", 1), f"{dataset}: takes --batch-size")
    other = vitstream("order", run, "--step", 1, "--set", "batch_size=8", "--set", f"run_dir={tmp_path / 'none'}")
    assert other.stdout.split() == keys_of_step(corpus_of(dataset), Course(8, 0), 1, 1, None)["keys"]
    one_line(vitstream("order", dataset, "--batch-size", 8, "--step", 1, "--set", "seed=1"), "--set seed=1", "dataset")


@pytest.mark.fast
def test_batch_sizes_change_on_the_way_and_steps_and_samples_still_invert(dataset: Path) -> None:
    """20 at a time, up to an end that cuts step 5; longer, still with 20; then with 24."""
    stretches = resumed(resumed(begun(20), 5, 90, 20), 7, 130, 24)
    assert resumed(stretches, 9, 178, 24) == stretches == ((0, 0, 20), (5, 90, 20), (7, 130, 24))
    course = Course(24, SEED, epochs=2, known=Order.fit(SAMPLES, 20, SEED), past=stretches)
    keys = {step: keys_of_step(corpus_of(dataset), course, step, 1, None)["keys"] for step in range(1, 10 + 1)}
    assert [len(each) for each in keys.values()] == [20, 20, 20, 20, 10, 20, 20, 24, 24, 2]
    fitted, reader = Order.fit(SAMPLES, 20, SEED), Reader(corpus_of(dataset))
    assert [key for each in keys.values() for key in each] == [
        reader.key(n) for n in fitted.ids(np.arange(180)).tolist()
    ]
    for step, epoch in ((1, 0), (5, 0), (6, 1), (7, 1), (8, 1), (10, 1)):
        place = place_of_key(corpus_of(dataset), course, keys[step][-1], epoch, 1)
        assert (place["step"], place["slot"]) == (step, len(keys[step]) - 1)
    with pytest.raises(UsageError, match="ends with step 10"):
        keys_of_step(corpus_of(dataset), course, 11, 1, None)


def test_a_dataset_behind_a_url_answers_as_its_folder(dataset: Path, tmp_path: Path) -> None:
    with s3_server() as endpoint:
        files = {str(path.relative_to(dataset)): path for path in dataset.rglob("*") if path.suffix != ".tar"}
        fill(
            endpoint, "ordered", {f"train/{name}": path.read_bytes() for name, path in files.items() if path.is_file()}
        )
        arguments = ("--batch-size", BATCH, "--seed", SEED, "--json")
        for question in (("--step", 5), ("--key", photo_entry(83, 3, (16, 16), seed=0).key)):
            done = vitstream("order", "s3://ordered/train", *arguments, *question, **environment(endpoint))
            assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout) == order(dataset, *question)


def test_an_mds_folder_as_it_lies_has_an_order_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    columns = {"image": "jpeg", "label": "int"}
    entries = [photo_entry(number, number % 5, (16, 16), seed=0) for number in range(20)]
    folder = write_folder(tmp_path / "mds", columns, [{"image": e.data, "label": e.label} for e in entries], 2)
    keys = order(folder, "--step", 1)["keys"]
    assert len(set(keys)) == BATCH
    place = order(folder, "--key", keys[7])
    assert (place["step"], place["slot"]) == (1, 7)
    asked = ("order", folder, "--batch-size", BATCH, "--seed", SEED)
    unknown = vitstream(*asked, "--key", "0" * 24)
    assert (
        unknown.stderr == f"vitstream: --key {'0' * 24}: {folder} has no such sample\n"
    )  # no samples.parquet lists them
    (folder / "shard.00001.mds").unlink()
    for question in (("--step", 1), ("--key", "0" * 24)):
        one_line(vitstream(*asked, *question), f"{folder}: shard.00001.mds: cannot read: No such file", code=1)


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
