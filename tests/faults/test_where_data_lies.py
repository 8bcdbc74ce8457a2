"""The same run, wherever its data lies and however it is packed: the same samples, pixels and losses."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.keys import sample_key
from pipeline.dataset.manifest import File, Manifest, read_manifest, write_manifest
from pipeline.run.metrics import read_lines
from tests.data_prep.mds.folders import write_copy
from tests.datasets import make_dataset
from tests.faults.test_kill_resume import until_step
from tests.runs import start, steps_of, train, write_run
from tests.servers import Flaky, Folder, environment, fill, s3_server

LOADER = {"workers": 1, "pixel_digest": True}


@pytest.fixture(scope="module")
def server():
    """An S3, and the log of what it is asked for."""
    with s3_server() as upstream:
        log = Flaky(upstream, rate=0, seed=0)
        with log.running() as url, pytest.MonkeyPatch.context() as patch:
            for name, value in environment(url).items():
                patch.setenv(name, value)
            yield upstream, log


def put(server, bucket: str, folder: Path) -> str:
    """The folder's URL, in a bucket of its own."""
    fill(server[0], bucket, {f"train/{path.relative_to(folder)}": path.read_bytes() for path in files_in(folder)})
    return f"s3://{bucket}/train"


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def assert_same(run: Path, undisturbed: dict[int, dict], exactly: bool = True) -> None:
    """`exactly`: at the same world size, the losses too."""
    steps = steps_of(run)
    for field in ("batch_digest", "pixel_digest", "consumed", *(("loss", "grad_norm") if exactly else ())):
        assert [line[field] for line in steps.values()] == [line[field] for line in undisturbed.values()], field
    certificates = list(read_lines(run.with_suffix("") / "digest.jsonl"))
    assert {c["epoch"] for c in certificates if c["exactly_once"] and not c["holes"]} == {0, 1, 2}


def train_with_a_kill(run: Path, before: int, after: int) -> None:
    """To the end, by `before` ranks up to a kill -9 after step 12, and by `after` ranks from there."""
    launcher = start("train", run, "--nproc", before)
    assert until_step(launcher, run, 12), launcher.communicate()
    launcher.kill()
    launcher.communicate()
    train(run, after)
    assert {line["attempt"] for line in steps_of(run).values()} == {0, 1}


def assert_counted(run: Path, log: Flaky) -> Counter[tuple[str, int, int]]:
    """Requests and bytes in the metrics are those of the server's log. Returns the ranges of shards asked for.

    An answer that takes a second has a second request beside it, of which one answer counts: up to one in 20.
    """
    steps = steps_of(run).values()
    ranges = Counter((path, *map(int, re.findall(r"\d+", span))) for path, span in log.asked if ".json" not in path)
    assert 0 <= sum(line["remote_requests"] for line in steps) - ranges.total() <= ranges.total() // 10 + 2
    sent = sum(size for path, size in log.sent.items() if ".json" not in path)
    second = sum((number - 1) * (last - first + 1) for (_, first, last), number in ranges.items())
    assert sent - second <= sum(line["remote_bytes"] for line in steps) <= sent
    return Counter({each: number for each, number in ranges.items() if not each[0].endswith(".arrow")})


def test_on_s3_with_a_cache_every_byte_comes_once_to_a_node(data, undisturbed, server, tmp_path):
    folder = Path(shutil.copytree(data[0], tmp_path / "train"))
    manifest = read_manifest(folder)
    indexes = tuple(File.of(folder, f"shards/{shard.index_name}") for shard in manifest.shards)
    write_manifest(folder, Manifest(manifest.classes, "single", manifest.shards, files=indexes))
    cache = {"dir": str(tmp_path / "cache"), "bytes": "1GB"}
    where = {"train": put(server, "tars", folder), "val": str(data[1]), "cache": cache}
    run = write_run(tmp_path / "run.yaml", *data, data=where, loader=LOADER)
    server[1].asked.clear()
    server[1].sent.clear()
    said = train(run, 2).stdout
    assert_same(run, undisturbed)
    ranges = assert_counted(run, server[1])
    whole = {(f"/tars/train/shards/{shard.name}", 0, shard.bytes - 1) for shard in manifest.shards}
    assert whole <= ranges.keys() and sum(ranges[each] for each in whole) <= len(whole) + 1, ranges
    assert len(ranges) - len(whole) <= 32, "more than the first step was read by ranges"
    fetched = re.findall(r"fetched for (\d+) samples: (.*)", said)
    assert len(fetched) == 3 and "requests per sample; its shards hold 3.7 kB" in fetched[0][1]
    assert fetched[1:] == [("352", "nothing, the cache has it all")] * 2


