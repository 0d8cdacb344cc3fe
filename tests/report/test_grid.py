"""Pictures in rows, and curves side by side: what is in the drawing, and that any name is harmless."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from clip_fewshot.plots import shots_panels
from clip_fewshot.plots.views import ShotPoint
from clip_fewshot.report.grid import FLAGGED, GridCell, picture_grid
from tests.report import sample

PICTURE = Image.new("RGB", (300, 200), (10, 90, 200))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(("cells", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (6, 6, 1), (7, 6, 2), (13, 6, 3)])
def test_cells_fill_rows_inside_the_drawing(cells: int, columns: int, rows: int) -> None:
    drawing = parsed(picture_grid([GridCell(PICTURE, ("one", "two"))] * cells))
    places = [tuple(map(float, g.attrib["transform"][10:-1].split())) for g in drawing.findall("{*}g")]
    assert len({x for x, _ in places}) == columns
    assert len({y for _, y in places}) == rows
    assert max(x for x, _ in places) + 128 < float(drawing.attrib["width"])
    assert max(y for _, y in places) + 128 + 32 < float(drawing.attrib["height"])


def test_names_are_escaped_and_short() -> None:
    drawing = parsed(picture_grid([GridCell(PICTURE, ("<b>&\"'\x00\u202e", "x" * 90))]))
    first, second = (item.text or "" for item in drawing.findall(".//{*}text"))
    assert first == "<b>&\"'"
    assert len(second) < 20


def test_the_unknown_stand_out_by_frame_and_colour() -> None:
    known, flagged = (picture_grid([GridCell(PICTURE, ("a",), flag)]) for flag in (False, True))
    assert FLAGGED not in known
    assert flagged.count(FLAGGED) == 2


def test_panels_share_one_legend_and_one_scale() -> None:
    low = {"mlp": [ShotPoint(1, 0.2, 0.1, 0.3), ShotPoint(2, 0.3, 0.2, 0.4)]}
    plot = shots_panels({"clean": sample.shots(), "wild <1>": low})
    texts = ["".join(item.itertext()) for item in parsed(plot.svg).findall(".//{*}text")]
    for once in ("clean", "wild <1>", "frozen probe", "mlp", "test accuracy"):
        assert texts.count(once) == 1, once
    assert texts.count("shots per class") == 2
    ticks = [text for text in texts if re.fullmatch(r"[01]\.\d+", text)]
    assert len(ticks) == len(set(ticks)) > 2  # the common axis is labelled at the left panel alone
    assert float(ticks[0]) < 0.3  # and reaches down to the lowest curve of either
    assert "wild <1>: Test accuracy by shots" in plot.alt
    assert plot.svg == shots_panels({"clean": sample.shots(), "wild <1>": low}).svg
