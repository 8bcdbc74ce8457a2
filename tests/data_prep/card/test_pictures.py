"""The sample of pictures: fair, always the same, and no larger than it may be."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from data_prep.card.pictures import choose, fair_sample, make
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.manifest import read_manifest
from tests.data_prep.card.made import Image, write


@given(st.integers(0, 5000), st.integers(0, 200), st.text(max_size=9))
def test_a_sample_has_as_many_different_numbers_as_asked_for(total: int, count: int, key: str) -> None:
    found = fair_sample(key, total, count)
    assert found == fair_sample(key, total, count) == sorted(set(found)) and len(found) == min(total, count)
    assert all(0 <= number < total for number in found)


def test_every_sample_has_the_same_chance() -> None:
    total, count, rounds = 37, 10, 3000
    drawn = [number for r in range(rounds) for number in fair_sample(f"dataset {r}", total, count)]
    counts = np.bincount(drawn, minlength=total)
    expected = rounds * count / total
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_pictures_are_the_samples_own_and_small(tmp_path: Path) -> None:
    images = [Image((0,), 900, 300, look) for look in range(4)] + [Image((0,), 20, 30, 9), Image((0,), 1, 700, 10)]
    manifest = write(tmp_path, [images], ["a"])
    tasks = choose([tmp_path], [manifest], 6)
    pictures = make(tasks, 2, lambda count: None)
    assert [picture.sample for picture in pictures] == list(range(6))
    sizes = [Pillow.open(io.BytesIO(picture.jpeg)).size for picture in pictures]
    assert sizes == [(288, 96)] * 4 + [(20, 30), (1, 288)]
    for image, picture in zip(images[:4], pictures[:4], strict=True):
        small = Pillow.open(io.BytesIO(image.data)).resize((288, 96), Pillow.Resampling.BOX)
        shown = np.asarray(Pillow.open(io.BytesIO(picture.jpeg)), float)
        assert np.abs(np.asarray(small, float) - shown).mean() < 4
    assert make(tasks, 1, lambda count: None) == pictures


def test_many_large_pictures_are_made_to_fit(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[Image((0,), 300, 300, look, noisy=True) for look in range(12)]], ["a"])
    tasks = choose([tmp_path], [manifest], 12)
    sizes = [len(picture.jpeg) for picture in make(tasks, 2, lambda count: None, budget=20_000)]
    assert 5_000 < sum(sizes) <= 20_000 and min(sizes) > 300


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    manifest = write(tmp_path, [[Image((0,), 60, 40, look) for look in range(3)], [Image((0,), 60, 40, 3)]], ["a"])
    tasks = choose([tmp_path], [manifest], 4)
    tar = tmp_path / "shards/shard-000000.tar"
    content = bytearray(tar.read_bytes())
    content[tasks[0].row.offset + 4 : tasks[0].row.offset + 300] = bytes(296)  # the picture
    content[tasks[2].row.offset - 512] ^= 1  # the name before it
    tar.write_bytes(content)
    (tmp_path / "shards/shard-000001.tar").unlink()
    broken, whole, strange, gone = make(tasks, 2, lambda count: None)
    assert whole.jpeg and not whole.error and not (broken.jpeg or strange.jpeg or gone.jpeg)
    assert "JPEG" in broken.error or "corrupt" in broken.error
    assert "another member" in strange.error and "No such file" in gone.error


def test_an_index_that_does_not_fit_its_shard_is_damage(tmp_path: Path) -> None:
    write(tmp_path, [[Image((0,), 60, 40, look) for look in range(3)]], ["a"])
    other = tmp_path / "other"
    write(other, [[Image((0,), 60, 40, 1)]], ["a"])
    (other / "shards/shard-000000.arrow").replace(tmp_path / "shards/shard-000000.arrow")
    with pytest.raises(WorkFailed, match=r"has 1 rows, its shard 3 samples.*vitstream verify"):
        choose([tmp_path], [read_manifest(tmp_path)], 3)
