"""The order: exactly once per epoch, elastic, invertible, well mixed, and without memory."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.data.order import MAX_LANES, Order, slot_owners

pytestmark = pytest.mark.fast
SEEDS = st.integers(0, 2**63 - 1)
SAMPLES = st.one_of(st.integers(1, 5_000), st.sampled_from([1, 2, 3, 63, 64, 65, 462, 997, 4_096, 4_999]))
BATCHES = st.one_of(st.integers(1, 300), st.sampled_from([64, 96, 257, 1_000, 4_096, 4_097, 6_000, 8_192]))


def epoch_ids(order: Order, epoch: int) -> np.ndarray:
    return order.ids(np.arange(epoch * order.samples, (epoch + 1) * order.samples))


@settings(max_examples=120, deadline=None)
@given(samples=SAMPLES, batch=BATCHES, seed=SEEDS, epoch=st.integers(0, 20))
@example(samples=1, batch=1, seed=0, epoch=0)
@example(samples=1, batch=4_096, seed=0, epoch=3)
@example(samples=4_999, batch=1, seed=0, epoch=0)
@example(samples=462, batch=64, seed=0, epoch=1)
def test_every_epoch_reads_every_sample_once_and_positions_invert(
    samples: int, batch: int, seed: int, epoch: int
) -> None:
    order = Order.fit(samples, batch, seed)
    ids = epoch_ids(order, epoch)
    assert np.array_equal(np.sort(ids), np.arange(samples))
    assert np.array_equal(order.when(epoch, ids), np.arange(epoch * samples, (epoch + 1) * samples))


@settings(max_examples=120, deadline=None)
@given(
    samples=st.integers(1, 3_000),
    lanes=st.integers(1, 200),
    chunk=st.integers(1, 100),
    window=st.integers(1, 20),
    seed=SEEDS,
)
def test_any_stored_parameters_are_a_bijection(samples: int, lanes: int, chunk: int, window: int, seed: int) -> None:
    order = Order(samples, seed, lanes, chunk, window)
    ids = epoch_ids(order, 1)
    assert np.array_equal(np.sort(ids), np.arange(samples))
    assert np.array_equal(order.when(1, ids), np.arange(samples, 2 * samples))


@settings(max_examples=150, deadline=None)
@given(batch=st.one_of(st.integers(1, 2_000), st.sampled_from([4_096, 6_144, 8_192, 12_288, 16_384])), data=st.data())
def test_any_world_size_shares_out_the_same_batch(batch: int, data: st.DataObject) -> None:
    world = data.draw(st.integers(1, min(64, batch)))
    lanes = Order.fit(1_000_000, batch, 0).lanes
    owners = slot_owners(batch, world, lanes)
    assert owners.shape == (batch,) and set(owners.tolist()) == set(range(world))
    counts = np.bincount(owners, minlength=world)
    if batch % world == 0:
        assert (counts == batch // world).all()
    assert counts.max() - counts.min() <= 1
    if batch == lanes:
        assert (np.diff(owners) >= 0).all()  # blocks, rank by rank


@pytest.mark.parametrize("rounds", [2, 3, 4])
@pytest.mark.parametrize("world", [1, 2, 8, 64, 512])
def test_where_a_batch_holds_several_rounds_blocks_of_lanes(rounds: int, world: int) -> None:
    slots = np.arange(rounds * MAX_LANES)
    owners = slot_owners(rounds * MAX_LANES, world, MAX_LANES)
    assert np.array_equal(owners, slots % MAX_LANES * world // MAX_LANES)


@pytest.mark.parametrize(("batch", "world"), [(64, 4), (64, 5), (96, 64), (8_192, 16), (12_288, 64)])
def test_each_lane_stays_with_one_rank_and_each_chunk_with_one_lane(batch: int, world: int) -> None:
    samples = 2_000_000
    order = Order.fit(samples, batch, seed=1)
    assert order.chunk > 1
    steps = np.arange(20)  # of the first epoch
    consumed = (steps[:, None] * batch + np.arange(batch)).ravel()
    owners = np.tile(slot_owners(batch, world, order.lanes), len(steps))
    lanes = consumed % order.lanes
    assert len(np.unique(np.stack([lanes, owners]), axis=1).T) == order.lanes
    chunks = order.ids(consumed) // order.chunk
    assert len(np.unique(np.stack([chunks, owners]), axis=1).T) == len(np.unique(chunks))


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(2, 2_000), batch=st.integers(1, 200), world=st.integers(1, 64), step=st.integers(0, 200))
@example(samples=100, batch=64, world=3, step=1)  # crosses the edge of epoch 0
@example(samples=10, batch=64, world=64, step=0)  # holds six epochs and a part
def test_ranks_together_read_the_global_batch(samples: int, batch: int, world: int, step: int) -> None:
    assume(world <= batch)
    order = Order.fit(samples, batch, 5)
    consumed = step * batch + np.arange(batch)
    whole = order.ids(consumed)
    owners = slot_owners(batch, world, order.lanes)
    union = np.full(batch, -1)
    for rank in range(world):
        slots = np.flatnonzero(owners == rank)
        union[slots] = order.ids(step * batch + slots)
    assert np.array_equal(union, whole)
    for epoch in np.unique(consumed // samples):  # an epoch's part of a batch is distinct samples
        part = whole[consumed // samples == epoch]
        assert len(np.unique(part)) == len(part)


def test_batches_across_an_edge_read_the_end_of_one_epoch_and_the_start_of_the_next() -> None:
    order = Order.fit(1_000, 64, seed=2)
    crossing = order.ids(np.arange(15 * 64, 16 * 64))
    assert np.array_equal(crossing[:40], epoch_ids(order, 0)[-40:])
    assert np.array_equal(crossing[40:], epoch_ids(order, 1)[:24])


@settings(max_examples=30, deadline=None)
@given(first=st.integers(5, 500), second=st.integers(5, 500), steps=st.integers(0, 30), samples=st.integers(1, 600))
def test_another_batch_size_in_mid_run_keeps_exactly_once(first: int, second: int, steps: int, samples: int) -> None:
    order = Order.fit(samples, first, 0)  # stored at the first start, kept
    consumed, read, total = 0, [], 3 * samples
    while consumed < total:
        batch = first if len(read) < steps else second
        count = min(batch, total - consumed)
        world = min(3, batch)
        owners = slot_owners(batch, world, order.lanes)[:count]
        ids = np.full(count, -1)
        for rank in range(world):
            ids[owners == rank] = order.ids(consumed + np.flatnonzero(owners == rank))
        read.append(ids)
        consumed += count
    assert (np.bincount(np.concatenate(read), minlength=samples) == 3).all()
    epochs = np.concatenate(read).reshape(3, samples)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(samples), (3, 1)))


def test_epochs_and_seeds_differ() -> None:
    order, other = Order.fit(10_000, 64, seed=0), Order.fit(10_000, 64, seed=1)
    first, second = epoch_ids(order, 0), epoch_ids(order, 1)
    for a, b in ((first, second), (first, epoch_ids(other, 0))):
        assert (a == b).sum() < 20
        shared = [len(np.intersect1d(a[i : i + 64], b[i : i + 64])) for i in range(0, 9_984, 64)]
        assert np.mean(shared) < 2  # 0.41 expected of unrelated batches
    assert np.array_equal(first, epoch_ids(Order.fit(10_000, 64, seed=0), 0))


def test_the_order_is_a_contract() -> None:
    """Runs resume under later versions: these ids must never change."""
    order = Order.fit(1_000_003, 256, seed=42)
    assert order.to_json() == {"samples": 1_000_003, "seed": 42, "lanes": 256, "chunk": 64, "window": 16}
    at = np.array([0, 1, 255, 256, 999_999, 1_000_002, 1_000_003, 12_345_678])
    assert order.ids(at).tolist() == [937306, 371901, 113926, 937298, 541074, 133091, 15863, 228859]


def test_a_small_dataset_is_fully_permuted() -> None:
    for batch in (64, 128, 462, 500):
        assert Order.fit(462, batch, 0).chunk == 1
    order = Order.fit(462, 64, 0)
    first_batches = np.array([epoch_ids(order, epoch)[:64] for epoch in range(600)])
    counts = np.bincount(first_batches.ravel(), minlength=462)  # each sample is as likely in the first batch
    expected = first_batches.size / 462
    assert ((counts - expected) ** 2 / expected).sum() / 461 < 1.25


@settings(max_examples=200, deadline=None)
@given(samples=st.integers(1, 10**9), batch=st.integers(1, 20_000), seed=st.just(0))
def test_the_lanes_cover_all_but_a_bounded_tail(samples: int, batch: int, seed: int) -> None:
    order = Order.fit(samples, batch, seed)
    tail = samples - samples // order.chunk // order.lanes * order.lanes * order.chunk
    assert tail < order.lanes * order.chunk + order.chunk
    assert order.chunk == 1 or tail <= samples / 32
    assert batch % order.lanes == 0 and order.lanes <= MAX_LANES
    assert order.window >= 1


@pytest.mark.parametrize("shape", [(50_000, 16), (20_011, 7), (300_000, 256)])
def test_within_a_lane_each_window_holds_exactly_the_samples_of_its_chunks(shape: tuple[int, int]) -> None:
    samples, batch = shape
    order = Order.fit(samples, batch, seed=3)
    per_lane = samples // order.chunk // order.lanes  # chunks
    body = order.ids(np.arange(samples, samples + order.lanes * per_lane * order.chunk))
    edges_seen = set()
    for lane in range(order.lanes):
        mine = body[lane :: order.lanes]
        shift = lane * order.window // order.lanes
        edges = sorted({0, per_lane, *range(order.window - shift, per_lane, order.window)})
        edges_seen.add(tuple(edges))
        for start, stop in pairwise(edges):
            window = mine[start * order.chunk : stop * order.chunk]
            chunks = np.unique(window // order.chunk)
            assert len(chunks) == stop - start
            whole = (chunks[:, None] * order.chunk + np.arange(order.chunk)).ravel()
            assert np.array_equal(np.sort(window), whole)
    assert len(edges_seen) > 1  # staggered: not all lanes refill at the same step


def test_300_million_samples_need_no_memory() -> None:
    tracemalloc.start()
    try:
        order = Order.fit(300_000_000, 4_096, seed=0)
        assert order.lanes == 4_096 and order.chunk == 64
        for epoch, step in ((0, 0), (0, 73_000), (13, 41_234)):  # the second reaches into the tail
            consumed = epoch * order.samples + step * 4_096 + np.arange(4_096)
            ids = order.ids(consumed)
            assert (ids >= 0).all() and (ids < order.samples).all() and len(np.unique(ids)) == 4_096
            assert np.array_equal(order.when(epoch, ids), consumed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


def test_batches_of_sorted_classes_look_like_random_draws() -> None:
    """Chi-square of a batch's class counts per degree of freedom: 1 for independent draws, hundreds if left sorted.

    The tail, the last 1/32 of an epoch, is drawn from fewer chunks, and so less even.
    """
    samples, classes, batch = 1_280_000, 1_000, 4_096
    order = Order.fit(samples, batch, seed=0)
    label_of = np.arange(samples) * classes // samples
    ratios = []
    for step in range(0, samples // batch, 4):
        counts = np.bincount(label_of[order.ids(step * batch + np.arange(batch))], minlength=classes)
        expected = batch / classes
        ratios.append(((counts - expected) ** 2 / expected).sum() / (classes - 1))
    body = [ratio for step, ratio in zip(range(0, samples // batch, 4), ratios, strict=True) if step < 304]
    assert max(body) < 1.25 and np.mean(body) < 1.03
    assert max(ratios) < 4.0
