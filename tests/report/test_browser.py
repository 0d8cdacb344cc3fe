"""The page in headless Chromium: draws, is clicked through, fits a phone, runs no script of a hostile name."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.report.page import render_page
from tests.browser import CHROMIUM, MARKS, list_barriers, open_pages, run_chromium
from tests.report import sample

pytestmark = MARKS

# The page inside frames of several widths; the outer page is allowed to run scripts and writes down what it measures.
RULER = """<!DOCTYPE html><body><pre id="found"></pre><script>
const widths = [390, 1200], found = {}, pages = %s;
let left = widths.length * pages.length;
pages.forEach((source, number) => widths.forEach(width => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const inner = frame.contentDocument, images = [...inner.images];
    found[`${number} ${width}`] = {
      overflow: inner.documentElement.scrollWidth - width,
      images: images.length,
      broken: images.filter(image => !image.complete || !image.naturalWidth).length,
      scripts: inner.scripts.length,
    };
    if (--left === 0) document.getElementById("found").textContent = JSON.stringify(found);
  };
  frame.srcdoc = source;
  document.body.append(frame);
}));
</script></body>"""


def chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One headless run with no first-run work, no background network, and the console on stderr."""
    quiet = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
        "--disable-component-update --disable-default-apps --disable-extensions --disable-sync --hide-scrollbars "
        "--enable-logging=stderr --virtual-time-budget=5000"
    )
    command = [str(CHROMIUM), *quiet.split(), f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def complaints(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def test_it_draws_without_a_complaint(tmp_path: Path, source: str) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(source, "utf-8")
    run = chromium(tmp_path / "profile", f"--screenshot={picture}", "--window-size=1200,1600", page.as_uri())
    assert complaints(run) == []
    drawn = np.asarray(Image.open(picture).convert("L"))
    assert drawn.shape == (1600, 1200)
    for band in np.array_split(drawn, 8):
        assert band.std() > 10  # something is drawn in every eighth of the first screens
    assert (drawn > 240).mean() > 0.6  # on white


def test_it_fits_a_phone_and_a_hostile_name_runs_nothing(tmp_path: Path, source: str, hostile_source: str) -> None:
    ruler = tmp_path / "ruler.html"
    ruler.write_text(RULER % json.dumps([source, hostile_source]).replace("</", "<\\/"), "utf-8")
    run = chromium(tmp_path / "profile", "--dump-dom", ruler.as_uri())
    assert complaints(run) == []  # a blocked script or a refused address would be one
    told = re.search(r'<pre id="found">(.+?)</pre>', run.stdout)
    assert told is not None
    found = json.loads(html.unescape(told[1]))
    assert set(found) == {"0 390", "0 1200", "1 390", "1 1200"}
    for where, seen in found.items():
        assert seen["images"] > 10, where
        assert (seen["overflow"], seen["broken"], seen["scripts"]) == (0, 0, 1), where


def test_the_complaints_would_be_heard(tmp_path: Path, source: str) -> None:
    page = tmp_path / "loud.html"
    page.write_text(source.replace("<main>", "<main><script>alert(1)</script>"), "utf-8")
    assert any(
        "Content Security Policy" in line for line in complaints(chromium(tmp_path / "p", "--dump-dom", page.as_uri()))
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with run_chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page of the made-up run, whose confusion matrix has three pictures of 3 answered as 5."""
    counts = 70 * np.eye(len(sample.NAMES), dtype=np.int64)
    counts[3, 5] = 3
    (tmp_path / "report.html").write_text(render_page(sample.results(), sample.record(confusion=counts)), "utf-8")
    with open_pages(browser) as open_page:
        yield lambda **options: open_page(tmp_path / "report.html", reduced_motion="reduce", **options)


def shown(tab: Any) -> list[str]:
    """File names of the cards that are seen, in order."""
    return [text.split("/")[1] for text in tab.locator(".card:visible .file").all_text_contents()]


def test_pictures_stand_on_the_first_screen_and_lead_to_their_cards(opened: Callable[..., Any]) -> None:
    tab = opened(width=1280)
    first = tab.locator("img").first
    assert first.bounding_box()["y"] < 800
    titles = tab.locator(".shelves h3").all_inner_texts()
    assert titles == ["Surest mistakes", "Unknown, missed", "Right, but unsure", "Groups of unknown"]
    tab.locator("[name=kind]").select_option("right")
    tab.locator(".shelves a", has_text="said five").click()  # its card is hidden by the filter
    assert tab.evaluate("document.activeElement.dataset.file") == "holiday/03 three.jpg"
    assert tab.locator(":focus").bounding_box()["y"] < 900


def test_a_cell_of_the_matrix_shows_its_pictures(opened: Callable[..., Any]) -> None:
    tab = opened()
    tab.get_by_role("link", name="three answered as five: 3").click()
    assert shown(tab) == ["03 three.jpg"]
    assert "3 say five, 2 say three" in tab.locator(".card:visible").inner_text()
    assert tab.evaluate("document.activeElement.id") == "told"
    tab.get_by_role("link", name="three answered as three: 70").press("Enter")  # two sets answer rightly
    assert shown(tab) == ["03 three.jpg"]
    tab.get_by_role("link", name="zero answered as zero: 70").press("Enter")
    assert shown(tab) == ["00 zero.jpg", "10 zero.jpg"]
    tab.get_by_role("button", name="Show all again").click()
    assert len(shown(tab)) == 12


def test_cards_can_be_filtered_and_sorted(opened: Callable[..., Any]) -> None:
    tab = opened()
    assert tab.locator("#told").inner_text() == "12 of 12 pictures"
    tab.get_by_label("Show").select_option("unknown, missed (1)")
    assert shown(tab) == ["09 nine.jpg"]
    tab.locator("[name=true]").select_option("zero")
    assert shown(tab) == []
    assert tab.locator("#told").inner_text() == "No picture here is like this."
    tab.get_by_role("button", name="Show all again").click()
    tab.get_by_label("Sort by").select_option("true class")
    assert shown(tab)[:4] == ["00 zero.jpg", "10 zero.jpg", "01 one.jpg", "11 one.jpg"]


def test_of_many_cards_the_first_are_seen_and_the_rest_on_demand(browser: Any, tmp_path: Path) -> None:
    many = sample.predictions()[:10] * 3
    (tmp_path / "report.html").write_text(render_page(sample.results(), sample.bare(predictions=many)), "utf-8")
    with open_pages(browser) as open_page:
        tab = open_page(tmp_path / "report.html")
        assert tab.locator("#told").inner_text() == "24 of 30 pictures"
        tab.get_by_role("button", name="Show the rest").press("Enter")
        assert tab.evaluate("document.activeElement.id") == "picture-24"
        assert len(shown(tab)) == 30
        tab.goto(f"{tab.url}#picture-29")
        tab.reload()  # as one who was sent the address
        assert tab.evaluate("document.activeElement.id") == "picture-29"


def test_a_picture_can_be_looked_at_closer_and_then_the_next_that_is_seen(opened: Callable[..., Any]) -> None:
    tab = opened(width=390)
    tab.locator("[name=kind]").select_option("right")
    first, second = shown(tab)[:2]
    tab.locator(".look:visible").first.press("Enter")
    closer = tab.get_by_role("dialog")
    assert closer.locator(".file").inner_text().endswith(first)
    assert closer.locator("img").bounding_box()["width"] > 300
    tab.keyboard.press("ArrowLeft")  # none before it
    assert closer.locator(".file").inner_text().endswith(first)
    closer.get_by_role("button", name="Next").click()
    assert closer.locator(".file").inner_text().endswith(second)
    assert "right" in closer.inner_text()
    assert list_barriers(tab) == []
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.closest('.card').dataset.file").endswith(second)


def test_a_term_says_what_it_means_when_it_is_pointed_at_or_reached_by_keyboard(opened: Callable[..., Any]) -> None:
    tab = opened()
    term = tab.locator(".verdict .term", has_text="AUROC")
    tip = "getComputedStyle(document.querySelector('.verdict [href=\"#term-auroc\"]'), '::after').content"
    assert tab.evaluate(tip) == "none"
    term.hover()
    assert "a coin" in tab.evaluate(tip)
    tab.mouse.move(0, 0)
    assert tab.evaluate(tip) == "none"
    tab.locator(".verdict .term", has_text="unknown").first.focus()
    while tab.evaluate("document.activeElement.textContent") != "AUROC":
        tab.keyboard.press("Tab")
    assert "a coin" in tab.evaluate(tip)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_nothing_keeps_anybody_out(opened: Callable[..., Any], width: int, scheme: str) -> None:
    tab = opened(width=width, color_scheme=scheme)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert dark == (scheme == "dark")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert list_barriers(tab) == []


def test_without_scripts_every_picture_is_there(opened: Callable[..., Any]) -> None:
    tab = opened(java_script_enabled=False)
    assert len(shown(tab)) == 12
    assert not tab.locator("#tools").is_visible()


def test_it_prints_on_white_with_what_is_chosen(opened: Callable[..., Any]) -> None:
    tab = opened(color_scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("#tools").is_visible()
    assert len(shown(tab)) == 12
