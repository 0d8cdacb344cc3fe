"""The trainings of S1: as they were written, and as this package does them, on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.contrastive.finetuning import FineTuning, count_parameters, make_tunable
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import identity_objective
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.replayed import count_replayed_blocks, replay_pictures
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.runtime.rng import seed_torch

if TYPE_CHECKING:
    import torch

BATCH, FULL_EPOCHS, HEAD_EPOCHS = 16, 3, 20
FULL_RATE, WRITTEN_RATE = 5e-5, 1e-3  # S1's
SGD_RATE, HEAD_RATE, LAYER_RATE = 0.1, 3e-3, 1e-4  # ours
WRITTEN = FineTuning(unfreeze=0, head="linear", head_lr=WRITTEN_RATE)
SGD_HEADS, HEADS = (replace(WRITTEN, head_lr=rate) for rate in (SGD_RATE, HEAD_RATE))
LAYERS = FineTuning(unfreeze=1, head="linear", backbone_lr=LAYER_RATE, head_lr=HEAD_RATE)


@dataclass(frozen=True)
class Trained:
    """A tuned model.

    Attributes:
        model: not merged.
        blocks: last blocks of the image tower that stored states leave to be run; None: it must see pixels.
        parameters: trained numbers.
        loss: mean over the last epoch.
        frozen: of the weights that had a gradient, the share that ends where it began; None: nothing was rounded.
        broken: the step, from 1, that made a weight infinite or no number; None: none did.
    """

    model: Backbone
    blocks: int | None
    parameters: int
    loss: float
    frozen: float | None = None
    broken: int | None = None


def everything(pretrained: Backbone) -> Backbone:
    """A copy in which all parameters train; batch normalisations keep their statistics."""
    return make_tunable(pretrained, FineTuning(unfreeze="all"))


def full(pretrained: Backbone, support: ImageDataset, seed: int) -> Trained:
    """All weights in float32, by AdamW at S1's rate."""
    tuned = everything(pretrained)
    options = ContrastiveOptions(epochs=FULL_EPOCHS, learning_rate=FULL_RATE, clip_norm=1.0, seed=seed)
    return Trained(tuned, None, count_parameters(tuned)[0], descend(tuned, pairs(support, tuned, seed), options))


def half_adam(pretrained: Backbone, support: ImageDataset, seed: int) -> Trained:
    """All weights, their gradients and Adam's memory in float16, as CLIP's own loader leaves them on a GPU.

    Activations stay in float32 here, which is kinder, and lets it run on any machine.
    """
    import torch

    tuned = everything(pretrained)
    live = list(tuned.parameters())
    stored = [p.detach().half().requires_grad_() for p in live]
    optimizer = torch.optim.Adam(stored, lr=FULL_RATE, foreach=False)

    def step() -> None:
        for half, parameter in zip(stored, live, strict=True):
            half.grad = None if parameter.grad is None else parameter.grad.half()
        optimizer.step()
        fill(live, stored)

    return in_half(tuned, support, seed, step)


def rounded_adam(pretrained: Backbone, support: ImageDataset, seed: int) -> Trained:
    """All weights rounded to float16 after each step of an Adam in float32: the usual way around the above."""
    import torch

    tuned = everything(pretrained)
    live = list(tuned.parameters())
    optimizer = torch.optim.Adam(live, lr=FULL_RATE, foreach=False)

    def step() -> None:
        optimizer.step()
        fill(live, [p.detach().half() for p in live])

    return in_half(tuned, support, seed, step)


