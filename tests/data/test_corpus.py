"""What a run trains on: one dataset, a concatenation, a mixture; and which do not go together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.corpus import Corpus, fit_order, open_corpus, order_from_json
from pipeline.data.mixture import Mixture
from pipeline.data.order import Order
from pipeline.data.places import Weighted
from pipeline.dataset.errors import UsageError
from pipeline.dataset.manifest import read_manifest, write_manifest
from tests.datasets import make_dataset

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    for name, samples in (("a", 30), ("b", 12), ("c", 7)):
        make_dataset(folder / name, samples, shards=2, size=(16, 16), seed=samples)
    return folder / "a", folder / "b", folder / "c"


def mixture_of(places: tuple[Path, ...], *weights: float) -> Corpus:
    return open_corpus(tuple(Weighted(path=p, weight=w) for p, w in zip(places, weights, strict=True)))


def test_a_single_dataset_is_what_it_was(places: tuple[Path, ...]) -> None:
    manifest = read_manifest(places[0])
    for corpus in (open_corpus(places[0]), open_corpus(places[:1]), mixture_of(places[:1], 0.3)):
        assert corpus.fingerprint == manifest.fingerprint and corpus.key_sum(0) == manifest.key_sum
        assert (corpus.parts, corpus.samples, corpus.starts.tolist()) == (1, 30, [0, 30])
        order = fit_order(corpus, 8, 5)
        assert order == Order.fit(30, 8, 5) == order_from_json(order.to_json())
    assert corpus.name(0) == str(places[0]) and corpus.bytes == sum(shard.bytes for shard in manifest.shards)


def test_a_concatenation_is_one_part(places: tuple[Path, ...]) -> None:
    corpus = open_corpus(places)
    order = fit_order(corpus, 8, 5)
    assert order == Order.fit(49, 8, 5) and order_from_json(order.to_json()) == order
    assert (corpus.parts, corpus.part_samples(0), corpus.starts.tolist()) == (1, 49, [0, 30, 42, 49])
    assert corpus.key_sum(0) == sum(read_manifest(place).key_sum for place in places) % 2**64
    assert all(str(place) in corpus.name(0) for place in places)
    fingerprints = {open_corpus(some).fingerprint for some in (places, places[::-1], places[:2], places[:1])}
    assert len(fingerprints) == 4


def test_a_mixture_has_a_part_for_each(places: tuple[Path, ...]) -> None:
    corpus = mixture_of(places, 5, 3, 2)
    order = fit_order(corpus, 8, 5)
    assert isinstance(order, Mixture) and order_from_json(order.to_json()) == order
    assert order.shares == (512, 307, 205) and order.samples == corpus.samples == 49
    _, ids = order.at(np.arange(1_024))
    assert np.bincount(order.part_of(ids)).tolist() == [512, 307, 205]
    assert [order.part_samples(part) for part in range(3)] == [corpus.part_samples(part) for part in range(3)]
    assert [corpus.key_sum(part) for part in range(3)] == [read_manifest(place).key_sum for place in places]
    assert [corpus.name(part) for part in range(3)] == list(map(str, places))
    assert np.array_equal(order.part_of(corpus.starts[:-1]), np.arange(3))
    fingerprints = {mixture_of(places, *weights).fingerprint for weights in ((5, 3, 2), (3, 5, 2), (1, 1, 1))}
    assert len(fingerprints | {open_corpus(places).fingerprint}) == 4


def test_what_does_not_go_together_is_refused(places: tuple[Path, ...], tmp_path: Path) -> None:
    make_dataset(tmp_path / "more", 12, classes=6)
    make_dataset(tmp_path / "other", 12, classes=5, seed=1)
    other = read_manifest(tmp_path / "other")
    write_manifest(tmp_path / "other", replace(other, classes=("class-00", "tree", *other.classes[2:])))
    make_dataset(tmp_path / "empty", 0, shards=0)
    make_dataset(tmp_path / "multi", 12, seed=2)
    write_manifest(tmp_path / "multi", replace(read_manifest(tmp_path / "multi"), labels="multi"))
    for second, words in {
        tmp_path / "more": "more has other classes than .*a .6 of them, not 5",
        tmp_path / "other": "other has other classes than .*a .class 1 is tree, not class-01",
        tmp_path / "empty": "empty holds no samples",
        tmp_path / "multi": "multi has several labels per image and .*a one",
        tmp_path / "none": "none: no such dataset",
        places[0]: "a holds the same as .*a: name it once",
    }.items():
        with pytest.raises(UsageError, match=f"^data.train: .*{words}"):
            open_corpus((places[0], second))
