"""The ledger alone: sums that hold exactly when every sample came once, for one dataset and for mixtures."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.corpus import Corpus, Member, fit_order
from pipeline.data.keyed import mix64
from pipeline.data.ledger import (
    HOLES,
    HOLES_SUM,
    KEYLESS,
    PLACES,
    READ,
    READ_SUM,
    ROW,
    Account,
    Ledger,
    all_places,
    batch_digest,
    check,
    pixel_digest,
    place_sum,
)
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.keys import MASK64, hex64, key_hash
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, Shard

pytestmark = pytest.mark.fast


def corpus_of(*samples: int, weights: tuple[float, ...] | None = None) -> Corpus:
    """Datasets of so many samples each, of which sample i of dataset d has the key "d/i"."""
    members = []
    for number, count in enumerate(samples):
        sums = sum(key_hash(f"{number}/{i}") for i in range(count))
        shard = Shard("shard-000000.tar", count, 4096 * count, hex64(number), hex64(sums))
        members.append(Member(Location(f"data/{number}"), Manifest(("a",), "single", (shard,))))
    return Corpus(tuple(members), weights)


def rows_of(corpus: Corpus, order, consumed: int, count: int, holes=frozenset(), keyless=frozenset(), swap=None):
    """(accounts, rows) of the batch of the `count` samples after `consumed`, as a loader adds them up."""
    accounts = [Account(*each) for each in order.accounts(consumed, count)]
    rows = {account: [0] * ROW for account in accounts}
    epochs, ids = order.at(np.arange(consumed, consumed + count))
    for epoch, sample in zip(epochs.tolist(), ids.tolist(), strict=True):
        sample = (swap or {}).get(sample, sample)
        part = int(order.part_of(np.array([sample]))[0])
        member = int(np.searchsorted(corpus.starts, sample, side="right")) - 1
        row = rows[Account(part, epoch)]
        own = 0 if sample in keyless else key_hash(f"{member}/{sample - corpus.starts[member]}")
        is_hole = sample in holes or sample in keyless
        row[HOLES if is_hole else READ] += 1
        row[HOLES_SUM if is_hole else READ_SUM] += own
        row[KEYLESS] += sample in keyless
        row[PLACES] += place_sum(np.array([sample - (corpus.starts[member] if corpus.weights else 0)]))
    signed = [[int(np.uint64(n & MASK64).astype(np.int64)) for n in row] for row in rows.values()]  # as tensors are
    return accounts, signed


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    mixed=st.booleans(),
    batch=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_every_account_is_certified_once_whatever_is_saved_between(samples, mixed, batch, seed) -> None:
    weights = tuple(1.0 + n for n in range(len(samples))) if mixed and len(samples) > 1 else None
    corpus = corpus_of(*samples, weights=weights)
    order, ledger, chance = fit_order(corpus, batch, seed), Ledger(), random.Random(seed)
    holes = {chance.randrange(corpus.samples)}
    certificates, consumed = [], 0
    while consumed < 3 * corpus.samples:
        count = chance.randint(1, batch)  # the batch size may change
        ledger.add(*rows_of(corpus, order, consumed, count, holes))
        consumed += count
        ledger = Ledger.from_json(ledger.to_json())
        certificates += ledger.certify(order, corpus, consumed)
    assert all(c["exactly_once"] for c in certificates)
    for part in range(corpus.parts):
        mine = [c for c in certificates if c.get("part", corpus.name(0)) == corpus.name(part)]
        assert [c["epoch"] for c in mine] == list(range(order.used(part, consumed) // order.part_samples(part)))
        assert all(c["samples"] + c["holes"] == order.part_samples(part) for c in mine)
    for certificate in certificates:
        check(certificate)


@pytest.mark.parametrize("keyless", [frozenset(), frozenset({3})])
@pytest.mark.parametrize("swap", [{17: 18}, {0: 1}, {1: 0}])
def test_a_sample_in_the_place_of_another_breaks_the_certificate(swap, keyless) -> None:
    corpus = corpus_of(40)
    order, ledger = fit_order(corpus, 8, 0), Ledger()
    ledger.add(*rows_of(corpus, order, 0, 40, keyless=keyless, swap=swap))
    (certificate,) = ledger.certify(order, corpus, 40)
    assert not certificate["exactly_once"] and ("proof" in certificate) == bool(keyless)
    with pytest.raises(WorkFailed, match=r"epoch 0: .*do not add up to (the manifest's key sum|each sample once)"):
        check(certificate)


def test_holes_without_a_key_are_proved_by_places() -> None:
    corpus = corpus_of(40)
    order, ledger = fit_order(corpus, 8, 0), Ledger()
    ledger.add(*rows_of(corpus, order, 0, 80, keyless={3, 4}))
    first, second = ledger.certify(order, corpus, 80)
    assert first["exactly_once"] and (first["proof"], first["samples"], first["holes"]) == ("places", 38, 2)
    assert first["digest"] == first["expected"] == second["digest"] == hex64(all_places(40))


def test_the_failed_account_of_a_mixture_is_named() -> None:
    corpus = corpus_of(16, 16, weights=(1.0, 1.0))
    order, ledger = fit_order(corpus, 8, 0), Ledger()
    ledger.add(*rows_of(corpus, order, 0, 32, swap={20: 21}))
    good, bad = ledger.certify(order, corpus, 32)
    assert (good["part"], good["exactly_once"], bad["part"]) == ("data/0", True, "data/1")
    with pytest.raises(WorkFailed, match="epoch 0 of data/1: "):
        check(bad)


def test_an_account_under_way_has_as_many_samples_as_were_consumed() -> None:
    corpus = corpus_of(16, 16, weights=(1.0, 1.0))
    order, ledger = fit_order(corpus, 8, 0), Ledger()
    ledger.add(*rows_of(corpus, order, 0, 12))
    assert ledger.certify(order, corpus, 12) == []
    with pytest.raises(WorkFailed, match=r"epoch 0 of data/\d: \d samples were accounted for, \d were due"):
        ledger.certify(order, corpus, 16)


def test_checkpoints_of_a_single_part_are_still_read() -> None:
    old = {"open": {"3": ["000000000000000a", "00000000000000ff", "0000000000000002", "8000000000000000"]}, "holes": 7}
    ledger = Ledger.from_json(old)
    assert ledger.open == {Account(0, 3): [10, 255, 2, 1 << 63, 0, 0, 0]} and ledger.holes == 7
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_digests_of_a_batch_go_over_all_accounts() -> None:
    rows = [[1, -1, 0, 0, 0, 5, 0], [1, 3, 0, 0, 0, -7, 0]]
    assert batch_digest(rows) == hex64(2) and pixel_digest(rows) == hex64(-2)


def test_places_are_those_of_all_samples(tmp_path: Path) -> None:
    samples = 2**20 + 5  # two blocks
    assert all_places(samples) == place_sum(np.random.default_rng(0).permutation(samples))
    assert all_places(2) == int(mix64(np.array([1], np.uint64))[0])  # the hash of place 0 is 0: counts tell it apart
    assert all_places(0) == 0
