"""What a run left behind, and what it said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.command import Ended

TRIALS = 5


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    out: Path
    ended: Ended
    seconds: float

    @property
    def search_seconds(self) -> float:
        return float(json.loads((self.out / "results.json").read_text())["timing"]["search"])


def decided(out: Path) -> dict[str, Any]:
    """All that a run decides, less the clock: the study and the saved model."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (out / "model").iterdir()}
    for path in (out / "trials").iterdir():
        found[path.name] = json.loads(path.read_text())
        del found[path.name]["record"]["seconds"]
    return found


def trial_files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "trials").glob("*.json")}


def again(out: Path, options: list[str]) -> list[str]:
    """How to go on with a run; one that was hit before it wrote anything is begun again."""
    return ["--resume", str(out)] if (out / "run.json").exists() else [*options, "--out", str(out)]


def one_error_line(ended: Ended) -> str:
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.endswith("\n")
    assert "Traceback" not in ended.err
    assert "error: " in ended.err
    return ended.err
