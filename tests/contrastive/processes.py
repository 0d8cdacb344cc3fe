"""What a process of a world does in the tests: `python -m tests.contrastive.processes TASK FOLDER`, by `launch`.

`launch(..., by="torchrun")` is torchrun as a user types it; `by="environment"` starts the processes with torchrun's
variables alone, as processes on machines of their own see each other: nobody ends the others when one dies.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.distributed.torchrun import join_world
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.pairs.batch import PairBatch
from tests.cli.command import ENVIRONMENT, ROOT
from tests.contrastive.pairs import CONFIG, Double, batch, symmetric

PAIRS = 7
SHARDS = {1: [(7,)], 2: [(4, 3), (7, 0)], 4: [(3, 0, 2, 2), (2, 2, 2, 1)]}  # of PAIRS, by number of processes
CHUNKS = (None, 2)
STEPS, RATE = 4, 1e-3


def launch(
    processes: int, task: str, folder: Path, by: str = "torchrun", env: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Begin a task in ``processes`` processes; by torchrun the list holds torchrun itself."""
    command = [sys.executable, "-m", "tests.contrastive.processes", task, str(folder)]
    if by == "torchrun":
        head = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return [_start([sys.executable, *head, *command[1:]], env or {})]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "ERROR"} | dict(env or {})
    return [_start(command, common | {"RANK": str(rank)}) for rank in range(processes)]


def _start(command: list[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Never seen as part of a torchrun that runs the tests themselves.
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(command, text=True, cwd=ROOT, env={**inherited, **ENVIRONMENT, **env}, **streams)  # type: ignore[call-overload, no-any-return]


def finish(processes: list[subprocess.Popen[str]], seconds: float = 200) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    ended = []
    for process in processes:
        try:
            _, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        ended.append((process.returncode, err))
    return ended


def cases(size: int) -> Iterator[tuple[str, tuple[int, ...], int | None, torch.dtype]]:
    """Name, shards, chunk and precision of every gradient that ``size`` processes compute."""
    for shards in SHARDS[size]:
        for chunk in CHUNKS:
            for dtype in (torch.float64, torch.float32):
                yield f"{shards} {chunk} {dtype}", shards, chunk, dtype


def model_and_pairs(dtype: torch.dtype) -> tuple[Double, PairBatch]:
    """The same in every process."""
    pairs = batch(PAIRS, dtype=dtype)
    return (Double() if dtype == torch.float64 else Double().float()), pairs


def gradients(folder: Path) -> None:
    """Gradients of every case over this process's part of the pairs."""
    found: dict[str, Tensor] = {}
    with join_world() as world:
        for name, shards, chunk, dtype in cases(world.size):
            model, pairs = model_and_pairs(dtype)
            rows = torch.split(torch.arange(PAIRS), list(shards))[world.rank]
            assert pairs.caption_ids is not None
            mine = PairBatch(pairs.images[rows], pairs.tokens[rows], pairs.caption_ids[rows])
            found[f"{name} loss"] = contrastive_gradients(model, mine, symmetric, world=world, chunk=chunk)
            found |= {f"{name} {key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
        found |= exchanged(world) | {f"trained {key}": value for key, value in trained(world).items()}
        save_file(found, folder / f"{world.rank}.safetensors")


def trained(world: World) -> dict[str, Tensor]:
    """Weights after a few steps on this process's parts of the batches."""
    steps = []
    for step, shards in zip(range(STEPS), cycle(SHARDS[world.size])):
        pairs = batch(PAIRS, seed=step, dtype=torch.float32)
        rows = torch.split(torch.arange(PAIRS), list(shards))[world.rank]
        assert pairs.caption_ids is not None
        steps.append(PairBatch(pairs.images[rows], pairs.tokens[rows], pairs.caption_ids[rows]))
    # Each begins with weights of its own: rank 0's count.
    model = build_backbone(CONFIG, seed=world.rank)
    options = ContrastiveOptions(steps=STEPS, learning_rate=RATE, warmup_steps=0, averaging=0.5)
    return dict(cf.train_contrastive(model, steps, options, world=world).state_dict())


def exchanged(world: World) -> dict[str, Tensor]:
    """Rows of every kind, gathered, and a sum of many tensors."""
    rank = world.rank
    kinds = {
        "bool": torch.ones(rank, dtype=torch.bool),
        "int": torch.arange(3 * (1 - rank % 2)) + 2**40,
        "half": torch.full((rank + 1, 2, 3), float(rank), dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
        "thin": torch.zeros(2, 0),
        "sliced": torch.arange(12.0).reshape(3, 4).T[: 4 - rank],
    }
    found = {f"gathered {name}": world.gather(rows) for name, rows in kinds.items()}
    parts = [
        torch.full((3,), float(rank)),
        torch.ones(2, 2, dtype=torch.float64),
        torch.zeros(0),
        torch.ones(9_000_000),
    ]
    world.sum_(parts)
    return found | {f"sum {i}": part[:4].clone() for i, part in enumerate(parts)}


def die(folder: Path) -> None:
    """Rank 1 is killed in the middle of a step, the others wait for it."""
    with join_world() as world:
        world.barrier()
        if world.rank == 1:
            (folder / "died").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        world.barrier()


def fail(folder: Path) -> None:
    """Rank 1 meets a mistake of the user's, alone."""
    with join_world() as world:
        if world.rank == 1:
            raise cf.DataError(expected="a picture", got="a poem", fix="look at it", where="pictures/7.jpg")
        world.barrier()


def dawdle(folder: Path) -> None:
    """Rank 1 takes longer than the silence after which a rank counts as dead."""
    with join_world() as world:
        if world.rank == 1:
            time.sleep(float((folder / "seconds").read_text()))
        world.barrier()
        (folder / f"{world.rank} done").write_text("")


def load(folder: Path, size: int) -> list[dict[str, Tensor]]:
    """What each process of :func:`gradients` has left."""
    return [load_file(folder / f"{rank}.safetensors") for rank in range(size)]


@contextmanager
def quietly() -> Iterator[None]:
    """A user's mistake ends a process with its exit code and one line, as in every command."""
    try:
        yield
    except cf.ClipFewShotError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tasks = {"gradients": gradients, "die": die, "fail": fail, "dawdle": dawdle}
    with quietly():
        tasks[sys.argv[1]](Path(sys.argv[2]))
