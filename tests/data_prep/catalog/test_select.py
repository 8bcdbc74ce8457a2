"""Filters, caps, limits and keep lists: what is taken, and that less of it lies inside more of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.errors import UsageError
from pipeline.dataset.keys import sample_key
from tests.data_prep.catalog.listed import ListSource, paths, planned, rows

pytestmark = pytest.mark.fast

MIXED = ListSource(
    tuple(
        {"path": f"{name}/{n}.jpg", "labels": [name], "bytes": 100 * n, "score": n / 10}
        for name, count in (("ant", 40), ("bee", 12), ("cat", 3))
        for n in range(count)
    )
)


def test_where_takes_any_column_also_the_sources_own():
    images, classes = planned(MIXED, where="label = 'ant' AND score >= 1 AND bytes < 1500 -- a comment")
    assert sorted(paths(images["all"])) == sorted(f"ant/{n}.jpg" for n in range(10, 15))
    assert classes.names == ("ant", "bee", "cat")  # ids do not move when a filter leaves classes out


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("width > 3", "columns are"),
        ("label = ", "--where 'label = '"),
        ("1=1); DROP VIEW listing; SELECT (1=1", "more than one statement"),
        ("label = 'dog'", "leaves no image"),
        ("CAST(label AS INTEGER) = 1", "Could not convert"),
        ("Random () < 0.5", "gives another answer every time"),
    ],
)
def test_where_that_is_none(where, said):
    with pytest.raises(UsageError, match="--where") as refused:
        planned(MIXED, where=where)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_limits_and_caps_are_nested_prefixes_of_the_shuffle(one, other, seed):
    fewer, more = sorted((one, other))
    every = paths(planned(MIXED, seed=seed)[0]["all"])
    assert paths(planned(MIXED, seed=seed, limit=fewer)[0]["all"]) == every[:fewer]
    small = paths(planned(MIXED, seed=seed, per_class=fewer)[0]["all"])
    large = paths(planned(MIXED, seed=seed, per_class=more)[0]["all"])
    assert set(small) <= set(large)
    for name, count in (("ant", 40), ("bee", 12), ("cat", 3)):
        assert sum(path.startswith(name) for path in small) == min(fewer, count)


def test_an_image_of_several_classes_counts_where_there_is_room():
    source = ListSource(
        (
            *({"path": f"{n}.jpg", "labels": ["common"], "bytes": 1} for n in range(20)),
            {"path": "both.jpg", "labels": ["common", "rare"], "bytes": 1},
        )
    )
    images, classes = planned(source, per_class=2)
    assert "both.jpg" in paths(images["all"]) and len(images["all"]) in (2, 3)
    assert classes.labels == "multi"


@pytest.mark.parametrize("kind", ["parquet", "text", "text with a header"])
def test_keep_lists(tmp_path, kind):
    keys = [sample_key(f"ant/{n}.jpg") for n in (3, 7, 11)]
    path = tmp_path / ("keep.parquet" if kind == "parquet" else "keep.txt")
    if kind == "parquet":
        pq.write_table(pa.table({"key": keys}), path)
    else:
        path.write_text("".join(line + "\n" for line in (["key"] if "header" in kind else []) + keys))
    images, _ = planned(MIXED, keep=path)
    assert sorted(paths(images["all"])) == ["ant/11.jpg", "ant/3.jpg", "ant/7.jpg"]


def test_a_keep_list_that_is_none(tmp_path):
    (tmp_path / "keep.parquet").write_bytes(b"no parquet")
    with pytest.raises(UsageError, match=r"--keep .*keep.parquet: cannot be read as a list of keys"):
        planned(MIXED, keep=tmp_path / "keep.parquet")
    (tmp_path / "none.txt").write_text("0" * 24)
    with pytest.raises(UsageError, match="--keep leaves no image"):
        planned(MIXED, keep=tmp_path / "none.txt")


def test_sources_with_other_columns_are_one_listing():
    images, _ = planned(MIXED, ListSource(rows(range(5), colour="red")), where="colour = 'red' OR score > 3.8")
    assert sorted(paths(images["all"])) == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "ant/39.jpg"]


def test_text_columns_of_untyped_sources_are_numbers_where_all_of_them_are():
    rows = [("1", "01", "a b"), ("-2.5", "02", "7"), ("3e2", "10", None)]
    source = ListSource(
        tuple(
            {"path": f"{n}.jpg", "labels": ["a"], "bytes": 1, "x": x, "zip": z, 'odd "name"': o}
            for n, (x, z, o) in enumerate(rows)
        ),
        untyped=True,
    )
    assert paths(planned(source, where="x < 0 OR x > 200")[0]["all"]) in (["1.jpg", "2.jpg"], ["2.jpg", "1.jpg"])
    assert paths(planned(source, where="zip = '02'")[0]["all"]) == ["1.jpg"]
    assert paths(planned(source, where='"odd ""name""" = \'7\'')[0]["all"]) == ["1.jpg"]
    with pytest.raises(UsageError, match="--where"):
        planned(source, where="zip > 1")
