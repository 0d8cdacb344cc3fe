"""Every head in HEADS keeps the contract, and the promises that the library's own make beyond it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import HEADS, build_head
from clip_fewshot.testing.heads import _C, _CHECKS, _D, batch, build

each = pytest.mark.parametrize("name", HEADS)


@each
@pytest.mark.parametrize("check", _CHECKS, ids=lambda check: check.__name__)
def test_contract(name: str, check: Callable[..., None]) -> None:
    check(HEADS[name])


@each
@torch.no_grad()
def test_the_length_of_a_feature_plays_no_part(name: str) -> None:
    head = build(HEADS[name], {})
    features, _ = batch(head)
    assert torch.allclose(head(features * 50), head(features), atol=1e-4)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_features_of_any_size_give_finite_logits(name: str, dtype: torch.dtype) -> None:
    head = build(HEADS[name], {})
    features, labels = batch(head)
    for factor in (1e-3, 1.0, 5e3):  # the largest entry of float16 is 65504
        given = (features * factor).to(dtype)
        logits = head(given, labels)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, head(given.float(), labels))
        with torch.autocast("cpu", dtype=dtype):
            assert head(given, labels).isfinite().all()


@each
def test_features_of_another_width_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"expected features \(n, {_D}\), got \(3, 5\)"):
        build(HEADS[name], {})(torch.zeros(3, 5))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"(?s)linear.*got 'no-such-head'"):
        build_head("no-such-head", _D, _C)
