"""Load a backbone by whatever names it: an official name, the shipped model, a file, a module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clip_fewshot.backbones import builder, open_clip
from clip_fewshot.backbones.architectures import ARCHITECTURES
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.checkpoint import assemble, read_state, read_stated
from clip_fewshot.backbones.download import OFFICIAL, fetch
from clip_fewshot.backbones.folder import SHIPPED, load_folder, read_config
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime import parts
from clip_fewshot.runtime.device import resolve_device

ALIASES = {"ViT-L/14-336px": "ViT-L/14@336px"}
MINI = "mini"
WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
RANDOM = " (random weights)"  # behind the name of a model without trained ones; they are the same each time


def load_backbone(
    name: str | Path | nn.Module, *, pretrained: bool = True, device: str = "auto", dtype: torch.dtype | None = None
) -> Backbone:
    """A CLIP model in evaluation mode, its parameters in float32.

    Args:
        name: one of
            an official name ("ViT-B/32", "RN50", ...), downloaded once and kept under ``CLIP_FEWSHOT_CACHE``;
            "mini", the small model in the package;
            a path: OpenAI's archive, a state dict saved by torch, safetensors (Hugging Face's too), or a folder of
            :func:`save_backbone`. A path never touches the network. Activation and heads are told by that folder and by
            safetensors of this library; for the others OpenAI's are assumed;
            "open_clip:NAME" or "open_clip:NAME/PRETRAINED", where open_clip is installed;
            "python:MODULE:FUNCTION", a function of the user's own that is called without arguments and returns a
            backbone (a :class:`PairBackbone` of any two encoders) or one of the next line's objects; the backbone is
            given this name; or the name of such a function among the entry points "clip_fewshot.backbones" of
            installed packages;
            a model object of OpenAI's ``clip`` or of open_clip, whose weights are copied.
        pretrained: False gives random weights, the same each time; for official names and "mini".
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: of activations; None is bfloat16 or float16 on CUDA and float32 elsewhere.

    Raises:
        UsageError: an unknown name or device, or a function of the user's that fails.
        DataError, ArtifactError: a missing, damaged or foreign file.
        ResourceError: weights that are neither here nor reachable, or a device that is not there.

    Example:
        >>> import clip_fewshot as cf
        >>> backbone = cf.load_backbone("mini", device="cpu")
        >>> backbone.image_size, backbone.visual.out_features
        (32, 128)
    """
    place = resolve_device(device)
    backbone = _load(name) if pretrained else _random(name)
    backbone.activation_dtype = dtype
    return backbone.to(place)


def check_name(name: str) -> str:
    """``name`` as it is listed, without looking for its weights.

    Raises:
        UsageError: a name that leads nowhere.
    """
    prefixes = (open_clip.OPEN_CLIP_PREFIX, parts.PYTHON_PREFIX)
    known = name in (*ALIASES, *OFFICIAL, MINI) or name.startswith(prefixes) or name in _installed()
    if not (known or os.path.exists(name) or Path(name).suffix in WEIGHTS_SUFFIXES):
        raise _unknown(name)
    return ALIASES.get(name, name)


def load_saved_backbone(name: str, trusted: Mapping[str, Any], where: str) -> Backbone:
    """The backbone that a file calls ``name``. Code that it names never runs: the caller passes that backbone.

    Args:
        trusted: backbones, or functions that return one, by the name in the file.
        where: the file, for the message.

    Raises:
        ArtifactError: a name that leads to code outside the library, and that was not passed.
    """
    if name in trusted:
        given = trusted[name]
        return load_backbone(given if isinstance(given, nn.Module) else given())
    if names_code(name):
        raise ArtifactError(
            expected="a backbone of this library",
            got=f"{name!r}, which a file must not import",
            fix="pass the backbone, or trusted={name: ...}; in a command give --model again",
            where=where,
        )
    return load_backbone(name)


def names_code(name: str) -> bool:
    """Whether that name of a backbone leads to code outside the library, which no file may import."""
    return name.startswith(parts.PYTHON_PREFIX) or name in _installed()


def _installed() -> set[str]:
    """Names of backbones that installed packages offer."""
    return {point.name for point in entry_points(group="clip_fewshot.backbones")}


def _load(name: str | Path | nn.Module) -> Backbone:
    if isinstance(name, Backbone):
        return name
    if isinstance(name, nn.Module):
        return _from_module(name)
    if isinstance(name, str):
        name = ALIASES.get(name, name)
        if name in OFFICIAL:
            path = fetch(OFFICIAL[name])
            return assemble(read_state(path), name, str(path), ARCHITECTURES[name])
        if name == MINI:
            return load_folder(SHIPPED, MINI)
        if name.startswith(open_clip.OPEN_CLIP_PREFIX):
            return open_clip.load(name)
        if name.startswith(parts.PYTHON_PREFIX) or (name in _installed() and not os.path.exists(name)):
            built = _load(builder.build(name)).eval()
            built.name = name  # leads a saved classifier back here
            return built
        if name.endswith(RANDOM):  # what a saved classifier calls it
            return _random(name.removesuffix(RANDOM))
    return _from_path(Path(name), str(name))


def _from_path(path: Path, name: str) -> Backbone:
    if os.path.isdir(path):
        return load_folder(path, name)
    if not os.path.exists(path) and path.suffix not in WEIGHTS_SUFFIXES:
        raise _unknown(name)
    return assemble(read_state(path), name, str(path), stated=read_stated(path))


def _from_module(module: nn.Module) -> Backbone:
    if type(module).__module__.startswith("open_clip"):
        return open_clip.convert(module, "open_clip model")
    return assemble(module.state_dict(), "clip model", "the given module")


def _random(name: str | Path | nn.Module) -> Backbone:
    known = ALIASES.get(name, name) if isinstance(name, str) else ""
    title = f"{known}{RANDOM}"
    if known == MINI:
        return build_backbone(read_config(SHIPPED)[0], name=title)
    if known not in ARCHITECTURES:
        raise _unknown(str(name))
    return build_backbone(ARCHITECTURES[known], name=title)


def _unknown(name: str) -> UsageError:
    known = ", ".join([*ARCHITECTURES, MINI])
    expected = f"one of {known}, a path, {open_clip.OPEN_CLIP_PREFIX}NAME or {parts.PYTHON_PREFIX}MODULE:FUNCTION"
    return UsageError(expected=expected, got=repr(name), fix="check the spelling", where="model")
