"""One look for all figures, and the one way from a drawing to bytes.

Colours keep at least 3:1 against white and differ in lightness as well as hue, so that they survive colour blindness
and a grey printer; every series has a marker or a line style of its own besides.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import StringIO
from typing import Any, NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip_fewshot.plots.methods import METHODS
from clip_fewshot.plots.text import shorten

INK, SOFT, FAINT = "#1b1f24", "#57606a", "#d8dee4"
OUTLIER = "#8b9199"  # grey: of no group
SERIES = ("#0067a5", "#c84e00", "#00734d", "#8b3a8f", "#8a6d00", "#3d8fbf", "#b3325f", "#5c5c5c")
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))
KNOWN, NOVEL = SERIES[0], SERIES[1]
RASTER_ABOVE = 600  # points of one figure beyond which they are drawn as pixels: SVG costs 100 bytes a point

_STYLE: Any = {  # matplotlib types the keys by version
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a class name may hold a dollar sign
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "clip_fewshot",
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
# Text of an SVG stays text. It is measured with the widest of the common fonts, and with one of the system for scripts
# that this one lacks, but drawn with the reader's own: nothing overflows, and any script shows where the reader has a
# font for it. Outlines of the writer's font would show everywhere, but cannot be searched and break scripts that join.
_FAMILY, _DRAWN = "DejaVu Sans", "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
_OF_SYSTEMS = """
    Noto Sans CJK SC; Noto Sans CJK JP; Noto Sans SC; Noto Sans JP; Noto Sans KR; Source Han Sans SC
    WenQuanYi Micro Hei; WenQuanYi Zen Hei; PingFang SC; Hiragino Sans GB; Apple SD Gothic Neo; Microsoft YaHei; SimHei
    Yu Gothic; Malgun Gothic; Arial Unicode MS; Noto Sans Devanagari; Noto Sans Bengali; Noto Sans Tamil; Noto Sans Thai
    Nirmala UI; Leelawadee UI; Droid Sans Fallback; Noto Emoji; Symbola
"""
# A drawing on a dark page has every lightness turned round, each hue kept, and its photographs left alone. The paper
# becomes that of the pages. Another value for every colour would leave what is drawn as pixels white, and a photograph
# that is turned round twice is not what it was.
_DARK = """<style>@media screen and (prefers-color-scheme: dark) {
#patch_1, #figure_1 > [id^="legend_"],
[id^="axes_"] > :not([id^="AnnotationBbox"]), [id^="AnnotationBbox"] > :not(image) {
  filter: invert(1) hue-rotate(180deg);
}
path[style^="fill: #ffffff"] { fill: #e2e7ec !important; }
}</style>
"""


class Drawing(Figure):
    """A matplotlib figure that a notebook shows without pyplot, in the colours and fonts of the report."""

    def to_svg(self) -> str:
        """The same bytes for equal drawings: no date, no random ids, none of the user's own matplotlib settings."""
        buffer = StringIO()
        with _own_style():
            self.savefig(buffer, format="svg", metadata=_NO_METADATA)
        self.set_layout_engine("none")  # which would move what it has laid out
        drawing = buffer.getvalue()
        measured = ", ".join(f"'{family}'" for family in _list_families())
        body = drawing[drawing.index("<svg") :].replace(measured, _DRAWN)
        start = body.index(">") + 1
        return f"{body[:start]}\n {_DARK}{body[start:].lstrip()}"

    def _repr_svg_(self) -> str:
        return self.to_svg()


class Plot(NamedTuple):
    """A figure, and what it shows in words."""

    figure: Drawing
    alt: str

    @property
    def svg(self) -> str:
        """The figure as SVG text."""
        return self.figure.to_svg()


@contextmanager
def _own_style() -> Iterator[None]:
    """None of the user's own matplotlib settings inside; they are put back afterwards, and pyplot is never touched."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"font.family": _list_families()})
        yield


@cache
def _list_families() -> list[str]:
    """The font to measure with, and those for other scripts that this machine has."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    return [_FAMILY, *(name for name in re.split(r"\s*[;\n]\s*", _OF_SYSTEMS) if name in there)]


def render(width: float, height: float, *paint: Callable[[Axes], None], columns: int | None = None) -> Drawing:
    """A figure of ``width`` x ``height`` inches: an axes for each of ``paint``, side by side on one vertical scale.

    With ``columns`` they stand in rows of so many, each on a scale of its own.
    """
    with _own_style():
        figure = Drawing(figsize=(width, height), dpi=180, layout="constrained")
        rows = 1 if columns is None else -(-len(paint) // columns)
        places = figure.subplots(rows, columns or len(paint), sharey=columns is None, squeeze=False).ravel()
        for axes, draw in zip(places, paint, strict=False):
            draw(axes)
        for axes in places[len(paint) :]:
            axes.remove()
    return figure


def choose_style(name: str, position: int) -> int:
    """Index into SERIES, MARKERS and DASHES: a known method looks the same in every figure of every report."""
    place = METHODS.index(name) if name in METHODS else len(METHODS) + position
    return place % len(SERIES)


def format_label(name: str, limit: int = 22) -> str:
    """A name as a figure shows it: harmless and short."""
    return shorten(name, limit)