def test_an_mds_folder_is_trained_on_as_it_lies_killed_and_resumed(data, undisturbed, tmp_path):
    folder = write_copy(data[0], tmp_path / "mds", shards=4)
    run = write_run(tmp_path / "run.yaml", folder, data[1], loader=LOADER)
    train_with_a_kill(run, before=1, after=2)
    assert_same(run, undisturbed, exactly=False)
    certificates = read_lines(run.with_suffix("") / "digest.jsonl")
    assert {c["proof"] for c in certificates} == {"places"}, "an index.json has no sum of keys to prove by"


def test_an_mds_folder_on_s3_is_the_same_and_is_read_once_in_an_epoch(data, undisturbed, server, tmp_path):
    folder = write_copy(data[0], tmp_path / "mds", shards=4)
    where = {"train": put(server, "mds", folder), "val": str(data[1])}
    run = write_run(tmp_path / "run.yaml", *data, data=where, loader=LOADER)
    server[1].asked.clear()
    server[1].sent.clear()
    train(run, 2)
    assert_same(run, undisturbed)
    asked = assert_counted(run, server[1])
    heads = [head for shard in folder.glob("*.mds") for head in [int.from_bytes(shard.read_bytes()[4:8], "little")]]
    held = sum(shard.stat().st_size for shard in folder.glob("*.mds")) - sum(heads)
    assert sum(last - first + 1 for _, first, last in asked if first) == held
    assert set(asked.values()) >= {3} and asked.total() <= 1.05 * (3 * 352 + 2 * 4) + 1  # and tables, by each rank


def test_damage_to_an_mds_folder_is_holes_in_an_order_that_does_not_move(data, undisturbed, tmp_path):
    folder = write_copy(data[0], tmp_path / "mds", shards=4)  # of 88 samples
    gone, table, rotten, cut = sorted(folder.glob("*.mds"))
    gone.unlink()
    body = bytearray(table.read_bytes())
    body[8:12] = b"\0\0\0\0"  # the second sample lies at the file's beginning
    table.write_bytes(body)
    body = bytearray(rotten.read_bytes())
    places = np.frombuffer(bytes(body[4 : 4 + 4 * 89]), "<u4")
    body[places[3] : places[3] + 4] = b"\xff\xff\xff\x7f"  # the size of its image
    body[places[7] + 8 : places[7] + 16] = bytes(8)  # its image's first bytes, behind two sizes
    rotten.write_bytes(body)
    cut.write_bytes(cut.read_bytes()[:-1])
    where = {"train": str(folder), "max_hole_rate": 0.9}
    run = write_run(tmp_path / "run.yaml", *data, data=where, epochs=1, loader=LOADER)
    train(run)
    holes = list(read_lines(run.with_suffix("") / "holes.jsonl"))
    assert {hole["sample"] for hole in holes} == {*range(176), 176 + 3, 176 + 7, 351} and len(holes) == 179
    causes = Counter((hole["shard"], hole["cause"]) for hole in holes)
    assert set(causes) == {
        (gone.name, "cannot read: No such file or directory"),
        (table.name, "where its samples lie is damaged, or it is another shard than index.json says"),
        (rotten.name, "the sample is damaged: its columns take 2,147,483,687 bytes"),
        (rotten.name, "not an image: cannot identify image file"),
        (cut.name, "the shard ends 1 bytes too early"),
    }
    assert causes.most_common(2)[1][1] == 88
    (key,) = (hole["key"] for hole in holes if hole["sample"] == 176 + 7)  # its image is damaged, its key is not
    assert key == sample_key("seed-0/class-03/photo-00183.jpg")
    (certificate,) = read_lines(run.with_suffix("") / "digest.jsonl")
    assert certificate["exactly_once"] and (certificate["samples"], certificate["holes"]) == (173, 179)
    for step, line in steps_of(run).items():
        assert line["consumed"] == undisturbed[step]["consumed"]


