"""`vitstream shard` as a user starts it: what it writes, refuses and keeps."""

import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash

from data_prep.catalog.listing import SPLIT_SEED
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.keys import hex64, key_sum, keyed_hash, sample_key
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.names import escape
from tests.images import write_giant_png, write_photo, write_photo_folder
from tests.runs import COMMAND, one_line, vitstream


def sharded(*arguments):
    """A `shard` that has to succeed."""
    done = vitstream("shard", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), classes=4, per_class=100)


def test_stock_webdataset_reads_the_same_keys_bytes_and_labels(photos, tmp_path):
    sharded(photos, "--out", tmp_path / "data", "--as-is", "--val-fraction", 0.2)
    files = {sample_key(p.relative_to(photos).as_posix()): p for p in photos.rglob("*.jpg")}
    classes = sorted(p.name for p in photos.iterdir())
    seen = {}
    for split in ("train", "val"):
        dataset = tmp_path / "data" / split
        manifest = read_manifest(dataset)
        assert manifest.classes == tuple(classes)
        assert sorted(p.name for p in (dataset / "shards").glob("*.tar")) == [s.name for s in manifest.shards]
        for shard in manifest.shards:
            index = ShardIndex(dataset / "shards" / shard.index_name)
            reader = webdataset.WebDataset(str(dataset / "shards" / shard.name), shardshuffle=False)
            samples = [(s["__key__"], s["jpg"], s["cls"]) for s in reader]
            assert [key for key, _, _ in samples] == index.keys() and len(samples) == shard.samples
            assert hex64(key_sum(index.keys())) == shard.key_sum
            tar = (dataset / "shards" / shard.name).read_bytes()
            assert xxhash.xxh3_64_hexdigest(tar) == shard.xxh3 and len(tar) == shard.bytes
            for position, (key, data, label) in enumerate(samples):
                row = index.row(position)
                assert tar[row.offset : row.offset + row.size] == data == files[key].read_bytes()
                assert row.labels == (int(label),) == (classes.index(files[key].parent.name),)
                assert (row.width, row.height) == (64, 48)
                seen[key] = split
    assert set(seen) == set(files)
    assert all((keyed_hash(key, SPLIT_SEED) < 0.2 * 2**64) == (split == "val") for key, split in seen.items())


def test_gnu_tar_lists_only_ordinary_members(photos, tmp_path):
    sharded(photos, "--out", tmp_path / "data", "--size", 32)
    tar = tmp_path / "data/shards/shard-000000.tar"
    lines = subprocess.run(["tar", "-tvf", tar, "--utc"], capture_output=True, text=True, check=True).stdout
    assert {tuple(line.split()[:2] + line.split()[3:5]) for line in lines.splitlines()} == {
        ("-rw-r--r--", "0/0", "1970-01-01", "00:00")
    }


def test_catalogue_has_a_row_for_every_sample_in_their_order(photos, tmp_path):
    sharded(photos, "--out", tmp_path / "data", "--size", 32)
    manifest = read_manifest(tmp_path / "data")
    assert len(manifest.shards) == 400 // 128
    rows = pq.read_table(tmp_path / "data/samples.parquet").to_pylist()
    keys = [
        k
        for s in manifest.shards
        for k in ShardIndex(tmp_path / "data/shards" / s.index_name).keys()  # noqa: SIM118
    ]
    assert [row["key"] for row in rows] == keys
    for row in rows[::40]:
        assert row["key"] == sample_key(row["path"])
        assert manifest.classes[row["labels"][0]] == row["path"].split("/")[0]
        assert (row["width"], row["height"], row["split"]) == (43, 32, "all")
        tar = (tmp_path / "data/shards" / row["shard"]).read_bytes()
        offset = tar.index(row["key"].encode()) + 512
        assert xxhash.xxh3_64_hexdigest(tar[offset : offset + row["size"]]) == row["hash"]


