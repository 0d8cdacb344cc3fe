"""Tensors written and read one at a time, so that a file of any size takes no second copy of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime.reading import open_regular

# Names of the format, in the order in which it stores what they name: the widest first.
DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
DTYPE_ORDER = {dtype: place for place, dtype in enumerate(DTYPES.values())}
PIECE = 1 << 24  # values that are copied at a time where they lie on a device, or in no order
HELD = 1 << 28  # bytes that reading may map at a time
MOST_TENSORS = 20_000  # in a file; the largest CLIP has 2,000
ALIGNMENT = 8  # bytes, of the header's end
Form = tuple[tuple[int, ...], torch.dtype]


class TensorFile:
    """The bytes that ``safetensors.torch.save`` gives, piece by piece, for :func:`write_pieces`.

    That function makes the whole file in memory, beside a copy of every tensor, because it refuses tensors that share
    memory as tied weights do: three times a training's state at each checkpoint. Its ``save_file`` did the same before
    release 0.6, and still wants everything on the CPU at once.

    Args:
        tensors: by name, not copied; they must stay as they are until they are written.
        metadata: texts by name, for the file's header.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        order = sorted(tensors, key=lambda name: (DTYPE_ORDER[tensors[name].dtype], name))
        self._tensors = [tensors[name].detach() for name in order]
        header, end = dict[str, object](), 0
        if metadata:
            header["__metadata__"] = dict(metadata)
        for name, tensor in zip(order, self._tensors, strict=True):
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._head = len(text).to_bytes(8, "little") + text
        self.size = len(self._head) + end

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield self._head
        for tensor in self._tensors:
            for piece in torch.split(tensor.reshape(-1), PIECE) if tensor.numel() else ():
                yield piece.cpu().contiguous().view(torch.uint8).numpy().data


def check_tensors(path: Path) -> None:
    """Refuse what is no safetensors file, by its header: its length is that of its tensors, of which it has few.

    Raises:
        OSError: a pipe or device, or what the system refuses. safetensors.SafetensorError: another kind of file.
    """
    with open_regular(path), safetensors.safe_open(path, "pt") as file:
        if len(file.keys()) > MOST_TENSORS:
            raise safetensors.SafetensorError(f"{len(file.keys()):,} tensors where at most {MOST_TENSORS:,} are read")


def read_forms(path: Path) -> dict[str, Form]:
    """Shape and precision of each tensor in a safetensors file, which is not read any further.

    Raises:
        ArtifactError: another kind of file.
    """
    try:
        check_tensors(path)
        with safetensors.safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return {name: (tuple(part.get_shape()), DTYPES[part.get_dtype()]) for name, part in parts.items()}
    except (safetensors.SafetensorError, KeyError) as error:
        fix = "restore the folder from a copy"
        raise ArtifactError(expected="a safetensors file", got=str(error), fix=fix, where=str(path)) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; none of another file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return {}


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors by name, on the CPU. What was read stays mapped, so the file is opened again after ``HELD`` bytes."""
    left = [*read_forms(path)]
    while left:
        with safetensors.safe_open(path, "pt") as file:
            held = 0
            while left and held < HELD:
                name = left.pop()
                tensor = file.get_tensor(name)
                held += tensor.nbytes
                yield name, tensor
