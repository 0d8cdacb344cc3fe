"""What to measure, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.config import option
from clip_fewshot.errors import UsageError

CASES = (
    "step",
    "study",
    "text",
    "probe",
    "knn",
    "cluster",
    "decode",
    "embed",
    "memory",
    "contrastive",
    "processes",
    "store",
    "gpu",
)


@dataclass(frozen=True)
class Options:
    cases: tuple[str, ...] = option((), "what to measure (default: all)", positional=True, choices=CASES)
    arch: str | None = option(None, "architecture of the cases that have one (default: those of the table)")
    unfreeze: tuple[int, ...] = option((), "step: last layers that train (default: those of the table)")
    batch: int | None = option(None, "step: pictures per step (default: those of the table)")
    pictures: int | None = option(None, "store: how many (default: 20,000; a million take minutes and 3.3 GB)")
    repeats: int = option(5, "times that each side is measured, in turns")
    threads: int = option(1, "threads of each library; CPU time is comparable between machines at 1")
    seed: int = option(0, "seed of weights, pictures and features")
    json: Path | None = option(None, "write every repeat to this file")

    def __post_init__(self) -> None:
        for flag, value in (
            ("--repeats", self.repeats),
            ("--threads", self.threads),
            ("--batch", self.batch),
            ("--pictures", self.pictures),
        ):
            if value is not None and value < 1:
                raise UsageError(expected="1 or more", got=str(value), fix=f"change {flag}", where=flag)
        if any(n < 0 for n in self.unfreeze):
            raise UsageError(
                expected="0 or more", got=str(min(self.unfreeze)), fix="change --unfreeze", where="--unfreeze"
            )
