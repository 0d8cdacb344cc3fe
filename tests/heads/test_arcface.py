"""ArcFaceHead against a float64 twin, at the ends of its range, and against the leak it must not have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from clip_fewshot.heads import ArcFaceHead


def slow_logits(features: Tensor, weight: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Deng et al. 2019, eq. 3, one logit at a time, through the angle."""
    rows = []
    for x, y in zip(features.tolist(), labels.tolist(), strict=True):
        row = []
        for j, w in enumerate(weight.tolist()):
            dot = math.fsum(a * b for a, b in zip(x, w, strict=True))
            cosine = dot / math.sqrt(math.fsum(a * a for a in x)) / math.sqrt(math.fsum(b * b for b in w))
            theta = math.acos(max(-1.0, min(1.0, cosine)))
            if j != y:
                row.append(scale * math.cos(theta))
            elif theta <= math.pi - margin:
                row.append(scale * math.cos(theta + margin))
            else:
                row.append(scale * (math.cos(theta) - margin * math.sin(margin)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 30.0), (0.2, 16.0), (0.0, 1.0), (1.2, 64.0)])
def test_equals_the_slow_twin(margin: float, scale: float) -> None:
    torch.manual_seed(0)
    head = ArcFaceHead(9, 5, margin, scale).double()
    features, labels = torch.randn(40, 9, dtype=torch.float64) * 7, torch.arange(40) % 5
    features[:5], features[5:10] = head.weight * 2 + 0.01, -head.weight - 0.01  # near 0 and near pi
    exact = slow_logits(features, head.weight, labels, margin, scale)
    assert (head(features, labels) - exact).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.0])
def test_equals_the_formula_at_every_angle(margin: float) -> None:
    """theta is given here, not recovered from a cosine: the feature lies at that angle from its class weight."""
    seam = math.pi - margin
    ends = [0.0, seam - 1e-6, seam + 1e-6, math.pi]
    theta = torch.tensor(
        [a for a in ends if a <= math.pi] + np.linspace(0.001, 3.14, 600).tolist(), dtype=torch.float64
    )
    theta = theta[(theta - seam).abs() > 1e-9]
    head = ArcFaceHead(2, 2, margin, 30.0).double()
    head.init_from(torch.eye(2))
    features = 5 * torch.stack([theta.cos(), theta.sin()], dim=1)
    logits = head(features, torch.zeros(len(theta), dtype=torch.int64))
    expected = torch.where(theta <= seam, (theta + margin).cos(), theta.cos() - margin * math.sin(margin))
    assert (logits[:, 0] - 30 * expected).abs().max() < 1e-10
    assert (logits[:, 1] - 30 * theta.sin()).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradient_is_bounded_at_a_feature_equal_to_its_class_weight(dtype: torch.dtype, sign: int) -> None:
    torch.manual_seed(0)
    head = ArcFaceHead(512, 10).to(dtype)
    features = (sign * head.weight.detach()).requires_grad_()
    head(features, torch.arange(10)).sum().backward()
    # |d logit / d feature| <= scale / |feature| for each of the 10 logits of a row, whatever the angle
    assert (features.grad.norm(dim=1) * features.detach().norm(dim=1) <= 10 * head.scale * 1.01).all()
    assert head.weight.grad.isfinite().all()


def test_a_zero_margin_is_a_scaled_cosine_classifier() -> None:
    torch.manual_seed(0)
    head, features = ArcFaceHead(16, 4, margin=0.0), torch.randn(12, 16)
    assert torch.allclose(head(features, torch.arange(12) % 4), head(features))


def test_the_margin_is_on_the_true_logit_only() -> None:
    torch.manual_seed(0)
    head, features, labels = ArcFaceHead(16, 4), torch.randn(12, 16), torch.arange(12) % 4
    moved = ~torch.isclose(head(features, labels), head(features))
    assert torch.equal(moved, torch.nn.functional.one_hot(labels, 4).bool())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computes_in_float32_under_autocast_and_in_half(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, labels = ArcFaceHead(64, 4), torch.arange(12) % 4
    features = torch.randn(12, 64).to(dtype)
    plain = head(features.float(), labels)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.allclose(head(features.float(), labels), plain, atol=1e-5)  # in half it would be 1e-2 off
    weights_too = ArcFaceHead(64, 4).to(dtype)
    weights_too.load_state_dict(head.state_dict())
    assert weights_too(features, labels).dtype == torch.float32
    assert torch.allclose(weights_too(features, labels), plain, atol=0.2)  # only the weights were rounded


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), length=st.floats(1e-3, 1e3), margin=st.floats(0, 1.5))
def test_rotation_and_length_change_nothing(seed: int, length: float, margin: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = ArcFaceHead(6, 3, margin).double()
    head.init_from(torch.randn(3, 6, generator=generator))
    features = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(5) % 3
    before = head(features, labels)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    with torch.no_grad():
        head.weight.copy_(head.weight @ rotation)
    assert torch.allclose(head(features @ rotation * length, labels), before, atol=1e-8)


def test_the_label_does_not_leak_into_what_is_fed_onward() -> None:
    """Pure noise, so chance is 1/4. The original fed label-dependent logits onward, in validation too."""
    torch.manual_seed(0)
    n, c = 800, 4
    features, labels = torch.randn(n, 64), torch.arange(n) % c
    head = ArcFaceHead(64, c)
    train, test = slice(0, n // 2), slice(n // 2, n)

    def onward_accuracy(logits: Tensor) -> float:
        logits = logits.detach().numpy()
        probe = LogisticRegression(max_iter=1000).fit(logits[train], labels[train])
        return float(probe.score(logits[test], labels[test]))

    assert onward_accuracy(head(features, labels)) > 0.9  # the defect: training logits know the label
    clean = onward_accuracy(head.eval()(features, labels))
    assert abs(clean - 1 / c) < 5 * math.sqrt(0.25 * 0.75 / (n / 2))  # ours, even when handed the labels


def test_the_scale_bound_in_the_docstring() -> None:
    """CosFace eq. 6 with the numbers quoted, against the best geometry there is: a simplex."""

    def bound(c: int, p: float) -> float:
        return (c - 1) / c * math.log((c - 1) * p / (1 - p))

    assert bound(1000, 0.9999) == pytest.approx(16.1, abs=0.1)
    scale, c = bound(10, 0.997), 10
    simplex = torch.eye(c, dtype=torch.float64) - 1 / c
    head = ArcFaceHead(c, c, scale=scale).double().eval()
    head.init_from(simplex)
    assert scale == pytest.approx(7.2, abs=0.05)
    assert head(simplex).softmax(1).diagonal().mean().item() == pytest.approx(0.997, abs=1e-9)
