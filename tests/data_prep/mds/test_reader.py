"""MDS folders become datasets where they lie; damage and hostile indexes are one line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.adopt.adopt import adopt
from data_prep.audit.dataset import verify
from data_prep.foreign.packed import LabelError, Labels
from data_prep.mds.reader import decode_label, read_index
from pipeline.data.sample import Hole, Sample
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.keys import sample_key
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.mds import Column, MdsError, MdsShard
from pipeline.dataset.mds_columns import choose_columns
from tests.data_prep.adopt.tars import entries
from tests.data_prep.mds.folders import write_folder, write_shard
from tests.reading import DatasetReader
from tests.runs import steps_of, train, write_run


def rows(count: int, **columns) -> list[dict[str, object]]:
    """Photos with `columns`: name -> function of the row's number and its entry."""
    return [{name: of(number, entry) for name, of in columns.items()} for number, entry in enumerate(entries(count))]


def index(folder: Path, out: Path, **options) -> Manifest:
    return adopt([folder], out, options.get("classes"), options.get("max_rejects", "0"), workers=1).manifest


def read_all(dataset: Path) -> list[Sample | Hole]:
    manifest = read_manifest(dataset)
    reader = DatasetReader(dataset, manifest)
    return [reader.read(number) for number in range(manifest.samples)]


@pytest.mark.parametrize("below", ["", "part/"])
def test_images_are_read_where_they_lie(tmp_path, below):
    """Whatever other columns there are, before and behind it."""
    columns = {"x": "jpeg", "y": "int", "caption": "str", "zeta": "json", "blob": "pkl", "a": "uint16"}
    of = {
        "x": lambda n, entry: entry.data,
        "y": lambda n, entry: entry.label,
        "caption": lambda n, entry: "c" * n,
        "zeta": lambda n, entry: [n],
        "blob": lambda n, entry: b"cos\nsystem\n(S'touch /tmp/unpickled'\ntR.",
        "a": lambda n, entry: n,
    }
    samples = rows(30, **of)
    folder = write_folder(tmp_path / "mds", columns, samples, shards=3, below=below)
    manifest = index(folder, tmp_path / "data")
    assert manifest.container == "mds" and manifest.classes == ("0", "1", "2", "3") and not manifest.partial
    read = read_all(tmp_path / "data")
    assert [sample.data for sample in read] == [sample["x"] for sample in samples]
    assert [sample.label for sample in read] == [sample["y"] for sample in samples]
    prefix = below.replace("/", "--")
    assert [sample.key for sample in read] == [
        sample_key(f"{prefix}shard.{n // 10:05d}.mds/{n % 10}") for n in range(30)
    ]
    assert verify(tmp_path / "data", workers=1).findings == () and not Path("/tmp/unpickled").exists()


def test_keys_that_are_keys_are_kept(tmp_path):
    keys = [f"{n:024x}" for n in range(9)] + ["no key"]
    samples = rows(10, image=lambda n, entry: entry.data, key=lambda n, entry: keys[n])
    index(write_folder(tmp_path / "mds", {"image": "bytes", "key": "str"}, samples), tmp_path / "data")
    reader = DatasetReader(tmp_path / "data", read_manifest(tmp_path / "data"))
    found = [reader.locate(number)[1].key for number in range(10)]
    assert found == [*keys[:9], sample_key("shard.00000.mds/9")]
    assert verify(tmp_path / "data", workers=1).findings == ()


@pytest.mark.parametrize(
    ("encoding", "value", "labels"),
    [
        ("int", 7, Labels("number", ("7",))),
        ("uint16", 7, Labels("number", ("7",))),
        ("str", "cat", Labels("name", ("cat",))),
        ("str_int", 12, Labels("number", ("12",))),
        ("json", [3, 1], Labels("number", ("3", "1"), several=True)),
        ("json", {"label": "a"}, Labels("name", ("a",))),
        ("ndarray", [3, 1], Labels("number", ("3", "1"), several=True)),
    ],
)
def test_labels(encoding, value, labels):
    from tests.data_prep.mds.folders import encode

    assert decode_label(encoding, encode(encoding, value)) == labels


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("int", b"1234"),
        ("str", b"\xff"),
        ("json", b"{"),
        ("ndarray", b""),
        ("ndarray", b"\x42\x04\x01"),
        ("int", b"\xff" * 8),
    ],
)
def test_labels_that_are_none(encoding, data):
    with pytest.raises(LabelError):
        decode_label(encoding, data)


@pytest.mark.parametrize(
    ("columns", "image", "label"),
    [
        ({"image": "bytes", "label": "int"}, "image", "label"),
        ({"x": "jpeg", "y": "int64"}, "x", "y"),
        ({"picture_1": "png", "blob": "bytes", "n": "int", "id": "str"}, "picture_1", "n"),
        ({"data": "bytes", "a": "int", "b": "int"}, "data", None),
        ({"data": "bytes", "a": "int", "class": "str"}, "data", "class"),
        ({"jpg": "bytes", "png": "jpeg", "labels": "ndarray:int64:3"}, "jpg", "labels"),
    ],
)
def test_which_columns(columns, image, label):
    found = choose_columns([Column(name, kind, None) for name, kind in sorted(columns.items())])
    assert found.image.name == image and (found.label.name if found.label else None) == label


