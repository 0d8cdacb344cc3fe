"""Load a backbone by whatever names it: an official name, the shipped model, a file, a module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones import builder, hub, open_clip
from clip_fewshot.backbones.architectures import ARCHITECTURES
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.checkpoint import assemble, bare_names, read_state
from clip_fewshot.backbones.download import OFFICIAL, fetch
from clip_fewshot.backbones.folder import SHIPPED, find_weights, is_foreign, load_folder, read_config, read_model_type
from clip_fewshot.backbones.objects import convert
from clip_fewshot.backbones.real_photos import PHOTOS, load_photos
from clip_fewshot.backbones.stated import of_usual_texts, read_stated
from clip_fewshot.backbones.transformer import ACTIVATIONS
from clip_fewshot.backbones.transformers_backbone import load_transformers, load_transformers_object
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime import parts
from clip_fewshot.runtime.device import resolve_device
from clip_fewshot.runtime.reading import as_path

ALIASES = {"ViT-L/14-336px": "ViT-L/14@336px"}
MINI = "mini"
WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
RANDOM = " (random weights)"  # behind the name of a model without trained ones; they are the same each time


def load_backbone(
    name: str | Path | nn.Module,
    *,
    pretrained: bool = True,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    activation: str | None = None,
    heads: tuple[int, int] | None = None,
) -> Backbone:
    """A CLIP model in evaluation mode, its parameters in float32.

    Args:
        name: one of
            an official name ("ViT-B/32", "RN50", ...), downloaded once and kept under ``CLIP_FEWSHOT_CACHE``;
            "mini", the small model in the package;
            "photos", which sees photos without a download: two encoders from the package index (extra "photos");
            a path: OpenAI's archive, a state dict or training checkpoint saved by torch, safetensors (Hugging Face's
            and open_clip's too), or a folder of :func:`save_backbone`, of ``save_pretrained`` or of open_clip. A path
            never touches the network. No shape shows activation and heads: they are read from this library's
            files, OpenAI's archives, and ``NAME.json``, ``config.json`` or ``open_clip_config.json`` beside the file;
            "hf:ORGANISATION/NAME", a model of the Hugging Face hub, fetched once into its cache (extra "hub"): CLIP,
            SigLIP and SigLIP 2, MetaCLIP, AIMv2, and DINOv2 and 3, which read pictures alone; so does the folder of
            ``save_pretrained``;
            "open_clip:NAME" or "open_clip:NAME/PRETRAINED", where open_clip is installed;
            "python:MODULE:FUNCTION", a function of the user's own that is called without arguments and returns a
            backbone (a :class:`PairBackbone` of any two encoders) or one of the next line's objects; the backbone is
            given this name; or the name of such a function among the entry points "clip_fewshot.backbones" of
            installed packages;
            a model object of OpenAI's ``clip``, of open_clip or of transformers, whose weights are copied, if the
            copy gives the same features. Tokenizer and preprocessing are read where transformers loaded it from.
        pretrained: False gives random weights, the same each time; for official names and "mini".
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: of activations; None is bfloat16 or float16 on CUDA and float32 elsewhere.
        activation: "quick_gelu" or "gelu", for weights beside which nothing tells it; with ``heads``.
        heads: of the image tower and of the text tower, likewise.

    Raises:
        UsageError: an unknown name or device, a function of the user's that fails, or activation and heads other than
            the weights' own.
        DataError, ArtifactError: a missing, damaged or foreign file, or one without a word on activation and heads.
        ResourceError: weights that are neither here nor reachable, or a device that is not there.

    Example:
        >>> import clip_fewshot as cf
        >>> backbone = cf.load_backbone("mini", device="cpu")
        >>> backbone.image_size, backbone.visual.out_features
        (32, 128)
    """
    place = resolve_device(device)
    given = _given(activation, heads)
    backbone = _load(name, given) if pretrained else _random(name)
    others = {key: own for key, value in (given or {}).items() if (own := getattr(backbone.config, key)) != value}
    if others:
        fix = "leave activation= and heads= out, or correct the config beside the weights"
        raise UsageError(expected=f"{others}, which the weights tell", got=str(given), fix=fix, where=backbone.name)
    backbone.activation_dtype = dtype
    return backbone.to(place)


def check_name(name: str) -> str:
    """``name`` as it is listed, without looking for its weights.

    Raises:
        UsageError: a name that leads nowhere.
    """
    prefixes = (hub.HUB_PREFIX, open_clip.OPEN_CLIP_PREFIX, parts.PYTHON_PREFIX)
    known = name in (*ALIASES, *OFFICIAL, MINI, PHOTOS) or name.startswith(prefixes) or name in _installed()
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

    Where nothing tells heads and activation of its weights, OpenAI's are tried: the caller compares the digest, which
    covers them, with that of the backbone that was saved.
    """
    if name in trusted:
        given = trusted[name]
        return load_backbone(given if isinstance(given, nn.Module) else given())
    if names_code(name):
        expected = "a backbone of this library"
        fix = "pass the backbone, or trusted={name: ...}; in a command give --model again"
        raise ArtifactError(expected=expected, got=f"{name!r}, which a file must not import", fix=fix, where=where)
    backbone = _load(name, {})
    return backbone.to(resolve_device("auto"))


