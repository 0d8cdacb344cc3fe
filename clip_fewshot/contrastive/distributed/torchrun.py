"""A training on several processes, started by torchrun or by Spark: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from clip_fewshot.contrastive.distributed.liveness import JOINING, Presence
from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.errors import ResourceError, UsageError

COLLECTIVE_TIMEOUT = timedelta(
    minutes=30
)  # for a process that lives and does not come, such as one that validates alone
GLANCE = timedelta(seconds=1)  # between two looks at who still lives
POLL = 2e-4  # seconds; NCCL's own wait does not return before the operation has ended, or never
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
BUCKET = 1 << 25  # bytes summed in one operation: small gradients travel together, large ones are copied in parts


class _Place(NamedTuple):
    """This process among all, as torchrun's environment says."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int

    @classmethod
    def from_environment(cls) -> _Place:
        rank, size, local_rank, local_size, port = map(_number, NUMBERS)
        return cls(rank, size, local_rank, local_size, os.environ.get("MASTER_ADDR", "127.0.0.1"), port)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        got = f"{name}={value!r}" if value else f"no {name}"
        fix = "start it by torchrun"
        raise UsageError(expected="the environment that torchrun makes", got=got, fix=fix, where="WORLD_SIZE")
    return int(value)


@contextmanager
def join_world() -> Iterator[World]:
    """The world of the processes that torchrun, or :func:`run_on_spark`, has started; a lone process otherwise.

    Where there is a GPU per process, each takes its own as torch's current device. Leaving the block waits for all; if
    it is left by an error, the others learn of it and end too.

    Raises:
        ResourceError: a process did not come, died or left early: its rank, at most 45 s after that happened.
        UsageError: an environment that torchrun did not make, or a process that is in a world already.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SingleProcess()
        return
    if dist.is_initialized():
        expected = "a process that has joined no world yet"
        raise UsageError(expected=expected, got="one that has", fix="join once", where="join_world")
    place = _Place.from_environment()
    presence = _begin(place)
    try:
        world = TorchrunWorld(place.rank, place.size, presence)
        yield world
        world.barrier()
    except BaseException as error:
        # An operation that waits for a dead process would hold up the end of the interpreter for PATIENCE.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(dist.group.WORLD))
        presence.stop(error if isinstance(error, Exception) else None)
        raise
    presence.stop()
    dist.destroy_process_group()


def _begin(place: _Place) -> Presence:
    """Meet the others."""
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store, not rank 0
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        meeting = _store(place, serves=place.rank == 0 and not of_agent)
        own = _store(place, serves=False)
    except RuntimeError as error:
        fix = "see why rank 0 did not start, and that its machine can be reached"
        got = str(error).split("\n")[0]
        raise ResourceError(expected="a store at rank 0", got=got, fix=fix, where=f"rank {place.rank}") from error
    presence = Presence(PrefixStore(f"presence {attempt}", own), place.rank, place.size)
    presence.start()
    own_gpu = 0 < place.local_size <= torch.cuda.device_count()
    if own_gpu:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if own_gpu and dist.is_nccl_available() else "gloo",
        store=PrefixStore(f"group {attempt}", meeting),
        rank=place.rank,
        world_size=place.size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    return presence


def _store(place: _Place, serves: bool) -> Store:
    wait = timedelta(seconds=JOINING)
    return dist.TCPStore(  # type: ignore[attr-defined]
        place.host, place.port, is_master=serves, timeout=wait, wait_for_workers=False
    )


@dataclass(frozen=True)
class TorchrunWorld:
    """Processes joined by ``torch.distributed``; see :class:`World`. All end with an error when one does."""

    rank: int
    size: int
    presence: Presence

    def gather(self, rows: Tensor) -> Tensor:
        """(n_r, ...) of each rank r -> (sum n_r, ...), rank 0's first, without gradient; some may bring no rows.

        Raises:
            UsageError: rows of another shape or dtype on another rank.
        """
        rows = rows.detach().contiguous()
        row_bytes = math.prod(rows.shape[1:]) * rows.element_size()
        # As bytes: every dtype passes, and as many as the longest part has: neither library gathers uneven parts.
        shapes = self._gather_equal(torch.tensor([len(rows), row_bytes]))
        counts = [int(count) for count, _ in shapes]
        if any(int(width) != row_bytes for _, width in shapes):
            got = f"rows of {[int(width) for _, width in shapes]} bytes by rank"
            fix = "bring the same on each"
            raise UsageError(expected="rows of one shape and dtype", got=got, fix=fix, where=f"rank {self.rank}")
        padded = torch.zeros(max(counts) * row_bytes, dtype=torch.uint8, device=rows.device)
        if padded.numel() == 0:
            return rows.new_empty((sum(counts), *rows.shape[1:]))
        padded[: rows.numel() * rows.element_size()] = rows.flatten().view(torch.uint8)
        parts = self._gather_equal(padded)
        data = torch.cat([part[: count * row_bytes] for part, count in zip(parts, counts, strict=True)])
        return data.view(rows.dtype).reshape(sum(counts), *rows.shape[1:])

    def _gather_equal(self, values: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(values) for _ in range(self.size)]
        self._finish(dist.all_gather(parts, values, async_op=True), values.is_cuda)
        return parts

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; the same number and shapes on each. All get the same bits."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            for part in torch.split(flat, max(1, BUCKET // flat.element_size())):
                self._finish(dist.all_reduce(part, async_op=True), part.is_cuda)
            for tensor, total in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def barrier(self) -> None:
        """Wait for all."""
        self.sum_([torch.zeros(1)])

    def _finish(self, work: dist.Work, on_gpu: bool) -> None:
        """Wait for an operation as long as all live."""
        polled = on_gpu and dist.get_backend() != "gloo"
        try:
            while not (_polled(work) if polled else _waited(work)):
                self.presence.check()
            if polled:
                work.wait()  # it has ended: this orders it before what the current stream does next
        except ResourceError:
            raise
        except RuntimeError as error:  # a closed connection, first seen by the neighbours of a dead process
            raise self.presence.explain(error) from error


def _waited(work: dist.Work) -> bool:
    try:
        return bool(work.wait(GLANCE))
    except RuntimeError:
        if work.is_completed():
            raise
        return False


def _polled(work: dist.Work) -> bool:
    end = time.monotonic() + GLANCE.total_seconds()
    while not work.is_completed():
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, up to BUCKET bytes together or a single larger one."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if bucket and (not alike or held + size > BUCKET):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += size
    if bucket:
        yield bucket
