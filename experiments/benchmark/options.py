"""What to measure, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.config import OutputOptions, check_range, option

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
class Options(OutputOptions):
    """Options of the benchmark."""

    cases: tuple[str, ...] = option((), "what to measure (default: all)", positional=True, choices=CASES)
    arch: str | None = option(None, "architecture of the cases that have one (default: those of the table)")
    depths: tuple[int, ...] = option((), "step: last layers that train (default: those of the table)")
    batch: int | None = option(None, "step: pictures per step (default: those of the table)")
    stored: int | None = option(None, "store: how many (default: 20,000; a million take minutes and 3.3 GB)")
    repeats: int = option(5, "times that each side is measured, in turns")
    threads: int | None = option(
        None, "threads of each library; CPU time is comparable between machines at the default (1)"
    )
    seed: int = option(0, "seed of weights, pictures and features")
    record: Path | None = option(None, "write every repeat to this file")

    def __post_init__(self) -> None:
        check_range(self, "repeats", "threads", "batch", "stored")
        check_range(self, "depths", least=0)

    @property
    def n_threads(self) -> int:
        """Threads of each library, 1 where none were asked for."""
        return self.threads or 1
