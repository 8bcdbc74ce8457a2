"""Pieces of a page. Whatever comes out of a dataset is hostile: text goes through `text`, and nothing else does."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from pipeline.dataset.names import one_line

_TURNING: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MAX_TEXT: Final = 300  # characters of a name on the page; card.json has all


class Html(str):
    """A piece that may be set into a page as it is."""

    __slots__ = ()


class Number(Html):
    """One that stands at the right of its column."""

    __slots__ = ()


class Bar(Html):
    """One that fills its column."""

    __slots__ = ()


def plain(value: object, limit: int = MAX_TEXT) -> str:
    """Anything as one line in the order in which it is written: what would turn text around is written as `\\u202e`."""
    line = _TURNING.sub(lambda found: f"\\u{ord(found[0]):04x}", one_line(str(value)))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def text(value: object, limit: int = MAX_TEXT) -> Html:
    """Anything as text: no tags, no entities, and its direction, as of Arabic, kept to itself."""
    line = plain(value, limit)
    return Html(escape(line) if line.isascii() else f"<bdi>{escape(line)}</bdi>")


def attribute(value: object, limit: int = MAX_TEXT) -> Html:
    """The same, for between the quotes of an attribute."""
    return Html(escape(plain(value, limit), quote=True))


def code(value: object) -> Html:
    """Text as it would be typed."""
    return Html(f"<code>{text(value)}</code>")


def joined(pieces: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("\n".join(pieces))


def section(title: str, *body: Html) -> Html:
    """A card with a heading; nothing where there is nothing to say."""
    inner = joined(piece for piece in body if piece)
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{inner}\n</section>") if inner else Html("")


def paragraph(line: object, kind: str = "soft") -> Html:
    """A line of text."""
    return Html(f'<p class="{kind}">{line if isinstance(line, Html) else text(line, 2000)}</p>')


def table(head: Sequence[str], rows: Iterable[Sequence[Html | int | str]], caption: str = "") -> Html:
    """Numbers are set to the right, with separators of thousands; so are the heads of their columns.

    A first column without a head names the rows.
    """
    listed = [list(row) for row in rows]
    numbers = [isinstance(value, int | Number) for value in (listed[0] if listed else head)]
    heads = "".join(
        f'<th scope="col"{" class=n" * number}>{text(name)}</th>' for name, number in zip(head, numbers, strict=True)
    )
    body = "\n".join(f"<tr>{_first(row[0], not head[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in listed)
    top = f"<thead><tr>{heads}</tr></thead>" if any(head) else ""
    title = f"<h3>{text(caption)}</h3>" if caption else ""
    return Html(f'<div>{title}<div class="wide"><table>{top}<tbody>\n{body}\n</tbody></table></div></div>')


def bar(share: float) -> Bar:
    """A bar, `share` of 0..1 as long as its column."""
    return Bar(f'<i style="width:{100 * share:.2f}%"></i>' if share > 0 else "")


def two(*pieces: Html) -> Html:
    """Beside each other where there is room."""
    return Html(f'<div class="two">\n{joined(filter(None, pieces))}\n</div>')


def tiles(facts: Iterable[tuple[str, str, str]]) -> Html:
    """(name, value, remark) as a row of small cards."""
    shown = (
        f"<div><dt>{text(name)}</dt><dd>{text(value)}{f'<small>{text(remark)}</small>' if remark else ''}</dd></div>"
        for name, value, remark in facts
    )
    return Html('<dl class="tiles">\n' + "\n".join(shown) + "\n</dl>")


def _first(value: Html | int | str, is_head: bool) -> str:
    if isinstance(value, int):
        return _cell(value)
    name = value if isinstance(value, Html) else text(value)
    return f'<th scope="row">{name}</th>' if is_head else f'<td><div class="name">{name}</div></td>'


def _cell(value: Html | int | str) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    kind = ' class="n"' if isinstance(value, Number) else ' class="bar"' if isinstance(value, Bar) else ""
    return f"<td{kind}>{value if isinstance(value, Html) else text(value)}</td>"
