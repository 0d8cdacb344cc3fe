"""A driver: `python -m tests.spark.driver FOLDER OUT pretrain|others`. Java starts once in it, whatever it does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import clip_fewshot as cf
from clip_fewshot.commands import embed, finetune, pretrain
from clip_fewshot.contrastive.distributed.spark import run_on_spark
from clip_fewshot.contrastive.distributed.torchrun import join_world

ARCHITECTURE = "tiny.json"
TABLE = "features.parquet"


def training(folder: Path, out: str, spark: bool) -> pretrain.Options:
    """Four steps of a tiny model; ``folder`` holds the architecture and, in pairs/, the pictures."""
    return pretrain.Options(
        data=str(folder / "pairs"),
        out=str(folder / out),
        model=str(folder / ARCHITECTURE),
        steps=4,
        batch=7,
        warmup=0,
        validation=4,
        device="cpu",
        spark=spark,
    )


def tuning(folder: Path, out: str, spark: bool) -> finetune.Options:
    """Four steps on the model that one process pretrained."""
    return finetune.Options(
        data=str(folder / "pairs"),
        out=str(folder / out),
        model=str(folder / "alone"),
        head="linear",
        backbone_lr=5e-4,
        passes=4,
        batch=7,
        device="cpu",
        spark=spark,
    )


def refuse() -> bytes:
    """A mistake of the user's."""
    raise cf.UsageError(expected="pictures", got="poems", fix="look at them", where="poems/")


def die() -> bytes:
    """Rank 1 is killed while rank 0 waits for it."""
    with join_world() as world:
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.barrier()
    return b"alive"


def broken(folder: Path, name: str, job: Callable[[], bytes], processes: int) -> None:
    """Write what the driver learns of a job that fails."""
    try:
        run_on_spark(job, processes=processes)
    except cf.ClipFewShotError as error:
        (folder / name).write_text(f"{type(error).__name__}: {error}")


def others(folder: Path, out: str) -> None:
    """Tune, embed, and run what fails."""
    from tests.spark.driver import die, refuse  # not those of __main__, which no other process can import

    finetune.main(tuning(folder, out, spark=True))
    embed.main(
        embed.Options(data=str(folder / "pairs"), out=str(folder / out / TABLE), model="mini", spark=True, device="cpu")
    )
    broken(folder, "refused", refuse, processes=1)
    broken(folder, "died", die, processes=2)


if __name__ == "__main__":
    if sys.argv[3] == "pretrain":
        pretrain.main(training(Path(sys.argv[1]), sys.argv[2], spark=True))
    else:
        others(Path(sys.argv[1]), sys.argv[2])
