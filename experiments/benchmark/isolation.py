"""A cache, threads and a process of one's own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, ParamSpec

from experiments.benchmark.timing import Times, now

CACHE = "CLIP_FEWSHOT_CACHE"
Args = ParamSpec("Args")


@contextmanager
def empty_cache() -> Iterator[None]:
    """No earlier run helps what happens in the block, and nothing of it is left behind."""
    before = os.environ.get(CACHE)
    with TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if before is not None:
                os.environ[CACHE] = before


@contextmanager
def limit_threads(n: int) -> Iterator[None]:
    """torch, BLAS and OpenMP on ``n`` threads while the block lasts."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


class Alone(NamedTuple):
    """What a piece of work took in a process that did nothing else."""

    times: Times
    peak_gib: float
    found: Any = None  # what the work returned


def alone(threads: int, work: Callable[Args, object], *args: Args.args, **kwargs: Args.kwargs) -> Alone:
    """Run ``work`` in a fresh process; imports are in the peak of its memory, and not in its time."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, threads, work, *args, **kwargs).result()


def _measured(threads: int, work: Callable[Args, object], /, *args: Args.args, **kwargs: Args.kwargs) -> Alone:
    with limit_threads(threads):
        began = now()
        found = work(*args, **kwargs)
        spent = now() - began
    return Alone(Times((spent,)), peak_bytes() / 2**30, found)


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count in what the parent held when it forked
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
