"""A small draw of every attack in every run of the tests; `python -m tests.attack` runs all of each."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.attack import lines, pages
from tests.attack.harness import Attack, attacks, run, table
from tests.attack.weak import strike

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forks")
ALL = list(attacks())


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attack")


@pytest.mark.parametrize("attack", [one for one in ALL if one.small], ids=lambda one: one.name)
def test_a_small_draw_holds(attack: Attack, folder: Path) -> None:
    results = run(attack, folder, 0, attack.small)
    assert len(results) == attack.small
    assert not [one for one in results if not one["held"]]


@pytest.mark.attack
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attack", ALL, ids=lambda one: one.name)
def test_a_larger_draw_holds(attack: Attack, folder: Path) -> None:
    """Under a seed of its own each time, which a failure shows."""
    seed = time.time_ns() % 1_000_000
    results = run(attack, folder, seed, attack.whole, seconds=20)
    assert results
    assert not [one for one in results if not one["held"]], f"--seed {seed}"


def test_every_command_is_attacked(folder: Path) -> None:
    lines.prepare(folder)
    assert set(lines.names()) <= lines.lines(folder).keys()


@pytest.mark.browser
@pytest.mark.skipif(not pages.HAS_BROWSER, reason="no Chromium or no Playwright on this machine")
def test_what_is_hidden_on_a_long_page_is_clicked_too(tmp_path: Path) -> None:
    page = tmp_path / "long.html"
    page.write_text(f"<title>long</title>{'<button>x</button>' * 300}<button hidden onclick=hit()>", "utf-8")
    heard, clicks = pages.visit(page, ("x",))
    assert heard == ["hit() was called"]
    assert clicks >= pages.ROUNDS * 301


def test_deaths_and_hangs_are_results_and_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    attack = Attack("weak", "nothing", 6, 6, lambda folder: None, strike, patience=1.5)
    first = run(attack, tmp_path, 0, 3)
    assert [one["held"] for one in first] == [True, False, False]
    assert [one["what"] for one in first] == ["same", "dies with 7", "hangs for 1.5 s"]
    results = run(attack, tmp_path, 0, 6)
    assert results[:3] == first
    assert [one["number"] for one in results] == [*range(6)]
    assert results[3]["what"] == "harness ZeroDivisionError"
    assert [one["held"] for one in results[4:]] == [False, True]
    row = table([(attack, results)]).splitlines()[-1]
    assert row.startswith("| weak | 6 | 2 | nothing | 1 ")
    assert "1 read differently" in row
    assert json.loads((tmp_path / "results" / "weak, seed 0.jsonl").read_text().splitlines()[4])["detail"] == "case 4"
