"""From the order to batches: the same pixels for any ranks and workers, holes in their slots, a ledger that proves."""

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import Augment, Cache
from pipeline.data.augment import training_boxes
from pipeline.data.batch import MicroBatch
from pipeline.data.corpus import Corpus, Member
from pipeline.data.decode import crop_resize
from pipeline.data.feed import NONE, TrainFeed
from pipeline.data.ledger import HOLES, HOLES_SUM, READ, READ_SUM, Ledger, batch_digest, check
from pipeline.data.order import Order, slot_owners
from pipeline.data.sample import Hole
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import MASK64, key_hash, key_sum
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.mds_folder import mds_manifest
from tests.data_prep.mds.folders import write_folder
from tests.datasets import Entry, make_dataset, photo_entry, write_dataset
from tests.reading import DatasetReader, evaluation_feeds, recipe_of, run_loader

SAMPLES, BATCH, SIZE = 106, 24, 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train"
    make_dataset(path, SAMPLES, shards=[40, 1, 65])
    return path


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(dataset, tmp_path / "train"))


def feed_of(samples: int, world: int, rank: int, limit: int = 64, epochs: int = 2, consumed: int = 0) -> TrainFeed:
    order = Order.fit(samples, BATCH, seed=5)
    return TrainFeed(order, BATCH, world, rank, limit, consumed, total=epochs * samples)


def batches_of(dataset: Path, feed: TrainFeed) -> list[MicroBatch]:
    return list(run_loader(recipe_of(dataset, feed, SIZE, Augment())))


def corpus_of(dataset: Path) -> Corpus:
    return Corpus((Member(Location.of(dataset), read_manifest(dataset)),))


def ledger_rows(dataset: Path, epochs: int = 1) -> tuple[list[MicroBatch], Ledger]:
    """All micro-batches of a run on one rank, and the ledger after it."""
    feed = feed_of(read_manifest(dataset).samples, 1, 0, epochs=epochs)
    made, ledger = batches_of(dataset, feed), Ledger()
    for step, batch in enumerate(made):
        ledger.add(feed.accounts(step), batch.rows.tolist())
    return made, ledger


# -- which samples a rank reads --------------------------------------------------------------------------------


