"""Distributions: exact where they say so, near where not, the same in numpy and in SQL, and they add up."""

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.card.distribution import (
    PERCENTS,
    Distribution,
    coarse,
    coarse_sql,
    nice_edges,
    ratio_edges,
    wide_range,
)

pytestmark = pytest.mark.fast

VALUES = st.lists(st.one_of(st.integers(0, 9000), st.integers(0, 2**33)), min_size=1, max_size=60)


def of(values: list[int]) -> Distribution:
    found = Distribution()
    found.add_values(np.array(values, np.int64))
    return found


def test_sql_and_numpy_round_alike() -> None:
    near = {2**power + offset for power in range(34) for offset in range(-3, 4)}
    rng = np.random.default_rng(0)
    numbers = sorted(n for n in near | set(rng.integers(0, 2**34, 2000).tolist()) if n >= 0)
    connection = duckdb.connect(":memory:")
    query = f"SELECT {coarse_sql('n::BIGINT')} FROM (SELECT unnest($1::BIGINT[]) AS n)"
    assert [row[0] for row in connection.execute(query, [numbers]).fetchall()] == coarse(np.array(numbers)).tolist()


@given(VALUES)
def test_rounding_is_small_ordered_and_done_once(values: list[int]) -> None:
    exact = np.sort(np.array(values, np.int64))
    rounded = coarse(exact)
    assert (rounded <= exact).all() and (exact - rounded <= exact / 2048).all() and (np.diff(rounded) >= 0).all()
    assert (rounded[exact < 4096] == exact[exact < 4096]).all() and (coarse(rounded) == rounded).all()


@given(VALUES, st.integers(0, 60))
def test_parts_add_up(values: list[int], cut: int) -> None:
    both = of(values[:cut])
    both.add(of(values[cut:]))
    assert both == of(values)
    assert (both.number, both.total, both.least, both.most) == (len(values), sum(values), min(values), max(values))


@given(VALUES)
def test_quantiles_are_those_of_the_values(values: list[int]) -> None:
    exact = np.percentile(np.array(values), PERCENTS, method="inverted_cdf")
    for found, wanted in zip(of(values).quantiles(), exact.tolist(), strict=True):
        assert wanted * (1 - 1 / 2048) <= found <= wanted


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_histograms_count_every_value_once_and_exactly(values: list[int], about_one: bool) -> None:
    spread = of(values)
    edges = ratio_edges(spread) if about_one else nice_edges(spread, wide_range(spread))
    histogram = spread.histogram(edges)
    assert sum(count for _, _, count in histogram) == len(values) and len(histogram) <= 45
    for low, high, count in histogram:
        assert count == sum(low <= value < high for value in values), (low, high)


def test_edges_are_numbers_that_people_use() -> None:
    assert nice_edges(of([100, 480]), wide=False)[:3] == [100, 120, 140]
    assert nice_edges(of([256]), wide=False) == [256, 257]
    assert nice_edges(of([0]), wide=False) == [0, 1]
    assert nice_edges(of([0, 5000]), wide=True)[0] == 0
    low, high = next(
        (a, b) for a, b, _ in of([500, 1000, 2000]).histogram(ratio_edges(of([500, 2000]))) if a <= 1000 < b
    )
    assert low < 1000 < high and abs(1000 / low - high / 1000) < 0.01
