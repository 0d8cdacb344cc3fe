"""Gradient checkpointing: activations inside a block are computed again when its gradient is, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from clip_fewshot.backbones.tower import OneRow, Tower
from clip_fewshot.contrastive.gradients import preserve_buffers
from clip_fewshot.errors import DivergedError, UsageError


@contextmanager
def recompute_blocks(*towers: Tower) -> Iterator[None]:
    """While the block lasts, the towers' blocks keep their input alone, and run twice.

    Tianqi Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016: a second forward pass in exchange for the
    activations of all blocks but one. Features and gradients stay the same; dropout draws the same again, and batch
    normalisations count once.
    """
    wrapped = [
        (block, name)
        for tower in towers
        for block in tower.blocks
        for name in (("forward", "forward_row") if isinstance(block, OneRow) else ("forward",))
    ]
    for block, name in wrapped:
        setattr(block, name, _twice(block, getattr(block, name)))
    try:
        yield
    finally:
        for block, name in wrapped:
            delattr(block, name)  # the method of the class is seen again


def _twice(block: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), preserve_buffers(block)

    return partial(checkpoint, run, use_reentrant=False, context_fn=contexts)


@contextmanager
def shrink_text_weights(text: nn.Module, activations: torch.dtype) -> Iterator[None]:
    """Store the trained matrices of layers and embeddings in bfloat16 while the block lasts, float32 again after it.

    Norms, biases and the bare position table stay float32: they are a hundredth of the weights, and a float32 summand
    keeps the residual stream float32.

    Args:
        activations: precision of forward passes; bfloat16, or products would have factors of two kinds.

    Raises:
        UsageError: other activations.
    """
    if activations != torch.bfloat16:
        fix = "load the model with dtype=torch.bfloat16, or keep float32 weights"
        expected = "bfloat16 activations for bfloat16 text weights"
        raise UsageError(expected=expected, got=str(activations), fix=fix, where="text_weights")
    matrices = list_matrices(text)
    for parameter in matrices:
        parameter.data = parameter.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for parameter in matrices:
            parameter.grad = None  # of the other precision
            parameter.data = parameter.data.to(torch.float32)


def list_matrices(text: nn.Module) -> list[nn.Parameter]:
    """The trained matrices of layers and embeddings."""
    return [
        parameter
        for name, parameter in text.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and "positional" not in name
    ]


GROWTH_INTERVAL = 2000  # steps without overflow before the factor is doubled


@dataclass
class LossScale:
    """The factor on gradients that keeps small ones above float16's least number.

    Paulius Micikevicius et al., "Mixed Precision Training", 2018, section 3.2: halved at each overflow, whose step is
    left out, and doubled after many steps without one.

    Attributes:
        factor: a power of two; 1 where nothing is scaled.
        calm: steps since the last change.
        dynamic: whether the factor moves.
    """

    factor: float = 1.0
    calm: int = 0
    dynamic: bool = False

    @classmethod
    def for_float16(cls) -> LossScale:
        """For float16."""
        return cls(2.0**16, 0, True)

    def take(self, finite: bool) -> bool:
        """Learn whether a step's gradient was finite; whether to take the step.

        Raises:
            DivergedError: it was not, and the factor is not to blame.
        """
        if finite:
            self.calm += 1
            if self.dynamic and self.calm == GROWTH_INTERVAL:
                self.factor, self.calm = 2 * self.factor, 0
            return True
        if not self.dynamic or self.factor <= 1:
            got = "one that is not"
            raise DivergedError(expected="a finite gradient", got=got, fix="lower the learning rate", where="training")
        self.factor, self.calm = self.factor / 2, 0
        return False
