"""What the pages for contributors say is true of the tree: picture, rooms, paths, links and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
INVENTED = {"clip_fewshot/heads/cosine.py", "tests/heads/test_cosine.py"}  # the example of CONTRIBUTING.md


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_picture_of_the_house_is_that_of_its_imports() -> None:
    done = subprocess.run([sys.executable, "docs/draw_architecture.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_picture_of_another_house_is_stale(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'docs'); import draw_architecture as d; from import_graph import *; "
        "new = d.drawn(room_graph(module_graph())); print(*(d.is_stale(old, new) for old in "
        "(new, new.replace('>heads<', '>hats<'), new.replace(' lines', '0 lines'), new.replace('C', 'L', 1))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_the_page_lists_every_room_in_the_order_of_the_imports() -> None:
    table = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## The way of one picture")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.M) == FLOORS


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_path_on_the_page_exists(page: Path) -> None:
    """Links to pages and their headings are checked by Sphinx too, which ends with a warning, and so with an error."""
    text = re.sub(r"https?://[^\s)]+", "", page.read_text("utf-8"))
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if target]
    assert not [target for target in links if not (page.parent / target).exists()]
    named = set(re.findall(r"\b(?:tests|docs|clip_fewshot|experiments)/[\w./]*\w", text))
    if page.parent.name != "howto":  # whose paths are those of a reader
        codes = re.findall(r"`([^`\n]+)`", text)
        named |= {word for code in codes for word in re.findall(r"(?<![~\w./])[\w.]+/[\w./]*\w", code)}
    here = (ROOT, ROOT / "clip_fewshot", page.parent)
    assert not [name for name in named - INVENTED if not any((place / name).exists() for place in here)]


def test_pages_and_messages_are_in_usual_words() -> None:
    """Many readers have another mother tongue."""
    rare = re.compile(r"\b(?:nobody|somebody|anew|whoever|befalls?|whence|hence|hitherto|thereof)\b", re.I)
    texts = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "clip_fewshot").rglob("*.py")]
    assert not {ids(path): found for path in texts if (found := rare.findall(path.read_text("utf-8")))}


def source_lines() -> list[list[str]]:
    """The rows of the tables of the sources: line, wish, command, outcome, status, tests."""
    text = (ROOT / "docs/coverage-of-sources.md").read_text("utf-8")
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in text.splitlines() if row[:1] == "|"]
    return [row for row in rows if row[0] != "line" and set(row[0]) != {"-"}]


def test_the_page_of_the_sources_has_every_line_once() -> None:
    names = [row[0] for row in source_lines()]
    assert len(names) == len(set(names)) == 57
    assert {row[4] for row in source_lines()} <= {"works", "open", "needs a GPU"}


@pytest.mark.parametrize("row", source_lines(), ids=lambda row: row[0].replace(" ", "-"))
def test_a_line_of_a_source_that_works_names_tests_that_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[5])
    assert named or row[4] != "works"
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        assert f"\ndef {test}(" in path.read_text("utf-8"), f"{file}::{test}"