def test_the_manifest_tells_nothing_of_machine_time_or_workers(photos, tmp_path):
    first = tmp_path / "a" / "data"
    sharded(photos, "--out", first, "--workers", 1)
    moved = tmp_path / "elsewhere" / photos.name
    moved.parent.mkdir()
    subprocess.run(["cp", "-r", photos, moved], check=True)
    sharded(moved, "--out", tmp_path / "b", "--workers", 2)
    assert contents(first) == contents(tmp_path / "b")
    assert str(tmp_path).encode() not in (first / "dataset.json").read_bytes()


def test_hostile_files_are_rejects_with_a_reason_in_bounded_memory(photos, tmp_path):
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", photos, source], check=True)
    whole = (source / "class-00/photo-00000.jpg").read_bytes()
    (source / "class-00/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "class-01/zero.jpg").write_bytes(b"")
    (source / "class-02/text.jpg").write_text("I am not a picture, whatever my name says.\n")
    write_giant_png(source / "class-03/giant.png")
    measured = (
        "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:]).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(r)"
    )
    command = [sys.executable, "-c", measured, *COMMAND, "shard", source, "--out", tmp_path / "data"]
    done = subprocess.run([*map(str, command), "--max-rejects", "4"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr) < 400_000  # kB; the picture would take 10.8 GB
    rejects = [json.loads(line) for line in (tmp_path / "data/rejects.jsonl").read_text().splitlines()]
    assert {r["source"]: r["reason"].partition(":")[0] for r in rejects} == {
        "class-00/truncated.jpg": "corrupt or truncated",
        "class-01/zero.jpg": "empty file",
        "class-02/text.jpg": "not an image",
        "class-03/giant.png": "too large",
    }
    assert "60000 x 60000 pixels" in rejects[-1]["reason"]
    assert [r["source"] for r in rejects] == sorted(r["source"] for r in rejects)
    assert read_manifest(tmp_path / "data").samples == 400
    assert "left out: 4 images" in done.stdout


def test_a_reject_shortens_its_shard_and_moves_nothing(photos, tmp_path):
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", photos, source], check=True)
    sharded(source, "--out", tmp_path / "whole")
    victim = source / "class-02/photo-00050.jpg"
    victim.write_bytes(bytes(victim.stat().st_size))
    sharded(source, "--out", tmp_path / "data")
    key = sample_key("class-02/photo-00050.jpg")
    before, after = (
        [ShardIndex(p).keys() for p in sorted((tmp_path / name / "shards").glob("*.arrow"))]
        for name in ("whole", "data")
    )
    assert [[k for k in shard if k != key] for shard in before] == after


def test_too_many_rejects_fail_keep_what_is_done_and_go_on_when_allowed(photos, tmp_path):
    source, out = tmp_path / "source", tmp_path / "data"
    subprocess.run(["cp", "-r", photos, source], check=True)
    for number in range(10):
        (source / f"class-01/bad-{number}.jpg").write_text("no picture")
    done = vitstream("shard", source, "--out", out, "--workers", 1)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "of 410 images rejected so far, 4 allowed; mostly: not an image" in line and "--max-rejects" in line
    listed = (out / ".shard-work/rejects.jsonl").read_text().splitlines()
    assert len(listed) > 4 and str(out / ".shard-work/rejects.jsonl") in line
    assert not (out / "dataset.json").exists()
    kept = {p: p.stat().st_ino for p in (out / "shards").glob("*.tar")}
    assert kept
    sharded(source, "--out", out, "--max-rejects", "3%")
    assert {p: p.stat().st_ino for p in kept} == kept
    assert len((out / "rejects.jsonl").read_text().splitlines()) == 10
    sharded(source, "--out", tmp_path / "again", "--max-rejects", "10")
    assert contents(out) == contents(tmp_path / "again")


def test_a_shard_of_rejects_only_is_left_out(tmp_path):
    for number in range(300):
        write_photo(tmp_path / f"source/a/{number}.png", 8, 8, number)
    sharded(tmp_path / "source", "--out", tmp_path / "whole")
    gone = set(ShardIndex(tmp_path / "whole/shards/shard-000000.arrow").keys())
    for number in range(300):
        path = tmp_path / f"source/a/{number}.png"
        if sample_key(f"a/{number}.png") in gone:
            path.write_bytes(bytes(path.stat().st_size))
    sharded(tmp_path / "source", "--out", tmp_path / "data", "--max-rejects", "1.0")
    assert [s.name for s in read_manifest(tmp_path / "data").shards] == ["shard-000001.tar"]
    assert contents(tmp_path / "data/shards") == {
        n: d for n, d in contents(tmp_path / "whole/shards").items() if "000001" in n
    }
    assert vitstream("verify", tmp_path / "data").returncode == 0


def test_a_finished_dataset_is_left_alone(photos, tmp_path):
    sharded(photos, "--out", tmp_path / "data")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    done = sharded(photos, "--out", tmp_path / "data", "--workers", 1)
    assert "complete already" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["shards/shard-000001.tar", "shards/shard-000002.arrow", "samples.parquet", "rejects.jsonl"]
)
def test_a_finished_dataset_of_which_a_file_is_gone_or_cut_is_refused(photos, tmp_path, name):
    out = tmp_path / "data"
    sharded(photos, "--out", out, "--size", 32)
    size = (out / name).stat().st_size
    with (out / name).open("ab") as file:
        file.write(b"x")
    grown = vitstream("shard", photos, "--out", out, "--size", 32)
    one_line(grown, f"{out / name}: has {size + 1:,} bytes, dataset.json says {size:,}; see vitstream verify")
    (out / name).unlink()
    gone = vitstream("shard", photos, "--out", out, "--size", 32)
    one_line(gone, f"{out / name}: No such file or directory; see vitstream verify {out} --repair")
    assert "complete" not in grown.stdout + gone.stdout


def test_other_options_or_images_are_refused(photos, tmp_path):
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", photos, source], check=True)
    out = tmp_path / "data"
    sharded(source, "--out", out, "--size", 40)
    one_line(vitstream("shard", source, "--out", out, "--size", 41), str(out), "--size: 40 then, 41 now")
    one_line(vitstream("shard", source, "--out", out, "--size", 40, "--seed", 1), "--seed: 0 then, 1 now")
    split = vitstream("shard", source, "--out", out, "--size", 40, "--val-fraction", 0.5)
    one_line(split, "--val-fraction: 0.0 then, 0.5 now")
    write_photo(source / "class-00/new.jpg", 64, 48, 1)
    one_line(vitstream("shard", source, "--out", out, "--size", 40), "images in SOURCE: 400 then, 401 now")
    (source / "class-00/new.jpg").unlink()
    write_photo(source / "class-00/photo-00000.jpg", 65, 48, 1)
    one_line(vitstream("shard", source, "--out", out, "--size", 40), "names, sizes or labels in SOURCE have changed")


def test_an_unfinished_dataset_of_other_versions_is_refused(photos, tmp_path):
    out = tmp_path / "data"
    for number in range(5):
        write_photo(tmp_path / f"source/a/{number}.jpg", 8, 8, number)
    (tmp_path / "source/a/bad.jpg").write_text("bad")
    assert vitstream("shard", tmp_path / "source", "--out", out).returncode == 1
    plan = json.loads((out / ".shard-work/plan.json").read_text())
    plan["versions"]["numpy"] = "0.1"
    (out / ".shard-work/plan.json").write_text(json.dumps(plan))
    done = vitstream("shard", tmp_path / "source", "--out", out, "--max-rejects", 1)
    one_line(done, "begun with numpy 0.1", "install numpy 0.1 to continue")


def test_odd_names_survive(tmp_path):
    names = [
        b"caf\xe9/1.jpg",
        "日本/写真 ü.jpg".encode(),
        b"a/new\nline.jpg",
        b"a/b.c.d.JPG",
        b"a/" + b"n" * 251 + b".jpg",
    ]
    names += [b"deep/" + b"/".join([b"f" * 100] * 3) + b"/x.jpg"]
    for number, name in enumerate(names):
        write_photo(tmp_path / "source" / os.fsdecode(name), 16, 16, number)
    sharded(tmp_path / "source", "--out", tmp_path / "data")
    rows = pq.read_table(tmp_path / "data/samples.parquet").to_pylist()
    paths = {name.decode("utf-8", "surrogateescape") for name in names}
    assert {(row["key"], row["path"]) for row in rows} == {(sample_key(p), escape(p)) for p in paths}
    assert read_manifest(tmp_path / "data").classes == ("a", r"caf\xe9", "deep", "日本")
    assert vitstream("verify", tmp_path / "data").returncode == 0


def test_folders_with_odd_names(tmp_path):
    odd = os.fsdecode(b"\xff\nline")
    source, out = tmp_path / odd, tmp_path / f"{odd}-out"
    for number in range(5):
        write_photo(source / f"a/{number}.jpg", 8, 8, number)
    done = sharded(source, "--out", out)
    assert rf"{tmp_path}/\xff\x0aline-out: 5 images" in done.stdout and done.stdout.count("\n") == 2
    assert "complete already" in sharded(source, "--out", out).stdout
    assert read_manifest(out).asked["source"] == [r"\xff\x0aline"]
    result = json.loads(sharded(source, "--out", out, "--json").stdout)
    assert result["datasets"][0]["path"] == rf"{tmp_path}/\xff\x0aline-out"
    one_line(vitstream("shard", source, "--out", out, "--size", 7), r"\xff\x0aline-out: made with another --size")
    one_line(vitstream("shard", tmp_path / f"{odd}-none", "--out", out), r"\xff\x0aline-none: no such folder")
    assert vitstream("verify", out).returncode == 0


def test_folders_that_cannot_be_reached_are_one_line(photos, tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    long = "n" * 300
    one_line(
        vitstream("shard", tmp_path / "circle", "--out", tmp_path / "data"), "circle: a link that leads in a circle"
    )
    one_line(vitstream("shard", photos, "--out", tmp_path / "circle"), "circle: a link that leads in a circle")
    one_line(vitstream("shard", tmp_path / long, "--out", tmp_path / "data"), "File name too long")
    one_line(vitstream("shard", photos, "--out", tmp_path / long), "cannot be written (File name too long)")
    one_line(vitstream("shard", photos, "--out", "/proc/x"), "/proc/x: cannot be written (")
    (tmp_path / "closed").mkdir(mode=0)
    for out in (tmp_path / "closed/data", tmp_path / "closed/deeper/data"):
        command = [*without_override(), *COMMAND, "shard", str(photos), "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        one_line(done, f"{out}: cannot be written (Permission denied); choose another --out")


def without_override() -> list[str]:
    """Root may read everything; the test of a forbidden folder needs a root that may not."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def test_no_permission(photos, tmp_path):
    closed = tmp_path / "source" / "closed"
    write_photo(closed / "1.jpg", 8, 8, 0)
    closed.chmod(0)
    try:
        for source, name in ((tmp_path / "source", closed), (closed, closed)):
            command = [*without_override(), *COMMAND, "shard", str(source), "--out", str(tmp_path / "data")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            one_line(done, str(name), "no permission")
    finally:
        closed.chmod(0o755)


def test_an_unreadable_file_is_a_reject(tmp_path):
    for number in range(5):
        write_photo(tmp_path / f"source/a/{number}.jpg", 8, 8, number)
    (tmp_path / "source/a/3.jpg").chmod(0)
    command = [*without_override(), *COMMAND, "shard", tmp_path / "source", "--out", tmp_path / "data"]
    done = subprocess.run([*map(str, command), "--max-rejects", "1"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (reject,) = map(json.loads, (tmp_path / "data/rejects.jsonl").read_text().splitlines())
    assert (reject["source"], reject["reason"]) == ("a/3.jpg", "cannot be read: Permission denied")


def test_wrong_usage_is_one_line(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("x")
    out = tmp_path / "data"
    shard = lambda *arguments: vitstream("shard", *arguments)  # noqa: E731
    one_line(shard(tmp_path / "empty", "--out", out), str(tmp_path / "empty"), "no images in it")
    one_line(shard(tmp_path / "missing", "--out", out), str(tmp_path / "missing"), "no such folder")
    one_line(shard(tmp_path / "file", "--out", out), str(tmp_path / "file"), "not a folder")
    one_line(shard(photos / "class-00", "--out", out), "photo-00000.jpg", "without a class")
    one_line(shard(photos, photos, "--out", out), str(photos), "given twice")
    write_photo(tmp_path / "other/class-03/photo-00007.jpg", 8, 8, 0)
    one_line(shard(photos, tmp_path / "other", "--out", out), "class-03/photo-00007.jpg", "rename one")
    one_line(shard(photos, "--out", tmp_path / "full"), str(tmp_path / "full"), "not empty")
    one_line(shard(photos, "--out", tmp_path / "file"), str(tmp_path / "file"), "cannot be written")
    one_line(shard(photos, "--out", photos / "data"), "lies inside SOURCE")
    one_line(shard(photos, "--out", out, "--as-is", "--size", 32), "--as-is", "--size")
    one_line(shard(photos, "--out", out, "--as-is", "--quality", 80), "--as-is", "--quality")
    one_line(shard(photos, "--out", out, "--quality", 0), "--quality 0")
    one_line(shard(photos, "--out", out, "--shard-size", "big"), "--shard-size 'big'")
    one_line(shard(photos, "--out", out, "--shard-size", "9" * 400), "--shard-size '999", "not a size")
    one_line(shard(photos, "--out", out, "--max-rejects", "200%"), "--max-rejects '200%'")
    one_line(shard(photos, "--out", out, "--val-fraction", 1), "--val-fraction 1.0")
    assert not out.exists() or not any(out.glob("shards/*"))


def test_json_is_all_that_is_printed(photos, tmp_path):
    done = sharded(photos, "--out", tmp_path / "data", "--val-fraction", 0.1, "--json")
    result = json.loads(done.stdout)
    assert [Path(d["path"]).name for d in result["datasets"]] == ["train", "val"]
    assert sum(d["samples"] for d in result["datasets"]) == 400 == result["encoded"]
    for dataset in result["datasets"]:
        assert dataset["fingerprint"] == read_manifest(Path(dataset["path"])).fingerprint


def test_a_bar_on_a_terminal_only(photos, tmp_path):
    ours, theirs = pty.openpty()
    command = [*COMMAND, "shard", str(photos), "--out", str(tmp_path / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    stdout, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"images/s" in shown and b"/400" in shown and b"ETA" in shown
    assert "400 images, 4 classes" in stdout and "\x1b" not in stdout


def test_as_is_of_all_formats_and_random_seeds_differ_only_in_order(tmp_path):
    rng = random.Random(0)
    for number in range(40):
        suffix = rng.choice(["jpg", "png", "webp", "gif"])
        write_photo(tmp_path / f"source/a/{number}.{suffix}", 24, 16, number)
    for seed in (0, 1):
        sharded(tmp_path / "source", "--out", tmp_path / f"{seed}", "--as-is", "--seed", seed)
    zero, one = (pq.read_table(tmp_path / f"{s}/samples.parquet").to_pylist() for s in (0, 1))
    assert zero != one and sorted(zero, key=lambda r: r["key"]) == sorted(one, key=lambda r: r["key"])


def test_the_page_for_users_names_every_option():
    page = (Path(__file__).parents[2] / "docs/shard.md").read_text()
    options = re.findall(r"^  (--[a-z-]+)", vitstream("shard", "--help").stdout, re.MULTILINE)
    assert len(options) > 8
    assert [option for option in options if option not in page] == []


@pytest.mark.parametrize("content", ['{"x', "[]", "{}", ""])
def test_a_damaged_plan_is_one_line(tmp_path, content):
    photos = write_photo_folder(tmp_path / "photos", classes=2, per_class=4)
    (tmp_path / "data" / ".shard-work").mkdir(parents=True)
    (tmp_path / "data" / ".shard-work" / "plan.json").write_text(content)
    one_line(vitstream("shard", photos, "--out", tmp_path / "data"), "plan.json: damaged", "start again")
