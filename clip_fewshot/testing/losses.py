"""The contract of a loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clip_fewshot.testing.contract import ContractError, demand, run_checks

LossFunction = Callable[[Tensor, Tensor], Tensor]
_N = 8


def check_loss(loss: LossFunction) -> None:
    """Check a loss: ``loss(logits (n, c), targets (n,)) -> scalar``.

    Raises:
        ContractError: names what does not hold.
    """
    run_checks(_CHECKS, loss)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Square logits, so that a loss between two towers can take them too, and (n,) classes."""
    logits = torch.randn(_N, _N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits.to(dtype), torch.tensor([0, 1, 2, 2, 3, 3, 3, 7])


def gives_a_finite_scalar(loss: LossFunction) -> None:
    """In full precision, whatever the size and the precision of the logits."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits, targets = batch(dtype)
        for factor in (0.0, 1.0, 1e4):
            value = loss(logits * factor, targets)
            demand(value.shape == (), f"the loss has the shape {tuple(value.shape)} and is no scalar")
            demand(value.isfinite(), f"the loss of logits times {factor:g} in {dtype} is not finite")
            demand(value.dtype == torch.float32, f"the loss of logits in {dtype} is in {value.dtype}, not in float32")


def its_gradient_is_right(loss: LossFunction) -> None:
    """By finite differences, in float64."""
    logits, targets = batch()
    logits.requires_grad_()
    demand(loss(logits, targets).requires_grad, "no gradient reaches the logits")
    right = torch.autograd.gradcheck(lambda x: loss(x, targets), logits, raise_exception=False)
    demand(right, "the gradient is not the derivative of the value")


def following_the_gradient_lowers_it(loss: LossFunction) -> None:
    """The sign: less is better."""
    logits, targets = batch()
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, targets), logits)
    demand(loss(logits - slope, targets) < loss(logits, targets), "a step against the gradient does not lower it")


def the_order_changes_nothing(loss: LossFunction) -> None:
    """Of samples and classes, moved together."""
    logits, targets = batch()
    order = torch.randperm(_N, generator=torch.Generator().manual_seed(1))
    moved = loss(logits[order][:, order], order.argsort()[targets[order]])
    demand(torch.allclose(moved, loss(logits, targets), atol=1e-12), "the loss depends on the order of the samples")


def targets_of_another_length_are_refused(loss: LossFunction) -> None:
    """An error of any kind; what is broadcast in silence trains something else."""
    logits, targets = batch()
    try:
        loss(logits, targets[:3])
    except Exception:  # torch's own will do
        return
    raise ContractError("three targets for eight rows of logits are taken")


_CHECKS = (
    gives_a_finite_scalar,
    its_gradient_is_right,
    following_the_gradient_lowers_it,
    the_order_changes_nothing,
    targets_of_another_length_are_refused,
)