def _given(activation: str | None, heads: tuple[int, int] | None) -> dict[str, Any] | None:
    if activation is None and heads is None:
        return None
    if str(activation) not in ACTIVATIONS or not isinstance(heads, tuple | list) or [*map(type, heads)] != [int, int]:
        raise UsageError(
            expected=f"activation= one of {sorted(ACTIVATIONS)} and heads=(image tower, text tower) together",
            got=f"activation={activation!r}, heads={heads!r}",
            fix="give both, or neither where the weights tell them",
            where="load_backbone",
        )
    return {"activation": activation, "vision_heads": heads[0], "text_heads": heads[1]}


def names_code(name: str) -> bool:
    """Whether that name of a backbone leads to code outside the library, which no file may import."""
    return name.startswith(parts.PYTHON_PREFIX) or name in _installed()


def _installed() -> set[str]:
    """Names of backbones that installed packages offer."""
    return {point.name for point in entry_points(group="clip_fewshot.backbones")}


def _load(name: str | Path | nn.Module, given: dict[str, Any] | None) -> Backbone:
    """``given``: heads and activation of weights that do not tell theirs; OpenAI's, where it lacks them."""
    if isinstance(name, Backbone):
        return name
    if isinstance(name, nn.Module):
        return _from_object(name, given)
    if isinstance(name, str):
        name = ALIASES.get(name, name)
        if name in OFFICIAL:
            path = fetch(OFFICIAL[name])
            return assemble(read_state(path), name, str(path), ARCHITECTURES[name])
        if name == MINI:
            return load_folder(SHIPPED, MINI)
        if name == PHOTOS:
            return load_photos()
        if name.startswith(hub.HUB_PREFIX):
            return _from_path(hub.fetch_from_hub(name), name, given)
        if name.startswith(open_clip.OPEN_CLIP_PREFIX):
            return open_clip.load(name)
        if name.startswith(parts.PYTHON_PREFIX) or (name in _installed() and not os.path.exists(name)):
            built = _load(builder.build(name), given).eval()
            built.name = name  # leads a saved classifier back here
            return built
        if name.endswith(RANDOM):  # what a saved classifier calls it
            return _random(name.removesuffix(RANDOM))
    return _from_path(as_path(name, "name"), str(name), given)


def _from_object(model: nn.Module, given: dict[str, Any] | None) -> Backbone:
    library, kind = type(model).__module__.partition(".")[0], type(model).__name__
    if library == "transformers" and kind != "CLIPModel":
        return load_transformers_object(model)
    try:
        return convert(model, "open_clip model" if library == "open_clip" else "clip model", given)
    except ArtifactError:
        if kind == "CLIPModel":
            with suppress(ArtifactError):
                return load_transformers_object(model)
        raise


def _from_path(path: Path, name: str, given: dict[str, Any] | None) -> Backbone:
    kind = read_model_type(path)
    if kind not in ("", "clip"):
        return load_transformers(path, name)
    try:
        return _from_tensors(path, name, given)
    except ArtifactError:
        if kind == "clip" and find_spec("transformers"):  # a CLIP that is built or prepared otherwise than OpenAI's
            with suppress(ArtifactError):
                return load_transformers(path, name)
        raise


def _from_tensors(path: Path, name: str, given: dict[str, Any] | None) -> Backbone:
    if os.path.isdir(path) and not is_foreign(path):
        return load_folder(path, name)
    if not os.path.exists(path) and path.suffix not in WEIGHTS_SUFFIXES:
        raise _unknown(name)
    files = find_weights(path)
    state = bare_names({key: tensor for file in files for key, tensor in read_state(file).items()})
    stated = read_stated(files[0], state)
    if stated is None:
        stated = _known(state)
    if stated is None and given is not None:
        stated = of_usual_texts(given, state, str(path))
    return assemble(state, name, str(path), stated=stated)


def _known(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The architecture of the shipped model, if these are its weights: another file of them tells no heads."""
    config = read_config(SHIPPED)[0]
    if "visual.proj" not in state or state["visual.proj"].shape != (config.vision_width, config.embed_dim):
        return None  # without a look at all of them
    mini = load_folder(SHIPPED, MINI).state_dict()
    same = state.keys() == mini.keys() and all(torch.equal(state[key].to(own.dtype), own) for key, own in mini.items())
    return asdict(config) if same else None


def _random(name: str | Path | nn.Module) -> Backbone:
    known = ALIASES.get(name, name) if isinstance(name, str) else ""
    title = f"{known}{RANDOM}"
    if known == MINI:
        return build_backbone(read_config(SHIPPED)[0], name=title)
    if known not in ARCHITECTURES:
        raise _unknown(str(name))
    return build_backbone(ARCHITECTURES[known], name=title)


def _unknown(name: str) -> UsageError:
    known = ", ".join([*ARCHITECTURES, MINI, PHOTOS])
    prefixed = f"{hub.HUB_PREFIX}ORGANISATION/NAME, {open_clip.OPEN_CLIP_PREFIX}NAME"
    expected = f"one of {known}, a path, {prefixed} or {parts.PYTHON_PREFIX}MODULE:FUNCTION"
    return UsageError(expected=expected, got=repr(name), fix="check the spelling", where="model")
