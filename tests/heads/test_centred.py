from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import HEADS, ArcFaceHead, CentredHead, build_head


@pytest.mark.parametrize("name", HEADS)
def test_is_the_head_on_centred_unit_features(name: str) -> None:
    inner, mean = build_head(name, 6, 3), torch.randn(6) / 10
    head = CentredHead(inner, mean)
    features, labels = torch.randn(5, 6) * 4, torch.arange(5) % 3
    centred = F.normalize(features, dim=-1) - mean
    assert torch.allclose(head(features, labels), inner(centred, labels), atol=1e-5)
    assert (head.in_features, head.n_classes, head.takes_tokens) == (6, 3, inner.takes_tokens)


def test_tokens_are_centred_one_by_one() -> None:
    head = CentredHead(build_head("attention", 6, 3), torch.randn(6) / 10)
    assert head(torch.randn(5, 4, 6)).shape == (5, 3)


def test_the_mean_is_saved_and_does_not_train() -> None:
    head = CentredHead(ArcFaceHead(6, 3), torch.randn(6))
    other = CentredHead(ArcFaceHead(6, 3), torch.zeros(6))
    other.load_state_dict(head.state_dict())
    features = torch.randn(5, 6)
    assert torch.equal(other(features), head(features))
    assert [key for key, _ in head.named_parameters()] == ["head.weight"]


def test_takes_a_common_offset_off() -> None:
    """Classes that differ by a small part of a long common vector: a cosine classifier needs the centring."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    features = 20 + torch.randn(3, 16)[labels] + 0.3 * torch.randn(60, 16)
    mean = F.normalize(features, dim=-1).mean(0)

    def trained_loss(head: nn.Module) -> float:
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
        for _ in range(50):
            loss = F.cross_entropy(head(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert trained_loss(CentredHead(ArcFaceHead(16, 3), mean)) < 0.01 < 0.3 < trained_loss(ArcFaceHead(16, 3))


def test_in_training_it_follows_where_it_is_told_to() -> None:
    inner, features = ArcFaceHead(6, 3), torch.randn(5, 6) + 9
    head, unit = CentredHead(inner, torch.zeros(6), follows=True), F.normalize(features, dim=-1)
    assert torch.allclose(head.train()(features), inner(unit - unit.mean(0)), atol=1e-5)
    moved = features + 3  # what all have in common tells nothing of a class
    shifted = F.normalize(moved, dim=-1)
    assert torch.allclose(head(moved), inner(shifted - shifted.mean(0)), atol=1e-5)
    assert torch.allclose(head.eval()(features), inner(unit), atol=1e-5)  # an answer does not depend on its batch
    head.recentre(features)
    assert torch.allclose(head(features[:2]), inner((unit - unit.mean(0))[:2]), atol=1e-5)


def test_a_mean_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a mean \(6,\)"):
        CentredHead(ArcFaceHead(6, 3), torch.zeros(5))
