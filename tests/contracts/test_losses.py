"""Every loss in LOSSES keeps the contract, and the promises that the library's own make beyond it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clip_fewshot.losses import LOSSES
from clip_fewshot.testing.losses import _CHECKS, batch

each = pytest.mark.parametrize("name", LOSSES)


@each
@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(LOSSES[name])


@each
def test_it_is_never_negative(name: str) -> None:
    logits, targets = batch(torch.float32)
    for factor in (0.0, 1.0, 1e4):
        assert LOSSES[name](logits * factor, targets) >= 0


@each
def test_a_constant_on_all_logits_changes_nothing(name: str) -> None:
    logits, targets = batch()
    assert torch.allclose(LOSSES[name](logits + 7, targets), LOSSES[name](logits, targets), atol=1e-12)
