"""Fine-tuning in processes that Spark starts. They import this module: nothing can import another process's main."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import clip_fewshot as cf
from experiments.finetune import MODEL, RESULTS, finetune

if TYPE_CHECKING:
    from experiments.finetune import Options


def finetune_by_spark(options: Options) -> dict[str, Any]:
    """What ``finetune`` returns at rank 0, whose files come to this machine if they lie on another."""
    with redirect_stdout(sys.stderr):  # what the processes print is no part of the result
        files = cf.on_spark(tuned_files, options, processes=options.processes)
    for name, data in files.items():
        cf.write_bytes(options.out / name, data)
    return dict(cf.read_json(options.out / RESULTS)) | {"folder": str(options.out / MODEL)}


def tuned_files(options: Options) -> dict[str, bytes]:
    """``finetune`` in the world that has been started; at rank 0 the files of model and results."""
    with cf.join_world() as world:
        finetune(options, world)
    if world.rank > 0:
        return {}
    model = sorted((options.out / MODEL).iterdir(), reverse=True)  # weights before what names them
    return {str(path.relative_to(options.out)): path.read_bytes() for path in [*model, options.out / RESULTS]}
