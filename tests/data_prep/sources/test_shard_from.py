"""`vitstream shard` from every kind of source: the same pictures make the same shards, also through a network that
fails; a dead one is one line, and the same command goes on later."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import read_manifest
from tests.images import write_photo_folder
from tests.runs import CHECKOUT
from tests.servers import Flaky, child_environment, dead_server, fill, s3_server

SECONDS = "12"


def shard(*arguments, endpoint="http://127.0.0.1:9", seconds=SECONDS):
    command = [sys.executable, "-m", "pipeline.cli", "shard", *map(str, arguments), "--workers", "2", "--json"]
    environment = child_environment(endpoint, VITSTREAM_RETRY_SECONDS=seconds)
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)


def shards(dataset: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((dataset / "shards").iterdir())}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos and the dataset made of it."""
    folder = tmp_path_factory.mktemp("from")
    write_photo_folder(folder / "photos", 3, 20)
    done = shard(folder / "photos", "--out", folder / "data")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(photos):
    """The same photos in a bucket."""
    paths = sorted((photos / "photos").rglob("*.jpg"))
    names = [str(path.relative_to(photos / "photos")) for path in paths]
    objects = {f"photos/{name}": path.read_bytes() for name, path in zip(names, paths, strict=True)}
    listed = pa.table({"path": names, "label": [name.partition("/")[0] for name in names], "n": range(len(names))})
    buffer = io.BytesIO()
    pq.write_table(listed, buffer)
    with s3_server() as endpoint:
        fill(endpoint, "album", objects | {"photos/list.parquet": buffer.getvalue()})
        yield endpoint


@pytest.mark.parametrize("source", ["s3://album/photos", "s3://album/photos/list.parquet"])
def test_a_flaky_bucket_gives_the_same_shards(photos, server, tmp_path, source):
    flaky = Flaky(server, rate=0.1, seed=5)
    with flaky.running() as proxy:
        done = shard(source, "--out", tmp_path / "data", endpoint=proxy)
        while done.returncode == 1 and "run the same command again" in done.stderr:
            done = shard(source, "--out", tmp_path / "data", endpoint=proxy)
    assert done.returncode == 0, done.stderr
    assert shards(tmp_path / "data") == shards(photos / "data")
    assert flaky.done.total() > flaky.done["fine"] > len(list((photos / "photos").rglob("*.jpg")))


def test_a_bucket_that_dies_is_one_line_and_the_same_command_goes_on(photos, server, tmp_path):
    source = ("s3://album/photos", "--out", tmp_path / "data")
    assert shard(*source, "--stop-after", "plan", endpoint=server).returncode == 0
    with dead_server() as dead:
        done = shard(*source, "--task", "0/1", endpoint=dead, seconds="1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "does not answer" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tar"))
    assert shard(*source, endpoint=server).returncode == 0
    assert shards(tmp_path / "data") == shards(photos / "data")


def test_tars_and_tables_of_the_same_pictures(photos, tmp_path):
    """What is streamed, in two passes, and what is read at random give the same samples under the same keys."""
    paths = sorted((photos / "photos").rglob("*.jpg"))
    names = [path.relative_to(photos / "photos").as_posix() for path in paths]
    with tarfile.open(tmp_path / "a.tar", "w") as plain, tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as packed:
        for tar in (plain, packed):
            for path, name in zip(paths, names, strict=True):
                tar.add(path, name)
                label = name.partition("/")[0].encode()
                info = tarfile.TarInfo(name.replace(".jpg", ".cls"))
                info.size = len(label)
                tar.addfile(info, io.BytesIO(label))
    rows = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "label": [n[:8] for n in names],
    }
    pq.write_table(pa.table(rows | {"id": names}), tmp_path / "hf.parquet", row_group_size=7)
    done = shard(tmp_path / "hf.parquet", "--key", "id", "--out", tmp_path / "from-hf")
    assert done.returncode == 0, done.stderr
    assert shards(tmp_path / "from-hf") == shards(photos / "data")
    for name in ("a.tar", "packed.tar.gz"):
        done = shard(tmp_path / name, "--out", tmp_path / f"from-{name}")
        assert done.returncode == 0, done.stderr
        manifest = read_manifest(tmp_path / f"from-{name}")
        assert (manifest.samples, manifest.classes) == (60, read_manifest(photos / "data").classes)
    again = shard(tmp_path / "from-a.tar", "--as-is", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert shards(tmp_path / "again") == shards(tmp_path / "from-a.tar")


def test_a_table_of_multi_labels_with_a_filter(photos, tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    lines = [
        {"file": str(path), "labels": ["all", path.parent.name], "number": number}
        for number, path in enumerate(sorted((photos / "photos").rglob("*.jpg")))
    ]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    where = "CAST(number AS INT) < 30 AND list_contains(labels, 'class-00')"
    done = shard(folder, "--where", where, "--out", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "data")
    assert (manifest.samples, manifest.labels) == (20, "multi")
    assert manifest.classes == ("all", "class-00", "class-01", "class-02")
