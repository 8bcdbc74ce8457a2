"""Against mosaicml-streaming itself, in an environment of its own: it reads our MDS, and we read its."""

import hashlib
import json
import subprocess
import time
from pathlib import Path

import pytest
import xxhash
from PIL import Image

from data_prep.adopt.adopt import adopt
from data_prep.audit.dataset import verify
from data_prep.mds.convert import convert as again
from pipeline.dataset.containers import open_shard
from pipeline.dataset.location import Location
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.mds_folder import mds_manifest
from tests.data_prep.adopt.tars import photo, write_tar
from tests.datasets import make_dataset
from tests.reading import DatasetReader
from tests.runs import CHECKOUT, one_line, vitstream

PYTHON = CHECKOUT / ".venv-mds/bin/python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-mds here; make test makes it")

READ = """
import hashlib, json, sys
from streaming import StreamingDataset
data = StreamingDataset(local=sys.argv[1], batch_size=1, shuffle=False)
for number in range(len(data)):
    sample = data[number]
    image = sample.pop("image")
    raw = image.fp.getvalue() if hasattr(image, "fp") else image
    print(json.dumps([hashlib.sha256(raw).hexdigest(), list(image.size), sample]))
"""
WRITE = """
import sys
from pathlib import Path
from PIL import Image
from streaming import MDSWriter
names = sorted(Path(sys.argv[1]).glob("*.jpg"))
with MDSWriter(out=sys.argv[2], columns={"y": "int", "x": "jpeg"}, size_limit=20000, hashes=["sha1"]) as out:
    for number, name in enumerate(names):
        out.write({"x": Image.open(name), "y": number % 3})
"""


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def convert(dataset: Path, out: Path) -> dict:
    return json.loads(run(PYTHON, "-m", "pipeline.cli", "convert", dataset, "--to", "mds", "--out", out, "--json"))


def contents(dataset: Path) -> tuple[list, Manifest]:
    manifest = read_manifest(dataset)
    reader = DatasetReader(dataset, manifest)
    found = []
    for number in range(manifest.samples):
        shard, row = reader.locate(number)
        packed = open_shard(manifest.container, dataset / "shards" / shard).read(row)
        found.append((packed.key, packed.data, packed.labels, row.width, row.height))
    return found, manifest


def test_there_and_back(tmp_path):
    make_dataset(tmp_path / "data", 40, shards=[15, 25], size=(32, 24))
    made = convert(tmp_path / "data", tmp_path / "mds")
    assert made["samples"] == 40 and not made["was_complete"]
    (shard,) = mds_manifest(Location.of(tmp_path / "mds"), None).shards
    assert shard.xxh3 == xxhash.xxh3_64_hexdigest((tmp_path / "mds" / shard.name).read_bytes())  # so caches take it
    assert again(tmp_path / "data", tmp_path / "mds").was_complete  # for which the library is not needed
    adopt([tmp_path / "mds"], tmp_path / "back", None, "0", workers=1)
    (before, first), (after, second) = contents(tmp_path / "data"), contents(tmp_path / "back")
    assert before == after  # keys, bytes, labels, sizes, order
    assert (first.key_sum, first.classes, first.labels) == (second.key_sum, second.classes, second.labels)
    assert verify(tmp_path / "back", workers=1).findings == ()
    theirs = [json.loads(line) for line in run(PYTHON, "-c", READ, tmp_path / "mds").splitlines()]
    ours = [
        [hashlib.sha256(data).hexdigest(), [width, height], {"key": key, "label": labels[0]}]
        for key, data, labels, width, height in before
    ]
    assert theirs == ours


def test_several_labels_and_none_and_odd_class_names(tmp_path):
    labels = ["a\\b", "\x01", " c "]
    bodies = [json.dumps({"labels": chosen}).encode() for chosen in ([labels[1], labels[0]], [], [labels[0]])]
    members = [(f"{n}.jpg", photo(n)) for n in range(3)] + [(f"{n}.json", body) for n, body in enumerate(bodies)]
    adopt([write_tar(tmp_path / "x.tar", members)], tmp_path / "data", None, "0", workers=1)
    made = convert(tmp_path / "data", tmp_path / "mds")
    adopt([tmp_path / "mds"], tmp_path / "back", None, "0", workers=1)
    (before, first), (after, second) = contents(tmp_path / "data"), contents(tmp_path / "back")
    assert made["samples"] == 3 and before == after and [len(sample[2]) for sample in after] == [2, 0, 1]
    assert (first.classes, first.labels) == (second.classes, second.labels) == ((r"\x01", r"a\x5cb"), "multi")


def test_what_their_writer_writes_is_adopted(tmp_path):
    photos = []
    for number in range(12):
        data = photo(number)
        photos.append(data)
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / f"photos/{number:02d}.jpg").write_bytes(data)
    run(PYTHON, "-c", WRITE, tmp_path / "photos", tmp_path / "mds")
    manifest = adopt([tmp_path / "mds"], tmp_path / "data", None, "0", workers=1).manifest
    assert manifest.samples == 12 and manifest.classes == ("0", "1", "2")
    found, _ = contents(tmp_path / "data")
    assert [(data, labels) for _, data, labels, _, _ in found] == [(d, (n % 3,)) for n, d in enumerate(photos)]
    assert verify(tmp_path / "data", workers=1).findings == ()
    assert Image.open(tmp_path / "photos/00.jpg").size == found[0][3:]


def test_without_the_library_it_is_one_line(tmp_path):
    make_dataset(tmp_path / "data", 4, shards=1, size=(16, 16))
    done = vitstream("convert", tmp_path / "data", "--to", "mds", "--out", tmp_path / "mds")
    one_line(done, "mosaicml-streaming is not installed", "pip install 'vitstream[mds]'")
    (tmp_path / "mds").mkdir()
    (tmp_path / "mds/notes").touch()
    one_line(vitstream("convert", tmp_path / "data", "--to", "mds", "--out", tmp_path / "mds"), "not empty")


def test_stopped_while_it_writes(tmp_path):
    make_dataset(tmp_path / "data", 400, shards=1, size=(16, 16))
    command = [PYTHON, "-m", "pipeline.cli", "convert", tmp_path / "data", "--to", "mds", "--out", tmp_path / "mds"]
    process = subprocess.Popen([*map(str, command)], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".mds.aside/*.mds*")):
        time.sleep(0.001)
    process.terminate()
    said = process.communicate()[1]
    if process.returncode == 3:  # else it was too quick, and is whole
        assert "stopped by SIGTERM" in said and [path.name for path in tmp_path.iterdir()] == ["data"]
    assert convert(tmp_path / "data", tmp_path / "mds")["samples"] == 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mds"]
