from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf
from torch import nn

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import ArcFaceHead, MLPHead, mlp_arcface


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True))


def test_equals_numpy() -> None:
    head = MLPHead(6, 3, hidden_features=8).double()
    state = {key: value.numpy() for key, value in head.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(5, 6)) * 9
    hidden = rms(x) @ state["hidden.weight"].T + state["hidden.bias"]
    hidden = rms(hidden * (1 + erf(hidden / math.sqrt(2))) / 2)
    expected = hidden @ state["classifier.linear.weight"].T + state["classifier.linear.bias"]
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)


def test_hands_the_labels_to_its_classifier() -> None:
    head = mlp_arcface(6, 3, hidden_features=8, margin=0.4, scale=20.0)
    assert isinstance(head.classifier, ArcFaceHead)
    assert (head.classifier.margin, head.classifier.scale, head.classifier.in_features) == (0.4, 20.0, 8)
    features, labels = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    moved = ~torch.isclose(head(features, labels), head(features))
    assert torch.equal(moved, F.one_hot(labels, 3).bool())
    assert torch.allclose(head.eval()(features, labels), head(features))


@pytest.mark.parametrize(("hidden", "expected"), [(None, 8), (8, 8)])
def test_takes_its_width_from_the_classifier(hidden: int | None, expected: int) -> None:
    assert MLPHead(6, 3, hidden, classifier=ArcFaceHead(8, 3)).hidden_features == expected


@pytest.mark.parametrize("classifier", [ArcFaceHead(9, 3), ArcFaceHead(8, 4)])
def test_a_classifier_of_other_sizes_is_refused(classifier: nn.Module) -> None:
    with pytest.raises(UsageError, match="a classifier 8 -> 3"):
        MLPHead(6, 3, hidden_features=8, classifier=classifier)


def trained_loss(between: nn.Module) -> float:
    """Lowest cross-entropy reached on eight separable classes with ``between`` head and loss."""
    torch.manual_seed(0)
    features, labels = torch.eye(8).repeat(4, 1), torch.arange(8).repeat(4)
    head = MLPHead(8, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = F.cross_entropy(between(head(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return min(losses)


def test_a_softmax_before_the_loss_would_stop_it_at_1_274() -> None:
    floor = math.log(1 + 7 / math.e)
    assert floor == pytest.approx(1.274, abs=1e-4)
    assert floor <= trained_loss(nn.Softmax(dim=1)) < floor + 0.05  # the original
    assert trained_loss(nn.Identity()) < 0.01  # ours
