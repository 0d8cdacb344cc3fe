"""An image tower, or what goes on from one, as a single ONNX file that takes pictures of any size and number.

The file begins with the bytes of pictures: resizing, cropping and normalising are inside. What decodes a file stays
outside. Resized pictures differ from Pillow's by one of 256 levels in less than one number of a thousand; pictures that
have the size of the model already are not touched. ``len(tensor)`` in a tower would fix the number of pictures, so
that towers ask for ``shape[0]``.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.image import preprocess
from clip_fewshot.errors import ResourceError, UsageError

PICTURES_INPUT, SQUARES = "pictures", "squares"
CHECKED_BATCHES = (1, 3, 64)
AGREES = 1e-4  # of the largest number that Python gives, or of 1
LARGEST_FILE = 1 << 31  # bytes: a protocol buffer holds no more
OPSET = 18  # the first whose Resize smooths what it makes smaller
INSTALL = "pip install 'clip-fewshot[onnx]'"
# Pillow's bicubic filter, which rounds between its two passes: columns first, but rows where a picture is more than
# twice as high as wide and is made lower. The other roundings are those of data/image.py: the long side is cut to an
# integer, and the margin is rounded half to even, as ONNX's Round does.
RESIZE_CROP = """
<ir_version: 10, opset_import: ["" : 18]>
pictures (uint8[batch, height, width, 3] pictures) => (uint8[batch, 3, {size}, {size}] squares) {{
  planes = Transpose<perm = [0, 3, 1, 2]>(pictures)
  side = Constant<value_ints = [{size}]>()
  shape = Shape<start = 1, end = 3>(pictures)
  short = ReduceMin<keepdims = 1>(shape)
  longer = Mul(shape, side)
  sides = Div(longer, short)
  height = Shape<start = 1, end = 2>(pictures)
  width = Shape<start = 2, end = 3>(pictures)
  twice = Add(width, width)
  height_after, width_after = Split<num_outputs = 2>(sides)
  tall = Greater(height, twice)
  lower = Greater(height, height_after)
  upright = And(tall, lower)
  rows_first = Concat<axis = 0>(height_after, width)
  columns_first = Concat<axis = 0>(height, width_after)
  between = Where(upright, rows_first, columns_first)
  start = Shape<start = 0, end = 2>(planes)
  sizes_between = Concat<axis = 0>(start, between)
  sizes = Concat<axis = 0>(start, sides)
  half_way = Resize<mode = "cubic", cubic_coeff_a = -0.5, antialias = 1, exclude_outside = 1>(planes, , , sizes_between)
  resized = Resize<mode = "cubic", cubic_coeff_a = -0.5, antialias = 1, exclude_outside = 1>(half_way, , , sizes)
  spare = Sub(sides, side)
  spare_real = Cast<to = 1>(spare)
  two = Constant<value_float = 2.0>()
  half = Div(spare_real, two)
  rounded = Round(half)
  first = Cast<to = 7>(rounded)
  last = Add(first, side)
  axes = Constant<value_ints = [2, 3]>()
  squares = Slice(resized, first, last, axes)
}}
"""

NamedArrays = Mapping[str, NDArray[Any]]


class PreparedPictures(nn.Module):
    """(b, 3, s, s) bytes -> float32 with mean and deviation of each channel taken out, as ``Backbone.preprocess``."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None])

    def forward(self, squares: Tensor) -> Tensor:
        """In the order of operations of :func:`clip_fewshot.data.image.normalise`."""
        return (squares.float() / 255 - self.mean) / self.std


