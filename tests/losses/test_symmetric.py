"""The two-direction loss against loops and torch, and the defect of repeated captions (ln 5)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import margin_logits
from clip_fewshot.losses import match_captions, symmetric_cross_entropy, symmetric_floor


def slow_loss(logits: np.ndarray, ids: list[int]) -> float:
    def direction(rows: np.ndarray) -> float:
        total = 0.0
        for i, row in enumerate(rows):
            peak = max(row)
            log_z = peak + math.log(sum(math.exp(v - peak) for v in row))
            true = [j for j in range(len(ids)) if ids[j] == ids[i]]
            total -= sum((row[j] - log_z) / len(true) for j in true)
        return total / len(rows)

    return (direction(logits) + direction(logits.T)) / 2


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), ids=st.lists(st.integers(0, 4), min_size=1, max_size=9), scale=st.floats(1, 100))
def test_equals_the_slow_twin(seed: int, ids: list[int], scale: float) -> None:
    logits = np.random.default_rng(seed).uniform(-1, 1, size=(len(ids), len(ids))) * scale
    ours = symmetric_cross_entropy(torch.from_numpy(logits), torch.tensor(ids))
    assert ours.item() == pytest.approx(slow_loss(logits, ids), rel=1e-12, abs=1e-12)
    single = symmetric_cross_entropy(torch.from_numpy(logits).float(), torch.tensor(ids))
    assert single.item() == pytest.approx(slow_loss(logits, ids), rel=1e-5, abs=1e-5)


def test_without_ids_it_is_clips_loss() -> None:
    logits = torch.randn(7, 7, dtype=torch.float64) * 10
    pairs = torch.arange(7)
    clip = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    assert symmetric_cross_entropy(logits).item() == pytest.approx(clip.item(), rel=1e-12)
    assert symmetric_cross_entropy(logits, pairs + 40).item() == pytest.approx(clip.item(), rel=1e-12)


def test_targets_are_torchs_soft_targets_both_ways() -> None:
    logits, ids = torch.randn(6, 6, dtype=torch.float64) * 10, torch.tensor([3, 1, 3, 3, 1, 0])
    target = F.normalize(match_captions(ids).double(), p=1, dim=1)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert symmetric_cross_entropy(logits, ids).item() == pytest.approx(expected.item(), rel=1e-12)


def test_images_and_captions_play_the_same_part() -> None:
    logits, ids = torch.randn(6, 6, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 3, 3])
    assert torch.allclose(symmetric_cross_entropy(logits.T, ids), symmetric_cross_entropy(logits, ids), atol=1e-14)


COPIES = torch.arange(4).repeat_interleave(5)  # 4 captions, 5 of each
LN5 = math.log(5)


def train(loss: Callable[[Tensor], Tensor], captions: Tensor, owner: Tensor) -> tuple[list[float], Tensor]:
    """Free image features and caption features, as good a model as there can be; loss curve and final cosines."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 16, generator=generator).requires_grad_()
    captions = captions.clone().requires_grad_()
    optimizer = torch.optim.Adam([images, captions], lr=0.05)
    curve = []
    for _ in range(200):
        cosines = F.normalize(images, dim=1) @ F.normalize(captions, dim=1)[owner].T
        value = loss(30 * cosines)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        curve.append(value.item())
    return curve, cosines.detach()


def test_repeated_captions_hold_identity_targets_at_ln_5_and_ours_reach_their_floor() -> None:
    captions = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    original, _ = train(symmetric_cross_entropy, captions, COPIES)
    assert min(original) >= LN5 - 1e-5  # 1.609: the published curve stops at 1.618
    floor = symmetric_floor(COPIES)
    assert floor == pytest.approx(LN5, abs=1e-12)
    ours, cosines = train(lambda logits: symmetric_cross_entropy(logits, COPIES), captions, COPIES)
    assert 0 <= ours[-1] - floor + 1e-5 < 1e-3  # the excess, the number to watch, goes to 0
    same = match_captions(COPIES)
    assert cosines[same].min() > cosines[~same].max() + 0.2


def test_identity_targets_pull_true_pairs_apart_and_ours_do_not() -> None:
    """Captions of one class in other words, each with a feature of its own, at the point where all of a class agree."""
    agreed = 30 * match_captions(COPIES).double()
    slopes = []
    for ids in (None, COPIES):
        logits = agreed.clone().requires_grad_()
        (slope,) = torch.autograd.grad(symmetric_cross_entropy(logits, ids), logits)
        slopes.append(slope)
    identity, shared = slopes
    others = match_captions(COPIES) & ~torch.eye(20, dtype=torch.bool)
    assert (identity[others] > 0.005).all()  # descending pushes the other true pairs down
    assert shared.abs().max() < 1e-10


def test_tied_captions_give_both_targets_one_value() -> None:
    """Why ln 5 is no accident of identity targets: with equal columns the two losses are the same function."""
    images, captions = torch.randn(20, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)
    logits = images @ captions[COPIES].T
    assert torch.allclose(symmetric_cross_entropy(logits), symmetric_cross_entropy(logits, COPIES), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), ids=st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_the_floor_is_reached_and_never_passed(seed: int, ids: list[int]) -> None:
    captions = torch.tensor(ids)
    perfect = 1e3 * match_captions(captions).double()
    assert symmetric_cross_entropy(perfect, captions).item() == pytest.approx(symmetric_floor(captions), abs=1e-9)
    noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert symmetric_cross_entropy(perfect + noise, captions).item() >= symmetric_floor(captions) - 1e-9


def test_distinct_captions_have_no_floor() -> None:
    assert symmetric_floor(torch.tensor([4, 2, 9])) == 0


def test_a_margin_on_the_pairs_makes_training_harder_and_is_gone_at_zero() -> None:
    cosines = torch.rand(20, 20, dtype=torch.float64) * 1.8 - 0.9
    matched = match_captions(COPIES)
    plain = symmetric_cross_entropy(20 * cosines, COPIES)
    assert torch.allclose(symmetric_cross_entropy(margin_logits(cosines, matched, 0.0, 20.0), COPIES), plain)
    assert symmetric_cross_entropy(margin_logits(cosines, matched, 0.3, 20.0), COPIES) > plain


@pytest.mark.parametrize("logits", [torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 3, 3)])
def test_logits_that_are_not_square_are_refused(logits: Tensor) -> None:
    with pytest.raises(UsageError, match=r"logits \(n, n\)"):
        symmetric_cross_entropy(logits, torch.arange(3))
