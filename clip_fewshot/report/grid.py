"""Pictures in rows with a few words below each, as one SVG file that opens anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from PIL.Image import Image

from clip_fewshot.plots.text import shorten
from clip_fewshot.report.pictures import thumbnail_uri

SIDE, GAP, LINE = 128, 14, 16  # pixels: of a picture, between cells, of a line of text
LETTERS = 19  # of the widest common fonts in one line below a picture
LABEL_INK, FLAGGED = "#1b1f24", "#c84e00"
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


class GridCell(NamedTuple):
    """A picture and the lines below it, the first of them bold; ``flagged`` draws both in the colour of the unknown."""

    picture: Image
    lines: tuple[str, ...]
    flagged: bool = False


def picture_grid(cells: Sequence[GridCell], columns: int = 6) -> str:
    """The SVG text of ``cells`` row by row. Pictures are inside it, shrunk and free of metadata."""
    columns = max(1, min(columns, len(cells)))
    lines = max((len(cell.lines) for cell in cells), default=0)
    step_x, step_y = SIDE + GAP, SIDE + GAP + LINE * lines + 6
    width, height = columns * step_x + GAP, -(-len(cells) // columns) * step_y + GAP
    drawn = [
        f'<g transform="translate({GAP + i % columns * step_x} {GAP + i // columns * step_y})">{_cell(cell)}</g>'
        for i, cell in enumerate(cells)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = f'font-family="{FONT}" font-size="12" text-anchor="middle"'
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([f"{head} {style}>", ground, *drawn, "</svg>", ""])


def _cell(cell: GridCell) -> str:
    # Browsers smooth what they enlarge: tiny scans are shown as the pixels they are.
    look = ' style="image-rendering: pixelated"' if max(cell.picture.size) < SIDE / 2 else ""
    uri, colour = thumbnail_uri(cell.picture, 2 * SIDE), FLAGGED if cell.flagged else LABEL_INK
    frame = f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="{FLAGGED}" stroke-width="3"/>'
    picture = f'<image width="{SIDE}" height="{SIDE}" href="{uri}"{look}/>'
    return picture + (frame if cell.flagged else "") + "".join(_lines(cell.lines, colour))


def _lines(lines: Sequence[str], colour: str) -> Iterator[str]:
    for i, line in enumerate(lines):
        weight = ' font-weight="600"' if i == 0 else ""
        place = f'x="{SIDE / 2:g}" y="{SIDE + LINE * (i + 1)}"'
        yield f'<text {place} fill="{colour}"{weight}>{escape(shorten(line, LETTERS))}</text>'
