"""report.html: all kinds are shown, the least alike first; nothing in a dataset can become markup; a browser agrees."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.dedup.dedup import dedup
from data_prep.dedup.page import SHOWN_PAIRS, choose
from data_prep.dedup.select import BYTES, KINDS, NEAR, Matches
from tests.data_prep.card.browser import chromium
from tests.data_prep.dedup.made import entry, jpeg, reencoded, scene, write

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def matches(count: int, seed: int) -> Matches:
    rng = np.random.default_rng(seed)
    kind = rng.choice([0, 0, 0, 1, 2, 2], count).astype(np.uint8)
    distance = np.where(kind == NEAR, 2 * rng.integers(0, 3, count), 0).astype(np.uint8)
    return Matches(np.arange(count), np.arange(count) + 1, kind, distance)


@pytest.mark.fast
def test_every_kind_of_every_set_is_shown() -> None:
    sets = [matches(5000, 1), matches(3, 2), matches(0, 3), matches(400, 4)]
    chosen = choose(sets, SHOWN_PAIRS)
    assert sum(map(len, chosen)) == SHOWN_PAIRS and len(chosen[1]) == 3 and len(chosen[2]) == 0
    for one, rows in zip(sets, chosen, strict=True):
        assert len(set(rows.tolist())) == len(rows)
        shown = Counter(one.kind[rows].tolist())
        assert set(shown) == set(one.kind.tolist())
        assert one.distance[rows].tolist() == sorted(one.distance[rows].tolist(), reverse=True)
    near = chosen[0][sets[0].kind[chosen[0]] == NEAR]
    assert set(sets[0].distance[near].tolist()) == {4}  # there are more of these than are shown
    exact = chosen[0][sets[0].kind[chosen[0]] == BYTES]
    assert exact.max() - exact.min() > 2500  # from everywhere
    assert all(np.array_equal(a, b) for a, b in zip(chosen, choose(sets, SHOWN_PAIRS), strict=True))
    assert [len(rows) for rows in choose(sets[1:3], SHOWN_PAIRS)] == [3, 0] and len(KINDS) == 3


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "a<b>&\"c'"
    pairs = [
        (entry(f"{n}", jpeg(scene(n)), 0), entry(f"{n}-again", jpeg(reencoded(scene(n))), n % 2)) for n in range(5)
    ]
    whole = [one for pair in pairs for one in pair]
    broken = entry("broken", b"no image at all" * 100), entry("broken-too", b"no image at all" * 100)
    write(folder / "data", [*whole, *broken], classes=[HOSTILE, "ein Hund, größer"])
    write(folder / "val", [entry("v", jpeg(scene(3), 80))], classes=["zebra"])
    dedup(folder / "data", folder / "out", [folder / "val"])
    return folder / "out/report.html"


def test_nothing_becomes_markup(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text and "onerror=alert(2)>" not in text and "a<b>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "http" not in text.replace("http-equiv", "")
    assert len(page.read_bytes()) < 5_000_000


def test_a_browser_shows_it(page: Path) -> None:
    with chromium() as browser:
        for width in (390, 1280):
            browser.open(page, width)
            assert [url for url in browser.requested() if not url.startswith(("file:", "data:"))] == []
            assert browser.complaints() == []
            assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert browser.evaluate("document.querySelectorAll('.pair').length") == 7
            images = "[...document.images]"
            assert browser.evaluate(f"{images}.length") == 12  # of the two that are no images there is a reason
            assert browser.evaluate(f"{images}.every(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 60)")
            assert browser.evaluate("[...document.querySelectorAll('.pair .none')].length") == 2
