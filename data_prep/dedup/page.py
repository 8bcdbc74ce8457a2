"""report.html: the numbers and some of the pairs, side by side, on one page that needs no other file and no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from data_prep.card.markup import Html, Number, attribute, code, joined, paragraph, section, table, text, tiles
from data_prep.card.pictures import Picture, PictureTask, make
from data_prep.card.style import CSS
from data_prep.dedup.corpus import Corpus, open_index
from data_prep.dedup.pairs import PAIRS_NAME, Found
from data_prep.dedup.select import KINDS, Matches
from pipeline.dataset.files import atomic_file

PAGE_NAME: Final = "report.html"
SHOWN_PAIRS: Final = 96
_BUDGET: Final = 3_000_000  # bytes of all pictures
_SAID: Final = {"bytes": "equal bytes", "pixels": "equal pixels", "near": "near"}
# Were there ever a mistake in the escaping, the browser still runs and fetches nothing.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CSS: Final = """
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.pair { min-width: 0; padding: .6rem; border: 1px solid var(--line); border-radius: 10px; }
.pair .both { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.pair figure { min-width: 0; }
.pair img, .pair .none {
  display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px; background: var(--tint);
}
.pair .none { padding: .5rem; font-size: .72rem; line-height: 1.3; color: var(--warn); overflow: hidden; }
.pair figcaption { margin-top: .3rem; font-size: .74rem; line-height: 1.35; color: var(--soft); overflow: hidden; }
.pair figcaption b { display: block; color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.pair figcaption span { display: block; }
.pair code { display: block; font-size: .92em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.pair p { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0 0 .5rem; font-size: .75rem; }
.pair p span { padding: .05rem .55rem; border-radius: 1rem; background: var(--tint); color: var(--accent); }
.pair p .warn { background: none; color: var(--warn); border: 1px solid currentColor; }
"""


@dataclass(frozen=True)
class _Pair:
    """One pair as it is shown: its row of pairs.parquet, and both pictures."""

    row: dict[str, Any]
    dropped: Picture
    kept: Picture


def write_page(path: Path, report: dict[str, Any], found: Sequence[Found], workers: int) -> None:
    """Draws pairs of every kind and set, and writes the page. Raises WorkFailed, OSError."""
    chosen = choose([one.matches for one in found], SHOWN_PAIRS)
    tasks: list[PictureTask] = []
    for one, rows in zip(found, chosen, strict=True):
        for row in rows:
            tasks.append(_task(one.corpus, int(one.matches.dropped[row])))
            tasks.append(_task(one.other, int(one.matches.other[row])))
    pictures = iter(make(tasks, workers, lambda count: None, _BUDGET))
    sections = []
    for one, rows in zip(found, chosen, strict=True):
        listed = one.table(rows).to_pylist()
        pairs = [_Pair(row, next(pictures), next(pictures)) for row in listed]
        sections.append(_section(one, pairs))
    with atomic_file(path) as file:
        file.write(render(report, [sections[-1], *sections[:-1]]).encode())


def choose(sets: Sequence[Matches], most: int) -> list[np.ndarray]:
    """Rows of each set's matches, `most` in all: each kind in turn, of each set, those of the largest distance first.

    Of equal distances some from everywhere in the dataset.
    """
    queues: list[tuple[int, list[int]]] = []
    for number, matches in enumerate(sets):
        for kind in reversed(range(len(KINDS))):
            rows = np.flatnonzero(matches.kind == kind)
            spread = rows[np.argsort(np.arange(len(rows)) * 0x9E37_79B1 % 2**32)]  # multiples of the golden ratio
            ordered = spread[np.argsort(matches.distance[spread], kind="stable")[::-1]]
            queues.append((number, ordered[:most].tolist()[::-1]))
    chosen: list[list[int]] = [[] for _ in sets]
    while most > 0 and any(queue for _, queue in queues):
        for number, queue in queues:
            if queue and most > 0:
                chosen[number].append(queue.pop())
                most -= 1
    return [_least_alike_first(m, np.array(rows, np.int64)) for m, rows in zip(sets, chosen, strict=True)]


def _least_alike_first(matches: Matches, rows: np.ndarray) -> np.ndarray:
    order = np.lexsort((rows, matches.kind[rows], matches.distance[rows]))
    return rows[order[::-1]]


def render(report: dict[str, Any], sections: Sequence[Html]) -> str:
    """The page of a report.json and what is shown of each set."""
    name = report["dataset"]["path"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{attribute(name)} · duplicates</title>
<link rel="icon" href="data:,">
<style>{CSS}{_CSS}</style>
</head>
<body>
<header>
<p class="soft small">Duplicates</p>
<h1>{text(name)}</h1>
</header>
<main>
{joined((_tiles(report), _counts(report), *sections))}
</main>
<footer><p>Made by vitstream dedup. All pairs are in {PAIRS_NAME}, what stays is in keep.parquet.</p></footer>
</body>
</html>
"""


def _tiles(report: dict[str, Any]) -> Html:
    share = 100 * report["dropped"] / max(1, report["images"])
    asked = report["asked"]
    facts = [
        ("Images", f"{report['images']:,}", ""),
        ("Stay", f"{report['kept']:,}", ""),
        ("Go", f"{report['dropped']:,}", f"{share:.2f} %"),
        ("Compared", "exactly", "bytes and pixels")
        if asked["exact_only"]
        else ("Near", f"{asked['distance']} bits", "or fewer differ, of 64"),
    ]
    if report["flat"]:
        facts.append(("Flat", f"{report['flat']:,}", "compared by their pixels only"))
    if report["unreadable"]:
        facts.append(("Unreadable", f"{report['unreadable']:,}", "compared by their bytes only"))
    return tiles(facts)


def _counts(report: dict[str, Any]) -> Html:
    rows = [("within the dataset", *_numbers(report["within"]))]
    rows += [(f"as in {one['path']}", *_numbers(one)) for one in report["against"]]
    head = ("", "go", *_SAID.values(), "other labels")
    return section("What goes", table(head, rows))


def _numbers(counts: dict[str, Any]) -> list[int | Html]:
    conflicts = counts["label_conflicts"]
    differ = Number("other classes") if conflicts is None else conflicts
    return [counts["dropped"], *(counts[kind] for kind in KINDS), differ]


def _section(one: Found, pairs: Sequence[_Pair]) -> Html:
    total = len(one.matches.dropped)
    title = f"As in {one.name}" if one.name else "Within the dataset"
    if not total:
        return section(title, paragraph("No duplicates."))
    shown = f"{len(pairs):,} of {total:,} pairs, the least alike first." if len(pairs) < total else "All pairs."
    grid = Html(f'<div class="pairs">\n{joined(_figure(pair, bool(one.name)) for pair in pairs)}\n</div>')
    return section(title, paragraph(shown), grid)


def _figure(pair: _Pair, evaluation: bool) -> Html:
    row = pair.row
    bits = f", {row['distance']} bits" if row["kind"] == "near" else ""
    marks = f"<span>{text(_SAID[row['kind']])}{bits}</span>"
    if row["conflict"]:
        marks += '<span class="warn">labels differ</span>'
    left = _picture(pair.dropped, "goes", row["dropped"], row["dropped_labels"])
    right = _picture(pair.kept, "evaluation" if evaluation else "stays", row["kept"], row["kept_labels"])
    return Html(f'<div class="pair"><p>{marks}</p><div class="both">{left}{right}</div></div>')


def _picture(picture: Picture, role: str, key: str, labels: Sequence[str]) -> Html:
    names = ", ".join(labels) or "no label"
    if picture.jpeg:
        data = base64.b64encode(picture.jpeg).decode()
        shown = f'<img alt="{attribute(names)}" src="data:image/jpeg;base64,{data}">'
    else:
        shown = f'<div class="none">{text(picture.error)}</div>'
    size = f"{picture.row.width:,} × {picture.row.height:,}, {picture.row.size:,} bytes"
    caption = f"<b>{text(names, 80)}</b><span>{role} · {size}</span>{code(key)}"
    return Html(f'<figure title="{attribute(key)}">{shown}<figcaption>{caption}</figcaption></figure>')


def _task(corpus: Corpus, image: int) -> PictureTask:
    manifest = corpus.manifest
    at = int(np.searchsorted(manifest.starts, image, side="right")) - 1
    shard = manifest.shards[at]
    row = open_index(corpus.folder, shard).row(image - int(manifest.starts[at]))
    return PictureTask(0, image, corpus.folder, manifest.container, shard.name, row, corpus.max_pixels)
