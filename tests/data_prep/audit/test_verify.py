"""Each kind of damage is planted in a good dataset; verify has to find it and to say where."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.audit.dataset import verify
from data_prep.audit.finding import Finding
from data_prep.audit.shard import audit_shard
from data_prep.catalog.samples import SCHEMA
from data_prep.shards.tar import end_of_archive, member
from pipeline.dataset.errors import UsageError
from pipeline.dataset.index import ShardIndex, write_index
from pipeline.dataset.manifest import File, read_manifest, write_manifest
from pipeline.dataset.row import IndexRow
from tests.images import write_photo_folder
from tests.runs import one_line, vitstream

FIRST, SECOND = "shard-000000", "shard-000001"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    photos = write_photo_folder(root / "photos", classes=3, per_class=100)
    done = vitstream("shard", photos, "--out", root / "data")
    assert done.returncode == 0, done.stderr
    return root / "data"


@pytest.fixture
def data(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "data"))


def rows_of(data: Path, shard: str) -> list[IndexRow]:
    index = ShardIndex(data / f"shards/{shard}.arrow")
    return [index.row(position) for position in range(len(index))]


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def edit_manifest(data: Path, change) -> None:
    body = json.loads((data / "dataset.json").read_bytes())
    change(body)
    (data / "dataset.json").write_text(json.dumps(body))


def adopt(data: Path, shard: str) -> None:
    """Makes the manifest agree with the files as they are now, as someone who repairs by hand would."""
    manifest = read_manifest(data)
    tar = File.of(data, f"shards/{shard}.tar")
    shards = [replace(s, bytes=tar.bytes, xxh3=tar.xxh3) if s.name == f"{shard}.tar" else s for s in manifest.shards]
    files = [File.of(data, file.name) for file in manifest.files]
    write_manifest(data, replace(manifest, shards=tuple(shards), files=tuple(files)))


def found(data: Path) -> list[Finding]:
    return list(verify(data, workers=1).findings)


def assert_found(data: Path, shard: str, key: str, *words: str) -> None:
    findings = [f for f in found(data) if f.shard == (shard and f"{shard}.tar") and f.key == key]
    assert any(all(word in f.problem for word in words) for f in findings), found(data)


def test_a_good_dataset_has_no_findings(good):
    report = verify(good, workers=2)
    assert report.findings == () and (report.shards, report.samples) == (2, 300)
    done = vitstream("verify", good)
    assert done.returncode == 0 and "300 samples in 2 shards" in done.stdout and done.stderr == ""


def test_a_flipped_byte_in_an_image(data):
    row = rows_of(data, FIRST)[70]
    tar = data / f"shards/{FIRST}.tar"
    byte = tar.read_bytes()[row.offset + row.size // 2]
    patch(tar, row.offset + row.size // 2, bytes([byte ^ 1]))
    assert_found(data, FIRST, row.key, "samples.parquet says hash")
    assert_found(data, FIRST, "", "its hash is")
    assert {f.shard for f in found(data)} == {f"{FIRST}.tar"}
    done = vitstream("verify", data)
    assert done.returncode == 1 and f"{FIRST}.tar: {row.key}: " in done.stdout
    assert done.stderr.count("\n") == 1 and "findings" in done.stderr


def test_a_flipped_byte_in_a_header(data):
    row = rows_of(data, SECOND)[3]
    patch(data / f"shards/{SECOND}.tar", row.offset - 512 + 3, b"\xff")
    assert_found(data, SECOND, "", f"damaged header at byte {row.offset - 512:,}")
    assert_found(data, SECOND, "", "3 whole samples in the tar, 150 in its index")


def test_a_flipped_byte_in_padding(data):
    row = next(row for row in rows_of(data, SECOND) if row.size % 512)
    patch(data / f"shards/{SECOND}.tar", row.offset + row.size, b"\1")
    assert_found(data, SECOND, "", f"padding of {row.key}.jpg is not zero")


def test_a_truncated_tar(data):
    row = rows_of(data, SECOND)[100]
    with (data / f"shards/{SECOND}.tar").open("r+b") as file:
        file.truncate(row.offset + 10)
    assert_found(data, SECOND, "", f"within {row.key}.jpg")
    assert_found(data, SECOND, "", "the manifest says", "bytes")


def test_a_tar_without_its_end(data):
    tar = data / f"shards/{FIRST}.tar"
    with tar.open("r+b") as file:
        file.truncate(len(tar.read_bytes().rstrip(b"\0")) // 512 * 512 + 512)
    adopt(data, FIRST)
    assert_found(data, FIRST, "", "without the two blocks that close a tar")


@pytest.mark.parametrize("suffix", ["tar", "arrow"])
def test_a_deleted_file(data, suffix):
    (data / f"shards/{SECOND}.{suffix}").unlink()
    assert_found(data, SECOND, "", "cannot be read")


def test_swapped_indexes(data):
    one, two = (data / f"shards/{shard}.arrow" for shard in (FIRST, SECOND))
    one.rename(data / "aside")
    two.rename(one)
    (data / "aside").rename(two)
    truth = rows_of(data, SECOND)[0].key  # now of the first tar
    assert_found(data, FIRST, truth, "its index says key")
    assert_found(data, FIRST, "", "the keys of its index add up to")
    assert_found(data, FIRST, "", "and ", " more samples")


def test_an_index_with_another_place_and_size(data):
    rows = rows_of(data, FIRST)
    row = rows[10]
    rows[10] = IndexRow(row.key, row.offset + 512, row.size, row.labels, row.width + 1, row.height)
    write_index(data / f"shards/{FIRST}.arrow", rows)
    assert_found(data, FIRST, row.key, f"offset {row.offset + 512} instead of {row.offset}", f"width {row.width + 1}")


@pytest.mark.parametrize(("label", "words"), [(b"2", "its index says labels"), (b"7", "but there are 3 classes")])
def test_a_wrong_label(data, label, words):
    row = next(row for row in rows_of(data, FIRST) if row.labels == (0,))
    offset = row.offset + row.size + -row.size % 512 + 512
    patch(data / f"shards/{FIRST}.tar", offset, label)
    adopt(data, FIRST)
    assert_found(data, FIRST, row.key, words)


def test_a_label_that_is_none(data):
    row = rows_of(data, FIRST)[0]
    patch(data / f"shards/{FIRST}.tar", row.offset + row.size + -row.size % 512 + 512, b"x")
    adopt(data, FIRST)
    assert_found(data, FIRST, row.key, "holds no single label: b'x'")


def test_a_key_that_is_there_twice(data):
    """The second shard becomes a copy of the first, and everything that names it is made to agree."""
    for suffix in ("tar", "arrow"):
        shutil.copy(data / f"shards/{FIRST}.{suffix}", data / f"shards/{SECOND}.{suffix}")
    first, second = (pq.ParquetFile(data / "samples.parquet").read_row_group(0) for _ in range(2))
    with pq.ParquetWriter(data / "samples.parquet", first.schema) as writer:
        writer.write_table(first)
        writer.write_table(second.set_column(8, second.schema.field(8), pa.array([f"{SECOND}.tar"] * len(second))))
    edit_manifest(data, lambda body: body["shards"][1].update(key_sum=body["shards"][0]["key_sum"]))
    adopt(data, SECOND)
    findings = found(data)
    assert {f.key for f in findings} == {row.key for row in rows_of(data, FIRST)}
    assert all("is there 2 times" in f.problem and SECOND in f.problem for f in findings)


def test_a_key_in_train_and_val(good, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(good, tmp_path / split)
    findings = found(tmp_path)
    assert len(findings) == 300 and f"{tmp_path}/val/shards/{FIRST}.tar" in findings[0].problem
    assert json.loads(vitstream("verify", tmp_path, "--json").stdout)["findings"][0]["key"] == findings[0].key


def test_an_image_that_cannot_be_decoded(data):
    """Well packed, well hashed, and yet no picture."""
    rows = rows_of(data, FIRST)
    bad = b"\xff\xd8 no picture"
    tar = b"".join([member(f"{rows[0].key}.jpg", bad), member(f"{rows[0].key}.cls", b"%d" % rows[0].labels)])
    old = (data / f"shards/{FIRST}.tar").read_bytes()
    tar += old[rows[1].offset - 512 :].rstrip(b"\0")
    tar += bytes(-len(tar) % 512)
    (data / f"shards/{FIRST}.tar").write_bytes(tar + end_of_archive(len(tar)))
    adopt(data, FIRST)
    assert_found(data, FIRST, rows[0].key, "image cannot be decoded")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (lambda block: block[:156] + b"2" + block[157:], "is not a regular file"),
        (lambda block: b"../" + block[:24] + block[27:], "is not of the form KEY.suffix"),
        (lambda block: block[:257] + b"ustar  \0" + block[265:], "is not USTAR"),
    ],
)
def test_members_that_do_not_belong_in_a_tar_of_ours(data, header, words):
    row = rows_of(data, FIRST)[5]
    tar = data / f"shards/{FIRST}.tar"
    block = bytearray(header(tar.read_bytes()[row.offset - 512 : row.offset]))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    patch(tar, row.offset - 512, bytes(block))
    adopt(data, FIRST)
    assert_found(data, FIRST, "", words)


def test_a_manifest_that_is_damaged_or_edited(data):
    original = (data / "dataset.json").read_bytes()
    edit_manifest(data, lambda body: body["shards"][0].update(xxh3="0" * 16))
    assert_found(data, FIRST, "", f"the manifest says {'0' * 16}")
    (data / "dataset.json").write_bytes(original)
    edit_manifest(data, lambda body: body["shardlist"].pop())
    assert_found(data, "", "", "contradicts itself")
    (data / "dataset.json").write_bytes(original[:-100])
    assert_found(data, "", "", "not a readable manifest")
    assert vitstream("verify", data).returncode == 1


def test_a_catalogue_that_disagrees(data):
    table = pq.read_table(data / "samples.parquet")
    size = table["size"].to_pylist()
    size[7] += 1
    edited = table.set_column(3, table.schema.field("size"), pa.array(size, pa.uint32()))
    with pq.ParquetWriter(data / "samples.parquet", table.schema) as writer:
        for start in (0, 150):
            writer.write_table(edited.slice(start, 150))
    assert_found(data, FIRST, table["key"][7].as_py(), f"samples.parquet says size {size[7]} instead of {size[7] - 1}")
    pq.write_table(table.slice(1), data / "samples.parquet")
    assert_found(data, "", "", "samples.parquet has 299 rows")
    (data / "samples.parquet").unlink()
    assert_found(data, "", "", "samples.parquet cannot be read")


def test_rejects_that_cannot_be_read_and_strange_files(data):
    (data / "rejects.jsonl").write_text("{")
    assert_found(data, "", "", "rejects.jsonl cannot be read")
    (data / "shards/shard-000002.tar").write_bytes(b"")
    assert_found(data, "", "", "shards/shard-000002.tar is not in the manifest")
    (data / ".shard-work").mkdir()
    assert_found(data, "", "", ".shard-work is left over")


def test_what_is_no_dataset(tmp_path, good):
    with pytest.raises(UsageError, match="no such dataset"):
        verify(tmp_path / "missing", workers=1)
    one_line(vitstream("verify", tmp_path), str(tmp_path), "vitstream shard SOURCE --out")
    one_line(vitstream("verify", good.parent), "no dataset here, but in its folders data")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Two shards of a few images, with a reject: quick to audit again and again."""
    root = tmp_path_factory.mktemp("small")
    photos = write_photo_folder(root / "photos", classes=2, per_class=5, size=(24, 16))
    (photos / "class-00/bad.jpg").write_text("bad")
    options = ("--max-rejects", 1, "--shard-size", "20kB")
    done = vitstream("shard", photos, "--out", root / "data", *options)
    assert done.returncode == 0 and len(read_manifest(root / "data").shards) == 2, done.stderr
    return root / "data"


