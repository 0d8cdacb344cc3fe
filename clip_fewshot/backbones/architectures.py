"""The numbers of a CLIP model, OpenAI's nine among them, and how to read them off a state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clip_fewshot.backbones.resnet import ModifiedResNet
from clip_fewshot.backbones.text import TextTransformer
from clip_fewshot.backbones.tower import TextTower, Tower
from clip_fewshot.backbones.transformer import ACTIVATIONS
from clip_fewshot.backbones.vit import VisionTransformer
from clip_fewshot.errors import ArtifactError, UsageError

STATED = "clip_fewshot architecture"  # in the header of a weights file


@dataclass(frozen=True)
class CLIPConfig:
    """Architecture of a CLIP model.

    Attributes:
        embed_dim: width of the common space.
        image_size: side of the square input, pixels; for a ResNet a multiple of 32.
        vision_layers: number of blocks of a vision transformer, or the blocks of the four stages of a ResNet.
        vision_width: width of the tokens, or of the ResNet's stem (its last map is 32 times as wide).
        vision_heads: attention heads; OpenAI's rule is one per 64 channels of the pooled map.
        patch_size: side of a patch, pixels; None for a ResNet.
        text_width, text_layers, text_heads: the text transformer.
        context_length: tokens per text.
        vocab_size: token ids.
        activation: "quick_gelu" (OpenAI) or "gelu" (many of open_clip's).
    """

    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    vision_heads: int
    patch_size: int | None
    text_width: int
    text_layers: int
    text_heads: int
    context_length: int = 77
    vocab_size: int = 49_408
    activation: str = "quick_gelu"

    def __post_init__(self) -> None:
        resnet = not isinstance(self.vision_layers, int)
        unit, pooled = (32, self.vision_width * 32) if resnet else (self.patch_size or 0, self.vision_width)
        where = "CLIPConfig"
        if resnet is not (self.patch_size is None):
            got = f"layers {self.vision_layers}, patch {self.patch_size}"
            expected = "a patch size for a vision transformer, none for a ResNet"
            raise UsageError(expected=expected, got=got, fix="set patch_size", where=where)
        if unit < 1 or self.image_size < unit or self.image_size % unit:
            expected, fix = f"a multiple of {unit} pixels", "change image_size"
            raise UsageError(expected=expected, got=f"image_size {self.image_size}", fix=fix, where=where)
        for width, heads in ((pooled, self.vision_heads), (self.text_width, self.text_heads)):
            if min(heads, width) < 1 or width % heads:
                expected = "heads that divide the width"
                raise UsageError(expected=expected, got=f"{heads} heads, width {width}", fix="change them", where=where)
        if min(self.embed_dim, self.text_layers) < 1:
            got = f"embed_dim {self.embed_dim}, text_layers {self.text_layers}"
            raise UsageError(expected="1 or more of each", got=got, fix="change them", where=where)
        if self.activation not in ACTIVATIONS:
            expected = f"an activation of {sorted(ACTIVATIONS)}"
            raise UsageError(expected=expected, got=repr(self.activation), fix="choose one of them", where=where)

    def unlike_openai(self) -> dict[str, int | str]:
        """Heads and activation, where they are not those that OpenAI's code takes for these widths.

        That code, and others that read an architecture off the weights, load such a model without a word: no shape
        depends on the number of heads, but the features do.
        """
        theirs = _openai_choice(asdict(self))
        return {name: getattr(self, name) for name, value in theirs.items() if getattr(self, name) != value}

    def warning(self) -> str:
        """That others take such weights for another model, in a sentence; empty where they do not."""
        odd = ", ".join(f"{name} {value}" for name, value in self.unlike_openai().items())
        return odd and (
            f"OpenAI's code loads these weights without a word and computes other features: no shape shows {odd}, and "
            "it takes others; load them with clip_fewshot"
        )

    def header(self) -> dict[str, str]:
        """What stands in the header of a weights file: what no shape shows, and a warning where others are misled."""
        odd = self.unlike_openai()
        return {STATED: json.dumps(odd)} | ({"warning": self.warning()} if odd else {})

    def build_visual(self) -> Tower:
        """The image tower, freshly initialised from torch's global generator."""
        if isinstance(self.vision_layers, tuple):
            layers = self.vision_layers
            return ModifiedResNet(self.image_size, layers, self.vision_width, self.vision_heads, self.embed_dim)
        return VisionTransformer(
            image_size=self.image_size,
            patch_size=self.patch_size or 0,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=self.vision_heads,
            out_features=self.embed_dim,
            activation=self.activation,
        )

    def build_text(self) -> TextTower:
        """The text tower, freshly initialised from torch's global generator."""
        return TextTransformer(
            context_length=self.context_length,
            vocab_size=self.vocab_size,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            out_features=self.embed_dim,
            activation=self.activation,
        )


def _vit(embed_dim: int, image_size: int, patch: int, width: int, layers: int, text_width: int) -> CLIPConfig:
    return CLIPConfig(embed_dim, image_size, layers, width, width // 64, patch, text_width, 12, text_width // 64)


def _resnet(
    embed_dim: int, image_size: int, layers: tuple[int, int, int, int], width: int, text_width: int
) -> CLIPConfig:
    return CLIPConfig(embed_dim, image_size, layers, width, width // 2, None, text_width, 12, text_width // 64)


# Radford et al., 2021, tables 19 and 20.
ARCHITECTURES = {
    "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
    "ViT-B/32": _vit(512, 224, 32, 768, 12, 512),
    "ViT-B/16": _vit(512, 224, 16, 768, 12, 512),
    "ViT-L/14": _vit(768, 224, 14, 1024, 24, 768),
    "ViT-L/14@336px": _vit(768, 336, 14, 1024, 24, 768),
}


def infer_config(state: Mapping[str, Tensor], where: str, stated: Mapping[str, Any] | None) -> CLIPConfig:
    """The architecture of a state dict with OpenAI's keys.

    Args:
        where: origin of the weights, for messages.
        stated: heads and activation, which no shape shows, and sizes perhaps; those that are left out are OpenAI's.
            None: nothing is known of them.

    Raises:
        ArtifactError: other tensors than CLIP's or other sizes than stated, or nothing is stated. OpenAI's choice is
            no default: most of open_clip's models have the same shapes, and the wrong heads cost accuracy unseen.
    """
    try:
        sizes = _infer_sizes(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ArtifactError(
            expected="the weights of a CLIP model", got=f"none ({error})", fix="check which model this is", where=where
        ) from error
    if stated is None:
        raise _unstated(_openai_choice(sizes), where)
    others = [name for name, value in stated.items() if sizes.get(name, value) != value]
    if others:
        expected, got = (", ".join(f"{name} {of[name]!r:.40}" for name in others) for of in (stated, sizes))
        fix = "put the config of these weights beside them"
        raise ArtifactError(expected=f"{expected} as stated", got=got, fix=fix, where=where)
    try:
        return CLIPConfig(**(sizes | _openai_choice(sizes) | dict(stated)))
    except UsageError as error:
        fix = "check activation= and heads=, or the file that states them"
        raise ArtifactError(expected=error.expected, got=error.got, fix=fix, where=where) from error


def _unstated(theirs: Mapping[str, Any], where: str) -> ArtifactError:
    """No shape shows heads and activation; ``theirs`` are OpenAI's for these widths."""
    heads = theirs["vision_heads"], theirs["text_heads"]
    beside = Path(where).with_suffix(".json").name
    return ArtifactError(
        expected="heads and activation, which no shape shows, stated in the file or beside it",
        got="neither",
        fix=f"give activation='quick_gelu', heads={heads} if OpenAI's code made the model, activation='gelu' for most "
        f"of open_clip's, heads=(image tower, text tower); a command reads them from {beside}: {json.dumps(theirs)}",
        where=where,
    )


def _openai_choice(sizes: Mapping[str, Any]) -> dict[str, int | str]:
    """Heads and activation that OpenAI's code takes for these sizes."""
    pooled = sizes["vision_width"] * (32 if sizes["patch_size"] is None else 1)
    return {"vision_heads": pooled // 64, "text_heads": sizes["text_width"] // 64, "activation": "quick_gelu"}


def _infer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes show of a :class:`CLIPConfig`."""
    image_size, layers, width, patch = _infer_vision(state)
    return {
        "embed_dim": state["text_projection"].shape[1],
        "image_size": image_size,
        "vision_layers": layers,
        "vision_width": width,
        "patch_size": patch,
        "text_width": state["ln_final.weight"].shape[0],
        "text_layers": _count(state, "transformer.resblocks."),
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
    }


def _infer_vision(state: Mapping[str, Tensor]) -> tuple[int, int | tuple[int, int, int, int], int, int | None]:
    """Image size, layers, width, patch size."""
    if "visual.proj" in state:
        width, _, _, patch = state["visual.conv1.weight"].shape
        side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        return side * patch, _count(state, "visual.transformer.resblocks."), width, patch
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    side = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    one, two, three, four = (_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
    return side * 32, (one, two, three, four), width, None


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
