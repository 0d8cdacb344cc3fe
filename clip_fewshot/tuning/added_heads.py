"""Layers of ours behind a pretrained tower, for a contrastive training of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.resnet import AttentionPool
from clip_fewshot.backbones.tower import CutState, Tail, TextTower, Tower
from clip_fewshot.backbones.transformer import TokenTail
from clip_fewshot.errors import UsageError


class HeadedTower(TextTower):
    """A tower, its parts taken over and not copied, and a linear map of its features that begins as the identity.

    Batch normalisations keep their pretrained statistics in any mode, as in a :class:`Suffix`: most of the layers that
    they feed are frozen.

    Args:
        base: any tower, also an image tower.
        head: (b, d) -> (b, d); None: the base's own features.
    """

    def __init__(self, base: Tower, head: nn.Linear | None) -> None:
        super().__init__()
        self.out_features, self.token_features, self.halves = base.out_features, base.token_features, base.halves
        self.base, self.head = base, head

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.base.blocks

    def embed(self, inputs: Tensor) -> CutState:
        """As the base."""
        return self.base.embed(inputs)

    def ends(self, tokens: Tensor) -> Tensor:
        return cast(TextTower, self.base).ends(tokens)

    def tail(self) -> Tail:
        return self.base.tail() if self.head is None else _HeadedTail(self.base.tail(), self.head)

    def train(self, mode: bool = True) -> HeadedTower:
        """As in torch, except that batch normalisations stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @torch.no_grad()
    def merged(self) -> Tower:
        """The base, its projection followed by the head: P becomes W P. Changes the base; the head is then spent."""
        if self.head is not None:
            _follow(self.base.tail(), self.head.weight)
        return self.base


class _HeadedTail(Tail):
    def __init__(self, tail: Tail, head: nn.Linear) -> None:
        super().__init__()
        self.inner, self.head = tail, head

    def forward(self, state: CutState) -> Tensor:
        features: Tensor = self.head(self.inner(state))
        return features

    def tokens(self, state: CutState) -> Tensor:
        return self.inner.tokens(state)


def with_head(tower: Tower, kind: Literal["none", "linear"]) -> HeadedTower:
    """``tower`` with a head of the kind behind it, on the tower's device.

    The linear head has no bias. One would shift all features of a modality, which CLIP's projections do not do either
    (a ViT's and the text tower's have none), and could not become part of them.
    """
    if kind == "none":
        return HeadedTower(tower, None)
    weight = next(tower.parameters())
    head = nn.Linear(tower.out_features, tower.out_features, bias=False).to(weight.device)
    nn.init.eye_(head.weight)
    return HeadedTower(tower, head)


def _follow(tail: Tail, weight: Tensor) -> None:
    """Multiply the projection of ``tail`` by ``weight`` (d, d), in float64 on the way."""
    if isinstance(tail, TokenTail):
        tail.projection.copy_(tail.projection.double() @ weight.double().T)
    elif isinstance(tail, AttentionPool):
        last = tail.c_proj
        last.weight.copy_(weight.double() @ last.weight.double())
        last.bias.copy_(weight.double() @ last.bias.double())
    else:
        fix = "train without a head"
        raise UsageError("a tower that ends in CLIP's projection", type(tail).__name__, fix, "--head linear")
