"""A model as one ONNX file, written only where onnxruntime gives the answers of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.onnx import CHECKED_BATCHES, TowerGraph, check_graph, write_graph
from clip_fewshot.data.image import normalise
from clip_fewshot.runtime.files import write_bytes
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.runtime.rng import generator


def export_onnx(model: Backbone, path: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write ``model`` to ``path``; what onnxruntime differs by, at most, and the size.

    Args:
        model: a backbone: (n, h, w, 3) bytes of upright RGB pictures -> "features" (n, d), not normalised.
        overwrite: replace a file that is there.

    Raises:
        ResourceError: the extra "onnx" is not installed, or something else lies at ``path``.
        UsageError: what cannot be exported, or what onnxruntime answers otherwise. Nothing has been written.
    """
    target = check_file(Path(path), overwrite)
    backbone = model.cpu().eval()
    data = write_graph(TowerGraph(backbone).eval(), backbone, {"model": backbone.name, "digest": backbone.digest})
    off = check_graph(data, _draw_squares(backbone.image_size), lambda squares: _encode(backbone, squares))
    write_bytes(target, data)
    return {"bytes": len(data), "checked": list(CHECKED_BATCHES), "differences": off}


def _encode(backbone: Backbone, squares: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    pixels = torch.from_numpy(normalise(squares, backbone.mean, backbone.std))
    with torch.no_grad():
        return {"features": backbone.encode_image(pixels).numpy()}


def _draw_squares(size: int) -> NDArray[np.uint8]:
    """Pictures of noise, from coarse to fine: their features differ more than those of photographs."""
    random, found = generator(0, "pictures to check an export"), []
    for _ in range(max(CHECKED_BATCHES)):
        cells = int(random.integers(1, size + 1))
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        at = np.arange(size) * cells // size
        found.append(noise[at][:, at])
    return np.stack(found)
