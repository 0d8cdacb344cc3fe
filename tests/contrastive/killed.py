"""``python -m tests.contrastive.killed FOLDER``: one training, killed again and again, beside one that was left alone.

Every child of a fork goes on from the disk as it is and kills itself, by SIGKILL, at its n-th look at the disk or at a
batch, n growing from child to child, until one comes through. Forks, because starting Python takes longer than the
whole training. Prints as JSON how many were killed, and whether weights and figures are equal.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive import metrics_log
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.objectives import symmetric_objective
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.validation import Validation
from clip_fewshot.data.pairs.batch import PairBatch
from tests.contrastive.pairs import CONFIG, patterns

STEPS, TIMES = 11, ("seconds", "data_seconds", "compute_seconds", "steps_per_second")


class Noisy(nn.Module):
    """An objective with all that a checkpoint must remember: a parameter, a count, draws from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    def prepare(self, batch: PairBatch, world: World, chunk: int | None) -> None:
        pass

    def after_step(self, model: cf.Backbone) -> None:
        self.seen += 1

    def forward(self, images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
        noise = 0.1 * torch.randn_like(images) * (1 + 0.1 * self.seen)
        return symmetric_objective(self.gain * images + noise, texts, scale, ids) + self.gain**2


class Source:
    """Four batches an epoch, others in each."""

    def steps(self) -> int:
        return 4

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        return itertools.islice(patterns(4, seed=epoch), start, None)


def train(folder: Path) -> dict[str, Tensor]:
    options = ContrastiveOptions(
        steps=STEPS, learning_rate=3e-3, save_every=3, averaging=0.9, state_dtype="bfloat16", chunk=5
    )
    validation = Validation(patterns(1, seed=9), every=2)
    model = cf.train_contrastive(
        build_backbone(CONFIG), Source(), options, objective=Noisy(), folder=folder, resume=True, validation=validation
    )
    return model.state_dict()


def deadly(after: int) -> None:
    """From now on, kill this process at the ``after``-th call that writes, names or removes a file, before or after."""
    left = itertools.count(after, -1)

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, wrapped(getattr(os, name)))
    metrics_log.append_line = wrapped(metrics_log.append_line)


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    whole = train(folder / "whole")  # first, so that no child has anything to import
    killed = 0
    for after in itertools.count(1):
        child = os.fork()
        if child == 0:
            deadly(after)
            train(folder / "killed")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise SystemExit("a child failed")
            break
        killed += 1
    survived = train(folder / "killed")  # which has nothing left to do
    equal = all(torch.equal(whole[name], survived[name]) for name in whole)
    log = figures(folder / "whole")
    same = log == figures(folder / "killed") and [x["step"] for x in log if x["kind"] == "train"] == [*range(1, 12)]
    print(json.dumps({"killed": killed, "weights_equal": equal, "figures_equal": same}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
