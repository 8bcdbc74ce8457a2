"""Each kind of damage is planted in a good dataset; verify has to find it and to say where."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from data_prep.audit import Finding
from data_prep.tar import end_of_archive, member
from data_prep.verify import verify
from pipeline.dataset.errors import UsageError
from pipeline.dataset.index import IndexRow, ShardIndex, write_index
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
    """Makes the manifest agree with the tar as it is now, as someone who repairs by hand would."""
    tar = (data / f"shards/{shard}.tar").read_bytes()

    def change(body):
        (entry,) = (s for s in body["shards"] if s["name"] == f"{shard}.tar")
        entry |= {"bytes": len(tar), "xxh3": xxhash.xxh3_64_hexdigest(tar)}
        (entry,) = (s for s in body["shardlist"] if s["url"] == f"shards/{shard}.tar")
        entry["filesize"] = len(tar)

    edit_manifest(data, change)


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
        writer.write_table(second)
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
