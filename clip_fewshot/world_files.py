"""An open-world classifier as files: the model now, and every model that an undo can go back to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import safetensors.torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.classifier import FewShotClassifier
from clip_fewshot.data.squares import decode_squares, encode_squares
from clip_fewshot.extension import Fitted, KnownPictures, Naming, needs_pictures
from clip_fewshot.rejection import Rejector
from clip_fewshot.types import LabelSpace

WEIGHTS, REJECTOR, REFERENCE = "weights.safetensors", "rejector.safetensors", "reference.safetensors"
PICTURES = "pictures.safetensors"


class Saved(NamedTuple):
    """What is written: the model now, each naming with the model before it, oldest first, and what was ever named."""

    now: Fitted
    steps: list[tuple[Naming, Fitted]]
    shown: frozenset[str]


def world_files(model: FewShotClassifier, saved: Saved) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(files, meta). What a naming only adds to, the classes and the known pictures, is written once."""
    files, meta = _fitted_files(model, saved.now, "")
    meta |= {"namings": [], "shown": sorted(saved.shown)}
    for i, (naming, before) in enumerate(saved.steps):
        own, about = _fitted_files(model, before, f"before-{i}.")
        files |= own
        kept = {"classes": len(before.names), "known": len(before.known.labels), "rejector": about["rejector"]}
        meta["namings"].append(naming.to_json() | {"before": kept})
    features, labels = saved.now.known.frozen, saved.now.known.labels
    files[REFERENCE] = safetensors.numpy.save({"features": features, "labels": labels})
    pictures = saved.now.known.pictures
    if pictures is not None and needs_pictures(model.params, model.views, saved.now.rejector):
        squares = encode_squares(pictures, model.backbone.image_size)
        data = np.frombuffer(b"".join(squares), np.uint8)
        files[PICTURES] = safetensors.numpy.save({"png": data, "ends": np.cumsum([len(s) for s in squares])})
    return files, meta


def read_world(
    files: dict[str, bytes], meta: dict[str, Any], backbone: Backbone | None, where: str
) -> tuple[FewShotClassifier, Saved]:
    """The inverse of :func:`world_files`. Files of releases that kept no history have none."""
    model = FewShotClassifier.from_artifact(files, meta, backbone, where)
    names, known = model.label_space_, _read_known(files)
    now = Fitted(model.model_, names, _read_rejector(files, meta["rejector"], "", model.backbone), known)
    steps = []
    for i, record in enumerate(meta.get("namings", [])):
        kept, prefix = record["before"], f"before-{i}."
        space = LabelSpace(names.names[: kept["classes"]])
        own = {WEIGHTS: files[f"{prefix}{WEIGHTS}"]}
        old = FewShotClassifier.from_artifact(own, meta | {"classes": list(space.names)}, model.backbone, where)
        rejector = _read_rejector(files, kept["rejector"], prefix, model.backbone)
        steps.append((Naming.from_json(record), Fitted(old.model_, space, rejector, known.first(kept["known"]))))
    return model, Saved(now, steps, frozenset(meta.get("shown", [])))


def _fitted_files(model: FewShotClassifier, fitted: Fitted, prefix: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    training = {"epochs": model.epochs, "views": model.views, "seed": model.seed, "probe": model.probe}
    own, meta = FewShotClassifier.from_model(model.backbone, fitted.model, fitted.names, **training).to_artifact()
    files, rejector = {f"{prefix}{name}": data for name, data in own.items()}, fitted.rejector
    meta["rejector"] = None
    if rejector is not None:
        files[f"{prefix}{REJECTOR}"] = safetensors.torch.save(rejector.to_tensors())
        meta["rejector"] = rejector.about()
    return files, meta


def _read_rejector(
    files: dict[str, bytes], about: dict[str, Any] | None, prefix: str, backbone: Backbone
) -> Rejector | None:
    if about is None:
        return None
    tensors = safetensors.torch.load(files[f"{prefix}{REJECTOR}"])
    return Rejector.from_tensors(about, tensors, backbone)


def _read_known(files: dict[str, bytes]) -> KnownPictures:
    reference = safetensors.numpy.load(files[REFERENCE])
    pictures = None
    if PICTURES in files:
        stored = safetensors.numpy.load(files[PICTURES])
        squares = [part.tobytes() for part in np.split(stored["png"], stored["ends"][:-1])]
        pictures = decode_squares(squares, [f"known picture {i}" for i in range(len(squares))])
    return KnownPictures(reference["features"], reference["labels"], pictures)
