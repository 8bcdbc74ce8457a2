"""The card's plots, as SVG to be set into a page: its colours and its font, the same bytes for the same numbers."""

import io
import logging
import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of its font cache, on a home that cannot be written

Format = Callable[[float], str]
Scale = Literal["linear", "log", "ratio"]  # ratio: logarithmic, about 1
_SIZE: Final = (4.6, 2.35)  # inches of 72 units: text of 10 is then readable on a phone as on a desk
# Stand-ins for the page's own colours, which differ by day and night and are not known here.
_COLOURS: Final = {"#010203": "var(--accent)", "#010204": "var(--soft)", "#010205": "var(--line)"}
_BAR, _TEXT, _LINE = _COLOURS
_APART: Final = 0.13  # of the axis, at least, lies between two ticks
# From many to few: the first of these rows whose numbers are that far apart on the axis is taken.
_RATIOS: Final = (
    (1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2),
    (1 / 2, 2 / 3, 1, 3 / 2, 2),
    (1 / 4, 1 / 2, 1, 2, 4),
    (1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64),
    (1 / 4096, 1 / 64, 1, 64, 4096),
)
_ROUND: Final = tuple(
    [digit * 10**power for power in range(0, 13, step) for digit in digits]
    for step, digits in ((1, (1, 2, 3, 5)), (1, (1, 2, 5)), (1, (1, 3)), (1, (1,)), (2, (1,)), (3, (1,)))
)
_STYLE: Final = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "xtick.bottom": False,
    "ytick.left": False,
}


def bars(histogram: Sequence[tuple[float, float, int]], label: str, show: Format, scale: Scale) -> str:
    """A histogram of (from, below, how many); bars as wide as their bins."""

    def draw(axes: Axes) -> None:
        lows, highs, counts = (np.array(column, float) for column in zip(*histogram, strict=True))
        if scale != "linear":
            axes.set_xscale("log")
            lows = np.maximum(lows, highs[0] / 2)  # 0 has no place on it
        axes.bar(lows, counts, highs - lows, align="edge", color=_BAR, edgecolor="none", linewidth=0)
        axes.set_xlim(lows[0], highs[-1])
        _ticks(axes, lows[0], highs[-1], show, scale)
        axes.set_xlabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))

    return _svg(draw, label)


def ranks(counts: np.ndarray) -> str:
    """Images of a class against its rank, the largest class first; both logarithmic. Classes without images end it."""

    def draw(axes: Axes) -> None:
        present = np.sort(counts[counts > 0])[::-1].astype(float)
        # A million classes need no million points: some 200, equally far apart on the logarithmic axis.
        at = np.unique(np.geomspace(1, len(present), 200).round().astype(int))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot(at, present[at - 1], color=_BAR, linewidth=2)
        axes.fill_between(at, present[at - 1], present[-1] / 2, color=_BAR, alpha=0.15, linewidth=0)
        axes.set_xlim(1, max(2, len(present)))
        axes.set_ylim(present[-1] / 2, present[0] * 1.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("class, by rank")
        axes.set_ylabel("images")

    return _svg(draw, "ranks")


def short(value: float) -> str:
    """`1500000` -> `1.5M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _ticks(axes: Axes, low: float, high: float, show: Format, scale: Scale) -> None:
    """A few, at numbers that people use, none so near the next that their text would touch."""
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    if scale == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    apart = _APART * np.log(high / low)
    inside: list[float] = []
    for numbers in _RATIOS if scale == "ratio" else _ROUND:
        inside = [number for number in numbers if low <= number <= high]
        if len(inside) < 2 or np.diff(np.log(inside)).min() >= apart:
            break
    axes.xaxis.set_major_locator(FixedLocator(inside))


def _svg(draw: Callable[[Axes], None], name: str) -> str:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own are
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_page(file.getvalue())


def _for_page(svg: str) -> str:
    """The <svg> element alone, as wide as its place, with the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    head, _, rest = svg.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    # Left out: a style that would be the whole page's, names that several plots of a page share, fonts.
    rest = re.sub(r"<(metadata|style)\b.*?</\1>", "", rest, flags=re.DOTALL)
    rest = re.sub(r' id="[a-z_]+[\d.]*_\d+"| font-family: [^;"]*;', "", rest)
    rest = re.sub(r"\s*\n\s*", "\n", rest)
    for stand_in, colour in _COLOURS.items():
        rest = rest.replace(stand_in, colour)
    return f'<svg {box} aria-hidden="true">{rest}'
