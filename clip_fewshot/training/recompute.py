"""Gradient checkpointing: activations inside a block are computed again when its gradient is, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from clip_fewshot.backbones.tower import OneRow, Tower
from clip_fewshot.training.gradients import buffers_kept


@contextmanager
def recomputing(*towers: Tower) -> Iterator[None]:
    """While the block lasts, the towers' blocks keep their input alone, and run twice.

    Tianqi Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016: a second forward pass in exchange for the
    activations of all blocks but one. Features and gradients stay the same; dropout draws the same again, and batch
    normalisations count once.
    """
    wrapped = [
        (block, name)
        for tower in towers
        for block in tower.blocks
        for name in (("forward", "at") if isinstance(block, OneRow) else ("forward",))
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
        return nullcontext(), buffers_kept(block)

    return partial(checkpoint, run, use_reentrant=False, context_fn=contexts)
