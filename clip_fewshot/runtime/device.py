"""Which device, and in which precision the activations are computed there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from clip_fewshot.errors import ResourceError, UsageError
from clip_fewshot.runtime.environment import usable_memory

PRECISIONS = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FULL = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)  # in the words of torch


def resolve_device(name: str | torch.device) -> torch.device:
    """A device name ("cuda:1" too) -> a device that is there; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        UsageError: no such kind of device.
        ResourceError: this machine or this build of torch has none.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if str(name) == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind = str(name).split(":")[0]
    if kind not in available:
        expected = f"a device out of auto, {', '.join(available)}"
        raise UsageError(expected=expected, got=repr(str(name)), fix="choose one of them", where="device")
    if not available[kind]:
        got = "none that torch can use"
        raise ResourceError(expected=f"a {kind} device", got=got, fix="choose another, or auto", where="device")
    return torch.device(name)


def autocast_activations(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast for forward passes; parameters stay float32 in any case.

    Args:
        device: where the passes run.
        dtype: of the activations. None: bfloat16 on CUDA, or float16 where the card has no bfloat16; float32 elsewhere,
            as CPUs without half-precision units are 6 to 150 times slower with it.
    """
    if dtype is None and device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if dtype in (None, torch.float32):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def device_memory(device: torch.device) -> int:
    """Bytes that this process may fill there: what is free of a GPU, or its part of the RAM that it may use.

    Of RAM the whole counts, free or not, without swap: what other programs hold now decides nothing. Processes that
    torchrun has started on one machine share it.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    return usable_memory() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def explain_full_memory(fix: str) -> Iterator[None]:
    """Turn torch's refusals to allocate, on any device, into our error; ``fix`` says what takes less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).split("\n")[0]
        if not isinstance(error, MemoryError) and not FULL.search(text):
            raise
        raise ResourceError(expected="enough memory", got=text or "too little", fix=fix, where="training") from error


@contextmanager
def use_deterministic_kernels(device: torch.device) -> Iterator[None]:
    """Deterministic CUDA kernels while the run lasts; those that have none warn and go on.

    On a CPU the kernels used here are deterministic anyway, and the switch would import torch's compiler (2 s).
    """
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.use_deterministic_algorithms(before)
