"""`vitstream index`: tars become a dataset where they lie; everything else then works on it."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from data_prep.adopt.adopt import adopt
from data_prep.adopt.parts import WORK_NAME, read_part
from data_prep.audit.dataset import verify
from data_prep.catalog.samples import SCHEMA
from pipeline.data.sample import Hole, Sample
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.keys import own_key
from pipeline.dataset.manifest import File, read_manifest
from tests.data_prep.adopt.tars import entries, photo, write_tar
from tests.reading import DatasetReader
from tests.runs import one_line, steps_of, train, vitstream, write_run

NAMES = ("ant", "bee", "cat", "dog")


def index(*tars: Path, out: Path, classes: Path | None = None, max_rejects: str = "1%"):
    return adopt(tars, out, classes, max_rejects, workers=1)


def read_all(dataset: Path) -> list[Sample]:
    manifest = read_manifest(dataset)
    reader = DatasetReader(dataset, manifest)
    samples = [reader.read(number) for number in range(manifest.samples)]
    assert all(isinstance(sample, Sample) for sample in samples), samples
    return samples


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> list[Path]:
    """Three tars of the three formats, 352 photos, labels behind, before and far from their images."""
    folder = tmp_path_factory.mktemp("tars")
    photos = entries(352)
    made = []
    for number, how in enumerate((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        part = photos[number * 117 : (number + 1) * 117 + 1 if number == 2 else (number + 1) * 117]
        images = [(f"train/{n:05d}.jpg", entry.data) for n, entry in enumerate(part)]
        labels = [(f"train/{n:05d}.cls", NAMES[entry.label].encode()) for n, entry in enumerate(part)]
        pairs = [member for pair in zip(images, labels, strict=True) for member in pair]
        members = (pairs, labels + images[::-1], pairs[::-1])[number]
        made.append(write_tar(folder / f"part-{number}.tar", members, how, mtime=number / 2))
    return made


@pytest.fixture(scope="module")
def dataset(tars, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("adopted") / "data"
    done = vitstream("index", *tars, "--out", out, "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["samples"], result["classes"], result["container"], result["rejects"]) == (352, 4, "tar", 0)
    return out


def test_what_is_made(tars, dataset):
    manifest = read_manifest(dataset)
    assert manifest.classes == NAMES and manifest.labels == "single" and not manifest.partial
    assert manifest.container == "tar" and [shard.name for shard in manifest.shards] == [path.name for path in tars]
    assert {path.name for path in dataset.iterdir()} == {"dataset.json", "samples.parquet", "rejects.jsonl", "shards"}
    for path, shard in zip(tars, manifest.shards, strict=True):
        link = dataset / "shards" / path.name
        assert link.is_symlink() and link.resolve() == path.resolve() and shard.bytes == path.stat().st_size
    assert list(manifest.files) == [File.of(dataset, file.name) for file in manifest.files]
    table = pq.read_table(dataset / "samples.parquet")
    assert table.schema.equals(SCHEMA) and table["path"][0].as_py() == "part-0.tar/train/00000"
    assert table["key"].to_pylist() == [sample.key for sample in read_all(dataset)]


def test_samples_are_those_that_webdataset_reads(tars, dataset):
    theirs = {}
    for path in tars:
        for sample in wds.WebDataset(str(path), shardshuffle=False, empty_check=False):
            for suffix in ("jpg", "cls"):  # webdataset takes neighbours only, so parts of samples come one by one
                if suffix in sample:
                    theirs.setdefault(own_key(path.name, sample["__key__"]), {})[suffix] = sample[suffix]
    ours = read_all(dataset)
    assert len(theirs) == len(ours) == 352
    for sample in ours:
        their = theirs[sample.key]
        assert sample.data == their["jpg"] and NAMES[sample.label] == their["cls"].decode()


def test_verify_finds_nothing_and_training_reads_every_sample_once(dataset, tmp_path):
    assert verify(dataset, workers=1).findings == ()
    run = write_run(tmp_path / "run.yaml", dataset, epochs=1)
    train(run)
    digests = [step["batch_digest"] for step in steps_of(run).values()]
    assert sum(int(digest, 16) for digest in digests) % 2**64 == read_manifest(dataset).key_sum
    done = vitstream("order", dataset, "--batch-size", 32, "--step", 1, "--json")
    assert len(json.loads(done.stdout)["keys"]) == 32


def test_views_of_it_work_too(dataset, tmp_path):
    done = vitstream("view", dataset, "--out", tmp_path / "view", "--first", "40%")
    assert done.returncode == 0, done.stderr
    assert [s.key for s in read_all(tmp_path / "view")] == [s.key for s in read_all(dataset)][:140]
    assert verify(tmp_path / "view", workers=1).findings == ()


def test_samples_have_the_keys_that_shard_gives_them(tars, dataset, tmp_path):
    done = vitstream("shard", *tars, "--out", tmp_path / "data", "--as-is", "--workers", 1)
    assert done.returncode == 0, done.stderr
    columns = ["key", "path", "labels", "hash"]
    tables = [pq.read_table(path / "samples.parquet", columns=columns) for path in (dataset, tmp_path / "data")]
    assert tables[0].sort_by("key").equals(tables[1].sort_by("key"))


def test_again_is_nothing_and_other_tars_are_refused(tars, dataset):
    before = {path: path.lstat().st_mtime_ns for path in dataset.rglob("*")}
    assert index(*tars, out=dataset).was_complete
    assert before == {path: path.lstat().st_mtime_ns for path in dataset.rglob("*")}
    with pytest.raises(UsageError, match="other shards or classes"):
        index(*tars[:2], out=dataset)


def test_the_result_depends_on_neither_workers_nor_interruptions(tars, dataset, tmp_path):
    """What was read is not read again; and the files are the same to the byte."""
    out = tmp_path / "data"
    broken = write_tar(tmp_path / "part-2.tar", [("a.jpg", photo())])
    whole = broken.read_bytes()
    broken.write_bytes(whole[:600])
    with pytest.raises(UsageError, match=r"part-2\.tar: ends at byte 600"):
        index(*tars[:2], broken, out=out)
    work = out / WORK_NAME
    assert read_part(work, "part-0.tar") is not None and not (out / "dataset.json").exists()
    records = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    broken.unlink()
    index(*tars[:2], Path(shutil.copy(tars[2], broken)), out=out)
    assert len(records) == 2 and not work.exists()
    for name in ("dataset.json", "samples.parquet", "rejects.jsonl", *(f"shards/part-{n}.arrow" for n in range(3))):
        assert (out / name).read_bytes() == (dataset / name).read_bytes(), name


def test_a_folder_of_tars_and_one_that_is_moved_with_its_dataset(tmp_path):
    for number in (2, 10, 1):
        write_tar(tmp_path / f"tree/tars/{number}.tar", [(f"{number}.jpg", photo()), (f"{number}.cls", b"0")])
    index(tmp_path / "tree/tars", out=tmp_path / "tree/data")
    (tmp_path / "tree").rename(tmp_path / "moved")
    assert [s.name for s in read_manifest(tmp_path / "moved/data").shards] == ["1.tar", "10.tar", "2.tar"]
    assert len(read_all(tmp_path / "moved/data")) == 3


def test_a_tar_that_is_replaced_is_noticed_by_reading_and_by_verify(tmp_path):
    members = [(name, data) for n in "abc" for name, data in ((f"{n}.jpg", photo()), (f"{n}.cls", b"0"))]
    path = write_tar(tmp_path / "x.tar", members)
    index(path, out=tmp_path / "data")
    write_tar(path, [("b.jpg", photo()), ("b.cls", b"0"), *members[:2], *members[4:]])
    manifest = read_manifest(tmp_path / "data")
    read = [DatasetReader(tmp_path / "data", manifest).read(number) for number in range(3)]
    assert [isinstance(sample, Hole) for sample in read] == [True, True, False]
    findings = list(verify(tmp_path / "data", workers=1).findings)
    assert any(f.key == own_key("x.tar", "b") and "its index says key" in f.problem for f in findings) or findings
    assert any("its hash is" in f.problem for f in findings)
    path.unlink()
    assert "which is a link to" in str(verify(tmp_path / "data", workers=1).findings[0])


@pytest.mark.parametrize(
    ("labels", "classes", "kind", "ids"),
    [
        ((b"2", b"0"), ("0", "1", "2"), "single", [(2,), (0,)]),
        ((b"cat", b"ant"), ("ant", "cat"), "single", [(1,), (0,)]),
        ((b'{"labels": ["b", "a"]}', b'{"label": "c"}'), ("a", "b", "c"), "multi", [(1, 0), (2,)]),
        ((b'{"labels": []}', b'{"labels": [1]}'), ("0", "1"), "multi", [(), (1,)]),
        ((None, None), (), "multi", [(), ()]),
    ],
)
def test_labels_of_every_kind(tmp_path, labels, classes, kind, ids):
    members = [("0.jpg", photo()), ("1.jpg", photo())]
    members += [(f"{n}.json" if b"{" in label else f"{n}.cls", label) for n, label in enumerate(labels) if label]
    index(write_tar(tmp_path / "x.tar", members), out=tmp_path / "data")
    manifest = read_manifest(tmp_path / "data")
    reader = DatasetReader(tmp_path / "data", manifest)
    assert manifest.classes == classes and manifest.labels == kind
    assert [reader.locate(number)[1].labels for number in range(2)] == ids
    assert verify(tmp_path / "data", workers=1).findings == ()


def test_a_class_list(tmp_path):
    names, numbers = tmp_path / "names.tar", tmp_path / "numbers.tar"
    write_tar(names, [("0.jpg", photo()), ("0.cls", b"cat"), ("1.jpg", photo()), ("1.cls", b"ant")])
    write_tar(numbers, [("0.jpg", photo()), ("0.cls", b"2")])
    classes = tmp_path / "classes.txt"
    classes.write_text("zebra\ncat\nant\n")
    for path, labels in ((names, [1, 2]), (numbers, [2])):
        index(path, out=tmp_path / path.stem, classes=classes)
        assert read_manifest(tmp_path / path.stem).classes == ("zebra", "cat", "ant")
        assert [sample.label for sample in read_all(tmp_path / path.stem)] == labels
        assert verify(tmp_path / path.stem, workers=1).findings == ()
    classes.write_text("zebra\ncat\n")
    with pytest.raises(UsageError, match=r"names\.tar: label 'ant' is not in the class list"):
        index(names, out=tmp_path / "none", classes=classes)
    with pytest.raises(UsageError, match=r"numbers\.tar/0: its label is 2, the class list has 2"):
        index(numbers, out=tmp_path / "neither", classes=classes)
    with pytest.raises(UsageError, match=r"a number, that of names\.tar/0 is a name"):
        index(names, numbers, out=tmp_path / "both")


def test_rejects_are_listed_counted_and_left_out_of_everything(tmp_path):
    good = [member for n in range(8) for member in ((f"{n}.jpg", photo(n)), (f"{n}.cls", b"%d" % (n % 2)))]
    key = "ab" * 12
    one = write_tar(tmp_path / "one.tar", [*good, ("x.jpg", b"bad"), ("x.cls", b"0"), ("y.jpg", photo())])
    two = write_tar(tmp_path / "two.tar", [(f"{key}.jpg", photo()), (f"{key}.cls", b"1")])
    again = write_tar(tmp_path / "three.tar", [(f"d/{key}.jpg", photo(1)), (f"d/{key}.cls", b"1")])
    with pytest.raises(WorkFailed, match=r"3 of 12 samples cannot be used; the first: .*rejects\.jsonl"):
        index(one, two, again, out=tmp_path / "data")
    done = index(one, two, again, out=tmp_path / "data", max_rejects="3")
    rejects = [json.loads(line) for line in (tmp_path / "data/rejects.jsonl").read_text().splitlines()]
    assert done.rejects == 3 and {reject["source"]: reject["reason"].partition(":")[0] for reject in rejects} == {
        "one.tar/x": "not an image",
        "one.tar/y": "no label",
        f"three.tar/d/{key}": "duplicate key",
    }
    manifest = read_manifest(tmp_path / "data")
    assert manifest.partial and [shard.samples for shard in manifest.shards] == [8, 1]
    assert len(read_all(tmp_path / "data")) == 9 and verify(tmp_path / "data", workers=1).findings == ()
    assert not (tmp_path / "data/shards/three.tar").exists()


def test_what_is_refused_is_one_line(tmp_path, tars):
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b" + b"\0" * 600)
    one_line(vitstream("index", tmp_path / "x.tar.gz", "--out", tmp_path / "a"), "x.tar.gz: compressed (gzip)", "shard")
    with pytest.raises(UsageError, match="no such file"):
        index(tmp_path / "none.tar", out=tmp_path / "a")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match="neither"):
        index(tmp_path / "bare", out=tmp_path / "a")
    for name, why in ((b"\xff.tar", "no UTF-8"), (b"a\n.tar", "line break"), (b"n" * 220 + b".tar", "too long")):
        with pytest.raises(UsageError, match=f"its name .*{why}"):
            index(Path(shutil.copy(tars[0], tmp_path / os.fsdecode(name))), out=tmp_path / "a")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/dataset.json").touch()
    with pytest.raises(UsageError, match="is a dataset already"):
        index(tmp_path / "dataset", out=tmp_path / "a")
    with pytest.raises(UsageError, match="not on this machine"):
        index(Path("s3://bucket/x.tar"), out=tmp_path / "a")
    (tmp_path / "d").mkdir()
    twin = shutil.copy(tars[0], tmp_path / "d/part-0.tar")
    with pytest.raises(UsageError, match=r"both would be part-0\.tar in the dataset"):
        index(tars[0], Path(twin), out=tmp_path / "a")
    with pytest.raises(UsageError, match="not empty"):
        index(tars[0], out=tmp_path)
    with pytest.raises(UsageError, match="--max-rejects 'few'"):
        index(tars[0], out=tmp_path / "a", max_rejects="few")
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    with pytest.raises(WorkFailed, match="no images in it"):
        index(tmp_path / "empty.tar", out=tmp_path / "a")


def test_an_adopted_index_or_catalogue_is_repaired_to_the_byte(dataset, tmp_path):
    data = Path(shutil.copytree(dataset, tmp_path / "data", symlinks=True))
    for path in data.glob("shards/*.tar"):  # relative links led out of the copy
        target = (dataset / "shards" / path.name).resolve()
        path.unlink()
        path.symlink_to(os.path.relpath(target, path.parent))
    assert verify(data, workers=1).findings == ()
    (data / "shards/part-1.arrow").unlink()
    (data / "samples.parquet").write_bytes(b"damage")
    done = vitstream("verify", data, "--repair")
    assert done.returncode == 0 and done.stdout.count("repaired: ") == 2, done.stdout + done.stderr
    for name in ("shards/part-1.arrow", "samples.parquet"):
        assert (data / name).read_bytes() == (dataset / name).read_bytes()


def test_a_place_that_cannot_be_looked_into_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        adopt([tmp_path / ("n" * 300)], tmp_path / "data", None, "0", workers=1)
    assert not (tmp_path / "data").exists()
