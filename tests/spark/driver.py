"""A driver: `python -m tests.spark.driver FOLDER OUT [all]`. Java starts once in it, whatever it is asked to do."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import clip_fewshot as cf
from experiments import embed, pretrain

ARCHITECTURE = "tiny.json"
TABLE = "features.parquet"


def training(folder: Path, out: str, spark: bool) -> pretrain.Options:
    """Four steps of a tiny model; ``folder`` holds the architecture and, in pairs/, the pictures."""
    return pretrain.Options(
        data=str(folder / "pairs"),
        out=folder / out,
        model=str(folder / ARCHITECTURE),
        steps=4,
        batch=7,
        warmup=0,
        validation=4,
        device="cpu",
        spark=spark,
    )


def refuse() -> bytes:
    """A mistake that all processes see."""
    with cf.join_world():
        raise cf.UsageError("pictures", "poems", "look at them", "poems/")


def die() -> bytes:
    """Rank 1 is killed while rank 0 waits for it."""
    with cf.join_world() as world:
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.barrier()
    return b"alive"


def broken(folder: Path, name: str, job: Callable[[], bytes]) -> None:
    """Write what the driver learns of a job that fails."""
    try:
        cf.on_spark(job, processes=2)
    except cf.ClipFewShotError as error:
        (folder / name).write_text(f"{type(error).__name__}: {error}")


def everything_else(folder: Path, out: str) -> None:
    """Embed, and run what fails."""
    from tests.spark.driver import die, refuse  # not those of __main__, which no other process can import

    embed.main(embed.Options(data=str(folder / "pairs"), out=folder / out / TABLE, spark=True, device="cpu"))
    broken(folder, "refused", refuse)
    broken(folder, "died", die)


if __name__ == "__main__":
    pretrain.main(training(Path(sys.argv[1]), sys.argv[2], spark=True))
    if "all" in sys.argv[3:]:
        everything_else(Path(sys.argv[1]), sys.argv[2])
