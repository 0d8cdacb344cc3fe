"""A drawing as an image of a dark page, in headless Chromium."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot import plots
from clip_fewshot.report.pictures import svg_uri
from tests.report import sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"),
]
PAPER = {"light": (255, 255, 255), "dark": (0x14, 0x18, 0x1D)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_paper_follows_the_page_and_photographs_stay(scheme: str, tmp_path: Path) -> None:
    driver = pytest.importorskip("playwright.sync_api")
    found, page = sample.discovery((30, 20)), tmp_path / "page.html"
    tree = plots.dendrogram_plot(found.linkage, found.labels, {0: Image.new("RGB", (9, 9), (200, 40, 90))})
    page.write_text(f'<html style="color-scheme: light dark"><img src="{svg_uri(tree.svg)}">')
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(page.as_uri())
        drawn = np.asarray(Image.open(BytesIO(tab.locator("img").screenshot())).convert("RGB")).astype(int)
        browser.close()
    close = lambda colour: (np.abs(drawn - colour).max(axis=-1) <= 3).mean()  # noqa: E731
    assert close(PAPER[scheme]) > 0.8
    assert 0.001 < close((200, 40, 90)) < 0.05
