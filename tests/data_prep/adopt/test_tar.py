"""One tar of others: every sample that can be used is found, with its label; every other is named, with the reason."""

import json
import os
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.adopt.tar import scan_tar
from data_prep.foreign.packed import NO_LABELS, LabelError, Labels, from_cls, from_json, from_value
from data_prep.foreign.tars import BrokenTar
from pipeline.dataset.containers import TarFile, Unreadable
from pipeline.dataset.keys import own_key, sample_key, sample_name
from pipeline.dataset.row import IndexRow
from tests.data_prep.adopt.tars import Member, entries, photo, split, write_tar

pytestmark = pytest.mark.fast

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def scan(tmp_path: Path, *members: Member, how: int = tarfile.USTAR_FORMAT, mtime: float = 0):
    return split(list(scan_tar(write_tar(tmp_path / "x.tar", members, how, mtime), "x.tar")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), how=st.sampled_from(sorted(FORMATS)), mtime=st.sampled_from([0, 1.5]))
def test_members_may_lie_in_any_order(tmp_path: Path, order: random.Random, how: str, mtime: float) -> None:
    photos = entries(7)
    members = [(f"a/{n}.jpg", entry.data) for n, entry in enumerate(photos)]
    members += [(f"a/{n}.cls", b"%d" % entry.label) for n, entry in enumerate(photos)]
    members += [("a/0.txt", b"a caption"), ("README", b"x" * 2000), ("a/3.seg.png", b"a mask")]
    order.shuffle(members)
    samples, rejects = scan(tmp_path, *members, how=FORMATS[how], mtime=mtime)
    assert rejects == {}
    shuffled = [int(name[2]) for name, _ in members if name.endswith(".jpg")]
    assert [sample.key for sample in samples] == [sample_key(f"x.tar/a/{n}") for n in shuffled]
    data = (tmp_path / "x.tar").read_bytes()
    for sample, n in zip(samples, shuffled, strict=True):
        assert data[sample.offset : sample.offset + sample.size] == photos[n].data
        assert (sample.labels.values, sample.width, sample.height) == ((str(photos[n].label),), 32, 24)
        assert sample.name == f"x.tar/a/{n}"


def test_every_sample_that_is_found_is_read_again_by_its_key(tmp_path: Path) -> None:
    key = "0123456789abcdef01234567"
    names = [f"{key}.jpg", f"deep/{'d' * 60}/{'n' * 90}.jpeg", "größe.png", "./dot/b.JPG"]
    how = tarfile.GNU_FORMAT  # in which short names may hold any bytes
    names[1] = f"deep/{'n' * 80}.jpeg"
    samples, rejects = scan(tmp_path, *((name, photo()) for name in names), how=how)
    assert rejects == {} and samples[0].key == key
    file = TarFile(tmp_path / "x.tar")
    for sample in samples:
        row = IndexRow(sample.key, sample.offset, sample.size, (7,), 1, 1)
        assert file.read(row).data == photo() and file.read(row).key == sample.key
        with pytest.raises(Unreadable, match="another member"):
            file.read(IndexRow("f" * 24, sample.offset, sample.size, (7,), 1, 1))
        with pytest.raises(Unreadable, match="another member"):
            file.read(IndexRow(sample.key, sample.offset + 512, sample.size - 512, (7,), 1, 1))
    file.close()


