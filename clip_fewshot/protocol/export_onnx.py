"""A model as one ONNX file, written only where onnxruntime gives the answers of Python."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.onnx import AGREES, CHECKED_BATCHES, NamedArrays, TowerGraph, check_graph, write_graph
from clip_fewshot.conformal.bags import ALONE
from clip_fewshot.data.builtin import digits
from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.image import normalise, resize_crop
from clip_fewshot.open_world.answers import Answer, select_possible
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.fitted import Fitted
from clip_fewshot.open_world.onnx import NO_CLASS_NUMBER, build_answer_graph
from clip_fewshot.runtime.files import write_bytes
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.runtime.parts import check_instance
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.runtime.rng import generator


def export_onnx(model: Backbone | OpenWorldClassifier, path: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write ``model`` as one ONNX file from bytes of pictures, (n, h, w, 3) upright RGB, to what it says of them.

    A backbone gives "features" (n, d), not normalised. A classifier gives "label" (n,), the number of the class or -1
    for unknown, and "probabilities" (n, c); with a detector "p_value" and "score" (n,), each picture as if it had come
    alone; and, where sets are calibrated, "possible" (n, c), the classes that cannot be ruled out. The names of the
    classes stand in the file's metadata, "classes", as JSON.

    Args:
        overwrite: replace a file that is there.

    Returns:
        {"bytes": size, "checked": the numbers of pictures, "differences": by output, the largest from Python}.

    Raises:
        ResourceError: the extra "onnx" is not installed, or something else lies at ``path``.
        UsageError: a probe, detector or layer that cannot be exported, or other answers than Python's. Nothing has
            been written.
    """
    target = check_file(as_path(path, "path"), overwrite)
    if isinstance(model, OpenWorldClassifier):
        model.calibrate_quickly()
        data = _write_world(model)
        squares = _choose_squares(model.model.backbone.image_size)
        with _in_single_precision(model.model.backbone):
            expected, room = _answer(model, squares)
    else:
        check_instance(model, Backbone, "pass load_backbone(...) or a fitted OpenWorldClassifier", "model")
        backbone = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        backbone.activation_dtype = torch.float32
        data = write_graph(TowerGraph(backbone).eval(), backbone, {"model": model.name, "backbone": model.digest})
        squares = _choose_squares(model.image_size)
        expected = _encode(backbone, squares)
        room = {"features": AGREES * min(1.0, float(np.abs(expected["features"]).max()))}
    off = check_graph(data, squares, expected, room)
    write_bytes(target, data)
    return {"bytes": len(data), "checked": list(CHECKED_BATCHES), "differences": off}


@contextmanager
def _in_single_precision(backbone: Backbone) -> Iterator[None]:
    """The file computes so; on a GPU Python usually does not."""
    before, backbone.activation_dtype = backbone.activation_dtype, torch.float32
    try:
        yield
    finally:
        backbone.activation_dtype = before


def _fitted(world: OpenWorldClassifier) -> Fitted:
    return Fitted(world.model.model_, world.model.label_space_, world.rejector_, world.known_)


def _write_world(world: OpenWorldClassifier) -> bytes:
    backbone: Backbone = copy.deepcopy(world.model.backbone).cpu()
    graph = build_answer_graph(backbone, _fitted(world), world.alpha_)
    detector = None if world.rejector_ is None else world.rejector_.chosen.detector
    about = {"classes": list(world.model.label_space_.names), "alpha": world.alpha_, "unknown": NO_CLASS_NUMBER}
    about |= {"detector": detector, "model": backbone.name, "backbone": backbone.digest}
    return write_graph(graph, backbone, about)


def _encode(backbone: Backbone, squares: NDArray[np.uint8]) -> NamedArrays:
    pixels = torch.from_numpy(normalise(squares, backbone.mean, backbone.std))
    with torch.no_grad():
        return {"features": backbone.encode_image(pixels).numpy()}


def _answer(world: OpenWorldClassifier, squares: NDArray[np.uint8]) -> tuple[NamedArrays, dict[str, float]]:
    """What Python says, with nan for what the last bits of features decide, and the room that each output has.

    A p-value that is a rank alone jumps by 1 / (n + 1) where a score passes another.
    """
    names, rejector, alpha = world.model.label_space_.names, world.rejector_, world.alpha_
    sight = world.look(collect_images([Image.fromarray(one) for one in squares], purpose="predict"))
    answers = world.judge(sight, top=len(names))
    room = dict.fromkeys(("label", "probabilities", "p_value", "score", "possible"), AGREES)
    if rejector is not None and not (rejector.levelled and rejector.n_calibration <= ALONE):
        room["p_value"] += 2 / (rejector.n_calibration + 1)
    said: dict[str, NDArray[Any]] = {
        "label": np.array([_number(one, names, alpha, room["p_value"]) for one in answers]),
        "probabilities": np.array([[dict(one.top)[name] for name in names] for one in answers]),
    }
    if rejector is not None:
        said |= {name: np.array([getattr(one, name) for one in answers]) for name in ("p_value", "score")}
    if answers[0].possible is not None:
        near = [select_possible(_fitted(world), alpha, said["probabilities"] * by) for by in (1 - AGREES, 1 + AGREES)]
        inside = [np.array([[name in (one or ()) for name in names] for one in sets]) for sets in near]
        said["possible"] = np.where(inside[0] == inside[1], inside[0], np.nan)
    return said, {name: room[name] for name in said}


def _number(answer: Answer, names: tuple[str, ...], alpha: float, room: float) -> float:
    (_, first), *rest = answer.top
    close = bool(rest) and first - rest[0][1] < 2 * AGREES
    if close or abs(answer.p_value - alpha) <= room:
        return np.nan
    return NO_CLASS_NUMBER if answer.label is None else names.index(answer.label)


def _choose_squares(size: int) -> NDArray[np.uint8]:
    """Digits, and noise from coarse to fine, whose features differ more than those of photographs."""
    random, scans = generator(0, "pictures to check an export"), digits()
    found = [np.asarray(resize_crop(scans.open(i), size)) for i in range(max(CHECKED_BATCHES) // 2)]
    while len(found) < max(CHECKED_BATCHES):
        cells = int(random.integers(1, size + 1))
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        at = np.arange(size) * cells // size
        found.append(noise[at][:, at])
    return np.stack(found)
