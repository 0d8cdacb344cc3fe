"""What a fine-tuning leaves behind on the disk, and how it comes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from clip_fewshot.backbones import pair
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.contrastive.finetuning import TOWERS, FineTuning, make_tunable, merge_heads
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime.artifacts import MANIFEST, artifact_kind, open_artifact, save_artifact
from clip_fewshot.tuning import prompts
from clip_fewshot.tuning.added_heads import AttentiveTower
from clip_fewshot.tuning.prompts import PromptedTransformer, load_prompts, save_prompts

TUNED_KIND = "attention heads"
TUNED_WEIGHTS = "trained.safetensors"


def save_tuned(tuned: Backbone, folder: Path, overwrite: bool = False) -> dict[str, str]:
    """Write a tuned model, as little of it as makes it whole again beside the pretrained one.

    Prompts alone where they are what was trained; with attention heads, which no projection takes in, all that was
    trained; otherwise a backbone of its own, or a pair's weights. ``overwrite`` is that of :func:`save_artifact`.

    Returns:
        what the header of a whole backbone's file says of it, a warning perhaps; else nothing.
    """
    if isinstance(tuned.visual, PromptedTransformer):
        save_prompts(tuned, folder, overwrite)
    elif _attentive(tuned):
        _save_heads(tuned, folder, overwrite)
    elif isinstance(tuned, PairBackbone):
        merge_heads(tuned).save(folder, overwrite)  # type: ignore[operator]
    else:
        save_backbone(merge_heads(tuned), folder, half=False, overwrite=overwrite)
        return tuned.header()
    return {}


def load_tuned(folder: str | Path, backbone: Backbone) -> Backbone:
    """What :func:`save_tuned` wrote, on the device and in the precision of ``backbone``.

    Args:
        folder: or any weights that :func:`load_backbone` reads.
        backbone: the pretrained one, left as it is.

    Raises:
        UsageError: a pair's weights, and ``backbone`` is no pair.
        ArtifactError: damaged files, or what was trained beside another backbone.
    """
    place = Path(folder)
    kind = artifact_kind(place) if os.path.isfile(place / MANIFEST) else ""
    if kind == prompts.PROMPTS_KIND:
        return load_prompts(place, backbone)
    if kind == pair.PAIR_KIND:
        if not isinstance(backbone, PairBackbone):
            fix = "name the pair it was trained from, python:MODULE:FUNCTION"
            expected = "a pair of encoders, which these weights are of"
            raise UsageError(expected=expected, got=backbone.name, fix=fix, where=str(place))
        return backbone.load_weights(place)
    if kind:
        return _load_heads(place, backbone)
    return load_backbone(str(folder), device=str(backbone.device), dtype=backbone.activation_dtype)


def _attentive(tuned: Backbone) -> list[str]:
    return [name for name, tower in TOWERS.items() if isinstance(getattr(tuned, tower), AttentiveTower)]


def _save_heads(tuned: Backbone, folder: Path, overwrite: bool) -> None:
    trained = {name: p.detach().cpu().contiguous() for name, p in tuned.named_parameters() if p.requires_grad}
    towers = _attentive(tuned)
    foundation = getattr(tuned, TOWERS[towers[0]]).foundation
    files = {TUNED_WEIGHTS: safetensors.torch.save(trained)}
    save_artifact(folder, TUNED_KIND, files, {"foundation": foundation, "towers": towers}, overwrite)


def _load_heads(folder: Path, backbone: Backbone) -> Backbone:
    with open_artifact(folder, TUNED_KIND) as (meta, files):
        return _with_heads(meta, files, folder, backbone)


def _with_heads(meta: dict[str, Any], files: dict[str, bytes], folder: Path, backbone: Backbone) -> Backbone:
    if meta["foundation"] != backbone.digest:
        expected, got = f"weights {meta['foundation'][:12]}...", f"{backbone.name} with {backbone.digest[:12]}..."
        fix = "pass the backbone that the heads were trained on"
        raise ArtifactError(expected=expected, got=got, fix=fix, where=str(folder))
    lock = next((name for name in TOWERS if name not in meta["towers"]), "none")
    result = make_tunable(backbone, FineTuning(unfreeze=0, lock=lock, head="attention"))  # type: ignore[arg-type]
    parameters = dict(result.named_parameters())
    with torch.no_grad():
        for name, tensor in safetensors.torch.load(files[TUNED_WEIGHTS]).items():
            parameters[name].copy_(tensor)
    return result