@pytest.mark.fast
@settings(max_examples=150, deadline=None)
@given(batch=st.integers(1, 300), world=st.integers(1, 64), limit=st.integers(1, 80), total=st.integers(1, 1_000))
@example(batch=64, world=64, limit=1, total=65)
@example(batch=65, world=64, limit=1, total=1)
def test_ranks_micro_batches_are_the_global_batch_padded(batch: int, world: int, limit: int, total: int) -> None:
    world = min(world, batch)
    order = Order.fit(100, batch, 0)
    feeds = [TrainFeed(order, batch, world, rank, limit, 7, 7 + total) for rank in range(world)]
    shapes = {feed.slots.shape for feed in feeds}
    assert len(shapes) == 1  # all ranks run the same collectives
    (accumulation, micro_batch) = shapes.pop()
    assert micro_batch <= limit
    assert accumulation * micro_batch - -(-batch // world) < accumulation  # no more padding than it takes
    assert feeds[0].steps == -(-total // batch)
    for step in {0, feeds[0].steps - 1}:
        every = np.concatenate([feed.positions(step * accumulation + n) for feed in feeds for n in range(accumulation)])
        read = np.sort(every[every != NONE])
        start = 7 + step * batch
        assert np.array_equal(read, np.arange(start, min(start + batch, 7 + total)))
        assert feeds[0].count(step) == len(read)
    owners = slot_owners(batch, world, order.lanes)
    for feed in feeds:
        mine = feed.slots[feed.slots != NONE]
        assert (owners[mine] == feed.rank).all() and (np.diff(mine) > 0).all()


@pytest.mark.fast
def test_the_last_step_is_partial() -> None:
    feed = feed_of(SAMPLES, world=2, rank=1, limit=5)
    assert feed.steps == 9 and feed.count(7) == 24 and feed.count(8) == 2 * SAMPLES - 8 * 24 == 20
    assert feed.accumulation == 3 and feed.slots.shape == (3, 4)
    last = feed.positions(np.arange(24, 27)).ravel()
    assert last.tolist() == [204, 205, 206, 207, 208, 209, 210, 211, *[NONE] * 4]


@pytest.mark.fast
def test_a_feed_goes_on_where_another_stopped() -> None:
    whole, rest = feed_of(SAMPLES, 1, 0), feed_of(SAMPLES, 1, 0, consumed=5 * BATCH)
    assert rest.steps == whole.steps - 5
    for step in range(rest.steps):
        assert np.array_equal(rest.positions(step), whole.positions(step + 5))


# -- the same bytes for any topology ---------------------------------------------------------------------------


def slot_hashes(dataset: Path, world: int, workers: int, limit: int) -> dict[tuple[int, int], str]:
    """(step, slot) -> hash of what the model gets for it."""
    hashes = {}
    for rank in range(world):
        feed = feed_of(SAMPLES, world, rank, limit)
        made = run_loader(recipe_of(dataset, feed, SIZE, Augment()), workers)
        items = 0
        for item, batch in enumerate(made):
            step, micro = divmod(item, feed.accumulation)
            items += 1
            for row, slot in enumerate(feed.slots[micro]):
                if feed.positions(item)[row] == NONE:
                    assert batch.weights[row] == 0 and batch.labels[row] == 0 and not batch.images[row].any()
                    continue
                parts = (batch.images[row].numpy(), batch.labels[row].numpy(), batch.weights[row].numpy())
                assert (step, slot) not in hashes
                hashes[step, int(slot)] = sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
        assert items == feed.steps * feed.accumulation
    return hashes


def test_pixels_labels_and_weights_depend_on_the_global_slot_alone(dataset: Path) -> None:
    reference = slot_hashes(dataset, world=1, workers=0, limit=64)
    assert len(reference) == 2 * SAMPLES and len(set(reference.values())) == 2 * SAMPLES
    for world, workers, limit in ((1, 1, 64), (1, 2, 7), (2, 0, 64), (2, 2, 5), (3, 1, 64), (3, 2, 3)):
        assert slot_hashes(dataset, world, workers, limit) == reference, (world, workers, limit)


def test_epochs_have_the_same_samples_and_other_crops(dataset: Path) -> None:
    made, _ = ledger_rows(dataset, epochs=2)
    images = torch.cat([batch.images for batch in made])[: 2 * SAMPLES]
    feed = feed_of(SAMPLES, 1, 0)
    ids = feed.order.ids(np.arange(2 * SAMPLES))
    again = {int(sample): n for n, sample in enumerate(ids[SAMPLES:], SAMPLES)}
    same = sum(bool((images[n] == images[again[int(sample)]]).all()) for n, sample in enumerate(ids[:SAMPLES]))
    assert same <= 1


def test_images_are_their_keyed_boxes_and_every_other_one_is_mirrored(dataset: Path) -> None:
    made, _ = ledger_rows(dataset)
    images = torch.cat([batch.images for batch in made])[:SAMPLES].numpy()
    reader, ids = DatasetReader(dataset, read_manifest(dataset)), feed_of(SAMPLES, 1, 0).order.ids(np.arange(SAMPLES))
    sizes = np.tile(np.array([64, 48]), (SAMPLES, 1))
    boxes, flips = training_boxes(Augment(), 5, np.zeros(SAMPLES, np.int64), ids, sizes)
    assert 30 < flips.sum() < 76
    for image, sample, box, flip in zip(images, ids, boxes, flips, strict=True):
        pixels = crop_resize(reader.read(int(sample)).data, (64, 48), box, SIZE)
        assert np.array_equal(image, np.fliplr(pixels) if flip else pixels)


def test_labels_are_those_of_the_samples_read(dataset: Path) -> None:
    made, _ = ledger_rows(dataset)
    labels = torch.cat([batch.labels for batch in made])[:SAMPLES]
    ids = feed_of(SAMPLES, 1, 0).order.ids(np.arange(SAMPLES))
    assert labels.tolist() == (ids % 5).tolist()  # sample i of make_dataset is of class i % 5


# -- the ledger ------------------------------------------------------------------------------------------------


def test_an_epochs_certificate_holds_and_adds_up_over_ranks(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    one, certificates = Ledger(), []
    three = Ledger()
    feed = feed_of(SAMPLES, 1, 0)
    corpus, alone = corpus_of(dataset), batches_of(dataset, feed)
    ranks = [batches_of(dataset, feed_of(SAMPLES, 3, rank)) for rank in range(3)]
    for step in range(feed.steps):
        first = feed.accounts(step)
        whole = alone[step].rows
        parts = [batches[step].rows for batches in ranks]
        assert torch.equal(sum(parts), whole)
        assert batch_digest(sum(parts).tolist()) == batch_digest(whole.tolist())
        one.add(first, whole.tolist())
        for part in parts:
            three.add(first, part.tolist())
        one, three = (Ledger.from_json(ledger.to_json()) for ledger in (one, three))  # as a checkpoint keeps it
        consumed = min(feed.total, feed.consumed_before(step + 1))
        found = one.certify(feed.order, corpus, consumed)
        assert found == three.certify(feed.order, corpus, consumed)
        certificates += found
    assert [c["epoch"] for c in certificates] == [0, 1] and not one.open
    for certificate in certificates:
        assert certificate["exactly_once"] and certificate["samples"] == SAMPLES and certificate["holes"] == 0
        assert certificate["digest"] == certificate["expected"] == f"{manifest.key_sum:016x}"
        check(certificate)


def test_a_batch_digest_is_the_sum_of_its_keys_hashes(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    reader, feed = DatasetReader(dataset, manifest), feed_of(SAMPLES, 1, 0)
    made = batches_of(dataset, feed)
    for step in (0, 4):  # the second crosses into the next epoch
        ids = feed.order.ids(feed.positions(step))
        keys = [reader.locate(int(sample))[1].key for sample in ids]
        rows = made[step].rows.tolist()
        assert batch_digest(rows) == f"{key_sum(keys):016x}"
        assert len(rows) == 1 + (step == 4)


@pytest.mark.parametrize("case", ["read twice", "replaced", "missed"])
def test_the_certificate_fails_unless_every_sample_came_once(dataset: Path, case: str) -> None:
    manifest = read_manifest(dataset)
    reader = DatasetReader(dataset, manifest)
    ids = list(range(SAMPLES))
    if case == "read twice":
        ids.append(17)
    elif case == "replaced":
        ids[17] = 18
    else:
        ids.remove(17)
    ledger = Ledger()
    for sample in ids:
        ledger.add([(0, 0)], [[1, reader.read(sample).key_hash, 0, 0, 0, 0, 0]])
    certificates = ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(dataset), SAMPLES)
    assert [c["exactly_once"] for c in certificates] == [False]
    with pytest.raises(WorkFailed, match=r"epoch 0.*do not add up"):
        check(certificates[0])


def test_an_epoch_under_way_has_as_many_samples_as_were_consumed(dataset: Path) -> None:
    ledger = Ledger()
    ledger.add([(0, 0)], [[10, 1, 2, 3, 0, 0, 0]])
    assert ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(dataset), 12) == [] and (0, 0) in ledger.open
    with pytest.raises(WorkFailed, match="12 samples were accounted for, 13 were due"):
        ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(dataset), 13)


def test_data_exchanged_under_a_run_is_noticed(dataset: Path, damaged: Path) -> None:
    """Tar and index agree with each other, and not with the manifest with which the run began."""
    entries = [photo_entry(n, n % 5, (64, 48), seed=0 if n != 3 else 99) for n in range(40)]
    write_dataset(damaged / "other", [entries], tuple("abcde"))
    for name in ("shard-000000.tar", "shard-000000.arrow"):
        shutil.copy(damaged / "other/shards" / name, damaged / "shards" / name)
    made, ledger = ledger_rows(damaged)
    assert not any(batch.holes for batch in made)
    (certificate,) = ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(damaged), SAMPLES)
    assert not certificate["exactly_once"] and certificate["samples"] == SAMPLES


