"""S4: book covers and their texts on Spark, as written and as ours; on any captioned pictures.

As written, Adam's weight decay of 0.2 is part of the gradient. Adam divides what it is given by its size, so a weight
that the loss hardly asks to move goes to zero at the full learning rate, and the gradient of a pretrained model is
small beside a fifth of its weights. Decoupled, the same 0.2 takes a hundred-thousandth of a weight per step. On 900
photos it was 23 times the first gradient, and 42 steps took 0.6 % of the weights' norm; recall was the same within its
interval. And as written, Spark's processes train copies of the model, and the driver saves its own, which no process
has trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable, merge_heads
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import identity_objective
from clip_fewshot.contrastive.replayed import count_replayed_blocks, replay_pictures
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.split import split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.protocol.retrieval import RetrievalSet, find_candidates, measure_cosines, recall_of
from clip_fewshot.report import tables
from clip_fewshot.types import FloatArray
from experiments.recipes import s4_category, s4_processes

if TYPE_CHECKING:
    from experiments.recipes.options import Options

APART, BATCH, EPOCHS = 0.1, 64, 3  # share of the pictures kept out
ADAM: dict[str, Any] = {"lr": 5e-5, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2}
PLAN = FineTuning(unfreeze=1, backbone_lr=ADAM["lr"])
WRITTEN = {"as written": torch.optim.Adam, "as written, decay decoupled": torch.optim.AdamW}
KINDS = (*WRITTEN, "ours")


def run(options: Options) -> dict[str, Any]:
    """What training makes of recall, Spark of a model, a kill of a training, and a category of a caption."""
    data = opening.open_data(options.data, **options.reading())
    pictures = len(set(data.digests))
    kept, held = split_pairs(data, max(1, round(APART * pictures)), seed=0)
    model = load_backbone(options.model_name, device=options.device)
    among = find_candidates(model, held, truncate=True)
    cosines, ends = {"before": [measure_cosines(model, among, truncate=True)]}, {}
    for kind in KINDS:
        trained = [ended(kind, model, kept, seed) for seed in range(options.seeds)]
        cosines[kind], ends[kind] = (
            [measure_cosines(end, among, truncate=True) for end in trained],
            change(model, trained[0]),
        )
    return {
        "data": data.name,
        "pictures": {"training": len(set(kept.digests)), "test": len(among.pictures)},
        "seeds": options.seeds,
        "decay_to_gradient": decay_to_gradient(model, kept),
        "change": ends,
        "recall": {kind: recall_of(found, among.belongs) for kind, found in cosines.items()},
        "best_texts": best_texts(cosines["ours"][0], among),
        "processes": s4_processes.compared(kept),
        "category": s4_category.compared(model, held),
    }


def ended(kind: str, model: Backbone, data: ImageDataset, seed: int) -> Backbone:
    """The model after training its last layers, and its projections, on ``data``."""
    with tuning(model, data, seed) as (tuned, pairs):
        if kind == "ours":
            options = PLAN.options(epochs=EPOCHS, weight_decay=ADAM["weight_decay"], seed=seed)
            train_contrastive(tuned, pairs, options)
        else:
            train_as_written(tuned, pairs, WRITTEN[kind])
    return merge_heads(tuned).eval()


@contextmanager
def tuning(model: Backbone, data: ImageDataset, seed: int) -> Iterator[tuple[Backbone, PairStream]]:
    """A copy to train, and its pairs; pictures pass the layers that stay once."""
    tuned, n = make_tunable(model, PLAN), count_replayed_blocks(PLAN, model.visual)
    batch = min(BATCH, len(set(data.digests)))
    stream = partial(PairStream, data, tuned, batch=batch, seed=seed, truncate=True)
    if n is None:
        yield tuned, stream()
    else:
        pairs = stream(numbered=True)
        with replay_pictures(tuned, model, pairs.pictures, n):
            yield tuned, pairs


def train_as_written(model: Backbone, pairs: PairStream, kind: type[torch.optim.Adam]) -> None:
    """One rate throughout, decay on everything, equal captions taken for wrong ones, a scale without bound."""
    optimizer = kind([p for p in model.parameters() if p.requires_grad], **ADAM)
    model.train()
    for epoch in range(EPOCHS):
        for batch in pairs.batches(epoch):
            optimizer.zero_grad()
            contrastive_gradients(model, batch, identity_objective)
            optimizer.step()


def decay_to_gradient(model: Backbone, data: ImageDataset) -> float:
    """Norm of what as-written decay adds to the first gradient, over that gradient's."""
    with tuning(model, data, seed=0) as (tuned, pairs):
        contrastive_gradients(tuned, next(pairs.batches(0)), identity_objective)
        reached = [p for p in tuned.parameters() if p.requires_grad and p.grad is not None]
        decay = torch.cat([ADAM["weight_decay"] * p.detach().flatten() for p in reached])
        gradient = torch.cat([p.grad.flatten() for p in reached if p.grad is not None])
    return float(decay.norm() / gradient.norm())


