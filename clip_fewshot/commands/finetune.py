"""Tune a pretrained CLIP on pairs, or on pictures with classes: `clip-fewshot finetune photos/ --out DIR`.

On several processes: `torchrun --nproc-per-node 2 -m clip_fewshot finetune photos/ --out DIR`, or `--spark`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import CommandOptions
from clip_fewshot.contrastive.jobs import FineTuningJob

DESCRIPTION = (
    "Contrastive fine-tuning on captioned pictures, or on pictures with classes, whose captions are made from class "
    "names. Zero-shot accuracy, or recall both ways, on pictures kept out, before and after. DIR/model is the result."
)
EXAMPLES = (
    "photos/ --model ViT-B/32 --unfreeze all --precision bfloat16 --passes 5 --out runs/tuned",
    "more_pairs.csv --category predicted --from runs/tuned --out runs/tuned-again",
)


@dataclass(frozen=True, kw_only=True)
class Options(FineTuningJob, CommandOptions):
    pass


def main(options: Options) -> int:
    from clip_fewshot.contrastive.distributed.torchrun import join_world
    from clip_fewshot.protocol.fine_tuning_run import describe_finetuning, finetune, finetune_by_spark

    if options.spark:
        found = finetune_by_spark(options)
    else:
        with join_world() as world:
            tell = (lambda line: None) if options.json else partial(print, flush=True)
            found = finetune(options, world, lambda sentence: opening.warn([sentence]), tell)
    if found:
        print(json.dumps(found, indent=1) if options.json else describe_finetuning(found))
    return 0
