"""Model objects of other libraries behind our towers: copied, and compared with themselves on a trial input."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import NOT_WEIGHTS, Backbone
from clip_fewshot.backbones.checkpoint import assemble, bare_names, common_prefix
from clip_fewshot.backbones.huggingface import SIGN
from clip_fewshot.backbones.stated import EPSILON, VOCABULARY, odd_preparation, read_hugging_face
from clip_fewshot.errors import ArtifactError

CONVERSION_TOLERANCE = 1e-4  # relative; rounding makes 1e-5 at most, another activation 1e-3 and more
TRIAL_TOKENS = (320, 1125, 539, 320, 2368)  # "a photo of a cat"


def convert(model: nn.Module, name: str, given: Mapping[str, Any] | None = None) -> Backbone:
    """A copy of a CLIP model of OpenAI's code, open_clip or transformers, whatever module it is wrapped in.

    It is accepted only if both give the same features of a trial picture and a trial text. That needs no list of the
    variants that others can build and we cannot.

    Args:
        name: what the backbone is called.
        given: heads and activation, where the object does not tell them.

    Raises:
        ArtifactError: another architecture, or features that differ.
    """
    model = _inside(model)
    if isinstance(model, Backbone):
        return model
    if isinstance(model, torch.jit.ScriptModule):  # it tells nothing, and OpenAI's runs on a GPU alone
        state = model.state_dict()
        return assemble(state, name, name, stated={} if state.keys() >= NOT_WEIGHTS else given)
    try:
        twin: Any = copy.deepcopy(model).float().cpu().eval()  # the given one stays as and where it is
    except (RuntimeError, TypeError) as error:
        raise _foreign(name, f"one that cannot be copied ({error})") from error
    state = bare_names(twin.state_dict())
    stated = read_hugging_face(twin.config.to_dict(), name) if SIGN in state else _read_attributes(twin, name)
    backbone = assemble(state, name, name, stated=given if stated is None else stated)
    epsilons = {module.eps for module in twin.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)}
    if epsilons - {EPSILON}:  # too little for the trial to show
        raise _foreign(name, f"norms with epsilon {sorted(epsilons - {EPSILON})}")
    difference = _difference(backbone, twin, name)
    if not difference <= CONVERSION_TOLERANCE:
        raise _foreign(name, f"features that differ by {difference:.2g} of their size")
    return backbone


def _inside(model: nn.Module) -> nn.Module:
    """The module that wrappers hold: torch's parallel ones, torch.compile's, or one of the user's."""
    try:
        return model.get_submodule(".".join(common_prefix(key.split(".") for key in model.state_dict())))
    except AttributeError:  # keys that are no modules
        return model


def _read_attributes(model: Any, name: str) -> dict[str, Any] | None:
    """Heads and activation of a model of OpenAI's code or open_clip; None where its modules are others."""
    try:
        visual, text = model.visual, getattr(model, "text", model)
        attention = visual.attnpool if hasattr(visual, "attnpool") else visual.transformer.resblocks[0].attn
        block, vocabulary = text.transformer.resblocks[0], text.token_embedding.num_embeddings
        heads = {"vision_heads": attention.num_heads, "text_heads": block.attn.num_heads}
        found = heads | {"activation": "gelu" if isinstance(block.mlp.gelu, nn.GELU) else "quick_gelu"}
    except (AttributeError, IndexError, TypeError):
        return None
    colours = {"mean": getattr(visual, "image_mean", None), "std": getattr(visual, "image_std", None)}
    odd = odd_preparation(colours | getattr(visual, "preprocess_cfg", {}))
    if odd or vocabulary != VOCABULARY:
        raise _foreign(name, f"pictures prepared by {odd}" if odd else f"a vocabulary of {vocabulary}")
    return found


@torch.no_grad()
def _difference(ours: Backbone, theirs: Any, name: str) -> float:
    """Largest difference of features on a trial picture and a trial text, as a share of the largest feature."""
    side, last = ours.image_size, ours.config.vocab_size - 1
    images = torch.linspace(-2, 2, 3 * side * side).reshape(1, 3, side, side)
    words = torch.tensor([last - 1, *(token % last for token in TRIAL_TOKENS), last])[-ours.context_length :]
    tokens = nn.functional.pad(words, (0, ours.context_length - len(words)))[None]
    found = [ours.encode_image(images), ours.encode_text(tokens)]
    try:
        if hasattr(theirs, "encode_image"):
            wanted = [theirs.encode_image(images), theirs.encode_text(tokens)]
        else:
            output = theirs(input_ids=tokens, pixel_values=images)
            wanted = [output.image_embeds, output.text_embeds]  # of length 1
            found = [nn.functional.normalize(features) for features in found]
        return max(_relative(*pair) for pair in zip(found, wanted, strict=True))
    except Exception as error:  # the code is anybody's
        raise _foreign(name, f"one that fails on a trial input ({type(error).__name__}: {error})") from error


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _foreign(name: str, got: str) -> ArtifactError:
    return ArtifactError(
        expected="a model of OpenAI's architecture", got=got, fix="choose a plain ViT or ResNet CLIP", where=name
    )
