"""The drawn corpus is a function of its seed, of any size, and its classes can be told apart."""

from pathlib import Path

import numpy as np
import pytest

from demo.draw import density, draw_image, draw_system, write_drawn

pytestmark = pytest.mark.fast


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def test_a_corpus_is_a_function_of_its_seed_and_grows_without_changing(tmp_path: Path) -> None:
    for name, classes, images, seed in (("a", 3, 2, 0), ("again", 3, 2, 0), ("more", 4, 3, 0), ("other", 3, 2, 1)):
        write_drawn(tmp_path / name, classes, images, size=24, seed=seed)
    a, again, more, other = (contents(tmp_path / name) for name in ("a", "again", "more", "other"))
    assert a == again and len(a) == len(set(a.values())) == 6
    assert len(more) == 12 and a.items() <= more.items()
    assert a.keys() == other.keys() and not set(a.values()) & set(other.values())


@pytest.mark.parametrize("size", [1, 17, 32, 200])
def test_an_image_has_any_size_and_something_on_it(size: int) -> None:
    image = draw_image(draw_system(0, 5), size, np.random.default_rng(0))
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert size < 17 or np.ptp(image.astype(int).mean(axis=2)) > 60


def test_an_image_is_nearer_to_its_own_class_than_to_others() -> None:
    """By the nearest of the classes' mean pictures: far above chance, and not always."""

    def pictures(label: int, numbers: range) -> np.ndarray:
        """[images, 256], without colours: what is bright."""
        system = draw_system(0, label)
        drawn = [draw_image(system, 16, np.random.default_rng([0, label, number])) for number in numbers]
        grey = np.stack(drawn).mean(axis=3).reshape(len(drawn), -1)
        grey -= grey.mean(axis=1, keepdims=True)
        return grey / np.linalg.norm(grey, axis=1, keepdims=True)

    labels = range(20)
    means = np.stack([pictures(label, range(15)).mean(axis=0) for label in labels])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    hits = [np.argmax(pictures(label, range(15, 25)) @ means.T, axis=1) == label for label in labels]
    assert 0.25 < np.mean(hits) < 0.9, "chance is 0.05"


def test_a_class_is_neither_dust_nor_a_blot() -> None:
    for label in range(20):
        system, rng = draw_system(3, label), np.random.default_rng(label)
        counts = density(system.points(256, rng), 32, 0.0, 1.0, rng)
        assert 0.1 < np.mean(counts > 0) < 0.7
        assert np.abs(system.stretch).max() < 1, "every map contracts"
