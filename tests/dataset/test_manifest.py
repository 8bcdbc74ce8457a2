"""The manifest says what is there, or is refused in one line."""

import json
import sys
from dataclasses import replace

import pytest
import xxhash

from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import File, Manifest, Shard, read_manifest, write_manifest

pytestmark = pytest.mark.fast

SHARDS = (
    Shard("shard-000000.tar", 3, 10240, "00" * 8, "ff" * 8),
    Shard("shard-000002.tar", 2, 20480, "11" * 8, "00" * 7 + "02"),
)
FILES = (File("shards/shard-000000.arrow", 7, "22" * 8),)
MANIFEST = Manifest(("a", r"caf\xe9"), "single", SHARDS, {"size": 256, "source": ["photos"]}, FILES)


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_what_is_not_usual_is_written_and_the_usual_is_not(tmp_path):
    """So the manifests of our own datasets have the bytes that they always had."""
    assert not {"container", "partial"} & MANIFEST.to_json().keys()
    for other in (replace(MANIFEST, container="tar"), replace(MANIFEST, container="mds", partial=True)):
        write_manifest(tmp_path, other)
        assert read_manifest(tmp_path) == other
        assert other.fingerprint == MANIFEST.fingerprint  # the same shards and keys are the same data


def test_totals(tmp_path):
    assert MANIFEST.samples == 5 and MANIFEST.starts.tolist() == [0, 3, 5]
    assert MANIFEST.key_sum == 1  # modulo 2**64
    assert SHARDS[1].index_name == "shard-000002.arrow"


def test_other_readers_find_the_keys_they_look_for(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    body = json.loads((tmp_path / "dataset.json").read_text())
    assert body["__kind__"] == "wids-shard-index-v1" and body["wids_version"] == 1
    assert body["shardlist"][1] == {"url": "shards/shard-000002.tar", "nsamples": 2, "filesize": 20480}
    for other in ({"partial": True}, {"container": "mds"}):  # they would read too much, or nothing
        assert "shardlist" not in replace(MANIFEST, **other).to_json()
    assert "shardlist" in replace(MANIFEST, container="tar").to_json()


def test_the_fingerprint_is_that_of_the_data():
    same = Manifest(MANIFEST.classes, "single", SHARDS, {"size": 1})
    others = [
        Manifest(("a", "b"), "single", SHARDS),
        Manifest(MANIFEST.classes, "multi", SHARDS),
        Manifest(MANIFEST.classes, "single", SHARDS[::-1]),
        Manifest(MANIFEST.classes, "single", (*SHARDS[:1], Shard("shard-000002.tar", 2, 20480, "12" * 8, "0" * 16))),
    ]
    assert same.fingerprint == MANIFEST.fingerprint
    assert len({m.fingerprint for m in (MANIFEST, *others)}) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body.update(version=2), "format version 2"),
        (lambda body: body.update(samples=6), "says 6 samples, its shards hold 5"),
        (lambda body: body.pop("classes"), "not a vitstream manifest"),
        (lambda body: body["shards"][0].update(extra=1), "not a vitstream manifest"),
        (lambda body: body["shards"][0].update(samples="many"), "not a vitstream manifest"),
        (lambda body: body["shards"][0].update(bytes="x"), "shards.0.bytes"),
        (lambda body: body["shards"][0].update(samples=True), "shards.0.samples"),
        (lambda body: body["shards"][0].update(samples=3.0), "shards.0.samples"),
        (lambda body: body["shards"][0].update(samples=-5), "shards.0.samples"),
        (lambda body: body["shards"][0].update(samples=2**40), "1099511627776 samples do not fit in 10240 bytes"),
        (lambda body: body["shards"][0].update(samples=2**70), "shards.0.samples"),
        (lambda body: body.update(samples=2**70), "samples: "),
        (lambda body: body.update(samples=10**5000), "not a"),
        (lambda body: body["shards"][0].update(bytes=2**70), "shards.0.bytes"),
        (lambda body: body["shards"][0].update(name=None), "shards.0.name"),
        (lambda body: body["shards"][0].update(name=7), "shards.0.name"),
        (lambda body: body["shards"][0].update(xxh3="0" * 15), "shards.0.xxh3"),
        (lambda body: body["shards"][0].update(xxh3="0" * 16 + "\n"), "shards.0.xxh3"),
        (lambda body: body["shards"][0].update(xxh3="A" * 16), "shards.0.xxh3"),
        (lambda body: body["shards"][0].update(key_sum="-" + "0" * 15), "shards.0.key_sum"),
        (lambda body: body["shards"][0].update(key_sum=None), "shards.0.key_sum"),
        (lambda body: body["shards"][0].update({"\nline": 1}), r"shards.0.\\nline"),
        (lambda body: body["shards"][0].update(name="shard-000002.tar"), "names a shard twice"),
        (lambda body: body.update(shards={}), "shards: "),
        (lambda body: body.update(shards="shard-000000.tar"), "shards: "),
        (lambda body: body.update(shards=[1]), "shards.0: "),
        (lambda body: body.update(asked=None), "asked: "),
        (lambda body: body.update(asked=[]), "asked: "),
        (lambda body: body.update(labels=[1]), "labels: "),
        (lambda body: body.update(labels="both"), "labels: "),
        (lambda body: body.update(container="zip"), "container: "),
        (lambda body: body.update(partial=1), "partial: "),
        (lambda body: body.update(classes="ab"), "classes: "),
        (lambda body: body.update(classes=["a", 1]), "classes.1: "),
        (lambda body: body.update(version="1"), "format version '1'"),
        (lambda body: body.update(version=True), "format version True"),
        (lambda body: body.update(files=[{"name": "x"}]), "files.0.bytes"),
        (lambda body: body["shards"][0].update(name="../shard-000000.tar"), "is not a plain file name"),
        (lambda body: body["shards"][0].update(name="/etc/passwd"), "is not a plain file name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    body = MANIFEST.to_json()
    body["shards"] = [dict(shard) for shard in body["shards"]]
    change(body)
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    (tmp_path / "dataset.json").write_text(json.dumps(body))
    sys.set_int_max_str_digits(limit)
    with pytest.raises(UsageError, match=words) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / "dataset.json") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'{"version": 1, "x": "\\ud800"}',
    ],
)
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"dataset\.json: not a") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_hash_of_the_manifest_is_over_all_of_it():
    body = MANIFEST.to_json()
    own = body.pop("xxh3")
    others = [replace(MANIFEST, asked={"size": 255, "source": ["photos"]}), replace(MANIFEST, files=())]
    assert len({own, *(other.to_json()["xxh3"] for other in others)}) == 3
    assert all(other.fingerprint == MANIFEST.fingerprint for other in others)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a").write_bytes(b"1" * 3_000_000)
    assert File.of(tmp_path, "shards/a") == File("shards/a", 3_000_000, xxhash.xxh3_64_hexdigest(b"1" * 3_000_000))


def test_where_none_is_the_fix_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such dataset; make it with: vitstream shard SOURCE --out"):
        read_manifest(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"no dataset\.json in it"):
        read_manifest(tmp_path)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_manifest(tmp_path / split, MANIFEST)
    with pytest.raises(UsageError, match="in its folders train, val: name one of them"):
        read_manifest(tmp_path)
