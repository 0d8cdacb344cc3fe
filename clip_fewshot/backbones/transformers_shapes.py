"""Where the towers of transformers' models are cut, by their modules' names; nothing of that package is imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.encoder_tower import EncoderParts, Pool

# What the parts of a tower are called there, the first that is found: CLIP, SigLIP, MetaCLIP 2, AIMv2, DINOv2, DINOv3.
LAYERS = ("encoder.layers", "encoder.layer", "model.layer", "layer", "layers")
FINAL_NORMS = ("post_layernorm", "final_layer_norm", "layernorm", "rms_norm", "norm")
POOLINGS = ("head", "pooler")  # what makes one vector of the normed tokens; without one it is the first token
ROTATIONS = "rope_embeddings"


def cut_pictures(tower: nn.Module, projection: nn.Module | None, side: int) -> EncoderParts:
    """The parts of a picture tower; one of another shape is a single block.

    Args:
        projection: into the space of the texts.
        side: of its pictures, in pixels.
    """
    halves = _is_smooth(tower)
    if _find(tower, "model.stages") is not None and (last := _find(tower, "layer_norm")) is not None:
        return EncoderParts(nn.Identity(), _stages(tower), Pool(PooledMap(last)), halves, projection)
    layers, norm, stem = _first(tower, LAYERS), _first(tower, FINAL_NORMS), _find(tower, "embeddings")
    if layers is None or norm is None or stem is None:
        return EncoderParts(nn.Identity(), [WholePicture(tower)], Pool(), halves, projection)
    before = [part for part in (stem, _find(tower, "pre_layrnorm")) if part is not None]
    turned = _find(tower, ROTATIONS)
    angles = None if turned is None else turned(torch.zeros(1, 3, side, side))
    blocks = [Plain(layer) if angles is None else Turned(layer, *angles) for layer in layers.children()]
    head = _first(tower, POOLINGS)
    return EncoderParts(nn.Sequential(*before), blocks, Pool(head or "first", norm), halves, projection)


def cut_texts(tower: nn.Module, projection: nn.Module | None, causal: bool) -> EncoderParts | None:
    """The parts of a text tower whose feature is that of a text's last token; None for one of another shape.

    Args:
        causal: no token looks at those behind it.
    """
    layers, norm, stem = _first(tower, LAYERS), _first(tower, FINAL_NORMS), _find(tower, "embeddings")
    if layers is None or norm is None or stem is None:
        return None
    blocks = [Causal(layer) if causal else Plain(layer) for layer in layers.children()]
    return EncoderParts(stem, blocks, Pool("end", norm), _is_smooth(tower), projection or _find(tower, "head"))


class Plain(nn.Module):
    """A layer in which every token looks at every other."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        return _tokens(self.layer(tokens, None))


class Causal(nn.Module):
    """A layer in which no token looks at those behind it; the mask is added to the scores."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        length = tokens.shape[1]
        hidden = torch.full((length, length), torch.finfo(tokens.dtype).min, dtype=tokens.dtype, device=tokens.device)
        return _tokens(self.layer(tokens, hidden.triu(1)[None, None]))


class Turned(nn.Module):
    """A layer with rotary positions, which are the same for all pictures of one side."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layer: nn.Module, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        angles = (self.cos.to(tokens.dtype), self.sin.to(tokens.dtype))
        return _tokens(self.layer(tokens, None, position_embeddings=angles))


class PooledMap(nn.Module):
    """The mean over all places, then a norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, places: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c)."""
        vector: Tensor = self.norm(places.mean((2, 3)))
        return vector


class WholePicture(nn.Module):
    """A picture tower as one block that gives the vector of its own pooling."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, d)."""
        vector: Tensor = self.tower(pixel_values=pixels).pooler_output
        return vector.flatten(1)


def _stages(tower: nn.Module) -> list[nn.Module]:
    """The layers of a ConvNeXt; what makes the map smaller goes with the layer behind it."""
    blocks: list[nn.Module] = []
    for stage in tower.get_submodule("model.stages").children():
        first, *others = stage.get_submodule("layers").children()
        blocks += [nn.Sequential(*stage.get_submodule("downsample_layers").children(), first), *others]
    return blocks


def _is_smooth(tower: nn.Module) -> bool:
    return not any(isinstance(module, nn.ReLU) for module in tower.modules())


def _first(tower: nn.Module, names: Iterable[str]) -> nn.Module | None:
    return next((found for name in names if (found := _find(tower, name)) is not None), None)


def _find(tower: nn.Module, name: str) -> nn.Module | None:
    try:
        return tower.get_submodule(name)
    except AttributeError:
        return None


def _tokens(out: Any) -> Tensor:
    """What a layer gives: tokens, in older releases the first of a tuple."""
    tokens: Tensor = out[0] if isinstance(out, tuple) else out
    return tokens
