"""Weights files of others: read without running them, checked against the architecture, brought to float32."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clip_fewshot.backbones.architectures import STATED, CLIPConfig, infer_config
from clip_fewshot.backbones.archive import read_archive
from clip_fewshot.backbones.backbone import NOT_WEIGHTS, Backbone
from clip_fewshot.backbones.huggingface import rename_to_openai
from clip_fewshot.errors import ArtifactError, DataError
from clip_fewshot.runtime.tensor_file import check_tensors, read_metadata

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights in what they save


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name: OpenAI's archive, ``torch.save`` of a state dict, or safetensors.

    Raises:
        DataError: no such file.
        ArtifactError: another kind of file, a damaged one, or one that would run code.
    """
    if not os.path.isfile(path):
        raise DataError(expected="a file with weights", got="none", fix="check the path", where=str(path))
    if zipfile.is_zipfile(path):
        return _unwrap(read_archive(path))
    try:
        check_tensors(path)
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        got = f"another file, or a damaged one ({error})"
        fix = "give OpenAI's archive, a state dict saved by torch >= 1.6, or safetensors"
        raise ArtifactError(expected="a file with weights", got=got, fix=fix, where=str(path)) from error


def read_stated(path: Path) -> dict[str, Any]:
    """Heads and activation in the header of a weights file, from :meth:`CLIPConfig.header`.

    Raises:
        ArtifactError: others than these, in that place.
    """
    text = read_metadata(path).get(STATED, "{}")
    try:
        stated = json.loads(text)
    except ValueError:
        stated = None
    kinds = {"vision_heads": int, "text_heads": int, "activation": str}
    if not isinstance(stated, dict) or any(type(value) is not kinds.get(name) for name, value in stated.items()):
        raise ArtifactError(
            expected="heads and activation", got=text[:80], fix="get an undamaged copy", where=f"{path}, {STATED}"
        )
    return stated


def assemble(
    state: Mapping[str, Tensor],
    name: str,
    where: str,
    config: CLIPConfig | None = None,
    stated: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone that holds ``state`` (OpenAI's or Hugging Face's keys, any float type), in evaluation mode.

    Args:
        name: what the backbone is called.
        where: origin of the weights, for messages.
        config: the architecture; None reads it off the shapes.
        stated: what these do not show, from :func:`read_stated`; by default as OpenAI has it.

    Raises:
        ArtifactError: keys or shapes are not the architecture's, or a number is not finite.
    """
    weights = {key: tensor for key, tensor in rename_to_openai(state, where).items() if not _is_constant(key)}
    config = config or infer_config(weights, where, stated)
    backbone = sketch_backbone(config, name)
    _check(weights, backbone.state_dict(), where)
    backbone.load_state_dict(weights)
    for key, tensor in backbone.state_dict().items():
        if not bool(tensor.sum(dtype=torch.float64).isfinite()):  # exact: so few float32 cannot overflow it
            raise ArtifactError(
                expected=f"finite numbers in {key}", got="NaN or infinity", fix="get an undamaged copy", where=where
            )
    return backbone


def sketch_backbone(config: CLIPConfig, name: str = "custom") -> Backbone:
    """A model of that architecture without weights: its memory is asked for and never touched."""
    with _Uninitialised():
        return Backbone(config, name).eval()


class _Uninitialised(TorchFunctionMode):
    """Leaves out the drawing of random weights, which takes longer than reading the real ones.

    Building on torch's meta device does that too, but its first use imports 800 modules (2 s).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return None
        return func(*args, **(kwargs or {}))


def _unwrap(value: object) -> dict[str, Tensor]:
    while isinstance(value, dict) and not any(isinstance(item, Tensor) for item in value.values()):
        inner = [value[key] for key in WRAPPERS if isinstance(value.get(key), dict)]
        if not inner:
            break
        value = inner[0]
    items = value.items() if isinstance(value, dict) else ()
    tensors = {key: item for key, item in items if isinstance(key, str) and isinstance(item, Tensor)}
    parallel = bool(tensors) and all(key.startswith("module.") for key in tensors)  # torch's DataParallel adds it
    return {key.removeprefix("module.") if parallel else key: item for key, item in tensors.items()}


def _is_constant(key: str) -> bool:
    return key in NOT_WEIGHTS or key.endswith("attn_mask")


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or unknown:
        got = f"{len(missing)} missing {missing[:3]} and {len(unknown)} unknown {unknown[:3]}"
        raise ArtifactError(
            expected="the tensors of a CLIP model", got=got, fix="check which model this is", where=where
        )
    for key, tensor in given.items():
        if tensor.shape != wanted[key].shape:
            expected, got = f"{key} of shape {tuple(wanted[key].shape)}", str(tuple(tensor.shape))
            raise ArtifactError(expected=expected, got=got, fix="check which model this is", where=where)