FLIPS = int(os.environ.get("VITSTREAM_TEST_FLIPS", "6"))  # of each file; hundreds have been tried


@pytest.mark.parametrize("name", ["dataset.json", "samples.parquet", "rejects.jsonl", "shards/*.arrow", "shards/*.tar"])
def test_any_flipped_bit_is_found(small, tmp_path, name):
    data = Path(shutil.copytree(small, tmp_path / "data"))
    rng = random.Random(name)
    for _ in range(FLIPS):
        path = rng.choice(sorted(data.glob(name)))
        whole = path.read_bytes()
        bit = rng.randrange(8 * len(whole))
        patch(path, bit // 8, bytes([whole[bit // 8] ^ 1 << bit % 8]))
        findings = found(data)
        assert any(path.name in str(finding) for finding in findings), (path, bit, findings)
        assert not any("\n" in str(finding) for finding in findings)
        path.write_bytes(whole)
    assert found(data) == []


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("key", "0" * 24, "key 000000000000000000000000 instead of"),
        ("path", "class-01/other.jpg", "path class-01/other.jpg, which has another key"),
        ("path", r"class-01/\x", r"path class-01/\x, which has"),
        ("labels", [7], "labels [7] instead of"),
        ("size", 7, "size 7 instead of"),
        ("width", 7, "width 7 instead of 24"),
        ("height", 7, "height 7 instead of 16"),
        ("split", "val", "split val instead of all"),
        ("hash", "0" * 16, "hash 0000000000000000 instead of"),
        ("shard", "shard-000007.tar", "shard shard-000007.tar instead of shard-000000.tar"),
    ],
)
def test_every_column_of_the_catalogue_is_compared(small, tmp_path, column, value, words):
    data = Path(shutil.copytree(small, tmp_path / "data"))
    with pq.ParquetFile(data / "samples.parquet") as file:
        groups = [file.read_row_group(number).to_pylist() for number in range(2)]
    key = groups[0][2]["key"]
    groups[0][2][column] = value
    with pq.ParquetWriter(data / "samples.parquet", SCHEMA) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    adopt(data, FIRST)
    (finding,) = found(data)
    assert (finding.shard, finding.key) == (f"{FIRST}.tar", key) and words in finding.problem


