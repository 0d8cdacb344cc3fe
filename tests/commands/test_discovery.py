"""Discovery as a command: what it counts, what it compares, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_fewshot.protocol.compare_discovery import GATED, GCD, OURS, WAYS
from tests.commands.conftest import PER_CLASS, UNKNOWN, Command, one_line

HIDDEN = "+".join(UNKNOWN)


@pytest.fixture
def found(command: Command, photos: Path) -> dict:
    ended = command(
        "discovery", photos, "--hide", HIDDEN, "--shot-counts", "4", "--seeds", "2", "--model", "mini", "--alpha", ".1",
        "--background", photos / "six", "--json",
    )  # fmt: skip
    assert ended.code == 0
    return ended.record


def test_a_row_holds_counts_rates_and_accuracies_of_every_way(found: dict) -> None:
    (row,) = found["rows"]
    assert (row["unseen"], row["shots"], row["n_new"]) == (HIDDEN, 4, 2)
    assert [len(counts) for counts in row["counts"].values()] == [2, 2]
    assert set(row["accuracy"]) == set(WAYS)
    for way in (OURS, GATED):
        for side in ("all", "old", "new"):
            ours, theirs = row["accuracy"][way][side]["mean"], row["accuracy"][GCD][side]["mean"]
            assert row["difference"][way][side]["mean"] == pytest.approx(ours - theirs)
    n_new = row["accuracy"][OURS]["new"]["n_test"]
    assert n_new == 2 * PER_CLASS  # background is in no accuracy
    assert row["accuracy"][OURS]["all"]["n_test"] == n_new + row["accuracy"][OURS]["old"]["n_test"]
    assert 0 <= row["background"]["grouped"] <= row["background"]["flagged"] <= 1


def test_the_shares_within_one_and_exact_are_those_of_the_counts(found: dict) -> None:
    (row,) = found["rows"]
    for way in (OURS, GCD):
        near = [abs(count - 2) <= 1 for count in row["counts"][way]]
        assert found["pooled"]["4"][way] == sum(near) / len(near)
        assert found["pooled"]["4"][f"{way}, exact"] == row["counts"][way].count(2) / len(near)


def test_the_text_says_the_same_and_mistakes_are_one_line(command: Command, photos: Path) -> None:
    args = (photos, "--hide", HIDDEN, "--shot-counts", "4", "--model", "mini", "--alpha", ".1")
    text = command("discovery", *args, "--seeds", "2", "--method", "ward").out
    assert f"unseen {HIDDEN}, 4 shots a class, 2 support sets" in text
    assert "ours, flagged only" in text
    one_line(command("discovery", *args, "--seeds", "1"), 2, "2 or more")
    one_line(command("discovery", *args, "--seeds", "2", "--method", "x"), 2, "silhouette, ward, semi-supervised")
