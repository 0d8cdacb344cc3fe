from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import ZeroShotHead, zero_shot_weights


class LetterCounts:
    """A text encoder one can check by hand: counts of a to z, one column each, times the length of the text."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype, self.batches = dtype, []

    def tokenize(self, texts: list[str]) -> Tensor:
        self.batches.append(len(texts))
        return torch.tensor([[t.lower().count(chr(97 + i)) * len(t) for i in range(26)] for t in texts])

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.to(self.dtype)


NAMES, TEMPLATES = ["bee", "ant", "water lily"], ["a photo of a {}", "zzzzzz {} zzzzzz", "{}"]


def slow_weights(names: list[str], templates: list[str]) -> Tensor:
    encoder, rows = LetterCounts(torch.float64), []
    for name in names:
        total = torch.zeros(26, dtype=torch.float64)
        for template in templates:
            feature = encoder.encode_text(encoder.tokenize([template.replace("{}", name)]))[0]
            total += feature / feature.norm() / len(templates)
        rows.append(total / total.norm())
    return torch.stack(rows)


def test_normalises_averages_and_normalises_again() -> None:
    weights = zero_shot_weights(LetterCounts(torch.float64), NAMES, TEMPLATES)
    assert torch.allclose(weights, slow_weights(NAMES, TEMPLATES), atol=1e-12)
    assert torch.allclose(weights.norm(dim=1), torch.ones(3, dtype=torch.float64))
    encoder = LetterCounts(torch.float64)
    plain = torch.stack([encoder.encode_text(encoder.tokenize([t.replace("{}", "bee") for t in TEMPLATES])).mean(0)])
    assert not torch.allclose(weights[:1], torch.nn.functional.normalize(plain), atol=1e-2)  # the first one matters


def test_many_prompts_go_in_batches() -> None:
    names = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    encoder = LetterCounts(torch.float64)
    assert torch.allclose(zero_shot_weights(encoder, names, TEMPLATES), slow_weights(names, TEMPLATES), atol=1e-12)
    assert sum(encoder.batches) == 300
    assert max(encoder.batches) <= 256


def test_half_precision_encoders_are_averaged_in_float32() -> None:
    weights = zero_shot_weights(LetterCounts(torch.float16), NAMES, TEMPLATES)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.double(), slow_weights(NAMES, TEMPLATES), atol=1e-3)


def test_braces_in_a_class_name_are_text() -> None:
    weights = zero_shot_weights(LetterCounts(), ["{0}", "{bee}"], ["a {}"])
    assert weights.shape == (2, 26)


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} {}"], ["a {}", "a photo of a {name}"]])
def test_templates_without_exactly_one_place_are_refused(templates: list[str]) -> None:
    with pytest.raises(UsageError, match="template"):
        zero_shot_weights(LetterCounts(), NAMES, templates)


def test_no_class_names_are_refused() -> None:
    with pytest.raises(UsageError, match="0 names"):
        zero_shot_weights(LetterCounts(), [], TEMPLATES)


@pytest.mark.parametrize("name", ["", " ", "_"])
def test_a_class_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the name of a class in a text"):
        zero_shot_weights(LetterCounts(), ["bee", name], TEMPLATES)
    assert zero_shot_weights(LetterCounts(), ["bee", "_a"], TEMPLATES).shape == (2, 26)


def test_the_head_is_scale_times_cosine_and_has_nothing_to_train() -> None:
    directions, features = torch.randn(3, 8) * 5, torch.randn(4, 8)
    head = ZeroShotHead(directions, scale=torch.tensor(2.5).exp())
    cosine = torch.nn.functional.cosine_similarity(features[:, None], directions[None], dim=-1)
    assert torch.allclose(head(features), torch.tensor(2.5).exp() * cosine, atol=1e-4)
    assert list(head.parameters()) == []
    assert set(head.state_dict()) == {"weight", "scale"}


def test_gradients_pass_through_to_the_features() -> None:
    weights = zero_shot_weights(LetterCounts(), NAMES, TEMPLATES)
    features = torch.randn(4, 26, requires_grad=True)
    ZeroShotHead(weights, 100.0)(features).sum().backward()
    assert features.grad.abs().sum() > 0
