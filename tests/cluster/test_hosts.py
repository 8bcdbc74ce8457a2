"""Lists of hosts; that scontrol says the same is in tests/slurm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.hosts import expand, is_host_list

pytestmark = pytest.mark.fast
LISTS = {
    "n1": ["n1"],
    "n[1-3]": ["n1", "n2", "n3"],
    "n[9-11],x": ["n9", "n10", "n11", "x"],
    "a[01-03,7]-ib0": ["a01-ib0", "a02-ib0", "a03-ib0", "a7-ib0"],
    "r[1-2]n[3-4]": ["r1n3", "r1n4", "r2n3", "r2n4"],
    "a,b.c,d-e": ["a", "b.c", "d-e"],
}


@pytest.mark.parametrize("text", LISTS)
def test_lists_in_slurms_forms(text: str) -> None:
    assert expand(text) == LISTS[text]


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 99)), min_size=1, max_size=5), st.integers(1, 5))
def test_ranges_of_any_width(ranges: list[tuple[int, int]], width: int) -> None:
    text = ",".join(f"{first:0{width}d}-{first + more:0{width}d}" for first, more in ranges)
    expected = [f"n{number:0{width}d}x" for first, more in ranges for number in range(first, first + more + 1)]
    assert expand(f"n[{text}]x") == expected
    assert expand(",".join(expected)) == expected


@given(st.text(alphabet="an[]-,1290 ;$", max_size=30))
def test_anything_else_is_refused_or_some_hosts(text: str) -> None:
    try:
        hosts = expand(text)
    except ValueError:
        return
    assert hosts and all(is_host_list(host) and not set(host) & set("[], ;$") for host in hosts)


@pytest.mark.parametrize("text", ["", "n[1-", "n[]", "n[3-1]", "n[1-3]]", ",", "a,,b", "-x", "a b", "n[1-99999999]"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        expand(text)


def test_no_list_takes_all_memory() -> None:
    with pytest.raises(ValueError, match="more than"):
        expand("n" + "[1-999]" * 8)
