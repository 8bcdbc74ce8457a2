"""Tables: which column is what, what a cell says, what is refused and what is rejected, by file and line."""

import gzip
import json
import pickle  # to make a hostile file: nothing here loads one

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.foreign.packed import LabelError
from data_prep.sources.tables.cells import labels_of, locate
from pipeline.dataset.errors import UsageError
from pipeline.dataset.names import from_bytes
from tests.data_prep.sources.listing import ignored, opened, read_all, rows

pytestmark = pytest.mark.fast


def table(path, text, *images):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for image in images:
        (path.parent / image).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / image).write_bytes(image.encode())
    return path


def test_csv_of_paths_and_names(tmp_path):
    source = opened(
        table(tmp_path / "a.csv", "path,label,width\na/1.jpg,cat,3\n./b//2.jpg,dog,\n", "a/1.jpg", "b/2.jpg")
    )
    assert (source.name, source.numbered, source.multi, source.streamed, source.remote) == (
        "a.csv", False, False, False, False,
    )  # fmt: skip
    assert [(row["path"], row["labels"], row["width"]) for row in rows(source)] == [
        ("a/1.jpg", ["cat"], "3"), ("b/2.jpg", ["dog"], ""),
    ]  # fmt: skip
    assert read_all(source) == {"a/1.jpg": b"a/1.jpg", "b/2.jpg": b"b/2.jpg"}


def test_a_path_has_the_same_name_as_in_a_folder(tmp_path):
    source = opened(table(tmp_path / "cats.tsv", "file\tcls\na/1.jpg\t0\n", "a/1.jpg"))
    folder = opened(tmp_path)  # not of tables: there is a folder in it
    assert [row["path"] for row in rows(source)] == [row["path"] for row in rows(folder)]


@pytest.mark.parametrize(
    ("text", "numbered", "multi", "labels"),
    [
        ("path,label\n1.jpg,3\n2.jpg,0\n", True, False, [["3"], ["0"]]),
        ("path,label\n1.jpg,3\n2.jpg,cat\n", False, False, [["3"], ["cat"]]),
        ("path,label\n1.jpg,007\n2.jpg,12\n", False, False, [["007"], ["12"]]),
        ('path,labels\n1.jpg,"[3, 5]"\n2.jpg,[]\n', True, True, [["3", "5"], []]),
        ('path,labels\n1.jpg,"[""a"", ""b, c""]"\n2.jpg,d\n', False, True, [["a", "b, c"], ["d"]]),
    ],
)
def test_labels_of_text_are_numbers_where_all_are(tmp_path, text, numbered, multi, labels):
    source = opened(table(tmp_path / "a.csv", text))
    found = rows(source)
    assert (source.numbered, source.multi, [row["labels"] for row in found]) == (numbered, multi, labels)
    assert not any(row["reject"] for row in found)


def test_minus_one_among_numbers_is_no_label(tmp_path):
    source = opened(table(tmp_path / "a.csv", "path,label\n1.jpg,-1\n2.jpg,10\n3.jpg,2\n"))
    assert source.numbered and [row["labels"] for row in rows(source)] == [[], ["10"], ["2"]]
    assert [row["reject"] for row in rows(source)] == ["no label (a.csv, line 2)", None, None]
    names = opened(table(tmp_path / "b.csv", "path,label\n1.jpg,-1\n2.jpg,cat\n"))
    assert [row["labels"] for row in rows(names)] == [["-1"], ["cat"]]


def test_several_label_columns_are_one_set(tmp_path):
    text = "path,genus,species,other\n1.jpg,canis,lupus,\n2.jpg,felis,,x\n3.jpg,,,\n4.jpg,same,same,\n"
    source = opened(table(tmp_path / "a.csv", text), labels=("genus", "species"))
    assert source.multi
    assert [(row["labels"], row["reject"]) for row in rows(source)] == [
        (["canis", "lupus"], None),
        (["felis"], None),
        ([], "no label (a.csv, line 4)"),
        ([], "has a label twice (a.csv, line 5)"),
    ]


