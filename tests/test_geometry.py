"""Unit rows, and the angular margin against a 50-digit oracle, over all angles and at its seam."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import angular_margin, margin_logits, unit_rows

MARGINS = (0.0, 1e-3, 0.2, 0.5, 1.0, math.pi / 2)


def oracle(cosine: float, margin: float) -> float:
    with mpmath.workdps(50):
        theta, m = mpmath.acos(mpmath.mpf(cosine)), mpmath.mpf(margin)
        inside = theta <= mpmath.pi - m
        return float(mpmath.cos(theta + m) if inside else mpmath.cos(theta) - m * mpmath.sin(m))


def angles_for(margin: float) -> list[float]:
    seam = math.pi - margin
    special = [0.0, 1e-9, 1e-6, 1e-3, math.pi / 2, seam - 1e-6, seam + 1e-6, math.pi - 1e-6, math.pi]
    return [a for a in special if 0 <= a <= math.pi] + [i * math.pi / 500 for i in range(501)]


@pytest.mark.parametrize("margin", MARGINS)
def test_equals_the_oracle_at_every_angle(margin: float) -> None:
    cosines = [math.cos(a) for a in angles_for(margin)]
    cosines = [c for c in cosines if abs(c + math.cos(margin)) > 1e-15]  # at the seam itself either side is right
    ours = angular_margin(torch.tensor(cosines, dtype=torch.float64), margin)
    exact = torch.tensor([oracle(c, margin) for c in cosines], dtype=torch.float64)
    assert (ours - exact).abs().max() < 1e-14


@pytest.mark.parametrize("margin", MARGINS)
def test_falls_strictly_with_the_angle(margin: float) -> None:
    values = angular_margin(torch.linspace(0, math.pi, 20_001, dtype=torch.float64).cos(), margin)
    assert (values.diff() < 0).all()


def test_the_step_at_the_seam_is_the_documented_one() -> None:
    seam = torch.tensor([math.pi - 0.5 - 1e-9, math.pi - 0.5 + 1e-9], dtype=torch.float64)
    before, after = angular_margin(seam.cos(), 0.5).tolist()
    assert before == pytest.approx(-1, abs=1e-8)
    assert before - after == pytest.approx(math.cos(0.5) + 0.5 * math.sin(0.5) - 1, abs=1e-8)
    assert before - after == pytest.approx(0.117, abs=1e-3)


def test_no_margin_changes_no_bit() -> None:
    cosines = torch.cat([torch.linspace(-1, 1, 1001), torch.tensor([1.0000001, -1.0000001])])
    assert torch.equal(angular_margin(cosines, 0.0), cosines)


def test_derivative_is_right_inside_and_finite_at_the_ends() -> None:
    inside = torch.linspace(-0.99, 0.99, 37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: angular_margin(c, 0.5), inside)
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([1.0, -1.0, 1 + 1e-6, -1 - 1e-6], dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(angular_margin(ends, 0.5).sum(), ends)
        assert slope.isfinite().all()
        assert (slope > 0).all()


@pytest.mark.parametrize("margin", [-0.1, 28.6, math.nan])
def test_a_margin_in_degrees_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="radians"):
        angular_margin(torch.zeros(1), margin)


def logits_and_mask() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 6, generator=generator) * 2 - 1, torch.eye(6, dtype=torch.bool)


def test_only_matched_entries_carry_the_margin() -> None:
    cosines, matched = logits_and_mask()
    logits = margin_logits(cosines, matched, 0.3, 10.0)
    assert torch.allclose(logits[~matched], 10 * cosines[~matched])
    assert (logits[matched] < 10 * cosines[matched]).all()
    assert torch.allclose(logits[matched], 10 * angular_margin(cosines[matched], 0.3))


def test_a_learned_scale_keeps_its_gradient() -> None:
    cosines, matched = logits_and_mask()
    scale = torch.tensor(5.0, requires_grad=True)
    (slope,) = torch.autograd.grad(margin_logits(cosines, matched, 0.0, scale).sum(), scale)
    assert slope == pytest.approx(float(cosines.sum()), abs=1e-5)


def test_a_mask_of_another_shape_is_refused() -> None:
    cosines, matched = logits_and_mask()
    with pytest.raises(UsageError, match="matched"):
        margin_logits(cosines, matched[:3], 0.3, 10.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_have_length_one_and_zeros_stay(dtype: type[np.floating]) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
    rows[1, 2] = 0
    unit = unit_rows(rows)
    assert unit.dtype == dtype
    lengths = np.ones((3, 4))
    lengths[1, 2] = 0
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), lengths, atol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(rows, axis=-1, keepdims=True), rows, atol=1e-6)
    tiny = np.full((1, 2), 1e-13, dtype)
    np.testing.assert_allclose(unit_rows(tiny), [[math.sqrt(0.5)] * 2], atol=1e-6)
