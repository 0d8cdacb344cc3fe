"""The same random weights in OpenAI's model code and in ours give the same features."""

from __future__ import annotations

import pytest
import torch

from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig, infer_config
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from tests.backbones.conftest import SMALL, openai_model, pixels, shaken

TEXTS = ["a photo of a cat", "", "a very long sentence about " + "dogs " * 60]
TOLERANCE = 1e-5


def largest_differences(ours: Backbone) -> tuple[float, float]:
    """Over image features and over text features, as cosines see them: all features are scaled to unit mean norm."""
    theirs = openai_model(ours.config)
    theirs.load_state_dict(ours.state_dict())
    images, tokens = pixels(ours.config), ours.tokenize(TEXTS)
    with torch.no_grad():
        image = ours.encode_image(images) - theirs.encode_image(images)
        text = ours.encode_text(tokens) - theirs.encode_text(tokens)
    return float(image.abs().max()), float(text.abs().max())


def test_small_models_give_openais_features(small: Backbone) -> None:
    image, text = largest_differences(small)
    assert image <= TOLERANCE
    assert text <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_full_models_give_openais_features(name: str) -> None:
    image, text = largest_differences(shaken(build_backbone(ARCHITECTURES[name])))
    print(f"{name}: largest difference {image:.2e} on image features, {text:.2e} on text features")
    assert image <= TOLERANCE
    assert text <= TOLERANCE


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_official_names_have_openais_shapes(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = Backbone(ARCHITECTURES[name]), openai_model(ARCHITECTURES[name])
    shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert infer_config(ours.state_dict(), name, {}) == ARCHITECTURES[name]


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_initial_deviations_are_openais(config: CLIPConfig) -> None:
    ours, theirs = build_backbone(config, seed=1).state_dict(), openai_model(config).state_dict()
    for key, tensor in ours.items():
        if tensor.numel() > 1000:  # enough to estimate a deviation to a few percent
            assert float(tensor.std()) == pytest.approx(float(theirs[key].std()), rel=0.15), key
        else:
            assert (float(tensor.float().abs().sum()) == 0) == (float(theirs[key].float().abs().sum()) == 0), key


def test_the_seed_decides_the_weights_and_nothing_else_changes() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (build_backbone(SMALL["vit"], seed=seed).digest for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(before, torch.random.get_rng_state())
