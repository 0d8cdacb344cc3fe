"""Models of the open_clip package behind our towers; the package is imported when it is used."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.checkpoint import assemble
from clip_fewshot.data.image import CLIP_MEAN, CLIP_STD
from clip_fewshot.errors import ArtifactError, ResourceError, UsageError

OPEN_CLIP_PREFIX = "open_clip:"
VOCABULARY = 49_408  # another size is another tokenizer
CONVERSION_TOLERANCE = 1e-3  # relative; a variant that we do not build differs by far more


def load(name: str) -> Backbone:
    """Load "open_clip:NAME" or "open_clip:NAME/PRETRAINED"; without PRETRAINED the weights are random.

    Raises:
        ResourceError: open_clip is not installed, or cannot be imported beside this torch.
        UsageError: open_clip knows no such model.
        ArtifactError: a model of another architecture than OpenAI's.
    """
    model, _, tag = name.removeprefix(OPEN_CLIP_PREFIX).partition("/")
    try:
        import open_clip
    except Exception as error:  # a torchvision that does not fit to torch raises RuntimeError
        fix = "pip install open-clip-torch, with a torchvision that fits to your torch"
        raise ResourceError(
            expected="the package open_clip", got=f"{type(error).__name__}: {error}", fix=fix, where=name
        ) from error
    if (model, tag or None) not in {(known, None) for known in open_clip.list_models()} | set(
        open_clip.list_pretrained()
    ):
        raise UsageError(
            expected="a model and weights that open_clip lists", got=repr(name), fix="see open_clip.list_pretrained()"
        )
    return convert(open_clip.create_model(model, pretrained=tag or None), name)


def convert(model: nn.Module, name: str) -> Backbone:
    """A copy of an open_clip model as one of ours, accepted only if both give the same features on a trial input.

    Comparing features needs no list of the variants that open_clip can build and we cannot.
    """
    model = copy.deepcopy(model).float().cpu().eval()  # the given one stays as and where it is
    try:
        config = _config(model)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise _foreign(name, str(error)) from error
    state = {key.removeprefix("text."): tensor for key, tensor in model.state_dict().items()}
    backbone = assemble(state, name, name, config)
    difference = _difference(backbone, model)
    if not difference <= CONVERSION_TOLERANCE:
        raise _foreign(name, f"features that differ by {difference:.2g} of their size")
    return backbone


def _config(model: Any) -> CLIPConfig:
    visual, text = model.visual, getattr(model, "text", model)
    mean, std = tuple(visual.image_mean), tuple(visual.image_std)
    if (mean, std) != (CLIP_MEAN, CLIP_STD):
        raise ValueError(f"pictures normalised by {mean}, {std}")
    if text.token_embedding.num_embeddings != VOCABULARY:
        raise ValueError(f"a vocabulary of {text.token_embedding.num_embeddings}")
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    first = text.transformer.resblocks[0]
    resnet = hasattr(visual, "layer1")
    stages = (len(visual.layer1), len(visual.layer2), len(visual.layer3), len(visual.layer4)) if resnet else None
    return CLIPConfig(
        embed_dim=text.text_projection.shape[1],
        image_size=size,
        vision_layers=stages or len(visual.transformer.resblocks),
        vision_width=visual.conv1.out_channels * (2 if resnet else 1),
        vision_heads=visual.attnpool.num_heads if resnet else visual.transformer.resblocks[0].attn.num_heads,
        patch_size=None if resnet else visual.conv1.kernel_size[0],
        text_width=text.ln_final.normalized_shape[0],
        text_layers=len(text.transformer.resblocks),
        text_heads=first.attn.num_heads,
        context_length=text.positional_embedding.shape[0],
        activation="gelu" if isinstance(first.mlp.gelu, nn.GELU) else "quick_gelu",
    )


@torch.no_grad()
def _difference(ours: Backbone, theirs: Any) -> float:
    side = ours.image_size
    images = torch.linspace(-2, 2, 3 * side * side).reshape(1, 3, side, side)
    tokens = ours.tokenize("a photo of a cat")
    pairs = [
        (ours.encode_image(images), theirs.encode_image(images)),
        (ours.encode_text(tokens), theirs.encode_text(tokens)),
    ]
    return max(_relative(*pair) for pair in pairs)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _foreign(name: str, got: str) -> ArtifactError:
    return ArtifactError(
        expected="a model of OpenAI's architecture", got=got, fix="choose a plain ViT or ResNet CLIP", where=name
    )
