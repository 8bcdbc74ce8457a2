"""The plan covers everything once, never moves a split, and knows nothing of the listing's order."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.catalog.plan import TAR_OVERHEAD, count_shards, cut, plan, shuffle, split
from data_prep.options import Options
from data_prep.quantities import human_bytes, parse_bytes, parse_limit
from data_prep.sources.folder import Listing, SourceImage
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import sample_key

pytestmark = pytest.mark.fast

NAMES = st.sets(st.integers(0, 10**6), min_size=1, max_size=400)


def images(numbers) -> list[SourceImage]:
    return [SourceImage(sample_key(f"a/{n}.jpg"), f"a/{n}.jpg", 0, 0, 1000) for n in numbers]


def listing(numbers) -> Listing:
    return Listing((), tuple(images(numbers)), ("a",), {})


@given(st.integers(1, 10**6), st.integers(1, 2000))
def test_cut_covers_every_position_once_and_evenly(samples, shards):
    shards = min(samples, shards)
    ranges = cut(samples, shards)
    assert ranges[0][0] == 0 and ranges[-1][1] == samples and len(ranges) == shards
    assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
    lengths = {stop - start for start, stop in ranges}
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(1, 10**9))
def test_shards_are_many_enough_for_their_size_and_for_parallel_work(samples, size, shard_size):
    shards = count_shards(samples, size, shard_size)
    assert min(8, samples // 128) <= shards <= samples and shards >= 1
    if shards < samples:
        assert shards * shard_size >= samples * (size + TAR_OVERHEAD)


@given(NAMES, st.integers(0, 2**64 - 1), st.randoms())
def test_plan_depends_on_the_seed_but_not_on_the_order_of_the_listing(numbers, seed, random):
    numbers = sorted(numbers)
    options = Options(seed=seed, shard_size=50_000)
    planned = plan(listing(numbers), options, 1000)
    random.shuffle(numbers)
    assert plan(listing(numbers), options, 1000) == planned
    assert Counter(i.key for shard in planned for i in shard.images) == Counter(i.key for i in images(numbers))


@given(NAMES, NAMES, st.floats(0.05, 0.95))
def test_splits_never_move_when_images_are_added(numbers, added, fraction):
    try:
        before = split(images(numbers), fraction)
    except UsageError:  # one side empty
        return
    after = split(images(numbers | added), fraction)
    assert set(before["train"]) <= set(after["train"]) and set(before["val"]) <= set(after["val"])
    more = split(images(numbers | added), min(0.99, fraction + 0.04)) if len(after["train"]) > 50 else after
    assert set(after["val"]) <= set(more["val"])


def test_split_has_the_size_asked_for_and_no_part_in_the_shuffle():
    parts = split(images(range(20_000)), 0.1)
    assert 1850 < len(parts["val"]) < 2150
    order = shuffle(images(range(20_000)), seed=0)
    val = set(parts["val"])
    assert 850 < sum(image in val for image in order[:10_000]) < 1150


def test_shuffle_differs_by_seed_and_mixes():
    zero, one = (shuffle(images(range(1000)), seed) for seed in (0, 1))
    assert zero != one and sorted(zero, key=lambda i: i.key) == sorted(one, key=lambda i: i.key)
    numbers = [int(image.path[2:-4]) for image in zero]
    assert 400 < sum(numbers[:500]) / 500 < 600


def test_an_empty_split_is_refused():
    with pytest.raises(UsageError, match=r"--val-fraction 0.0001: leaves no image for val out of 3"):
        split(images(range(3)), 0.0001)


@pytest.mark.parametrize(
    ("text", "value"),
    [("512MB", 512 * 10**6), ("64MiB", 64 * 2**20), ("1.5g", 1_500_000_000), ("4096", 4096), ("2 kB", 2000)],
)
def test_sizes(text, value):
    assert parse_bytes(text, "--shard-size") == value


@pytest.mark.parametrize("text", ["", "MB", "-1", "0", "12XB", "1e9"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--shard-size"):
        parse_bytes(text, "--shard-size")


@pytest.mark.parametrize(
    ("text", "allowed"), [("0", 0), ("7", 7), ("1%", 10), ("0.01", 10), ("100%", 1000), ("1.0", 1000)]
)
def test_limits(text, allowed):
    assert parse_limit(text, 1000, "--max-rejects") == allowed


@pytest.mark.parametrize("text", ["-1", "101%", "1.5", "few", ""])
def test_limits_that_are_none(text):
    with pytest.raises(UsageError, match="--max-rejects"):
        parse_limit(text, 1000, "--max-rejects")


def test_human_bytes():
    assert [human_bytes(n) for n in (7, 1234, 5 * 10**8, 3 * 10**12)] == ["7 B", "1.2 kB", "500.0 MB", "3.0 TB"]
