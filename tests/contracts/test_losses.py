"""What every loss in LOSSES must do. Square logits and integer targets are valid input for all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.losses import LOSSES, get_loss

N = 8
pytestmark = pytest.mark.parametrize("name", LOSSES)


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    logits = torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits.to(dtype), torch.tensor([0, 1, 2, 2, 3, 3, 3, 7])


def test_gives_a_finite_scalar_in_full_precision(name: str) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        logits, targets = batch(dtype)
        for factor in (0.0, 1.0, 1e4):
            loss = get_loss(name)(logits * factor, targets)
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert loss >= 0
    assert get_loss(name)(*batch()).dtype == torch.float64


def test_derivative_is_right(name: str) -> None:
    logits, targets = batch()
    assert torch.autograd.gradcheck(lambda x: get_loss(name)(x, targets), logits.requires_grad_())


def test_a_constant_on_all_logits_changes_nothing(name: str) -> None:
    logits, targets = batch()
    assert torch.allclose(get_loss(name)(logits + 7, targets), get_loss(name)(logits, targets), atol=1e-12)


def test_the_order_of_samples_and_classes_changes_nothing(name: str) -> None:
    logits, targets = batch()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    moved = get_loss(name)(logits[order][:, order], order.argsort()[targets[order]])
    assert torch.allclose(moved, get_loss(name)(logits, targets), atol=1e-12)


def test_following_the_gradient_lowers_it(name: str) -> None:
    logits, targets = batch()
    logits.requires_grad_()
    loss = get_loss(name)(logits, targets)
    (slope,) = torch.autograd.grad(loss, logits)
    assert get_loss(name)(logits - slope, targets) < loss


def test_targets_of_another_length_are_refused(name: str) -> None:
    logits, targets = batch()
    with pytest.raises(UsageError, match="expected"):
        get_loss(name)(logits, targets[:3])


def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        get_loss("no-such-loss")
