"""A model in its own space: with texts, with a sigmoid, and with pictures alone; no other library is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clip_fewshot.backbones.encoder_tower import EncoderParts, Pool
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.foreign import ForeignBackbone
from clip_fewshot.data.image import Geometry
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.protocol.retrieval import rank_texts
from clip_fewshot.protocol.zero_shot_accuracy import rank_classes
from clip_fewshot.testing.backbones import check_backbone

SQUASHED = Geometry(16, squash=True, resample="bilinear")


def letters(text: str) -> list[int]:
    return [ord(letter) % 50 + 1 for letter in text]


def build(texts: bool = True, bias: float | None = None, geometry: Geometry = SQUASHED) -> ForeignBackbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Tanh())
        blocks = [convolution, nn.Conv2d(8, 12, 3, padding=1)]
        parts = EncoderParts(nn.Identity(), blocks, Pool(), projection=nn.Linear(12, 6))
        image = ImageEncoder(nn.ModuleList(blocks), geometry, (0.5, 0.5, 0.5), (0.2, 0.3, 0.4), parts)
        stem, layer = nn.Embedding(52, 6), nn.Linear(6, 6)
        rows = EncoderParts(stem, [layer], Pool("all", nn.LayerNorm(6)), projection=nn.Linear(6, 6))
        words = TextEncoder(nn.ModuleList([stem, layer]), letters, "mean", 60, 0, padded=True, parts=rows)
        return ForeignBackbone(
            image, words if texts else None, name="foreign", settings={"heads": 2}, scale=7.0, bias=bias
        )


@pytest.mark.parametrize("texts", [True, False])
def test_it_keeps_the_contract_of_backbones(texts: bool) -> None:
    check_backbone(build(texts))


def test_its_projections_are_its_own_and_its_widths_those_of_tokens_and_features() -> None:
    backbone = build()
    assert (backbone.visual.token_features, backbone.visual.out_features) == (12, 6)
    pixels = torch.randn(2, 3, 16, 16)
    pooled = backbone.visual.layers[1](backbone.visual.layers[0](pixels)).mean((2, 3))
    assert torch.allclose(backbone.encode_image(pixels), backbone.visual.projection(pooled), atol=1e-6)
    assert backbone.logit_scale.exp().item() == pytest.approx(7)


def test_padding_is_read_where_the_encoder_reads_it() -> None:
    backbone = build()
    tokens = backbone.tokenize(["a bee"])
    assert backbone.trim(tokens).shape == (1, 60)
    assert backbone.text.ends(tokens).tolist() == [59]


@pytest.mark.parametrize("change", [{"squash": False}, {"resample": "bicubic"}, {"resize": 18}, {"floor": True}])
def test_another_preparation_is_another_digest(change: dict[str, object]) -> None:
    assert build(geometry=SQUASHED._replace(**change)).digest != build().digest  # type: ignore[arg-type]


def test_settings_and_bias_are_in_the_digest() -> None:
    first, other = build(bias=-2.0), build(bias=-2.0)
    assert first.digest == other.digest != build().digest
    other._settings = {"heads": 3}
    assert first.digest != other.digest


def test_a_sigmoid_gives_each_text_a_probability_of_its_own() -> None:
    picture, texts = read_dataset("digits").subset(range(1)), ["a bee", "two bees", "a"]
    backbone = build(bias=-3.0)
    for row in rank_texts(backbone, picture, texts):
        assert row["match"] == pytest.approx(1 / (1 + np.exp(3 - 7 * row["cosine"])), rel=1e-4)
    (alone,) = rank_texts(backbone, picture, texts[:1])
    assert alone["probability"] is None
    assert 0 < alone["match"] < 1
    assert all(0 < row["match"] < 1 for row in rank_classes(backbone, picture, ["bee", "ant"], ["a {}"], 2)["top"])
    assert "match" not in rank_texts(build(), picture, texts)[0]
    assert "match" not in rank_classes(build(), picture, ["bee", "ant"], ["a {}"], 2)["top"][0]


@pytest.mark.parametrize("approach", ["zero-shot", "text-prior", "contrastive", "prolip"])
def test_approaches_that_need_texts_are_refused_with_the_reason(approach: str) -> None:
    digits = read_dataset("digits").subset(range(40))
    with pytest.raises(UsageError, match="which reads pictures alone"):
        FewShotClassifier(build(texts=False), approach).fit(digits)


@pytest.mark.parametrize("approach", ["auto", pytest.param("mlp", marks=pytest.mark.slow), "linear-probe"])
def test_the_others_learn_from_pictures_alone_and_a_group_becomes_a_class(approach: str, tmp_path: Path) -> None:
    backbone, digits = build(texts=False), read_dataset("digits")
    labels = digits.required_labels()
    rows = np.concatenate([np.flatnonzero(labels == label)[:8] for label in range(3)])
    space = replace(digits.label_space, names=digits.label_space.names[:3])
    known = replace(digits.subset(rows), label_space=space)
    model = FewShotClassifier(backbone, approach, epochs=1).fit(known)
    world = OpenWorldClassifier(model, alpha=0.05).fit(known)
    new = digits.subset(np.flatnonzero(labels == 5)[:4])
    world.add_class("five", new)
    world.save(tmp_path / "world")
    again = OpenWorldClassifier.load(tmp_path / "world", backbone)
    assert [one.label for one in again.predict(new)] == [one.label for one in world.predict(new)]


def test_detectors_that_read_texts_are_refused() -> None:
    digits = read_dataset("digits").subset(range(60))
    model = FewShotClassifier(build(texts=False), "linear-probe").fit(digits)
    with pytest.raises(UsageError, match="which reads pictures alone"):
        OpenWorldClassifier(model, detector="mcm").fit(digits)
