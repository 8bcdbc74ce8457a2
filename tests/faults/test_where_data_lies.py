"""The same run, wherever its data lies and however it is packed: the same samples, pixels and losses."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipeline.dataset.manifest import File, Manifest, read_manifest, write_manifest
from pipeline.run.metrics import read_lines
from tests.runs import steps_of, train, write_run
from tests.servers import Flaky, environment, fill, s3_server

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


def assert_counted(run: Path, log: Flaky) -> Counter[tuple[str, int, int]]:
    """Requests and bytes in the metrics are those of the server's log. Returns the ranges of shards asked for."""
    steps = steps_of(run).values()
    ranges = Counter((path, *map(int, re.findall(r"\d+", span))) for path, span in log.asked if ".json" not in path)
    assert sum(line["remote_requests"] for line in steps) == ranges.total()
    sent = sum(size for path, size in log.sent.items() if ".json" not in path)
    twice = sum((ranges[each] - 1) * (each[2] - each[1] + 1) for each in ranges)  # second ones: the first answer counts
    assert sent - twice <= sum(line["remote_bytes"] for line in steps) <= sent
    assert sum(line["remote_retries"] for line in steps) == 0
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
    assert all(ranges[each] == 1 for each in whole), ranges
    assert ranges.total() - len(whole) <= 32, "more than the first step was read by ranges"
    fetched = re.findall(r"fetched for (\d+) samples: (.*)", said)
    assert len(fetched) == 3 and "requests per sample; its shards hold 3.7 kB" in fetched[0][1]
    assert fetched[1:] == [("352", "nothing, the cache has it all")] * 2