def test_hard_text(tmp_path):
    long = "n" * 290 + ".v1.2.jpg"
    names = [
        'with "quotes", comma.jpg',
        "new\nline.jpg",
        "写真 ü.jpg",
        long,
        "dots.in.name.jpg",
        from_bytes(b"caf\xe9.jpg"),
    ]
    lines = "".join('"{}",{}\r\n'.format(name.replace('"', '""'), "classe é") for name in names)
    path = table(tmp_path / "a.csv", b"\xef\xbb\xbfpath,label\r\n" + lines.encode("utf-8", "surrogateescape"))
    for name in names:
        if len(name) < 255:
            (tmp_path / name).write_bytes(b"x")
    found = read_all(opened(path))
    assert list(found) == [name if name.isprintable() else found for name, found in zip(names, found, strict=True)]
    assert set(found) == {
        'with "quotes", comma.jpg', r"new\x0aline.jpg", "写真 ü.jpg", long, "dots.in.name.jpg", r"caf\xe9.jpg",
    }  # fmt: skip
    assert found.pop(long) == "cannot be read: File name too long"
    assert set(found.values()) == {b"x"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "path,label\na.jpg\n", "line 2: 1 cells, the header has 2"),
        ("a.csv", 'path,label\na.jpg,x\n"b.jpg,x\n', "line 3: .*is a quote missing"),
        ("a.csv", "path,path,label\n", "two columns 'path'"),
        ("a.csv", "path,label\n", "no rows in it"),
        ("a.csv", "", "which column is the image"),
        ("a.csv", "x,y\n1,2\n", "which column is the image.*x, y; name it with --image"),
        ("a.csv", "path,y\n1,2\n", "which column is the label.*path, y; name it with --labels"),
        ("a.csv", "path,url,label\n1,2,3\n", "path, url may all be it; name it with --image"),
        ("a.csv", "path,label\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"path,label\n" + b"x" * 5 * 2**20, "longer than"),
        ("a.csv.gz", b"\x1f\x8b nonsense", "damaged"),
        ("a.jsonl", '{"path": "a.jpg", "label": 1}\n[]\n', "line 2: not a JSON object"),
        ("a.jsonl", "[" * 100_000, "line 1: not a JSON object"),
        ("a.parquet", "nonsense", "damaged, or no Parquet"),
        ("a.parquet", pickle.dumps({"a": 1}), "damaged, or no Parquet"),
    ],
)
def test_tables_that_are_refused_by_name(tmp_path, name, content, reason):
    path = table(tmp_path / name, content)
    with pytest.raises(UsageError, match=rf"{name}: .*{reason}") as caught:
        rows(opened(path))
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_before_it_has_gone_off(tmp_path, monkeypatch):
    path = table(tmp_path / "a.csv.gz", gzip.compress(b"path,label\n" + b"a.jpg,1\n" * 200_000))
    monkeypatch.setattr("data_prep.sources.inflate._SLACK", 2**16)
    with pytest.raises(UsageError, match=r"a.csv.gz: inflates to more than 200 times its size: refused as a bomb"):
        rows(opened(path))


def test_a_compressed_table_is_read_as_it_is(tmp_path):
    path = table(tmp_path / "a.tsv.gz", gzip.compress(b"path\tlabel\n1.jpg\tx\n"))
    assert [row["path"] for row in rows(opened(path))] == ["1.jpg"]


def test_rows_that_cannot_be_used_are_rejected_by_line(tmp_path):
    cells = ["", "../1.jpg", "a/../../1.jpg", "file:///etc/passwd", "pipe:cat", "pipe://x", "..", "/"]
    path = table(tmp_path / "t/a.csv", "path,label\n" + "".join(f"{cell},x\n" for cell in cells) + "1.jpg,\n")
    (tmp_path / "1.jpg").write_bytes(b"secret")
    found = rows(opened(path))
    reasons = ["no image", *["leads out"] * 2, "not a URL", None, "not a URL", *["leads out"] * 2, "no label"]
    for row, reason, line in zip(found, reasons, range(2, 20), strict=False):
        assert row["reject"] is None if reason is None else reason in row["reject"]
        assert row["reject"] is None or f"(a.csv, line {line})" in row["reject"]
    assert b"secret" not in read_all(opened(path)).values()


def test_an_absolute_path_is_read_but_not_for_a_table_from_elsewhere(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"1")
    source = opened(table(tmp_path / "t/a.csv", f"path,label\n{tmp_path}/1.jpg,x\n"))
    assert read_all(source) == {f"{tmp_path}/1.jpg": b"1"}
    assert locate(f"{tmp_path}/1.jpg", "s3://bucket").reject == "a local path in a remote table"
    assert locate("x/1.jpg", "s3://bucket/t").file == "s3://bucket/t/x/1.jpg"


def test_a_presigned_url_is_read_whole_and_shown_without_its_signature():
    cell = "https://me:secret@host/a/1.jpg?X-Amz-Signature=secret#x"
    assert (locate(cell, "/").path, locate(cell, "/").file) == ("https://host/a/1.jpg", cell)


def test_a_key_column_names_images(tmp_path):
    text = f"path,label,id\n1.jpg,x,{'ab' * 12}\n2.jpg,y,\n"
    found = rows(opened(table(tmp_path / "a.csv", text), key="id"))
    assert [(row["path"], row["reject"]) for row in found] == [("ab" * 12, None), ("a.csv/1", "no key (a.csv, line 3)")]


