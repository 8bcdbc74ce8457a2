"""`vitstream dedup` on real JPEGs: what is found, what is written, and that it goes on after anything."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from data_prep.dedup.dedup import dedup
from data_prep.dedup.work import WORK_NAME, agreed_folder
from data_prep.views import keep_view
from pipeline.dataset.errors import UsageError, WorkFailed
from tests.data_prep.dedup.made import NEAR, OTHER, cropped, entry, jpeg, key, reencoded, scene, write
from tests.data_prep.test_kills import digests
from tests.datasets import Entry
from tests.runs import one_line, start, vitstream

SCENES = 6


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def samples() -> list[Entry]:
    """Scenes, and for each what it can be found as; names say which is which."""
    entries = []
    for seed in range(SCENES):
        pixels = scene(seed)
        original = jpeg(pixels, 95)
        entries.append(entry(f"{seed}", original, seed % 2))
        entries += [entry(f"{seed}-{name}", jpeg(change(pixels), 85), seed % 2) for name, change in OTHER.items()]
    for number, (name, change) in enumerate(NEAR.items()):
        seed = number % SCENES
        entries.append(entry(f"near-{seed}-{name}", jpeg(change(scene(seed)), 85), 0))
    exact = simplejpeg.decode_jpeg(jpeg(scene(2), 95))
    entries += [entry("copy-1", jpeg(scene(1), 95), 1), entry("pixels-2", png(exact), 1, "png")]
    entries += [entry(f"white-{n}", jpeg(np.full((80, 80, 3), 255, np.uint8)), n) for n in range(2)]
    entries.append(entry("black", jpeg(np.zeros((80, 80, 3), np.uint8))))
    return random.Random(5).sample(entries, len(entries))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dedup") / "data"
    write(folder, samples(), shards=5)
    return folder


@pytest.fixture(scope="module")
def found(data: Path) -> Path:
    """What `dedup` says of it."""
    done = vitstream("dedup", data, "--out", data.parent / "found", "--json", "--workers", 2)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    report = json.loads((data.parent / "found/report.json").read_bytes())
    assert body == {"path": str(data.parent / "found"), "was_complete": False} | report
    return data.parent / "found"


def kept(folder: Path) -> list[str]:
    return pq.read_table(folder / "keep.parquet")["key"].to_pylist()


def pairs(folder: Path) -> dict[tuple[str, str], dict]:
    """(set, key of what goes) -> its row."""
    listed = pq.read_table(folder / "pairs.parquet").to_pylist()
    by_key = {(row["set"], row["dropped"]): row for row in listed}
    assert len(by_key) == len(listed)
    return by_key


def test_what_is_found(data: Path, found: Path) -> None:
    rows = pairs(found)
    for number, name in enumerate(NEAR):
        seed = number % SCENES
        pair = {key(f"{seed}"), key(f"near-{seed}-{name}")}
        # A larger version stays instead of the original, and the other versions go because of that one.
        assert any(("", one) in rows for one in pair), name
        for one in pair - set(kept(found)):
            same = {f"{seed}", f"copy-{seed}", f"pixels-{seed}", *(f"near-{seed}-{other}" for other in NEAR)}
            assert rows["", one]["kept"] in map(key, same)
            assert rows["", one]["distance"] <= 4
    for seed in range(SCENES):
        assert {key(f"{seed}-{name}") for name in OTHER} <= set(kept(found))
    names = [entry.key for entry in samples()]
    assert kept(found) == [name for name in names if ("", name) not in rows]  # in the dataset's order
    assert {path.name for path in found.iterdir()} == {"keep.parquet", "pairs.parquet", "report.json", "report.html"}


def test_kinds_labels_and_counts(found: Path) -> None:
    rows = pairs(found)
    copies = [rows[at] for at in rows if at[1] in (key("copy-1"), key("1"))]
    assert [row["kind"] for row in copies] == ["bytes"] or {row["kind"] for row in copies} == {"near"}
    whites = [key("white-0"), key("white-1")]
    (gone,) = [rows["", white] for white in whites if ("", white) in rows]
    assert (gone["kind"], gone["distance"], gone["conflict"]) == ("bytes", 0, True)
    assert sorted(gone["dropped_labels"] + gone["kept_labels"]) == ["cat", "dog"]
    assert key("black") in kept(found)
    report = json.loads((found / "report.json").read_bytes())
    assert report["images"] == len(samples()) == report["kept"] + report["dropped"] and report["flat"] == 3
    assert report["within"]["dropped"] == len(rows) == report["dropped"]
    for kind in ("bytes", "pixels", "near"):
        assert report["within"][kind] == sum(row["kind"] == kind for row in rows.values())
    assert report["within"]["label_conflicts"] == sum(row["conflict"] for row in rows.values()) > 1
    assert report["within"]["groups"] == len({row["kept"] for row in rows.values()})


def test_only_equal_ones(data: Path, tmp_path: Path) -> None:
    dedup(data, tmp_path / "out", distance=None)
    kinds = {at[1]: row["kind"] for at, row in pairs(tmp_path / "out").items()}
    assert len(kinds) == 3
    for kind, *names in (("bytes", "1", "copy-1"), ("pixels", "2", "pixels-2"), ("bytes", "white-0", "white-1")):
        assert [kinds[one] for one in map(key, names) if one in kinds] == [kind]


def test_a_view_of_what_stays_has_no_duplicates(data: Path, found: Path, tmp_path: Path) -> None:
    view = keep_view(data, found / "keep.parquet", tmp_path / "view")
    assert view.manifest.samples == len(kept(found)) and view.unknown == 0
    again = dedup(tmp_path / "view", tmp_path / "out")
    assert again.report["dropped"] == 0 and kept(tmp_path / "out") == kept(found)


def test_against_evaluation_sets(data: Path, tmp_path: Path) -> None:
    """All that is like one of their images goes, the best of its group too; what is left is chosen among as ever."""
    near = [entry("val-0", jpeg(reencoded(scene(0)), 70)), entry("val-90", jpeg(scene(90)))]
    write(tmp_path / "val", [*near, entry("white", jpeg(np.full((80, 80, 3), 255, np.uint8)))])
    write(tmp_path / "test", [entry("t-0", jpeg(scene(0), 95)), entry("t-3", jpeg(cropped(scene(3))))], 1, ["zebra"])
    options = [part for name in ("val", "test") for part in ("--dedup-against", tmp_path / name)]
    done = vitstream("dedup", data, "--out", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    rows = pairs(tmp_path / "out")
    val, test = str(tmp_path / "val"), str(tmp_path / "test")
    like_0 = {key("0"), *(key(f"near-0-{name}") for number, name in enumerate(NEAR) if number % SCENES == 0)}
    like_3 = {key("3"), *(key(f"near-3-{name}") for number, name in enumerate(NEAR) if number % SCENES == 3)}
    assert {at[1] for at in rows if at[0] == val} == {*like_0, key("white-0"), key("white-1")}
    assert {at[1] for at in rows if at[0] == test} == like_0 | like_3
    assert not set(kept(tmp_path / "out")) & {*like_0, *like_3, key("white-0"), key("white-1")}
    assert not [at for at in rows if at[0] == "" and at[1] in like_0 | like_3]
    assert (rows[test, key("0")]["kind"], rows[test, key("0")]["kept"]) == ("bytes", key("t-0"))
    assert rows[test, key("0")]["kept_labels"] == ["zebra"] and rows[test, key("0")]["conflict"] is None
    assert rows[val, key("white-1")]["kind"] == "bytes" and rows[val, key("white-1")]["conflict"] is True
    report = json.loads((tmp_path / "out/report.json").read_bytes())
    assert [(one["path"], one["images"], one["dropped"]) for one in report["against"]] == [
        (val, 3, len(like_0) + 2),
        (test, 2, len(like_0) + len(like_3)),
    ]
    assert report["kept"] == len(kept(tmp_path / "out"))
    assert f"as in {val}: 2 of equal bytes" in done.stdout


def test_killed_anywhere_it_goes_on_to_the_same_files(data: Path, found: Path, tmp_path: Path) -> None:
    out, chance = tmp_path / "out", random.Random(1)
    kills = 0
    for attempt in range(5):
        process = start("dedup", data, "--out", out, "--workers", 2, start_new_session=True)
        while not (out / WORK_NAME / "corpus").exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.25) * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
        if (out / "keep.parquet").exists():
            break
    assert kills
    assert vitstream("dedup", data, "--out", out).returncode == 0
    assert digests(out) == digests(found)
    done = vitstream("dedup", data, "--out", out)
    assert done.returncode == 0 and "finished already" in done.stdout


def test_a_part_is_used_again_only_for_the_shard_that_it_was_made_of(data: Path, tmp_path: Path) -> None:
    """Stopped by a damaged image; repaired with another in its place, only that shard is hashed again."""
    shutil.copytree(data, tmp_path / "data")
    tar = tmp_path / "data/shards/shard-000003.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000])
    with pytest.raises(WorkFailed, match=r"shard-000003.tar: image .* ends .* too early; see: vitstream verify"):
        dedup(tmp_path / "data", tmp_path / "out")
    parts = sorted((tmp_path / "out" / WORK_NAME / "corpus").iterdir())
    assert [part.name for part in parts] == [f"{number:06d}.parquet" for number in range(3)]
    write(tmp_path / "data", [entry("other", jpeg(scene(77))), *samples()[1:]], shards=5)
    before = [part.stat().st_mtime_ns for part in parts]
    with pytest.raises(WorkFailed):
        tar.write_bytes(whole[:5000])
        dedup(tmp_path / "data", tmp_path / "out")
    assert [a == part.stat().st_mtime_ns for a, part in zip(before, parts, strict=True)] == [False, True, True]
    tar.write_bytes(whole)
    dedup(tmp_path / "data", tmp_path / "out")
    dedup(tmp_path / "data", tmp_path / "fresh")
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh") and key("other") in kept(tmp_path / "out")


def test_an_image_that_cannot_be_decoded_stays_and_is_counted(tmp_path: Path) -> None:
    broken = jpeg(scene(1))[:2000]
    entries = [Entry(key(f"b{n}"), broken, 0, 320, 240) for n in range(2)] + [entry("whole", jpeg(scene(1)))]
    write(tmp_path / "data", [*entries, Entry(key("text"), b"no image", 0, 1, 1)])
    done = vitstream("dedup", tmp_path / "data", "--out", tmp_path / "out")
    assert done.returncode == 0 and "3 images cannot be decoded" in done.stdout, done.stderr
    assert len(kept(tmp_path / "out")) == 3 and [row["kind"] for row in pairs(tmp_path / "out").values()] == ["bytes"]


def test_nothing_stays(tmp_path: Path) -> None:
    for name in ("data", "val"):
        write(tmp_path / name, [entry(f"{name}{n}", jpeg(scene(n, 64, 48))) for n in range(3)])
    done = vitstream("dedup", tmp_path / "data", "--dedup-against", tmp_path / "val", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "0 of 3 images stay" in done.stdout and "vitstream view" not in done.stdout


def test_refusals(data: Path, found: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    write(tmp_path / "val", [entry("v", jpeg(scene(50)))])
    out, val = tmp_path / "out", tmp_path / "val"
    for words, arguments in (
        ("--distance 4 then, 6 now", (data, found, [], 6)),
        ("--dedup-against .* then", (data, found, [val])),
        ("DATASET .* then", (val, found)),
        ("not empty.*another", (data, tmp_path / "full")),
        ("not empty", (data, data)),
        ("no such dataset", (tmp_path / "none", out)),
        ("no such dataset", (data, out, [tmp_path / "none"])),
        ("0 to 12 bits", (data, out, [], 13)),
        ("DATASET itself", (data, out, [data])),
        ("set twice", (data, out, [val, val])),
    ):
        with pytest.raises(UsageError, match=words):
            dedup(*arguments)
    one_line(vitstream("dedup", data, "--out", found, "--exact-only"), "--distance", "4 then, null now")
    one_line(vitstream("dedup", data, "--out", out, "--exact-only", "--distance", 2), "--exact-only", "--distance")
    assert not out.exists()


def test_another_process_at_work_and_other_images(tmp_path: Path) -> None:
    write(tmp_path / "data", [entry(f"{n}", jpeg(scene(n, 64, 48))) for n in range(3)])
    dedup(tmp_path / "data", tmp_path / "out")
    write(tmp_path / "data", [entry(f"{n}", jpeg(scene(n, 64, 48))) for n in range(4)])
    with pytest.raises(UsageError, match="has other images now"):
        dedup(tmp_path / "data", tmp_path / "out")
    at_work = pytest.raises(UsageError, match="another vitstream dedup is at work")
    with agreed_folder(tmp_path / "busy", {"distance": 4}), at_work:
        dedup(tmp_path / "data", tmp_path / "busy")
    with pytest.raises(UsageError, match="other arguments"):
        dedup(tmp_path / "data", tmp_path / "busy", distance=2)


def test_it_stops_when_asked(data: Path, tmp_path: Path) -> None:
    process = start("dedup", data, "--out", tmp_path / "out", "--workers", 1)
    while not (tmp_path / "out" / WORK_NAME).exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert (process.returncode, "what was hashed is kept" in stderr) in ((3, True), (0, False)), stderr
