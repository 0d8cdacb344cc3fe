from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import ArcFaceHead, LinearHead


def test_equals_numpy() -> None:
    head = LinearHead(6, 3).double()
    x = np.random.default_rng(0).normal(size=(5, 6)) * 9
    w, b = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True)) @ w.T + b
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)


def test_a_zero_row_gives_the_bias() -> None:
    head = LinearHead(6, 3)
    assert torch.allclose(head(torch.zeros(1, 6))[0], head.linear.bias)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_starts_as_the_scaled_cosine_of_prototypes(scale: float) -> None:
    prototypes, features = torch.randn(3, 6) * 4, torch.randn(5, 6) * 9
    cosine = F.cosine_similarity(features[:, None], prototypes[None], dim=-1)
    linear, arcface = LinearHead(6, 3), ArcFaceHead(6, 3, scale=scale)
    linear.init_from(prototypes, scale=scale)
    arcface.init_from(prototypes)
    assert torch.allclose(linear(features), scale * cosine, atol=1e-4)
    assert torch.allclose(arcface(features), scale * cosine, atol=1e-4)


def test_prototypes_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"prototypes \(3, 6\)"):
        LinearHead(6, 3).init_from(torch.randn(6, 3))