def change(model: Backbone, trained: Backbone) -> dict[str, float]:
    """Norm of the trained weights over what it was, and both factors on the cosines."""
    start, end = dict(merge_heads(make_tunable(model, PLAN)).named_parameters()), dict(trained.named_parameters())
    moved = [name for name in end if not torch.equal(end[name], start[name]) and name != "logit_scale"]
    norms = [float(torch.cat([part[name].detach().flatten() for name in moved]).norm()) for part in (end, start)]
    scales = [float(part["logit_scale"].detach().exp()) for part in (start, end)]
    return {"weights": norms[0] / norms[1], "scale_before": scales[0], "scale": scales[1]}


def best_texts(cosines: FloatArray, among: RetrievalSet, top: int = 5) -> dict[str, Any]:
    """The captions nearest to the first picture kept out, of all that were written for any of them."""
    best = (-cosines[0]).argsort(kind="stable")[:top].tolist()
    own = [{"text": among.captions[i], "cosine": float(cosines[0, i]), "own": bool(among.belongs[0, i])} for i in best]
    return {"image": among.pictures.names[0], "candidates": len(among.captions), "top": own}


def table(found: dict[str, Any]) -> str:
    """A part per question."""
    pictures = found["pictures"]
    title = (
        f"S4 on {found['data']}, {found['model']}: {pictures['training']:,} pictures to train on, "
        f"{pictures['test']:,} kept out; {EPOCHS} epochs of batches of {BATCH}, {found['seeds']} seeds"
    )
    parts = [_recall_table(found), _change_table(found), _best_table(found["best_texts"])]
    parts += [s4_processes.table(found["processes"]), s4_category.table(found["category"])]
    return "\n\n".join([title, *parts])


def _recall_table(found: dict[str, Any]) -> str:
    ways = found["recall"]
    rows = [
        [
            key,
            *(tables.estimate(r[key]["mean"], r[key]["ci95"]) for r in ways.values()),
            tables.format_fraction(row["chance"]),
        ]
        for key, row in ways["before"].items()
    ]
    return tables.format_plain([["", *ways, "chance"], *rows])


def _change_table(found: dict[str, Any]) -> str:
    head = ["trained weights", "norm, after / before", "factor on cosines before", "after"]
    rows = [
        [kind, tables.format_fraction(row["weights"]), f"{row['scale_before']:.2f}", f"{row['scale']:.2f}"]
        for kind, row in found["change"].items()
    ]
    share = f"decay as written is {found['decay_to_gradient']:.1f} times the first gradient"
    return f"{tables.format_plain([head, *rows])}\n{share}"


def _best_table(best: dict[str, Any]) -> str:
    rows = [
        [row["text"], tables.format_fraction(row["cosine"]), "its own" if row["own"] else ""] for row in best["top"]
    ]
    head = [f"{best['image']}: best of {best['candidates']:,} captions after training", "cosine", ""]
    return tables.format_plain([head, *rows])