def test_a_tar_dataset_and_an_mds_folder_on_s3_are_one_corpus(data, undisturbed, server, tmp_path):
    """Half of the same samples as tar, half as MDS: the concatenation is the whole, sample for sample."""
    manifest = read_manifest(data[0])
    shutil.copytree(data[0], tmp_path / "tar")
    write_manifest(tmp_path / "tar", Manifest(manifest.classes, "single", manifest.shards[:1]))
    rest = put(server, "rest", write_copy(data[0], tmp_path / "mds", of=[1, 2], shards=2))
    where = {"train": [str(tmp_path / "tar"), rest], "val": str(data[1])}
    run = write_run(tmp_path / "run.yaml", *data, data=where, loader=LOADER)
    train_with_a_kill(run, before=3, after=1)
    assert_same(run, undisturbed, exactly=False)


def test_a_mixture_is_the_same_after_a_kill_on_other_ranks(data, server, tmp_path):
    """Three quarters photos, a quarter of it another corpus, as MDS on S3, in epochs of its own."""
    other = tmp_path / "other"
    make_dataset(other, 90, seed=2)
    other_url = put(server, "other", write_copy(other, tmp_path / "mds", shards=2))
    where = {"train": [{"path": str(data[0]), "weight": 3}, {"path": other_url, "weight": 1}]}
    whole, killed = (
        write_run(tmp_path / f"{name}.yaml", *data, data=where, steps=33, epochs=None, loader=LOADER)
        for name in ("whole", "killed")
    )
    train(whole)
    train_with_a_kill(killed, before=2, after=1)
    before, after = steps_of(whole), steps_of(killed)
    for field in ("batch_digest", "pixel_digest", "consumed", "datasets"):
        assert [line[field] for line in after.values()] == [line[field] for line in before.values()], field
    counts = Counter[str]()
    for line in before.values():
        assert line["datasets"] == {str(data[0]): 24, other_url: 8}
        counts += line["datasets"]
    certificates = [list(read_lines(run.with_suffix("") / "digest.jsonl")) for run in (whole, killed)]
    told = [{(c["part"], c["epoch"], c["samples"], c["digest"]) for c in each} for each in certificates]  # or twice
    assert told[0] == told[1]
    assert {each[:2] for each in told[0]} == {(name, epoch) for name in (str(data[0]), other_url) for epoch in (0, 1)}
    assert counts == {str(data[0]): 792, other_url: 264} and all(c["exactly_once"] for c in certificates[0])


def test_no_checkpoint_and_no_copy_has_credentials(data, tmp_path):
    with Folder(data[0].parent).running() as url:
        steps = {"epochs": None, "steps": 2, "checkpoint": {"copy_to": str(tmp_path / "copies")}}
        run = write_run(tmp_path / "run.yaml", f"{url}/train?signature=hush", **steps)
        train(run)
        again = train(run, 1, "--set", f"data.train={url}/train?signature=quiet", "--set", "steps=4")
        assert "changed since that checkpoint: steps: 2 -> 4" in again.stdout
        assert "changed since that checkpoint: data" not in again.stdout, "it is the same place"
    kept = [*files_in(tmp_path / "run" / "checkpoints"), *files_in(tmp_path / "copies")]
    assert sum(path.name == "manifest.json" for path in kept) == 4
    for path in kept:
        written = path.read_bytes()
        assert not any(secret in written for secret in (b"signature", b"hush", b"quiet")), path
        assert path.name != "manifest.json" or f"{url}/train".encode() in written
