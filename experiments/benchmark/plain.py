"""The plain way: OpenAI's own model where the package openai-clip is at hand, else our blocks run whole.

"Whole" is what the originals do: every block on every token, in every step, for every picture.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.tower import Tower


@dataclass(frozen=True)
class Original:
    """A CLIP model without shortcuts.

    Attributes:
        name: whose code it is.
        visual: (b, 3, h, w) -> (b, d); its parameters have OpenAI's names.
        encode_text: (b, 77) token ids -> (b, d).
    """

    name: str
    visual: nn.Module
    encode_text: Callable[[Tensor], Tensor]


class Whole(nn.Module):
    """All blocks of one of our towers on all tokens."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of the tower -> (b, d)."""
        return self.tower.project(self.tower.advance(self.tower.embed(inputs), 0, self.tower.n_blocks))


def original(backbone: Backbone) -> Original:
    """The plain model with a copy of the weights of ``backbone``, frozen, in evaluation mode."""
    code, config = _openai_code(), backbone.config
    pooled = config.vision_width * (1 if isinstance(config.vision_layers, int) else 32)
    usual = (config.vision_heads, config.text_heads, config.activation) == (
        pooled // 64,
        config.text_width // 64,
        "quick_gelu",
    )
    if code is None or not usual:  # OpenAI's code has one head per 64 channels and its own activation
        twin = copy.deepcopy(backbone).requires_grad_(False).eval()
        return Original("our blocks run whole", Whole(twin.visual), Whole(twin.text))
    model = code.CLIP(
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
    model.load_state_dict(backbone.state_dict())
    model.requires_grad_(False).eval()
    return Original("OpenAI's code", model.visual, model.encode_text)


def by_name(visual: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of an image tower under OpenAI's names."""
    return {name.removeprefix("tower."): parameter for name, parameter in visual.named_parameters()}


def _openai_code() -> ModuleType | None:
    """Its model.py alone: the package as a whole cannot be imported beside a new setuptools."""
    found = importlib.util.find_spec("clip")
    path = None if found is None or found.origin is None else Path(found.origin).with_name("model.py")
    if path is None or not path.is_file():  # "clip" may also be the clipboard manager of that name
        return None
    spec = importlib.util.spec_from_file_location("openai_clip_model", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_backbone(name: str, seed: int) -> Backbone:
    """An architecture with random weights, none of them neutral: zeros and ones would hide a mistake of a shortcut."""
    backbone = load_backbone(name, pretrained=False, device="cpu")
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in backbone.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1, generator=draw)
            elif key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=draw)
    return backbone
