"""The card for people: one page that needs nothing else, neither files nor a network nor scripts."""

import base64
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np

from data_prep.card import plots
from data_prep.card.gather import Card
from data_prep.card.markup import (
    Html,
    Number,
    attribute,
    bar,
    code,
    joined,
    paragraph,
    section,
    table,
    text,
    tiles,
    two,
)
from data_prep.card.pictures import Picture
from data_prep.card.style import CSS
from pipeline.dataset.quantities import human_bytes

_FEW_CLASSES: Final = 40  # are all listed
_SHOWN: Final = 12  # of many, so many of the largest and of the smallest
_MAX_ROWS: Final = 60  # of another tool's report
_NAME: Final = 80  # characters of a class's name
_PERCENTILES: Final = (("5 %", "5"), ("25 %", "25"), ("median", "50"), ("75 %", "75"), ("95 %", "95"))
# Were there ever a mistake in the escaping, the browser still runs and fetches nothing.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(card: Card, body: dict[str, Any]) -> str:
    """The page of a card, whose summary.to_json is `body`."""
    files, left_out = two(_datasets(body), _shards(body)), two(_rejects(body), _duplicates(body))
    about_images = (_tiles(body), _pictures(card), _classes(card, body), _sizes(body))
    sections = joined((*about_images, files, left_out, _made(body)))
    title = attribute(body["name"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · dataset card</title>
<link rel="icon" href="data:,">
<style>{CSS}</style>
</head>
<body>
<header>
<p class="soft small">Dataset card</p>
<h1>{text(body["name"])}</h1>
</header>
<main>
{sections}
</main>
<footer><p>Made by vitstream inspect. The same numbers, and those of all classes, are in card.json.</p></footer>
</body>
</html>
"""


def _tiles(body: dict[str, Any]) -> Html:
    labels = {"single": "one label per image", "multi": "several labels per image"}[body["labels"]]
    facts = [
        ("Images", f"{body['images']:,}", labels),
        ("Classes", f"{body['classes']:,}", f"{body['balance']['empty']:,} empty" if body["balance"]["empty"] else ""),
        ("Size", human_bytes(body["bytes"]), f"in {counted(body['shards'], 'shard')}"),
    ]
    if body["width"]:
        middle = f"{body['width']['percentiles']['50']:,} × {body['height']['percentiles']['50']:,}"
        facts.append(("Median size", middle, f"pixels, {human_bytes(body['image_bytes']['percentiles']['50'])}"))
    if body["rejects"]:
        facts.append(("Left out", f"{body['rejects']['images']:,}", "rejected images"))
    if body["duplicates"]:
        facts.append(("Duplicates", f"{body['duplicates']['redundant']:,}", "of equal bytes"))
    return tiles(facts)


def _datasets(body: dict[str, Any]) -> Html:
    if len(body["datasets"]) < 2:
        return Html("")
    whole = body["images"]
    rows = [
        (part["name"], part["images"], _right(share(part["images"], whole)), _right(human_bytes(part["bytes"])))
        for part in body["datasets"]
    ]
    return section("Splits", table(("", "images", "share", "size"), rows))


def _pictures(card: Card) -> Html:
    if not card.pictures:
        return Html("")
    figures = joined(_figure(card, picture) for picture in card.pictures)
    said = f"{len(card.pictures):,} of {card.tally.images:,}, a fair sample: every image has the same chance."
    failed = sum(1 for picture in card.pictures if picture.error)
    warning = f"{failed:,} of them cannot be shown: see vitstream verify." if failed else ""
    warned = paragraph(warning, "warn") if warning else Html("")
    return section("Pictures", paragraph(said), warned, Html(f'<div class="pictures">\n{figures}\n</div>'))


def _figure(card: Card, picture: Picture) -> Html:
    row = picture.row
    names = [card.classes[label] for label in row.labels]
    label = ", ".join(names[:8]) or "no label"
    split = card.parts[picture.dataset].name
    title = f"{label}\n{row.width} x {row.height}\n{row.key}" + f"\n{split}" * bool(split)
    ratio = min(2.5, max(0.5, row.width / max(1, row.height)))  # of the longest and tallest, the middle
    shape = f"aspect-ratio:{ratio:.3f}"
    if picture.jpeg:
        data = base64.b64encode(picture.jpeg).decode()
        shown = f'<img src="data:image/jpeg;base64,{data}" alt="{attribute(label)}" style="{shape}">'
    else:
        shown = f'<div class="none" style="{shape}">{text(picture.error, 120)}</div>'
    title = "&#10;".join(attribute(line) for line in title.split("\n"))
    place = f"flex:{ratio:.3f} 1 calc({ratio:.3f} * var(--row))"
    return Html(
        f'<figure style="{place}" title="{title}">{shown}<figcaption>{text(label, _NAME)}</figcaption></figure>'
    )


def _classes(card: Card, body: dict[str, Any]) -> Html:
    counts = card.tally.classes
    even = body["balance"]
    if not body["classes"] or not counts.any():
        return Html("")
    said = (
        f"Largest {even['largest']:,}, median {even['median']:,}, smallest {even['smallest']:,} images."
        f" As hard to guess as {even['effective']:,.1f} equally large classes."
    )
    shown = [paragraph(said)]
    order = np.lexsort((np.arange(len(counts)), -counts))
    if len(counts) <= _FEW_CLASSES:
        shown.append(_class_table(card, order, ""))
    else:
        largest = f"Images of each of {np.count_nonzero(counts):,} classes, the largest first."
        plot = _plot(largest, plots.ranks(counts))
        shown.append(plot)
        shown.append(
            two(
                _class_table(card, order[:_SHOWN], "Largest"), _class_table(card, order[: -_SHOWN - 1 : -1], "Smallest")
            )
        )
    per_image = body["labels_per_image"]
    if len(per_image) > 1 or body["labels"] == "multi":
        rows = [(int(n), count, _right(share(count, body["images"]))) for n, count in per_image.items()]
        shown.append(table(("labels of an image", "images", "share"), rows[:20], "Labels per image"))
    return section("Classes", *shown)


def _class_table(card: Card, numbers: np.ndarray, caption: str) -> Html:
    counts = card.tally.classes
    parts = card.parts if len(card.parts) > 1 else ()
    most = max(1, int(counts.max()))
    rows = [
        (
            text(card.classes[number], _NAME),
            int(counts[number]),
            *(int(part.tally.classes[number]) for part in parts),
            bar(counts[number] / most),
        )
        for number in numbers.tolist()
    ]
    return table(("class", "images", *(part.name for part in parts), ""), rows, caption)


def _sizes(body: dict[str, Any]) -> Html:
    if not body["width"]:
        return Html("")
    turned = body["orientation"]
    wide = ", ".join(f"{share(turned[name], body['images'])} {name}" for name in ("landscape", "square", "portrait"))
    plotted = [
        _spread("Width", body["width"], "pixels", _whole),
        _spread("Height", body["height"], "pixels", _whole),
        _spread("Aspect ratio", body["aspect_ratio"], "width / height", lambda value: f"{value:.3g}"),
        _spread("Bytes per image", body["image_bytes"], "bytes", _bytes),
    ]
    shows = (("width", _whole), ("height", _whole), ("aspect_ratio", lambda v: f"{v:.2f}"), ("image_bytes", _bytes))
    rows = []
    for name, key in (("least", "least"), *_PERCENTILES, ("most", "most"), ("mean", "mean")):
        values = [(body[of], show) for of, show in shows]
        rows.append((name, *(_right(show(v["percentiles"].get(key, v.get(key)))) for v, show in values)))
    listed = table(("", "width", "height", "ratio", "bytes"), rows)
    return section("Sizes", paragraph(f"{wide}."), two(*plotted), listed)


def _spread(name: str, values: dict[str, Any], unit: str, show: plots.Format) -> Html:
    histogram = values["histogram"]
    middle = f"half of all between {show(values['percentiles']['25'])} and {show(values['percentiles']['75'])}"
    said = f"{name}: {show(values['least'])} to {show(values['most'])}, {middle}."
    if values["least"] == values["most"]:
        same = paragraph(f"{show(values['least'])}, all of them.")
        return Html(f"<div><h3>{text(name)}</h3>{same}</div>")
    return _plot(
        said, plots.bars(histogram, unit, lambda value: show(value).replace(".0 ", " "), values["scale"]), name
    )


def _plot(said: str, svg: str, name: str = "") -> Html:
    title = f"<h3>{text(name)}</h3>" if name else ""
    return Html(f'<div>{title}<figure class="plot" role="img" aria-label="{attribute(said)}">{svg}</figure></div>')


def _shards(body: dict[str, Any]) -> Html:
    size, images = body["shard_bytes"], body["shard_images"]
    if not size:
        return Html("")
    rows = [
        ("bytes", *(_right(_bytes(size[key])) for key in ("least", "mean", "most"))),
        ("images", *(_right(_whole(images[key])) for key in ("least", "mean", "most"))),
    ]
    return section("Shards", table(("", "least", "mean", "most"), rows))


def _rejects(body: dict[str, Any]) -> Html:
    found = body["rejects"]
    if not found:
        return section("Left out", paragraph("Not known: this dataset has no rejects.jsonl."))
    if not found["images"]:
        return section("Left out", paragraph("Nothing: every image that was listed is in."))
    rows = [
        (
            text(kind["reason"], _NAME),
            kind["images"],
            Html("<br>".join(text(example["source"], _NAME) for example in kind["examples"])),
        )
        for kind in found["reasons"]
    ]
    return section("Left out", table(("reason", "images", "for example"), rows))


def _duplicates(body: dict[str, Any]) -> Html:
    found, shown = body["duplicates"], []
    if found is None:
        shown.append(paragraph("Equal bytes: not known, as this dataset has no catalogue (samples.parquet)."))
    elif not found["groups"]:
        shown.append(paragraph("No two images have the same bytes."))
    else:
        kinds, more = counted(found["groups"], "picture"), counted(found["redundant"], "image")
        shown.append(paragraph(f"{kinds} more than once, byte for byte: {more} too many."))
        if found["across"]:
            shown.append(paragraph(f"{found['across']:,} of them in train as well as in val.", "warn"))
    if body["dedup"] is not None:
        rows = list(islice(flat(body["dedup"]), _MAX_ROWS))
        shown.append(table(("", ""), rows, "Report of vitstream dedup"))
    else:
        shown.append(
            paragraph("Near duplicates: vitstream dedup finds them; show its report here with --dedup.", "soft small")
        )
    return section("Duplicates", *shown)


def _made(body: dict[str, Any]) -> Html:
    whole = body["datasets"][0]
    facts = [(f"{part['name']} fingerprint".strip(), part["fingerprint"]) for part in body["datasets"]]
    facts.append(("container", whole["container"]))
    facts += [("partial", "the shards hold more than this dataset lists")] * whole["partial"]
    for name, value in whole["asked"].items():
        if value not in (None, [], "", False) and not (name == "split" and len(body["datasets"]) > 1):
            facts.append((name.replace("_", " "), value if isinstance(value, str) else json.dumps(value)))
    return section("How it was made", table(("", ""), [(name, code(value)) for name, value in facts]))


def flat(report: dict[str, Any], above: str = "") -> Iterator[tuple[str, str | int]]:
    """The numbers and names of a report as rows; of a long list, how long it is."""
    for name, value in report.items():
        label = f"{above} {name}".strip().replace("_", " ")
        if isinstance(value, dict):
            yield from flat(value, label)
        elif isinstance(value, list):
            yield label, len(value)
        elif isinstance(value, bool) or value is None or isinstance(value, float):
            yield label, json.dumps(value)
        else:
            yield label, value


def counted(number: int, what: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def share(part: int, whole: int) -> str:
    """`12.3 %`."""
    return f"{100 * part / max(1, whole):.1f} %"


def _right(number: str) -> Number:
    return Number(text(number))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    return human_bytes(round(value))