def fill(live: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    """Copy ``values`` into the parameters."""
    import torch

    with torch.no_grad():
        for parameter, value in zip(live, values, strict=True):
            parameter.copy_(value)


def in_half(tuned: Backbone, support: ImageDataset, seed: int, step: Callable[[], None]) -> Trained:
    """Run ``step`` on the gradients of all batches, until a weight breaks, and count those that did not move."""
    import torch

    fill(list(tuned.parameters()), [p.detach().half() for p in tuned.parameters()])
    start = [p.detach().clone() for p in tuned.parameters()]
    reached = [torch.zeros_like(p, dtype=torch.bool) for p in start]
    batches = pairs(support, tuned, seed)
    losses: list[float] = []
    tuned.train()
    for batch in (batch for epoch in range(FULL_EPOCHS) for batch in batches.batches(epoch)):
        losses.append(float(contrastive_gradients(tuned, batch, identity_objective)))
        for seen, parameter in zip(reached, tuned.parameters(), strict=True):
            seen |= torch.zeros_like(seen) if parameter.grad is None else parameter.grad != 0
        step()
        if not all(bool(torch.isfinite(p).all()) for p in tuned.parameters()):
            return Trained(tuned.eval(), None, count_parameters(tuned)[0], losses[-1], None, len(losses))
    states = zip(tuned.parameters(), start, reached, strict=True)
    still = sum(int(((p == before) & seen).sum()) for p, before, seen in states) / sum(
        int(seen.sum()) for seen in reached
    )
    return Trained(tuned.eval(), None, count_parameters(tuned)[0], fmean(losses[-batches.steps() :]), still)


def random_start(pretrained: Backbone, support: ImageDataset, seed: int, clip_norm: float | None) -> Trained:
    """A linear layer per frozen tower, drawn as torch draws it, by SGD; equal classes are wrong answers."""
    with seed_torch(seed, "linear as written"):
        tuned = make_tunable(pretrained, WRITTEN)
        for tower in (tuned.visual, tuned.text):
            tower.head.reset_parameters()  # type: ignore[operator, union-attr]
    chosen = {"optimizer": "sgd", "weight_decay": 0.0, "identity_targets": True, "clip_norm": clip_norm}
    options = WRITTEN.options(epochs=HEAD_EPOCHS, seed=seed, **chosen)
    return on_states(pretrained, tuned, WRITTEN, [options], support, seed)


def planned(plan: FineTuning, optimizer: str = "adamw") -> Callable[..., Trained]:
    """Ours: a head that begins at the zero-shot model, new captions in each epoch, targets shared by class."""

    def train(pretrained: Backbone, support: ImageDataset, seed: int) -> Trained:
        tuned = make_tunable(pretrained, plan)
        decay = 0.0 if optimizer == "sgd" else 0.2
        options = plan.options(epochs=HEAD_EPOCHS, optimizer=optimizer, weight_decay=decay, clip_norm=1.0, seed=seed)
        return on_states(pretrained, tuned, plan, [options], support, seed)

    return train


def head_first(pretrained: Backbone, support: ImageDataset, seed: int) -> Trained:
    """Half of the epochs with all layers frozen, then half with the last one unfrozen at its own rate."""
    tuned = make_tunable(pretrained, LAYERS)
    half = {"epochs": HEAD_EPOCHS // 2, "clip_norm": 1.0, "seed": seed}
    frozen = ContrastiveOptions(learning_rate=HEAD_RATE, **half)  # type: ignore[arg-type]
    return on_states(pretrained, tuned, LAYERS, [frozen, LAYERS.options(**half)], support, seed)


def on_states(
    pretrained: Backbone,
    tuned: Backbone,
    plan: FineTuning,
    stages: list[ContrastiveOptions],
    support: ImageDataset,
    seed: int,
) -> Trained:
    """Train on what the frozen layers leave behind; with several stages, the heads alone until the last one."""
    n = count_replayed_blocks(plan, pretrained.visual)
    stream = pairs(support, tuned, seed, numbered=n is not None)
    count, trained = count_parameters(tuned)[0], [p for p in tuned.parameters() if p.requires_grad]
    with replay_pictures(tuned, pretrained, stream.pictures, n):
        for stage in stages:
            for name, parameter in tuned.named_parameters():
                mine = any(parameter is p for p in trained)
                parameter.requires_grad_(mine and (stage is stages[-1] or ".head." in name))
            loss = descend(tuned, stream, stage)
    return Trained(tuned, n, count, loss)


def pairs(support: ImageDataset, model: Backbone, seed: int, numbered: bool = False) -> CaptionedStream:
    """Batches of labelled pictures with captions drawn again."""
    batch = min(BATCH, len(support))
    return CaptionedStream(support, model, batch=batch, seed=seed, numbered=numbered)


def descend(model: Backbone, source: CaptionedStream, options: ContrastiveOptions) -> float:
    """Train in place -> mean loss of the last epoch."""
    losses: list[float] = []
    train_contrastive(model, source, options, on_step=lambda report: losses.append(report.loss))
    return fmean(losses[-source.steps() :])
