"""Pictures with a line below each, as HTML for a notebook: plain text and thumbnails, no script, nothing of outside."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import Protocol

from PIL import Image

from clip_fewshot.data.names import escape
from clip_fewshot.data.thumbnail import thumbnail
from clip_fewshot.errors import ClipFewShotError

CARDS_SHOWN = 24  # pictures of one answer of a notebook
_SIDE = 96  # pixels at most
_LEAST_SIDE = 64  # the width to which a smaller picture is drawn: a scanned digit of 10 pixels is a speck
_STYLE_OF_CARD = "margin:0;width:96px;overflow-wrap:anywhere;font-size:12px"
_CARD = f'<figure style="{_STYLE_OF_CARD}">{{}}<figcaption>{{}}</figcaption></figure>'


class ShownPictures(Protocol):
    """What cards need of a dataset."""

    @property
    def names(self) -> tuple[str, ...]:
        """One per picture."""
        ...

    def open(self, i: int) -> Image.Image:
        """Picture ``i``."""
        ...


def render_cards(title: str, pictures: ShownPictures, captions: Mapping[int, str], more: int = 0) -> str:
    """HTML of some rows of ``pictures`` under a title.

    Args:
        captions: row -> the line below it, in the order shown.
        more: how many pictures are not shown.
    """
    cards = "".join(_CARD.format(_show(pictures, row), _text(line)) for row, line in captions.items())
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f'<p>{_text(title)}</p><div style="display:flex;flex-wrap:wrap;gap:8px">{cards}</div>{rest}'


def _show(pictures: ShownPictures, row: int) -> str:
    name = _text(pictures.names[row])
    try:
        picture = pictures.open(row)
        data = thumbnail(picture, _SIDE)
    except (ClipFewShotError, OSError):  # a file that is gone spoils one card and not the cell
        return f"<div>{name}: not to be read any more</div>"
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    style = f' style="width:{_LEAST_SIDE}px;image-rendering:pixelated"' if max(picture.size) < _LEAST_SIDE else ""
    return f'<img alt="{name}" title="{name}"{style} src="{source}">'


def _text(value: str) -> str:
    return html.escape(escape(value))
