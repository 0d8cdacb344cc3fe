"""Text towers whose matrices are stored in bfloat16 while they are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from clip_fewshot.errors import UsageError


@contextmanager
def lean_text(text: nn.Module, activations: torch.dtype) -> Iterator[None]:
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
        raise UsageError("bfloat16 activations for bfloat16 text weights", str(activations), fix, "text_weights")
    matrices = [
        parameter
        for name, parameter in text.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and "positional" not in name
    ]
    for parameter in matrices:
        parameter.data = parameter.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for parameter in matrices:
            parameter.grad = None  # of the other precision
            parameter.data = parameter.data.to(torch.float32)
