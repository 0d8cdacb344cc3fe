"""An open-world classifier as files: the model now, and every model that an undo can go back to."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config import AUTO
from clip_fewshot.data.squares import decode_squares, encode_squares
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.novelty import DETECTORS, DetectorPart
from clip_fewshot.open_world.fitted import Fitted, KnownPictures, Naming, Step, needs_pictures
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.runtime.parts import find_trusted_part
from clip_fewshot.types import LabelSpace

WORLD_WEIGHTS, REJECTOR, REFERENCE_WEIGHTS = "weights.safetensors", "rejector.safetensors", "reference.safetensors"


class Saved(NamedTuple):
    """What is written: the model now, its history, oldest first, and what was ever named."""

    now: Fitted
    steps: list[Step]
    shown: frozenset[str]


def write_world(model: FewShotClassifier, saved: Saved) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(files, meta). What a naming only adds to, the classes and the known pictures, is written once."""
    files, meta = _fitted_files(model, saved.now, "")
    meta |= {"namings": [], "shown": sorted(saved.shown)}
    for i, (naming, before, _) in enumerate(saved.steps):
        own, about = _fitted_files(model, before, f"before-{i}.")
        files |= own
        kept = {"classes": len(before.names), "known": len(before.known.labels), "rejector": about["rejector"]}
        kept |= {name: about[name] for name in ("temperature",) if name in about}
        meta["namings"].append(naming.to_json() | {"before": kept})
    features, labels = saved.now.known.frozen, saved.now.known.labels
    files[REFERENCE_WEIGHTS] = safetensors.numpy.save({"features": features, "labels": labels})
    pictures = saved.now.known.pictures
    if pictures is not None and needs_pictures(model.point, model.views, saved.now.rejector):
        squares = encode_squares(pictures, model.backbone.image_size)
        ends = [*(len(before.known.labels) for _, before, _ in saved.steps), len(squares)]
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            files[_pictures(i)] = _pack(squares[start:end])  # a file per naming: what was there stays as it is
    return files, meta


def load_world(
    files: dict[str, bytes],
    meta: dict[str, Any],
    backbone: Backbone | None,
    where: str,
    trusted: Mapping[str, Any],
) -> tuple[FewShotClassifier, Saved]:
    """The inverse of :func:`write_world`. Files of releases that kept no history have none."""
    model = FewShotClassifier.from_artifact(files, meta, backbone, where, trusted)

    def rejector(about: dict[str, Any] | None, prefix: str) -> Rejector | None:
        if about is None:
            return None
        tensors = safetensors.torch.load(files[f"{prefix}{REJECTOR}"])
        return Rejector.from_tensors(about, tensors, model.backbone, trusted, where)

    names, known = model.label_space_, _read_known(files)
    now = Fitted(model.model_, names, rejector(meta["rejector"], ""), known)
    steps = []
    for i, record in enumerate(meta.get("namings", [])):
        kept, prefix = record["before"], f"before-{i}."
        space = LabelSpace(names.names[: kept["classes"]])
        own = {WORLD_WEIGHTS: files[f"{prefix}{WORLD_WEIGHTS}"]}
        about = meta | {"classes": list(space.names), "temperature": kept.get("temperature", 1.0)}
        old = FewShotClassifier.from_artifact(own, about, model.backbone, where, trusted)
        before = Fitted(old.model_, space, rejector(kept["rejector"], prefix), known.first(kept["known"]))
        steps.append(Step(Naming.from_json(record), before, []))
    return model, Saved(now, steps, frozenset(meta.get("shown", [])))


def read_detector(name: str, trusted: Mapping[str, Any], where: str) -> str | DetectorPart:
    """What a classifier was asked to detect with, by the ``name`` in its files."""
    if name in (AUTO, *DETECTORS):
        return name
    part: DetectorPart = find_trusted_part("detectors", name, {}, trusted, where)
    return part


def _fitted_files(model: FewShotClassifier, fitted: Fitted, prefix: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    own, meta = model.collect_files(fitted.model, fitted.names)
    files, rejector = {f"{prefix}{name}": data for name, data in own.items()}, fitted.rejector
    meta["rejector"] = None
    if rejector is not None:
        files[f"{prefix}{REJECTOR}"] = safetensors.torch.save(rejector.to_tensors())
        meta["rejector"] = rejector.about()
    return files, meta


def _read_known(files: dict[str, bytes]) -> KnownPictures:
    reference = safetensors.numpy.load(files[REFERENCE_WEIGHTS])
    squares: list[bytes] = []
    for i in count():
        if _pictures(i) not in files:
            break
        stored = safetensors.numpy.load(files[_pictures(i)])
        starts = [0, *stored["ends"].tolist()]  # none but the first where a class came by its name only
        squares += [stored["png"][start:end].tobytes() for start, end in pairwise(starts)]
    pictures = decode_squares(squares, [f"known picture {i}" for i in range(len(squares))]) if squares else None
    return KnownPictures(reference["features"], reference["labels"], pictures)


def _pictures(i: int) -> str:
    return f"pictures-{i}.safetensors"


def _pack(squares: list[bytes]) -> bytes:
    ends = np.cumsum([len(square) for square in squares], dtype=np.int64)
    return safetensors.numpy.save({"png": np.frombuffer(b"".join(squares), np.uint8), "ends": ends})
