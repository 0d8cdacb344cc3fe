"""The four approaches of S2 as they were written: what they train on, and what they ask of a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, log
from statistics import fmean

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.few_shot.approach import BACKBONE_LR, HEAD_LR, Point
from clip_fewshot.few_shot.trainer import SupportData, balanced_batches
from clip_fewshot.geometry import margin_logits
from clip_fewshot.losses.matched import matched_floor
from clip_fewshot.protocol.refits import Task
from clip_fewshot.runtime.rng import generator, seed_torch
from clip_fewshot.tuning.last_layers import copy_last_layers
from clip_fewshot.types import FloatArray, IndexArray

HIDDEN, MARGIN, SCALE = 256, 0.5, 30.0
C = 1.0  # the upper edge of the range that was searched, and the winner of that search


@dataclass(frozen=True)
class Trained:
    """A model of one approach.

    Attributes:
        suffix: the image tower's trained layers.
        classify: ((n, d) features, (n,) labels or None) -> (n,) classes.
        loss: mean over the last epoch.
        floor: mean of the least that this loss can be on those batches, known to its author or not.
    """

    suffix: nn.Module
    classify: Callable[[Tensor, Tensor | None], Tensor]
    loss: float
    floor: float


class WrittenHead(nn.Module):
    """Two layers and a softmax, before a cross-entropy that takes its own.

    With the margin the two layers stand behind the margin's logits, and those are made with the label wherever there is
    one, in validation as in training: the true class is the one that was pushed down, whatever the picture shows.
    """

    def __init__(self, width: int, n_classes: int, margin: bool) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(n_classes, width)) if margin else None
        first = nn.Linear(n_classes if margin else width, HIDDEN)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.Linear(HIDDEN, n_classes), nn.Softmax(dim=1))

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """(n, d) features, (n,) labels or None -> (n, c) probabilities."""
        if self.directions is not None:
            cosines = F.normalize(features, dim=1) @ F.normalize(self.directions, dim=1).T
            matched = torch.zeros_like(cosines, dtype=torch.bool)
            if labels is not None:
                matched[torch.arange(len(labels)), labels] = True
            features = margin_logits(cosines, matched, MARGIN, SCALE)
        probabilities: Tensor = self.layers(features)
        return probabilities

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, of probabilities taken for logits."""
        return F.cross_entropy(self(features, labels), labels)


class WrittenPairs(nn.Module):
    """CLIP's loss on a caption per picture, in which captions of the picture's own class are as wrong as any other."""

    def __init__(self, task: Task, data: SupportData, unfreeze: int, margin: float) -> None:
        super().__init__()
        self.depth = min(unfreeze, task.backbone.text.n_blocks)
        self.text = copy_last_layers(task.backbone.text, self.depth)
        self.log_scale = nn.Parameter(task.backbone.logit_scale.detach().float().clone())
        self.captions, self.margin = data.captions, margin
        self.draw = generator(task.seed, "captions as written")

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Symmetric cross-entropy, the margin on the diagonal."""
        size = self.captions.size
        rows = labels.cpu() * size + torch.from_numpy(self.draw.integers(size, size=len(labels)))
        texts = self.captions.prefix.outputs(self.depth, self.text, rows).float()
        cosines = F.normalize(features, dim=1) @ F.normalize(texts, dim=1).T
        own = torch.arange(len(cosines), device=cosines.device)
        logits = margin_logits(cosines, own[:, None] == own, self.margin, self.log_scale.exp())
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def written(task: Task, data: SupportData, point: Point) -> Trained:
    """One approach: last layers and objective by Adam, for as many steps as ours and on the same batches."""
    model, pairs = task.backbone, point.approach.startswith("contrastive")
    margin = MARGIN if point.approach.endswith("arcface") else 0.0
    suffix = copy_last_layers(model.visual, point.unfreeze).train()
    with seed_torch(task.seed, "as written"):
        head = WrittenHead(model.visual.out_features, data.n_classes, margin > 0)
    objective = WrittenPairs(task, data, point.unfreeze, margin) if pairs else head
    last = descend(task, data, point, suffix, objective.to(model.device).train())
    suffix.eval()
    if not pairs:
        return Trained(suffix, lambda x, y: head(x, y).argmax(dim=1), last, softmax_floor(data.n_classes))
    probe = LogisticRegression(C=C, max_iter=1000).fit(*of_support(suffix, data, point))
    floor = pairs_floor(task, data)
    return Trained(suffix, lambda x, _: torch.from_numpy(probe.predict(x.cpu().numpy())), last, floor)


def descend(
    task: Task,
    data: SupportData,
    point: Point,
    suffix: nn.Module,
    objective: WrittenHead | WrittenPairs,
) -> float:
    """Train both in place; the mean loss of the last epoch."""
    labels = torch.as_tensor(data.labels, device=task.backbone.device)
    rate = point.rate(BACKBONE_LR) if isinstance(objective, WrittenPairs) else point.rate(HEAD_LR)
    parts = [(suffix, point.rate(BACKBONE_LR)), (objective, rate)]
    optimizer = torch.optim.Adam([{"params": list(part.parameters()), "lr": rate} for part, rate in parts])
    losses = []
    for items in batches(task, data):
        loss = objective.loss(data.images.outputs(point.unfreeze, suffix, items).float(), labels[items])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return fmean(losses[-last_epoch(task, data) :])


def batches(task: Task, data: SupportData) -> list[Tensor]:
    """The rows of each step, of ours too."""
    n, settings = len(data.labels), task.settings
    dealt = balanced_batches(data.labels, 1, settings.batch_size(n), settings.steps(n), task.seed)
    return [items for items, _ in dealt]


def last_epoch(task: Task, data: SupportData) -> int:
    """How many of the steps that is."""
    return max(1, task.settings.steps(len(data.labels)) // task.settings.epochs)


def softmax_floor(n_classes: int) -> float:
    """The cross-entropy of a softmax of the best that another softmax can say, 1 and zeros: 1.274 nats of 8 classes."""
    return -log(e / (e + n_classes - 1))


def pairs_floor(task: Task, data: SupportData) -> float:
    """The least of a contrastive loss whose captions tell no more than the class, over the last epoch."""
    labels = [torch.from_numpy(data.labels[items.numpy()]) for items in batches(task, data)[-last_epoch(task, data) :]]
    return fmean(matched_floor(own[:, None] == own) for own in labels)


@torch.no_grad()
def of_support(suffix: nn.Module, data: SupportData, point: Point) -> tuple[FloatArray, IndexArray]:
    """((n, d) features, (n,) labels) that a probe is fitted on."""
    rows = torch.arange(len(data.labels))
    return data.images.outputs(point.unfreeze, suffix, rows).float().cpu().numpy(), data.labels
