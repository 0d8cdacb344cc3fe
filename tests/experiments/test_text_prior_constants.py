"""Constants chosen on all sets but one: what is chosen, and that the library is left as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.probes import text_mean
from experiments import text_prior_constants as constants
from experiments.text_prior_constants import Constant, Figures, leave_out
from tests.commands.conftest import Command


def save_set(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    centres, labels = rng.normal(size=(3, 8)), np.repeat(np.arange(3), 90)
    np.savez(path, X=centres[labels] + rng.normal(size=(270, 8)), y=labels, T=centres + rng.normal(size=(3, 8)))
    return path


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    return [save_set(tmp_path / f"{name}.npz", seed) for seed, name in enumerate(("a", "b", "c"))]


def test_a_small_run(command: Command, sets: list[Path]) -> None:
    before = [constant.usual for constant in constants.CONSTANTS]
    ended = command("text_prior_constants", *sets, "--shot-counts", 2, "--seeds", 1, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.record["rows"]) == 3 * len(before)
    assert {row["left_out"] for row in ended.record["rows"]} == {str(path) for path in sets}
    for row in ended.record["rows"]:
        assert row["chosen"] in row["tried"]
        if row["chosen"] == row["usual"]:
            assert row["accuracy_change"] == row["loss_change"] == 0
    assert [constant.usual for constant in constants.CONSTANTS] == before


def test_the_others_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets a and b want 1, c wants 4; each is given what the two others have least loss with."""
    wanted = {"a": 1.0, "b": 1.0, "c": 4.0}

    def measure(pictures: str, method: str, options: object) -> Figures:
        return Figures(0.5, abs(text_mean.USUAL_SPREAD - wanted[pictures]) * (2 if pictures == "c" else 1))

    monkeypatch.setattr(constants, "measure", measure)
    spread = Constant("USUAL_SPREAD", text_mean, (1.0, 4.0), constants.TEXTS)
    rows = {row["left_out"]: row for row in leave_out(spread, {name: name for name in wanted}, None)}  # type: ignore[arg-type]
    assert {name: row["chosen"] for name, row in rows.items()} == {"a": 4.0, "b": 4.0, "c": 1.0}
    assert rows["c"]["loss_change"] == 2 * (3 - 2)


def test_what_is_no_features_is_refused(command: Command, sets: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "few.npz", X=np.eye(3), y=np.arange(3))
    for bad in ("bad", "few", "gone"):
        ended = command("text_prior_constants", sets[0], tmp_path / f"{bad}.npz")
        assert ended.code == 2
        assert "arrays X, y and T" in ended.err
    assert command("text_prior_constants", sets[0]).code == 2
