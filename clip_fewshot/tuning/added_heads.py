"""Layers of ours behind a pretrained tower, for a contrastive training of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import PooledTail, mask_up_to
from clip_fewshot.backbones.resnet import AttentionPool
from clip_fewshot.backbones.tower import CutState, Suffix, Tail, TextTower, Tower, advance
from clip_fewshot.backbones.transformer import TokenTail
from clip_fewshot.errors import UsageError


class HeadedTower(TextTower):
    """A tower, its parts taken over and not copied, and a map of its features that begins as the identity.

    Batch normalisations keep their pretrained statistics in any mode, as in a :class:`Suffix`: most of the layers that
    they feed are frozen.

    Args:
        base: any tower, also an image tower.
        head: (b, d) -> (b, d); None: the base's own features.
    """

    def __init__(self, base: Tower, head: nn.Module | None) -> None:
        super().__init__()
        self.out_features, self.token_features, self.halves = base.out_features, base.token_features, base.halves
        self.base, self.head = base, head

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Those of the base."""
        return self.base.blocks

    def embed(self, inputs: Tensor) -> CutState:
        """As the base."""
        return self.base.embed(inputs)

    def ends(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b,) index of the end of each text."""
        return cast(TextTower, self.base).ends(tokens)

    def tail(self) -> Tail:
        """The tail of the base, and the head behind it."""
        return self.base.tail() if self.head is None else _HeadedTail(self.base.tail(), self.head)

    def train(self, mode: bool = True) -> HeadedTower:
        """Switch to training; batch normalisations stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    @torch.no_grad()
    def merge(self) -> Tower:
        """The base, its projection followed by the head: P becomes W P. Changes the base; the head is then spent.

        Raises:
            UsageError: a head that is not linear, or a tower that ends in no linear projection.
        """
        if isinstance(self.head, nn.Linear):
            _follow(self.base.tail(), self.head.weight)
        elif self.head is not None:
            expected = "a linear head"
            raise UsageError(expected=expected, got=type(self.head).__name__, fix="keep it as it is", where="merged")
        return self.base


class _HeadedTail(Tail):
    def __init__(self, tail: Tail, head: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = tail, head

    def forward(self, state: CutState) -> Tensor:
        features: Tensor = self.head(self.inner(state))
        return features

    def tokens(self, state: CutState) -> Tensor:
        return self.inner.tokens(state)


class AttentiveTower(HeadedTower):
    """A tower whose features are the base's plus what a head reads off all its tokens.

    In place of the base's pooling the head would begin as noise and forget what pretraining found; beside it, with
    zeros in its last layer, training begins at the zero-shot model.

    Args:
        base: any tower; of a text tower the tokens behind the end of a text are hidden from the head.
        head: called with tokens (b, l, token_features) and ``visible`` (b, l) bool or None -> (b, out_features).

    Attributes:
        foundation: digest of the plain backbone.
    """

    foundation: str = ""

    def tail(self) -> Tail:
        """The tail of the base with the attention head in place of its pooling."""
        return _AttentiveTail(self.base.tail(), cast(nn.Module, self.head), isinstance(self.base, TextTower))

    def reads_one_row(self, n: int) -> bool:
        """Never: the head reads them all."""
        return False

    def _view(self, n: int) -> Suffix:
        view = super()._view(n)
        return _AllRows(list(view.blocks), view.tail)


class _AttentiveTail(_HeadedTail):
    def __init__(self, tail: Tail, head: nn.Module, texts: bool) -> None:
        super().__init__(tail, head)
        self.texts = texts

    def forward(self, state: CutState) -> Tensor:
        tokens = self.inner.tokens(state)
        features: Tensor = self.inner(state)
        read: Tensor = self.head(tokens, visible=mask_up_to(state.position, tokens.shape[1]) if self.texts else None)
        return features + read


class _AllRows(Suffix):
    """A suffix whose last block computes all rows of its output."""

    def forward(self, state: CutState) -> Tensor:
        features: Tensor = self.tail(advance(self.blocks, state))
        return features


def add_linear_head(tower: Tower) -> HeadedTower:
    """``tower`` with a linear head behind it, on the tower's device.

    It has no bias. One would shift all features of a modality, which CLIP's projections do not do either (a ViT's and
    the text tower's have none), and could not become part of them.

    Raises:
        UsageError: a tower whose projection cannot take it in at the end.
    """
    check_mergeable(tower.tail())
    weight = next(tower.parameters())
    head = nn.Linear(tower.out_features, tower.out_features, bias=False).to(weight.device)
    nn.init.eye_(head.weight)
    return HeadedTower(tower, head)


def _follow(tail: Tail, weight: Tensor) -> None:
    """Multiply the projection of ``tail`` by ``weight`` (d, d), in float64 on the way."""
    check_mergeable(tail)
    if isinstance(tail, TokenTail):
        tail.projection.copy_(tail.projection.double() @ weight.double().T)
        return
    last = tail.c_proj if isinstance(tail, AttentionPool) else cast(nn.Linear, cast(PooledTail, tail).projection)
    last.weight.copy_(weight.double() @ last.weight.double())
    if last.bias is not None:
        last.bias.copy_(weight.double() @ last.bias.double())


def check_mergeable(tail: Tail) -> None:
    """Refuse a linear head behind a tail without a projection that could take it in.

    Raises:
        UsageError: such a tail.
    """
    pooled = isinstance(tail, PooledTail) and isinstance(tail.projection, nn.Linear)
    if not (isinstance(tail, TokenTail | AttentionPool) or pooled):
        fix = "train without one (`head` none)"
        got = type(tail).__name__
        raise UsageError(expected="a tower that ends in a linear projection", got=got, fix=fix, where="`head`")
