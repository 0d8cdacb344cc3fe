"""Train a CLIP from scratch: `clip-fewshot pretrain photos/ --model ViT-B/32 --out DIR`.

On several processes: `torchrun --nproc-per-node 4 -m clip_fewshot pretrain photos/ ...`, or `--spark --processes 4`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import quiet_option
from clip_fewshot.contrastive.jobs import Pretraining

DESCRIPTION = (
    "Train a CLIP from scratch on image-caption pairs, with the numbers of CLIP's paper where none are given. torchrun "
    "starts it on several processes."
)
EXAMPLES = ("pairs/ --model ViT-B/32 --out runs/scratch", "shards/ --chunk 256 --spark --out runs/scratch")


@dataclass(frozen=True, kw_only=True)
class Options(Pretraining):
    quiet: bool = quiet_option()


def main(options: Options) -> int:
    import torch

    from clip_fewshot.contrastive.distributed.torchrun import join_world
    from clip_fewshot.protocol.pretraining import pretrain, pretrain_by_spark

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.spark:
        pretrain_by_spark(options)
        return 0
    with join_world() as world:
        pretrain(options, world, partial(print, flush=True), lambda sentence: opening.warn([sentence]))
    return 0
