"""What counts as an image, under which name, and in which class."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.names import escape, from_bytes, to_bytes, unescape
from data_prep.sources.folder import list_images
from pipeline.dataset.errors import UsageError
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


def test_classes_and_paths_sorted_by_their_bytes(tmp_path):
    for name in ("b/2.jpg", "Z/1.PNG", "a/deep/er/3.jpeg", "ä/4.WebP", "a/0.gif", "a-b/5.jpg"):
        touch(tmp_path / name)
    listing = list_images([tmp_path])
    assert listing.classes == ("Z", "a", "a-b", "b", "ä")
    assert [image.path for image in listing.images] == [
        "Z/1.PNG", "a-b/5.jpg", "a/0.gif", "a/deep/er/3.jpeg", "b/2.jpg", "ä/4.WebP",
    ]  # fmt: skip
    assert [listing.classes[image.label] for image in listing.images] == ["Z", "a-b", "a", "a", "b", "ä"]


def test_what_is_no_image_is_counted(tmp_path):
    for name in ("a/1.jpg", "a/.2.jpg", ".git/3.jpg", "a/notes.txt", "a/jpg", "README.md"):
        touch(tmp_path / name)
    listing = list_images([tmp_path])
    assert [image.path for image in listing.images] == ["a/1.jpg"]
    assert listing.ignored == {"hidden files or folders": 2, "files without an image suffix": 3}


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere/1.jpg", b"123")
    source = tmp_path / "source"
    touch(source / "a/2.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a/3.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    (source / "a/back").symlink_to(source)
    (source / "a/self.jpg").symlink_to("self.jpg")
    listing = list_images([source])
    assert {image.path: image.bytes for image in listing.images} == {
        "a/2.jpg": 1, "a/3.jpg": 3, "a/self.jpg": 0, "linked/1.jpg": 3,
    }  # fmt: skip
    assert listing.ignored == {"links that lead back": 1}


def test_two_sources_are_one_corpus_unless_they_share_a_path(tmp_path):
    touch(tmp_path / "one/a/1.jpg")
    touch(tmp_path / "two/b/1.jpg")
    listing = list_images([tmp_path / "one", tmp_path / "two"])
    assert [(image.path, image.source) for image in listing.images] == [("a/1.jpg", 0), ("b/1.jpg", 1)]
    touch(tmp_path / "two/a/1.jpg")
    with pytest.raises(UsageError, match=rf"'a/1.jpg' lies in {tmp_path}/one and in {tmp_path}/two"):
        list_images([tmp_path / "one", tmp_path / "two"])


def test_key_and_digest_do_not_depend_on_where_the_source_lies(tmp_path):
    for folder in ("here", "there"):
        touch(tmp_path / folder / "a/1.jpg")
    here, there = (list_images([tmp_path / folder]) for folder in ("here", "there"))
    assert here.images == there.images and here.digest() == there.digest()
    touch(tmp_path / "there/a/1.jpg", b"longer")
    assert list_images([tmp_path / "there"]).digest() != here.digest()


def test_an_image_without_a_class_is_refused(tmp_path):
    touch(tmp_path / "a/1.jpg")
    touch(tmp_path / "loose.jpg")
    with pytest.raises(UsageError, match=r"loose.jpg: an image without a class; move it into a class folder"):
        list_images([tmp_path])


def test_names_that_are_no_utf8(tmp_path):
    write_photo(tmp_path / os.fsdecode(b"caf\xe9/new\nline.jpg"), 8, 8, 0)
    listing = list_images([tmp_path])
    assert listing.classes == (r"caf\xe9",)
    assert escape(listing.images[0].path) == r"caf\xe9/new\x0aline.jpg"
