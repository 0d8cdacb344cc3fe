"""The library's own search without its shortcut: every "suffix" is the whole plain network, and reads pixels.

Batches, seeds, heads, losses and optimiser are then the same on both sides by construction, and the difference is what
is measured: the frozen layers, and the tokens of the last block that no step reads, computed in every step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Suffix, Tower
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.cross_validation import CrossValidation
from clip_fewshot.types import IndexArray
from experiments.benchmark.plain import by_name, original


class UncutTower(Tower):
    """The plain image tower in the place of a :class:`Tower`."""

    def __init__(self, tower: Tower, visual: nn.Module) -> None:
        super().__init__()
        self.out_features, self.token_features = tower.out_features, tower.token_features
        self.visual, self.depth = visual, tower.n_blocks
        self.trained = [tower.last_parameters(n) for n in range(tower.n_blocks + 1)]

    @property
    def n_blocks(self) -> int:
        """How many blocks the tower is said to have."""
        return self.depth

    def suffix(self, n: int) -> Suffix:
        """A copy of the whole network of which the last ``n`` layers train."""
        return UncutSuffix(copy.deepcopy(self.visual), self.trained[n])


class UncutSuffix(Suffix):
    """The whole network on pixels."""

    def __init__(self, visual: nn.Module, trained: list[str]) -> None:
        nn.Module.__init__(self)
        self.visual = visual.requires_grad_(False)
        for name, parameter in by_name(visual).items():
            parameter.requires_grad_(name in trained)

    def forward(self, state: CutState) -> Tensor:
        """(b, 3, h, w) pixels as the state's tokens -> (b, d)."""
        features: Tensor = self.visual(state.tokens)
        return features


@dataclass(frozen=True)
class Pixels(Prefix):
    """Pictures of which nothing is known but their pixels, (rows, 3, h, w)."""

    pixels: Tensor

    def outputs(self, n: int, suffix: nn.Module, items: Tensor, view: int | Tensor = 0) -> Tensor:
        """Features of the chosen pictures through the whole tower."""
        rows = self.order[items]
        features: Tensor = suffix(CutState(self.pixels[rows], torch.zeros(len(rows), dtype=torch.int64)))
        return features

    def subset(self, items: IndexArray) -> Pixels:
        """The chosen pictures."""
        return replace(self, order=self.order[torch.as_tensor(items)])


def uncut(bench: CrossValidation, pictures: ImageDataset) -> CrossValidation:
    """The same trainings the plain way. Decoded pixels, and the frozen features that heads start from, are given."""
    backbone = copy.deepcopy(bench.backbone)
    backbone.visual = UncutTower(bench.backbone.visual, original(bench.backbone).visual)
    pixels = torch.stack([backbone.preprocess(pictures.open(i)) for i in range(len(pictures))])
    given = bench.data.images
    images = Pixels(given.features, {}, given.views, given.order, pixels)
    return replace(bench, backbone=backbone, data=replace(bench.data, images=images))
