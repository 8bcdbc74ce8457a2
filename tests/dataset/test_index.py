"""The index gives back every row, wherever its batches end."""

import pyarrow as pa
import pytest

from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.index import SCHEMA, ShardIndex, write_index
from pipeline.dataset.keys import sample_key
from pipeline.dataset.row import IndexRow

pytestmark = pytest.mark.fast


def rows(count: int) -> list[IndexRow]:
    return [
        IndexRow(sample_key(str(n)), 2**40 + 512 * n, n + 1, tuple(range(n % 3)), n % 7 + 1, n % 5 + 1)
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 2048, 3000])
def test_every_row_comes_back(tmp_path, count):
    write_index(tmp_path / "s.arrow", rows(count))
    index = ShardIndex(tmp_path / "s.arrow")
    assert len(index) == count
    assert [index.row(position) for position in range(count)] == rows(count)
    assert index.keys() == [row.key for row in rows(count)]


@pytest.mark.parametrize("labels", [1, 3])
def test_rows_come_in_the_order_they_are_asked_for(tmp_path, labels):
    written = [row._replace(labels=tuple(range(n % labels + 1))) for n, row in enumerate(rows(2500))]
    written[1030] = written[1030]._replace(key="Häuser/über.jpg")
    write_index(tmp_path / "s.arrow", written)
    positions = [3, 4, 1023, 1024, 1030, 2047, 2499, 0, 0, 2048]
    index = ShardIndex(tmp_path / "s.arrow")
    assert index.rows(positions) == [written[position] for position in positions]
    assert index.rows([]) == [] and all(type(value) is int for value in index.row(5)[1:3])


def test_a_value_that_is_missing_is_damage(tmp_path):
    for name in ("key", "offset", "labels"):
        columns = {n: [getattr(row, n) for row in rows(3)] for n in IndexRow._fields}
        columns[name][1] = None
        schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
        with pa.ipc.new_file(str(tmp_path / "s.arrow"), SCHEMA) as writer:
            batch = pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=SCHEMA)
            writer.write_batch(batch)
        with pytest.raises(WorkFailed, match=r"s\.arrow: no readable index"):
            ShardIndex(tmp_path / "s.arrow", 3).row(1)


def test_a_key_is_found_and_a_stranger_is_not(tmp_path):
    write_index(tmp_path / "s.arrow", rows(3000))
    index = ShardIndex(tmp_path / "s.arrow")
    assert [index.find(sample_key(str(n))) for n in (0, 1023, 1024, 2999)] == [0, 1023, 1024, 2999]
    assert index.find(sample_key("3000")) is None


def test_equal_rows_give_equal_bytes_that_any_arrow_reader_opens(tmp_path):
    for name in "ab":
        write_index(tmp_path / name, rows(2500))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pa.ipc.open_file(str(tmp_path / "a")) as reader:
        assert [reader.get_batch(b).num_rows for b in range(3)] == [1024, 1024, 452]
        assert reader.schema.names == ["key", "offset", "size", "labels", "width", "height"]


@pytest.mark.parametrize("content", [b"", b"no index", b"ARROW1\0\0" + bytes(100)])
def test_what_is_no_index_is_named(tmp_path, content):
    (tmp_path / "s.arrow").write_bytes(content)
    with pytest.raises(WorkFailed, match=r"s\.arrow: no readable index"):
        ShardIndex(tmp_path / "s.arrow")
    with pytest.raises(WorkFailed, match=r"missing\.arrow: no readable index"):
        ShardIndex(tmp_path / "missing.arrow")


def test_another_table_is_no_index(tmp_path):
    with pa.ipc.new_file(str(tmp_path / "s.arrow"), pa.schema([("key", pa.string())])):
        pass
    with pytest.raises(WorkFailed, match="columns"):
        ShardIndex(tmp_path / "s.arrow")
