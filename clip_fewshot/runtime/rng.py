"""One random generator per purpose, derived from (seed, purpose); nothing here touches global state for good.

Deriving by hash instead of drawing from one stream means that adding a draw in one place never moves the
draws of another: a new log line or a skipped trial cannot change a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from clip_fewshot.errors import UsageError

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for ``purpose``, independent of the seeds of other purposes."""
    given: object = seed
    if not isinstance(given, Integral):
        raise UsageError(expected="a whole number", got=repr(seed)[:60], fix="choose one", where="seed")
    text = "\x1f".join([str(int(seed)), *(f"{type(p).__name__}:{p}" for p in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """NumPy generator for ``purpose``."""
    return np.random.default_rng(derive_seed(seed, *purpose))


@contextmanager
def seed_torch(seed: int, *purpose: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's global generators seeded for ``purpose``, and put them back after it.

    For code that draws from the global generator and takes no other: the initialisation of torch's modules, dropout.

    Args:
        device: the one device that the block draws on, besides the processor; None: all that are there.
    """
    import torch

    devices = None if device is None else [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


@contextmanager
def seed_torch_cpu(seed: int, *purpose: str | int) -> Iterator[None]:
    """The same for the processor's generator alone: devices are neither touched nor waited for."""
    import torch

    before = torch.get_rng_state()
    torch.default_generator.manual_seed(derive_seed(seed, *purpose))
    try:
        yield
    finally:
        torch.set_rng_state(before)
