"""Optimal transport against float64 loops and linear programming; targets that point at the matching pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.losses import (
    SoftTargets,
    distillation_floor,
    distillation_loss,
    sinkhorn,
    symmetric_cross_entropy,
    symmetric_floor,
    transport_targets,
)

IDS = torch.tensor([0, 1, 1, 2, 3, 3, 3, 7])


def cosines(n: int, m: int, seed: int = 0) -> Tensor:
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def slow_plan(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """Cuturi's recurrence on the numbers themselves, in float64, until nothing moves."""
    kernel = np.exp((similarities - similarities.max()) / temperature)
    n, m = kernel.shape
    u, v = np.ones(n), np.ones(m)
    for _ in range(100_000):
        u = 1 / (n * (kernel @ v))
        new = 1 / (m * (kernel.T @ u))
        if np.abs(new / v - 1).max() < 1e-14:
            break
        v = new
    return u[:, None] * kernel * v


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 7), m=st.integers(1, 7), temperature=st.floats(0.2, 2))
def test_the_plan_is_that_of_the_slow_twin(seed: int, n: int, m: int, temperature: float) -> None:
    """In the warm: at 0.1 a few rows can be so near two matchings that a round takes away 1e-6 of the error."""
    similarities = cosines(n, m, seed)
    expected = slow_plan(similarities.numpy(), temperature)
    exact = sinkhorn(similarities, temperature, tolerance=1e-13, rounds=100_000)
    np.testing.assert_allclose(exact.numpy(), expected, rtol=1e-10, atol=1e-14)
    usual = sinkhorn(similarities.float(), temperature)
    assert usual.dtype == torch.float32
    # Wherever it stops it has scaled rows and columns alone; how near that is to the end depends on the similarities.
    scaled = usual.double().log() - similarities / temperature
    torch.testing.assert_close(scaled, scaled.mean(0) + scaled.mean(1, keepdim=True) - scaled.mean(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(usual.sum(1).numpy(), 1 / n, rtol=1e-5)
    np.testing.assert_allclose(usual.sum(0).numpy(), 1 / m, rtol=2e-4)


def test_the_plan_is_the_best_there_is() -> None:
    """<P, S> + t * entropy is larger than that of any other plan with the same marginals near it."""
    similarities, t = cosines(4, 5), 0.2

    def worth(plan: Tensor) -> float:
        return float((plan * similarities).sum() - t * torch.xlogy(plan, plan).sum())

    plan = sinkhorn(similarities, t, tolerance=1e-12, rounds=10_000)
    for i, k in ((0, 1), (2, 3)):
        for j, m in ((0, 4), (1, 2)):
            for size in (1e-4, -1e-4):
                moved = plan.clone()
                moved[i, j] += size
                moved[k, m] += size
                moved[i, m] -= size
                moved[k, j] -= size
                assert worth(moved) < worth(plan)


def test_cold_transport_is_the_linear_programme() -> None:
    similarities = cosines(4, 6, seed=2)
    marginals = [np.kron(np.eye(4), np.ones(6)), np.kron(np.ones(4), np.eye(6))]
    sums = np.r_[np.full(4, 1 / 4), np.full(6, 1 / 6)]
    best = linprog(-similarities.numpy().ravel(), A_eq=np.vstack(marginals), b_eq=sums)
    plan = sinkhorn(similarities, 2e-3, tolerance=1e-9, rounds=20_000)
    np.testing.assert_allclose(plan.numpy().ravel(), best.x, atol=1e-4)
    square = cosines(9, 9, seed=3)
    matching = linear_sum_assignment(square.numpy(), maximize=True)[1]
    assert np.array_equal(sinkhorn(square, 0.01, rounds=10_000).argmax(1).numpy(), matching)


def test_cold_transport_is_finite_in_single_precision() -> None:
    wide = 3 * cosines(64, 64).float()
    for temperature in (0.15, 0.05, 0.001):
        plan = sinkhorn(wide, temperature)
        assert bool(plan.isfinite().all())
        torch.testing.assert_close(plan.sum(1), torch.full((64,), 1 / 64), rtol=1e-3, atol=0)
        if temperature >= 0.05:  # what the docstring promises
            torch.testing.assert_close(plan.sum(0), torch.full((64,), 1 / 64), rtol=2e-4, atol=0)
    recurrence = torch.exp(wide / 0.01)  # the originals' way leaves the range
    assert not bool((recurrence / recurrence.sum()).isfinite().all())


def a_good_teacher(n: int = 12, noise: float = 0.35) -> tuple[Tensor, Tensor]:
    """Features in which each caption is nearest to its own picture, with a gap between the modalities."""
    generator = torch.Generator().manual_seed(5)
    texts = F.normalize(torch.randn(n, 32, generator=generator), dim=1)
    images = F.normalize(texts + noise * F.normalize(torch.randn(n, 32, generator=generator), dim=1), dim=1)
    gap = F.normalize(torch.randn(32, generator=generator), dim=0)
    return images + gap, texts - gap


@pytest.mark.parametrize("within", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 0.15])
def test_the_largest_target_is_the_matching_pair(within: float, temperature: float) -> None:
    images, texts = a_good_teacher()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    own = torch.arange(12)
    targets = transport_targets(7 * images[order], texts[order], temperature, within)
    for target in targets:
        assert torch.equal(target.argmax(1), own)
        torch.testing.assert_close(target.sum(1), torch.ones(12))


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_with_the_sign_of_the_original_the_matching_pair_would_be_the_last(within: float) -> None:
    """Defect 7: transport of the costs as if they were similarities."""
    images, texts = (F.normalize(x, dim=1) for x in a_good_teacher())
    similarities = images @ texts.T + within * (images @ images.T + texts @ texts.T)
    wrong = sinkhorn(-similarities, 0.05)
    assert torch.equal(wrong.argmin(1), torch.arange(12))
    assert (12 * wrong.diagonal() < 1e-3).all()
    assert (12 * sinkhorn(similarities, 0.05).diagonal() > 0.5).all()


def test_equal_captions_share_their_mass() -> None:
    images, texts = a_good_teacher(8)
    texts = texts[[0, 1, 1, 3, 4, 4, 4, 7]]
    targets = transport_targets(images, texts, caption_ids=IDS)
    same = IDS[:, None] == IDS
    for target in (targets.per_image, targets.per_text.T):  # columns are captions
        for column in range(8):
            torch.testing.assert_close(target[:, same[column]].std(1, correction=0), torch.zeros(8), atol=1e-6, rtol=0)
    assert bool((same.gather(1, targets.per_image.argmax(1, keepdim=True))).all())
    torch.testing.assert_close(targets.per_text.sum(1), torch.ones(8))
    apart = transport_targets(images, texts)
    assert (apart.per_image[1, 1] - apart.per_image[1, 2]).abs() > 0.1  # without ids the pictures tell them apart


def test_the_loss_is_the_mixture_both_ways() -> None:
    logits = 5 * cosines(8, 8, seed=4)
    images, texts = a_good_teacher(8)
    targets = transport_targets(images.double(), texts.double(), caption_ids=IDS)
    row, column = (-(t * z.log_softmax(1)).sum(1).mean() for t, z in zip(targets, (logits, logits.T), strict=True))
    for alpha in (0.0, 0.3, 1.0):
        expected = (1 - alpha) * symmetric_cross_entropy(logits, IDS) + alpha * (row + column) / 2
        ours = distillation_loss(logits, targets, alpha, IDS)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
        assert ours.item() >= distillation_floor(targets, alpha, IDS)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, targets, 0.3, IDS), logits)


