"""Classes and files whose names are scripts, on the pages that the library writes, in a browser that clicks everything.

A name that runs calls ``hit()``. No page may call it, open a dialog, leave its address or ask the network for anything.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.attack import lines, scene
from tests.attack.apart import command, fresh
from tests.attack.harness import Attack, Outcome

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAYLOADS = (
    "<script>hit()</script>",
    "<img src=x onerror=hit()>",
    '"><svg onload=hit()>',
    "'-hit()-'",
    "javascript:hit()",
    "</script><script>hit()</script>",
    "{{constructor.constructor('hit()')()}}",
    "${hit()}",
    "<a href=javascript:hit()>press</a>",
    "<iframe srcdoc='<script>parent.hit()</script>'>",
    "</style><script>hit()</script>",
    "<details open ontoggle=hit()>",
    '" autofocus onfocus=hit() x="',
    "' onmouseover='hit()",
    "&lt;script&gt;hit()&lt;/script&gt;",
    "]]><script>hit()</script>",
    "--><script>hit()</script>",
    "<base href=//example.org>",
    "<meta http-equiv=refresh content='0;url=//example.org'>",
    "</text><foreignObject><script>hit()</script>",
)
GROUP = 4
PAGES = ("report", "review", "grid")
CLICKABLE = "button, a, summary, input, select, textarea, [data-do], [data-word], [data-group] img, [role], th"
MOUSE = 80  # things that a mouse presses, evenly from first to last: each takes a tenth of a second
ROUNDS = 3  # what a press brings up is pressed too
PRESS_ALL = """([clickable, texts]) => {
  const all = [...document.querySelectorAll(clickable)];
  all.forEach((spot, place) => {
    for (const kind of ["pointerover", "mouseover", "mousedown", "mouseup"]) {
      spot.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
    }
    spot.focus();
    if (spot.matches("input, textarea")) spot.value = texts[place % texts.length];
    if (spot.matches("select")) spot.selectedIndex = place % spot.length;
    if (spot.matches("input, textarea, select")) spot.dispatchEvent(new Event("change", {bubbles: true}));
    if (!spot.matches("[target=_blank]")) spot.click?.();
  });
  return all.length;
}"""


def _pictures(cwd: Path, names: tuple[str, ...]) -> Path:
    """Ten pictures of each class as files that are called like it, and a table of them."""
    rows = ["image,label"]
    for i, name in enumerate(names):
        for j in range(10):
            noise = np.random.default_rng([i, j]).integers(0, 120, (20, 24, 3)) + 60 * np.eye(3)[i % 3] + 30 * (i // 3)
            file = f"{j} {name.replace('/', '_')}.png"
            (cwd / "data" / str(i)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.astype(np.uint8)).save(cwd / "data" / str(i) / file)
            rows.append(",".join('"{}"'.format(cell.replace('"', '""')) for cell in (f"{i}/{file}", name)))
    table = cwd / "data" / "labels.csv"
    table.write_text("\n".join([*rows, ""]))
    return table


def _written(folder: Path, cwd: Path, page: str, names: tuple[str, ...]) -> tuple[Path, str]:
    """The page, and what the command that wrote it said where there is none."""
    table, model = _pictures(cwd, names), ("--model", scene.model(folder))
    if page == "review":
        shutil.copytree(scene.store(folder), cwd / "store")
        for i, name in enumerate(names):
            command(cwd, "open_world", "add", "store", name, cwd / "data" / str(i), *model, cwd=cwd)
        command(cwd, "open_world", "ingest", "store", scene.strange(folder), *model, cwd=cwd)
        (cwd / "words.txt").write_text("\n".join(names))
        line: tuple[object, ...] = (
            "open_world",
            "review",
            "store",
            "--words",
            "words.txt",
            "--out",
            "page.html",
            *model,
        )
        ended = command(cwd, *line, cwd=cwd)
        return cwd / "page.html", ended.err
    words = (
        "--shots 3 --unseen 1 --trials 2 --seeds 1 --epochs 1 --max-unfreeze 0 --alpha 0.3 --approaches mlp --out run"
    )
    ended = command(cwd, "few_shot", table, *model, *words.split(), cwd=cwd, seconds=120)
    if page == "report" or ended.code:
        return cwd / "run" / "report.html", ended.err
    ended = command(cwd, "predict", cwd / "run" / "model", cwd / "data", *model, "--grid", "grid.svg", cwd=cwd)
    return cwd / "grid.svg", ended.err


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    page, first = PAGES[number % len(PAGES)], number // len(PAGES) * GROUP
    names, cwd = PAYLOADS[first : first + GROUP], fresh(folder, "pages")
    path, said = _written(folder, cwd, page, names)
    again = f"{page} with {names}"
    if not path.exists():
        return Outcome("error:" in said and "Traceback" not in said, "refused", f"{again}: {said[-300:]}")
    heard, clicks = visit(path, names)
    return Outcome(
        not heard, "executed" if heard else "inert", f"{again}: {heard[:3]}" if heard else f"{clicks} clicks"
    )


def visit(path: Path, names: tuple[str, ...]) -> tuple[list[str], int]:
    """What should not have happened while all that can be clicked was clicked and typed into; how many clicks."""
    from playwright.sync_api import sync_playwright

    heard: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.set_default_timeout(1500)
        tab.add_init_script("window.hit = () => { window.was = true }")
        tab.on("dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss()))
        tab.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or heard.append(request.url)
        )
        tab.goto(path.as_uri(), timeout=60_000)
        tab.wait_for_load_state()
        title, clicks = tab.title(), 0
        places = np.unique(np.linspace(0, max(tab.locator(CLICKABLE).count() - 1, 0), MOUSE, dtype=int)).tolist()
        for place in places:
            clicks += _press(tab, place, names[place % len(names)])
        for _ in range(ROUNDS):  # all of them, hidden ones too
            clicks += tab.evaluate(PRESS_ALL, [CLICKABLE, list(names)])
        if tab.evaluate("() => Boolean(window.was)"):
            heard.append("hit() was called")
        if tab.url.partition("#")[0] != path.as_uri() or tab.title() != title:
            heard.append(f"went to {tab.url}, titled {tab.title()}")
        browser.close()
    return heard, clicks


def _press(tab: Any, place: int, text: str) -> int:
    from playwright.sync_api import Error

    try:
        spot = tab.locator(CLICKABLE).nth(place)
        spot.hover(force=True)
        spot.click(force=True)
        if spot.evaluate("spot => ['INPUT', 'TEXTAREA'].includes(spot.tagName)"):
            spot.fill(text)
            spot.press("Enter")
    except Error:  # hidden, or gone by an earlier click
        return 0
    return 1


HAS_BROWSER = CHROMIUM is not None and find_spec("playwright") is not None
ATTACKS = [
    Attack(
        "pages with hostile names",
        "nothing runs, opens or is asked for, whatever is clicked",
        len(PAGES) * len(PAYLOADS) // GROUP,
        0,
        lines.prepare,
        strike,
        patience=400,
    )
][: int(HAS_BROWSER)]
