"""Tensors out of a TorchScript or ``torch.save`` zip archive, without running anything in it.

OpenAI's files are TorchScript archives. ``torch.jit.load`` executes their code while it loads, and ``torch.load`` has
had holes with ``weights_only`` too; so the pickle inside is read here, by an interpreter that knows tensors and nothing
else.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime.units import format_size

MAX_ARCHIVE_BYTES = 4 << 30
MAX_MEMBERS = 20_000
MAX_PICKLE_BYTES = 64 << 20
MAX_NODES = 100_000
MAX_KEY = 1_000  # characters
MAX_SHARING = 2  # tensors may overlap in a file (tied weights), but not blow it up

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# What a pickle of protocol 2 needs for tensors, plain values and objects with attributes. Left out on purpose: INST,
# OBJ, EXT1, LONG4 and whatever later protocols brought.
# fmt: off
OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE",
    "BUILD", "NEWOBJ", "BINPERSID",
})
# fmt: on


def read_archive(path: Path) -> dict[str, Any]:
    """The object that the archive holds: of a scripted module its tensors by dotted name, else the saved dict.

    Raises:
        ArtifactError: a foreign or damaged archive, one that is larger than it admits, or one that wants to run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = _check_members(archive)
            value = _Reader(archive, root).load()
            tensors = _collect(value) if isinstance(value, _Inert) else value
            return _check_size(tensors, path.stat().st_size)
    except _RefusedError as refusal:
        fix = "do not use this file"
        raise ArtifactError(expected="an archive of weights", got=str(refusal), fix=fix, where=str(path)) from refusal
    except _DAMAGE as error:
        got = f"a damaged one ({type(error).__name__}: {error})"
        expected = "an archive of weights"
        raise ArtifactError(expected=expected, got=got, fix="get an undamaged copy", where=str(path)) from error


class _RefusedError(Exception):
    """The archive asks for what no archive of weights needs."""


_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    NotImplementedError,
    AttributeError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    EOFError,
)


class _Inert:
    """Stands for every class of the archive: keeps its attributes, has no behaviour."""

    attributes: dict[str, Any]

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise _RefusedError("a module that restores itself by its own code")
        self.attributes = state


class _Storage:
    """Numbers of one type, not yet cut into a tensor."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers


class _Reader(pickle.Unpickler):
    """Unpickler whose only callables are those of this file."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        data = _read(archive, archive.getinfo(f"{root}/data.pkl"))
        _check_opcodes(data)
        super().__init__(io.BytesIO(data))
        self._archive, self._root = archive, root
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Inert
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return _identity
        known = _CALLABLES.get((module, name))
        if known is None:
            raise _RefusedError(f"one that wants to call {module}.{name}")
        return known

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _device, numel = identity
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise _RefusedError("one with an unknown kind of record")
        if key not in self._storages:
            member = self._archive.getinfo(f"{self._root}/data/{key}")
            if member.file_size != numel * dtype.itemsize:
                raise _RefusedError(f"one whose record {key} lies about its size")
            data = bytearray(_read(self._archive, member))
            self._storages[key] = _Storage(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
        storage = self._storages[key]
        if storage.numbers.dtype != dtype or storage.numbers.numel() != numel:
            raise _RefusedError(f"one that reads record {key} as two types")
        return storage


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_grad: object) -> Tensor:
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, _Storage)
        or len(size) != len(stride)
        or not all(type(n) is int and n >= 0 for n in numbers)
    ):
        raise _RefusedError("one with an impossible tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    available = storage.numbers.numel()
    if math.prod(size) > available or (math.prod(size) and last >= available):
        raise _RefusedError("one with a tensor that reaches beyond its record")
    return storage.numbers.as_strided(size, stride, offset)


def _identity(value: object, *_type: object) -> object:
    return value


_CALLABLES: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _identity,
    ("torch.jit._pickle", "restore_type_tag"): _identity,
    ("collections", "OrderedDict"): OrderedDict,
}


def _check_members(archive: zipfile.ZipFile) -> str:
    """The folder inside the archive, after the checks that need no content."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
        raise _RefusedError(f"one beyond {MAX_MEMBERS:,} members or {format_size(MAX_ARCHIVE_BYTES)}")
    pickles = [
        member for member in members if member.filename.count("/") == 1 and member.filename.endswith("/data.pkl")
    ]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise _RefusedError("one without exactly one data.pkl of a sane size")
    return pickles[0].filename.split("/")[0]


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Content of a member; torch stores tensors and pickles plainly, and a bomb needs compression."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise _RefusedError(f"one with {member.filename} compressed")
    return archive.read(member)


def _check_opcodes(data: bytes) -> None:
    """Refuse what the interpreter would obey before it calls ``find_class``, such as a memo entry at 4 billion."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise _RefusedError(f"one with the pickle instruction {opcode.name}")
        if opcode.name == "LONG_BINPUT" and isinstance(argument, int) and argument > len(data):
            raise _RefusedError("one that asks for more memory than it holds")


def _collect(module: _Inert) -> dict[str, Any]:
    """Tensors of a module and its children by dotted name."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    for _ in range(MAX_NODES):
        if not waiting:
            return found
        name, node = waiting.pop()
        if isinstance(node, Tensor):
            found[name] = node
        elif isinstance(node, _Inert):
            waiting += [(f"{name}.{key}" if name else str(key), child) for key, child in node.attributes.items()]
        if len(name) > MAX_KEY:
            break
    raise _RefusedError("one with a bottomless tree of modules")


def _check_size(value: Any, file_size: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _RefusedError("one that holds no state dict")
    total = sum(tensor.numel() * tensor.itemsize for tensor in value.values() if isinstance(tensor, Tensor))
    if total > MAX_SHARING * file_size:
        raise _RefusedError("one whose tensors are larger than the file")
    return value
