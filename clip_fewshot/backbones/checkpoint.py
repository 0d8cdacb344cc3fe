"""Weights files of others: read without running them, checked against the architecture, brought to float32."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clip_fewshot.backbones.architectures import CLIPConfig, infer_config
from clip_fewshot.backbones.archive import read_archive
from clip_fewshot.backbones.backbone import NOT_WEIGHTS, SCALE_KEY, TEXT_PREFIX, Backbone
from clip_fewshot.backbones.huggingface import rename_to_openai
from clip_fewshot.errors import ArtifactError, DataError
from clip_fewshot.runtime.tensor_file import check_tensors

WRAPPERS = ("", "state_dict", "model_state_dict", "model")  # where training scripts put the weights in what they save
# Parts that wrappers put anywhere into names: torch's parallel modules, torch.compile, FSDP, activation checkpoints.
WRAPPER_PARTS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
MAX_NESTING = 8  # dictionaries in dictionaries


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name: OpenAI's archive, ``torch.save`` of a state dict, or safetensors.

    Dictionaries around them are opened; their names are as in the file, see :func:`bare_names`.

    Raises:
        DataError: no such file.
        ArtifactError: another kind of file, a damaged one, or one that would run code.
    """
    if not os.path.isfile(path):
        raise DataError(expected="a file with weights", got="none", fix="check the path", where=str(path))
    if zipfile.is_zipfile(path):
        return _unwrap(read_archive(path), path)
    try:
        check_tensors(path)
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        got = f"another file, or a damaged one ({error})"
        fix = "give OpenAI's archive, a state dict saved by torch >= 1.6, or safetensors"
        raise ArtifactError(expected="a file with weights", got=got, fix=fix, where=str(path)) from error


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
        stated: what these do not show; see :func:`infer_config`.

    Raises:
        ArtifactError: keys or shapes are not the architecture's, or a number is not finite.
    """
    named = {key.removeprefix(TEXT_PREFIX): tensor for key, tensor in rename_to_openai(state, where).items()}
    weights = {key: tensor for key, tensor in named.items() if not _is_constant(key)}
    config = config or infer_config(weights, where, stated)
    backbone = sketch_backbone(config, name)
    _check(weights, backbone.state_dict(), where)
    backbone.load_state_dict(weights)
    for key, tensor in backbone.state_dict().items():
        if not bool(tensor.sum(dtype=torch.float64).isfinite()):  # exact: so few float32 cannot overflow it
            got = "NaN or infinity"
            raise ArtifactError(expected=f"finite numbers in {key}", got=got, fix="get an undamaged copy", where=where)
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


def _unwrap(saved: object, path: Path) -> dict[str, Tensor]:
    """The one state dict of a CLIP model in what a training saved; of several the one that is named as usual."""
    found = _find_states(saved)
    usual = [name for name in WRAPPERS if name in found]
    if len(found) > 1 and not usual:
        got, fix = f"those of {', '.join(sorted(found))[:80]}", "save the one you mean in a file of its own"
        raise ArtifactError(expected="the weights of one model", got=got, fix=fix, where=str(path))
    state = found[usual[0]] if usual else next(iter(found.values()), saved)
    items = state.items() if isinstance(state, dict) else ()
    return {key: item for key, item in items if isinstance(key, str) and isinstance(item, Tensor)}


def _find_states(saved: object) -> dict[str, dict[Any, Any]]:
    """Dictionaries that hold a CLIP's scale, by their dotted names; an optimiser's state holds none."""
    found, seen, waiting = dict[str, dict[Any, Any]](), set[int](), [("", saved)]
    while waiting:
        name, value = waiting.pop()
        if not isinstance(value, dict) or id(value) in seen or name.count(".") > MAX_NESTING:
            continue
        seen.add(id(value))
        if any(str(key).split(".")[-1] == SCALE_KEY for key in value):
            found[name] = value
        waiting += [(f"{name}.{key}".removeprefix("."), inside) for key, inside in value.items()]
    return found


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers add to their names: "module." anywhere, or one prefix of any name before all.

    No CLIP model's names have one of these parts, nor do all begin in the same way.
    """
    parts = {key: [part for part in key.split(".") if part not in WRAPPER_PARTS] for key in state}
    depth = len(common_prefix(parts.values()))
    bare = {".".join(words[depth:]): state[key] for key, words in parts.items()}
    return bare if len(bare) == len(state) else dict(state)  # two of one name: let them be refused as they are


def common_prefix(names: Iterable[Sequence[str]]) -> list[str]:
    """The parts with which all names begin, without the last part of any."""
    columns = zip(*(words[:-1] for words in names), strict=False)  # as many as the shortest has
    return [column[0] for column in takewhile(lambda column: len({*column}) == 1, columns)]


def _is_constant(key: str) -> bool:
    return key in NOT_WEIGHTS or key.endswith("attn_mask")


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or unknown:
        got = f"{len(missing)} missing {missing[:3]} and {len(unknown)} unknown {unknown[:3]}"
        fix = "check which model this is"
        raise ArtifactError(expected="the tensors of a CLIP model", got=got, fix=fix, where=where)
    for key, tensor in given.items():
        if tensor.shape != wanted[key].shape:
            expected, got = f"{key} of shape {tuple(wanted[key].shape)}", str(tuple(tensor.shape))
            raise ArtifactError(expected=expected, got=got, fix="check which model this is", where=where)