def test_a_folder_of_tables_is_one_source(tmp_path):
    for number in range(3):
        table(tmp_path / f"{number}.csv", f"path,label,n\n{number}.jpg,x,{number}\n")
    (tmp_path / "README.md").write_text("")
    assert [(row["path"], row["n"]) for row in rows(opened(tmp_path))] == [
        ("0.jpg", "0"),
        ("1.jpg", "1"),
        ("2.jpg", "2"),
    ]
    table(tmp_path / "3.csv", "path,other\n3.jpg,x\n")
    with pytest.raises(UsageError, match=r"3.csv: no column 'label'"):
        rows(opened(tmp_path))
    table(tmp_path / "3.jsonl", "")
    with pytest.raises(UsageError, match="several kinds"):
        opened(tmp_path)


def test_jsonl_keeps_its_types(tmp_path):
    lines = [{"file": "1.jpg", "labels": ["1", "b"], "n": 3}, {"file": "2.jpg", "labels": [], "n": {"a": "ü"}}]
    source = opened(table(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n"))
    assert (source.numbered, source.multi) == (False, True)
    assert [(row["labels"], row["n"]) for row in rows(source)] == [(["1", "b"], "3"), ([], '{"a": "ü"}')]


def test_parquet_of_paths_passes_typed_columns_through(tmp_path):
    columns = {
        "URL": ["https://h/1.jpg?sig=x", "https://h/2.jpg", "https://h/3.jpg"],
        "class": pa.array([5, None, -1], pa.int32()),
        "width": pa.array([640, 300, 1], pa.int64()),
        "Width": ["collides", "", ""],
        "embedding": [[1.0], [2.0], [3.0]],
        "bytes": [1, 2, 3],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    source = opened(tmp_path / "a.parquet")
    assert (source.numbered, source.remote) == (True, True)
    found = rows(source)
    assert [(row["path"], row["labels"], row["width"], row["bytes"]) for row in found] == [
        ("https://h/1.jpg", ["5"], 640, -1), ("https://h/2.jpg", [], 300, -1), ("https://h/3.jpg", [], 1, -1),
    ]  # fmt: skip
    assert found[0]["file"] == "https://h/1.jpg?sig=x"
    assert [row["reject"] for row in found] == [None, "no label (a.parquet, row 1)", "no label (a.parquet, row 2)"]
    assert ignored(source) == {"columns of tables that --where cannot use": 3}


def hugging_face(path, names=("cat", "dog"), count=100, multi=False):
    images = [{"bytes": b"image %d" % i, "path": f"{i}.jpg"} for i in range(count)]
    feature = {"names": list(names), "_type": "ClassLabel"}
    labels = [[i % 2] if multi else i % 2 for i in range(count)]
    info = {"info": {"features": {"label": {"feature": feature, "_type": "Sequence"} if multi else feature}}}
    columns = pa.table({"image": images, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(columns, path, row_group_size=30)


@pytest.mark.parametrize("multi", [False, True])
def test_hugging_face_parquet(tmp_path, multi):
    for number in range(2):
        hugging_face(tmp_path / f"train-0000{number}-of-00002.parquet", multi=multi)
    source = opened(tmp_path)
    assert (source.streamed, source.numbered, source.multi) == (True, True, multi)
    assert source.class_names == ("cat", "dog")
    found = read_all(source)
    assert len(found) == 200
    assert found["train-00001-of-00002.parquet/99"] == b"image 99"


def test_plain_bytes_in_parquet_and_missing_ones(tmp_path):
    columns = {"img": pa.array([b"a", None], pa.large_binary()), "label": ["x", "y"], "name": ["p", "q"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_all(opened(tmp_path / "a.parquet", key="name")) == {"p": b"a", "q": b""}


def test_named_columns_must_be_there(tmp_path):
    path = table(tmp_path / "a.csv", "path,label\n1.jpg,x\n")
    for option in ({"image": "nope"}, {"labels": ("nope",)}, {"key": "nope"}):
        with pytest.raises(UsageError, match="no column 'nope'; it has path, label"):
            opened(path, **option)
    table(tmp_path / "f/a/1.jpg", "")
    with pytest.raises(UsageError, match="--labels: names a column, but no SOURCE is a table"):
        opened(tmp_path / "f", labels=("x",))


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda x: st.lists(x, max_size=3)
)


@given(st.lists(CELLS, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, False, True]))
def test_no_cell_makes_it_raise_anything_else(cells, text, numbered):
    try:
        labels = labels_of(cells, text, numbered)
    except LabelError as error:
        assert str(error)
    else:
        assert len(set(labels.values)) == len(labels.values)
        "".join(labels.values).encode()


@given(CELLS, st.sampled_from(["/table/folder", "s3://bucket/folder", "https://h/f"]))
def test_no_cell_leads_out(cell, base):
    found = locate(cell, base)
    found.path.encode()
    if found.reject is None:
        assert ".." not in found.file.split("/") or "://" in found.file
        assert base.startswith("/") or "://" in found.file
