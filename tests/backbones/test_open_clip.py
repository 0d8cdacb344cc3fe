"""open_clip's models: converted only where the features agree; the real package where it can be imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.objects import convert
from clip_fewshot.data.image import CLIP_MEAN, CLIP_STD
from clip_fewshot.errors import ArtifactError, ResourceError, UsageError
from tests.backbones.conftest import SMALL, openai_model, pixels


def lookalike(backbone: Backbone) -> nn.Module:
    """OpenAI's model with the attributes that open_clip adds; the two share the rest of their layout."""
    model = openai_model(backbone.config)
    model.load_state_dict(backbone.state_dict())
    visual = model.get_submodule("visual")
    visual.image_mean, visual.image_std, visual.image_size = CLIP_MEAN, CLIP_STD, (64, 64)
    if hasattr(visual, "attnpool"):
        visual.attnpool.num_heads = backbone.config.vision_heads
    return model


@torch.no_grad()
def test_a_model_of_openais_layout_is_converted(small: Backbone) -> None:
    model = lookalike(small).double()
    converted = convert(model, "look")
    assert converted.config == small.config
    assert converted.digest == small.digest
    assert {p.dtype for p in model.parameters()} == {torch.float64}, "the given model was changed"


@torch.no_grad()
def test_plain_gelu_is_recognised() -> None:
    model = lookalike(build_backbone(SMALL["vit"]))
    for module in model.modules():
        if hasattr(module, "gelu"):
            module.gelu = nn.GELU()
    converted = convert(model, "look")
    assert converted.config.activation == "gelu"
    images = pixels(SMALL["vit"])
    torch.testing.assert_close(converted.encode_image(images), model.encode_image(images), rtol=0, atol=1e-5)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_variants_that_we_do_not_build_are_refused() -> None:
    model = lookalike(build_backbone(SMALL["vit"]))
    model.get_submodule("visual").ln_pre = nn.Sequential(model.get_submodule("visual.ln_pre"))
    with pytest.raises(ArtifactError, match="2 missing"):
        convert(model, "look")
    model = lookalike(build_backbone(SMALL["vit"]))
    model.get_submodule("visual.transformer.resblocks.0.mlp").gelu = Doubled()
    with pytest.raises(ArtifactError, match="features that differ"):
        convert(model, "look")
    model = lookalike(build_backbone(SMALL["vit"]))
    model.get_submodule("visual").image_mean = (0.5, 0.5, 0.5)
    with pytest.raises(ArtifactError, match=r"pictures prepared by .*mean.*0\.5"):
        convert(model, "look")
    with pytest.raises(ArtifactError, match="the weights of a CLIP model, got none"):
        convert(nn.Linear(2, 2), "look")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ResourceError, match="pip install open-clip-torch"):
        load_backbone("open_clip:ViT-B-32", device="cpu")


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def test_a_torchvision_that_does_not_fit_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "open_clip.py").write_text(BROKEN)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ResourceError, match="nms does not exist"):
        load_backbone("open_clip:ViT-B-32", device="cpu")


@pytest.mark.slow
@torch.no_grad()
def test_the_real_package() -> None:
    """Skipped where open_clip cannot be imported; it needs a torchvision that fits to the torch at hand."""
    try:
        import open_clip
    except Exception as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
    for name in ("ViT-B-32-quickgelu", "ViT-S-32-alt", "RN50-quickgelu"):
        model = open_clip.create_model(name).eval()
        loaded = load_backbone(model, device="cpu")
        images, tokens = pixels(loaded.config), loaded.tokenize(["a bee", "two bees"])
        image = (loaded.encode_image(images) - model.encode_image(images)).abs().max()
        text = (loaded.encode_text(tokens) - model.encode_text(tokens)).abs().max()
        print(f"{name}: largest difference {image:.2e} on image features, {text:.2e} on text features")
        assert max(image, text) <= 1e-5
    with pytest.raises(UsageError, match="list_pretrained"):
        load_backbone("open_clip:ViT-B-33", device="cpu")
    with pytest.raises(ArtifactError, match="the weights of a CLIP model"):
        load_backbone("open_clip:ViT-B-16-SigLIP", device="cpu")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("own_text_tower", [False, True])
@pytest.mark.parametrize("heads", [(2, 1), (8, 2)])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_real_package_and_its_checkpoints(
    activation: str, heads: tuple[int, int], own_text_tower: bool, tmp_path: Path
) -> None:
    try:
        from open_clip import model as theirs
    except Exception as error:
        pytest.skip(f"open_clip cannot be imported: {error}")
    vision = {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16, "head_width": 128 // heads[0]}
    text = {"context_length": 77, "vocab_size": 49_408, "width": 64, "heads": heads[1], "layers": 2}
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text, "quick_gelu": activation == "quick_gelu"}
    model = (theirs.CustomTextCLIP if own_text_tower else theirs.CLIP)(**config).eval()
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 1, "name": "run", "state_dict": state}, tmp_path / "epoch_1.pt")
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ArtifactError, match="activation="):
        load_backbone(tmp_path / "epoch_1.pt", device="cpu")
    told = load_backbone(tmp_path / "epoch_1.pt", device="cpu", activation=activation, heads=heads)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    images, tokens = pixels(told.config), told.tokenize(["a bee", "two bees"])
    for loaded in (
        told,
        *(load_backbone(source, device="cpu") for source in (model, tmp_path, tmp_path / "epoch_1.pt")),
    ):
        torch.testing.assert_close(loaded.encode_image(images), model.encode_image(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded.encode_text(tokens), model.encode_text(tokens), rtol=0, atol=1e-5)
