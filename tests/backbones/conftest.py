"""Small models of both kinds, and OpenAI's own code as the oracle."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone

SMALL = {
    "vit": CLIPConfig(
        embed_dim=48,
        image_size=64,
        vision_layers=3,
        vision_width=128,
        vision_heads=2,
        patch_size=16,
        text_width=64,
        text_layers=2,
        text_heads=1,
    ),
    "resnet": CLIPConfig(
        embed_dim=48,
        image_size=64,
        vision_layers=(1, 2, 1, 1),
        vision_width=16,
        vision_heads=8,
        patch_size=None,
        text_width=64,
        text_layers=2,
        text_heads=1,
    ),
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> Backbone:
    """A small random model, its batch statistics and zero-initialised weights moved so that they matter."""
    return shaken(build_backbone(SMALL[request.param], seed=3))


def shaken(backbone: Backbone) -> Backbone:
    """Replace the neutral initial values, which hide mistakes: zeros of biases, ones of norms."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1, generator=draw)
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=draw)
    return backbone


def openai_file(name: str) -> ModuleType:
    """A file of the package ``openai-clip``; the package itself cannot be imported beside a new setuptools."""
    try:
        found = importlib.metadata.files("openai-clip") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("openai-clip is not installed")
    path = next(Path(str(file.locate())) for file in found if file.as_posix() == f"clip/{name}.py")
    spec = importlib.util.spec_from_file_location(f"openai_clip_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openai_model(config: CLIPConfig) -> nn.Module:
    """OpenAI's model with the shape of ``config``, random."""
    model: nn.Module = openai_file("model").CLIP(
        embed_dim=config.embed_dim,
        image_resolution=config.image_size,
        vision_layers=config.vision_layers,
        vision_width=config.vision_width,
        vision_patch_size=config.patch_size,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        transformer_width=config.text_width,
        transformer_heads=config.text_heads,
        transformer_layers=config.text_layers,
    )
    return model.eval()


def pixels(config: CLIPConfig, n: int = 2) -> Tensor:
    return torch.randn(n, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(1))
