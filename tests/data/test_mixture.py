"""Mixtures: exact shares, each dataset exactly once in each of its epochs, invertible, however calls are split."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mixture import MIN_BLOCK, Mixture, apportion, lay_out
from pipeline.data.order import slot_owners

pytestmark = pytest.mark.fast
WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    weights = draw(WEIGHTS)
    samples = draw(st.lists(st.integers(1, 3_000), min_size=len(weights), max_size=len(weights)))
    batch = draw(st.one_of(st.integers(1, 300), st.sampled_from([1_024, 1_500, 4_096, 4_099, 8_192])))
    return Mixture.fit(samples, weights, batch, draw(SEEDS))


@settings(max_examples=80, deadline=None)
@given(mixture=mixtures())
def test_each_dataset_goes_through_its_own_epochs_and_every_read_inverts(mixture: Mixture) -> None:
    consumed = np.arange(3 * sum(mixture.shares) + 17)
    epochs, ids = mixture.at(consumed)
    parts = mixture.part_of(ids)
    assert np.array_equal(mixture.when(epochs, ids), consumed)
    start = 0
    for part in range(len(mixture.shares)):
        samples, mine = mixture.part_samples(part), parts == part
        local, own_epochs = ids[mine] - start, epochs[mine]
        assert (np.diff(own_epochs) >= 0).all() and mine.sum() == mixture.used(part, len(consumed))
        for epoch in np.unique(own_epochs):
            read = local[own_epochs == epoch]
            assert len(np.unique(read)) == len(read) and (read >= 0).all() and (read < samples).all()
            assert len(read) == samples or epoch == own_epochs[-1]
        start += samples
    assert start == mixture.samples
    some = ids[:: max(1, len(ids) // 20)]
    parts, local = mixture.parts(some)
    first, stop = mixture.chunks_of(some)
    assert (first <= some).all() and (some < stop).all()
    for number, (part, own) in enumerate(zip(parts.tolist(), local.tolist(), strict=True)):
        within = np.stack(mixture.orders[part].chunks_of(np.array([own])))[:, 0]
        assert (np.array([first[number], stop[number]]) - some[number]).tolist() == (within - own).tolist()
        assert 0 < stop[number] - first[number] <= mixture.orders[part].chunk


@settings(max_examples=80, deadline=None)
@given(mixture=mixtures(), start=st.integers(0, 10**9), cuts=st.lists(st.integers(0, 600), max_size=5))
def test_however_calls_are_split_the_reads_and_the_accounts_are_the_same(
    mixture: Mixture, start: int, cuts: list[int]
) -> None:
    consumed = start + np.arange(600)
    whole = mixture.at(consumed)
    pieces = [mixture.at(piece) for piece in np.split(consumed, sorted(cuts))]
    for field in (0, 1):
        assert np.array_equal(np.concatenate([piece[field] for piece in pieces]), whole[field])
    backwards = mixture.at(consumed[::-1])
    assert np.array_equal(backwards[1][::-1], whole[1])
    touched = sorted(set(zip(mixture.part_of(whole[1]).tolist(), whole[0].tolist(), strict=True)))
    assert mixture.accounts(start, 600) == touched and mixture.accounts(start, 0) == []
    again = Mixture.from_json(json.loads(json.dumps(mixture.to_json())))
    assert again == mixture and np.array_equal(again.at(consumed)[1], whole[1])


@settings(max_examples=100, deadline=None)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), places=st.integers(40, 2_000))
def test_shares_are_whole_fair_and_never_nothing(weights: list[float], places: int) -> None:
    shares = apportion(weights, places)
    assert sum(shares) == places and min(shares) >= 1
    exact = np.asarray(weights) / sum(weights) * places
    if (exact >= 1).all():
        assert (np.abs(np.asarray(shares) - exact) < 1 + 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=12), places=st.integers(12, 700))
def test_every_beginning_of_a_block_has_the_shares_to_less_than_one(weights: list[float], places: int) -> None:
    shares = np.asarray(apportion(weights, places))
    given_out = np.cumsum(lay_out(tuple(shares.tolist()))[:, None] == np.arange(len(shares)), axis=0)
    due = np.arange(1, places + 1)[:, None] * shares / places
    assert np.array_equal(given_out[-1], shares)
    assert (np.abs(given_out - due) < 1).all()


def test_each_batch_is_mixed_as_asked() -> None:
    mixture = Mixture.fit([100_000, 5_000, 70_000], [0.7, 0.2, 0.1], batch_size=256, seed=4)
    assert sum(mixture.shares) == MIN_BLOCK
    parts = mixture.part_of(mixture.at(np.arange(256 * 400))[1]).reshape(400, 256)
    counts = np.stack([np.bincount(batch, minlength=3) for batch in parts])
    assert (np.abs(counts - 256 * np.array([0.7, 0.2, 0.1])) < 2.5).all()
    assert np.array_equal(counts.reshape(100, 4, 3).sum(axis=1), np.tile(mixture.shares, (100, 1)))


@pytest.mark.parametrize(("batch", "world"), [(64, 4), (256, 8), (96, 5), (8_192, 16)])
def test_each_chunk_is_one_ranks_to_read(batch: int, world: int) -> None:
    mixture = Mixture.fit([2_000_000, 900_000], [2, 1], batch, seed=1)
    assert min(order.chunk for order in mixture.orders) > 1
    consumed = np.arange(20 * batch)
    owners = np.tile(slot_owners(batch, world, mixture.lanes), 20)
    _, ids = mixture.at(consumed)
    for part, (order, start) in enumerate(zip(mixture.orders, (0, 2_000_000), strict=True)):
        mine = mixture.part_of(ids) == part
        chunks = (ids[mine] - start) // order.chunk
        assert len(np.unique(np.stack([chunks, owners[mine]]), axis=1).T) == len(np.unique(chunks))


def test_the_datasets_are_shuffled_each_in_its_own_way() -> None:
    mixture = Mixture.fit([5_000, 5_000], [1, 1], batch_size=64, seed=0)
    first, second = (order.ids(np.arange(5_000)) for order in mixture.orders)
    assert (first == second).sum() < 20
    other = Mixture.fit([5_000, 5_000], [1, 1], batch_size=64, seed=1)
    assert (mixture.at(np.arange(5_000))[1] == other.at(np.arange(5_000))[1]).sum() < 20


def test_the_mixture_is_a_contract() -> None:
    """Runs resume under later versions: these ids must never change."""
    mixture = Mixture.fit([1_000_003, 77, 50_000], [0.6, 0.1, 0.3], batch_size=96, seed=42)
    assert mixture.lanes == 96 and mixture.shares == (634, 105, 317)
    epochs, ids = mixture.at(np.array([0, 1, 2, 3, 95, 96, 1_055, 1_056, 777_777, 10**12]))
    assert epochs.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 4, 6003787]
    assert ids.tolist() == [675979, 1042282, 944638, 498554, 938559, 1000015, 680965, 99899, 1048804, 1048007]


def test_large_datasets_cost_nothing() -> None:
    mixture = Mixture.fit([300_000_000, 14_000_000, 10**9], [5, 1, 3], 4_096, 0)
    consumed = 40 * mixture.samples + np.arange(4_096)
    epochs, ids = mixture.at(consumed)
    assert np.array_equal(mixture.when(epochs, ids), consumed)
