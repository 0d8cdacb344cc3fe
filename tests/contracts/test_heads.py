"""What every head in HEADS must do, whatever it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import HEADS, build_head
from clip_fewshot.runtime.rng import torch_seeded

N, C, D, L = 11, 7, 24, 5  # different from each other, so that an axis of length 7 is the class axis
pytestmark = pytest.mark.parametrize("name", HEADS)


def make(name: str) -> nn.Module:
    with torch_seeded(0, name):
        return build_head(name, D, C)


def batch(head: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (N, L, D) if head.takes_tokens else (N, D)
    features = torch.randn(shape, generator=generator) * 3 + 1
    return features.to(dtype), torch.arange(N) % C


def test_gives_logits_of_the_right_shape_and_dtype(name: str) -> None:
    head = make(name)
    assert (head.in_features, head.n_classes) == (D, C)
    for dtype in (torch.float32, torch.float64):
        features, labels = batch(head, dtype)
        for logits in (head.to(dtype)(features), head(features, labels), head.eval()(features)):
            assert logits.shape == (N, C)
            assert logits.dtype == dtype
        head.train()


def test_takes_plain_features(name: str) -> None:
    assert make(name)(torch.randn(N, D)).shape == (N, C)


def test_gives_logits_not_probabilities(name: str) -> None:
    head = make(name)
    logits = head(batch(head)[0])
    assert (logits < 0).any()
    assert ((logits.sum(1) - 1).abs() > 1e-3).any()
    assert (logits.logsumexp(1).abs() > 1e-3).any()  # nor their logarithms


def test_labels_change_nothing_outside_training(name: str) -> None:
    head = make(name)
    features, labels = batch(head)
    free = head(features)
    head.eval()
    assert torch.allclose(head(features, labels), free, atol=1e-5)
    assert torch.allclose(head(features, (labels + 1) % C), free, atol=1e-5)


def test_gradient_reaches_every_parameter_and_the_features(name: str) -> None:
    head = make(name)
    features, labels = batch(head)
    features.requires_grad_()
    nn.functional.cross_entropy(head(features, labels), labels).backward()
    tensors = {"features": features, **dict(head.named_parameters())}
    silent = [key for key, tensor in tensors.items() if tensor.grad is None or not (tensor.grad.abs() > 1e-6).any()]
    assert not silent
    assert all(tensor.grad.isfinite().all() for tensor in tensors.values())


@torch.no_grad()
def test_renaming_the_classes_renames_the_logits(name: str) -> None:
    head = make(name)
    features, labels = batch(head)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(2))
    before = head(features, labels)
    state = {k: v[order] if v.ndim and len(v) == C else v for k, v in head.state_dict().items()}
    head.load_state_dict(state)
    after = head(features, order.argsort()[labels])
    assert torch.allclose(after, before[:, order], atol=1e-5)


@torch.no_grad()
def test_rows_do_not_see_each_other(name: str) -> None:
    head = make(name)
    features, labels = batch(head)
    whole = head(features, labels)
    apart = torch.cat([head(features[i : i + 3], labels[i : i + 3]) for i in range(0, N, 3)])
    assert torch.allclose(whole, apart, atol=1e-5)


@torch.no_grad()
def test_the_length_of_a_feature_plays_no_part(name: str) -> None:
    head = make(name)
    features, _ = batch(head)
    assert torch.allclose(head(features * 50), head(features), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_features_of_any_size_give_finite_logits(name: str, dtype: torch.dtype) -> None:
    head = make(name)
    features, labels = batch(head)
    for factor in (1e-3, 1.0, 5e3):  # the largest entry of float16 is 65504
        given = (features * factor).to(dtype)
        logits = head(given, labels)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, head(given.float(), labels), atol=1e-5)
        with torch.autocast("cpu", dtype=dtype):
            assert head(given, labels).isfinite().all()


@torch.no_grad()
def test_a_saved_state_gives_the_same_bits(name: str) -> None:
    head, other = make(name), build_head(name, D, C)
    other.load_state_dict(head.state_dict())
    features, _ = batch(head)
    assert torch.equal(other(features), head(features))


def test_a_seeded_block_fixes_the_start(name: str) -> None:
    first, second = make(name).state_dict(), make(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_features_of_another_width_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"expected features \(n, {D}\), got \(3, 5\)"):
        make(name)(torch.zeros(3, 5))


def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        build_head("no-such-head", D, C)
