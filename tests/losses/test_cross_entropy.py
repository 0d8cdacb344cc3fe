from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.errors import UsageError
from clip_fewshot.losses import cross_entropy, cross_entropy_floor


def slow_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float, weights: np.ndarray) -> float:
    n, c = logits.shape
    total = 0.0
    for i in range(n):
        peak = max(logits[i])
        log_z = peak + math.log(sum(math.exp(v - peak) for v in logits[i]))
        for j in range(c):
            q = smoothing / c + (1 - smoothing if j == labels[i] else 0)
            total -= weights[labels[i]] * q * (logits[i, j] - log_z)
    return total / sum(weights[label] for label in labels)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 9), c=st.integers(1, 6), s=st.floats(0, 0.99), size=st.floats(0.1, 100)
)
def test_equals_the_slow_twin(seed: int, n: int, c: int, s: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels, weights = rng.normal(size=(n, c)) * size, rng.integers(0, c, n), rng.uniform(0.1, 5, c)
    ours = cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), label_smoothing=s, class_weights=torch.from_numpy(weights)
    )
    assert ours.item() == pytest.approx(slow_loss(logits, labels, s, weights), rel=1e-12, abs=1e-12)


def test_equals_torch_where_the_two_agree_on_the_definition() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    weights = torch.rand(5, dtype=torch.float64) + 0.1
    for smoothing in (0.0, 0.1):
        theirs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert cross_entropy(logits, labels, label_smoothing=smoothing).item() == pytest.approx(
            theirs.item(), rel=1e-12
        )
    theirs = F.cross_entropy(logits, labels, weight=weights)
    assert cross_entropy(logits, labels, class_weights=weights).item() == pytest.approx(theirs.item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("n_classes", [1, 2, 8])
def test_the_floor_is_reached_and_never_passed(n_classes: int, smoothing: float) -> None:
    labels = torch.arange(n_classes)
    target = F.one_hot(labels, n_classes) * (1 - smoothing) + smoothing / n_classes
    best = target.double().clamp_min(1e-300).log()
    weights = torch.rand(n_classes, dtype=torch.float64) + 0.1
    floor = cross_entropy_floor(n_classes, smoothing)
    for class_weights in (None, weights):
        options = {"label_smoothing": smoothing, "class_weights": class_weights}
        assert cross_entropy(best, labels, **options).item() == pytest.approx(floor, abs=1e-12)
        noisy = best.clamp_min(-50) + torch.randn(n_classes, n_classes, dtype=torch.float64)
        assert cross_entropy(noisy, labels, **options).item() >= floor - 1e-12


def test_rare_classes_can_be_made_to_count_alike() -> None:
    logits = torch.tensor([[2.0, 0.0]] * 9 + [[0.0, 0.0]])
    labels = torch.tensor([0] * 9 + [1])
    weights = 1 / torch.bincount(labels)
    per_class = [cross_entropy(logits[labels == k], labels[labels == k]) for k in (0, 1)]
    assert cross_entropy(logits, labels, class_weights=weights).item() == pytest.approx(sum(per_class).item() / 2)


@pytest.mark.parametrize("bad", [-100, -1, 3])
def test_no_label_is_silently_dropped(bad: int) -> None:
    with pytest.raises(UsageError, match=f"class indices in 0..2, got {bad}"):
        cross_entropy(torch.randn(2, 3), torch.tensor([0, bad]))