class TowerGraph(nn.Module):
    """Bytes of pictures -> features of the untuned image tower, not normalised."""

    outputs = ("features",)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.prepare, self.visual = PreparedPictures(backbone), backbone.visual

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, s, s) uint8 -> ((b, d),)."""
        return (self.visual(self.prepare(squares)),)


def write_graph(graph: nn.Module, backbone: Backbone, about: Mapping[str, Any]) -> bytes:
    """The ONNX file of a module from bytes of squares to a tuple of tensors that it names in ``outputs``.

    Args:
        graph: on the CPU and in evaluation mode, without code that depends on how many pictures there are.
        backbone: whose preprocessing goes in front.
        about: is kept in the file, each value as JSON.

    Raises:
        ResourceError: the packages of the extra "onnx" are not installed.
        UsageError: a module that cannot be exported, more than 2 GiB, or pictures that are prepared otherwise.
    """
    onnx = _import_onnx()
    _check_prepared(backbone)
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if size >= LARGEST_FILE:
        fix, got = "choose a smaller backbone", f"{size / 2**30:.1f} GiB"
        raise UsageError(expected="weights below 2 GiB, the limit of a file", got=got, fix=fix, where=backbone.name)
    names = [str(name) for name in getattr(graph, "outputs", ())]
    example = torch.zeros((2, 3, backbone.image_size, backbone.image_size), dtype=torch.uint8)
    try:
        with torch.no_grad(), _quiet():
            dim = torch.export.Dim("batch", min=1, max=1 << 20)
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: dim},), strict=False)
            made: Any = torch.onnx.export(
                program, opset_version=OPSET, input_names=[SQUARES], output_names=names, verbose=False
            )
    except Exception as error:  # torch raises errors of many kinds, some of them pages long
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        fix = "choose another backbone or approach, or export its features"
        raise UsageError(expected="layers that ONNX can express", got=said, fix=fix, where=backbone.name) from error
    front = onnx.parser.parse_model(RESIZE_CROP.format(size=backbone.image_size))
    main = made.model_proto
    front.ir_version = main.ir_version
    whole = onnx.compose.merge_models(front, main, io_map=[(SQUARES, SQUARES)])
    onnx.helper.set_model_props(whole, {name: json.dumps(value) for name, value in about.items()})
    return bytes(whole.SerializeToString())


def run_graph(data: bytes, pictures: NDArray[np.uint8]) -> NamedArrays:
    """What onnxruntime makes of (b, h, w, 3) pictures with the file ``data``, on the CPU."""
    _import_onnx()
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {PICTURES_INPUT: pictures}), strict=True))


def check_graph(
    data: bytes,
    pictures: NDArray[np.uint8],
    expected: NamedArrays,
    room: Mapping[str, float],
    batches: Sequence[int] = CHECKED_BATCHES,
) -> dict[str, float]:
    """The largest difference of each output from what Python gives, over all ``batches``.

    Args:
        pictures: (n, h, w, 3). expected: of each output; what is not a number is not compared.
        room: the difference that an output may have, of the largest number that is expected or of 1.

    Raises:
        UsageError: it has more: no such file is worth writing.
    """
    worst = dict.fromkeys(expected, 0.0)
    for n in batches:
        found = run_graph(data, pictures[:n])
        for name, value in expected.items():
            wanted = np.asarray(value[:n], np.float64)
            off = np.abs(np.asarray(found[name], np.float64) - wanted)
            worst[name] = max(worst[name], float(np.nanmax(off, initial=0) / np.nanmax(np.abs(wanted), initial=1)))
    wrong = {name: f"{off:.2g}" for name, off in worst.items() if not off <= room[name]}
    if wrong:
        fix = "report it; nothing was written"
        raise UsageError(expected="what Python answers", got=f"differences of {wrong}", fix=fix, where="onnx")
    return worst


def _check_prepared(backbone: Backbone) -> None:
    """Refuse pictures that are prepared otherwise than the file does it; a trial picture tells."""
    trial = Image.fromarray(np.arange(47 * 61 * 3, dtype=np.uint8).reshape(47, 61, 3))
    wanted = preprocess(trial, backbone.image_size, backbone.mean, backbone.std)
    if not np.array_equal(backbone.preprocess(trial).numpy(), wanted):
        fix = "choose a backbone whose pictures are resized and cropped as CLIP's are"
        raise UsageError(expected="CLIP's preprocessing", got="another", fix=fix, where=backbone.name)


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.compose
        import onnx.parser
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            expected="the packages onnx, onnxscript and onnxruntime", got=str(error), fix=INSTALL, where="onnx"
        ) from error
    return onnx


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that are not there."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