@pytest.mark.parametrize(
    "columns", [{"x": "pil", "y": "int"}, {"a": "jpeg", "b": "jpeg"}, {"y": "int"}, {"a": "bytes", "b": "bytes"}]
)
def test_no_image_column(columns):
    with pytest.raises(UsageError, match="no image column"):
        choose_columns([Column(name, kind, None) for name, kind in columns.items()])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(version=1), "MDS version 1"),
        (lambda body: body.update(shards=[]), "names no shards"),
        (lambda body: body["shards"][0].update(format="csv"), "shards of format csv"),
        (lambda body: body["shards"][0]["raw_data"].update(basename="../../etc/passwd"), "no file inside the folder"),
        (lambda body: body["shards"][0]["raw_data"].update(basename="/etc/passwd"), "no file inside the folder"),
        (lambda body: body["shards"][0]["raw_data"].update(basename=7), "no file inside the folder"),
        (lambda body: body["shards"][0]["raw_data"].update(bytes=7), "index.json says 7"),
        (lambda body: body["shards"][0]["raw_data"].update(basename="gone.mds"), "no such file"),
        (lambda body: body["shards"][0].update(samples=3), "has 2 samples, index.json says 3"),
        (lambda body: body["shards"][0].update(samples=-1), "no index of an MDS folder"),
        (lambda body: body["shards"][0].update(samples=float("inf")), "no index of an MDS folder"),
        (lambda body: body.pop("shards"), "no index of an MDS folder"),
        (lambda body: body["shards"][0].pop("raw_data"), "no index of an MDS folder"),
    ],
)
def test_an_index_that_is_damaged_or_hostile(tmp_path, change, words):
    folder = write_folder(tmp_path / "mds", {"image": "bytes"}, rows(2, image=lambda n, entry: entry.data))
    body = json.loads((folder / "index.json").read_bytes())
    change(body)
    (folder / "index.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match=words) as caught:
        index(folder, tmp_path / "data")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_compressed_shards_are_refused_by_name(tmp_path):
    folder = write_folder(tmp_path / "mds", {"image": "bytes"}, rows(2, image=lambda n, entry: entry.data))
    body = json.loads((folder / "index.json").read_bytes())
    zipped = {"basename": "shard.00000.mds.zstd", "bytes": 5, "hashes": {}}
    body["shards"][0].update(zip_data=zipped, compression="zstd")
    (folder / "index.json").write_text(json.dumps(body))
    assert read_index(folder)[0].compression is None  # the raw one is there, too
    (folder / "shard.00000.mds").rename(folder / "shard.00000.mds.zstd")
    with pytest.raises(UsageError, match=r"shard\.00000\.mds\.zstd: compressed \(zstd\)"):
        index(folder, tmp_path / "data")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_shard_is_a_refusal_and_nothing_worse(tmp_path, data):
    """Bytes of its head changed at random: it is refused, or read as it now says, within its own bytes."""
    path = tmp_path / "x.mds"
    write_shard(path, {"image": "bytes", "y": "int"}, rows(3, image=lambda n, e: b"i" * n, y=lambda n, e: n))
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 5, 100, 3, 0]))])
    with path.open("rb") as file:
        try:
            head = MdsShard.read(file.fileno())
            assert head.samples * 4 < len(whole) and head.offsets[0] >= 0 and head.offsets[-1] <= len(whole)
            for number in range(head.samples):
                begin, end = map(int, head.offsets[number : number + 2])
                for field in head.fields(number, whole[begin:end]).values():
                    assert begin <= field.offset and field.offset + field.size <= end
        except MdsError as error:
            assert "\n" not in str(error)


def test_a_sample_too_short_for_the_sizes_of_its_columns(tmp_path):
    folder = write_folder(
        tmp_path / "mds", {"image": "jpeg", "name": "str"}, rows(2, image=lambda n, e: e.data, name=lambda n, e: str(n))
    )
    path = folder / "shard.00000.mds"
    body = bytearray(path.read_bytes())
    end = int.from_bytes(body[8:12], "little") + 3
    body[12:16] = end.to_bytes(4, "little")
    path.write_bytes(body[:end])
    index_json = json.loads((folder / "index.json").read_bytes())
    index_json["shards"][0]["raw_data"]["bytes"] = end
    (folder / "index.json").write_text(json.dumps(index_json))
    with pytest.raises(UsageError, match=r"shard\.00000\.mds: sample 1 is damaged"):
        index(folder, tmp_path / "data")


def test_rejects_and_damage(tmp_path):
    samples = rows(12, image=lambda n, e: b"bad" if n == 3 else e.data, label=lambda n, e: e.label)
    folder = write_folder(tmp_path / "mds", {"image": "jpeg", "label": "int"}, samples, shards=2)
    with pytest.raises(
        WorkFailed, match=r"1 of 12 samples cannot be used; the first: shard\.00000\.mds/3: not an image"
    ):
        index(folder, tmp_path / "data")
    manifest = index(folder, tmp_path / "data", max_rejects="1")
    assert manifest.partial and manifest.samples == 11 and verify(tmp_path / "data", workers=1).findings == ()
    shard = folder / "shard.00001.mds"
    body = bytearray(shard.read_bytes())
    body[12:16] = (int.from_bytes(body[12:16], "little") + 1).to_bytes(4, "little")  # where a sample begins
    shard.write_bytes(body)
    assert sum(isinstance(sample, Hole) for sample in read_all(tmp_path / "data")) == 2
    findings = [str(finding) for finding in verify(tmp_path / "data", workers=1).findings]
    assert any("sample 1 is damaged" in finding for finding in findings) and all("00001" in f for f in findings)


def test_training_on_an_mds_folder_reads_every_sample_once(tmp_path):
    samples = rows(96, image=lambda n, e: e.data, label=lambda n, e: e.label)
    manifest = index(write_folder(tmp_path / "mds", {"image": "jpeg", "label": "int"}, samples, 3), tmp_path / "data")
    run = write_run(tmp_path / "run.yaml", tmp_path / "data", epochs=1)
    train(run)
    assert sum(int(step["batch_digest"], 16) for step in steps_of(run).values()) % 2**64 == manifest.key_sum
