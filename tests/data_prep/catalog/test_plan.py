"""The plan covers everything once, never moves a split, and knows nothing of the listing's order."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.catalog.plan import TAR_OVERHEAD, PlannedSplit, count_shards
from data_prep.publish import planned_shards
from data_prep.request import Slice
from data_prep.sources.base import Place
from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import sample_key
from pipeline.dataset.quantities import human_bytes, parse_bytes, parse_limit
from tests.data_prep.catalog.listed import ListSource, paths, planned, rows

pytestmark = pytest.mark.fast

NAMES = st.sets(st.integers(0, 10**6), min_size=1, max_size=60)
few = settings(max_examples=15, deadline=None)  # each plans with DuckDB and Parquet


@given(st.integers(1, 10**6), st.integers(1, 2000))
def test_shards_cover_every_row_once_and_evenly(samples, shards):
    shards = min(samples, shards)
    ranges = [PlannedSplit("all", samples, shards).shard_range(number) for number in range(shards)]
    assert ranges[0][0] == 0 and ranges[-1][1] == samples
    assert all(stop == start for (_, stop), (start, _) in pairwise(ranges))
    lengths = {stop - start for start, stop in ranges}
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1
    row = samples // 3
    number = ((row + 1) * shards - 1) // samples  # as spool.py finds a row's shard
    assert ranges[number][0] <= row < ranges[number][1]


@given(st.integers(1, 10**7), st.integers(1, 10**6), st.integers(1, 10**9))
def test_shards_are_many_enough_for_their_size_and_for_parallel_work(samples, size, shard_size):
    shards = count_shards(samples, size, shard_size)
    assert min(8, samples // 128) <= shards <= samples and shards >= 1
    if shards < samples:
        assert shards * shard_size >= samples * (size + TAR_OVERHEAD)


@given(st.integers(1, 500), st.integers(1, 40), st.booleans())
def test_tasks_cover_every_shard_once_whether_counted_from_0_or_from_1(shards, tasks, from_one):
    every = planned_shards(PlannedSplit("all", 10 * shards, shards))
    parts = [Slice.parse(f"{i + from_one}/{tasks}").of(every) for i in range(tasks)]
    assert sorted(shard.number for part in parts for shard in part) == list(range(shards))


@pytest.mark.parametrize("text", ["", "3", "8/7", "0/0", "-1/3", "1/2/3", "a/b"])
def test_tasks_that_are_none(text):
    with pytest.raises(UsageError, match="--task"):
        Slice.parse(text)


@given(NAMES, st.integers(0, 2**64 - 1), st.randoms())
@few
def test_plan_depends_on_the_seed_but_not_on_the_order_of_the_listing(numbers, seed, random):
    numbers = sorted(numbers)
    once, _ = planned(ListSource(rows(numbers)), seed=seed)
    random.shuffle(numbers)
    again, _ = planned(ListSource(rows(numbers), rows_per_batch=11), seed=seed)
    assert again == once
    assert sorted(image.key for image in once["all"]) == sorted(sample_key(f"a/{n}.jpg") for n in numbers)
    assert all(image.labels == (0,) and image.place == Place(image.path, 0, 1000) for image in once["all"])


@given(NAMES, NAMES, st.floats(0.05, 0.95))
@few
def test_splits_never_move_when_images_are_added(numbers, added, fraction):
    try:
        before, _ = planned(ListSource(rows(sorted(numbers))), val_fraction=fraction)
        after, _ = planned(ListSource(rows(sorted(numbers | added))), val_fraction=fraction)
    except UsageError:  # one side empty
        return
    for name in ("train", "val"):
        assert set(paths(before[name])) <= set(paths(after[name]))


def test_split_has_the_size_asked_for_and_no_part_in_the_shuffle():
    source = ListSource(rows(range(20_000)), rows_per_batch=4096)
    parts, _ = planned(source, val_fraction=0.1)
    assert 1850 < len(parts["val"]) < 2150
    order, _ = planned(source)
    val = set(paths(parts["val"]))
    assert 850 < sum(path in val for path in paths(order["all"])[:10_000]) < 1150


def test_shuffle_differs_by_seed_and_mixes():
    zero, one = (paths(planned(ListSource(rows(range(1000))), seed=seed)[0]["all"]) for seed in (0, 1))
    assert zero != one and sorted(zero) == sorted(one)
    numbers = [int(path[2:-4]) for path in zero]
    assert 400 < sum(numbers[:500]) / 500 < 600


def test_an_empty_split_is_refused():
    with pytest.raises(UsageError, match=r"--val-fraction 0.0001: leaves no image for val out of 3"):
        planned(ListSource(rows(range(3))), val_fraction=0.0001)


def test_one_name_twice_is_refused_wherever_the_two_stand():
    with pytest.raises(UsageError, match=r"'a/5.jpg' is listed twice in SOURCE 1"):
        planned(ListSource(rows([*range(50), 5])))
    with pytest.raises(UsageError, match=r"'a/5.jpg' is listed in SOURCE 1 and in SOURCE 2"):
        planned(ListSource(rows(range(50))), ListSource(rows([5])))


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
