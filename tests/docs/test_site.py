"""The documentation site: all public names and options, commands that can be typed; it opens from disk."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import clip_fewshot as cf
from clip_fewshot.commands import COMMANDS, OPEN_WORLD, STORE_COMMANDS
from clip_fewshot.commands.cli.parser import parse
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.report.glossary import TERMS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
HOW_TOS = sorted(path for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
USE = re.compile(r"^(?:\$ )?clip-fewshot (\S.*)$", re.MULTILINE)


def typed(page: Path) -> list[str]:
    """The commands of a page, without what comes behind a pipe or a semicolon."""
    blocks = "\n".join(BLOCK.findall(page.read_text("utf-8"))).replace("\\\n", " ")
    return [re.split(r" \| |; ", line)[0] for line in USE.findall(blocks)]


def can_be_typed(line: str) -> bool:
    name, *words = shlex.split(line, comments=True)
    module = name.replace("-", "_")
    if module == OPEN_WORLD:
        module, words = f"{module}.{words[0].replace('-', '_')}", words[1:]
    command: Any = import_module(f"clip_fewshot.commands.{module}")
    try:
        parse(command.Options, name, "", words)
    except SystemExit as ended:
        return ended.code == 0
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_on_a_page_can_be_typed(page: Path) -> None:
    assert not [line for line in typed(page) if not can_be_typed(line)]


def test_the_check_of_commands_can_fail() -> None:
    assert not can_be_typed("predict runs/model new/ --togeter")
    assert can_be_typed('zero-shot digits --template "a photo of the number {}"  # a comment')
    assert typed(DOCS / "howto/predict.md")


def test_the_reference_has_each_public_name_once() -> None:
    text = "".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md"))
    assert sorted(re.findall(r"^\.\. (?:auto\w+|py:data):: clip_fewshot\.(\w+)$", text, re.M)) == sorted(cf.__all__)


def test_the_reference_has_each_command_once() -> None:
    wanted = [name for name in COMMANDS if name != OPEN_WORLD] + [f"{OPEN_WORLD} {name}" for name in STORE_COMMANDS]
    text = (DOCS / "reference/commands.md").read_text("utf-8")
    assert sorted(re.findall(r"^```\{command-help\} (.*)$", text, re.M)) == sorted(wanted)


def test_the_glossary_has_the_words_of_the_report_and_is_in_order() -> None:
    text = (DOCS / "glossary.md").read_text("utf-8").lower()
    heads = re.findall(r"^- \*\*(.+?)\*\*", text, re.M)
    assert heads == sorted(heads)
    explained = {word for words in re.findall(r"\*\*(.+?)\*\*", text) for word in words.split(", ")}
    assert not [term for term in TERMS if not {term.lower(), term.lower().removesuffix("s")} & explained]


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_a_how_to_is_listed_and_shows_an_answer(page: Path) -> None:
    assert re.search(rf"^{page.stem}$", (DOCS / "howto/index.md").read_text("utf-8"), re.M)
    text = page.read_text("utf-8")
    assert re.search(r"^```console\n\$ (?:.*\\\n)*.*\n[^`]", text, re.M) or re.search(r"^```text\n[^`]", text, re.M)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three minutes of one core; on a busy machine more
def test_the_answers_on_the_pages_are_those_of_today() -> None:
    done = subprocess.run([sys.executable, "docs/run_howtos.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    return runpy.run_path(str(DOCS / "conf.py"))


def test_a_page_from_elsewhere_is_read_from_there_and_its_links_lead_to_pages(settings: dict[str, Any]) -> None:
    source = ["stub"]
    settings["place_page"](None, "contributing", source)
    assert "](architecture.md)" in source[0]
    assert "](changelog.md)" in source[0]
    deep = ["[a](../../SECURITY.md) [b](../compare.md)"]
    settings["place_page"](None, "figures/x", deep)
    assert deep == ["[a](../security.md) [b](../compare.md)"]


def test_names_with_an_underscore_at_their_end_are_no_links(settings: dict[str, Any]) -> None:
    lines = ["classes_: of ``fit``, as ``coef_``, :attr:`~a.b_`", ">>> model.classes_"]
    settings["quote_names"](None, "class", "x", None, None, lines)
    assert lines == ["``classes_``: of ``fit``, as ``coef_``, :attr:`~a.b_`", ">>> model.classes_"]


def test_a_part_is_described_in_a_line(settings: dict[str, Any]) -> None:
    said = [settings["describe_part"](part) for part in (cf.DETECTORS["class-mean"], OWN["text-prior"], OWN["mlp"])]
    assert said[0] == "The largest cosine between an image and a class mean, of rows of length 1."
    assert said[1] == "nothing trains; the probe text-prior classifies."
    assert said[2] == "trains image by last-layers, loss cross-entropy; the head mlp classifies."


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)")
@pytest.mark.usefixtures("settings")
def test_a_site_opens_from_disk_is_searched_there_and_asks_nobody(tmp_path: Path) -> None:
    driver = pytest.importorskip("playwright.sync_api")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# First\n\n```{toctree}\nnext\n```\n", "utf-8")
    (tmp_path / "docs/next.md").write_text("# Next\n\nA word for finding: marmalade.\n", "utf-8")
    build = ["sphinx", "-q", "-W", "-c", str(DOCS), str(tmp_path / "docs"), str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", *build], cwd=ROOT, check=True)
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab, asked = browser.new_page(viewport={"width": 1280, "height": 900}), list[str]()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((tmp_path / "site/index.html").as_uri())
        tab.fill("input[name=q]", "marmalade")
        tab.press("input[name=q]", "Enter")
        tab.click("ul.search li a")
        assert tab.inner_text("h1").startswith("Next")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
