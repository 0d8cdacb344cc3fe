"""The page in headless Chromium: draws, complains of nothing, fits a phone, runs no script of a hostile name."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"),
]

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
        assert (seen["overflow"], seen["broken"], seen["scripts"]) == (0, 0, 0), where


def test_the_complaints_would_be_heard(tmp_path: Path, source: str) -> None:
    page = tmp_path / "loud.html"
    page.write_text(source.replace("<main>", "<main><script>alert(1)</script>"), "utf-8")
    assert any(
        "Content Security Policy" in line for line in complaints(chromium(tmp_path / "p", "--dump-dom", page.as_uri()))
    )
