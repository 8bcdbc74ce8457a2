"""`vitstream inspect`: numbers against those counted by hand, from catalogues and from indexes; damage; determinism."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.adopt.adopt import adopt
from data_prep.card.publish import as_lines, inspect
from data_prep.catalog.samples import Reject
from data_prep.views import prefix_view
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.index import ShardIndex
from pipeline.dataset.manifest import read_manifest
from tests.data_prep.card.made import Image, write
from tests.datasets import make_dataset
from tests.runs import one_line, vitstream

CLASSES = ("cat", "dog", "emu", "fox")
TRAIN = [
    [Image((0,), 640, 480, 1), Image((0,), 640, 480, 1), Image((1,), 480, 640, 2)],  # the first two: equal bytes
    [Image((0,), 100, 100, 3), Image((1,), 2000, 500, 4), Image((0,), 640, 480, 1)],  # and once more
]
VAL = [[Image((2,), 480, 640, 2), Image((0,), 50, 49, 5)]]  # the first one: as in train
REJECTS = [
    Reject("cat/b.jpg", "0" * 24, "too large: 99 x 99 pixels"),
    Reject("cat/a.jpg", "1" * 24, "empty file"),
    Reject("dog/c.jpg", "2" * 24, "too large: 98 x 98 pixels"),
]
# Of a card without a catalogue.
UNKNOWN = ("name", "rejects", "duplicates", "datasets")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    write(tmp_path / "data/train", TRAIN, CLASSES, rejects=REJECTS, split="train")
    write(tmp_path / "data/val", VAL, CLASSES, rejects=REJECTS[:1], split="val")
    return tmp_path / "data"


def test_every_number_is_the_one_counted_by_hand(pair: Path) -> None:
    found = inspect(pair, pictures=4)
    body = found.body
    assert body == json.loads((pair / "card.json").read_bytes()) and found.page == pair / "card.html"
    train, val = (read_manifest(pair / name) for name in ("train", "val"))
    assert (body["images"], body["classes"], body["labels"], body["shards"]) == (8, 4, "single", 3)
    assert body["bytes"] == sum(shard.bytes for shard in train.shards + val.shards)
    parts = [(part["name"], part["images"], part["rejects"], part["fingerprint"]) for part in body["datasets"]]
    assert parts == [("train", 6, 3, train.fingerprint), ("val", 2, 1, val.fingerprint)]
    assert body["datasets"][0]["asked"] == {"seed": 7, "size": None, "split": "train"}
    assert body["class_histogram"] == [
        {"class": 0, "name": "cat", "images": 5, "train": 4, "val": 1},
        {"class": 1, "name": "dog", "images": 2, "train": 2, "val": 0},
        {"class": 2, "name": "emu", "images": 1, "train": 0, "val": 1},
        {"class": 3, "name": "fox", "images": 0, "train": 0, "val": 0},
    ]
    # exp(-(5/8 ln 5/8 + 2/8 ln 2/8 + 1/8 ln 1/8))
    assert body["balance"] == {"largest": 5, "smallest": 0, "median": 1, "empty": 1, "effective": 2.46}
    assert body["labels_per_image"] == {"1": 8}
    assert body["orientation"] == {"landscape": 5, "square": 1, "portrait": 2}
    width, aspect = body["width"], body["aspect_ratio"]
    assert (width["least"], width["most"], width["mean"]) == (50, 2000, (3 * 640 + 480 + 100 + 2000 + 480 + 50) / 8)
    assert width["percentiles"]["50"] == 480 and body["height"]["percentiles"]["50"] == 480
    assert (aspect["least"], aspect["most"], aspect["percentiles"]["75"]) == (0.75, 4.0, 1.333)
    sizes = [len(image.data) for shard in TRAIN + VAL for image in shard]
    assert body["image_bytes"]["mean"] == round(sum(sizes) / 8, 3) and body["image_bytes"]["most"] == max(sizes)
    assert (body["shard_images"]["least"], body["shard_images"]["most"]) == (2, 3)
    assert all(sum(row[2] for row in body[name]["histogram"]) == 8 for name in ("width", "height", "image_bytes"))
    assert body["duplicates"] == {"groups": 2, "redundant": 3, "across": 1}
    assert body["rejects"]["images"] == 4
    assert [(kind["reason"], kind["images"]) for kind in body["rejects"]["reasons"]] == [
        ("too large", 3),
        ("empty file", 1),
    ]
    assert body["rejects"]["reasons"][0]["examples"][0] == {
        "source": "cat/b.jpg",
        "reason": "too large: 99 x 99 pixels",
    }
    assert len(body["pictures"]) == 4 and not any(picture["error"] for picture in body["pictures"])


def test_pictures_name_samples_that_are_there(pair: Path) -> None:
    body = inspect(pair, pictures=8).body
    samples = [(picture["dataset"], picture["sample"]) for picture in body["pictures"]]
    assert samples == [("train", n) for n in range(6)] + [("val", n) for n in range(2)]
    index = ShardIndex(pair / "train/shards/shard-000001.arrow")
    row, shown = index.row(1), body["pictures"][4]
    assert (shown["key"], tuple(shown["labels"]), shown["width"]) == (row.key, row.labels, row.width)


def test_indexes_give_what_the_catalogue_gives(pair: Path, tmp_path: Path) -> None:
    with_catalogue = inspect(pair / "train").body
    assert with_catalogue["name"] == "data/train"
    prefix_view(pair / "train", 6, tmp_path / "view")
    without = inspect(tmp_path / "view").body
    assert {n: v for n, v in without.items() if n not in UNKNOWN} == {
        n: v for n, v in with_catalogue.items() if n not in UNKNOWN
    }
    assert without["rejects"] is None and without["duplicates"] is None
    page = (tmp_path / "view/card.html").read_text()
    assert "Not known: this dataset has no rejects.jsonl" in page and "no catalogue (samples.parquet)" in page


def test_part_of_a_dataset(pair: Path, tmp_path: Path) -> None:
    prefix_view(pair / "train", 4, tmp_path / "view")
    body = inspect(tmp_path / "view").body
    assert body["images"] == 4 and [row["images"] for row in body["class_histogram"]] == [3, 1, 0, 0]
    assert body["datasets"][0]["partial"] and len(body["pictures"]) == 4


@pytest.mark.parametrize("catalogue", [True, False])
def test_several_labels_count_for_every_class_and_once(tmp_path: Path, catalogue: bool) -> None:
    labels = [(0, 2), (2,), (1, 1, 2), (), (0, 1, 2)]
    images = [Image(given, 30, 20, look) for look, given in enumerate(labels)]
    write(tmp_path / "data", [images[:2], images[2:]], CLASSES, labels="multi", catalogue=catalogue)
    body = inspect(tmp_path / "data").body
    assert [row["images"] for row in body["class_histogram"]] == [2, 2, 4, 0]
    assert body["labels_per_image"] == {"0": 1, "1": 1, "2": 2, "3": 1} and body["labels"] == "multi"
    page = (tmp_path / "data/card.html").read_text()
    assert "several labels per image" in page and "no label" in page and "cat, emu" in page


def test_adopted_tars(tmp_path: Path) -> None:
    make_dataset(tmp_path / "made", 30, shards=2, classes=3)
    adopt(sorted((tmp_path / "made/shards").glob("*.tar")), tmp_path / "data", None, "0", 1)
    body = inspect(tmp_path / "data", pictures=30).body
    assert body["images"] == 30 and body["datasets"][0]["container"] == "tar"
    assert [row["images"] for row in body["class_histogram"]] == [10, 10, 10]
    assert not any(picture["error"] for picture in body["pictures"])


def test_the_same_dataset_gives_the_same_bytes_wherever_they_go(pair: Path, tmp_path: Path) -> None:
    inspect(pair)
    before = {path.name: path.read_bytes() for path in pair.glob("card.*")}
    for out in (None, tmp_path / "new/folder"):
        inspect(pair, out)
        assert {path.name: path.read_bytes() for path in (out or pair).glob("card.*")} == before
    assert sorted(path.name for path in pair.iterdir()) == ["card.html", "card.json", "train", "val"]
    assert str(tmp_path).encode() not in before["card.html"] + before["card.json"]


def test_the_command(pair: Path, tmp_path: Path) -> None:
    done = vitstream("inspect", pair, "--pictures", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("data: 8 images, 4 classes, ")
    assert done.stdout.splitlines()[1:] == [f"see {pair / 'card.html'}"]
    done = vitstream("inspect", pair, "--json", "--out", tmp_path / "out")
    assert done.returncode == 0 and json.loads(done.stdout) == json.loads((tmp_path / "out/card.json").read_bytes())
    done = vitstream("verify", pair)  # to which a card is no strange file
    assert done.returncode == 0, done.stdout


def test_the_report_of_dedup(pair: Path, tmp_path: Path) -> None:
    done = vitstream("dedup", pair / "train", "--dedup-against", pair / "val", "--out", tmp_path / "dups")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "dups/report.json").read_text())
    assert inspect(pair, dedup=tmp_path / "dups").body["dedup"] == report
    assert f"{report['kept']:,}" in (pair / "card.html").read_text()
    (tmp_path / "dups/report.json").write_text(json.dumps(report | {"name": "<b>x</b>"}))
    inspect(pair, dedup=tmp_path / "dups")
    page = (pair / "card.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "<b>x</b>" not in page


@pytest.mark.parametrize("text", [None, "[]", "{}", "{", "[" * 100_000])
def test_no_report_of_dedup(pair: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match=r"report.json.*make it with: vitstream dedup"):
        inspect(pair, dedup=tmp_path)


def test_wrong_usage_is_one_line_and_writes_nothing(pair: Path, tmp_path: Path) -> None:
    one_line(vitstream("inspect", "nowhere", "--out", "there", cwd=tmp_path), "nowhere: no such dataset")
    manifest = pair / "train/dataset.json"
    for given, said in (
        ({"dataset": tmp_path}, "no dataset.json in it"),
        ({"dataset": manifest}, "dataset.json"),
        ({"dataset": pair, "pictures": 501}, "--pictures 501: expected 0 to 500"),
        ({"dataset": pair, "out": manifest}, "not a folder"),
        ({"dataset": pair, "out": manifest / "below"}, "not a folder"),
    ):
        with pytest.raises(UsageError, match=said):
            inspect(**given)
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and not list(pair.glob("card*"))


def test_other_classes_in_train_and_val_are_refused(pair: Path) -> None:
    write(pair / "val", VAL, ("ape", *CLASSES[1:]))
    with pytest.raises(UsageError, match="inspect them one by one"):
        inspect(pair)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _longer(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([*range(table.num_rows), 0]), path)


def _other_labels(path: Path) -> None:
    table = pq.read_table(path)
    field = table.schema.field("labels")
    pq.write_table(table.set_column(2, field, pa.array([[9]] * table.num_rows, field.type)), path)


def _no_hash(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(7, table.schema.field("hash"), [["zz"] * table.num_rows]), path)


@pytest.mark.parametrize("damage", [_cut, _longer, _other_labels, _no_hash, Path.unlink])
def test_a_damaged_catalogue_is_one_line(pair: Path, damage) -> None:
    damage(pair / "train/samples.parquet")
    with pytest.raises(WorkFailed, match=r"see: vitstream verify .*train") as caught:
        inspect(pair / "train")
    assert "\n" not in str(caught.value) and not list(pair.glob("**/card*")) and not list(pair.glob("**/.inspect*"))


def test_damaged_rejects_and_indexes_are_one_line(pair: Path, tmp_path: Path) -> None:
    (pair / "val/rejects.jsonl").write_text('{"reason": 1}\n')
    with pytest.raises(WorkFailed, match=r"rejects.jsonl: .*vitstream verify"):
        inspect(pair)
    prefix_view(pair / "train", 4, tmp_path / "view")
    (tmp_path / "view/shards/shard-000001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(WorkFailed, match=r"no readable index .*vitstream verify"):
        inspect(tmp_path / "view")


def test_pictures_that_cannot_be_shown_are_said(pair: Path) -> None:
    (pair / "val/shards/shard-000000.tar").unlink()
    found = inspect(pair)
    assert Counter(bool(picture["error"]) for picture in found.body["pictures"]) == {False: 6, True: 2}
    assert any(line.startswith("2 of 8 pictures cannot be shown") and "verify" in line for line in as_lines(found))
    assert "2 of them cannot be shown: see vitstream verify." in (pair / "card.html").read_text()
