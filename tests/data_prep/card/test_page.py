"""The page in a real browser: whole in itself, all pictures there, readable on a phone, deaf to hostile names."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_prep.card.markup import plain
from data_prep.card.plots import bars, ranks
from data_prep.card.publish import inspect
from data_prep.catalog.samples import Reject
from pipeline.dataset.index import write_index
from pipeline.dataset.keys import sample_key
from pipeline.dataset.manifest import Manifest, Shard, write_manifest
from pipeline.dataset.names import one_line
from pipeline.dataset.row import IndexRow
from tests.data_prep.card.browser import Browser, chromium
from tests.data_prep.card.made import Image, write

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=http://127.0.0.1:9/x onerror="document.title=1">',
    "' onmouseover='document.title=1",
    "&lt;b&gt; &amp; &#60;",
    "</title></style></svg><h1>big</h1>",
    "two\nlines\u2028three",
    "\u202eright to left",
    "日本語の名前",
    "x" * 300,
    "$\\frac{1}{2}$",
)
COUNT = 24
# What has the page for a reader: pictures that are there, text that is wider than its place, and so on.
BROKEN_PICTURES = "[...document.images].filter(i => !i.complete || !i.naturalWidth || !i.clientWidth).length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALL_TEXT = """[...document.querySelectorAll('svg text')]
  .map(t => parseFloat(getComputedStyle(t).fontSize) * t.getCTM().a).filter(size => size < 9).length"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a hostile name for everything that has one."""
    folder = tmp_path_factory.mktemp("card") / "<img src=x onerror=alert(1)>"
    shapes = [(160, 120), (120, 160), (30, 900), (900, 30), (64, 64)]
    images = [Image((n % len(HOSTILE),), *shapes[n % 5], n) for n in range(COUNT)]
    rejects = [Reject(name, "0" * 24, f"{name}: x") for name in map(one_line, HOSTILE)]
    write(folder, [images[: COUNT // 2], images[COUNT // 2 :]], HOSTILE, rejects=rejects)
    inspect(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.fast
def test_hostile_names_are_nothing_but_text(dataset: Path) -> None:
    page = Page((dataset / "card.html").read_text())
    assert "script" not in page.tags and page.tags.count("h1") == 1 and page.tags.count("img") == COUNT
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("data:") for value in links) and len(links) == COUNT + 1
    shown = "".join(page.text)
    assert "\\u202eright to left" in shown and "two\\x0alines" in shown
    assert all(plain(name)[:79] in shown for name in HOSTILE)
    assert {value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")} == {
        plain(name) for name in HOSTILE
    }


def test_a_browser_needs_nothing_else_and_shows_every_picture(dataset: Path, browser: Browser) -> None:
    browser.open(dataset / "card.html", 1280)
    first, *others = browser.requested()
    assert first == (dataset / "card.html").as_uri() and all(url.startswith("data:") for url in others)
    assert browser.complaints() == []
    assert browser.evaluate("document.images.length") == COUNT and browser.evaluate(BROKEN_PICTURES) == 0
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.title") == "<img src=x onerror=alert(1)> · dataset card"
    assert browser.evaluate("document.querySelector('h1').textContent") == "<img src=x onerror=alert(1)>"
    names = browser.evaluate("[...document.querySelectorAll('td .name')].map(e => e.textContent)")
    assert {name[:79] for name in names} >= {plain(name)[:79] for name in HOSTILE}


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(dataset: Path, browser: Browser, width: int) -> None:
    browser.open(dataset / "card.html", width)
    assert browser.evaluate("innerWidth") == width and browser.evaluate(OVERFLOW) == 0
    assert browser.evaluate("document.querySelectorAll('figure[role=img][aria-label]').length") >= 4
    assert width < 390 or browser.evaluate(SMALL_TEXT) == 0


def test_by_day_and_by_night(dataset: Path, browser: Browser) -> None:
    """Text, and the plots', stands out from what is behind it: a contrast of 4.5 to 1 at least, as WCAG asks."""
    brightness = []
    for dark in (False, True):
        browser.open(dataset / "card.html", 1280, dark=dark)
        behind = luminance(browser, "section", "backgroundColor")
        brightness.append(behind)
        for element, colour in (("td", "color"), ("th", "color"), ("section p", "color"), ("svg text", "fill")):
            text = luminance(browser, element, colour)
            assert (max(text, behind) + 0.05) / (min(text, behind) + 0.05) >= 4.5, (element, dark)
    assert brightness[0] > 0.9 and brightness[1] < 0.1


def luminance(browser: Browser, element: str, colour: str) -> float:
    """Relative luminance, WCAG 2.1, of a colour of an element."""
    shown = browser.evaluate(f"getComputedStyle(document.querySelector({element!r})).{colour}")
    rgb = np.array([int(part) for part in shown.removeprefix("rgb(").removesuffix(")").split(",")]) / 255
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_many_classes(tmp_path: Path, browser: Browser) -> None:
    """Of 3,000 classes the page has a curve and both ends, card.json all."""
    counts = [int(3000 / (rank + 1)) for rank in range(3000)]
    rows = [
        IndexRow(sample_key(f"{label}/{n}"), 512, 100, (label,), 640, 480)
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    (tmp_path / "shards").mkdir()
    write_index(tmp_path / "shards/shard-000000.arrow", rows)
    shard = Shard("shard-000000.tar", len(rows), 2000 * len(rows), "0" * 16, "0" * 16)
    write_manifest(tmp_path, Manifest(tuple(f"class {n}" for n in range(3000)), "single", (shard,)))
    body = inspect(tmp_path, pictures=0).body
    assert [row["images"] for row in body["class_histogram"]] == counts
    page = tmp_path / "card.html"
    assert page.stat().st_size < 100_000
    browser.open(page, 390)
    assert browser.complaints() == [] and browser.evaluate(OVERFLOW) == 0
    names = browser.evaluate("[...document.querySelectorAll('td .name')].map(e => e.textContent)")
    assert names[0] == "class 0" and names[12] == "class 2999" and len(names) == 24


@pytest.mark.fast
def test_plots_are_the_same_bytes_and_belong_to_their_page() -> None:
    rows = [(0, 10, 5), (10, 20, 0), (20, 40, 7)]
    for draw in (
        lambda: bars(rows, "pixels", "{:g}".format, "linear"),
        lambda: bars(rows, "bytes", "{:g}".format, "log"),
        lambda: bars([(0.5, 2, 5), (2, 3.5, 1)], "ratio", "{:g}".format, "ratio"),
        lambda: ranks(np.array([5, 0, 3, 1])),
        lambda: ranks(np.array([1])),
    ):
        svg = draw()
        assert svg == draw() and svg.startswith("<svg viewBox=") and svg.endswith("</svg>")
        assert "<style" not in svg and "#0102" not in svg and "var(--accent)" in svg and "http" not in svg
        assert "metadata" not in svg and "DejaVu" not in svg
