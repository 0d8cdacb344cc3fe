"""A trained model as files and back. What a file names is never imported: see :mod:`clip_fewshot.runtime.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_saved_backbone
from clip_fewshot.errors import ArtifactError
from clip_fewshot.few_shot.approach import Approach, Point
from clip_fewshot.few_shot.build_head import build_head
from clip_fewshot.few_shot.foreign import find_trusted_approach, list_foreign_parts
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.few_shot.objectives import copy_tuned_layers
from clip_fewshot.few_shot.unlabelled import UnlabelledUse
from clip_fewshot.probes import PROBES, Probe, find_probe
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.artifacts import select_part
from clip_fewshot.runtime.parts import ForeignPart, find_stored_part, foreign_parts
from clip_fewshot.tuning import copy_last_layers, finish_tuning
from clip_fewshot.types import LabelSpace

WEIGHTS_FILE = "weights.safetensors"


def collect_model_files(
    backbone: Backbone, approach: Approach, model: TunedModel, labels: LabelSpace, training: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(files, meta) of the trained parts, for :func:`clip_fewshot.runtime.artifacts.save_artifact`."""
    tensors: dict[str, Tensor] = {}
    if model.point.unfreeze:
        tensors |= {f"suffix.{k}": v for k, v in model.suffix.state_dict().items()}
    if model.head is not None:
        tensors |= {f"head.{k}": v for k, v in model.head.state_dict().items()}
    if model.probe is not None:
        tensors |= {f"probe.{k}": torch.as_tensor(v) for k, v in model.probe.to_arrays().items()}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    name, probe = find_probe(training["probe"])
    meta: dict[str, Any] = {
        "backbone": {"name": backbone.name, "digest": backbone.digest},
        "classes": list(labels.names),
        "params": model.point.to_json(),
        "training": {**training, "probe": name},
    }
    if labels.numbers:
        meta["numbers"] = True
    if model.temperature != 1:
        meta["temperature"] = model.temperature
    if model.unlabelled is not None:
        meta["unlabelled"] = model.unlabelled.to_json()
    parts = [*list_foreign_parts(approach), *foreign_parts("probes", name, probe, PROBES)]
    foreign = [list(part) for part in parts]
    return {WEIGHTS_FILE: safetensors.torch.save(stored)}, meta | ({"foreign": foreign} if foreign else {})


def read_backbone(
    meta: Mapping[str, Any], backbone: Backbone | None, trusted: Mapping[str, Any], where: str
) -> Backbone:
    """The backbone that a model was trained on: the given one, or that of the saved name.

    Raises:
        ArtifactError: another backbone than then, or one that only code from outside the library makes.
    """
    name, digest = meta["backbone"]["name"], meta["backbone"]["digest"]
    found = backbone or load_saved_backbone(name, trusted, where)
    if found.digest != digest:
        got = f"{found.name} with weights {found.digest[:12]}..."
        fix = "pass the backbone it was trained on as `backbone`"
        raise ArtifactError(expected=f"backbone {name} {digest[:12]}...", got=got, fix=fix, where=where)
    return found


def read_model(
    files: Mapping[str, bytes], meta: Mapping[str, Any], backbone: Backbone, trusted: Mapping[str, Any], where: str
) -> tuple[Approach, TunedModel, LabelSpace]:
    """What :func:`collect_model_files` wrote.

    Args:
        trusted: foreign parts by the name that the file has for them.

    Raises:
        ArtifactError: a foreign approach or probe that was not passed, or that has other code than then.
    """
    point, labels = Point.from_json(meta["params"]), LabelSpace(tuple(meta["classes"]), numbers="numbers" in meta)
    foreign = [part for part in _foreign(meta) if part.name == point.approach]
    approach = find_trusted_approach(point.approach, foreign, trusted, where)
    tensors = safetensors.torch.load(files[WEIGHTS_FILE])
    _, probe = find_probe(read_probe(meta, approach, trusted, where))
    model = _rebuild(backbone, approach, point, len(labels), tensors, probe)
    used = UnlabelledUse(**meta["unlabelled"]) if "unlabelled" in meta else None
    return approach, replace(model, temperature=float(meta.get("temperature", 1.0)), unlabelled=used), labels


def read_probe(
    meta: Mapping[str, Any], approach: Approach, trusted: Mapping[str, Any], where: str
) -> str | type[Probe]:
    """The name of the probe that a model was trained with, or the class of a foreign one.

    Args:
        approach: whose probe is as trusted as it is.

    Raises:
        ArtifactError: a foreign probe that was not passed, or that has other code than then.
    """
    name: str = meta["training"].get("probe", "logistic")
    passed = {**dict([find_probe(approach.probe)]), **trusted}
    part = find_stored_part("probes", name, _foreign(meta), PROBES, passed, where)
    return name if name in PROBES else part


def _foreign(meta: Mapping[str, Any]) -> list[ForeignPart]:
    return [ForeignPart(*part) for part in meta.get("foreign", [])]


def _rebuild(
    backbone: Backbone,
    approach: Approach,
    point: Point,
    n_classes: int,
    tensors: Mapping[str, Tensor],
    probe: type[Probe],
) -> TunedModel:
    if approach.towers == "none":
        suffix = copy_last_layers(backbone.visual, 0)
    else:
        with rng.seed_torch(0, "blank suffix"):
            suffix = finish_tuning(copy_tuned_layers(approach, backbone.visual, point.unfreeze, point.part_options()))
    if point.unfreeze:
        suffix.load_state_dict(select_part(tensors, "suffix"))
    suffix.eval().requires_grad_(False)
    if approach.ends_in == "probe":
        arrays = {k: v.numpy() for k, v in select_part(tensors, "probe").items()}
        return TunedModel(point, suffix, None, probe.from_arrays(arrays))
    with rng.seed_torch(0, "blank head"):
        head = build_head(backbone, approach, point, n_classes)
    head.load_state_dict(select_part(tensors, "head"))
    return TunedModel(point, suffix, head.to(backbone.device).eval().requires_grad_(False), None)
