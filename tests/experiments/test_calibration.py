"""The comparison at a small size: a temperature helps, and never more than the one that no user has."""

from __future__ import annotations

from tests.commands.conftest import Command


def test_a_small_run(command: Command) -> None:
    chosen = ("digits-wild", "--model", "mini", "--shot-counts", 2, "--seeds", 1)
    ended = command("calibration", *chosen, "--json")
    assert (ended.code, ended.err) == (0, "")
    rows = {row["method"]: row for row in ended.record["rows"]}
    for name in ("mlp", "mlp-arcface", "arcface"):
        best, raw = rows[f"{name}, the best"], rows[f"{name}, no temperature"]
        assert best["nll"]["mean"] <= min(rows[name]["nll"]["mean"], raw["nll"]["mean"]) + 1e-6
        assert rows[name]["accuracy"] == raw["accuracy"]
    assert rows["mlp-arcface"]["nll"]["mean"] < rows["mlp-arcface, no temperature"]["nll"]["mean"] - 0.05
    assert command("calibration", *chosen).out.count("\n| ") == len(rows)
