"""S0: five pictures of each of ten digits, everything frozen but an output layer, twenty epochs of batches of ten.

As written, the pictures come class by class with one caption per class, so a batch holds five copies of two captions,
and each copy counts as a wrong answer to the other four. That loss cannot fall below ln 5, which nothing says: a curve
that ends at 1.61 looks like a training that failed. Ours shares the target among equal captions. Where the captions are
equal to the letter that is the same gradient and the same floor, but a floor that is known, so that what is left above
it tells how far the training came. The third row also removes the cause: captions drawn again, in mixed batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable, merge_heads
from clip_fewshot.contrastive.trainer import StepReport, train_contrastive
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import PairBatch, PairSource, caption_ids
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.sampling import draw_support, split_open_world
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.protocol.zero_shot_accuracy import zero_shot_probabilities
from clip_fewshot.report import tables
from clip_fewshot.types import BoolArray

if TYPE_CHECKING:
    from experiments.recipes.options import Options

SHOTS, BATCH, EPOCHS, CAPTION = 5, 10, 20, "a photo of the number {}"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLAN = FineTuning(unfreeze=0, head="linear", head_lr=3e-3)
RECIPES = {"as written": True, "shared targets": False, "captions drawn anew": False}  # identity targets
Pairs = PairSource | list[PairBatch]


def run(options: Options) -> dict[str, Any]:
    """Both namings of the classes, all recipes, all seeds; the sealed pictures are the same throughout."""
    data = opening.open_data(options.data, **options.reading())
    split = split_open_world(data, shots=SHOTS, seed=0)
    test, model = split.test.open("S0"), load_backbone(options.model_name, device=options.device)
    rows: list[dict[str, Any]] = []
    for naming, rename in (("as they are", dict[str, str]()), ("as digits", {w: str(i) for i, w in enumerate(WORDS)})):
        if naming == "as digits" and not set(split.seen.names) <= set(WORDS):
            continue  # classes that are no digits have one name
        pool, held = renamed(split.pool, rename), renamed(test, rename)
        supports = [draw_support(pool, SHOTS, seed) for seed in range(options.seeds)]
        before = accuracy_interval([right(model, held)]).to_json()
        for name in RECIPES:
            ends = [trained(model, support, name, seed) for seed, support in enumerate(supports)]
            after = accuracy_interval([right(tuned, held) for tuned, _, _ in ends]).to_json()
            losses, floors = [loss for _, loss, _ in ends], [floor for _, _, floor in ends]
            figures = {"loss": fmean(losses), "floor": fmean(floors), "losses": losses}
            rows.append({"names": naming, "recipe": name, "before": before, "after": after} | figures)
    return {"data": data.name, "test_pictures": len(test), "seeds": options.seeds, "rows": rows}


def renamed(data: ImageDataset, names: dict[str, str]) -> ImageDataset:
    """The same pictures, their classes under other names."""
    new = tuple(names.get(name, name) for name in data.label_space.names)
    return replace(data, label_space=replace(data.label_space, names=new))


def trained(model: Backbone, support: ImageDataset, recipe: str, seed: int) -> tuple[Backbone, float, float]:
    """(tuned model, mean loss of the last epoch, mean of the least that its batches allowed)."""
    tuned = make_tunable(model, PLAN)
    pairs: Pairs = in_order(support, tuned)
    if recipe == "captions drawn anew":
        pairs = CaptionedStream(support, tuned, batch=BATCH, seed=seed)
    reports: list[StepReport] = []
    note: Callable[[StepReport], None] = reports.append
    options = PLAN.options(epochs=EPOCHS, identity_targets=RECIPES[recipe], seed=seed)
    train_contrastive(tuned, pairs, options, on_step=note)
    last = [report for report in reports if report.epoch == EPOCHS - 1]
    return merge_heads(tuned), fmean(r.loss for r in last), fmean(r.floor for r in last)


def in_order(support: ImageDataset, model: Backbone) -> list[PairBatch]:
    """The pictures class by class, with their class's one caption, in batches of ten."""
    import torch

    labels = support.required_labels()
    order = np.argsort(labels, kind="stable")
    names = support.label_space.decode(labels[order])
    images = torch.stack([model.preprocess(support.open(int(row))) for row in order])
    tokens = model.tokenize([CAPTION.format(name) for name in names])
    parts = zip(torch.split(images, BATCH), torch.split(tokens, BATCH), strict=True)
    return [PairBatch(some, texts, caption_ids(texts)) for some, texts in parts]


def right(model: Backbone, held: ImageDataset) -> BoolArray:
    """(n,) whether the nearest class name is the true one."""
    guesses = zero_shot_probabilities(model, held, held.label_space.names, TEMPLATES).argmax(dim=1).numpy()
    return np.asarray(guesses == held.required_labels())


def table(found: dict[str, Any]) -> str:
    """A line per recipe and naming."""
    head = ["recipe, class names", "loss", "least possible", "above it", "accuracy before", "after"]
    rows = [
        [
            f"{row['recipe']}, {row['names']}",
            *map(tables.format_fraction, (row["loss"], row["floor"], row["loss"] - row["floor"])),
            *(tables.estimate(row[when]["mean"], row[when]["ci95"]) for when in ("before", "after")),
        ]
        for row in found["rows"]
    ]
    title = (
        f"S0 on {found['data']}, {found['model']}: {SHOTS} pictures per class, batches of {BATCH}, {EPOCHS} epochs, "
        f"{found['seeds']} draws, {found['test_pictures']:,} pictures kept out; loss of the last epoch"
    )
    return f"{title}\n\n{tables.format_plain([head, *rows])}"