@pytest.mark.parametrize(("how", "fits"), [("ustar", True), ("gnu", False), ("pax", False)])
def test_long_names(tmp_path: Path, how: str, fits: bool) -> None:
    """Those that a plain header cannot hold are left out by name: reading could not check them."""
    name = f"{'d' * 60}/{'e' * 60}/{'n' * 60}"
    samples, rejects = scan(tmp_path, (f"{name}.jpg", photo()), (f"{name}.cls", b"1"), how=FORMATS[how])
    if fits or samples:
        assert [sample.name for sample in samples] == [f"x.tar/{name}"]
    else:
        assert list(rejects) == [f"x.tar/{name}"] and "vitstream shard can take it" in rejects[f"x.tar/{name}"]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "own", "reason"),
    [
        ([("a.cls", b"1")], "a", "no image"),
        ([("a.jpg", photo()), ("a.png", photo())], "a", "several images of one name: a.jpg, a.png"),
        ([("a.jpg", photo()), ("./a.jpg", photo())], "a", "several images of one name: a.jpg, a.jpg"),
        ([("a.jpg", photo()), ("a.cls", b"1"), ("a.cls", b"2")], "a", "several .cls of one name"),
        ([("a.1.jpg", photo())], "a", "no image: a.1.jpg has more than one dot, and names end at the first"),
        ([("a.jpg", b"no picture"), ("a.cls", b"1")], "a", "not an image"),
        ([("a.jpg", b""), ("a.cls", b"1")], "a", "empty file"),
        ([("a.jpg", photo()), ("a.cls", b"-1")], "a", "label -1 is no class id"),
        ([("a.jpg", photo()), ("a.cls", b" \n")], "a", "label is empty"),
        ([("a.jpg", photo()), ("a.cls", b"\xff")], "a", "label is no UTF-8 text"),
        ([("a.jpg", photo()), ("a.cls", b"x" * 2000)], "a", "label is no class name: too long"),
        ([("a.jpg", photo()), ("a.json", b"{")], "a", "its .json is damaged"),
        ([("a.jpg", photo()), ("a.json", b"[" * 100_000)], "a", "its .json is damaged"),
        ([("a.jpg", photo()), ("a.json", b'{"label": 1.5}')], "a", "label is neither a number nor a name"),
        ([("a.jpg", photo()), ("a.json", b" " * 2**20 + b"{}")], "a", "its .json has 1,048,578 bytes"),
        ([link("a.jpg", "/etc/passwd"), ("a.cls", b"1")], "a", "a.jpg is a link, not a file"),
        ([link("a.jpg", "b.jpg", tarfile.LNKTYPE), ("a.cls", b"1")], "a", "a.jpg is a link, not a file"),
        ([link("a.jpg", "", tarfile.CHRTYPE)], "a", "a.jpg is a device or a pipe, not a file"),
        ([("../a.jpg", photo())], "../a", "a.jpg has a name with '..'"),
        ([("/etc/a.jpg", photo())], "/etc/a", "a.jpg has an absolute name"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, members: list[Member], own: str, reason: str) -> None:
    samples, rejects = scan(tmp_path, ("z.jpg", photo(1)), *members, ("z.cls", b"3"))
    assert [sample.name for sample in samples] == ["x.tar/z"] and samples[0].labels.values == ("3",)
    assert list(rejects) == [f"x.tar/{own}"] and reason in rejects[f"x.tar/{own}"]


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n")
    samples, _ = scan(tmp_path, (f"{name}.jpg", photo()), how=tarfile.GNU_FORMAT)
    assert samples[0].name == r"x.tar/caf\xe9\x0a" and samples[0].key == sample_key(f"x.tar/{name}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-12_000], "ends at byte"),
        (lambda data: b"x" * 512 + data, "no tar"),
        (lambda _: b"", "ends"),
    ],
)
def test_a_tar_that_is_none(tmp_path: Path, change, reason: str) -> None:
    path = write_tar(tmp_path / "x.tar", [("a.jpg", photo()), ("a.cls", b"1")] * 3)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenTar, match=reason):
        list(scan_tar(path, "x.tar"))


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ({"label": 3}, Labels("number", ("3",))),
        ({"cls": "cat", "class_id": 1}, Labels("name", ("cat",))),
        ({"class_id": 0}, Labels("number", ("0",))),
        ({"labels": [3, 1]}, Labels("number", ("3", "1"), several=True)),
        ({"labels": ["dog", " cat\n"]}, Labels("name", ("dog", "cat"), several=True)),
        ({"labels": []}, Labels("none", (), several=True)),
        ({"label": "12"}, Labels("name", ("12",))),  # a text is a name, even of digits
        ({"caption": "a cat"}, NO_LABELS),
        ({"label": None}, NO_LABELS),
        ([1, 2], NO_LABELS),
    ],
)
def test_labels_in_json(body: object, labels: Labels) -> None:
    assert from_json(json.dumps(body).encode()) == labels


@pytest.mark.parametrize("value", [True, 1.0, {}, [[1]], [1, "a"], [1, 1], 2**32, -1, "", [None]])
def test_values_that_are_no_labels(value: object) -> None:
    with pytest.raises(LabelError):
        from_value(value)


def test_labels_nested_as_deep_as_json_goes() -> None:
    for depth in (2, 600, 900):
        with pytest.raises(LabelError, match="neither"):
            from_json(b'{"label":' + b"[" * depth + b"1" + b"]" * depth + b"}")


def test_labels_in_cls() -> None:
    assert from_cls(b"007\n") == Labels("number", ("7",))
    assert from_cls("größe".encode()) == Labels("name", ("größe",))
    with pytest.raises(LabelError):
        from_cls(b"9" * 20)


def test_names_end_where_webdataset_ends_them() -> None:
    from webdataset.tariterators import base_plus_ext

    for name in ("a.jpg", "a/b.c.jpg", "a.b/c.jpg", "a.b/c.d.e"):
        assert sample_name(name) == base_plus_ext(name)[0]
    key = "a" * 24
    assert own_key("x.tar", f"train/{key}.jpg") == own_key("y.tar", key) == key
    assert own_key("x.tar", "a.jpg") != own_key("y.tar", "a.jpg")