# -- holes -----------------------------------------------------------------------------------------------------


def break_sample(dataset: Path, shard: int, row: int, how: str) -> None:
    tar = dataset / "shards" / f"shard-{shard:06d}.tar"
    at = ShardIndex(tar.with_suffix(".arrow")).row(row)
    if how == "missing shard":
        tar.unlink()
    elif how == "truncated shard":
        os.truncate(tar, at.offset + at.size - 1)
    else:
        with tar.open("r+b") as file:
            if how == "corrupt image":
                file.seek(at.offset + at.size // 2)
                file.write(b"\0" * (at.size // 2))
            elif how == "not an image":
                file.seek(at.offset)
                file.write(b"<html>" + b"x" * (at.size - 6))
            elif how == "another member":
                file.seek(at.offset - 512)
                file.write(b"0" * 24)
            elif how == "no header":
                file.seek(at.offset - 512)
                file.write(b"\0" * 512)


CAUSES = {
    "corrupt image": (0, 7, 1, "corrupt or truncated"),
    "not an image": (2, 3, 1, "not an image"),
    "another member": (0, 39, 1, "the shard holds another member here than its index says"),
    "no header": (2, 0, 1, "the shard holds another member here than its index says"),
    "truncated shard": (2, 60, 5, "too early"),
    "missing shard": (0, 0, 40, "cannot read: No such file or directory"),
    "missing shard of one": (1, 0, 1, "cannot read: No such file or directory"),
}


@pytest.mark.parametrize("how", CAUSES)
def test_an_unreadable_sample_is_a_hole_and_moves_nothing(dataset: Path, damaged: Path, how: str) -> None:
    shard, row, count, cause = CAUSES[how]
    break_sample(damaged, shard, row, how.removesuffix(" of one"))
    manifest = read_manifest(damaged)
    broken = set(range(int(manifest.starts[shard]) + row, int(manifest.starts[shard]) + row + count))
    ids = feed_of(SAMPLES, 1, 0).order.ids(np.arange(SAMPLES))

    before, _ = ledger_rows(dataset)
    after, ledger = ledger_rows(damaged)
    for name in ("images", "labels", "weights"):
        old, new = (torch.cat([getattr(batch, name) for batch in made])[:SAMPLES] for made in (before, after))
        for n, sample in enumerate(ids):
            expected = torch.zeros_like(old[n]) if int(sample) in broken else old[n]
            assert torch.equal(new[n], expected), (name, n)

    holes = [hole for batch in after for hole in batch.holes]
    reader = DatasetReader(dataset, manifest)
    assert sorted(hole.key for _, hole in holes) == sorted(reader.locate(sample)[1].key for sample in broken)
    for account, hole in holes:
        assert account == (0, 0) and cause in hole.cause and "\n" not in hole.cause
        assert hole.shard == manifest.shards[shard].name and hole.key_hash == key_hash(hole.key)

    rows = [row for batch in after for row in batch.rows.tolist()]
    assert sum(row[READ] for row in rows) == SAMPLES - count and sum(row[HOLES] for row in rows) == count
    assert sum(row[READ_SUM] + row[HOLES_SUM] for row in rows) & MASK64 == manifest.key_sum
    assert ledger.holes == count
    (certificate,) = ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(dataset), SAMPLES)
    missing = sum(hole.key_hash for _, hole in holes)
    assert certificate["exactly_once"] and certificate["holes"] == count
    assert certificate["digest"] == certificate["expected"] == f"{(manifest.key_sum - missing) & MASK64:016x}"


def test_holes_come_back_from_worker_processes(damaged: Path) -> None:
    break_sample(damaged, 0, 7, "corrupt image")
    feed = feed_of(SAMPLES, 1, 0, epochs=2)
    made = list(run_loader(recipe_of(damaged, feed, SIZE, Augment()), workers=2))
    holes = [hole for batch in made for hole in batch.holes]
    assert [account for account, _ in holes] == [(0, 0), (0, 1)] and isinstance(holes[0][1], Hole)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_copy_whose_images_have_rotted_is_read_again_from_its_origin(
    dataset: Path, tmp_path: Path, threads: int
) -> None:
    feed, cache = feed_of(SAMPLES, 1, 0), Cache(dir=tmp_path, bytes="100MB")
    recipe = recipe_of(dataset, feed, SIZE, Augment(), cache=cache, threads=threads)
    before = list(run_loader(recipe))
    copies = sorted(tmp_path.glob("*.shard"))
    assert len(copies) == 3
    for tar in dataset.glob("shards/*.tar"):
        (copy,) = (path for path in copies if path.stat().st_size == tar.stat().st_size)
        with copy.open("r+b") as file:
            for row in range(0, len(ShardIndex(tar.with_suffix(".arrow"))), 3):
                at = ShardIndex(tar.with_suffix(".arrow")).row(row)
                file.seek(at.offset + at.size // 2)
                file.write(b"\0" * (at.size // 2))
    after = list(run_loader(recipe))
    assert not any(batch.holes for batch in after), [(h.id, h.shard, h.cause) for b in after for _, h in b.holes]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.images, new.images) and torch.equal(old.rows, new.rows)
    assert not any(is_rotten(path) for path in tmp_path.glob("*.shard"))


def test_copies_that_cannot_be_read_any_more_are_not_needed(dataset: Path, tmp_path: Path) -> None:
    feed, cache = feed_of(SAMPLES, 1, 0), Cache(dir=tmp_path, bytes="100MB")
    recipe = recipe_of(dataset, feed, SIZE, Augment(), cache=cache)
    before = list(run_loader(recipe))
    folder = os.open(tmp_path, os.O_RDONLY)
    loader = run_loader(recipe)
    after = [next(loader)]
    copies = [fd for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd).startswith(f"{tmp_path}/")]
    for fd in copies:  # as on a disk that fails: reading is an error
        os.dup2(folder, int(fd.name))
    after += loader
    os.close(folder)
    assert len(copies) >= 3 and not any(batch.holes for batch in after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.images, new.images) and torch.equal(old.rows, new.rows)


def test_a_copy_of_an_mds_shard_whose_table_has_rotted_is_read_again_from_its_origin(
    dataset: Path, tmp_path: Path
) -> None:
    entries = [photo_entry(n, n % 5, (64, 48), 0) for n in range(40)]
    rows = [{"image": entry.data, "label": entry.label} for entry in entries]
    folder = write_folder(tmp_path / "mds", {"image": "jpeg", "label": "int"}, rows, shards=2, hashes=["xxh3_64"])
    corpus = Corpus((Member(Location.of(folder), mds_manifest(Location.of(folder), 5)),))
    cache = Cache(dir=tmp_path / "cache", bytes="100MB")
    recipe = replace(recipe_of(dataset, feed_of(40, 1, 0), SIZE, Augment(), cache=cache), corpus=corpus)
    before = list(run_loader(recipe))
    copies = sorted((tmp_path / "cache").glob("*.shard"))
    for copy, at in zip(copies, (0, 4 * 7), strict=True):  # how many samples there are; where one of them lies
        with copy.open("r+b") as file:
            file.seek(at)
            number = int.from_bytes(file.read(4), "little")
            file.seek(at)
            file.write((number + 1).to_bytes(4, "little"))
    after = list(run_loader(recipe))
    assert not any(batch.holes for batch in before + after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.images, new.images) and torch.equal(old.rows, new.rows)
    assert not any(is_rotten(path) for path in (tmp_path / "cache").glob("*.shard"))


def is_rotten(copy: Path) -> bool:
    return xxhash.xxh3_64_hexdigest(copy.read_bytes()) != copy.name.partition("-")[0]


def test_an_image_of_another_size_than_its_index_says_is_a_hole(tmp_path: Path) -> None:
    entries = [photo_entry(n, 0, (64, 48), 0) for n in range(4)]
    liar = Entry(entries[2].key, entries[2].data, 0, width=48, height=64)
    manifest = write_dataset(tmp_path, [[*entries[:2], liar, entries[3]]], ("a",))
    made, _ = ledger_rows(tmp_path)
    ((_, hole),) = [hole for batch in made for hole in batch.holes]
    assert hole.key == entries[2].key and "is 64 x 48 pixels, its index says 48 x 64" in hole.cause
    assert manifest.samples == 4


def test_a_damaged_index_is_no_hole_but_a_failure(damaged: Path) -> None:
    os.truncate(damaged / "shards/shard-000001.arrow", 100)
    with pytest.raises(WorkFailed, match=r"shard-000001\.arrow: no readable index"):
        ledger_rows(damaged)


def test_a_shard_that_is_gone_with_its_index_is_holes_without_keys(damaged: Path) -> None:
    for suffix in ("tar", "arrow"):
        (damaged / f"shards/shard-000000.{suffix}").unlink()
    made, ledger = ledger_rows(damaged)
    holes = [hole for batch in made for _, hole in batch.holes]
    assert {(hole.key, hole.shard, hole.cause) for hole in holes} == {("", "shard-000000.tar", "its index is missing")}
    (certificate,) = ledger.certify(Order.fit(SAMPLES, BATCH, 5), corpus_of(damaged), SAMPLES)
    assert certificate["exactly_once"] and certificate["proof"] == "places"
    assert (certificate["samples"], certificate["holes"]) == (SAMPLES - 40, 40) == (SAMPLES - len(holes), len(holes))


# -- evaluation ------------------------------------------------------------------------------------------------


def evaluation(dataset: Path, manifest: Manifest, batch: int, world: int) -> Iterator[list[MicroBatch]]:
    for feed in evaluation_feeds(manifest.samples, batch, world):
        yield list(run_loader(recipe_of(dataset, feed, SIZE, None)))


@pytest.mark.parametrize("samples", [1, 2, 5, 16, 33])
def test_evaluation_sees_every_sample_exactly_once(tmp_path: Path, samples: int) -> None:
    manifest = make_dataset(tmp_path, samples, shards=min(2, samples), size=(20, 24))
    reference = None
    for world in (1, 2, 3, 7, 40):
        for batch in (1, 4, 100):
            ranks = list(evaluation(tmp_path, manifest, batch, world))
            assert len({len(batches) for batches in ranks}) == 1  # all ranks run the same collectives
            made = [micro for batches in ranks for micro in batches]
            rows = sum(micro.rows for micro in made).tolist()
            assert rows[0][READ] == samples and rows[0][HOLES] == 0
            assert rows[0][READ_SUM] & MASK64 == manifest.key_sum
            kept = [torch.cat([getattr(m, name)[m.weights == 1] for m in made]) for name in ("images", "labels")]
            reference = reference or kept
            assert torch.equal(kept[0], reference[0]) and torch.equal(kept[1], reference[1])
            assert kept[1].tolist() == [sample % 5 for sample in range(samples)]


def test_evaluation_crops_the_centre(tmp_path: Path) -> None:
    """A white frame of a sixteenth is what a centre crop of 7/8 cuts off."""
    image = Image.new("RGB", (128, 64), "white")
    image.paste("black", (36, 4, 92, 60))
    file = io.BytesIO()
    image.save(file, "PNG")
    manifest = write_dataset(tmp_path, [[Entry("a" * 24, file.getvalue(), 0, 128, 64, "png")]], ("a",))
    ((micro,),) = evaluation(tmp_path, manifest, 8, 1)
    assert micro.images.shape == (1, SIZE, SIZE, 3) and int(micro.images.max()) == 0
    (wider,) = run_loader(recipe_of(tmp_path, evaluation_feeds(1, 8, 1)[0], SIZE, None, crop=1.0))
    assert int(wider.images.max()) > 100
