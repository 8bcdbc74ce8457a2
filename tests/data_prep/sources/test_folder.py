"""What counts as an image, under which name, and in which class."""

import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import open_sources
from data_prep.sources.base import COLUMNS, Place
from data_prep.sources.options import SourceOptions
from pipeline.dataset.errors import UsageError
from pipeline.dataset.images import ImageError
from pipeline.dataset.names import escape, from_bytes, to_bytes, unescape
from tests.images import write_photo

pytestmark = pytest.mark.fast


@given(st.binary())
def test_every_file_name_becomes_one_line_of_text_and_back(name):
    text = escape(from_bytes(name))
    assert to_bytes(unescape(text)) == name
    assert len(text.splitlines()) <= 1
    assert json.loads(json.dumps(text, ensure_ascii=False).encode().decode()) == text


@pytest.mark.parametrize("name", ["a/photo 1.jpg", "ü/写真.png", "a.b/c.d.e.webp"])
def test_ordinary_names_are_their_own_escape(name):
    assert escape(name) == name


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def rows(path):
    ignored = Counter()
    (source,) = open_sources([str(path)], SourceOptions())
    found = [row for batch in source.batches(ignored) for row in batch.to_pylist()]
    return source, found, dict(ignored)


def test_paths_in_an_order_of_their_own_and_the_class_first(tmp_path):
    for name in ("b/2.jpg", "Z/1.PNG", "a/deep/er/3.jpeg", "ä/4.WebP", "a/0.gif", "a-b/5.tiff"):
        touch(tmp_path / name)
    source, found, _ = rows(tmp_path)
    assert [(row["path"], row["labels"]) for row in found] == [
        ("Z/1.PNG", ["Z"]), ("a/0.gif", ["a"]), ("a/deep/er/3.jpeg", ["a"]), ("a-b/5.tiff", ["a-b"]),
        ("b/2.jpg", ["b"]), ("ä/4.WebP", ["ä"]),
    ]  # fmt: skip
    assert (source.name, source.numbered, source.multi, source.streamed) == (tmp_path.name, False, False, False)


def test_a_listing_has_the_agreed_columns_in_batches(tmp_path):
    touch(tmp_path / "a/1.jpg")
    (source,) = open_sources([str(tmp_path)], SourceOptions())
    (batch,) = source.batches(Counter())
    assert [batch.schema.field(name) for name in COLUMNS.names] == list(COLUMNS)


def test_bytes_are_those_that_were_listed(tmp_path):
    touch(tmp_path / "a/1.jpg", b"12345")
    source, ((row),), _ = rows(tmp_path)
    place = Place(row["file"], row["offset"], row["bytes"])
    assert source.read(place) == b"12345"
    touch(tmp_path / "a/1.jpg", b"123456")
    with pytest.raises(ImageError, match="changed since it was listed: from 5 to 6 bytes"):
        source.read(place)
    (tmp_path / "a/1.jpg").unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        source.read(place)


def test_what_is_no_image_is_counted(tmp_path):
    for name in ("a/1.jpg", "a/.2.jpg", ".git/3.jpg", "a/notes.txt", "a/jpg", "README.md"):
        touch(tmp_path / name)
    _, found, ignored = rows(tmp_path)
    assert [row["path"] for row in found] == ["a/1.jpg"]
    assert ignored == {"hidden files or folders": 2, "files without an image suffix": 3}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere/1.jpg", b"123")
    source = tmp_path / "source"
    touch(source / "a/2.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a/3.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (source / "a/back").symlink_to(source)
    (source / "a/self.jpg").symlink_to("self.jpg")
    _, found, ignored = rows(source)
    assert {row["path"]: row["bytes"] for row in found} == {
        "a/2.jpg": 1, "a/3.jpg": 3, "a/self.jpg": 0, "linked/1.jpg": 3,
    }  # fmt: skip
    assert ignored == {"links that lead back": 1}


def test_one_folder_given_twice_is_refused_by_whatever_name(tmp_path):
    touch(tmp_path / "one/a/1.jpg")
    (tmp_path / "alias").symlink_to("one")
    with pytest.raises(UsageError, match="alias: given twice as SOURCE"):
        open_sources([str(tmp_path / "one"), str(tmp_path / "alias")], SourceOptions())


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "no such"), ("loop", "circle"), ("empty", "no images in it")])
def test_what_is_no_folder_of_images_is_one_line(tmp_path, name, reason):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=rf"{name}: .*{reason}"):
        rows(tmp_path / name)


def test_an_image_without_a_class_is_refused(tmp_path):
    touch(tmp_path / "a/1.jpg")
    touch(tmp_path / "loose.jpg")
    with pytest.raises(UsageError, match=r"loose.jpg: an image without a class; move it into a class folder"):
        rows(tmp_path)


def test_names_that_are_no_utf8(tmp_path):
    write_photo(tmp_path / os.fsdecode(b"caf\xe9/new\nline.jpg"), 8, 8, 0)
    source, (row,), _ = rows(tmp_path)
    assert (row["labels"], row["path"]) == ([r"caf\xe9"], r"caf\xe9/new\x0aline.jpg")
    assert len(source.read(Place(row["file"], row["offset"], row["bytes"]))) == row["bytes"]
