"""The manifest says what is there, or is refused in one line."""

import json

import pytest

from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import Manifest, Shard, read_manifest, write_manifest

pytestmark = pytest.mark.fast

SHARDS = (
    Shard("shard-000000.tar", 3, 10240, "00" * 8, "ff" * 8),
    Shard("shard-000002.tar", 2, 20480, "11" * 8, "00" * 7 + "02"),
)
MANIFEST = Manifest(("a", r"caf\xe9"), "single", SHARDS, {"size": 256, "source": ["photos"]})


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_totals(tmp_path):
    assert MANIFEST.samples == 5 and MANIFEST.starts.tolist() == [0, 3, 5]
    assert MANIFEST.key_sum == 1  # modulo 2**64
    assert SHARDS[1].index_name == "shard-000002.arrow"


def test_other_readers_find_the_keys_they_look_for(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    body = json.loads((tmp_path / "dataset.json").read_text())
    assert body["__kind__"] == "wids-shard-index-v1" and body["wids_version"] == 1
    assert body["shardlist"][1] == {"url": "shards/shard-000002.tar", "nsamples": 2, "filesize": 20480}


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
        (lambda body: body["shards"][0].update(name="../shard-000000.tar"), "is not a plain file name"),
        (lambda body: body["shards"][0].update(name="/etc/passwd"), "is not a plain file name"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, words):
    body = MANIFEST.to_json()
    body["shards"] = [dict(shard) for shard in body["shards"]]
    change(body)
    (tmp_path / "dataset.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match=words) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / "dataset.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null"])
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"dataset\.json: not a"):
        read_manifest(tmp_path)


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
