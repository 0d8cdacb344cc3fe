"""The loss over any table of true captions, against its definition, its floor and the case with equal captions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.losses.matched import matched_cross_entropy, matched_floor
from clip_fewshot.losses.symmetric import match_captions, symmetric_cross_entropy


def slow_twin(logits: Tensor, matches: Tensor) -> float:
    """The definition, one entry at a time."""
    n, k = logits.shape
    total = 0.0
    for i in range(n):
        true = [j for j in range(k) if matches[i, j]]
        norm = math.log(sum(math.exp(float(logits[i, j])) for j in range(k)))
        total += sum(norm - float(logits[i, j]) for j in true) / len(true) / n
    for j in range(k):
        true = [i for i in range(n) if matches[i, j]]
        norm = math.log(sum(math.exp(float(logits[i, j])) for i in range(n)))
        total += sum(norm - float(logits[i, j]) for i in true) / len(true) / k
    return total / 2


@given(n=st.integers(1, 7), k=st.integers(1, 7), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_equals_the_slow_twin_and_stays_above_its_floor(n: int, k: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=draws, dtype=torch.float64) * 3
    matches = torch.rand(n, k, generator=draws) < 0.4
    matches[torch.arange(n), torch.arange(n) % k] = True
    matches[torch.arange(k) % n, torch.arange(k)] = True
    loss = float(matched_cross_entropy(logits, matches))
    assert loss == pytest.approx(slow_twin(logits, matches), rel=1e-9)
    assert loss >= matched_floor(matches) - 1e-9


def test_equal_captions_are_the_symmetric_loss() -> None:
    ids = torch.tensor([0, 1, 1, 2, 0, 1])
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = symmetric_cross_entropy(logits, ids)
    assert torch.allclose(matched_cross_entropy(logits, match_captions(ids)), expected, atol=1e-12)


def test_the_floor_is_reached_where_all_matches_win_alike() -> None:
    matches = match_captions(torch.arange(4).repeat_interleave(5))
    assert matched_floor(matches) == pytest.approx(math.log(5))
    assert float(matched_cross_entropy(matches * 100.0, matches)) == pytest.approx(math.log(5), abs=1e-6)


def test_refuses_what_has_no_truth() -> None:
    empty_row = torch.tensor([[True, True], [False, False]])
    for matches in (empty_row, empty_row.T, torch.eye(3, dtype=torch.bool)):
        with pytest.raises(UsageError, match="expected"):
            matched_cross_entropy(torch.zeros(2, 2), matches)
