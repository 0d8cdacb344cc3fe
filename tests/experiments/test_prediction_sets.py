"""The measurement of prediction sets at a small size."""

from __future__ import annotations

from tests.commands.conftest import Command


def test_sets_of_the_library_hold_what_those_of_the_closed_form_lose(command: Command) -> None:
    chosen = ("digits", "--shot-counts", 4, "--simulated", 12, "--seeds", 2)
    ended = command("prediction_sets", *chosen, "--json")
    assert (ended.code, ended.err) == (0, "")
    rows = {(row["data"], row["probe"], row["way"]): row["cells"]["4 shots, alpha 0.1"] for row in ended.record["rows"]}
    assert len(rows) == 2 * 2 * 4
    ours, closed = (rows["simulated", "text-prior", way] for way in ("cross-validation", "closed form"))
    assert ours["coverage"] >= 0.9 - 2 * ours["se"]
    assert closed["coverage"] < ours["coverage"]
    assert command("prediction_sets", *chosen).out.count("\n4 shots, alpha 0.1 ") == 4
