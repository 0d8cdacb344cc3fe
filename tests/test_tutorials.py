"""The tutorials: what the build of the site, which runs them, cannot see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "docs/tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text("utf-8"))["cells"]
    return found


def test_the_list_names_every_notebook_once() -> None:
    text = (FOLDER / "index.md").read_text("utf-8")
    names = sorted(path.stem for path in NOTEBOOKS)
    assert len(names) >= 7
    assert sorted(re.findall(r"\]\((\w+)\.ipynb\)", text)) == names
    assert sorted(re.findall(r"^(\w+)$", text.partition("toctree")[2], flags=re.M)) == names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_and_says_first_what_it_is_for(notebook: Path) -> None:
    first, *rest = cells(notebook)
    assert first["cell_type"] == "markdown"
    assert first["source"][0].startswith("# ")
    assert not [cell["id"] for cell in rest if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_code_stands_without_a_word_before_it(notebook: Path) -> None:
    kinds = [cell["cell_type"] for cell in cells(notebook)]
    assert "code" not in kinds[:1]
    assert not any(kinds[i : i + 3] == ["code"] * 3 for i in range(len(kinds)))