@pytest.mark.parametrize("edit", [{"max_pixels": "x"}, {"max_pixels": None}, {"split": [1]}, {}])
def test_what_was_asked_may_be_nonsense(small, tmp_path, edit):
    data = Path(shutil.copytree(small, tmp_path / "data"))
    manifest = read_manifest(data)
    write_manifest(data, replace(manifest, asked=edit))
    assert found(data)  # of the split, and no exception


def test_an_index_that_leads_out_of_its_file(small, tmp_path):
    """Following such an offset, Arrow ends the process."""
    data = Path(shutil.copytree(small, tmp_path / "data"))
    arrow = data / f"shards/{FIRST}.arrow"
    first = arrow.read_bytes().index((0).to_bytes(4, "little") + (24).to_bytes(4, "little"))
    patch(arrow, first + 4, (2**31 - 1).to_bytes(4, "little"))
    adopt(data, FIRST)
    assert_found(data, FIRST, "", f"index {FIRST}.arrow cannot be read")


def crash_at_first(task, advance):
    """What Arrow, or any library, may do to a worker."""
    if task.number == 0:
        os.abort()
    return audit_shard(task, advance)


def test_a_worker_that_crashes_is_a_finding_and_the_others_are_audited(small, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.audit.dataset.audit_shard", crash_at_first)
    data = Path(shutil.copytree(small, tmp_path / "data"))
    row = rows_of(data, SECOND)[0]
    patch(data / f"shards/{SECOND}.tar", row.offset + row.size // 2, b"damage")
    findings = found(data)
    assert "cannot be audited" in findings[0].problem and "SIGABRT" in findings[0].problem
    assert findings[0].shard == f"{FIRST}.tar" and {f.shard for f in findings[1:]} == {f"{SECOND}.tar"}


def test_names_that_cannot_be_reached_are_one_line(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    one_line(vitstream("verify", tmp_path / ("n" * 300)), "File name too long")
    one_line(vitstream("verify", tmp_path / "circle"), "symbolic links")
    one_line(vitstream("verify", tmp_path / "two\nlines"), r"two\x0alines: no such dataset")
    one_line(vitstream("verify", os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), r"\xff: no such dataset")


def test_odd_names_are_printed_as_they_are_escaped(small, tmp_path):
    data = Path(shutil.copytree(small, tmp_path / os.fsdecode(b"\xff\n")))
    done = vitstream("verify", data)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and r"/\xff\x0a: 10 samples" in done.stdout
    (data / "shards" / os.fsdecode(b"odd\xfe\n")).touch()
    done = vitstream("verify", data)
    assert done.returncode == 1 and r"shards/odd\xfe\x0a is not in the manifest" in done.stdout
    assert done.stdout.count("\n") == done.stderr.count("\n") == 1
    assert r"\xff" in json.loads(vitstream("verify", data, "--json").stdout)["datasets"][0]