def test_the_floor_is_reached_and_without_a_teacher_it_is_that_of_the_captions() -> None:
    plan = sinkhorn(cosines(8, 8, seed=6) + cosines(8, 8, seed=6).T, 0.5, tolerance=1e-13, rounds=10_000)
    targets = SoftTargets(8 * plan, 8 * plan.T)
    assert distillation_floor(targets, 0.0, IDS) == pytest.approx(symmetric_floor(IDS), abs=1e-12)
    mixed = 0.6 * torch.eye(8, dtype=torch.float64) + 0.4 * 8 * plan
    best = distillation_loss(mixed.log(), targets, 0.4)
    assert best.item() == pytest.approx(distillation_floor(targets, 0.4), abs=1e-9)
    assert 0 < distillation_floor(targets, 0.4) < math.log(8)


def test_half_precision_logits_give_a_finite_loss_in_single() -> None:
    images, texts = a_good_teacher()
    targets = transport_targets(images.half(), texts.half())
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        loss = distillation_loss((100 * cosines(12, 12)).to(dtype), targets)
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())


def test_wrong_input_is_refused() -> None:
    images, texts = a_good_teacher()
    targets = transport_targets(images, texts)
    for call in (
        lambda: sinkhorn(torch.zeros(0, 3)),
        lambda: sinkhorn(torch.zeros(2, 3), 0.0),
        lambda: transport_targets(images, texts[:3]),
        lambda: distillation_loss(torch.zeros(3, 3), targets),
        lambda: distillation_loss(torch.zeros(12, 12), targets, 1.5),
    ):
        with pytest.raises(UsageError, match="expected"):
            call()
