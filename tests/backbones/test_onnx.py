"""Towers as ONNX files of any number of pictures of any size."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clip_fewshot.backbones import onnx as exporting
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.onnx import TowerGraph, check_graph, run_graph, write_graph
from clip_fewshot.data.image import resize_crop
from clip_fewshot.errors import ResourceError, UsageError
from tests.backbones.conftest import pixels


def draw(n: int, height: int, width: int) -> Any:
    """Pictures of a few shades that run into one another, and noise on them."""
    random = np.random.default_rng(0)
    steps = random.integers(-9, 10, size=(n, height, width, 3))
    return np.clip(np.cumsum(steps, axis=2) + 128, 0, 255).astype(np.uint8)


def encode(backbone: Backbone, pictures: Any) -> dict[str, Any]:
    with torch.no_grad():
        batch = torch.stack([backbone.preprocess(Image.fromarray(picture)) for picture in pictures])
        return {"features": backbone.encode_image(batch).numpy()}


def test_a_tower_does_not_depend_on_the_number_of_inputs(small: Backbone) -> None:
    """What ONNX needs, and torch.export: ``len(tensor)`` anywhere would fix it."""
    shapes = ({0: torch.export.Dim("batch", min=1, max=1 << 20)},)
    inputs = pixels(small.config, 3)
    with torch.no_grad():
        program = torch.export.export(small.visual, (inputs[:2],), dynamic_shapes=shapes, strict=False)
        for n in (1, 3):
            torch.testing.assert_close(program.module()(inputs[:n]), small.visual(inputs[:n]), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_file_takes_any_number_of_pictures(small: Backbone) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    data = write_graph(TowerGraph(small).eval(), small, {"model": "small"})
    squares = draw(64, small.image_size, small.image_size)
    expected = encode(small, squares)
    worst = check_graph(data, squares, expected, {"features": 1e-5})
    assert worst["features"] > 0  # another library's sums
    with pytest.raises(UsageError, match="differences of "):
        check_graph(data, squares, {"features": expected["features"] + 1e-3}, {"features": 1e-4}, [3])


class Squares(nn.Module):
    """What a tower is given, before it is normalised."""

    outputs = ("seen",)

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        return (squares.float(),)


def test_pictures_of_any_size_are_resized_and_cropped_as_by_pillow(tiny: Backbone) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    data, size = write_graph(Squares(), tiny, {}), tiny.image_size
    for height, width in ((size, size), (size, 2 * size + 1), (3 * size, size + 7), (size // 2, size // 3), (97, 203)):
        pictures = draw(20, height, width)
        found = run_graph(data, pictures)["seen"].transpose(0, 2, 3, 1)
        expected = np.stack([np.asarray(resize_crop(Image.fromarray(picture), size)) for picture in pictures])
        off = np.abs(found - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 2e-3
        assert height != size or width != size or off.max() == 0


def test_what_no_file_can_hold_is_refused_before_any_work(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")

    class Squashed(Backbone):
        def preprocess(self, image: Image.Image) -> Tensor:
            return super().preprocess(image.resize((16, 16)))

    with pytest.raises(UsageError, match="CLIP's preprocessing"):
        write_graph(TowerGraph(tiny), Squashed(tiny.config), {})
    monkeypatch.setattr(exporting, "LARGEST_FILE", 1000)
    with pytest.raises(UsageError, match="2 GiB"):
        write_graph(TowerGraph(tiny), tiny, {})


def test_a_layer_that_onnx_cannot_express_is_an_error_of_one_line(tiny: Backbone) -> None:
    pytest.importorskip("onnxscript")

    class Counting(TowerGraph):
        def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
            return (super().forward(squares)[0] * float(squares.float().mean().item() > 3),)

    with pytest.raises(UsageError, match="layers that ONNX can express") as caught:
        write_graph(Counting(tiny).eval(), tiny, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_packages_the_extra_is_named(package: str, tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python keeps of a package that is not there
    with pytest.raises(ResourceError, match=r"clip-fewshot\[onnx\]"):
        write_graph(TowerGraph(tiny), tiny, {})
