"""MDS folders and our own datasets as SOURCE: the same keys as `vitstream index` gives, whatever they lie in."""

import gzip
import json

import pyarrow as pa
import pytest

from data_prep.catalog.listing import key_of
from pipeline.dataset.containers import mds_key
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.index import ShardIndex
from tests.data_prep.mds.folders import write_folder
from tests.data_prep.sources.listing import opened, read_all, rows
from tests.datasets import make_dataset

pytestmark = pytest.mark.fast

COLUMNS = {"image": "jpeg", "label": "int"}
SAMPLES = [{"image": b"image %d" % number, "label": number % 7} for number in range(30)]
CODECS = {"zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True), "gz": gzip.compress}


def compress(folder, how):
    """What MDSWriter leaves with a compression and no raw shards kept."""
    index = json.loads((folder / "index.json").read_bytes())
    for shard in index["shards"]:
        name = shard["raw_data"]["basename"]
        packed = CODECS[how]((folder / name).read_bytes())
        (folder / f"{name}.{how}").write_bytes(packed)
        (folder / name).unlink()
        shard |= {"compression": how, "zip_data": {"basename": f"{name}.{how}", "bytes": len(packed), "hashes": {}}}
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("below", ["", "part/"])
@pytest.mark.parametrize("how", [None, "zstd", "gz"])
def test_rows_are_samples(tmp_path, below, how):
    folder = write_folder(tmp_path / "mds", COLUMNS, SAMPLES, shards=3, below=below)
    if how:
        compress(folder, how)
    source = opened(folder)
    assert (source.streamed, source.numbered, source.class_names) == (how is not None, True, None)
    found = rows(source)
    assert [row["labels"] for row in found] == [[str(number % 7)] for number in range(30)]
    name = f"{below.replace('/', '--')}shard.00001.mds"
    assert found[10]["path"] == f"{name}/0" and key_of(found[10]["path"]) == mds_key(name, 0, None)
    assert list(read_all(source).values()) == [b"image %d" % number for number in range(30)]


def test_keys_and_class_names_of_ours_are_kept(tmp_path):
    samples = [{"image": b"x", "labels": [number, 9], "key": f"{number:024x}"} for number in range(3)]
    folder = write_folder(tmp_path, {"image": "jpeg", "labels": "json", "key": "str"}, samples)
    (folder / "classes.json").write_text(json.dumps([rf"name\x0a{number}" for number in range(10)]))
    source = opened(folder)
    assert source.multi and source.class_names[9] == r"name\x0a9"
    assert [(key_of(row["path"]), row["labels"]) for row in rows(source)] == [
        (f"{number:024x}", [str(number), "9"]) for number in range(3)
    ]


def test_a_shard_that_inflates_to_more_than_it_says_is_refused(tmp_path):
    folder = write_folder(tmp_path, COLUMNS, SAMPLES)
    compress(folder, "gz")
    source = opened(folder)
    (folder / "shard.00000.mds.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(UsageError, match=r"shard.00000.mds: has more than the [\d,]+ bytes that index.json says"):
        rows(source)
    with pytest.raises(WorkFailed, match="has more than"):
        list(source.stream("shard.00000.mds.gz"))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd"])
def test_an_index_does_not_lead_out(tmp_path, name):
    folder = write_folder(tmp_path / "mds", COLUMNS, SAMPLES)
    index = json.loads((folder / "index.json").read_bytes())
    index["shards"][0]["raw_data"]["basename"] = name
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="is no file inside the folder"):
        opened(folder)


def test_a_dataset_keeps_keys_labels_and_classes(tmp_path):
    make_dataset(tmp_path / "made", 5, classes=2, shards=[3, 2])
    source = opened(tmp_path / "made")
    assert (source.streamed, source.numbered, source.multi) == (False, True, False)
    indexes = [ShardIndex(path) for path in sorted((tmp_path / "made/shards").glob("*.arrow"))]
    listed = [index.row(number) for index in indexes for number in range(len(index))]
    found = rows(source)
    assert [(key_of(row["path"]), row["labels"], row["bytes"], row["width"]) for row in found] == [
        (row.key, [str(label) for label in row.labels], row.size, row.width) for row in listed
    ]
    assert [len(data) for data in read_all(source).values()] == [row.size for row in listed]


def test_a_folder_of_two_datasets_is_one_line(tmp_path):
    make_dataset(tmp_path / "train", 3, classes=1)
    with pytest.raises(UsageError, match="holds the datasets train; name one of them"):
        opened(tmp_path)
